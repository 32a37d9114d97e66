"""Manifests against a dict of lists, with restarts."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_tiers.manifest import Manifests
from cache_tiers.types import ChunkKey, SessionKey

SESSIONS = st.sampled_from([SessionKey(name) for name in ("a", "b", "c")])
KEYS = st.integers(0, 12).map(lambda number: ChunkKey(bytes([number]) * 8))


class ManifestMachine(RuleBasedStateMachine):
    """The persisted state is the one at the latest persist."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="manifest-")) / "m"
        self.manifests = Manifests.open(self.path, lambda: 1.0)
        self.model: dict[SessionKey, list[ChunkKey]] = {}
        self.saved: dict[SessionKey, list[ChunkKey]] = {}

    @rule(session=SESSIONS, keys=st.lists(KEYS, unique=True, max_size=10))
    def replace(self, session: SessionKey, keys: list[ChunkKey]) -> None:
        self.manifests.replace(session, keys)
        self.model.pop(session, None)
        self.model[session] = keys

    @rule(session=SESSIONS, more=st.lists(KEYS, unique=True, max_size=4))
    def grow(self, session: SessionKey, more: list[ChunkKey]) -> None:
        old = self.model.get(session, [])
        self.replace(session, old + [key for key in more if key not in old])

    @rule(session=SESSIONS)
    def drop(self, session: SessionKey) -> None:
        gone = self.model.pop(session, [])
        others = {key for keys in self.model.values() for key in keys}
        assert self.manifests.drop(session) == [key for key in gone if key not in others]

    @rule()
    def persist(self) -> None:
        self.manifests.persist()
        self.saved = dict(self.model)

    @rule()
    def kill(self) -> None:
        self.manifests = Manifests.open(self.path, lambda: 1.0)
        self.model = dict(self.saved)

    @invariant()
    def same(self) -> None:
        assert self.manifests.sessions() == list(self.model)
        for session, keys in self.model.items():
            assert self.manifests.get(session) == tuple(keys)
        held = [key for keys in self.model.values() for key in keys]
        for key in {*held, ChunkKey(b"none")}:
            assert self.manifests.holders(key) == held.count(key)

    def teardown(self) -> None:
        shutil.rmtree(self.path.parent)


TestManifests = ManifestMachine.TestCase
TestManifests.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
