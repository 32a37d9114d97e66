"""A request's chunks, as vLLM's offloading knows them."""

from cache_tiers.types import ChunkKey
from engine.core_plugin.vllm_compat import RequestOffloadState


def chain_of(state: RequestOffloadState) -> list[tuple[ChunkKey, int]]:
    """In prefix order, each with the token at which it ends."""
    positions = state.req_context._offload_key_positions
    return [(ChunkKey(key), positions[key]) for key in sorted(positions, key=positions.__getitem__)]


def prompt_of(state: RequestOffloadState) -> list[ChunkKey]:
    """Those that lie whole within the request's prompt."""
    return [key for key, end in chain_of(state) if end <= state.req.num_prompt_tokens]
