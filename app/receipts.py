"""The receipt: what one answer says of its own KV. Pure."""

from collections.abc import Sequence
from typing import Any

from cache_tiers.hints import KvReport, Miss
from cache_tiers.prefill_cost import PrefillCost
from cache_tiers.types import MissReason
from engine.port import Generation
from sessions.history.continuation import common_tokens
from sessions.history.place import Place
from sessions.history.recognition import Relation
from sessions.types import Session, SessionState


def make_receipt(
    session_id: str,
    turn: int | None,
    generations: Sequence[Generation],
    previous: Session | None,
    fingerprint: str,
    cost: PrefillCost,
) -> dict[str, Any]:
    """The JSON object of the HTTP contract, from generations that all have their report.

    ``turn`` is None when the turn could not be recorded, and ``session_state`` says so;
    ``previous`` is the session as the turn found it; ``fingerprint`` is the running engine's.
    Tokens, bytes and times of several generations (several prompts in one request) are summed,
    except ``ttft``: the client's first token is the first generation's. A miss's ``at_token``
    counts in its own prompt. Times are milliseconds, None where the engine did not say.
    """
    reports = [g.report for g in generations if g.report is not None]
    load = sum(r.load_ms for r in reports)
    recompute = sum(cost.cost(0, cached_tokens(r)) for r in reports)
    return {
        "session_id": session_id,
        "turn": turn,
        **({} if turn is not None else {"session_state": "unavailable"}),
        "prompt_tokens": sum(r.prompt for r in reports),
        "computed_tokens": sum(r.computed for r in reports),
        "reused_tokens": {
            "device": sum(r.device for r in reports),
            "dram": sum(r.dram for r in reports),
            "ssd": sum(r.ssd for r in reports),
        },
        "prefetched_tokens": sum(r.prefetched for r in reports),
        "bytes_loaded": sum(r.bytes_loaded for r in reports),
        "ms": {
            "queue": _sum([queue_ms(g) for g in generations]),
            "load": round(load, 1),
            "prefill": _sum([prefill_ms(g) for g in generations]),
            "ttft": _round(_span(generations[0].started_at, generations[0].first_token_at)),
        },
        "saved_ms_estimate": round(max(0.0, recompute - load)),
        "miss": [
            {"reason": reason(m, previous, fingerprint), "at_token": m.at_token, "tokens": m.tokens}
            for r in reports
            for m in r.misses
        ],
    }


def prefix_change(place: Place, generations: Sequence[Generation]) -> dict[str, Any] | None:
    """Where the history that this request sent departs from its session's, and how many tokens'
    KV is of no more use for that; None when none is."""
    generation = generations[0]
    report, changed = generation.report, place.change
    if report is None or place.relation is Relation.FORKS or place.head is None:
        return None
    at_token = next(
        (m.at_token for m in report.misses if m.reason is MissReason.PREFIX_CHANGED), None
    )
    unusable = report.superseded
    if place.kept is not None and generation.prompt_tokens:
        kept = place.kept.transcript.tokens
        at_token = common_tokens(kept, generation.prompt_tokens)
        unusable = unusable or len(kept) - at_token
    if not unusable or (changed is None and at_token is None):
        return None
    what = "the rendering changed" if changed is None else changed.what
    where = "" if at_token is None else f" at token {at_token:,}"
    return {
        "message": None if changed is None else changed.message,
        "at_token": at_token,
        "unusable_tokens": unusable,
        "text": f"{what}{where}: {unusable:,} cached tokens unusable",
    }


def cached_tokens(report: KvReport) -> int:
    """Prompt tokens that were not computed: what ``usage`` calls cached."""
    return report.device + report.dram + report.ssd


def reused_tokens(receipt: dict[str, Any]) -> int:
    """The same number, from a receipt."""
    return sum(receipt["reused_tokens"].values())


def reason(miss: Miss, previous: Session | None, fingerprint: str) -> MissReason:
    """Why, with the memory that the engine does not have.

    An engine that never saw a session calls it new. If the database knows an earlier answer of it,
    its KV is gone for a reason: it expired, belonged to another fingerprint, or was evicted.
    """
    if miss.reason is not MissReason.NEW_SESSION or previous is None or not previous.fingerprint:
        return miss.reason
    if previous.state is SessionState.EXPIRED:
        return MissReason.EXPIRED
    if previous.fingerprint != fingerprint:
        return MissReason.FINGERPRINT_CHANGED
    return MissReason.EVICTED


def queue_ms(generation: Generation) -> float | None:
    """Waiting for the scheduler. It starts a request only when its load is done, so the load is
    taken out of the span."""
    span = _span(generation.started_at, generation.scheduled_at)
    load = generation.report.load_ms if generation.report else 0.0
    return None if span is None else max(0.0, span - load)


def prefill_ms(generation: Generation) -> float | None:
    """From the scheduler's start to the first token."""
    if generation.scheduled_at is None:
        return None
    return _span(generation.scheduled_at, generation.first_token_at)


def learn(cost: PrefillCost, generations: Sequence[Generation]) -> None:
    """Show ``cost`` the prefills of these generations. Reuse is a prefix, so what was computed is
    everything from there to the prompt's end."""
    for generation in generations:
        ms = prefill_ms(generation)
        if generation.report is not None and ms is not None:
            cost.observe(cached_tokens(generation.report), generation.report.prompt, ms)


def _span(start: float, end: float | None) -> float | None:
    return None if end is None else max(0.0, (end - start) * 1000)


def _round(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 1)


def _sum(times: Sequence[float | None]) -> float | None:
    known = [t for t in times if t is not None]
    return round(sum(known), 1) if known else None
