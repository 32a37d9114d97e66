"""Does the twin tell what the server does? The same turns, on a server and simulated.

A server is calibrated: new prompts, and the same from the device, DRAM and SSD, say what computing
and loading cost. Then a team of paced agents works on it; of what it did, the trace in Valet's own
format is made: when each request came, how long prompts and answers were, what of a history went
on, which tools were called. The simulator runs that trace with the policies that the engine has,
on tiers of the same sizes. Compared are the shares of prompt tokens by the tier in which they were
when the scheduler asked, and the median time to the first token.

Both begin with the sessions on SSD. Their opening turns fill the tiers and are not compared.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from enum import StrEnum
from typing import Any, Final

from cache_tiers.eviction.by_importance import ByImportance
from cache_tiers.importance import Importance
from cache_tiers.prefetch.planner import DeadlinePlanner
from cache_tiers.returns.empirical import EmpiricalReturns
from cache_tiers.ssd.config import READ_THREADS
from load.calibration import TAIL, Timed, engine_model, measure, measure_lead, rates, rests
from load.environment import describe
from load.report import ms, percentile, table, verdicts, write_json
from load.side_by_side import Tiers, opened, parser, scale_of
from load.simulate import (
    EngineModel,
    Hardware,
    Outcome,
    Policies,
    Recorded,
    SimulationConfig,
    simulate,
)
from load.simulate.costs import ModelCosts
from load.stints import CHUNK_TOKENS, KV_BYTES
from load.team import Turned
from load.traces import own_requests

MOST_POINTS: Final = 2.0
"""That a share may differ, in percent of the prompt tokens."""
MOST_TTFT: Final = 0.15
"""By so much of itself the median time to first token may differ."""
LENGTHS: Final = tuple(length + TAIL for length in (256, 1024, 2560))
TEXTS: Final = (600, 1200, 1800)
"""Words."""
ROUNDS: Final = 6
"""Of calibration."""
STINT_S: Final = 200.0
"""A round. In fewer turns server and twin differ by more, by chance."""
PARALLEL_CHUNKS: Final = 4 * READ_THREADS
"""That the server reads at the same time: each thread four."""


class Place(StrEnum):
    """Where a prompt's KV was when the scheduler asked."""

    HOT = "device, dram"
    """Together: what a prefetch brought to the device, receipts count where it was before."""
    SSD = "ssd"
    NOWHERE = "computed"


def seen(turns: Sequence[Turned]) -> dict[Place, float]:
    """Of the turns' prompt tokens, the share in each place, as receipts say it. Pure."""
    tokens = dict.fromkeys(Place, 0)
    for turn in turns:
        reused = turn.receipt["reused_tokens"]
        brought = min(turn.receipt["prefetched_tokens"], reused["ssd"])
        tokens[Place.HOT] += reused["device"] + reused["dram"] + brought
        tokens[Place.SSD] += reused["ssd"] - brought
        tokens[Place.NOWHERE] += turn.receipt["computed_tokens"]
    return _shares(tokens)


def foretold(outcome: Outcome) -> dict[Place, float]:
    """The same of a simulation. Pure."""
    of = outcome.steady
    hot = of.device_tokens + of.dram_tokens + of.late_tokens
    return _shares(
        {
            Place.HOT: of.device_tokens + of.dram_tokens,
            Place.SSD: of.late_tokens,
            Place.NOWHERE: of.prompt_tokens - hot,
        }
    )


def replay(
    lines: Sequence[Mapping[str, Any]],
    tiers: Tiers,
    engine: EngineModel,
    timed: Sequence[Timed],
    warm_up: int,
) -> Outcome:
    """The trace through the twin of a server with these tiers, that was calibrated so. Pure."""
    from_ssd, to_device = rates(timed)
    hardware = Hardware(
        dram_bytes=tiers.dram,
        device_bytes=tiers.device,
        ssd_bandwidth=from_ssd.bytes_s,
        device_bandwidth=to_device.bytes_s,
        ssd_fixed_s=from_ssd.fixed_s,
        device_fixed_s=to_device.fixed_s,
        ssd_parallel_chunks=PARALLEL_CHUNKS,
        kv_bytes=KV_BYTES,
        chunk_tokens=CHUNK_TOKENS,
    )
    config = SimulationConfig(engine=engine, hardware=hardware, warm_up_turns=warm_up)
    source = Recorded(own_requests(lines), before=1)
    return simulate(config, source, policies(engine, hardware), block_tokens=1)


def policies(engine: EngineModel, hardware: Hardware) -> Policies:
    """The engine's."""
    returns = EmpiricalReturns()
    above = replace(
        hardware, ssd_bandwidth=hardware.device_bandwidth, ssd_fixed_s=hardware.device_fixed_s
    )
    orders, planners = [], []
    for links in (hardware, above):
        costs = ModelCosts(engine, links, engine.fixed_s)
        importance = Importance(returns, costs, chunk_tokens=hardware.chunk_tokens)
        orders.append(ByImportance(importance))
        planners.append(DeadlinePlanner(importance, orders[-1]))
    return Policies(
        dram=orders[0],
        planner=planners[0],
        returns=returns,
        device=orders[1],
        device_planner=planners[1],
    )


