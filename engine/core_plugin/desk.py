"""Control commands: what is asked of sessions without a request. Scheduler thread only."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from cache_tiers import hints
from cache_tiers.types import ChunkKey, SessionKey, Tier
from engine.core_plugin.device_fill import DeviceFill
from engine.core_plugin.load_stream import LoadStream
from engine.core_plugin.manager import TierManager
from engine.core_plugin.operations import (
    DropOperation,
    FlushOperation,
    Operation,
    ParkOperation,
    PrefetchOperation,
)
from engine.core_plugin.sessions_view import DeviceBlocks, SessionChunks


class SchedulerSide(Protocol):
    """What the desk needs of the connector's scheduler side."""

    manager: TierManager
    sessions: SessionChunks
    tokens_per_chunk: int
    info: hints.EngineInfo

    def is_quiet(self, session: SessionKey | None) -> bool: ...
    def report(self, external_id: str) -> hints.KvReport | None: ...
    def open_fill(self, stream: LoadStream, blocks: Sequence[int]) -> None: ...

    @property
    def can_fill(self) -> bool: ...


class ControlDesk:
    """Answers what can be answered at once, and polls the rest once a step."""

    def __init__(self, side: SchedulerSide) -> None:
        self._side = side
        self._open: list[tuple[Operation, Future[bytes]]] = []
        self.manager = side.manager
        self.tokens_per_chunk = side.tokens_per_chunk

    def __bool__(self) -> bool:
        return bool(self._open)

    def take(self, command: hints.Command, now: float) -> "bytes | Future[bytes]":
        """Carry out one command: the encoded reply, or a Future of it."""
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
                return self._run(ParkOperation(self, session, now))
            case hints.Prefetch(session, tier, deadline_ms):
                if tier is Tier.DEVICE and self._side.can_fill:
                    return self._run(DeviceFill(self, session, deadline_ms, now))
                return self._run(PrefetchOperation(self, session, deadline_ms, now))
            case hints.Drop(session):
                return self._run(DropOperation(self, session, now))
            case hints.Flush():
                return self._run(FlushOperation(self, now))

    def poll(self, now: float) -> None:
        """Give every open operation its turn."""
        still = []
        for operation, future in self._open:
            reply = operation.poll(now)
            if reply is None:
                still.append((operation, future))
            else:
                future.set_result(hints.encode(reply))
        self._open = still

    # --- what operations need (SessionsView, DeviceFiller) -------------------------------------

    def is_quiet(self, session: SessionKey | None) -> bool:
        """See SessionsView."""
        return self._side.is_quiet(session)

    def chain(self, session: SessionKey) -> tuple[ChunkKey, ...] | None:
        """See SessionsView."""
        return self._side.sessions.chain(session)

    def describe(self, session: SessionKey) -> hints.SessionKv:
        """See SessionsView."""
        return self._side.sessions.describe(session)

    def park(self, session: SessionKey) -> None:
        """See SessionsView."""
        self._side.sessions.park(session)

    def forget(self, session: SessionKey) -> list[ChunkKey]:
        """See SessionsView."""
        return self._side.sessions.forget(session)

    def on_device(self, session: SessionKey) -> int:
        """See DeviceFiller."""
        return self._side.sessions.leading_on_device(session)

    def take_blocks(self, most: int) -> list[int]:
        """See DeviceFiller. A quarter of the idle blocks is left to requests."""
        return self._device.take(most, keep_share=0.25)

    def open_fill(self, stream: LoadStream, blocks: Sequence[int]) -> None:
        """See DeviceFiller."""
        self._side.open_fill(stream, blocks)

    def adopt(self, filled: Sequence[tuple[ChunkKey, int]], empty: Sequence[int]) -> None:
        """See DeviceFiller."""
        self._device.give([(bytes(key), block) for key, block in filled], empty)

    @property
    def _device(self) -> DeviceBlocks:
        device = self._side.sessions.device
        assert device is not None
        return device

    def _run(self, operation: Operation) -> "Future[bytes]":
        future: Future[bytes] = Future()
        self._open.append((operation, future))
        return future
