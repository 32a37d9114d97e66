"""The command line. What is heavy is imported by the command that needs it."""

import argparse
import importlib.metadata
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from app import plan_command
from app.setting_sources import SettingsError
from app.setting_values import duration, quota, size
from app.settings import Settings, load_settings
from sessions.tenancy.quotas import BYTES, NAMES

T = TypeVar("T")

USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 ``doctor`` or ``store verify``
    found something bad, 2 the command cannot be carried out (one line on stderr says why)."""
    parsed = _parser().parse_args(arguments)
    environ = dict(os.environ)
    if getattr(parsed, "model", None):
        environ["VALET_MODEL"] = parsed.model
    try:
        settings = load_settings(environ, Path.cwd())
    except SettingsError as error:
        return _fail(error)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if parsed.command == "doctor":
        return _doctor(settings)
    if parsed.command == "plan":
        return _plan(parsed)
    if parsed.command == "models":
        return _prepare_model(settings, parsed.force)
    if parsed.command == "store":
        return _store(settings, environ, parsed)
    if parsed.command in ("keys", "tenants"):
        return _tenancy(settings, parsed)
    return _serve(settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="valet",
        description="An OpenAI-compatible server for long-running agent sessions.",
        epilog="Settings are VALET_… variables or the keys of valet.toml: see app/settings.py.",
    )
    version = importlib.metadata.version("valet")
    parser.add_argument("--version", action="version", version=f"valet {version}")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve a model")
    serve.add_argument(
        "model", nargs="?", metavar="MODEL", help="a folder or a hub name; overrides VALET_MODEL"
    )
    models = commands.add_parser("models", help="models that Valet makes itself")
    actions = models.add_subparsers(required=True, metavar="prepare")
    prepare = actions.add_parser("prepare", help="make the default model's folder")
    prepare.add_argument("--force", action="store_true", help="make it again")
    commands.add_parser("doctor", help="check this machine against the settings")
    plan_command.add_arguments(commands.add_parser("plan", help="what hardware would give"))
    _add_store(commands.add_parser("store", help="look at the SSD store, and after it"))
    _add_keys(commands.add_parser("keys", help="API keys, also of a running server"))
    _add_tenants(commands.add_parser("tenants", help="quotas of tenants"))
    return parser


def _add_store(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    stats = actions.add_parser("stats", help="what is stored")
    stats.add_argument("--json", action="store_true", help="for programs")
    verify = actions.add_parser("verify", help="read and authenticate everything stored")
    verify.add_argument(
        "--rate", type=_rate, default="200MiB", metavar="SIZE", help="a second (default 200MiB)"
    )
    actions.add_parser("compact", help="give back room that holds nothing of use")
    rotate = actions.add_parser("rotate-key", help="change the master key")
    rotate.add_argument("--to", required=True, metavar="SOURCE", help="of the new master key")
    export = actions.add_parser("export", help="write a session to a file")
    export.add_argument("session", metavar="SESSION", help="TENANT/ID, or ID without API keys")
    export.add_argument("--to", required=True, type=Path, metavar="FILE", help="a new file")
    take = actions.add_parser("import", help="take over a session from a file")
    take.add_argument("file", type=Path, metavar="FILE")
    take.add_argument("--replace", action="store_true", help="delete the session of that name")
    for transfer in (export, take):
        transfer.add_argument(
            "--key", metavar="SOURCE", help="of 32 bytes that lock the file; else a passphrase"
        )


def _add_keys(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    add = actions.add_parser("add", help="make a key of a tenant, and show it once")
    add.add_argument("tenant", metavar="TENANT", help="made when it is new")
    add.add_argument("--label", default="", metavar="TEXT", help="to know the key by")
    add.add_argument(
        "--expires", type=_checked(duration), metavar="TIME", help="such as 90d (default never)"
    )
    rotate = actions.add_parser("rotate", help="make a key in the place of another")
    rotate.add_argument("key", metavar="KEY_ID")
    rotate.add_argument(
        "--overlap",
        type=_checked(duration),
        default="24h",
        metavar="TIME",
        help="how long the old key still works (default 24h)",
    )
    revoke = actions.add_parser("revoke", help="end a key at once")
    revoke.add_argument("key", metavar="KEY_ID")
    listed = actions.add_parser("list", help="what keys there are")
    listed.add_argument("--tenant", metavar="TENANT", help="of one tenant alone")


def _add_tenants(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    change = actions.add_parser("set", help="set quotas of a tenant, which is made when it is new")
    change.add_argument("tenant", metavar="TENANT")
    for name in NAMES:
        kind, what = (size, "SIZE") if name in BYTES else (quota, "N")
        change.add_argument(
            f"--{name.replace('_', '-')}",
            type=_quota(kind),
            default=argparse.SUPPRESS,
            metavar=what,
            help="0 for no limit, default for the installation's",
        )
    show = actions.add_parser("show", help="what a tenant may use")
    show.add_argument("tenant", metavar="TENANT")
    actions.add_parser("list", help="all of them")


def _checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """``parse`` as a type of arguments, which may say what it expects."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _quota(parse: Callable[[str], int]) -> Callable[[str], int | None]:
    return _checked(lambda text: None if text == "default" else parse(text))


