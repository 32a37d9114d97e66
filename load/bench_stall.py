"""What a long session that loads costs those who are decoding: their time per token meanwhile.

Several streams decode without a pause. Beside them one long session comes back again and again, in
turns from SSD, where it was parked, and from the device. Both compute the same tail over the same
prefix, so what is left between the two is the load. Its window is the time from the request to its
first token; the window of the turn from the device begins with that request and is made as long.
A stream's tokens in a window are counted in parts: a token takes the time since the one before it.
"""

import argparse
import bisect
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from load.client import Client
from load.environment import describe
from load.report import Interval, Spread, bootstrap_median, spread_ms, table, verdict, write_json
from load.server import REPOSITORY, Sizes, make_home, prepare_model, running, valet

TAIL: Final = 8
LENGTH: Final = 7680
"""Without the tail."""
QUICK_LENGTH: Final = 2048
STREAMS: Final = 3
STREAM_PROMPT: Final = 64
STREAM_TOKENS: Final = 1200
SETTLE_S: Final = 0.5
"""After a turn or a park, until the streams are as they were."""
DRAM: Final = 512 * 1024**2
SSD: Final = 8 * 1024**3
SESSION: Final = "stall"
WANTED: Final = 1.05


class Origin(StrEnum):
    """Where a turn's prefix was."""

    SSD = "ssd"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the long session. Times in seconds of one clock."""

    origin: Origin
    began: float
    ttft: float
    fault: str | None
    """Why it does not show what it should; None for a good one."""


@dataclass(frozen=True, slots=True)
class Window:
    """A turn from SSD and the one from the device behind it, and what the streams did meanwhile."""

    round: int
    seconds: float
    loading_s: float
    """A token's time, in seconds, while the session loaded."""
    resting_s: float
    """While it did not."""

    @property
    def ratio(self) -> float:
        return self.loading_s / self.resting_s


