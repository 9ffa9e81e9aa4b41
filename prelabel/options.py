"""Options, defined once: a frozen dataclass is the command line, the job file and the Python call.

    @dataclass(frozen=True, kw_only=True)
    class CocoOptions(Selection):
        segmentation: str = option("rle", "How masks are written.", choices=("rle", "polygon", "none"))

The command line derives `--segmentation`, a job file the key `segmentation` (or `segmentation` under `-`/`_`), and
Python the keyword. Values are checked in `__post_init__`, so that every way in meets the same message.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from prelabel.errors import ConfigError
from prelabel.mapping_files import MAPPING_SUFFIXES, Bare, meaning, read_mapping

T = TypeVar("T")

# What `label` and `inspect` let people state of a network; here, since the command line starts without NumPy.

#: The ranges that pixels can be given in, with their ends.
INPUT_RANGES: Mapping[str, tuple[float, float]] = {"0..1": (0.0, 1.0), "0..255": (0.0, 255.0), "-1..1": (-1.0, 1.0)}
#: What a classifier's rows can be, and what is done with each.
ACTIVATIONS: Mapping[str, str] = {
    "softmax": "probabilities of classes that exclude each other, which sum to 1: used as they are",
    "sigmoid": "independent probabilities of each class: used as they are",
    "logits": "logits of classes that exclude each other: softmax is applied",
    "multilabel-logits": "logits of independent classes: sigmoid is applied",
    "none": "scores in 0..1 that are neither: used as they are",
}
#: Where images can have their channels.
INPUT_LAYOUTS = ("channels-last", "channels-first")
#: What a mask can show: its box or the whole image.
MASK_FRAMES = ("box", "image")

#: A few lines of YAML can say a value of gigabytes: never quote one whole.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxlevel = 2


def option(
    default: Any,
    help: str,
    *,
    type: str = "",
    metavar: str = "",
    group: str = "Options",
    choices: tuple[str, ...] = (),
    affects: str = "nothing",
    secret: bool = False,
) -> Any:
    """A dataclass field with what the command line, the job file and the run's identity need to know of it.

    Args:
        default: Its value when nobody states one.
        help: One sentence for `--help`.
        type: `"str" | "int" | "float" | "flag" | "list" | "pairs" | "float-pairs" | "json"`; derived from the default
            where that is a str, int, float, bool, tuple or dict. `pairs` are `NAME=VALUE` and become a dict of texts,
            `float-pairs` one of numbers from 0 to 1.
        metavar: Shown in `--help` in place of the value.
        group: Heading in `--help`.
        choices: The allowed values of a str.
        affects: What a changed value changes: `"rows"` (what is written for an image), `"plan"` (which image is in
            which shard), `"failures"` (a greater value lets images through that failed, and leaves rows that are ok as
            they are) or `"nothing"` (speed, messages). A run is continued only with equal `rows` and `plan` options;
            its failed images may be run again with greater `failures` options.
        secret: Never shown, logged or stored.
    """
    if not type:
        type = {bool: "flag", int: "int", float: "float", str: "str", tuple: "list", dict: "pairs"}[default.__class__]
    metadata = {
        "help": help,
        "type": type,
        "metavar": metavar,
        "group": group,
        "choices": choices,
        "affects": affects,
        "secret": secret,
    }
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flag_name(name: str) -> str:
    """`score_threshold` -> `--score-threshold`."""
    return "--" + name.replace("_", "-")


def fields_of(cls: Any) -> dict[str, dataclasses.Field[Any]]:
    """The option fields of a dataclass by name (those made with `option`)."""
    return {f.name: f for f in dataclasses.fields(cls) if "help" in f.metadata}


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The value of an option that nobody states."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An options object from the keys of a job file or keyword arguments.

    Raises:
        ConfigError: An unknown key (the nearest known one is named), a value of the wrong type, or one out of range.
    """
    known = fields_of(cls)
    clean: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0].replace('_', '-')!r}?" if near else ""
            raise ConfigError(f"{where}: unknown option {str(key)!r}{hint}")
        if name in clean:
            raise ConfigError(f"{where}: option {str(key)!r} is given twice")
        clean[name] = convert(known[name], value, where)
    return cls(**clean)


#: What a value must be, in words, by the type of its option.
_WANTED = {
    "flag": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list": "text, or a list of texts",
    "json": "a JSON object",
    "pairs": "NAME=VALUE or a file",
    "float-pairs": "NAME=NUMBER or a file",
}


