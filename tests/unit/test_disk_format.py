"""docs/disk-format.md is right: a reader written from it alone reads what the store wrote."""

import hashlib
import hmac
import struct
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cache_tiers.manifest import Manifests
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.encrypted import EncryptedSealer
from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.installation import Installation, open_store
from cache_tiers.ssd.keyring import Keyring
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import StoreUnusable
from cache_tiers.types import ChunkKey, SessionKey

PAGE, PIECE = 4096, 131_072
CHUNK = 2 * PIECE + 3 * PAGE + 1
"""Two pieces and an odd byte."""
PRINT = b"0f1e2d3c"
MASTER = bytes(range(32))
WRAPPING = b"valet chunk data key"
FIRST, SECOND, OTHER = (SessionKey(name) for name in ("acme/first", "acme/second", "zeta/third"))

Place = namedtuple("Place", "segment tenant page length owner nonce wrapped tag")


def hash64(data: bytes, seed: int = 0) -> int:
    return xxhash.xxh3_64_intdigest(data, seed)


def frames(data: bytes, at: int = 8, chain: int = 0) -> Iterator[bytes]:
    while at + 12 <= len(data):
        length, checksum = struct.unpack_from("<IQ", data, at)
        body = data[at + 12 : at + 12 + length]
        if not length or len(body) < length or hash64(body, chain) != checksum:
            return
        at, chain = at + 12 + length, checksum
        yield body


