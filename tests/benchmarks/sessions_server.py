"""Valet as it is served, on the shipped fake engine: what is left to measure is its own work."""

import asyncio
import os
from pathlib import Path

from app.main import serve
from app.settings import load_settings
from engine.fake import FakeEngine

WORD_S = 0.01
"""A fast engine's time per token."""


def main() -> None:
    """Serve with the settings of the environment until SIGTERM."""
    settings = load_settings(os.environ, Path.cwd())
    asyncio.run(serve(settings, lambda _: FakeEngine(max_model_len=1 << 20, pace=_step)))


async def _step() -> None:
    await asyncio.sleep(WORD_S)


if __name__ == "__main__":
    main()
