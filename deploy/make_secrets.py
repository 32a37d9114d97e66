"""Make the secrets of docker-compose.yml: ``python3 deploy/make_secrets.py [FOLDER]``.

Needs nothing but Python. Only the folder keeps others of this machine out: its files are readable
by all, because each container reads its own as a user of its own.
"""

import hashlib
import secrets
import sys
from pathlib import Path

DEFAULT = Path(__file__).parent.parent / "secrets"

SETTINGS = """\
# Settings of Valet in its container: see app/settings.py. This file holds passwords.
database_url = "postgresql+asyncpg://valet:{postgres}@postgres:5432/valet"
redis_url = "redis://valet:{redis}@redis:6379/0"
# Opens /metrics.
operator_key = "{operator}"
"""
# Whoever has no password may ask whether the server lives, and nothing else. Redis keeps only a
# hash of the password.
USERS = """\
user default on nopass resetkeys resetchannels -@all +ping
user valet on #{redis_hash} ~valet:* resetchannels +@all -@admin -@dangerous
"""


class CannotMake(Exception):
    """The message is one line and says why."""


def make_secrets(folder: Path) -> None:
    """Make ``folder`` and in it ``valet.toml``, ``postgres_password`` and ``redis_users``, with
    passwords that nobody has seen. Raises CannotMake when it is there: the database's volume knows
    the old password."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise CannotMake(f"{folder} is there already; nothing was changed") from None
    except OSError as error:
        raise CannotMake(f"{folder} cannot be made: {error.strerror}") from None
    postgres, redis, operator = (secrets.token_urlsafe(32) for _ in range(3))
    write(folder / "postgres_password", postgres)
    redis_hash = hashlib.sha256(redis.encode()).hexdigest()
    write(folder / "redis_users", USERS.format(redis_hash=redis_hash))
    write(folder / "valet.toml", SETTINGS.format(postgres=postgres, redis=redis, operator=operator))


def write(file: Path, text: str) -> None:
    """A new file of that text."""
    file.write_text(text)
    file.chmod(0o644)


if __name__ == "__main__":
    try:
        make_secrets(Path(sys.argv[1]).absolute() if sys.argv[1:] else DEFAULT)
    except CannotMake as error:
        sys.exit(f"valet: {error}")
