"""``valet plan``: what would this hardware give me? Simulated; touches no server and no store.

The arguments become a question to ``load.plan``, whose answer is printed and drawn. ``load`` is
imported when the command runs: parsing needs none of it.
"""

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app import setting_values

if TYPE_CHECKING:
    from load.plan import Question, Workload
    from load.plan.answer import SimulateAll
    from load.simulate import EngineModel

_CHARTS = (".svg", ".png")
_FAR_TOKEN = 32_768
"""Where the second of two prefill speeds holds."""
_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([KMGT])B/s", re.IGNORECASE)
_POWERS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command."""
    need = parser.add_argument_group("needed")
    need.add_argument(
        "--trace",
        required=True,
        metavar="FILE",
        help="of WEKA's, Mooncake's or Valet's own format; or generated, for made-up coding agents",
    )
    need.add_argument("--dram", type=_room, required=True, metavar="SIZE", help="such as 64GiB")
    need.add_argument("--ssd", type=_size, required=True, metavar="SIZE", help="0 for none")
    need.add_argument(
        "--users",
        type=_count,
        required=True,
        metavar="N",
        help="each waits for an answer, then as long as the trace's users did",
    )
    hardware = parser.add_argument_group("hardware and model")
    hardware.add_argument(
        "--device",
        type=_room,
        default="64GiB",
        metavar="SIZE",
        help="room for KV on the device (default 64GiB)",
    )
    hardware.add_argument(
        "--ssd-bandwidth",
        type=_rate,
        default="3GB/s",
        metavar="RATE",
        help="of its reads (default 3GB/s)",
    )
    kv = hardware.add_mutually_exclusive_group()
    kv.add_argument(
        "--kv-bytes-per-token", type=_count, metavar="N", help="(default 160000, a 70B model's)"
    )
    kv.add_argument(
        "--model",
        type=Path,
        dest="model_folder",
        metavar="FOLDER",
        help="take the bytes a token from its config.json",
    )
    hardware.add_argument(
        "--prefill-tokens-per-s",
        type=_prefill,
        metavar="N[,N]",
        help=f"at a prompt's beginning, and at token {_FAR_TOKEN:,} (default 50000,30897; the "
        "second of one number is as much lower as there)",
    )
    hardware.add_argument(
        "--decode-tokens-per-s", type=_count, metavar="N", help="of one answer alone (default 67)"
    )
    run = parser.add_argument_group("the simulation")
    run.add_argument(
        "--turns",
        type=_count,
        default=1500,
        metavar="N",
        help="counted of each configuration: more is steadier and slower (default 1500)",
    )
    run.add_argument("--seed", type=int, default=0, metavar="N", help="of all chance (default 0)")
    run.add_argument(
        "--jobs",
        type=_count,
        default=os.cpu_count() or 1,
        metavar="N",
        help="configurations simulated at a time (default one for each core)",
    )
    out = parser.add_argument_group("output")
    out.add_argument("--chart", type=_chart, metavar="FILE", help="draw it, as .svg or .png")
    out.add_argument("--json", type=Path, metavar="FILE", help="write it for programs")


def run(parsed: argparse.Namespace) -> int:
    """Simulate, print, and write what was asked for. 0. Raises CannotPlan and OSError."""
    from load.plan import answer, text
    from load.plan.advice import advise
    from load.report import write_json

    workload = _workload(parsed)
    with _simulating(parsed.jobs) as simulate_all:
        found = answer(_question(parsed), workload, simulate_all)
    print(text.report(found, workload))
    if parsed.chart is None:
        print(f"\n{text.bars(found)}")
    else:
        from load.plan.chart import draw  # heavy

        draw(found, workload, parsed.chart)
    if parsed.json is not None:
        write_json(parsed.json, text.as_json(found, workload))
    print(f"\n{advise(found)}")
    return 0


def _workload(parsed: argparse.Namespace) -> "Workload":
    from load.plan.workload import GENERATED, generated, read

    return generated(parsed.seed) if parsed.trace == GENERATED else read(Path(parsed.trace))


def _question(parsed: argparse.Namespace) -> "Question":
    from load.plan import Question
    from load.plan.kv_size import read_kv_bytes
    from load.simulate import Hardware

    kv_bytes = parsed.kv_bytes_per_token or Hardware().kv_bytes
    if parsed.model_folder is not None:
        kv_bytes = read_kv_bytes(parsed.model_folder)
    return Question(
        hardware=Hardware(
            dram_bytes=parsed.dram,
            ssd_bytes=parsed.ssd,
            device_bytes=parsed.device,
            ssd_bandwidth=parsed.ssd_bandwidth,
            kv_bytes=kv_bytes,
        ),
        engine=_engine(parsed),
        users=parsed.users,
        turns=parsed.turns,
        seed=parsed.seed,
    )


def _engine(parsed: argparse.Namespace) -> "EngineModel":
    from load.simulate import EngineModel

    engine = EngineModel()
    if parsed.prefill_tokens_per_s is not None:
        near, far = parsed.prefill_tokens_per_s
        dearer_s = engine.prefill_s_per_position / (engine.prefill_s * near)
        if far is not None:
            dearer_s = (1 / far - 1 / near) / _FAR_TOKEN
        engine = replace(engine, prefill_s=1 / near, prefill_s_per_position=dearer_s)
    if parsed.decode_tokens_per_s is not None:
        engine = replace(engine, decode_s=1 / parsed.decode_tokens_per_s)
    return engine


@contextmanager
def _simulating(jobs: int) -> "Iterator[SimulateAll]":
    """Runs simulations, so many at a time."""
    if jobs == 1:
        yield map
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield pool.map


# --- types of arguments ---------------------------------------------------------------------------


def _size(text: str) -> int:
    try:
        return setting_values.size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _room(text: str) -> int:
    room = _size(text)
    if not room:
        raise argparse.ArgumentTypeError("expected more than 0")
    return room


def _rate(text: str) -> float:
    match = _RATE.fullmatch(text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"expected bytes a second such as 3GB/s, not {text!r}")
    return float(match[1]) * _POWERS[match[2].lower()]


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number from 1, not {text!r}")
    return int(text)


def _prefill(text: str) -> tuple[int, int | None]:
    """Tokens a second near the beginning and far from it."""
    first, comma, second = text.partition(",")
    near, far = _count(first), _count(second) if comma else None
    if far is not None and far > near:
        raise argparse.ArgumentTypeError("expected no faster prefill at later tokens")
    return near, far


def _chart(text: str) -> Path:
    path = Path(text)
    if path.suffix not in _CHARTS:
        raise argparse.ArgumentTypeError(f"expected a name that ends in {' or '.join(_CHARTS)}")
    return path
