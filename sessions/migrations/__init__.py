"""The schema's history. ``upgrade`` is the only way in; there is no ``alembic.ini``."""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest revision, in the caller's transaction.

    Raises ``alembic.util.CommandError`` when a newer Valet wrote the database.
    """
    config = Config()
    config.set_main_option("script_location", "sessions:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
