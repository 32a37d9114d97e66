"""What is asked: hardware, an engine, and users."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from load.simulate import EngineModel, Hardware

SWEEP = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Times what was asked."""


@dataclass(frozen=True, slots=True)
class Question:
    """One configuration, and who is at it."""

    hardware: Hardware
    engine: EngineModel
    users: int
    """Each waits for an answer, and then as long as the trace's users did."""
    turns: int = 1500
    """Counted, after ``warm_up_turns``."""
    seed: int = 0

    @property
    def warm_up_turns(self) -> int:
        """Turns that fill the tiers and teach the policies: some of every user."""
        return max(self.turns // 4, 8 * self.users)

    def by_dram(self) -> Iterator["Question"]:
        """The same with less and with more DRAM, in rising order."""
        for factor in SWEEP:
            dram_bytes = self.hardware.dram_bytes * factor
            yield replace(self, hardware=replace(self.hardware, dram_bytes=dram_bytes))

    def by_users(self) -> Iterator["Question"]:
        """The same with fewer and with more users, in rising order."""
        for users in sorted({max(1, round(self.users * factor)) for factor in SWEEP}):
            yield replace(self, users=users)
