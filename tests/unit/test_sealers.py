"""What was sealed opens again, for who has the key and asks for the same chunk, and for no one
else."""

import errno
import os
import struct
import threading
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest

from cache_tiers.ssd.clear import ClearSealer
from cache_tiers.ssd.encrypted import EncryptedSealer
from cache_tiers.ssd.extent import NOT_ENCRYPTED, Seal
from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.keyring import Keyring
from cache_tiers.ssd.sealer import Sealer
from cache_tiers.types import SessionKey
from tests.contract.store_faults import FaultyFiles
from tests.power_loss import LossyFiles, PowerCut

MASTER = bytes(range(32))
A, B, OTHER = SessionKey("t/a"), SessionKey("t/b"), SessionKey("u/a")
PLAIN = b"the KV of a private conversation" * 300


def about(
    tenant: bytes = b"tenant", key: bytes = b"key", length: int = 9600, fingerprint: bytes = b"f"
) -> bytes:
    """As a store puts it together."""
    return struct.pack("<16sIH", tenant, length, len(fingerprint)) + fingerprint + key


ABOUT = about()


def encrypted(path: Path, files: OsFiles | None = None) -> EncryptedSealer:
    return EncryptedSealer(Keyring.open(path, MASTER, files or OsFiles()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "keys"


@pytest.fixture(params=["encrypted", "clear"])
def sealer(request: pytest.FixtureRequest, path: Path) -> Sealer:
    return encrypted(path) if request.param == "encrypted" else ClearSealer()


class Stored:
    """A chunk as it is on the medium."""

    def __init__(self, sealer: Sealer, session: SessionKey, plain: bytes = PLAIN) -> None:
        self.plain = plain
        into = memoryview(bytearray(len(plain)))
        data, self.seal = sealer.seal(sealer.owner_of(session), memoryview(plain), into, ABOUT)
        self.data = bytes(data)

    def opens(self, sealer: Sealer) -> bool:
        return opened(sealer, self.seal, self.data) == self.plain


def opened(sealer: Sealer, seal: Seal, data: bytes, about: bytes = ABOUT) -> bytes | None:
    view = memoryview(bytearray(data))
    return bytes(view) if sealer.open(seal, view, about) else None


@pytest.mark.parametrize("size", [1, 15, 16, 17, 4095, 4096, 409_600])
def test_what_was_sealed_opens(sealer: Sealer, size: int) -> None:
    plain = os.urandom(size)
    stored = Stored(sealer, A, plain)
    assert len(stored.data) == size
    assert stored.opens(sealer)
    assert stored.seal.owner in sealer.owners
    assert (len(stored.seal.nonce), len(stored.seal.wrapped), len(stored.seal.tag)) == (12, 48, 16)
    assert stored.seal.nonce not in sealer.kept


def test_only_the_view_is_written_to(sealer: Sealer) -> None:
    stored = Stored(sealer, A)
    arena = bytearray(b"#" * 30_000)
    arena[8192 : 8192 + len(PLAIN)] = stored.data
    assert sealer.open(stored.seal, memoryview(arena)[8192 : 8192 + len(PLAIN)], ABOUT)
    assert bytes(arena) == b"#" * 8192 + PLAIN + b"#" * (30_000 - 8192 - len(PLAIN))


@pytest.mark.parametrize("at", [0, 1, 4096, 9599])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_is_noticed(sealer: Sealer, at: int, bit: int) -> None:
    stored = Stored(sealer, A)
    data = bytearray(stored.data)
    data[at] ^= 1 << bit
    assert opened(sealer, stored.seal, bytes(data)) is None


@pytest.mark.parametrize("size", [0, 1, 4096, 9599, 9601])
def test_another_length_is_noticed(sealer: Sealer, size: int) -> None:
    stored = Stored(sealer, A)
    data = (stored.data + b"\0")[:size]
    assert opened(sealer, stored.seal, data) is None


@pytest.mark.parametrize(
    "other",
    [
        about(tenant=b"other"),
        about(key=b"yek"),
        about(length=9601),
        about(fingerprint=b"g"),
        about(key=b""),
        ABOUT[:-1],
        ABOUT + b"\0",
        b"",
    ],
)
def test_a_chunk_is_not_another_chunk(sealer: Sealer, other: bytes) -> None:
    stored = Stored(sealer, A)
    assert opened(sealer, stored.seal, stored.data, other) is None
    assert stored.opens(sealer)


def test_an_owner_that_does_not_exist(sealer: Sealer) -> None:
    into = memoryview(bytearray(4))
    with pytest.raises(KeyError):
        sealer.seal(12345, memoryview(b"abcd"), into, ABOUT)
    assert 12345 not in sealer.owners
    stored = Stored(sealer, A)
    assert opened(sealer, replace(stored.seal, owner=12345), stored.data) is None


def test_closing_twice(sealer: Sealer) -> None:
    sealer.close()
    sealer.close()


def test_nothing_in_the_clear_is_stored(path: Path) -> None:
    sealer = encrypted(path)
    stored = Stored(sealer, A)
    assert all(PLAIN[at : at + 8] not in stored.data for at in range(32))
    # Random bytes have each value about 38 times; the plain text has 18 values.
    assert len(Counter(stored.data)) == 256
    again = Stored(sealer, A)
    assert {stored.data, stored.seal.nonce, stored.seal.wrapped, stored.seal.tag}.isdisjoint(
        {again.data, again.seal.nonce, again.seal.wrapped, again.seal.tag}
    )
    sealer.sync()
    assert PLAIN[:16] not in path.read_bytes()


@pytest.mark.parametrize("name", ["nonce", "wrapped", "tag"])
def test_every_bit_of_a_seal_counts(path: Path, name: str) -> None:
    sealer = encrypted(path)
    stored = Stored(sealer, A, b"short")
    value = getattr(stored.seal, name)
    for bit in range(8 * len(value)):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        seal = replace(stored.seal, **{name: bytes(flipped)})
        assert opened(sealer, seal, stored.data) is None
    for wrong in (b"", value[:-1], value[:4], value + b"\0", value * 40):
        seal = replace(stored.seal, **{name: wrong})
        assert opened(sealer, seal, stored.data) is None


def test_a_seal_is_for_one_key_and_one_chunk(path: Path) -> None:
    sealer = encrypted(path)
    one, two, other = Stored(sealer, A), Stored(sealer, A), Stored(sealer, OTHER)
    for field in fields(Seal):
        for wrong in (two, other):
            seal = replace(one.seal, **{field.name: getattr(wrong.seal, field.name)})
            found = opened(sealer, seal, one.data)
            assert found is None or seal == one.seal


def test_a_chunk_planted_in_the_clear_is_not_believed(path: Path) -> None:
    sealer = encrypted(path)
    planted = Stored(ClearSealer(), A)
    assert planted.seal.owner == NOT_ENCRYPTED
    assert NOT_ENCRYPTED not in sealer.owners
    assert not planted.opens(sealer)


def test_encrypted_chunks_are_not_believed_in_the_clear(path: Path) -> None:
    stored = Stored(encrypted(path), A)
    clear = ClearSealer()
    assert stored.seal.owner not in clear.owners
    seal = replace(stored.seal, tag=Stored(clear, A, stored.data).seal.tag)
    assert opened(clear, seal, stored.data) is None


def test_in_the_clear_nothing_is_copied_or_remembered() -> None:
    sealer = ClearSealer()
    plain, into = memoryview(bytearray(PLAIN)), memoryview(bytearray(len(PLAIN)))
    data, seal = sealer.seal(sealer.owner_of(A), plain, into, ABOUT)
    assert data is plain
    assert not any(into)
    assert seal == Seal(NOT_ENCRYPTED, bytes(12), bytes(48), seal.tag)
    assert list(sealer.owners) == [NOT_ENCRYPTED]  # type: ignore[call-overload]
    assert not sealer.shred(A, [seal])
    sealer.release([seal.nonce])
    sealer.sync()
    sealer.revive()
    assert opened(sealer, seal, PLAIN) == PLAIN


def test_nonces_and_data_keys_are_never_the_same(path: Path) -> None:
    sealer = encrypted(path)
    owner = sealer.owner_of(A)
    plain, into = memoryview(b"x"), memoryview(bytearray(1))
    seals = [sealer.seal(owner, plain, into, b"")[1] for _ in range(100_000)]
    assert len({seal.nonce for seal in seals}) == len(seals)
    wrapping = sealer._keyring.cipher(owner)
    data_keys = {
        wrapping.decrypt(seal.nonce, seal.wrapped, b"valet chunk data key") for seal in seals
    }
    assert len(data_keys) == len(seals)


def test_chunks_open_after_a_restart(path: Path) -> None:
    sealer = encrypted(path)
    chunks = [Stored(sealer, session) for session in (A, A, B, OTHER)]
    sealer.close()
    again = encrypted(path)
    assert [chunk.opens(again) for chunk in chunks] == [True] * 4
    assert [again.owner_of(session) for session in (A, B, OTHER)] == [
        chunks[i].seal.owner for i in (0, 2, 3)
    ]


def test_what_is_shredded_never_opens_again(path: Path) -> None:
    sealer = encrypted(path)
    mine, shared, others, foreign = (Stored(sealer, s) for s in (A, A, B, OTHER))
    sealer.sync()
    assert sealer.shred(A, [shared.seal, others.seal])
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    for now in (sealer, encrypted(copy), encrypted(path)):
        assert [c.opens(now) for c in (mine, shared, others, foreign)] == [False, True, True, True]
        assert mine.seal.owner not in now.owners
        assert mine.seal.nonce not in now.kept
        assert shared.seal.nonce in now.kept
        assert others.seal.nonce not in now.kept
    assert not sealer.shred(A, [shared.seal])
    assert shared.opens(sealer)
    assert not sealer.shred(SessionKey("t/unknown"), [])
    assert sealer.owner_of(A) != mine.seal.owner


def test_kept_chunks_are_their_tenants_and_go_when_released(path: Path) -> None:
    sealer = encrypted(path)
    one, two, foreign = (Stored(sealer, session) for session in (A, A, OTHER))
    assert sealer.shred(A, [one.seal, two.seal])
    assert sealer.shred(OTHER, [foreign.seal])
    groups = sealer._keyring._groups.numbers
    assert len(groups) == 2
    sealer.release([one.seal.nonce])
    again = encrypted(path)
    for now in (sealer, again):
        assert [chunk.opens(now) for chunk in (one, two, foreign)] == [False, True, True]
    wrong = replace(two.seal, nonce=foreign.seal.nonce)
    assert opened(sealer, wrong, two.data) is None
    assert opened(sealer, two.seal, two.data, about(tenant=b"u")) is None


def test_a_chunk_kept_once_is_not_kept_for_another_session(path: Path) -> None:
    sealer = encrypted(path)
    of_b = Stored(sealer, B)
    sealer.owner_of(A)
    assert sealer.shred(A, [of_b.seal, replace(of_b.seal, owner=NOT_ENCRYPTED)])
    assert of_b.seal.nonce not in sealer.kept
    assert sealer.shred(B, [])
    assert not of_b.opens(sealer)


def test_damaged_seals_are_not_kept(path: Path) -> None:
    sealer = encrypted(path)
    good, bad = Stored(sealer, A), Stored(sealer, A)
    damaged = replace(bad.seal, wrapped=bytes(48))
    assert sealer.shred(A, [damaged, good.seal])
    assert bad.seal.nonce not in sealer.kept
    assert good.opens(sealer)


@pytest.mark.parametrize("call", ["write", "sync"])
def test_shredding_on_a_broken_disk_says_so_and_can_be_done_again(path: Path, call: str) -> None:
    files = FaultyFiles()
    sealer = encrypted(path, files)
    mine, shared = Stored(sealer, A), Stored(sealer, A)
    sealer.sync()
    files.broken = {call: errno.EIO}
    with pytest.raises(OSError, match="broken"):
        sealer.shred(A, [shared.seal])
    files.broken = {}
    sealer.shred(A, [shared.seal])
    for now in (sealer, encrypted(path)):
        assert (mine.opens(now), shared.opens(now)) == (False, True)


def test_a_full_disk_keeps_nothing_and_still_shreds(path: Path) -> None:
    files = FaultyFiles()
    sealer = encrypted(path, files)
    chunks = [Stored(sealer, A, b"short") for _ in range(600)]
    sealer.sync()
    grow = files.write

    def full(file: int, data: list[memoryview], offset: int) -> int:
        if offset >= path.stat().st_size:
            raise OSError(errno.ENOSPC, "full")
        return grow(file, data, offset)

    files.write = full  # type: ignore[method-assign, assignment]
    assert sealer.shred(A, [chunk.seal for chunk in chunks])
    for now in (sealer, encrypted(path)):
        kept = [chunk.opens(now) for chunk in chunks]
        assert kept == sorted(kept, reverse=True)
        assert 0 < sum(kept) < 600
        assert chunks[0].seal.owner not in now.owners


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_power_lost_anywhere_in_a_shredding(tmp_path: Path, part: float) -> None:
    """What is kept opens at every moment; the rest does not once the shredding is over."""
    cuts = 0
    while True:
        root = tmp_path / f"cut{cuts}"
        root.mkdir()
        files = LossyFiles(root)
        sealer = encrypted(root / "keys", files)
        mine, shared, others = (Stored(sealer, session) for session in (A, A, B))
        sealer.sync()
        files.stop_after(cuts + 1, part)
        try:
            over = sealer.shred(A, [shared.seal])
        except PowerCut:
            over = False
        files.close_all()
        for seed in range(12):
            image = tmp_path / f"image{cuts}-{seed}"
            files.crash_image(seed, image)
            again = encrypted(image / "keys")
            assert shared.opens(again)
            assert others.opens(again)
            assert not (over and mine.opens(again))
        if over:
            break
        cuts += 1
    assert cuts == len(["write", "sync", "write", "sync"])


def test_a_chunk_may_be_stored_once_sync_returned(tmp_path: Path) -> None:
    files = LossyFiles(tmp_path)
    sealer = encrypted(tmp_path / "keys", files)
    stored = Stored(sealer, A)
    sealer.sync()
    for seed in range(8):
        image = tmp_path.with_name(f"image{seed}")
        files.crash_image(seed, image)
        assert stored.opens(encrypted(image / "keys"))


def test_nothing_secret_in_repr(path: Path) -> None:
    sealer = encrypted(path)
    stored = Stored(sealer, A)
    owner = sealer._keyring.cipher(stored.seal.owner)
    data_key = owner.decrypt(stored.seal.nonce, stored.seal.wrapped, b"valet chunk data key")
    for thing in (sealer, sealer._keyring, owner, stored.seal):
        for secret in (data_key, MASTER):
            assert secret.hex() not in repr(thing)
            assert repr(secret)[2:-1] not in repr(thing)


def test_many_threads(path: Path) -> None:
    sealer = encrypted(path)
    sessions = [SessionKey(f"t/{number}") for number in range(8)]
    owners = [sealer.owner_of(session) for session in sessions]
    faults: list[str] = []
    shredded = threading.Event()

    def work(seed: int) -> None:
        into = memoryview(bytearray(20_000))
        for round_ in range(150):
            owner = owners[(seed + round_) % 8]
            was_shredded = shredded.is_set()
            plain = bytes([seed]) * 20_000
            try:
                data, seal = sealer.seal(owner, memoryview(plain), into, ABOUT)
            except KeyError:
                if owner != owners[0]:
                    faults.append("a key is gone")
                continue
            if was_shredded and owner == owners[0]:
                faults.append("sealed with a destroyed key")
            if not sealer.open(seal, data, ABOUT):
                if owner != owners[0]:
                    faults.append("not opened")
            elif data != plain:
                faults.append("wrong bytes")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    sealer.shred(sessions[0], [])
    shredded.set()
    for thread in threads:
        thread.join()
    assert faults == []
