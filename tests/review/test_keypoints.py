"""Evaluation of keypoints: known results, the same figures as pycocotools, and when they are not scored."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from prelabel.detections import ClassName
from prelabel.export.base import RunInfo
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.keypoints import COCO_PERSON, KeypointSet
from prelabel.review.coco_scores import KEYPOINT_METRICS
from prelabel.review.evaluation import Evaluation, evaluate
from prelabel.review.options import EvaluateOptions
from prelabel.review.report.files import evaluation_json
from prelabel.review.report.tables import evaluation_tables
from prelabel.review.summaries import EvaluationSummary
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import open_run
from prelabel.store.shards import ROWS_PER_GROUP
from tests.review.cases import evaluated, image, thing, write_truth
from tests.rows import INFO, found, row, rows
from tests.runs import write_run

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "evaluation.schema.json").read_text())
PERSON = {"id": 1, "name": "person", "keypoints": list(COCO_PERSON.names), "skeleton": []}
CAR = {"id": 2, "name": "car"}
PEOPLE = replace(INFO, classes=(ClassName(1, "person"), ClassName(2, "car")), keypoints=COCO_PERSON)
BOX = (10, 10, 40, 100)


def points(shift: float = 0, score: float = 0.9) -> list[tuple[float, float, float]]:
    """Seventeen points of a person in `BOX`, all shifted to the right."""
    return [(12 + 2 * n + shift, 15 + 5 * n, score) for n in range(17)]


def labeled(v: int = 2, **more: Any) -> dict[str, Any]:
    flat = [value for x, y, _ in points() for value in (x, y, v)]
    return thing(BOX, keypoints=flat, num_keypoints=17 if v else 0, **more)


def person(shift: float = 0, score: float = 0.9) -> dict[str, Any]:
    x, y, w, h = BOX
    return found("person", score, (x, y, x + w, y + h), mid="", keypoints=points(shift))


def photo(*detections: dict[str, Any], name: str = "a.jpg") -> ImageRow:
    return row(name, *detections, height=120, width=160)


def scored(
    folder: Path, *annotations: dict[str, Any], detections: list[dict[str, Any]], info: RunInfo = PEOPLE
) -> Evaluation:
    truth = write_truth(folder, annotations, [image(height=120, width=160)], [PERSON, CAR])
    return evaluated(truth, photo(*detections), info=info)


def test_keypoints_that_are_the_truth_score_1_and_far_ones_0(tmp_path: Path):
    exact = scored(tmp_path, labeled(), detections=[person()]).keypoints
    assert exact is not None
    assert exact.overall["AP"] == pytest.approx(1)
    assert exact.objects["all"] == 1
    assert list(exact.by_class) == ["person"]
    far = scored(tmp_path, labeled(), detections=[person(shift=500)])
    assert far.keypoints is not None
    assert far.keypoints.overall["AP"] == 0
    assert far.boxes.overall["AP"] == pytest.approx(1)


def test_objects_without_labeled_keypoints_are_ignored(tmp_path: Path):
    other = thing((100, 10, 40, 100))
    done = scored(tmp_path, labeled(), other, labeled(v=0), detections=[person()])
    assert done.keypoints is not None
    assert done.keypoints.overall["AP"] == pytest.approx(1)
    assert done.keypoints.objects["all"] == 1


def test_an_image_without_detections_has_keypoints_that_are_missed(tmp_path: Path):
    images = [image(1, height=120, width=160), image(2, "b.jpg", height=120, width=160)]
    truth = write_truth(tmp_path, [labeled(), labeled(image_id=2)], images, [PERSON, CAR])
    done = evaluated(truth, photo(person()), photo(name="b.jpg"), info=PEOPLE).keypoints
    assert done is not None
    assert done.overall["AR"] == pytest.approx(0.5)


def test_figures_are_those_of_pycocotools_on_the_exported_results(tmp_path: Path):
    random = np.random.default_rng(5)
    annotations, images, image_rows = [], [], []
    for number in range(1, 7):
        detections = []
        for place in range(3):
            x, y, w, h = (20.0 + 200 * place, 30.0, 120.0, 40.0 + 120 * place)
            truth = random.uniform((x, y), (x + w, y + h), (17, 2))
            v = random.integers(0, 3, 17)
            flat = [float(value) for point, seen in zip(truth, v, strict=True) for value in (*point, int(seen))]
            annotations.append(thing((x, y, w, h), image_id=number, keypoints=flat, num_keypoints=int((v > 0).sum())))
            seen = truth + random.normal(0, 4 + 6 * place, (17, 2))
            keypoints = [(*point, 0.8) for point in seen.tolist()]
            score = float(random.uniform(0.3, 1))
            detections.append(found("person", score, (x, y, x + w, y + h), mid="", keypoints=keypoints))
        images.append(image(number, f"{number}.jpg", height=480, width=640))
        image_rows.append(row(f"{number}.jpg", *detections, height=480, width=640))
    truth_file = write_truth(tmp_path, annotations, images, [PERSON])
    ours = evaluated(truth_file, *image_rows, info=PEOPLE).keypoints
    assert ours is not None
    options = CocoOptions.of(results=str(tmp_path / "results.json"), segmentation="none", image_ids=truth_file)
    export_coco(PEOPLE, rows(*image_rows), str(tmp_path / "coco.json"), options, Storage())
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(truth_file)
        theirs = COCOeval(dataset, dataset.loadRes(str(tmp_path / "results.json")), "keypoints")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    figures = [-1 if value is None else value for value in ours.overall.values()]
    assert list(ours.overall) == list(KEYPOINT_METRICS)
    assert figures == pytest.approx(theirs.stats.tolist(), abs=1e-3)
    assert 0.1 < figures[0] < 0.9


@pytest.mark.parametrize(
    ("info", "annotation", "about"),
    [
        (replace(PEOPLE, keypoints=KeypointSet.unnamed(17)), labeled(), "--keypoint-names coco-person"),
        (PEOPLE, thing(BOX, keypoints=[20, 20, 2], num_keypoints=1), "the truth has others"),
    ],
)
def test_keypoints_that_coco_cannot_measure_are_not_scored_and_that_is_said(
    tmp_path: Path, info: RunInfo, annotation: dict[str, Any], about: str
):
    done = scored(tmp_path, annotation, detections=[person()], info=info)
    assert done.keypoints is None
    (note,) = [note for note in done.notes if "keypoints" in note]
    assert about in note


def test_other_names_in_the_truth_are_not_scored(tmp_path: Path):
    reversed_names = {**PERSON, "keypoints": list(COCO_PERSON.names)[::-1]}
    truth = write_truth(tmp_path, [labeled()], [image(height=120, width=160)], [reversed_names])
    done = evaluated(truth, photo(person()), info=PEOPLE)
    assert done.keypoints is None
    assert any("keypoints are not scored" in note for note in done.notes)


def test_without_keypoints_on_both_sides_nothing_is_said(tmp_path: Path):
    for annotation, info in ((labeled(), INFO), (thing(BOX), PEOPLE), (labeled(v=0), PEOPLE)):
        info = replace(info, classes=PEOPLE.classes)
        done = scored(tmp_path, annotation, detections=[person()], info=info)
        assert done.keypoints is None
        assert not any("keypoints" in note for note in done.notes)


@pytest.mark.parametrize("wrong", ["nose", [1, 2], [1, 2, "2"], [1, None, 2]])
def test_invalid_keypoints_of_the_truth_are_counted(tmp_path: Path, wrong: Any):
    done = scored(tmp_path, labeled(), thing((100, 10, 40, 100), keypoints=wrong), detections=[person()])
    assert done.keypoints is not None
    assert done.keypoints.overall["AP"] == pytest.approx(1)
    assert any("annotation 2" in note and "keypoints" in note for note in done.notes)


def test_reports_have_the_figures(tmp_path: Path):
    done = scored(tmp_path, labeled(), detections=[person()])
    content = json.loads(json.dumps(evaluation_json(done)))
    jsonschema.validate(content, SCHEMA)
    assert content["keypoints"]["overall"]["AP"] == pytest.approx(1)
    assert ("COCO", "keypoints") in [table.header for table in evaluation_tables(done)]
    assert EvaluationSummary.of(done, ()).keypoint_ap == pytest.approx(1)
    without = scored(tmp_path, thing(BOX), detections=[person()])
    assert "keypoints" not in evaluation_json(without)
    assert EvaluationSummary.of(without, ()).keypoint_ap is None


@pytest.mark.parametrize("backward", [False, True])
def test_a_block_of_images_without_a_detection_does_not_change_the_scores(tmp_path: Path, backward: bool) -> None:
    people = [photo(person(), name=f"{n}.jpg") for n in range(2)]
    # A shard is read in blocks. A detector with keypoints stores an empty list of them for an image without a person.
    nobody = photo()
    nothing = replace(nobody.detections, keypoints=np.zeros((0, 17, 3), np.float32))
    empty = [replace(nobody, image_id=f"e{n}", file_name=f"e{n}", detections=nothing) for n in range(ROWS_PER_GROUP)]
    some = [photo(person(), name=f"s{n}.jpg") for n in range(ROWS_PER_GROUP - 2)]
    shard = [*people, *some, *empty]
    run = open_run(write_run(tmp_path / "run", [shard[::-1] if backward else shard]), Storage())
    images = [image(n, f"{n}.jpg", height=120, width=160) for n in range(2)]
    images += [image(2 + n, f"e{n}", height=120, width=160) for n in range(ROWS_PER_GROUP)]
    truth = write_truth(tmp_path, [labeled(image_id=0), labeled(image_id=1)], images, [PERSON])
    done = evaluate(PEOPLE, run.rows, EvaluateOptions.of(truth=truth), Storage())
    assert done.keypoints is not None
    assert done.keypoints.overall["AP"] == pytest.approx(1)
