"""What Label Studio would refuse, silently drop, or import and not show: found before a task file is published.

The rules are the server's validator's and, beyond it, what was seen to be accepted and then wrong on the screen: a
`model_version` of null (the whole project's labelling page stays closed), a region id that occurs twice (the second
region vanishes), numbers given as text, `x + width` above 100, a polygon that is not closed, an encoded mask of another
size. All of these refuse the file. Where label-studio-sdk is installed its validator is asked, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from prelabel.errors import ExportError
from prelabel.export.label_config import LabelConfig
from prelabel.export.sdk_rules import sdk_rules


class Preflight:
    """Checks the tasks of one labelling config before they are published or sent."""

    def __init__(self, config: LabelConfig, *, accepted: bool = False) -> None:
        """Raises ExportError where the SDK refuses the config; one that a server has `accepted` is not asked about."""
        self._config = config
        self._sdk_rules = sdk_rules(config.xml, accepted=accepted)

    def require_showable(self, task: Mapping[str, Any]) -> None:
        """Raise ExportError, which names the image and the first problem, unless the task will be shown as it is."""
        problem = next(problems(task, self._config), None) or next(self._sdk_problems(task), None)
        if problem is not None:
            data = task.get("data")
            name = data.get("image_id") if isinstance(data, Mapping) else None
            raise ExportError(f"the task of image {name!r} would not be shown by Label Studio: {problem}")

    def _sdk_problems(self, task: Mapping[str, Any]) -> Iterator[str]:
        if self._sdk_rules is not None:
            for prediction in task["predictions"]:
                yield from (f"label-studio-sdk says: {one}" for one in self._sdk_rules(prediction))


def problems(task: Mapping[str, Any], config: LabelConfig) -> Iterator[str]:
    """Everything that is wrong with a task, one line each."""
    data = task.get("data")
    if not isinstance(data, Mapping):
        yield "data must be an object"
    elif not isinstance(data.get(config.data_key), str) or not data[config.data_key]:
        yield f"data.{config.data_key} must be the image's address, got {data.get(config.data_key)!r}"
    predictions = task.get("predictions")
    if not isinstance(predictions, list):
        yield "predictions must be a list"
        return
    versions = [one.get("model_version") for one in predictions if isinstance(one, Mapping)]
    if len(set(map(repr, versions))) != len(predictions):
        yield "there must be one prediction for each model_version"
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
    for number, region in enumerate(result):
        if not _is_object(region):
            yield f"region {number}: must be an object, got {region!r}"
            continue
        for problem in _region_problems(region, config):
            yield f"region {number}: {problem}"
        id_ = str(region.get("id"))
        if id_ in seen:
            yield f"region {number}: the id {id_!r} occurs twice"
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
        yield f"from_name {region.get('from_name')!r} is no tool of the config"
        return
    if region.get("type") != control.type:
        yield f"type must be {control.type!r}, got {region.get('type')!r}"
    value = region.get("value")
    if not _is_object(value):
        yield "value must be an object"
        return
    labels = value.get(control.type)
    if not isinstance(labels, list) or not labels or (len(labels) > 1 and not control.multiple):
        wanted = "labels" if control.multiple else "one label"
        yield f"value.{control.type} must be a list of {wanted}, got {labels!r}"
    else:
        for place, label in enumerate(labels):
            if not isinstance(label, str) or control.fit(label) != label:
                yield f"the config's {control.name!r} has no label {label!r}"
            elif label in labels[:place]:
                yield f"the label {label!r} occurs twice"
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
        stated = int.from_bytes(data[:4], "big")
        if len(data) < 7 or stated != width * height * 4:
            yield f"rle is of {stated} values, an image of {width} x {height} has {width * height * 4}"


def _is_object(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return type(value) is dict or isinstance(value, Mapping)


def _is_number(value: Any, least: float, most: float) -> bool:
    # The usual kinds first: an export asks this some hundred million times. What is not finite is not between.
    kind = type(value)
    if kind is not float and kind is not int and (kind is bool or not isinstance(value, _NUMBERS)):
        return False
    return bool(least <= value <= most)


_NUMBERS = (int, float)


_VALUE_RULES = {"rectangle": _rectangle_problems, "polygon": _polygon_problems, "brush": _brush_problems}
