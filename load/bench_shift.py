"""What happens to the hot tier when sessions suddenly wait in another way.

Generated sessions (``load/simulate/generated.py``) in a closed loop: coding agents, whose gaps
become those of customer service in mid-run, whatever turn a session is in. Valet's policy and LRU
that loads on demand serve the same sessions from an SSD. *Hot* is the share of reusable tokens in
device or DRAM when the scheduler asked, in windows of turns around the shift. Several seeds are
added up: a window of one run says little.

Valet's own steady state is the same run in which there was customer service from the beginning, in
the turns from where the other one's shift lies on.
"""

import argparse
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from cache_tiers.types import SessionKey
from load.environment import describe
from load.report import table, verdict, write_json
from load.server import REPOSITORY
from load.simulate import EngineModel, Hardware, Outcome, SimulationConfig, simulate
from load.simulate.generated import CODING, CUSTOMER_SERVICE, SHAPE, Gaps, session_lines
from load.simulate.roster import Name, contender
from load.simulate.source import Arrival, Visit
from load.traces import Request, own_requests

USERS: Final = 64
SEEDS: Final = 12
QUICK_SEEDS: Final = 3
SHIFT_AT: Final = 4000
"""Turns asked before the shift."""
AFTER: Final = 3000
"""And behind it."""
WINDOW: Final = 100
RECOVERED_AFTER: Final = 200
WANTED_NEAR: Final = 0.02
BEGINS_WITHIN_S: Final = 600.0
HARDWARE: Final = Hardware(
    dram_bytes=1.2e6 * 23_000, device_bytes=1.2e6 * 23_000, ssd_bandwidth=3e9, kv_bytes=23_000
)
"""Room for some 12 % of what 64 sessions have."""


class ShiftingLoop:
    """A ``Source``: users as in ``ClosedLoop``, at generated sessions, of whom each turn that is
    sent when ``shift_at`` turns have been answered, or later, waits as in customer service."""

    def __init__(self, users: int, seed: int, shift_at: int) -> None:
        self._users = users
        self._seed = seed
        self._shift_at = shift_at
        self._answered = 0
        self._begun = 0

    def begin(self) -> Iterator[Arrival]:
        """See ``Source``. Each user is somewhere within a session."""
        dice = random.Random(self._seed)
        for at in sorted(dice.uniform(0, BEGINS_WITHIN_S) for _ in range(self._users)):
            visit = self._next()
            visit.number = dice.randrange(len(visit.requests))
            yield at, self._sent(visit)

    def answered(self, visit: Visit, now: float) -> Iterable[Arrival]:
        """See ``Source``."""
        self._answered += 1
        if visit.upcoming is None:
            yield now, self._sent(self._next())
        else:
            visit.number += 1
            yield now + (visit.request.gap_s or 0.0), self._sent(visit)

    def _next(self) -> Visit:
        self._begun += 1
        name = f"{self._seed}/{self._begun}"
        lines = session_lines(name, 0.0, SHAPE, CODING, shared_tokens=0)
        return Visit(SessionKey(f"made/{name}"), name, list(own_requests(lines)), user=0)

    def _sent(self, visit: Visit) -> Visit:
        """Decide what the turn ends in, and the gap behind it."""
        gaps = CODING if self._answered < self._shift_at else CUSTOMER_SERVICE
        dice = random.Random(f"{visit.session} {visit.number}")
        awaits, gap_s = gaps.draw(dice)
        requests, number = visit.requests, visit.number
        requests[number] = replace(requests[number], awaits=awaits)
        if visit.upcoming is not None:
            requests[number + 1] = replace(requests[number + 1], gap_s=gap_s)
        return visit
