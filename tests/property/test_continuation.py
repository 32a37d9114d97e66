"""Stable renderings: whatever a template makes of a past answer, its tokens stay as they were."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from sessions.history.continuation import Span, Transcript, common_tokens, continued

END, NEWLINE, USER, ASSISTANT, SYSTEM = range(1, 6)
_words = st.lists(st.integers(10, 30), max_size=6)


@dataclass(frozen=True)
class Round:
    """A question, what the model wrote, and how it ended."""

    question: list[int]
    answer: list[int]
    cut_short: bool


_rounds = st.lists(
    st.builds(Round, _words, _words.filter(bool), st.booleans()), min_size=1, max_size=5
)


def _message(role: int, words: Sequence[int]) -> list[int]:
    return [role, *words, END, NEWLINE]


def _rendered(
    system: list[int], rounds: Sequence[Round], asked: list[int], template: Callable[..., list[int]]
) -> list[int]:
    tokens = _message(SYSTEM, system)
    for one in rounds:
        tokens += _message(USER, one.question) + _message(ASSISTANT, template(one.answer))
    return [*tokens, *_message(USER, asked), ASSISTANT]


def _computed(system: list[int], rounds: Sequence[Round]) -> Transcript:
    """The conversation as an engine that always continued it has it."""
    tokens, spans = array("I", _message(SYSTEM, system)), list[Span]()
    for at, one in enumerate(rounds):
        tokens.extend([*_message(USER, one.question), ASSISTANT])
        start = len(tokens)
        tokens.extend(one.answer if one.cut_short else [*one.answer, END])
        spans.append((start, len(tokens)))
        if at + 1 < len(rounds):
            tokens.extend([END, NEWLINE] if one.cut_short else [NEWLINE])
    return Transcript(tokens, tuple(spans))


@given(_words, _rounds, _words)
def test_a_faithful_template_is_left_alone(
    system: list[int], rounds: list[Round], asked: list[int]
) -> None:
    kept = _computed(system, rounds)
    assert continued(kept, _rendered(system, rounds, asked, lambda a: a), {END}) is None


@given(_words, _rounds, _words, st.integers(0, 5), st.integers(40, 50))
def test_what_the_model_wrote_stays_as_it_was(
    system: list[int], rounds: list[Round], asked: list[int], dropped: int, added: int
) -> None:
    kept = _computed(system, rounds)
    rendered = _rendered(system, rounds, asked, lambda a: [added, *a[dropped:]])
    prompt = continued(kept, rendered, {END})
    ending = [END] if rounds[-1].cut_short else []
    new = [NEWLINE, *_message(USER, asked), ASSISTANT]
    assert prompt is not None
    assert list(prompt) == [*kept.tokens, *ending, *new]


@given(_words, _rounds, _words, st.data())
def test_what_others_said_has_to_be_the_same(
    system: list[int], rounds: list[Round], asked: list[int], data: st.DataObject
) -> None:
    kept = _computed(system, rounds)
    changed = data.draw(st.integers(0, len(rounds) - 1))
    other = [
        Round([99, *one.question], one.answer, one.cut_short) if at == changed else one
        for at, one in enumerate(rounds)
    ]
    rendered = _rendered(system, other, asked, lambda a: [40, *a])
    assert continued(kept, rendered, {END}) is None


@given(_words, _rounds, _words)
def test_a_generation_prompt_may_begin_a_thought(
    system: list[int], rounds: list[Round], asked: list[int]
) -> None:
    """Then what the model was shown ends with more than the template writes of a past turn."""
    thought = 60
    plain = _computed(system, rounds)
    tokens, spans = array("I"), list[Span]()
    last = 0
    for start, end in plain.spans:
        tokens += plain.tokens[last:start]
        tokens.append(thought)
        spans.append((len(tokens), len(tokens) + end - start))
        tokens += plain.tokens[start:end]
        last = end
    kept = Transcript(tokens, tuple(spans))
    prompt = continued(kept, _rendered(system, rounds, asked, lambda a: a), {END})
    assert prompt is not None
    assert list(prompt[: len(tokens)]) == list(tokens)
    assert list(prompt[-len(asked) - 4 :]) == [*_message(USER, asked), ASSISTANT]


@given(_words, _rounds, st.lists(st.integers(0, 60), max_size=80))
def test_anything_may_be_rendered(
    system: list[int], rounds: list[Round], rendered: list[int]
) -> None:
    kept = _computed(system, rounds)
    prompt = continued(kept, rendered, {END})
    if prompt is not None:
        assert list(prompt[: len(kept.tokens)]) == list(kept.tokens)
        behind = len(prompt) - len(kept.tokens)
        assert behind <= len(rendered)
        assert list(prompt[len(prompt) - behind :]) in (
            rendered[len(rendered) - behind :],
            [END, *rendered[len(rendered) - behind + 1 :]],
        )


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40))
def test_common_tokens_are_counted(a: list[int], b: list[int]) -> None:
    same = common_tokens(a, b)
    assert a[:same] == b[:same]
    assert same == min(len(a), len(b)) or a[same] != b[same]
