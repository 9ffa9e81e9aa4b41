"""The files of an output that are not shards, at the moments at which they change: a run begins, grows, is finished.

Everything here is for the job that holds the output's lock, and looks at that before it writes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection

from prelabel.storage import Storage, join
from prelabel.store.lock import LOCK, Lock
from prelabel.store.run import MANIFEST, RUN, Manifest, RunRecord, write_json
from prelabel.store.shards import ShardRecord, load_shard, shard_name

#: Names of the files that runs write, and of what a killed process had not yet published under such a name.
_OURS = r"shard-\d{5,}\.parquet|plan-\d{5,}-[0-9a-f]{8}\.parquet|(?:run|manifest|lock)\.json"
_OUR_FILE = re.compile(rf"({_OURS})|\.({_OURS})\.[0-9a-f]+\.tmp")


class Output:
    """An output that this job holds.

    Args:
        url: Its root.
        storage: Opens it.
        lock: Holds it.

    Attributes:
        has_run: Whether a run of this job, begun now or earlier, is in it.
    """

    def __init__(self, url: str, storage: Storage, lock: Lock, *, has_run: bool) -> None:
        self._url, self._storage, self._lock = url, storage, lock
        self.has_run = has_run

    def begin(self, record: RunRecord) -> None:
        """Write `run.json`: from here on this is the run of the output, and what an older one left is removed."""
        self._write_run(record)
        self.has_run = True
        self._sweep(record, shards=0)

    def grow(self, record: RunRecord) -> None:
        """Write `run.json` with further parts of the plan; what is done is not touched."""
        self._write_run(record)

    def _write_run(self, record: RunRecord) -> None:
        self.reopen()
        write_json(join(self._url, RUN), self._storage, record.to_json())

    def reopen(self) -> None:
        """From here on the output changes; it is finished again when the manifest is written again."""
        self._lock.require()
        self._storage.delete(join(self._url, MANIFEST))

    def finish(self, record: RunRecord, manifest: Manifest) -> None:
        """Write `manifest.json`, the run's last file."""
        self._lock.require()
        self._sweep(record, record.shards)
        write_json(join(self._url, MANIFEST), self._storage, manifest.to_json())

    def discard_plan(self, record: RunRecord) -> None:
        """Take back the plan of a run that never came to be; the error that led here says more than one of this."""
        with contextlib.suppress(OSError):
            for part in record.parts:
                self._storage.delete(join(self._url, "plan", part.name))

    def count(self, record: RunRecord, but: Collection[int]) -> int:
        """Planned shards that are there, some left out: a worker may have published one more before its end."""
        there = self._storage.names(join(self._url, "shards")) if self.has_run else {}
        return sum(shard_name(shard) in there and shard not in but for shard in range(record.shards))

    def as_published(self, record: ShardRecord) -> ShardRecord:
        """The record of a shard as its file is now.

        A worker that was taken for dead, on a machine that was cut off for a while, may have published the shard once
        more: the same images, other seconds, hence another file. Raises StoreError where it cannot be read.
        """
        there = load_shard(self._url, record.shard, self._storage).record
        return record if there.sha256 == record.sha256 else there

    def _sweep(self, record: RunRecord, shards: int) -> None:
        """Remove what killed processes and older runs have left; other people's files stay.

        Args:
            record: Its plan stays.
            shards: So many shards stay, from the first.
        """
        keep = {RUN, MANIFEST, LOCK, *map(shard_name, range(shards)), *(part.name for part in record.parts)}
        for folder in ("", "plan", "shards"):
            where = join(self._url, folder) if folder else self._url
            for name in self._storage.names(where):
                if name not in keep and _OUR_FILE.fullmatch(name):
                    self._storage.delete(join(where, name))
