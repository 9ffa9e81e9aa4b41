"""Evaluating detections with pycocotools, and 95% intervals from resamples of the images."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import prelabel

RESAMPLES = 200

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """COCO's metrics of boxes or masks.

    Attributes:
        stats: `AP`, `AP_small` and `AR_100`.
        resampled: `(RESAMPLES,)` of each of them, from the same resamples of the images whatever is evaluated.
        corrections: `(I,)` by image, boxes to delete or to draw at the common threshold that leaves the fewest.
    """

    stats: Mapping[str, float]
    resampled: Mapping[str, Floats]
    corrections: Floats


def read_truth(path: Path) -> Any:
    """A COCO dataset as pycocotools reads it."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def results_of(run: Path, truth: Any) -> Iterator[dict[str, Any]]:
    """The detections of a run with masks, in COCO's format for results."""
    numbers = {image["file_name"]: image["id"] for image in truth.dataset["images"]}
    for row in prelabel.open_run(run).rows():
        detections = row.detections
        for n, (x1, y1, x2, y2) in enumerate(detections.xyxy.tolist()):
            yield {
                "image_id": numbers[row.file_name],
                "category_id": int(detections.category_id[n]),
                "score": float(detections.score[n]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "segmentation": {"size": [detections.height, detections.width], "counts": detections.mask[n]},
            }


def score(truth: Any, results: Sequence[dict[str, Any]], kind: str) -> Scores:
    """Evaluate boxes (`"bbox"`) or masks (`"segm"`) with COCOeval."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes([dict(result) for result in results]), kind)
        evaluation.evaluate()
        stats = _stats(evaluation)
        images = len(evaluation.params.imgIds)
        tables = evaluation.evalImgs
        cells = np.arange(len(tables)).reshape(-1, images)
        resampled = []
        for chosen in _resamples(images):
            evaluation.evalImgs = [tables[cell] for cell in cells[:, chosen].ravel()]
            resampled.append(_stats(evaluation))
    return Scores(
        stats,
        {name: np.array([values[name] for values in resampled]) for name in stats},
        _corrections(tables, images, len(evaluation.params.areaRng)),
    )


def difference_of_stats(before: Scores, after: Scores, name: str) -> Floats:
    """`(2,)` the 95% interval of the difference of a metric."""
    return _interval(after.resampled[name] - before.resampled[name])


def difference_of_corrections(before: Scores, after: Scores) -> Floats:
    """`(2,)` the 95% interval of the difference of corrections per 100 images, each at its own threshold."""
    change = after.corrections - before.corrections
    return _interval([100 * change[chosen].mean() for chosen in _resamples(len(change))])


def _interval(values: Any) -> Floats:
    ends: Floats = np.percentile(values, (2.5, 97.5))
    return ends


def _resamples(images: int) -> Iterator[npt.NDArray[np.int64]]:
    random = np.random.default_rng(0)
    for _ in range(RESAMPLES):
        yield random.integers(0, images, images)


def _stats(evaluation: Any) -> dict[str, float]:
    # Only what is needed: all numbers of detections and sizes would take six times as long.
    parameters = copy.copy(evaluation.params)
    parameters.maxDets, parameters.areaRng = parameters.maxDets[-1:], parameters.areaRng[:2]
    evaluation.accumulate(parameters)
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    values = {"AP": precision[..., 0, 0], "AP_small": precision[..., 1, 0], "AR_100": recall[..., 0, 0]}
    return {name: float(value[value > -1].mean()) for name, value in values.items()}


def _corrections(tables: Sequence[Any], images: int, sizes: int) -> Floats:
    """See `Scores`. A box is correct if its IoU is at least 0.5. Crowd regions do not count."""
    scores, right, of_image = [], [], []
    objects = np.zeros(images)
    # By category, size and image; the first size is all.
    for number, table in enumerate(np.array(tables, dtype=object).reshape(-1, sizes, images)[:, 0].ravel()):
        if table is None:
            continue
        counts = ~table["dtIgnore"][0].astype(bool)
        scores.append(np.array(table["dtScores"])[counts])
        right.append(table["dtMatches"][0][counts] > 0)
        of_image.append(np.full(np.count_nonzero(counts), number % images))
        objects[number % images] += np.count_nonzero(np.asarray(table["gtIgnore"]) == 0)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    # A box that is kept is to be deleted, or saves one that is to be drawn.
    change = np.where(np.concatenate(right)[order], -1, 1)
    kept = int(np.argmin(np.append(0, np.cumsum(change))))
    return objects + np.bincount(np.concatenate(of_image)[order][:kept], change[:kept], images)
