"""Computes COCO's AP and AR with faster-coco-eval, which gives the figures of pycocotools in an eighth of the time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.errors import ConfigError
from prelabel.export.categories import Category
from prelabel.keypoints import COCO_PERSON
from prelabel.processes import Processes
from prelabel.review.gather import ImagePair
from prelabel.words import install_hint

Floats = npt.NDArray[np.float64]

#: The metrics of COCOeval's `stats`, in the same order, with their names for users.
METRICS = {
    "AP": "AP",
    "AP50": "AP at IoU 0.5",
    "AP75": "AP at IoU 0.75",
    "AP_small": "AP of small objects",
    "AP_medium": "AP of medium objects",
    "AP_large": "AP of large objects",
    "AR_1": "AR, at most 1 per class and image",
    "AR_10": "AR, at most 10 per class and image",
    "AR_100": "AR, at most 100 per class and image",
    "AR_small": "AR of small objects",
    "AR_medium": "AR of medium objects",
    "AR_large": "AR of large objects",
}

#: The same for keypoints: at most 20 detections per image, and no metrics of small objects.
KEYPOINT_METRICS = {
    "AP": "AP",
    "AP50": "AP at OKS 0.5",
    "AP75": "AP at OKS 0.75",
    "AP_medium": "AP of medium objects",
    "AP_large": "AP of large objects",
    "AR": "AR",
    "AR50": "AR at OKS 0.5",
    "AR75": "AR at OKS 0.75",
    "AR_medium": "AR of medium objects",
    "AR_large": "AR of large objects",
}

#: COCO's size ranges: lowest and highest area in pixels.
_AREAS = {"all": (0, 1e5**2), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}


@dataclass(frozen=True, slots=True)
class CocoScores:
    """The metrics of boxes, of masks or of keypoints.

    Attributes:
        overall: Value of each of `METRICS` (or `KEYPOINT_METRICS`), or None if no object has that size.
        by_class: The same metrics by class name; all None for a class without objects.
        objects: Number of objects, without crowd regions, by size.
    """

    overall: dict[str, float | None]
    by_class: dict[str, dict[str, float | None]]
    objects: dict[str, int]


def import_faster_coco_eval() -> Any:
    """Import faster-coco-eval.

    Raises:
        ConfigError: It is not installed; the message says how to install it.
    """
    try:
        import faster_coco_eval
    except ImportError:
        raise ConfigError(
            f"evaluate needs faster-coco-eval, which is not installed: {install_hint('evaluate')}"
        ) from None
    return faster_coco_eval


def coco_scores(
    pairs: Sequence[ImagePair], categories: Sequence[Category], kind: str, processes: Processes
) -> CocoScores:
    """Evaluate boxes (`"bbox"`), masks (`"segm"`) or keypoints as COCO does, over the given images and classes.

    For keypoints (`"keypoints"`), only classes that have some in the truth count. Objects without a labeled keypoint
    are ignored: neither detections of them nor missing ones count.

    Images are numbered by position, so that results do not depend on the ids in any file.

    Args:
        pairs: The images.
        categories: The classes.
        kind: What is evaluated.
        processes: Evaluate the classes, since these do not depend on each other.

    Raises:
        ConfigError: faster-coco-eval is not installed.
    """
    import_faster_coco_eval()
    if kind == "keypoints":
        with_keypoints = {o.category_id for pair in pairs for o in pair.objects if any(o.keypoints[2::3])}
        categories = [category for category in categories if category.id in with_keypoints]
    truth = _truth_entries(pairs, kind)
    areas = [entry["area"] for entry in truth if not entry["iscrowd"] and entry.get("num_keypoints", 1)]
    by_class = {category.id: _ClassEntries(category.id) for category in categories}
    for entries, side in ((truth, "truth"), (_result_entries(pairs, kind), "results")):
        for entry in entries:
            if (of_class := by_class.get(entry["category_id"])) is not None:
                pair = pairs[entry["image_id"] - 1]
                of_class.sizes[entry["image_id"]] = pair.height, pair.width
                getattr(of_class, side).append(entry)
    tables = list(processes.map(partial(_class_tables, kind), list(by_class.values())))
    # Shapes (class, IoU, recall, size, max detections) and (class, IoU, size, max detections).
    precision, recall = (np.stack(class_tables) for class_tables in zip(*tables, strict=True))
    metrics = _keypoint_metrics if kind == "keypoints" else _metrics
    return CocoScores(
        overall=metrics(precision, recall),
        by_class={c.name: metrics(precision[n : n + 1], recall[n : n + 1]) for n, c in enumerate(categories)},
        objects={size: sum(low <= area <= high for area in areas) for size, (low, high) in _AREAS.items()},
    )


@dataclass(frozen=True, slots=True)
class _ClassEntries:
    """The entries of one class.

    Only images with objects or detections of the class are evaluated. Other images do not change the tables, but
    evaluating every class on every image would take most of the time if there are many classes.

    Attributes:
        category_id: The class.
        sizes: Height and width of each image, by its number.
        truth: COCO's annotations.
        results: The same of the detections.
    """

    category_id: int
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    truth: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    def dataset(self, entries: list[dict[str, Any]]) -> Any:
        """A dataset of faster-coco-eval with the images of this class."""
        images = [{"id": number, "height": height, "width": width} for number, (height, width) in self.sizes.items()]
        content = {"images": images, "categories": [{"id": self.category_id}], "annotations": entries}
        return import_faster_coco_eval().COCO(content)


def _class_tables(kind: str, entries: _ClassEntries) -> tuple[Any, Any]:
    """Precision and recall tables of one class."""
    # Classes are evaluated in several processes, so that each needs only one thread.
    evaluation = import_faster_coco_eval().COCOeval_faster(
        entries.dataset(entries.truth), entries.dataset(entries.results), kind, rle_iou_max_workers=1
    )
    evaluation.params.catIds = [entries.category_id]
    evaluation.params.imgIds = sorted(entries.sizes)
    evaluation.params.areaRng = [list(bounds) for bounds in _AREAS.values()]
    if not entries.sizes:
        shape = [len(evaluation.params.iouThrs), len(_AREAS), len(evaluation.params.maxDets)]
        return np.full([shape[0], len(evaluation.params.recThrs), *shape[1:]], -1.0), np.full(shape, -1.0)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0], evaluation.eval["recall"][:, 0]


def _truth_entries(pairs: Sequence[ImagePair], kind: str) -> list[dict[str, Any]]:
    masks = import_faster_coco_eval().mask
    entries: list[dict[str, Any]] = []
    for image_id, pair in enumerate(pairs, 1):
        for annotation in pair.objects:
            x, y, w, h = annotation.bbox
            height, width = pair.height or math.ceil(y + h), pair.width or math.ceil(x + w)
            mask, crowd = None, annotation.crowd
            if kind == "segm" and annotation.invalid_segmentation:
                # The mask is unknown: as a crowd region, its box is ignored.
                mask, crowd = _rle([[x, y, x + w, y, x + w, y + h, x, y + h]], height, width), True
            elif kind == "segm" or (annotation.area is None and annotation.segmentation is not None):
                mask = _rle(annotation.segmentation, height, width)
            points = annotation.keypoints or (0.0,) * 3 * len(COCO_PERSON)
            keypoints = {"keypoints": list(points), "num_keypoints": sum(v > 0 for v in points[2::3])}
            entries.append(
                {
                    # COCOeval reads an id of 0 as "no match".
                    "id": len(entries) + 1,
                    "image_id": image_id,
                    "category_id": annotation.category_id,
                    "bbox": list(annotation.bbox),
                    "iscrowd": int(crowd),
                    "area": annotation.area
                    if annotation.area is not None
                    else w * h
                    if mask is None
                    else float(masks.area(mask)),
                    "segmentation": mask,
                    **(keypoints if kind == "keypoints" else {}),
                }
            )
    return entries


def _result_entries(pairs: Sequence[ImagePair], kind: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for image_id, pair in enumerate(pairs, 1):
        category_ids, boxes, scores = (
            column.tolist() for column in (pair.detections.category, pair.detections.xywh, pair.detections.score)
        )
        points = np.zeros((len(scores), 3 * len(COCO_PERSON) if kind == "keypoints" else 0), np.float32)
        if kind == "keypoints" and pair.detections.keypoints is not None:
            points = pair.detections.keypoints.reshape(points.shape)
        columns = zip(category_ids, boxes, scores, pair.detections.rle, points.tolist(), strict=True)
        for category, xywh, score, mask, keypoints in columns:
            entries.append(
                {
                    "id": len(entries) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": xywh,
                    "score": score,
                    # The box's area also for masks, as `loadRes` computes it for results with a bbox.
                    "area": xywh[2] * xywh[3],
                    "iscrowd": 0,
                    "segmentation": mask if kind == "segm" else None,
                    **({"keypoints": keypoints} if kind == "keypoints" else {}),
                }
            )
    return entries


def _rle(segmentation: Any, height: int, width: int) -> Any:
    masks = import_faster_coco_eval().mask
    if isinstance(segmentation, list):
        return masks.merge(masks.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return masks.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def _metrics(precision: Floats, recall: Floats) -> dict[str, float | None]:
    """The metrics (`METRICS`) over some classes, as `COCOeval.summarize` computes them.

    Args:
        precision: `(K, T, R, A, M)` by class, IoU (0.5, 0.55, ... 0.95), recall, size, maximum number of detections.
        recall: `(K, T, A, M)`, the same without the axis of recall.
    """
    values = [
        precision[:, :, :, 0, 2],
        precision[:, 0, :, 0, 2],
        precision[:, 5, :, 0, 2],
        *(precision[:, :, :, size, 2] for size in (1, 2, 3)),
        *(recall[:, :, 0, most] for most in (0, 1, 2)),
        *(recall[:, :, size, 2] for size in (1, 2, 3)),
    ]
    return dict(zip(METRICS, map(_mean, values), strict=True))


def _keypoint_metrics(precision: Floats, recall: Floats) -> dict[str, float | None]:
    """The metrics (`KEYPOINT_METRICS`) over some classes; the arguments are as in `_metrics`, with OKS for IoU."""
    tables = (precision[..., 0], recall[..., 0])
    values = [
        part
        for table in tables
        for part in (
            *(table[..., 0], table[:, 0, ..., 0], table[:, 5, ..., 0]),
            *(table[..., size] for size in (2, 3)),
        )
    ]
    return dict(zip(KEYPOINT_METRICS, map(_mean, values), strict=True))


def _mean(values: Floats) -> float | None:
    # COCOeval gives -1 where there are no objects.
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
