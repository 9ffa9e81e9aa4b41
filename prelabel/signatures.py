"""Signatures and docstrings of the Python functions, made from the classes of options.

    def export_coco(run, to, *, progress=None, storage_options=None, **options): ...

accepts every option of `CocoOptions` as a keyword. `document` gives the function a signature and a docstring that list
these keywords one by one, so that `help()` and notebooks show them. `python -m tools.stub` writes the same to
`prelabel/__init__.pyi`, which editors and type checkers read.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from prelabel.options import PATH_METAVARS, Options, default_of, fields_of, from_mapping, is_required, kind_of

#: The class that declares the options of each function.
OPTION_CLASSES = {
    "label": "prelabel.config:LabelOptions",
    "estimate": "prelabel.estimates.options:EstimateOptions",
    "fuse": "prelabel.fusion.options:FuseOptions",
    "choose_images": "prelabel.triage.choosing:ChoiceOptions",
    "preview": "prelabel.gallery.preview:PreviewOptions",
    "export_coco": "prelabel.export.coco:CocoOptions",
    "export_cvat": "prelabel.export.cvat:CvatOptions",
    "export_yolo": "prelabel.export.yolo:YoloOptions",
    "export_voc": "prelabel.export.voc:VocOptions",
    "export_label_studio": "prelabel.label_studio.options:LabelStudioOptions",
    "push_label_studio": "prelabel.label_studio.options:PushOptions",
    "extract": "prelabel.export.extract:ExtractOptions",
    "evaluate": "prelabel.review.options:EvaluateOptions",
    "compare": "prelabel.review.options:CompareOptions",
    "diff": "prelabel.difference.options:DiffOptions",
}

#: Options that a function has as a parameter with another name: `compare` calls the run `run`, not `predictions`.
_RENAMED_PARAMETERS = {"compare": {"predictions"}}

#: Words of a metavar that say that the value is a path or a URL.
_PATHS = {*PATH_METAVARS, "URL", "LIST"}

#: A quoted command, or an option outside of one.
_COMMAND_OR_FLAG = re.compile(r"`prelabel [^`]*`|--([a-z]+(?:-[a-z]+)*)")

_SECTION = re.compile(r"\n\n(?=(?:Returns|Raises):\n)")


def options_class(function: str) -> type[Options]:
    """The class that declares the options of a function."""
    module, _, name = OPTION_CLASSES[function].partition(":")
    cls: type[Options] = getattr(importlib.import_module(module), name)
    return cls


def keywords(function: Callable[..., Any]) -> dict[str, dataclasses.Field[Any]]:
    """The options that a function accepts by `**options`, by name: all that are not parameters of its own."""
    name = function.__name__
    if name not in OPTION_CLASSES:
        return {}
    own = {*inspect.signature(function).parameters, *_RENAMED_PARAMETERS.get(name, ())}
    return {option: field for option, field in fields_of(options_class(name)).items() if option not in own}


class _Annotation(str):
    """The text of an annotation, which `help()` shows without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature with every option as a keyword in place of `**options`; annotations are text."""
    own = inspect.signature(function)
    parameters = [
        p.replace(annotation=_Annotation(p.annotation)) for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD
    ]
    for name, field in keywords(function).items():
        default = inspect.Parameter.empty if is_required(field) else _default(field)
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=_Annotation(python_type(field))
            )
        )
    return own.replace(parameters=parameters, return_annotation=_Annotation(own.return_annotation))


def docstring(function: Callable[..., Any]) -> str:
    """The docstring with a line for every option at the end of its `Args` section."""
    text = inspect.getdoc(function) or ""
    lines = [f"    {name}: {help_text(field)}" for name, field in keywords(function).items()]
    if not lines:
        return text
    before, *after = _SECTION.split(text)
    return "\n\n".join(["\n".join([before, *lines]), *after])


def document(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function its full signature and docstring, and return it."""
    full = docstring(function)
    function.__signature__ = signature(function)  # type: ignore[attr-defined]
    function.__doc__ = full
    return function


def python_type(field: dataclasses.Field[Any]) -> str:
    """The Python type, as text, of the values that `options_of` accepts for an option."""
    kind, meta = kind_of(field), field.metadata
    is_path = not _PATHS.isdisjoint(meta["metavar"].split("|"))
    text = "StrPath" if is_path else "str | int" if _may_be_number(field) else "str"
    types = {
        "flag": "bool",
        "str": f"Literal[{', '.join(map(repr, meta['choices']))}]".replace("'", '"') if meta["choices"] else text,
        "list": f"{text} | Sequence[{text}]",
        "numbers": "Sequence[float] | str",
        "pairs": "Mapping[str, str] | StrPath | Sequence[StrPath]",
        "float-pairs": "Mapping[str, float] | StrPath | Sequence[StrPath]",
        "json": "Mapping[str, Any]",
        "document": "Mapping[str, Any] | StrPath",
    }
    name = types.get(kind, kind)
    return f"{name} | None" if _default(field) is None and not is_required(field) else name


def help_text(field: dataclasses.Field[Any]) -> str:
    """The help of an option with names in Python's spelling: `--score-threshold` -> `score_threshold`.

    A quoted command, such as `prelabel extract --to`, is for a shell and stays as it is.
    """
    text = str(field.metadata["help"]).replace("; repeatable", "").removesuffix(".")
    return _COMMAND_OR_FLAG.sub(lambda m: m[1].replace("-", "_") if m[1] else m[0], text) + "."


def options_of(function: str, values: Mapping[str, Any], **own: Any) -> Any:
    """The options object from the keywords of a call.

    Args:
        function: Its name, for messages.
        values: The keywords. `None` counts as not given.
        **own: Options that the function has as parameters.

    Raises:
        ConfigError: An unknown keyword (the message names the nearest one), or a value that is not allowed.
    """
    cls = options_class(function)
    given = {name: plain(value) for name, value in {**values, **own}.items() if value is not None}
    for name, field in fields_of(cls).items():
        if _may_be_number(field) and type(given.get(name)) is int:
            given[name] = str(given[name])
    return from_mapping(cls, given, function)


def plain(value: Any) -> Any:
    """A value as job files could hold it: paths as text, NumPy's scalars as Python's, sequences and sets as lists."""
    if isinstance(value, str | bytes | bool | PurePath):
        return str(value) if isinstance(value, PurePath) else value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy, columns of pandas and Polars
        return value.tolist()
    return value


def _may_be_number(field: dataclasses.Field[Any]) -> bool:
    """Whether an option's text may also be given as an int: the ID of a Label Studio project."""
    return "ID" in field.metadata["metavar"].split("|")


def _default(field: dataclasses.Field[Any]) -> Any:
    """The default as a Python literal; `None` for an empty one."""
    default = default_of(field)
    if isinstance(default, float):
        return float(default)  # the default of a threshold is of a subclass
    return None if default in ("", {}, ()) else default
