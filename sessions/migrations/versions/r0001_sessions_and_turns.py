"""Sessions and their turns."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "sessions",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.Column("last_active_at", time, nullable=False),
        sa.Column("turns", sa.Integer, nullable=False),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("running", sa.Integer, nullable=False),
        sa.CheckConstraint(
            "running >= 0 AND (state = 'active') = (running > 0)", name="ck_sessions_running"
        ),
    )
    op.create_index("ix_sessions_tenant_created_at_id", "sessions", ["tenant", "created_at", "id"])
    op.create_index(
        "ix_sessions_tenant_state_created_at_id",
        "sessions",
        ["tenant", "state", "created_at", "id"],
    )
    op.create_table(
        "turns",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("started_at", time, nullable=False),
        sa.Column("ended_at", time),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("output_tokens", sa.Integer),
        sa.Column("finish_reason", sa.Text),
        sa.Column("receipt", sa.JSON),
        sa.ForeignKeyConstraint(
            ["tenant", "session_id"],
            ["sessions.tenant", "sessions.id"],
            name="fk_turns_sessions",
            ondelete="CASCADE",
        ),
    )
