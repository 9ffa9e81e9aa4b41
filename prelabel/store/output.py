"""The output of a job that writes a run: finding its finished shards, and its files other than shards.

`find_finished` checks the shards that earlier calls have finished. `Output` writes and deletes files when a run begins,
grows and is finished. It is for the job that holds the output's lock, and checks the lock before it writes.
`installed_versions` are those that `run.json` records.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from prelabel import __version__
from prelabel.errors import RunInterrupted, StoreError
from prelabel.storage.address import Address
from prelabel.storage.files import Storage
from prelabel.store.lock import LOCK, Lock
from prelabel.store.plan import PLAN_FOLDER, Plan, remove_parts
from prelabel.store.records import ShardRecords
from prelabel.store.run import MANIFEST, RUN, Manifest, RunRecord, read_manifest, write_json, write_manifest
from prelabel.store.shards import SHARD_FOLDER, ShardRecord, load_shard, shard_name
from prelabel.store.source_check import SOURCE_CHECK, SourceCheck, write_source_check
from prelabel.store.verify import ShardUpdate, check_shard

#: Finished shards checked at the same time.
_CHECK_THREADS = 8

#: Names of the files that runs write, and of the temporary files that a killed process leaves behind.
_OURS = r"shard-\d{5,}\.parquet|plan-\d{5,}-[0-9a-f]{8}\.parquet|(?:run|manifest|lock|source-check)\.json"
_SHARD_FILE = re.compile(r"shard-(\d{5,})\.parquet")
_OUR_FILE = re.compile(rf"({_OURS})|\.({_OURS})\.[0-9a-f]+\.tmp")


def installed_versions() -> dict[str, str]:
    """Return the versions of prelabel, Python and the libraries that make a run, by name."""
    versions = {"prelabel": __version__, "python": python_version()}
    for name in ("ray", "tensorflow", "tensorflow-hub", "numpy", "pillow", "pyarrow", "fsspec"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


@dataclass(frozen=True, slots=True)
class Finished:
    """The shards that earlier calls have finished.

    Attributes:
        shards: Records of the valid shards, by number.
        outdated: Shards that are valid, except that some of their images have changed in the plan.
        invalid: Shards that exist but must be written again.
        has_manifest: Whether the run is finished.
    """

    shards: ShardRecords = field(default_factory=ShardRecords)
    outdated: Mapping[int, ShardUpdate] = field(default_factory=dict)
    invalid: frozenset[int] = frozenset()
    has_manifest: bool = False


def read_valid_manifest(
    output: Address, storage: Storage, record: RunRecord, notify: Callable[[str], None]
) -> Manifest | None:
    """Read the manifest of a run, or return None if it is not finished, or the manifest must be written again."""
    try:
        manifest = read_manifest(output, storage)
    except StoreError as error:  # the shards contain everything that the manifest does
        notify(f"{str(error).rstrip('.')}; it will be rewritten")
        return None
    return manifest if manifest is not None and manifest.run_id == record.run_id else None


def find_finished(
    output: Address,
    storage: Storage,
    record: RunRecord,
    plan: Plan,
    manifest: Manifest | None,
    notify: Callable[[str], None],
    stop: threading.Event,
    *,
    to_read: Collection[int] | None = None,
) -> Finished:
    """Read existing shards completely and compare them with the plan and the manifest.

    Args:
        output: Root of the run's output.
        storage: Opens the output.
        record: The content of `run.json`.
        plan: The images of each shard.
        manifest: The manifest; None if the run was not finished.
        notify: Receives a message per invalid shard, and the number of valid ones.
        stop: Ends the check when set.
        to_read: The shards to read; all by default. Of others, only the size is compared with the manifest.

    Raises:
        RunInterrupted: `stop` was set.
        StoreError: The plan cannot be read.
    """
    present = storage.names(output.join(SHARD_FOLDER))
    recorded = manifest.shards if manifest else ShardRecords()
    candidates = [shard for shard in range(record.shards) if shard_name(shard) in present]
    finished = ShardRecords(record.class_numbers)
    if to_read is not None:
        for shard in candidates:
            known = recorded.get(shard) if shard not in to_read else None
            if known is not None and known.bytes == present[shard_name(shard)]:
                finished.add(known)
        candidates = [shard for shard in candidates if shard not in finished]
    outdated: dict[int, ShardUpdate] = {}
    invalid: set[int] = set()
    check = partial(check_shard, output, storage, plan, record.run_id)
    with ThreadPoolExecutor(_CHECK_THREADS) as pool:
        for start in range(0, len(candidates), _CHECK_THREADS * 4):
            if stop.is_set():
                raise RunInterrupted("stopped while finished shards were being checked; nothing was changed")
            batch = candidates[start : start + _CHECK_THREADS * 4]
            checked = pool.map(check, batch, map(recorded.get, batch))
            for shard, result in zip(batch, checked, strict=True):
                if result.record is not None and not result.problems:
                    # Only the manifest records the seconds of writing; one of an early release lacks `unnamed`.
                    finished.add(replace(recorded.get(shard, result.record), unnamed=result.record.unnamed))
                elif result.update is not None:
                    outdated[shard] = result.update
                else:
                    invalid.add(shard)
                    notify(f"{result.problems[0].rstrip('.')}; the shard will be written again")
    if finished:
        notify(f"{len(finished):,} of {record.shards:,} shards are already finished and valid")
    return Finished(finished, outdated, frozenset(invalid), has_manifest=manifest is not None)


class Output:
    """The output whose lock this job holds.

    Attributes:
        has_run: Whether the output contains the job's run, begun by this call or an earlier one.
    """

    def __init__(self, root: Address, storage: Storage, lock: Lock, *, has_run: bool) -> None:
        self._root, self._storage, self._lock = root, storage, lock
        self.has_run = has_run

    def begin(self, record: RunRecord) -> None:
        """Write `run.json`, which makes this the output's run, and remove the files of an older run."""
        self._lock.require()
        self._storage.delete(self._root.join(SOURCE_CHECK))  # of an older run
        self.grow(record)
        self.has_run = True
        self._sweep(record, shards=0)

    def grow(self, record: RunRecord) -> None:
        """Write `run.json`, possibly with new parts of the plan; finished shards are kept."""
        self.reopen()
        write_json(self._root.join(RUN), self._storage, record.to_json())

    def reopen(self) -> None:
        """Delete the manifest before the run changes: the run is unfinished until `finish`."""
        self._lock.require()
        self._storage.delete(self._root.join(MANIFEST))

    def record_check(self, check: SourceCheck) -> None:
        """Write `source-check.json`, which does not change the run."""
        self._lock.require()
        write_source_check(self._root, self._storage, check)

    def finish(self, record: RunRecord, manifest: Manifest) -> None:
        """Write `manifest.json`, the run's last file, and remove files that do not belong to the run."""
        self._lock.require()
        self._sweep(record, record.shards)
        write_manifest(self._root, self._storage, manifest)

    def discard_plan(self, record: RunRecord) -> None:
        """Delete the plan of a run that was never begun."""
        remove_parts(record.parts, self._root, self._storage)

    def count_shards(self, record: RunRecord, exclude: Collection[int]) -> int:
        """Count the planned shards that exist, without those in `exclude`.

        Lists the storage, because a worker may have published one more shard before it was ended.
        """
        present = self._storage.names(self._root.join(SHARD_FOLDER)) if self.has_run else {}
        return sum(shard_name(shard) in present and shard not in exclude for shard in range(record.shards))

    def published_record(self, record: ShardRecord) -> ShardRecord:
        """Return the record of a shard's current file.

        A worker that was considered dead, because its machine was disconnected for a while, may have published the
        shard again: with the same images but other seconds, hence another file.

        Raises:
            StoreError: The file cannot be read.
        """
        published = load_shard(self._root, record.shard, self._storage).record
        return record if published.sha256 == record.sha256 else published

    def _sweep(self, record: RunRecord, shards: int) -> None:
        """Remove files that killed processes and older runs left behind; files of other programs are kept.

        Args:
            record: The run whose plan is kept.
            shards: Number of shards to keep, from the first.
        """
        keep = {RUN, MANIFEST, LOCK, SOURCE_CHECK, *(part.name for part in record.parts)}
        for folder in ("", PLAN_FOLDER, SHARD_FOLDER):
            address = self._root.join(folder) if folder else self._root
            for name in self._storage.names(address):
                if name not in keep and not _is_shard_below(shards, name) and _OUR_FILE.fullmatch(name):
                    self._storage.delete(address.join(name))


def _is_shard_below(shards: int, name: str) -> bool:
    """Whether a name is that of a shard with a number below `shards`."""
    match = _SHARD_FILE.fullmatch(name)
    return match is not None and int(match[1]) < shards and shard_name(int(match[1])) == name
