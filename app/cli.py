"""The command line. What is heavy is imported by the command that needs it."""

import argparse
import importlib.metadata
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from app.settings import Settings, SettingsError, load_settings

USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 ``doctor`` found something bad,
    2 the command cannot be carried out (one line on stderr says why)."""
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
    if parsed.command == "models":
        return _prepare_model(settings, parsed.force)
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
    return parser


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


def _doctor(settings: Settings) -> int:
    from app.doctor import Verdict, check
    from app.machine import read_machine

    findings = check(settings, read_machine(settings))
    for finding in findings:
        print(f"{finding.verdict:<5}{finding.subject}: {finding.message}")
    return int(any(finding.verdict is Verdict.BAD for finding in findings))


def _fail(error: Exception) -> int:
    print(f"valet: {error}", file=sys.stderr)
    return USAGE_ERROR
