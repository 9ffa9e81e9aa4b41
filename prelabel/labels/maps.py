"""Label maps: from a model's class number to the name an annotator sees and its Freebase machine id (MID).

Files that are read, each with the shapes found in the wild:

    .pbtxt   item { id: 1  name: "/m/01g317"  display_name: "person" }     TF Object Detection API
    .csv     id,name,mid  with a header (Class ID, LabelName, idx, title, ... mean the same); without one: `1,person`,
             `person,1`, `1,person,/m/01g317`, or `/m/01g317,Person` by line, with or without its header; between the
             columns are commas, semicolons, tabs or |; what is not certain is refused
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
from prelabel.mapping_files import once
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
            kinds = re.fullmatch(r"(0[xX][0-9a-fA-F]{1,16})|(0[0-7]{0,20})|[1-9][0-9]{0,18}", number)
            if kinds is None:
                raise MalformedError(line, f"an item whose id is {number}, not a number")
            base = 16 if kinds[1] else 8 if kinds[2] else 10
            yield line, int(number, base), _named(fields.get("display_name", ""), fields.get("name", ""))

    return False, entries()


def _from_txt(text: str) -> tuple[bool, _Entries]:
    lines = re.split(r"\r\n|\n|\r", text.rstrip())
    for pattern in (r"\s*\d+\s*[:;,=\t ]\s*\S.*", r".*\S\s*[:;,=\t]\s*\d+\s*"):
        numbered = [re.fullmatch(pattern, line, re.DOTALL) is not None for line in lines]
        # Of three lines and more the first may be a header.
        if all(numbered) or (len(lines) > 2 and all(numbered[1:])):
            raise MalformedError(
                2 if len(lines) > 1 else 1,
                "names and numbers, where .txt holds one name a line: make it a .csv with the columns id and name",
            )
    return True, _count((i, _named(line)) for i, line in enumerate(lines, 1))


#: Columns of a header, written in small letters without anything between them: `Class ID` is `classid`.
_NUMBER_COLUMNS = ("id", "classid", "categoryid", "labelid", "index", "classindex", "labelindex", "idx", "number")
_NAME_COLUMNS = ("displayname", "label", "name", "classname", "categoryname", "title", "class", "category")
_MID_COLUMNS = ("mid", "labelname")
_COLUMNS = frozenset((*_NUMBER_COLUMNS, *_NAME_COLUMNS, *_MID_COLUMNS))
_WANTED = "write a header with the columns id and name (and mid, where there is one)"


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
    """Lines and cells, split at the first delimiter that shows a header, a number or a MID in the first row."""

    def split(delimiter: str) -> list[tuple[int, list[str]]]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = ((reader.line_num, [cell.strip() for cell in row]) for row in reader)
        return [(line, row) for line, row in rows if any(row)]

    for delimiter in ",;\t|":
        rows = split(delimiter)
        cells = rows[0][1] if rows else []
        telling = _COLUMNS.intersection(_column_keys(cells)) or any(
            _csv_number(c) is not None or is_mid(c) for c in cells
        )
        if len(cells) > 1 and telling:
            return rows
    return split(",")


def _column_keys(cells: list[str]) -> list[str]:
    return [re.sub(r"[\s_#.-]", "", cell.lower()) for cell in cells]


def _csv_number(text: str) -> int | None:
    """A class number; spreadsheets and data frames write `1.0`, too."""
    digits = re.sub(r"\.0+$", "", text)
    return int(digits) if _is_number(digits) else None


def _with_header(line: int, keys: list[str], rows: list[tuple[int, list[str]]]) -> tuple[bool, _Entries]:
    for key in sorted(_COLUMNS):
        if keys.count(key) > 1:
            raise MalformedError(line, f"the header has two columns {key}: leave one of them")
    for row_line, row in rows:
        if any(row[len(keys) :]):
            raise MalformedError(
                row_line, f"{len(row)} columns where the header has {len(keys)}: a name that holds a comma needs quotes"
            )
    numbers = [keys.index(key) for key in _NUMBER_COLUMNS if key in keys]
    # `class` and `label` are numbers in some files and names in others; numbers, where no other column has them.
    for key in ("class", "label"):
        if not numbers and key in keys and rows and _are_numbers(rows, keys.index(key)):
            numbers = [keys.index(key)]
    order = [keys.index(key) for key in (*_NAME_COLUMNS, *_MID_COLUMNS) if key in keys]
    order = [column for column in order if column not in numbers]
    if not numbers:
        if set(keys) & set(_MID_COLUMNS) and len(keys) == len(order) == 2 and all(map(_has_mid, rows)):
            return True, _count((row_line, _named(*(row[i] for i in order))) for row_line, row in rows)
        raise MalformedError(line, f"the header has no column id: {_WANTED}")
    if not order:
        raise MalformedError(line, "the header has no column name or label")
    return False, _stated(rows, numbers, order)


def _without_header(rows: list[tuple[int, list[str]]]) -> tuple[bool, _Entries]:
    width = max(len(row) for _, row in rows)
    if width == 2 and all(is_mid(row[0]) for _, row in rows):
        return True, _count((line, _named(*reversed(row))) for line, row in rows)
    numbers = [i for i in range(width) if _are_numbers(rows, i)]
    if not numbers and _csv_number(rows[0][1][0]) is not None:
        numbers = [0]
    line, first = rows[0]
    if not numbers:
        raise MalformedError(line, f"neither a header nor a class number in {','.join(first)[:80]!r}: {_WANTED}")
    if len(numbers) == width > 1 and all(len(set(map(_csv_number, row))) == 1 for _, row in rows):
        numbers = [0]  # digits that are called what their numbers are
    order = [i for i in range(width) if i not in numbers]
    for row_line, row in rows:
        if len([i for i in order if i < len(row) and row[i] and not is_mid(row[i])]) > 1:
            raise MalformedError(
                row_line, f"which column is the name is not certain: {_WANTED}; a name that holds a comma needs quotes"
            )
    return False, _stated(rows, numbers, order)


def _are_numbers(rows: list[tuple[int, list[str]]], column: int) -> bool:
    return all(len(row) > column and _csv_number(row[column]) is not None for _, row in rows)


def _has_mid(row: tuple[int, list[str]]) -> bool:
    return len(row[1]) > 1 and any(map(is_mid, row[1]))


def _stated(rows: list[tuple[int, list[str]]], numbers: list[int], order: list[int]) -> _Entries:
    for line, row in rows:
        stated = {(_csv_number(row[i]) if len(row) > i else None): i for i in numbers}
        if None in stated:
            column = stated[None]
            raise MalformedError(line, f"{row[column] if len(row) > column else ''!r} is no class number")
        if len(stated) > 1:
            raise MalformedError(line, f"two columns of numbers that differ: {_WANTED}, without the other numbers")
        (number,) = (value for value in stated if value is not None)
        yield line, number, _named(*(row[i] for i in order if i < len(row)))


def _from_json(text: str) -> tuple[bool, _Entries]:
    try:
        value = json.loads(text, object_pairs_hook=once)
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
