"""An engine without a model: the real one's port, routes and faults, in one process, at once.

Its tokens are words (``fake_tokens``), its replies follow from the prompt alone, and its KV is
bookkeeping. It lets everything around an engine be developed and tested in milliseconds.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
from fastapi import FastAPI

from cache_tiers.hints import (
    BrokenPin,
    Dropped,
    EngineInfo,
    Foresight,
    Hint,
    KvReport,
    Miss,
    Pinned,
    Prefetched,
    Pulse,
    SessionKv,
    TenantBytes,
)
from cache_tiers.types import ChunkKey, MissReason, SessionKey, Tier
from engine.fake_cache import CHUNK_BYTES, FakeCache, FakeDisk
from engine.fake_foresight import FakeForesight
from engine.fake_routes import fake_app
from engine.fake_tokens import END_OF_TURN, encode, token_id
from engine.port import EngineDead, Generation, TurnContext, current_turn

_WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "inlet", "jetty")


@dataclass(slots=True)
class Word:
    """One step of a generation."""

    text: str
    """Empty for the end of the message."""
    prompt_tokens: int
    """As computed."""
    cached_tokens: int
    """As known when the request was admitted."""


class FakeEngine:
    """An ``EnginePort``. Faults are methods: ``die``, ``fail_next_load``, ``make_room``,
    ``FakeDisk.damage``."""

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
        self.told: list[Hint] = []
        """Every hint, in order."""
        self._model = model
        self._cache = FakeCache(self.disk, tokens_per_chunk)
        self._foresight = FakeForesight(self._cache)
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

    @property
    def end_of_turn(self) -> frozenset[int]:
        return frozenset({END_OF_TURN})

    async def status(self, session: SessionKey) -> SessionKv:
        self.check_alive()
        now = self._clock()
        return msgspec.structs.replace(
            self._cache.status(session),
            back_in_s=self._foresight.back(session, 0.5, now),
            back_by_s=self._foresight.back(session, 0.9, now),
        )

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
        self._foresight.forget(session, self._clock())
        return self._cache.drop(session)

    async def held_sessions(self) -> list[SessionKv]:
        self.check_alive()
        return [self._cache.status(session) for session in self.disk.manifests]

    async def pin(self, session: SessionKey, tier: Tier, ttl_s: int) -> Pinned:
        self._expire()
        chain = self.disk.lineage.chain(session) or ()
        granted = self._cache.pins.pin(session, tier, chain, self._clock() + ttl_s)
        kv = self._cache.status(session)
        if not granted:
            return Pinned(session, tier, granted=False)
        tokens, size = kv.tokens_by_tier.get(tier, 0), kv.bytes_by_tier.get(tier, 0)
        return Pinned(session, tier, True, tokens, size)

    async def unpin(self, session: SessionKey, tier: Tier | None) -> None:
        self._expire()
        self._cache.pins.unpin(session, tier)

    async def take_broken(self) -> list[BrokenPin]:
        self._expire()
        return self._cache.broken()

    async def fork(self, parent: SessionKey, child: SessionKey, tokens: int | None) -> SessionKv:
        self.check_alive()
        self._cache.fork(parent, child, tokens)
        return self._cache.status(child)

    async def truncate(self, session: SessionKey, tokens: int) -> SessionKv:
        self.check_alive()
        self._cache.truncate(session, tokens)
        return self._cache.status(session)

    async def usage(self) -> list[TenantBytes]:
        self._expire()
        return self._cache.usage()

    async def hint(self, hint: Hint) -> Pulse:
        self.check_alive()
        self.told.append(hint)
        return self._foresight.take(hint, self._clock())

    async def foresight(self) -> Foresight:
        self.check_alive()
        return self._foresight.foresight()

    async def stop(self, drain_s: float) -> None:  # noqa: ARG002
        self._dead = True

    # --- faults ----------------------------------------------------------------------------------

    def die(self) -> None:
        """Everything fails from now on."""
        self._dead = True

    def fail_next_load(self) -> None:
        """The next request's reuse turns out to be unreadable after it was admitted."""
        self._load_fails = True

    def make_room(self, tier: Tier, chunks: int) -> None:
        """Others need so many chunks of a tier."""
        self._expire()
        self._cache.make_room(tier, chunks)

    def check_alive(self) -> None:
        """Raises EngineDead."""
        if self._dead:
            raise EngineDead("the fake engine is dead")

    def _expire(self) -> None:
        self.check_alive()
        self._cache.pins.expire(self._clock())

    # --- generating ------------------------------------------------------------------------------

    async def generate(self, prompt: Sequence[str], max_tokens: int) -> AsyncIterator[Word]:
        """The reply to a prompt, word by word. Accounts for itself to the current turn."""
        self.check_alive()
        turn = current_turn.get() or TurnContext(SessionKey("nobody/nothing"), cache_salt="")
        tokens = self._computed(turn, encode(prompt))
        generation = Generation(started_at=self._clock(), prompt_tokens=tokens)
        turn.generations.append(generation)
        if len(turn.generations) == 1 and turn.on_begin is not None:
            turn.on_begin()
        self._foresight.returned(turn.session, self._clock())
        came_with = self._cache.begin(turn.session)
        admitted = self._cache.read(turn.session, turn.cache_salt, tokens)
        cached = admitted.prompt - admitted.computed
        generation.scheduled_at = self._clock()
        reply = _reply(tokens, min(max_tokens, self.max_model_len - len(tokens)))
        try:
            for index, text in enumerate(reply):
                # Lets others run, as a real step would.
                await (asyncio.sleep(0) if self._pace is None else self._pace())
                if generation.first_token_at is None:
                    generation.first_token_at = self._clock()
                generation.output_tokens = index + 1
                generation.answer_tokens.append(token_id(text) if text else END_OF_TURN)
                if index + 1 == len(reply):
                    self._finish(turn, generation, admitted, came_with)
                yield Word(text, len(tokens), cached)
        finally:
            self._cache.end(turn.session)
            if generation.finished_at is None:
                generation.finished_at = self._clock()
                generation.finish_reason = "abort"
                self.aborted += 1

    def _computed(self, turn: TurnContext, rendered: list[int]) -> list[int]:
        if turn.on_prompt is None:
            return rendered
        tokens = list(turn.on_prompt(rendered))
        return tokens if 0 < len(tokens) < self.max_model_len else rendered

    def _finish(
        self,
        turn: TurnContext,
        generation: Generation,
        report: KvReport,
        came_with: tuple[ChunkKey, ...] | None,
    ) -> None:
        if self._load_fails:
            self._load_fails = False
            lost = report.prompt - report.computed
            miss = Miss(MissReason.IO_TIMEOUT, at_token=0, tokens=lost)
            report = KvReport(
                prompt=report.prompt, computed=report.prompt, misses=(miss, *report.misses)
            )
        tokens = [*generation.prompt_tokens, *generation.answer_tokens]
        left = self._cache.write(turn.session, turn.cache_salt, tokens, came_with)
        ended = generation.answer_tokens[-1] == END_OF_TURN
        generation.finish_reason = "stop" if ended else "length"
        generation.finished_at = self._clock()
        generation.report = msgspec.structs.replace(report, superseded=left)


def _reply(prompt: Sequence[int], max_tokens: int) -> list[str]:
    """Seven words and the end of the message, as far as ``max_tokens`` goes."""
    digest = hashlib.sha256(b"".join(token.to_bytes(4) for token in prompt)).digest()
    words = [*(_WORDS[byte % len(_WORDS)] for byte in digest[:7]), ""]
    return words[: max(1, max_tokens)]
