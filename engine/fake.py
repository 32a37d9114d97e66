"""An engine without a model: the real one's port, routes and faults, in one process, at once.

Its tokens are words, its replies follow from the prompt alone, and its KV is bookkeeping. It lets
everything around an engine be developed and tested in milliseconds.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from fastapi import FastAPI

from cache_tiers.hints import Dropped, EngineInfo, KvReport, Miss, Prefetched, SessionKv
from cache_tiers.types import MissReason, SessionKey, Tier
from engine.fake_cache import CHUNK_BYTES, FakeCache, FakeDisk
from engine.fake_routes import fake_app
from engine.port import EngineDead, Generation, TurnContext, current_turn

_WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "inlet", "jetty")


@dataclass(slots=True)
class Word:
    """One step of a generation."""

    text: str
    cached_tokens: int
    """As known when the request was admitted."""


class FakeEngine:
    """An ``EnginePort``. Faults are methods: ``die``, ``fail_next_load``, ``FakeDisk.damage``."""

    def __init__(
        self,
        disk: FakeDisk | None = None,
        *,
        model: str = "fake",
        fingerprint: str = "fake-1",
        tokens_per_chunk: int = 4,
        max_model_len: int = 4096,
        clock: Callable[[], float] = time.monotonic,
        pace: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``pace`` is awaited before every word; a restart is a new engine on the same ``disk``."""
        self.disk = FakeDisk() if disk is None else disk
        self.max_model_len = max_model_len
        self.aborted = 0
        """Generations that their client left."""
        self._model = model
        self._cache = FakeCache(self.disk, tokens_per_chunk)
        self._clock = clock
        self._pace = pace
        self._dead = False
        self._load_fails = False
        self._info = EngineInfo(
            fingerprint=fingerprint,
            tokens_per_chunk=tokens_per_chunk,
            chunk_bytes=CHUNK_BYTES,
            dram_chunks=1024,
            ssd_enabled=True,
        )

    # --- the port --------------------------------------------------------------------------------

    async def start(self) -> FastAPI:
        return fake_app(self)

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def models(self) -> tuple[str, ...]:
        return (self._model,)

    async def status(self, session: SessionKey) -> SessionKv:
        self.check_alive()
        return self._cache.status(session)

    async def park(self, session: SessionKey) -> SessionKv:
        self.check_alive()
        self._cache.park(session)
        return self._cache.status(session)

    async def prefetch(
        self,
        session: SessionKey,
        tier: Tier,  # noqa: ARG002
        deadline_ms: int,  # noqa: ARG002
    ) -> Prefetched:
        """Always in time, and to DRAM: only a request fills the device."""
        self.check_alive()
        chunks = self._cache.prefetch(session)
        tokens = chunks * self._info.tokens_per_chunk
        return Prefetched(session, tokens, tokens == self._cache.status(session).tokens)

    async def drop(self, session: SessionKey) -> Dropped:
        self.check_alive()
        return self._cache.drop(session)

    async def held_sessions(self) -> list[SessionKv]:
        self.check_alive()
        return [self._cache.status(session) for session in self.disk.manifests]

    async def stop(self, drain_s: float) -> None:  # noqa: ARG002
        self._dead = True

    # --- faults ----------------------------------------------------------------------------------

    def die(self) -> None:
        """Everything fails from now on."""
        self._dead = True

    def fail_next_load(self) -> None:
        """The next request's reuse turns out to be unreadable after it was admitted."""
        self._load_fails = True

    def check_alive(self) -> None:
        """Raises EngineDead."""
        if self._dead:
            raise EngineDead("the fake engine is dead")

    # --- generating ------------------------------------------------------------------------------

    async def generate(self, prompt: Sequence[str], max_tokens: int) -> AsyncIterator[Word]:
        """The reply to a prompt, word by word. Accounts for itself to the current turn."""
        self.check_alive()
        turn = current_turn.get() or TurnContext(SessionKey("nobody/nothing"), cache_salt="")
        generation = Generation(started_at=self._clock())
        turn.generations.append(generation)
        if len(turn.generations) == 1 and turn.on_begin is not None:
            turn.on_begin()
        admitted = self._cache.read(turn.session, turn.cache_salt, prompt)
        cached = admitted.prompt - admitted.computed
        generation.scheduled_at = self._clock()
        reply = _reply(prompt, max_tokens)
        try:
            for index, text in enumerate(reply):
                # Lets others run, as a real step would.
                await (asyncio.sleep(0) if self._pace is None else self._pace())
                if generation.first_token_at is None:
                    generation.first_token_at = self._clock()
                generation.output_tokens = index + 1
                if index + 1 == len(reply):
                    self._finish(turn, generation, admitted, [*prompt, *reply])
                yield Word(text, cached)
        finally:
            if generation.finished_at is None:
                generation.finished_at = self._clock()
                generation.finish_reason = "abort"
                self.aborted += 1

    def _finish(
        self, turn: TurnContext, generation: Generation, report: KvReport, tokens: list[str]
    ) -> None:
        if self._load_fails:
            self._load_fails = False
            lost = report.prompt - report.computed
            miss = Miss(MissReason.IO_TIMEOUT, at_token=0, tokens=lost)
            report = KvReport(
                prompt=report.prompt, computed=report.prompt, misses=(miss, *report.misses)
            )
        self._cache.write(turn.session, turn.cache_salt, tokens)
        generation.finish_reason = "stop"
        generation.finished_at = self._clock()
        generation.report = report


def _reply(prompt: Sequence[str], max_tokens: int) -> list[str]:
    digest = hashlib.sha256("\0".join(prompt).encode("utf-8", "replace")).digest()
    return [_WORDS[byte % len(_WORDS)] for byte in digest[: max(1, min(max_tokens, 8))]]
