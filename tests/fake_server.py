"""A whole Valet on the fake engine, as a server whose disk outlives it: ``python -m
tests.fake_server``."""

import asyncio
import json
import os
from pathlib import Path

from app.main import serve
from app.settings import Settings, load_settings
from cache_tiers.types import ChunkKey, SessionKey
from engine.fake import FakeEngine
from engine.fake_cache import FakeDisk

DISK = "fake_disk.json"
"""In the home: every session with KV and the names of its chunks, as they were a moment ago; exact
after the server has stopped."""
_SAVE_S = 0.1
_WORD_S = 0.002


async def main() -> None:
    settings = load_settings(os.environ, Path.cwd())
    file = settings.home / DISK
    disk = load_disk(file)

    def make_engine(_: Settings) -> FakeEngine:
        return FakeEngine(disk, pace=lambda: asyncio.sleep(_WORD_S))

    saving = asyncio.create_task(keep_saved(disk, file))
    try:
        await serve(settings, make_engine)
    finally:
        saving.cancel()
        save_disk(disk, file)


def load_disk(file: Path) -> FakeDisk:
    disk = FakeDisk()
    if file.exists():
        for session, keys in json.loads(file.read_text()).items():
            disk.put(SessionKey(session), [ChunkKey(bytes.fromhex(key)) for key in keys])
    return disk


def save_disk(disk: FakeDisk, file: Path) -> None:
    text = json.dumps({s: [key.hex() for key in keys] for s, keys in disk.manifests.items()})
    draft = file.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(file)


async def keep_saved(disk: FakeDisk, file: Path) -> None:
    while True:
        save_disk(disk, file)
        await asyncio.sleep(_SAVE_S)


if __name__ == "__main__":
    asyncio.run(main())
