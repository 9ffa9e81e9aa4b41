"""The detector's own boxes are scored, and those of both sides in one frame or not at all."""

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

from prelabel import rle
from prelabel.errors import ConfigError, EvaluateError
from prelabel.evaluate.evaluation import Evaluation
from prelabel.evaluate.options import EvaluateOptions
from prelabel.export.coco import export_coco
from prelabel.export.coco_options import CocoOptions
from prelabel.frames import turned_rows, way_to
from prelabel.storage import Storage
from prelabel.store.rows import ImageRow
from tests.evaluate.cases import evaluated, image, thing, write_truth
from tests.rows import INFO, found, row, rows

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

SIZE = {"height": 40, "width": 60}
#: Upright 60 x 40 (width x height); as stored, orientation 6: 40 x 60.
UPRIGHT = (30.0, 4.0, 20.0, 10.0)
STORED = (4.0, 10.0, 10.0, 20.0)


def photo(name: str = "a.jpg", applied: int | None = 6, browser: int | None = None, **more: Any) -> ImageRow:
    x, y, w, h = UPRIGHT
    one = row(name, found("Dog", 0.9, (x, y, x + w, y + h), **more), **SIZE)
    return replace(one, exif_orientation=applied, browser_orientation=browser)


def label_studio(truth: str) -> str:
    path = Path(truth)
    path.write_text(json.dumps({**json.loads(path.read_text()), "info": {"contributor": "Label Studio"}}))
    return truth


def ap(done: Evaluation) -> float | None:
    return done.boxes.overall["AP"]


def test_the_detectors_own_box_is_scored_and_not_the_one_widened_around_its_mask(tmp_path: Path) -> None:
    # The mask's pixels are whole: it stands out of the box by up to one.
    mask = np.zeros((40, 60), bool)
    mask[10:21, 10:21] = True
    own = found("Dog", 0.9, (10.3, 10.3, 20.6, 20.6), mask=rle.encode(mask))
    truth = write_truth(tmp_path, [thing((10.3, 10.3, 10.3, 10.3))])
    assert ap(evaluated(truth, row("a.jpg", own, **SIZE))) == pytest.approx(1)
    # Of the results beside a COCO file with masks the box contains its mask: an IoU of 0.88, found up to 0.85 only.
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
def test_random_boxes_score_as_pycocotools_scores_the_detectors_own(tmp_path: Path, seed: int) -> None:
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
            # As masks are: up to a pixel beyond the box.
            mask[int(box[1]) : int(box[3]) + 1, int(box[0]) : int(box[2]) + 1] = True
            category, score = int(random.integers(1, 3)), float(np.float32(random.random()))
            label = ("dog", "cat")[category - 1]
            detections.append(found(label, score, box.tolist(), mask=rle.encode(mask), category_id=category, mid=""))
            x1, y1, x2, y2 = box.astype(float).tolist()
            bbox = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": number, "category_id": category, "score": score, "bbox": bbox})
        run.append(row(f"{number}.jpg", *detections, **SIZE))
    truth = write_truth(tmp_path, things, [image(n, f"{n}.jpg") for n in range(1, 9)])
    theirs = by_hand(truth, results)
    assert 0.05 < theirs < 0.9
    assert ap(evaluated(truth, *run, info=replace(INFO, classes=None))) == pytest.approx(theirs, abs=1e-12)


