"""The installation's secret, from which tenants' salts and the keys of stored content are derived.

Processes that share a database need the same one: each gets it from ``VALET_SECRET``.
"""

from collections.abc import Mapping

from app.auth import SecretUnusable, load_secret
from cache_tiers.ssd.master_key import MasterKeyError, MasterKeySource


def installation_secret(source: str, environ: Mapping[str, str]) -> bytes:
    """The secret's 32 bytes; a file that is not there is made. Blocks, as long as a command takes.

    Raises SecretUnusable.
    """
    parsed = MasterKeySource.parse(source)
    if parsed.path is not None:
        return load_secret(parsed.path)
    try:
        return parsed.read(environ, name="secret")
    except MasterKeyError as error:
        raise SecretUnusable(f"VALET_SECRET: {error}") from error
