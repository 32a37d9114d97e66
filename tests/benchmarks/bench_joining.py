"""How many turns of clients that name no session are joined to the right one.

Recorded conversations are resent turn by turn, as their clients would, to the code that
recognises them, on a real database; the answers are the recorded ones. A turn is joined to the
right session when that is the one of the conversation's turn before. Two conversations that are
the same up to here cannot be told apart: the one may take the other's place.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from app.histories.chat import answers, conversation
from engine.fake import FakeEngine
from load.environment import describe
from load.report import table, write_json
from load.server import REPOSITORY
from sessions.database import open_database
from sessions.history.place import Place
from sessions.history.recognition import Relation
from sessions.history.service import Histories
from sessions.identity import new_session_id
from sessions.service import SessionService
from tests.benchmarks.recorded_chats import Ask, coding, customer_service, generated

RESULT: Final = REPOSITORY / "build" / "bench" / "joining.json"
TRACES: Final = REPOSITORY / "../shared/traces"
WANTED: Final = 0.99
TENANTS: Final = 3
_MODEL = "recorded"


@dataclass(slots=True)
class Joined:
    """What became of a workload's turns."""

    turns: int = 0
    """All but the first ones of the conversations."""
    same_session: int = 0
    """Joined to the session of the turn before."""
    twin: int = 0
    """Joined to another session, whose history is the very same."""
    fork: int = 0
    """In a fork of the session of the turn before."""
    compacted: int = 0
    """In a new session, after the client had replaced the history."""
    lost: int = 0
    """In a new session for any other reason."""
    wrong: int = 0
    """Joined to a session of another history, or to a fork of one."""
    wrong_tenant: int = 0
    first: int = 0
    """First turns of conversations, which belong to no session."""
    first_joined: int = 0
    """Of these, those that were joined to a session."""
    rewritten: int = 0
    """Of the turns in the same session, those whose history had changed before its end."""
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """Of the turns, those in the right session."""
        return (self.same_session + self.twin) / self.turns if self.turns else 1.0

    @property
    def share_with_forks(self) -> float:
        """The same, forks of the right session included."""
        return self.share + (self.fork / self.turns if self.turns else 0.0)


History = tuple[str, tuple[bytes, ...]]
"""A tenant and its messages."""


@dataclass(slots=True)
class Replay:
    """Sends requests to the part of a server that knows sessions."""

    sessions: SessionService
    histories: Histories
    joined: Joined = field(default_factory=Joined)
    _session_of: dict[str, str] = field(default_factory=dict)
    _said_by: dict[str, History] = field(default_factory=dict)
    """By conversation."""
    _said_in: dict[str, History] = field(default_factory=dict)
    """By session."""

    async def turn(self, ask: Ask) -> None:
        """One request and its answer."""
        said = conversation({"messages": ask.messages})
        place = await self.histories.find(ask.tenant, _MODEL, said, None, new_session_id())
        self._judge(ask, place)
        begun = await self.sessions.begin_turn(
            ask.tenant, place.session_id, _MODEL, lineage=place.lineage
        )
        choices = answers({"choices": [{"index": 0, "message": ask.answer}]})
        ending = self.histories.ending(ask.tenant, _MODEL, place, begun.number, choices)
        await self.sessions.end_turn(
            begun,
            receipt={"prompt_tokens": 1},
            prompt_tokens=1,
            output_tokens=1,
            finish_reason="stop",
            also=ending.writes,
        )
        self.histories.ended(ask.tenant, place.session_id, ending)
        self.histories.release(ask.tenant, place)
        self._session_of[ask.conversation] = place.session_id
        whole = conversation({"messages": [*ask.messages, ask.answer]})
        assert whole is not None
        history = (ask.tenant, tuple(message.body for message in whole.messages))
        self._said_in[place.session_id] = self._said_by[ask.conversation] = history

    def _judge(self, ask: Ask, place: Place) -> None:
        joined, before = self.joined, self._session_of.get(ask.conversation)
        parent = place.lineage.parent_id if place.lineage else None
        met = place.session_id if place.session_id in self._said_in else parent
        if met is not None and self._said_in[met][0] != ask.tenant:
            joined.wrong_tenant += 1
        if before is None:
            joined.first += 1
            joined.first_joined += met is not None
            return
        joined.turns += 1
        if place.session_id == before:
            joined.same_session += 1
            joined.rewritten += place.relation is Relation.REWRITES
        elif met is None:
            joined.compacted += ask.compacted
            joined.lost += not ask.compacted
        elif parent == before:
            joined.fork += 1
        elif parent is None and self._said_in[met] == self._said_by[ask.conversation]:
            joined.twin += 1
        else:
            joined.wrong += 1


async def replay(asks: Iterable[Ask], home: Path) -> Joined:
    """Send all requests, one after the other, to a new database below ``home``."""
    database = await open_database(f"sqlite:///{home / 'joining.db'}")
    try:
        sessions = SessionService(database, FakeEngine(), lambda: datetime.now(UTC))
        # Whether the database is quick is another benchmark's question.
        to = Replay(sessions, Histories(sessions.units, b"s" * 32, wait_s=60))
        began = time.perf_counter()
        for ask in asks:
            await to.turn(ask)
        to.joined.seconds = round(time.perf_counter() - began, 1)
        return to.joined
    finally:
        await database.close()


def workloads(traces: Path) -> dict[str, Iterable[Ask]]:
    """What there is to resend, by name."""
    found: dict[str, Iterable[Ask]] = {"generated": generated(200, TENANTS)}
    service = traces / "tau_airline" / "dev.jsonl.gz"
    if service.is_file():
        found["tau_airline"] = customer_service(service, TENANTS)
    agents = traces / "claude_code" / "dev.jsonl.gz"
    if agents.is_file():
        found["claude_code"] = coding(agents)
    return found


def main(argv: list[str]) -> int:
    """Print a table, write ``build/bench/joining.json``; 1 when a wish is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, default=TRACES)
    given = parser.parse_args(argv)
    results: dict[str, Joined] = {}
    for name, asks in workloads(given.traces).items():
        with tempfile.TemporaryDirectory() as home:
            results[name] = asyncio.run(replay(asks, Path(home)))
    rows = [
        [
            name,
            str(joined.turns),
            f"{100 * joined.share:.2f} %",
            f"{100 * joined.share_with_forks:.2f} %",
            str(joined.twin),
            str(joined.rewritten),
            str(joined.fork),
            str(joined.compacted),
            str(joined.lost),
            str(joined.wrong),
            str(joined.wrong_tenant),
            f"{joined.first_joined} of {joined.first}",
        ]
        for name, joined in results.items()
    ]
    head = ["workload", "turns", "right", "or its fork", "twins", "rewritten", "forks", "compacted"]
    print(table([*head, "lost", "wrong", "wrong tenant", "first turns joined"], rows))
    told: dict[str, Any] = {name: _as_json(joined) for name, joined in results.items()}
    write_json(RESULT, {"environment": describe(), "wanted": WANTED, "workloads": told})
    good = all(j.share >= WANTED and not j.wrong_tenant for j in results.values())
    return 0 if good else 1


def _as_json(joined: Joined) -> dict[str, Any]:
    counts = {name: getattr(joined, name) for name in Joined.__slots__}
    return {"share": joined.share, "share_with_forks": joined.share_with_forks, **counts}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
