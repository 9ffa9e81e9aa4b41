"""Batches of detections hold what the rows of the same shard hold, column by column."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prelabel.errors import StoreError
from prelabel.frames import BROWSER, DISPLAY, STORED
from prelabel.select import Selection
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.rows import ImageFacts, image_facts, rows_to_table
from prelabel.store.run import open_run
from prelabel.store.shards import read_batches, read_shard
from tests.rows import failed_row, found, mask_of, row
from tests.runs import write_run

MASK = mask_of("###...", "###...", "#.....", "......")
TURNED = replace(
    row("t.webp", found(mask=MASK, keypoints=[(1, 2, 0.5)]), found("Cat", 0.4, keypoints=[(0, 0, 0)])),
    exif_orientation=6,
    browser_orientation=1,
)
ROWS = [row("a.jpg", found(), found("Cat", 0.95, (1, 1, 2, 2))), failed_row("b.jpg"), row("c.jpg"), TURNED]


def batch_of_rows() -> DetectionBatch:
    (record_batch,) = rows_to_table(ROWS).to_batches()
    return DetectionBatch.from_arrow(record_batch)


@pytest.mark.parametrize("frame", [DISPLAY, STORED, BROWSER])
def test_a_batch_has_the_facts_and_detections_of_the_rows(tmp_path: Path, frame: str) -> None:
    rows = open_run(write_run(tmp_path / "run", [ROWS[:3], ROWS[3:]]), Storage()).rows.in_frame(frame)
    images = 0
    image_rows = list(rows())
    for batch in rows.batches():
        for n, facts in enumerate(batch.images):
            image_row, own = image_rows[images + n], batch[batch.image == n]
            assert facts == ImageFacts(**{name: getattr(image_row, name) for name in ImageFacts.__dataclass_fields__})
            assert batch.failed[n] == (image_row.detections is None)
            assert own.place.tolist() == list(range(len(image_row)))
            if image_row.detections is not None:
                np.testing.assert_array_equal(own.xyxy, image_row.detections.xyxy)
                assert own.label.tolist() == image_row.detections.label.tolist()
                assert own.score.tolist() == image_row.detections.score.tolist()
                assert {(image_row.height, image_row.width)} >= set(
                    zip(own.height.tolist(), own.width.tolist(), strict=True)
                )
                masks = (
                    [None] * len(image_row) if image_row.detections.mask is None else image_row.detections.mask.tolist()
                )
                assert ([None] * len(own) if own.mask is None else own.mask.tolist()) == masks
                if image_row.detections.keypoints is not None:
                    assert own.keypoints is not None
                    assert own.keypoints.tolist() == image_row.detections.keypoints.tolist()
        images += len(batch.images)
    assert images == len(ROWS)


def test_keypoints_turn_with_their_image() -> None:
    turned = batch_of_rows().in_frame(STORED)[2:]
    # Orientation 6 turned the stored image by 90 degrees clockwise; (1, 2) of 4 x 6 pixels came from (2, 5).
    assert turned.keypoints is not None
    assert turned.keypoints[0].tolist() == [[2, 5, 0.5]]


def test_a_selection_keeps_the_best_of_each_image_first() -> None:
    kept = batch_of_rows().kept(Selection(score_threshold=0.5))
    assert kept.image.tolist() == [0, 0, 3]
    assert kept.place.tolist() == [1, 0, 0]
    assert kept.label.tolist() == ["Cat", "Dog", "Dog"]


@pytest.mark.parametrize(("most", "images"), [(1, [1, 2, 1]), (2, [3, 1]), (4, [4])])
def test_a_batch_is_split_between_images(most: int, images: list[int]) -> None:
    whole = batch_of_rows()
    parts = list(whole.split(most))
    assert [len(part.images) for part in parts] == images
    assert [facts.image_id for part in parts for facts in part.images] == ["a.jpg", "b.jpg", "c.jpg", "t.webp"]
    assert [part.images[n].image_id for part in parts for n in part.image.tolist()] == ["a.jpg"] * 2 + ["t.webp"] * 2
    assert np.concatenate([part.score for part in parts]).tolist() == whole.score.tolist()


def test_excluded_images_keep_their_place() -> None:
    only = batch_of_rows().only_images(np.array([False, True, True, True]))
    assert len(only.images) == 4
    assert only.image.tolist() == [3, 3]


def test_masks_and_views_of_some_images_only() -> None:
    masked, several = row("a.jpg", found(mask=MASK), found(mask=MASK)), row("b.jpg", found(), found())
    assert several.detections is not None
    several = replace(several, views_shown=3, detections=replace(several.detections, views=[3, 1]))
    (record_batch,) = rows_to_table([masked, several, row("c.jpg", found())]).to_batches()
    batch = DetectionBatch.from_arrow(record_batch)
    assert batch.mask is not None
    assert batch.mask.tolist() == [MASK, MASK, None, None, None]
    assert batch.masked.tolist() == [True, False, False]
    assert batch.views is not None
    assert (batch.views.tolist(), batch.views.dtype) == ([0, 0, 3, 1, 0], np.int32)
    assert [facts.views_shown for facts in batch.images] == [1, 3, 1]
    views = [None if r.detections is None else r.detections.views for r in batch.rows()]
    assert [None if v is None else v.tolist() for v in views] == [None, [3, 1], None]
    assert DetectionBatch.from_arrow(record_batch.slice(0, 1)).views is None
    assert DetectionBatch.from_arrow(record_batch.slice(1, 2)).mask is None


@pytest.mark.parametrize("column", ["scores", "labels", "masks", "views", "keypoints"])
def test_lists_of_different_lengths_are_a_corrupt_shard(tmp_path: Path, column: str) -> None:
    table = rows_to_table([row("a.jpg", found(mask=MASK))])
    points = [[{"x": 1, "y": 2, "score": 0.5}]] * 2
    two = {"scores": [0.9, 0.8], "labels": ["Dog", "Cat"], "masks": [MASK] * 2, "views": [2, 1], "keypoints": points}
    values = two[column]
    place = table.schema.get_field_index(column)
    path = tmp_path / "shard.parquet"
    pq.write_table(
        table.set_column(place, table.schema.field(place), pa.array([values], table.schema[place].type)), path
    )
    for read in (read_batches, read_shard):
        with pytest.raises(StoreError, match="different numbers"):
            list(read(str(path), Storage()))


def test_a_batch_without_rows_has_no_facts():
    (batch,) = rows_to_table(ROWS).drop_columns(["frames"]).to_batches()
    assert [facts.image_id for facts in image_facts(batch)] == [row.image_id for row in ROWS]
    assert image_facts(batch[:0]) == []
