"""``valet store import``: one session out of a file that another installation exported.

Needs the store to itself. A chunk's name starts from its tenant's salt, which the installation's
secret gives: so a session is of use only where the secret is the same, and refused elsewhere.
"""

import asyncio
import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from app.auth import LOCAL_TENANT, tenant_of
from app.operating import with_tenancy
from app.session_export import SessionRow, origin
from app.settings import Settings
from app.store_commands import CommandFailed, size_text
from cache_tiers.manifest import Manifests
from cache_tiers.ssd.archive import About, ArchiveError, ArchiveReader, Secret
from cache_tiers.ssd.catalogue import holdings
from cache_tiers.ssd.extent import page_bytes
from cache_tiers.ssd.files import OsFiles, opened
from cache_tiers.ssd.installation import open_store
from cache_tiers.ssd.store import SsdStore
from cache_tiers.ssd.transfer import NotTaken, drop_session, import_chain
from cache_tiers.types import ChunkKey, SessionKey
from sessions.database import Database, open_database
from sessions.identity import parse_session_key, session_key
from sessions.lifecycle import kept
from sessions.tenancy.types import KeyState
from sessions.types import AuditAction, Session, SessionState
from sessions.upkeep.instances import load_instance

_FILES = OsFiles()


def import_session(
    settings: Settings,
    environ: Mapping[str, str],
    source: Path,
    secret: Secret,
    *,
    replace: bool,
) -> int:
    """Take over the session of an exported file: its KV, which the server's next start finds, and
    its row. Nothing of the file is used before all of it was authenticated. 0."""
    with opened(_FILES, source.resolve(), writable=False) as file:
        try:
            archive = ArchiveReader(_FILES, file, secret)
            session = _session_of(archive.about)
            _check_fit(settings, archive.about, session.tenant)
            found = sum(len(chunk) > 0 for _, chunk in archive.read())
        except ArchiveError as error:
            raise CommandFailed(f"{source}: {error}") from None
        size = found * page_bytes(archive.about.chunk_bytes)
        if size > settings.ssd:
            raise CommandFailed(
                f"the session takes {size_text(size)}, VALET_SSD is {size_text(settings.ssd)}"
            )
        store = open_store(
            settings.installation,
            archive.about.fingerprint,
            archive.about.chunk_bytes,
            environ=environ,
        )
        try:
            manifests = settings.installation.manifests(archive.about.fingerprint)
            into = _Importing(settings, store, manifests)
            asyncio.run(into.run(archive, session, replace=replace))
        except (ArchiveError, NotTaken) as error:
            raise CommandFailed(f"{source}: {error}") from None
        finally:
            store.close()
    print(
        f"{session.tenant}/{session.id}: {found} of {archive.chunks} chunks ({size_text(size)}) "
        "imported"
    )
    if session.tenant not in _tenants(settings):
        print(f"No API key of these settings is of the tenant {session.tenant}.")
    return 0


class _Importing:
    """Store, manifests and database brought to know a session, or left without it."""

    def __init__(self, settings: Settings, store: SsdStore, manifests: Path) -> None:
        self._database_url = settings.database_url
        self._terms = settings.terms
        self._instance_file = settings.instance_file
        self._store = store
        self._path = manifests
        self._manifests = Manifests.open(manifests)

    async def run(self, archive: ArchiveReader, session: Session, *, replace: bool) -> None:
        """Raises CommandFailed, and what the store, the archive and the database raise."""
        database = await open_database(self._database_url)
        try:
            await self._make_way(database, session, replace=replace)
            name = session_key(session.tenant, session.id)
            chain = import_chain(self._store, archive, name)
            try:
                self._remember(name, chain)
                async with database.transaction() as repo:
                    await repo.add(self._here(session))
            except BaseException:
                drop_session(self._store, self._manifests, name)
                raise
        finally:
            await database.close()

    async def _make_way(self, database: Database, session: Session, *, replace: bool) -> None:
        """Delete the session that has the name, as the server deletes one."""
        name = session_key(session.tenant, session.id)
        async with database.transaction() as repo:
            row = await repo.find(session.tenant, session.id)
        if row is None and self._manifests.get(name) is None:
            return
        if not replace:
            raise CommandFailed(f"there is a session {name} already: --replace deletes it first")
        dropped = drop_session(self._store, self._manifests, name)
        action = AuditAction.KV_DROPPED if row is None else AuditAction.SESSION_DELETED
        async with database.transaction() as repo:
            await repo.remove(session.tenant, session.id)
            await repo.add_audit(action, session.tenant, session.id, dropped, datetime.now(UTC))

    def _here(self, session: Session) -> Session:
        """The session as this installation's, whose time to live begins now."""
        since_now = dataclasses.replace(session, last_active_at=datetime.now(UTC))
        expires_at = kept(since_now, self._terms).expires_at
        instance = load_instance(self._instance_file)
        return dataclasses.replace(session, instance=instance, expires_at=expires_at)

    def _remember(self, name: SessionKey, chain: list[ChunkKey]) -> None:
        self._manifests.replace(name, chain)
        self._manifests.persist()
        if Manifests.open(self._path).get(name) != self._manifests.get(name):
            raise NotTaken("the disk failed")


def _session_of(about: About) -> Session:
    """Raises ArchiveError."""
    try:
        tenant, session_id = parse_session_key(SessionKey(about.session))
        row = msgspec.convert(about.row, SessionRow)
        return Session(
            id=session_id,
            tenant=tenant,
            model=row.model,
            state=SessionState.PARKED,
            created_at=row.created_at.astimezone(UTC),
            last_active_at=row.last_active_at.astimezone(UTC),
            turns=row.turns,
            head_turn=row.turns,
            tokens=row.tokens,
            fingerprint=row.fingerprint,
            running=0,
        )
    except (ValueError, OverflowError, msgspec.ValidationError):
        raise ArchiveError("what it says of its session is no session") from None


def _check_fit(settings: Settings, about: About, tenant: str) -> None:
    """Raises CommandFailed when the chunks would be of no use here."""
    if about.origin != origin(settings, tenant):
        raise CommandFailed(
            "the session comes from an installation with another secret, and its KV is of no use "
            f"here: see docs/operations.md on {settings.secret_file}"
        )
    known = {h.fingerprint: h.chunk_bytes for h in holdings(settings.store_dir, _FILES)}
    if known and about.fingerprint not in known:
        raise CommandFailed(
            "the session is of another model, engine or machine: its fingerprint is "
            f"{about.fingerprint}, here is {', '.join(known)}"
        )
    here = known.get(about.fingerprint)
    if here is not None and here != about.chunk_bytes:
        raise CommandFailed(f"its chunks have {about.chunk_bytes} bytes, here they have {here}")


def _tenants(settings: Settings) -> set[str]:
    keys = with_tenancy(settings, lambda tenancy: tenancy.keys())
    if not settings.api_keys and not keys:
        return {LOCAL_TENANT}
    valid = {key.tenant for key, state in keys if state is KeyState.VALID}
    return {tenant_of(key) for key in settings.api_keys} | valid
