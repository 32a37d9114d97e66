"""Where a session comes from and goes back to: forks, checkpoints, rollbacks.

The engine is told after the database. It cannot refuse: what it fails to share or to cut is
computed again, or kept a little longer, and is never wrong.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from cache_tiers.hints import SessionKv
from sessions.checkpoints import Checkpoint, CheckpointRepository
from sessions.history.points import rewind
from sessions.identity import check_session_id, new_session_id, session_key
from sessions.lifecycle import created, kept, rested
from sessions.lookup import existing
from sessions.ports import Clock, KvControl
from sessions.repository import SessionRepository
from sessions.types import (
    CheckpointNotFound,
    Lineage,
    Session,
    SessionBusy,
    SessionExists,
    SessionState,
    Terms,
    TurnNotFound,
)
from sessions.units import Units
from sessions.upkeep.events import EventKind, EventRepository, tell_of_fork

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Forked:
    """A new session, and how many of its tokens it shares with its parent."""

    session: Session
    shared_tokens: int


class LineageService:
    """Forks, checkpoints and rollbacks of all tenants. Used on one event loop.

    Every method may raise StateUnavailable, and SessionNotFound for a session that this tenant does
    not have.
    """

    def __init__(
        self,
        units: Units,
        kv: KvControl,
        clock: Clock,
        *,
        instance: str = "",
        terms: Terms = Terms(),  # noqa: B008 - a value
        new_id: Callable[[], str] = new_session_id,
    ) -> None:
        """``instance`` is this API process, whose engine shares and cuts."""
        self._units = units
        self._kv = kv
        self._clock = clock
        self._instance = instance
        self._terms = terms
        self._new_id = new_id

    async def fork(
        self, tenant: str, session_id: str, turn: int | None = None, child_id: str | None = None
    ) -> Forked:
        """A new session that goes on from the end of ``turn`` of this one, by default from its
        present, with every chunk of KV up to there: nothing is copied. A running turn of the parent
        is not part of it.

        Raises InvalidSessionId, SessionExists, TurnNotFound.
        """
        name = self._new_id() if child_id is None else check_session_id(child_id)
        now = self._clock()
        async with self._units.begin() as repo:
            parent = await existing(repo, tenant, session_id, lock=True)
            number = parent.head_turn if turn is None else turn
            lineage = Lineage(session_id, number, await tokens_at(repo, parent, number))
            child = replace(
                created(tenant, name, parent.model, now, lineage),
                fingerprint=parent.fingerprint,
                instance=self._instance,
                ttl_s=parent.ttl_s,
            )
            child = kept(child, self._terms)
            if not await repo.add(child):
                raise SessionExists("There is a session of this id.")
            events = EventRepository(repo.connection)
            await events.add(tenant, name, EventKind.CREATED, now)
            await tell_of_fork(events, tenant, name, lineage, now)
        keys = session_key(tenant, session_id), session_key(tenant, name)
        shared = await _if_it_can("share KV with a fork", self._kv.fork(*keys, lineage.tokens))
        return Forked(await self._settled(child, shared), shared.tokens if shared else 0)

    async def count_children(self, tenant: str, session_id: str) -> int:
        """How many sessions were forked from this one."""
        async with self._units.begin() as repo:
            return await repo.count_children(tenant, session_id)

    async def rollback(
        self, tenant: str, session_id: str, *, turn: int = 0, checkpoint: str | None = None
    ) -> Session:
        """Go back to the end of ``turn``, or to a checkpoint: the next turn continues from there,
        under the next free number. 0 is the beginning. Checkpoints behind it go.

        Raises SessionBusy while a turn runs, TurnNotFound, CheckpointNotFound.
        """
        try:
            async with self._units.begin() as repo:
                session = await existing(repo, tenant, session_id, lock=True)
                if session.running:
                    raise SessionBusy("The session has a running turn.")
                marks = CheckpointRepository(repo.connection)
                if checkpoint is not None:
                    named = {mark.name: mark.turn for mark in await marks.all(tenant, session_id)}
                    if checkpoint not in named:
                        raise CheckpointNotFound("The session has no checkpoint of this name.")
                    turn = named[checkpoint]
                tokens = await tokens_at(repo, session, turn)
                after = replace(session, head_turn=turn, tokens=tokens)
                await repo.save(after)
                await repo.roll_back(tenant, session_id, turn)
                await rewind(repo.connection, tenant, session_id, turn)
                lost = await marks.remove_behind(tenant, session_id, turn)
                about = {
                    "from_turn": session.head_turn,
                    "to_turn": turn,
                    "checkpoints_removed": lost,
                }
                events = EventRepository(repo.connection)
                await events.add(tenant, session_id, EventKind.ROLLED_BACK, self._clock(), **about)
        finally:
            self._units.on_changed(tenant, session_id)
        key = session_key(tenant, session_id)
        await _if_it_can("cut KV behind a rollback", self._kv.truncate(key, tokens))
        return after

    async def add_checkpoint(
        self, tenant: str, session_id: str, name: str, turn: int | None = None
    ) -> Checkpoint:
        """Name the end of ``turn``, by default the present. Raises TurnNotFound, CheckpointExists,
        TooManyCheckpoints."""
        now = self._clock()
        async with self._units.begin() as repo:
            session = await existing(repo, tenant, session_id, lock=True)
            number = session.head_turn if turn is None else turn
            await tokens_at(repo, session, number)
            checkpoint = Checkpoint(name, number, now)
            await CheckpointRepository(repo.connection).add(tenant, session_id, checkpoint)
            events = EventRepository(repo.connection)
            await events.add(tenant, session_id, EventKind.CHECKPOINT, now, name=name, turn=number)
        return checkpoint

    async def checkpoints(self, tenant: str, session_id: str) -> list[Checkpoint]:
        """All of them, in the order of their turns."""
        async with self._units.begin() as repo:
            await existing(repo, tenant, session_id)
            return await CheckpointRepository(repo.connection).all(tenant, session_id)

    async def remove_checkpoint(self, tenant: str, session_id: str, name: str) -> None:
        """Forget one. Raises CheckpointNotFound."""
        async with self._units.begin() as repo:
            await existing(repo, tenant, session_id, lock=True)
            marks = CheckpointRepository(repo.connection)
            if not await marks.remove(tenant, session_id, name):
                raise CheckpointNotFound("The session has no checkpoint of this name.")
            events = EventRepository(repo.connection)
            kind = EventKind.CHECKPOINT_DELETED
            await events.add(tenant, session_id, kind, self._clock(), name=name)

    async def _settled(self, child: Session, kv: SessionKv | None) -> Session:
        """The fork in the state that its KV is in: of a parked parent, parked."""
        after = rested(child, kv)
        if after.state is SessionState.IDLE:
            return child
        async with self._units.begin() as repo:
            now = await existing(repo, child.tenant, child.id, lock=True)
            if now != child:
                return now
            await repo.save(after)
        return after


async def tokens_at(repo: SessionRepository, session: Session, turn: int) -> int:
    """Tokens of the session's conversation at the end of ``turn``. Raises TurnNotFound unless that
    is an answered turn of its present history, or 0."""
    if turn == 0:
        return session.base_tokens
    if turn == session.head_turn:
        return session.tokens
    found = None
    if 0 < turn < session.head_turn:
        found = await repo.find_turn(session.tenant, session.id, turn)
    if found is None or found.rolled_back or not found.receipt:
        raise TurnNotFound(f"The session's present history has no answered turn {turn}.")
    return found.prompt_tokens + found.output_tokens


async def _if_it_can(what: str, command: Awaitable[SessionKv]) -> SessionKv | None:
    try:
        return await command
    except Exception:  # noqa: BLE001 - whatever the engine raises; the next turn computes
        _log.warning("the engine could not %s", what, exc_info=True)
        return None
