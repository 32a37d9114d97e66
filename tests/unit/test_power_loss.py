"""The disk that loses power: what it may lose and what it may not."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_tiers.ssd.files import OsFiles, opened, write_fully
from tests.power_loss import SECTOR_BYTES, LossyFiles, PowerCut

SEEDS = 60
"""Images of one moment: enough for every state that these tests wait for."""


def sectors(*fills: int) -> bytes:
    return b"".join(bytes([fill]) * SECTOR_BYTES for fill in fills)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def files(root: Path) -> Iterator[LossyFiles]:
    files = LossyFiles(root)
    yield files
    files.close_all()


def write(files: OsFiles, path: Path, data: bytes, offset: int = 0) -> None:
    with opened(files, path, writable=True) as file:
        write_fully(files, file, [memoryview(data)], offset)


def sync(files: OsFiles, path: Path) -> None:
    with opened(files, path, writable=True) as file:
        files.sync(file)


def make(files: OsFiles, path: Path, data: bytes = b"") -> None:
    """A file of which nothing is durable."""
    files.close(files.create(path))
    write(files, path, data)


def make_durable(files: OsFiles, path: Path, data: bytes = b"") -> None:
    make(files, path, data)
    sync(files, path)
    files.sync_folder(path.parent)


def tree(root: Path) -> dict[str, bytes | None]:
    """Content by name; None for a folder."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


def images(files: LossyFiles, tmp_path: Path, seeds: int = SEEDS) -> list[dict[str, bytes | None]]:
    found = []
    for seed in range(seeds):
        target = tmp_path / f"image-{len(list(tmp_path.iterdir()))}"
        files.crash_image(seed, target)
        found.append(tree(target))
    return found


def contents(files: LossyFiles, tmp_path: Path, name: str = "f") -> set[bytes | None]:
    """All that the images have under ``name``; None where it is not there."""
    return {image.get(name) for image in images(files, tmp_path)}


def killed(files: LossyFiles, tmp_path: Path) -> dict[str, bytes | None]:
    target = tmp_path / f"killed-{len(list(tmp_path.iterdir()))}"
    files.kill_image(target)
    return tree(target)


def test_it_is_a_disk_like_any_other(files: LossyFiles, root: Path) -> None:
    files.make_folder(root / "a" / "b")
    make(files, root / "a" / "b" / "f", b"one")
    make(files, root / "g", b"two")
    files.replace(root / "g", root / "a" / "h")
    with opened(files, root / "a" / "h", writable=True) as file:
        files.allocate(file, 6)
        assert files.size(file) == 6
        files.truncate(file, 2)
        back = bytearray(9)
        assert files.read(file, [memoryview(back)], 0) == 2
        assert back[:2] == b"tw"
    assert files.free_bytes(root) > 0
    files.lock(root / "lock")
    with pytest.raises(BlockingIOError):
        files.lock(root / "lock")
    files.remove(root / "a" / "b" / "f")
    files.remove_folder(root / "a" / "b")
    assert [entry.name for entry in files.entries(root / "a")] == ["h"]
    assert tree(root) == {"a": None, "a/h": b"tw", "lock": b""}


def test_what_was_there_before_is_durable(root: Path, tmp_path: Path) -> None:
    (root / "a").mkdir()
    (root / "a" / "f").write_bytes(sectors(1, 2) + b"end")
    files = LossyFiles(root)
    assert images(files, tmp_path) == [tree(root)] * SEEDS


def test_nothing_synced_is_lost(files: LossyFiles, root: Path, tmp_path: Path) -> None:
    files.make_folder(root / "a")
    files.sync_folder(root)
    make_durable(files, root / "a" / "f", sectors(1, 2, 3) + b"end")
    write(files, root / "a" / "f", b"over", 600)
    sync(files, root / "a" / "f")
    assert images(files, tmp_path) == [tree(root)] * SEEDS


