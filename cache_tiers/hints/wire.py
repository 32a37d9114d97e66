"""What is common to everything on the wire."""

import msgspec

VERSION = 4


class Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of every command and reply. Tagged, and unknown fields are forbidden, so that two
    versions that do not fit fail loudly instead of half-understanding each other."""
