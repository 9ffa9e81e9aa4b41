"""Verify a run: every planned image has exactly one valid row, and every file is unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prelabel.errors import StoreError
from prelabel.image_ref import ImageRef
from prelabel.masks.rle_many import are_valid
from prelabel.processes import Processes
from prelabel.storage.address import Address, AddressLike
from prelabel.storage.files import Storage
from prelabel.store.plan import Plan, PlanPart
from prelabel.store.records import ShardRecords
from prelabel.store.rows import FAILED, OK, revisions
from prelabel.store.run import MANIFEST, RUN, Manifest, RunRecord, read_manifest, read_run
from prelabel.store.shards import SHARD_FOLDER, ShardRecord, load_shard, shard_name

#: Threads per process: checking waits for remote storage, and hashing releases the GIL.
_THREADS = 4

#: Shards per work item. A process opens their part of the plan once.
_SHARDS = 16

#: Pixels by which a box may exceed the image, from float32 rounding.
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of `verify`.

    Attributes:
        shards: Shards planned.
        rows: Rows read.
        failed: Rows of failed images among them.
        detections: Detections read.
        dropped: Detections that were dropped because one of their numbers is not finite or their box has no area inside
            the image.
        problems: A line per problem; empty if the run is complete and valid.
    """

    shards: int
    rows: int
    failed: int
    detections: int
    dropped: int
    problems: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, duplicated or corrupt."""
        return not self.problems

    @property
    def whole(self) -> bool:
        """Deprecated name of `complete`, for one version."""
        return self.complete


def verify(
    output: AddressLike,
    storage: Storage,
    *,
    max_problems: int = 100,
    progress: Callable[[int, int], None] | None = None,
    processes: Processes | None = None,
) -> Verification:
    """Read a run completely and compare it with its plan, its manifest and its schema.

    Args:
        output: Root of the run's output.
        storage: Opens the output.
        max_problems: Stop after this many problems.
        progress: Called with the number of shards checked and of all shards.
        processes: Processes that check the shards; this process by default.

    Raises:
        StoreError: There is no run, or `run.json` or the plan cannot be read.
    """
    output = Address.of_folder(output)
    run = read_run(output, storage)
    if run is None:
        raise StoreError(f"no run at {output}: {RUN} is missing (use the --output of `prelabel label`)")
    problems: list[str] = []
    try:
        manifest = read_manifest(output, storage)
    except StoreError as error:
        problems.append(str(error))
        manifest = None
    problems += _check_manifest(run, manifest, is_required=not problems)
    recorded = manifest.shards if manifest else ShardRecords()
    problems += _check_strays(output, storage, run, finished=manifest is not None)
    rows = failed = detections = dropped = done = 0
    batches = [
        tuple((shard, recorded.get(shard)) for shard in range(first, min(first + _SHARDS, run.shards)))
        for first in range(0, run.shards, _SHARDS)
    ]
    check = partial(_check_shards, output, storage, run.parts, run.run_id)
    for checked in (processes or Processes()).map(check, batches):
        for record, shard_problems in checked:
            problems += shard_problems
            if record is not None:
                rows, failed = rows + record.rows, failed + record.failed
                detections, dropped = detections + record.detections, dropped + record.dropped
        done += len(checked)
        if progress:
            progress(done, run.shards)
        if len(problems) >= max_problems:
            break
    return Verification(run.shards, rows, failed, detections, dropped, tuple(problems[:max_problems]))


def _check_shards(
    output: Address,
    storage: Storage,
    parts: tuple[PlanPart, ...],
    run_id: str,
    shards: Sequence[tuple[int, ShardRecord | None]],
) -> list[tuple[ShardRecord | None, list[str]]]:
    plan = Plan.open(output, parts, storage)
    with ThreadPoolExecutor(_THREADS) as threads:
        checked = threads.map(lambda planned: check_shard(output, storage, plan, run_id, *planned), shards)
        return [(shard.record, shard.problems) for shard in checked]


def _check_manifest(run: RunRecord, manifest: Manifest | None, *, is_required: bool) -> list[str]:
    if manifest is None:
        return [f"{MANIFEST} is missing: the run is not finished"] if is_required else []
    if manifest.run_id != run.run_id:
        return [f"{MANIFEST} belongs to run {manifest.run_id}, but {RUN} to run {run.run_id}"]
    if len(manifest.shards) != run.shards:
        return [f"{MANIFEST} names {len(manifest.shards)} shards, but the run has {run.shards}"]
    return []


def _check_strays(output: Address, storage: Storage, run: RunRecord, *, finished: bool) -> list[str]:
    strays = set(storage.names(output.join(SHARD_FOLDER)))
    strays.difference_update(map(shard_name, range(run.shards)))
    # Hidden names are temporary files; in an unfinished run a worker may be writing one now.
    strays = {name for name in strays if not name.startswith(".") or finished}
    return [f"shards/{name} is not part of the plan" for name in sorted(strays)]


@dataclass(frozen=True, slots=True)
class ShardUpdate:
    """What is left to do in a valid shard whose images have changed in the plan since.

    Attributes:
        changed: Number of images that must be labeled again.
        failed: Number of failed rows that stay, without those of images that are gone.
    """

    changed: int
    failed: int


@dataclass(frozen=True, slots=True)
class CheckedShard:
    """The result of `check_shard`.

    Attributes:
        record: The record recomputed from the file; None if it cannot be read.
        problems: A line per problem.
        update: What is left to do, if the only problem is that images have changed in the plan; otherwise None.
    """

    record: ShardRecord | None
    problems: list[str]
    update: ShardUpdate | None = None


def check_shard(
    output: AddressLike, storage: Storage, plan: Plan, run_id: str, shard: int, recorded: ShardRecord | None
) -> CheckedShard:
    """Read one shard and compare it with the plan and, if there is one, with its record in the manifest."""
    try:
        content = load_shard(output, shard, storage)
    except StoreError as error:
        return CheckedShard(None, [str(error)])
    name, table = content.record.name, content.table
    problems: list[str] = []
    if content.run_id != run_id:
        problems.append(f"{name} was written by another run ({content.run_id or 'none'})")
    if recorded is not None:
        for key in ("rows", "failed", "detections", "dropped", "bytes", "sha256"):
            before, now = getattr(recorded, key), getattr(content.record, key)
            if before != now:
                problems.append(f"{name}: {key} is {now}, but {before} in {MANIFEST}")
    of_images = _check_images(name, table, *plan.ids_and_revisions(shard))
    of_rows = [f"{name}: {problem}" for problem in check_rows(table)]
    update = _update_of(table, plan.read(shard)) if of_images and not (problems or of_rows) else None
    return CheckedShard(content.record, [*problems, *of_images, *of_rows], update)


def _check_images(name: str, table: pa.Table, planned: Sequence[str], planned_revisions: Sequence[int]) -> list[str]:
    """Compare the images of a shard and their revisions with the plan; return at most one problem."""
    stored = table["image_id"].to_pylist()
    if stored == planned:
        both = zip(planned, planned_revisions, revisions(table), strict=True)
        outdated = [image_id for image_id, revision, stored_revision in both if revision != stored_revision]
        return [f"{name}: {len(outdated)} images have changed since, such as {outdated[0]!r}"] if outdated else []
    stored_ids, planned_ids = set(stored), set(planned)
    missing = [image_id for image_id in planned if image_id not in stored_ids]
    extra = [image_id for image_id in stored if image_id not in planned_ids]
    if missing or extra:
        return [f"{name}: {len(missing)} planned images missing {missing[:2]}, {len(extra)} not planned {extra[:2]}"]
    return [f"{name}: images duplicated or out of order ({len(stored)} rows, {len(planned)} planned)"]


def _update_of(table: pa.Table, refs: Sequence[ImageRef]) -> ShardUpdate | None:
    """What is left to do in a shard, or None if the plan does not follow from its rows.

    Images leave a planned shard or change there, but none is added.
    """
    stored, planned = table["image_id"].to_pylist(), {ref.image_id for ref in refs}
    if len(set(stored)) < len(stored) or [name for name in stored if name in planned] != [r.image_id for r in refs]:
        return None
    columns = revisions(table), table["status"].to_pylist()
    rows = dict(zip(stored, zip(*columns, strict=True), strict=True))
    changed = failed = 0
    for ref in refs:
        revision, status = rows[ref.image_id]
        if ref.is_gone:
            continue
        if revision != ref.revision:
            changed += 1
        elif status == FAILED:
            failed += 1
    return ShardUpdate(changed, failed)


def check_rows(table: pa.Table) -> Iterator[str]:
    """Yield the problems of rows: unequal lists, boxes outside the image, invalid masks, scores and keypoints.

    Works on entire columns. A message names the first affected image and the number of further ones.
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
    has_keypoints = np.zeros(len(ids), dtype=bool)
    if "keypoints" in table.schema.names:
        has_keypoints = np.asarray(pc.is_valid(table["keypoints"]))
        differ = has_keypoints & (_lengths(table["keypoints"]) != lengths["scores"])
        yield from problem(differ, "keypoints and scores differ in length")
    yield from problem(~ok & (lengths["scores"] > 0), "a failed image has detections")
    yield from problem(~ok & np.asarray(pc.is_null(table["error_type"])), "a failed image has no error")
    yield from problem(ok & np.asarray(pc.is_valid(table["error_type"])), "an image that is ok has an error")
    sized = np.asarray(pc.and_(pc.is_valid(table["height"]), pc.is_valid(table["width"])))
    yield from problem(ok & ~sized, "no height and width")
    for name in ("exif_orientation", "browser_orientation"):
        if name in table.schema.names:
            orientations = pc.fill_null(table[name], 1).to_numpy()
            yield from problem((orientations < 1) | (orientations > 8), f"{name} is not 1 to 8")

    height = pc.fill_null(table["height"], 0).to_numpy()
    width = pc.fill_null(table["width"], 0).to_numpy()
    if (lengths["boxes"] != lengths["scores"]).any():
        return  # the columns cannot be compared
    row = np.repeat(np.arange(len(ids)), lengths["scores"])
    boxes = _flat(_flat(table["boxes"])).to_numpy(zero_copy_only=False).reshape(-1, 4)
    scores = _flat(table["scores"]).to_numpy(zero_copy_only=False)
    x1, y1, x2, y2 = boxes.T
    inside = (x1 >= -_TOLERANCE) & (y1 >= -_TOLERANCE) & (x1 <= x2) & (y1 <= y2)
    inside &= (x2 <= width[row] + _TOLERANCE) & (y2 <= height[row] + _TOLERANCE)  # NaN compares false
    yield from problem(_rows_with(row, ~inside, len(ids)), "a box is not inside the image")
    yield from problem(_rows_with(row, ~((scores >= 0) & (scores <= 1)), len(ids)), "a score is not in 0..1")
    yield from problem(
        has_masks & _invalid_masks(table["masks"], height, width), "a mask is not an RLE of the image's size"
    )
    if has_keypoints.any():
        bad = _invalid_keypoints(table["keypoints"])
        yield from problem(bad, "a keypoint is not x, y and a score in 0..1, or their number varies")


