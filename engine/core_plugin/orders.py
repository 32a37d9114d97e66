"""What the scheduler side tells the workers besides vLLM's own: which requests are over.

Workers echo ended requests back: so vLLM learns that a request's store is over, and that a load
failed and its blocks hold nothing. Of a load that is whole the scheduler's side says so itself
(``load_ends.py``).
"""

from dataclasses import dataclass, field

from engine.core_plugin.vllm_compat import OffloadingConnectorMetadata


@dataclass
class ValetMetadata(OffloadingConnectorMetadata):
    """Scheduler → workers, one a step."""

    loads_ended: frozenset[str] = frozenset()
    loads_failed: frozenset[str] = frozenset()
    stores_ended: frozenset[str] = frozenset()
    failed_blocks: frozenset[int] = frozenset()


@dataclass(slots=True)
class Orders:
    """What has gathered for the next step, by request and by device block."""

    loads_ended: set[str] = field(default_factory=set)
    loads_failed: set[str] = field(default_factory=set)
    stores_ended: set[str] = field(default_factory=set)
    failed_blocks: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.loads_ended or self.stores_ended)

    def send_with(self, meta: OffloadingConnectorMetadata) -> ValetMetadata:
        """vLLM's orders of this step with ours; ours are then empty."""
        sent = ValetMetadata(
            load_jobs=meta.load_jobs,
            store_jobs=meta.store_jobs,
            jobs_to_flush=meta.jobs_to_flush,
            loads_ended=frozenset(self.loads_ended),
            loads_failed=frozenset(self.loads_failed),
            stores_ended=frozenset(self.stores_ended),
            failed_blocks=frozenset(self.failed_blocks),
        )
        for gathered in (self.loads_ended, self.loads_failed, self.stores_ended):
            gathered.clear()
        self.failed_blocks.clear()
        return sent
