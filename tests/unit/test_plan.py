"""The answer to what hardware would give: its question, its workload, its figures."""

import gzip
import json
import math
import xml.etree.ElementTree as ElementTree
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from load.plan import Answer, Place, Point, Question, Workload, answer
from load.plan.advice import advise
from load.plan.chart import draw
from load.plan.errors import CannotPlan
from load.plan.kv_size import kv_bytes, read_kv_bytes
from load.plan.text import as_json, bars, report
from load.plan.units import gigabytes_a_second, percent, seconds, size, terabytes_a_day
from load.plan.workload import generated, read
from load.simulate import EngineModel, Hardware, Outcome, Prefetching, SteadyState
from load.traces import Request

GIB = 2**30
ASKED = Question(
    hardware=Hardware(
        dram_bytes=64 * GIB,
        ssd_bytes=4096 * GIB,
        device_bytes=32 * GIB,
        ssd_bandwidth=3e9,
        kv_bytes=100_000,
    ),
    engine=EngineModel(),
    users=16,
    turns=600,
)
WORKLOAD = Workload("day.jsonl", (Request("a", 0.0, 10, 1, "", ()),), block_tokens=1, skipped=2)


def _point(
    question: Question,
    hot: float,
    *,
    late: float = 0.01,
    turns_per_minute: float = 10.0,
    live: float = 1e6,
    in_use: float = 1e5,
    fetched: int = 0,
) -> Point:
    """A million reusable tokens, ``hot`` and ``late`` shares of them; 600 turns."""
    tokens = 1_000_000
    hot_tokens, late_tokens = round(hot * tokens), round(late * tokens)
    steady = SteadyState(
        turns=600,
        turns_per_minute=turns_per_minute,
        prompt_tokens=tokens + 60_000,
        reusable_tokens=tokens,
        device_tokens=hot_tokens // 4,
        dram_tokens=hot_tokens - hot_tokens // 4,
        late_tokens=late_tokens,
        recomputed_tokens=tokens - hot_tokens - late_tokens,
        ttft_s=(0.5, 12 * (1 - hot), 50 * (1 - hot)),
        live_tokens=live,
        in_use_tokens=in_use,
    )
    prefetching = Prefetching(fetched, fetched // 2, fetched // 4, 10, 1)
    none = array("l")
    return Point(question, Outcome(steady, prefetching, 1000, 3600.0, 800, none, none))


def _answer(hot: Mapping[float, float], **of_all: float) -> Answer:
    """By share of the DRAM that was asked. Users do not hinder one another."""
    by_dram = [
        _point(question, hot[factor], **of_all)
        for factor, question in zip((0.25, 0.5, 1, 2, 4), ASKED.by_dram(), strict=True)
    ]
    by_users = [
        by_dram[2] if question == ASKED else _point(question, 0.9, turns_per_minute=rate)
        for question, rate in zip(ASKED.by_users(), (2.5, 5, 10, 20, 40), strict=True)
    ]
    return Answer(by_dram[2], by_dram, by_users)


RISING = {0.25: 0.60, 0.5: 0.75, 1: 0.85, 2: 0.97, 4: 0.975}
FLAT = {0.25: 0.60, 0.5: 0.97, 1: 0.971, 2: 0.972, 4: 0.973}


# --- the question ---------------------------------------------------------------------------------


def test_a_sweep_goes_around_what_was_asked() -> None:
    sizes = [question.hardware.dram_bytes / GIB for question in ASKED.by_dram()]
    assert sizes == [16, 32, 64, 128, 256]
    assert [question.users for question in ASKED.by_users()] == [4, 8, 16, 32, 64]
    assert ASKED in list(ASKED.by_dram())
    assert ASKED in list(ASKED.by_users())


def test_fewer_users_than_one_are_nobody() -> None:
    alone = Question(ASKED.hardware, ASKED.engine, users=1)
    assert [question.users for question in alone.by_users()] == [1, 2, 4]


# --- the workload ---------------------------------------------------------------------------------

LINES: dict[str, dict[str, Any]] = {
    "coding": {
        "id": "s",
        "requests": [{"t": 0, "type": "n", "in": 130, "out": 5, "hash_ids": [1, 2]}],
    },
    "mooncake": {"timestamp": 0, "input_length": 512, "output_length": 5, "hash_ids": [1]},
    "own": {"session": "s", "prompt": 100, "output": 5},
}


@pytest.mark.parametrize(
    ("format_", "block_tokens"), [("coding", 64), ("mooncake", 512), ("own", 1)]
)
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_a_trace_is_known_by_its_content(
    tmp_path: Path, format_: str, block_tokens: int, ending: str
) -> None:
    path = tmp_path / f"trace{ending}"
    text = f"not a line\n{json.dumps(LINES[format_])}\n".encode()
    path.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    workload = read(path)
    assert (workload.block_tokens, workload.skipped) == (block_tokens, 1)
    assert (workload.sessions, len(workload.requests)) == (1, 1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.jsonl", b""),
        ("other.jsonl", b'{"prompt": "hello"}\n[1]\n'),
        ("torn.jsonl.gz", gzip.compress(b"{}", mtime=0)[:-9]),
        ("no.jsonl.gz", b"{}"),
        ("useless.jsonl", b'{"session": "s", "prompt": -1, "output": 0}\n'),
    ],
)
def test_what_is_no_trace_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CannotPlan, match=name):
        read(path)


