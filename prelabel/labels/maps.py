"""Label maps: from a model's class number to the name an annotator sees and its Freebase machine id (MID).

Files that are read, each with the shapes found in the wild:

    .pbtxt   item { id: 1  name: "/m/01g317"  display_name: "person" }     TF Object Detection API
    .csv     id,name,mid  with a header; without one: `1,person`, `1,person,/m/01g317` or `/m/01g317,Person` by line
    .json    {"1": "person"}, {"person": 1}, {"1": ["n01440764", "tench"]}, ["person", ...], [{"id": 1, "name": ...}],
             or a COCO dataset (its `categories`)
    .txt     one name a line

Where there are lines or list items instead of numbers, the first one is class 0 if it names the background
(`background`, `__background__`, `???`; ImageNet's file does), else class 1, as detectors number their classes. For a
classifier whose number of outputs equals the number of names the first one is class 0 (`LabelMap.fitted_to`).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, NamedTuple

from prelabel.errors import ConfigError
from prelabel.labels.pbtxt import MalformedError, read_items
from prelabel.storage import Storage, describe, redact

BUILT_IN = ("coco",)
_MID = re.compile(r"/[mgt]/[0-9A-Za-z_]+")
_BACKGROUND = {"background", "__background__", "???"}
_LARGEST_FILE = 16 << 20


class ClassName(NamedTuple):
    """What a class number stands for: the name an annotator sees, and the MID or `""`."""

    label: str
    mid: str


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Names by class number.

    Attributes:
        classes: Class number -> name and MID; numbers may have gaps.
        source: Where it comes from, for messages and `run.json`.
        counted: Whether the numbers were counted from lines rather than stated.
    """

    classes: Mapping[int, ClassName]
    source: str = ""
    counted: bool = False

    def __len__(self) -> int:
        return len(self.classes)

    def get(self, category_id: int) -> ClassName | None:
        """Name and MID of a class number, or None."""
        return self.classes.get(category_id)

    def number_of(self, text: str) -> int | None:
        """The class number of a label or MID, or None."""
        for number, name in self.classes.items():
            if text in (name.label, name.mid):
                return number
        return None

    def fitted_to(self, outputs: int) -> LabelMap:
        """For a classifier: counted names as many as there are outputs start with class 0."""
        if not self.counted or len(self) != outputs or 0 in self.classes:
            return self
        return LabelMap({number - 1: name for number, name in self.classes.items()}, self.source, counted=True)


def is_mid(text: str) -> bool:
    """Whether a string is a Freebase machine id like `/m/0bt9lr`."""
    return _MID.fullmatch(text) is not None


def names_background(text: str) -> bool:
    """Whether a class's name says that it is none: what the rest of a picture is."""
    return text.strip().lower() in _BACKGROUND


def read_label_map(source: str, storage: Storage | None = None) -> LabelMap:
    """A built-in label map by name, or a file by its address.

    Args:
        source: `"coco"`, or an address ending in `.pbtxt`, `.csv`, `.json` or `.txt`.
        storage: Opens the address; a plain one by default.

    Raises:
        ConfigError: There is no such file, its kind is unknown, or it cannot be read as one; with the line.
    """
    if source in BUILT_IN:
        data = resources.files("prelabel.labels").joinpath(f"{source}.csv").read_bytes()
        return replace(parse_label_map(f"{source}.csv", data), source=source)
    shown = redact(source)
    try:
        data = (storage or Storage()).read(source)
    except FileNotFoundError:
        raise ConfigError(
            f"label map {shown!r}: no such file, nor one of the built-in maps ({', '.join(BUILT_IN)})"
        ) from None
    except OSError as error:
        raise ConfigError(f"label map {shown!r}: {describe(error)}") from error
    return parse_label_map(source, data)


def parse_label_map(name: str, data: bytes) -> LabelMap:
    """The label map in a file's bytes; the kind goes by the ending of `name`, which may be a path or a URL.

    Raises:
        ConfigError: With the file and, where there is one, the line.
    """
    shown = redact(name)
    kind = re.sub(r"[?#].*", "", name).rpartition(".")[2].lower()
    readers = {"pbtxt": _from_pbtxt, "csv": _from_csv, "json": _from_json, "txt": _from_txt}
    if kind not in readers:
        raise ConfigError(f"label map {shown!r}: must end in .pbtxt, .csv, .json or .txt")
    if len(data) > _LARGEST_FILE:
        raise ConfigError(f"label map {shown!r}: {len(data)} bytes, more than a label map can have")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"label map {shown!r}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    try:
        counted, entries = readers[kind](text)
        classes: dict[int, ClassName] = {}
        for place, number, one in entries:
            if not 0 <= number < 1 << 31:
                raise MalformedError(place, f"class number {number} is out of range")
            if not one.label:
                raise MalformedError(place, f"class {number} has no name")
            if number in classes:
                raise MalformedError(place, f"class {number} is named twice ({classes[number].label!r}, {one.label!r})")
            classes[number] = one
    except (MalformedError, csv.Error) as error:
        raise ConfigError(f"label map {shown!r}: {error}") from None
    if not classes:
        raise ConfigError(f"label map {shown!r}: names no class")
    return LabelMap(classes, shown, counted)


