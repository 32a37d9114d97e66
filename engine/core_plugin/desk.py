"""Control commands: what is asked of sessions without a request. Scheduler thread only."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from cache_tiers import hints
from cache_tiers.returns.types import TurnEnd
from cache_tiers.types import ChunkKey, SessionKey, Tier
from engine.core_plugin.admittance import Admittance
from engine.core_plugin.device_blocks import DeviceBlocks
from engine.core_plugin.device_fill import DeviceFill, OnFailed
from engine.core_plugin.fetches import PLANNED_AT_ONCE
from engine.core_plugin.foresight import Foresight
from engine.core_plugin.load_stream import LoadStream
from engine.core_plugin.loads import Loads
from engine.core_plugin.manager import TierManager
from engine.core_plugin.operations import (
    DropOperation,
    FlushOperation,
    Forgotten,
    Operation,
    ParkOperation,
    PrefetchOperation,
    TruncateOperation,
)
from engine.core_plugin.sessions_view import SessionChunks
from engine.core_plugin.usage import UsageOperation

logger = logging.getLogger(__name__)

FILL_MS = 10_000
"""A fill that nobody has set a deadline takes at most so long."""


class SchedulerSide(Protocol):
    """What the desk needs of the connector's scheduler side."""

    manager: TierManager
    sessions: SessionChunks
    admittance: Admittance
    foresight: Foresight
    loads: Loads
    tokens_per_chunk: int
    info: hints.EngineInfo

    def is_quiet(self, session: SessionKey | None) -> bool: ...
    def report(self, external_id: str) -> hints.KvReport | None: ...
    def keys_of_running(self) -> set[ChunkKey]: ...
    def open_fill(self, stream: LoadStream, blocks: Sequence[int]) -> None: ...
    def poll_foresight(self) -> None: ...

    @property
    def can_fill(self) -> bool: ...


@dataclass(slots=True)
class Errand:
    """One command that takes more than a moment. It begins when its turn comes."""

    session: SessionKey | None
    begin: Callable[[float], Operation]
    operation: Operation | None = None
    reply: "Future[bytes]" = field(default_factory=Future)

    def poll(self, now: float) -> hints.Reply | None:
        """As Operation's; a defect in one costs its caller a failure, and not everybody the
        engine."""
        try:
            if self.operation is None:
                self.operation = self.begin(now)
            return self.operation.poll(now)
        except Exception as error:
            logger.exception("a control command failed")
            return hints.Failure(f"{type(error).__name__}: {error}")


