"""Is a hit ever slower than a miss? Resumed sessions and new prompts, on disks of several speeds.

Each prompt is sent twice: new, and computed, as a *miss*; then, when its KV is on SSD alone
(parked), again, as a *hit*. Its two times to the first token are a pair, and their ratio is what
counts. In every round all lengths have their turn, in another order. The disk is as fast as it is,
and then limited (``VALET_SSD_READ_BANDWIDTH``) to what this machine's own misses say: to four times
the rate at which loading the longest prompt takes as long as computing it, to just that, and to a
fraction of it, where loading is wrong at every length. A server starts for each, and learns what
its disk gives from the hits themselves: none is left out, also not the first.
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from load.client import Client
from load.environment import describe
from load.report import Spread, ms, spread_ms, table, times, verdict, write_json
from load.server import REPOSITORY, Server, Sizes, make_home, prepare_model, running, valet
from load.stream import Streamed

TAIL: Final = 8
"""Tokens after the last whole block: computed wherever the rest comes from."""
LENGTHS: Final = (256, 512, 1024, 2048, 4096, 7680)
"""Without the tail."""
QUICK_LENGTHS: Final = (256, 2048)
MAX_TOKENS: Final = 4
DRAM: Final = 512 * 1024**2
SSD: Final = 8 * 1024**3
SHARES: Final = {"moderate": 4.0, "break-even": 1.0, "slow": 0.125}
"""Of the bandwidth at which the longest prompt loads as long as it is computed, by name."""
UNLIMITED: Final = "unlimited"
WANTED: Final = 1.05


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt, new and resumed. Times in seconds, as the client measured them."""

    disk: str
    prompt_tokens: int
    round: int
    miss: float
    hit: float
    loaded_tokens: int
    """Of the hit; the rest was computed."""
    computed_cheaper: int
    """Tokens of the hit that were computed although they are held, as its receipt says."""
    kv_bytes: int
    """That the hit loaded."""
    fault: str | None
    """Why the pair does not show what it should; None for a good one."""


def make_pair(disk: str, round_: int, miss: Streamed, hit: Streamed) -> Pair:
    """A pair of two answers to one prompt, checked by their receipts. Pure."""
    new, again = miss.receipt or {}, hit.receipt or {}
    reused = again.get("reused_tokens", {})
    cheaper = sum(m["tokens"] for m in again.get("miss", ()) if m["reason"] == "recompute_cheaper")
    return Pair(
        disk=disk,
        prompt_tokens=int(again.get("prompt_tokens", 0)),
        round=round_,
        miss=miss.ttft,
        hit=hit.ttft,
        loaded_tokens=sum(reused.values()),
        computed_cheaper=cheaper,
        kv_bytes=int(again.get("bytes_loaded", 0)),
        fault=fault_of(new, again),
    )


def fault_of(new: dict[str, Any], again: dict[str, Any]) -> str | None:
    """Why two receipts are not those of a miss and of a hit that had only the SSD; None if they
    are. Pure. What a hit did not load, it must have chosen to compute."""
    if not new or not again:
        return "an answer has no receipt"
    if sum(new["reused_tokens"].values()):
        return "the new prompt was not new"
    if again["reused_tokens"]["device"]:
        return "the parked session was still on the device"
    reasons = {miss["reason"] for miss in again["miss"]}
    strange = reasons - {"appended", "recompute_cheaper", "io_timeout"}
    return f"computed for another reason: {', '.join(sorted(strange))}" if strange else None


def measure(client: Client, disk: str, lengths: Sequence[int], rounds: int) -> list[Pair]:
    """All pairs of one server."""
    client.complete(client.tokens(f"warm-up {disk}", 300), MAX_TOKENS)
    pairs = []
    for round_ in range(rounds):
        order = list(lengths)
        random.Random(f"{disk} {round_}").shuffle(order)
        for length in order:
            session = f"{disk}-{round_}-{length}"
            prompt = client.tokens(session, length + TAIL)
            miss = client.complete(prompt, MAX_TOKENS, session)
            client.wait_until_stored(session)
            client.park(session)
            hit = client.complete(prompt, MAX_TOKENS, session)
            pair = make_pair(disk, round_, miss, hit)
            pairs.append(pair)
            print(_told(pair))
    return pairs


def break_even(pairs: Sequence[Pair]) -> int:
    """Bytes a second at which the longest prompt's KV loads as long as it was computed. Pure."""
    longest = max(pair.prompt_tokens for pair in pairs)
    some = [pair for pair in pairs if pair.prompt_tokens == longest and pair.kv_bytes]
    computed = Spread.of([pair.miss for pair in some])
    if computed is None:
        raise ValueError("no hit of the longest prompt was loaded: there is nothing to go by")
    return round(max(pair.kv_bytes for pair in some) / computed.median)


