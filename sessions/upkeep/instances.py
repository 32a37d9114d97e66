"""API processes as the database knows them: which there are, and what a dead one left.

An instance is a process with its home: the name lives there, so that a restarted process finds the
sessions, orders and KV of the one before.
"""

import os
import re
import secrets
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import delete, exists, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.inserting import insert_into
from sessions.lifecycle import interrupted, moved
from sessions.models import instances, orders, sessions, turns
from sessions.repository import SessionRepository
from sessions.types import ABORTED, SessionState, StateUnavailable
from sessions.upkeep.events import EventKind, EventRepository

DEAD_AFTER: Final = timedelta(seconds=60)
"""A process that was not seen for so long answers nobody any more. One that comes back after all
finds that its turns were aborted."""
FORGOTTEN_AFTER: Final = timedelta(days=90)

_NAME: Final = re.compile(r"i_[0-9a-f]{24}")


def load_instance(file: Path) -> str:
    """The name of the process whose home holds ``file``; made when there is none.

    Raises StateUnavailable, with the reason, when it can be neither read nor made.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            name = file.read_text(encoding="ascii").strip()
        else:
            name = f"i_{secrets.token_hex(12)}"
            with os.fdopen(handle, "w", encoding="ascii") as new:
                new.write(f"{name}\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StateUnavailable(f"{file} cannot be used: {error}") from error
    if not _NAME.fullmatch(name):
        raise StateUnavailable(f"{file} does not hold an instance's name: move it away")
    return name


async def beat(connection: AsyncConnection, instance: str, now: datetime) -> None:
    """The process lives."""
    statement = insert_into(connection, instances).values(id=instance, started_at=now, seen_at=now)
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["id"], set_={"seen_at": now})
    )


async def end_turns_of_dead(connection: AsyncConnection, now: datetime, limit: int) -> int:
    """End at most ``limit`` turns of processes that are dead, each with an event; how many."""
    lives = exists().where(
        instances.c.id == turns.c.instance, instances.c.seen_at >= now - DEAD_AFTER
    )
    # A process is seen before its first turn, so the age matters only to one nobody knows.
    query = select(turns.c.tenant, turns.c.session_id, turns.c.number).where(
        turns.c.ended_at.is_(None), turns.c.started_at < now - DEAD_AFTER, ~lives
    )
    found = await connection.execute(query.limit(limit))
    turns_found = [(row.tenant, row.session_id, row.number) for row in found]
    return len(await _abort(connection, turns_found, now))


async def end_turns_of(
    connection: AsyncConnection, names: set[str], now: datetime
) -> list[tuple[str, str]]:
    """End every running turn of these processes, each with an event; the tenant and the session of
    each."""
    query = select(turns.c.tenant, turns.c.session_id, turns.c.number).where(
        turns.c.ended_at.is_(None), turns.c.instance.in_(names)
    )
    found = await connection.execute(query)
    turns_found = [(row.tenant, row.session_id, row.number) for row in found]
    return await _abort(connection, turns_found, now)


async def rest_of_dead(connection: AsyncConnection, now: datetime, limit: int) -> int:
    """At most ``limit`` sessions whose prefetch died with its process are parked again."""
    lives = exists().where(
        instances.c.id == sessions.c.instance, instances.c.seen_at >= now - DEAD_AFTER
    )
    query = select(sessions.c.tenant, sessions.c.id).where(
        sessions.c.state == SessionState.RESUMING, ~lives
    )
    names = [(row.tenant, row.id) for row in await connection.execute(query.limit(limit))]
    repo = SessionRepository(connection)
    for tenant, session_id in names:
        session = await repo.find(tenant, session_id, lock=True)
        if session is not None and session.state is SessionState.RESUMING:
            await repo.save(moved(session, SessionState.PARKED))
    return len(names)


async def forget_dead(connection: AsyncConnection, now: datetime, limit: int) -> int:
    """Forget at most ``limit`` processes that will not come back, and their orders."""
    gone = select(instances.c.id).where(instances.c.seen_at < now - FORGOTTEN_AFTER).limit(limit)
    names = list((await connection.execute(gone)).scalars())
    await connection.execute(delete(orders).where(orders.c.instance.in_(names)))
    await connection.execute(delete(instances).where(instances.c.id.in_(names)))
    return len(names)


async def _abort(
    connection: AsyncConnection, found: list[tuple[str, str, int]], now: datetime
) -> list[tuple[str, str]]:
    repo, events = SessionRepository(connection), EventRepository(connection)
    ended: list[tuple[str, str]] = []
    # In one order everywhere: two that lock the same sessions wait for each other, no more.
    for name in sorted(Counter((tenant, session_id) for tenant, session_id, _ in found)):
        session = await repo.find(*name, lock=True)
        if session is None:
            continue
        numbers = [number for *owner, number in found if tuple(owner) == name]
        aborted = sorted(await _end(connection, name, numbers, now))
        if aborted:
            await repo.save(interrupted(session, len(aborted)))
        for number in aborted:
            await events.add(*name, EventKind.TURN_ABORTED, now, turn=number)
        ended += [name] * len(aborted)
    return ended


async def _end(
    connection: AsyncConnection, name: tuple[str, str], numbers: list[int], now: datetime
) -> list[int]:
    """Those that still ran when their session was locked."""
    result = await connection.execute(
        update(turns)
        .where(
            tuple_(turns.c.tenant, turns.c.session_id) == name,
            turns.c.number.in_(numbers),
            turns.c.ended_at.is_(None),
        )
        .values(ended_at=now, prompt_tokens=0, output_tokens=0, finish_reason=ABORTED, receipt={})
        .returning(turns.c.number)
    )
    return list(result.scalars())
