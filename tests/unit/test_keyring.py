"""Keys come back with the right master key, and not at all once they are destroyed."""

import errno
import logging
import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cache_tiers.ssd import keyring as module
from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.key_slots import SLOT_BYTES
from cache_tiers.ssd.keyring import Keyring, WrongMasterKey, rotate
from cache_tiers.store import StoreUnusable
from cache_tiers.types import SessionKey
from tests.contract.store_faults import open_below

MASTER, OTHER = bytes(range(32)), bytes(range(1, 33))
A, B, C = SessionKey("t/a"), SessionKey("t/b"), SessionKey("u/c")
NONCE = b"n" * 12


class Killed(BaseException):
    """The process ended here."""


class Disk(OsFiles):
    """Counts what changes the disk, notes the order, and fails from one call on."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail_from: int | None = None
        self.error: BaseException = Killed()
        self.only: str | None = None

    def _may_fail(self, call: str) -> None:
        self.calls.append(call)
        failing = self.fail_from is not None and len(self.calls) > self.fail_from
        if failing and self.only in (None, call):
            raise self.error

    def make_folder(self, path: Path) -> None:
        self._may_fail("make_folder")
        super().make_folder(path)

    def create(self, path: Path) -> int:
        self._may_fail("create")
        return super().create(path)

    def write(self, file: int, data: Sequence[memoryview], offset: int) -> int:
        try:
            self._may_fail("write")
        except BaseException:
            super().write(file, [data[0][: data[0].nbytes // 2]], offset)
            raise
        return super().write(file, data, offset)

    def sync(self, file: int) -> None:
        self._may_fail("sync")
        super().sync(file)

    def replace(self, source: Path, target: Path) -> None:
        self._may_fail("replace")
        super().replace(source, target)

    def sync_folder(self, path: Path) -> None:
        self._may_fail("sync_folder")
        super().sync_folder(path)

    def remove(self, path: Path) -> None:
        self._may_fail("remove")
        super().remove(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "keys"


@pytest.fixture
def disk() -> Disk:
    return Disk()


def opened(path: Path, master: bytes = MASTER, disk: OsFiles | None = None, **more: Any) -> Keyring:
    return Keyring.open(path, master, disk or OsFiles(), **more)


def wrapped(keyring: Keyring, session: SessionKey) -> bytes:
    """Something that the session's key alone opens."""
    return keyring.cipher(keyring.session_key(session)).encrypt(NONCE, b"secret", None)


def opens(keyring: Keyring, session: SessionKey, data: bytes) -> bool:
    number = keyring.find(session)
    return number is not None and keyring.cipher(number).decrypt(NONCE, data, None) == b"secret"


def test_keys_come_back(path: Path) -> None:
    keyring = opened(path)
    data = {session: wrapped(keyring, session) for session in (A, B, C)}
    numbers = [keyring.find(session) for session in data]
    assert len({*data.values()}) == len({*numbers}) == 3
    keyring.keep("t", NONCE, b"k" * 32)
    keyring.close()
    again = opened(path)
    assert [again.find(session) for session in data] == numbers
    assert [again.session_key(session) for session in data] == numbers
    assert all(opens(again, session, kept) for session, kept in data.items())
    assert again.kept_key(NONCE) == b"k" * 32
    assert all(number in again.owners for number in numbers)
    assert NONCE in again.kept
    assert 0 not in again.owners


def test_private_to_its_owner(path: Path) -> None:
    keyring = opened(path)
    keyring.close()
    rotate(path, MASTER, OTHER, OsFiles())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_in_memory_until_sync(path: Path, disk: Disk) -> None:
    keyring = opened(path, disk=disk)
    disk.calls.clear()
    for session in (A, B, C):
        keyring.session_key(session)
    assert disk.calls == []
    assert opened(path).find(A) is None
    keyring.sync()
    assert disk.calls == ["write", "sync"]
    keyring.sync()
    assert disk.calls == ["write", "sync"]
    assert None not in [opened(path).find(session) for session in (A, B, C)]


