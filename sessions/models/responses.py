"""Stored responses and conversations."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
)

from sessions.models.columns import UtcTime, metadata

responses = Table(
    "responses",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    # The turn that it answered.
    Column("session_id", Text, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("previous_id", Text),
    # The first response of the tree of those that continue one another.
    Column("thread", Text, nullable=False),
    Column("conversation_id", Text),
    # Of the conversation, when it was read: items below this position are in front.
    Column("position", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    # No longer to be had by its id; kept while one that continues it is.
    Column("deleted", Boolean, nullable=False),
    # Bytes of JSON: of the content, and with the answer.
    Column("content_size", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    # The answer without its output; the items that went in and came out. Sealed.
    Column("answer", LargeBinary, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Index(None, "tenant", "thread", "expires_at"),
    Index(None, "tenant", "previous_id"),
    Index(None, "expires_at"),
)

conversations = Table(
    "conversations",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("session_id", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("metadata", JSON, nullable=False),
    # The next item's position.
    Column("next", Integer, nullable=False),
    # How many items there are, and their bytes of JSON.
    Column("count", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Index(None, "expires_at"),
)

conversation_items = Table(
    "conversation_items",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("conversation_id", Text, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    ForeignKeyConstraint(
        ["tenant", "conversation_id"],
        ["conversations.tenant", "conversations.id"],
        ondelete="CASCADE",
    ),
    Index(None, "tenant", "conversation_id", "id", unique=True),
)
