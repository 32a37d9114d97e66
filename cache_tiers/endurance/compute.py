"""What it takes to compute a piece of a prompt again, relative to other pieces. Pure.

Where no prefill was measured yet, or none is: the shares that attention and everything else have
are taken to be alike for all models.
"""

ATTENTION_TOKENS = 32_768
"""Where attention costs a token as much as all else: about right for models of some billions of
parameters; smaller ones reach it earlier."""


def relative_cost(start: int, end: int) -> float:
    """Of the tokens ``start … end``, in the cost of the first: a token at position p costs
    1 + p / ATTENTION_TOKENS."""
    return (end - start) + (end * end - start * start) / (2 * ATTENTION_TOKENS)