#: `place` of an entry is its line, or 0 where a file has no use for lines.
_Entries = Iterator[tuple[int, int, ClassName]]


def _named(*texts: str) -> ClassName:
    """Name and MID from a class's strings in order of preference, whichever of them is the MID."""
    stripped = [text.strip() for text in texts if text.strip()]
    mid = next((text for text in stripped if is_mid(text)), "")
    return ClassName(next((text for text in stripped if text != mid), mid), mid)


def _is_number(text: str) -> bool:
    # Other scripts' digits and superscripts are digits to Python, too.
    return text.isascii() and text.isdigit() and len(text) < 20


def _count(named: Iterable[tuple[int, ClassName]]) -> _Entries:
    number = -1
    for line, one in named:
        if number < 0:
            number = 0 if names_background(one.label) else 1
        yield line, number, one
        number += 1


def _from_pbtxt(text: str) -> tuple[bool, _Entries]:
    def entries() -> _Entries:
        for line, fields in read_items(text):
            number = fields.get("id", "missing")
            if not _is_number(number):
                raise MalformedError(line, f"an item whose id is {number}, not a number")
            yield line, int(number), _named(fields.get("display_name", ""), fields.get("name", ""))

    return False, entries()


def _from_txt(text: str) -> tuple[bool, _Entries]:
    lines = text.rstrip().splitlines()
    return True, _count((i, _named(line)) for i, line in enumerate(lines, 1))


def _from_csv(text: str) -> tuple[bool, _Entries]:
    reader = csv.reader(io.StringIO(text))
    rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)]
    if not rows:
        return False, iter(())
    header = [cell.lower() for cell in rows[0][1]]
    number = next(
        (header.index(key) for key in ("id", "class_id", "category_id", "index", "class") if key in header), -1
    )
    if number >= 0 and not _is_number(rows[0][1][number]):
        keys = [key for key in ("display_name", "label", "name", "mid", "labelname") if key in header]
        rows, order = rows[1:], [header.index(key) for key in keys]
        if not order:
            raise MalformedError(1, "the header has no column name or label")
    elif _is_number(rows[0][1][0]):
        number, order = 0, [1, 2]
    else:
        return True, _count((line, _named(*reversed(row[:2]))) for line, row in rows)

    def entries() -> _Entries:
        for line, row in rows:
            if len(row) <= number or not _is_number(row[number]):
                raise MalformedError(line, f"{row[number] if len(row) > number else ''!r} is no class number")
            yield line, int(row[number]), _named(*(row[i] for i in order if i < len(row)))

    return False, entries()


def _from_json(text: str) -> tuple[bool, _Entries]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise MalformedError(error.lineno, error.msg) from None
    except (ValueError, RecursionError) as error:
        raise MalformedError(0, f"no JSON that can be read: {error}") from None
    if isinstance(value, dict) and isinstance(value.get("categories"), list):
        value = value["categories"]
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return True, _count((0, _named(one)) for one in value)
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return False, _from_json_objects(value)
    if isinstance(value, dict):
        return False, _from_json_pairs(value)
    raise MalformedError(0, 'must be {"1": "person", ...}, a list of names, or a list of {"id": 1, "name": "person"}')


def _from_json_objects(items: list[dict[str, Any]]) -> _Entries:
    for item in items:
        number = item.get("id", item.get("class_id", item.get("category_id")))
        if isinstance(number, str) and _is_number(number):
            number = int(number)
        if not isinstance(number, int) or isinstance(number, bool):
            raise MalformedError(0, f"an entry without a class number: {str(item)[:80]}")
        texts = (item.get(key) for key in ("display_name", "label", "name", "mid"))
        yield 0, number, _named(*(text for text in texts if isinstance(text, str)))


def _from_json_pairs(pairs: dict[str, Any]) -> _Entries:
    for key, value in pairs.items():
        if _is_number(key) and isinstance(value, str):
            yield 0, int(key), _named(value)
        elif _is_number(key) and isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            yield 0, int(key), _named(*reversed(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            yield 0, value, _named(key)
        else:
            raise MalformedError(0, f"{key!r}: {str(value)[:80]!r} pairs no class number with a name")
