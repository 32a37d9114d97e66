"""Whatever the disk and the workers do, a stream ends, copies each chunk at most once, and never
counts on a chunk that did not arrive."""

from hypothesis import given
from hypothesis import strategies as st

from cache_tiers.types import ChunkKey, MissReason
from engine.core_plugin.load_stream import LoadItem, LoadStream


@given(
    count=st.integers(1, 30),
    window=st.integers(1, 8),
    bad=st.sets(st.integers(0, 29)),
    hung=st.sets(st.integers(0, 29), max_size=2),
    order=st.randoms(use_true_random=False),
)
def test_ends_exactly(
    count: int, window: int, bad: set[int], hung: set[int], order: "st.randoms"
) -> None:
    keys = [ChunkKey(bytes([i])) for i in range(count)]
    items = [LoadItem(k, 0, i, (i,)) for i, k in enumerate(keys)]
    load = LoadStream(items, now=0.0, patience_s=1.0)
    reading: list[ChunkKey] = []
    copying: list[ChunkKey] = []
    read: list[ChunkKey] = []
    copied: list[ChunkKey] = []
    now = 0.0
    for _ in range(20 * count + 20):
        now += 0.01
        wanted = load.to_read(window - load.in_dram())
        load.on_reading(wanted)
        reading += wanted
        read += wanted
        assert load.in_dram() <= window
        while run := load.take_run():
            copying += [item.key for item in run]
        arrived = [k for k in reading if k[0] not in hung]
        if arrived and (not copying or order.random() < 0.5):
            chunk = order.choice(arrived)
            reading.remove(chunk)
            if chunk[0] in bad:
                load.on_failed(chunk, MissReason.CORRUPT_CHUNK)
            elif load.wants(chunk):
                load.on_ready([chunk], now)
        elif copying:
            chunk = order.choice(copying)
            copying.remove(chunk)
            copied.append(chunk)
            load.on_copied([chunk], now)
        else:
            now += 2.0
            load.check_patience(now)
        if load.ended:
            break
    assert load.ended
    assert len(set(copied)) == len(copied)
    assert len(set(read)) == len(read)
    lost = {item.key[0] for item in load.lost()}
    whole = set(range(count)) - lost
    assert whole == set(range(len(whole))), "what is kept is a prefix"
    assert {c[0] for c in copied} >= whole
    stopped = {i for i in bad | hung if i < count}
    assert (load.failure is None) == (not stopped)
    if stopped:
        assert min(lost) <= min(stopped)
