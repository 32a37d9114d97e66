"""What is simulated: an engine, the tiers of its KV, and how a run goes. Frozen values."""

import math
from dataclasses import dataclass, field
from enum import IntEnum


class LoadAt(IntEnum):
    """The earliest moment at which a request's missing KV begins to be loaded."""

    ASKED = 0
    """When the scheduler asks for it: on demand."""
    QUEUED = 1
    """When the request has been read and waits to be scheduled."""
    FIRST_BYTE = 2
    """When its first byte arrives, before it has been read."""


@dataclass(frozen=True, slots=True)
class EngineModel:
    """How long an engine takes. The defaults stand for a server of eight GPUs and a dense model of
    70 billion parameters: operations as in Kaplan et al. 2020, at 0.9e15 a second and GPU, a little
    less than half of what an H200 can do with eight-bit numbers."""

    prefill_s: float = 20e-6
    """``a`` of ``cache_tiers/prefill_cost.py``, seconds a token: 2 × 70e9 operations."""
    prefill_s_per_position: float = 20e-6 / 53_000
    """``b``: 4 × 80 layers × 8192 operations for each token before, as many as all else at token
    53,000."""
    step_tokens: int = 2048
    """Prompt tokens that one step of a chunked prefill computes."""
    decode_s: float = 15e-3
    """Of a step that computes one token for every running request: recorded answers took 1.3 s and
    16 ms a token (least absolute deviations over 17,323 recorded requests)."""
    decode_s_per_request: float = 0.1e-3
    """That each running request adds to a step."""
    fixed_s: float = 0.02
    """Of every request, from its first byte on: HTTP, the chat template."""
    outside_s: float = 0.0
    """Of a client's time to the first token, before the server has the request's first byte, and
    behind its first token."""
    read_s: float = 1.5e-6
    """Tokenising, a token of the prompt."""
    most_running: int = 256
    """Requests that are prefilled or decoded at one time."""

    def prefill(self, start: int, end: int) -> float:
        """Seconds to compute the tokens ``start … end`` of a prompt, alone."""
        return (end - start) * (self.prefill_s + self.prefill_s_per_position * (start + end) / 2)

    def lead(self, prompt_tokens: int) -> float:
        """Seconds from a request's first byte to its place in the queue."""
        return self.fixed_s + self.read_s * prompt_tokens

    def step(self, running: int) -> float:
        """Seconds of a step that only decodes."""
        return self.decode_s + self.decode_s_per_request * running


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where KV can be. Bytes, and bytes a second."""

    dram_bytes: float = math.inf
    ssd_bytes: float = math.inf
    device_bytes: float = math.inf
    """Running requests wait for room here; one alone always has it."""
    ssd_bandwidth: float = 3e9
    """SSD → DRAM, all loads together."""
    ssd_parallel_chunks: int = 1
    """Read at the same time for one request: they come at the same time."""
    device_bandwidth: float = 50e9
    """DRAM → device, all loads together: PCIe 5.0 × 16."""
    ssd_fixed_s: float = 0.0
    """From a request's wish until the first chunk of its load from SSD is there."""
    device_fixed_s: float = 0.0
    """The same of its copy to the device."""
    kv_bytes: int = 160_000
    """Of a token: 80 layers, 8 heads of 128, keys and values of a byte each."""
    chunk_tokens: int = 256

    @property
    def chunk_bytes(self) -> int:
        """Of KV."""
        return self.kv_bytes * self.chunk_tokens

    def chunks(self, size: float) -> float:
        """Whole chunks that fit in ``size`` bytes; ``math.inf`` for infinitely many bytes."""
        return size if size == math.inf else float(size // self.chunk_bytes)


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """One run."""

    engine: EngineModel = field(default_factory=EngineModel)
    hardware: Hardware = field(default_factory=Hardware)
    turns: int | None = None
    """The run is over when so many have ended; None for when the source is."""
    warm_up_turns: int = 0
    """First turns, not counted in ``SteadyState``."""
    load_at: LoadAt = LoadAt.FIRST_BYTE
    piece_s: float = 1.0
    """A prefetch takes room for as much as is loaded in so long."""
    plan_every_s: float = 0.05
    """Plans of prefetches are made at most so often, as in the engine."""
    linger_s: float = 4 * 3600.0
    """Who leaves says nothing: so long after its last turn a session is forgotten."""
