"""What goes in and comes out where every generation passes, in vLLM's own types; no engine."""

from typing import Any

import pytest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from engine.core_plugin.public_prefix import PublicSalt
from engine.port import Generation
from engine.prompts import substitute
from engine.public_prefixes import PublicPrefixes
from engine.session_llm import note_tokens, salt
from engine.vllm_server import end_of_turn

TENANT = "ab" * 32


def output(*choices: tuple[int, list[int]]) -> RequestOutput:
    return RequestOutput(
        request_id="r",
        prompt=None,
        prompt_token_ids=[1],
        prompt_logprobs=None,
        outputs=[CompletionOutput(index, "", tokens, None, None) for index, tokens in choices],
        finished=False,
    )


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        (RequestOutputKind.DELTA, [[5, 6], [7], []]),
        (RequestOutputKind.CUMULATIVE, [[5], [5, 6], [5, 6, 7]]),
        (RequestOutputKind.FINAL_ONLY, [[5, 6, 7]]),
    ],
)
def test_the_first_choices_tokens_are_the_answer(
    kind: RequestOutputKind, outputs: list[list[int]]
) -> None:
    generation = Generation(started_at=0.0)
    for tokens in outputs:
        note_tokens(generation, output((1, [90, 91]), (0, tokens)), kind)
        note_tokens(generation, output((1, [92])), kind)
    assert generation.answer_tokens == [5, 6, 7]


def test_deltas_that_vllm_merges_are_all_there() -> None:
    merged = output((0, [5]))
    merged.add(output((0, [6, 7])), aggregate=True)
    generation = Generation(started_at=0.0)
    note_tokens(generation, merged, RequestOutputKind.DELTA)
    assert generation.answer_tokens == [5, 6, 7]


def test_vllms_parameters_are_cut_to_the_room() -> None:
    params = SamplingParams(max_tokens=6, stop=["x"])
    prompt = {"type": "token", "prompt_token_ids": [1, 2]}
    result, cut = substitute(prompt, params, lambda _: [3] * 8, max_model_len=10, vocabulary=9)
    assert result["prompt_token_ids"] == [3] * 8
    assert (cut.max_tokens, cut.stop) == (2, ["x"])
    assert params.max_tokens == 6


def test_a_beams_steps_are_told_from_answers() -> None:
    """Only they are not detokenized: see ``substitute``."""
    assert SamplingParams().detokenize
    prompt = {"type": "token", "prompt_token_ids": [1, 2]}
    step = SamplingParams(max_tokens=1, logprobs=4, detokenize=False)
    same, _ = substitute(prompt, step, lambda _: [3], max_model_len=10, vocabulary=9)
    assert same is prompt


@pytest.mark.parametrize(
    ("tokenizer", "config", "ids"),
    [
        (2, {}, {2}),
        (2, {"eos_token_id": 3}, {2, 3}),
        (2, {"eos_token_id": [2, 7]}, {2, 7}),
        (None, {"eos_token_id": 0}, {0}),
        (None, {"eos_token_id": None}, set()),
    ],
)
def test_what_ends_a_turn(tokenizer: int | None, config: dict[str, Any], ids: set[int]) -> None:
    assert end_of_turn(tokenizer, config) == ids


def test_only_a_public_prefix_changes_the_salt() -> None:
    public = PublicPrefixes([[1, 2, 3, 4, 5]], chunk_tokens=2)
    prompt = {"type": "token", "prompt_token_ids": [1, 2, 3, 4, 9, 9]}
    assert salt(TENANT, prompt, public) == str(PublicSalt(4, TENANT))
    assert salt(TENANT, {**prompt, "prompt_token_ids": [2, 1]}, public) == TENANT
    assert salt(TENANT, {**prompt, "type": "multimodal"}, public) == TENANT
    assert salt(TENANT, prompt, None) == TENANT


def test_vllm_still_has_the_renderer_that_knows_the_tokenizers_end() -> None:
    assert "renderer" in AsyncLLM.__init__.__code__.co_names
