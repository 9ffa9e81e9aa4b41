"""The entries of a COCO file for some rows, as JSON but for the numbers that only the whole file can give.

Images and annotations are numbered through; an image's number may come from anywhere. So the entries of a part of the
rows are made without both, by whichever process, and get them where all parts come together:

    made here                                          written in the end
    "file_name":"a.jpg","width":6,...                  {"id":1,"file_name":"a.jpg","width":6,...}
    "category_id":1,"bbox":[0.0,0.0,3.0,4.0],...       {"id":1,"image_id":1,"category_id":1,...}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prelabel.export.categories import Categories
from prelabel.export.coco_options import CocoOptions
from prelabel.export.instances import Instance, Instances
from prelabel.export.known_names import KnownNames
from prelabel.export.reading import Tally, strict_json
from prelabel.store.rows import ImageRow

#: Nothing within an entry reads like this: there is no list of objects in it, and no text with braces.
_BETWEEN = b"},{"


@dataclass(frozen=True, slots=True)
class ImageEntries:
    """What a row becomes.

    Attributes:
        file_name: Of the image.
        image: Its entry, without braces and number; empty of a failed image.
        annotations: Their entries, without numbers, with braces only between them.
        results: The same for a results file where one is wanted.
        masks: What those results have: b"m" for a mask and b"b" for a box alone, one after the other.
    """

    file_name: str
    image: bytes
    annotations: bytes
    results: bytes
    masks: bytes


@dataclass(frozen=True, slots=True)
class Entries:
    """What a part of the rows becomes, and what was seen on the way.

    Attributes:
        images: One for each row, in order.
        tally: Of this part.
        names: Of this part.
        ids: See `Instances.ids`.
    """

    images: list[ImageEntries]
    tally: Tally
    names: KnownNames
    ids: dict[tuple[int, str, str], int | None]


@dataclass(frozen=True, slots=True)
class EntriesOf:
    """Makes the entries of a part of the rows."""

    options: CocoOptions
    categories: Categories
    names: KnownNames

    def __call__(self, rows: Iterable[ImageRow]) -> Entries:
        """Raises ExportError where a mask does not fit its image."""
        tally, names = Tally(), self.names.fresh()
        instances = Instances(self.categories, self.options, self.options, tally)
        images = []
        for row, every in instances.each(rows):
            found = row.detections
            if found is None:
                tally.failed += 1
                images.append(ImageEntries(row.file_name, b"", b"", b"", b""))
                continue
            tally.add_image(row)
            names.see(found)
            about = {"file_name": row.file_name, "width": found.width, "height": found.height, "image_id": row.image_id}
            results = masks = b""
            if self.options.results:
                results = _listed(map(_result, every))
                masks = b"".join(b"b" if one.shape.rle is None else b"m" for one in every)
            annotations = _listed(_annotation(one, self.options.score) for one in every)
            images.append(ImageEntries(row.file_name, strict_json(about)[1:-1], annotations, results, masks))
        return Entries(images, tally, names, instances.ids)


def _listed(entries: Iterable[dict[str, Any]]) -> bytes:
    return strict_json(list(entries))[2:-2]


def _annotation(one: Instance, score: str) -> dict[str, Any]:
    shape = one.shape
    entry = {
        "category_id": one.category_id,
        "bbox": shape.bbox,
        "area": shape.area,
        "iscrowd": 0,
        "segmentation": shape.segmentation,
        "score": one.score,
    }
    if score == "attribute":
        entry["attributes"] = {"score": one.score}
    return entry


def _result(one: Instance) -> dict[str, Any]:
    entry: dict[str, Any] = {"category_id": one.category_id, "bbox": one.shape.bbox, "score": one.score}
    if one.shape.rle is not None:
        entry["segmentation"] = one.shape.rle
    return entry


def numbered(lines: bytes, prefix: bytes, first: int | None = None) -> list[bytes]:
    """The entries with braces and numbers.

    Args:
        lines: Entries as `ImageEntries` has them.
        prefix: What all begin with after their number.
        first: Number of the first entry; None where they have none.
    """
    if not lines:
        return []
    if first is None:
        return [b"{%b%b}" % (prefix, line) for line in lines.split(_BETWEEN)]
    return [
        b'{"id":%d,%b%b}' % (number, prefix, line) for number, line in enumerate(lines.split(_BETWEEN), start=first)
    ]
