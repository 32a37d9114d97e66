"""System prompts that the operator declared public: their tokens, and which prompts begin so.

Errors::

    EngineError
    └── PrefixesUnusable    the declared prompts cannot be used; the message is one line
"""

from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final

from engine.port import EngineError

MOST_PREFIXES: Final = 64
"""Each request's prompt is compared to all of them."""
MOST_BYTES: Final = 1024 * 1024
"""Of one file."""


class PrefixesUnusable(EngineError):
    """The declared prompts cannot be used."""


def read_system_prompts(folder: Path) -> dict[str, str]:
    """The ``*.txt`` files of ``folder``, by name; each is one system prompt, in UTF-8, less a final
    line break. Raises PrefixesUnusable."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == ".txt")
        if not files:
            raise PrefixesUnusable(f"{folder} holds no public prefix: no file there ends with .txt")
        if len(files) > MOST_PREFIXES:
            raise PrefixesUnusable(f"{folder} holds more than {MOST_PREFIXES} public prefixes")
        return {file.name: _read(file) for file in files}
    except OSError as error:
        raise PrefixesUnusable(f"{folder} cannot be read: {error.strerror}") from error


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        raw = opened.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise PrefixesUnusable(f"{file} has more than {MOST_BYTES} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise PrefixesUnusable(f"{file} is not UTF-8") from None
    if not text.strip():
        raise PrefixesUnusable(f"{file} is empty")
    return text.removesuffix("\n")


def common_prefix(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """What both begin with. Of one system prompt rendered with two users' messages, all that does
    not depend on the user."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return [token for token, _ in same]


class PublicPrefixes:
    """The declared prefixes' tokens. Pure."""

    def __init__(self, prefixes: Iterable[Sequence[int]], chunk_tokens: int) -> None:
        """Each is cut to whole chunks of ``chunk_tokens``: what is shared is a chunk."""
        cut = (list(tokens[: len(tokens) // chunk_tokens * chunk_tokens]) for tokens in prefixes)
        self.prefixes = [tokens for tokens in cut if tokens]
        self._chunk_tokens = chunk_tokens

    def tokens(self, prompt: Sequence[int]) -> int:
        """How many first tokens of ``prompt`` are public, in whole chunks; the beginning of a
        prefix is as public as the whole."""
        return max((self._shared(prompt, prefix) for prefix in self.prefixes), default=0)

    def _shared(self, prompt: Sequence[int], prefix: list[int]) -> int:
        size = self._chunk_tokens
        starts = range(0, len(prefix), size)
        same = takewhile(lambda at: prompt[at : at + size] == prefix[at : at + size], starts)
        return size * sum(1 for _ in same)