class Keys:
    """What the keyring holds."""

    def __init__(self, data: bytes) -> None:
        self.keys: dict[int, bytes] = {}
        self.numbers: dict[bytes, int] = {}
        self.kept: dict[bytes, bytes] = {}
        for kind, slot in sorted((data[at + 40], at) for at in range(0, len(data), 128)):
            fields = struct.unpack_from("<32sQ8x12s48s12xQ", data, slot)
            name, number, nonce, wrapped, check = fields
            if hash64(data[slot : slot + 120], slot // 128) != check:
                continue
            by = self.keys[number] if kind == 4 else MASTER
            key = AESGCM(by).decrypt(nonce, wrapped, data[slot : slot + 41])
            if kind == 1:
                assert (name, number) == (b"VALETKEY".ljust(32, b"\0"), 1)
                self.names = key
            elif kind == 4:
                self.kept[name[:12]] = key
            else:
                self.keys[number], self.numbers[name] = key, number

    def number(self, session: str) -> int | None:
        return self.numbers.get(hmac.digest(self.names, b"\2" + session.encode(), "sha256"))


class Reader:
    """All that is in a store's folder. ``known``: where each chunk is."""

    def __init__(self, root: Path) -> None:
        self.folder = root / PRINT.decode()
        self.keys = Keys((root / "keys").read_bytes()) if (root / "keys").exists() else None
        self.known: dict[bytes, Place] = {}
        self.marks: dict[int, tuple[bytes, int, int]] = {}
        """Of the segments in the snapshot: tenant, and how far their journals are covered."""
        if (self.folder / "snapshot").exists():
            self._snapshot((self.folder / "snapshot").read_bytes())
        for path in sorted(self.folder.glob("*.journal")):
            self._journal(int(path.stem), path.read_bytes())

    def _snapshot(self, data: bytes) -> None:
        *head, segments, records, checksum = struct.unpack_from("<8sII16sQIIQ", data)
        end = 56 + 64 * segments
        first, bits = -(-end // PAGE) * PAGE, max(1, records.bit_length())
        check = hash64(data[:12]) & 0xFFFFFFFF
        assert head == [b"VALETMAP", 1, check, xxhash.xxh3_128_digest(PRINT), CHUNK]
        assert checksum == hash64(data[:48] + data[56:end])
        assert len(data) == first + 180 * records + 4 * (2**bits + 1)
        table = list(struct.iter_unpack("<I16sQQIdIIQ", data[56:end]))
        if any((self.folder / f"{n:010}.journal").stat().st_size < end for n, _, end, *_ in table):
            return
        hashes = []
        for number, tenant, mark, chain, _, _, begin, count, _ in table:
            self.marks[number] = tenant, mark, chain
            for at in range(first + 176 * begin, first + 176 * (begin + count), 176):
                digest, owner, segment, page, length, size = struct.unpack_from("<QQIIII", data, at)
                seal = struct.unpack_from("<12s48s16s", data, at + 96)
                name = data[at + 32 : at + 32 + size]
                assert (segment, digest) == (number, hash64(name))
                self.known[name] = Place(segment, tenant, page, length, owner, *seal)
                hashes.append(digest)
        lookup = struct.unpack(f"<{records + 2**bits + 1}I", data[first + 176 * records :])
        buckets = [digest >> 64 - bits for digest in hashes]
        assert lookup[:records] == tuple(sorted(range(records), key=hashes.__getitem__))
        assert lookup[records:] == tuple(sum(b < i for b in buckets) for i in range(2**bits + 1))

    def _journal(self, number: int, data: bytes) -> None:
        if number in self.marks:
            tenant, mark, chain = self.marks[number]
            bodies = frames(data, mark, chain)
        else:
            bodies = frames(data)
            header = next(bodies, b"")
            tenant = header[28:]
            fields = 2, hash64(PRINT), number, CHUNK, tenant
            if data[:8] + header != b"VALETSEG" + struct.pack("<IQQQ16s", *fields):
                return
        puts, deletes = {}, []
        for body in bodies:
            page = int.from_bytes(body[1:5], "little")
            if body[0] == 1:
                fields = struct.unpack_from("<IIQ12s48s16s", body, 1)
                puts[page] = body[93:], Place(number, tenant, *fields)
            elif puts.pop(page, None) is None:
                deletes.append((body[5:], (number, page)))
        self.known.update(puts[page] for page in sorted(puts))
        for name, at in deletes:
            if (place := self.known.get(name)) and (place.segment, place.page) == at:
                del self.known[name]

    def chunks(self) -> dict[bytes, bytes]:
        """All that can be opened."""
        opened = {name: self._open(name, place) for name, place in self.known.items()}
        return {name: chunk for name, chunk in opened.items() if chunk is not None}

    def _open(self, name: bytes, place: Place) -> bytes | None:
        data = (self.folder / f"{place.segment:010}.segment").read_bytes()
        stored = data[place.page * PAGE :][: place.length]
        sizes = struct.pack("<QQH", CHUNK, place.length, len(PRINT))
        about = b"valet chunk 2\0" + place.tenant + sizes + PRINT + name
        if self.keys is None:
            assert (place.owner, place.nonce, place.wrapped) == (0, bytes(12), bytes(48))
            assert place.tag == xxhash.xxh3_128_digest(stored, hash64(about))
        else:
            data_key = self.keys.kept.get(place.nonce)
            if owner := self.keys.keys.get(place.owner):
                data_key = AESGCM(owner).decrypt(place.nonce, place.wrapped, WRAPPING)
            if data_key is None:
                return None
            stored = AESGCM(data_key).decrypt(place.nonce, stored + place.tag, about)
        return stored if place.length == CHUNK else decompressed(stored)


def decompressed(stored: bytes) -> bytes:
    assert struct.unpack_from("<4sQ", stored) == (b"VEX1", CHUNK)
    at, left, chunk = 12, CHUNK // 2, b""
    while left:
        count = min(left, PIECE)
        size = int.from_bytes(stored[at : at + 4], "little")
        exponents = stored[at + 4 : at + 4 + size]
        if size < count:
            exponents = zstandard.ZstdDecompressor().decompress(exponents)
        at, left = at + 4 + size + count, left - count
        pairs = zip(exponents, stored[at - count : at], strict=True)
        chunk += b"".join(bytes((e << 7 & 0x80 | r & 0x7F, r & 0x80 | e >> 1)) for e, r in pairs)
    return chunk + stored[at:]


def key(number: int) -> ChunkKey:
    return ChunkKey(b"chunk %d" % number * (1 + number % 8))


def content(number: int) -> bytes:
    """Like KV in bfloat16; every third is noise, which nothing compresses."""
    random = np.random.default_rng(number)
    values = random.standard_normal(CHUNK // 2 + 1, np.float32).view("<u4") >> 16
    return values.astype("<u2").tobytes()[:CHUNK] if number % 3 else random.bytes(CHUNK)


def put(store: SsdStore, owner: SessionKey, *numbers: int) -> None:
    store.put([key(n) for n in numbers], [memoryview(content(n)) for n in numbers], owner)


def opened(root: Path, *, encrypted: bool = True, **more: Any) -> SsdStore:
    config = SsdConfig(
        root=root, fingerprint=PRINT.decode(), chunk_bytes=CHUNK, bytes_limit=2**26, **more
    )
    if not encrypted:
        return SsdStore.open(config)
    keyring = root / "keys"
    return SsdStore.open(
        config, make_sealer=lambda: EncryptedSealer(Keyring.open(keyring, MASTER, OsFiles()))
    )


def write(store: SsdStore) -> None:
    """0 to 8, without 1, which a snapshot of five chunks has, and 8, which it does not."""
    put(store, FIRST, 0, 1, 2, 3, 4)
    put(store, SECOND, 5, 6)
    put(store, OTHER, 7, 8)
    store.delete([key(1), key(8)])


@pytest.mark.parametrize("snapshot_after", [5, 1000])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("encrypted", [False, True])
def test_every_live_chunk_is_recovered(
    tmp_path: Path, encrypted: bool, compress: bool, snapshot_after: int
) -> None:
    store = opened(tmp_path, encrypted=encrypted, compress=compress, snapshot_after=snapshot_after)
    write(store)
    assert store.shred(FIRST, [key(0), key(2)]) is encrypted
    store.delete([key(2)])
    put(store, SECOND, 9)
    store.close()

    reader = Reader(tmp_path)
    size = (reader.folder / "0000000001.journal").stat().st_size
    # Of two segments the snapshot has one, and not all of its journal.
    assert [mark < size for _, mark, _ in reader.marks.values()] == [True] * (snapshot_after == 5)
    assert reader.known.keys() == {key(n) for n in (0, 3, 4, 5, 6, 7, 9)}
    live = (0, 5, 6, 7, 9) if encrypted else (0, 3, 4, 5, 6, 7, 9)
    assert reader.chunks() == {key(n): content(n) for n in live}
    short = {name for name, place in reader.known.items() if place.length < CHUNK}
    assert short == ({key(n) for n in (4, 5, 7)} if compress else set())
    assert reader.known[key(7)].tenant == hashlib.sha256(b"zeta").digest()[:16]


def test_nothing_in_the_folder_opens_what_was_shredded(tmp_path: Path) -> None:
    store = opened(tmp_path)
    write(store)
    before = Keys((tmp_path / "keys").read_bytes())
    store.shred(FIRST, [key(0)])
    store.close()

    reader = Reader(tmp_path)
    assert reader.keys is not None
    assert before.number(FIRST) == reader.known[key(3)].owner
    assert reader.keys.number(FIRST) is None
    assert reader.keys.number(SECOND) == before.number(SECOND) is not None
    assert list(reader.keys.kept) == [reader.known[key(0)].nonce]
    everything = [*reader.keys.keys.values(), *reader.keys.kept.values(), reader.keys.names, MASTER]
    for number in (3, 4):
        place = reader.known[key(number)]
        AESGCM(before.keys[place.owner]).decrypt(place.nonce, place.wrapped, WRAPPING)
        for other in everything:
            with pytest.raises(InvalidTag):
                AESGCM(other).decrypt(place.nonce, place.wrapped, WRAPPING)


@pytest.mark.parametrize("snapshot_after", [5, 1000])
@pytest.mark.parametrize("left", [0.0, 0.1, 0.3, 0.5, 0.7, 0.95])
def test_reader_and_store_agree_on_a_torn_journal(
    tmp_path: Path, left: float, snapshot_after: int
) -> None:
    store = opened(tmp_path, snapshot_after=snapshot_after)
    write(store)
    store.close()
    journal = tmp_path / PRINT.decode() / "0000000001.journal"
    journal.write_bytes(journal.read_bytes()[: int(journal.stat().st_size * left)])

    read = Reader(tmp_path).chunks()
    store = opened(tmp_path)
    assert read == {key(n): content(n) for n in range(9) if store.contains(key(n))}
    assert key(7) in read
    store.close()
    assert Reader(tmp_path).chunks() == read


def test_budget(tmp_path: Path) -> None:
    where = Installation(root=tmp_path, bytes_limit=2**26, bytes_per_day=10**9)
    store = open_store(where, PRINT.decode(), CHUNK, clock=lambda: 1e9)
    put(store, FIRST, 0)
    store.close()
    data = (tmp_path / "budget").read_bytes()
    level = 10**9 - -(-CHUNK // PAGE) * PAGE
    assert data == struct.pack("<8sddQ", b"VALETBUD", level, 1e9, hash64(data[:24]))


def test_manifests(tmp_path: Path) -> None:
    path = tmp_path / "manifests"
    manifests = Manifests.open(path, lambda: 5.5)
    manifests.replace(FIRST, [key(0), key(1)])
    manifests.persist()
    manifests.replace(FIRST, [key(0), key(2)])
    manifests.drop(OTHER)
    manifests.replace(OTHER, [key(3)])
    manifests.drop(OTHER)
    manifests.close()

    assert path.read_bytes()[:8] == b"VALETMAN"
    assert [msgspec.msgpack.decode(body) for body in frames(path.read_bytes())] == [
        ["v", 1],
        ["h", FIRST, 5.5, 0, [key(0), key(1)]],
        ["h", FIRST, 5.5, 1, [key(2)]],
        ["g", OTHER],
    ]
    body = msgspec.msgpack.encode(["v", 2])
    path.write_bytes(b"VALETMAN" + struct.pack("<IQ", len(body), hash64(body)) + body)
    with pytest.raises(StoreUnusable, match="newer program"):
        Manifests.open(path)


@pytest.mark.parametrize(
    ("name", "snapshot_after", "changes"),
    [
        ("0f1e2d3c/0000000001.journal", 1000, [(20, range(20, 64), 12, 8)]),
        ("0f1e2d3c/snapshot", 1, [(8, range(12), 12, 4)]),
        ("keys", 1000, [(32, range(120), 120, 8), (4128, range(4096, 4216), 4216, 8)]),
    ],
)
def test_a_newer_version_is_refused(
    tmp_path: Path, name: str, snapshot_after: int, changes: list[tuple[int, range, int, int]]
) -> None:
    """``changes``: where a version is, of what there is a checksum, where that is, its bytes."""
    store = opened(tmp_path, snapshot_after=snapshot_after)
    put(store, FIRST, 0)
    store.close()
    data = bytearray((tmp_path / name).read_bytes())
    for version, of, at, size in changes:
        data[version] += 1
        slot = of.start // 128 if name == "keys" else 0
        checksum = hash64(bytes(data[of.start : of.stop]), slot)
        data[at : at + size] = checksum.to_bytes(8, "little")[:size]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(StoreUnusable, match="newer program"):
        opened(tmp_path)
