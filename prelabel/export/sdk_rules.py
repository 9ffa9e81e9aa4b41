"""The rules of label-studio-sdk's own validator, which the server runs too, for where that package is installed.

Importing it takes a second or two, which is why nothing but the check of finished tasks does so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np

from prelabel import rle
from prelabel.errors import ExportError
from prelabel.export.brush import brush_from_rle

#: Says what is wrong with a prediction, one line each.
Rules = Callable[[Mapping[str, Any]], list[str]]

#: A message of the validator may quote a whole mask.
_LONGEST = 300


def sdk_rules(xml: str, *, accepted: bool = False) -> Rules | None:
    """The validator for predictions of tasks with this labelling config, or None where the SDK is not installed.

    Args:
        xml: The config.
        accepted: A server has it already: the SDK installed here, which may be older, is not asked about it, and where
            that does not understand it there are no rules.

    Raises:
        ExportError: The validator refuses the config.
    """
    try:
        from label_studio_sdk._legacy.exceptions import LabelStudioValidationErrorSentryIgnored as RefusedError
        from label_studio_sdk._legacy.exceptions import LabelStudioXMLSyntaxErrorSentryIgnored as SyntaxRefusedError
        from label_studio_sdk.label_interface import LabelInterface
    except ImportError:
        return None
    if "return_errors" not in inspect.signature(LabelInterface.validate_prediction).parameters:
        return None  # before 2.0 it does not say what is wrong
    try:
        interface = LabelInterface(xml)
        if not accepted:
            interface.validate()
    except (RefusedError, SyntaxRefusedError, KeyError, ValueError) as error:
        if accepted:
            return None
        raise ExportError(f"label-studio-sdk refuses the labelling config: {_one_line(str(error))}") from None

    def rules(prediction: Mapping[str, Any]) -> list[str]:
        said = [_one_line(one) for one in interface.validate_prediction(dict(prediction), return_errors=True)]
        brushes = said and any(region.get("type") == "brushlabels" for region in prediction["result"])
        return [_refuses_brushes(), *said] if brushes and _refuses_brushes() else said

    return rules


@cache
def _refuses_brushes() -> str:
    """Why no brush mask can pass, or `""`: the validator is asked about one that is surely right."""
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
        f"its version {metadata.version('label-studio-sdk')}, and a server that has it, refuses every brush mask: "
        "upgrade label-studio-sdk to 2.0.18 or later, or choose polygons (shape polygon)"
    )


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