def convert(field: dataclasses.Field[Any], value: Any, where: str) -> Any:
    """One value as its option's type. Raises ConfigError that says what was given and what would be right."""
    if value is None or (isinstance(value, Bare) and value.value is None):
        require(default_of(field) is None, f"{where}: {field.name.replace('_', '-')} has no value")
        return None
    meta = field.metadata
    kind, choices = meta["type"], meta["choices"]
    detail = ""
    try:
        converted = _converted(kind, value)
        wrong = bool(choices) and converted not in choices
    except _OneValueError as error:
        wrong, detail = True, f"; {error}"
    except (TypeError, ValueError, OverflowError, RecursionError):
        wrong = True
    if wrong:
        wanted = f"one of {', '.join(choices)}" if choices else _WANTED[kind]
        if kind in ("pairs", "float-pairs"):
            wanted += f" ({', '.join(MAPPING_SUFFIXES)})"
        shown = "" if meta["secret"] else f", got {_SHORT.repr(value)}"
        raise ConfigError(f"{where}: {field.name.replace('_', '-')} must be {wanted}{shown}{detail}")
    return converted


def _converted(kind: str, value: Any) -> Any:
    """Raises TypeError, ValueError or OverflowError for a value that is none of this type."""
    if kind == "flag":
        return _expect(meaning(value), bool)
    if kind in ("int", "float"):
        value = meaning(value)
        number = float(_expect(value, int | float | str, but=bool))
        if kind == "float":
            # Python reads 0_1 as 1, where people may mean 0.1.
            if not math.isfinite(number) or (isinstance(value, str) and "_" in value):
                raise ValueError
            return number
        return int(value) if isinstance(value, int | str) or number == int(number) else _expect(value, int)
    if kind == "str":
        return str(value) if isinstance(value, Path) else _text(value)
    if kind == "list":
        values = [value] if isinstance(value, str | Path) else _expect(value, list | tuple)
        return tuple(str(one) if isinstance(one, Path | int) else _text(one) for one in values if _no_truth(one))
    if kind == "json":
        return _expect(json.loads(value) if isinstance(value, str) else meaning(value), dict)
    return dict(_pairs(kind, value))


def _expect(value: Any, types: Any, but: Any = ()) -> Any:
    if not isinstance(value, types) or isinstance(value, but):
        raise TypeError
    return value


def _no_truth(value: Any) -> bool:
    if isinstance(value, bool):
        raise TypeError
    return True


def _text(value: Any) -> str:
    """Text as it was written, whether in quotes or not; what is no longer known as it was written is refused."""
    if not isinstance(value, str):
        raise TypeError
    if isinstance(value, Bare) and not value.exact:
        raise _OneValueError(f"{value} needs quotes, since it is not known how it was written")
    return str(value)


class _OneValueError(ValueError):
    """What is wrong with one of several values."""


def _pairs(kind: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Names with texts (`pairs`) or with numbers from 0 to 1 (`float-pairs`), one file or text after the other.

    Raises:
        ConfigError: A file is wrong; the message names it, the name in it and what would be right.
    """
    if isinstance(value, Mapping):
        yield from ((str(name), _right(kind, str(name), right)) for name, right in value.items())
        return
    texts: dict[str, Any] = {}
    for one in [value] if isinstance(value, str | Path) else _expect(value, list | tuple):
        text = str(_expect(one, str | Path))
        path = Path(text)
        name, equals, right = text.rpartition("=")
        if path.suffix.lower() in MAPPING_SUFFIXES and (not equals or path.is_file()):
            for name, right in read_mapping(path).items():
                try:
                    yield name, _right(kind, name, right)
                except _OneValueError as error:
                    raise ConfigError(f"{path}: {error}") from None
        elif equals and name:
            converted = _right(kind, name, right)
            if texts.setdefault(name, converted) != converted:
                raise _OneValueError(f"{name} is given twice")
            yield name, converted
        else:
            raise TypeError


def _right(kind: str, name: str, value: Any) -> Any:
    """The value of a pair. Raises _OneValueError."""
    if kind == "pairs":
        try:
            return _text(value)
        except (TypeError, _OneValueError):
            raise _OneValueError(f"{name} must be a text, in quotes, got {_SHORT.repr(meaning(value))}") from None
    try:
        number = _converted("float", value)
        wrong = not 0 <= number <= 1
    except (TypeError, ValueError, OverflowError):
        wrong = True
    if wrong:
        raise _OneValueError(f"{name} must be a number from 0 to 1, got {_SHORT.repr(value)}")
    return number


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)
