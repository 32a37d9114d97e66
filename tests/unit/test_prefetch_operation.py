"""A prefetch that somebody asked for: as fast as loads leave the disk to it."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from cache_tiers.hints import Prefetched
from cache_tiers.types import ChunkKey, SessionKey
from engine.core_plugin.operations import PrefetchOperation
from engine.core_plugin.read_waiter import ReadWaiter

SESSION = SessionKey("t/a")
CHUNKS, TOKENS = 10, 16


def keys(*numbers: int) -> list[ChunkKey]:
    return [ChunkKey(b"%d" % n) for n in numbers]


class View:
    """A session on SSD, and a disk that reads when it is told to."""

    tokens_per_chunk = TOKENS

    def __init__(self) -> None:
        self.left = 3
        self.here: set[ChunkKey] = set()
        self.reading: dict[ChunkKey, ReadWaiter] = {}
        self.unpinned: list[ChunkKey] = []
        self.manager: Any = SimpleNamespace(
            capacity=100,
            dram=SimpleNamespace(
                spare=lambda: 100,
                has_or_awaits=lambda key: key in self.here or key in self.reading,
            ),
            origins=SimpleNamespace(mark_prefetched=lambda keys: None),
            bring=self.bring,
            unpin=self.unpinned.extend,
            forget_waiter=lambda waiter: self.reading.clear(),
        )

    def chain(self, session: SessionKey) -> tuple[ChunkKey, ...]:
        return tuple(keys(*range(CHUNKS)))

    def reads_left(self) -> int:
        return self.left

    def bring(
        self, wanted: Sequence[ChunkKey], waiter: ReadWaiter, now: float, *, break_pins: bool
    ) -> None:
        assert not break_pins
        waiter.on_ready([key for key in wanted if key in self.here], now)
        away = [key for key in wanted if key not in self.here and key not in self.reading]
        self.reading.update(dict.fromkeys(away, waiter))
        waiter.on_reading(away)

    def read(self) -> None:
        """What is under way is there."""
        under_way, self.reading = self.reading, {}
        self.here.update(under_way)
        for key, waiter in under_way.items():
            waiter.on_ready([key], 0.0)


@pytest.fixture
def view() -> View:
    return View()


def prefetch(view: Any) -> PrefetchOperation:
    return PrefetchOperation(view, SESSION, deadline_ms=1000, now=0.0)


def test_it_reads_no_more_at_a_time_than_is_left_to_it(view: View) -> None:
    operation = prefetch(view)
    most = 0
    while (reply := operation.poll(0.5)) is None:
        most = max(most, len(view.reading))
        view.read()
    assert most == 3
    assert reply == Prefetched(SESSION, CHUNKS * TOKENS, True)
    assert sorted(view.unpinned) == keys(*range(CHUNKS))


def test_while_nothing_is_left_it_waits_until_its_deadline(view: View) -> None:
    view.left = 0
    view.here.update(keys(0, 1, 7))
    operation = prefetch(view)
    assert operation.poll(0.5) is None
    assert (operation.reading, view.reading) == (0, {})
    assert operation.poll(1.1) == Prefetched(SESSION, 3 * TOKENS, False)
    assert view.unpinned == keys(0, 1, 7), "what was there was kept there meanwhile"


def test_it_goes_on_when_loads_are_over(view: View) -> None:
    view.left = 0
    operation = prefetch(view)
    operation.poll(0.1)
    view.left = 2
    operation.poll(0.2)
    assert list(view.reading) == keys(0, 1)
    assert operation.reading == 2
