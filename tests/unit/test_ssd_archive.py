"""An exported session comes back as it was, or not at all."""

import struct
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cache_tiers.ssd.archive import (
    MAGIC,
    About,
    ArchiveError,
    ArchiveReader,
    ArchiveWriter,
    Cost,
    Secret,
)
from cache_tiers.ssd.files import OsFiles, opened
from cache_tiers.types import ChunkKey

CHUNK = 1000
CHEAP = Cost(n=2, r=1, p=1)
SECRET = Secret.passphrase("correct horse battery staple")
KEY = Secret.key(bytes(range(32)))
ABOUT = About(
    "fingerprint 1", CHUNK, "local/reader", b"origin", {"model": "small-model", "tokens": 1320}
)
CHAIN = [(ChunkKey(b"key %d" % i), bytes([i]) * CHUNK if i != 2 else b"") for i in range(5)]

Chain = list[tuple[ChunkKey, bytes]]


def export(path: Path, chain: Chain = CHAIN, secret: Secret = SECRET, about: About = ABOUT) -> Path:
    files = OsFiles()
    file = files.create(path)
    try:
        writer = ArchiveWriter(files, file, secret, about, len(chain), CHEAP)
        for key, chunk in chain:
            writer.add(key, chunk)
        writer.close()
    finally:
        files.close(file)
    return path


def read(path: Path, secret: Secret = SECRET) -> tuple[About, Chain]:
    files = OsFiles()
    with opened(files, path, writable=False) as file:
        archive = ArchiveReader(files, file, secret)
        assert archive.chunks == len(CHAIN)
        return archive.about, [(key, bytes(chunk)) for key, chunk in archive.read()]


def problem(path: Path, secret: Secret = SECRET) -> str:
    with pytest.raises(ArchiveError) as raised:
        read(path, secret)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return export(tmp_path / "session")


def parts(path: Path) -> tuple[bytes, list[bytes]]:
    """What is before the records, and the records with their lengths."""
    data = path.read_bytes()
    end = len(MAGIC) + 4 + struct.unpack_from("<I", data, len(MAGIC))[0] + 12 + 48
    head, records = data[:end], []
    while end < len(data):
        length = 4 + struct.unpack_from("<I", data, end)[0]
        records.append(data[end : end + length])
        end += length
    return head, records


@pytest.mark.parametrize("secret", [SECRET, KEY])
def test_it_comes_back(tmp_path: Path, secret: Secret) -> None:
    path = export(tmp_path / "session", secret=secret)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read(path, secret) == (ABOUT, CHAIN)


def test_it_may_be_read_twice(path: Path) -> None:
    files = OsFiles()
    with opened(files, path, writable=False) as file:
        archive = ArchiveReader(files, file, SECRET)
        assert len(list(archive.read())) == len(list(archive.read())) == len(CHAIN)


def test_a_chain_of_nothing(tmp_path: Path) -> None:
    files = OsFiles()
    with opened(files, export(tmp_path / "session", []), writable=False) as file:
        assert list(ArchiveReader(files, file, SECRET).read()) == []


def test_nothing_of_it_is_in_the_clear(path: Path) -> None:
    data = path.read_bytes()
    for secret in (
        b"reader",
        b"small-model",
        b"key 0",
        bytes([1]) * 16,
        b"correct horse",
        b"fingerprint 1",
    ):
        assert secret not in data


def test_two_exports_share_nothing(tmp_path: Path) -> None:
    heads, records = zip(*(parts(export(tmp_path / name)) for name in "ab"), strict=True)
    assert heads[0] != heads[1]
    assert not set(records[0]) & set(records[1])


def test_another_secret_does_not_open_it(path: Path, tmp_path: Path) -> None:
    assert "passphrase" in problem(path, Secret.passphrase("correct horse"))
    assert "with a passphrase, not with a key" in problem(path, KEY)
    keyed = export(tmp_path / "keyed", secret=KEY)
    assert "the key is another" in problem(keyed, Secret.key(bytes(32)))
    assert "with a key, not with a passphrase" in problem(keyed)


def test_a_secret_is_not_shown() -> None:
    assert "horse" not in repr(SECRET)


