"""An engine never outlives its server, not even one that does not end when asked."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

import psutil

from engine.core_plugin.entry import _end_with_parent

SPAWN = multiprocessing.get_context("spawn")
PATIENCE_S = 60


def _stubborn_engine(said: Connection) -> None:
    _end_with_parent(close_s=0.1)
    signal.signal(signal.SIGTERM, lambda *_: None)
    said.send(os.getpid())
    while True:
        signal.pause()


def _server(said: Connection) -> None:
    engine = SPAWN.Process(target=_stubborn_engine, args=(said,), name="EngineCore_test")
    engine.start()
    engine.join()


def test_an_engine_that_ignores_its_end_is_killed() -> None:
    heard, said = SPAWN.Pipe(duplex=False)
    server = SPAWN.Process(target=_server, args=(said,))
    server.start()
    assert heard.poll(PATIENCE_S)
    engine = psutil.Process(heard.recv())
    server.kill()
    server.join(PATIENCE_S)
    _, alive = psutil.wait_procs([engine], timeout=PATIENCE_S)
    if alive:
        engine.kill()
    assert not alive
