"""The operating system's files, memory for direct I/O, and the disk that misbehaves."""

import ctypes
import errno
import os
import stat
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_tiers.ssd import files as files_module
from cache_tiers.ssd.aligned import BufferPool, aligned, is_aligned
from cache_tiers.ssd.extent import PAGE_BYTES
from cache_tiers.ssd.files import OsFiles, opened, probe_direct, read_fully, write_fully
from tests.contract.store_faults import FaultyFiles

FILES = OsFiles()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    file = FILES.create(tmp_path / "f")
    yield file
    FILES.close(file)


def page_of(number: int) -> memoryview:
    page = aligned(PAGE_BYTES)
    page[:] = bytes([number]) * PAGE_BYTES
    return page


def test_files_are_private_and_links_are_not_followed(tmp_path: Path, file: int) -> None:
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "f")
    for direct in (False, True):
        with pytest.raises(OSError) as caught:
            FILES.open(tmp_path / "link", writable=False, direct=direct)
        assert caught.value.errno == errno.ELOOP


def test_a_direct_file_is_opened_past_the_page_cache(
    tmp_path: Path, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[int] = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, flag, mode: flags.append(flag) or real(path, flag, mode)
    )
    for direct in (False, True):
        with opened(FILES, tmp_path / "f", writable=True, direct=direct):
            pass
    assert [bool(flag & os.O_DIRECT) for flag in flags] == [False, True]


def test_what_is_written_directly_is_read_directly(tmp_path: Path) -> None:
    if not probe_direct(FILES, tmp_path):
        with pytest.raises(OSError):
            FILES.open(tmp_path / "f", writable=True, direct=True)
        return
    FILES.close(FILES.create(tmp_path / "f"))
    with opened(FILES, tmp_path / "f", writable=True, direct=True) as file:
        FILES.allocate(file, 4 * PAGE_BYTES)
        write_fully(FILES, file, [page_of(1), page_of(2)], PAGE_BYTES)
        back = aligned(4 * PAGE_BYTES)
        assert read_fully(FILES, file, [back], 0) == 4 * PAGE_BYTES
        assert back == bytes(PAGE_BYTES) + page_of(1) + page_of(2) + bytes(PAGE_BYTES)


def test_allocating_takes_room_and_never_shrinks(tmp_path: Path, file: int) -> None:
    write_fully(FILES, file, [memoryview(b"abc")], 0)
    FILES.allocate(file, 10 * PAGE_BYTES)
    (entry,) = FILES.entries(tmp_path)
    assert entry.bytes == 10 * PAGE_BYTES
    assert entry.disk_bytes >= 10 * PAGE_BYTES
    FILES.allocate(file, PAGE_BYTES)
    assert FILES.size(file) == 10 * PAGE_BYTES
    assert (tmp_path / "f").read_bytes() == b"abc".ljust(10 * PAGE_BYTES, b"\0")


def test_a_hole_takes_no_room(tmp_path: Path, file: int) -> None:
    FILES.truncate(file, 100 * PAGE_BYTES)
    (entry,) = FILES.entries(tmp_path)
    assert entry.bytes == 100 * PAGE_BYTES
    assert entry.disk_bytes < PAGE_BYTES


