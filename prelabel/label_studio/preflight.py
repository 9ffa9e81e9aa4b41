"""Check tasks before they are published: find what Label Studio would refuse, drop silently, or import and not show.

The rules are those of the server's validator and, beyond it, of problems that the server accepts but shows wrongly: a
`model_version` of null (the labeling page of the whole project does not open), a duplicate region id (the second region
vanishes), numbers given as text, `x + width` above 100, a polygon that is not closed, an encoded mask of wrong size.

The numbers of a run are checked as columns, before they become tasks (`require_showable_numbers`); everything else in a
task follows from its tools and labels. `problems` has all the rules for a finished task. If label-studio-sdk is
installed, tasks are checked by these and by its validator (`sdk_rules`), which the server uses as well: one task with
each tool and label, since that takes longer than making the task. Importing the SDK takes a second or two, so only the
process that writes or sends the tasks does so.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import Any, TypeGuard

import numpy as np

from prelabel.errors import ExportError
from prelabel.label_studio.config import LabelConfig
from prelabel.masks import rle
from prelabel.masks.brush import brush_from_rle
from prelabel.store.detection_batch import DetectionBatch


class Preflight:
    """Checks tasks against a labeling config before they are published or sent."""

    def __init__(self, config: LabelConfig, *, accepted: bool = False) -> None:
        """Raises ExportError if the SDK refuses the config. A config that a server has `accepted` is not checked."""
        self._config = config
        self._sdk_rules = sdk_rules(config.xml, accepted=accepted)

    def require_accepted(self, task: bytes) -> None:
        """Raise ExportError if the SDK is installed, and it or `problems` finds a problem in a task as JSON."""
        if self._sdk_rules is not None:
            self.require_showable(json.loads(task))

    def require_showable(self, task: Mapping[str, Any]) -> None:
        """Raise ExportError unless the task will be shown correctly; it gives the image and the first problem."""
        problem = next(problems(task, self._config), None) or next(self._sdk_problems(task), None)
        if problem is not None:
            data = task.get("data")
            raise not_shown(data.get("image_id") if isinstance(data, Mapping) else None, problem)

    def _sdk_problems(self, task: Mapping[str, Any]) -> Iterator[str]:
        if self._sdk_rules is not None:
            for prediction in task["predictions"]:
                yield from (f"label-studio-sdk: {problem}" for problem in self._sdk_rules(prediction))


def not_shown(image_id: str | None, problem: str) -> ExportError:
    """The error about a task that Label Studio would not show."""
    return ExportError(f"Label Studio would not show the task of image {image_id!r} correctly: {problem}")


def require_distinct(
    image_id: str, url: str, model_version: str, region_ids: Sequence[str], config: LabelConfig
) -> None:
    """Raise ExportError unless an image has a URL, and a prediction a model version and distinct regions."""
    if not url:
        raise not_shown(image_id, f"data.{config.data_key} must be the image's URL, got ''")
    if not model_version.strip():
        raise not_shown(image_id, f"model_version must be text that is not empty, got {model_version!r}")
    if len(set(region_ids)) < len(region_ids):
        raise not_shown(image_id, "the id of a region is a duplicate")


def require_score(image_id: str, score: float) -> None:
    """Raise ExportError unless the score of a region is a number from 0 to 1."""
    if not 0 <= score <= 1:
        raise not_shown(image_id, f"score must be a number from 0 to 1, got {score!r}")


def require_showable_numbers(batch: DetectionBatch) -> None:
    """Raise ExportError unless all detections have scores from 0 to 1, and images of at least one pixel."""
    wrong = ~((batch.score >= 0) & (batch.score <= 1) & (batch.height > 0) & (batch.width > 0))
    for n in np.flatnonzero(wrong).tolist():
        image_id, score = batch.images[batch.image[n]].image_id, float(batch.score[n])
        require_score(image_id, score)
        size = f"{batch.width[n]} x {batch.height[n]}"
        raise not_shown(image_id, f"original_width and original_height must be 1 pixel or more, got {size}")


def problems(task: Mapping[str, Any], config: LabelConfig) -> Iterator[str]:
    """All problems of a task, one line each."""
    data = task.get("data")
    if not isinstance(data, Mapping):
        yield "data must be an object"
    elif not isinstance(data.get(config.data_key), str) or not data[config.data_key]:
        yield f"data.{config.data_key} must be the image's URL, got {data.get(config.data_key)!r}"
    predictions = task.get("predictions")
    if not isinstance(predictions, list):
        yield "predictions must be a list"
        return
    versions = [prediction.get("model_version") for prediction in predictions if isinstance(prediction, Mapping)]
    if len(set(map(repr, versions))) != len(predictions):
        yield "there must be one prediction per model_version"
    for prediction in predictions:
        yield from _prediction_problems(prediction, config)


def _prediction_problems(prediction: Any, config: LabelConfig) -> Iterator[str]:
    if not isinstance(prediction, Mapping):
        yield f"a prediction must be an object, got {prediction!r}"
        return
    version = prediction.get("model_version")
    if not isinstance(version, str) or not version.strip():
        yield f"model_version must be text that is not empty, got {version!r}"
    if not _is_number(prediction.get("score"), 0, 1):
        yield f"the score of the prediction must be a number from 0 to 1, got {prediction.get('score')!r}"
    result = prediction.get("result")
    if not isinstance(result, list):
        yield "result must be a list"
        return
    seen: set[str] = set()
    ids = {str(region.get("id")) for region in result if _is_object(region)}
    for number, region in enumerate(result):
        if not _is_object(region):
            yield f"region {number}: must be an object, got {region!r}"
            continue
        for problem in _region_problems(region, config):
            yield f"region {number}: {problem}"
        if "parentID" in region and (region["parentID"] not in ids or region["parentID"] == region.get("id")):
            yield f"region {number}: parentID must be the id of another region, got {region['parentID']!r}"
        id_ = str(region.get("id"))
        if id_ in seen:
            yield f"region {number}: the id {id_!r} is a duplicate"
        seen.add(id_)


def _region_problems(region: Mapping[str, Any], config: LabelConfig) -> Iterator[str]:
    id_ = region.get("id")
    if not isinstance(id_, str) or not id_ or "#" in id_:
        yield f"id must be text without '#', got {id_!r}"
    if not _is_number(region.get("score"), 0, 1):
        yield f"score must be a number from 0 to 1, got {region.get('score')!r}"
    if region.get("to_name") != config.to_name:
        yield f"to_name must be {config.to_name!r}, got {region.get('to_name')!r}"
    from_name = region.get("from_name")
    control = config.named(from_name) if isinstance(from_name, str) else None
    if control is None:
        yield f"from_name {region.get('from_name')!r} is not a tool of the config"
        return
    if region.get("type") != control.type:
        yield f"type must be {control.type!r}, got {region.get('type')!r}"
    value = region.get("value")
    if not _is_object(value):
        yield "value must be an object"
        return
    labels = value.get(control.type)
    if not isinstance(labels, list) or not labels or (len(labels) > 1 and not control.multiple):
        expected = "labels" if control.multiple else "one label"
        yield f"value.{control.type} must be a list of {expected}, got {labels!r}"
    else:
        for index, label in enumerate(labels):
            if not isinstance(label, str) or control.fit(label) != label:
                yield f"the config's {control.name!r} has no label {label!r}"
            elif label in labels[:index]:
                yield f"the label {label!r} is a duplicate"
    if control.kind != "choices":
        yield from _size_problems(region)
        yield from _VALUE_RULES[control.kind](value, region)


def _size_problems(region: Mapping[str, Any]) -> Iterator[str]:
    for key in ("original_width", "original_height"):
        size = region.get(key)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            yield f"{key} must be a whole number of pixels, got {size!r}"
    if region.get("image_rotation") != 0:
        yield f"image_rotation must be 0, got {region.get('image_rotation')!r}"


def _rectangle_problems(value: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[str]:
    for start, extent in (("x", "width"), ("y", "height")):
        a, b = value.get(start), value.get(extent)
        if not _is_number(a, 0, 100) or not _is_number(b, 0, 100) or not b:
            yield f"{start} and {extent} must be percent from 0 to 100, {extent} above 0, got {a!r} and {b!r}"
        elif a + b > 100:
            yield f"{start} + {extent} must be at most 100, got {a!r} + {b!r}"
    if value.get("rotation") != 0:
        yield f"rotation must be 0, got {value.get('rotation')!r}"


def _polygon_problems(value: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[str]:
    points = value.get("points")
    if not isinstance(points, list) or len(points) < 3:
        yield "points must be a list of at least 3 corners"
    elif not all(isinstance(p, list) and len(p) == 2 and all(_is_number(v, 0, 100) for v in p) for p in points):
        yield "every point must be x and y in percent from 0 to 100"
    if value.get("closed") is not True:
        yield "closed must be true"


def _brush_problems(value: Mapping[str, Any], region: Mapping[str, Any]) -> Iterator[str]:
    if value.get("format") != "rle":
        yield f"format must be 'rle', got {value.get('format')!r}"
    try:
        data = bytes(value["rle"])
    except (KeyError, TypeError, ValueError):
        yield "rle must be a list of bytes"
        return
    width, height = region.get("original_width"), region.get("original_height")
    if isinstance(width, int) and isinstance(height, int):
        values = int.from_bytes(data[:4], "big")
        if len(data) < 7 or values != width * height * 4:
            yield f"rle has {values} values, but an image of {width} x {height} has {width * height * 4}"


def _keypoint_problems(value: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[str]:
    x, y, width = value.get("x"), value.get("y"), value.get("width")
    if not _is_number(x, 0, 100) or not _is_number(y, 0, 100):
        yield f"x and y must be percent from 0 to 100, got {x!r} and {y!r}"
    if not _is_number(width, 0, 100) or not width:
        yield f"width must be percent above 0, got {width!r}"


def _is_object(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return type(value) is dict or isinstance(value, Mapping)


def _is_number(value: Any, low: float, high: float) -> bool:
    # The comparison also rejects NaN.
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


_VALUE_RULES = {
    "rectangle": _rectangle_problems,
    "polygon": _polygon_problems,
    "brush": _brush_problems,
    "keypoint": _keypoint_problems,
}


#: A function that returns the problems of a prediction, one line each.
Rules = Callable[[Mapping[str, Any]], list[str]]

#: Longest message in characters: the validator may quote a whole mask.
_LONGEST = 300


def sdk_rules(xml: str, *, accepted: bool = False) -> Rules | None:
    """The SDK's validator for predictions with this labeling config, or None if the SDK is not installed.

    Args:
        xml: The labeling config.
        accepted: Whether a server has accepted the config. The SDK installed here may be older than the server: it does
            not check such a config, and if it does not understand it, there are no rules.

    Raises:
        ExportError: The validator refuses the config.
    """
    # The errors that the validator raises have no public name. tests/tools/test_sdk_rules.py fails if they move.
    try:
        from label_studio_sdk._legacy.exceptions import LabelStudioValidationErrorSentryIgnored as RefusedError
        from label_studio_sdk._legacy.exceptions import LabelStudioXMLSyntaxErrorSentryIgnored as SyntaxRefusedError
        from label_studio_sdk.label_interface import LabelInterface
    except ImportError:
        return None
    if "return_errors" not in inspect.signature(LabelInterface.validate_prediction).parameters:
        return None  # before 2.0 the validator does not return the problems
    try:
        interface = LabelInterface(xml)
        if not accepted:
            interface.validate()
    except (RefusedError, SyntaxRefusedError, KeyError, ValueError) as error:
        if accepted:
            return None
        raise ExportError(f"label-studio-sdk refuses the labeling config: {_one_line(str(error))}") from None

    def rules(prediction: Mapping[str, Any]) -> list[str]:
        lines = [_one_line(text) for text in interface.validate_prediction(dict(prediction), return_errors=True)]
        brushes = lines and any(region.get("type") == "brushlabels" for region in prediction["result"])
        return [_refuses_brushes(), *lines] if brushes and _refuses_brushes() else lines

    return rules


@cache
def _refuses_brushes() -> str:
    """Why the validator refuses all brush masks, or `""`: it is tested with a mask that is certainly valid."""
    from label_studio_sdk.label_interface import LabelInterface

    names = {"type": "brushlabels", "from_name": "label", "to_name": "image", "id": "a", "score": 1.0}
    mask = list(brush_from_rle(rle.encode(np.ones((2, 2), bool)), 2, 2))
    value = {"format": "rle", "rle": mask, "brushlabels": ["a"]}
    region = {**names, "original_width": 2, "original_height": 2, "image_rotation": 0, "value": value}
    config = '<View><Image name="image" value="$image"/><BrushLabels name="label" toName="image"><Label value="a"/>'
    interface = LabelInterface(f"{config}</BrushLabels></View>")
    if not interface.validate_prediction({"model_version": "a", "score": 1.0, "result": [region]}, return_errors=True):
        return ""
    return (
        f"version {metadata.version('label-studio-sdk')}, and a server that uses it, refuses all brush masks: upgrade "
        "label-studio-sdk to 2.0.18 or later, or use --shape polygon"
    )


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
