"""Valet's own policies for a simulated run: those of ``engine/core_plugin/foresight.py``."""

from collections.abc import Callable
from dataclasses import dataclass

from cache_tiers.costs import Costs
from cache_tiers.eviction.by_importance import ByImportance
from cache_tiers.eviction.recency import Recency
from cache_tiers.importance import Importance
from cache_tiers.prefetch.planner import DeadlinePlanner
from cache_tiers.returns.empirical import EmpiricalReturns
from cache_tiers.types import SessionKey
from load.simulate import EngineModel, Hardware, Policies
from load.simulate.costs import ModelCosts
from load.simulate.policies import OnSsd


@dataclass(frozen=True, slots=True)
class ToDevice:
    """``Costs`` of the device, whose tier below is DRAM."""

    costs: ModelCosts
    chunk_s: float

    def load_s(self, chunks: int) -> float:
        """See ``Costs``."""
        return chunks * self.chunk_s

    def compute_s(self, start_token: int, end_token: int) -> float:
        """See ``Costs``."""
        return self.costs.compute_s(start_token, end_token)

    @property
    def lead_s(self) -> float:
        """See ``Costs``."""
        return self.costs.lead_s


def policies(engine: EngineModel, hardware: Hardware) -> Policies:
    """For one run: they remember. The SSD's room goes by recency, which keeps about a point less
    than the order that the store has (docs/decisions/0015)."""
    returns = EmpiricalReturns()
    costs = ModelCosts(engine, hardware)
    on_ssd = OnSsd()

    def of_tier(
        costs: Costs, below: Callable[[SessionKey], int] | None = None
    ) -> tuple[ByImportance, DeadlinePlanner]:
        importance = Importance(returns, costs, chunk_tokens=hardware.chunk_tokens, below=below)
        order = ByImportance(importance)
        return order, DeadlinePlanner(importance, order)

    dram, planner = of_tier(costs, on_ssd)
    device, device_planner = of_tier(
        ToDevice(costs, hardware.chunk_bytes / hardware.device_bandwidth)
    )
    return Policies(
        dram=dram,
        planner=planner,
        returns=returns,
        device=device,
        device_planner=device_planner,
        ssd=Recency(),
        on_ssd=on_ssd,
    )
