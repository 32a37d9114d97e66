"""``valet store stats | verify | compact | rotate-key``: on what a server left, and beside one."""

import json
import sys
from datetime import datetime
from pathlib import Path

import pytest
from store_home import CHUNK, MIB, Home, Shell, key

from app.store_commands import run_verify, size_text
from cache_tiers.store import ReadOutcome
from cache_tiers.types import SessionKey


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


# --- stats -----------------------------------------------------------------------------------


def test_stats_of_nothing(home: Home, shell: Shell) -> None:
    home.path.mkdir()
    said = shell.out(home, "stats")
    assert str(home.settings.store_dir) in said
    assert "16.0MiB, 0B taken" in said
    # Looking at a store that was never made makes nothing.
    assert list(home.path.iterdir()) == []


def test_stats_while_a_server_has_the_store(home: Home, shell: Shell) -> None:
    home.environ["VALET_SSD_WRITES_PER_DAY"] = "1GiB"
    home.talk(1, 2, 3)
    home.talk(1, 7, session="other")
    manifests = home.manifests()
    manifests.replace(SessionKey("local/other\0branches"), [key(9)])
    manifests.close()
    server = home.open()
    server.shred(SessionKey("local/other"))
    server.delete([key(3)])
    stats = json.loads(shell.out(home, "stats", "--json"))
    server.close()
    (one,) = stats.pop("fingerprints")
    assert stats["bytes_limit"] == 16 * MIB
    assert stats["bytes_used"] == one["bytes"] > 3 * CHUNK
    assert stats["encrypted"] is True
    assert stats["writes_per_day"] == 2**30
    assert 2**30 - MIB - 2**30 // 16 < stats["writes_left"] <= 2**30
    assert one["fingerprint"] == "f1"
    assert one["chunk_bytes"] == CHUNK
    assert (one["chunks"], one["locked_chunks"]) == (2, 1)
    assert one["sessions"] == 2
    assert one["segments"] == 1
    assert one["dead_share"] == pytest.approx(0.5)
    assert datetime.fromisoformat(one["last_used"]).tzinfo is not None


def test_stats_for_people(home: Home, shell: Shell) -> None:
    home.talk(1, 2)
    home.talk(3, more="f2")
    said = shell.out(home, "stats")
    assert "chunks    2 of 12.0KiB, 0 more whose key is gone" in said
    assert "0% of no use" in said
    assert "writes      no limit a day" in said
    assert "encryption  on" in said
    assert "f1, last used" in said
    assert "f2, last used" in said


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (2**50, "1024.0TiB")]
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


# --- verify ----------------------------------------------------------------------------------


def test_verify_beside_a_server(home: Home, shell: Shell) -> None:
    home.talk(1, 2, 3)
    server = home.open()
    said = shell.out(home, "verify", "--rate", "1GiB")
    server.close()
    assert "f1: 3 chunks good, 0 corrupt, 0 not readable, 0 whose key is gone" in said
    assert str(key(1)) not in said


