"""Sessions, their turns, and what happened to them."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    Table,
    Text,
    text,
)

from cache_tiers.types import Tier
from sessions.models.columns import UtcTime, metadata, of_a_session, one_of
from sessions.types import AuditAction, SessionState

_UNENDED = text("ended_at IS NULL")
_FORKED = text("parent_id IS NOT NULL")

sessions = Table(
    "sessions",
    metadata,
    # The tenant comes first: equal ids of two tenants are two sessions.
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("state", one_of(SessionState), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("last_active_at", UtcTime, nullable=False),
    Column("turns", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("running", Integer, nullable=False),
    # Lineage: the session and the turn that this one was forked from. No foreign key: a fork
    # outlives its parent.
    Column("parent_id", Text),
    Column("parent_turn", Integer),
    # The turn whose end is the present: the last answered one, or where a rollback went.
    Column("head_turn", Integer, nullable=False),
    # Tokens in front of turn 1.
    Column("base_tokens", Integer, nullable=False),
    # The API process whose engine served the last turn.
    Column("instance", Text, nullable=False),
    Column("ttl_s", Integer),
    Column("expires_at", UtcTime),
    Column("metadata", JSON, nullable=False),
    CheckConstraint("running >= 0 AND (state = 'active') = (running > 0)", name="running"),
    Index(None, "tenant", "created_at", "id"),
    Index(None, "tenant", "state", "created_at", "id"),
    Index(None, "expires_at"),
    Index(None, "instance", "state", "last_active_at"),
    Index(
        None,
        *("tenant", "parent_id", "created_at", "id"),
        sqlite_where=_FORKED,
        postgresql_where=_FORKED,
    ),
)

turns = Table(
    "turns",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("started_at", UtcTime, nullable=False),
    # The API process that serves it.
    Column("instance", Text, nullable=False),
    # Null while the turn runs, as is everything that only its end knows.
    Column("ended_at", UtcTime),
    Column("prompt_tokens", Integer),
    Column("output_tokens", Integer),
    Column("finish_reason", Text),
    Column("receipt", JSON),
    Column("rolled_back", Boolean, nullable=False),
    of_a_session(),
    # Few turns run at a time: what a dead process left is found among them alone.
    Index(None, "instance", sqlite_where=_UNENDED, postgresql_where=_UNENDED),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", UtcTime, nullable=False),
    # No foreign key: a row outlives its session.
    Column("tenant", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("action", one_of(AuditAction), nullable=False),
    Column("key_destroyed", Boolean, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Index(None, "tenant", "at", "id"),
    # Without it SQLite may give the number of the newest row again after that row is gone.
    sqlite_autoincrement=True,
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("turn", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    of_a_session(),
)

pins = Table(
    "pins",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("tier", one_of(Tier), primary_key=True),
    # Who asked: the API, or a field of a request.
    Column("source", Text, nullable=False),
    Column("ttl_s", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    of_a_session(),
    Index(None, "expires_at"),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    # No foreign key: what happened stays known after the session is gone.
    Column("tenant", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("kind", Text, nullable=False),
    Column("details", JSON, nullable=False),
    Index(None, "tenant", "session_id", "id"),
    Index(None, "at"),
    sqlite_autoincrement=True,
)