def _invalid_keypoints(column: Any) -> npt.NDArray[np.bool_]:
    """Whether each row has a detection with an invalid keypoint, or with another number of keypoints than most."""
    by_detection = _flat(column)
    count = _lengths(by_detection)
    row = np.repeat(np.arange(len(column)), _lengths(column))
    expected = np.bincount(count).argmax() if len(count) else 0
    detection = np.repeat(np.arange(len(count)), count)
    points = _flat(by_detection)
    x, y, score = (part.to_numpy(zero_copy_only=False) for part in points.flatten())
    valid = np.isfinite(x) & np.isfinite(y) & (score >= 0) & (score <= 1)  # null is NaN, which compares false
    bad = (count != expected) | _rows_with(detection, ~valid, len(count))
    return _rows_with(row, bad, len(column))


def _lengths(column: Any) -> npt.NDArray[np.int64]:
    return np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy(), dtype=np.int64)


def _flat(column: Any) -> Any:
    flat = pc.list_flatten(column)
    return flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat


def _rows_with(row: npt.NDArray[np.int64], bad: npt.NDArray[np.bool_], rows: int) -> npt.NDArray[np.bool_]:
    """Whether each row has a bad detection; `row` is the row of each detection."""
    return np.bincount(row[bad], minlength=rows).astype(bool)


def _invalid_masks(masks: Any, height: npt.NDArray[np.int32], width: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Whether each row has an invalid mask."""
    flat = _flat(masks)
    row = np.repeat(np.arange(len(masks)), _lengths(masks))
    _, offsets, characters = flat.buffers()
    if characters is None:  # no mask has a single character
        return _rows_with(row, np.asarray(flat.is_valid()), len(masks))
    bounds = np.frombuffer(offsets, np.int32)[flat.offset : flat.offset + len(flat) + 1].astype(np.int64)
    valid = are_valid(np.frombuffer(characters, np.uint8), bounds, height[row], width[row])
    # A detection without a mask: the runs that were fused did not all have masks.
    valid |= np.asarray(flat.is_null())
    return _rows_with(row, ~valid, len(masks))
