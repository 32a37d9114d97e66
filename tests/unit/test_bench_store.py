"""The store's benchmark: its baselines, what it counts, and the whole of it on very little data."""

import os
from pathlib import Path

import numpy as np
import pytest

from cache_tiers.ssd import exponents
from cache_tiers.ssd.aligned import aligned, is_aligned
from cache_tiers.ssd.extent import PAGE_BYTES
from cache_tiers.ssd.files import OsFiles, probe_direct
from load import raw_disk
from load.bench_store import (
    Goal,
    draw_goals,
    draw_rows,
    judge,
    summarize,
)
from load.index_run import IndexRun, measure_index
from load.raw_disk import Span, Timed
from load.store_run import Material, Pair, Size, StoreRun, Way, in_turns


def noise(pages: int) -> memoryview:
    view = aligned(pages * PAGE_BYTES)
    view[:] = np.random.default_rng(0).bytes(view.nbytes)
    return view


def test_what_is_written_is_read(tmp_path: Path) -> None:
    direct = probe_direct(OsFiles(), tmp_path)
    source = aligned(raw_disk.TRANSFER_BYTES)
    source[:] = bytes(range(256)) * (source.nbytes // 256)
    size = raw_disk.TRANSFER_BYTES + 3 * PAGE_BYTES
    spans = raw_disk.allocate([tmp_path / "1", tmp_path / "2"], size)
    assert raw_disk.write(spans, source, direct=direct) == 2 * size
    into = aligned(2 * size)
    assert raw_disk.read(spans, into, direct=direct) == 2 * size
    whole = bytes(source) + bytes(source[: 3 * PAGE_BYTES])
    assert into == whole * 2


def test_parts_of_files_are_read_in_order(tmp_path: Path) -> None:
    data = noise(4)
    (tmp_path / "1").write_bytes(data)
    into = aligned(3 * PAGE_BYTES)
    spans = [
        Span(tmp_path / "1", 2 * PAGE_BYTES, 2 * PAGE_BYTES),
        Span(tmp_path / "1", 0, PAGE_BYTES),
    ]
    assert raw_disk.read(spans, into, direct=False) == 3 * PAGE_BYTES
    assert into == bytes(data[2 * PAGE_BYTES :]) + bytes(data[:PAGE_BYTES])


def test_a_file_shorter_than_its_span_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(noise(1))
    with pytest.raises(OSError, match="ends before"):
        raw_disk.read([Span(tmp_path / "1", 0, 2 * PAGE_BYTES)], aligned(2 * PAGE_BYTES))


def test_room_is_not_data(tmp_path: Path) -> None:
    path = tmp_path / "1"
    raw_disk.allocate([path], 64 * PAGE_BYTES)
    assert path.stat().st_blocks * 512 >= 64 * PAGE_BYTES
    with path.open("r+b") as file:
        file.write(noise(16))
        os.fsync(file.fileno())
    spans = raw_disk.written(path)
    assert spans[0] == Span(path, 0, spans[0].length)
    assert 16 * PAGE_BYTES <= sum(span.length for span in spans) <= 64 * PAGE_BYTES
    (tmp_path / "2").write_bytes(b"")
    assert raw_disk.written(tmp_path / "2") == []


def test_material_is_aligned_repeatable_and_like_kv() -> None:
    material = Material(pool_bytes=raw_disk.TRANSFER_BYTES)
    size = 100 * PAGE_BYTES
    chunks = [material.chunk(i, size) for i in range(50)]
    assert all(is_aligned(chunk) and chunk.nbytes == size for chunk in chunks)
    assert chunks[7] == Material(pool_bytes=raw_disk.TRANSFER_BYTES).chunk(7, size)
    assert chunks[0] != chunks[1]
    stored = exponents.compress(chunks[3])
    assert stored is not None
    assert 1.3 < size / len(stored) < 1.7
    assert material.chunk(1, material.pool.nbytes) == material.pool


def test_material_that_is_given() -> None:
    material = Material(b"abcdefgh" * 3 + b"!", pool_bytes=raw_disk.TRANSFER_BYTES)
    assert material.pool[:26] == b"abcdefgh" * 3 + b"ab"


def test_every_other_time_the_second_runs_first() -> None:
    ran: list[str] = []

    def run(name: str) -> str:
        ran.append(name)
        return name

    for repeat in range(3):
        assert in_turns(repeat, lambda: run("raw"), lambda: run("store")) == ("raw", "store")
    assert ran == ["raw", "store", "store", "raw", "raw", "store"]


def _pairs(raw_s: float, store_s: tuple[float, ...], way: Way, what: str) -> list[Pair]:
    raw = Timed(10**9, raw_s, 0.03)
    return [Pair(what, way, 409_600, raw, Timed(10**9, s, 0.15)) for s in store_s]


PAIRS = [
    *_pairs(1.0, (1.0, 1.02, 1.25), Way.ENCRYPTED, "restore"),
    *_pairs(1.0, (2.0, 2.0, 2.0), Way.COMPRESSED, "restore"),
    *_pairs(1.0, (1.0, 2.0, 4.0), Way.ENCRYPTED, "write"),
]
SIZES = [Size(Way.ENCRYPTED, 409_600, 1.01, 1.0), Size(Way.COMPRESSED, 409_600, 0.7, 1.45)]
INDEX = IndexRun(1_000_000, 0.012, 900_000.0, 499_000.0)


def test_a_summary_has_ratios_of_pairs() -> None:
    restore, compressed, write = summarize(PAIRS)
    assert restore["over_raw"]["median"] == pytest.approx(1 / 1.02)
    assert restore["over_raw"]["low"] == pytest.approx(0.8)
    assert restore["store_bytes_per_s"]["high"] == pytest.approx(1e9)
    assert restore["cpu_ms_per_gb"]["median"] == pytest.approx(150)
    assert restore["raw_cpu_ms_per_gb"]["median"] == pytest.approx(30)
    assert compressed["way"] is Way.COMPRESSED
    assert write["over_raw"]["median"] == pytest.approx(0.5)
    assert "0.98 (0.80–1.00)" in draw_rows([restore])


def test_figures_are_judged() -> None:
    goals = {goal.figure: goal.met for goal in judge(summarize(PAIRS), SIZES, INDEX)}
    assert goals["restore, encrypted, 0.4 MB: of the bare disk"] is True
    assert goals["restore, encrypted, 0.4 MB: CPU ms a GB"] is True
    assert goals["restore, compressed, 0.4 MB: of the bare disk"] is None
    assert goals["write, encrypted, 0.4 MB: of the bare disk"] is False
    assert goals["encrypted, 0.4 MB: bytes written a byte"] is True
    assert goals["compressed, 0.4 MB: compression"] is None
    assert goals["index: start from a snapshot, ms"] is True
    assert goals["index: lookups a second, found"] is True
    assert goals["index: lookups a second, not found"] is False


def test_wanted_and_seen_are_drawn() -> None:
    drawn = draw_goals([Goal("a", 0.951, 0.95), Goal("b", 250.0, 200, most=True), Goal("c", 1.5)])
    a, b, c = [line.split() for line in drawn.splitlines()[2:]]
    assert a == ["a", "≥", "0.950", "0.951", "met"]
    assert b == ["b", "≤", "200", "250", "missed"]
    assert c == ["c", "–", "1.500"]


@pytest.mark.parametrize("way", Way)
def test_all_of_it_on_very_little(tmp_path: Path, way: Way) -> None:
    material = Material(pool_bytes=raw_disk.TRANSFER_BYTES)
    pairs, size = StoreRun(tmp_path, 64 * 1024, 10**6, material).measure(way, 2)
    assert [pair.what for pair in pairs] == ["write"] * 2 + ["restore"] * 2
    assert {pair.store.bytes for pair in pairs} == {2**20}
    assert {pair.raw.bytes == 2**20 for pair in pairs if pair.what == "write"} == {True}
    assert (size.compression > 1.2) == (way is Way.COMPRESSED)
    assert (size.amplification < 0.9) == (way is Way.COMPRESSED)
    assert list(tmp_path.iterdir()) == []


def test_without_direct_io(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("load.store_run.probe_direct", lambda files, folder: False)
    material = Material(pool_bytes=raw_disk.TRANSFER_BYTES)
    pairs, _ = StoreRun(tmp_path, 64 * 1024, 10**6, material).measure(Way.CLEAR, 1)
    assert [pair.what for pair in pairs] == ["write", "restore"]


def test_the_index_is_measured(tmp_path: Path) -> None:
    run = measure_index(tmp_path, 1_200, 2)
    assert run.chunks == 1_200
    assert min(run.start_s, run.found_per_s, run.missed_per_s) > 0
    assert list(tmp_path.iterdir()) == []
