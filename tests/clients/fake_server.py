"""A whole Valet on the fake engine, as a server: ``python -m tests.clients.fake_server``."""

import asyncio
import os
from pathlib import Path

from app.main import serve
from app.settings import load_settings
from engine.fake import FakeEngine

if __name__ == "__main__":
    asyncio.run(serve(load_settings(os.environ, Path.cwd()), lambda _: FakeEngine()))
