"""A store's files in the hands of somebody who can write to the disk but has no key."""

import os
import random
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from cache_tiers.endurance.budget import WriteBudget
from cache_tiers.manifest import Manifests
from cache_tiers.ssd import exponents
from cache_tiers.ssd.allowance import Allowance, saved_state
from cache_tiers.ssd.clear import ClearSealer
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.encrypted import EncryptedSealer
from cache_tiers.ssd.files import Files
from cache_tiers.ssd.keyring import Keyring
from cache_tiers.ssd.sealer import Sealer
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import ReadOutcome, StoreUnusable, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey
from tests.contract.store_faults import disk_bytes
from tests.damage import damaged, signed
from tests.ssd_sweep import Clock, UnsyncedFiles

CHUNK = 4096
LIMIT = 1_000_000
MASTER, OTHER_MASTER = bytes(range(32)), bytes(range(1, 33))
SESSIONS = [SessionKey(name) for name in ("t0/a", "t1/b", "t0/c")]
NUMBERS = range(24)
SHREDDED = {2, 5}
"""Chunks of a session whose key is destroyed, and that nobody keeps."""
_FINGERPRINTS = ("f", "g")

Image = dict[str, bytes]
"""What is under a root: content by name."""


class AnyKeys:
    """Every chunk can be opened."""

    owners = kept = type("Everything", (), {"__contains__": lambda *_: True})()


def key(number: int) -> ChunkKey:
    return ChunkKey(b"key" + number.to_bytes(2, "big"))


def content(number: int, stamp: int) -> bytes:
    """Of a chunk; stamps tell installations, fingerprints and versions apart."""
    return number.to_bytes(2, "big") * 500 + stamp.to_bytes(2, "big") * (CHUNK // 2 - 500)


def open_store(
    root: Path, master: bytes | None, fingerprint: str = "f", files: Files | None = None
) -> SsdStore:
    """``master`` None stores in the clear."""
    files, clock = files or UnsyncedFiles(), Clock()
    config = SsdConfig(
        root=root,
        fingerprint=fingerprint,
        chunk_bytes=CHUNK,
        bytes_limit=LIMIT,
        segment_bytes=8 * CHUNK,
        read_threads=1,
        snapshot_after=14,
    )

    def make_sealer() -> Sealer:
        if master is None:
            return ClearSealer()
        return EncryptedSealer(Keyring.open(root / "keys", master, files))

    def make_allowance() -> Allowance:
        path = root / "budget"
        return Allowance(path, files, WriteBudget(10**9, clock, saved_state(path, files)))

    return SsdStore.open(
        config, clock, files=files, make_sealer=make_sealer, make_allowance=make_allowance
    )


def fill(root: Path, master: bytes | None, stamp: int) -> None:
    """A store of two fingerprints, with what a life leaves: deletes, second versions, a shredded
    session of which one chunk is kept, a snapshot and journals behind it, manifests."""
    for fingerprint in _FINGERPRINTS:
        stamp += 1
        store = open_store(root, master, fingerprint)
        for number in NUMBERS:
            _put(store, number, stamp)
        store.delete([key(3), key(4)])
        _put(store, 3, stamp + 100)
        store.shred(SESSIONS[2], [key(8)])
        store.delete([key(number) for number in SHREDDED])
        store.close()
    manifests = Manifests.open(root / "f" / "manifests", Clock())
    for session in SESSIONS:
        manifests.replace(session, [key(number) for number in NUMBERS])
        manifests.persist()
    manifests.drop(SESSIONS[0])
    manifests.persist()


def _put(store: SsdStore, number: int, stamp: int) -> None:
    owner = SESSIONS[number % 3]
    outcomes = store.put([key(number)], [memoryview(content(number, stamp))], owner)
    assert outcomes == [WriteOutcome.STORED]


@cache
def image(which: str) -> Image:
    """``ours``, ``theirs`` (another installation's) or ``clear``."""
    masters = {"ours": (MASTER, 0), "theirs": (OTHER_MASTER, 10), "clear": (None, 20)}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        fill(root, *masters[which])
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }


