"""Which session holds what, and that it is on disk after persist."""

import errno
import threading
from pathlib import Path

import pytest

from cache_tiers import manifest
from cache_tiers.manifest import Manifests
from cache_tiers.ssd.frames import Mark, join
from cache_tiers.store import StoreUnusable
from cache_tiers.types import ChunkKey, SessionKey
from tests.contract.store_faults import FaultyFiles

A, B, C = SessionKey("t/a"), SessionKey("t/b"), SessionKey("u/c")


def keys(*numbers: int) -> list[ChunkKey]:
    return [ChunkKey(number.to_bytes(36, "big")) for number in numbers]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sessions.journal"


@pytest.fixture
def manifests(path: Path) -> Manifests:
    return Manifests.open(path, Clock())


def state(manifests: Manifests) -> dict[SessionKey, tuple[ChunkKey, ...] | None]:
    return {session: manifests.get(session) for session in manifests.sessions()}


def test_holders(manifests: Manifests) -> None:
    manifests.replace(A, keys(1, 2, 3))
    manifests.replace(B, keys(1, 2, 4))
    assert manifests.get(A) == tuple(keys(1, 2, 3))
    assert [manifests.holders(key) for key in keys(1, 2, 3, 4, 5)] == [2, 2, 1, 1, 0]
    manifests.replace(A, keys(1, 5))
    assert [manifests.holders(key) for key in keys(1, 2, 3, 4, 5)] == [2, 1, 0, 1, 1]
    assert manifests.drop(B) == keys(2, 4)
    assert manifests.drop(B) == []
    assert manifests.get(B) is None
    assert manifests.drop(A) == keys(1, 5)
    assert manifests.sessions() == []


def test_a_key_twice_in_a_chain_counts_once(manifests: Manifests) -> None:
    manifests.replace(A, keys(1, 1, 2))
    assert manifests.holders(keys(1)[0]) == 1
    assert manifests.drop(A) == keys(1, 2)


def test_memory_until_persist(manifests: Manifests, path: Path) -> None:
    manifests.replace(A, keys(1))
    assert not path.exists()
    assert state(Manifests.open(path)) == {}
    manifests.persist()
    assert state(Manifests.open(path)) == {A: tuple(keys(1))}
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_without_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifests = Manifests.in_memory(Clock(), max_sessions=1)
    manifests.replace(A, keys(1))
    manifests.replace(B, keys(2))
    manifests.persist()
    assert manifests.sessions() == [B]
    assert not list(tmp_path.iterdir())


def test_everything_comes_back(manifests: Manifests, path: Path) -> None:
    manifests.replace(A, keys(1, 2))
    manifests.replace(B, keys(1, 3))
    manifests.persist()
    manifests.replace(A, keys(1, 2, 9))
    manifests.replace(C, keys(8))
    manifests.persist()
    manifests.drop(C)
    manifests.replace(B, keys(3))
    manifests.close()
    again = Manifests.open(path)
    assert state(again) == state(manifests) == {A: tuple(keys(1, 2, 9)), B: tuple(keys(3))}
    assert again.sessions() == [A, B]
    assert again.last_used(A) == manifests.last_used(A)
    assert again.last_used(C) is None
    assert [again.holders(key) for key in keys(1, 2, 3, 8, 9)] == [1, 1, 1, 0, 1]


def test_a_chain_that_grew_adds_its_new_keys_alone(manifests: Manifests, path: Path) -> None:
    manifests.replace(A, keys(*range(1000)))
    manifests.persist()
    before = path.stat().st_size
    manifests.replace(A, keys(*range(1001)))
    manifests.persist()
    assert 36 < path.stat().st_size - before < 120
    before = path.stat().st_size
    manifests.persist()
    assert path.stat().st_size == before


def test_the_file_stays_within_its_bounds(manifests: Manifests, path: Path) -> None:
    for turn in range(300):
        manifests.replace(A, keys(*range(turn, turn + 20)))
        manifests.persist()
        assert path.stat().st_size < 70_000
    assert state(Manifests.open(path)) == state(manifests)


