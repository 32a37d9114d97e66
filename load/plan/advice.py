"""One sentence: what limits this hardware, or how much of it is enough."""

from collections.abc import Sequence

from load.plan.answer import Answer, Point
from load.plan.units import gigabytes_a_second, percent, seconds, size

_POINT = 0.01
"""What DRAM must bring to be worth it, as a share of the reusable tokens."""
_BUSY = 0.7
"""Of a bandwidth or of the device's room, on average: bursts need the rest."""
_FELT = 0.02
"""Of the reusable tokens: what is late or computed again is no matter below."""
_AS_MANY = 0.9
"""Turns a minute that are about as many."""


def advise(answer: Answer) -> str:
    """The first that applies, of what no DRAM makes good before DRAM itself."""
    asked = answer.asked
    return (
        _small_ssd(asked)
        or _full_device(asked)
        or _slow_ssd(asked)
        or _busy_engine(answer)
        or _dram(asked, answer.by_dram)
    )


def _small_ssd(asked: Point) -> str | None:
    ssd_bytes = asked.question.hardware.ssd_bytes
    if asked.live_bytes <= ssd_bytes:
        return None
    return (
        f"The SSD is too small: the sessions that users have open have {size(asked.live_bytes)} of "
        f"KV, and it takes {size(ssd_bytes)}."
    )


def _full_device(asked: Point) -> str | None:
    device_bytes = asked.question.hardware.device_bytes
    if asked.in_use_bytes < _BUSY * device_bytes:
        return None
    return (
        f"The device's room is the limit: requests that run take {size(asked.in_use_bytes)} of its "
        f"{size(device_bytes)} on average, and others wait for them."
    )


def _slow_ssd(asked: Point) -> str | None:
    missed = asked.outcome.steady.missed_share
    bandwidth = asked.question.hardware.ssd_bandwidth
    if asked.read_bytes_per_s < _BUSY * bandwidth or missed < _FELT:
        return None
    return (
        f"The SSD's bandwidth is the limit: {gigabytes_a_second(asked.read_bytes_per_s)} of "
        f"{gigabytes_a_second(bandwidth)} are in use on average, and {percent(missed)} of the "
        "reusable tokens are waited for or computed again."
    )


def _busy_engine(answer: Answer) -> str | None:
    asked = answer.asked
    turns = asked.outcome.steady.turns_per_minute
    if answer.by_dram[-1].outcome.steady.turns_per_minute * _AS_MANY > turns:
        return None
    for fewer in answer.by_users:
        users, fewer_turns = fewer.question.users, fewer.outcome.steady.turns_per_minute
        if users <= asked.question.users / 2 and fewer_turns >= _AS_MANY * turns:
            return (
                f"The engine is the limit: {users} users get {fewer_turns:,.1f} turns a minute "
                f"already, {asked.question.users} get {turns:,.1f}."
            )
    return None


def _dram(asked: Point, points: Sequence[Point]) -> str:
    best = max(_hot(point) for point in points)
    enough = next(point for point in points if _hot(point) >= best - _POINT)
    here, there = asked.question.hardware.dram_bytes, enough.question.hardware.dram_bytes
    if there > here:
        return (
            f"More DRAM helps: with {size(there)} instead of {size(here)}, {percent(_hot(enough))} "
            f"of the reusable tokens are hot instead of {percent(_hot(asked))}, and 90 of 100 "
            f"turns have their first token within {seconds(_p90(enough))} instead of "
            f"{seconds(_p90(asked))}."
        )
    below = [point for point in points if point.question.hardware.dram_bytes < there]
    lost = (
        f"; with {size(below[-1].question.hardware.dram_bytes)} it is {percent(_hot(below[-1]))}"
        if below
        else ""
    )
    return (
        f"DRAM beyond {size(there)} brings less than 1 %: {percent(_hot(enough))} of the reusable "
        f"tokens are hot with so much, {percent(best)} at best{lost}."
    )


def _hot(point: Point) -> float:
    return point.outcome.steady.hot_share


def _p90(point: Point) -> float:
    return point.outcome.steady.ttft_s[1]
