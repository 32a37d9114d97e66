"""The ``vllm.general_plugins`` entry point: gives EngineCore one more utility method.

vLLM calls ``register`` in every process that it starts. The method is the only thing of vLLM's that
Valet adds to; nothing existing is changed.
"""

from concurrent.futures import Future
from typing import Any

METHOD = "valet_control"


def register() -> None:
    """Install ``EngineCore.valet_control``. Idempotent."""
    from vllm.v1.engine.core import EngineCore

    EngineCore.valet_control = _control


def _control(self: Any, command: bytes) -> "bytes | Future[bytes]":
    """Runs on the engine's thread, between two steps."""
    return self.scheduler.connector.control(command)  # type: ignore[no-any-return]