def test_verify_exits_1_when_something_is_corrupt(
    home: Home, shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    home.talk(1, 2, 3)
    home.talk(4, more="f2")
    path = home.segment()
    data = bytearray(path.read_bytes())
    data[CHUNK + 7] ^= 1
    path.write_bytes(data)
    assert shell.run(home, "verify") == 1
    captured = capsys.readouterr()
    assert "f1: 2 chunks good, 1 corrupt" in captured.out
    assert "f2: 1 chunks good, 0 corrupt" in captured.out
    # Not on a terminal: no progress.
    assert captured.err == ""


def test_verify_shows_progress_on_a_terminal(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home.talk(*range(800))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    now = [100.0]
    assert run_verify(home.settings, home.environ, MIB, lambda: now[0], now.append) == 0
    assert "MiB read, 0 corrupt" in capsys.readouterr().err


def test_verify_keeps_its_rate(home: Home) -> None:
    home.talk(*range(1000))
    slept: list[float] = []
    assert run_verify(home.settings, home.environ, MIB, lambda: 0.0, slept.append) == 0
    # By this clock no time passes: each wait is as long as all before it would have taken.
    assert max(slept) == 1000 * CHUNK / MIB
    assert slept == sorted(slept)


def test_verify_of_nothing(home: Home, shell: Shell) -> None:
    assert "nothing is stored" in shell.out(home, "verify")


def test_verify_with_another_master_key(home: Home, shell: Shell, tmp_path: Path) -> None:
    home.talk(1)
    home.environ |= {"VALET_MASTER_KEY": "env:OTHER", "OTHER": "ab" * 32}
    assert "another master key" in shell.fails(home, "verify")


def test_verify_never_makes_a_master_key(home: Home, shell: Shell) -> None:
    home.environ["VALET_ENCRYPTION"] = "off"
    home.talk(1)
    assert "1 chunks good" in shell.out(home, "verify")
    home.environ["VALET_ENCRYPTION"] = "on"
    assert "no keyring" in shell.fails(home, "verify")
    assert "no keyring" in shell.fails(home, "stats")
    assert not (home.path / "master.key").exists()


@pytest.mark.parametrize("rate", ["0", "fast", "-1MiB"])
def test_a_rate_is_a_size(home: Home, shell: Shell, rate: str) -> None:
    with pytest.raises(SystemExit) as raised:
        shell.run(home, "verify", "--rate", rate)
    assert raised.value.code == 2


# --- compact ---------------------------------------------------------------------------------


def test_compact_gives_back_what_is_of_no_use(home: Home, shell: Shell) -> None:
    numbers = list(range(300))
    home.talk(*numbers)
    store = home.open()
    store.delete([key(n) for n in numbers if n % 10])
    store.close()
    before = sum(path.stat().st_blocks for path in home.settings.store_dir.rglob("*"))
    assert "MiB given back" in shell.out(home, "compact")
    after = sum(path.stat().st_blocks for path in home.settings.store_dir.rglob("*"))
    assert after < before / 2
    assert set(home.reads(*range(0, 300, 10))) == {ReadOutcome.OK}


def test_compact_needs_the_store_to_itself(home: Home, shell: Shell) -> None:
    home.talk(1)
    server = home.open()
    assert "stop the server first" in shell.fails(home, "compact")
    server.close()


def test_compact_of_two_fingerprints_loses_none(home: Home, shell: Shell) -> None:
    home.talk(1)
    home.talk(2, more="f2")
    assert "given back" in shell.out(home, "compact")
    assert home.reads(1) == [ReadOutcome.OK]
    assert "f2: 1 chunks good" in shell.out(home, "verify")


# --- rotate-key ------------------------------------------------------------------------------


def test_rotate_to_a_new_file(home: Home, shell: Shell, tmp_path: Path) -> None:
    home.talk(1, 2)
    data = home.segment().read_bytes()
    new = tmp_path / "new.key"
    said = shell.out(home, "rotate-key", "--to", f"file:{new}")
    assert f"VALET_MASTER_KEY to what you gave as --to (file:{new})" in said
    assert new.stat().st_mode & 0o777 == 0o600
    assert new.read_text().strip() not in said
    assert home.segment().read_bytes() == data
    assert "another master key" in shell.fails(home, "verify")
    home.environ["VALET_MASTER_KEY"] = f"file:{new}"
    assert home.reads(1, 2) == [ReadOutcome.OK] * 2


def test_rotate_shows_no_secret(home: Home, shell: Shell) -> None:
    home.talk(1)
    said = shell.out(home, "rotate-key", "--to", "command:printf " + "cd" * 32)
    assert "cd" * 32 not in said


def test_rotate_needs_the_store_to_itself(home: Home, shell: Shell, tmp_path: Path) -> None:
    home.talk(1)
    server = home.open()
    said = shell.fails(home, "rotate-key", "--to", f"file:{tmp_path / 'new.key'}")
    assert "stop the server first" in said
    assert not (tmp_path / "new.key").exists()
    server.close()


def test_rotate_to_the_same_key_is_refused(home: Home, shell: Shell) -> None:
    home.talk(1)
    same = f"file:{home.path / 'master.key'}"
    assert "is in use" in shell.fails(home, "rotate-key", "--to", same)
    assert home.reads(1) == [ReadOutcome.OK]


def test_rotate_with_nothing_to_rotate(home: Home, shell: Shell) -> None:
    assert "no keyring" in shell.fails(home, "rotate-key", "--to", "env:NEW_KEY")
    assert not home.path.exists()
    assert "--to: a master key comes from" in shell.fails(home, "rotate-key", "--to", "sesame")
    home.environ["VALET_ENCRYPTION"] = "off"
    assert "not encrypted" in shell.fails(home, "rotate-key", "--to", "env:NEW_KEY")
