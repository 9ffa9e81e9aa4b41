"""Prove that a run is whole: every planned image has exactly one sound row, every file is the one that was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prelabel.errors import StoreError
from prelabel.processes import Processes
from prelabel.rle_many import are_sound
from prelabel.storage import Storage, join, redact
from prelabel.store.plan import Plan, PlanPart
from prelabel.store.run import MANIFEST, RUN, Manifest, RunRecord, read_manifest, read_run
from prelabel.store.schema import OK
from prelabel.store.shards import ShardRecord, load_shard, shard_name

#: Shards that one process checks at the same time: a remote store is waited for, and hashing releases Python's lock.
_THREADS = 4

#: Shards that a process checks before it tells: the part of the plan they are in is opened once for them.
_SHARDS = 16

#: Float32 pixels of a box may pass the image's edge by rounding only.
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found.

    Attributes:
        shards: Shards planned.
        rows: Rows read.
        failed: Rows of failed images among them.
        detections: Detections read.
        dropped: Detections that were left out because a number of theirs was not finite, or their box has no size
            inside the image.
        problems: One line each; empty when the run is whole.
    """

    shards: int
    rows: int
    failed: int
    detections: int
    dropped: int
    problems: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is missing, doubled or broken."""
        return not self.problems


def verify(
    output: str,
    storage: Storage,
    *,
    max_problems: int = 100,
    progress: Callable[[int, int], None] | None = None,
    processes: Processes | None = None,
) -> Report:
    """Read everything of a run back and compare it with its plan, its manifest and its schema.

    Args:
        output: Root of the run's output.
        storage: Opens it.
        max_problems: Stop after so many.
        progress: Called with shards done and shards in all.
        processes: Check shards in these; by default this process does it.

    Raises:
        StoreError: There is no run at all, or `run.json` or the plan cannot be read.
    """
    run = read_run(output, storage)
    if run is None:
        raise StoreError(f"no run at {redact(output)}: {RUN} is missing (give the --output of `prelabel label`)")
    problems: list[str] = []
    try:
        manifest = read_manifest(output, storage)
    except StoreError as error:
        problems.append(str(error))
        manifest = None
    problems += _check_manifest(run, manifest, finished_needed=not problems)
    recorded = {r.shard: r for r in manifest.shards} if manifest else {}
    problems += _check_strays(output, storage, run, finished=manifest is not None)
    rows = failed = detections = dropped = done = 0
    lots = [
        tuple((shard, recorded.get(shard)) for shard in range(first, min(first + _SHARDS, run.shards)))
        for first in range(0, run.shards, _SHARDS)
    ]
    check = _CheckShards(output, storage, run.parts, run.run_id)
    for checked in (processes or Processes()).map(check, lots):
        for record, found in checked:
            problems += found
            if record is not None:
                rows, failed = rows + record.rows, failed + record.failed
                detections, dropped = detections + record.detections, dropped + record.dropped
        done += len(checked)
        if progress:
            progress(done, run.shards)
        if len(problems) >= max_problems:
            break
    return Report(run.shards, rows, failed, detections, dropped, tuple(problems[:max_problems]))


@dataclass(frozen=True, slots=True)
class _CheckShards:
    output: str
    storage: Storage
    parts: tuple[PlanPart, ...]
    run_id: str

    def __call__(self, shards: Sequence[tuple[int, ShardRecord | None]]) -> list[tuple[ShardRecord | None, list[str]]]:
        plan = Plan.open(self.output, self.parts, self.storage)

        def check(one: tuple[int, ShardRecord | None]) -> tuple[ShardRecord | None, list[str]]:
            return check_shard(self.output, self.storage, plan, one[0], self.run_id, one[1])

        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(check, shards))


def _check_manifest(run: RunRecord, manifest: Manifest | None, *, finished_needed: bool) -> list[str]:
    if manifest is None:
        return [f"{MANIFEST} is missing: the run is not finished"] if finished_needed else []
    if manifest.run_id != run.run_id:
        return [f"{MANIFEST} belongs to run {manifest.run_id}, {RUN} to {run.run_id}"]
    numbers = [record.shard for record in manifest.shards]
    if numbers != list(range(run.shards)):
        missing = sorted(set(range(run.shards)) - set(numbers))
        return [f"{MANIFEST} does not name each of {run.shards} shards once: missing {missing[:5]}"]
    return []


def _check_strays(output: str, storage: Storage, run: RunRecord, *, finished: bool) -> list[str]:
    expected = {shard_name(shard) for shard in range(run.shards)}
    # Hidden names are unpublished temporary files; on a run that goes on, somebody may be writing one right now.
    found = {name for name in storage.names(join(output, "shards")) if not name.startswith(".") or finished}
    return [f"shards/{name} belongs to no planned shard" for name in sorted(found - expected)]


def check_shard(
    output: str, storage: Storage, plan: Plan, shard: int, run_id: str, recorded: ShardRecord | None
) -> tuple[ShardRecord | None, list[str]]:
    """Read one shard and compare it with the plan and, where there is one, its record in the manifest.

    Returns:
        The record recomputed from the file (None where it cannot be read) and the problems found, a line each.
    """
    try:
        content = load_shard(output, shard, storage)
    except StoreError as error:
        return None, [str(error)]
    name = content.record.name
    problems: list[str] = []
    if content.run_id != run_id:
        problems.append(f"{name} was written by another run ({content.run_id or 'none'})")
    if recorded is not None:
        for key in ("rows", "failed", "detections", "dropped", "bytes", "sha256"):
            was, now = getattr(recorded, key), getattr(content.record, key)
            if was != now:
                problems.append(f"{name}: {key} is {now}, {MANIFEST} says {was}")
    problems += _check_ids(name, content.table["image_id"].to_pylist(), [ref.image_id for ref in plan.read(shard)])
    problems += [f"{name}: {problem}" for problem in check_rows(content.table)]
    return content.record, problems


def _check_ids(name: str, found: Sequence[str], planned: Sequence[str]) -> list[str]:
    if list(found) == list(planned):
        return []
    missing = [i for i in planned if i not in set(found)]
    extra = [i for i in found if i not in set(planned)]
    if missing or extra:
        return [f"{name}: {len(missing)} planned images missing {missing[:2]}, {len(extra)} not planned {extra[:2]}"]
    return [f"{name}: images doubled or out of order ({len(found)} rows, {len(planned)} planned)"]


def check_rows(table: pa.Table) -> Iterator[str]:
    """Problems of the rows themselves: unequal lists, boxes outside their image, masks of another size, odd scores.

    Works on whole columns; a message names the first image concerned and how many there are.
    """
    ids = table["image_id"]
    ok = np.asarray(pc.equal(table["status"], OK))

    def problem(bad: npt.NDArray[np.bool_], text: str) -> Iterator[str]:
        if bad.any():
            first = ids[int(np.flatnonzero(bad)[0])].as_py()
            more = f" (and {int(bad.sum()) - 1} more)" if bad.sum() > 1 else ""
            yield f"{first!r}{more}: {text}"

    lengths = {name: _lengths(table[name]) for name in ("boxes", "classes", "labels", "mids", "scores")}
    for name, length in lengths.items():
        yield from problem(length != lengths["scores"], f"{name} and scores differ in length")
    has_masks = np.asarray(pc.is_valid(table["masks"]))
    yield from problem(has_masks & (_lengths(table["masks"]) != lengths["scores"]), "masks and scores differ in length")
    yield from problem(~ok & (lengths["scores"] > 0), "a failed image has detections")
    yield from problem(~ok & np.asarray(pc.is_null(table["error_type"])), "a failed image has no error")
    yield from problem(ok & np.asarray(pc.is_valid(table["error_type"])), "an image that is ok has an error")
    sized = np.asarray(pc.and_(pc.is_valid(table["height"]), pc.is_valid(table["width"])))
    yield from problem(ok & ~sized, "no height and width")
    for name in ("exif_orientation", "browser_orientation"):
        if name in table.schema.names:
            turns = pc.fill_null(table[name], 1).to_numpy()
            yield from problem((turns < 1) | (turns > 8), f"{name} is not 1 to 8")

    height = pc.fill_null(table["height"], 0).to_numpy()
    width = pc.fill_null(table["width"], 0).to_numpy()
    if (lengths["boxes"] != lengths["scores"]).any():
        return  # the columns cannot be laid side by side
    row = np.repeat(np.arange(len(ids)), lengths["scores"])
    boxes = _flat(_flat(table["boxes"])).to_numpy(zero_copy_only=False).reshape(-1, 4)
    scores = _flat(table["scores"]).to_numpy(zero_copy_only=False)
    x1, y1, x2, y2 = boxes.T
    inside = (x1 >= -_TOLERANCE) & (y1 >= -_TOLERANCE) & (x1 <= x2) & (y1 <= y2)
    inside &= (x2 <= width[row] + _TOLERANCE) & (y2 <= height[row] + _TOLERANCE)  # NaN compares false
    yield from problem(_any(row, ~inside, len(ids)), "a box is not inside the image")
    yield from problem(_any(row, ~((scores >= 0) & (scores <= 1)), len(ids)), "a score is not in 0..1")
    yield from problem(
        has_masks & _wrong_masks(table["masks"], height, width), "a mask is not an RLE of the image's size"
    )


def _lengths(column: Any) -> npt.NDArray[np.int64]:
    return np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy(), dtype=np.int64)


def _flat(column: Any) -> Any:
    flat = pc.list_flatten(column)
    return flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat


def _any(row: npt.NDArray[np.int64], bad: npt.NDArray[np.bool_], rows: int) -> npt.NDArray[np.bool_]:
    return np.bincount(row[bad], minlength=rows).astype(bool)


def _wrong_masks(masks: Any, height: npt.NDArray[np.int32], width: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    flat = _flat(masks)
    row = np.repeat(np.arange(len(masks)), _lengths(masks))
    _, offsets, characters = flat.buffers()
    if characters is None:  # no mask has a single character
        return _any(row, np.ones(len(row), dtype=bool), len(masks))
    bounds = np.frombuffer(offsets, np.int32)[flat.offset : flat.offset + len(flat) + 1].astype(np.int64)
    sound = are_sound(np.frombuffer(characters, np.uint8), bounds, height[row], width[row])
    return _any(row, ~sound, len(masks))
