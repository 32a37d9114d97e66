"""Tenants, their keys and quotas."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
)

from sessions.models.columns import UtcTime, metadata

tenants = Table(
    "tenants",
    metadata,
    Column("name", Text, primary_key=True),
    Column("created_at", UtcTime, nullable=False),
    # Limits of its own; what is absent is the installation's.
    Column("quotas", JSON, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, ForeignKey("tenants.name", ondelete="CASCADE"), nullable=False),
    Column("label", Text, nullable=False),
    # SHA-256 of the key, which itself is nowhere.
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("revoked_at", UtcTime),
    Index(None, "tenant"),
)

tenancy = Table(
    "tenancy",
    metadata,
    # One row. Every change of tenants or keys counts it up, so that a server sees at a glance
    # whether what it knows is still so.
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
)
