"""What a session's history is known by."""

from sqlalchemy import (
    Column,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
)

from sessions.models.columns import metadata, of_a_session, one_of
from sessions.types import PointKind

points = Table(
    "points",
    metadata,
    # A place in a conversation, by the keyed hash of the messages up to it; see history/chain.py.
    Column("tenant", Text, primary_key=True),
    Column("hash", LargeBinary(16), primary_key=True),
    # Sessions of equal histories share few slots, so that no hash has more rows than those.
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("session_id", Text, nullable=False),
    Column("kind", one_of(PointKind), nullable=False),
    Column("turn", Integer, nullable=False),
    Column("messages", Integer, nullable=False),
    of_a_session(),
    Index(None, "tenant", "session_id", "turn"),
)

heads = Table(
    "heads",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    # Whose end it was written at; of use while that is the session's head.
    Column("turn", Integer, nullable=False),
    # 16 bytes a message of the history at the head, the answer included.
    Column("hashes", LargeBinary, nullable=False),
    # Of the tools that were offered.
    Column("tools", LargeBinary(16), nullable=False),
    of_a_session(),
)

transcripts = Table(
    "transcripts",
    metadata,
    # The token ids that a turn added to the conversation; sealed, see history/transcript.py.
    Column("tenant", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("turn", Integer, primary_key=True, autoincrement=False),
    # The turn whose conversation they continue, after so many of its tokens; 0 for none.
    Column("base", Integer, nullable=False),
    Column("start", Integer, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    of_a_session(),
)
