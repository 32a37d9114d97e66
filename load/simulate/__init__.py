"""The twin: requests, tiers, bandwidths and an engine, simulated, with the engine's own policies.

    config = SimulationConfig(hardware=Hardware(dram_bytes=200e9), turns=8000, warm_up_turns=2000)
    source = ClosedLoop(trace, users=64)
    outcome = simulate(config, source, Policies(dram=Recency()), block_tokens=trace.block_tokens)
    outcome.steady.hot_share

A run is deterministic: the same arguments give the same outcome. Policies are objects of
``cache_tiers`` and are told what the engine tells them, so what does well here can be taken as it
is. Hot is what is on the device or in DRAM; DRAM has a copy of what running requests have on the
device, which counts against it and is not cut.

model        the engine, the hardware, how a run goes
source       users who wait for answers, or arrivals at given times
policies     what decides in a run
simulation   the run, event by event
sessions     all sessions, and where their KV is
chains       whose prompts begin alike
tier, link   room and bandwidth; prefetcher asks a planner and uses them
engine       prefill and decode
outcome      what a run gives
costs        ``Costs`` of a model
clairvoyant  the offline optimum: a policy and planner that knows when each session is back
known_gaps   ``Returns`` that knows how a trace's gaps are distributed
roster       who is compared, by name
grid         many runs of one trace
generated    sessions drawn at random, in Valet's own trace format
"""

from load.simulate.model import EngineModel, Hardware, LoadAt, SimulationConfig
from load.simulate.outcome import Outcome, Prefetching, SteadyState
from load.simulate.policies import Foresight, Policies
from load.simulate.simulation import Simulation
from load.simulate.source import ClosedLoop, OpenLoop, Recorded, Source

__all__ = [
    "ClosedLoop",
    "EngineModel",
    "Foresight",
    "Hardware",
    "LoadAt",
    "OpenLoop",
    "Outcome",
    "Policies",
    "Prefetching",
    "Recorded",
    "SimulationConfig",
    "Source",
    "SteadyState",
    "simulate",
]


def simulate(
    config: SimulationConfig, source: Source, policies: Policies, *, block_tokens: int
) -> Outcome:
    """One run, from empty caches. ``source`` and ``policies`` are used up by it; ``block_tokens``
    are the trace's. Raises ValueError unless a chunk is whole blocks."""
    return Simulation(config, block_tokens, source, policies).run()
