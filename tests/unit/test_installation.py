"""One installation's store: who makes the master key, and who does not."""

from pathlib import Path

import pytest

from cache_tiers.ssd.installation import Installation, check_master_key, open_store
from cache_tiers.ssd.keyring import WrongMasterKey
from cache_tiers.ssd.master_key import MasterKeyError, create_key_file
from cache_tiers.store import WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey

CHUNK = 4096


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(
        root=tmp_path / "store", bytes_limit=1 << 20, master_key=f"file:{tmp_path / 'keys' / 'm'}"
    )


def key_file(installation: Installation) -> Path:
    return installation.root.parent / "keys" / "m"


def fill(installation: Installation) -> None:
    store = open_store(installation, "f", CHUNK, environ={})
    outcomes = store.put([ChunkKey(b"k")], [memoryview(bytes(CHUNK))], SessionKey("t/s"))
    assert outcomes == [WriteOutcome.STORED]
    store.close()


def test_the_first_start_makes_the_key(installation: Installation) -> None:
    check_master_key(installation, {})
    made = key_file(installation).read_bytes()
    assert key_file(installation).stat().st_mode & 0o777 == 0o600
    assert key_file(installation).parent.stat().st_mode & 0o777 == 0o700
    fill(installation)
    check_master_key(installation, {})
    assert key_file(installation).read_bytes() == made


def test_looking_makes_nothing(installation: Installation) -> None:
    with pytest.raises(MasterKeyError):
        open_store(installation, "f", CHUNK, environ={}, read_only=True)
    assert not key_file(installation).exists()
    assert not installation.root.exists()


def test_a_lost_key_is_not_replaced(installation: Installation) -> None:
    fill(installation)
    key_file(installation).unlink()
    with pytest.raises(MasterKeyError, match="is gone"):
        check_master_key(installation, {})
    assert not key_file(installation).exists()
    create_key_file(key_file(installation))
    with pytest.raises(WrongMasterKey, match="another master key"):
        check_master_key(installation, {})


def test_it_travels_to_another_process(installation: Installation) -> None:
    assert Installation.from_builtins(installation.to_builtins()) == installation


def test_a_budget_outlives_the_store(tmp_path: Path) -> None:
    small = Installation(root=tmp_path / "store", bytes_limit=1 << 20, bytes_per_day=2 * CHUNK)
    for expected in (WriteOutcome.STORED, WriteOutcome.STORED, WriteOutcome.REFUSED):
        store = open_store(small, "f", CHUNK, environ={}, clock=lambda: 1e9)
        name = ChunkKey(b"%d" % store.stats().chunks)
        assert store.put([name], [memoryview(bytes(CHUNK))], SessionKey("t/s")) == [expected]
        store.close()
