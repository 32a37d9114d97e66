"""Everything that is PostgreSQL's own: its pool, its limits, its ways to fail.

A unit of work is READ COMMITTED and locks the rows that it will change. Two that lock in different
orders may deadlock: the server ends one of them, and ``Database.run`` runs that one again.
"""

from typing import Any, Final

import asyncpg
from sqlalchemy import URL, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

POOL_SIZE: Final = 8
"""Connections of one API process. A unit of work is short, and more of them only wait for each
other inside the server."""

WAIT_S: Final = 5.0
"""How long a unit of work waits for a connection of the pool."""
CONNECT_S: Final = 3.0
STATEMENT_S: Final = 5.0
LOCK_S: Final = 3.0
_IDLE_S: Final = 15.0
"""A process that was stopped in a unit of work loses its locks after this."""
_ANSWER_S: Final = STATEMENT_S + 2.0
"""A statement whose answer does not come, the server's own limit notwithstanding: it is gone."""
_MIGRATION_S: Final = 600.0

_CONFLICTS: Final = {"40001", "40P01"}
"""Serialization failure, deadlock: the unit of work changed nothing and may run again."""
_REFUSALS: Final = {"22", "23"}
"""Classes of errors: wrong data, a constraint that does not hold."""
_MIGRATION_LOCK: Final = 0x56414C4554


def create_engine(url: URL) -> AsyncEngine:
    """An engine with a pool of connections to ``url``; connects at first use."""
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg"),
        isolation_level="READ COMMITTED",
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=WAIT_S,
        hide_parameters=True,
        connect_args=_connect_args(STATEMENT_S, LOCK_S, _ANSWER_S),
    )
    event.listen(engine.sync_engine, "checkout", _check_open)
    event.listen(engine.sync_engine, "handle_error", _no_answer)
    return engine


def reader(engine: AsyncEngine) -> AsyncEngine:
    """``engine`` for statements that change nothing: without a transaction, which at READ COMMITTED
    would not have them see anything else."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def create_migrator(url: URL) -> AsyncEngine:
    """An engine for one migration: a single connection that may take its time."""
    return create_async_engine(
        url.set(drivername="postgresql+asyncpg"),
        poolclass=NullPool,
        hide_parameters=True,
        connect_args=_connect_args(_MIGRATION_S, _MIGRATION_S, _MIGRATION_S),
    )


async def lock_migrations(connection: AsyncConnection) -> None:
    """Wait for any other process that migrates; held until the transaction ends."""
    statement = text("SELECT pg_advisory_xact_lock(:key)")
    await connection.execute(statement, {"key": _MIGRATION_LOCK})


def may_run_again(error: DBAPIError) -> bool:
    """Whether the server undid the unit of work for another one's sake."""
    return getattr(error.orig, "sqlstate", None) in _CONFLICTS


def refuses_values(error: DBAPIError) -> bool:
    """Whether the server works, and cannot store what it was given."""
    code = getattr(error.orig, "sqlstate", None) or ""
    # What the driver itself cannot encode has no code.
    cause = None if error.orig is None else error.orig.__cause__
    return code[:2] in _REFUSALS or isinstance(cause, asyncpg.DataError)


def _connect_args(statement_s: float, lock_s: float, answer_s: float) -> dict[str, Any]:
    return {
        "async_creator_fn": _connect,
        "timeout": CONNECT_S,
        "command_timeout": answer_s,
        "server_settings": {
            "application_name": "valet",
            "timezone": "UTC",
            "statement_timeout": f"{statement_s * 1000:.0f}",
            "lock_timeout": f"{lock_s * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{_IDLE_S * 1000:.0f}",
        },
    }


async def _connect(*args: Any, **options: Any) -> Any:
    try:
        return await asyncpg.connect(*args, **options)
    except OSError as error:
        # Refused, no such host, too late: SQLAlchemy knows the driver's own errors only.
        reason = error.strerror or "no answer"
        raise asyncpg.InterfaceError(f"cannot connect: {reason}") from error


def _check_open(connection: DBAPIConnection, _: ConnectionPoolEntry, __: object) -> None:
    # The driver hears of a server's end at once, so that nothing need be asked beforehand.
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _no_answer(context: ExceptionContext) -> BaseException | None:
    error = context.original_exception
    if not isinstance(error, OSError):
        return None
    context.is_disconnect = True
    return OperationalError(None, None, error)
