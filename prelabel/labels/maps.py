"""Label maps: the name that annotators see, and the Freebase machine id (MID), of each class number of a model.

Supported files, each with the variants that occur in practice:

    .pbtxt   item { id: 1  name: "/m/01g317"  display_name: "person" }     TF Object Detection API
    .csv     id,name,mid  with a header (Class ID, LabelName, idx, title, ... mean the same); without one: `1,person`,
             `person,1`, `1,person,/m/01g317`, or `/m/01g317,Person` numbered by line, with or without its header;
             columns are separated by commas, semicolons, tabs or |; ambiguous files are refused
    .json    {"1": "person"}, {"person": 1}, {"1": ["n01440764", "tench"]}, ["person", ...], [{"id": 1, "name": ...}],
             or a COCO dataset (its `categories`)
    .txt     one name per line

Lines or list items without numbers are numbered in order. The first is class 0 if it names the background
(`background`, `__background__`, `???`, as in ImageNet's file), else class 1, as detectors number their classes. For a
classifier with as many outputs as names, the first is class 0 (`LabelMap.fitted_to`).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from prelabel.detections import ClassName
from prelabel.errors import ConfigError
from prelabel.keypoints import KeypointSet
from prelabel.labels.keypoints import keypoints_in
from prelabel.labels.pbtxt import MalformedError, integer_of, read_items
from prelabel.mapping_files import unique
from prelabel.storage.address import describe, redact
from prelabel.storage.files import Storage

BUILT_IN = ("coco",)
_MID = re.compile(r"/[mgt]/[0-9A-Za-z_]+")
_BACKGROUND = {"background", "__background__", "???"}
_LARGEST_FILE = 16 << 20


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Names by class number.

    Attributes:
        classes: Name and MID by class number; numbers may have gaps.
        source: The file, or the name of a built-in map, for messages and `run.json`.
        numbered_in_order: Whether the classes were numbered in order because the file has no numbers.
        keypoints: The keypoints that the file names, or None.
    """

    classes: Mapping[int, ClassName]
    source: str = ""
    numbered_in_order: bool = False
    keypoints: KeypointSet | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def get(self, category_id: int) -> ClassName | None:
        """The name and MID of a class number, or None."""
        return self.classes.get(category_id)

    def number_of(self, text: str) -> int | None:
        """The class number of a label or MID, or None."""
        return next((number for number, named in self.classes.items() if text in (named.name, named.mid)), None)

    def fitted_to(self, outputs: int) -> LabelMap:
        """The label map for a classifier: names without numbers start with class 0 if there are as many as outputs."""
        if not self.numbered_in_order or len(self) != outputs or 0 in self.classes:
            return self
        classes = {number - 1: replace(named, id=number - 1) for number, named in self.classes.items()}
        return LabelMap(classes, self.source, numbered_in_order=True)


def is_mid(text: str) -> bool:
    """Whether a string is a Freebase machine id like `/m/0bt9lr`."""
    return _MID.fullmatch(text) is not None


def names_background(text: str) -> bool:
    """Whether the name of a class means the background: no class."""
    return text.strip().lower() in _BACKGROUND


def read_label_map(source: str, storage: Storage | None = None) -> LabelMap:
    """Read a built-in label map or a file.

    Args:
        source: `"coco"`, or the path or URL of a `.pbtxt`, `.csv`, `.json` or `.txt` file.
        storage: Reads the file (default: a storage without options).

    Raises:
        ConfigError: The file does not exist, its kind is unknown, or its content is invalid; the message names the
            line.
    """
    if source in BUILT_IN:
        data = resources.files("prelabel.labels").joinpath(f"{source}.csv").read_bytes()
        return replace(parse_label_map(f"{source}.csv", data), source=source)
    redacted = redact(source)
    try:
        data = (storage or Storage()).read(source)
    except FileNotFoundError:
        raise ConfigError(
            f"label map {redacted!r}: no such file, and no built-in map of this name (built in: {', '.join(BUILT_IN)})"
        ) from None
    except OSError as error:
        raise ConfigError(f"label map {redacted!r}: {describe(error)}") from error
    return parse_label_map(source, data)


def parse_label_map(name: str, data: bytes) -> LabelMap:
    """The label map in the bytes of a file; the extension of `name`, a path or a URL, determines its kind.

    Raises:
        ConfigError: The content is invalid; the message names the file and, if it has lines, the line.
    """
    redacted = redact(name)
    kind = re.sub(r"[?#].*", "", name).rpartition(".")[2].lower()
    readers = {"pbtxt": _from_pbtxt, "csv": _from_csv, "json": _from_json, "txt": _from_txt}
    if kind not in readers:
        raise ConfigError(f"label map {redacted!r}: must have the extension .pbtxt, .csv, .json or .txt")
    if len(data) > _LARGEST_FILE:
        raise ConfigError(f"label map {redacted!r}: {len(data)} bytes, more than the {_LARGEST_FILE} allowed")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"label map {redacted!r}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    try:
        numbered_in_order, entries = readers[kind](text)
        classes: dict[int, ClassName] = {}
        for place, number, (name, mid) in entries:
            if not 0 <= number < 1 << 31:
                raise MalformedError(place, f"class number {number} is out of range")
            if not name:
                raise MalformedError(place, f"class {number} has no name")
            if number in classes:
                raise MalformedError(place, f"class {number} has two names, {classes[number].name!r} and {name!r}")
            classes[number] = ClassName(number, name, mid)
        keypoints = keypoints_in(read_items(text)) if kind == "pbtxt" else None
    except (MalformedError, csv.Error) as error:
        raise ConfigError(f"label map {redacted!r}: {error}") from None
    if not classes:
        raise ConfigError(f"label map {redacted!r}: has no classes")
    return LabelMap(classes, redacted, numbered_in_order, keypoints)


