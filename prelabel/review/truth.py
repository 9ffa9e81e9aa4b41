"""Reads the ground truth, a COCO dataset, and checks it, so that later steps need no checks.

`iscrowd` and `area` may be missing, and images may have no size. Annotation ids are not used, because COCO's own
evaluation reads an id of 0 as "not matched" and keeps only one of several annotations with the same id. An invalid
segmentation (a point, a line, an odd number of coordinates, an RLE of another size) is dropped and counted. The object
keeps its box, and mask scores ignore it: see `TruthObject.invalid_segmentation`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from prelabel.errors import ConfigError, EvaluateError, StoreError
from prelabel.export.categories import Category, read_categories
from prelabel.masks import rle
from prelabel.storage.address import describe, redact
from prelabel.storage.files import Storage

#: Largest coordinate of a polygon, in pixels: pycocotools walks along each edge and crashes on very long edges.
_MAX_COORDINATE = 1_000_000


@dataclass(frozen=True, slots=True)
class TruthObject:
    """One annotation of the truth.

    Attributes:
        category_id: Category id of the truth.
        bbox: x, y, width, height in pixels.
        crowd: Whether it is a region of many objects. Detections in it are neither correct nor false.
        area: Area from the file, in pixels, or None.
        segmentation: Polygons or an RLE in COCO's form, or None without a mask.
        invalid_segmentation: Whether the segmentation in the file is invalid, so that the mask is unknown. Mask scores
            then ignore detections in the object's box, and do not count the object as missed.
        keypoints: x, y, v of each keypoint, one after the other, as COCO has them; empty without keypoints.
    """

    category_id: int
    bbox: tuple[float, float, float, float]
    crowd: bool
    area: float | None
    segmentation: Any
    invalid_segmentation: bool = False
    keypoints: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class TruthImage:
    """One image of the truth; its size may be unknown (None)."""

    file_name: str
    height: int | None
    width: int | None
    objects: tuple[TruthObject, ...]


@dataclass(frozen=True, slots=True)
class Truth:
    """The ground truth.

    Attributes:
        display_url: Its URL without secrets, for messages.
        images: Images in ascending order of id, as COCO evaluates them; detections with equal scores are ranked in this
            order.
        categories: Categories in the order of the file, with MIDs where they are known.
        notes: Notes for the user on how the file was read, one line each.
        keypoint_names: Names of the keypoints by category id, of the categories that name some.
        label_studio: Whether Label Studio wrote the file. Sizes are then those of the stored file, while boxes lie on
            the image as browsers show it.
    """

    display_url: str
    images: tuple[TruthImage, ...]
    categories: tuple[Category, ...]
    notes: tuple[str, ...] = ()
    label_studio: bool = False
    keypoint_names: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


def read_truth(url: str, storage: Storage, labels: str = "") -> Truth:
    """Read a COCO dataset.

    Args:
        url: URL or path of the dataset.
        storage: Opens it.
        labels: URL, path or name of a label map that gives MIDs to its categories by name; `""` for none.

    Raises:
        ConfigError: The file does not exist, or the label map cannot be read.
        EvaluateError: The file cannot be read or is not a valid COCO dataset; the message says what is wrong and where.
    """
    return truth_of(read_content(url, storage, "truth"), url, storage, labels)


def read_content(url: str, storage: Storage, role: str) -> Any:
    """The JSON at a URL; messages name the file by its role (`truth`). Raises the same errors as `read_truth`."""
    display_url = redact(url)
    try:
        return storage.read_json(url)
    except FileNotFoundError:
        raise ConfigError(f"{role} {display_url!r}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise EvaluateError(f"{role} {display_url} cannot be read: {describe(error)}") from None


def truth_of(content: Any, url: str, storage: Storage, labels: str = "") -> Truth:
    """The truth in the decoded JSON of a COCO dataset, whose annotations are removed; see `read_truth`."""
    display_url = redact(url)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise EvaluateError(
            f"{display_url} is not a COCO dataset: it needs the lists images, annotations and categories"
        )
    categories = _categories(content["categories"], display_url)
    notes: tuple[str, ...] = ()
    if labels:
        categories, notes = _with_mids(categories, read_categories(labels, storage), redact(labels))
    without_objects = _images(content["images"], display_url)
    info = content.get("info")
    label_studio = isinstance(info, dict) and info.get("contributor") == "Label Studio"
    ids = {category.id for category in categories}
    objects, invalid = _objects(content["annotations"], without_objects, ids, display_url, rotated=label_studio)
    notes = (*notes, *invalid)
    images = tuple(replace(without_objects[id_], objects=tuple(objects[id_])) for id_ in _in_order(without_objects))
    if not images:
        raise EvaluateError(f"{display_url} has no images")
    if all(annotation.crowd for image in images for annotation in image.objects):
        raise EvaluateError(f"{display_url} has no objects: there is nothing to compare the run with")
    return Truth(display_url, images, tuple(categories), notes, label_studio, _keypoint_names(content["categories"]))


def _categories(entries: Sequence[Any], display_url: str) -> list[Category]:
    categories: dict[int, Category] = {}
    for entry in entries:
        try:
            category = Category(int(entry["id"]), str(entry["name"]), str(entry.get("mid") or ""))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            raise EvaluateError(
                f"{display_url}: every category needs an integer id and a name, got {_shortened(entry)}"
            ) from None
        if category.id in categories:
            raise EvaluateError(f"{display_url} has the category id {category.id} twice")
        categories[category.id] = category
    names = [category.name for category in categories.values()]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise EvaluateError(f"{display_url} has the category name {duplicate!r} twice")
    if not categories:
        raise EvaluateError(f"{display_url} has no categories")
    return list(categories.values())


def _keypoint_names(entries: Sequence[Any]) -> dict[int, tuple[str, ...]]:
    """The names of keypoints by category id; the entries have been checked as categories."""
    return {
        int(entry["id"]): tuple(map(str, entry["keypoints"]))
        for entry in entries
        if isinstance(entry.get("keypoints"), list) and entry["keypoints"]
    }


def _with_mids(
    categories: Iterable[Category], labels: Iterable[Category], display_url: str
) -> tuple[list[Category], tuple[str, ...]]:
    mids = {label.name.casefold(): label.mid for label in labels if label.mid}
    matched = [replace(category, mid=category.mid or mids.get(category.name.casefold(), "")) for category in categories]
    without = [category.name for category in matched if not category.mid]
    if len(without) == len(matched):
        raise EvaluateError(f"{display_url} gives no MID to any category of the truth, e.g. {without[0]!r}")
    return matched, (f"{display_url} gives no MID to: {', '.join(without)}",) if without else ()


def _images(entries: Sequence[Any], display_url: str) -> dict[Any, TruthImage]:
    """The images by id, still without objects."""
    images: dict[Any, TruthImage] = {}
    for entry in entries:
        try:
            image_id, name = entry["id"], entry["file_name"]
            height, width = (None if entry.get(key) is None else int(entry[key]) for key in ("height", "width"))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            raise EvaluateError(
                f"{display_url}: every image needs an id and a file_name, got {_shortened(entry)}"
            ) from None
        if not isinstance(image_id, int | str) or not isinstance(name, str):
            raise EvaluateError(f"{display_url}: every image needs an id and a file_name, got {_shortened(entry)}")
        if image_id in images:
            raise EvaluateError(f"{display_url} has the image id {image_id!r} twice")
        images[image_id] = TruthImage(name, height or None, width or None, ())
    return images


def _in_order(image_ids: Iterable[Any]) -> list[Any]:
    """Image ids in ascending order, as COCO evaluates them; in the order of the file if text and integers are mixed."""
    ids = list(image_ids)
    return sorted(ids) if len({isinstance(id_, str) for id_ in ids}) < 2 else ids


def _objects(
    entries: list[Any], images: Mapping[Any, TruthImage], categories: set[int], display_url: str, *, rotated: bool
) -> tuple[dict[Any, list[TruthObject]], list[str]]:
    """The objects of each image by id, and notes on invalid segmentations and keypoints; empties the entries."""
    objects: dict[Any, list[TruthObject]] = defaultdict(list)
    invalid: list[str] = []
    invalid_keypoints: list[Any] = []
    for position in range(len(entries)):
        # Each entry is freed when its object is made: those of 100,000 images take half a gigabyte.
        entry, entries[position] = entries[position], None
        annotation_id = entry.get("id", position) if isinstance(entry, dict) else position
        where = f"{display_url}: annotation {annotation_id}"
        try:
            image_id, category_id = entry["image_id"], int(entry["category_id"])
            x, y, w, h = (float(value) for value in entry["bbox"])
            area = _area(entry.get("area"))
            crowd = bool(int(entry.get("iscrowd") or 0))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            raise EvaluateError(f"{where} needs image_id, category_id and a bbox of four numbers") from None
        if not isinstance(image_id, int | str) or image_id not in images:
            raise EvaluateError(f"{where} has the image_id {image_id!r}, which is not among the images")
        if category_id not in categories:
            raise EvaluateError(f"{where} has the category_id {category_id}, which is not among the categories")
        if not all(map(math.isfinite, (x, y, w, h))) or w < 0 or h < 0:
            raise EvaluateError(f"{where} has an invalid bbox: {entry['bbox']}")
        mask, is_invalid = None, False
        try:
            mask = _mask(entry.get("segmentation"), images[image_id], rotated=rotated)
        except _InvalidSegmentationError as error:
            is_invalid = True
            invalid.append(f"annotation {annotation_id} has {error}")
        keypoints = _keypoints(entry.get("keypoints"))
        if keypoints is None:
            invalid_keypoints.append(annotation_id)
        objects[image_id].append(TruthObject(category_id, (x, y, w, h), crowd, area, mask, is_invalid, keypoints or ()))
    notes = []
    if invalid_keypoints:
        notes.append(
            f"{len(invalid_keypoints)} objects of {display_url} have keypoints that are not lists of x, y, v, and "
            f"count as objects without keypoints; e.g. annotation {invalid_keypoints[0]}"
        )
    if not invalid:
        return objects, notes
    note = (
        f"{len(invalid)} objects of {display_url} have an invalid segmentation: their boxes count, and mask scores "
        f"ignore them; e.g. {invalid[0]}"
    )
    return objects, [note, *notes]


def _keypoints(value: Any) -> tuple[float, ...] | None:
    """x, y, v of each keypoint, `()` without keypoints, or None for anything else."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) % 3 or not all(map(is_number, value)):
        return None
    return tuple(map(float, value))


