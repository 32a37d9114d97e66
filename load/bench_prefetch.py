"""What is it worth that KV comes up before it is asked for? Agents on two servers, in turns.

Both have a device of an eighth of what the agents' sessions have, and DRAM of half of it; *without*
brings nothing up before the scheduler asks for it (``VALET_PREFETCH=off``). What counts is the time
to the first token of later turns. Equal turns on both are pairs; ``paired`` is the median of their
ratios, with an interval.
"""

from collections.abc import Mapping
from typing import Any

from load.side_by_side import Tiers, parser, run_comparison, scale_of


def wanted(ratios: Mapping[str, Any]) -> dict[str, bool | None]:
    """Whether prefetch is worth it. Pure."""
    paired = ratios["paired"]
    return {"a turn's first token comes sooner with prefetch": paired and paired["high"] < 1}


def main() -> None:
    """Run, print the tables, write the JSON."""
    options = parser("prefetch", __doc__).parse_args()
    live = scale_of(options).live_bytes
    servers = {
        "prefetch": Tiers(live // 8, live // 2),
        "without": Tiers(live // 8, live // 2, {"VALET_PREFETCH": "off"}),
    }
    run_comparison(servers, options, wanted)


if __name__ == "__main__":
    main()