class ControlDesk:
    """Answers what can be answered at once, and polls the rest once a step, or sooner when a fill
    has ended."""

    def __init__(self, side: SchedulerSide, clock: Callable[[], float] = time.monotonic) -> None:
        self._side = side
        self._clock = clock
        self._open: list[Errand] = []
        self.manager = side.manager
        self.tokens_per_chunk = side.tokens_per_chunk

    def __bool__(self) -> bool:
        return bool(self._open)

    def take(self, command: hints.Command) -> "bytes | Future[bytes]":
        """Carry out one command: the encoded reply, or a Future of it."""
        # An idle engine does not step, so leases that are over end here.
        self._side.sessions.standings.poll(self._clock())
        match command:
            case hints.GetInfo():
                return hints.encode(self._side.info)
            case hints.GetStatus(session):
                return hints.encode(self.describe(session))
            case hints.ListSessions():
                return hints.encode(hints.SessionList(self._side.sessions.held()))
            case hints.TakeReport(request_id):
                return hints.encode(hints.Report(self._side.report(request_id)))
            case hints.Park(session):
                return self._run(session, lambda now: ParkOperation(self, session, now))
            case hints.Prefetch(session, tier, deadline_ms):
                if tier is Tier.DEVICE and self._side.can_fill:
                    return self._run(
                        session, lambda now: DeviceFill(self, session, deadline_ms, now)
                    )
                return self._run(
                    session, lambda now: PrefetchOperation(self, session, deadline_ms, now)
                )
            case hints.Drop(session):
                return self._run(session, lambda now: DropOperation(self, session, now))
            case hints.Flush():
                return self._run(None, lambda now: FlushOperation(self, now))
            case hints.Pin(session, tier, ttl_s):
                return hints.encode(self._side.sessions.pin(session, tier, self._clock() + ttl_s))
            case hints.Unpin(session, each):
                self._side.sessions.standings.pins.unpin(session, each)
                return hints.encode(hints.Done())
            case hints.TakeBroken():
                return hints.encode(hints.BrokenPins(self._side.sessions.standings.take_broken()))
            case hints.Fork(parent, child, most):
                return hints.encode(self._side.sessions.fork(parent, child, most))
            case hints.Truncate(session, tokens):
                return self._run(session, lambda now: TruncateOperation(self, session, tokens, now))
            case hints.TurnEnded(session, awaits, tool, turn, hour, expected_s):
                self._side.foresight.turn_ended(
                    TurnEnd(
                        session=session,
                        awaits=awaits,
                        tool=tool,
                        turn=turn,
                        hour=hour,
                        expected_s=expected_s,
                    )
                )
                return self._pulse()
            case hints.Arriving(session):
                self._side.foresight.arriving(session)
                return self._pulse()
            case hints.Expect(session, expected_s, tool):
                self._side.foresight.expect(session, expected_s, tool)
                return self._pulse()
            case hints.Poll():
                self._side.poll_foresight()
                return self._pulse()
            case hints.GetForesight():
                return hints.encode(self._side.foresight.told())
            case hints.GetUsage():
                return self._run(None, lambda _: UsageOperation(self._side.sessions, self.manager))

    def fill(
        self, session: SessionKey, upto: int, keep_share: float, on_failed: OnFailed
    ) -> "Future[bytes] | None":
        """Bring the session's first ``upto`` chunks to the device, which nobody has asked for: it
        comes too late once a request of the session runs. None where a command for the session is
        open: that may take long, and one fill that waits holds up all others."""
        if any(errand.session == session for errand in self._open):
            return None

        def begin(now: float) -> DeviceFill:
            return DeviceFill(
                self,
                session,
                FILL_MS,
                now,
                upto=upto if self.is_quiet(session) else 0,
                keep_share=keep_share,
                on_failed=on_failed,
            )

        return self._run(session, begin)

    def poll(self, now: float) -> None:
        """Give open operations their turn: of one session's, the first; the others wait for it."""
        still = []
        busy: set[SessionKey | None] = set()
        for errand in self._open:
            reply = None
            if errand.session is None or errand.session not in busy:
                busy.add(errand.session)
                reply = errand.poll(now)
            if reply is None:
                still.append(errand)
            else:
                errand.reply.set_result(hints.encode(reply))
        self._open = still

    # --- what operations need (SessionsView, DeviceFiller) -------------------------------------

    def is_quiet(self, session: SessionKey | None) -> bool:
        """See SessionsView."""
        return self._side.is_quiet(session)

    def chain(self, session: SessionKey) -> tuple[ChunkKey, ...] | None:
        """See SessionsView."""
        return self._side.sessions.chain(session)

    def reads_left(self) -> int:
        """See SessionsView. As for plans: a load that begins has the disk to itself soon."""
        loads = self._side.loads
        if loads.waited_for:
            return 0
        prefetches = (errand.operation for errand in self._open)
        reading = sum(each.reading for each in prefetches if isinstance(each, PrefetchOperation))
        return max(0, min(PLANNED_AT_ONCE, loads.reads_left) - reading)

    def describe(self, session: SessionKey) -> hints.SessionKv:
        """See SessionsView. With when it is expected back."""
        back_in_s, back_by_s = self._side.foresight.back(session)
        return msgspec.structs.replace(
            self._side.sessions.describe(session), back_in_s=back_in_s, back_by_s=back_by_s
        )

    def to_write(self, session: SessionKey) -> Sequence[ChunkKey]:
        """See SessionsView."""
        return self._side.admittance.at_park(session, self.chain(session) or ())

    def truncate(self, session: SessionKey, tokens: int) -> hints.SessionKv:
        """See SessionsView."""
        return self._side.sessions.truncate(session, tokens)

    def park(self, session: SessionKey) -> None:
        """See SessionsView."""
        self._side.sessions.park(session)
        self._side.foresight.parked(session)

    def forget(self, session: SessionKey) -> Forgotten:
        """See SessionsView."""
        held, orphans = self._side.sessions.forget(session)
        self._side.admittance.forget(session)
        self._side.foresight.forget(session)
        # A running request may have found one of them there, and will hold it when it ends.
        gone = set(orphans) - self._side.keys_of_running()
        return Forgotten(
            [key for key in held if key in gone], [key for key in held if key not in gone]
        )

    def on_device(self, session: SessionKey) -> int:
        """See DeviceFiller."""
        return self._side.sessions.leading_on_device(session)

    def take_blocks(self, most: int, keep_share: float) -> list[int]:
        """See DeviceFiller."""
        self._side.foresight.make_room_on_device(most)
        return self._device.take(most, keep_share)

    def open_fill(self, stream: LoadStream, blocks: Sequence[int]) -> None:
        """See DeviceFiller."""
        self._side.open_fill(stream, blocks)

    def adopt(
        self,
        session: SessionKey,
        filled: Sequence[tuple[ChunkKey, int]],
        empty: Sequence[int],
    ) -> None:
        """See DeviceFiller."""
        self._device.give([(bytes(key), block) for key, block in filled], empty)
        self._side.sessions.hold(session)

    @property
    def _device(self) -> DeviceBlocks:
        device = self._side.sessions.device
        assert device is not None
        return device

    def _pulse(self) -> bytes:
        return hints.encode(hints.Pulse(self._side.foresight.next_in_s()))

    def _run(
        self, session: SessionKey | None, begin: Callable[[float], Operation]
    ) -> "Future[bytes]":
        errand = Errand(session, begin)
        self._open.append(errand)
        return errand.reply
