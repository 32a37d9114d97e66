"""Stable renderings: what an earlier turn computed is continued as it was computed. Pure.

A chat template renders a history anew each time, and not always as it was: it may drop what the
model thought, write a tool call in its own way, trim a text. Then the same conversation has other
tokens, and its KV is of no use. Where the messages are the same ones, the kept tokens are the truth
of what the model said, so the new prompt is made of them and of what is new.
"""

from array import array
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

BEGINNING: Final = 8
"""Tokens at the end of a generation prompt that the template may not write of a past turn, such as
one that begins a thought."""

Span = tuple[int, int]
"""Tokens ``[start, end)``."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """A conversation as the engine computed it, the last answer included."""

    tokens: "array[int]"
    spans: tuple[Span, ...]
    """Of what the model wrote, in order."""


def continued(
    kept: Transcript, rendered: Sequence[int], end_of_turn: Collection[int]
) -> Sequence[int] | None:
    """The prompt that continues ``kept``; None when ``rendered`` is to be taken as it is.

    Both are cut after every token that ends a turn. Piece by piece they have to be equal, save for
    the pieces that hold what the model wrote: there the client's message is known to be the same,
    as are all others, and the tools.
    The prompt is then ``kept``, its last turn ended if it was cut short, and what is rendered
    behind it.
    """
    tokens = kept.tokens
    length = len(tokens)
    if not length or not kept.spans:
        return None
    if len(rendered) >= length and common_tokens(tokens, rendered) == length:
        return None
    cut_short = tokens[-1] not in end_of_turn
    ends = [at + 1 for at, token in enumerate(tokens) if token in end_of_turn]
    if cut_short:
        ends.append(length)
    starts = [span[0] for span in kept.spans]
    there, here = 0, 0
    for end in ends:
        ended = _end_after(rendered, here, end_of_turn)
        if ended is None:
            return None
        first = bisect_left(starts, there)
        written = first < len(starts) and starts[first] < end
        old = tokens[there : starts[first] if written else end]
        now = rendered[here : min(ended, here + len(old))]
        # In front of what it wrote, the model may have been shown more of a beginning than the
        # template writes of a past turn.
        same = common_tokens(old, now)
        if same < len(old) and not (written and same >= len(old) - BEGINNING):
            return None
        if not written and ended - here != len(old):
            return None
        there, here = end, ended
    # An end in the middle of what the client sent as the answer would leave the rest of it here:
    # what is new has to begin as some turn began.
    begins = {tokens[0], *(tokens[end] for end in ends[:-1])}
    if here == len(rendered) or rendered[here] not in begins:
        return None
    ending = array("I", rendered[here - 1 : here] if cut_short else ())
    return tokens + ending + array("I", rendered[here:])


def common_tokens(kept: Sequence[int], now: Sequence[int]) -> int:
    """How many first tokens two prompts have in common."""
    low, high = 0, min(len(kept), len(now))
    left, right = array("I", kept[:high]).tobytes(), array("I", now[:high]).tobytes()
    if left == right:
        return high
    size = array("I").itemsize
    while high - low > 1:
        middle = (low + high) // 2
        if left[low * size : middle * size] == right[low * size : middle * size]:
            low = middle
        else:
            high = middle
    return low


def _end_after(tokens: Sequence[int], start: int, end_of_turn: Collection[int]) -> int | None:
    for at in range(start, len(tokens)):
        if tokens[at] in end_of_turn:
            return at + 1
    return None
