"""Names of blocks when a prefix is public, by vLLM's own hasher: only the prefix is shared."""

from collections.abc import Callable
from typing import Any

import pytest
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import Request

from engine.core_plugin import entry
from engine.core_plugin.public_prefix import PublicSalt, shared_prefix_hasher

BLOCK = 4
PREFIX = list(range(100, 112))
A, B = "aa" * 32, "bb" * 32

Hasher = Callable[[Any], list[Any]]


@pytest.fixture(scope="module")
def vllm() -> Hasher:
    hash_fn = get_hash_fn_by_name("sha256")
    init_none_hash(hash_fn)
    return get_request_block_hasher(BLOCK, hash_fn)


@pytest.fixture
def shared(vllm: Hasher) -> Hasher:
    return shared_prefix_hasher(vllm, BLOCK)


def request(hasher: Hasher, tokens: list[int], salt: str | None) -> Request:
    return Request(
        request_id="r",
        prompt_token_ids=tokens,
        sampling_params=SamplingParams(max_tokens=32),
        pooling_params=None,
        cache_salt=salt,
        block_hasher=hasher,
    )


def names(hasher: Hasher, tokens: list[int], salt: str | None) -> list[Any]:
    return list(request(hasher, tokens, salt).block_hashes)


def public(tenant: str, tokens: int = len(PREFIX)) -> str:
    return str(PublicSalt(tokens, tenant))


def test_tenants_share_the_prefix_and_nothing_else(shared: Hasher) -> None:
    prompt = [*PREFIX, *range(9)]
    one, other = names(shared, prompt, public(A)), names(shared, prompt, public(B))
    assert len(one) == len(other) == 5
    assert one[:3] == other[:3]
    assert set(one[3:]).isdisjoint(other)
    assert one == names(shared, prompt, public(A))


def test_without_a_public_prefix_names_are_vllms(vllm: Hasher, shared: Hasher) -> None:
    prompt = [*PREFIX, *range(9)]
    for salt in (None, A, B):
        assert names(shared, prompt, salt) == names(vllm, prompt, salt)
    assert set(names(shared, prompt, A)).isdisjoint(names(shared, prompt, public(A)))


def test_the_same_tokens_behind_another_prefix_are_others(shared: Hasher) -> None:
    whole, part = names(shared, PREFIX, public(A)), names(shared, PREFIX, public(A, 8))
    assert whole[:2] == part[:2]
    assert whole[2] != part[2]


@pytest.mark.parametrize("at_first", [1, 8, 11, 12, 13, 16])
def test_a_request_that_grows_has_the_names_of_one_that_came_whole(
    shared: Hasher, at_first: int
) -> None:
    prompt = [*PREFIX, *range(9)]
    growing = request(shared, prompt[:at_first], public(A))
    for token in prompt[at_first:]:
        growing.append_output_token_ids(token)
    assert growing.block_hashes == names(shared, prompt, public(A))


def test_a_prefix_of_no_whole_block_is_the_tenants(vllm: Hasher, shared: Hasher) -> None:
    assert names(shared, PREFIX, public(A, 3)) == names(vllm, PREFIX, A)


def test_the_prefix_is_cut_to_whole_blocks(shared: Hasher) -> None:
    assert names(shared, PREFIX, public(A, 11)) == names(shared, PREFIX, public(A, 8))


def test_the_engine_is_asked_once_and_keeps_its_own_hasher_below(vllm: Hasher) -> None:
    class Scheduler:
        hash_block_size = BLOCK

    class Core:
        request_block_hasher = staticmethod(vllm)
        scheduler = Scheduler()

    core = Core()
    entry._share_prefixes(core)
    prompt = [*PREFIX, *range(9)]
    assert names(core.request_block_hasher, prompt, A) == names(vllm, prompt, A)
    mine = names(core.request_block_hasher, prompt, public(A))
    assert mine[:3] == names(core.request_block_hasher, prompt, public(B))[:3]


def test_vllm_still_keeps_the_hasher_where_it_is_replaced() -> None:
    assert "request_block_hasher" in EngineCore.__init__.__code__.co_names
    assert "request_block_hasher" in EngineCore.preprocess_add_request.__code__.co_names
    entry.register()
    assert callable(getattr(EngineCore, entry.SHARE_METHOD))
