"""A seeded workload of many clients on two API processes that are killed and started again, and
what it saw."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.linearizable import Operation
from tests.valet_process import ValetProcess

CLIENTS = 8
SESSIONS = 10
KILL_EVERY_S = 4.0
KILLS = 2
"""At least."""
NEVER = float("inf")

Chat = dict[str, Any]


class NotThere(Exception):
    """Nobody listens: the request was not made."""


@dataclass
class Seen:
    """All that the clients saw."""

    histories: dict[str, list[Operation]] = field(default_factory=dict)
    answers: list[Chat] = field(default_factory=list)
    """Receipts of answers whose turn has a number."""
    forks: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    """Answers that no client should get."""

    def add(self, session: str, operation: Operation) -> None:
        self.histories.setdefault(session, []).append(operation)


class Workload:
    """Runs once. ``seed`` decides what each client does, not when it happens."""

    def __init__(self, processes: list[ValetProcess], seed: int) -> None:
        self._processes = processes
        self._random = random.Random(seed)
        self._names = [f"s{number}" for number in range(SESSIONS)]
        self._stop = asyncio.Event()
        self.seen = Seen()

    async def run(self, seconds: float) -> Seen:
        """Returns when every client has its last answer and both processes run."""
        async with httpx.AsyncClient(timeout=30) as client:
            clients = [
                asyncio.create_task(self._client(client, random.Random(self._random.random())))
                for _ in range(CLIENTS)
            ]
            killer = asyncio.create_task(self._killer(seconds))
            await killer
            self._stop.set()
            await asyncio.gather(*clients)
            # Served by both, deleted by one, and nobody begins them again.
            for name in self._names[: SESSIONS // 2]:
                await self._delete(client, self._processes[0].url, name, self._random)
        return self.seen

    async def _killer(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until or self.seen.counts["kill"] < KILLS:
            await asyncio.sleep(KILL_EVERY_S * self._random.uniform(0.5, 1.5))
            process = self._random.choice(self._processes)
            await asyncio.to_thread(process.kill)
            self.seen.counts["kill"] += 1
            await asyncio.sleep(self._random.uniform(0, 0.5))
            await asyncio.to_thread(process.start)

    async def _client(self, client: httpx.AsyncClient, dice: random.Random) -> None:
        kinds: list[Callable[..., Awaitable[None]]] = [
            self._turn, self._read, self._delete, self._fork, self._park, self._prefetch,
        ]  # fmt: skip
        weights = [60, 20, 5, 5, 6, 4]
        while not self._stop.is_set():
            (kind,) = dice.choices(kinds, weights)
            url = dice.choice(self._processes).url
            try:
                await kind(client, url, dice.choice(self._names), dice)
            except NotThere:
                self._count("not there")
            await asyncio.sleep(dice.uniform(0, 0.03))

    async def _turn(
        self, client: httpx.AsyncClient, url: str, name: str, dice: random.Random
    ) -> None:
        text = " ".join(dice.choice("abcdef") * 3 for _ in range(dice.randint(4, 40)))
        body = {"model": "fake", "messages": [{"role": "user", "content": text}], "max_tokens": 4}
        headers = {"x-session-id": name}
        began = time.monotonic()
        answer = await self._ask(
            client.post(f"{url}/v1/chat/completions", json=body, headers=headers)
        )
        number = None
        if answer is not None and answer.status_code == 200:
            receipt = answer.json()["kv_receipt"]
            number = receipt["turn"]
            self._count("turn" if number else "turn without a number")
            if number:
                self.seen.answers.append(receipt)
        elif answer is not None:
            self._unexpected(answer, "turn")
        ended = time.monotonic() if number else NEVER
        self.seen.add(name, Operation("turn", began, ended, number))

    async def _read(self, client: httpx.AsyncClient, url: str, name: str, _: random.Random) -> None:
        began = time.monotonic()
        answer = await self._ask(client.get(f"{url}/v1/sessions/{name}"))
        if answer is None:
            return
        begun = None
        if answer.status_code == 200:
            session = answer.json()
            begun = session["turns"] + session["running_turns"]
        elif answer.status_code != 404:
            self._unexpected(answer, "read")
            return
        self._count("read")
        self.seen.add(name, Operation("read", began, time.monotonic(), begun))

    async def _delete(
        self, client: httpx.AsyncClient, url: str, name: str, _: random.Random
    ) -> None:
        began = time.monotonic()
        answer = await self._ask(client.delete(f"{url}/v1/sessions/{name}"))
        if answer is None:
            self.seen.add(name, Operation("delete", began, NEVER))
        elif answer.status_code in (200, 404):
            deleted = 1 if answer.status_code == 200 else None
            self._count("delete" if deleted else "delete of nothing")
            self.seen.add(name, Operation("delete", began, time.monotonic(), deleted))
        elif answer.status_code == 409:
            self._count("delete while busy")
        else:
            self._unexpected(answer, "delete")

    async def _fork(
        self, client: httpx.AsyncClient, url: str, name: str, dice: random.Random
    ) -> None:
        child = f"f{dice.getrandbits(64):x}"
        answer = await self._ask(client.post(f"{url}/v1/sessions/{name}/fork", json={"id": child}))
        if answer is not None and answer.status_code == 201:
            self._count("fork")
            self.seen.forks.add(child)
            self._names[dice.randrange(len(self._names))] = child
        elif answer is not None and answer.status_code != 404:
            self._unexpected(answer, "fork")

    async def _park(self, client: httpx.AsyncClient, url: str, name: str, _: random.Random) -> None:
        answer = await self._ask(client.post(f"{url}/v1/sessions/{name}/park"))
        if answer is not None and answer.status_code not in (200, 404, 409):
            self._unexpected(answer, "park")
        self._count("park")

    async def _prefetch(
        self, client: httpx.AsyncClient, url: str, name: str, _: random.Random
    ) -> None:
        body = {"tier": "dram", "deadline_ms": 100}
        answer = await self._ask(client.post(f"{url}/v1/sessions/{name}/prefetch", json=body))
        if answer is not None and answer.status_code not in (200, 404, 409):
            self._unexpected(answer, "prefetch")
        self._count("prefetch")

    async def _ask(self, request: Awaitable[httpx.Response]) -> httpx.Response | None:
        """None when the process died over it. Raises NotThere."""
        try:
            return await request
        except httpx.ConnectError as error:
            raise NotThere from error
        except httpx.TransportError:
            self._count("unheard")
            return None

    def _count(self, what: str) -> None:
        self.seen.counts[what] += 1

    def _unexpected(self, answer: httpx.Response, what: str) -> None:
        self.seen.faults.append(f"{what}: {answer.status_code} {answer.text[:300]}")
