"""The tables. ``migrations/`` builds them; a test holds the two together."""

from sessions.models.columns import UtcTime, metadata
from sessions.models.history import heads, points, transcripts
from sessions.models.processes import fences, installation, instances, orders, placements
from sessions.models.responses import conversation_items, conversations, responses
from sessions.models.sessions import audit, checkpoints, events, pins, sessions, turns
from sessions.models.tenants import api_keys, tenancy, tenants

__all__ = [
    "UtcTime",
    "api_keys",
    "audit",
    "checkpoints",
    "conversation_items",
    "conversations",
    "events",
    "fences",
    "heads",
    "installation",
    "instances",
    "metadata",
    "orders",
    "pins",
    "placements",
    "points",
    "responses",
    "sessions",
    "tenancy",
    "tenants",
    "transcripts",
    "turns",
]
