"""COCO's image ids: consecutive, from the file names, or from a COCO dataset.

sequential    1, 2, 3, ... in the order of the plan. Failed images count, too, so that ids stay the same if a failed
              image succeeds later.
stem          the number in the file name: photos/000000253452.jpg -> 253452
FILE.json     the id of the image with this file name, or this stem, in a COCO dataset
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prelabel.errors import ExportError
from prelabel.storage.address import describe, redact
from prelabel.storage.files import Storage

SEQUENTIAL = "sequential"
STEM = "stem"

#: Keys of a dataset's images that are copied into an export of the same images.
COPIED_KEYS = ("license", "date_captured", "coco_url", "flickr_url")


@dataclass(frozen=True, slots=True)
class Numbering:
    """How images get their ids, and what else is copied from a dataset.

    Attributes:
        number: Returns the id of an image, from its position in the plan (from 0) and its file name.
        extra_keys: Keys that are copied into an image's entry, by its id.
        licenses: The dataset's licenses.
        description: The dataset's `info`.
        sizes: Height and width of an image in pixels, by its id, if the dataset has them.
        address: Path or URL of the dataset, without secrets.
    """

    number: Callable[[int, str], int]
    extra_keys: Mapping[int, Mapping[str, Any]]
    licenses: tuple[Any, ...] = ()
    description: Mapping[str, Any] | None = None
    sizes: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    address: str = ""


def numbering(image_ids: str, storage: Storage) -> Numbering:
    """The numbering for `sequential`, `stem`, or the path or URL of a COCO dataset.

    Raises:
        ExportError: The dataset cannot be read. `number` raises it for an image without an id, or with the id of
            another image.
    """
    if image_ids == SEQUENTIAL:
        return Numbering(lambda position, _: position + 1, {})
    if image_ids == STEM:
        return Numbering(_only_once(_stem_number), {})
    return _from_dataset(image_ids, storage)


def _stem_number(file_name: str) -> int:
    text = stem(file_name)
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) > 0):
        raise ExportError(f"--image-ids stem: the name of {file_name!r} is not a whole number of 1 or more")
    return int(text)


def _only_once(number_of: Callable[[str], int]) -> Callable[[int, str], int]:
    taken: set[int] = set()

    def number(_: int, file_name: str) -> int:
        value = number_of(file_name)
        if value in taken:
            raise ExportError(f"the image id {value} of {file_name!r} already belongs to another image")
        taken.add(value)
        return value

    return number


def require_id(value: Any, subject: str) -> None:
    """Raise ExportError about `subject` unless the id is a number that COCO's readers accept and keep distinct."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ExportError(f"{subject} must be a whole number, 0 or more, got {value!r}"[:300])


def _from_dataset(url: str, storage: Storage) -> Numbering:
    address = redact(url)
    try:
        content = storage.read_json(url)
        images = [(image["file_name"], image["id"], image) for image in content["images"]]
        licenses, description = tuple(content.get("licenses") or ()), content.get("info")
    except (OSError, ValueError, RecursionError, OverflowError) as error:
        raise ExportError(f"cannot read image ids from {address}: {describe(error)}") from None
    except (KeyError, TypeError, AttributeError):
        raise ExportError(f"{address} is not a COCO dataset: it needs images with id and file_name") from None
    by_name: dict[str, int] = {}
    extra_keys: dict[int, Mapping[str, Any]] = {}
    sizes: dict[int, tuple[int, int]] = {}
    for name, image_id, image in images:
        if not isinstance(name, str) or not name:
            raise ExportError(f"{address}: the file_name of image {image_id!r} must be text, got {name!r}")
        # Readers distinguish 5 and "5": ids written as numbers would not match those of the dataset.
        require_id(image_id, f"{address}: the id of image {name!r}")
        if name in by_name:
            raise ExportError(f"{address} has two ids for {name!r}: {by_name[name]} and {image_id}")
        if image_id in extra_keys:
            other = next(other for other, number in by_name.items() if number == image_id)
            raise ExportError(f"{address} has a duplicate image id {image_id}, for {other!r} and {name!r}")
        by_name[name] = image_id
        extra_keys[image_id] = {key: image[key] for key in COPIED_KEYS if key in image}
        if isinstance(image.get("height"), int) and isinstance(image.get("width"), int):
            sizes[image_id] = image["height"], image["width"]
    by_stem: dict[str, int | None] = {}
    for name, image_id in by_name.items():
        by_stem[stem(name)] = None if stem(name) in by_stem else image_id

    def number_of(file_name: str) -> int:
        image_id = by_name.get(file_name)
        if image_id is None:
            image_id = by_stem.get(stem(file_name), -1)
        if image_id is None:
            raise ExportError(f"several images in {address} match {file_name!r}")
        if image_id < 0:
            raise ExportError(
                f"{address} has no image {file_name!r}, nor one whose name without folder and extension is the same"
            )
        return image_id

    description = description if isinstance(description, dict) else None
    return Numbering(_only_once(number_of), extra_keys, licenses, description, sizes, address)


def stem(file_name: str) -> str:
    """`photos/a.b.jpg` -> `a.b`."""
    # That of PurePosixPath for paths without `.` as a part, in a tenth of the time.
    name = file_name.rstrip("/").rpartition("/")[2]
    dot = name.rfind(".")
    return name[:dot] if 0 < dot < len(name) - 1 else name
