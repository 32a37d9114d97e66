"""What many answers' receipts say together. Pure; one thread."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from load.report import ms, percentile, table

_TIERS = ("device", "dram", "ssd")


@dataclass(slots=True)
class ReuseTally:
    """Counts tokens by where they came from, and times by where most of a prompt came from."""

    answers: int = 0
    without_receipt: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    prefetched_tokens: int = 0
    reused_tokens: Counter[str] = field(default_factory=Counter)
    missed_tokens: Counter[str] = field(default_factory=Counter)
    """Computed tokens by the reason that the receipts give."""
    ttft_by_source: dict[str, list[float]] = field(default_factory=dict)
    """Seconds."""

    def add(self, ttft: float, receipt: Mapping[str, Any] | None) -> None:
        """One answer: its time to first token in seconds, and its receipt if it has one."""
        self.answers += 1
        if receipt is None:
            self.without_receipt += 1
            self.ttft_by_source.setdefault("unknown", []).append(ttft)
            return
        by_source = {"computed": int(receipt["computed_tokens"])}
        by_source |= {tier: int(receipt["reused_tokens"].get(tier, 0)) for tier in _TIERS}
        self.prompt_tokens += int(receipt["prompt_tokens"])
        self.computed_tokens += by_source["computed"]
        self.prefetched_tokens += int(receipt["prefetched_tokens"])
        self.reused_tokens.update({tier: by_source[tier] for tier in _TIERS})
        for miss in receipt["miss"]:
            self.missed_tokens[miss["reason"]] += int(miss["tokens"])
        source = max(by_source, key=lambda name: by_source[name])
        self.ttft_by_source.setdefault(source, []).append(ttft)

    def summary(self) -> dict[str, Any]:
        """As JSON: counts, shares of all prompt tokens, and percentiles of seconds."""
        every = [t for times in self.ttft_by_source.values() for t in times]
        return {
            "answers": self.answers,
            "without_receipt": self.without_receipt,
            "prompt_tokens": self.prompt_tokens,
            "computed_tokens": self.computed_tokens,
            "prefetched_tokens": self.prefetched_tokens,
            "reused_tokens": {tier: self.reused_tokens[tier] for tier in _TIERS},
            "missed_tokens": dict(self.missed_tokens),
            "reused_share": self._share(sum(self.reused_tokens.values())),
            "ttft_s": {"all": _percentiles(every)}
            | {source: _percentiles(times) for source, times in self.ttft_by_source.items()},
        }

    def _share(self, tokens: int) -> float | None:
        return tokens / self.prompt_tokens if self.prompt_tokens else None


def draw(summary: Mapping[str, Any]) -> str:
    """A tally's summary as two tables."""
    prompt = max(1, summary["prompt_tokens"])
    tokens = {"computed": summary["computed_tokens"], **summary["reused_tokens"]}
    sources = table(
        ["source", "tokens", "share"],
        [[name, f"{count:,}", f"{count / prompt:.1%}"] for name, count in tokens.items()],
    )
    times = table(
        ["source", "answers", "p50", "p90", "p99"],
        [
            [name, str(of["count"]), *[ms(of[p]) for p in ("p50", "p90", "p99")]]
            for name, of in summary["ttft_s"].items()
        ],
    )
    return (
        f"{summary['answers']} answers; prompt tokens by where they came from\n{sources}\n\n"
        f"Time to first token, ms, by where most of the prompt came from\n{times}"
    )


def _percentiles(samples: list[float]) -> dict[str, float | int | None]:
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    return {"count": len(samples)} | {n: percentile(samples, s) for n, s in shares.items()}
