"""The tree of chains against chains that are lists of blocks: what prompts have in common, what
tiers claim together, what a cut frees."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cache_tiers.types import SessionKey
from load.simulate.chains import Chains, Session
from load.traces import Runs, joined

PER = 3
"""Blocks a chunk."""
NAMES = st.sampled_from("abcd")
LEVELS = st.sampled_from((0, 2))


def runs_of(blocks: list[int]) -> Runs:
    runs: Runs = ()
    for block in blocks:
        runs = joined(runs, ((block, 1),))
    return runs


def common(one: list[int], other: list[int]) -> int:
    for at, (mine, its) in enumerate(zip(one, other, strict=False)):
        if mine != its:
            return at
    return min(len(one), len(other))


class Together(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.chains = Chains(PER)
        self.sessions = {name: Session(SessionKey(f"t/{name}"), "scope") for name in "abcd"}
        self.lists: dict[str, list[int]] = {}
        self.used = [0, 0, 0]
        self.fresh = 1000

    def claim(self, name: str, level: int, chunks: int) -> None:
        self.used[level] += self.chains.claim(self.sessions[name], level, chunks)

    @rule(
        name=NAMES,
        origin=NAMES,
        kept=st.integers(0, 14),
        shared=st.lists(st.integers(1, 3), max_size=4),
        new=st.integers(0, 9),
    )
    def place(self, name: str, origin: str, kept: int, shared: list[int], new: int) -> None:
        """A prompt that begins like somebody's, and goes on in blocks that others may have, too."""
        blocks = [*self.lists.get(origin, [])[:kept], *(7 * block for block in shared)]
        blocks += range(self.fresh, self.fresh + new)
        self.fresh += new + 1
        before = self.lists.get(name, [])
        own = common(before, blocks)
        depth = max((common(chain, blocks) for chain in self.lists.values()), default=0)
        session = self.sessions[name]
        assert self.chains.known(session, runs_of(blocks)) == (own // PER, depth // PER)
        for level in range(3):
            self.claim(name, level, min(own // PER, session.claimed[level]))
        self.chains.place(session, runs_of(blocks))
        self.lists[name] = blocks

    @precondition(lambda self: self.lists)
    @rule(data=st.data(), level=LEVELS)
    def hold(self, data: st.DataObject, level: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.lists)))
        self.claim(name, level, data.draw(st.integers(0, len(self.lists[name]) // PER)))

    @precondition(lambda self: self.lists)
    @rule(data=st.data(), level=LEVELS, keep=st.integers(0, 4), need=st.integers(1, 9))
    def cut(self, data: st.DataObject, level: int, keep: int, need: int) -> None:
        """Frees what is needed or all that it can, and no more than that."""
        name = data.draw(st.sampled_from(sorted(self.lists)))
        session = self.sessions[name]
        claimed, used = session.claimed[level], self.used[level]
        shorter = self.chains.shorter(session, level, keep, need)
        if claimed <= keep:
            assert shorter == claimed
            return
        assert keep <= shorter <= claimed
        self.claim(name, level, shorter)
        freed = used - self.used[level]
        assert freed <= need
        if freed < need:
            assert shorter == keep

    @precondition(lambda self: self.lists)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.lists)))
        for level in range(3):
            self.claim(name, level, 0)
        self.chains.remove(self.sessions[name])
        del self.lists[name]

    @invariant()
    def claims_count_once(self) -> None:
        for level in range(3):
            union = set()
            for name, blocks in self.lists.items():
                for chunk in range(self.sessions[name].claimed[level]):
                    union.add(tuple(blocks[: PER * (chunk + 1)]))
            assert self.used[level] == len(union)

    @invariant()
    def lengths_are_right(self) -> None:
        for name, blocks in self.lists.items():
            assert self.chains.chunks(self.sessions[name]) == len(blocks) // PER

    @invariant()
    def what_others_have_is_known(self) -> None:
        for name, blocks in self.lists.items():
            most = 0
            for other, theirs in self.lists.items():
                if other != name:
                    both = common(blocks, theirs) // PER
                    most = max(most, min(both, self.sessions[other].claimed[0]))
            assert self.chains.others(self.sessions[name], 0) == most


TestTogether = Together.TestCase
TestTogether.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
