"""Which chunks of a session are written to SSD, and when. Scheduler thread only.

Asks ``cache_tiers.endurance.admission`` once a turn, as soon as the turn's prompt is known: chunks
leave DRAM while the turn runs, so its end would be too late for a prefix larger than DRAM.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cache_tiers.endurance.admission import Admission, AdmissionConfig, Chain
from cache_tiers.endurance.compute import relative_cost
from cache_tiers.types import ChunkKey, SessionKey
from engine.core_plugin.manager import Admitted, TierManager
from engine.core_plugin.sessions_view import SessionChunks, leading
from engine.core_plugin.vllm_compat import ReqContext


@dataclass(frozen=True, slots=True)
class Prompt:
    """A turn's prompt as far as whole chunks go."""

    keys: Sequence[ChunkKey]
    ends: Sequence[int]
    """Token at which each chunk ends."""


class Admittance:
    """See the module's docstring."""

    def __init__(
        self,
        manager: TierManager,
        sessions: SessionChunks,
        *,
        tokens_per_chunk: int,
        minimum_tokens: int,
    ) -> None:
        self._manager = manager
        self._sessions = sessions
        config = AdmissionConfig(
            chunk_tokens=tokens_per_chunk,
            chunk_bytes=manager.chunk_bytes,
            min_tokens=minimum_tokens,
        )
        self._policy = Admission(config, relative_cost)

    def begin(
        self, session: SessionKey, prompt: Prompt, held: Sequence[ChunkKey], context: ReqContext
    ) -> None:
        """A turn of the session is admitted, which ``held`` chunks before: note in its context how
        far its chunks are written, and write what has waited and is worth it now."""
        ssd = self._manager.ssd
        if ssd is None:
            return
        chain = self._describe(session, prompt.keys, held)
        decision = self._policy.turn_ended(chain, ssd.budget)
        if decision.wait:
            end = chain.stored + decision.write
            context.set_state(Admitted(prompt.ends[end - 1] if end else 0))
        else:
            context.set_state(Admitted(math.inf))
        if decision.write:
            due = prompt.keys[chain.stored : chain.stored + decision.write]
            self._manager.write_down(session, due)

    def at_park(self, session: SessionKey, keys: Sequence[ChunkKey]) -> Sequence[ChunkKey]:
        """Of a session's chain, what a park writes."""
        ssd = self._manager.ssd
        if ssd is None:
            return ()
        chain = self._describe(session, keys, keys)
        return keys[: chain.stored + self._policy.parked(chain, ssd.budget).write]

    def forget(self, session: SessionKey) -> None:
        """The session is gone."""
        self._policy.forget(session)

    def _describe(
        self, session: SessionKey, keys: Sequence[ChunkKey], held: Sequence[ChunkKey]
    ) -> Chain:
        ssd = self._manager.ssd
        assert ssd is not None
        return Chain(
            session=session,
            chunks=len(keys),
            kept=leading(a == b for a, b in zip(keys, held, strict=False)),
            stored=leading(ssd.contains(key) for key in keys),
            shared=self._sessions.leading_shared(session, keys),
        )
