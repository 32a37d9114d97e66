"""``valet store export``: one session into a file, for another installation.

What is in the file: ``cache_tiers/ssd/archive.py``. May run beside a server.
"""

import asyncio
import getpass
import hashlib
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from app.auth import LOCAL_TENANT, tenant_salt
from app.secret import installation_secret
from app.settings import Settings
from app.store_commands import CommandFailed, size_text
from cache_tiers.manifest import Manifests
from cache_tiers.ssd.archive import About, ArchiveWriter, Secret
from cache_tiers.ssd.catalogue import Holding, holdings
from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.installation import open_store
from cache_tiers.ssd.master_key import MasterKeySource
from cache_tiers.ssd.store import SsdStore
from cache_tiers.ssd.transfer import export_chain
from cache_tiers.types import ChunkKey, SessionKey
from sessions.database import open_database
from sessions.identity import parse_session_key
from sessions.types import Session

_FILES = OsFiles()
_LEAST_PASSPHRASE = 12
"""Characters."""
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class SessionRow(msgspec.Struct, frozen=True):
    """What the database knows of a session, less its names and its turns."""

    model: str
    created_at: datetime
    last_active_at: datetime
    turns: _Count
    tokens: _Count
    fingerprint: str


def read_secret(source: str | None, environ: Mapping[str, str], *, new: bool) -> Secret:
    """What a file is locked with: the key of ``source``, or a passphrase, asked for on a terminal
    (twice when it is ``new``) and elsewhere the first line of stdin. Raises CommandFailed, and
    StoreUnusable when the source gives no key."""
    if source is not None:
        try:
            return Secret.key(MasterKeySource.parse(source).read(environ))
        except ValueError as error:
            raise CommandFailed(f"--key: {error}") from None
    if sys.stdin.isatty():
        text = getpass.getpass("Passphrase: ")
        if new and getpass.getpass("Again: ") != text:
            raise CommandFailed("the two passphrases differ")
    else:
        text = sys.stdin.readline().rstrip("\n")
    if new and len(text) < _LEAST_PASSPHRASE:
        raise CommandFailed(f"a passphrase has at least {_LEAST_PASSPHRASE} characters")
    return Secret.passphrase(text)


def export_session(
    settings: Settings, environ: Mapping[str, str], name: str, target: Path, secret: Secret
) -> int:
    """Write the session ``name`` (``tenant/id``, or ``id`` of the keyless tenant) to a new file.
    Its KV is what is on SSD: park it first. May run beside a server. 0."""
    session = SessionKey(name if "/" in name else f"{LOCAL_TENANT}/{name}")
    row = asyncio.run(_find(settings, session))
    holding, chain = _chain(settings, session, row.fingerprint)
    assert holding.chunk_bytes is not None
    about = About(
        holding.fingerprint,
        holding.chunk_bytes,
        session,
        origin(settings, row.tenant),
        msgspec.to_builtins(_row_of(row)),
    )
    store = open_store(
        settings.installation,
        holding.fingerprint,
        holding.chunk_bytes,
        environ=environ,
        read_only=True,
    )
    try:
        found = _write(store, target, secret, about, chain)
    finally:
        store.close()
    size = size_text(found * holding.chunk_bytes)
    print(f"{session}: {found} of {len(chain)} chunks ({size}) are in {target}")
    return 0


async def _find(settings: Settings, session: SessionKey) -> Session:
    path = settings.database_path
    if path is not None and not path.exists():
        raise CommandFailed(f"there is no database {path}, and so no session")
    database = await open_database(settings.database_url)
    try:
        async with database.transaction() as repo:
            found = await repo.find(*parse_session_key(session))
    except ValueError:
        found = None
    finally:
        await database.close()
    if found is None:
        raise CommandFailed(f"there is no session {session}")
    return found


def _chain(
    settings: Settings, session: SessionKey, fingerprint: str
) -> tuple[Holding, tuple[ChunkKey, ...]]:
    """The session's chunks, of the fingerprint that served its last turn if there are any."""
    found = holdings(settings.store_dir, _FILES)
    for holding in sorted(found, key=lambda h: h.fingerprint != fingerprint):
        path = settings.installation.manifests(holding.fingerprint)
        chain = Manifests.open(path).get(session)
        if chain and holding.chunk_bytes is not None:
            return holding, chain
    raise CommandFailed(f"nothing of {session} is on SSD: park it first")


def _write(
    store: SsdStore, target: Path, secret: Secret, about: About, chain: tuple[ChunkKey, ...]
) -> int:
    """A file that is whole, or none."""
    file = _FILES.create(target)
    try:
        archive = ArchiveWriter(_FILES, file, secret, about, len(chain))
        found = export_chain(store, chain, archive)
        if not found:
            raise CommandFailed(f"nothing of {about.session} can be read: park it first")
        archive.close()
        _FILES.sync_folder(target.absolute().parent)
    except BaseException:
        _FILES.remove(target)
        raise
    finally:
        _FILES.close(file)
    return found


def _row_of(session: Session) -> SessionRow:
    return SessionRow(
        session.model,
        session.created_at,
        session.last_active_at,
        session.turns + session.running,
        session.tokens,
        session.fingerprint,
    )


def origin(settings: Settings, tenant: str) -> bytes:
    """The same where a tenant's chunks have the same names; does not show the salt. Raises
    CommandFailed, SecretUnusable."""
    file = MasterKeySource.parse(settings.secret).path
    if file is not None and not file.exists():
        raise CommandFailed(f"there is no {file}: see docs/operations.md on moving a session")
    salt = tenant_salt(installation_secret(settings.secret, os.environ), tenant)
    return hashlib.sha256(b"valet origin\0" + salt.encode()).digest()