def _rate(text: str) -> int:
    rate = _checked(size)(text)
    if not rate:
        raise argparse.ArgumentTypeError("expected more than 0")
    return rate


def _serve(settings: Settings) -> int:
    import uvloop

    from app.main import CannotServe, serve
    from engine.port import EngineError

    os.umask(0o077)  # for every file of every process, whoever writes it: the owner's alone
    try:
        uvloop.run(serve(settings))
    except KeyboardInterrupt:
        pass  # asked to stop, and stopped
    except (CannotServe, EngineError) as error:
        return _fail(error)
    return 0


def _prepare_model(settings: Settings, force: bool) -> int:
    from engine.models import ModelUnavailable, prepare_default_model

    try:
        print(prepare_default_model(settings.models_dir, force=force))
    except ModelUnavailable as error:
        return _fail(error)
    return 0


def _plan(parsed: argparse.Namespace) -> int:
    from load.plan.errors import CannotPlan

    try:
        return plan_command.run(parsed)
    except (CannotPlan, OSError) as error:
        return _fail(error)


def _store(settings: Settings, environ: Mapping[str, str], parsed: argparse.Namespace) -> int:
    from app.auth import SecretUnusable
    from app.store_commands import CommandFailed
    from cache_tiers.store import StoreInUse, StoreUnusable
    from sessions.types import StateUnavailable

    os.umask(0o077)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        return _run_store_command(settings, environ, parsed)
    except StoreInUse as error:
        return _fail(CommandFailed(f"{error}: stop the server first"))
    except (CommandFailed, StoreUnusable, SecretUnusable, StateUnavailable, OSError) as error:
        return _fail(error)


def _run_store_command(
    settings: Settings, environ: Mapping[str, str], parsed: argparse.Namespace
) -> int:
    from app import store_commands

    if parsed.action == "stats":
        from app.store_stats import show_stats

        return show_stats(settings, environ, as_json=parsed.json)
    if parsed.action == "verify":
        return store_commands.run_verify(settings, environ, parsed.rate)
    if parsed.action == "compact":
        return store_commands.run_compact(settings, environ)
    if parsed.action == "rotate-key":
        return store_commands.rotate_key(settings, environ, parsed.to)
    from app.session_export import export_session, read_secret
    from app.session_import import import_session

    secret = read_secret(parsed.key, environ, new=parsed.action == "export")
    if parsed.action == "export":
        return export_session(settings, environ, parsed.session, parsed.to, secret)
    return import_session(settings, environ, parsed.file, secret, replace=parsed.replace)


def _tenancy(settings: Settings, parsed: argparse.Namespace) -> int:
    from sessions.tenancy.types import TenancyError
    from sessions.types import StateUnavailable

    os.umask(0o077)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    run = _run_key_command if parsed.command == "keys" else _run_tenant_command
    try:
        return run(settings, parsed)
    except (TenancyError, StateUnavailable) as error:
        return _fail(error)


def _run_key_command(settings: Settings, parsed: argparse.Namespace) -> int:
    from app import key_commands

    if parsed.action == "add":
        return key_commands.add_key(settings, parsed.tenant, parsed.label, parsed.expires)
    if parsed.action == "rotate":
        return key_commands.rotate_key(settings, parsed.key, parsed.overlap)
    if parsed.action == "revoke":
        return key_commands.revoke_key(settings, parsed.key)
    return key_commands.list_keys(settings, parsed.tenant)


def _run_tenant_command(settings: Settings, parsed: argparse.Namespace) -> int:
    from app import tenant_commands

    if parsed.action == "set":
        changes = {name: value for name, value in vars(parsed).items() if name in NAMES}
        return tenant_commands.set_quotas(settings, parsed.tenant, changes)
    if parsed.action == "show":
        return tenant_commands.show_tenant(settings, parsed.tenant)
    return tenant_commands.list_tenants(settings)


def _doctor(settings: Settings) -> int:
    from app.doctor import Verdict, check
    from app.machine import read_machine

    findings = check(settings, read_machine(settings))
    for finding in findings:
        print(f"{finding.verdict:<5}{finding.subject}: {finding.message}")
    return int(any(finding.verdict is Verdict.BAD for finding in findings))


def _fail(error: Exception) -> int:
    text = str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    print(f"valet: {text}", file=sys.stderr)
    return USAGE_ERROR