def _area(value: Any) -> float | None:
    """The area from the file, or None if it is invalid: COCO's evaluation would skip an object with a negative area."""
    try:
        area = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return area if math.isfinite(area) and area >= 0 else None


class _InvalidSegmentationError(Exception):
    """An invalid segmentation; the message names what is invalid, so that it can follow "annotation 7 has"."""


def _mask(value: Any, image: TruthImage, *, rotated: bool) -> Any:
    """A segmentation that pycocotools reads without crashing, or None for no segmentation.

    Args:
        value: The segmentation in the file.
        image: The image, with its size in the file.
        rotated: Whether masks may have the image's height and width swapped, after EXIF rotation.

    Raises:
        _InvalidSegmentationError: The segmentation is invalid.
    """
    if not value and not isinstance(value, bool | int | float):
        return None
    if isinstance(value, list):
        return _polygons(value)
    counts = value.get("counts") if isinstance(value, dict) else None
    size = value.get("size") if isinstance(value, dict) else None
    if not isinstance(counts, str | list) or not (isinstance(size, list) and len(size) == 2 and _all_integers(size)):
        raise _InvalidSegmentationError("a segmentation that is neither polygons nor an RLE")
    height, width = size
    allowed = [(image.height or height, image.width or width)]
    if rotated:
        allowed.append(allowed[0][::-1])
    if (height, width) not in allowed:
        raise _InvalidSegmentationError(f"an RLE of {height} x {width} on an image of {image.height} x {image.width}")
    if isinstance(counts, str):
        try:
            rle.validate(counts, height, width)
        except StoreError as error:
            raise _InvalidSegmentationError(f"an invalid RLE: {error}") from None
    elif not (_all_integers(counts) and min(counts, default=-1) >= 0 and sum(counts) == height * width):
        raise _InvalidSegmentationError(f"an RLE whose counts do not add up to {height} x {width} pixels")
    return {"size": [height, width], "counts": counts}


