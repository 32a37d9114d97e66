"""The engine's prefix cache on the device, block by block. Scheduler thread only.

A pin here is a reference, as a running request has one: a block without one is anybody's. So that
no request waits for a pin, pins are broken before blocks run short (see ``standings.py``).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

IsNeeded = Callable[[bytes], bool]
"""Whether a name in the prefix cache, with its group, is one that somebody will ask for."""


class DeviceBlocks(Protocol):
    """See the module's docstring."""

    def cached(self, block_hash: bytes, group: int) -> tuple[int, bool] | None:
        """The block that holds ``block_hash``: its number and whether it is idle; or None."""
        ...

    def evict(self, blocks: set[int]) -> None:
        """Take idle blocks out of the prefix cache."""
        ...

    def take(self, most: int, keep_share: float) -> list[int]:
        """Allocate up to ``most`` idle blocks, leaving ``keep_share`` of the idle ones."""
        ...

    def give(self, filled: Sequence[tuple[bytes, int]], empty: Sequence[int]) -> None:
        """Give taken blocks back; ``filled`` are (name in the prefix cache, block) in prefix
        order."""
        ...

    def hold(self, blocks: Sequence[int]) -> None:
        """Keep blocks from being evicted, until ``release``."""
        ...

    def release(self, blocks: Sequence[int]) -> None:
        """End a ``hold``; the first of them is evicted first."""
        ...

    def put_first(self, blocks: Iterable[int]) -> None:
        """Evict these, where idle, before all others."""
        ...

    def sweep(self, most: int, is_needed: "IsNeeded") -> None:
        """Look at the next ``most`` blocks, round and round, and have those evicted first that hold
        nothing needed."""
        ...

    def spare(self, most: int, is_needed: "IsNeeded") -> int:
        """Up to ``most`` of the blocks that would be allocated next and hold nothing needed."""
        ...

    @property
    def total(self) -> int:
        """Blocks there are."""
        ...

    @property
    def idle(self) -> int:
        """Blocks that can be allocated now."""
        ...


class VllmDeviceBlocks:
    """DeviceBlocks on vLLM's KV cache manager."""

    def __init__(self, kv_cache_manager: Any) -> None:
        self._manager = kv_cache_manager
        self._swept = 0
        """The number behind the block that was looked at last."""

    def cached(self, block_hash: bytes, group: int) -> tuple[int, bool] | None:
        """See DeviceBlocks."""
        blocks = self._pool.get_cached_block(block_hash, [group])
        return None if not blocks else (blocks[0].block_id, blocks[0].ref_cnt == 0)

    def evict(self, blocks: set[int]) -> None:
        """See DeviceBlocks."""
        self._manager.evict_blocks(blocks)

    def take(self, most: int, keep_share: float) -> list[int]:
        """See DeviceBlocks."""
        count = min(most, int(self.idle * (1 - keep_share)))
        return [block.block_id for block in self._pool.get_new_blocks(count)] if count > 0 else []

    def give(self, filled: Sequence[tuple[bytes, int]], empty: Sequence[int]) -> None:
        """See DeviceBlocks."""
        pool = self._pool
        for name, block in filled:
            pool._insert_block_hash(name, pool.blocks[block], num_tokens=None)
        # The prefix's end is evicted first: without its beginning it would be useless.
        ordered = [block for _, block in filled] + list(empty)
        pool.free_blocks([pool.blocks[block] for block in reversed(ordered)])

    def hold(self, blocks: Sequence[int]) -> None:
        """See DeviceBlocks."""
        self._pool.touch([self._pool.blocks[block] for block in blocks])

    def release(self, blocks: Sequence[int]) -> None:
        """See DeviceBlocks."""
        self._pool.free_blocks([self._pool.blocks[block] for block in blocks])

    def put_first(self, blocks: Iterable[int]) -> None:
        """See DeviceBlocks."""
        queue = self._pool.free_block_queue
        idle = [block for number in blocks if (block := self._pool.blocks[number]).ref_cnt == 0]
        for block in idle:
            queue.remove(block)
        queue.prepend_n(idle)

    def sweep(self, most: int, is_needed: IsNeeded) -> None:
        """See DeviceBlocks."""
        blocks = self._pool.blocks
        numbers = [(self._swept + i) % len(blocks) for i in range(min(most, len(blocks)))]
        self._swept = (self._swept + len(numbers)) % len(blocks)
        self.put_first(
            number
            for number in numbers
            if not blocks[number].is_null and self._is_spare(blocks[number], is_needed)
        )

    def spare(self, most: int, is_needed: IsNeeded) -> int:
        """See DeviceBlocks."""
        queue = self._pool.free_block_queue
        block, count = queue.fake_free_list_head.next_free_block, 0
        end = queue.fake_free_list_tail
        while count < most and block is not end and self._is_spare(block, is_needed):
            block, count = block.next_free_block, count + 1
        return count

    @property
    def total(self) -> int:
        """See DeviceBlocks."""
        return int(self._pool.num_gpu_blocks)

    @property
    def idle(self) -> int:
        """See DeviceBlocks."""
        return int(self._pool.get_num_free_blocks())

    def _is_spare(self, block: Any, is_needed: IsNeeded) -> bool:
        """Whether it holds nothing, nothing that is needed, or what another block holds too."""
        name = block.block_hash
        if name is None or not is_needed(name):
            return True
        return self._pool.cached_block_hash_to_block.get_one_block(name) is not block

    @property
    def _pool(self) -> Any:
        return self._manager.block_pool


def blocks_needed(
    device: DeviceBlocks,
    block_tokens: Sequence[int],
    tokens: int,
    computed: int,
    hashes: Sequence[bytes] | None,
) -> int:
    """Idle blocks that a request of ``tokens`` takes, the first ``computed`` of which are cached:
    what is cached and idle is idle no more. ``block_tokens`` has a block's size for each group,
    ``hashes`` the blocks' names where there is one group; without, all cached count as idle."""
    needed = 0
    for size in block_tokens:
        needed += -(-(tokens - computed) // size) + 1
        if hashes is None:
            needed += computed // size
        else:
            cached = (device.cached(name, 0) for name in hashes[: computed // size])
            needed += sum(block is not None and block[1] for block in cached)
    return needed
