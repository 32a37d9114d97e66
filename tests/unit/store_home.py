"""An installation on disk, and a shell to run ``valet store`` on it."""

import asyncio
import io
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.auth import LOCAL_TENANT, load_secret
from app.cli import main
from app.settings import Settings, load_settings
from cache_tiers.manifest import Manifests
from cache_tiers.ssd.installation import open_store
from cache_tiers.ssd.store import SsdStore
from cache_tiers.store import ReadOutcome, WriteOutcome
from cache_tiers.types import ChunkKey, SessionKey
from sessions.database import open_database
from sessions.types import AuditRow, Session, SessionState

CHUNK = 3 * 4096
MIB = 2**20
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
PASSPHRASE = "correct horse battery staple"


def key(number: int) -> ChunkKey:
    return ChunkKey(b"a chained hash, number %d" % number)


def content(number: int) -> bytes:
    return number.to_bytes(4, "big") * (CHUNK // 4)


class Home:
    """An installation, as a server that has stopped leaves it."""

    def __init__(self, path: Path, **environ: str) -> None:
        self.path = path
        self.environ = {"VALET_HOME": str(path), "VALET_SSD": "16MiB"} | environ

    @property
    def settings(self) -> Settings:
        return load_settings(self.environ, self.path.parent)

    def open(self, fingerprint: str = "f1", chunk_bytes: int = CHUNK) -> SsdStore:
        load_secret(self.settings.secret_file)
        return open_store(
            self.settings.installation, fingerprint, chunk_bytes, environ=self.environ
        )

    def manifests(self, fingerprint: str = "f1") -> Manifests:
        return Manifests.open(self.settings.installation.manifests(fingerprint))

    def talk(
        self, *numbers: int, session: str = "reader", tenant: str = LOCAL_TENANT, more: str = "f1"
    ) -> None:
        """A session was served, and parked."""
        name = SessionKey(f"{tenant}/{session}")
        store = self.open(more)
        chunks = [memoryview(content(n)) for n in numbers]
        assert WriteOutcome.REFUSED not in store.put([key(n) for n in numbers], chunks, name)
        store.close()
        manifests = self.manifests(more)
        manifests.replace(name, [key(n) for n in numbers])
        manifests.close()
        tokens = len(numbers) * 128
        row = Session(
            *(session, tenant, "smol", SessionState.PARKED, NOON, NOON, 3, tokens, more, 0),
            head_turn=3,
        )
        asyncio.run(self._add(row))

    async def _add(self, row: Session) -> None:
        database = await open_database(self.settings.database_url)
        async with database.transaction() as repo:
            await repo.add(row)
        await database.close()

    def row(self, session: str = "reader", tenant: str = LOCAL_TENANT) -> Session | None:
        async def find() -> Session | None:
            database = await open_database(self.settings.database_url)
            async with database.transaction() as repo:
                row = await repo.find(tenant, session)
            await database.close()
            return row

        return asyncio.run(find())

    def audit(self, tenant: str = LOCAL_TENANT) -> list[AuditRow]:
        async def page() -> list[AuditRow]:
            database = await open_database(self.settings.database_url)
            async with database.transaction() as repo:
                rows = await repo.page_of_audit(tenant, 10, None)
            await database.close()
            return rows

        return asyncio.run(page())

    def reads(self, *numbers: int) -> list[ReadOutcome]:
        """What a server would find of these chunks; what is found is right."""
        store = self.open()
        views = [memoryview(bytearray(CHUNK)) for _ in numbers]
        outcomes = store.get([key(n) for n in numbers], views)
        store.close()
        for number, view, outcome in zip(numbers, views, outcomes, strict=True):
            assert outcome is not ReadOutcome.OK or view == content(number)
        return outcomes

    def segment(self, fingerprint: str = "f1") -> Path:
        return next((self.settings.store_dir / fingerprint).glob("*.segment"))


class Shell:
    """Runs commands as a user would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.stdin: Callable[[str], io.StringIO] = io.StringIO

    def run(self, home: Home, *arguments: str, stdin: str = PASSPHRASE + "\n") -> int:
        for name, value in home.environ.items():
            self._monkeypatch.setenv(name, value)
        self._monkeypatch.setattr(sys, "stdin", self.stdin(stdin))
        self._monkeypatch.chdir(home.path.parent)
        self._capsys.readouterr()
        return main(["store", *arguments])

    def out(self, home: Home, *arguments: str, stdin: str = PASSPHRASE + "\n") -> str:
        assert self.run(home, *arguments, stdin=stdin) == 0, self._capsys.readouterr().err
        return self._capsys.readouterr().out

    def fails(self, home: Home, *arguments: str, stdin: str = PASSPHRASE + "\n") -> str:
        """The one line it fails with."""
        assert self.run(home, *arguments, stdin=stdin) == 2
        captured = self._capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if line.startswith("valet: ")]
        assert len(lines) == 1
        assert captured.out == ""
        return lines[0]
