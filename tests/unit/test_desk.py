"""Commands side by side: what each leaves to others, and who waits for whom."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from cache_tiers import hints
from cache_tiers.types import ChunkKey, MissReason, SessionKey
from engine.core_plugin.desk import FILL_MS, ControlDesk
from engine.core_plugin.device_fill import KEEP_SHARE, DeviceFill
from engine.core_plugin.fetches import PLANNED_AT_ONCE
from engine.core_plugin.load_stream import LoadStream

A, B = SessionKey("t/a"), SessionKey("t/b")
CHAIN = [ChunkKey(b"%d" % n) for n in range(3 * PLANNED_AT_ONCE)]


class Side:
    """A scheduler side whose sessions are all on SSD; nothing that is begun ever ends."""

    tokens_per_chunk = 16
    can_fill = True

    def __init__(self) -> None:
        self.reading: set[ChunkKey] = set()
        self.busy: set[SessionKey] = set()
        self.fills: list[LoadStream] = []
        self.loads = SimpleNamespace(waited_for=False, reads_left=100)
        self.manager = SimpleNamespace(
            capacity=100,
            ssd=None,
            bring=self.bring,
            dram=SimpleNamespace(spare=lambda: 100, has_or_awaits=self.reading.__contains__),
        )
        blocks = list(range(100))
        self.sessions = SimpleNamespace(
            standings=SimpleNamespace(poll=lambda now: None),
            chain=lambda session: [ChunkKey(session.encode() + key) for key in CHAIN],
            leading_on_device=lambda session: 0,
            device=SimpleNamespace(
                take=lambda most, keep: [blocks.pop() for _ in range(most)],
                give=lambda filled, empty: None,
            ),
            hold=lambda session: None,
        )
        self.foresight = SimpleNamespace(make_room_on_device=lambda blocks: None)

    def is_quiet(self, session: SessionKey | None) -> bool:
        return session not in self.busy

    def bring(self, keys: list[ChunkKey], waiter: Any, now: float, *, break_pins: bool) -> None:
        self.reading.update(keys)
        waiter.on_reading(keys)

    def open_fill(self, stream: LoadStream, blocks: Any) -> None:
        self.fills.append(stream)


@pytest.fixture
def side() -> Any:
    return Side()


@pytest.fixture
def desk(side: Any) -> ControlDesk:
    return ControlDesk(side, clock=lambda: 0.0)


def fill(desk: ControlDesk, session: SessionKey) -> "Future[bytes] | None":
    return desk.fill(session, 2, KEEP_SHARE, lambda reason: None)


def test_prefetches_share_the_reads_that_loads_leave(desk: ControlDesk, side: Side) -> None:
    side.loads.waited_for = True
    for session in (A, B):
        desk.take(hints.Prefetch(session))
    desk.poll(0.0)
    assert side.reading == set(), "a request waits for a load"
    side.loads.waited_for = False
    side.loads.reads_left = 3
    desk.poll(0.0)
    assert len(side.reading) == 3
    side.loads.reads_left = 100
    desk.poll(0.0)
    desk.poll(0.0)
    assert len(side.reading) == PLANNED_AT_ONCE, "a load that begins soon has the disk to itself"


def test_a_fill_does_not_wait_for_other_commands_of_its_session(
    desk: ControlDesk, side: Side
) -> None:
    side.busy.add(A)
    desk.take(hints.Park(A))
    assert fill(desk, A) is None
    assert fill(desk, B) is not None
    desk.poll(0.0)
    assert [len(stream.items) for stream in side.fills] == [2]
    assert fill(desk, B) is None, "one is enough"


def test_a_fill_that_comes_after_its_request_brings_nothing(desk: ControlDesk, side: Side) -> None:
    side.busy.add(A)
    reply = fill(desk, A)
    assert reply is not None
    desk.poll(0.0)
    assert side.fills == []
    assert reply.done()


@pytest.mark.parametrize(
    ("failing", "told"), [(None, []), (MissReason.IO_TIMEOUT, [MissReason.IO_TIMEOUT])]
)
def test_the_end_of_a_fills_time_is_no_failure_of_the_disk(
    desk: ControlDesk, side: Side, failing: MissReason | None, told: list[MissReason]
) -> None:
    failures: list[MissReason] = []
    operation = DeviceFill(desk, A, FILL_MS, 0.0, upto=2, on_failed=failures.append)
    (stream,) = side.fills
    assert operation.poll(FILL_MS / 1000) is None
    if failing is not None:
        stream.on_reading([stream.items[0].key])
        stream.on_failed(stream.items[0].key, failing)
    assert operation.poll(FILL_MS / 1000 + 1) == hints.Prefetched(A, 0, False)
    assert failures == told
