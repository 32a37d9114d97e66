"""What is computed instead of the rendered prompt, and what is not."""

from copy import copy
from dataclasses import dataclass, field
from typing import Any

import pytest

from engine.prompts import substitute

RENDERED = [1, 2, 3, 4]


@dataclass
class Params:
    """The fields of vLLM's sampling parameters that matter here."""

    max_tokens: int | None = 6
    min_tokens: int = 0
    detokenize: bool = True
    prompt_logprob_token_ids: list[list[int]] | None = None
    clones: list["Params"] = field(default_factory=list, compare=False)

    def clone(self) -> "Params":
        self.clones.append(copy(self))
        return self.clones[-1]


def prompt(**more: Any) -> dict[str, Any]:
    return {"type": "token", "prompt_token_ids": list(RENDERED), "prompt": "text", **more}


def computed(
    tokens: list[int], params: Params | None = None, **more: Any
) -> tuple[list[int], Params]:
    given, params = prompt(**more), params or Params()
    before = prompt(**more)
    result, used = substitute(given, params, lambda _: tokens, max_model_len=10, vocabulary=100)
    assert given == before
    return result["prompt_token_ids"], used


def test_other_tokens_take_the_place_of_the_rendered_ones() -> None:
    result, params = substitute(
        prompt(arrival_time=1.0, prompt_token_offsets=[(0, 1)]),
        Params(),
        lambda rendered: [9, *rendered[1:]],
        max_model_len=10,
        vocabulary=100,
    )
    assert result == {"type": "token", "prompt_token_ids": [9, 2, 3, 4], "arrival_time": 1.0}
    assert params == Params()


def test_the_text_stays_where_the_tokens_do() -> None:
    same, _ = substitute(prompt(), Params(), list, max_model_len=10, vocabulary=100)
    assert same == prompt()


def test_the_answer_gets_the_room_that_is_left() -> None:
    params = Params(max_tokens=6)
    assert computed([5] * 8, params) == ([5] * 8, Params(max_tokens=2))
    assert params.max_tokens == 6
    unlimited = Params(max_tokens=None)
    assert computed([5] * 8, unlimited) == ([5] * 8, unlimited)
    assert computed([5] * 2, params)[1] is params


@pytest.mark.parametrize(
    ("tokens", "params"),
    [
        ([], Params()),
        ([5] * 10, Params()),
        ([5] * 8, Params(min_tokens=3)),
        ([5, 100], Params()),
        ([5, -1], Params()),
        ([5] * 4, Params(detokenize=False)),
        ([5] * 4, Params(prompt_logprob_token_ids=[[1], [2], [3]])),
    ],
)
def test_what_cannot_be_computed_is_not_taken(tokens: list[int], params: Params) -> None:
    assert computed(tokens, params) == (RENDERED, params)


@pytest.mark.parametrize("kind", ["multimodal", "embeds", "enc_dec"])
def test_other_kinds_of_prompts_are_left_alone(kind: str) -> None:
    assert computed([5], type=kind)[0] == RENDERED
