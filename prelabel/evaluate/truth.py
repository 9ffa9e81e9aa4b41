"""The truth: a COCO dataset, read, checked and completed, so that nothing after it meets a surprise.

What is made up for: `iscrowd` and `area` may be missing, images may be without size, annotation ids are not used
(COCO's own evaluation takes an id of 0 for "not found" and loses all but one of equal ids). An outline that is none (a
point, a line, numbers that are no pairs, an RLE of another size) is dropped and counted, and the object keeps its box;
for masks it is then a region in which nothing counts, see `TruthObject.odd`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from prelabel import rle
from prelabel.errors import ConfigError, EvaluateError, StoreError
from prelabel.export.categories import Category, read_categories
from prelabel.storage import Storage, describe, redact

#: Of a corner of a polygon, in pixels: pycocotools walks along each edge, and crashes where that is too long.
_FARTHEST = 1_000_000


@dataclass(frozen=True, slots=True)
class TruthObject:
    """One annotation of the truth.

    Attributes:
        category_id: Of the truth.
        bbox: x y width height in pixels.
        crowd: A region of many that need not be found one by one: detections in it are neither right nor wrong.
        area: In pixels, as stated, or None.
        segmentation: Polygons or an RLE as COCO has them, or None without a mask.
        odd: Whether it had an outline that is none. Its mask is not known then: a detection in its box is neither right
            nor wrong by its mask, and the object is not missed.
    """

    category_id: int
    bbox: tuple[float, float, float, float]
    crowd: bool
    area: float | None
    segmentation: Any
    odd: bool = False


@dataclass(frozen=True, slots=True)
class TruthImage:
    """One image of the truth; the size may be unknown (None)."""

    file_name: str
    height: int | None
    width: int | None
    objects: tuple[TruthObject, ...]


@dataclass(frozen=True, slots=True)
class Truth:
    """A whole truth.

    Attributes:
        shown: Its address as it may be shown.
        images: In the order of their numbers, as COCO evaluates them: it decides between equal scores.
        categories: In the order of the file, with MIDs where they are known.
        notes: What the user should know of the reading.
        label_studio: Whether Label Studio wrote it: sizes are then those of the file as it is stored, while boxes lie
            on the picture as browsers show it.
    """

    shown: str
    images: tuple[TruthImage, ...]
    categories: tuple[Category, ...]
    notes: tuple[str, ...] = ()
    label_studio: bool = False


def read_truth(url: str, storage: Storage, labels: str = "") -> Truth:
    """Read a COCO dataset.

    Args:
        url: Its address.
        storage: Opens it.
        labels: Address of a label map that gives the MIDs of its categories, by name; `""` without.

    Raises:
        ConfigError: There is no such file, or the label map cannot be read.
        EvaluateError: It cannot be read, or is no COCO dataset; the message says what is wrong where.
    """
    shown = redact(url)
    try:
        content = storage.read_json(url)
    except FileNotFoundError:
        raise ConfigError(f"truth {shown!r}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise EvaluateError(f"truth {shown} cannot be read: {describe(error)}") from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise EvaluateError(f"{shown} is no COCO dataset: the lists images, annotations and categories are needed")
    categories = _categories(content["categories"], shown)
    notes: tuple[str, ...] = ()
    if labels:
        categories, notes = _with_mids(categories, read_categories(labels, storage), redact(labels))
    sizes = _images(content["images"], shown)
    label_studio = _is_label_studios(content)
    ids = {one.id for one in categories}
    objects, odd = _objects(content["annotations"], sizes, ids, shown, turned=label_studio)
    notes = (*notes, *odd)
    images = tuple(replace(sizes[number], objects=tuple(objects[number])) for number in _in_order(sizes))
    if not images:
        raise EvaluateError(f"{shown} has no images")
    if not any(not one.crowd for image in images for one in image.objects):
        raise EvaluateError(f"{shown} has no objects: there is nothing to hold the run against")
    return Truth(shown, images, tuple(categories), notes, label_studio)


def _is_label_studios(content: Mapping[str, Any]) -> bool:
    info = content.get("info")
    return isinstance(info, dict) and info.get("contributor") == "Label Studio"


def _categories(entries: Sequence[Any], shown: str) -> list[Category]:
    found: dict[int, Category] = {}
    for entry in entries:
        try:
            one = Category(int(entry["id"]), str(entry["name"]), str(entry.get("mid") or ""))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            raise EvaluateError(
                f"{shown}: every category needs a whole number id and a name, got {_cut(entry)}"
            ) from None
        if one.id in found:
            raise EvaluateError(f"{shown} has the category id {one.id} twice")
        found[one.id] = one
    names = [one.name for one in found.values()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise EvaluateError(f"{shown} has the category name {twice!r} twice")
    if not found:
        raise EvaluateError(f"{shown} has no categories")
    return list(found.values())


def _with_mids(
    categories: Iterable[Category], labels: Iterable[Category], shown: str
) -> tuple[list[Category], tuple[str, ...]]:
    mids = {one.name.casefold(): one.mid for one in labels if one.mid}
    known = [replace(one, mid=one.mid or mids.get(one.name.casefold(), "")) for one in categories]
    without = [one.name for one in known if not one.mid]
    if len(without) == len(known):
        raise EvaluateError(f"{shown} gives no MID to any category of the truth, e.g. {without[0]!r}")
    return known, (f"{shown} gives no MID to: {', '.join(without)}",) if without else ()


def _images(entries: Sequence[Any], shown: str) -> dict[Any, TruthImage]:
    images: dict[Any, TruthImage] = {}
    for entry in entries:
        try:
            number, name = entry["id"], entry["file_name"]
            height, width = (None if entry.get(key) is None else int(entry[key]) for key in ("height", "width"))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            raise EvaluateError(f"{shown}: every image needs an id and a file_name, got {_cut(entry)}") from None
        if not isinstance(number, int | str) or not isinstance(name, str):
            raise EvaluateError(f"{shown}: every image needs an id and a file_name, got {_cut(entry)}")
        if number in images:
            raise EvaluateError(f"{shown} has the image id {number!r} twice")
        images[number] = TruthImage(name, height or None, width or None, ())
    return images


def _in_order(numbers: Iterable[Any]) -> list[Any]:
    every = list(numbers)
    return sorted(every) if len({isinstance(one, str) for one in every}) < 2 else every


def _objects(
    entries: Sequence[Any], images: Mapping[Any, TruthImage], categories: set[int], shown: str, *, turned: bool
) -> tuple[dict[Any, list[TruthObject]], list[str]]:
    """The objects of each image, and lines about outlines that are none."""
    objects: dict[Any, list[TruthObject]] = defaultdict(list)
    odd: list[str] = []
    for place, entry in enumerate(entries):
        number = entry.get("id", place) if isinstance(entry, dict) else place
        where = f"{shown}: annotation {number}"
        try:
            image_id, category_id = entry["image_id"], int(entry["category_id"])
            x, y, w, h = (float(value) for value in entry["bbox"])
            area = _area(entry.get("area"))
            crowd = bool(int(entry.get("iscrowd") or 0))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            raise EvaluateError(f"{where} needs image_id, category_id and a bbox of four numbers") from None
        if not isinstance(image_id, int | str) or image_id not in images:
            raise EvaluateError(f"{where} is of image {image_id!r}, which is not among the images")
        if category_id not in categories:
            raise EvaluateError(f"{where} is of category {category_id}, which is not among the categories")
        if not all(map(math.isfinite, (x, y, w, h))) or w < 0 or h < 0:
            raise EvaluateError(f"{where} has a bbox that is none: {entry['bbox']}")
        mask, is_odd = None, False
        try:
            mask = _mask(entry.get("segmentation"), images[image_id], turned=turned)
        except _OddOutlineError as error:
            is_odd = True
            odd.append(f"annotation {number} has {error}")
        objects[image_id].append(TruthObject(category_id, (x, y, w, h), crowd, area, mask, is_odd))
    if not odd:
        return objects, []
    line = (
        f"{len(odd)} objects of {shown} have an outline that is none: their boxes count, and for masks nothing counts "
        f"in them, neither as right or wrong nor as missed; e.g. {odd[0]}"
    )
    return objects, [line]


def _area(value: Any) -> float | None:
    """The area stated, or None where there is none: COCO's evaluation would pass over an object of a negative area."""
    try:
        area = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return area if math.isfinite(area) and area >= 0 else None