def test_every_cut_is_noticed(path: Path) -> None:
    data = path.read_bytes()
    head, records = parts(path)
    ends = {len(head) + sum(map(len, records[:i])) for i in range(len(records))}
    for size in sorted(ends | set(range(0, len(data), 97)) | {len(data) - 1}):
        path.write_bytes(data[:size])
        assert problem(path)


def test_what_is_behind_the_end_is_noticed(path: Path) -> None:
    data = path.read_bytes()
    for more in (b"\0", parts(path)[1][-1], data):
        path.write_bytes(data + more)
        assert "behind" in problem(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r: [*r[:2], r[3], r[2], *r[4:]], id="two swapped"),
        pytest.param(lambda r: [*r[:2], *r[3:]], id="one left out"),
        pytest.param(lambda r: [*r[:3], r[2], *r[3:]], id="one twice"),
        pytest.param(lambda r: r[:-1], id="not closed"),
        pytest.param(lambda r: [*r[:3], r[-1]], id="closed early"),
        pytest.param(lambda r: [r[1], r[0], *r[2:]], id="chunk before whose it is"),
    ],
)
def test_records_stay_where_they_are(
    path: Path, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    head, records = parts(path)
    path.write_bytes(head + b"".join(change(records)))
    assert problem(path)


def test_two_files_are_not_spliced(path: Path, tmp_path: Path) -> None:
    head, records = parts(path)
    others = parts(export(tmp_path / "other"))[1]
    for i in range(len(records)):
        path.write_bytes(head + b"".join([*records[:i], others[i], *records[i + 1 :]]))
        assert problem(path)
    path.write_bytes(head + b"".join(others))
    assert problem(path)


@pytest.mark.parametrize("content", [b"", b"V", b"hello, this is no archive", bytes(2**16)])
def test_something_else_is_no_archive(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert problem(path)


def header_of(path: Path) -> dict[str, object]:
    head = parts(path)[0]
    header: dict[str, object] = msgspec.msgpack.decode(head[len(MAGIC) + 4 : -60])
    return header


def with_header(path: Path, **changes: object) -> None:
    head, records = parts(path)
    body = msgspec.msgpack.encode(header_of(path) | changes)
    start = MAGIC + struct.pack("<I", len(body)) + body
    path.write_bytes(start + head[-60:] + b"".join(records))


def test_a_newer_format_says_so(path: Path) -> None:
    with_header(path, version=2)
    assert "newer program" in problem(path)


@pytest.mark.parametrize(
    "cost", [[2**40, 8, 1], [2**17, 2**20, 1], [2**14, 8, 1000], [3, 1, 1], [0, 1, 1], [2, 0, 1]]
)
def test_a_file_cannot_ask_for_much_memory_or_time(path: Path, cost: list[int]) -> None:
    with_header(path, cost=cost)
    assert "damaged" in problem(path)


@pytest.mark.parametrize("chunks", [-1, 2**24 + 1, 2**63])
def test_a_file_cannot_announce_too_much(path: Path, chunks: int) -> None:
    with_header(path, chunks=chunks)
    assert "damaged" in problem(path)


def test_a_changed_header_is_noticed(path: Path) -> None:
    header = header_of(path)
    for changes in ({"chunks": 4}, {"file": bytes(16)}, {"salt": bytes(32)}, {"cost": [4, 1, 1]}):
        with_header(path, **changes)
        assert "another, or the file was changed" in problem(path)
        with_header(path, **header)
    assert read(path)


def test_a_record_cannot_ask_for_much_memory(path: Path) -> None:
    head, records = parts(path)
    path.write_bytes(head + records[0] + struct.pack("<I", 2**32 - 1) + records[1][4:])
    assert "record 1" in problem(path)


def test_an_unfinished_archive_is_not_closed(tmp_path: Path) -> None:
    files = OsFiles()
    file = files.create(tmp_path / "session")
    writer = ArchiveWriter(files, file, SECRET, ABOUT, 2, CHEAP)
    writer.add(*CHAIN[0])
    with pytest.raises(ValueError, match="all its chunks"):
        writer.close()
    files.close(file)


def test_a_passphrase_costs_something_to_guess() -> None:
    cost = Cost()
    assert cost.bearable
    assert 128 * cost.n * cost.r >= 128 * 2**20
