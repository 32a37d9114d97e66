"""The ``vllm.general_plugins`` entry point: gives EngineCore one more utility method.

vLLM calls ``register`` in every process that it starts. The method is the only thing of vLLM's that
Valet adds to; nothing existing is changed.
"""

import ctypes
import multiprocessing
import os
import signal
from concurrent.futures import Future
from typing import Any

METHOD = "valet_control"


def register() -> None:
    """Install ``EngineCore.valet_control`` and end with the parent. Idempotent."""
    from vllm.v1.engine.core import EngineCore

    if multiprocessing.parent_process() is not None:
        _end_with_parent()
    EngineCore.valet_control = _control


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent dies. A killed server must not leave an
    engine behind that holds the memory, the store and the port of the next one. EngineCore is
    asked, since it has a store to close; a worker has nothing to close."""
    is_engine = multiprocessing.current_process().name.startswith("EngineCore")
    pr_set_pdeathsig = 1
    ending = signal.SIGTERM if is_engine else signal.SIGKILL
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, ending)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os.kill(os.getpid(), ending)  # it died before it could be watched
    # Ctrl-C in a terminal goes to the whole group: only the server may answer it, which lets the
    # requests finish first.
    os.setpgid(0, 0)


def _control(self: Any, command: bytes) -> "bytes | Future[bytes]":
    """Runs on the engine's thread, between two steps."""
    return self.scheduler.connector.control(command)
