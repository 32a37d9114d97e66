"""Who is compared: policies by name, made for a run."""

from dataclasses import dataclass
from enum import StrEnum

from cache_tiers.eviction.arc import AdaptiveReplacement
from cache_tiers.eviction.by_importance import ByImportance
from cache_tiers.eviction.fixed_ttl import FixedTtl
from cache_tiers.eviction.prefix_policy import PrefixPolicy
from cache_tiers.eviction.recency import Recency
from cache_tiers.eviction.s3_fifo import S3Fifo
from cache_tiers.importance import Importance
from cache_tiers.prefetch.planner import DeadlinePlanner
from cache_tiers.returns.empirical import EmpiricalReturns
from cache_tiers.returns.types import Returns
from load.simulate.clairvoyant import Clairvoyant
from load.simulate.costs import ModelCosts
from load.simulate.known_gaps import GapCurves, KnownGaps
from load.simulate.model import EngineModel, Hardware, LoadAt
from load.simulate.policies import Policies

TTL_S = 300.0
"""As prompt caches are sold."""
_NO_LIMIT = 1 << 40
"""Chunks, for policies that ask for a capacity."""


class Name(StrEnum):
    """Those that load on demand are what engines do; the others load from the first byte on."""

    LRU = "LRU, on demand"
    ARC = "ARC, on demand"
    S3_FIFO = "S3-FIFO, on demand"
    TTL = "TTL 300 s, on demand"
    LRU_EARLY = "LRU, from the first byte"
    VALET = "Valet"
    INFORMED = "Valet, told how each session waits"
    OPTIMUM = "offline optimum"


@dataclass(frozen=True, slots=True)
class Contender:
    """What one run is made with."""

    policies: Policies
    load_at: LoadAt


def contender(
    name: Name,
    engine: EngineModel,
    hardware: Hardware,
    gaps: GapCurves | None = None,
) -> Contender:
    """Anew for every run. ``gaps``: for ``INFORMED``."""
    order = _baseline(name, int(min(hardware.chunks(hardware.dram_bytes), _NO_LIMIT)))
    if order is not None:
        early = name is Name.LRU_EARLY
        return Contender(Policies(order), LoadAt.FIRST_BYTE if early else LoadAt.ASKED)
    if name is Name.OPTIMUM:
        knows = Clairvoyant()
        policies = Policies(dram=knows, planner=knows, foresight=knows)
        return Contender(policies, LoadAt.FIRST_BYTE)
    costs = ModelCosts(engine, hardware)
    returns: Returns = EmpiricalReturns() if gaps is None or name is Name.VALET else KnownGaps(gaps)
    importance = Importance(returns, costs, chunk_tokens=hardware.chunk_tokens)
    by_worth = ByImportance(importance)
    planner = DeadlinePlanner(importance, by_worth)
    policies = Policies(dram=by_worth, planner=planner, returns=returns)
    return Contender(policies, LoadAt.FIRST_BYTE)


def _baseline(name: Name, capacity: int) -> PrefixPolicy | None:
    """One that only orders; None for the others. ``capacity`` in chunks."""
    match name:
        case Name.LRU | Name.LRU_EARLY:
            return Recency()
        case Name.ARC:
            return AdaptiveReplacement(capacity)
        case Name.S3_FIFO:
            return S3Fifo(capacity)
        case Name.TTL:
            return FixedTtl(TTL_S)
        case _:
            return None
