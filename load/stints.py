"""What stints of paced agents' work say: figures of a server, and of one over another. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from load.report import bootstrap_median, ms, percentile, table
from load.reuse import ReuseTally
from load.team import Turned

CHUNK_TOKENS: Final = 128
KV_BYTES: Final = 23_040
"""Of a token: the default model's."""


@dataclass(frozen=True, slots=True)
class Stint:
    """A team's work, all of its turns."""

    server: str
    round: int
    turns: tuple[Turned, ...]


def live_bytes(tokens: Sequence[int]) -> int:
    """KV of sessions of so many tokens, in whole chunks."""
    return sum(-(-each // CHUNK_TOKENS) for each in tokens) * CHUNK_TOKENS * KV_BYTES


def short(turns: Sequence[Turned]) -> str:
    """A line on a stint."""
    of = _percentiles([turn.ttft for turn in turns])
    return f"{of['count']} turns, {ms(of['p50'])} ms at the median, {ms(of['p99'])} at p99"


def summarize(stints: Sequence[Stint]) -> dict[str, Any]:
    """Figures of one server. Pure. Times in seconds."""
    turns = [turn for stint in stints for turn in stint.turns]
    tally = ReuseTally()
    for turn in turns:
        tally.add(turn.ttft, turn.receipt)
    kinds = {
        "tool, announced": [t.ttft for t in turns if t.announced],
        "tool": [t.ttft for t in turns if t.tool and not t.announced],
        "person": [t.ttft for t in turns if not t.tool],
    }
    return {
        "turns": len(turns),
        "ttft_s": _percentiles([t.ttft for t in turns]),
        "ttft_after_s": {kind: _percentiles(some) for kind, some in kinds.items()},
        "ttft_by_round_s": [_percentiles([t.ttft for t in stint.turns]) for stint in stints],
        "turns_per_minute": _turns_per_minute(turns),
        "busy_share": _busy_share(stints),
        "live_bytes": [_live_at_end(stint) for stint in stints],
        "kv": tally.summary(),
    }


def compare(over: Sequence[Stint], under: Sequence[Stint]) -> dict[str, Any]:
    """One server's figures over another's. Pure. ``paired`` is the median ratio of the times to
    first token of equal turns, with its interval."""
    first, second = summarize(over), summarize(under)
    below = {(t.agent, t.number): t.ttft for stint in under for t in stint.turns}
    pairs = [
        [t.ttft / below[t.agent, t.number] for t in s.turns if (t.agent, t.number) in below]
        for s in over
    ]
    paired = bootstrap_median(pairs)

    def share(of: float | None, to: float | None) -> float | None:
        return of / to if of is not None and to else None

    return {
        f"ttft_{p}": share(first["ttft_s"][p], second["ttft_s"][p]) for p in ("p50", "p90", "p99")
    } | {
        "turns_per_minute": share(first["turns_per_minute"], second["turns_per_minute"]),
        "paired": paired and asdict(paired),
    }


def draw(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables of some servers' summaries. Pure."""
    times_ = table(
        ["server", "turns", "p50", "p90", "p99", "by round, p50", "turns/min", "busy"],
        [
            [
                name,
                str(of["turns"]),
                *[ms(of["ttft_s"][p]) for p in ("p50", "p90", "p99")],
                " ".join(ms(each["p50"]) for each in of["ttft_by_round_s"]),
                f"{of['turns_per_minute'] or 0:.1f}",
                f"{of['busy_share']:.0%}",
            ]
            for name, of in summaries.items()
        ],
    )
    kinds = table(
        ["server", "after", "turns", "p50", "p90", "p99"],
        [
            [name, kind, str(some["count"]), *[ms(some[p]) for p in ("p50", "p90", "p99")]]
            for name, of in summaries.items()
            for kind, some in of["ttft_after_s"].items()
        ],
    )
    places = table(
        ["server", "device", "dram", "ssd", "computed", "of these prefetched"],
        [[name, *_shares(of["kv"])] for name, of in summaries.items()],
    )
    return (
        f"Time to first token of later turns, ms\n{times_}\n\n"
        f"The same by what the session had waited for\n{kinds}\n\n"
        f"Prompt tokens by where they were found\n{places}"
    )


def _shares(kv: Mapping[str, Any]) -> list[str]:
    reused = kv["reused_tokens"]
    counts = [*reused.values(), kv["computed_tokens"], kv["prefetched_tokens"]]
    return [f"{count / max(1, kv['prompt_tokens']):.1%}" for count in counts]


def _percentiles(samples: Sequence[float]) -> dict[str, Any]:
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    return {"count": len(samples)} | {p: percentile(samples, at) for p, at in shares.items()}


def _turns_per_minute(turns: Sequence[Turned]) -> float | None:
    """Of the whole team, were it always at work: from how long the turns that followed tools took,
    their gaps included. Without the ends of stints, at which agents wait for persons."""
    after_tools = [turn for turn in turns if turn.tool]
    cycle_s = sum((turn.gap_s or 0.0) + turn.ended for turn in after_tools)
    agents = len({turn.agent for turn in turns})
    return 60 * agents * len(after_tools) / cycle_s if cycle_s else None


def _busy_share(stints: Sequence[Stint]) -> float:
    """Of the time from a stint's first request to its last answer, how much some request ran."""
    busy_s = whole_s = 0.0
    for stint in stints:
        turns = sorted(stint.turns, key=lambda turn: turn.sent)
        until = turns[0].sent
        for turn in turns:
            end = turn.sent + turn.ended
            busy_s += max(0.0, end - max(until, turn.sent))
            until = max(until, end)
        whole_s += until - turns[0].sent
    return busy_s / whole_s


def _live_at_end(stint: Stint) -> int:
    """KV of the agents' sessions, of those that had a turn."""
    last = {turn.agent: turn for turn in sorted(stint.turns, key=lambda turn: turn.sent)}
    return live_bytes([int(t.receipt["prompt_tokens"]) + t.output_tokens for t in last.values()])
