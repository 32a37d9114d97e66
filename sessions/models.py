"""The tables. ``migrations/`` builds them; a test holds the two together."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    DateTime,
    Enum,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.engine import Dialect

from sessions.types import SessionState


class UtcTime(TypeDecorator[datetime]):
    """A moment, timezone-aware UTC on both sides, also where the database stores no timezone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: Dialect) -> datetime | None:
        """Raises ValueError for a time without a timezone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a timezone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _: Dialect) -> datetime | None:
        """Always in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

sessions = Table(
    "sessions",
    metadata,
    # The tenant comes first: equal ids of two tenants are two sessions.
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column(
        "state",
        Enum(
            SessionState,
            native_enum=False,
            length=16,
            values_callable=lambda states: [state.value for state in states],
        ),
        nullable=False,
    ),
    Column("created_at", UtcTime, nullable=False),
    Column("last_active_at", UtcTime, nullable=False),
    Column("turns", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("running", Integer, nullable=False),
    CheckConstraint("running >= 0 AND (state = 'active') = (running > 0)", name="running"),
    Index(None, "tenant", "created_at", "id"),
    Index(None, "tenant", "state", "created_at", "id"),
)

turns = Table(
    "turns",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("started_at", UtcTime, nullable=False),
    # Null while the turn runs, as is everything that only its end knows.
    Column("ended_at", UtcTime),
    Column("prompt_tokens", Integer),
    Column("output_tokens", Integer),
    Column("finish_reason", Text),
    Column("receipt", JSON),
    ForeignKeyConstraint(
        ["tenant", "session_id"], ["sessions.tenant", "sessions.id"], ondelete="CASCADE"
    ),
)
