"""How fast a parked session comes back: time to the first token, by where its KV was.

In each repetition every prompt length goes through all places, so that what disturbs the machine
disturbs them alike: computed from nothing; again from the device; after park and prefetch from
DRAM; after SIGKILL of the server, dropping its files from the system's page cache and a new start
from SSD; and after another park from SSD without a restart. Beside each read from SSD as many
bytes of the same files are read by the bare disk's best way (``load.raw_disk``), in turns before
and after.
Every server start is followed by an unrelated request. The receipt of each request must say that
its KV came from where it is claimed to; a sample for which it does not is reported and not counted.
"""

import argparse
import mmap
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

from load.client import Client
from load.environment import describe
from load.raw_disk import Timed, drop_page_cache, last_written, read
from load.report import Spread, ms, ratio, spread_ms, table, times, verdict, write_json
from load.server import REPOSITORY, Server, Sizes, make_home, prepare_model, running, valet
from load.stream import Streamed

TAIL: Final = 8
"""Tokens after the last whole block. A prompt's last partial block is computed wherever the rest
comes from; the lengths are multiples of every usual block size plus this."""
LENGTHS: Final = (2048 + TAIL, 4096 + TAIL, 7680 + TAIL)
QUICK_LENGTHS: Final = (1024 + TAIL, 2048 + TAIL)
MAX_TOKENS: Final = 4
DRAM: Final = 512 * 1024**2
SSD: Final = 8 * 1024**3
WANTED_SSD_OVER_DEVICE: Final = 1.3
WANTED_COLD_OVER_SSD: Final = 60.0


class Place(StrEnum):
    """Where a prompt's KV was when the request came."""

    COLD = "cold"
    DEVICE = "device"
    DRAM = "dram"
    SSD = "ssd"
    SSD_PARKED = "ssd_parked"


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times in seconds, as the client measured them, but ``load_s``."""

    place: Place
    prompt_tokens: int
    repeat: int
    ttft: float
    load_s: float
    """As the receipt says it."""
    bytes_loaded: int
    fault: str | None
    """Why the sample does not show what it should; None for a good one."""
    receipt: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RawRead:
    """One read of the store's files by the bare disk."""

    prompt_tokens: int
    """The length of prompt whose bytes' number was read."""
    repeat: int
    bytes: int
    seconds: float


@dataclass(slots=True)
class Bench:
    """The state of one run."""

    server: Server
    store: Path
    lengths: Sequence[int]
    samples: list[Sample] = field(default_factory=list)
    raw: list[RawRead] = field(default_factory=list)

    def run(self, repeats: int) -> None:
        """The server must run, and runs afterwards."""
        with Client(self.server.url) as client:
            _warm_up(client, "first")
        for repeat in range(repeats):
            self._before_restart(repeat)
            self.server.kill()
            drop_page_cache(self.store)
            self.server.start()
            self._after_restart(repeat)

    def _before_restart(self, repeat: int) -> None:
        with Client(self.server.url) as client:
            self._measure(client, Place.COLD, repeat)
            for length in self.lengths:
                # What is on its way to the SSD would take time from the next requests.
                client.wait_until_stored(_session(repeat, length))
            self._measure(client, Place.DEVICE, repeat)
            for length in self.lengths:
                client.park(_session(repeat, length))
                client.prefetch(_session(repeat, length))
            self._measure(client, Place.DRAM, repeat)

    def _after_restart(self, repeat: int) -> None:
        with Client(self.server.url) as client:
            _warm_up(client, f"after {repeat}")
            if repeat % 2:
                self._read_raw(repeat)
            self._measure(client, Place.SSD, repeat)
            if not repeat % 2:
                self._read_raw(repeat)
            for length in self.lengths:
                client.park(_session(repeat, length))
            self._measure(client, Place.SSD_PARKED, repeat)

    def _read_raw(self, repeat: int) -> None:
        """As many bytes as each prompt's KV has, of what was written last."""
        files = sorted(self.store.glob("*/*.segment"))
        for length in self.lengths:
            sizes = [s.bytes_loaded for s in self.samples if s.prompt_tokens == length]
            some = last_written(files, max(sizes, default=0))
            size = sum(span.length for span in some)
            memory = memoryview(mmap.mmap(-1, max(size, 1)))
            memory[:] = bytes(memory.nbytes)  # the store's memory is touched already too
            timed = Timed.of(partial(read, some, memory))
            self.raw.append(RawRead(length, repeat, timed.bytes, timed.seconds))

    def _measure(self, client: Client, place: Place, repeat: int) -> None:
        for length in self.lengths:
            session = _session(repeat, length)
            prompt = client.tokens(session, length)
            sample = make_sample(place, repeat, client.complete(prompt, MAX_TOKENS, session))
            self.samples.append(sample)
            told = f"{repeat + 1}: {length:>5} tokens {place:<14} {ms(sample.ttft):>10} ms"
            print(told if sample.fault is None else f"{told}  not counted: {sample.fault}")


