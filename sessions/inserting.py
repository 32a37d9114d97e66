"""INSERT statements that know what to do about a row that is there already.

SQL has no common form of them; SQLite's and PostgreSQL's look alike. Those that every turn needs
are made once.
"""

from functools import cache

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

Insert = sqlite.Insert | postgresql.Insert


def insert_into(connection: AsyncConnection, table: Table) -> Insert:
    """An INSERT that has ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    return _insert(connection.dialect.name, table)


def insert_new(connection: AsyncConnection, table: Table) -> Insert:
    """An INSERT that leaves an existing row of the same key alone."""
    return _insert_new(connection.dialect.name, table)


def upsert_into(connection: AsyncConnection, table: Table) -> Insert:
    """An INSERT that replaces an existing row of the same key; every column is given."""
    return _upsert_into(connection.dialect.name, table)


@cache
def _insert_new(dialect: str, table: Table) -> Insert:
    return _insert(dialect, table).on_conflict_do_nothing()


@cache
def _upsert_into(dialect: str, table: Table) -> Insert:
    statement = _insert(dialect, table)
    key = [column.name for column in table.primary_key]
    rest = [column.name for column in table.c if column.name not in key]
    new = {name: statement.excluded[name] for name in rest}
    return statement.on_conflict_do_update(index_elements=key, set_=new)


def _insert(dialect: str, table: Table) -> Insert:
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
