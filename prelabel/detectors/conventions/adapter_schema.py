"""The keys of an adapter as a JSON Schema, and the check of a file against it.

`schemas/adapter.schema.json` and the table of keys in the documentation are made from `SCHEMA`, so editors, readers and
`label` agree on what is allowed. The check reports the first error in one line, with the key as a path:

    --adapter: outputs.boxes.order must be xyxy, yxyx, xywh or cxcywh, got 'xyyx'
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from prelabel.errors import ConfigError

#: Stands in a first adapter for an answer that is still missing.
UNANSWERED = "???"

_TENSOR = {"type": "string", "minLength": 1, "description": "Name of the output, as `prelabel inspect` shows it."}
_PART = {
    "tensor": _TENSOR,
    "columns": {
        "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d+\.\.\d*$"}],
        "form": "a number, `first..last`, or `first..` up to the last",
        "description": "The columns of the output to use, counted from 0; all columns if left out.",
    },
    "transposed": {
        "type": "boolean",
        "description": "Whether the output is [columns, N] instead of [N, columns], N being the number of boxes.",
    },
}
_ACTIVATION = {
    "enum": ["none", "sigmoid", "softmax"],
    "description": "What turns the numbers into scores in 0..1: nothing, a sigmoid, or a softmax over all classes.",
}
_SIGMOID = {
    "enum": ["none", "sigmoid"],
    "description": "What turns the numbers into scores in 0..1: nothing or a sigmoid.",
}
_CHANNELS = {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3, "form": "3 numbers"}


def _object(description: str, required: Sequence[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "description": description,
        "properties": properties,
    }


SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "An adapter: how to call a network, and what its outputs mean",
    **_object(
        "What `prelabel label --adapter FILE` reads.",
        ("input", "outputs", "suppression"),
        signature={
            "type": "string",
            "minLength": 1,
            "description": "The signature to call; needed if there are several, and none is `serving_default` or "
            "`default`.",
        },
        input=_object(
            "How an image becomes the input of the network.",
            ("colors", "fit"),
            colors={"enum": ["rgb", "bgr"], "description": "The order of the color channels."},
            layout={
                "enum": ["channels-last", "channels-first"],
                "description": "The position of the channels; needed if the shape of the input leaves it open.",
            },
            range={
                "enum": ["0..1", "0..255", "-1..1"],
                "description": "The range that pixels are scaled to; needed for a float input unless the graph tells.",
            },
            mean={
                **_CHANNELS,
                "description": "Subtracted from the scaled pixels: a number per channel, in the order of `colors` and "
                "in the unit of `range`.",
            },
            deviation={
                **_CHANNELS,
                "items": {"type": "number", "exclusiveMinimum": 0},
                "form": "3 numbers above 0",
                "description": "The difference from `mean` is divided by it: a number per channel, like `mean`.",
            },
            size={
                "type": "array",
                "items": {"type": "integer", "minimum": 1},
                "minItems": 2,
                "maxItems": 2,
                "form": "height and width in pixels",
                "description": "The size of the input; needed if the signature leaves it open and `fit` is not `keep`.",
            },
            fit={
                "enum": ["stretch", "letterbox", "corner", "keep"],
                "description": "How an image gets the size of the input: stretched; at its aspect ratio in the center "
                "(`letterbox`) or at the upper left (`corner`), with the rest filled; or not at all (`keep`).",
            },
            fill={
                "type": "number",
                "minimum": 0,
                "maximum": 255,
                "description": "The pixel value that fills the rest, in 0..255 before scaling; needed for `letterbox` "
                "and `corner`.",
            },
        ),
        outputs=_object(
            "What the outputs mean. Each may begin with a dimension of 1.",
            ("boxes", "scores"),
            boxes=_object(
                "The boxes, [N, 4].",
                ("tensor", "order", "unit"),
                **_PART,
                order={
                    "enum": ["xyxy", "yxyx", "xywh", "cxcywh"],
                    "description": "Two corners (x1 y1 x2 y2 or y1 x1 y2 x2), the upper left corner with width and "
                    "height, or the center with width and height.",
                },
                unit={
                    "enum": ["normalized", "input-pixels", "image-pixels"],
                    "description": "Shares of the input's size, pixels of the input, or pixels of the image that the "
                    "network is given (only with `fit: keep`).",
                },
            ),
            scores=_object(
                "The scores: [N] with `classes`, or a score per class, [N, C], of which the best class is taken.",
                ("tensor", "activation"),
                **_PART,
                activation=_ACTIVATION,
            ),
            objectness=_object(
                "Scores [N] that the scores of the classes are multiplied with.",
                ("tensor", "activation"),
                **_PART,
                activation=_SIGMOID,
            ),
            classes=_object(
                "The classes. Without `tensor` and `number`, `scores` has a column per class, from class 0 on.",
                (),
                **{**_PART, "tensor": {**_TENSOR, "description": "The output with a class number or name per box."}},
                number={
                    "type": "integer",
                    "minimum": 0,
                    "description": "The class number of every box, for a network with one class.",
                },
                offset={
                    "type": "integer",
                    "description": "Added to the network's class numbers, so that they are those of the labels; 0 if "
                    "left out.",
                },
                background={
                    "type": "integer",
                    "minimum": 0,
                    "description": "The network's class number, before `offset`, that stands for no object: never "
                    "a detection.",
                },
            ),
            count=_object(
                "The number of valid boxes; the rest are padding.",
                ("tensor",),
                tensor=_TENSOR,
            ),
            masks=_object(
                "A mask per box, [N, height, width].",
                ("tensor", "frame", "activation"),
                tensor=_TENSOR,
                frame={
                    "enum": ["box", "image"],
                    "description": "What a mask covers: its box, or the whole image as the network is given it, with "
                    "what `fit` fills.",
                },
                activation=_SIGMOID,
            ),
        ),
        suppression={
            "anyOf": [
                {"enum": ["none"]},
                _object(
                    "How overlapping boxes are dropped; `none` if the network does it.",
                    ("iou", "classes"),
                    iou={
                        "type": "number",
                        "exclusiveMinimum": 0,
                        "exclusiveMaximum": 1,
                        "description": "A box is dropped if its IoU with a kept box of a higher score is greater.",
                    },
                    classes={
                        "enum": ["separate", "together"],
                        "description": "Whether only boxes of the same class are compared, or all.",
                    },
                    max={
                        "type": "integer",
                        "minimum": 1,
                        "description": "At most this many boxes are kept, those with the highest scores; all if left "
                        "out.",
                    },
                ),
            ],
            "form": "`none`, or `iou` and `classes`",
            "description": "How overlapping boxes are dropped before `--score-threshold` and the other options apply; "
            "`none` if the network does it.",
        },
        labels={
            "anyOf": [
                {"enum": ["coco"]},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
                {
                    "type": "object",
                    "additionalProperties": False,
                    "minProperties": 1,
                    "patternProperties": {r"^\d{1,9}$": {"type": "string", "minLength": 1}},
                },
            ],
            "form": "`coco`, a list, or numbers with names",
            "description": "The names of the classes: `coco`; a list in the order of the network's classes, from its "
            "class 0 on; or each class number, after `offset`, with its name. `--label-map` reads other files.",
        },
    ),
}

#: Shortens values in messages.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlevel = 2


def check(values: Mapping[str, Any], schema: Mapping[str, Any] = SCHEMA, key: str = "") -> None:
    """Check the content of an adapter, or the value of a key, against the schema.

    Raises:
        ConfigError: A key is unknown, missing or not answered yet, or its value is not allowed. The message names the
            first such key as a path (`outputs.boxes.order`), its value and the allowed ones.
    """
    for name, value in values.items():
        path = f"{key}.{name}".lstrip(".")
        if name in schema["properties"]:
            _check_value(value, schema["properties"][name], path)
            continue
        near = difflib.get_close_matches(str(name), schema["properties"], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f": use {', '.join(schema['properties'])}"
        raise ConfigError(f"--adapter: unknown key {path}{hint}")
    for name in schema["required"]:
        if name not in values:
            part = schema["properties"][name]
            raise ConfigError(f"--adapter: {f'{key}.{name}'.lstrip('.')} is missing: give {form_of(part)}")


def _check_value(value: Any, schema: Mapping[str, Any], key: str) -> None:
    options = schema.get("anyOf", [schema])
    if isinstance(value, Mapping):
        for option in options:
            if "properties" in option:
                check(value, option, key)
                return
    if not any(_is_valid(value, option) for option in options):
        raise ConfigError(f"--adapter: {key} must be {form_of(schema)}, got {_SHORT.repr(value)}")


def _is_valid(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value that is not a mapping of known keys fits a schema without alternatives."""
    if "enum" in schema:
        return isinstance(value, str) and value in schema["enum"]
    kind = schema["type"]
    if kind == "string":
        pattern = schema.get("pattern", "")
        is_long = isinstance(value, str) and len(value) >= schema.get("minLength", 0)
        return is_long and re.search(pattern, value, re.ASCII) is not None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(value, int if kind == "integer" else (int, float)):
            return False
        return bool(
            schema.get("minimum", value) <= value <= schema.get("maximum", value)
            and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
            and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
            and abs(value) <= 1e9
        )
    if kind == "array":
        return (
            isinstance(value, list)
            and schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
            and all(_is_valid(item, schema["items"]) for item in value)
        )
    if "patternProperties" not in schema or not isinstance(value, Mapping) or not value:
        return False
    ((pattern, inner),) = schema["patternProperties"].items()
    return all(re.search(pattern, str(name), re.ASCII) and _is_valid(part, inner) for name, part in value.items())