#: For each class: its line (0 in formats without lines), number, and name and MID.
_Entries = Iterator[tuple[int, int, tuple[str, str]]]


def _name_and_mid(*texts: str) -> tuple[str, str]:
    """The name and MID among the strings of a class, given in order of preference; any of them may be the MID."""
    stripped = [text.strip() for text in texts if text.strip()]
    mid = next((text for text in stripped if is_mid(text)), "")
    return next((text for text in stripped if text != mid), mid), mid


def _is_number(text: str) -> bool:
    # Python also counts superscripts and the digits of other scripts as digits.
    return text.isascii() and text.isdigit() and len(text) < 20


def _number_in_order(names: Iterable[tuple[int, tuple[str, str]]]) -> _Entries:
    number = -1
    for line, (name, mid) in names:
        if number < 0:
            number = 0 if names_background(name) else 1
        yield line, number, (name, mid)
        number += 1


def _from_pbtxt(text: str) -> tuple[bool, _Entries]:
    def entries() -> _Entries:
        for item in read_items(text):
            fields = item.fields
            number = integer_of(fields.get("id", "missing"))
            if number is None:
                raise MalformedError(
                    item.line, f"an item has the id {fields.get('id', 'missing')}, which is not a number"
                )
            yield item.line, number, _name_and_mid(fields.get("display_name", ""), fields.get("name", ""))

    return False, entries()


def _from_txt(text: str) -> tuple[bool, _Entries]:
    lines = re.split(r"\r\n|\n|\r", text.rstrip())
    for pattern in (r"\s*\d+\s*[:;,=\t ]\s*\S.*", r".*\S\s*[:;,=\t]\s*\d+\s*"):
        numbered = [re.fullmatch(pattern, line, re.DOTALL) is not None for line in lines]
        # If there are three or more lines, the first may be a header.
        if all(numbered) or (len(lines) > 2 and all(numbered[1:])):
            raise MalformedError(
                2 if len(lines) > 1 else 1,
                "lines have names and numbers, but .txt has one name per line: make it a .csv with columns id and name",
            )
    return True, _number_in_order((i, _name_and_mid(line)) for i, line in enumerate(lines, 1))


#: Column names in lower case and without separators: `Class ID` is `classid`.
_NUMBER_COLUMNS = ("id", "classid", "categoryid", "labelid", "index", "classindex", "labelindex", "idx", "number")
_NAME_COLUMNS = ("displayname", "label", "name", "classname", "categoryname", "title", "class", "category")
_MID_COLUMNS = ("mid", "labelname")
_COLUMNS = frozenset((*_NUMBER_COLUMNS, *_NAME_COLUMNS, *_MID_COLUMNS))
_HEADER_ADVICE = "add a header with the columns id and name (and mid, if there is one)"


def _from_csv(text: str) -> tuple[bool, _Entries]:
    rows = _csv_rows(text)
    if not rows:
        return False, iter(())
    line, first = rows[0]
    keys = _column_keys(first)
    if _COLUMNS.intersection(keys) and not any(_csv_number(cell) is not None or is_mid(cell) for cell in first):
        return _with_header(line, keys, rows[1:])
    return _without_header(rows)


def _csv_rows(text: str) -> list[tuple[int, list[str]]]:
    """The lines and cells, split at the first delimiter that yields a header, a number or a MID in the first row."""

    def split(delimiter: str) -> list[tuple[int, list[str]]]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = ((reader.line_num, [cell.strip() for cell in row]) for row in reader)
        return [(line, row) for line, row in rows if any(row)]

    for delimiter in ",;\t|":
        rows = split(delimiter)
        cells = rows[0][1] if rows else []
        has_header_or_class = _COLUMNS.intersection(_column_keys(cells)) or any(
            _csv_number(c) is not None or is_mid(c) for c in cells
        )
        if len(cells) > 1 and has_header_or_class:
            return rows
    return split(",")


def _column_keys(cells: list[str]) -> list[str]:
    return [re.sub(r"[\s_#.-]", "", cell.lower()) for cell in cells]


def _csv_number(text: str) -> int | None:
    """The class number in a cell, or None; spreadsheets and data frames also write `1.0`."""
    digits = re.sub(r"\.0+$", "", text)
    return int(digits) if _is_number(digits) else None


