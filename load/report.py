"""Samples to figures, figures to tables and JSON. Pure but for ``write_json``."""

import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

BOOTSTRAP_ROUNDS = 5000


@dataclass(frozen=True, slots=True)
class Spread:
    """Several samples of one thing, in the samples' unit."""

    count: int
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self | None:
        """None for no samples."""
        if not samples:
            return None
        return cls(len(samples), statistics.median(samples), min(samples), max(samples))


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and how far it can be trusted."""

    count: int
    median: float
    low: float
    high: float
    """``low … high`` covers the median of all possible samples in ``confidence`` of all runs."""
    confidence: float


def bootstrap_median(
    groups: Sequence[Sequence[float]], confidence: float = 0.95, seed: int = 0
) -> Interval | None:
    """The median of all samples with its percentile bootstrap interval; None for no samples.

    Samples of one group share what was by chance in their run, so chance is drawn twice: as many
    groups with replacement as there are, and from each as many samples with replacement as it
    has, ``BOOTSTRAP_ROUNDS`` times. The interval is the middle ``confidence`` of the medians seen
    (Davison and Hinkley 1997, 3.8). The same seed gives the same.
    """
    groups = [group for group in groups if group]
    if not groups:
        return None
    dice = random.Random(seed)

    def draw() -> float:
        drawn = dice.choices(groups, k=len(groups))
        return statistics.median([s for group in drawn for s in dice.choices(group, k=len(group))])

    medians = sorted(draw() for _ in range(BOOTSTRAP_ROUNDS))
    cut = int((1 - confidence) / 2 * BOOTSTRAP_ROUNDS)
    samples = [sample for group in groups for sample in group]
    median = statistics.median(samples)
    return Interval(len(samples), median, medians[cut], medians[-1 - cut], confidence)


def ratio(over: Spread | None, under: Spread | None) -> float | None:
    """Of the medians; None when one is missing or ``under`` is 0."""
    if over is None or under is None or not under.median:
        return None
    return over.median / under.median


def percentile(samples: Sequence[float], share: float) -> float | None:
    """The smallest sample that at least ``share`` (0 … 1) of all are not above; None for none."""
    ranked = sorted(samples)
    if not ranked:
        return None
    return ranked[max(0, min(len(ranked) - 1, -int(-share * len(ranked) // 1) - 1))]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be: the first to the left, numbers to the right."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def draw(line: Sequence[str]) -> str:
        first = line[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return "  ".join([first, *rest]).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([draw(header), rule, *[draw(row) for row in rows]])


def ms(seconds: float | None) -> str:
    """Milliseconds for a table."""
    return "–" if seconds is None else f"{seconds * 1000:,.1f}"


def spread_ms(spread: Spread | None) -> str:
    """``median (low–high)`` of seconds, in milliseconds."""
    if spread is None:
        return "–"
    return f"{ms(spread.median)} ({ms(spread.low)}–{ms(spread.high)})"


def times(factor: float | None) -> str:
    """A ratio for a table."""
    if factor is None:
        return "–"
    return f"{factor:,.2f} ×" if factor < 10 else f"{factor:,.0f} ×"


def verdict(met: bool | None) -> str:
    """Of a wanted figure; None when it was not measured."""
    return "not measured" if met is None else "met" if met else "missed"


def verdicts(goals: Mapping[str, bool | None]) -> str:
    """A line for each wanted figure."""
    return "\n".join(f"{goal}: {verdict(met)}" for goal, met in goals.items())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Make the file and its folder; an older file is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
