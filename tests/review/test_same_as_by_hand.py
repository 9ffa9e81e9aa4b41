"""The metrics are those of pycocotools on exported results."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from prelabel.export.base import RunInfo
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.masks import rle
from prelabel.review.coco_scores import METRICS
from prelabel.review.evaluation import Evaluation
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from tests.review.cases import evaluated
from tests.rows import found, row, rows

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

INFO = RunInfo(detector="random", model_version="random-1", masks=True)
NAMES = ("dog", "cat", "boat", "kite")


def random_masks(random: np.random.Generator, height: int, width: int) -> tuple[list[float], np.ndarray]:
    w, h = (int(random.integers(3, side // 2)) for side in (width, height))
    x, y = int(random.integers(0, width - w)), int(random.integers(0, height - h))
    mask = np.zeros((height, width), bool)
    mask[y : y + h, x : x + w] = random.random((h, w)) < 0.9
    mask[y, x] = True
    return [x, y, w, h], mask


def random_world(folder: Path, seed: int) -> tuple[str, list[ImageRow]]:
    """12 images with objects, some of them crowd regions, and a run with rough, missing and false detections."""
    random = np.random.default_rng(seed)
    images, annotations, run = [], [], []
    for number in range(12):
        height, width = (int(side) for side in random.integers(60, 300, 2))
        images.append({"id": 100 - number, "file_name": f"{number}.jpg", "height": height, "width": width})
        detections = []
        # The first image has more than ten objects of a class, so that AR at 10 detections is limited.
        for _ in range(int(random.integers(0, 7)) if number else 25):
            category = int(random.integers(0, 4)) if number else 0
            bbox, mask = random_masks(random, height, width)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 - number,
                    "category_id": (category + 1) * 7,
                    "bbox": bbox,
                    "area": int(mask.sum()),
                    "iscrowd": int(random.random() < 0.15),
                    "segmentation": {"size": [height, width], "counts": rle.encode(mask)},
                }
            )
            for _ in range(int(random.integers(0, 3))):
                moved = np.roll(mask, random.integers(-2, 3, 2), (0, 1))
                x, y, w, h = rle.bbox_xywh(rle.encode(moved), height, width)
                label = NAMES[category] if random.random() < 0.8 else NAMES[int(random.integers(0, 4))]
                # Few different scores, so that many are equal.
                score = float(random.integers(1, 20)) / 20
                box = (x, y, min(x + w + 0.123, width), min(y + h + 0.456, height))
                detections.append(
                    found(label, score, box, mask=rle.encode(moved), category_id=NAMES.index(label), mid="")
                )
        run.append(row(f"{number}.jpg", *detections, height=height, width=width, masks=True))
    categories = [{"id": (number + 1) * 7, "name": name} for number, name in enumerate(NAMES)]
    path = folder / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return str(path), run


def by_hand(truth: str, run: list[ImageRow], folder: Path, kind: str) -> COCOeval:
    results = str(folder / "results.json")
    options = CocoOptions.of(image_ids=truth, categories=truth, results=results, score_threshold=0.0)
    export_coco(INFO, rows(*run), str(folder / "coco.json"), options, Storage())
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def require_same(done: Evaluation, hand: COCOeval, kind: str) -> None:
    of_kind = done.boxes if kind == "bbox" else done.masks
    assert of_kind is not None
    for figure, value in zip(METRICS, hand.stats, strict=True):
        assert of_kind.overall[figure] == pytest.approx(None if value < 0 else value, abs=1e-12), figure
    for number, category in enumerate(hand.params.catIds):
        name = hand.cocoGt.cats[category]["name"]
        precision = hand.eval["precision"][:, :, number, 0, 2]
        recall = hand.eval["recall"][:, number, 0, 2]
        wanted = (precision.mean(), precision[0].mean(), recall.mean()) if (precision > -1).all() else (None,) * 3
        figures = of_kind.by_class[name]
        assert (figures["AP"], figures["AP50"], figures["AR_100"]) == pytest.approx(wanted), name


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_random_datasets(tmp_path: Path, seed: int, kind: str) -> None:
    truth, run = random_world(tmp_path, seed)
    done = evaluated(truth, *run, info=INFO)
    hand = by_hand(truth, run, tmp_path, kind)
    assert 0 < hand.stats[0] < 0.9
    require_same(done, hand, kind)


def test_correct_and_false_detections_at_every_threshold_are_those_of_cocoeval(tmp_path: Path) -> None:
    truth, run = random_world(tmp_path, 5)
    done = evaluated(truth, *run, info=INFO)
    hand = by_hand(truth, run, tmp_path, "bbox")
    every_area = [0, 1e10]
    for name, ranking in done.rankings.items():
        category = next(c["id"] for c in hand.cocoGt.cats.values() if c["name"] == name)
        seen = [e for e in hand.evalImgs if e and e["category_id"] == category and e["aRng"] == every_area]
        scores = np.concatenate([np.array(e["dtScores"])[~e["dtIgnore"][0]] for e in seen])
        right = np.concatenate([e["dtMatches"][0][~e["dtIgnore"][0]] > 0 for e in seen])
        assert ranking.total == sum(int((e["gtIgnore"] == 0).sum()) for e in seen)
        for threshold in (0.1, 0.35, 0.5, 0.8):
            expected = scores >= threshold
            kept = ranking.score >= np.float32(threshold)
            assert (int(kept.sum()), int(ranking.right[kept].sum())) == (
                int(expected.sum()),
                int(right[expected].sum()),
            )


def test_shifted_objects_of_real_photos(assets: Path, tmp_path: Path) -> None:
    truth = str(assets / "images" / "coco-val80-instances.json")
    random = np.random.default_rng(0)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
    run = []
    for image in coco.loadImgs(coco.getImgIds()):
        size = image["height"], image["width"]
        detections = []
        for annotation in coco.imgToAnns[image["id"]]:
            mask = np.roll(coco.annToMask(annotation), random.integers(-3, 4, 2), (0, 1))
            counts = rle.encode(mask)
            x, y, w, h = rle.bbox_xywh(counts, *size)
            if w and random.random() < 0.8:
                name = coco.cats[annotation["category_id"]]["name"].upper()
                score = float(random.random())
                detections.append(
                    found(name, score, (x, y, x + w, y + h), category_id=annotation["category_id"], mid="", mask=counts)
                )
        run.append(row(image["file_name"], *detections, height=size[0], width=size[1], masks=True))
    done = evaluated(truth, *run, info=INFO)
    for kind in ("bbox", "segm"):
        require_same(done, by_hand(truth, run, tmp_path, kind), kind)
    # Detections of crowd regions are ignored, not false.
    assert done.work.objects == 804
    assert done.work.total("suggested").corrections <= done.work.total("flat").corrections < 804