@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_failed_sync_is_made_good_by_the_next(path: Path, disk: Disk, call: str) -> None:
    keyring = opened(path, disk=disk)
    data = wrapped(keyring, A)
    disk.fail_from, disk.only, disk.error = 0, call, OSError(errno.EIO, "broken")
    with pytest.raises(OSError, match="broken"):
        keyring.sync()
    assert opens(keyring, A, data)
    disk.fail_from = None
    keyring.sync()
    assert opens(opened(path), A, data)


def test_the_wrong_master_key(path: Path) -> None:
    keyring = opened(path)
    data = wrapped(keyring, A)
    keyring.close()
    before = path.read_bytes()
    with pytest.raises(WrongMasterKey, match="another master key: configure that one, or remove"):
        opened(path, OTHER)
    assert path.read_bytes() == before
    assert opens(opened(path), A, data)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_master_key_has_32_bytes(path: Path, size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        opened(path, bytes(size))
    with pytest.raises(ValueError, match="32 bytes"):
        rotate(path, MASTER, bytes(size), OsFiles())


def test_a_newer_format(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VERSION", 2)
    opened(path).close()
    monkeypatch.undo()
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match=r"format 2, this program reads 1: use the newer"):
        opened(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"\0" * 65536, b"keys of something else" * 4000])
