"""A benchmark's own client of one server. Blocking; each request on the thread that makes it.

Errors: ``httpx.HTTPError`` when the server does not answer or answers with an error;
``load.stream.BrokenStream`` when a stream breaks.
"""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from load.prose import Prose
from load.stream import Streamed, read_stream

TIMEOUT_S = 600
KEEP_ALIVE_S = 2
"""An idle connection is kept for so long; servers close theirs after 5 s."""
_POLL_S = 0.1


class Client:
    """Speaks to the server at ``url``; a context manager."""

    def __init__(self, url: str) -> None:
        """Asks the server for its model."""
        # A connection is not used again at the moment at which its server closes it.
        limits = httpx.Limits(keepalive_expiry=KEEP_ALIVE_S)
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_S, limits=limits)
        models = self._get("/v1/models")
        self.model: str = models["data"][0]["id"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def tokens(self, seed: str, count: int) -> list[int]:
        """A prompt of exactly ``count`` token ids; another for another seed."""
        prose = Prose(seed)
        ids: list[int] = []
        for _ in range(20):
            if len(ids) >= count:
                return ids[:count]
            body = {"model": self.model, "prompt": prose.words(count), "add_special_tokens": False}
            ids += self._post("/tokenize", body)["tokens"]
        raise ValueError("the server's tokenizer finds too few tokens in words")

    def complete(
        self, prompt: Sequence[int], max_tokens: int, session: str | None = None
    ) -> Streamed:
        """A streamed completion of token ids. Greedy, and always ``max_tokens`` long."""
        return self._stream("/v1/completions", {"prompt": list(prompt)}, max_tokens, session)

    def chat(
        self,
        messages: Sequence[dict[str, str]],
        max_tokens: int,
        session: str | None = None,
        expect: str = "",
    ) -> Streamed:
        """A streamed chat completion. Greedy, and always ``max_tokens`` long. ``expect``: what the
        client says of the gap behind it (``X-Session-Expect``); empty for nothing."""
        body = {"messages": list(messages)}
        return self._stream("/v1/chat/completions", body, max_tokens, session, expect)

    def park(self, session: str) -> dict[str, Any]:
        """Only Valet has it."""
        return self._post(f"/v1/sessions/{session}/park", None)

    def prefetch(self, session: str, deadline_ms: int = 60_000) -> bool:
        """To DRAM; whether all of it came. Only Valet has it."""
        body = {"tier": "dram", "deadline_ms": deadline_ms}
        answer = self._post(f"/v1/sessions/{session}/prefetch", body)
        return bool(answer["prefetched"]["complete"])

    def wait_until_stored(self, session: str, timeout_s: float = 60) -> bool:
        """Wait until all of a session is on SSD; False when it is not by then. Only Valet's."""
        deadline = time.monotonic() + timeout_s
        while not self._get(f"/v1/sessions/{session}")["kv"]["ssd_complete"]:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def delete(self, session: str) -> None:
        """From all tiers. Only Valet has it."""
        _raise_for_error(self._http.delete(f"/v1/sessions/{session}"))

    def metric(self, name: str) -> float:
        """Of ``/metrics``, without labels. Raises KeyError for one that is not there."""
        answer = self._http.get("/metrics")
        _raise_for_error(answer)
        shown = (line.split() for line in answer.text.splitlines() if not line.startswith("#"))
        return {words[0]: float(words[1]) for words in shown}[name]

    def _stream(
        self,
        path: str,
        body: dict[str, Any],
        max_tokens: int,
        session: str | None,
        expect: str = "",
    ) -> Streamed:
        body |= {
            "model": self.model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {} if session is None else {"X-Session-ID": session}
        if expect:
            headers["X-Session-Expect"] = expect
        sent_at = time.perf_counter()
        with self._http.stream("POST", path, json=body, headers=headers) as response:
            if response.is_error:
                response.read()
            _raise_for_error(response)
            return read_stream(response.iter_lines(), sent_at, time.perf_counter)

    def _get(self, path: str) -> dict[str, Any]:
        return _json(self._http.get(path))

    def _post(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        return _json(self._http.post(path, json=body))


def _json(response: httpx.Response) -> dict[str, Any]:
    _raise_for_error(response)
    answer: dict[str, Any] = response.json()
    return answer


def _raise_for_error(response: httpx.Response) -> None:
    """Unlike httpx's own, with what the server said."""
    if response.is_error:
        reason = f"{response.status_code} from {response.url.path}: {response.text[:500]}"
        raise httpx.HTTPStatusError(reason, request=response.request, response=response)
