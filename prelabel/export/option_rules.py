"""Rules that the options of several exports share; each raises ConfigError with the option's name and value."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from prelabel.frames import DISPLAY, FRAMES
from prelabel.options import option, require
from prelabel.storage import absolute, redact


def frame_option() -> Any:
    """Of the formats that tools of all kinds read."""
    return option(
        DISPLAY,
        "The picture that boxes and masks lie on: upright, as viewers show it that apply the orientation in the file "
        "(display); with its pixels as they stand in the file (stored); as browsers show it (browser).",
        choices=FRAMES,
        group="Frame",
    )


def require_choices(options: Any) -> None:
    """Every option that has choices is one of them."""
    for field in fields(options):
        choices, value = field.metadata["choices"], getattr(options, field.name)
        require(
            not choices or value in choices, f"{_said(field.name)} must be one of {', '.join(choices)}, got {value!r}"
        )


def require_positive(options: Any, *names: str) -> None:
    """These options are above 0."""
    for name in names:
        value = getattr(options, name)
        require(value > 0, f"{_said(name)} must be above 0, got {value}")


def require_not_negative(options: Any, *names: str) -> None:
    """These options are 0 or more."""
    for name in names:
        value = getattr(options, name)
        require(value >= 0, f"{_said(name)} must be 0 or more, got {value}")


def require_other_file(options: Any, name: str, to: str) -> None:
    """The file of this option, where it is given, is not the one that is written at `to`."""
    file = getattr(options, name)
    require(not file or absolute(file) != absolute(to), f"{_said(name)} and to are the same file {redact(to)!r}")


def _said(name: str) -> str:
    return name.replace("_", "-")