class _OddOutlineError(Exception):
    """An outline that is none; the message says what it is."""


def _mask(value: Any, image: TruthImage, *, turned: bool) -> Any:
    """A segmentation that pycocotools can read without harm, or None where there is none.

    Args:
        value: As it stands in the file.
        image: With the size that the file states.
        turned: Whether masks may be of the turned picture where the size is that of the file.

    Raises:
        _OddOutlineError: It is none.
    """
    if not value and not isinstance(value, bool | int | float):
        return None
    if isinstance(value, list):
        return _polygons(value)
    counts = value.get("counts") if isinstance(value, dict) else None
    size = value.get("size") if isinstance(value, dict) else None
    if not isinstance(counts, str | list) or not (isinstance(size, list) and len(size) == 2 and _whole(size)):
        raise _OddOutlineError("a segmentation that is neither polygons nor an RLE")
    height, width = size
    fitting = [(image.height or height, image.width or width)]
    if turned:
        fitting.append(fitting[0][::-1])
    if (height, width) not in fitting:
        raise _OddOutlineError(f"an RLE of {height} x {width} on an image of {image.height} x {image.width}")
    if isinstance(counts, str):
        try:
            rle.validate(counts, height, width)
        except StoreError as error:
            raise _OddOutlineError(f"an RLE that is none: {error}") from None
    elif not (_whole(counts) and min(counts, default=-1) >= 0 and sum(counts) == height * width):
        raise _OddOutlineError(f"runs that do not fill {height} x {width} pixels")
    return {"size": [height, width], "counts": counts}


