"""Lineages against sets: what sessions hold is never lost, and never kept for nobody."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_tiers.lineage import Change, Lineage
from cache_tiers.manifest import Manifests
from cache_tiers.supersession import Succession, succession
from cache_tiers.types import ChunkKey, SessionKey

SESSIONS = st.sampled_from([SessionKey(f"t/{name}") for name in "abcd"])
TEXTS = st.text("xy", min_size=1, max_size=6)


def chain_of(text: str) -> tuple[ChunkKey, ...]:
    """A chunk a letter, each named by all before it."""
    return tuple(ChunkKey(text[: i + 1].encode()) for i in range(len(text)))


class LineageMachine(RuleBasedStateMachine):
    """``holds`` is all that a session ever computed or was given; ``marked`` is what a tier would
    know of superseded chunks, told of changes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="lineage-")) / "m"
        self.manifests = Manifests.open(self.path, lambda: 1.0)
        self.lineage = Lineage(self.manifests)
        self.holds: dict[SessionKey, set[ChunkKey]] = {}
        self.marked: set[ChunkKey] = set()

    @rule(session=SESSIONS, text=TEXTS, stale=st.booleans(), alone=st.booleans())
    def turn(self, session: SessionKey, text: str, stale: bool, alone: bool) -> None:
        held = self.lineage.chain(session) or ()
        came_with = held[:-1] if stale else held
        new = chain_of(text)
        told = self.lineage.left_by(session, came_with, new, alone=alone)
        change = self.lineage.remember(session, came_with, new, alone=alone)
        self.holds.setdefault(session, set()).update(new)
        self.apply(change)
        kept = self.lineage.chain(session)
        assert kept in (new, held)
        assert alone or kept == new
        left = [key for key in held if self.lineage.is_superseded(key)]
        assert change.left == told == len(left)

    @rule(parent=SESSIONS, child=SESSIONS, chunks=st.none() | st.integers(0, 7))
    def fork(self, parent: SessionKey, child: SessionKey, chunks: int | None) -> None:
        chain = self.lineage.chain(parent)
        change = self.lineage.fork(parent, child, chunks)
        assert (change is None) == (chain is None)
        if change is not None and chain is not None:
            assert self.lineage.chain(child) == chain[:chunks]
            self.holds.setdefault(child, set()).update(chain[:chunks])
            self.apply(change)

    @rule(session=SESSIONS, chunks=st.integers(0, 7))
    def cut(self, session: SessionKey, chunks: int) -> None:
        chain = self.lineage.chain(session)
        change = self.lineage.truncate(session, chunks)
        if change is not None and chain is not None:
            assert self.lineage.chain(session) == chain[:chunks]
            self.apply(change)

    @rule(session=SESSIONS)
    def drop(self, session: SessionKey) -> None:
        held = self.holds.pop(session, set())
        others: set[ChunkKey] = set().union(*self.holds.values())
        gone = self.lineage.forget(session)
        assert set(gone.orphans) == held - others
        assert set(gone.shared) == held & others
        assert len(gone.orphans) + len(gone.shared) == len(held)
        self.marked.difference_update(gone.orphans)
        self.marked.update(gone.superseded)

    @rule()
    def restart(self) -> None:
        self.manifests.persist()
        self.manifests = Manifests.open(self.path, lambda: 1.0)
        self.lineage = Lineage(self.manifests)

    def apply(self, change: Change) -> None:
        assert not self.marked & set(change.superseded)
        assert set(change.wanted) <= self.marked
        self.marked.update(change.superseded)
        self.marked.difference_update(change.wanted)

    @invariant()
    def nothing_is_lost(self) -> None:
        for session, held in self.holds.items():
            chain = self.lineage.chain(session) or ()
            assert {*chain, *self.lineage.beside(session)} == held
        assert set(self.lineage.sessions()) == set(self.holds)

    @invariant()
    def what_a_chain_has_is_not_superseded(self) -> None:
        chains = [self.lineage.chain(session) or () for session in self.holds]
        for chain in chains:
            assert not any(self.lineage.is_superseded(key) for key in chain)

    @invariant()
    def who_was_told_of_changes_knows_all(self) -> None:
        assert self.marked == set(self.lineage.all_superseded())

    def teardown(self) -> None:
        shutil.rmtree(self.path.parent)


TestLineages = LineageMachine.TestCase
TestLineages.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


def test_what_is_a_rewritten_history_and_what_a_side_question() -> None:
    history = chain_of("abcdefgh")

    def kind(text: str, aside: str = "", alone: bool = True) -> Succession:
        return succession(history, chain_of(aside), chain_of(text), alone=alone)

    assert kind("abcdefghi") is Succession.REPLACED, "it grew"
    assert kind("abx") is Succession.REPLACED, "it was compacted behind a common beginning"
    assert kind("zbcdef") is Succession.REPLACED, "its first message changed"
    assert kind("zy") is Succession.ASIDE, "a short question on something else"
    assert kind("zyx", aside="zy") is Succession.REPLACED, "which was gone on with"
    assert kind("zx", aside="zy") is Succession.ASIDE, "another of the same kind"
    assert kind("abx", alone=False) is Succession.BESIDE
