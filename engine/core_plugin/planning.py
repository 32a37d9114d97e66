"""What comes up before it is asked for: the planners' plans, carried out. Scheduler thread only."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from cache_tiers.costs import Costs
from cache_tiers.eviction.by_importance import ByImportance
from cache_tiers.importance import Importance
from cache_tiers.prefetch.planner import DeadlinePlanner
from cache_tiers.prefetch.tally import PrefetchTally
from cache_tiers.prefetch.types import Plan, Shortfall
from cache_tiers.returns.types import Returns
from cache_tiers.types import ChunkKey, MissReason, SessionKey
from engine.core_plugin.device_fill import KEEP_SHARE
from engine.core_plugin.fetches import Fetches, Piece
from engine.core_plugin.manager import TierManager
from engine.core_plugin.planned_fills import Found, PlannedFills
from engine.core_plugin.prefetch_metrics import Brought
from engine.core_plugin.sessions_view import SessionChunks

MOST_FAILURES = 1024
"""Sessions of which it is remembered why they could not be brought up."""

_Chains = dict[SessionKey, tuple[ChunkKey, ...]]
_Counts = dict[SessionKey, int]


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Policies of one tier."""

    importance: Importance
    order: ByImportance
    planner: DeadlinePlanner

    @classmethod
    def of(
        cls,
        returns: Returns,
        costs: Costs,
        tokens_per_chunk: int,
        below: Callable[[SessionKey], int] | None = None,
    ) -> "Upkeep":
        """For a tier whose chunks cost this to have back; ``below`` as for ``Importance``."""
        importance = Importance(returns, costs, chunk_tokens=tokens_per_chunk, below=below)
        order = ByImportance(importance)
        return cls(importance, order, DeadlinePlanner(importance, order))


class Planning:
    """See the module's docstring."""

    def __init__(
        self,
        manager: TierManager,
        sessions: SessionChunks,
        dram: Upkeep,
        device: Upkeep,
    ) -> None:
        self.fetches = Fetches(manager)
        self.fills = PlannedFills(manager, sessions)
        self._manager = manager
        self._sessions = sessions
        self.dram = dram
        self._device = device
        self._tally = PrefetchTally(manager.chunk_bytes)
        self._failures: dict[SessionKey, MissReason] = {}
        """Why the last fetch or fill of a session ended early, until its next request: asking again
        would end there again."""
        self.fills.on_failed = self._failed
        self.fetches.on_failing = self._failed
        self.fetches.on_fetched = lambda s, place: self._tally.fetched(s, place, place + 1)
        self.fetches.on_late = self._tally.waited
        self.fetches.is_known = lambda session: sessions.chain(session) is not None
        manager.dram.order.on_held = self._tally.holds

    def plan(self, away: Iterable[SessionKey], now: float) -> float | None:
        """Plan for these sessions, and begin; when to plan again at the latest."""
        chains = {
            s: chain for s in away if s not in self._failures and (chain := self._sessions.chain(s))
        }
        on_device = {s: self._sessions.on_device(s) for s in chains}
        at_hand = {s: self._sessions.at_hand(s, here) for s, here in on_device.items()}
        plans = [self._plan_dram(chains, on_device, at_hand, now)]
        if self.fills.possible:
            plans.append(self._plan_device(on_device, at_hand, now))
        return min((plan.next_at for plan in plans if plan.next_at is not None), default=None)

    def bring(self, session: SessionKey, keys: Sequence[ChunkKey], *, fill: bool) -> None:
        """A request of the session will ask for these: to the device where ``fill`` and that can
        be, else to DRAM."""
        here = self._sessions.leading_there(session, keys)
        if here == len(keys) or session in self._failures or self.fills.is_filling(session):
            return
        if not (fill and self.fills.start(session, len(keys), keep_share=KEEP_SHARE)):
            self.fetches.want(session, _pieces(keys, here))

    def found(
        self,
        session: SessionKey,
        on_device: int,
        above: int,
        now: float,
        at_hand: int | None = None,
    ) -> Found:
        """A request of the session is admitted and finds its first ``above`` chunks in DRAM or on
        the device, ``on_device`` of them there: what fills had brought. ``at_hand``: as
        ``PlannedFills.found``."""
        self._tally.asked(session, above, self.fetches.release(session, asked_at=now))
        return self.fills.found(session, on_device, at_hand)

    def take_failure(self, session: SessionKey) -> MissReason | None:
        """Why chunks of the session, now computed, could not be brought up before."""
        return self._failures.pop(session, None)

    def forget(self, session: SessionKey) -> None:
        """The session is gone."""
        self.fetches.release(session)
        self.fills.forget(session)
        self._tally.forget(session)
        self._failures.pop(session, None)

    def brought(self) -> Brought:
        """What prefetches were good for so far, to DRAM and to the device together."""
        counts = (self._tally.counts, self.fills.tally.counts)
        return Brought(
            chunks=sum(each.fetched for each in counts),
            used=sum(each.used for each in counts),
            late=sum(each.late for each in counts),
            late_turns=sum(each.late_turns for each in counts),
            late_s=sum(each.late_s for each in counts),
            wasted_bytes=self._tally.wasted_bytes + self.fills.tally.wasted_bytes,
        )

    def _plan_dram(self, chains: _Chains, on_device: _Counts, at_hand: _Counts, now: float) -> Plan:
        short = [
            Shortfall(s, here, len(chain))
            for s, chain in chains.items()
            if (here := at_hand[s]) < len(chain) and self._manager.is_on_ssd(chain[here])
        ]
        room = self._manager.dram.free() + self._manager.dram.order.loose
        plan = self.dram.planner.plan(short, room, now)
        self.fetches.follow(
            [
                (fetch.session, list(_pieces(chains[fetch.session][: fetch.upto], start)))
                for fetch in plan.fetches
                for start in (on_device[fetch.session],)
            ]
        )
        return plan

    def _plan_device(self, on_device: _Counts, at_hand: _Counts, now: float) -> Plan:
        device = self._sessions.device
        assert device is not None
        short = []
        for session, here in on_device.items():
            self._device.order.holds(session, here, now)
            self.fills.tally.holds(session, here)
            # From DRAM alone: what is on SSD comes there first, as the other plan has it.
            upto = at_hand[session]
            if here < upto:
                short.append(Shortfall(session, here, upto))
        missing = sum(each.chunks - each.here for each in short)
        room = device.spare(missing, self._sessions.is_needed)
        plan = self._device.planner.plan(short, room, now)
        for fetch in plan.fetches:
            if self.fills.start(fetch.session, fetch.upto, keep_share=KEEP_SHARE):
                break
        return plan

    def _failed(self, session: SessionKey, reason: MissReason) -> None:
        self._failures[session] = reason
        if len(self._failures) > MOST_FAILURES:
            del self._failures[next(iter(self._failures))]


def _pieces(chain: Sequence[ChunkKey], start: int) -> Iterator[Piece]:
    return islice(enumerate(chain), start, None)
