"""The names of a detector's keypoints, from a label map, from a COCO dataset or built in.

Supported files:

    .pbtxt   item { id: 1  display_name: "person"  keypoints { id: 0  label: "nose" } ... }    TF Object Detection API
    .json    a COCO dataset with keypoints, or one of its categories:
             {"name": "person", "keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3]]}

In JSON, keypoints are numbered from 1, as in COCO. `"pairs": [[2, 3]]`, which COCO does not have, says which keypoints
trade places in a mirror image; without it, names like `left_eye` and `right_eye` do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from prelabel.detections import ClassName
from prelabel.errors import ConfigError
from prelabel.keypoints import COCO_PERSON, KeypointSet, Pairs
from prelabel.labels.pbtxt import Item, MalformedError, integer_of, read_items
from prelabel.mapping_files import unique
from prelabel.storage.address import describe, redact
from prelabel.storage.files import Storage

#: The built-in keypoints: COCO's 17 of a person.
COCO_PERSON_KEYPOINTS = "coco-person"


def keypoints_in(items: Iterable[Item]) -> KeypointSet | None:
    """The keypoints that a `StringIntLabelMap` names, by ascending id, or None if it names none.

    Classes may share keypoints: those with the same id are the same.

    Raises:
        MalformedError: A keypoint has no number or no name, an id has two names, or the ids do not ascend: then their
            order in the detector would be unclear.
    """
    names: dict[int, str] = {}
    classes = []
    for item in items:
        last = -1
        for line, fields in item.keypoints:
            number, name = integer_of(fields.get("id", "")), fields.get("label", "").strip()
            if number is None or not name:
                raise MalformedError(line, "a keypoint needs an id and a label")
            if number <= last:
                raise MalformedError(line, f"keypoint {name!r} has the id {number} after {last}: ids must ascend")
            if names.setdefault(number, name) != name:
                raise MalformedError(line, f"keypoint {number} has two names, {names[number]!r} and {name!r}")
            last = number
        class_number = integer_of(item.fields.get("id", ""))
        if item.keypoints and class_number is not None:
            classes.append(class_number)
    if not names:
        return None
    try:
        return KeypointSet.named([names[number] for number in sorted(names)], classes=tuple(classes))
    except ValueError as error:
        raise MalformedError(0, str(error)) from None


def read_keypoints(source: str, classes: Collection[ClassName] = (), storage: Storage | None = None) -> KeypointSet:
    """Read the built-in keypoints or a file.

    Args:
        source: `"coco-person"`, or the path or URL of a `.pbtxt` or `.json` file.
        classes: The classes of the detector: the file's keypoints belong to those of the same name, or to all if it has
            none of them.
        storage: Reads the file (default: a storage without options).

    Raises:
        ConfigError: The file does not exist, or its content is invalid.
    """
    if source == COCO_PERSON_KEYPOINTS:
        return replace(COCO_PERSON, classes=_numbers_of({"person"}, classes))
    address = redact(source)
    try:
        text = (storage or Storage()).read(source).decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"--keypoint-names {address!r}: no such file, and the built-in keypoints are {COCO_PERSON_KEYPOINTS}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--keypoint-names {address!r}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from None
    except OSError as error:
        raise ConfigError(f"--keypoint-names {address!r}: {describe(error)}") from error
    try:
        keypoints = (
            keypoints_in(read_items(text))
            if re.sub(r"[?#].*", "", source).lower().endswith(".pbtxt")
            else _from_json(text, classes)
        )
    except MalformedError as error:
        raise ConfigError(f"--keypoint-names {address!r}: {error}") from None
    if keypoints is None:
        raise ConfigError(f"--keypoint-names {address!r}: names no keypoints")
    return keypoints


def _from_json(text: str, classes: Collection[ClassName]) -> KeypointSet | None:
    try:
        content = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise MalformedError(0, f"neither a .pbtxt label map nor JSON: {error}") from None
    with_keypoints = [entry for entry in _categories(content) if entry.get("keypoints")]
    sets = {_category_keypoints(entry) for entry in with_keypoints}
    if len(sets) > 1:
        raise MalformedError(0, "its categories have different keypoints: give a file with one category that has some")
    names = {str(entry.get("name")) for entry in with_keypoints}
    return replace(sets.pop(), classes=_numbers_of(names, classes)) if sets else None


def _categories(content: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(content, dict) and "keypoints" not in content:
        content = content.get("categories")
    entries = content if isinstance(content, list) else [content]
    if not all(isinstance(entry, dict) for entry in entries):
        raise MalformedError(0, 'must be a COCO dataset, or {"keypoints": [names], "skeleton": [[1, 2], ...]}')
    yield from entries


def _category_keypoints(entry: Mapping[str, Any]) -> KeypointSet:
    names = entry["keypoints"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MalformedError(0, f"keypoints must be a list of names, got {str(names)[:80]}")
    try:
        pairs = _index_pairs(entry, "pairs") if "pairs" in entry else None
        return KeypointSet.named(names, _index_pairs(entry, "skeleton"), pairs)
    except ValueError as error:
        raise MalformedError(0, str(error)) from None


def _index_pairs(entry: Mapping[str, Any], key: str) -> Pairs:
    pairs = []
    for pair in entry.get(key) or ():
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(number) is int for number in pair):
            raise MalformedError(0, f"{key} must be a list of two numbers each, from 1, got {str(pair)[:80]}")
        pairs.append((pair[0] - 1, pair[1] - 1))
    return tuple(pairs)


def _numbers_of(names: Collection[str], classes: Collection[ClassName]) -> tuple[int, ...] | None:
    folded = {name.casefold() for name in names}
    return tuple(sorted(known.id for known in classes if known.name.casefold() in folded)) or None


def resolve_keypoints(
    own: KeypointSet,
    *,
    given: str | None = None,
    in_label_map: KeypointSet | None = None,
    classes: Collection[ClassName] = (),
    storage: Storage | None = None,
) -> KeypointSet:
    """The keypoints of a detector, with the names that are given, its own, or those of its label map, in this order.

    Args:
        own: What the detector itself says, if only their number (`KeypointSet.unnamed`).
        given: See `read_keypoints`.
        in_label_map: The keypoints that its label map names.
        classes: Its classes.
        storage: Reads a given file.

    Raises:
        ConfigError: A file cannot be used, or names another number of keypoints than the detector has.
    """
    if given:
        named, where = read_keypoints(given, classes, storage), f"--keypoint-names {redact(given)}"
    elif own.has_names or in_label_map is None:
        return own
    else:
        named, where = in_label_map, "the label map"
    if len(named) != len(own):
        raise ConfigError(
            f"{where} names {len(named)} keypoints, but the detector gives {len(own)} per detection: give the file "
            "that belongs to it with --keypoint-names"
        )
    return named
