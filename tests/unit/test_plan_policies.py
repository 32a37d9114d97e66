"""Valet's policies as a simulated run gets them."""

from cache_tiers.types import SessionKey
from load.plan.valet import policies
from load.simulate import EngineModel, Hardware
from load.simulate.policies import OnSsd

SESSION = SessionKey("t/a")
CHUNKS = 50


def first_cut(on_ssd: int) -> int:
    """Of an idle session's chunks, all of which are in DRAM and so many on SSD: how many stay when
    room is made."""
    made = policies(EngineModel(), Hardware(dram_bytes=2**30, ssd_bandwidth=12e9))
    assert isinstance(made.on_ssd, OnSsd)
    made.on_ssd.bind({SESSION: on_ssd}.__getitem__)
    made.dram.ended(SESSION, CHUNKS, 0.0)
    made.dram.holds(SESSION, CHUNKS, 0.0)
    return next(iter(made.dram.victims(1.0))).keep


def test_what_loads_within_the_lead_goes_first() -> None:
    assert 0 < first_cut(CHUNKS) < CHUNKS


def test_without_an_ssd_the_end_of_a_chain_is_as_dear_as_its_beginning() -> None:
    assert first_cut(0) == 0


def test_nothing_is_known_of_a_run_that_has_not_begun() -> None:
    assert OnSsd()(SESSION) == 0
