"""The rules of label-studio-sdk's own validator, which the server runs too, for where that package is installed.

Importing it takes a second or two, which is why nothing but the check of finished tasks does so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prelabel.errors import ExportError

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
    try:
        interface = LabelInterface(xml)
        if not accepted:
            interface.validate()
    except (RefusedError, SyntaxRefusedError, KeyError, ValueError) as error:
        if accepted:
            return None
        raise ExportError(f"label-studio-sdk refuses the labelling config: {_one_line(str(error))}") from None
    return lambda prediction: [
        _one_line(one) for one in interface.validate_prediction(dict(prediction), return_errors=True)
    ]


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
