"""At rest: nothing readable on the disk, a deleted session's key gone, a wrong master key said."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from cache_tiers.manifest import Manifests
from cache_tiers.ssd.catalogue import holdings
from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.installation import Installation, open_store
from cache_tiers.ssd.master_key import create_key_file
from cache_tiers.store import ReadOutcome
from cache_tiers.types import ChunkKey, SessionKey
from tests.e2e.conversation import chat, long_text, reused, user
from tests.valet_process import ValetProcess

CHAT = "/v1/chat/completions"


def turn(http: httpx.Client, session: str) -> Any:
    """One turn over a long text that all sessions share, and one of its own."""
    text = f"{long_text('shared')} {long_text(session)}"
    answer = http.post(CHAT, json=chat(user(text), session_id=session))
    assert answer.status_code == 200, answer.text
    return answer.json()["kv_receipt"]


def park(http: httpx.Client, session: str) -> None:
    answer = http.post(f"/v1/sessions/{session}/park")
    assert answer.json()["kv"]["ssd_complete"], answer.text


def on_disk(server: ValetProcess, session: str) -> tuple[str, int, tuple[ChunkKey, ...]]:
    """Fingerprint, size of a chunk, and the session's chunks as the store has them."""
    (found,) = holdings(server.store, OsFiles())
    assert found.chunk_bytes is not None
    manifests = Manifests.open(found.path / "manifests")
    return found.fingerprint, found.chunk_bytes, manifests.get(SessionKey(f"local/{session}")) or ()


def read(
    server: ValetProcess, fingerprint: str, size: int, keys: tuple[ChunkKey, ...]
) -> tuple[list[ReadOutcome], list[bytes]]:
    """As somebody with the disk and the master key would, while the server runs."""
    installation = Installation(
        root=server.store, bytes_limit=2 << 30, master_key=f"file:{server.home / 'master.key'}"
    )
    store = open_store(installation, fingerprint, size, read_only=True)
    buffers = [bytearray(size) for _ in keys]
    outcomes = store.get(list(keys), [memoryview(buffer) for buffer in buffers])
    store.close()
    return outcomes, [bytes(buffer) for buffer in buffers]


@pytest.mark.engine
def test_what_the_disk_holds_is_of_no_use_without_its_key(tmp_path: Path) -> None:
    with ValetProcess(tmp_path / "home") as server, server.client() as http:
        turn(http, "first")
        park(http, "first")
        fingerprint, size, keys = on_disk(server, "first")
        outcomes, chunks = read(server, fingerprint, size, keys)
        assert outcomes == [ReadOutcome.OK] * len(keys)
        stored = b"".join(path.read_bytes() for path in server.store.glob("*/*.segment"))
        assert len(stored) >= size
        assert not any(chunk[at : at + 64] in stored for chunk in chunks for at in (0, size // 2))
        for path in [server.store, *server.store.rglob("*"), server.home / "master.key"]:
            assert path.stat().st_mode & 0o077 == 0, path

        # Another session begins with the same chunks. Only the first wrote them.
        assert reused(turn(http, "second")) >= 256
        park(http, "second")
        both = set(keys).intersection(on_disk(server, "second")[2])
        assert 2 <= len(both) < len(keys)
        assert http.delete("/v1/sessions/first").json()["key_destroyed"]
        expected = [ReadOutcome.OK if key in both else ReadOutcome.MISSING for key in keys]
        assert read(server, fingerprint, size, keys)[0] == expected
        copied = {path: path.read_bytes() for path in server.store.rglob("*") if path.is_file()}
        assert http.delete("/v1/sessions/second").json()["key_destroyed"]
        # A copy of everything but the keys, made before, is of no use any more.
        keyring = (server.store / "keys").read_bytes()
        assert server.stop() == 0
        for path, content in copied.items():
            path.write_bytes(content)
        (server.store / "keys").write_bytes(keyring)
        assert ReadOutcome.OK not in read(server, fingerprint, size, keys)[0]


@pytest.mark.engine
def test_deletions_are_on_record(valet: ValetProcess, http: httpx.Client) -> None:
    turn(http, "on-record")
    park(http, "on-record")
    assert http.delete("/v1/sessions/on-record").json()["key_destroyed"]
    newest = http.get("/v1/audit?limit=1").json()["data"][0]
    assert newest["session_id"] == "on-record"
    assert (newest["action"], newest["key_destroyed"]) == ("session_deleted", True)


@pytest.mark.engine
def test_a_wrong_or_lost_master_key_is_said_at_once(tmp_path: Path) -> None:
    server = ValetProcess(tmp_path / "home")
    with server, server.client() as http:
        turn(http, "kept")
        park(http, "kept")
        assert server.stop() == 0
    key = server.home / "master.key"
    right = key.read_text()
    key.unlink()
    with pytest.raises(AssertionError, match=r"valet: the master key .* is gone"):
        server.start()
    create_key_file(key)
    with pytest.raises(AssertionError, match=r"valet: .* was made with another master key"):
        server.start()
    assert key.read_text() not in server.text_log()
    key.unlink()
    with server.start(VALET_MASTER_KEY="env:SECRET", SECRET=right), server.client() as http:
        receipt = turn(http, "kept")
        assert receipt["reused_tokens"]["ssd"] >= 256
    assert right.strip() not in server.text_log()