class _Answers:
    """``fallocate`` as another filesystem has it."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)

    def fallocate(self, file: int, mode: int, offset: int, size: int) -> int:
        code = self.codes.pop(0)
        ctypes.set_errno(code)
        return -1 if code else 0


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_without_allocation_the_size_grows(
    file: int, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(files_module, "_libc", _Answers(code, code))
    FILES.allocate(file, 3 * PAGE_BYTES)
    assert FILES.size(file) == 3 * PAGE_BYTES
    FILES.allocate(file, PAGE_BYTES)
    assert FILES.size(file) == 3 * PAGE_BYTES


def test_allocation_on_a_full_disk_fails_and_a_signal_does_not_stop_it(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = _Answers(errno.EINTR, errno.EINTR, 0, errno.ENOSPC)
    monkeypatch.setattr(files_module, "_libc", answers)
    FILES.allocate(file, 1)
    with pytest.raises(OSError) as caught:
        FILES.allocate(file, 1)
    assert caught.value.errno == errno.ENOSPC
    assert not answers.codes


def test_free_bytes_are_what_is_left_to_us(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    assert 0 < FILES.free_bytes(tmp_path) <= status.f_blocks * status.f_frsize
    with pytest.raises(OSError):
        FILES.free_bytes(tmp_path / "absent")


def test_the_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    before = probe_direct(FILES, tmp_path)
    assert FILES.entries(tmp_path) == []
    (tmp_path / ".direct-io-probe").write_bytes(b"left by a crash")
    assert probe_direct(FILES, tmp_path) is before
    assert FILES.entries(tmp_path) == []
    assert not probe_direct(FILES, tmp_path / "absent")


class _NotReally(OsFiles):
    """Opens for direct I/O but transfers through the page cache: any filesystem will do."""

    def open(self, path: Path, *, writable: bool, direct: bool = False) -> int:
        return super().open(path, writable=writable)


class _Forgetful(_NotReally):
    def write(self, file, data, offset):
        return sum(view.nbytes for view in data)


def test_the_probe_believes_only_what_it_read_back(tmp_path: Path) -> None:
    assert probe_direct(_NotReally(), tmp_path)
    assert not probe_direct(_Forgetful(), tmp_path)
    assert FILES.entries(tmp_path) == []


@pytest.mark.parametrize("kind", ["create", "direct", "write", "read", "remove"])
def test_a_disk_that_fails_has_no_direct_io(tmp_path: Path, kind: str) -> None:
    assert not probe_direct(FaultyFiles(broken={kind: errno.EINVAL}), tmp_path)


@pytest.mark.parametrize("size", [1, PAGE_BYTES, 5 * PAGE_BYTES, 5 * PAGE_BYTES + 1])
def test_aligned_memory(size: int) -> None:
    view = aligned(size)
    assert view.nbytes == size
    assert view == bytes(size)
    view[-1] = 1
    assert is_aligned(view) is (size % PAGE_BYTES == 0)


def test_alignment_is_of_address_and_length() -> None:
    view = aligned(4 * PAGE_BYTES)
    assert is_aligned(view[PAGE_BYTES : 3 * PAGE_BYTES])
    assert is_aligned(view.toreadonly())
    assert not is_aligned(view[1 : 1 + PAGE_BYTES])
    assert not is_aligned(view[:-1])
    assert not is_aligned(view[512:])


def test_a_pool_lends_each_block_once_and_no_more_than_it_has() -> None:
    pool = BufferPool(2 * PAGE_BYTES, 2)
    blocks = [pool.get(), pool.get()]
    for number, block in enumerate(blocks, 1):
        assert is_aligned(block)
        assert block.nbytes == 2 * PAGE_BYTES
        block[:] = bytes([number]) * block.nbytes
    assert [block[0] for block in blocks] == [1, 2]
    with pytest.raises(TimeoutError):
        pool.get(wait_s=0)
    pool.put(blocks[1])
    assert pool.get(wait_s=0) is blocks[1]


def test_a_pool_takes_back_only_what_it_lent() -> None:
    pool = BufferPool(PAGE_BYTES, 1)
    block = pool.get()
    with pytest.raises(ValueError):
        pool.put(block[:])
    pool.put(block)
    with pytest.raises(ValueError):
        pool.put(block)


def test_who_waits_for_a_block_gets_the_one_returned() -> None:
    pool = BufferPool(PAGE_BYTES, 1)
    block = pool.get()
    got: list[memoryview] = []
    waiting = threading.Thread(target=lambda: got.append(pool.get(wait_s=30)))
    waiting.start()
    pool.put(block)
    waiting.join(30)
    assert got == [block]
    assert got[0] is block


def test_faults_by_kind(tmp_path: Path, file: int) -> None:
    faulty = FaultyFiles()
    calls = {
        "allocate": lambda: faulty.allocate(file, PAGE_BYTES),
        "sync": lambda: faulty.sync(file),
        "sync_folder": lambda: faulty.sync_folder(tmp_path),
        "free": lambda: faulty.free_bytes(tmp_path),
    }
    for kind, call in calls.items():
        call()
        faulty.broken = {kind: errno.EROFS}
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EROFS


def test_a_full_disk_by_its_own_account(tmp_path: Path) -> None:
    faulty = FaultyFiles()
    assert faulty.free_bytes(tmp_path) > 0
    faulty.free = 17
    assert faulty.free_bytes(tmp_path) == 17


@pytest.mark.parametrize("kind", ["read", "write", "sync", "allocate"])
def test_a_hung_call_goes_on_when_it_is_let_go(file: int, kind: str) -> None:
    faulty, over, done = FaultyFiles(), threading.Event(), threading.Event()
    faulty.hang_reads = over if kind == "read" else None
    faulty.hang_writes = None if kind == "read" else over
    calls = {
        "read": lambda: faulty.read(file, [memoryview(bytearray(1))], 0),
        "write": lambda: faulty.write(file, [memoryview(b"a")], 0),
        "sync": lambda: faulty.sync(file),
        "allocate": lambda: faulty.allocate(file, 1),
    }
    others = [call for other, call in calls.items() if (other == "read") != (kind == "read")]
    thread = threading.Thread(target=lambda: (calls[kind](), done.set()))
    thread.start()
    assert faulty.hung.acquire(timeout=30)
    assert not done.is_set()
    for call in others:
        call()
    over.set()
    thread.join(30)
    assert done.is_set()


def test_memory_goes_back_with_its_last_view() -> None:
    view = aligned(2 * PAGE_BYTES)
    memory = weakref.ref(view.obj)
    part = view[PAGE_BYTES:]
    del view
    assert memory() is not None
    del part
    assert memory() is None
