"""When sessions are back, and what follows from it. Scheduler thread only.

Holds what was learned of gaps (``cache_tiers.returns``) and, for DRAM and for the device, the order
in which sessions give way and the planner of what comes up before it is asked for. The policies are
those that the simulator runs; here they meet the tiers.

What comes up, and why:

=============  =====================  ============================================================
cause          to                     when
=============  =====================  ============================================================
first byte     device, else DRAM      at once (``arriving``)
waiting        DRAM                   at once (``look_ahead``), in the order of the queue
plan           DRAM, then the device  in time for the predicted return, while no request waits for
                                      a load; cancelled when no plan names it any more
=============  =====================  ============================================================
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from cache_tiers import hints
from cache_tiers.learned_costs import LearnedCosts
from cache_tiers.returns.empirical import EmpiricalReturns
from cache_tiers.returns.types import Awaits, TurnEnd
from cache_tiers.types import ChunkKey, SessionKey
from engine.core_plugin.away import AwaySessions
from engine.core_plugin.manager import TierManager
from engine.core_plugin.planning import Planning, Upkeep
from engine.core_plugin.sessions_view import SessionChunks
from engine.core_plugin.vllm_compat import OffloadKey

PLAN_EVERY_S = 0.05
"""Plans are made at most so often."""
MOST_ARRIVING = 1024
"""Requests whose first byte is remembered until the scheduler asks for them."""
SWEEP = 2048
"""Blocks looked at for a request for those that nobody needs: some 2 ms of the scheduler's
thread."""


@dataclass(frozen=True, slots=True)
class ToDevice:
    """``Costs`` of the device, whose tier below is DRAM."""

    costs: LearnedCosts

    def load_s(self, chunks: int) -> float:
        """See ``Costs``."""
        return self.costs.fetch_s(chunks, 0, busy=False)

    def compute_s(self, start_token: int, end_token: int) -> float:
        """See ``Costs``."""
        return self.costs.compute_s(start_token, end_token)

    @property
    def lead_s(self) -> float:
        """See ``Costs``."""
        return self.costs.lead_s


class Foresight:
    """See the module's docstring."""

    def __init__(
        self,
        manager: TierManager,
        sessions: SessionChunks,
        costs: LearnedCosts,
        *,
        tokens_per_chunk: int,
        prefetch: bool = True,
        worth: Callable[[SessionKey, Sequence[ChunkKey]], int] = lambda _, chain: len(chain),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without ``prefetch`` nothing comes up before it is asked for; ``worth`` says how many of
        a chain's first chunks are had sooner by loading them than by computing them."""
        self.worth = worth
        self._prefetch = prefetch
        self.returns = EmpiricalReturns()
        self._manager = manager
        self._sessions = sessions
        self._costs = costs
        self._clock = clock
        self._dram = Upkeep.of(self.returns, costs, tokens_per_chunk, sessions.on_ssd)
        self._device = Upkeep.of(self.returns, ToDevice(costs), tokens_per_chunk)
        self.planning = Planning(manager, sessions, self._dram, self._device)
        self.running: set[SessionKey] = set()
        """Sessions with a request at the scheduler."""
        self.planning.fetches.is_running = self.running.__contains__
        self._away = AwaySessions(self.returns.away_since)
        self._arrived: dict[SessionKey, float] = {}
        """First bytes of requests that the scheduler has not asked for."""
        self._plan_at = math.inf
        self._planned_at = -math.inf
        manager.dram.order.bind(self._dram.order, sessions, clock)

    # --- what happens to sessions -----------------------------------------------------------------

    def request_came(self, session: SessionKey) -> None:
        """A request of the session is with the scheduler."""
        now = self._clock()
        self.returns.returned(session, self._arrived.get(session, now))
        self.running.add(session)
        self._away.back(session)
        self._changed()
        self._dram.order.began(session, now)
        self._device.order.began(session, now)

    def request_over(self, session: SessionKey) -> None:
        """The session's last running request has ended; all it has computed is on the device."""
        now = self._clock()
        self.running.discard(session)
        chain = self._sessions.chain(session) or ()
        chunks = len(chain)
        # What its load brought through DRAM was nobody's: the first to go, in a prefix larger than
        # DRAM. What is left of it is worth keeping now.
        self._manager.dram.order.own(map(OffloadKey, chain), session)
        self._dram.order.ended(session, chunks, now)
        self._device.order.ended(session, chunks, now)
        self._device.order.holds(session, chunks, now)
        self.planning.fetches.forget(session)

    def turn_ended(self, end: TurnEnd) -> None:
        """The turn was answered: the session is away."""
        now = self._clock()
        self.returns.ended(end, now)
        self._away.left(end, now)
        self._changed()

    def expect(self, session: SessionKey, expected_s: float | None, tool: str) -> None:
        """The client says how long from now the session will be away; of one that is not away,
        nothing."""
        end = self._away.get(session)
        if end is not None:
            if tool:
                end = replace(end, awaits=Awaits.TOOL, tool=tool)
            self.turn_ended(replace(end, expected_s=expected_s))

    def parked(self, session: SessionKey) -> None:
        """Somebody wanted its room: it comes up again when it arrives, or for what its client
        announces from now on, not because there is room."""
        if session in self._away.planned:
            self.planning.fetches.forget(session)
            self._away.rest(session)

    def arriving(self, session: SessionKey) -> None:
        """The first byte of a request has come."""
        now = self._clock()
        # It may yet be refused: the gap is over when the scheduler has it.
        self._arrived[session] = now
        if len(self._arrived) > MOST_ARRIVING:
            del self._arrived[next(iter(self._arrived))]
        chain = self._sessions.chain(session)
        if chain and self._prefetch:
            self.planning.bring(session, chain[: self.worth(session, chain)], fill=True)

    def asked(self, session: SessionKey) -> None:
        """The scheduler asks for the chunks of a request of the session, perhaps not the first
        time."""
        arrived = self._arrived.pop(session, None)
        if arrived is not None:
            self._costs.led(self._clock() - arrived)

    def look_ahead(self, session: SessionKey, keys: Sequence[ChunkKey]) -> None:
        """A request of the session waits to be scheduled, which will ask for these."""
        if self._prefetch:
            self.planning.bring(session, keys[: self.worth(session, keys)], fill=False)

    def forget(self, session: SessionKey) -> None:
        """The session is gone."""
        self.returns.forget(session, self._clock())
        self._away.back(session)
        self.planning.forget(session)
        self._manager.dram.order.disown(session)
        self._dram.order.forget(session)
        self._device.order.forget(session)

    def told(self) -> hints.Foresight:
        """What it was good for so far."""
        fit, brought = self.returns.calibration(), self.planning.brought()
        return hints.Foresight(
            distrusted_tenants=self.returns.distrusted,
            gaps=fit.gaps,
            within={"10": fit.before_10, "50": fit.before_50, "90": fit.before_90},
            ks=fit.distance,
            shifts=self.returns.shifts,
            prefetched_chunks=brought.chunks,
            used_chunks=brought.used,
            late_chunks=brought.late,
            wasted_bytes=brought.wasted_bytes,
            lead_s=self._costs.lead_s,
        )

    def back(self, session: SessionKey) -> tuple[float | None, float | None]:
        """In how many seconds the session is expected: in the median, and in nine of ten cases.
        None for one that is not away, for what is not expected, and while what is does not fit."""
        since, outlook = self.returns.away_since(session), self.returns.outlook(session)
        if since is None or outlook is None or not self.returns.trusts(session):
            return None, None
        away_s = max(0.0, self._clock() - since)
        times = (outlook.quantile(share, away_s) - away_s for share in (0.5, 0.9))
        median, most = (round(max(0.0, t), 3) if t < math.inf else None for t in times)
        return median, most

    # --- every step -----------------------------------------------------------------------------

    def poll(self, now: float, *, loads_wait: bool, reads: int) -> None:
        """Plan what is due, and go on with what is planned. ``loads_wait``: a request waits for a
        load; ``reads``: chunks that may be on their way from SSD besides those of loads."""
        fetches, fills = self.planning.fetches, self.planning.fills
        woken = self._away.wake(now)
        if fetches.take_over() or fills.end_if_over() or woken:
            self._changed()
        if now >= self._plan_at and not loads_wait:
            self._planned_at, self._plan_at = now, math.inf
            next_at = self.planning.plan(self._away.planned, now)
            if next_at is not None:
                self._plan_at = max(next_at, now + PLAN_EVERY_S)
        fetches.advance(now, loads_wait=loads_wait, reads=reads)

    @property
    def busy(self) -> bool:
        """Whether the engine must go on stepping: something is on its way, or about to be."""
        return bool(self.planning.fetches) or self._due_at <= self._clock() + PLAN_EVERY_S

    def next_in_s(self) -> float | None:
        """When to poll at the latest, should nothing happen; None for not at all."""
        return None if self._due_at == math.inf else max(0.0, self._due_at - self._clock())

    # --- the device -----------------------------------------------------------------------------

    def make_room_on_device(self, blocks: int) -> None:
        """So many will be allocated next: let those go that are worth the least."""
        device = self._sessions.device
        if device is None:
            return
        is_needed = self._sessions.is_needed
        spare = device.spare(blocks, is_needed)
        if spare < blocks:
            # What requests leave behind, and what two of them computed at once, is spread over the
            # engine's queue, whose order is of use.
            device.sweep(SWEEP, is_needed)
            spare = device.spare(blocks, is_needed)
        missing = blocks - spare
        if missing <= 0:
            return
        going: dict[int, None] = {}
        for cut in self._device.order.victims(self._clock()):
            found = self._sessions.idle_blocks(cut.session, cut.keep)
            going.update(dict.fromkeys(islice(found, missing - len(going))))
            # The engine takes blocks without saying so.
            here = self._sessions.on_device(cut.session)
            self._device.order.holds(cut.session, here, self._clock())
            if len(going) >= missing:
                break
        device.put_first(going)

    # --- inside ---------------------------------------------------------------------------------

    def _changed(self) -> None:
        if not self._prefetch:
            return
        self._plan_at = min(self._plan_at, max(self._clock(), self._planned_at + PLAN_EVERY_S))

    @property
    def _due_at(self) -> float:
        return min(self._plan_at, self._away.wakes_at) if self._prefetch else math.inf
