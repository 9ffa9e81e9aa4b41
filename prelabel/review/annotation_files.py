"""Reads annotations: Label Studio's JSON export, or a COCO dataset from any tool.

The export is a list of tasks. In this example, the region was copied from a prediction and not changed:

    [{"data": {"image": "...", "image_id": "a.jpg"},
      "annotations": [{"lead_time": 12.5, "was_cancelled": false, "result": [
          {"id": "3f8a5f0e9d21", "type": "rectanglelabels", "original_width": 6, "original_height": 4,
           "value": {"x": 0, "y": 0, "width": 50, "height": 100, "rotation": 0, "rectanglelabels": ["Dog"]}}]}]}]

If a task has several annotations, the annotation marked as ground truth counts, else the last one. If an image has
several tasks, the task annotated last counts.

Three fields tell which prediction an annotator was shown, the most certain first:

    annotation.prediction           the prediction that the project showed when the annotation was made; `{}` means that
                                    the annotator started without a prediction
    annotation.parent_prediction    the number of the prediction that became the annotation. If it is not the number of
                                    annotation.prediction, it wins, and its regions are those in task.predictions, if
                                    the export has them in full
    task.predictions                predictions of the task, exported in full or as numbers
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from prelabel.errors import EvaluateError, ExportError
from prelabel.masks import rle
from prelabel.masks.areas import Points
from prelabel.masks.brush import rle_from_brush
from prelabel.review.annotations import AnnotatedImage, Annotations, Mask, Prediction, Region
from prelabel.review.image_matching import clean
from prelabel.review.truth import TruthImage, TruthObject, is_number, read_content, truth_of
from prelabel.storage.address import redact
from prelabel.storage.files import Storage

#: Number of corners of the polygon that approximates an ellipse.
_CORNERS = 72

#: Notes on what was counted while an export was read, by key of the counts and in this order.
_NOTES = {
    "earlier": "earlier annotations are ignored: of each task, only the last counts",
    "several_annotators": "annotations are ignored because several annotators worked on their tasks: of each task, the "
    "annotation marked as ground truth counts, else the last",
    "drafts": "tasks have drafts that were not submitted; drafts are ignored",
    "same_image": "tasks have the same image as another task: of these, the last annotation counts",
    "other_regions": "regions are ignored because they are not boxes, polygons or masks",
}


def read_annotations(url: str, storage: Storage) -> Annotations:
    """Read a JSON export of Label Studio (a list of tasks) or a COCO dataset (an object).

    Raises:
        ConfigError: The file does not exist.
        EvaluateError: The file cannot be read, or is in neither of these formats.
    """
    display_url = redact(url)
    content = read_content(url, storage, "annotations")
    if isinstance(content, list):
        return read_tasks(content, display_url)
    if not isinstance(content, dict) or "images" not in content:
        raise EvaluateError(f"{display_url} is neither Label Studio's JSON export (a list of tasks) nor a COCO dataset")
    truth = truth_of(content, url, storage)
    names = {category.id: category.name for category in truth.categories}
    images = [_coco_image(image, names) for image in truth.images]
    note = "all images of the COCO dataset count as annotated; its regions share no ids with the run"
    if len(images) != len({image.path for image in images}):
        raise EvaluateError(f"{display_url} lists an image twice")
    return Annotations(display_url, images, notes=(*truth.notes, note), truth=truth)


def _coco_image(image: TruthImage, names: dict[int, str]) -> AnnotatedImage:
    if image.height is None or image.width is None:
        raise EvaluateError(f"image {image.file_name!r} of the annotations has no height and width")
    size = (image.height, image.width)
    regions = tuple(
        Region("", (names[annotation.category_id],), _coco_shape(annotation, *size)) for annotation in image.objects
    )
    return AnnotatedImage("", image.file_name, regions, size=size)


def _coco_shape(annotation: TruthObject, height: int, width: int) -> Any:
    if isinstance(annotation.segmentation, list):
        return tuple(np.asarray(part, np.float64).reshape(-1, 2) / (width, height) for part in annotation.segmentation)
    if isinstance(annotation.segmentation, dict):
        counts = annotation.segmentation["counts"]
        if not isinstance(counts, str):
            runs = np.asarray(counts, np.int64)
            counts = rle.encode_runs(runs, np.array([len(runs)]))[0]
        return Mask(counts, height, width)
    x, y, w, h = annotation.bbox
    return np.array([(x, y), (x + w, y + h)]) / (width, height)


def read_tasks(tasks: Sequence[Any], display_url: str) -> Annotations:
    """Read the annotated images of an export.

    Args:
        tasks: The decoded JSON.
        display_url: URL of the file without secrets, for messages.

    Raises:
        EvaluateError: The file is not this kind of export, or a region cannot be read; the message says which.
    """
    latest: dict[str, tuple[str, AnnotatedImage]] = {}
    counts: Counter[str] = Counter()
    for number, task in enumerate(tasks):
        where = f"{display_url}: task {task.get('id', number) if isinstance(task, Mapping) else number}"
        if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping):
            raise EvaluateError(f"{where} has no data: is this Label Studio's JSON export (not JSON-MIN)?")
        if not isinstance(task.get("annotations"), list):
            raise EvaluateError(f"{where} has no annotations: export as JSON (not JSON-MIN)")
        submitted = [
            annotation
            for annotation in task["annotations"]
            if isinstance(annotation, Mapping) and not annotation.get("was_cancelled")
        ]
        if not submitted:
            counts["skipped" if task["annotations"] else "open"] += 1
            counts["drafts"] += bool(task.get("drafts"))
            continue
        annotation = max(submitted, key=lambda annotation: (bool(annotation.get("ground_truth")), _time(annotation)))
        annotators = {str(annotation.get("completed_by")) for annotation in submitted}
        counts["several_annotators" if len(annotators) > 1 else "earlier"] += len(submitted) - 1
        image_id, path = _names(task["data"])
        regions = _regions(annotation.get("result"), where, counts)
        predictions, blank = _possible_predictions(task, annotation, where)
        size = _size(annotation.get("result"))
        task_id = task.get("id") if isinstance(task.get("id"), int) else None
        image = AnnotatedImage(image_id, path, regions, _seconds(annotation), size, predictions, blank, task_id)
        key = image_id or path
        counts["same_image"] += key in latest
        if key not in latest or _time(annotation) >= latest[key][0]:
            latest[key] = (_time(annotation), image)
    notes = tuple(f"{counts[key]} {note}" for key, note in _NOTES.items() if counts[key])
    return Annotations(display_url, [image for _, image in latest.values()], counts["open"], counts["skipped"], notes)


def _time(annotation: Mapping[str, Any]) -> str:
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _possible_predictions(
    task: Mapping[str, Any], annotation: Mapping[str, Any], where: str
) -> tuple[tuple[Prediction, ...], bool]:
    """Predictions that an annotation may have started from, the most certain first; and whether it says it had none."""
    displayed, parent_id = annotation.get("prediction"), annotation.get("parent_prediction")
    entries = task.get("predictions")
    entries = entries if isinstance(entries, list) else []
    exported_in_full = [entry for entry in entries if isinstance(entry, Mapping) and "result" in entry]
    if isinstance(displayed, Mapping) and "result" in displayed and parent_id in (None, displayed.get("id")):
        return (_prediction(displayed, where),), False
    if parent_id is not None:
        return tuple(_prediction(entry, where) for entry in exported_in_full if entry.get("id") == parent_id), False
    if isinstance(displayed, Mapping) and not displayed:
        return (), True
    return tuple(_prediction(entry, where) for entry in exported_in_full), False


def _prediction(entry: Mapping[str, Any], where: str) -> Prediction:
    regions = _regions(entry.get("result"), f"{where}, prediction", Counter())
    return Prediction(str(entry.get("model_version") or ""), regions)


def _size(result: Any) -> tuple[int, int] | None:
    """Height and width of the image according to its regions, or None if they disagree."""
    items = [item for item in result if isinstance(item, Mapping) and "original_width" in item]
    sizes = [[item.get("original_height"), item["original_width"]] for item in items]
    if not sizes or any(size != sizes[0] for size in sizes):
        return None
    sides = [side for side in sizes[0] if is_number(side) and 1 <= side < 1e9]
    return (int(sides[0]), int(sides[1])) if len(sides) == 2 else None


def _seconds(annotation: Mapping[str, Any]) -> float | None:
    value = annotation.get("lead_time")
    return float(value) if is_number(value) and value >= 0 else None


def _names(data: Mapping[str, Any]) -> tuple[str, str]:
    """The image's id in the run, which `export label-studio` writes into tasks, and the path of its URL."""
    image_id = data.get("image_id")
    url = data.get("image")
    if not isinstance(url, str):
        # Other labeling configurations use other keys.
        url = next((value for value in data.values() if isinstance(value, str) and "/" in value), "")
    parts = urlsplit(url)
    path = parts.query.removeprefix("d=") if parts.path.endswith("/local-files/") else parts.path
    quoted = parts.scheme in ("", "http", "https")
    return (image_id if isinstance(image_id, str) else "", clean(unquote(path) if quoted else path))


