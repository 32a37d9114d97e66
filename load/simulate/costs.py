"""What chunks cost a simulated engine: known, where a real one learns it."""

from dataclasses import dataclass

from load.simulate.model import EngineModel, Hardware

TYPICAL_PROMPT = 120_000
"""Tokens of a recorded prompt, about."""


class ModelCosts:
    """``Costs`` of a model. ``load_s`` of chunks from SSD."""

    def __init__(
        self, engine: EngineModel, hardware: Hardware, lead_s: float | None = None
    ) -> None:
        """``lead_s`` is by default that of a typical prompt with nothing in its way."""
        self._engine = engine
        self._fixed_s = hardware.ssd_fixed_s
        self._chunk_s = hardware.chunk_bytes / hardware.ssd_bandwidth
        self._lead_s = engine.lead(TYPICAL_PROMPT) if lead_s is None else lead_s

    def load_s(self, chunks: int) -> float:
        """See ``Costs``."""
        return self._fixed_s + chunks * self._chunk_s

    def compute_s(self, start_token: int, end_token: int) -> float:
        """See ``Costs``."""
        return self._engine.prefill(start_token, end_token)

    @property
    def lead_s(self) -> float:
        """See ``Costs``."""
        return self._lead_s


@dataclass(frozen=True, slots=True)
class QueuedLoad:
    """``LoadCosts`` of one request: of what it misses, all on SSD, and behind what is loaded for
    others. What is in DRAM is at hand."""

    engine: EngineModel
    chunks: int
    """Missing."""
    wait_s: float
    """Until all of them are there."""

    def fetch_s(self, dram: int, ssd: int, *, busy: bool) -> float:  # noqa: ARG002
        """See ``LoadCosts``."""
        return self.wait_s * ssd / self.chunks

    def compute_s(self, start_token: int, end_token: int) -> float:
        """See ``Costs``."""
        return self.engine.prefill(start_token, end_token)
