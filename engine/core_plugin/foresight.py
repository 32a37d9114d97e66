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
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from cache_tiers import hints
from cache_tiers.costs import Costs
from cache_tiers.eviction.by_importance import ByImportance
from cache_tiers.importance import Importance
from cache_tiers.learned_costs import LearnedCosts
from cache_tiers.prefetch.planner import DeadlinePlanner
from cache_tiers.prefetch.tally import PrefetchTally
from cache_tiers.prefetch.types import Plan, Shortfall
from cache_tiers.returns.empirical import EmpiricalReturns
from cache_tiers.returns.types import TurnEnd
from cache_tiers.types import ChunkKey, MissReason, SessionKey, Tier
from engine.core_plugin.device_fill import KEEP_SHARE
from engine.core_plugin.fetches import Fetches, Piece
from engine.core_plugin.manager import TierManager
from engine.core_plugin.planned_fills import PlannedFills
from engine.core_plugin.prefetch_metrics import Brought
from engine.core_plugin.sessions_view import SessionChunks
from engine.core_plugin.vllm_compat import OffloadKey

PLAN_EVERY_S = 0.05
"""Plans are made at most so often."""
MOST_ARRIVING = 1024
"""Requests whose first byte is remembered until the scheduler asks for them."""
MOST_PLANNED_FOR = 512
"""Sessions that a plan looks at, those whose turns ended last: each costs the scheduler's thread
some 20 µs."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Policies of one tier."""

    order: ByImportance
    planner: DeadlinePlanner

    @classmethod
    def of(cls, returns: EmpiricalReturns, costs: Costs, tokens_per_chunk: int) -> "Upkeep":
        """For a tier whose chunks cost this to have back."""
        importance = Importance(returns, costs, chunk_tokens=tokens_per_chunk)
        order = ByImportance(importance)
        return cls(order, DeadlinePlanner(importance, order))


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without ``prefetch`` nothing comes up before it is asked for."""
        self._prefetch = prefetch
        self.returns = EmpiricalReturns()
        self.fetches = Fetches(manager)
        self._manager = manager
        self._sessions = sessions
        self._costs = costs
        self._clock = clock
        self._dram = Upkeep.of(self.returns, costs, tokens_per_chunk)
        self._device = Upkeep.of(self.returns, ToDevice(costs), tokens_per_chunk)
        self._dram_tally = PrefetchTally(manager.chunk_bytes)
        self.fills = PlannedFills(manager, sessions)
        self.fills.on_failed = self._failed
        self._failures: dict[SessionKey, MissReason] = {}
        """Why the last fetch or fill of a session ended early, until its next request."""
        self._away: OrderedDict[SessionKey, TurnEnd] = OrderedDict()
        """Sessions between two turns, the latest last."""
        self._parked: OrderedDict[SessionKey, TurnEnd] = OrderedDict()
        """Those of them that were parked: nothing is planned for them."""
        self._arrived: dict[SessionKey, float] = {}
        """First bytes of requests that the scheduler has not asked for."""
        self._plan_at = math.inf
        self._planned_at = -math.inf
        manager.dram.order.bind(self._dram.order, sessions)
        manager.dram.order.on_held = self._dram_tally.holds
        self.fetches.on_fetched = self._fetched
        self.fetches.on_failing = self._failed

    # --- what happens to sessions -----------------------------------------------------------------

    def request_came(self, session: SessionKey) -> None:
        """A request of the session is with the scheduler."""
        now = self._clock()
        self.returns.returned(session, self._arrived.get(session, now))
        self._parked.pop(session, None)
        self._away.pop(session, None)
        self._changed()
        self._dram.order.began(session, now)
        self._device.order.began(session, now)

    def request_over(self, session: SessionKey) -> None:
        """The session's last running request has ended; all it has computed is on the device."""
        now = self._clock()
        chain = self._sessions.chain(session) or ()
        chunks = len(chain)
        # What its load brought through DRAM was nobody's: the first to go, in a prefix larger than
        # DRAM. What is left of it is worth keeping now.
        self._manager.dram.order.own(map(OffloadKey, chain), session)
        self._dram.order.ended(session, chunks, now)
        self._device.order.ended(session, chunks, now)
        self._device.order.holds(session, chunks, now)
        self.fetches.forget(session)

    def turn_ended(self, end: TurnEnd) -> None:
        """The turn was answered: the session is away."""
        now = self._clock()
        self.returns.ended(end, now)
        self._parked.pop(end.session, None)
        self._away[end.session] = end
        self._away.move_to_end(end.session)
        while len(self._away) > MOST_PLANNED_FOR:
            self._away.popitem(last=False)
        self._changed()

    def expect(self, session: SessionKey, expected_s: float | None, tool: str) -> None:
        """The client says how long from now the session will be away; of one that is not away,
        nothing."""
        end = self._away.get(session) or self._parked.get(session)
        if end is not None:
            self.turn_ended(replace(end, expected_s=expected_s, tool=tool or end.tool))

    def parked(self, session: SessionKey) -> None:
        """Somebody wanted its room: it comes up again when it arrives, or for what its client
        announces from now on, not because there is room."""
        end = self._away.pop(session, None)
        if end is not None:
            self.fetches.forget(session)
            self._parked[session] = end
            if len(self._parked) > MOST_PLANNED_FOR:
                self._parked.popitem(last=False)

    def arriving(self, session: SessionKey) -> None:
        """The first byte of a request has come."""
        now = self._clock()
        # It may yet be refused: the gap is over when the scheduler has it.
        self._arrived[session] = now
        if len(self._arrived) > MOST_ARRIVING:
            del self._arrived[next(iter(self._arrived))]
        chain = self._sessions.chain(session)
        if not chain or self.fills.is_filling(session) or not self._prefetch:
            return
        here = self._sessions.on_device(session)
        if here == len(chain):
            return
        if self.fills.start(session, len(chain), keep_share=0.0):
            return
        self.fetches.want(session, self._pieces(chain, here))
        self.fetches.advance(now, loads_wait=False)

    def asked(self, session: SessionKey) -> None:
        """The scheduler asks for the chunks of a request of the session, perhaps not the first
        time."""
        arrived = self._arrived.pop(session, None)
        if arrived is not None:
            self._costs.led(self._clock() - arrived)

    def take_failure(self, session: SessionKey) -> MissReason | None:
        """Why chunks of the session, now computed, could not be brought up before."""
        return self._failures.pop(session, None)

    def found(self, session: SessionKey, on_device: int, above: int) -> Counter[Tier]:
        """A request of the session is admitted and finds its first ``above`` chunks in DRAM or on
        the device, ``on_device`` of them there. Returns how many of these a prefetch brought, by
        the tier that they were in before."""
        coming = self.fetches.flying(session)
        self.fetches.forget(session)
        self._dram_tally.asked(session, above, coming)
        return self.fills.found(session, on_device)

    def look_ahead(self, session: SessionKey, keys: Sequence[ChunkKey]) -> None:
        """A request of the session waits to be scheduled, which will ask for these."""
        if self._prefetch:
            here = self._sessions.leading_there(session, keys)
            self.fetches.want(session, self._pieces(keys, here))

    def forget(self, session: SessionKey) -> None:
        """The session is gone."""
        self.returns.forget(session, self._clock())
        self._parked.pop(session, None)
        self._away.pop(session, None)
        self._dram.order.forget(session)
        self._device.order.forget(session)
        self._dram_tally.forget(session)
        self.fills.forget(session)
        self._failures.pop(session, None)
        self.fetches.forget(session)

    def told(self) -> hints.Foresight:
        """What it was good for so far."""
        fit, brought = self.returns.calibration(), self.brought()
        return hints.Foresight(
            trusted=self.returns.trusted,
            gaps=fit.gaps,
            within={"10": fit.before_10, "50": fit.before_50, "90": fit.before_90},
            ks=fit.distance,
            shifts=self.returns.shifts,
            prefetched_chunks=brought.chunks,
            used_chunks=brought.used,
            late_chunks=brought.late,
            wasted_bytes=brought.wasted_bytes,
        )

    def brought(self) -> Brought:
        """What prefetches were good for so far, to DRAM and to the device together."""
        counts = (self._dram_tally.counts, self.fills.tally.counts)
        return Brought(
            chunks=sum(each.fetched for each in counts),
            used=sum(each.used for each in counts),
            late=sum(each.late for each in counts),
            wasted_bytes=self._dram_tally.wasted_bytes + self.fills.tally.wasted_bytes,
        )

    def back(self, session: SessionKey) -> tuple[float | None, float | None]:
        """In how many seconds the session is expected: in the median, and in nine of ten cases.
        None for one that is not away, and for what is not expected."""
        since, outlook = self.returns.away_since(session), self.returns.outlook(session)
        if since is None or outlook is None:
            return None, None
        away_s = max(0.0, self._clock() - since)
        times = (outlook.quantile(share, away_s) - away_s for share in (0.5, 0.9))
        median, most = (round(max(0.0, t), 3) if t < math.inf else None for t in times)
        return median, most

    # --- every step -----------------------------------------------------------------------------

    def poll(self, now: float, *, loads_wait: bool) -> None:
        """Plan what is due, and go on with what is planned. ``loads_wait``: a request waits for a
        load."""
        if self.fills.end_if_over():
            self._changed()
        if now >= self._plan_at and not loads_wait:
            self._plan(now)
        self.fetches.advance(now, loads_wait=loads_wait)

    @property
    def busy(self) -> bool:
        """Whether the engine must go on stepping."""
        return bool(self.fetches)

    def next_in_s(self) -> float | None:
        """When to poll at the latest, should nothing happen; None for not at all."""
        return None if self._plan_at == math.inf else max(0.0, self._plan_at - self._clock())

    # --- the device -----------------------------------------------------------------------------

    def make_room_on_device(self, blocks: int) -> None:
        """So many will be allocated next: let those go that are worth the least."""
        device = self._sessions.device
        if device is None:
            return
        missing = blocks - device.empty(blocks)
        if missing <= 0:
            return
        going: dict[int, None] = {}
        for cut in self._device.order.victims(self._clock()):
            found = self._sessions.idle_blocks(cut.session, cut.keep)
            going.update(dict.fromkeys(islice(found, missing - len(going))))
            if len(going) >= missing:
                break
        device.put_first(going)

    # --- inside ---------------------------------------------------------------------------------

    def _changed(self) -> None:
        if not self._prefetch:
            return
        self._plan_at = min(self._plan_at, max(self._clock(), self._planned_at + PLAN_EVERY_S))

    def _plan(self, now: float) -> None:
        self._planned_at, self._plan_at = now, math.inf
        chains = {s: chain for s in self._away if (chain := self._sessions.chain(s))}
        on_device = {s: self._sessions.on_device(s) for s in chains}
        plans = [self._plan_dram(chains, on_device, now)]
        if self.fills.possible:
            plans.append(self._plan_device(chains, on_device, now))
        due = [plan.next_at for plan in plans if plan.next_at is not None]
        if due:
            self._plan_at = max(min(due), now + PLAN_EVERY_S)

    def _plan_dram(
        self,
        chains: dict[SessionKey, tuple[ChunkKey, ...]],
        on_device: dict[SessionKey, int],
        now: float,
    ) -> Plan:
        held = self._manager.dram.order.held
        short = [
            Shortfall(s, min(len(chain), max(on_device[s], held(s))), len(chain))
            for s, chain in chains.items()
        ]
        room = self._manager.dram.free() + self._manager.dram.order.loose
        plan = self._dram.planner.plan([s for s in short if s.here < s.chunks], room, now)
        self.fetches.follow(
            [
                (s, list(self._pieces(chains[s][: fetch.upto], on_device[s])))
                for fetch in plan.fetches
                for s in (fetch.session,)
            ]
        )
        return plan

    def _plan_device(
        self,
        chains: dict[SessionKey, tuple[ChunkKey, ...]],
        on_device: dict[SessionKey, int],
        now: float,
    ) -> Plan:
        device = self._sessions.device
        assert device is not None
        for session, here in on_device.items():
            self._device.order.holds(session, here, now)
            self.fills.tally.holds(session, here)
        short = [
            Shortfall(s, on_device[s], len(chain))
            for s, chain in chains.items()
            if on_device[s] < len(chain)
        ]
        plan = self._device.planner.plan(short, device.empty(device.total), now)
        if plan.fetches and not self.fills.under_way:
            first = plan.fetches[0]
            self.fills.start(first.session, first.upto, keep_share=KEEP_SHARE)
        return plan

    def _failed(self, session: SessionKey, reason: MissReason) -> None:
        self._failures[session] = reason
        if len(self._failures) > MOST_ARRIVING:
            del self._failures[next(iter(self._failures))]

    def _fetched(self, session: SessionKey, place: int) -> None:
        self._dram_tally.fetched(session, place, place + 1)
        self._changed()

    @staticmethod
    def _pieces(chain: Sequence[ChunkKey], start: int) -> Iterator[Piece]:
        return islice(enumerate(chain), start, None)
