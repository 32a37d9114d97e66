"""Work for a chunk store, and a ledger that knows what the store may answer afterwards.

The work is a list of operations that depends on a seed alone, so a process that is killed need
only say which it has begun and what came of those that ended.
"""

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import ReadOutcome, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey, tenant_of

TENANTS = 3
SESSIONS = [SessionKey(f"t{n % TENANTS}/s{n // TENANTS}") for n in range(3 * TENANTS)]
UNIVERSE = range(45)
"""Numbers of all chunks there are: number n is of tenant n % TENANTS."""
_STAMP = 8


def key(number: int) -> ChunkKey:
    return ChunkKey(b"key" + number.to_bytes(4, "big"))


def content(number: int, version: int, size: int) -> bytes:
    stamp = number.to_bytes(2, "big") + version.to_bytes(_STAMP - 2, "big")
    return (stamp * (size // _STAMP + 1))[:size]


def version_in(number: int, data: memoryview) -> int:
    """The version of chunk ``number`` that ``data`` is, all of it."""
    version = int.from_bytes(data[2:_STAMP], "big")
    assert data == content(number, version, data.nbytes), "a wrong byte"
    return version


@dataclass(frozen=True)
class Operation:
    """``kind``: put, get, delete, shred, flush, compact or reopen."""

    kind: str
    version: int
    """Of what a put stores; no two operations have the same."""
    session: SessionKey = SESSIONS[0]
    numbers: tuple[int, ...] = ()
    """Of a shred: those that are kept."""


def operations(seed: int) -> Iterator[Operation]:
    """Without end."""
    chance = random.Random(seed)
    version = seed << 20
    kinds = {"put": 10, "get": 2, "delete": 3, "shred": 2, "flush": 3, "compact": 1, "reopen": 1}
    while True:
        version += 1
        kind = chance.choices(list(kinds), list(kinds.values()))[0]
        session = chance.choice(SESSIONS)
        numbers = [n for n in UNIVERSE if SESSIONS[n % TENANTS].startswith(tenant_of(session))]
        some = chance.sample(numbers, chance.randint(1, 8))
        yield Operation(kind, version, session, tuple(sorted(some)))


def perform(
    operation: Operation, store: SsdStore, reopen: Callable[[SsdStore], SsdStore]
) -> tuple[SsdStore, list[int]]:
    """Do it; the store to go on with, and the numbers that were stored."""
    keys = [key(number) for number in operation.numbers]
    stored: list[int] = []
    if operation.kind == "put":
        size = store.chunk_bytes
        chunks = [memoryview(content(n, operation.version, size)) for n in operation.numbers]
        outcomes = store.put(keys, chunks, operation.session)
        stored = [
            number
            for number, outcome in zip(operation.numbers, outcomes, strict=True)
            if outcome is WriteOutcome.STORED
        ]
    elif operation.kind == "get":
        store.get(keys, [memoryview(bytearray(store.chunk_bytes)) for _ in keys])
    elif operation.kind == "delete":
        store.delete(keys)
    elif operation.kind == "shred":
        store.shred(operation.session, keys)
    elif operation.kind == "flush":
        store.flush()
    elif operation.kind == "compact":
        store.compact()
    else:
        store = reopen(store)
    return store, stored


def held_by(store: SsdStore) -> set[int]:
    """The numbers that the store says it has."""
    return {number for number in UNIVERSE if store.contains(key(number))}


@dataclass
class Ledger:
    """``must``: what has to be there after a crash, version by number. ``gone``: versions that must
    not be there, ever again. All other versions that were once put may be there."""

    flush_needed: bool
    """Whether only a flush makes what is stored durable: True for a loss of power."""
    encrypted: bool
    """In the clear a shred takes nothing."""
    must: dict[int, int] = field(default_factory=dict)
    gone: set[tuple[int, int]] = field(default_factory=set)
    _ever: dict[int, set[int]] = field(default_factory=dict)
    _held: dict[int, int] = field(default_factory=dict)
    _owner: dict[tuple[int, int], SessionKey] = field(default_factory=dict)
    """Of chunks that a shred of their session takes."""
    _begun: Operation | None = None

    def begin(self, operation: Operation) -> None:
        """From now on, what it asks for may have happened."""
        self._begun = operation
        if operation.kind == "put":
            for number in operation.numbers:
                self._ever.setdefault(number, set()).add(operation.version)
                self._owner[number, operation.version] = operation.session
        elif operation.kind == "delete":
            self._release(operation.numbers)
        elif operation.kind == "shred" and self.encrypted:
            self._release(
                number
                for number in list(self.must)
                if self._owner.get((number, self.must[number])) == operation.session
                and number not in operation.numbers
            )

    def end(self, operation: Operation, stored: Collection[int], held: Collection[int]) -> None:
        """It has returned; ``held`` is what the store has now."""
        self._begun = None
        self._held.update(dict.fromkeys(stored, operation.version))
        if operation.kind == "delete":
            for number in operation.numbers:
                self.gone |= {(number, version) for version in self._ever.get(number, ())}
        elif operation.kind == "shred" and self.encrypted:
            self._shredded(operation.session, operation.numbers)
        self._held = {number: v for number, v in self._held.items() if number in held}
        self._release(number for number in list(self.must) if number not in self._held)
        if not self.flush_needed or operation.kind in ("flush", "reopen"):
            self.must = dict(self._held)

    @property
    def may_evict(self) -> bool:
        """An operation is under way that makes room: for chunks, or for what a compaction that
        ended before used of the room kept for it."""
        return self._begun is not None and self._begun.kind in ("put", "reopen")

    def check(self, found: Mapping[int, int], evicted: Collection[int] = ()) -> None:
        """``found``: what a store has after a crash, version by number; ``evicted``: what it may
        have lost since the last operation that ended."""
        for number, version in found.items():
            assert version in self._ever.get(number, ()), f"{number} was never put as {version}"
            assert (number, version) not in self.gone, f"{number} is back"
        for number, version in self.must.items():
            if number not in evicted:
                assert found.get(number) == version, f"{number} is not {version}"

    def settle(self, found: Mapping[int, int], *, durable: bool) -> None:
        """Go on after a crash with what was found, all of which is durable or as before."""
        begun, self._begun = self._begun, None
        if begun is not None and begun.kind == "shred":
            # Perhaps these are the tenant's by now, and no shred of this session takes them again.
            for number, version in [owned for owned in self._owner if owned[0] in begun.numbers]:
                del self._owner[number, version]
        self._held = dict(found)
        self.must = {n: v for n, v in found.items() if durable or self.must.get(n) == v}

    def _release(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.must.pop(number, None)

    def _shredded(self, session: SessionKey, kept: Collection[int]) -> None:
        for (number, version), owner in list(self._owner.items()):
            if owner == session:
                del self._owner[number, version]
                if not (number in kept and self._held.get(number) == version):
                    self.gone.add((number, version))


def found_in(store: SsdStore) -> dict[int, int]:
    """The version of every chunk that can be read; none is corrupt, none promised and missing."""
    promised = held_by(store)
    buffers = [memoryview(bytearray(store.chunk_bytes)) for _ in UNIVERSE]
    outcomes = store.get([key(number) for number in UNIVERSE], buffers)
    found = {}
    for number, buffer, outcome in zip(UNIVERSE, buffers, outcomes, strict=True):
        assert outcome in (ReadOutcome.OK, ReadOutcome.MISSING), outcome
        assert (outcome is ReadOutcome.OK) == (number in promised)
        if outcome is ReadOutcome.OK:
            found[number] = version_in(number, buffer)
    return found