def make_sample(place: Place, repeat: int, answer: Streamed) -> Sample:
    """A sample of an answer, checked by its receipt. Pure."""
    receipt = answer.receipt or {}
    return Sample(
        place=place,
        prompt_tokens=int(receipt.get("prompt_tokens", 0)),
        repeat=repeat,
        ttft=answer.ttft,
        load_s=float((receipt.get("ms") or {}).get("load") or 0) / 1000,
        bytes_loaded=int(receipt.get("bytes_loaded", 0)),
        fault=fault_of(place, receipt),
        receipt=receipt,
    )


def fault_of(place: Place, receipt: dict[str, Any]) -> str | None:
    """Why a receipt does not belong to a request whose KV was at ``place``; None if it does. Pure.

    All but the tail must have come from that one place. KV that a prefetch brought counts as
    being in DRAM.
    """
    if not receipt:
        return "the answer has no receipt"
    reused, prefetched = receipt["reused_tokens"], receipt["prefetched_tokens"]
    found = {
        Place.DEVICE: reused["device"],
        Place.DRAM: reused["dram"] + prefetched,
        Place.SSD: reused["ssd"] - prefetched,
    }
    told = ", ".join(f"{where} {tokens}" for where, tokens in found.items())
    if place is Place.COLD:
        return f"reused {told} tokens" if any(found.values()) else None
    wanted = receipt["prompt_tokens"] - TAIL
    source = Place.SSD if place is Place.SSD_PARKED else place
    return None if found[source] == wanted else f"reused {told} of {wanted} tokens"


def summarize(
    samples: Sequence[Sample], raw: Sequence[RawRead], lengths: Sequence[int]
) -> list[dict[str, Any]]:
    """A row a length: time to first token and load by place, and the ratios. Pure."""
    rows = []
    for length in lengths:
        good = [s for s in samples if s.prompt_tokens == length and s.fault is None]
        ttft = {p: Spread.of([s.ttft for s in good if s.place is p]) for p in Place}
        load = {p: Spread.of([s.load_s for s in good if s.place is p]) for p in Place}
        loaded = max((s.bytes_loaded for s in good), default=0)
        bare = Spread.of([r.seconds for r in raw if r.prompt_tokens == length])
        rows.append(
            {
                "prompt_tokens": length,
                "ttft_s": {p: s and asdict(s) for p, s in ttft.items()},
                "load_s": {p: s and asdict(s) for p, s in load.items()},
                "bytes_loaded": loaded,
                "bare_disk_s": bare and asdict(bare),
                "ssd_over_device": ratio(ttft[Place.SSD], ttft[Place.DEVICE]),
                "dram_over_device": ratio(ttft[Place.DRAM], ttft[Place.DEVICE]),
                "parked_over_device": ratio(ttft[Place.SSD_PARKED], ttft[Place.DEVICE]),
                "load_over_bare_disk": ratio(load[Place.SSD], bare),
                "cold_over_ssd": ratio(ttft[Place.COLD], ttft[Place.SSD]),
            }
        )
    return rows


