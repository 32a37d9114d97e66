"""The ``vllm.general_plugins`` entry point: gives EngineCore two more utility methods.

vLLM calls ``register`` in every process that it starts. The methods are the only thing of vLLM's
that Valet adds to. Nothing existing is changed, but where the operator declared public prefixes:
there the server asks for the blocks' names to be made so that these are shared.
"""

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Future
from typing import Any, Final

from engine.core_plugin.public_prefix import shared_prefix_hasher

METHOD = "valet_control"
SHARE_METHOD = "valet_share_prefixes"

CLOSE_S: Final = 10.0
"""How long an engine whose server is gone may take to close its store."""


def register() -> None:
    """Install the methods and end with the parent. Idempotent."""
    from vllm.v1.engine.core import EngineCore

    if multiprocessing.parent_process() is not None:
        _end_with_parent()
    EngineCore.valet_control = _control
    EngineCore.valet_share_prefixes = _share_prefixes


def _end_with_parent(close_s: float = CLOSE_S) -> None:
    """End this process when its parent dies. A killed server must not leave an engine behind that
    holds the memory, the store and the port of the next one.

    EngineCore is asked first, since it has a store to close; a worker has nothing to close.
    """
    is_engine = multiprocessing.current_process().name.startswith("EngineCore")
    pr_set_pdeathsig = 1
    ending = signal.SIGTERM if is_engine else signal.SIGKILL
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, ending)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os.kill(os.getpid(), ending)  # it died before it could be watched
    if is_engine:
        threading.Thread(target=_kill_after_parent, args=(close_s,), daemon=True).start()
    # Ctrl-C in a terminal goes to the whole group: only the server may answer it, which lets the
    # requests finish first.
    os.setpgid(0, 0)


def _kill_after_parent(close_s: float) -> None:
    """Wait for the parent's end; ``close_s`` later whatever still holds this process up (a disk, a
    worker that does not answer) has had its time: the store is made to be killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        time.sleep(close_s)
        os.kill(os.getpid(), signal.SIGKILL)


def _control(self: Any, command: bytes) -> "bytes | Future[bytes]":
    """Runs on the engine's thread, between two steps."""
    return self.scheduler.connector.control(command)


def _share_prefixes(self: Any) -> None:
    """Called once, before the first request: later ones may say that their prompt's beginning is
    public."""
    self.request_block_hasher = shared_prefix_hasher(
        self.request_block_hasher, self.scheduler.hash_block_size
    )
