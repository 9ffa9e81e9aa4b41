"""Label Studio's JSON export: tasks with the annotations of people.

A task with a region that came from a prediction and was left as it was:

    [{"data": {"image": "...", "image_id": "a.jpg"},
      "annotations": [{"lead_time": 12.5, "was_cancelled": false, "result": [
          {"id": "3f8a5f0e9d21", "type": "rectanglelabels", "original_width": 6, "original_height": 4,
           "value": {"x": 0, "y": 0, "width": 50, "height": 100, "rotation": 0, "rectanglelabels": ["Dog"]}}]}]}]

Of several annotations of a task the one marked as ground truth counts, else the last one, and of several tasks of an
image the one last worked on.

What a person was shown stands in three places, and the surest is taken:

    annotation.prediction           the prediction that the project showed when the annotation was made; `{}` where it
                                    had none, which says that the person began with nothing
    annotation.parent_prediction    the number of the prediction that was turned into the annotation, which counts where
                                    it is another; its regions are in task.predictions where those are
    task.predictions                exported whole, rather than as numbers
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from prelabel.compare.annotated import AnnotatedImage, Annotations, Mask, Points, Region, Start
from prelabel.errors import EvaluateError, ExportError
from prelabel.evaluate.image_names import clean
from prelabel.evaluate.truth import is_number
from prelabel.export.brush import rle_from_brush

#: Corners that stand for an ellipse.
_CORNERS = 72


def read_tasks(tasks: Sequence[Any], shown: str) -> Annotations:
    """The images of an export that somebody is done with.

    Args:
        tasks: The decoded JSON.
        shown: The file's name for messages.

    Raises:
        EvaluateError: It is another kind of export, or a region cannot be read; the message says which.
    """
    found: dict[str, tuple[str, AnnotatedImage]] = {}
    tally: Counter[str] = Counter()
    for number, task in enumerate(tasks):
        where = f"{shown}: task {task.get('id', number) if isinstance(task, Mapping) else number}"
        if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping):
            raise EvaluateError(f"{where} has no data: is this Label Studio's JSON export (not JSON-MIN)?")
        if not isinstance(task.get("annotations"), list):
            raise EvaluateError(f"{where} has no annotations: export as JSON (not JSON-MIN)")
        done = [one for one in task["annotations"] if isinstance(one, Mapping) and not one.get("was_cancelled")]
        if not done:
            tally["skipped" if task["annotations"] else "open"] += 1
            tally["drafts"] += bool(task.get("drafts"))
            continue
        last = max(done, key=lambda one: (bool(one.get("ground_truth")), _time(one)))
        people = {str(one.get("completed_by")) for one in done}
        tally["people" if len(people) > 1 else "more"] += len(done) - 1
        image_id, path = _names(task["data"])
        regions = _regions(last.get("result"), where, tally)
        starts, blank = _starts(task, last, where)
        size = _size(last.get("result"))
        id_ = task.get("id") if isinstance(task.get("id"), int) else None
        image = AnnotatedImage(image_id, path, regions, _seconds(last), size, starts, blank, id_)
        key = image_id or path
        if key in found:
            tally["twice"] += 1
        if key not in found or _time(last) >= found[key][0]:
            found[key] = (_time(last), image)
    notes = []
    if tally["more"]:
        notes.append(f"{tally['more']} earlier annotations of tasks with several are not looked at")
    if tally["people"]:
        notes.append(
            f"{tally['people']} annotations of tasks that several people worked on are not looked at: of each task the "
            "one marked as ground truth counts, else the last"
        )
    if tally["drafts"]:
        notes.append(f"{tally['drafts']} tasks have drafts that were not submitted: they are not looked at")
    if tally["twice"]:
        notes.append(f"{tally['twice']} tasks are of an image that another task has: the last annotation counts")
    if tally["other"]:
        notes.append(f"{tally['other']} regions are neither boxes, outlines nor masks and are not looked at")
    return Annotations(shown, [one for _, one in found.values()], tally["open"], tally["skipped"], tuple(notes))


def _time(annotation: Mapping[str, Any]) -> str:
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _starts(task: Mapping[str, Any], annotation: Mapping[str, Any], where: str) -> tuple[tuple[Start, ...], bool]:
    """What an annotation may have begun with, the surest first, and whether it says that it began with nothing."""
    kept, parent = annotation.get("prediction"), annotation.get("parent_prediction")
    there = task.get("predictions")
    whole = [one for one in there if isinstance(one, Mapping) and "result" in one] if isinstance(there, list) else []
    if isinstance(kept, Mapping) and "result" in kept and parent in (None, kept.get("id")):
        return (_start(kept, where),), False
    if parent is not None:
        return tuple(_start(one, where) for one in whole if one.get("id") == parent), False
    if isinstance(kept, Mapping) and not kept:
        return (), True
    return tuple(_start(one, where) for one in whole), False


def _start(prediction: Mapping[str, Any], where: str) -> Start:
    regions = _regions(prediction.get("result"), f"{where}, prediction", Counter())
    return Start(str(prediction.get("model_version") or ""), regions)


def _size(result: Any) -> tuple[int, int] | None:
    """Height and width of the picture on which all regions say they lie, or None where they do not agree."""
    items = [item for item in result if isinstance(item, Mapping) and "original_width" in item]
    sizes = [[item.get("original_height"), item["original_width"]] for item in items]
    if not sizes or any(size != sizes[0] for size in sizes):
        return None
    sides = [one for one in sizes[0] if isinstance(one, int | float) and not isinstance(one, bool) and 1 <= one < 1e9]
    return (int(sides[0]), int(sides[1])) if len(sides) == 2 else None


def _seconds(annotation: Mapping[str, Any]) -> float | None:
    value = annotation.get("lead_time")
    return float(value) if is_number(value) and value >= 0 else None


def _names(data: Mapping[str, Any]) -> tuple[str, str]:
    """The image's id in the run, which tasks made by an export have, and the path of its address."""
    image_id = data.get("image_id")
    address = data.get("image")
    if not isinstance(address, str):
        # Another config has another key.
        address = next((value for value in data.values() if isinstance(value, str) and "/" in value), "")
    parts = urlsplit(address)
    path = parts.query.removeprefix("d=") if parts.path.endswith("/local-files/") else parts.path
    quoted = parts.scheme in ("", "http", "https")
    return (image_id if isinstance(image_id, str) else "", clean(unquote(path) if quoted else path))