def _regions(result: Any, where: str, counts: Counter[str]) -> tuple[Region, ...]:
    if not isinstance(result, list):
        raise EvaluateError(f"{where}: the result of an annotation must be a list")
    shapes: list[tuple[str, Any]] = []
    labels: dict[str, list[str]] = {}
    scores: dict[str, float] = {}
    for number, item in enumerate(result):
        value = item.get("value") if isinstance(item, Mapping) else None
        if not isinstance(value, Mapping):
            counts["other_regions"] += 1
            continue
        # If the project has separate tools for shape and class, a region consists of two items with the same id.
        id_ = str(item.get("id", f"#{number}"))
        for key, names in value.items():
            if key.endswith("labels") and isinstance(names, list):
                labels.setdefault(id_, []).extend(map(str, names))
        score = item.get("score")
        if is_number(score):
            scores[id_] = float(score)
        shape = _shape(item, value, f"{where}, region {id_}")
        if shape is not None:
            shapes.append((id_, shape))
        elif item.get("type") != "labels":
            counts["other_regions"] += 1
    return tuple(Region(id_, tuple(labels.get(id_, ())), shape, scores.get(id_)) for id_, shape in shapes)


def _shape(item: Mapping[str, Any], value: Mapping[str, Any], where: str) -> Any:
    """The shape in fractions of the image, or None for items without one (a choice, a text)."""
    try:
        if "rle" in value:
            height, width = int(item["original_height"]), int(item["original_width"])
            return Mask(rle_from_brush(value["rle"], height, width), height, width)
        shape = _corners(item, value)
        # NumPy reads a null in the JSON as NaN.
        if shape is not None and not np.isfinite(shape[0] if isinstance(shape, tuple) else shape).all():
            raise ValueError("a coordinate is not a number")
    except (KeyError, TypeError, ValueError, OverflowError, ExportError) as error:
        raise EvaluateError(f"{where} cannot be read: {error}") from None
    return shape


