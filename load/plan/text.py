"""The answer for a terminal, and for programs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from load.plan.advice import advise
from load.plan.answer import Answer, Place, Point
from load.plan.units import gigabytes_a_second, many, percent, seconds, size, terabytes_a_day
from load.plan.workload import Workload
from load.report import table

_HEAD = (
    *("device", "DRAM", "SSD", "again"),
    *("TTFT p50", "p90", "p99", "turns/min"),
    *("SSD read", "written/day", "live KV"),
)
FAR_TOKEN = 32_768
"""The second point of the prefill's curve that is shown."""
_BAR = 60
_FILLS = {Place.DEVICE: "█", Place.DRAM: "▓", Place.SSD: "▒", Place.COMPUTED: "·"}
_MEANING = {
    Place.DEVICE: "on the device",
    Place.DRAM: "in DRAM",
    Place.SSD: "waited for, from SSD",
    Place.COMPUTED: "computed again",
}


def report(answer: Answer, workload: Workload) -> str:
    """What was asked and how it was answered, both sweeps, and what follows."""
    users, dram = answer.asked.question.users, answer.asked.question.hardware.dram_bytes
    return "\n".join(
        [
            _about(answer.asked, workload),
            "",
            f"{many(users, 'user')}, by DRAM",
            table(("", *_HEAD), [_row(each, answer, _dram_of) for each in answer.by_dram]),
            "",
            f"{size(dram)} of DRAM, by users",
            table(("", *_HEAD), [_row(each, answer, _users_of) for each in answer.by_users]),
            "",
            "device, DRAM, SSD, again: the reusable tokens that were there when the request was "
            "scheduled, were loaded",
            "while it waited, or were computed again. → is what was asked.",
        ]
    )


def bars(answer: Answer) -> str:
    """The shares of both sweeps, drawn with characters."""
    legend = "  ".join(f"{_FILLS[place]} {meaning}" for place, meaning in _MEANING.items())
    names = [*map(_dram_of, answer.by_dram), *map(_users_of, answer.by_users)]
    width = max(map(len, names))
    lines = [
        f"{_mark(each, answer)}{name.rjust(width)} ▏{_bar(each)}▏"
        for each, name in zip([*answer.by_dram, *answer.by_users], names, strict=True)
    ]
    cut = len(answer.by_dram)
    return "\n".join(["Reusable tokens: " + legend, *lines[:cut], "", *lines[cut:]])


def as_json(answer: Answer, workload: Workload) -> dict[str, Any]:
    """Bytes, seconds and tokens."""
    return {
        "trace": {
            "name": workload.name,
            "sessions": workload.sessions,
            "requests": len(workload.requests),
            "skipped": workload.skipped,
        },
        "engine": asdict(answer.asked.question.engine),
        "asked": _figures(answer.asked),
        "by_dram": [_figures(each) for each in answer.by_dram],
        "by_users": [_figures(each) for each in answer.by_users],
        "advice": advise(answer),
    }


def _about(asked: Point, workload: Workload) -> str:
    hardware, engine = asked.question.hardware, asked.question.engine
    trace = [many(workload.sessions, "session"), many(len(workload.requests), "request")]
    if workload.skipped:
        trace.append(f"{many(workload.skipped, 'line')} not understood")
    far = 1 / (engine.prefill_s + engine.prefill_s_per_position * FAR_TOKEN)
    return (
        f"{many(asked.question.users, 'user')} of {workload.name} ({', '.join(trace)}); "
        f"{asked.question.turns:,} turns counted in each row\n"
        f"device {size(hardware.device_bytes)}, DRAM {size(hardware.dram_bytes)}, SSD "
        f"{size(hardware.ssd_bytes)} at {gigabytes_a_second(hardware.ssd_bandwidth)}; KV "
        f"{hardware.kv_bytes:,} bytes a token\n"
        f"prefill {1 / engine.prefill_s:,.0f} tokens/s, {far:,.0f} at token {FAR_TOKEN:,}; answers "
        f"{1 / engine.decode_s:,.0f} tokens/s"
    )


def _row(point: Point, answer: Answer, name: Callable[[Point], str]) -> list[str]:
    steady = point.outcome.steady
    return [
        _mark(point, answer) + name(point),
        *[percent(share) for share in point.shares.values()],
        *[seconds(time) for time in steady.ttft_s],
        f"{steady.turns_per_minute:,.1f}",
        gigabytes_a_second(point.read_bytes_per_s),
        terabytes_a_day(point.written_bytes_per_day),
        size(point.live_bytes),
    ]


def _figures(point: Point) -> dict[str, Any]:
    steady, prefetching = point.outcome.steady, point.outcome.prefetching
    return {
        "users": point.question.users,
        "hardware": asdict(point.question.hardware),
        "turns": steady.turns,
        "turns_per_minute": steady.turns_per_minute,
        "prompt_tokens": steady.prompt_tokens,
        "reusable_tokens": steady.reusable_tokens,
        "reusable_tokens_by_place": dict(point.tokens),
        "ttft_s": dict(zip(("p50", "p90", "p99"), steady.ttft_s, strict=True)),
        "prefetched_of_use": prefetching.precision,
        "ssd_read_bytes_per_s": point.read_bytes_per_s,
        "ssd_written_bytes_per_day": point.written_bytes_per_day,
        "live_kv_bytes": point.live_bytes,
        "running_kv_bytes": point.in_use_bytes,
    }


def _bar(point: Point) -> str:
    ends: Sequence[float] = (0.0, *_ends(point))
    return "".join(
        fill * (round(end * _BAR) - round(start * _BAR))
        for fill, start, end in zip(_FILLS.values(), ends, ends[1:], strict=False)
    ).ljust(_BAR)


def _ends(point: Point) -> list[float]:
    total = 0.0
    return [total := total + point.shares[place] for place in _FILLS]


def _mark(point: Point, answer: Answer) -> str:
    return "→ " if point.question == answer.asked.question else "  "


def _dram_of(point: Point) -> str:
    return size(point.question.hardware.dram_bytes)


def _users_of(point: Point) -> str:
    return many(point.question.users, "user")
