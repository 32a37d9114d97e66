"""What several API processes on one database agree by."""

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
)

from sessions.models.columns import UtcTime, metadata

installation = Table(
    "installation",
    metadata,
    # One row. The check tells a process with another secret before it writes what nobody can read.
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("secret_check", LargeBinary(32), nullable=False),
)

instances = Table(
    "instances",
    metadata,
    Column("id", Text, primary_key=True),
    Column("started_at", UtcTime, nullable=False),
    Column("seen_at", UtcTime, nullable=False),
)

placements = Table(
    "placements",
    metadata,
    # Instances whose engine may hold KV of a session, besides the one in the session's own row.
    Column("tenant", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("instance", Text, primary_key=True),
)

orders = Table(
    "orders",
    metadata,
    # What one instance wants another to do with KV that only that one's engine holds.
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("instance", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Index(None, "instance", "id"),
    sqlite_autoincrement=True,
)

fences = Table(
    "fences",
    metadata,
    # The newest fencing token that was accepted under a name: older holders write nothing.
    Column("name", Text, primary_key=True),
    Column("token", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
)
