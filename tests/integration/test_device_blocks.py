"""vLLM's block pool as Valet orders it: what nobody needs goes first."""

import hashlib
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.core.block_pool import BlockPool

from engine.core_plugin.device_blocks import VllmDeviceBlocks

TOKENS = 16
USABLE = 16
"""vLLM keeps one for itself."""


def name_of(text: str) -> Any:
    return hashlib.sha256(text.encode()).digest() + bytes(4)


class Device:
    def __init__(self) -> None:
        self.pool = BlockPool(USABLE + 1, enable_caching=True, hash_block_size=TOKENS)
        manager = SimpleNamespace(block_pool=self.pool, evict_blocks=self.pool.evict_blocks)
        self.blocks = VllmDeviceBlocks(manager)
        self.needed: set[bytes] = set()

    def compute(self, *texts: str | None) -> list[int]:
        """A request's blocks, in this order; None for the last, which is not full."""
        blocks = self.pool.get_new_blocks(len(texts))
        for block, text in zip(blocks, texts, strict=True):
            if text is not None:
                self.pool._insert_block_hash(name_of(text), block, num_tokens=None)
        return [block.block_id for block in blocks]

    def end(self, blocks: list[int]) -> None:
        self.pool.free_blocks([self.pool.blocks[block] for block in reversed(blocks)])

    def turn(self, *texts: str | None) -> None:
        self.needed.update(name_of(text) for text in texts if text is not None)
        self.end(self.compute(*texts))

    def has(self, text: str) -> bool:
        return self.blocks.cached(name_of(text)[:-4], 0) is not None

    def spare(self) -> int:
        return self.blocks.spare(USABLE, self.needed.__contains__)

    def sweep(self, most: int = USABLE + 1) -> None:
        self.blocks.sweep(most, self.needed.__contains__)


@pytest.fixture
def device() -> Device:
    return Device()


def test_what_nobody_needs_is_allocated_before_what_somebody_does(device: Device) -> None:
    for n in range(4):
        device.turn(f"a{n}", f"b{n}", f"c{n}", None)
    device.needed -= {name_of("b1"), name_of("c1")}
    assert device.spare() < 6, "it is spread over the queue"
    device.sweep()
    assert device.spare() == 6
    device.compute(*[None] * 6)
    there = {f"{x}{n}" for x in "abc" for n in range(4) if device.has(f"{x}{n}")}
    assert there == {f"{x}{n}" for x in "abc" for n in range(4)} - {"b1", "c1"}


def test_of_two_blocks_that_hold_the_same_one_goes(device: Device) -> None:
    first, second = device.compute("a", "b"), device.compute("a", "b")
    device.needed |= {name_of("a"), name_of("b")}
    device.end(first)
    device.end(second)
    device.turn(*[f"x{n}" for n in range(USABLE - 4)])
    device.sweep()
    assert device.spare() == 2
    device.compute(None, None)
    assert device.has("a")
    assert device.has("b")
    device.sweep()
    assert device.spare() == 0


def test_blocks_in_use_and_vllms_own_stay_where_they_are(device: Device) -> None:
    used = device.compute("a", "b")
    before = device.blocks.idle
    device.sweep()
    assert device.blocks.idle == before
    assert device.spare() == USABLE - len(used)
    assert {b.block_id for b in device.pool.get_new_blocks(before)}.isdisjoint({0, *used})


def test_a_large_pool_is_swept_round_and_round(device: Device) -> None:
    for n in range(4):
        device.turn(f"a{n}", f"b{n}", f"c{n}", f"d{n}")
    device.needed -= {name_of(f"a{n}") for n in range(4)}
    found = [device.spare()]
    for _ in range(5):
        device.sweep(4)
        found.append(device.spare())
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, 4)


def test_many_turns_of_sessions_that_fit_lose_nothing(device: Device) -> None:
    """Each leaves blocks behind that nobody will ask for. They must not drive out what is of
    use."""
    for n in range(3):
        device.turn(f"a{n}", f"b{n}", f"c{n}")
    for turn in range(100):
        if device.spare() < 3:
            device.sweep()
        assert device.spare() >= 3
        device.end(device.compute(f"x{turn}", f"y{turn}", None))
        assert all(device.has(f"{x}{n}") for x in "abc" for n in range(3)), turn