def _corners(item: Mapping[str, Any], value: Mapping[str, Any]) -> tuple[Points] | Points | None:
    """A polygon in a tuple, or two opposite corners of a box; None for other shapes."""
    if "points" in value:
        points = np.asarray(value["points"], np.float64).reshape(-1, 2) / 100
        return (points,) if len(points) >= 3 else None
    if "radiusX" in value:
        angle = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
        radii = np.array((float(value["radiusX"]), float(value["radiusY"])))
        offsets = np.stack((np.cos(angle), np.sin(angle)), axis=1) * radii
        return (_rotated(item, value, offsets),)
    if "width" in value and "height" in value:
        across, down = float(value["width"]), float(value["height"])
        if not value.get("rotation"):
            x, y = float(value["x"]), float(value["y"])
            return np.array([(x, y), (x + across, y + down)]) / 100
        return (_rotated(item, value, np.array([(0, 0), (across, 0), (across, down), (0, down)])),)
    return None


def _rotated(item: Mapping[str, Any], value: Mapping[str, Any], offsets: Points) -> Points:
    """The corners at `offsets` from x, y, rotated clockwise around x, y by `rotation` degrees.

    They are rotated in pixels, because percentages distort angles.
    """
    size = np.array((float(item["original_width"]), float(item["original_height"]))) / 100
    angle = math.radians(float(value.get("rotation") or 0))
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    corners: Points = (np.array((float(value["x"]), float(value["y"]))) + (offsets * size) @ rotation / size) / 100
    return corners
