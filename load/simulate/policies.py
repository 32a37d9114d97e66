"""What decides in a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cache_tiers.eviction.prefix_policy import PrefixPolicy
from cache_tiers.prefetch.types import Planner
from cache_tiers.returns.types import Returns
from cache_tiers.types import SessionKey


class Foresight(Protocol):
    """Is told what no server can know."""

    def foresee(self, session: SessionKey, at: float, chunks: int) -> None:
        """At a turn's end: when the session's next request comes (``math.inf`` for never), and how
        many leading chunks of its chain that begins with."""
        ...


class OnSsd:
    """Leading chunks of a session that SSD has. Policies are made before the run that knows."""

    def __init__(self) -> None:
        self._count: Callable[[SessionKey], int] | None = None

    def bind(self, count: Callable[[SessionKey], int]) -> None:
        """To a run that begins."""
        self._count = count

    def __call__(self, session: SessionKey) -> int:
        return 0 if self._count is None else self._count(session)


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of one run, made for it: they remember."""

    dram: PrefixPolicy
    planner: Planner | None = None
    """SSD → DRAM."""
    returns: Returns | None = None
    """Told of every turn's end and of every return."""
    foresight: Foresight | None = None
    device: PrefixPolicy | None = None
    """What the device keeps of sessions that are away; None for nothing."""
    device_planner: Planner | None = None
    """DRAM → device."""
    ssd: PrefixPolicy | None = None
    """Needed where the SSD has a limit."""
    on_ssd: OnSsd | None = None
    """Asked by the others; bound when the run begins."""