def trace_lines(opening: Sequence[Turned], stint: Sequence[Turned]) -> list[dict[str, Any]]:
    """What a team did, in Valet's own trace format. Pure. Each session's first line stands for the
    turns before the run, of which SSD has what the opening turn found in time."""
    following = {(t.agent, t.number - 1): t.tool for t in stint}
    before = [
        {"session": _session(turn), "prompt": max(1, _reused(turn)), "output": 0}
        for turn in opening
    ]
    turns = (*opening, *stint)
    return before + [_line(turn, following.get((turn.agent, turn.number), "")) for turn in turns]


def _line(turn: Turned, tool: str) -> dict[str, Any]:
    line = {
        "session": _session(turn),
        "at": turn.sent,
        "prompt": turn.receipt["prompt_tokens"],
        "output": turn.output_tokens,
        "awaits": "tool" if tool else "person",
        "tool": tool,
    }
    change = turn.receipt.get("prefix_change")
    return line | ({"keeps": change["at_token"]} if change else {})


def _session(turn: Turned) -> str:
    return f"agent-{turn.agent}"


def _reused(turn: Turned) -> int:
    return sum(turn.receipt["reused_tokens"].values())


def _shares(tokens: Mapping[Place, int]) -> dict[Place, float]:
    whole = max(1, sum(tokens.values()))
    return {place: count / whole for place, count in tokens.items()}


def wanted(differences: Mapping[str, float]) -> dict[str, bool | None]:
    """Whether the twin is as near as Valet wants it to be. Pure."""
    points = max(abs(differences[place]) for place in Place)
    return {
        f"tokens by tier within {MOST_POINTS:g} points": points <= MOST_POINTS,
        f"median time to first token within {MOST_TTFT:.0%}": (
            abs(differences["ttft_p50"]) <= MOST_TTFT
        ),
    }


def main() -> None:
    """Run both, print the tables, write the JSON."""
    options = parser("twin", __doc__).parse_args()
    if not options.quick and options.seconds is None:
        options.seconds = STINT_S
    scale = scale_of(options)
    # Traces do not say what clients announced.
    scale = replace(scale, pace=replace(scale.pace, announced=0.0))
    environment = describe()
    tiers = Tiers(scale.live_bytes // 8, scale.live_bytes // 2)
    with opened({"valet": tiers}, scale, options.kept) as ready:
        turns = ready.teams["valet"].stint(scale.seconds * scale.rounds, ready.stretch)
        client = ready.clients["valet"]
        timed = measure(client, LENGTHS, ROUNDS)
        lead_s = measure_lead(client, TEXTS, ROUNDS)
    lines = trace_lines(ready.opening["valet"], turns)
    engine = engine_model(timed, statistics.median(rests(ready.opening["valet"])), lead_s)
    outcome = replay(lines, tiers, engine, timed, warm_up=scale.agents)
    shares, told = seen(turns), foretold(outcome)
    ttft_s = percentile([turn.ttft for turn in turns], 0.5) or 0.0
    differences = {place.value: 100 * (told[place] - shares[place]) for place in Place}
    differences["ttft_p50"] = outcome.steady.ttft_s[0] / ttft_s - 1
    goals = wanted(differences)
    print(f"\n{draw(shares, told, differences)}\n")
    print(
        f"median time to first token: server {ms(ttft_s)} ms, "
        f"twin {ms(outcome.steady.ttft_s[0])} ms ({differences['ttft_p50']:+.1%})"
    )
    print(verdicts(goals))
    write_json(
        options.out,
        {
            "environment": environment,
            "scale": asdict(scale),
            "tiers": asdict(tiers),
            "wanted": goals,
            "differences": differences,
            "server": {"shares": shares, "ttft_p50_s": ttft_s, "turns": len(turns)},
            "twin": {"shares": told, "ttft_s": outcome.steady.ttft_s},
            "engine": asdict(engine),
            "rates": [asdict(rate) for rate in rates(timed)],
            "calibration": [asdict(each) for each in timed],
            "trace": lines,
            "stint": [asdict(turn) for turn in turns],
        },
    )


def draw(
    shares: Mapping[Place, float], told: Mapping[Place, float], differences: Mapping[str, float]
) -> str:
    """The table that a run prints. Pure."""
    return table(
        ["prompt tokens", "server", "twin", "points"],
        [
            [
                place.value,
                f"{shares[place]:.1%}",
                f"{told[place]:.1%}",
                f"{differences[place]:+.1f}",
            ]
            for place in Place
        ],
    )


if __name__ == "__main__":
    main()
