"""Commands and replies as bytes."""

from typing import cast

import msgspec

from cache_tiers.hints.commands import Command
from cache_tiers.hints.replies import Reply

_commands = msgspec.msgpack.Decoder(Command)
_replies = msgspec.msgpack.Decoder(Reply)


def encode(message: Command | Reply) -> bytes:
    """Either direction, to bytes."""
    return msgspec.msgpack.encode(message)


def decode_command(data: bytes) -> Command:
    """Raises ``msgspec.ValidationError`` for what is not a command of this version."""
    return cast(Command, _commands.decode(data))


def decode_reply(data: bytes) -> Reply:
    """Raises ``msgspec.ValidationError`` for what is not a reply of this version."""
    return cast(Reply, _replies.decode(data))