def _regions(result: Any, where: str, tally: Counter[str]) -> tuple[Region, ...]:
    if not isinstance(result, list):
        raise EvaluateError(f"{where}: the result of an annotation must be a list")
    shapes: list[tuple[str, Any]] = []
    labels: dict[str, list[str]] = {}
    scores: dict[str, float] = {}
    for number, item in enumerate(result):
        value = item.get("value") if isinstance(item, Mapping) else None
        if not isinstance(value, Mapping):
            tally["other"] += 1
            continue
        # With separate tools for shape and name, both have the id of the region.
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
            tally["other"] += 1
    return tuple(Region(id_, tuple(labels.get(id_, ())), shape, scores.get(id_)) for id_, shape in shapes)


def _shape(item: Mapping[str, Any], value: Mapping[str, Any], where: str) -> Any:
    """The shape in shares of the image, or None for what is none (a choice, a text)."""
    try:
        if "rle" in value:
            height, width = int(item["original_height"]), int(item["original_width"])
            return Mask(rle_from_brush(value["rle"], height, width), height, width)
        shape = _corners(item, value)
        # NumPy takes null for a number that is none.
        if shape is not None and not np.isfinite(shape[0] if isinstance(shape, tuple) else shape).all():
            raise ValueError("a coordinate is no number")
    except (KeyError, TypeError, ValueError, OverflowError, ExportError) as error:
        raise EvaluateError(f"{where} cannot be read: {error}") from None
    return shape


def _corners(item: Mapping[str, Any], value: Mapping[str, Any]) -> tuple[Points] | Points | None:
    """An outline in a tuple, or two opposite corners of a box."""
    if "points" in value:
        points = np.asarray(value["points"], np.float64).reshape(-1, 2) / 100
        return (points,) if len(points) >= 3 else None
    if "radiusX" in value:
        angle = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
        radii = np.array((float(value["radiusX"]), float(value["radiusY"])))
        offsets = np.stack((np.cos(angle), np.sin(angle)), axis=1) * radii
        return (_turned(item, value, offsets),)
    if "width" in value and "height" in value:
        across, down = float(value["width"]), float(value["height"])
        if not value.get("rotation"):
            x, y = float(value["x"]), float(value["y"])
            return np.array([(x, y), (x + across, y + down)]) / 100
        return (_turned(item, value, np.array([(0, 0), (across, 0), (across, down), (0, down)])),)
    return None


def _turned(item: Mapping[str, Any], value: Mapping[str, Any], offsets: Points) -> Points:
    """Corners around x y, turned clockwise by `rotation`: in pixels, since percent are no square."""
    size = np.array((float(item["original_width"]), float(item["original_height"]))) / 100
    angle = math.radians(float(value.get("rotation") or 0))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    corners: Points = (np.array((float(value["x"]), float(value["y"]))) + (offsets * size) @ turn / size) / 100
    return corners