def test_a_truth_of_the_stored_pixels_is_told_by_its_sizes(tmp_path: Path) -> None:
    images = [image(1, "a.jpg", height=60, width=40), image(2, "b.jpg")]
    truth = write_truth(tmp_path, [thing(STORED), thing(UPRIGHT, image_id=2)], images)
    done = evaluated(truth, photo(), photo("b.jpg", applied=None))
    assert ap(done) == pytest.approx(1)
    assert (done.images.matched, done.images.other_size) == (2, 0)
    assert any(
        "1 images" in note and "lie on the pixels as stored" in note and "turned there" in note for note in done.notes
    )


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_of_orientations_that_keep_the_size_the_other_images_tell(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((40, 60), bool)
    upright[4:14, 30:50] = True
    ys, xs = np.nonzero(turned_rows(upright, way_to("stored", orientation, None)))
    box = (int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)
    images = [image(1, "a.jpg", height=60, width=40), image(2, "b.jpg")]
    truth = write_truth(tmp_path, [thing(STORED), thing(box, image_id=2)], images)
    done = evaluated(truth, photo(), photo("b.jpg", applied=orientation))
    assert ap(done) == pytest.approx(1)
    assert any("do not tell" in note and "pixels as stored" in note and "truth-frame" in note for note in done.notes)
    # Alone it is taken for upright, as before, and that is said; the user knows better.
    alone = write_truth(tmp_path, [thing(box)])
    done = evaluated(alone, photo(applied=orientation))
    assert ap(done) == pytest.approx(0)
    assert any("do not tell" in note and "upright" in note and "truth-frame" in note for note in done.notes)
    done = evaluated(alone, photo(applied=orientation), truth_frame="stored")
    assert ap(done) == pytest.approx(1)
    assert not any("do not tell" in note for note in done.notes)


def test_a_truth_of_upright_pictures_needs_no_note(tmp_path: Path) -> None:
    done = evaluated(write_truth(tmp_path, [thing(UPRIGHT)]), photo())
    assert ap(done) == pytest.approx(1)
    assert not any("frame" in note for note in done.notes)


def test_a_truth_without_sizes_is_taken_for_upright_and_it_is_said(tmp_path: Path) -> None:
    done = evaluated(write_truth(tmp_path, [thing(UPRIGHT)], [{"id": 1, "file_name": "a.jpg"}]), photo())
    assert ap(done) == pytest.approx(1)
    assert any("do not tell" in note for note in done.notes)
    plain = photo(applied=None)
    done = evaluated(write_truth(tmp_path, [thing(UPRIGHT)], [{"id": 1, "file_name": "a.jpg"}]), plain)
    assert not any("do not tell" in note for note in done.notes)


def test_label_studios_coco_has_the_files_size_and_boxes_on_what_browsers_show(tmp_path: Path) -> None:
    # A photo that browsers turn, and a WebP that they do not.
    images = [image(1, "a.jpg", height=60, width=40), image(2, "b.webp", height=60, width=40)]
    truth = label_studio(write_truth(tmp_path, [thing(UPRIGHT), thing(STORED, image_id=2)], images))
    done = evaluated(truth, photo(), photo("b.webp", browser=1))
    assert ap(done) == pytest.approx(1)
    assert (done.images.other_size, done.images.swapped) == (0, 1)
    assert any("of 1 images" in note and "lie on what browsers show" in note for note in done.notes)


def test_boxes_beyond_the_stated_size_tell_that_it_is_the_files(tmp_path: Path) -> None:
    images = [image(1, "a.jpg", height=60, width=40), image(2, "b.jpg", height=60, width=40)]
    # Only the first reaches beyond 40 x 60, but both are of one truth.
    truth = write_truth(tmp_path, [thing(UPRIGHT), thing((2, 3, 20, 10), image_id=2)], images)
    second = replace(row("b.jpg", found("Dog", 0.9, (2, 3, 22, 13)), **SIZE), exif_orientation=6)
    done = evaluated(truth, photo(), second)
    assert ap(done) == pytest.approx(1)
    assert done.images.swapped == 2


def test_a_stated_frame_is_obeyed_and_another_size_left_out(tmp_path: Path) -> None:
    truth = write_truth(tmp_path, [thing(STORED)], [image(1, "a.jpg", height=60, width=40)])
    assert ap(evaluated(truth, photo(), truth_frame="stored")) == pytest.approx(1)
    assert ap(evaluated(truth, photo(browser=1), truth_frame="browser")) == pytest.approx(1)
    other = write_truth(tmp_path, [thing((0, 0, 5, 5))], [image(1, "a.jpg", height=33, width=44)])
    with pytest.raises(EvaluateError, match="another size"):
        evaluated(other, photo())
    with pytest.raises(ConfigError, match="truth-frame must be one of"):
        EvaluateOptions(truth="x", truth_frame="upright")


def test_masks_are_turned_with_their_boxes(tmp_path: Path) -> None:
    upright = np.zeros((40, 60), bool)
    upright[4:14, 30:50] = True
    upright[5, 31:40] = False
    stored = turned_rows(upright, 8)
    counts = {"size": [60, 40], "counts": rle.encode(stored)}
    images = [image(1, "a.jpg", height=60, width=40)]
    truth = write_truth(tmp_path, [thing(STORED, segmentation=counts)], images)
    done = evaluated(truth, photo(mask=rle.encode(upright)), info=replace(INFO, masks=True))
    assert done.masks is not None
    assert (ap(done), done.masks.overall["AP"]) == (pytest.approx(1), pytest.approx(1))


def test_pillow_agrees_on_the_frames_of_these_tests() -> None:
    upright = np.zeros((40, 60), np.uint8)
    upright[4:14, 30:50] = 1
    # Orientation 6: the file's picture turned a quarter to the right is upright, so back to the left.
    stored = np.asarray(Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90))
    ys, xs = np.nonzero(stored)
    assert (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1) == STORED


def test_label_studios_polygons_are_of_the_files_size_and_its_rectangles_of_what_browsers_show(tmp_path: Path) -> None:
    # Its converter writes a polygon's percentages times the size of the file, 40 x 60: 50% and 10% are (20, 6). The
    # rectangle beside it lies on the turned picture, 60 x 40.
    x, y, w, h = 20.0, 6.0, 20 * 40 / 60, 10 * 60 / 40
    outline = [x, y, x + w, y, x + w, y + h, x, y + h]
    images = [image(1, "a.jpg", height=60, width=40)]
    polygon = thing((x, y, w, h), segmentation=[outline])
    mask = np.zeros((40, 60), bool)
    mask[4:14, 30:50] = True
    one = photo(mask=rle.encode(mask))
    done = evaluated(label_studio(write_truth(tmp_path, [polygon], images)), one, info=replace(INFO, masks=True))
    assert done.masks is not None
    assert (ap(done), done.masks.overall["AP"]) == (pytest.approx(1), pytest.approx(1))
    assert any("polygons of 1 images" in note and "size of the unturned file" in note for note in done.notes)
    # Both kinds on one image.
    both = row("a.jpg", found("Dog", 0.9, (30, 4, 50, 14)), found("Dog", 0.8, (2, 3, 12, 23)), **SIZE)
    both = replace(both, exif_orientation=6)
    rectangle = thing((2, 3, 10, 20), segmentation=[])
    assert ap(evaluated(label_studio(write_truth(tmp_path, [polygon, rectangle], images)), both)) == pytest.approx(1)
    # Another tool's polygons are in the pixels that they say.
    other = write_truth(tmp_path, [thing(UPRIGHT, segmentation=[[30, 4, 50, 4, 50, 14, 30, 14]])], images)
    done = evaluated(other, photo())
    assert ap(done) == pytest.approx(1)
    assert not any("stretched" in note for note in done.notes)
