"""The numbers that COCO gives to images: counted, taken from the file names, or taken over from a dataset.

sequential    1, 2, 3, ... in the order of the plan. Failed images count too, so that a number stays the same when
              a failure is mended later.
stem          the number that the file's name is: photos/000000253452.jpg -> 253452
FILE.json     the id of the image of this file name in a COCO dataset, or of the same stem
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from prelabel.errors import ExportError
from prelabel.storage import Storage, describe, redact

SEQUENTIAL = "sequential"
STEM = "stem"

#: What a dataset says of an image that is carried over into an export of the same images.
CARRIED = ("license", "date_captured", "coco_url", "flickr_url")


@dataclass(frozen=True, slots=True)
class Numbering:
    """How images get their numbers, and what else a dataset taken as the source of numbers says.

    Attributes:
        number: From the position in the plan (0 for the first image) and the file name to the image's id.
        carried: More keys of an image by its id.
        licenses: The dataset's licences.
        description: The dataset's own `info`.
        sizes: Height and width of an image by its id, where the dataset states them.
        shown: Address of the dataset as it may be shown.
    """

    number: Callable[[int, str], int]
    carried: Mapping[int, Mapping[str, Any]]
    licenses: tuple[Any, ...] = ()
    description: Mapping[str, Any] | None = None
    sizes: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    shown: str = ""


def numbering(how: str, storage: Storage) -> Numbering:
    """The numbering for `sequential`, `stem` or the address of a COCO dataset.

    Raises:
        ExportError: The dataset cannot be read. The functions returned raise it for an image without a number, or for
            one whose number another image already has.
    """
    if how == SEQUENTIAL:
        return Numbering(lambda position, _: position + 1, {})
    if how == STEM:
        return Numbering(_only_once(_stem_number), {})
    return _from_dataset(how, storage)


def _stem_number(file_name: str) -> int:
    text = stem(file_name)
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) > 0):
        raise ExportError(f"image-ids stem: the name of {file_name!r} is not a number of 1 or more")
    return int(text)


def _only_once(number_of: Callable[[str], int]) -> Callable[[int, str], int]:
    taken: set[int] = set()

    def number(_: int, file_name: str) -> int:
        value = number_of(file_name)
        if value in taken:
            raise ExportError(f"image id {value} of {file_name!r} belongs to another image already")
        taken.add(value)
        return value

    return number


def require_id(value: Any, what: str) -> None:
    """Raise ExportError for an id that COCO's readers would not take for a number, or not tell from another one."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ExportError(f"{what} must be a whole number, 0 or more, got {value!r}"[:300])


def _from_dataset(url: str, storage: Storage) -> Numbering:
    shown = redact(url)
    try:
        content = storage.read_json(url)
        images = [(image["file_name"], image["id"], image) for image in content["images"]]
        licenses, description = tuple(content.get("licenses") or ()), content.get("info")
    except (OSError, ValueError, RecursionError, OverflowError) as error:
        raise ExportError(f"image ids cannot be read from {shown}: {describe(error)}") from None
    except (KeyError, TypeError, AttributeError):
        raise ExportError(f"{shown} is no COCO dataset: it needs images with id and file_name") from None
    by_name: dict[str, int] = {}
    carried: dict[int, Mapping[str, Any]] = {}
    sizes: dict[int, tuple[int, int]] = {}
    for name, image_id, image in images:
        if not isinstance(name, str) or not name:
            raise ExportError(f"{shown}: the file_name of image {image_id!r} must be text, got {name!r}")
        # Readers tell 5 from "5": ids written as numbers would not meet those of the dataset.
        require_id(image_id, f"{shown}: the id of image {name!r}")
        if name in by_name:
            raise ExportError(f"{shown} has {name!r} under two ids, {by_name[name]} and {image_id}")
        if image_id in carried:
            other = next(each for each, number in by_name.items() if number == image_id)
            raise ExportError(f"{shown} has the image id {image_id} twice, for {other!r} and {name!r}")
        by_name[name] = image_id
        carried[image_id] = {key: image[key] for key in CARRIED if key in image}
        if isinstance(image.get("height"), int) and isinstance(image.get("width"), int):
            sizes[image_id] = image["height"], image["width"]
    by_stem: dict[str, int | None] = {}
    for name, image_id in by_name.items():
        by_stem[stem(name)] = None if stem(name) in by_stem else image_id

    def number_of(file_name: str) -> int:
        found = by_name.get(file_name)
        if found is None:
            found = by_stem.get(stem(file_name), -1)
        if found is None:
            raise ExportError(f"{shown} has several images that {file_name!r} could be")
        if found < 0:
            raise ExportError(f"{shown} has no image {file_name!r}, nor one of the same name without folder and ending")
        return found

    description = description if isinstance(description, dict) else None
    return Numbering(_only_once(number_of), carried, licenses, description, sizes, shown)


def stem(file_name: str) -> str:
    """`photos/a.b.jpg` -> `a.b`."""
    return PurePosixPath(file_name).stem
