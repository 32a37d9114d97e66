"""Plans carried out: who is filled in on the device."""

from types import SimpleNamespace
from typing import Any

from cache_tiers.prefetch.types import Fetch, Plan
from cache_tiers.types import SessionKey
from engine.core_plugin.planning import Planning

NAMES = [SessionKey(f"t/{name}") for name in "abc"]


def test_where_one_session_cannot_be_filled_now_the_next_is() -> None:
    plan = Plan([Fetch(session, 1) for session in NAMES], None)
    nothing = SimpleNamespace(plan=lambda *_: Plan([], None))
    order = SimpleNamespace(holds=lambda *_: None, loose=0)
    manager: Any = SimpleNamespace(chunk_bytes=1, dram=SimpleNamespace(order=order, free=lambda: 0))
    sessions: Any = SimpleNamespace(
        chain=lambda session: ("chunk",),
        on_device=lambda session: 0,
        at_hand=lambda session, on_device: 1,
        device=SimpleNamespace(spare=lambda *_: 0),
        is_needed=lambda _: False,
    )
    dram: Any = SimpleNamespace(planner=nothing)
    device: Any = SimpleNamespace(planner=SimpleNamespace(plan=lambda *_: plan), order=order)
    planning = Planning(manager, sessions, dram, device)
    asked: list[SessionKey] = []

    def start(session: SessionKey, upto: int, *, keep_share: float) -> bool:
        asked.append(session)
        return session == NAMES[1]

    fills: Any = SimpleNamespace(
        possible=True, start=start, tally=SimpleNamespace(holds=lambda *_: None)
    )
    planning.fills = fills
    planning.plan(NAMES, 0.0)
    assert asked == NAMES[:2], "one at a time"
