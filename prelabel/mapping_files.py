"""Read files of names and values (job files, class maps, class thresholds) and keep their spelling.

YAML interprets more words than users expect. From

    no: 0.5        1e3: 0.5
    0x10: 0.5      2024-01-01: 0.5

an ordinary parser makes the classes `False`, `1000.0`, `16` and a date. Here a name is always the text in the file. A
value keeps both its text and its meaning, so that code can use the text as a class name or the meaning as a number.
"""

from __future__ import annotations

import csv
import datetime
import functools
import io
import json
import re
import reprlib
import tomllib
from pathlib import Path
from typing import Any

from prelabel.errors import ConfigError

#: Files that `read_mapping` reads.
MAPPING_SUFFIXES = (".yaml", ".yml", ".toml", ".json", ".csv")

#: Maximum number of values in a file; a YAML alias counts every time it is used.
_MAX_VALUES = 1_000_000


class Bare(str):
    """An unquoted value of a file: its text and its meaning.

    Attributes:
        value: The number, boolean or None that the text means. It is the text itself if parsers disagree about the
            meaning (dates, `1:30`, `010`).
        exact: Whether the text is spelled as in the file.
    """

    value: Any
    exact: bool

    def __new__(cls, text: str, value: Any, *, exact: bool = True) -> Bare:
        bare = super().__new__(cls, text)
        bare.value, bare.exact = value, exact
        return bare

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


def meaning(value: Any) -> Any:
    """The meaning of a value in a file, for example a number. In lists and mappings, every value is replaced."""
    if isinstance(value, Bare):
        return value.value
    if isinstance(value, dict):
        return {str(name): meaning(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [meaning(inner) for inner in value]
    return value


def read_mapping(path: Path) -> dict[str, Any]:
    """The names and values of a YAML, TOML, JSON or two-column CSV file; unquoted values become `Bare`.

    Raises:
        ConfigError: The file is missing or invalid, is not a mapping, or has a duplicate name.
    """
    suffix = path.suffix.lower()
    try:
        text = path.read_text(encoding="utf-8-sig")
        if suffix == ".toml":
            values = _with_bare_numbers(tomllib.loads(text, parse_float=_float))
        elif suffix == ".csv":
            values = unique([_two_columns(path, row) for row in csv.reader(io.StringIO(text), strict=True) if row])
        elif suffix == ".json":
            values = json.loads(text, object_pairs_hook=unique, parse_int=_int, parse_float=_float)
        else:
            values = _yaml(path, text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    if values is None or (isinstance(values, Bare) and values.value is None):
        values = {}
    if not _is_bounded(values):
        raise ConfigError(f"{path}: the file has more than {_MAX_VALUES:,} values")
    if not isinstance(values, dict):
        kind = type(values.value if isinstance(values, Bare) else values).__name__
        raise ConfigError(f"{path}: expected names and values, got a {kind}")
    return values


def _two_columns(path: Path, row: list[str]) -> tuple[str, str]:
    if len(row) != 2:
        raise ConfigError(f"{path}: a line must have two columns, got {reprlib.repr(row)}")
    return row[0], row[1]


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict. Raises ValueError for a duplicate name: it is unclear which value is meant."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{name!r} is given twice")
        values[name] = value
    return values


def _int(text: str) -> Bare:
    return Bare(text, int(text))


def _float(text: str) -> Bare:
    return Bare(text, float(text))


def _with_bare_numbers(value: Any) -> Any:
    """TOML values, with `Bare` for unquoted ones. The parser keeps the spelling of floats, not of `0x10` or dates."""
    if isinstance(value, dict):
        return {name: _with_bare_numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_bare_numbers(inner) for inner in value]
    if isinstance(value, int | datetime.date | datetime.time):
        return Bare(str(value), value, exact=False)
    return value


def _yaml(path: Path, text: str) -> Any:
    import yaml  # imported here, so that exports start without it

    try:
        return yaml.load(text, _yaml_loader())  # noqa: S506 - made from the safe loader
    except yaml.YAMLError as error:
        hint = ""
        if "alias" in str(error):
            hint = '; a name that starts with * or & needs quotes, as in "*": 0.3'
        raise ConfigError(f"{path}: {' '.join(str(error).split())}{hint}") from None


@functools.cache
def _yaml_loader() -> Any:
    """A safe loader whose names are text without duplicates, and whose unquoted values are `Bare`."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            if not isinstance(node, yaml.MappingNode):
                return dict(super().construct_mapping(node, deep=deep))  # raises the error
            first: dict[str, int] = {}
            for name, _ in node.value:
                line = name.start_mark.line + 1
                if not isinstance(name, yaml.ScalarNode):
                    raise ValueError(f"line {line}: a name must be text")  # noqa: TRY004 - an error of the file
                if name.tag == "tag:yaml.org,2002:merge":
                    continue
                if name.value in first:
                    raise ValueError(f"line {line}: {name.value!r} is given twice, first in line {first[name.value]}")
                first[name.value] = line
            # The names of a merged mapping (<<) come first, and the mapping's own names override them.
            self.flatten_mapping(node)
            for name, _ in node.value:
                if not isinstance(name, yaml.ScalarNode):
                    line = name.start_mark.line + 1
                    raise ValueError(f"line {line}: a name must be text")  # noqa: TRY004 - an error of the file
            return {name.value: self.construct_object(value, deep=deep) for name, value in node.value}

    def bare(loader: Any, node: Any) -> Bare:
        text = str(node.value)
        # Parsers disagree about the meaning of `1:30` and `010`, and users mean the text.
        if ":" in text or re.fullmatch(r"[-+]?0[0-9_]+", text):
            return Bare(text, text)
        kind = node.tag.rpartition(":")[2]
        try:
            return Bare(text, getattr(loader, f"construct_yaml_{kind}")(node))
        except (ValueError, KeyError):  # !!int "ten"
            return Bare(text, text)

    def as_text(_: Any, node: Any) -> Bare:
        return Bare(str(node.value), str(node.value))

    for kind in ("bool", "int", "float", "null"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", bare)
    for kind in ("timestamp", "value", "merge"):  # a date, =, <<
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", as_text)
    return Loader


def _is_bounded(values: Any) -> bool:
    waiting, count = [values], 0
    while waiting and count <= _MAX_VALUES:
        inner = waiting.pop()
        if isinstance(inner, dict):
            waiting += [*inner, *inner.values()]
        elif isinstance(inner, list | tuple | set):
            waiting += inner
        count += 1
    return count <= _MAX_VALUES