def test_not_a_keyring(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_bytes(content)
    with pytest.raises(StoreUnusable, match="is not a keyring, or is damaged: remove it"):
        opened(path)
    assert path.read_bytes() == content


def test_what_cannot_be_opened(path: Path) -> None:
    path.mkdir(parents=True, mode=0o700)
    with pytest.raises(StoreUnusable, match="cannot be used"):
        opened(path)
    link = path.with_name("link")
    link.symlink_to(path / "keys")
    with pytest.raises(StoreUnusable, match="cannot be used"):
        opened(link)
    pipe = path.with_name("pipe")
    os.mkfifo(pipe, 0o600)
    with pytest.raises(StoreUnusable):
        opened(pipe)


def test_a_keyring_that_is_not_made_whole_is_made_again(path: Path) -> None:
    calls = 0
    while True:
        disk = Disk()
        disk.fail_from = calls
        try:
            opened(path, disk=disk).close()
        except Killed:
            calls += 1
            assert not list(path.parent.glob("keys")) or opened(path)
            shutil.rmtree(path.parent, ignore_errors=True)
            continue
        break
    assert calls == len(["make_folder", "create", "write", "sync", "replace", "sync_folder"])


def test_one_damaged_header_is_repaired(path: Path) -> None:
    opened(path).close()
    for slot in (0, 32):
        content = bytearray(path.read_bytes())
        content[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES] = os.urandom(SLOT_BYTES)
        path.write_bytes(content)
        opened(path).close()
    content[:SLOT_BYTES] = content[32 * SLOT_BYTES : 33 * SLOT_BYTES] = bytes(SLOT_BYTES)
    path.write_bytes(content)
    with pytest.raises(StoreUnusable, match="damaged"):
        opened(path)


def test_a_torn_tail_is_not_read(path: Path) -> None:
    keyring = opened(path)
    data = wrapped(keyring, A)
    keyring.close()
    with path.open("ab") as file:
        file.write(b"torn" * 20)
    again = opened(path)
    for number in range(600):
        again.session_key(SessionKey(f"t/{number}"))
    again.close()
    last = opened(path)
    assert opens(last, A, data)
    assert None not in [last.find(SessionKey(f"t/{number}")) for number in range(600)]


def test_destroyed(path: Path) -> None:
    keyring = opened(path)
    a, b = wrapped(keyring, A), wrapped(keyring, B)
    keyring.sync()
    number = keyring.find(A)
    assert number is not None
    record = keyring._slots.record(keyring._sessions.slots[number])
    assert record is not None
    secret = record.unwrap(AESGCM(MASTER))
    assert secret is not None
    assert record.wrapped in path.read_bytes()
    assert keyring.destroy(A)
    assert number not in keyring.owners
    assert keyring.find(A) is None
    with pytest.raises(KeyError):
        keyring.cipher(number)
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    content = copy.read_bytes()
    assert record.wrapped not in content
    assert record.name not in content
    assert secret not in content
    for again in (opened(copy), opened(path)):
        assert again.find(A) is None
        assert number not in again.owners
        assert opens(again, B, b)
        assert wrapped(again, A) != a
    assert not keyring.destroy(A)


def test_destroying_is_on_the_medium_before_it_returns(path: Path, disk: Disk) -> None:
    keyring = opened(path, disk=disk)
    wrapped(keyring, A)
    keyring.sync()
    disk.calls.clear()
    keyring.destroy(A)
    assert disk.calls == ["write", "sync"]


@pytest.mark.parametrize("call", ["write", "sync"])
def test_what_could_not_be_destroyed_is_destroyed_next_time(
    path: Path, disk: Disk, call: str
) -> None:
    keyring = opened(path, disk=disk)
    wrapped(keyring, A)
    keyring.sync()
    disk.fail_from, disk.only, disk.error = 0, call, OSError(errno.EIO, "broken")
    with pytest.raises(OSError, match="broken"):
        keyring.destroy(A)
    assert keyring.find(A) is None
    with pytest.raises(OSError, match="broken"):
        keyring.destroy(A)
    disk.fail_from = None
    keyring.destroy(A)
    assert opened(path).find(A) is None


def test_kept_keys(path: Path) -> None:
    keyring = opened(path)
    nonces = [bytes([number]) * 12 for number in range(1, 6)]
    for nonce in nonces:
        keyring.keep("t", nonce, nonce * 2 + bytes(8))
    keyring.keep("u", b"u" * 12, b"u" * 32)
    keyring.sync()
    keyring.release([nonces[0], nonces[3], b"unknown" + bytes(5)])
    again = opened(path)
    for ring in (keyring, again):
        assert [nonce in ring.kept for nonce in nonces] == [False, True, True, False, True]
        assert [ring.kept_key(nonce) is not None for nonce in nonces] == [
            nonce in ring.kept for nonce in nonces
        ]
        assert ring.kept_key(nonces[1]) == nonces[1] * 2 + bytes(8)
        assert ring.kept_key(b"u" * 12) == b"u" * 32
    content = path.read_bytes()
    assert [nonce in content for nonce in nonces] == [False, True, True, False, True]
    assert nonces[1] * 2 not in content


def test_keeping_again_replaces(path: Path) -> None:
    keyring = opened(path)
    keyring.keep("t", NONCE, b"1" * 32)
    keyring.keep("t", NONCE, b"2" * 32)
    keyring.sync()
    assert keyring.kept_key(NONCE) == opened(path).kept_key(NONCE) == b"2" * 32
    assert path.read_bytes().count(NONCE) == 1


def test_a_group_that_keeps_nothing_leaves_the_file(path: Path) -> None:
    keyring = opened(path)
    keyring.keep("t", NONCE, b"1" * 32)
    keyring.keep("u", b"u" * 12, b"2" * 32)
    keyring.release([NONCE])
    keyring.close()
    slots = [opened(path)._groups.slots for _ in range(2)]
    assert [len(groups) for groups in slots] == [1, 1]


def test_records_are_used_again_and_the_file_stays_small(path: Path) -> None:
    keyring = opened(path)
    keyring.sync()
    size = path.stat().st_size
    for number in range(2000):
        session = SessionKey(f"t/{number}")
        keyring.session_key(session)
        keyring.keep("t", number.to_bytes(12, "big"), bytes(32))
        keyring._forget(keyring._sessions, keyring._digest(2, session))
        keyring._discard([number.to_bytes(12, "big")])
    keyring.sync()
    assert path.stat().st_size == size
    for number in range(600):
        keyring.session_key(SessionKey(f"t/{number}"))
    keyring.sync()
    assert path.stat().st_size == 2 * size


def test_at_its_limits_the_oldest_go(path: Path) -> None:
    keyring = opened(path, max_sessions=10, max_kept=5)
    sessions = [SessionKey(f"t/{number}") for number in range(25)]
    for session in sessions:
        wrapped(keyring, session)
    nonces = [bytes([number]) * 12 for number in range(1, 13)]
    for nonce in nonces:
        keyring.keep("t", nonce, bytes(32))
    keyring.close()
    for ring in (keyring, opened(path)):
        assert [session for session in sessions if ring.find(session)] == sessions[-10:]
        assert [nonce for nonce in nonces if nonce in ring.kept] == nonces[-5:]
    tenants = opened(path, max_kept=5)
    for number in range(20):
        tenants.keep(f"tenant {number}", nonces[number % 12], bytes(32))
    assert len(tenants._groups.slots) <= 5


def test_a_session_that_goes_on_outlasts_the_many_that_do_not(path: Path) -> None:
    keyring = opened(path, max_sessions=10)
    number = keyring.session_key(A)
    for other in range(50):
        keyring.session_key(SessionKey(f"t/{other}"))
        assert keyring.session_key(A) == number
    assert len(keyring._sessions.slots) == 10


def test_numbers_are_never_given_twice(path: Path) -> None:
    keyring = opened(path)
    numbers = []
    for _ in range(300):
        numbers.append(keyring.session_key(A))
        keyring._forget(keyring._sessions, keyring._digest(2, A))
    assert len({*numbers}) == 300
    assert all(0 < number < 2**63 for number in numbers)


def test_the_number_0_is_not_given(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = opened(path)
    real, given = os.urandom, [bytes(8), b"\1" + bytes(7), b"\2" + bytes(7)]
    monkeypatch.setattr(os, "urandom", lambda size: given.pop(0) if size == 8 else real(size))
    assert keyring.session_key(A) == 1


def test_the_file_names_nobody(path: Path) -> None:
    keyring = opened(path)
    keyring.session_key(SessionKey("the-tenant/the-session"))
    keyring.keep("the-tenant", NONCE, bytes(32))
    keyring.close()
    content = path.read_bytes()
    assert b"the-tenant" not in content
    assert b"the-session" not in content
    other = path.with_name("other")
    ring = opened(other)
    ring.session_key(SessionKey("the-tenant/the-session"))
    ring.close()
    digests = [set(opened(file)._sessions.numbers) for file in (path, other)]
    assert [len(names) for names in digests] == [1, 1]
    assert digests[0] != digests[1]
    assert all(name not in content for name in digests[1])


def test_a_session_and_a_tenant_of_one_name_differ(path: Path) -> None:
    keyring = opened(path)
    keyring.session_key(SessionKey("t"))
    keyring.keep("t", NONCE, bytes(32))
    assert len({*keyring._sessions.numbers, *keyring._groups.numbers}) == 2


def test_any_name(path: Path) -> None:
    keyring = opened(path)
    for name in ("", "\0", "\udcff", "é" * 10_000):
        keyring.session_key(SessionKey(name))
        assert keyring.find(SessionKey(name)) is not None


def test_nothing_secret_in_repr_or_logs(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keyring = opened(path)
    keyring.session_key(A)
    keyring.keep("t", NONCE, b"data key" * 4)
    keyring.close()
    content = bytearray(path.read_bytes())
    content[1 * SLOT_BYTES + 3] ^= 1
    path.write_bytes(content)
    opened(path)
    assert caplog.messages == ["The keyring has 1 damaged records: lost keys."]
    for text in (repr(keyring), str(keyring), repr(keyring._slots)):
        assert len(text) < 100


def test_a_damaged_record_is_wiped(path: Path) -> None:
    keyring = opened(path)
    wrapped(keyring, A)
    number = keyring.find(A)
    assert number is not None
    slot = keyring._sessions.slots[number]
    keyring.close()
    content = bytearray(path.read_bytes())
    content[(slot + 1) * SLOT_BYTES - 1] ^= 1
    path.write_bytes(content)
    again = opened(path)
    assert again.find(A) is None
    assert number not in again.owners
    again.close()
    assert not any(path.read_bytes()[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES])


def forge(path: Path, slot: int, **fields: Any) -> None:
    """Change a record and its checksum, as somebody without the master key could."""
    keyring = opened(path)
    record = keyring._slots.record(slot)
    assert record is not None
    content = bytearray(path.read_bytes())
    place = slice(slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES)
    content[place] = record._replace(**fields).encode(slot)
    path.write_bytes(content)


@pytest.mark.parametrize("fields", [{"wrapped": bytes(48)}, {"nonce": bytes(12)}])
def test_a_forged_record_is_a_lost_key(path: Path, fields: dict[str, bytes]) -> None:
    keyring = opened(path)
    wrapped(keyring, A)
    keyring.keep("t", NONCE, bytes(32))
    keyring.close()
    for slot in (1, 2, 3):
        forge(path, slot, **fields)
    again = opened(path)
    number = again.find(A)
    assert number is not None
    with pytest.raises(KeyError):
        again.cipher(number)
    assert again.kept_key(NONCE) is None
    assert again.session_key(A) != number
    assert number not in again.owners
    again.keep("t", NONCE, b"9" * 32)
    assert opens(again, A, wrapped(again, A))
    assert again.kept_key(NONCE) == b"9" * 32


@pytest.mark.parametrize("number", [0, 12345])
def test_a_key_does_not_answer_to_another_number(path: Path, number: int) -> None:
    keyring = opened(path)
    keyring.session_key(A)
    keyring.close()
    forge(path, 1, number=number)
    with pytest.raises(KeyError):
        opened(path).cipher(number)
    assert 0 not in opened(path).owners


def test_a_record_put_elsewhere_is_not_believed(path: Path) -> None:
    keyring = opened(path)
    keyring.session_key(A)
    keyring.close()
    content = bytearray(path.read_bytes())
    content[5 * SLOT_BYTES : 6 * SLOT_BYTES] = content[SLOT_BYTES : 2 * SLOT_BYTES]
    path.write_bytes(content)
    again = opened(path)
    assert again.destroy(A)
    again.close()
    assert opened(path).find(A) is None
    assert not any(path.read_bytes()[SLOT_BYTES : 6 * SLOT_BYTES])


def test_a_record_of_a_destroyed_key_is_not_believed_elsewhere(path: Path) -> None:
    keyring = opened(path)
    keyring.session_key(A)
    keyring.sync()
    record = path.read_bytes()[SLOT_BYTES : 2 * SLOT_BYTES]
    assert any(record)
    keyring.destroy(A)
    keyring.close()
    content = bytearray(path.read_bytes())
    content[5 * SLOT_BYTES : 6 * SLOT_BYTES] = record
    path.write_bytes(content)
    assert opened(path).find(A) is None


def test_two_records_of_one_name_leave_one(path: Path) -> None:
    keyring = opened(path)
    keyring.session_key(A)
    keyring.session_key(B)
    name = keyring._digest(2, A)
    keyring.close()
    forge(path, 2, name=name)
    again = opened(path)
    again.destroy(A)
    assert not any(path.read_bytes()[SLOT_BYTES : 3 * SLOT_BYTES])


def filled(path: Path, count: int = 20) -> dict[SessionKey, bytes]:
    keyring = opened(path)
    data = {(name := SessionKey(f"t/{n}")): wrapped(keyring, name) for n in range(count)}
    keyring.keep("t", NONCE, b"k" * 32)
    keyring.close()
    return data


def whole(keyring: Keyring, data: dict[SessionKey, bytes]) -> bool:
    return keyring.kept_key(NONCE) == b"k" * 32 and all(
        opens(keyring, session, kept) for session, kept in data.items()
    )


def test_rotation(path: Path) -> None:
    data = filled(path)
    before = path.read_bytes()
    rotate(path, MASTER, OTHER, OsFiles())
    with pytest.raises(WrongMasterKey):
        opened(path)
    keyring = opened(path, OTHER)
    assert whole(keyring, data)
    after = path.read_bytes()
    for slot in range(len(before) // SLOT_BYTES):
        place = slice(slot * SLOT_BYTES + 48, slot * SLOT_BYTES + 108)
        if any(before[place]) and before[slot * SLOT_BYTES :][:12] != NONCE:
            assert before[place] != after[place]
    with pytest.raises(WrongMasterKey):
        rotate(path, MASTER, OTHER, OsFiles())
    assert path.read_bytes() == after


@pytest.mark.parametrize("error", [Killed(), OSError(errno.EIO, "broken")])
def test_rotation_cut_short_anywhere(path: Path, error: BaseException) -> None:
    data = filled(path)
    kept = path.with_name("kept")
    shutil.copy(path, kept)
    calls, seen = 0, set()
    while True:
        shutil.copy(kept, path)
        disk = Disk()
        disk.fail_from, disk.error = calls, error
        try:
            rotate(path, MASTER, OTHER, disk)
        except (Killed, OSError):
            calls += 1
        else:
            break
        try:
            keyring = opened(path, OTHER)
            seen.add("new")
        except WrongMasterKey:
            keyring = opened(path, MASTER)
            seen.add("old")
        assert whole(keyring, data)
        keyring.close()
        assert not path.with_name("keys.new").exists()
    assert calls == len(["create", "write", "sync", "replace", "sync_folder"])
    assert seen == {"old", "new"}


def test_the_draft_of_a_rotation_cut_short_is_overwritten(path: Path, disk: Disk) -> None:
    filled(path)
    disk.fail_from, disk.only = 0, "replace"
    with pytest.raises(Killed):
        rotate(path, MASTER, OTHER, disk)
    draft = path.with_name("keys.new")
    left = path.with_name("left")
    os.link(draft, left)
    assert any(left.read_bytes())
    opened(path)
    assert not draft.exists()
    assert not any(left.read_bytes())


def test_a_full_disk_does_not_stand_in_the_way_of_destroying(path: Path, disk: Disk) -> None:
    keyring = opened(path, disk=disk)
    wrapped(keyring, A)
    keyring.sync()
    disk.fail_from, disk.only, disk.error = 0, "write", OSError(errno.ENOSPC, "full")
    for number in range(509):
        keyring.session_key(SessionKey(f"t/{number}"))
    with pytest.raises(OSError, match="full"):
        keyring.session_key(B)
    disk.fail_from = None
    keyring.destroy(A)
    assert opened(path).find(A) is None


@pytest.mark.parametrize("call", ["create", "write", "sync", "replace", "sync_folder"])
def test_a_file_that_was_removed_comes_back(path: Path, disk: Disk, call: str) -> None:
    keyring = opened(path, disk=disk)
    data = {session: wrapped(keyring, session) for session in (A, B)}
    keyring.revive()
    assert disk.calls[-1] == "sync_folder"
    keyring.sync()
    keyring.revive()
    assert disk.calls[-1] == "sync"
    keyring.session_key(C)
    shutil.rmtree(path.parent)
    with pytest.raises(FileNotFoundError):
        keyring.revive()
    path.parent.mkdir(mode=0o700)
    disk.fail_from, disk.only, disk.error = 0, call, OSError(errno.EIO, "broken")
    with pytest.raises(OSError, match="broken"):
        keyring.revive()
    disk.fail_from = None
    keyring.revive()
    assert opened(path, read_only=True).find(C) == keyring.find(C)
    keyring.destroy(B)
    again = opened(path)
    assert opens(again, A, data[A])
    assert again.find(B) is None


def test_reading_alone_writes_nothing(path: Path, disk: Disk) -> None:
    with pytest.raises(StoreUnusable, match="cannot be used"):
        opened(path, disk=disk, read_only=True)
    assert not path.parent.exists()
    data = filled(path)
    content = bytearray(path.read_bytes())
    content[100 * SLOT_BYTES] ^= 1
    path.write_bytes(content)
    draft = path.with_name("keys.new")
    draft.write_bytes(b"another process is at work")
    keyring = opened(path, disk=disk, read_only=True)
    assert whole(keyring, data)
    keyring.sync()
    draft.unlink()
    path.unlink()
    keyring.revive()
    keyring.close()
    assert disk.calls == []


def test_closing(path: Path, disk: Disk) -> None:
    keyring = opened(path, disk=disk)
    keyring.session_key(A)
    keyring.close()
    keyring.close()
    assert opened(path).find(A) is not None
    keyring.session_key(B)
    with pytest.raises(OSError, match="Bad file descriptor"):
        keyring.sync()


def test_closing_a_broken_disk_closes_the_file(path: Path, disk: Disk) -> None:
    keyring = opened(path, disk=disk)
    keyring.session_key(A)
    disk.fail_from, disk.error = 0, OSError(errno.EIO, "broken")
    before = open_below(path.parent)
    with pytest.raises(OSError, match="broken"):
        keyring.close()
    assert open_below(path.parent) == before - 1
    keyring.close()


def test_no_destroyed_key_comes_back_while_others_look(path: Path) -> None:
    keyring = opened(path)
    stop = threading.Event()
    wrong: list[object] = []
    watched: dict[int, bytes] = {}
    gone: set[int] = set()

    def look() -> None:
        while not stop.is_set():
            for number, data in watched.copy().items():
                was_gone = number in gone
                try:
                    found = keyring.cipher(number).decrypt(NONCE, data, None) == b"secret"
                except KeyError:
                    found = False
                except InvalidTag as error:
                    wrong.append(error)
                if was_gone and found:
                    wrong.append(number)

    with ThreadPoolExecutor(3) as pool:
        looking = [pool.submit(look) for _ in range(3)]
        try:
            for round_ in range(100):
                session = SessionKey(f"t/{round_}")
                data = wrapped(keyring, session)
                number = keyring.session_key(session)
                watched[number] = data
                if round_ % 2:
                    keyring.destroy(session)
                    gone.add(number)
                if len(watched) > 20:
                    watched.pop(next(iter(watched)))
        finally:
            stop.set()
        for each in looking:
            each.result()
    assert wrong == []
    assert not gone & keyring._ciphers.keys()


def test_a_key_destroyed_while_it_is_unwrapped_is_not_remembered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = opened(path)
    number = keyring.session_key(A)

    def slow(key: bytes) -> AESGCM:
        keyring.destroy(A)
        return AESGCM(key)

    monkeypatch.setattr(module, "AESGCM", slow)
    keyring.cipher(number)
    with pytest.raises(KeyError):
        keyring.cipher(number)
    assert number not in keyring._ciphers


def test_a_slot_given_away_while_it_is_looked_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = opened(path)
    one, other = keyring.session_key(A), keyring.session_key(B)
    keyring.keep("t", NONCE, b"1" * 32)
    keyring.keep("t", b"m" * 12, b"2" * 32)
    places = {
        keyring._sessions.slots[one]: keyring._slots.record(keyring._sessions.slots[other]),
        keyring._kept[NONCE]: keyring._slots.record(keyring._kept[b"m" * 12]),
    }
    real = keyring._slots.record
    monkeypatch.setattr(keyring._slots, "record", lambda slot: places.get(slot) or real(slot))
    with pytest.raises(KeyError):
        keyring.cipher(one)
    assert keyring.kept_key(NONCE) is None
    assert keyring.kept_key(b"m" * 12) == b"2" * 32


def test_memory_of_unwrapped_keys_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_CIPHERS", 8)
    keyring = opened(path)
    data = {SessionKey(f"t/{n}"): wrapped(keyring, SessionKey(f"t/{n}")) for n in range(50)}
    assert len(keyring._ciphers) <= 8
    assert all(opens(keyring, session, kept) for session, kept in data.items())
