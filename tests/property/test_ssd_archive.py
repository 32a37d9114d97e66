"""Whatever is exported comes back; whatever is changed in the file is noticed."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_tiers.ssd.archive import About, ArchiveError, ArchiveReader, ArchiveWriter, Secret
from cache_tiers.ssd.files import OsFiles, opened
from cache_tiers.types import ChunkKey

FILES = OsFiles()
SECRET = Secret.key(bytes(range(32)))

Chain = list[tuple[ChunkKey, bytes]]


@st.composite
def chains(draw: st.DrawFn) -> tuple[About, Chain]:
    size = draw(st.integers(1, 64))
    keys = draw(st.lists(st.binary(min_size=1, max_size=64), max_size=8))
    chunk = st.binary(min_size=size, max_size=size) | st.just(b"")
    row = draw(st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.integers(0, 2**40)))
    about = About(draw(st.text()), size, draw(st.text()), draw(st.binary(max_size=32)), row)
    return about, [(ChunkKey(key), draw(chunk)) for key in keys]


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def export(path: Path, about: About, chain: Chain) -> bytes:
    file = FILES.create(path)
    writer = ArchiveWriter(FILES, file, SECRET, about, len(chain))
    for key, chunk in chain:
        writer.add(key, chunk)
    writer.close()
    FILES.close(file)
    return path.read_bytes()


def read(path: Path) -> tuple[About, Chain]:
    with opened(FILES, path, writable=False) as file:
        archive = ArchiveReader(FILES, file, SECRET)
        return archive.about, [(key, bytes(chunk)) for key, chunk in archive.read()]


@settings(deadline=None)
@given(chains())
def test_it_comes_back(exported: tuple[About, Chain]) -> None:
    with folder() as at:
        export(at / "a", *exported)
        assert read(at / "a") == exported


@settings(deadline=None)
@given(chains(), st.data())
def test_a_changed_byte_is_noticed(exported: tuple[About, Chain], data: st.DataObject) -> None:
    with folder() as at:
        content = bytearray(export(at / "a", *exported))
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        (at / "a").write_bytes(content)
        with pytest.raises(ArchiveError):
            read(at / "a")


@settings(deadline=None)
@given(chains(), st.data())
def test_a_moved_piece_is_noticed(exported: tuple[About, Chain], data: st.DataObject) -> None:
    with folder() as at:
        content = export(at / "a", *exported)
        place = st.integers(0, len(content))
        begin, end = sorted((data.draw(place), data.draw(place)))
        rest = content[:begin] + content[end:]
        to = data.draw(st.integers(0, len(rest)))
        moved = rest[:to] + content[begin:end] * data.draw(st.integers(0, 2)) + rest[to:]
        (at / "a").write_bytes(moved)
        if moved == content:
            assert read(at / "a") == exported
        else:
            with pytest.raises(ArchiveError):
                read(at / "a")
