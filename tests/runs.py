"""Finished runs with given rows, for the tests of all code that reads runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prelabel.detectors.base import DetectorRecord
from prelabel.image_ref import ImageRef
from prelabel.storage.files import Storage
from prelabel.store.plan import write_plan
from prelabel.store.records import ShardRecords
from prelabel.store.rows import ImageRow
from prelabel.store.run import Manifest, RunRecord, write_json, write_manifest
from prelabel.store.shards import write_shard

RUN_ID = "0123456789abcdef" * 2
DETECTOR = DetectorRecord("d", "d", "0" * 64, "d-00000000", "test", masks=True, classes=None)


def write_run(
    folder: Path,
    shards: Sequence[Sequence[ImageRow]],
    detector: DetectorRecord = DETECTOR,
    *,
    run_id: str = RUN_ID,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Write a finished run with these rows in shards of equal length (the last may be shorter); return its path."""
    output, storage = str(folder), Storage()
    refs = [ImageRef(row.image_id, row.uri, row.file_name, location=row.location) for shard in shards for row in shard]
    plan = write_plan(refs, output, storage, shard_size=len(shards[0]), plan_id=run_id[:8])
    records = [write_shard(rows, output, storage, shard=number, run_id=run_id) for number, rows in enumerate(shards)]
    run = RunRecord(
        run_id=run_id,
        created="2026-11-20T12:00:00+00:00",
        settings=dict(settings),
        source={"images": len(refs), "bytes": 0, "sources": []},
        detector=detector,
        shard_size=len(shards[0]),
        parts=plan.parts,
        versions={},
    )
    write_json(f"{output}/run.json", storage, run.to_json())
    manifest = Manifest(run_id, "2026-11-20T12:00:01+00:00", ShardRecords.of(records), {"wall": 1.0})
    write_manifest(output, storage, manifest)
    return output
