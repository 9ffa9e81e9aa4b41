"""COCO's AP and AR, by pycocotools itself: the figures are those that anybody gets from the exported files."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.errors import ConfigError
from prelabel.evaluate.gather import Pair
from prelabel.export.categories import Category

Floats = npt.NDArray[np.float64]

#: What COCOeval's `stats` hold, in its order.
FIGURES = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR_1",
    "AR_10",
    "AR_100",
    "AR_small",
    "AR_medium",
    "AR_large",
)

#: COCO's sizes: from and to which area in pixels.
_AREAS = {"all": (0, 1e5**2), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}


@dataclass(frozen=True, slots=True)
class CocoScores:
    """The figures of one kind of shape.

    Attributes:
        overall: Value of each of `FIGURES`, or None where no object is of that size.
        by_class: The same keys for each class by name; all None for a class without objects.
        objects: Objects that count (no crowd regions) by size.
    """

    overall: dict[str, float | None]
    by_class: dict[str, dict[str, float | None]]
    objects: dict[str, int]


def require_pycocotools() -> None:
    """Raise ConfigError, which says what to install, where pycocotools is missing."""
    _pycocotools()


def coco_scores(pairs: Sequence[Pair], categories: Sequence[Category], kind: str) -> CocoScores:
    """Evaluate `"bbox"` or `"segm"` as COCO does, over the given images and classes.

    Images are numbered by their place, so results do not depend on the numbers of any file.

    Raises:
        ConfigError: pycocotools is not installed.
    """
    coco, cocoeval = _pycocotools()
    truth_entries, found_entries = _truth_entries(pairs, kind), _found_entries(pairs, kind)
    with _quiet():
        truth = _loaded(coco, pairs, categories, truth_entries)
        found = _loaded(coco, pairs, categories, found_entries)
        tables = [_one_class(cocoeval, truth, found, one.id, kind) for one in categories]
    # Shapes (class, IoU, recall, size, max detections) and (class, IoU, size, max detections).
    precision, recall = np.stack([one[0] for one in tables]), np.stack([one[1] for one in tables])
    areas = [one["area"] for one in truth_entries if not one["iscrowd"]]
    return CocoScores(
        overall=_figures(precision, recall),
        by_class={one.name: _figures(precision[n : n + 1], recall[n : n + 1]) for n, one in enumerate(categories)},
        objects={size: sum(low <= area <= high for area in areas) for size, (low, high) in _AREAS.items()},
    )


def _one_class(cocoeval: ModuleType, truth: Any, found: Any, category_id: int, kind: str) -> tuple[Any, Any]:
    """Precision and recall tables of one class.

    Only the images that have something of it are looked at: the others add nothing to the tables, and asking
    pycocotools about every class on every image is most of its time where there are many classes.
    """
    images = sorted({*truth.getImgIds(catIds=[category_id]), *found.getImgIds(catIds=[category_id])})
    evaluation = cocoeval.COCOeval(truth, found, kind)
    evaluation.params.catIds = [category_id]
    evaluation.params.imgIds = images
    evaluation.params.areaRng = [list(one) for one in _AREAS.values()]
    if not images:
        shape = [len(evaluation.params.iouThrs), len(_AREAS), len(evaluation.params.maxDets)]
        return np.full([shape[0], len(evaluation.params.recThrs), *shape[1:]], -1.0), np.full(shape, -1.0)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0], evaluation.eval["recall"][:, 0]


def _pycocotools() -> tuple[ModuleType, ModuleType]:
    try:
        from pycocotools import coco, cocoeval
    except ImportError:
        raise ConfigError(
            "evaluate needs pycocotools, which is not installed: pip install 'prelabel[evaluate]'"
        ) from None
    return coco, cocoeval


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """pycocotools prints its progress, and its compiled part is behind NumPy's deprecations."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _loaded(coco: ModuleType, pairs: Sequence[Pair], categories: Sequence[Category], entries: list[Any]) -> Any:
    one = coco.COCO()
    images = [{"id": n, "height": p.height, "width": p.width} for n, p in enumerate(pairs, 1)]
    one.dataset = {"images": images, "categories": [{"id": c.id} for c in categories], "annotations": entries}
    one.createIndex()
    return one


def _truth_entries(pairs: Sequence[Pair], kind: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for image_id, pair in enumerate(pairs, 1):
        for one in pair.objects:
            x, y, w, h = one.bbox
            height, width = pair.height or math.ceil(y + h), pair.width or math.ceil(x + w)
            mask, crowd = None, one.crowd
            if kind == "segm" and one.odd:
                # Where its mask would be is not known: within its box nothing is right, wrong or missed.
                mask, crowd = _rle([[x, y, x + w, y, x + w, y + h, x, y + h]], height, width), True
            elif kind == "segm" or (one.area is None and one.segmentation is not None):
                mask = _rle(one.segmentation, height, width)
            entries.append(
                {
                    # An id of 0 would mean "no match".
                    "id": len(entries) + 1,
                    "image_id": image_id,
                    "category_id": one.category_id,
                    "bbox": list(one.bbox),
                    "iscrowd": int(crowd),
                    "area": one.area if one.area is not None else w * h if mask is None else _area(mask),
                    "segmentation": mask,
                }
            )
    return entries


def _found_entries(pairs: Sequence[Pair], kind: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for image_id, pair in enumerate(pairs, 1):
        found = pair.found
        for category, xywh, score, mask in zip(
            found.category.tolist(), found.xywh.tolist(), found.score.tolist(), found.rle, strict=True
        ):
            entries.append(
                {
                    "id": len(entries) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": xywh,
                    "score": score,
                    # Of the box, also for masks: `loadRes` takes it so where there is a bbox.
                    "area": xywh[2] * xywh[3],
                    "iscrowd": 0,
                    "segmentation": mask if kind == "segm" else None,
                }
            )
    return entries


def _rle(segmentation: Any, height: int, width: int) -> Any:
    from pycocotools import mask

    if isinstance(segmentation, list):
        return mask.merge(mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def _area(encoded: Any) -> float:
    from pycocotools import mask

    return float(mask.area(encoded))


def _figures(precision: Floats, recall: Floats) -> dict[str, float | None]:
    """`FIGURES` of some classes, as `COCOeval.summarize` computes them.

    Args:
        precision: `(K, T, R, A, M)` by class, IoU (0.5, 0.55, ... 0.95), recall, size and number of detections.
        recall: `(K, T, A, M)`.
    """
    values = [
        precision[:, :, :, 0, 2],
        precision[:, 0, :, 0, 2],
        precision[:, 5, :, 0, 2],
        *(precision[:, :, :, size, 2] for size in (1, 2, 3)),
        *(recall[:, :, 0, most] for most in (0, 1, 2)),
        *(recall[:, :, size, 2] for size in (1, 2, 3)),
    ]
    return dict(zip(FIGURES, map(_mean, values), strict=True))


def _mean(values: Floats) -> float | None:
    stated = values[values > -1]
    return float(stated.mean()) if stated.size else None
