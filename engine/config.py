"""What the engine needs to know to start; made from the settings by ``app/main.py``."""

from dataclasses import dataclass
from pathlib import Path


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
    ssd: int
    """0 turns the SSD tier off."""
    store_dir: Path
    chat_template: Path | None
    """Overrides the model's own chat template."""
    tool_call_parser: str
    cuda: bool = False
    """Whether the installed vLLM is the CUDA build."""
