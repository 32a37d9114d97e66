"""Costs that are learned while the engine works."""

import pytest

from cache_tiers.arbiter import Hit, Run, choose
from cache_tiers.costs import Costs
from cache_tiers.learned_costs import LearnedCosts
from cache_tiers.types import Tier

MIB = 2**20


def hit(chunks: int, tier: Tier = Tier.SSD) -> Hit:
    runs = [Run(tier, chunks)]
    return Hit(start=0, prompt=chunks * 128 + 9, chunk_tokens=128, runs=runs)


def test_it_is_what_policies_ask_for() -> None:
    costs: Costs = LearnedCosts(3 * MIB)
    assert costs.lead_s == 0


def test_loading_is_tried_before_anything_is_known() -> None:
    costs = LearnedCosts(3 * MIB)
    assert costs.load_s(10) > 0
    assert costs.compute_s(0, 1280) > costs.load_s(10)
    assert choose(hit(1), costs).chunks == 1


def test_prefills_and_transfers_are_learned() -> None:
    costs = LearnedCosts(3 * MIB)
    costs.prefilled([(0, 1000)], 0.5)
    costs.tiers[Tier.SSD].look(10, 0.1)
    costs.tiers[Tier.DRAM].look(10, 0.02)
    assert costs.compute_s(0, 1000) == pytest.approx(0.5)
    assert costs.load_s(5) == pytest.approx(0.05)
    assert costs.fetch_s(10, 5, busy=False) == pytest.approx(0.05 + 15 * 0.002)


def test_what_a_load_takes_beyond_its_transfers_is_learned() -> None:
    costs = LearnedCosts(3 * MIB)
    costs.tiers[Tier.SSD].look(10, 0.1)
    costs.tiers[Tier.DRAM].look(10, 0.0)
    for seconds in (0.13, 0.15, 9.0):
        costs.loaded(0, 10, seconds, busy=True)
    assert costs.fetch_s(0, 10, busy=True) == pytest.approx(0.15)
    assert costs.fetch_s(0, 10, busy=False) == pytest.approx(0.1)


def test_a_load_faster_than_its_transfers_is_no_gain() -> None:
    costs = LearnedCosts(3 * MIB)
    costs.tiers[Tier.SSD].look(10, 0.1)
    costs.loaded(0, 10, 0.01, busy=False)
    assert costs.fetch_s(0, 10, busy=False) >= 0.1


def test_the_lead_is_what_it_mostly_is() -> None:
    costs = LearnedCosts(3 * MIB)
    for seconds in (0.01, 0.02, 5.0):
        costs.led(seconds)
    assert costs.lead_s == 0.02


def test_slow_uploads_make_no_lead_that_all_chains_load_within() -> None:
    costs = LearnedCosts(3 * MIB)
    for _ in range(9):
        costs.led(40.0)
    assert costs.lead_s == 0.5


def test_a_slow_disk_turns_hits_into_misses_and_a_fast_one_back() -> None:
    costs = LearnedCosts(3 * MIB)
    costs.prefilled([(0, 1280)], 0.5)
    for _ in range(3):
        costs.tiers[Tier.SSD].add(4, 2.0)
    assert choose(hit(10), costs).chunks == 0
    for _ in range(3):
        costs.tiers[Tier.SSD].add(4, 0.004)
    assert choose(hit(10), costs).chunks == 10