def _polygons(parts: Sequence[Any]) -> list[list[float]]:
    """The polygons of an object; parts without area (points, lines) are dropped if others remain."""
    valid = []
    for part in parts:
        if not isinstance(part, list):
            raise _InvalidSegmentationError(f"an invalid polygon: {_shortened(part)} instead of a list of x, y")
        if len(part) % 2 or not all(map(is_number, part)):
            raise _InvalidSegmentationError(f"an invalid polygon: {len(part)} values that are not pairs of x and y")
        if max(map(abs, part), default=0) > _MAX_COORDINATE:
            raise _InvalidSegmentationError(f"an invalid polygon: a corner more than {_MAX_COORDINATE:,} pixels away")
        if len(part) >= 6 and _has_area(part):
            valid.append(part)
    if not valid:
        raise _InvalidSegmentationError("a polygon without area: it needs at least three corners, not on one line")
    return valid


def _has_area(polygon: Sequence[float]) -> bool:
    xs, ys = polygon[::2], polygon[1::2]
    # Relative to the first corner, so that large coordinates lose no precision.
    dx, dy = [x - xs[0] for x in xs], [y - ys[0] for y in ys]
    crosses = (dx[n - 1] * dy[n] - dx[n] * dy[n - 1] for n in range(len(dx)))
    # In a figure eight, the signed areas cancel out, so their sum may be 0 although the polygon has an area.
    return any(cross != 0 for cross in crosses)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a number that fits into a float; `true` is not a number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # integers in JSON are unbounded
        return False


def _all_integers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _shortened(value: Any) -> str:
    return redact(str(value))[:80]
