"""What Valet costs beside the bare engine when there is nothing to reuse.

Valet and ``vllm serve`` run side by side with the same model and flags; an idle server takes next
to no processor time, which is measured first. Every prompt is new and goes to both, one request
at a time, in the order A B B A, so that a machine that gets slower or faster wrongs neither. A few
tokens go to a server ahead of each of its measured requests, so that none finds it rested.
After each of Valet's answers the next request waits until the answer's KV is on the SSD: what
storing costs shows in that answer and not in the engine's next one.

A process keeps for life a speed that differs from that of its twin by more than Valet may cost; in
trials the one that was started later decoded faster. So both are started again for every round, in
turns one or the other first. A figure is the median of the ratios of all pairs, with an interval
that a bootstrap draws from the rounds and from the pairs within them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from load.client import Client
from load.environment import describe
from load.prose import Prose
from load.report import Interval, Spread, bootstrap_median, spread_ms, table, verdict, write_json
from load.server import (
    REPOSITORY,
    Server,
    Sizes,
    bare_engine,
    make_home,
    prepare_model,
    running,
    valet,
)
from load.stream import Streamed

LENGTHS: Final = (300, 1500)
OUTPUT_TOKENS: Final = 48
ROUNDS: Final = 6
PAIRS: Final = 6
QUICK: Final = 2
WANTED: Final = 1.03
IDLE_S: Final = 5.0
DEVICE_KV: Final = 512 * 1024**2
DRAM: Final = 512 * 1024**2
SSD: Final = 8 * 1024**3


@dataclass(frozen=True, slots=True)
class Measured:
    """One answer. Seconds."""

    ttft: float
    per_token: float
    prompt_tokens: int
    cached_tokens: int

    @classmethod
    def of(cls, answer: Streamed) -> "Measured":
        """Of a stream with usage and at least two tokens."""
        usage = answer.usage or {}
        return cls(
            ttft=answer.ttft,
            per_token=answer.seconds_per_token or 0.0,
            prompt_tokens=int(usage.get("prompt_tokens", 0)),
            cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt's two answers."""

    round: int
    words: int
    valet: Measured
    engine: Measured

    @property
    def good(self) -> bool:
        """Whether both computed all of one and the same prompt."""
        both = (self.valet, self.engine)
        return (
            not any(m.cached_tokens for m in both)
            and self.valet.prompt_tokens == self.engine.prompt_tokens
            and all(m.per_token > 0 for m in both)
        )


def measure(
    valet_client: Client, engine_client: Client, lengths: Sequence[int], round_: int, pairs: int
) -> list[Pair]:
    """One round. Blocking; both servers must run."""

    def from_valet(messages: Sequence[dict[str, str]], name: str) -> Measured:
        _wake(valet_client, name)
        measured = Measured.of(valet_client.chat(messages, OUTPUT_TOKENS, name))
        valet_client.wait_until_stored(name)
        return measured

    def from_engine(messages: Sequence[dict[str, str]], name: str) -> Measured:
        _wake(engine_client, name)
        return Measured.of(engine_client.chat(messages, OUTPUT_TOKENS, name))

    for number in range(2):
        for words in lengths:
            name = f"warm-up-{round_}-{number}-{words}"
            from_valet(_messages(name, words), name)
            from_engine(_messages(name, words), name)
    done: list[Pair] = []
    for number in range(pairs):
        for words in lengths:
            name = f"overhead-{round_}-{number}-{words}"
            messages = _messages(name, words)
            if number % 2:
                engine = from_engine(messages, name)
                pair = Pair(round_, words, from_valet(messages, name), engine)
            else:
                ours = from_valet(messages, name)
                pair = Pair(round_, words, ours, from_engine(messages, name))
            done.append(pair)
            ttft, per_token = (f"{of(pair):.3f}" for of in (_ttft_ratio, _per_token_ratio))
            told = (
                f"{round_ + 1}.{number + 1}: {words:>5} words  ttft {ttft}  per token {per_token}"
            )
            print(told if pair.good else f"{told}  not counted")
    return done


def summarize(pairs: Sequence[Pair], lengths: Sequence[int]) -> list[dict[str, Any]]:
    """A row a length, and one over all. Pure."""
    rows = []
    for words in (*lengths, None):
        good = [p for p in pairs if p.good and words in (None, p.words)]
        rows.append(
            {
                "words": words,
                "prompt_tokens": Spread.of([p.valet.prompt_tokens for p in good]),
                "valet_ttft_s": Spread.of([p.valet.ttft for p in good]),
                "engine_ttft_s": Spread.of([p.engine.ttft for p in good]),
                "ttft_ratio": bootstrap_median(_by_round(good, _ttft_ratio)),
                "valet_per_token_s": Spread.of([p.valet.per_token for p in good]),
                "engine_per_token_s": Spread.of([p.engine.per_token for p in good]),
                "per_token_ratio": bootstrap_median(_by_round(good, _per_token_ratio)),
            }
        )
    return rows


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """The table that a run prints. Pure."""

    def of(row: dict[str, Any]) -> list[str]:
        words = row["words"]
        cells = [
            "all"
            if words is None
            else f"{row['prompt_tokens'].median:.0f}"
            if row["prompt_tokens"]
            else "–"
        ]
        for what in ("ttft", "per_token"):
            absolute = words is not None
            cells += [
                spread_ms(row[f"{who}_{what}_s"]) if absolute else "" for who in ("valet", "engine")
            ]
            cells.append(_interval(row[f"{what}_ratio"]))
        return cells

    header = ["prompt tokens"]
    for what in ("first token", "a token"):
        header += [f"Valet: {what}, ms", "engine", "ratio (95 % interval)"]
    return table(header, [of(row) for row in rows])