def summarize(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """A row a disk and length. Pure."""
    rows = []
    for disk, length in dict.fromkeys((p.disk, p.prompt_tokens) for p in pairs):
        good = [p for p in pairs if (p.disk, p.prompt_tokens) == (disk, length) and p.fault is None]
        ratios = Spread.of([p.hit / p.miss for p in good])
        miss, hit = Spread.of([p.miss for p in good]), Spread.of([p.hit for p in good])
        loaded = Spread.of([p.loaded_tokens for p in good])
        rows.append(
            {
                "disk": disk,
                "prompt_tokens": length,
                "miss_s": miss and asdict(miss),
                "hit_s": hit and asdict(hit),
                "hit_over_miss": ratios and asdict(ratios),
                "loaded_tokens": loaded and asdict(loaded),
                "wanted": ratios and ratios.median <= WANTED,
            }
        )
    return sorted(rows, key=lambda row: (list(_names()).index(row["disk"]), row["prompt_tokens"]))


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """The table that a run prints. Pure."""

    def cells(row: dict[str, Any]) -> list[str]:
        ratio, loaded = row["hit_over_miss"], row["loaded_tokens"]
        return [
            row["disk"],
            str(row["prompt_tokens"]),
            *[spread_ms(row[of] and Spread(**row[of])) for of in ("miss_s", "hit_s")],
            f"{times(ratio['median'])} ({ratio['low']:.2f}–{ratio['high']:.2f})" if ratio else "–",
            f"{loaded['median']:.0f} ({loaded['low']}–{loaded['high']})" if loaded else "–",
            verdict(row["wanted"]),
        ]

    header = ["disk", "tokens", "miss, ms", "hit, ms", "hit/miss", "loaded tokens", "≤ 1.05 ×"]
    return table(header, [cells(row) for row in rows])


def _told(pair: Pair) -> str:
    told = (
        f"{pair.disk:<11} {pair.round + 1}: {pair.prompt_tokens:>5} tokens  miss {ms(pair.miss):>9}"
        f"  hit {ms(pair.hit):>9} ms  {times(pair.hit / pair.miss)}  {pair.loaded_tokens:>5} loaded"
    )
    return told if pair.fault is None else f"{told}  not counted: {pair.fault}"


def _names() -> tuple[str, ...]:
    return (UNLIMITED, *SHARES)


def _limited(server: Server, bytes_per_s: int) -> Server:
    return replace(server, env={**server.env, "VALET_SSD_READ_BANDWIDTH": f"{bytes_per_s}B"})


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="load.bench_arbiter", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of each length (7)")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=LENGTHS, help="of prompts, tokens"
    )
    parser.add_argument("--quick", action="store_true", help="two lengths, 2 rounds")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build/bench/arbiter.json")
    options = parser.parse_args()
    lengths = QUICK_LENGTHS if options.quick else options.lengths
    rounds = min(2, options.rounds) if options.quick else options.rounds
    environment = describe()
    pairs: list[Pair] = []
    limits: dict[str, int | None] = {}
    for disk in _names():
        limit = None if disk == UNLIMITED else round(SHARES[disk] * break_even(pairs))
        limits[disk] = limit
        with tempfile.TemporaryDirectory(prefix="valet-bench-") as folder:
            home = make_home(Path(folder))
            prepare_model(home)
            server = valet(home, sizes=Sizes(), dram=DRAM, ssd=SSD)
            if limit is not None:
                print(f"{disk}: {limit / 1e6:.1f} MB/s")
                server = _limited(server, limit)
            with running(server), Client(server.url) as client:
                pairs += measure(client, disk, lengths, rounds)
    rows = summarize(pairs)
    print(f"\n{draw(rows)}\n")
    judged = [row["wanted"] for row in rows]
    met = None if None in judged else all(judged)
    print(f"A hit is at most {WANTED:g} × a miss, at every length and disk: {verdict(met)}")
    bad = sum(pair.fault is not None for pair in pairs)
    print(f"{len(pairs)} pairs, {bad} not counted; samples in {options.out}")
    write_json(
        options.out,
        {
            "environment": environment,
            "rounds": rounds,
            "tail_tokens": TAIL,
            "bytes_per_s": limits,
            "wanted": {f"hit ≤ {WANTED:g} × miss": met},
            "rows": rows,
            "pairs": [asdict(pair) for pair in pairs],
        },
    )


if __name__ == "__main__":
    main()
