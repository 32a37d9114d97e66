"""A process killed at any time: what it had acknowledged is there, and nothing is wrong."""

import json
import os
import random
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import pytest

from cache_tiers.ssd.store import SsdStore
from tests.contract.store_faults import disk_bytes
from tests.ledger import UNIVERSE, Ledger, found_in, held_by, operations, perform
from tests.ssd_sweep import ROOMY, SETTINGS, UnsyncedFiles, open_store

KILLS = 250
"""Of each setting: 1000 in all."""
LATEST = 150
"""Calls that change the medium before a process ends itself, at most."""
Report = dict[str, Any]


class DoomedFiles(UnsyncedFiles):
    """Kill this process before the call that changes the medium as number ``last`` (1: the next),
    or in the middle of it if it is a write. ``last_words`` is called just before."""

    def __init__(self, last: int, last_words: Callable[[], None]) -> None:
        self._left = last
        self._last_words = last_words

    def _call(self) -> None:
        self._left -= 1
        if not self._left:
            self._last_words()
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, file: int, data: Sequence[memoryview], offset: int) -> int:
        if self._left == 1 and data[0].nbytes >= 8192:
            super().write(file, [data[0][:4096]], offset)
        self._call()
        return super().write(file, data, offset)

    def create(self, path: Path) -> int:
        self._call()
        return super().create(path)

    def truncate(self, file: int, size: int) -> None:
        self._call()
        super().truncate(file, size)

    def allocate(self, file: int, size: int) -> None:
        self._call()
        super().allocate(file, size)

    def replace(self, source: Path, target: Path) -> None:
        self._call()
        super().replace(source, target)

    def remove(self, path: Path) -> None:
        self._call()
        super().remove(path)


def work(root: Path, seed: int, last: int, say: Callable[[Report], None], **settings: Any) -> None:
    """Say what is found at the start, and after each operation what came of it."""
    store: SsdStore | None = None
    files = DoomedFiles(last, lambda: say({"held": list(held_by(store)) if store else None}))

    def reopen(store: SsdStore) -> SsdStore:
        store.close()
        return open_store(root, files, **settings)

    store = open_store(root, files, **settings)
    say({"found": found_in(store), "evicted": store.stats().evicted_chunks})
    for operation in operations(seed):
        store, stored = perform(operation, store, reopen)
        say({"stored": stored, "held": list(held_by(store))})


def start(root: Path, seed: int, last: int, **settings: Any) -> tuple[int, int]:
    """A process at work: its id, and the pipe that it says things into."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader

    def say(report: Report) -> None:
        os.write(writer, json.dumps(report).encode() + b"\n")

    try:
        work(root, seed, last, say, **settings)
    except BaseException:  # noqa: BLE001 - the parent raises it
        say({"error": traceback.format_exc()[-2000:]})
    finally:
        os._exit(1)


def run_and_kill(root: Path, seed: int, chance: random.Random, **settings: Any) -> list[Report]:
    """What a process said until it ended: killed by itself at a call that changes the medium, or
    by us at any time."""
    by_us = chance.random() < 0.2
    last = 10**9 if by_us else chance.randint(1, LATEST)
    patience = chance.randint(1, 12)
    child, reader = start(root, seed, last, **settings)
    reports = []
    try:
        for report in lines(reader):
            assert "error" not in report, report["error"]
            reports.append(report)
            if by_us and len(reports) == patience:
                os.kill(child, signal.SIGKILL)
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(reader)
        os.waitpid(child, 0)
    return reports


def lines(reader: int) -> Iterator[Report]:
    said = b""
    while more := os.read(reader, 65536):
        *whole, said = (said + more).split(b"\n")
        yield from map(json.loads, whole)


class Witness:
    """Follows what the processes say."""

    def __init__(self, *, encrypted: bool, roomy: bool) -> None:
        self.ledger = Ledger(flush_needed=False, encrypted=encrypted)
        self.roomy = roomy
        self.evicted: set[int] = set()
        """What the process before may have lost beside what it said."""
        self.operations = self.checks = 0

    def follow(self, seed: int, reports: list[Report]) -> None:
        """One process, from its beginning to its end."""
        if not reports or "found" not in reports[0]:
            # Killed while it opened the store, which may evict.
            self.lost(UNIVERSE)
            return
        found = {int(number): version for number, version in reports[0]["found"].items()}
        if reports[0]["evicted"]:
            self.lost(UNIVERSE)
        self.ledger.check(found, self.evicted)
        self.ledger.settle(found, durable=True)
        self.checks += 1
        held: list[int] = []
        for operation, report in zip_longest(islice(operations(seed), len(reports)), reports[1:]):
            self.ledger.begin(operation)
            if report is None or "stored" not in report:
                held = (report or {}).get("held") or []
                break
            self.ledger.end(operation, report["stored"], report["held"])
            self.operations += 1
        self.evicted = set()
        if self.ledger.may_evict:
            self.lost(set(UNIVERSE) - set(held))

    def lost(self, numbers: Iterable[int]) -> None:
        """These may have been evicted."""
        if not self.roomy:
            self.evicted = set(numbers)


@pytest.mark.parametrize("name", SETTINGS)
def test_killed_over_and_over(tmp_path: Path, name: str) -> None:
    settings = SETTINGS[name]
    root = tmp_path / "store"
    chance = random.Random(name)
    encrypted, roomy = settings.get("encrypted", True), settings["bytes_limit"] >= ROOMY
    witness = Witness(encrypted=encrypted, roomy=roomy)
    for seed in range(KILLS):
        witness.follow(seed, run_and_kill(root, seed, chance, **settings))
        assert disk_bytes(root) <= settings["bytes_limit"]
    store = open_store(root, UnsyncedFiles(), **settings)
    if store.stats().evicted_chunks:
        witness.lost(UNIVERSE)
    witness.ledger.check(found_in(store), witness.evicted)
    store.close()
    assert witness.checks > 0.6 * KILLS
    assert witness.operations > 2 * KILLS