def judge(interval: Interval | None) -> bool | None:
    """Whether the overhead is as wanted; None when the samples leave both open. Pure."""
    if interval is None or interval.low <= WANTED < interval.high:
        return None
    return interval.high <= WANTED


def idle_share(server: Server, clock: Callable[[], float], sleep: Callable[[float], None]) -> float:
    """Of one core, taken by a server to which nobody speaks for ``IDLE_S``."""
    began, used = clock(), server.cpu_seconds()
    sleep(IDLE_S)
    return (server.cpu_seconds() - used) / (clock() - began)


def _wake(client: Client, name: str) -> None:
    """The other server's request has put this one's weights out of the caches: bring them back."""
    client.chat(_messages(f"wake {name}", 8), 4, f"wake-{name}")


def _messages(seed: str, words: int) -> list[dict[str, str]]:
    """Other from the first word on: the template's own system message would be shared."""
    prose = Prose(seed)
    return [
        {"role": "system", "content": prose.words(words // 4)},
        {"role": "user", "content": prose.words(words - words // 4)},
    ]


def _by_round(pairs: Sequence[Pair], figure: Callable[[Pair], float]) -> list[list[float]]:
    rounds = sorted({p.round for p in pairs})
    return [[figure(p) for p in pairs if p.round == number] for number in rounds]


def _ttft_ratio(pair: Pair) -> float:
    return pair.valet.ttft / pair.engine.ttft


def _per_token_ratio(pair: Pair) -> float:
    return pair.valet.per_token / pair.engine.per_token if pair.engine.per_token else 0.0


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    return f"{interval.median:.3f} ({interval.low:.3f}–{interval.high:.3f})"


def run_round(home: Path, sizes: Sizes, with_ssd: bool, round_: int, pairs: int) -> list[Pair]:
    """Start both servers, measure, stop both."""
    ours = valet(home, sizes=sizes, dram=DRAM, ssd=SSD if with_ssd else 0)
    engine = bare_engine(home.parent, prepare_model(home), sizes=sizes)
    with running(*((engine, ours) if round_ % 2 else (ours, engine))):
        idle = {
            name: idle_share(server, time.monotonic, time.sleep)
            for name, server in (("Valet", ours), ("engine", engine))
        }
        print("Idle, of one core:", ", ".join(f"{name} {idle[name]:.1%}" for name in idle))
        with Client(ours.url) as valet_client, Client(engine.url) as engine_client:
            return measure(valet_client, engine_client, LENGTHS, round_, pairs)


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="load.bench_overhead", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=ROUNDS, help=f"starts of both servers ({ROUNDS})")
    add("--pairs", type=int, default=PAIRS, help=f"of each length in a round ({PAIRS})")
    add("--quick", action="store_true", help=f"at most {QUICK} rounds of {QUICK} pairs")
    add("--no-ssd", action="store_true", help="Valet without its store")
    add(
        "--reserved-cores",
        type=int,
        default=1,
        help="that computing on CPU leaves alone, in both servers (1, as the bare engine does)",
    )
    add("--out", type=Path, default=REPOSITORY / "build/bench/overhead.json")
    options = parser.parse_args()
    most = QUICK if options.quick else max(options.rounds, options.pairs)
    sizes = Sizes(device_kv=DEVICE_KV, reserved_cores=options.reserved_cores)
    environment = describe()
    measured: list[Pair] = []
    for round_ in range(min(most, options.rounds)):
        with tempfile.TemporaryDirectory(prefix="valet-bench-") as folder:
            home = make_home(Path(folder))
            pairs = min(most, options.pairs)
            measured += run_round(home, sizes, not options.no_ssd, round_, pairs)
    rows = summarize(measured, LENGTHS)
    print(f"\n{draw(rows)}\n")
    goals = {what: judge(rows[-1][f"{what}_ratio"]) for what in ("ttft", "per_token")}
    for what, met in goals.items():
        told = "uncertain: more rounds are needed" if met is None else verdict(met)
        print(f"{what} within {WANTED - 1:.0%} of the engine: {told}")
    bad = sum(not pair.good for pair in measured)
    print(f"{len(measured)} pairs, {bad} not counted; samples in {options.out}")
    write_json(
        options.out,
        {
            "environment": environment,
            "ssd": not options.no_ssd,
            "reserved_cores": options.reserved_cores,
            "output_tokens": OUTPUT_TOKENS,
            "wanted": goals,
            "lengths": [{k: _plain(v) for k, v in row.items()} for row in rows],
            "pairs": [asdict(pair) for pair in measured],
        },
    )


def _plain(value: Spread | Interval | int | None) -> Any:
    return asdict(value) if isinstance(value, Spread | Interval) else value


if __name__ == "__main__":
    main()