def files() -> Image:
    """Sound files of all kinds."""
    values = np.random.default_rng(1).normal(size=CHUNK // 2).astype(np.float32)
    chunk = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    compressed = exponents.compress(memoryview(chunk * 4)) or b""
    return {**image("ours"), "compressed": compressed}


@cache
def numbers() -> dict[SessionKey, int]:
    """Of the keys in ``ours``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys"
        path.write_bytes(image("ours")["keys"])
        keyring = Keyring.open(path, MASTER, UnsyncedFiles(), read_only=True)
        found = {session: keyring.find(session) for session in SESSIONS}
        keyring.close()
        return {session: number for session, number in found.items() if number is not None}


# --- attacks -------------------------------------------------------------------------------------


def _damage(chance: random.Random, mine: Image, _: Image) -> None:
    name = chance.choice(sorted(mine))
    if mine[name]:
        data = damaged(chance, mine[name], list(mine.values()))
        mine[name] = signed(Path(name).name, data) if chance.random() < 0.6 else data


def _replace(chance: random.Random, mine: Image, theirs: Image) -> None:
    name = chance.choice(sorted(mine))
    pool = {**mine, **{f"their {other}": data for other, data in theirs.items()}}
    like = name[-4:] if chance.random() < 0.8 else ""
    mine[name] = pool[chance.choice([other for other in sorted(pool) if other.endswith(like)])]


def _swap(chance: random.Random, mine: Image, _: Image) -> None:
    first = chance.choice(sorted(mine))
    second = chance.choice([name for name in sorted(mine) if name[-4:] == first[-4:]])
    mine[first], mine[second] = mine[second], mine[first]


def _remove(chance: random.Random, mine: Image, _: Image) -> None:
    if len(mine) > 1:
        del mine[chance.choice(sorted(mine))]


def _duplicate(chance: random.Random, mine: Image, theirs: Image) -> None:
    """A segment comes again under another number, or from another folder."""
    source = chance.choice([mine, mine, theirs])
    journal = chance.choice([n for n in sorted(source) if n.endswith("journal")] or ["none"])
    target = f"f/{chance.choice((0, 1, 3, 7, 99, 9_999_999_999)):010}"
    for ending in ("journal", "segment"):
        data = source.get(journal.removesuffix("journal") + ending)
        if data is not None:
            mine[f"{target}.{ending}"] = data


ATTACKS: tuple[Callable[[random.Random, Image, Image], None], ...] = (
    _damage,
    _damage,
    _replace,
    _swap,
    _remove,
    _duplicate,
)


def write(root: Path, mine: Image) -> None:
    """Put an image on the disk."""
    for name, data in mine.items():
        path = root / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(data)


def _replace_by_what_is_no_file(chance: random.Random, path: Path) -> None:
    path.unlink()
    make = chance.choice((Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc/passwd")))
    make(path)


# --- the store -----------------------------------------------------------------------------------


def try_store(chance: random.Random) -> None:
    """One installation after some attacks: refused, or misses."""
    which = chance.choice(("ours", "ours", "ours", "clear"))
    mine = dict(image(which))
    for _ in range(chance.choice((1, 1, 2, 4))):
        chance.choice(ATTACKS)(chance, mine, image("theirs"))
    master = MASTER if which == "ours" else None
    stamp = 1 if master else 21
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        write(root, mine)
        if chance.random() < 0.1:
            _replace_by_what_is_no_file(chance, root / chance.choice(sorted(mine)))
        for _ in range(2):
            try:
                store = open_store(root, master)
            except StoreUnusable:
                return
            try:
                use(store, stamp, shredded=master is not None)
                assert disk_bytes(root) <= LIMIT
            finally:
                store.close()


def use(store: SsdStore, stamp: int, *, shredded: bool) -> None:
    """Whatever a store is asked, it is right or it is a miss."""
    views = [memoryview(bytearray(CHUNK)) for _ in NUMBERS]
    outcomes = store.get([key(number) for number in NUMBERS], views)
    for number, view, outcome in zip(NUMBERS, views, outcomes, strict=True):
        if outcome is ReadOutcome.OK:
            assert view in (content(number, stamp), content(number, stamp + 100)), number
            assert not (shredded and number in SHREDDED), f"{number} is back"
    new = [key(number) for number in range(100, 120)]
    chunks = [memoryview(content(number, stamp)) for number in range(100, 120)]
    stored = store.put(new, chunks, SESSIONS[0])
    if not store.stats().over_budget_chunks:
        assert set(stored) <= {WriteOutcome.STORED, WriteOutcome.PRESENT}
        assert store.get(new[:1], views[:1]) == [ReadOutcome.OK]
        assert views[0] == chunks[0]
    store.delete([key(number) for number in (0, 1, 9)])
    assert not store.contains(key(9))
    with suppress(OSError):  # there may be a folder in place of a file
        store.shred(SESSIONS[1], [key(4)])
        store.compact()
    store.flush()
    assert store.stats().bytes_used <= LIMIT
