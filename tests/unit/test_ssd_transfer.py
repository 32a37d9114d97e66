"""Chunks go from store to store by way of a file; what fails leaves nothing behind."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_tiers.manifest import Manifests
from cache_tiers.ssd.archive import About, ArchiveError, ArchiveReader, ArchiveWriter, Secret
from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.encrypted import EncryptedSealer
from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.keyring import Keyring
from cache_tiers.ssd.store import SsdStore
from cache_tiers.ssd.transfer import NotTaken, drop_session, export_chain, import_chain
from cache_tiers.store import ReadOutcome, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey
from tests.contract.store_faults import FaultyFiles

A, B = SessionKey("acme/a"), SessionKey("acme/b")
CHUNK = 1000
SECRET = Secret.key(bytes(32))
COUNT = 20
FILES = OsFiles()


def key(number: int) -> ChunkKey:
    return ChunkKey(b"key %d" % number)


def content(number: int) -> bytes:
    return bytes([number]) * CHUNK


class Bench:
    """A store, its disk, and files beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = FaultyFiles()
        config = SsdConfig(
            root=path / "store", fingerprint="f1", chunk_bytes=CHUNK, bytes_limit=8 * 2**20
        )

        def sealer() -> EncryptedSealer:
            return EncryptedSealer(Keyring.open(path / "store" / "keys", bytes(32), self.files))

        self.store = SsdStore.open(config, files=self.files, make_sealer=sealer)

    def put(self, session: SessionKey, *numbers: int) -> None:
        chunks = [memoryview(content(n)) for n in numbers]
        outcomes = self.store.put([key(n) for n in numbers], chunks, session)
        assert WriteOutcome.REFUSED not in outcomes

    def export(self) -> ArchiveReader:
        """An archive of COUNT chunks that no store has."""
        file = FILES.create(self.path / "archive")
        archive = ArchiveWriter(FILES, file, SECRET, About("f1", CHUNK, A, b"", {}), COUNT)
        for number in range(COUNT):
            archive.add(key(number), content(number))
        archive.close()
        return ArchiveReader(FILES, file, SECRET)

    def get(self, *numbers: int) -> list[ReadOutcome]:
        views = [memoryview(bytearray(CHUNK)) for _ in numbers]
        return self.store.get([key(n) for n in numbers], views)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.files.broken.clear()
    bench.store.close()


def test_a_corrupt_chunk_is_left_out(bench: Bench) -> None:
    bench.put(A, *range(COUNT))
    path = next((bench.path / "store" / "f1").glob("*.segment"))
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    file = FILES.create(bench.path / "archive")
    archive = ArchiveWriter(FILES, file, SECRET, About("f1", CHUNK, A, b"", {}), COUNT)
    assert export_chain(bench.store, [key(n) for n in range(COUNT)], archive) == COUNT - 1
    archive.close()
    exported = [(k, bytes(chunk)) for k, chunk in ArchiveReader(FILES, file, SECRET).read()]
    expected = [(key(n), content(n) if n else b"") for n in range(COUNT)]
    assert exported == expected


def test_a_disk_that_fails_takes_nothing(bench: Bench) -> None:
    archive = bench.export()
    bench.files.broken["write"] = errno.EIO
    with pytest.raises((NotTaken, OSError)):
        import_chain(bench.store, archive, A)
    bench.files.broken.clear()
    assert set(bench.get(*range(COUNT))) == {ReadOutcome.MISSING}


def test_a_disk_that_fails_at_the_end_takes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = bench.export()
    flush = bench.store.flush

    def fails() -> None:
        bench.files.broken["sync_folder"] = errno.EIO
        flush()
        bench.files.broken.clear()

    monkeypatch.setattr(bench.store, "flush", fails)
    with pytest.raises(NotTaken, match="the disk failed"):
        import_chain(bench.store, archive, A)
    assert set(bench.get(*range(COUNT))) == {ReadOutcome.MISSING}


def test_an_archive_that_changes_meanwhile_leaves_nothing(bench: Bench) -> None:
    archive = bench.export()
    path = bench.path / "archive"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArchiveError):
        import_chain(bench.store, archive, A)
    assert set(bench.get(*range(COUNT))) == {ReadOutcome.MISSING}
    assert bench.store.stats().chunks == 0


def test_what_was_there_before_stays(bench: Bench) -> None:
    bench.put(B, 0, 1)
    archive = bench.export()
    path = bench.path / "archive"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArchiveError):
        import_chain(bench.store, archive, A)
    assert bench.get(0, 1, 2) == [ReadOutcome.OK, ReadOutcome.OK, ReadOutcome.MISSING]


def test_a_dropped_session_leaves_what_others_hold(bench: Bench, tmp_path: Path) -> None:
    bench.put(A, *range(6))
    manifests = Manifests.open(tmp_path / "manifests")
    manifests.replace(A, [key(n) for n in range(4)])
    manifests.replace(SessionKey(A + "\0branches"), [key(4), key(5)])
    manifests.replace(B, [key(0), key(4)])
    manifests.replace(SessionKey("acme/ab"), [key(1)])
    dropped = drop_session(bench.store, manifests, A)
    assert (dropped.known, dropped.key_destroyed) == (True, True)
    assert (dropped.chunks, dropped.bytes) == (3, 3 * CHUNK)
    OK, MISSING = ReadOutcome.OK, ReadOutcome.MISSING
    assert bench.get(*range(6)) == [OK, OK, MISSING, MISSING, OK, MISSING]
    assert Manifests.open(tmp_path / "manifests").sessions() == [B, SessionKey("acme/ab")]
    again = drop_session(bench.store, manifests, A)
    assert (again.known, again.key_destroyed, again.chunks) == (False, False, 0)
