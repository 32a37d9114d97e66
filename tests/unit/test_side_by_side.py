"""How large a comparison is, and how its gaps are stretched."""

import pytest

from load.bench_infinite import wanted as infinite_wanted
from load.bench_prefetch import wanted as prefetch_wanted
from load.paced import MEAN_TOOL_S
from load.side_by_side import FULL, QUICK, ROOMY, Scale, parser, scale_of, stretch_for
from load.stints import KV_BYTES


@pytest.mark.parametrize("scale", [QUICK, FULL])
def test_a_scale_fits_its_servers(scale: Scale) -> None:
    team = scale.team()
    assert len(team) == scale.agents
    assert all(scale.shortest <= agent.tokens <= 1.1 * scale.longest for agent in team)
    assert 1.1 * scale.longest < scale.context < scale.max_model_len
    assert scale.live_bytes < ROOMY
    # vLLM wants room for its longest request.
    assert scale.live_bytes / 8 > scale.max_model_len * KV_BYTES
    assert [a.tokens for a in team] == [a.tokens for a in scale.team()]


def test_gaps_leave_the_machine_alone_for_the_rest_of_the_time() -> None:
    stretch = stretch_for(0.4, 0.5, 24)
    cycle_s = MEAN_TOOL_S * stretch + 0.5
    assert 24 * 0.5 / cycle_s == pytest.approx(0.4)
    assert stretch_for(0.9, 0.001, 1) > 0


def test_options_change_the_scale() -> None:
    options = parser("infinite", "Text.").parse_args(
        ["--quick", "--rounds", "7", "--busy", "0.3", "--unnamed"]
    )
    scale = scale_of(options)
    assert (scale.rounds, scale.busy, scale.seconds) == (7, 0.3, QUICK.seconds)
    assert not scale.pace.named
    assert options.out.name == "infinite.json"
    plain = scale_of(parser("infinite", "Text.").parse_args([]))
    assert plain == FULL


def test_what_is_wanted_of_a_small_device() -> None:
    good = {"ttft_p50": 1.2, "ttft_p99": 2.0, "turns_per_minute": 0.9}
    assert set(infinite_wanted(good).values()) == {True}
    for name, value in (("ttft_p50", 1.21), ("ttft_p99", 2.1), ("turns_per_minute", 0.89)):
        assert list(infinite_wanted(good | {name: value}).values()).count(False) == 1
    assert set(infinite_wanted(dict.fromkeys(good)).values()) == {None}


def test_what_is_wanted_of_prefetch() -> None:
    def judged(low: float, high: float) -> set[bool | None]:
        return set(prefetch_wanted({"paired": {"low": low, "high": high}}).values())

    assert judged(0.8, 0.99) == {True}
    assert judged(0.8, 1.01) == {False}
    assert set(prefetch_wanted({"paired": None}).values()) == {None}
