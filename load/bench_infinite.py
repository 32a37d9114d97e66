"""How near does a small device come to one without bounds? Agents on two servers, in turns.

*infinite* has a device that holds everything; *valet* one of an eighth of what the agents' sessions
have, and DRAM of half of it. Both have the same SSD and begin with the same sessions on it. What
counts is what agents see: the time to the first token of their later turns, and turns a minute.
Gaps are so long that the machine computes for a wanted share of the time: with more, requests wait
for each other and not for KV.
"""

from collections.abc import Mapping
from typing import Any, Final

from load.side_by_side import ROOMY, Tiers, parser, run_comparison, scale_of

DEVICE_SHARE: Final = 1 / 8
DRAM_SHARE: Final = 1 / 2
MOST_P50: Final = 1.2
MOST_P99: Final = 2.0
LEAST_TURNS: Final = 0.9


def wanted(ratios: Mapping[str, Any]) -> dict[str, bool | None]:
    """Whether the figures are what Valet wants to reach. Pure."""
    p50, p99, turns = (ratios[name] for name in ("ttft_p50", "ttft_p99", "turns_per_minute"))
    return {
        f"median ≤ {MOST_P50:g} × infinite": None if p50 is None else p50 <= MOST_P50,
        f"99th percentile ≤ {MOST_P99:g} × infinite": None if p99 is None else p99 <= MOST_P99,
        f"turns a minute ≥ {LEAST_TURNS:g} × infinite": turns and turns >= LEAST_TURNS,
    }


def main() -> None:
    """Run, print the tables, write the JSON."""
    asked = parser("infinite", __doc__)
    asked.add_argument(
        "--slowdown", default="0.05", help="VALET_LOAD_SLOWDOWN of both servers (0.05)"
    )
    options = asked.parse_args()
    live = scale_of(options).live_bytes
    settings = {"VALET_LOAD_SLOWDOWN": options.slowdown}
    servers = {
        "valet": Tiers(int(live * DEVICE_SHARE), int(live * DRAM_SHARE), settings),
        "infinite": Tiers(ROOMY, int(live * DRAM_SHARE), settings),
    }
    run_comparison(servers, options, wanted)


if __name__ == "__main__":
    main()
