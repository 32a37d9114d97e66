"""Items and answers as the database has them: JSON, compressed, sealed under the tenant's key."""

import json
from collections.abc import Sequence
from typing import Any

import zstandard

from sessions.responses.types import Item
from sessions.sealing import SealBroken, Sealer
from sessions.types import StateUnavailable

_LEVEL = 1


def encode(value: Any) -> bytes:
    """Compact JSON; ASCII, so that half a surrogate pair, which a model can write, survives."""
    return json.dumps(value, separators=(",", ":")).encode()


def encode_both(given: Sequence[Item], said: Sequence[Item]) -> bytes:
    """JSON of a request's own items and of the answer's."""
    return encode([[[item.id, item.content] for item in items] for items in (given, said)])


def seal(sealer: Sealer, tenant: str, kind: str, name: str, content: bytes) -> bytes:
    """``content`` for the database."""
    return sealer.seal(tenant, kind, name, zstandard.compress(content, _LEVEL))


def unseal(sealer: Sealer, tenant: str, kind: str, name: str, sealed: bytes) -> Any:
    """The JSON value. Raises StateUnavailable for a row that was damaged or sealed with another
    secret: there is content, and it cannot be had."""
    try:
        return json.loads(zstandard.decompress(sealer.open(tenant, kind, name, sealed)))
    except (SealBroken, zstandard.ZstdError, ValueError) as error:
        raise StateUnavailable("Stored content cannot be opened.") from error


def unseal_both(
    sealer: Sealer, tenant: str, response_id: str, sealed: bytes
) -> tuple[list[Item], list[Item]]:
    """What ``encode_both`` encoded, of one response. Raises StateUnavailable."""
    given, said = unseal(sealer, tenant, "items", response_id, sealed)
    return [Item(*pair) for pair in given], [Item(*pair) for pair in said]


def seal_item(
    sealer: Sealer, tenant: str, conversation_id: str, item: Item, content: bytes
) -> bytes:
    """One item of a conversation for the database; ``content`` is its JSON."""
    return seal(sealer, tenant, "item", f"{conversation_id}/{item.id}", content)


def unseal_item(
    sealer: Sealer, tenant: str, conversation_id: str, item_id: str, sealed: bytes
) -> Item:
    """One item of a conversation. Raises StateUnavailable."""
    name = f"{conversation_id}/{item_id}"
    return Item(item_id, unseal(sealer, tenant, "item", name, sealed))
