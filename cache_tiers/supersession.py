"""When does a turn leave a part of its session's history behind? Pure.

A session's chain of chunks is what its next turn is expected to begin with. Where a turn's chain
diverges from it, what lies behind is *superseded*: a compaction, an edit, a rollback. It may not be
wanted again, so it is the first to go.

Not every other chain is a rewritten history. Agents ask side questions under one session's name (a
title, a summary), and requests of one session may run side by side. Such a chain is put *aside*:
the history stays what it was. A chain that was aside and is gone on with is the history from then
on. Being wrong costs little: superseded chunks are hits for as long as there is room.
"""

from collections.abc import Sequence
from enum import Enum, auto

from cache_tiers.types import ChunkKey

_REWRITTEN = 0.5
"""A chain that has nothing in common with the history, and at least this share of its length, is
that history with its first message changed; a shorter one is a side question."""


class Succession(Enum):
    """What becomes of a session's chain after a turn."""

    REPLACED = auto()
    """The turn's chain takes its place; what that leaves out is superseded."""
    BESIDE = auto()
    """The turn's chain takes its place; the former is put aside: both ran at once."""
    ASIDE = auto()
    """It stays; the turn's chain is put aside."""


def succession(
    held: Sequence[ChunkKey],
    aside: Sequence[ChunkKey],
    new: Sequence[ChunkKey],
    *,
    alone: bool,
) -> Succession:
    """``held`` is the session's chain, ``aside`` the last one put aside, ``new`` the turn's. Not
    ``alone`` when another turn of the session ran beside it: neither knew of the other."""
    if not alone:
        return Succession.BESIDE
    if not held or common(held, new) > 0:
        return Succession.REPLACED
    goes_on = 0 < len(aside) <= len(new) and common(aside, new) == len(aside)
    if goes_on or len(new) >= _REWRITTEN * len(held):
        return Succession.REPLACED
    return Succession.ASIDE


def common(a: Sequence[ChunkKey], b: Sequence[ChunkKey]) -> int:
    """How many chunks two chains have in common from the first on."""
    for i, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return i
    return min(len(a), len(b))