def unanswered(values: Mapping[str, Any], schema: Mapping[str, Any] = SCHEMA, key: str = "") -> list[str]:
    """The keys without an answer, each with the allowed values: `input.colors (rgb or bgr)`."""
    keys: list[str] = []
    for name, value in values.items():
        path = f"{key}.{name}".lstrip(".")
        part = schema.get("properties", {}).get(name, {})
        if value == UNANSWERED:
            keys.append(f"{path} ({form_of(part)})" if part else path)
        elif isinstance(value, Mapping):
            keys += unanswered(value, part, path)
    return keys


def form_of(schema: Mapping[str, Any]) -> str:
    """The allowed values of a key in words."""
    if "form" in schema:
        return str(schema["form"])
    if "enum" in schema:
        *first, last = schema["enum"]
        return f"{', '.join(first)} or {last}" if first else last
    if "properties" in schema:
        names = schema["required"] or list(schema["properties"])
        return f"the keys {', '.join(names)}"
    words = {"string": "a name", "boolean": "true or false", "integer": "a whole number", "number": "a number"}
    text = words[schema["type"]]
    if "maximum" in schema:
        return f"{text} in {schema['minimum']}..{schema['maximum']}"
    if "exclusiveMaximum" in schema:
        return f"{text} between {schema['exclusiveMinimum']} and {schema['exclusiveMaximum']}"
    return f"{text} of at least {schema['minimum']}" if "minimum" in schema else text