def test_every_torn_tail_leaves_an_earlier_state(manifests: Manifests, path: Path) -> None:
    states = [{}]
    for turn in range(4):
        manifests.replace(A, keys(*range(turn + 1)))
        manifests.persist()
        states.append(state(manifests))
    data = path.read_bytes()
    seen = []
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        seen.append(state(Manifests.open(path)))
    assert [s for i, s in enumerate(seen) if i == 0 or s != seen[i - 1]] == states


def test_goes_on_after_a_torn_tail(manifests: Manifests, path: Path) -> None:
    manifests.replace(A, keys(1))
    manifests.persist()
    manifests.replace(B, keys(2))
    manifests.persist()
    path.write_bytes(path.read_bytes()[:-1])
    again = Manifests.open(path)
    again.replace(C, keys(3))
    again.persist()
    assert state(Manifests.open(path)) == {A: tuple(keys(1)), C: tuple(keys(3))}


@pytest.mark.parametrize("garbage", [b"", b"hello", b"VALETMAN", b"VALETMAN" + b"\1" * 50])
def test_garbage_is_replaced(path: Path, garbage: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(garbage)
    again = Manifests.open(path)
    assert again.sessions() == []
    again.replace(A, keys(1))
    again.persist()
    assert state(Manifests.open(path)) == {A: tuple(keys(1))}


def test_a_newer_version_is_refused(path: Path) -> None:
    path.parent.mkdir()
    header = manifest._encode(manifest._Header(manifest.VERSION + 1))
    path.write_bytes(manifest.MAGIC + join([header], Mark(len(manifest.MAGIC), 0))[0])
    with pytest.raises(StoreUnusable, match="format 2"):
        Manifests.open(path)


def test_a_folder_in_its_place_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StoreUnusable, match="cannot be used"):
        Manifests.open(path)


@pytest.mark.parametrize("kind", ["write", "sync", "open", "create", "replace"])
def test_a_failing_disk_loses_nothing(
    path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = FaultyFiles()
    manifests = Manifests.open(path, Clock(), files=files)
    if kind not in ("create", "replace"):
        manifests.replace(A, keys(1))
        manifests.persist()
    files.broken = {kind: errno.EIO}
    for turn in range(3):
        manifests.replace(B, keys(*range(turn + 2)))
        manifests.drop(A)
        manifests.persist()
    assert len(caplog.records) == 1
    files.broken = {}
    manifests.persist()
    assert state(Manifests.open(path)) == {B: tuple(keys(0, 1, 2, 3))}


def test_a_file_removed_while_running_is_written_anew(manifests: Manifests, path: Path) -> None:
    manifests.replace(A, keys(1))
    manifests.persist()
    path.unlink()
    manifests.replace(B, keys(2))
    manifests.persist()
    manifests.persist()
    assert state(Manifests.open(path)) == {A: tuple(keys(1)), B: tuple(keys(2))}


def test_the_oldest_session_goes_beyond_the_limit(path: Path) -> None:
    manifests = Manifests.open(path, Clock(), max_sessions=2)
    manifests.replace(A, keys(1))
    manifests.replace(B, keys(2))
    manifests.replace(A, keys(1, 3))
    manifests.replace(C, keys(4))
    assert manifests.sessions() == [A, C]
    assert manifests.holders(keys(2)[0]) == 0
    manifests.persist()
    assert Manifests.open(path, max_sessions=1).sessions() == [C]


def test_changes_while_persisting(manifests: Manifests, path: Path) -> None:
    done = threading.Event()

    def persist() -> None:
        while not done.is_set():
            manifests.persist()

    thread = threading.Thread(target=persist)
    thread.start()
    try:
        for turn in range(300):
            manifests.replace(SessionKey(f"t/{turn % 7}"), keys(*range(turn)))
            if turn % 11 == 0:
                manifests.drop(SessionKey(f"t/{turn % 5}"))
    finally:
        done.set()
        thread.join(30)
    manifests.persist()
    assert state(Manifests.open(path)) == state(manifests)
