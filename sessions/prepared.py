"""The statements of every turn, made once: making one takes longer than running it."""

from dataclasses import fields
from typing import Any, Final

from sqlalchemy import and_, bindparam, insert, select, update

from sessions.models import sessions, turns
from sessions.types import Session

_FIELDS: Final = tuple(field.name for field in fields(Session))


def values(session: Session) -> dict[str, Any]:
    """A session's row."""
    return {name: getattr(session, name) for name in _FIELDS}


_session = and_(sessions.c.tenant == bindparam("of_tenant"), sessions.c.id == bindparam("of_id"))
_running_turn = and_(
    turns.c.tenant == bindparam("of_tenant"),
    turns.c.session_id == bindparam("of_session"),
    turns.c.number == bindparam("of_number"),
    # The number alone may be another turn's by now: of a new session of the same name.
    turns.c.instance == bindparam("of_instance"),
    turns.c.started_at == bindparam("of_started_at"),
    turns.c.ended_at.is_(None),
)

FIND: Final = select(sessions).where(_session)
FIND_AND_LOCK: Final = FIND.with_for_update()
SAVE: Final = update(sessions).where(_session).values({name: bindparam(name) for name in _FIELDS})
ADD_TURN: Final = insert(turns)
END_TURN: Final = (
    update(turns)
    .where(_running_turn)
    .values(
        {
            name: bindparam(name)
            for name in (
                "ended_at",
                "prompt_tokens",
                "output_tokens",
                "finish_reason",
                "receipt",
            )
        }
    )
)
