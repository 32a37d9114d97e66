"""The keyring against a model with losses of power, and against every kind of damage."""

import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.key_slots import SLOT_BYTES
from cache_tiers.ssd.keyring import Keyring, rotate
from cache_tiers.store import StoreUnusable
from cache_tiers.types import SessionKey
from tests.power_loss import LossyFiles, PowerCut

MASTERS = [bytes([number]) * 32 for number in range(1, 4)]
SESSIONS = [SessionKey(name) for name in ("t/a", "t/b", "t/c", "u/a", "u/b")]
TENANTS = ("t", "u")
NONCES = [bytes([number]) * 12 for number in range(1, 7)]
IV = bytes(12)
USED_BYTES = 64 * SLOT_BYTES
"""All that is written to in the file that is damaged below: both headers and what is between."""


def sealed(keyring: Keyring, number: int) -> bytes:
    """What this very key alone opens."""
    return keyring.cipher(number).encrypt(IV, b"secret", None)


@dataclass
class Content:
    """What a keyring holds: by session its key's number and something sealed with it; by nonce
    the kept key."""

    sessions: dict[SessionKey, tuple[int, bytes]] = field(default_factory=dict)
    kept: dict[bytes, bytes] = field(default_factory=dict)

    def copy(self) -> "Content":
        return Content(dict(self.sessions), dict(self.kept))


def holds(keyring: Keyring, content: Content) -> bool:
    """Whether all of ``content`` is there."""
    return all(
        keyring.find(session) == number and sealed(keyring, number) == data
        for session, (number, data) in content.sessions.items()
    ) and all(keyring.kept_key(nonce) == key for nonce, key in content.kept.items())


class KeyringMachine(RuleBasedStateMachine):
    """What was synced survives; what was destroyed does not come back."""

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp(prefix="keyring-"))
        (self.top / "root").mkdir()
        self.path = self.top / "root" / "keys"
        self.master = MASTERS[0]
        self.now = Content()
        self.safe = Content()
        """What a loss of power must leave."""
        self.destroyed: set[int] = set()
        self.released: set[bytes] = set()
        self.images = 0
        self.start()

    def start(self) -> None:
        self.files = LossyFiles(self.top / "root")
        self.keyring = Keyring.open(self.path, self.master, self.files)

    @rule(session=st.sampled_from(SESSIONS))
    def use(self, session: SessionKey) -> None:
        number = self.keyring.session_key(session)
        known = self.now.sessions.get(session)
        assert number not in self.destroyed
        if known is None:
            self.now.sessions[session] = (number, sealed(self.keyring, number))
        else:
            assert number == known[0]

    @rule(
        tenant=st.sampled_from(TENANTS),
        nonce=st.sampled_from(NONCES),
        key=st.binary(min_size=32, max_size=32),
    )
    def keep(self, tenant: str, nonce: bytes, key: bytes) -> None:
        self.keyring.keep(tenant, nonce, key)
        self.now.kept[nonce] = key
        # Until the next sync either key may be what a loss of power leaves.
        self.safe.kept.pop(nonce, None)
        self.released.discard(nonce)

    @rule(session=st.sampled_from(SESSIONS))
    def destroy(self, session: SessionKey) -> None:
        known = self.now.sessions.pop(session, None)
        assert self.keyring.destroy(session) == (known is not None)
        if known:
            self.destroyed.add(known[0])
        self.safe = self.now.copy()

    @rule(nonces=st.sets(st.sampled_from(NONCES)))
    def release(self, nonces: set[bytes]) -> None:
        self.keyring.release(nonces)
        for nonce in nonces:
            self.now.kept.pop(nonce, None)
        self.released |= nonces
        self.safe = self.now.copy()

    @rule()
    def sync(self) -> None:
        self.keyring.sync()
        self.safe = self.now.copy()

    @rule()
    def restart(self) -> None:
        self.keyring.close()
        self.safe = self.now.copy()
        self.start()

    @rule(seed=st.integers(0, 2**16))
    def lose_power(self, seed: int) -> None:
        """Look at what would be left, and go on."""
        image = self.image(seed)
        self.check(Keyring.open(image / "keys", self.master, OsFiles()))
        shutil.rmtree(image)

    @rule(
        seed=st.integers(0, 2**16),
        calls=st.integers(1, 6),
        part=st.sampled_from([0.0, 0.5, 1.0]),
        master=st.sampled_from(MASTERS),
    )
    def lose_power_while_rotating(self, seed: int, calls: int, part: float, master: bytes) -> None:
        self.keyring.close()
        self.safe = self.now.copy()
        self.files.stop_after(calls, part)
        old = self.master
        try:
            rotate(self.path, old, master, self.files)
            self.master = master
        except PowerCut:
            self.files.close_all()
        image = self.image(seed)
        shutil.rmtree(self.top / "root")
        image.rename(self.top / "root")
        if self.files.off:
            try:
                Keyring.open(self.path, old, OsFiles(), read_only=True).close()
            except StoreUnusable:
                self.master = master
        self.start()

    @precondition(lambda self: self.safe.sessions)
    @rule(master=st.sampled_from(MASTERS))
    def rotate(self, master: bytes) -> None:
        self.keyring.close()
        self.safe = self.now.copy()
        rotate(self.path, self.master, master, self.files)
        self.master = master
        self.start()

    @invariant()
    def all_there(self) -> None:
        assert holds(self.keyring, self.now)
        self.check(self.keyring)
        for nonce in NONCES:
            assert (nonce in self.keyring.kept) == (nonce in self.now.kept)

    def check(self, keyring: Keyring) -> None:
        assert holds(keyring, self.safe)
        assert 0 not in keyring.owners
        assert not any(number in keyring.owners for number in self.destroyed)
        assert not any(nonce in keyring.kept for nonce in self.released)

    def image(self, seed: int) -> Path:
        self.images += 1
        image = self.top / f"image{self.images}"
        self.files.crash_image(seed, image)
        return image

    def teardown(self) -> None:
        self.files.close_all()
        shutil.rmtree(self.top)


