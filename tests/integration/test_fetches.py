"""Room in DRAM for what requests will ask for: real tiers; time is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_tiers.types import ChunkKey, SessionKey
from engine.core_plugin.fetches import UNASKED_S
from tests.integration.test_foresight import World

FIRST, SECOND = SessionKey("t/first"), SessionKey("t/second")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "store")
    yield world
    world.tiers.close()


@pytest.fixture
def chains(world: World) -> dict[SessionKey, list[ChunkKey]]:
    """Two sessions that are away and on SSD alone; each is all that may come for requests."""
    turns = [world.turn("first", range(6)), world.turn("second", range(10, 16))]
    for session, chain in turns:
        world.away(session)
        world.manager.dram.drop(chain)
    return dict(turns)


def arrives(world: World, session: SessionKey) -> None:
    world.foresight.arriving(session)
    world.run()


def test_a_request_that_is_refused_gives_its_room_back(
    world: World, chains: dict[SessionKey, list[ChunkKey]]
) -> None:
    arrives(world, FIRST)
    world.now += UNASKED_S - 1
    world.foresight.arriving(SECOND)
    world.foresight.planning.fetches.advance(world.now, loads_wait=True, reads=100)
    assert not world.foresight.planning.fetches, "the first may yet ask"
    world.now += 1
    arrives(world, SECOND)
    assert world.in_dram(chains[SECOND]) == 6


def test_a_request_that_the_scheduler_has_may_wait_for_longer(
    world: World, chains: dict[SessionKey, list[ChunkKey]]
) -> None:
    arrives(world, FIRST)
    world.foresight.request_came(FIRST)
    world.now += 10 * UNASKED_S
    arrives(world, SECOND)
    assert world.in_dram(chains[FIRST]) == 6
    assert world.in_dram(chains[SECOND]) < 6
