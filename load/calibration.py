"""A running server's engine model: what its answers to known prompts say of how long it takes.

Each prompt is sent new, again from the device, from SSD alone (parked) and from DRAM (prefetched).
The first two differ by what computing takes; how long loads took their receipts say.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from load.client import Client
from load.prose import Prose
from load.simulate import EngineModel
from load.stream import Streamed
from load.team import Turned

TAIL: Final = 8
"""Tokens after the last whole block, computed wherever the rest comes from."""
_OUTPUT: Final = 8
_LATER: Final = ("queue", "load", "prefill")
"""Parts of the time to the first token, in a receipt, behind the lead."""
_LEAST_S_BYTE: Final = 1e-12
"""Faster than a terabyte a second is not told apart."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One prompt. Times in seconds."""

    tokens: int
    new: float
    """To the first token, all of it computed."""
    device: float
    """To the first token, all but the tail on the device."""
    dram: float
    """Of its load from DRAM, from the first byte on."""
    ssd: float
    """Of its load from SSD."""
    token_s: float
    """Of an output token behind the first."""
    kv_bytes: int
    """That were loaded."""


def measure(client: Client, lengths: Sequence[int], rounds: int) -> list[Timed]:
    """Of a Valet whose device and DRAM hold a prompt of each length; nobody else asks it. The
    lengths are multiples of the server's block size, and ``TAIL``."""
    client.complete(client.tokens("warm up", 300), _OUTPUT)
    timed = []
    for number in range(rounds):
        for length in lengths:
            session = f"calibration-{number}-{length}"
            prompt = client.tokens(session, length)
            new = client.complete(prompt, _OUTPUT, session)
            client.wait_until_stored(session)
            device = client.complete(prompt, _OUTPUT, session)
            client.park(session)
            ssd = client.complete(prompt, _OUTPUT, session)
            from_ssd = _loading(client, ssd)
            client.park(session)
            client.prefetch(session)
            from_dram = _loading(client, client.complete(prompt, _OUTPUT, session))
            client.delete(session)
            timed.append(
                Timed(
                    length,
                    new.ttft,
                    device.ttft,
                    from_dram,
                    from_ssd,
                    device.seconds_per_token or 0.0,
                    int((ssd.receipt or {}).get("bytes_loaded", 0)),
                )
            )
    return timed


def _loading(client: Client, answer: Streamed) -> float:
    """How long the load of a request took: it began with the first byte, before the scheduler
    asked, from where the receipt counts."""
    ms = (answer.receipt or {})["ms"]["load"] or 0.0
    return float(ms) / 1000 + client.metric("valet_lead_seconds")


def measure_lead(client: Client, lengths: Sequence[int], rounds: int) -> float:
    """Seconds from a chat request's first byte to the server's question for its KV, in the middle:
    text takes longer to read than token ids. Nobody else asks it."""
    for round_ in range(rounds):
        for length in lengths:
            session = f"lead-{length}"
            message = {"role": "user", "content": Prose(f"{session} {round_ % 2}").words(length)}
            client.chat([message], _OUTPUT, session)
    for length in lengths:
        client.delete(f"lead-{length}")
    return client.metric("valet_lead_seconds")


def rests(turns: Sequence[Turned]) -> list[float]:
    """Of turns, the seconds to the first token that were neither queueing, loading nor prefill.
    Pure."""
    return [
        turn.ttft - sum(turn.receipt["ms"][part] or 0.0 for part in _LATER) / 1000 for turn in turns
    ]


def engine_model(timed: Sequence[Timed], rest_s: float, lead_s: float) -> EngineModel:
    """How long it computes. Pure; needs two lengths. ``rest_s``: the median of the ``rests`` of
    turns such as are to be simulated; ``lead_s``: what of it is the lead."""
    # New less from the device is the prompt but for the tail; x tokens of it cost a + b·x/2 each.
    prices = _by_length(timed, lambda t: (t.new - t.device) / (t.tokens - TAIL))
    half_b, a = _line([(n - TAIL, price) for n, price in prices.items()])
    return EngineModel(
        prefill_s=a,
        prefill_s_per_position=2 * half_b,
        decode_s=statistics.median(t.token_s for t in timed),
        decode_s_per_request=0.0,
        fixed_s=lead_s,
        outside_s=max(0.0, rest_s - lead_s),
        read_s=0.0,
    )


@dataclass(frozen=True, slots=True)
class Rate:
    """Of a tier to the one above."""

    bytes_s: float
    fixed_s: float
    """Of a load, however small."""


def rates(timed: Sequence[Timed]) -> tuple[Rate, Rate]:
    """Of SSD → DRAM and of DRAM → device. Pure; needs two lengths. Reading and copying go on at the
    same time: what a load from SSD takes is what its reading takes."""
    return _rate(timed, lambda t: t.ssd), _rate(timed, lambda t: t.dram)


def _rate(timed: Sequence[Timed], taken: Callable[[Timed], float]) -> Rate:
    size = {t.tokens: t.kv_bytes for t in timed}
    slope, fixed_s = _line([(size[n], s) for n, s in _by_length(timed, taken).items()])
    return Rate(1 / max(slope, _LEAST_S_BYTE), fixed_s)


def _by_length(timed: Sequence[Timed], of: Callable[[Timed], float]) -> dict[int, float]:
    """The medians, by length."""
    lengths = sorted({t.tokens for t in timed})
    return {n: statistics.median(of(t) for t in timed if t.tokens == n) for n in lengths}


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Slope and intercept of the line nearest to the points, neither below 0."""
    at, values = [x for x, _ in points], [y for _, y in points]
    slope, intercept = statistics.linear_regression(at, values)
    if slope < 0:
        return 0.0, max(0.0, statistics.mean(values))
    if intercept < 0:
        return statistics.linear_regression(at, values, proportional=True)[0], 0.0
    return slope, intercept
