"""Bringing memory and medium together: at the start, and after the medium was changed under us."""

import logging
from collections.abc import Collection, Iterable

from cache_tiers.ssd.config import SsdConfig
from cache_tiers.ssd.extent import page_bytes
from cache_tiers.ssd.files import Entry, Files, remove_if_there
from cache_tiers.ssd.index import Index
from cache_tiers.ssd.journal import TENANT_TAG_BYTES, Header, Put
from cache_tiers.ssd.neighbours import SNAPSHOT
from cache_tiers.ssd.segment import Segment, id_in_name
from cache_tiers.ssd.snapshot import Snapshot, write_snapshot
from cache_tiers.ssd.snapshot_format import Layout, SegmentSummary
from cache_tiers.ssd.space import Space

_log = logging.getLogger(__name__)


class Loader:
    """Guarded by the store's write lock. Every method may raise OSError."""

    def __init__(
        self, config: SsdConfig, files: Files, index: Index, space: Space, *, repair: bool
    ) -> None:
        self._config = config
        self._files = files
        self._index = index
        self._space = space
        self._repair = repair
        self._path = space.folder / SNAPSHOT
        self.bytes_written = 0
        """Of snapshots."""

    def load(self, deleted: Iterable[Put]) -> None:
        """Read what is on the medium into the index, ``deleted`` left out: the snapshot, and of
        every journal what the snapshot does not know. Raises StoreUnusable for a newer format.
        Files that cannot be read stay, without chunks, and are evicted first."""
        if self._repair:
            self._files.make_folder(self._space.folder)
            # Syncing what is in a folder does not make the folder's own name durable.
            self._files.sync_folder(self._config.root)
        pairs: dict[int, dict[str, Entry]] = {}
        highest = snapshot_bytes = 0
        for entry in self._files.entries(self._space.folder):
            number = id_in_name(entry.name)
            if number is not None:
                highest = max(highest, number)
                if entry.is_file:
                    pairs.setdefault(number, {})[entry.name.rpartition(".")[2]] = entry
            elif entry.name == SNAPSHOT:
                snapshot_bytes = entry.bytes
        summaries = self._begin_index(pairs, snapshot_bytes)
        segments = []
        outdated: list[Put] = []
        for number in sorted(pairs):
            segment, replaced = self._load_segment(number, pairs[number], summaries.get(number))
            segments.append(segment)
            outdated += replaced
        for number in summaries.keys() - pairs.keys():
            self._index.drop_base_segment(number)
        for key, extent in deleted:
            self._index.forget_extent(key, extent)
        self._space.adopt(segments, above=max([highest, *summaries]))
        if outdated and self._repair:
            self._forget(outdated)

    def checkpoint_if_worth_it(self, keep: Collection[Segment] | None) -> None:
        """Write a snapshot when journals have grown so long that a start would feel it. Room is
        made for it by evicting anything but ``keep``; nothing is evicted when that is None."""
        changed, known = self._index.changes, len(self._index)
        if changed < max(self._config.snapshot_after, known // 4):
            return
        size = page_bytes(Layout(len(self._space), known).bytes)
        there_is_room = (
            self._space.fits(size) if keep is None else self._space.make_room(size, keep)
        )
        if not there_is_room:
            return
        self._space.sync()
        # Marks first: what journals say before them must be in the contents taken after.
        segments = [
            SegmentSummary(s.id, s.tenant, s.mark, s.pages, s.last_used) for s in self._space
        ]
        contents = self._index.contents()
        config = self._config
        self.bytes_written += write_snapshot(
            self._files, self._path, config.fingerprint, config.chunk_bytes, segments, contents
        )
        snapshot = self._read_snapshot()
        if snapshot is not None:
            self._index.rebase(snapshot, contents)
        self._space.look_beside()

    def _begin_index(
        self, pairs: dict[int, dict[str, Entry]], size: int
    ) -> dict[int, SegmentSummary]:
        """Start from the snapshot of ``size`` bytes, if it is one of these very files; what it says
        of segments."""
        snapshot = None
        # Larger than everything may be: not of our making, and no memory would hold it.
        sound = size <= self._config.bytes_limit
        try:
            if sound:
                snapshot = self._read_snapshot()
        except OSError as error:
            _log.warning("The SSD store's snapshot cannot be read: %s", error)
            sound = False
        if snapshot is not None:
            # A journal is shorter than it was: what comes behind would not be what came before.
            summaries = snapshot.segments.values()
            sound = all(_covers(pairs.get(summary.id), summary) for summary in summaries)
        if not sound:
            snapshot = None
            if self._repair:
                # Passed over now and believed later, it would know nothing of what came between.
                remove_if_there(self._files, self._path)
                self._files.sync_folder(self._space.folder)
        self._index.reset(snapshot)
        return dict(snapshot.segments) if snapshot is not None else {}

    def _read_snapshot(self) -> Snapshot | None:
        config = self._config
        return Snapshot.open(self._files, self._path, config.fingerprint, config.chunk_bytes)

    def _forget(self, outdated: Iterable[Put]) -> None:
        """Chunks that are elsewhere too, for their segment was being emptied at a crash: deleted
        there, they would come back from here."""
        self._space.sync()
        for key, extent in outdated:
            segment = self._space.find(extent.segment)
            if segment is not None:
                self._space.forget(segment, [(key, extent)])

    def _load_segment(
        self, number: int, pair: dict[str, Entry], summary: SegmentSummary | None
    ) -> tuple[Segment, list[Put]]:
        """The segment, and where chunks of it were thought to be before."""
        config = self._config
        tenant = summary.tenant if summary else bytes(TENANT_TAG_BYTES)
        header = Header(config.fingerprint, number, config.chunk_bytes, tenant)
        segment = Segment.unborn(self._files, self._space.folder, header, config.segment_pages)
        data, journal = pair.get("segment"), pair.get("journal")
        segment.data_extent = data.bytes if data else 0
        segment.journal_extent = journal.bytes if journal else 0
        said = None
        if data and journal:
            segment.last_used = segment.stamped = journal.modified_at
            if summary is not None:
                segment.last_used = max(segment.last_used, summary.last_used)
            try:
                said = segment.load(
                    (summary.mark, summary.pages) if summary else None, repair=self._repair
                )
            except OSError as error:
                _log.warning("A segment of the SSD store cannot be read: %s", error)
        if said is None:
            segment.capacity = 0
            self._index.drop_base_segment(number)
            return segment, []
        replaced = self._index.add(number, said.puts)
        for key, page in said.deleted:
            self._index.forget_at(key, number, page)
        segment.chunks = self._index.live(number)[0]
        segment.chunks += sum(extent.segment == number for _, extent in replaced)
        return segment, replaced


def _covers(pair: dict[str, Entry] | None, summary: SegmentSummary) -> bool:
    """Whether a segment's journal, unless it is gone altogether, holds what the snapshot knows."""
    if pair is None or "journal" not in pair:
        return True
    return pair["journal"].bytes >= summary.mark.end
