"""``valet store stats``: what the SSD store holds. May run beside a server."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app.settings import Settings
from app.store_commands import sealers, size_text
from cache_tiers import wear
from cache_tiers.endurance.budget import WriteBudget
from cache_tiers.manifest import Manifests
from cache_tiers.ssd.allowance import saved_state
from cache_tiers.ssd.catalogue import Holding, holdings
from cache_tiers.ssd.clear import ClearSealer
from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.installation import Installation
from cache_tiers.ssd.neighbours import BUDGET
from cache_tiers.ssd.sealer import Sealer, can_open
from cache_tiers.ssd.verify import walk

_FILES = OsFiles()


@dataclass(frozen=True, slots=True)
class FingerprintStats:
    """What is stored for one fingerprint; sizes in bytes."""

    fingerprint: str
    last_used: str
    """ISO 8601, UTC."""
    chunk_bytes: int | None
    chunks: int
    """Those that can be opened."""
    locked_chunks: int
    """Those whose key was destroyed."""
    sessions: int
    segments: int
    bytes: int
    dead_share: float
    """Of the segments, 0 … 1: deleted, or not to be opened any more."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What is stored; sizes in bytes."""

    root: str
    bytes_limit: int
    bytes_used: int
    encrypted: bool
    writes_per_day: int | None
    writes_left: int | None
    """May be written now; the last two are None when there is no limit."""
    wear: wear.Wear | None
    fingerprints: list[FingerprintStats]


def show_stats(settings: Settings, environ: Mapping[str, str], *, as_json: bool) -> int:
    """Print it; the exit code 0. Raises StoreUnusable, OSError."""
    installation = settings.installation
    stats = _stats(installation, environ)
    if as_json:
        print(json.dumps(dataclasses.asdict(stats), indent=2))
        return 0
    print(f"store       {stats.root}")
    print(f"limit       {size_text(stats.bytes_limit)}, {size_text(stats.bytes_used)} taken")
    if stats.writes_per_day is not None and stats.writes_left is not None:
        print(
            f"writes      {size_text(stats.writes_left)} may be written now, "
            f"{size_text(stats.writes_per_day)} a day"
        )
    else:
        print("writes      no limit a day")
    print(f"encryption  {'on' if stats.encrypted else 'off'}")
    print(f"drive       {_wear_text(stats)}")
    for one in stats.fingerprints:
        print(f"\n{one.fingerprint}, last used {one.last_used[:16].replace('T', ' ')} UTC")
        print(
            f"  chunks    {one.chunks} of {size_text(one.chunk_bytes or 0)}, {one.locked_chunks} "
            "more whose key is gone"
        )
        print(
            f"  bytes     {size_text(one.bytes)} in {one.segments} segments, "
            f"{one.dead_share:.0%} of no use"
        )
        print(f"  sessions  {one.sessions}")
    return 0


def _stats(installation: Installation, environ: Mapping[str, str]) -> StoreStats:
    root, per_day = installation.root, installation.bytes_per_day
    found = holdings(root, _FILES)
    open_sealer = sealers(installation, environ) if found else ClearSealer
    left = None
    if per_day is not None:
        left = WriteBudget(per_day, time.time, saved_state(root / BUDGET, _FILES)).level
    return StoreStats(
        str(root),
        installation.bytes_limit,
        sum(holding.bytes for holding in found),
        installation.master_key is not None,
        per_day,
        left,
        wear.read_wear(root) if root.exists() else None,
        [
            _stats_of(holding, installation.manifests(holding.fingerprint), open_sealer)
            for holding in found
        ],
    )


def _stats_of(
    holding: Holding, manifests: Path, open_sealer: Callable[[], Sealer]
) -> FingerprintStats:
    written = chunks = live = locked = 0
    for listing, sealer in walk(holding, _FILES, open_sealer):
        written += listing.pages
        for _, extent in listing.puts:
            if can_open(sealer, extent.seal):
                chunks, live = chunks + 1, live + extent.pages
            else:
                locked += 1
    return FingerprintStats(
        holding.fingerprint,
        datetime.fromtimestamp(holding.last_used, UTC).isoformat(),
        holding.chunk_bytes,
        chunks,
        locked,
        # Behind a zero in a name is what the engine remembers of a session besides its chain.
        sum("\0" not in name for name in Manifests.open(manifests).sessions()),
        len(holding.segments),
        holding.bytes,
        1 - live / written if written else 0.0,
    )


def _wear_text(stats: StoreStats) -> str:
    if stats.wear is None:
        return "says nothing of its wear"
    said = []
    if stats.wear.percent_used is not None:
        said.append(f"{stats.wear.percent_used}% of its rated endurance used")
    if stats.wear.bytes_written is not None:
        said.append(f"{size_text(stats.wear.bytes_written)} written in its life")
    return f"{', '.join(said)} ({stats.wear.source})"
