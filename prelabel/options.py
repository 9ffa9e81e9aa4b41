"""Options, defined once: a frozen dataclass is the command line, the job file and the Python call.

    @dataclass(frozen=True, kw_only=True)
    class CocoOptions(Selection):
        segmentation: str = option("rle", "How masks are written.", choices=("rle", "polygon", "none"))

The command line derives `--segmentation`, a job file the key `segmentation` (or `segmentation` under `-`/`_`), and
Python the keyword. Values are checked in `__post_init__`, so that every way in meets the same message.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import json
import math
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from prelabel.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

#: A few lines of YAML can say a value of gigabytes: never quote one whole.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxlevel = 2

#: Values that a file may hold, each counted as often as YAML's aliases name it.
_MOST_VALUES = 1_000_000


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
            where that is a str, int, float, bool, tuple or dict. `pairs` are `NAME=VALUE` and become a dict.
        metavar: Shown in `--help` in place of the value.
        group: Heading in `--help`.
        choices: The allowed values of a str.
        affects: What a changed value changes: `"rows"` (what is written for an image), `"plan"` (which image is in
            which shard) or `"nothing"` (speed, messages). A run is continued only with equal `rows` and `plan` options.
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
    if value is None:
        require(default_of(field) is None, f"{where}: {field.name.replace('_', '-')} has no value")
        return None
    meta = field.metadata
    kind, choices = meta["type"], meta["choices"]
    try:
        converted = _converted(kind, value)
        wrong = bool(choices) and converted not in choices
    except (TypeError, ValueError, OverflowError, RecursionError):
        wrong = True
    if wrong:
        wanted = f"one of {', '.join(choices)}" if choices else _WANTED[kind]
        if kind in ("pairs", "float-pairs"):
            wanted += f" ({', '.join(MAPPING_SUFFIXES)})"
        shown = "" if meta["secret"] else f", got {_SHORT.repr(value)}"
        raise ConfigError(f"{where}: {field.name.replace('_', '-')} must be {wanted}{shown}")
    return converted


def _converted(kind: str, value: Any) -> Any:
    """Raises TypeError, ValueError or OverflowError for a value that is none of this type."""
    if kind == "flag":
        return _expect(value, bool)
    if kind in ("int", "float"):
        number = float(_expect(value, int | float | str, but=bool))
        if kind == "float":
            if not math.isfinite(number):
                raise ValueError
            return number
        return int(value) if isinstance(value, int | str) or number == int(number) else _expect(value, int)
    if kind == "str":
        return str(value) if isinstance(value, Path) else _expect(value, str)
    if kind == "list":
        values = [value] if isinstance(value, str | Path) else _expect(value, list | tuple)
        # Classes may be called by numbers, which YAML does not keep as text.
        return tuple(str(_expect(one, str | int | float | Path, but=bool)) for one in values)
    if kind == "json":
        return _expect(json.loads(value) if isinstance(value, str) else value, dict)
    pairs = _pairs(value)
    if kind == "float-pairs":
        return {name: _converted("float", right) for name, right in pairs.items()}
    return pairs


def _expect(value: Any, types: Any, but: Any = ()) -> Any:
    if not isinstance(value, types) or isinstance(value, but):
        raise TypeError
    return value


def _pairs(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {str(k): v for k, v in value.items()}
    pairs: dict[str, Any] = {}
    for one in [value] if isinstance(value, str | Path) else _expect(value, list | tuple):
        text = str(_expect(one, str | Path))
        name, equals, right = text.rpartition("=")
        if equals and name:
            pairs[name] = right
        elif Path(text).suffix.lower() in MAPPING_SUFFIXES:
            pairs.update(read_mapping(Path(text)))
        else:
            raise TypeError
    return pairs


#: Files that `read_mapping` reads.
MAPPING_SUFFIXES = (".yaml", ".yml", ".toml", ".json", ".csv")


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML, TOML, JSON or two-column CSV file as a dict: job files, class maps, class thresholds.

    Raises:
        ConfigError: The file is missing, damaged, or holds something else than a mapping.
    """
    suffix = path.suffix.lower()
    try:
        text = path.read_text(encoding="utf-8-sig")
        if suffix == ".toml":
            values: Any = tomllib.loads(text)
        elif suffix == ".csv":
            rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
            wrong = next((row for row in rows if len(row) != 2), None)
            require(wrong is None, f"{path}: a line must hold two columns, got {_SHORT.repr(wrong)}")
            values = {row[0]: row[1] for row in rows}
        elif suffix == ".json":
            values = json.loads(text)
        else:
            import yaml  # only here: the exporters start without it

            try:
                values = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    values = {} if values is None else values
    require(_is_bounded(values), f"{path}: it names more than {_MOST_VALUES:,} values")
    require(isinstance(values, dict), f"{path}: expected names and values, got a {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def _is_bounded(values: Any) -> bool:
    waiting, count = [values], 0
    while waiting and count <= _MOST_VALUES:
        inner = waiting.pop()
        if isinstance(inner, dict):
            waiting += [*inner, *inner.values()]
        elif isinstance(inner, list | tuple | set):
            waiting += inner
        count += 1
    return count <= _MOST_VALUES


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)