def test_each_sector_may_be_lost_without_the_others(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make_durable(files, root / "f", sectors(0, 0, 0))
    write(files, root / "f", sectors(1, 2, 3))
    assert contents(files, tmp_path) == {
        sectors(a, b, c) for a in (0, 1) for b in (0, 2) for c in (0, 3)
    }


def test_a_later_write_may_survive_an_earlier_one(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make_durable(files, root / "f", sectors(0, 0))
    make_durable(files, root / "g", sectors(0))
    write(files, root / "f", sectors(1), 0)
    write(files, root / "g", sectors(1))
    write(files, root / "f", sectors(2), SECTOR_BYTES)
    found = {(image["f"], image["g"]) for image in images(files, tmp_path)}
    assert (sectors(0, 2), sectors(0)) in found
    assert (sectors(1, 0), sectors(0)) in found
    assert (sectors(0, 0), sectors(1)) in found


def test_a_sector_has_any_content_it_had_since_the_sync(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make_durable(files, root / "f", b"aaaa")
    write(files, root / "f", b"b", 1)
    write(files, root / "f", b"c", 2)
    assert contents(files, tmp_path) == {b"aaaa", b"abaa", b"abca"}
    sync(files, root / "f")
    assert contents(files, tmp_path) == {b"abca"}


def test_a_size_may_grow_without_the_data_and_the_data_without_the_size(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make_durable(files, root / "f", sectors(1))
    write(files, root / "f", sectors(2), SECTOR_BYTES)
    assert contents(files, tmp_path) == {sectors(1), sectors(1, 0), sectors(1, 2)}


def test_allocated_room_may_be_lost_but_not_after_a_sync(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make_durable(files, root / "f")
    with opened(files, root / "f", writable=True) as file:
        files.allocate(file, 1000)
        assert contents(files, tmp_path) == {b"", bytes(1000)}
        files.sync(file)
        write_fully(files, file, [memoryview(b"data")], 0)
    assert contents(files, tmp_path) == {bytes(1000), b"data" + bytes(996)}


def test_a_cut_may_be_lost_and_what_is_written_behind_it_too(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make_durable(files, root / "f", sectors(1, 1) + b"tail")
    with opened(files, root / "f", writable=True) as file:
        files.truncate(file, 700)
        assert contents(files, tmp_path) == {
            sectors(1, 1) + b"tail",
            sectors(1, 1)[:700],
            # The size was lost, what the cut did to the content was not.
            sectors(1) + sectors(1)[:188].ljust(SECTOR_BYTES, b"\0") + b"tail",
            sectors(1) + sectors(1)[:188].ljust(SECTOR_BYTES, b"\0") + bytes(4),
            sectors(1, 1) + bytes(4),
        }
        files.sync(file)
        files.allocate(file, 1024)
        files.sync(file)
    assert contents(files, tmp_path) == {sectors(1) + sectors(1)[:188].ljust(SECTOR_BYTES, b"\0")}


def test_a_synced_file_may_lose_its_name(files: LossyFiles, root: Path, tmp_path: Path) -> None:
    make(files, root / "f", b"data")
    sync(files, root / "f")
    assert contents(files, tmp_path) == {None, b"data"}
    files.sync_folder(root)
    assert contents(files, tmp_path) == {b"data"}


def test_a_durable_name_does_not_make_the_content_durable(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make(files, root / "f", b"data")
    files.sync_folder(root)
    assert contents(files, tmp_path) == {b"", bytes(4), b"data"}


def test_a_rename_happens_or_not(files: LossyFiles, root: Path, tmp_path: Path) -> None:
    make_durable(files, root / "f", b"old")
    make_durable(files, root / "g", b"new")
    files.replace(root / "g", root / "f")
    states = [{"f": b"old", "g": b"new"}, {"f": b"new"}]
    found = images(files, tmp_path)
    assert all(image in states for image in found)
    assert all(state in found for state in states)
    files.sync_folder(root)
    assert images(files, tmp_path) == [{"f": b"new"}] * SEEDS


def test_a_rename_of_what_was_not_synced_shows_an_empty_file(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make_durable(files, root / "f", b"old")
    make(files, root / "g", b"new")
    files.replace(root / "g", root / "f")
    found = images(files, tmp_path)
    assert {"f": b""} in found
    assert {"f": b"old"} in found
    assert {"f": b"new"} in found
    # What a rename moved is never under both names.
    assert all(len(image) == 1 or image["f"] == b"old" for image in found)


def test_a_removed_file_may_be_back(files: LossyFiles, root: Path, tmp_path: Path) -> None:
    make_durable(files, root / "f", b"data")
    files.remove(root / "f")
    assert contents(files, tmp_path) == {None, b"data"}
    files.sync_folder(root)
    assert contents(files, tmp_path) == {None}


def test_names_are_lost_in_any_order(files: LossyFiles, root: Path, tmp_path: Path) -> None:
    make_durable(files, root / "a")
    make(files, root / "b")
    files.remove(root / "a")
    found = images(files, tmp_path)
    for state in ({"a": b""}, {"a": b"", "b": b""}, {"b": b""}, {}):
        assert state in found


def test_a_removed_and_remade_file_is_one_or_the_other(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make_durable(files, root / "f", b"old")
    with opened(files, root / "f", writable=True) as old:
        files.remove(root / "f")
        make(files, root / "f", b"new")
        sync(files, root / "f")
        # The removed one is written to and synced still: nobody finds it.
        write_fully(files, old, [memoryview(b"odd")], 0)
        files.sync(old)
    assert contents(files, tmp_path) == {b"odd", None, b"new"}


def test_a_file_is_lost_with_its_folder(files: LossyFiles, root: Path, tmp_path: Path) -> None:
    files.make_folder(root / "a" / "b")
    make_durable(files, root / "a" / "b" / "f", b"data")
    found = images(files, tmp_path)
    whole = {"a": None, "a/b": None, "a/b/f": b"data"}
    for state in ({}, {"a": None}, whole):
        assert state in found
    files.sync_folder(root / "a")
    files.sync_folder(root)
    assert images(files, tmp_path) == [whole] * SEEDS


def test_a_file_that_moved_out_of_a_removed_folder_is_somewhere(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    files.make_folder(root / "a")
    make_durable(files, root / "a" / "f", b"data")
    files.sync_folder(root)
    files.replace(root / "a" / "f", root / "f")
    files.remove_folder(root / "a")
    found = images(files, tmp_path)
    states = [{"a": None, "a/f": b"data"}, {"a": None, "f": b"data"}, {"f": b"data"}]
    assert all(image in states for image in found)
    assert all(state in found for state in states)


def test_a_rename_between_folders_is_durable_with_either(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        files.make_folder(root / name)
    files.sync_folder(root)
    make_durable(files, root / "a" / "f", b"data")
    files.replace(root / "a" / "f", root / "b" / "f")
    files.sync_folder(root / "b")
    assert images(files, tmp_path) == [{"a": None, "b": None, "b/f": b"data"}] * SEEDS


def test_a_durable_rename_leaves_nothing_where_it_came_from(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        files.make_folder(root / name)
    files.sync_folder(root)
    make(files, root / "a" / "f", b"data")
    sync(files, root / "a" / "f")
    files.replace(root / "a" / "f", root / "b" / "f")
    files.sync_folder(root / "b")
    assert images(files, tmp_path) == [{"a": None, "b": None, "b/f": b"data"}] * SEEDS


def test_an_image_is_the_same_for_a_seed_and_can_lose_power_again(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make_durable(files, root / "f", sectors(0, 0, 0, 0))
    write(files, root / "f", sectors(1, 2, 3, 4))
    for name in ("a", "b", "c"):
        make(files, root / name, b"data")
    assert images(files, tmp_path) == images(files, tmp_path)
    files.crash_image(3, tmp_path / "again")
    after = LossyFiles(tmp_path / "again")
    assert images(after, tmp_path) == [tree(tmp_path / "again")] * SEEDS


def test_images_are_private(files: LossyFiles, root: Path, tmp_path: Path) -> None:
    files.make_folder(root / "a")
    make(files, root / "a" / "f", b"data")
    files.kill_image(tmp_path / "image")
    assert (tmp_path / "image" / "a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "image" / "a" / "f").stat().st_mode & 0o777 == 0o600


def test_a_time_may_be_lost_but_not_by_a_kill(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make_durable(files, root / "f")
    files.set_modified(root / "f", 1000.0)
    times = set()
    for seed in range(SEEDS):
        files.crash_image(seed, tmp_path / f"{seed}")
        times.add((tmp_path / f"{seed}" / "f").stat().st_mtime == 1000.0)
    assert times == {False, True}
    files.kill_image(tmp_path / "killed")
    assert (tmp_path / "killed" / "f").stat().st_mtime == 1000.0


def test_a_kill_loses_nothing(files: LossyFiles, root: Path, tmp_path: Path) -> None:
    files.make_folder(root / "a")
    make(files, root / "a" / "f", sectors(1, 2) + b"end")
    make(files, root / "g", b"data")
    files.replace(root / "g", root / "a" / "h")
    with opened(files, root / "a" / "f", writable=True) as file:
        files.truncate(file, 600)
    assert killed(files, tmp_path) == tree(root)


def test_every_mutating_call_counts(files: LossyFiles, root: Path) -> None:
    path = root / "f"
    steps: list[Callable[[], object]] = [
        lambda: files.make_folder(root / "a"),
        lambda: files.close(files.lock(root / "lock")),
        lambda: files.close(files.create(path)),
        lambda: write(files, path, b"data"),
        lambda: with_file(files, path, lambda file: files.truncate(file, 2)),
        lambda: with_file(files, path, lambda file: files.allocate(file, 9)),
        lambda: sync(files, path),
        lambda: files.sync_folder(root),
        lambda: files.set_modified(path, 5.0),
        lambda: files.replace(path, root / "g"),
        lambda: files.remove(root / "g"),
        lambda: files.remove_folder(root / "a"),
    ]
    for done, step in enumerate(steps, 1):
        step()
        assert files.calls == done
    files.entries(root)
    files.free_bytes(root)
    files.close(files.open(root / "lock", writable=False))
    assert files.calls == len(steps)


def with_file(files: LossyFiles, path: Path, use: Callable[[int], None]) -> None:
    with opened(files, path, writable=True) as file:
        use(file)


def journey(files: LossyFiles, root: Path) -> None:
    """Six calls: a file written, synced and renamed."""
    file = files.create(root / "new")
    try:
        write_fully(files, file, [memoryview(sectors(1, 2, 3, 4))], 0)
        files.sync(file)
    finally:
        files.close(file)
    files.replace(root / "new", root / "f")
    files.sync_folder(root)
    files.remove(root / "f")


@pytest.mark.parametrize(
    ("call", "before", "after"),
    [
        (1, {}, {"new": b""}),
        (2, {"new": b""}, {"new": sectors(1, 2, 3, 4)}),
        (3, {"new": sectors(1, 2, 3, 4)}, {"new": sectors(1, 2, 3, 4)}),
        (4, {"new": sectors(1, 2, 3, 4)}, {"f": sectors(1, 2, 3, 4)}),
        (5, {"f": sectors(1, 2, 3, 4)}, {"f": sectors(1, 2, 3, 4)}),
        (6, {"f": sectors(1, 2, 3, 4)}, {}),
    ],
)
def test_a_cut_before_or_right_after_a_call(
    files: LossyFiles, root: Path, tmp_path: Path, call: int, before: dict, after: dict
) -> None:
    for part, state in ((0.0, before), (1.0, after)):
        for name in files.entries(root):
            (root / name.name).unlink()
        fresh = LossyFiles(root)
        fresh.stop_after(call, part)
        with pytest.raises(PowerCut):
            journey(fresh, root)
        assert fresh.off
        assert fresh.calls == call
        assert killed(fresh, tmp_path) == state


def test_a_sync_that_was_cut_at_its_end_has_synced(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make(files, root / "f", b"data")
    files.sync_folder(root)
    for part, found in ((0.0, {b"", bytes(4), b"data"}), (1.0, {b"data"})):
        files.off = False
        files.stop_after(1, part)
        with pytest.raises(PowerCut):
            sync(files, root / "f")
        assert contents(files, tmp_path) == found


def test_a_write_lands_partly_in_whole_sectors(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make_durable(files, root / "f", sectors(0, 0, 0))
    files.stop_after(1, part=0.6)
    with pytest.raises(PowerCut):
        write(files, root / "f", b"x" * 1000, 300)
    landed = bytes(300) + b"x" * 212 + bytes(1024)
    assert killed(files, tmp_path) == {"f": landed}
    assert contents(files, tmp_path) == {bytes(1536), landed}


def test_a_write_within_a_sector_lands_whole_or_not(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make_durable(files, root / "f", b"aaaa")
    files.stop_after(1, part=0.9)
    with pytest.raises(PowerCut):
        write(files, root / "f", b"bb", 1)
    assert killed(files, tmp_path) == {"f": b"aaaa"}


def test_after_the_cut_there_is_nothing_but_close(
    files: LossyFiles, root: Path, tmp_path: Path
) -> None:
    make(files, root / "f", b"data")
    file = files.open(root / "f", writable=True)
    files.stop_after(2)
    files.sync(file)
    view = memoryview(bytearray(4))
    calls: list[Callable[[], object]] = [
        lambda: files.write(file, [view], 0),
        lambda: files.read(file, [view], 0),
        lambda: files.size(file),
        lambda: files.sync(file),
        lambda: files.open(root / "f", writable=False),
        lambda: files.create(root / "g"),
        lambda: files.lock(root / "g"),
        lambda: files.truncate(file, 0),
        lambda: files.allocate(file, 9),
        lambda: files.make_folder(root / "a"),
        lambda: files.entries(root),
        lambda: files.sync_folder(root),
        lambda: files.set_modified(root / "f", 1.0),
        lambda: files.replace(root / "f", root / "g"),
        lambda: files.remove(root / "f"),
        lambda: files.remove_folder(root),
        lambda: files.free_bytes(root),
    ]
    for call in calls:
        with pytest.raises(PowerCut):
            call()
    assert killed(files, tmp_path) == tree(root) == {"f": b"data"}
    files.close(file)
    with pytest.raises(OSError):
        os.fstat(file)


def test_the_end_of_a_process_closes_everything(files: LossyFiles, root: Path) -> None:
    lock = files.lock(root / "lock")
    files.close_all()
    with pytest.raises(OSError):
        os.fstat(lock)
    again = LossyFiles(root)
    held = again.lock(root / "lock")
    # The dead process may still run its finally blocks: they close no file of another.
    files.close(lock)
    assert again.size(held) == 0
    again.close(held)
    with pytest.raises(OSError) as caught:
        again.close(held)
    assert caught.value.errno == errno.EBADF


def test_what_fails_changes_nothing(files: LossyFiles, root: Path, tmp_path: Path) -> None:
    make_durable(files, root / "f", b"data")
    with pytest.raises(FileExistsError):
        files.create(root / "f")
    for call in (
        lambda: files.remove(root / "absent"),
        lambda: files.replace(root / "absent", root / "f"),
        lambda: files.sync_folder(root / "absent"),
        lambda: files.set_modified(root / "absent", 1.0),
    ):
        with pytest.raises(FileNotFoundError):
            call()
    with pytest.raises(OSError):
        files.sync(-1)
    assert images(files, tmp_path) == [{"f": b"data"}] * SEEDS


def test_many_threads(files: LossyFiles, root: Path, tmp_path: Path) -> None:
    make_durable(files, root / "f", sectors(*[0] * 64))

    def work(first: int) -> None:
        with opened(files, root / "f", writable=True) as file:
            for sector in range(first, 64, 4):
                data = memoryview(sectors(sector + 1))
                write_fully(files, file, [data], sector * SECTOR_BYTES)
                files.sync(file)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert images(files, tmp_path, 5) == [{"f": sectors(*range(1, 65))}] * 5


NAMES = st.sampled_from("abc")
STEPS = st.one_of(
    st.tuples(st.just("write"), NAMES, st.integers(0, 1500), st.binary(min_size=1, max_size=900)),
    st.tuples(st.just("truncate"), NAMES, st.integers(0, 1500)),
    st.tuples(st.just("allocate"), NAMES, st.integers(0, 1500)),
    st.tuples(st.just("sync"), NAMES),
    st.tuples(st.just("replace"), NAMES, NAMES),
    st.tuples(st.just("remove"), NAMES),
    st.tuples(st.just("sync_folder")),
)


def take(files: LossyFiles, root: Path, step: tuple) -> None:
    match step:
        case ("write", name, offset, data):
            with_file(files, root / name, lambda f: write_fully(files, f, [data], offset))
        case ("truncate", name, size):
            with_file(files, root / name, lambda f: files.truncate(f, size))
        case ("allocate", name, size):
            with_file(files, root / name, lambda f: files.allocate(f, size))
        case ("sync", name):
            with_file(files, root / name, files.sync)
        case ("replace", source, target):
            files.replace(root / source, root / target)
        case ("remove", name):
            files.remove(root / name)
        case ("sync_folder",):
            files.sync_folder(root)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=25), st.integers(0, 10**6))
def test_any_journey_ends_as_the_disk_says_and_all_synced_is_all_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple], seed: int
) -> None:
    tmp_path = tmp_path_factory.mktemp("journey")
    root = tmp_path / "root"
    root.mkdir()
    files = LossyFiles(root)
    for step in steps:
        names = [entry.name for entry in files.entries(root)]
        for name in step[1:2]:
            if name not in names:
                files.close(files.create(root / name))
        if step[0] == "write":
            step = (*step[:3], memoryview(step[3]))
        take(files, root, step)
    assert killed(files, tmp_path) == tree(root)
    files.crash_image(seed, tmp_path / "crashed")
    survivors = {entry.name for entry in OsFiles().entries(tmp_path / "crashed")}
    assert survivors <= {"a", "b", "c"}
    for entry in files.entries(root):
        sync(files, root / entry.name)
    files.sync_folder(root)
    assert images(files, tmp_path, 3) == [tree(root)] * 3
