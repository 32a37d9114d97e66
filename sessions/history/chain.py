"""A history as hashes: one for every prefix of its messages. Pure.

The hashes are keyed by the installation's secret and the tenant, so that a stolen database confirms
no guess of what was said, and no tenant's hash equals another's. The chain starts at the model.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

HASH_BYTES: Final = 16
DISTINCTIVE: Final = 32
"""Characters of an answer, ids of tool calls and their arguments included, from which on no other
session is expected to have given the same one."""

_SYSTEM = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as far as it counts for being the same one."""

    role: str
    body: bytes
    """Its canonical form, the role included."""
    length: int = 0
    """Characters of what an assistant said."""
    tool: str = ""
    """Name of the first tool that it called; empty for none."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a request says was said so far."""

    messages: tuple[Message, ...]
    """At least one."""
    tools: bytes = b""
    """The canonical form of the tools that are offered."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A request's history."""

    hashes: tuple[bytes, ...]
    """``hashes[i]`` is of the first ``i + 1`` messages."""
    first: int
    """A shorter prefix holds system prompts alone, by which nothing is recognised."""
    answered: int
    """Messages up to and with the last one of an assistant; 0 for none."""
    answer: bytes | None
    """That message alone; None when it is not distinctive."""
    tools: bytes


class Hasher:
    """Makes chains. Safe from any thread."""

    def __init__(self, secret: bytes) -> None:
        """``secret`` is the installation's."""
        self._secret = secret

    def chain(self, tenant: str, model: str, said: Conversation) -> Chain:
        """The chain of a request's messages; costs little more than hashing their bytes."""
        key = self._key(tenant)
        hashes: list[bytes] = []
        last = _hash(key, b"model", model.encode("utf-8", "surrogatepass"))
        first, answered = 0, 0
        for count, message in enumerate(said.messages, 1):
            last = _hash(key, last, message.body)
            hashes.append(last)
            if not first and message.role not in _SYSTEM:
                first = count
            if message.role == "assistant":
                answered = count
        answer = self.answer(tenant, model, said.messages[answered - 1]) if answered else None
        tools = _hash(key, b"tools", said.tools)
        return Chain(tuple(hashes), first or len(hashes), answered, answer, tools)

    def after(self, tenant: str, chain: Chain, answer: Message) -> bytes:
        """The hash of the chain's messages and one more."""
        return _hash(self._key(tenant), chain.hashes[-1], answer.body)

    def answer(self, tenant: str, model: str, message: Message) -> bytes | None:
        """The hash of one message; None when it is not distinctive."""
        if message.length < DISTINCTIVE:
            return None
        label = b"answer\0" + model.encode("utf-8", "surrogatepass")
        return _hash(self._key(tenant), label, message.body)

    def _key(self, tenant: str) -> bytes:
        label = b"valet history key\0" + tenant.encode()
        return hmac.digest(self._secret, label, "sha256")


def common(before: Sequence[bytes], now: Sequence[bytes]) -> int:
    """How many first messages two chains have in common."""
    low, high = 0, min(len(before), len(now))
    # Equal hashes mean equal messages up to there: the end of what is equal is found by halving.
    while low < high:
        middle = (low + high + 1) // 2
        if before[middle - 1] == now[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


def _hash(key: bytes, before: bytes, body: bytes) -> bytes:
    digest = hashlib.blake2b(len(before).to_bytes(4) + before, digest_size=HASH_BYTES, key=key)
    digest.update(body)
    return digest.digest()
