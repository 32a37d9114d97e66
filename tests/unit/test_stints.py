"""What stints of paced agents' work say."""

from typing import Any

import pytest

from load.stints import Stint, compare, draw, live_bytes, short, summarize
from load.team import Turned


def _turn(agent: int, number: int, ttft: float, **changes: Any) -> Turned:
    receipt = {
        "prompt_tokens": 1000,
        "computed_tokens": 104,
        "reused_tokens": {"device": 512, "dram": 256, "ssd": 128},
        "prefetched_tokens": 128,
        "miss": [{"reason": "appended", "at_token": 896, "tokens": 104}],
    }
    return Turned(
        **{
            "agent": agent,
            "number": number,
            "sent": 10.0 * number,
            "tool": "search",
            "gap_s": 9.0,
            "announced": False,
            "ttft": ttft,
            "ended": 1.0,
            "output_tokens": 8,
            "receipt": receipt,
            **changes,
        }
    )


def _stint(server: str, factor: float = 1.0, round_: int = 0) -> Stint:
    turns = [
        _turn(agent, number, factor * (0.1 + 0.01 * number))
        for number in range(1, 6)
        for agent in (0, 1)
    ]
    return Stint(server, round_, tuple(turns))


def test_live_kv_is_whole_chunks() -> None:
    assert live_bytes([128, 129]) == 3 * 128 * 23_040


def test_figures_of_a_server() -> None:
    of = summarize([_stint("valet"), _stint("valet", 2.0, 1)])
    assert of["turns"] == 20
    assert of["ttft_s"]["p50"] == pytest.approx(0.15)
    assert [each["p50"] for each in of["ttft_by_round_s"]] == pytest.approx([0.13, 0.26])
    assert of["live_bytes"] == [2 * 8 * 128 * 23_040] * 2
    assert of["kv"]["reused_tokens"] == {"device": 10_240, "dram": 5_120, "ssd": 2_560}


def test_turns_a_minute_leave_out_who_waited_for_a_person() -> None:
    one = Stint("valet", 0, (_turn(0, 1, 0.1), _turn(0, 2, 0.1, tool="", gap_s=500.0)))
    assert summarize([one])["turns_per_minute"] == pytest.approx(6)
    two = Stint("valet", 0, (*one.turns, _turn(1, 1, 0.1)))
    assert summarize([two])["turns_per_minute"] == pytest.approx(12)
    persons = Stint("valet", 0, (_turn(0, 1, 0.1, tool=""),))
    assert summarize([persons])["turns_per_minute"] is None


def test_what_was_waited_for_is_told_apart() -> None:
    turns = (
        _turn(0, 1, 0.1, tool=""),
        _turn(0, 2, 0.2),
        _turn(0, 3, 0.3, announced=True),
    )
    after = summarize([Stint("valet", 0, turns)])["ttft_after_s"]
    assert {kind: some["p50"] for kind, some in after.items()} == {
        "person": 0.1,
        "tool": 0.2,
        "tool, announced": 0.3,
    }


@pytest.mark.parametrize(
    ("sent", "share"),
    [((0.0, 2.0, 4.0), 3 / 5), ((0.0, 0.5, 3.5), 2.5 / 4.5), ((0.0,), 1.0)],
)
def test_the_busy_share_counts_no_moment_twice(sent: tuple[float, ...], share: float) -> None:
    turns = tuple(_turn(n, 1, 0.1, sent=at) for n, at in enumerate(sent))
    assert summarize([Stint("valet", 0, turns)])["busy_share"] == pytest.approx(share)


def test_one_server_over_another() -> None:
    ratios = compare([_stint("a", 1.5)], [_stint("b")])
    assert ratios["ttft_p50"] == pytest.approx(1.5)
    assert ratios["ttft_p99"] == pytest.approx(1.5)
    assert ratios["turns_per_minute"] == pytest.approx(1)
    assert ratios["paired"]["median"] == pytest.approx(1.5)
    assert ratios["paired"]["count"] == 10


def test_pairs_are_equal_turns() -> None:
    over = Stint("a", 0, (_turn(0, 1, 0.2), _turn(0, 2, 0.8)))
    under = Stint("b", 0, (_turn(0, 1, 0.1), _turn(0, 3, 0.1)))
    assert compare([over], [under])["paired"]["count"] == 1
    nothing = compare([over], [Stint("b", 0, (_turn(7, 1, 0.1),))])
    assert nothing["paired"] is None


def test_tables_have_a_line_for_each_server() -> None:
    text = draw({"a": summarize([_stint("a")]), "b": summarize([_stint("b", 2.0)])})
    assert "130.0" in text
    assert "260.0" in text
    assert "51.2%" in text
    assert short(_stint("a").turns).startswith("10 turns, 130.0 ms")
