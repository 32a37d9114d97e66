"""A session database on disk: what is left of it when its process is killed."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from cache_tiers.hints import Dropped, Prefetched, SessionKv
from cache_tiers.types import SessionKey, Tier
from sessions.database import Database, open_database
from sessions.identity import session_key
from sessions.reconcile import Reconciled
from sessions.service import SessionService
from sessions.types import AuditAction, SessionState
from tests.state_database import Backend

CHILD = """
import asyncio, sys
from datetime import UTC, datetime
from sessions.database import open_database
from sessions.service import SessionService

async def main(url):
    service = SessionService(await open_database(url), None, lambda: datetime.now(UTC))
    left = await service.begin_turn("t", "left", "m")
    await service.begin_turn("t", "left", "m")
    await service.end_turn(left)
    await service.begin_turn("t", "on-disk", "m")
    for _ in range(100_000):
        begun = await service.begin_turn("t", "busy", "m")
        await service.end_turn(begun, receipt={"turn": begun.number}, prompt_tokens=begun.number)
        print(begun.number, flush=True)

asyncio.run(main(sys.argv[1]))
"""


class Disk:
    """What an engine finds in its store after the restart."""

    def __init__(self, *held: SessionKey) -> None:
        self.held = list(held)

    async def held_sessions(self) -> list[SessionKv]:
        tiers = {Tier.SSD: 128}
        return [SessionKv(key, known=True, tokens_by_tier=tiers) for key in self.held]

    async def drop(self, session: SessionKey) -> Dropped:
        self.held.remove(session)
        return Dropped(session, known=True, chunks=1, key_destroyed=True)

    async def status(self, session: SessionKey) -> SessionKv:
        return SessionKv(session, known=session in self.held, ssd_complete=True)

    async def park(self, session: SessionKey) -> SessionKv:
        return await self.status(session)

    async def prefetch(self, session: SessionKey, tier: Tier, deadline_ms: int) -> Prefetched:
        return Prefetched(session, tokens=0, complete=True)


def now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def busy_child(url: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, url], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def answered_until_killed(url: str, answers: int) -> int:
    """Runs the child until it has reported ``answers`` turns, kills it, and returns the last turn
    that it reported."""
    with busy_child(url) as child:
        assert child.stdout is not None
        for _ in range(answers):
            assert child.stdout.readline(), "the child died by itself"
        child.kill()
        rest = [line for line in child.stdout.read().splitlines(keepends=True) if line[-1] == "\n"]
    return answers + len(rest)


async def test_a_killed_process_loses_no_answered_turn(backend: Backend) -> None:
    url = backend.url
    answered = await asyncio.to_thread(answered_until_killed, url, 40)
    engine = Disk(session_key("t", "on-disk"), session_key("t", "forgotten"))
    database = await open_database(url)
    service = SessionService(database, engine, now)

    report = await service.reconcile()

    on_disk, left, busy = [await service.get("t", name) for name in ("on-disk", "left", "busy")]
    assert (on_disk.state, on_disk.turns) == (SessionState.PARKED, 1)
    assert (left.state, left.turns) == (SessionState.IDLE, 2)
    assert (busy.state, busy.running) == (SessionState.IDLE, 0)
    # The kill may have come between an answer's commit and its report, or within the next turn.
    assert answered <= busy.turns <= answered + 2
    turns = {}
    after: str | None = None
    for _ in range(busy.turns):
        page = await service.turns("t", "busy", limit=100, after=after)
        turns |= {turn.number: turn for turn in page.items}
        after = page.next
        if after is None:
            break
    assert sorted(turns) == list(range(1, busy.turns + 1))
    assert all(turns[number].receipt == {"turn": number} for number in range(1, answered + 1))
    assert report.parked == 1
    assert report.dropped == 1
    assert report.aborted_turns in (2, 3)
    assert engine.held == [session_key("t", "on-disk")]

    assert await service.reconcile() == Reconciled(0, 0, 0, 0, 0)
    (row,) = (await service.audit("t")).items
    assert (row.session_id, row.action) == ("forgotten", AuditAction.KV_DROPPED)
    assert (row.chunks, row.key_destroyed) == (1, True)
    assert (await service.begin_turn("t", "busy", "m")).number == busy.turns + 1
    await database.close()


async def test_two_processes_do_not_give_one_number_twice(backend: Backend) -> None:
    url = backend.url
    databases: list[Database] = [await open_database(url) for _ in range(2)]
    services = [SessionService(database, Disk(), now) for database in databases]
    begun = await asyncio.gather(
        *(service.begin_turn("t", "s", "m") for service in services for _ in range(10))
    )
    assert sorted(turn.number for turn in begun) == list(range(1, 21))
    assert sum(turn.is_new for turn in begun) == 1
    for database in databases:
        await database.close()
