"""What is it worth that KV comes up before it is asked for? Agents on two servers, in turns.

Both have a device of an eighth of what the agents' sessions have, and DRAM of half of it; *without*
brings nothing up before the scheduler asks for it (``VALET_PREFETCH=off``). What counts is the time
to the first token of later turns. Equal turns on both are pairs; ``paired`` is the median of their
ratios, with an interval.
"""

from dataclasses import asdict
from typing import Any

from load.environment import describe
from load.report import times, verdict, write_json
from load.side_by_side import Tiers, alternate, parser, scale_of
from load.stints import compare, draw, summarize


def wanted(ratios: dict[str, Any]) -> dict[str, bool | None]:
    """Whether prefetch is worth it. Pure."""
    paired = ratios["paired"]
    return {"a turn's first token comes sooner with prefetch": paired and paired["high"] < 1}


def main() -> None:
    """Run, print the tables, write the JSON."""
    options = parser("prefetch", __doc__).parse_args()
    scale = scale_of(options)
    environment = describe()
    live = scale.live_bytes
    tiers = {
        "prefetch": Tiers(live // 8, live // 2),
        "without": Tiers(live // 8, live // 2, {"VALET_PREFETCH": "off"}),
    }
    stints = alternate(tiers, scale, options.kept)
    by_server = {name: [s for s in stints if s.server == name] for name in tiers}
    summaries = {name: summarize(some) for name, some in by_server.items()}
    ratios = compare(by_server["prefetch"], by_server["without"])
    goals = wanted(ratios)
    print(f"\n{draw(summaries)}\n")
    paired = ratios["paired"]
    print(
        f"prefetch ÷ without: median {times(ratios['ttft_p50'])}, "
        f"99th percentile {times(ratios['ttft_p99'])}, pairs {times(paired and paired['median'])} "
        f"({times(paired and paired['low'])} to {times(paired and paired['high'])})"
    )
    for goal, met in goals.items():
        print(f"{goal}: {verdict(met)}")
    write_json(
        options.out,
        {
            "environment": environment,
            "scale": asdict(scale),
            "tiers": {name: asdict(each) for name, each in tiers.items()},
            "live_bytes": live,
            "wanted": goals,
            "ratios": ratios,
            "servers": summaries,
            "stints": [asdict(stint) for stint in stints],
        },
    )


if __name__ == "__main__":
    main()
