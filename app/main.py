"""The composition root: everything is made, joined and ended here, and only here.

Errors::

    CannotServe    the server cannot start
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from fastapi import FastAPI

from app.auth import Authenticator, SecretUnusable
from app.build_engine import build_engine
from app.gaps import Gaps
from app.health import Health
from app.hints import Hints
from app.layer import SessionLayer
from app.meter import TenantMeter
from app.metrics import COORDINATION_FAILURES, TENANTS_STALE
from app.quotas import RateLimits
from app.responses.desk import ResponseDesk
from app.routes.audit import audit_router
from app.routes.conversations import conversations_router
from app.routes.responses import responses_router
from app.routes.session_gaps import gaps_router
from app.routes.session_leases import leases_router
from app.routes.session_lineage import lineage_router
from app.routes.sessions import sessions_router
from app.routes.tenant_summary import tenant_summary_router
from app.scrape import Scrape
from app.secret import installation_secret
from app.served import keep_served
from app.server import Server, StopSignals, bind
from app.settings import Settings
from app.tenants import Tenants
from app.turn_desk import TurnDesk
from app.upkeep import make_heartbeat, make_reaper
from cache_tiers.ssd.installation import check_master_key
from cache_tiers.store import StoreUnusable
from engine.port import EngineDead, EngineError, EnginePort
from sessions.coordination.fallback import FallbackCoordinator
from sessions.coordination.memory import MemoryCoordinator
from sessions.coordination.port import Coordinator
from sessions.coordination.redis import RedisCoordinator
from sessions.database import Database, open_database
from sessions.history.service import Histories
from sessions.installation import check_secret
from sessions.leases.service import LeaseService
from sessions.lineage import LineageService
from sessions.responses.conversations import ConversationService
from sessions.responses.limit import StoredLimit
from sessions.responses.service import ResponseService
from sessions.sealing import Sealer
from sessions.service import SessionService
from sessions.tenancy.directory import TenantDirectory
from sessions.tenancy.session_quota import SessionQuota
from sessions.types import StateUnavailable
from sessions.upkeep.heartbeat import Heartbeat
from sessions.upkeep.instances import beat, load_instance
from sessions.upkeep.reaper import Reaper

logger = logging.getLogger(__name__)

SETTLE_S: Final = 5.0
"""How long a stopping server waits for the last turns to be written."""


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
    tenants: Tenants
    app: SessionLayer
    """The whole, as one ASGI application."""
    reaper: Reaper
    """Keeps house while it is served."""
    heartbeat: Heartbeat
    """Beats while it is served, whatever the reaper is busy with."""
    hints: Hints
    """Polls the engine while it is served."""
    scrape: Scrape


@asynccontextmanager
async def open_valet(settings: Settings, engine: EnginePort) -> AsyncIterator[Valet]:
    """Start the engine and join everything around it. On leaving, the last turns are recorded and
    the engine runs on: the caller, who knows how long that may take, stops it.

    Raises EngineError, CannotServe.
    """
    try:
        if settings.ssd:
            await asyncio.to_thread(check_master_key, settings.installation, os.environ)
        secret = await asyncio.to_thread(installation_secret, settings.secret, os.environ)
        instance = load_instance(settings.instance_file)
        coordinator = _coordinator(settings, secret)
        database = await open_database(settings.database_url, serving=True)
    except (SecretUnusable, StateUnavailable, StoreUnusable) as error:
        raise CannotServe(str(error)) from error
    try:
        await _register(database, secret, instance)
        directory = TenantDirectory(database, settings.quotas, _now)
        await directory.refresh()
        _check_keys(settings, directory)
        engine_app = await engine.start()
        valet = _join(
            settings, engine, engine_app, database, coordinator, directory, secret, instance
        )
        await _reconcile(valet.sessions, valet.desk.leases)
        following = asyncio.create_task(directory.watch())
        reaping = asyncio.create_task(valet.reaper.run())
        beating = asyncio.create_task(valet.heartbeat.run())
        polling = asyncio.create_task(valet.hints.run())
        try:
            yield valet
        finally:
            valet.reaper.stop()
            valet.heartbeat.stop()
            await asyncio.wait((reaping, beating), timeout=SETTLE_S)
            for task in (following, reaping, beating, polling):
                task.cancel()
            await asyncio.wait((following, reaping, beating, polling))
            await valet.desk.settle(SETTLE_S)
            await valet.desk.gaps.close()
            await valet.scrape.close()
    finally:
        await coordinator.close()
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


def _now() -> datetime:
    return datetime.now(UTC)


def _check_keys(settings: Settings, directory: TenantDirectory) -> None:
    keys = settings.api_keys or directory.has_keys
    if settings.reachable and not keys and not settings.allow_anonymous:
        raise CannotServe(
            f"VALET_HOST is {settings.host}, which other machines can reach, and there are no API "
            "keys: make one with 'valet keys add TENANT', or set VALET_API_KEYS"
        )


def _join(
    settings: Settings,
    engine: EnginePort,
    engine_app: FastAPI,
    database: Database,
    coordinator: Coordinator,
    directory: TenantDirectory,
    secret: bytes,
    instance: str,
) -> Valet:
    terms = settings.terms
    sessions = SessionService(database, engine, _now, instance=instance, terms=terms, secret=secret)
    units = sessions.units
    lineage = LineageService(units, engine, _now, instance=instance, terms=terms)
    budgets = settings.pin_budgets
    leases = LeaseService(units, engine, _now, instance=instance, budgets=budgets)
    histories = Histories(units, secret, settings.resolve_wait_s)
    hints = Hints(engine)
    gaps = Gaps(hints, lambda: datetime.now().astimezone().hour)
    desk = TurnDesk(sessions, histories, engine, leases, gaps)
    tenants = Tenants(
        directory=directory,
        auth=Authenticator(
            settings.api_keys,
            directory,
            anonymous=settings.allow_anonymous or not settings.reachable,
            operator_key=settings.operator_key,
        ),
        limits=RateLimits(coordinator, directory, desk.spawn),
        session_quota=SessionQuota(database, directory),
        meter=TenantMeter(_now()),
    )
    TENANTS_STALE.set_function(lambda: float(directory.stale))
    responses = _responses(settings, database, secret)
    keep_served(engine_app)
    engine_app.include_router(responses_router(responses.responses))
    engine_app.include_router(conversations_router(responses.conversations))
    engine_app.include_router(sessions_router(sessions, lineage, leases))
    engine_app.include_router(lineage_router(sessions, lineage, tenants.session_quota))
    engine_app.include_router(leases_router(leases))
    engine_app.include_router(gaps_router(sessions, gaps))
    engine_app.include_router(audit_router(sessions))
    engine_app.include_router(tenant_summary_router(tenants, engine))
    scrape = Scrape(engine_app, engine)
    layer = SessionLayer(
        engine_app,
        tenants=tenants,
        secret=secret,
        desk=desk,
        responses=responses,
        default_model=engine.models[0],
        health=Health(engine_app, lambda: _lost(database, coordinator)),
        metrics=scrape,
        sessions=settings.sessions,
    )
    heartbeat = make_heartbeat(database, _now, instance)
    reaper = make_reaper(
        settings,
        database,
        coordinator,
        engine,
        sessions,
        leases,
        directory,
        heartbeat,
        _now,
        instance,
    )
    return Valet(
        engine, engine_app, sessions, desk, tenants, layer, reaper, heartbeat, hints, scrape
    )


def _lost(database: Database, coordinator: Coordinator) -> tuple[str, ...]:
    alone = isinstance(coordinator, FallbackCoordinator) and coordinator.alone
    return ("database",) * (not database.healthy) + ("coordination",) * alone


def _coordinator(settings: Settings, secret: bytes) -> Coordinator:
    if not settings.redis_url:
        return MemoryCoordinator()
    # Installations that share a server do not meet.
    prefix = f"valet:{hashlib.sha256(b'valet coordination' + secret).hexdigest()[:12]}"
    try:
        shared = RedisCoordinator(settings.redis_url, prefix)
    except ValueError as error:
        raise CannotServe(f"VALET_REDIS_URL: {error}") from error
    return FallbackCoordinator(shared, COORDINATION_FAILURES.inc)


async def _register(database: Database, secret: bytes, instance: str) -> None:
    """Raises CannotServe when the database is used with another secret."""
    try:
        async with database.begin() as connection:
            await check_secret(connection, secret)
            # Known before its first turn, so that nobody takes it for dead.
            await beat(connection, instance, _now())
    except StateUnavailable as error:
        raise CannotServe(str(error)) from error


def _responses(settings: Settings, database: Database, secret: bytes) -> ResponseDesk:
    sealer, limit = Sealer(secret), StoredLimit(settings.responses_limit)
    ttl = settings.responses_ttl
    return ResponseDesk(
        ResponseService(database, sealer, _now, ttl=ttl, limit=limit),
        ConversationService(database, sealer, _now, ttl=ttl, limit=limit),
    )


async def _reconcile(sessions: SessionService, leases: LeaseService) -> None:
    try:
        await sessions.reconcile()
        await leases.restore()
    except (StateUnavailable, EngineError) as error:
        # Sessions keep the state they had; every turn still works and corrects its own.
        logger.warning("Sessions and KV could not be compared: %s", error)
