"""A session leaves one installation as a file and is whole in another, or not there."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from store_home import Home, Shell, key

import cache_tiers.ssd.archive
from app.auth import load_secret, tenant_of
from cache_tiers.ssd.archive import Cost
from cache_tiers.store import ReadOutcome
from cache_tiers.types import SessionKey
from sessions.repository import SessionRepository
from sessions.types import AuditAction, Session, SessionState, StateUnavailable


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


@pytest.fixture(autouse=True)
def _cheap_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = cache_tiers.ssd.archive.ArchiveWriter.__init__.__defaults__
    assert defaults == (Cost(),)
    monkeypatch.setattr(
        cache_tiers.ssd.archive.ArchiveWriter.__init__, "__defaults__", (Cost(n=2, r=1),)
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def other(tmp_path: Path, home: Home) -> Home:
    """An installation with the secret of ``home``, and nothing else yet."""
    other = Home(tmp_path / "other")
    other.path.mkdir()
    load_secret(home.settings.secret_file)
    (other.path / "secret").write_bytes(home.settings.secret_file.read_bytes())
    (other.path / "secret").chmod(0o600)
    return other


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "reader.session"


def test_a_session_moves(home: Home, other: Home, shell: Shell, file: Path) -> None:
    home.talk(*range(1000))
    said = shell.out(home, "export", "reader", "--to", str(file))
    assert said == f"local/reader: 1000 of 1000 chunks (11.7MiB) are in {file}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    said = shell.out(other, "import", str(file))
    assert said == "local/reader: 1000 of 1000 chunks (11.7MiB) imported\n"
    assert other.reads(*range(1000)) == [ReadOutcome.OK] * 1000
    assert other.manifests().get(SessionKey("local/reader")) == tuple(map(key, range(1000)))
    check_moved(home.row(), other.row())
    assert other.audit() == []


def test_its_chunks_are_its_own(home: Home, other: Home, shell: Shell, file: Path) -> None:
    home.talk(1, 2)
    shell.out(home, "export", "reader", "--to", str(file))
    shell.out(other, "import", str(file))
    store = other.open()
    assert store.shred(SessionKey("local/reader"))
    store.close()
    assert other.reads(1, 2) == [ReadOutcome.MISSING] * 2


def test_export_beside_a_server_and_with_a_key(
    home: Home, other: Home, shell: Shell, file: Path
) -> None:
    home.talk(1, 2)
    server = home.open()
    for one in (home, other):
        one.environ["FILE_KEY"] = "ab" * 32
    shell.out(home, "export", "local/reader", "--to", str(file), "--key", "env:FILE_KEY", stdin="")
    server.close()
    assert "with a key, not with a passphrase" in shell.fails(other, "import", str(file))
    shell.out(other, "import", str(file), "--key", "env:FILE_KEY", stdin="")
    assert other.reads(1, 2) == [ReadOutcome.OK] * 2


def test_what_is_not_on_ssd_any_more_is_left_out(
    home: Home, other: Home, shell: Shell, file: Path
) -> None:
    home.talk(1, 2, 3)
    store = home.open()
    store.delete([key(2)])
    store.close()
    assert "2 of 3 chunks" in shell.out(home, "export", "reader", "--to", str(file))
    assert "2 of 3 chunks" in shell.out(other, "import", str(file))
    OK, MISSING = ReadOutcome.OK, ReadOutcome.MISSING
    assert other.reads(1, 2, 3) == [OK, MISSING, OK]
    assert other.manifests().get(SessionKey("local/reader")) == (key(1), key(2), key(3))


def test_chunks_that_are_there_already_are_shared(
    home: Home, other: Home, shell: Shell, file: Path
) -> None:
    home.talk(1, 2, 3)
    shell.out(home, "export", "reader", "--to", str(file))
    other.talk(1, 9, session="writer")
    shell.out(other, "import", str(file))
    assert other.manifests().holders(key(1)) == 2
    assert other.reads(1, 2, 3, 9) == [ReadOutcome.OK] * 4


def test_export_of_what_is_not_there(home: Home, shell: Shell, file: Path) -> None:
    export = ("export", "reader", "--to", str(file))
    assert "no database" in shell.fails(home, *export)
    home.talk(1, session="writer")
    assert "no session local/reader" in shell.fails(home, *export)
    assert "no session" in shell.fails(home, "export", "a/b/c", "--to", str(file))
    manifests = home.manifests()
    manifests.drop(SessionKey("local/writer"))
    manifests.close()
    said = shell.fails(home, "export", "writer", "--to", str(file))
    assert "nothing of local/writer is on SSD: park it first" in said
    home.talk(1, 2)
    store = home.open()
    store.delete([key(1), key(2)])
    store.close()
    assert "park it first" in shell.fails(home, *export)
    assert not file.exists()


def test_a_file_is_never_written_over(home: Home, shell: Shell, file: Path) -> None:
    home.talk(1)
    file.write_text("a letter")
    assert "exists" in shell.fails(home, "export", "reader", "--to", str(file))
    assert file.read_text() == "a letter"


def test_a_passphrase_is_not_too_short(home: Home, shell: Shell, file: Path) -> None:
    home.talk(1)
    said = shell.fails(home, "export", "reader", "--to", str(file), stdin="sesame\n")
    assert "at least 12 characters" in said
    assert "sesame" not in said


def test_a_new_passphrase_is_asked_for_twice(
    home: Home, shell: Shell, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.talk(1)
    answers = ["correct horse battery", "correct hoarse battery"]
    monkeypatch.setattr("getpass.getpass", lambda prompt: answers.pop(0))
    shell.stdin = Terminal
    assert "differ" in shell.fails(home, "export", "reader", "--to", str(file))


def test_another_secret_is_refused(home: Home, shell: Shell, file: Path, tmp_path: Path) -> None:
    home.talk(1)
    shell.out(home, "export", "reader", "--to", str(file))
    stranger = Home(tmp_path / "stranger")
    stranger.path.mkdir()
    assert "there is no" in shell.fails(stranger, "import", str(file))
    assert not (stranger.path / "secret").exists()
    stranger.talk(5, session="mine")
    said = shell.fails(stranger, "import", str(file))
    assert "another secret" in said
    assert stranger.reads(1) == [ReadOutcome.MISSING]
    assert stranger.row() is None


def test_another_fingerprint_is_refused(home: Home, other: Home, shell: Shell, file: Path) -> None:
    home.talk(1)
    shell.out(home, "export", "reader", "--to", str(file))
    other.talk(5, session="mine", more="f2")
    assert "another model, engine or machine" in shell.fails(other, "import", str(file))
    assert not (other.settings.store_dir / "f1").exists()
    # A server was started here once with the fingerprint: then it is known.
    other.open("f1").close()
    shell.out(other, "import", str(file))


def test_another_chunk_size_is_refused(home: Home, other: Home, shell: Shell, file: Path) -> None:
    home.talk(1)
    shell.out(home, "export", "reader", "--to", str(file))
    store = other.open(chunk_bytes=4096)
    store.put([key(8)], [memoryview(bytes(4096))], SessionKey("local/x"))
    store.close()
    assert "12288 bytes, here they have 4096" in shell.fails(other, "import", str(file))


def test_a_session_larger_than_the_store_is_refused(
    home: Home, other: Home, shell: Shell, file: Path
) -> None:
    home.talk(*range(1000))
    shell.out(home, "export", "reader", "--to", str(file))
    other.environ["VALET_SSD"] = "8MiB"
    assert "takes 11.7MiB, VALET_SSD is 8.0MiB" in shell.fails(other, "import", str(file))


def test_a_session_that_just_does_not_fit_leaves_nothing(
    home: Home, other: Home, shell: Shell, file: Path
) -> None:
    home.talk(*range(1000))
    shell.out(home, "export", "reader", "--to", str(file))
    other.environ["VALET_SSD"] = "12MiB"
    said = shell.fails(other, "import", str(file))
    assert "no room" in said or "larger than the store" in said
    assert set(other.reads(*range(1000))) == {ReadOutcome.MISSING}
    assert other.row() is None
    assert other.manifests().sessions() == []


def test_a_spent_write_budget_refuses_it(home: Home, other: Home, shell: Shell, file: Path) -> None:
    home.talk(*range(1000))
    shell.out(home, "export", "reader", "--to", str(file))
    other.environ["VALET_SSD_WRITES_PER_DAY"] = "4MiB"
    assert "write budget" in shell.fails(other, "import", str(file))
    assert set(other.reads(*range(1000))) == {ReadOutcome.MISSING}


def test_a_session_of_that_name_is_kept_unless_replaced(
    home: Home, other: Home, shell: Shell, file: Path
) -> None:
    home.talk(1, 2)
    shell.out(home, "export", "reader", "--to", str(file))
    other.talk(1, 5, 6)
    other.talk(5, session="writer")
    assert "there is a session local/reader already" in shell.fails(other, "import", str(file))
    assert other.reads(5, 6) == [ReadOutcome.OK] * 2
    shell.out(other, "import", str(file), "--replace")
    OK, MISSING = ReadOutcome.OK, ReadOutcome.MISSING
    # What another session holds stays, what nobody does goes.
    assert other.reads(1, 2, 5, 6) == [OK, OK, OK, MISSING]
    check_moved(home.row(), other.row())
    (audit,) = other.audit()
    assert (audit.action, audit.session_id) == (AuditAction.SESSION_DELETED, "reader")
    assert audit.key_destroyed
    assert audit.chunks == 2


def test_kv_that_no_row_knows_counts_as_a_session(
    home: Home, other: Home, shell: Shell, file: Path
) -> None:
    home.talk(1)
    shell.out(home, "export", "reader", "--to", str(file))
    other.open().close()
    manifests = other.manifests()
    manifests.replace(SessionKey("local/reader"), [key(5)])
    manifests.close()
    assert "already" in shell.fails(other, "import", str(file))
    shell.out(other, "import", str(file), "--replace")
    assert [row.action for row in other.audit()] == [AuditAction.KV_DROPPED]


def test_importing_needs_the_store_to_itself(
    home: Home, other: Home, shell: Shell, file: Path
) -> None:
    home.talk(1)
    shell.out(home, "export", "reader", "--to", str(file))
    server = other.open()
    assert "stop the server first" in shell.fails(other, "import", str(file))
    server.close()


def test_nothing_of_a_damaged_file_is_taken(
    home: Home, other: Home, shell: Shell, file: Path
) -> None:
    home.talk(*range(50))
    shell.out(home, "export", "reader", "--to", str(file))
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:-30] + bytes(30), whole + b"\0"):
        file.write_bytes(damaged)
        assert str(file) in shell.fails(other, "import", str(file))
        assert not other.settings.store_dir.exists()
    assert "the passphrase is another" in shell.fails(
        other, "import", str(file), stdin="not the passphrase\n"
    )
    file.unlink()
    assert "No such file" in shell.fails(other, "import", str(file))


def test_a_database_that_fails_leaves_nothing(
    home: Home, other: Home, shell: Shell, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def add(self: SessionRepository, session: Session) -> bool:
        raise StateUnavailable("The session database is unavailable.")

    home.talk(1, 2)
    shell.out(home, "export", "reader", "--to", str(file))
    monkeypatch.setattr(SessionRepository, "add", add)
    assert "database" in shell.fails(other, "import", str(file))
    assert other.reads(1, 2) == [ReadOutcome.MISSING] * 2
    assert other.manifests().sessions() == []


def test_tenants_of_api_keys(home: Home, other: Home, shell: Shell, file: Path) -> None:
    tenant = tenant_of("key-of-alice")
    home.talk(1, tenant=tenant)
    shell.out(home, "export", f"{tenant}/reader", "--to", str(file))
    said = shell.out(other, "import", str(file))
    assert f"No API key of these settings is of the tenant {tenant}." in said
    row = other.row(tenant=tenant)
    assert row is not None
    assert (row.tenant, row.state) == (tenant, SessionState.PARKED)
    other.environ["VALET_API_KEYS"] = "key-of-bob,key-of-alice"
    assert "No API key" not in shell.out(other, "import", str(file), "--replace")


def test_importing_where_there_is_no_store(
    home: Home, other: Home, shell: Shell, file: Path
) -> None:
    home.talk(1)
    shell.out(home, "export", "reader", "--to", str(file))
    other.environ["VALET_SSD"] = "0"
    assert "VALET_SSD is 0B" in shell.fails(other, "import", str(file))


def check_moved(there: Session | None, here: Session | None) -> None:
    """All of a session moves but what an installation says of it."""
    assert there is not None
    assert here is not None
    assert here.instance
    assert here.expires_at is not None
    assert here == replace(there, instance=here.instance, expires_at=here.expires_at)