def _with_header(line: int, keys: list[str], rows: list[tuple[int, list[str]]]) -> tuple[bool, _Entries]:
    for key in sorted(_COLUMNS):
        if keys.count(key) > 1:
            raise MalformedError(line, f"the header has two columns {key}: remove one of them")
    for row_line, row in rows:
        if any(row[len(keys) :]):
            raise MalformedError(
                row_line, f"{len(row)} columns, but the header has {len(keys)}: quote names that contain a comma"
            )
    numbers = [keys.index(key) for key in _NUMBER_COLUMNS if key in keys]
    # `class` and `label` are numbers in some files and names in others. They are read as numbers only if no other
    # column has numbers.
    for key in ("class", "label"):
        if not numbers and key in keys and rows and _are_numbers(rows, keys.index(key)):
            numbers = [keys.index(key)]
    order = [keys.index(key) for key in (*_NAME_COLUMNS, *_MID_COLUMNS) if key in keys]
    order = [column for column in order if column not in numbers]
    if not numbers:
        if set(keys) & set(_MID_COLUMNS) and len(keys) == len(order) == 2 and all(map(_has_mid, rows)):
            return True, _number_in_order((row_line, _name_and_mid(*(row[i] for i in order))) for row_line, row in rows)
        raise MalformedError(line, f"the header has no column id: {_HEADER_ADVICE}")
    if not order:
        raise MalformedError(line, "the header has no column name or label")
    return False, _with_numbers(rows, numbers, order)


def _without_header(rows: list[tuple[int, list[str]]]) -> tuple[bool, _Entries]:
    width = max(len(row) for _, row in rows)
    if width == 2 and all(is_mid(row[0]) for _, row in rows):
        return True, _number_in_order((line, _name_and_mid(*reversed(row))) for line, row in rows)
    numbers = [i for i in range(width) if _are_numbers(rows, i)]
    if not numbers and _csv_number(rows[0][1][0]) is not None:
        numbers = [0]
    line, first = rows[0]
    if not numbers:
        raise MalformedError(line, f"neither a header nor a class number in {','.join(first)[:80]!r}: {_HEADER_ADVICE}")
    if len(numbers) == width > 1 and all(len(set(map(_csv_number, row))) == 1 for _, row in rows):
        numbers = [0]  # the classes are digits, whose names are equal to their numbers
    order = [i for i in range(width) if i not in numbers]
    for row_line, row in rows:
        if len([i for i in order if i < len(row) and row[i] and not is_mid(row[i])]) > 1:
            raise MalformedError(
                row_line, f"it is unclear which column is the name: {_HEADER_ADVICE}; quote names that contain a comma"
            )
    return False, _with_numbers(rows, numbers, order)


def _are_numbers(rows: list[tuple[int, list[str]]], column: int) -> bool:
    return all(len(row) > column and _csv_number(row[column]) is not None for _, row in rows)


def _has_mid(row: tuple[int, list[str]]) -> bool:
    return len(row[1]) > 1 and any(map(is_mid, row[1]))


def _with_numbers(rows: list[tuple[int, list[str]]], numbers: list[int], order: list[int]) -> _Entries:
    for line, row in rows:
        column_of = {(_csv_number(row[i]) if len(row) > i else None): i for i in numbers}
        if None in column_of:
            column = column_of[None]
            raise MalformedError(line, f"{row[column] if len(row) > column else ''!r} is not a class number")
        if len(column_of) > 1:
            raise MalformedError(
                line, f"two columns have different numbers: {_HEADER_ADVICE}, and remove other columns of numbers"
            )
        (number,) = (value for value in column_of if value is not None)
        yield line, number, _name_and_mid(*(row[i] for i in order if i < len(row)))


def _from_json(text: str) -> tuple[bool, _Entries]:
    try:
        value = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise MalformedError(error.lineno, error.msg) from None
    except (ValueError, RecursionError) as error:
        raise MalformedError(0, f"invalid JSON: {error}") from None
    if isinstance(value, dict) and isinstance(value.get("categories"), list):
        value = value["categories"]
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return True, _number_in_order((0, _name_and_mid(name)) for name in value)
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
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
            raise MalformedError(0, f"an entry has no class number: {str(item)[:80]}")
        texts = (item.get(key) for key in ("display_name", "label", "name", "mid"))
        yield 0, number, _name_and_mid(*(text for text in texts if isinstance(text, str)))


def _from_json_pairs(pairs: dict[str, Any]) -> _Entries:
    for key, value in pairs.items():
        if _is_number(key) and isinstance(value, str):
            yield 0, int(key), _name_and_mid(value)
        elif _is_number(key) and isinstance(value, list) and value and all(isinstance(name, str) for name in value):
            yield 0, int(key), _name_and_mid(*reversed(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            yield 0, value, _name_and_mid(key)
        else:
            raise MalformedError(0, f"{key!r}: {str(value)[:80]!r} is not a pair of a class number and a name")
