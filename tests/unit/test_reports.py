"""What a report says of a request: numbers that add up, and the reason for each computed token."""

from collections.abc import Sequence

import pytest

from cache_tiers.hints import KvReport, Miss
from cache_tiers.types import ChunkKey, MissReason, SessionKey, Tier
from engine.core_plugin.reports import KEPT, ReportLedger

SESSION = SessionKey("t/s")
TOKENS = 100


def chain(text: str) -> tuple[ChunkKey, ...]:
    return tuple(ChunkKey(c.encode()) for c in text)


def report(
    prompt: int,
    held: str | None,
    now: str,
    *,
    device: int = 0,
    tiers: dict[Tier, int] | None = None,
    failure: MissReason | None = None,
    store: bool = True,
) -> KvReport:
    ledger = ReportLedger(TOKENS, store_enabled=store)
    ledger.begin("r", SESSION, None if held is None else chain(held))
    record = ledger.get("r")
    assert record is not None
    record.device = device
    record.tokens_by_tier = dict(tiers or {})
    record.failure = failure
    finished = ledger.finish("r", prompt, chain(now))
    assert finished is not None
    assert finished.device + finished.dram + finished.ssd + finished.computed == prompt
    assert sum(miss.tokens for miss in finished.misses) == finished.computed
    return finished


CASES: Sequence[tuple[str, KvReport, list[Miss]]] = [
    ("new", report(250, None, "ab"), [Miss(MissReason.NEW_SESSION, 0, 250)]),
    ("short", report(90, None, ""), [Miss(MissReason.BELOW_MINIMUM, 0, 90)]),
    (
        "new on a shared prefix",
        report(250, None, "ab", device=100),
        [Miss(MissReason.NEW_SESSION, 100, 150)],
    ),
    (
        "grown",
        report(350, "ab", "abc", tiers={Tier.SSD: 200}),
        [Miss(MissReason.APPENDED, 200, 150)],
    ),
    (
        "changed",
        report(350, "abc", "abX", device=200),
        [Miss(MissReason.PREFIX_CHANGED, 200, 150)],
    ),
    (
        "changed at its start",
        report(350, "abc", "XYZ"),
        [Miss(MissReason.PREFIX_CHANGED, 0, 350)],
    ),
    (
        "evicted",
        report(350, "abc", "abc", tiers={Tier.DRAM: 100}),
        [Miss(MissReason.EVICTED, 100, 200), Miss(MissReason.APPENDED, 300, 50)],
    ),
    (
        "corrupt",
        report(350, "ab", "abc", tiers={Tier.SSD: 100}, failure=MissReason.CORRUPT_CHUNK),
        [Miss(MissReason.CORRUPT_CHUNK, 100, 100), Miss(MissReason.APPENDED, 200, 150)],
    ),
    (
        "no store",
        report(250, "ab", "ab", store=False),
        [Miss(MissReason.STORE_DISABLED, 0, 200), Miss(MissReason.APPENDED, 200, 50)],
    ),
]


@pytest.mark.parametrize(("finished", "misses"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_misses(finished: KvReport, misses: list[Miss]) -> None:
    assert list(finished.misses) == misses


def test_a_prompt_found_whole_computes_its_last_token() -> None:
    finished = report(200, "ab", "ab", tiers={Tier.SSD: 200})
    assert (finished.ssd, finished.computed) == (199, 1)


def test_finished_reports_are_found_by_the_submitted_id_and_bounded() -> None:
    ledger = ReportLedger(TOKENS, store_enabled=True)
    for i in range(KEPT + 5):
        ledger.begin(f"chat-{i:05}-x1", SESSION, None)
        ledger.finish(f"chat-{i:05}-x1", 10 + i, ())
    assert ledger.find_finished("chat-00000") is None
    newest = ledger.find_finished(f"chat-{KEPT + 4:05}")
    assert newest is not None
    assert newest.prompt == 10 + KEPT + 4
    assert ledger.finish("never begun", 5, ()) is None