def test_generated_sessions_are_those_of_the_seed() -> None:
    one, again, other = generated(1, 3), generated(1, 3), generated(2, 3)
    assert one.requests == again.requests != other.requests
    assert one.sessions == 3


# --- KV a token -----------------------------------------------------------------------------------

LLAMA = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "torch_dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LLAMA, 32 * 8 * 128 * 2 * 2),
        (LLAMA | {"head_dim": 64}, 32 * 8 * 64 * 2 * 2),
        (LLAMA | {"num_key_value_heads": None, "torch_dtype": "float32"}, 32 * 32 * 128 * 2 * 4),
        ({"text_config": LLAMA, "num_hidden_layers": 2}, 32 * 8 * 128 * 2 * 2),
        (LLAMA | {"kv_lora_rank": 512, "qk_rope_head_dim": 64}, 32 * 576 * 2),
    ],
)
def test_kv_of_a_token(config: dict[str, Any], expected: int) -> None:
    assert kv_bytes(config) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "--kv-bytes-per-token"),
        ("[", "no model's"),
        ("[]", "no model's"),
        (json.dumps(LLAMA | {"torch_dtype": "int3"}), "int3"),
        (json.dumps(LLAMA | {"num_attention_heads": 0}), "num_attention_heads is not above 0"),
        (json.dumps(LLAMA | {"num_hidden_layers": 0}), "num_hidden_layers is not above 0"),
        (json.dumps(LLAMA | {"num_key_value_heads": -8}), "num_key_value_heads is not above 0"),
        (json.dumps(LLAMA | {"num_attention_heads": 10**6}), "no model has"),
        (json.dumps(LLAMA | {"hidden_size": 10**300}), "no model has"),
        (json.dumps(LLAMA | {"hidden_size": math.inf}), "no model's"),
        ("[" * 10_000, "no model's"),
    ],
)
def test_what_does_not_say_it(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CannotPlan, match=message):
        read_kv_bytes(tmp_path)


# --- the answer -----------------------------------------------------------------------------------


def test_each_configuration_is_simulated_once() -> None:
    seen = []

    def simulate_all(one: Any, questions: Any) -> Any:
        seen.extend(questions)
        return [_point(question, 0.9) for question in questions]

    found = answer(ASKED, WORKLOAD, simulate_all)
    assert len(seen) == len(set(seen)) == 9
    assert found.asked.question == ASKED
    assert found.by_dram[2] is found.by_users[2] is found.asked


def test_figures_of_a_point() -> None:
    point = _point(ASKED, 0.8, late=0.06, fetched=360_000)
    assert sum(point.tokens.values()) == 1_000_000
    assert point.shares[Place.SSD] == pytest.approx(0.06)
    # An hour, in which 60,000 tokens were waited for, 360,000 prefetched, and 60,000 are new.
    assert point.read_bytes_per_s == pytest.approx(420_000 * 100_000 / 3600)
    assert point.written_bytes_per_day == pytest.approx(24 * 60_000 * 100_000)
    assert point.live_bytes == 1e6 * 100_000


def test_nothing_counted_is_no_rate() -> None:
    point = _point(ASKED, 0.8, turns_per_minute=0.0)
    assert point.written_bytes_per_day == 0
    assert math.isfinite(point.read_bytes_per_s)


# --- advice ---------------------------------------------------------------------------------------


def test_dram_that_helps() -> None:
    said = advise(_answer(RISING))
    assert said.startswith("More DRAM helps: with 128 GiB instead of 64 GiB, 97.0 % ")
    assert "instead of 85.0 %" in said
    assert said.endswith("within 0.36 s instead of 1.8 s.")


def test_dram_that_is_enough() -> None:
    said = advise(_answer(FLAT))
    assert said.startswith("DRAM beyond 32 GiB brings less than 1 %: 97.0 % ")
    assert said.endswith("97.3 % at best; with 16 GiB it is 60.0 %.")


def test_dram_that_does_not_matter() -> None:
    said = advise(_answer(dict.fromkeys(FLAT, 0.99)))
    assert said.startswith("DRAM beyond 16 GiB brings less than 1 %")
    assert said.endswith("99.0 % at best.")


