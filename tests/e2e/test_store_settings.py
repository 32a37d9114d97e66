"""What an operator may ask of the store: compression, a daily budget, a least length."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conversation import assistant, chat, long_text, user
from tests.valet_process import ValetProcess

CHAT = "/v1/chat/completions"


def turn(http: httpx.Client, session: str, *more: dict[str, Any]) -> Any:
    answer = http.post(CHAT, json=chat(user(long_text(session, 96)), *more, session_id=session))
    assert answer.status_code == 200, answer.text
    return answer.json()


def park(http: httpx.Client, session: str) -> Any:
    answer = http.post(f"/v1/sessions/{session}/park")
    assert answer.status_code == 200, answer.text
    return answer.json()["kv"]


def metric(http: httpx.Client, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.mark.engine
def test_compression_a_budget_and_a_minimum(tmp_path: Path) -> None:
    server = ValetProcess(tmp_path / "home")
    with server.start(VALET_SSD_COMPRESSION="on"), server.client() as http:
        first = turn(http, "small")
        kv = park(http, "small")
        assert kv["ssd_complete"]
        compressed = metric(http, "vllm:valet_ssd_device_bytes_written_total")
        assert 0 < compressed < metric(http, "vllm:valet_ssd_bytes_written_total") / 1.4
        said = assistant(first["choices"][0]["message"]["content"])
        resumed = turn(http, "small", said, user("Go on."))
        assert resumed["kv_receipt"]["reused_tokens"]["ssd"] >= 256, resumed["kv_receipt"]
        assert server.stop() == 0

    # Room for one chunk a day: everything is answered, what does not fit is not written.
    with server.start(VALET_SSD_WRITES_PER_DAY="4MiB"), server.client() as http:
        again = turn(http, "small", said, user("Go on."))
        assert again["kv_receipt"]["reused_tokens"]["ssd"] >= 256, "compressed chunks are read"
        assert again["choices"] == resumed["choices"]
        turn(http, "large")
        assert not park(http, "large")["ssd_complete"]
        assert metric(http, "vllm:valet_ssd_bytes_written_total") <= 4 * 2**20
        assert turn(http, "large")["kv_receipt"]["reused_tokens"]["ssd"] <= 128
        assert server.stop() == 0

    with server.start(VALET_SSD_MINIMUM_TOKENS="2000"), server.client() as http:
        turn(http, "short")
        kv = park(http, "short")
        assert not kv["ssd_complete"]
        assert kv["tokens_by_tier"]["ssd"] == 0
        assert kv["tokens_by_tier"]["dram"] >= 256, "it stays where it is"
