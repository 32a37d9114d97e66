"""What the engine needs to know to start; made from the settings by ``app/main.py``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cache_tiers.ssd.installation import Installation


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One engine. Sizes in bytes, lengths in tokens."""

    model: Path
    """A folder with weights, config and tokenizer."""
    served_model_name: str
    max_model_len: int | None
    block_size: int | None
    """Tokens of one device block; None for the platform's default."""
    device_kv: int
    dram: int
    home: Path
    """Where what a restart may use again is kept, besides the store."""
    store: Installation | None
    """The SSD tier's; None turns it off."""
    ssd_minimum_tokens: int
    """Shorter contexts are not written to SSD."""
    prefetch: bool
    """Whether chunks come up before a request asks for them."""
    load_slowdown: float
    """By how much of itself a step that decodes may take longer while loads run; 0 for any."""
    chat_template: Path | None
    """Overrides the model's own chat template."""
    tool_call_parser: str
    public_prompts: Mapping[str, str] = field(default_factory=dict)
    """System prompts that all tenants share, by what to call them in a message."""
    cuda: bool = False
    """Whether the installed vLLM is the CUDA build."""
