"""The fake engine's tokeniser: a word is a token, and its id follows from the word alone, so that
an engine that is started again knows the ids of the one before."""

import hashlib
from collections.abc import Iterable
from typing import Final


def token_id(word: str) -> int:
    """31 bits: two words of one test do not meet there."""
    digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=4).digest()
    return int.from_bytes(digest) & 0x7FFF_FFFF


def encode(words: Iterable[str]) -> list[int]:
    """The ids of words."""
    return [token_id(word) for word in words]


END: Final = "<end>"
"""Ends every message of the fake chat template."""

END_OF_TURN: Final = token_id(END)
