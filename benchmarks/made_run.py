"""Write a finished run of any size without a detector: valid for `prelabel verify`, written column by column.

    python benchmarks/made_run.py /tmp/run --rows 1000000

Images of 640 x 480 with 8 detections of 80 classes each; those of every tenth image have masks. A million rows take
about a minute and 1 GB.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from prelabel.detectors.base import DetectorRecord
from prelabel.image_ref import ImageRef
from prelabel.labels.maps import read_label_map
from prelabel.masks import rle
from prelabel.storage.address import join
from prelabel.storage.files import Storage
from prelabel.store.plan import write_plan
from prelabel.store.records import ShardRecords
from prelabel.store.rows import OK, SHARD_SCHEMA, STAGES
from prelabel.store.run import Manifest, RunRecord, write_json, write_manifest
from prelabel.store.shards import write_table

HEIGHT, WIDTH = 480, 640
DETECTIONS = 8
MASKED_EVERY = 10
RUN_ID = "5eed" * 8
SHARD_SIZE = 512
_CREATED = "2026-01-01T00:00:00+00:00"


def mask_pool(rng: np.random.Generator, size: int) -> tuple[list[str], np.ndarray]:
    """Counts of wavy shapes at random places, and the `(size, 4)` float32 boxes around them."""
    counts, boxes = [], []
    angle = np.linspace(0, 2 * np.pi, 64)
    for h, w in rng.integers(30, 300, (size, 2)):
        radius = 1 - rng.uniform(0, 0.3) * (1 + np.sin(rng.integers(2, 7) * angle + rng.uniform(0, 6)))
        y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
        inside = np.hypot(x, y) <= np.interp(np.arctan2(y, x) % (2 * np.pi), angle, radius)
        y0, x0 = int(rng.integers(0, HEIGHT - h + 1)), int(rng.integers(0, WIDTH - w + 1))
        counts.append(rle.encode_crop(inside, y0, x0, HEIGHT, WIDTH))
        left, top, across, down = rle.bbox_xywh(counts[-1], HEIGHT, WIDTH)
        boxes.append([left, top, left + across, top + down])
    return counts, np.array(boxes, np.float32)


class Tables:
    """Makes the tables of the shards, each from its own seed."""

    def __init__(self, model_version: str) -> None:
        classes = read_label_map("coco", Storage()).classes
        self._numbers = np.array(sorted(classes), np.int32)
        self._labels = pa.array([classes[number].name for number in self._numbers.tolist()])
        self._mids = pa.array([classes[number].mid for number in self._numbers.tolist()])
        counts, self._mask_boxes = mask_pool(np.random.default_rng(0), 1000)
        self._counts = pa.array(counts)
        self._model_version = model_version
        self.classes = tuple(classes[n] for n in self._numbers.tolist())

    def table(self, refs: list[ImageRef], shard: int) -> pa.Table:
        """The rows of these images."""
        rng, rows = np.random.default_rng(shard), len(refs)
        n = rows * DETECTIONS
        size = rng.uniform(20, 300, (n, 2)).astype(np.float32)
        corner = (rng.uniform(0, 1, (n, 2)) * (np.array([WIDTH, HEIGHT]) - size)).astype(np.float32)
        boxes = np.concatenate((corner, np.minimum(corner + size, np.array([WIDTH, HEIGHT], np.float32))), axis=1)
        masked = np.arange(rows) % MASKED_EVERY == 0
        which = rng.integers(0, len(self._counts), int(masked.sum()) * DETECTIONS)
        boxes[np.repeat(masked, DETECTIONS)] = self._mask_boxes[which]
        scores = -np.sort(-rng.uniform(0.3, 1, (rows, DETECTIONS)).astype(np.float32), axis=1)
        class_index = rng.integers(0, len(self._numbers), n)
        offsets = np.arange(rows + 1, dtype=np.int32) * DETECTIONS
        mask_ends = np.append(0, np.cumsum(masked * DETECTIONS)).astype(np.int32)
        stage = pa.array(np.full(rows, 0.001, np.float32))
        columns = {
            "image_id": pa.array([ref.image_id for ref in refs]),
            "uri": pa.array([ref.uri for ref in refs]),
            "file_name": pa.array([ref.file_name for ref in refs]),
            "status": pa.repeat(OK, rows),
            "height": pa.repeat(pa.scalar(HEIGHT, pa.int32()), rows),
            "width": pa.repeat(pa.scalar(WIDTH, pa.int32()), rows),
            "bytes": pa.repeat(pa.scalar(100_000, pa.int64()), rows),
            "boxes": _lists(offsets, pa.FixedSizeListArray.from_arrays(pa.array(boxes.ravel()), 4)),
            "classes": _lists(offsets, pa.array(self._numbers[class_index])),
            "labels": _lists(offsets, self._labels.take(pa.array(class_index))),
            "mids": _lists(offsets, self._mids.take(pa.array(class_index))),
            "scores": _lists(offsets, pa.array(scores.ravel())),
            "masks": pa.ListArray.from_arrays(
                pa.array(mask_ends), self._counts.take(pa.array(which)), mask=pa.array(~masked)
            ),
            "detector": pa.repeat("made", rows),
            "model_version": pa.repeat(self._model_version, rows),
            "seconds": pa.StructArray.from_arrays([stage] * len(STAGES), names=list(STAGES)),
        }
        arrays = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(rows, f.type) for f in SHARD_SCHEMA]
        return pa.Table.from_arrays(arrays, schema=SHARD_SCHEMA)


def _lists(offsets: np.ndarray, values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def references(rows: int) -> Iterator[ImageRef]:
    """Distinct images below `s3://bucket/photos/`, a thousand per folder."""
    for number in range(1, rows + 1):
        name = f"{(number - 1) // 1000:04d}/{number:08d}.jpg"
        yield ImageRef(name, f"s3://bucket/photos/{name}", name)


def make_run(output: str, rows: int) -> None:
    """Write plan, shards, `run.json` and `manifest.json` of a finished run with this many images."""
    storage = Storage()
    tables = Tables("made-5eed5eed")
    plan = write_plan(references(rows), output, storage, shard_size=SHARD_SIZE, plan_id=RUN_ID[:8])
    stream, records = references(rows), []
    while refs := list(itertools.islice(stream, SHARD_SIZE)):
        shard = len(records)
        records.append(write_table(tables.table(refs, shard), output, storage, shard=shard, run_id=RUN_ID))
    detector = DetectorRecord("made", "made", "0" * 64, "made-5eed5eed", "none", masks=True, classes=tables.classes)
    source = {"images": rows, "bytes": 0, "sources": []}
    run = RunRecord(RUN_ID, _CREATED, {}, source, detector, SHARD_SIZE, plan.parts, {})
    write_json(join(output, "run.json"), storage, run.to_json())
    write_manifest(output, storage, Manifest(RUN_ID, _CREATED, ShardRecords.of(records)))


def main() -> None:
    """Write a run and print how long that took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output")
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    start = time.perf_counter()
    make_run(arguments.output, arguments.rows)
    print(f"{arguments.rows:,} rows in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