TestKeyring = KeyringMachine.TestCase
TestKeyring.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@cache
def example() -> tuple[bytes, Content]:
    """A keyring's file and what is in it."""
    with tempfile.TemporaryDirectory(prefix="keyring-") as folder:
        path = Path(folder) / "keys"
        keyring = Keyring.open(path, MASTERS[0], OsFiles())
        content = Content()
        for number in range(45):
            session = SessionKey(f"t/{number}")
            owner = keyring.session_key(session)
            content.sessions[session] = (owner, sealed(keyring, owner))
        for nonce in NONCES:
            content.kept[nonce] = nonce + bytes(20)
            keyring.keep(TENANTS[nonce[0] % 2], nonce, content.kept[nonce])
        keyring.close()
        return path.read_bytes(), content


def lost(data: bytes) -> int | None:
    """How many keys a damaged file lost, and that no key is a wrong one. None when the file could
    not be used at all."""
    content = example()[1]
    with tempfile.TemporaryDirectory(prefix="keyring-") as folder:
        path = Path(folder) / "keys"
        path.write_bytes(data)
        try:
            keyring = Keyring.open(path, MASTERS[0], OsFiles())
        except StoreUnusable:
            return None
        gone = 0
        for number, right in content.sessions.values():
            try:
                assert sealed(keyring, number) == right
            except KeyError:
                gone += 1
        for nonce, key in content.kept.items():
            found = keyring.kept_key(nonce)
            assert found in (None, key)
            gone += found is None
        for session in content.sessions:
            sealed(keyring, keyring.session_key(session))
        for tenant, nonce in zip(TENANTS, NONCES, strict=False):
            keyring.keep(tenant, nonce, bytes(32))
            assert keyring.kept_key(nonce) == bytes(32)
        for session in content.sessions:
            keyring.destroy(session)
        keyring.close()
        again = Keyring.open(path, MASTERS[0], OsFiles())
        for number, _ in content.sessions.values():
            with pytest.raises(KeyError):
                again.cipher(number)
        again.close()
        return gone


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 8 * USED_BYTES - 1))
def test_a_flipped_bit_costs_one_record(at: int) -> None:
    data = bytearray(example()[0])
    data[at // 8] ^= 1 << at % 8
    gone = lost(bytes(data))
    # With a group's key go the keys it wraps.
    assert gone is not None
    assert gone <= len(NONCES) // len(TENANTS)


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(
        st.tuples(st.integers(0, USED_BYTES - 1), st.binary(min_size=1, max_size=700)), max_size=6
    ),
    size=st.integers(0, 2 * USED_BYTES),
)
def test_damage_anywhere_is_never_a_wrong_key(pieces: list[tuple[int, bytes]], size: int) -> None:
    data = bytearray(example()[0])
    for at, piece in pieces:
        data[at : at + len(piece)] = piece
    lost(bytes(data[:size]))


@settings(max_examples=200, deadline=None)
@given(
    swaps=st.lists(st.tuples(st.integers(1, 63), st.integers(1, 63)), max_size=8),
    flips=st.lists(st.integers(0, 8 * USED_BYTES - 1), max_size=8),
)
def test_forged_records_are_never_a_wrong_key(
    swaps: list[tuple[int, int]], flips: list[int]
) -> None:
    """As above, with checksums that are right."""
    data = bytearray(example()[0])
    for one, other in swaps:
        data[place(one)] = data[place(other)]
    for at in flips:
        data[at // 8] ^= 1 << at % 8
    for slot in range(USED_BYTES // SLOT_BYTES):
        if any(data[place(slot)]):
            data[place(slot)] = with_checksum(data[place(slot)], slot)
    lost(bytes(data))


def place(slot: int) -> slice:
    return slice(slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES)


def with_checksum(record: bytes, slot: int) -> bytes:
    fields = bytes(record[:-8])
    return fields + xxhash.xxh3_64_intdigest(fields, slot).to_bytes(8, "little")
