"""Verification finds each kind of damage, and nothing on a whole run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest

from prelabel.errors import StoreError
from prelabel.processes import Processes
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import open_run
from prelabel.store.shards import shard_url, write_shard
from prelabel.store.verify import verify
from tests.rows import found, mask_of, row
from tests.runs import RUN_ID, write_run

STORAGE = Storage()
DOG = found(mask=mask_of("###...", "###...", "###...", "###..."))
SCHEMAS = Path(__file__).parents[2] / "schemas"


def rows_of(shard: int) -> list[ImageRow]:
    return [row(f"{shard}-{i}.jpg", *[DOG] * i) for i in range(3)]


@pytest.fixture
def output(tmp_path: Path) -> str:
    """A whole run of two shards of three images."""
    return write_run(tmp_path / "out", [rows_of(shard) for shard in range(2)])


def rewrite(output: str, shard: int, change: Callable[[list[ImageRow]], list[ImageRow]]) -> None:
    """Write a shard with other rows, and a manifest that agrees with it: only the content is wrong."""
    record = write_shard(change(rows_of(shard)), output, STORAGE, shard=shard, run_id=RUN_ID)
    path = Path(output) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][shard] = record.to_json()
    path.write_text(json.dumps(manifest))


def problems(output: str) -> str:
    report = verify(output, STORAGE)
    assert not report.complete
    assert not report.whole  # its former name
    return "\n".join(report.problems)


def test_a_complete_run_has_no_problems_and_is_counted(output: str):
    report = verify(output, STORAGE)
    assert report.problems == ()
    assert (report.shards, report.rows, report.failed, report.detections) == (2, 6, 0, 6)


def test_run_and_manifest_match_their_schemas(output: str):
    for name in ("run", "manifest"):
        schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(json.loads((Path(output) / f"{name}.json").read_text()), schema)


def test_an_open_run_yields_all_rows_in_plan_order(output: str):
    assert [r.image_id for r in open_run(output, STORAGE).rows()] == [
        f"{s}-{i}.jpg" for s in range(2) for i in range(3)
    ]


def test_a_missing_shard(output: str):
    shard_url(output, 1).path.unlink()
    assert "shard-00001.parquet" in problems(output)


def test_a_flipped_byte(output: str):
    path = shard_url(output, 0).path
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    assert "shard-00000.parquet" in problems(output)


def test_a_shard_of_another_run(output: str):
    write_shard(rows_of(0), output, STORAGE, shard=0, run_id="f" * 32)
    assert "another run" in problems(output)


def test_a_file_that_is_not_in_the_plan(output: str):
    data = shard_url(output, 0).path.read_bytes()
    (Path(output) / "shards" / "shard-00002.parquet").write_bytes(data)
    assert "shard-00002.parquet" in problems(output)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: rows[:2], "missing ['0-2.jpg']"),
        (lambda rows: [rows[0], rows[1], rows[1]], "missing ['0-2.jpg']"),
        (lambda rows: [*rows, rows[0]], "4 rows, 3 planned"),
        (lambda rows: [rows[1], rows[0], rows[2]], "out of order"),
        (lambda rows: [*rows[:2], row("stranger.jpg")], "['stranger.jpg']"),
        (lambda rows: [*rows[:2], with_boxes(rows[2], [[0, 0, 7, 4]] * 2)], "'0-2.jpg': a box"),
        (lambda rows: [*rows[:2], with_boxes(rows[2], [[3, 0, 0, 4]] * 2)], "'0-2.jpg': a box"),
        (lambda rows: [*rows[:2], with_boxes(rows[2], [[np.nan] * 4] * 2)], "'0-2.jpg': a box"),
        (lambda rows: [*rows[:2], row("0-2.jpg", found(score=1.5))], "a score"),
        (
            lambda rows: [*rows[:2], row("0-2.jpg", found(mask=mask_of("#")))],
            "a mask",
        ),
        (lambda rows: [*rows[:2], row("0-2.jpg", found(keypoints=[(1, 2, 1.5)]))], "'0-2.jpg': a keypoint"),
        (
            lambda rows: [
                row("0-0.jpg", found(keypoints=[(1, 2, 1)]), found(keypoints=[(1, 2, 1)])),
                row("0-1.jpg", found(keypoints=[(1, 2, 1)] * 2)),
                rows[2],
            ],
            "'0-1.jpg': a keypoint",
        ),
        (lambda rows: [*rows[:2], replace(rows[2], error_type="X")], "a failed image has detections"),
        (lambda rows: [*rows[:2], replace(rows[2], exif_orientation=9)], "'0-2.jpg': exif_orientation"),
        (lambda rows: [replace(rows[0], browser_orientation=0), *rows[1:]], "browser_orientation"),
        (lambda rows: [*rows[:2], replace(rows[2], browser_orientation=-6)], "browser_orientation"),
    ],
)
def test_invalid_rows_are_reported(output: str, change: Callable[[list[ImageRow]], list[ImageRow]], problem: str):
    rewrite(output, 0, change)
    assert problem in problems(output)


def with_boxes(image_row: ImageRow, boxes: Any) -> ImageRow:
    assert image_row.detections is not None
    return replace(image_row, detections=replace(image_row.detections, xyxy=np.array(boxes, np.float32)))


def test_lists_of_unequal_length(output: str):
    path = shard_url(output, 0).path
    table = pq.read_table(path)
    index = table.schema.get_field_index("labels")
    shorter = [labels[:-1] for labels in table["labels"].to_pylist()]
    wrong = table.set_column(index, table.schema.field("labels"), [shorter])
    pq.write_table(wrong, path)
    assert "'0-1.jpg' (and 1 more): labels and scores" in problems(output)


def test_an_unfinished_run_is_reported(output: str):
    (Path(output) / "manifest.json").unlink()
    assert "manifest.json" in problems(output)
    with pytest.raises(StoreError, match="not finished"):
        open_run(output, STORAGE)


def test_no_run_at_all_is_an_error(tmp_path: Path):
    with pytest.raises(StoreError, match=r"no run.*run\.json"):
        verify(str(tmp_path), STORAGE)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": 99}', '{"schema_version": 1}'])
def test_a_corrupt_run_json_is_a_one_line_store_error(output: str, text: str):
    (Path(output) / "run.json").write_text(text)
    with pytest.raises(StoreError) as caught:
        verify(output, STORAGE)
    assert "\n" not in str(caught.value)


def test_several_processes_report_the_same_in_the_same_order(tmp_path: Path):
    output = write_run(tmp_path / "run", [[row(f"{n}.jpg", found(mask=mask_of(*["###..."] * 4)))] for n in range(40)])
    for shard in (3, 35):
        path = shard_url(output, shard).path
        path.write_bytes(path.read_bytes()[:-1])
    told: list[tuple[int, int]] = []
    with Processes(2, at_once=True) as processes:
        report = verify(output, STORAGE, processes=processes, progress=lambda *done: told.append(done))
    assert report == verify(output, STORAGE)
    assert report.rows == 38
    assert [name in line for name, line in zip(("00003", "00035"), report.problems, strict=True)] == [True, True]
    assert told == [(16, 40), (32, 40), (40, 40)]