def _polygons(parts: Sequence[Any]) -> list[list[float]]:
    """The polygons of an object; a part without area (a point, a line) beside others changes nothing and is dropped."""
    whole = []
    for part in parts:
        if not isinstance(part, list):
            raise _OddOutlineError(f"a polygon that is none: {_cut(part)} in place of a list of x, y")
        if len(part) % 2 or not _numbers(part):
            raise _OddOutlineError(f"a polygon that is none: {len(part)} values that are no pairs of x and y")
        if max(map(abs, part), default=0) > _FARTHEST:
            raise _OddOutlineError(f"a polygon that is none: a corner more than {_FARTHEST:,} pixels away")
        if len(part) >= 6 and _has_area(part):
            whole.append(part)
    if not whole:
        raise _OddOutlineError("a polygon without area: at least three corners x, y are needed, not in one line")
    return whole


def _has_area(polygon: Sequence[float]) -> bool:
    xs, ys = polygon[::2], polygon[1::2]
    # From the first corner, so that large coordinates lose no digits.
    dx, dy = [x - xs[0] for x in xs], [y - ys[0] for y in ys]
    crosses = (dx[n - 1] * dy[n] - dx[n] * dy[n - 1] for n in range(len(dx)))
    # A figure of eight has no area by its sum, and some by its parts.
    return any(cross != 0 for cross in crosses)


def _numbers(values: Sequence[Any]) -> bool:
    return all(map(is_number, values))


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value out of JSON is a number that fits into a float; `true` is none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # JSON's whole numbers have no largest one
        return False


def _whole(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _cut(value: Any) -> str:
    return redact(str(value))[:80]
