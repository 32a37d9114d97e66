"""What chunks cost a simulated engine: known, where a real one learns it."""

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
        self._chunk_s = hardware.chunk_bytes / hardware.ssd_bandwidth
        self._lead_s = engine.lead(TYPICAL_PROMPT) if lead_s is None else lead_s

    def load_s(self, chunks: int) -> float:
        """See ``Costs``."""
        return chunks * self._chunk_s

    def compute_s(self, start_token: int, end_token: int) -> float:
        """See ``Costs``."""
        return self._engine.prefill(start_token, end_token)

    @property
    def lead_s(self) -> float:
        """See ``Costs``."""
        return self._lead_s