def test_a_slow_disk() -> None:
    # An hour at 3 GB/s is 108 million tokens.
    assert advise(_answer(RISING, fetched=90_000_000, late=0.02)).startswith(
        "The SSD's bandwidth is the limit: 2.5 GB/s of 3 GB/s are in use on average, and 15.0 %"
    )


def test_a_busy_disk_that_nobody_waits_for_is_no_limit() -> None:
    hot = dict.fromkeys(FLAT, 0.99)
    assert advise(_answer(hot, fetched=90_000_000, late=0.005)).startswith("DRAM beyond")


def test_a_disk_that_takes_too_little() -> None:
    said = advise(_answer(RISING, live=5e7))
    assert said.startswith("The SSD is too small: the sessions that users have open have 4.55 TiB")


def test_a_full_device() -> None:
    said = advise(_answer(RISING, in_use=3e5))
    assert said.startswith("The device's room is the limit: requests that run take 27.9 GiB of its")


def test_a_busy_engine() -> None:
    found = _answer(FLAT)
    saturated = [
        _point(each.question, 0.97, turns_per_minute=min(9.5, 1.25 * each.question.users))
        for each in found.by_users
    ]
    said = advise(Answer(found.asked, found.by_dram, saturated))
    assert said == ("The engine is the limit: 8 users get 9.5 turns a minute already, 16 get 10.0.")


def test_an_engine_that_more_dram_relieves_is_not_the_limit() -> None:
    found = _answer(RISING)
    relieved = [*found.by_dram[:-1], _point(found.by_dram[-1].question, 0.99, turns_per_minute=30)]
    saturated = [_point(each.question, 0.9) for each in found.by_users]
    assert advise(Answer(found.asked, relieved, saturated)).startswith("More DRAM helps")


# --- how it is shown ------------------------------------------------------------------------------


def test_the_report() -> None:
    lines = report(_answer(RISING), WORKLOAD).splitlines()
    assert lines[0] == (
        "16 users of day.jsonl (1 session, 1 request, 2 lines not understood); 600 turns counted "
        "in each row"
    )
    assert "SSD 4 TiB at 3 GB/s" in lines[1]
    asked = [line for line in lines if line.startswith("→")]
    assert [line.split()[1:3] for line in asked] == [["64", "GiB"], ["16", "users"]]
    assert "21.2 %  63.7 %  1.0 %  14.0 %" in asked[0]
    assert max(map(len, lines)) <= 120


def test_bars_are_as_long_as_the_shares() -> None:
    lines = bars(_answer(RISING)).splitlines()
    (asked,) = [line for line in lines if line.startswith("→ ") and "GiB" in line]
    bar = asked.split("▏")[1]
    assert len(bar) == 60
    assert (bar.count("█"), bar.count("▓"), bar.count("▒"), bar.count("·")) == (13, 38, 1, 8)


def test_json_has_all_points() -> None:
    value = json.loads(json.dumps(as_json(_answer(RISING), WORKLOAD)))
    assert len(value["by_dram"]) == len(value["by_users"]) == 5
    assert value["asked"]["reusable_tokens_by_place"] == {
        "device": 212_500,
        "dram": 637_500,
        "ssd": 10_000,
        "computed": 140_000,
    }
    assert value["advice"].startswith("More DRAM helps")


def test_a_chart_is_a_valid_svg_and_the_same_each_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    for path in (first, second):
        draw(_answer(RISING), WORKLOAD, path)
    root = ElementTree.parse(first).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    patterns = root.findall(".//{http://www.w3.org/2000/svg}pattern")
    assert len(patterns) == 2, "what is late and what is computed again can be told without colours"
    assert first.read_bytes() == second.read_bytes()


def test_a_chart_of_a_single_user(tmp_path: Path) -> None:
    question = Question(ASKED.hardware, ASKED.engine, users=1)
    points = [_point(each, 0.9) for each in question.by_dram()]
    users = [_point(each, 0.9) for each in question.by_users()]
    draw(Answer(points[2], points, users), WORKLOAD, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (size(48 * GIB), "48 GiB"),
        (size(1.5 * 1024 * GIB), "1.5 TiB"),
        (size(1000 * GIB), "0.98 TiB"),
        (size(512), "512 B"),
        (gigabytes_a_second(3e9), "3 GB/s"),
        (terabytes_a_day(7.834e12), "7.83 TB"),
        (percent(0.9741), "97.4 %"),
        (seconds(0.536), "0.54 s"),
        (seconds(617.2), "617 s"),
        (seconds(12.04), "12 s"),
    ],
)
def test_units(text: str, expected: str) -> None:
    assert text == expected
