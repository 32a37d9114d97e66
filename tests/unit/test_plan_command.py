"""``valet plan`` as it is typed."""

import json
from pathlib import Path

import pytest

from app.cli import _parser, main
from load.simulate import EngineModel, Hardware

TINY = ["--dram", "2GiB", "--ssd", "64GiB", "--users", "2", "--turns", "20", "--jobs", "1"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Four sessions of ten turns that grow by 2,000 tokens."""
    lines = [
        {"session": f"s{s}", "gap_s": 5, "prompt": 4000 + 2000 * t, "output": 100, "awaits": "tool"}
        for s in range(4)
        for t in range(10)
    ]
    path = tmp_path / "day.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_from_a_trace_to_a_chart(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--chart", "plan.svg", "--json", "plan.json"]
    assert main(["plan", "--trace", str(trace), *TINY, *files]) == 0
    said = capsys.readouterr().out
    found = json.loads(Path("plan.json").read_text())
    assert said.startswith("2 users of day.jsonl (4 sessions, 40 requests); 20 turns")
    assert said.rstrip().endswith(found["advice"])
    assert found["asked"]["turns"] >= 20
    assert found["asked"]["prompt_tokens"] > found["asked"]["reusable_tokens"] > 0
    assert [each["users"] for each in found["by_users"]] == [1, 2, 4, 8]
    assert "█" not in said
    assert "<svg" in Path("plan.svg").read_text()


def test_without_a_chart_bars_are_drawn(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--trace", str(trace), *TINY]) == 0
    assert "on the device" in capsys.readouterr().out


def test_the_same_question_has_the_same_answer(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["plan", "--trace", str(trace), *TINY])
    first = capsys.readouterr().out
    main(["plan", "--trace", str(trace), *TINY])
    assert capsys.readouterr().out == first


def test_a_model_says_how_much_kv_a_token_has(trace: Path, tmp_path: Path) -> None:
    config = {
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "hidden_size": 576,
        "torch_dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = ["--model", str(tmp_path), "--json", "plan.json"]
    assert main(["plan", "--trace", str(trace), *TINY, *model]) == 0
    found = json.loads(Path("plan.json").read_text())
    assert found["asked"]["hardware"]["kv_bytes"] == 23_040


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dram", "64"], "expected a size such as"),
        (["--dram", "0"], "expected more than 0"),
        (["--ssd-bandwidth", "3"], "such as 3GB/s"),
        (["--ssd-bandwidth", "0GB/s"], "such as 3GB/s"),
        (["--users", "0"], "a number from 1"),
        (["--prefill-tokens-per-s", "1000,2000"], "no faster prefill"),
        (["--chart", "plan.pdf"], "ends in .svg or .png"),
        (["--model", "m", "--kv-bytes-per-token", "9"], "not allowed with"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["plan", "--trace", "generated", *TINY, *arguments])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["none.jsonl", "empty.jsonl"])
def test_a_trace_that_is_none_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert main(["plan", "--trace", name, *TINY]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"valet: {name}")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("gap", ["NaN", "Infinity", "-50"])
def test_a_line_with_no_gap_of_this_world_is_left_out(
    gap: str, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with trace.open("a") as file:
        file.write(f'{{"session": "s0", "gap_s": {gap}, "prompt": 30000, "output": 100}}\n')
    assert main(["plan", "--trace", str(trace), *TINY]) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 users of day.jsonl (4 sessions, 40 requests, 1 line not understood)")


def test_a_model_that_is_none_is_one_line(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"num_hidden_layers": 30, "num_attention_heads": 0, "torch_dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["plan", "--trace", str(trace), *TINY, "--model", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.endswith("is no model's: num_attention_heads is not above 0\n")
    assert said.count("\n") == 1


def test_rates() -> None:
    more = ["--ssd-bandwidth", "500 MB/s", "--prefill-tokens-per-s", "1000", "--device", "1.5GiB"]
    parsed = _parser().parse_args(["plan", "--trace", "generated", *TINY, *more])
    assert parsed.ssd_bandwidth == 500e6
    assert parsed.prefill_tokens_per_s == (1000, None)
    assert parsed.device == 1.5 * 2**30


def test_help_states_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    said = capsys.readouterr().out
    engine = EngineModel()
    near, far = (
        1 / engine.prefill_s,
        1 / (engine.prefill_s + 32_768 * engine.prefill_s_per_position),
    )
    assert f"{near:.0f},{far:.0f}" in said
    assert f"(default {1 / engine.decode_s:.0f})" in said
    assert f"default {Hardware().kv_bytes}" in said