def wanted(row: dict[str, Any]) -> dict[str, bool | None]:
    """Whether the longest prompt's figures are what Valet wants to reach. Pure."""
    over, under = row["ssd_over_device"], row["cold_over_ssd"]
    return {
        f"ssd ≤ {WANTED_SSD_OVER_DEVICE:g} × device": over and over <= WANTED_SSD_OVER_DEVICE,
        f"cold ≥ {WANTED_COLD_OVER_SSD:g} × ssd": under and under >= WANTED_COLD_OVER_SSD,
    }


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """The tables that a run prints. Pure."""

    def spread(row: dict[str, Any], of: str, place: Place) -> str:
        value = row[of][place]
        return spread_ms(value and Spread(**value))

    ttft = table(
        ["prompt tokens", *Place],
        [[str(r["prompt_tokens"]), *[spread(r, "ttft_s", p) for p in Place]] for r in rows],
    )
    names = (
        "ssd_over_device",
        "parked_over_device",
        "dram_over_device",
        "load_over_bare_disk",
        "cold_over_ssd",
    )
    ratios = table(
        ["prompt tokens", *[name.replace("_over_", "/") for name in names]],
        [[str(r["prompt_tokens"]), *[times(r[name]) for name in names]] for r in rows],
    )
    loading = (Place.DRAM, Place.SSD, Place.SSD_PARKED)
    loads = table(
        ["prompt tokens", "MiB loaded", *loading, "bare disk"],
        [
            [
                str(r["prompt_tokens"]),
                f"{r['bytes_loaded'] / 2**20:.0f}",
                *[spread(r, "load_s", p) for p in loading],
                spread_ms(r["bare_disk_s"] and Spread(**r["bare_disk_s"])),
            ]
            for r in rows
        ],
    )
    return (
        f"Time to first token, ms: median (min–max)\n{ttft}\n\nRatios of the medians\n{ratios}\n\n"
        f"Loading alone, as receipts say it, and the bare disk reading as much, ms\n{loads}"
    )


def _session(repeat: int, length: int) -> str:
    return f"resume-{repeat}-{length}"


def _warm_up(client: Client, seed: str) -> None:
    """The first request after a start pays for what is made once."""
    client.complete(client.tokens(f"warm-up {seed}", 300), MAX_TOKENS)


def main() -> None:
    """Run, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="load.bench_resume", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="restarts of the server (5)")
    parser.add_argument("--quick", action="store_true", help="short prompts, 2 repetitions")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build/bench/resume.json")
    options = parser.parse_args()
    lengths = QUICK_LENGTHS if options.quick else LENGTHS
    repeats = min(2, options.repeats) if options.quick else options.repeats
    environment = describe()
    with tempfile.TemporaryDirectory(prefix="valet-bench-") as folder:
        home = make_home(Path(folder))
        prepare_model(home)
        server = valet(home, sizes=Sizes(), dram=DRAM, ssd=SSD)
        # What is measured is a load that begins when it is asked for.
        server.env = {**server.env, "VALET_PREFETCH": "off"}
        bench = Bench(server, home / "store", lengths)
        with running(server):
            bench.run(repeats)
    rows = summarize(bench.samples, bench.raw, lengths)
    goals = wanted(rows[-1]) if not options.quick else {}
    print(f"\n{draw(rows)}\n")
    for goal, met in goals.items():
        print(f"{goal} at {lengths[-1]} tokens: {verdict(met)}")
    bad = sum(s.fault is not None for s in bench.samples)
    print(f"{len(bench.samples)} requests, {bad} not counted; samples in {options.out}")
    write_json(
        options.out,
        {
            "environment": environment,
            "repeats": repeats,
            "tail_tokens": TAIL,
            "wanted": goals,
            "lengths": rows,
            "samples": [asdict(sample) for sample in bench.samples],
            "bare_disk": [asdict(read) for read in bench.raw],
        },
    )


if __name__ == "__main__":
    main()
