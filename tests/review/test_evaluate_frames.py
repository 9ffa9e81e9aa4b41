"""The detector's boxes are scored, and only in the same frame as the boxes of the truth."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from prelabel.errors import ConfigError, EvaluateError
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.frames import orientation_to, oriented_pixels
from prelabel.masks import rle
from prelabel.review.evaluation import Evaluation
from prelabel.review.options import EvaluateOptions
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from tests.messages import facts, told
from tests.review.cases import evaluated, image, thing, write_truth
from tests.rows import INFO, found, row, rows

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

SIZE = {"height": 40, "width": 60}
#: Displayed 60 x 40 (width x height); stored 40 x 60 with orientation 6.
UPRIGHT = (30.0, 4.0, 20.0, 10.0)
STORED = (4.0, 10.0, 10.0, 20.0)


def photo(name: str = "a.jpg", applied: int | None = 6, browser: int | None = None, **more: Any) -> ImageRow:
    x, y, w, h = UPRIGHT
    image_row = row(name, found("Dog", 0.9, (x, y, x + w, y + h), **more), **SIZE)
    return replace(image_row, exif_orientation=applied, browser_orientation=browser)


def label_studio(truth: str) -> str:
    path = Path(truth)
    path.write_text(json.dumps({**json.loads(path.read_text()), "info": {"contributor": "Label Studio"}}))
    return truth


def ap(done: Evaluation) -> float | None:
    return done.boxes.overall["AP"]


def test_the_detectors_box_is_scored_and_not_the_box_widened_around_its_mask(tmp_path: Path) -> None:
    # A mask consists of whole pixels, so it can exceed its box by up to a pixel.
    mask = np.zeros((40, 60), bool)
    mask[10:21, 10:21] = True
    own = found("Dog", 0.9, (10.3, 10.3, 20.6, 20.6), mask=rle.encode(mask))
    truth = write_truth(tmp_path, [thing((10.3, 10.3, 10.3, 10.3))])
    assert ap(evaluated(truth, row("a.jpg", own, **SIZE))) == pytest.approx(1)
    # In COCO results with masks, the box is widened to contain its mask: its IoU is 0.88, so it is correct up to 0.85.
    for segmentation, wanted in (("none", 1.0), ("rle", 0.8)):
        results = tmp_path / f"{segmentation}.json"
        options = CocoOptions(image_ids=truth, categories=truth, results=str(results), segmentation=segmentation)
        export_coco(INFO, rows(row("a.jpg", own, **SIZE)), str(tmp_path / "c.json"), options, Storage())
        assert by_hand(truth, json.loads(results.read_text())) == pytest.approx(wanted)


def test_a_detection_whose_mask_is_empty_is_scored_by_its_box(tmp_path: Path) -> None:
    truth = write_truth(tmp_path, [thing((0, 0, 10, 10), segmentation=[[0, 0, 10, 0, 10, 10, 0, 10]])])
    empty = found("Dog", 0.9, (0, 0, 10, 10), mask=rle.encode(np.zeros((40, 60))))
    done = evaluated(truth, row("a.jpg", empty, **SIZE))
    assert ap(done) == pytest.approx(1)
    assert done.masks is not None
    assert done.masks.overall["AP"] == pytest.approx(0)


def by_hand(truth: str, results: list[dict[str, Any]]) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parametrize("seed", range(3))
def test_random_boxes_score_as_in_pycocotools(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    things, results, run = [], [], []
    for number in range(1, 9):
        detections = []
        for _ in range(6):
            x, y = random.uniform(0, (40, 25))
            w, h = random.uniform(3, (20, 15))
            things.append(thing((x, y, w, h), int(random.integers(1, 3)), image_id=number))
            box = np.array([x, y, x + w, y + h]) + random.normal(0, 0.7, 4)
            box = np.clip(box, 0, [60, 40, 60, 40]).astype(np.float32)
            mask = np.zeros((40, 60), bool)
            # Like real masks, up to a pixel beyond the box.
            mask[int(box[1]) : int(box[3]) + 1, int(box[0]) : int(box[2]) + 1] = True
            category, score = int(random.integers(1, 3)), float(np.float32(random.random()))
            label = ("dog", "cat")[category - 1]
            detections.append(found(label, score, box.tolist(), mask=rle.encode(mask), category_id=category, mid=""))
            x1, y1, x2, y2 = box.astype(float).tolist()
            bbox = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": number, "category_id": category, "score": score, "bbox": bbox})
        run.append(row(f"{number}.jpg", *detections, **SIZE))
    truth = write_truth(tmp_path, things, [image(n, f"{n}.jpg") for n in range(1, 9)])
    by_pycocotools = by_hand(truth, results)
    assert 0.05 < by_pycocotools < 0.9
    assert ap(evaluated(truth, *run, info=replace(INFO, classes=None))) == pytest.approx(by_pycocotools, abs=1e-12)


def test_sizes_tell_that_a_truth_is_in_the_stored_frame(tmp_path: Path) -> None:
    images = [image(1, "a.jpg", height=60, width=40), image(2, "b.jpg")]
    truth = write_truth(tmp_path, [thing(STORED), thing(UPRIGHT, image_id=2)], images)
    done = evaluated(truth, photo(), photo("b.jpg", applied=None))
    assert ap(done) == pytest.approx(1)
    assert (done.images.matched, done.images.other_size) == (2, 0)
    assert told(done.notes, "1", "stored", "detections")


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_for_orientations_that_keep_the_size_other_images_tell_the_frame(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((40, 60), bool)
    upright[4:14, 30:50] = True
    ys, xs = np.nonzero(oriented_pixels(upright, orientation_to("stored", orientation, None)))
    box = (int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)
    images = [image(1, "a.jpg", height=60, width=40), image(2, "b.jpg")]
    truth = write_truth(tmp_path, [thing(STORED), thing(box, image_id=2)], images)
    done = evaluated(truth, photo(), photo("b.jpg", applied=orientation))
    assert ap(done) == pytest.approx(1)
    assert told(done.notes, "stored", "truth-frame")
    # Without other images, the display frame is assumed with a note; the user can give another frame.
    alone = write_truth(tmp_path, [thing(box)])
    done = evaluated(alone, photo(applied=orientation))
    assert ap(done) == pytest.approx(0)
    assert told(done.notes, "displayed", "truth-frame")
    done = evaluated(alone, photo(applied=orientation), truth_frame="stored")
    assert ap(done) == pytest.approx(1)
    assert not told(done.notes, "truth-frame")


def test_a_truth_of_displayed_images_needs_no_note(tmp_path: Path) -> None:
    done = evaluated(write_truth(tmp_path, [thing(UPRIGHT)]), photo())
    assert ap(done) == pytest.approx(1)
    assert not any("frame" in note for note in done.notes)


def test_a_truth_without_sizes_is_assumed_to_be_displayed_with_a_note(tmp_path: Path) -> None:
    done = evaluated(write_truth(tmp_path, [thing(UPRIGHT)], [{"id": 1, "file_name": "a.jpg"}]), photo())
    assert ap(done) == pytest.approx(1)
    assert told(done.notes, "truth-frame")
    plain = photo(applied=None)
    done = evaluated(write_truth(tmp_path, [thing(UPRIGHT)], [{"id": 1, "file_name": "a.jpg"}]), plain)
    assert not told(done.notes, "truth-frame")


def test_label_studios_coco_has_sizes_of_the_file_and_boxes_in_the_browser_frame(tmp_path: Path) -> None:
    # A photo that browsers rotate, and a WebP that they do not rotate.
    images = [image(1, "a.jpg", height=60, width=40), image(2, "b.webp", height=60, width=40)]
    truth = label_studio(write_truth(tmp_path, [thing(UPRIGHT), thing(STORED, image_id=2)], images))
    done = evaluated(truth, photo(), photo("b.webp", browser=1))
    assert ap(done) == pytest.approx(1)
    assert (done.images.other_size, done.images.swapped) == (0, 1)
    assert told(done.notes, "1", "browsers")


def test_boxes_beyond_the_image_tell_that_the_size_is_that_of_the_file(tmp_path: Path) -> None:
    images = [image(1, "a.jpg", height=60, width=40), image(2, "b.jpg", height=60, width=40)]
    # Only the first image has boxes beyond 40 x 60, but the frame holds for the whole truth.
    truth = write_truth(tmp_path, [thing(UPRIGHT), thing((2, 3, 20, 10), image_id=2)], images)
    second = replace(row("b.jpg", found("Dog", 0.9, (2, 3, 22, 13)), **SIZE), exif_orientation=6)
    done = evaluated(truth, photo(), second)
    assert ap(done) == pytest.approx(1)
    assert done.images.swapped == 2


def test_a_given_frame_is_used_and_images_of_another_size_are_skipped(tmp_path: Path) -> None:
    truth = write_truth(tmp_path, [thing(STORED)], [image(1, "a.jpg", height=60, width=40)])
    assert ap(evaluated(truth, photo(), truth_frame="stored")) == pytest.approx(1)
    assert ap(evaluated(truth, photo(browser=1), truth_frame="browser")) == pytest.approx(1)
    other = write_truth(tmp_path, [thing((0, 0, 5, 5))], [image(1, "a.jpg", height=33, width=44)])
    with pytest.raises(EvaluateError, match=facts("size")):
        evaluated(other, photo())
    with pytest.raises(ConfigError, match=facts("truth-frame", "stored", "'upright'")):
        EvaluateOptions(truth="x", truth_frame="upright")


def test_masks_are_rotated_with_their_boxes(tmp_path: Path) -> None:
    upright = np.zeros((40, 60), bool)
    upright[4:14, 30:50] = True
    upright[5, 31:40] = False
    stored = oriented_pixels(upright, 8)
    counts = {"size": [60, 40], "counts": rle.encode(stored)}
    images = [image(1, "a.jpg", height=60, width=40)]
    truth = write_truth(tmp_path, [thing(STORED, segmentation=counts)], images)
    done = evaluated(truth, photo(mask=rle.encode(upright)), info=replace(INFO, masks=True))
    assert done.masks is not None
    assert (ap(done), done.masks.overall["AP"]) == (pytest.approx(1), pytest.approx(1))


def test_pillow_orients_as_these_tests_do() -> None:
    upright = np.zeros((40, 60), np.uint8)
    upright[4:14, 30:50] = 1
    # Orientation 6: the stored pixels must be rotated by 90 degrees clockwise for display, and back for the test.
    stored = np.asarray(Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90))
    ys, xs = np.nonzero(stored)
    assert (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1) == STORED


def test_label_studios_polygons_use_the_size_of_the_file_and_its_rectangles_the_browser_frame(tmp_path: Path) -> None:
    # Its converter writes a polygon's percentages times the size of the file, 40 x 60: 50% and 10% are (20, 6). The
    # rectangle beside it lies on the rotated image, 60 x 40.
    x, y, w, h = 20.0, 6.0, 20 * 40 / 60, 10 * 60 / 40
    outline = [x, y, x + w, y, x + w, y + h, x, y + h]
    images = [image(1, "a.jpg", height=60, width=40)]
    polygon = thing((x, y, w, h), segmentation=[outline])
    mask = np.zeros((40, 60), bool)
    mask[4:14, 30:50] = True
    image_row = photo(mask=rle.encode(mask))
    done = evaluated(label_studio(write_truth(tmp_path, [polygon], images)), image_row, info=replace(INFO, masks=True))
    assert done.masks is not None
    assert (ap(done), done.masks.overall["AP"]) == (pytest.approx(1), pytest.approx(1))
    assert told(done.notes, "polygons", "1", "stretched")
    # A polygon and a rectangle on the same image.
    both = row("a.jpg", found("Dog", 0.9, (30, 4, 50, 14)), found("Dog", 0.8, (2, 3, 12, 23)), **SIZE)
    both = replace(both, exif_orientation=6)
    rectangle = thing((2, 3, 10, 20), segmentation=[])
    assert ap(evaluated(label_studio(write_truth(tmp_path, [polygon, rectangle], images)), both)) == pytest.approx(1)
    # Polygons of other tools are used as they are.
    other = write_truth(tmp_path, [thing(UPRIGHT, segmentation=[[30, 4, 50, 4, 50, 14, 30, 14]])], images)
    done = evaluated(other, photo())
    assert ap(done) == pytest.approx(1)
    assert not any("stretched" in note for note in done.notes)
