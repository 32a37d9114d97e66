"""Where one chunk is, and how its bytes are opened again."""

from dataclasses import dataclass

PAGE_BYTES = 4096
"""Every extent begins on a page: what direct I/O asks for."""

NOT_ENCRYPTED = 0
"""The ``owner`` of a chunk that is stored in the clear."""


@dataclass(frozen=True, slots=True)
class Seal:
    """What a chunk's bytes are checked with and, when encrypted, opened with.

    Encrypted: AES-256-GCM under a data key that encrypts this one chunk and nothing else.
    In the clear: ``owner`` is NOT_ENCRYPTED, ``nonce`` and ``wrapped`` are zeros.
    """

    owner: int
    """Number of the key that wraps the data key."""
    nonce: bytes
    """12 random bytes, unique to this encryption: also the chunk's name among kept keys."""
    wrapped: bytes
    """48 bytes: the data key under the owner's key, and that wrapping's own tag."""
    tag: bytes
    """16 bytes: the GCM tag, or the xxh3_128 of bytes in the clear."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Pages of one segment that hold one chunk. A page of a segment is written once, so two
    extents of one segment and page are the same."""

    segment: int
    page: int
    """First page, counted from the segment's beginning."""
    length: int
    """Bytes stored: the chunk's size, or fewer when it is compressed."""
    seal: Seal

    @property
    def pages(self) -> int:
        return pages(self.length)


def pages(size: int) -> int:
    """How many whole pages ``size`` bytes take."""
    return -(-size // PAGE_BYTES)


def page_bytes(size: int) -> int:
    """``size`` rounded up to whole pages."""
    return pages(size) * PAGE_BYTES
