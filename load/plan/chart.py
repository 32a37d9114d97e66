"""The answer drawn: where reusable tokens came from and how long first tokens took, by DRAM and by
users. Readable in black and white."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from load.plan.advice import advise
from load.plan.answer import Answer, Place, Point
from load.plan.units import gigabytes_a_second, many, size
from load.plan.workload import Workload

_FILLS = {
    Place.DEVICE: ("on the device", "#1b3a57", ""),
    Place.DRAM: ("in DRAM", "#6fa3cc", ""),
    Place.SSD: ("waited for, from SSD", "#f2c14e", "///"),
    Place.COMPUTED: ("computed again", "#ffffff", "xxx"),
}
_TIMES = (("median", "-", "o"), ("p90", "--", "s"), ("p99", ":", "^"))
_INK = "#222222"


def draw(answer: Answer, workload: Workload, path: Path) -> None:
    """Write the chart; the name's ending says in which format, svg or png. The same answer
    gives the same file. Raises OSError."""
    users, dram = answer.asked.question.users, answer.asked.question.hardware.dram_bytes
    with rc_context({"svg.hashsalt": "valet", "hatch.linewidth": 0.6}):
        figure = Figure(figsize=(11, 8), layout="constrained")
        rows = figure.subplots(2, 2, sharey="row", sharex="col")
        for column, points in enumerate((answer.by_dram, answer.by_users)):
            _draw_shares(rows[0][column], points)
            _draw_times(rows[1][column], points)
        sizes = [size(point.question.hardware.dram_bytes) for point in answer.by_dram]
        counts = [f"{point.question.users:,}" for point in answer.by_users]
        _name(
            rows[1][0],
            f"DRAM, with {many(users, 'user')}",
            sizes,
            answer.by_dram.index(answer.asked),
        )
        _name(
            rows[1][1],
            f"users, with {size(dram)} of DRAM",
            counts,
            answer.by_users.index(answer.asked),
        )
        rows[0][0].set_ylabel("share of the reusable tokens, %")
        rows[1][0].set_ylabel("time to first token, s (log)")
        _legend(rows[0][1], "reusable tokens")
        _legend(rows[1][1], "time to first token")
        figure.suptitle(_title(answer, workload), x=0.01, ha="left", fontsize=11)
        figure.supxlabel(fill(advise(answer), 120), x=0.01, ha="left", fontsize=10)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, format=path.suffix[1:], dpi=150, metadata=metadata)


def _draw_shares(axes: Axes, points: Sequence[Point]) -> None:
    """Bars of 100 % together, turns a minute above them."""
    where = range(len(points))
    bottom = [0.0] * len(points)
    for place, (label, color, hatch) in _FILLS.items():
        heights = [100 * point.shares[place] for point in points]
        axes.bar(
            where,
            heights,
            0.7,
            bottom,
            color=color,
            hatch=hatch,
            edgecolor=_INK,
            lw=0.6,
            label=label,
        )
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for x, point in zip(where, points, strict=True):
        rate = f"{point.outcome.steady.turns_per_minute:,.1f}"
        axes.annotate(rate, (x, 100), (0, 3), textcoords="offset points", ha="center")
    axes.set_ylim(0, 100)
    axes.set_title("turns a minute, all users together", fontsize=10, pad=18)


def _draw_times(axes: Axes, points: Sequence[Point]) -> None:
    for number, (label, line, marker) in enumerate(_TIMES):
        times = [point.outcome.steady.ttft_s[number] for point in points]
        axes.plot(times, line, marker=marker, color=_INK, mfc="white", label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="#cccccc", lw=0.6)


def _name(axes: Axes, label: str, names: Sequence[str], asked: int) -> None:
    """The axis of a sweep; what was asked stands out."""
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel(label, labelpad=8)
    axes.get_xticklabels()[asked].set(
        fontweight="bold", bbox={"fc": "none", "ec": _INK, "boxstyle": "round,pad=0.25"}
    )


def _legend(axes: Axes, title: str) -> None:
    """Beside the axes; the highest first, as bars are stacked and times lie."""
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1],
        labels[::-1],
        title=title,
        alignment="left",
        loc="upper left",
        bbox_to_anchor=(1, 1),
        frameon=False,
    )


def _title(answer: Answer, workload: Workload) -> str:
    question = answer.asked.question
    hardware = question.hardware
    return (
        f"{many(question.users, 'user')} of {workload.name}; device {size(hardware.device_bytes)}, "
        f"DRAM {size(hardware.dram_bytes)}, SSD {size(hardware.ssd_bytes)} at "
        f"{gigabytes_a_second(hardware.ssd_bandwidth)}, {hardware.kv_bytes:,} bytes of KV a token"
    )