@dataclass(slots=True)
class Stream:
    """One decoding stream, on a thread of its own."""

    url: str
    seed: str
    tokens: int
    times: list[float] = field(default_factory=list)
    """When each token came; filled when the stream has ended."""
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Returns at once."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def join(self) -> None:
        """Returns when it has ended."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        with Client(self.url) as client:
            prompt = client.tokens(self.seed, STREAM_PROMPT)
            began = time.perf_counter()
            answer = client.complete(prompt, self.tokens)
            self.times = [began + at for at in answer.piece_times]


def tokens_within(times: Sequence[float], begin: float, end: float) -> float | None:
    """How many tokens a stream made between two moments, with the parts of those at the edges; None
    when it did not decode all the while. ``times``: when its tokens came, rising. Pure."""
    if not times or begin < times[0] or end > times[-1]:
        return None

    def made_by(moment: float) -> float:
        behind = bisect.bisect_left(times, moment, lo=1)
        before = times[behind - 1]
        return behind - 1 + (moment - before) / (times[behind] - before)

    return made_by(end) - made_by(begin)


def per_token(streams: Sequence[Sequence[float]], begin: float, end: float) -> float | None:
    """Seconds a token of all streams between two moments; None when one did not decode. Pure."""
    made = [tokens_within(times, begin, end) for times in streams]
    known = [count for count in made if count is not None]
    total = sum(known)
    return len(made) * (end - begin) / total if len(known) == len(made) and total else None


def windows(turns: Sequence[Turn], streams: Sequence[Sequence[float]], round_: int) -> list[Window]:
    """Of each turn from SSD and the next one, from the device, as far as both are good and all
    streams decoded. Pure."""
    found = []
    for ssd, device in zip(turns[::2], turns[1::2], strict=False):
        if ssd.fault or device.fault:
            continue
        loading = per_token(streams, ssd.began, ssd.began + ssd.ttft)
        resting = per_token(streams, device.began, device.began + ssd.ttft)
        if loading is not None and resting is not None:
            found.append(Window(round_, ssd.ttft, loading, resting))
    return found


def run_round(url: str, length: int, round_: int) -> tuple[list[Turn], list[Window]]:
    """Turns for as long as all streams decode."""
    streams = [Stream(url, f"stream {round_} {i}", STREAM_TOKENS) for i in range(STREAMS)]
    turns: list[Turn] = []
    with Client(url) as client:
        prompt = client.tokens(SESSION, length + TAIL)
        client.complete(prompt, 1, SESSION)
        client.wait_until_stored(SESSION)
        for stream in streams:
            stream.start()
        time.sleep(4 * SETTLE_S)
        while all(stream.runs for stream in streams):
            client.park(SESSION)
            for origin in Origin:
                time.sleep(SETTLE_S)
                turns.append(_turn(client, prompt, origin))
    for stream in streams:
        stream.join()
    return turns, windows(turns, [stream.times for stream in streams], round_)


def _turn(client: Client, prompt: Sequence[int], origin: Origin) -> Turn:
    began = time.perf_counter()
    answer = client.complete(prompt, 1, SESSION)
    return Turn(origin, began, answer.ttft, fault_of(origin, answer.receipt or {}))


def fault_of(origin: Origin, receipt: dict[str, Any]) -> str | None:
    """Why a receipt is not that of a turn whose prefix was there; None if it is. Pure."""
    if not receipt:
        return "the answer has no receipt"
    found, wanted = receipt["reused_tokens"], receipt["prompt_tokens"] - TAIL
    # What was filled in on the device since the request's first byte was loaded for it too.
    there = found["device"] if origin is Origin.DEVICE else sum(found.values())
    if there != wanted:
        return f"reused {there} of {wanted} tokens"
    return None


def judge(interval: Interval | None) -> bool | None:
    """Whether it is as wanted; None when the samples leave both open. Pure."""
    if interval is None or interval.low <= WANTED < interval.high:
        return None
    return interval.high <= WANTED


def draw(turns: Sequence[Turn], seen: Sequence[Window], interval: Interval | None) -> str:
    """The table that a run prints. Pure."""
    ttft = {o: Spread.of([t.ttft for t in turns if t.origin is o and not t.fault]) for o in Origin}
    rows = [
        ["first token, from SSD", spread_ms(ttft[Origin.SSD])],
        ["first token, from the device", spread_ms(ttft[Origin.DEVICE])],
        ["others' token, while it loads", spread_ms(Spread.of([w.loading_s for w in seen]))],
        ["others' token, while it does not", spread_ms(Spread.of([w.resting_s for w in seen]))],
    ]
    told = table(["", "ms"], rows)
    if interval is None:
        return told
    return (
        f"{told}\n\nOthers' time per token, loading ÷ not loading: {interval.median:.3f} "
        f"({interval.low:.3f}–{interval.high:.3f}, {interval.confidence:.0%}), "
        f"of {interval.count} windows"
    )


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="load.bench_stall", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="of the streams (4)")
    parser.add_argument("--length", type=int, default=LENGTH, help=f"of the session ({LENGTH})")
    parser.add_argument(
        "--reserved-cores",
        type=int,
        help="cores that the engine leaves to reading and copying (as it does by itself)",
    )
    parser.add_argument(
        "--slowdown",
        default="0.05",
        help="VALET_LOAD_SLOWDOWN of the server (0.05; 0: loads as fast as they go)",
    )
    parser.add_argument("--quick", action="store_true", help="a shorter session, 1 round")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build/bench/stall.json")
    options = parser.parse_args()
    length = QUICK_LENGTH if options.quick else options.length
    rounds = 1 if options.quick else options.rounds
    environment = describe()
    turns: list[Turn] = []
    seen: list[Window] = []
    with tempfile.TemporaryDirectory(prefix="valet-bench-") as folder:
        home = make_home(Path(folder))
        prepare_model(home)
        sizes = Sizes(reserved_cores=options.reserved_cores)
        server = valet(home, sizes=sizes, dram=DRAM, ssd=SSD)
        server = replace(server, env={**server.env, "VALET_LOAD_SLOWDOWN": options.slowdown})
        with running(server):
            for round_ in range(rounds):
                some, found = run_round(server.url, length, round_)
                turns += some
                seen += found
                middle = statistics.median([w.ratio for w in found]) if found else float("nan")
                print(f"round {round_ + 1}: {len(found)} windows, median ratio {middle:.3f}")
    by_round = [[w.ratio for w in seen if w.round == r] for r in range(rounds)]
    interval = bootstrap_median(by_round)
    met = judge(interval)
    print(f"\n{draw(turns, seen, interval)}\n")
    told = "uncertain: more rounds are needed" if met is None else verdict(met)
    print(f"Others' time per token within {WANTED - 1:.0%} while {length} tokens load: {told}")
    bad = sum(turn.fault is not None for turn in turns)
    print(f"{len(turns)} turns, {bad} not counted; samples in {options.out}")
    write_json(
        options.out,
        {
            "environment": environment,
            "prompt_tokens": length + TAIL,
            "streams": STREAMS,
            "reserved_cores": options.reserved_cores,
            "slowdown": options.slowdown,
            "wanted": {f"≤ {WANTED:g} ×": met},
            "ratio": interval and asdict(interval),
            "windows": [{**asdict(w), "ratio": w.ratio} for w in seen],
            "turns": [asdict(turn) for turn in turns],
        },
    )


if __name__ == "__main__":
    main()
