"""What changes a fingerprint, and what does not."""

import os
import shutil
import time
from pathlib import Path

import pytest

from cache_tiers import fingerprint as module
from cache_tiers.fingerprint import fingerprint, weights_digest

PINNED = "3b9f2748f90abe0be34f1673ca1be1df"


def test_stable() -> None:
    """Pinned: a change would make every stored chunk useless."""
    assert fingerprint({"dtype": "bf16", "block": 128}) == PINNED
    assert fingerprint({"block": 128, "dtype": "bf16"}) == PINNED


DIFFERENT = [
    {},
    {"a": 1},
    {"a": "1"},
    {"a": 1.0},
    {"a": True},
    {"a": b"1"},
    {"a": None},
    {"a": "None"},
    {"a": ""},
    {"a": b""},
    {"a": 2},
    {"b": 1},
    {"a": 1, "b": 1},
    {"ab": 1},
    {"a": "b", "c": "d"},
    {"a": "bstrc", "d": ""},
]


def test_every_difference_shows() -> None:
    names = [fingerprint(facts) for facts in DIFFERENT]
    assert len(set(names)) == len(DIFFERENT)
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in names)


def later() -> float:
    """A minute from now."""
    return time.time() + 60


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model-1.safetensors").write_bytes(b"w" * 1000)
    (folder / "model-2.safetensors").write_bytes(b"v" * 1000)
    (folder / "config.json").write_text('{"rope_theta": 10000}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_the_place_does_not_matter(model: Path, tmp_path: Path) -> None:
    before = weights_digest(model)
    shutil.copytree(model, tmp_path / "elsewhere")
    assert weights_digest(tmp_path / "elsewhere") == before


def test_what_matters(model: Path) -> None:
    seen = [weights_digest(model)]
    (model / "tokenizer.json").write_text('{"a": 1}')
    (model / "generation_config.json").write_text("{}")
    assert weights_digest(model) == seen[0]
    (model / "config.json").write_text('{"rope_theta": 20000}')
    seen.append(weights_digest(model))
    (model / "model-1.safetensors").write_bytes(b"w" * 999 + b"x")
    seen.append(weights_digest(model))
    (model / "model-2.safetensors").rename(model / "model-3.safetensors")
    seen.append(weights_digest(model))
    (model / "modeling_own.py").write_text("1")
    seen.append(weights_digest(model))
    (model / "sub").mkdir()
    (model / "sub" / "more.bin").write_bytes(b"m")
    seen.append(weights_digest(model))
    assert len(set(seen)) == 6


def test_a_single_file(model: Path) -> None:
    file = model / "model-1.safetensors"
    assert weights_digest(file) != weights_digest(model / "model-2.safetensors")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        weights_digest(tmp_path / "none")


def test_a_linked_file_counts_as_its_content(model: Path, tmp_path: Path) -> None:
    before = weights_digest(model)
    (model / "model-1.safetensors").rename(tmp_path / "blob")
    (model / "model-1.safetensors").symlink_to(tmp_path / "blob")
    assert weights_digest(model) == before


def test_the_cache_saves_reading(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "state" / "weights.json"
    before = weights_digest(model, cache, later)
    assert cache.stat().st_mode & 0o777 == 0o600
    with monkeypatch.context() as patched:
        patched.setattr(module, "_READ_BYTES", -1)  # no buffer of that size can be made
        assert weights_digest(model, cache) == before
        with pytest.raises(ValueError):
            weights_digest(model)
    changed = model / "model-1.safetensors"
    changed.write_bytes(b"z" * 1000)
    # Not the times of what is remembered, however coarse the filesystem's clock is.
    os.utime(changed, (1, 1))
    assert weights_digest(model, cache) == weights_digest(model) != before


def test_what_changed_only_just_is_not_remembered(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "weights.json"
    weights_digest(model, cache)
    assert not cache.exists()
    weights_digest(model, cache, later)
    assert cache.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": 1}', b"\xff"])
def test_a_bad_cache_is_none(model: Path, tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "weights.json"
    cache.write_bytes(content)
    assert weights_digest(model, cache) == weights_digest(model)


def test_a_cache_others_may_write_is_not_trusted(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "weights.json"
    right = weights_digest(model, cache, later)
    cache.write_text(cache.read_text().replace(':"', ':"0'))
    assert weights_digest(model, cache) != right
    cache.chmod(0o666)
    assert weights_digest(model, cache) == right


def test_a_cache_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert weights_digest(model, tmp_path / "file" / "cache", later) == weights_digest(model)
    os.mkfifo(tmp_path / "pipe")
    assert weights_digest(model, tmp_path / "pipe", later) == weights_digest(model)
