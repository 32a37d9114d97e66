"""What the engine is given to compute instead of what the chat template rendered. Pure."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Params = TypeVar("Params", bound=Any)
"""vLLM's SamplingParams."""


def substitute(
    prompt: dict[str, Any],
    params: Params,
    on_prompt: Callable[[Sequence[int]], Sequence[int]],
    *,
    max_model_len: int,
    vocabulary: int,
) -> tuple[dict[str, Any], Params]:
    """vLLM's prompt and parameters, with the token ids that ``on_prompt`` wants in the place of the
    rendered ones. Changes neither argument.

    What cannot be computed is not taken: ids outside of ``0 … vocabulary - 1``, or a prompt that
    leaves no room for the answer in ``max_model_len`` tokens. Prompts with images or embeddings are
    left alone, and so are those that the request's other fields count the tokens of, and the steps
    of a beam search (which alone are not detokenized): each continues a prompt of its own.
    """
    if prompt.get("type") != "token" or not params.detokenize or params.prompt_logprob_token_ids:
        return prompt, params
    rendered: list[int] = prompt["prompt_token_ids"]
    tokens = list(on_prompt(rendered))
    room = max_model_len - len(tokens)
    if tokens == rendered or not tokens or room < max(1, params.min_tokens):
        return prompt, params
    if min(tokens) < 0 or max(tokens) >= vocabulary:
        return prompt, params
    if params.max_tokens is not None and params.max_tokens > room:
        # It was cut to the room that the rendered prompt leaves.
        params = params.clone()
        params.max_tokens = room
    told_of_the_text = ("prompt", "prompt_token_offsets")
    kept = {key: value for key, value in prompt.items() if key not in told_of_the_text}
    return {**kept, "prompt_token_ids": tokens}, params
