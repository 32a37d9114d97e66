"""Whose chunks a request or a transfer handles; kept in its vLLM context."""

from dataclasses import dataclass

from cache_tiers.types import SessionKey
from engine.core_plugin.vllm_compat import ReqContext


@dataclass(frozen=True, slots=True)
class Owner:
    """A session."""

    session: SessionKey


def owner_of(context: ReqContext) -> SessionKey | None:
    """The session in a context; None where there is none."""
    owner = context.get_state(Owner)
    return owner.session if isinstance(owner, Owner) else None
