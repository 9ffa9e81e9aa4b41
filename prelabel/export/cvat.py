"""CVAT's own XML ("CVAT for images 1.1") from finished shards: annotations to upload to a task.

One image of 4 x 6 pixels (height x width) with a dog on its left half becomes

    <image id="0" name="a.jpg" width="6" height="4">
      <mask label="Dog" source="auto" occluded="0" rle="0, 12" left="0" top="0" width="3" height="4" z_order="0">
        <attribute name="score">0.9</attribute>
      </mask>
    </image>

A box is `<box xtl ytl xbr ybr>`; a mask written as a polygon is one `<polygon>`, or with `split` one for each part, all
in one group, groups counted within the image as CVAT's own imports do. CVAT keeps the attribute `score` only where the
task's label has it: `--labels-file` is the JSON for making them so. It finds the image of a task by `name`, and failing
that takes `id` for the number of the task's image: here the place in the plan.
"""

from __future__ import annotations

import contextlib
import itertools
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prelabel import rle
from prelabel.errors import ExportError
from prelabel.export.categories import Categories
from prelabel.export.class_list import closed_categories
from prelabel.export.colour import colour_of
from prelabel.export.cvat_options import CvatOptions
from prelabel.export.instances import Instance, Instances
from prelabel.export.known_names import KnownNames
from prelabel.export.option_rules import require_distinct_files
from prelabel.export.parts import UNUSED, each_part, without
from prelabel.export.reading import ExportReport, Rows, RunInfo, Tally, strict_json
from prelabel.export.xml_text import HEAD, fits_xml, opening, tag
from prelabel.frames import DISPLAY
from prelabel.options import require
from prelabel.sides import transposed_edges
from prelabel.storage import Storage, absolute, describe, redact
from prelabel.store.rows import ImageRow

#: The name of the XML in a ZIP.
XML_NAME = "annotations.xml"

_SCORE = {"name": "score", "mutable": False, "input_type": "text", "default_value": "", "values": [""]}


def export_cvat(info: RunInfo, rows: Rows, to: str, options: CvatOptions, storage: Storage) -> ExportReport:
    """Write the XML, or the ZIP, at `to`; the rows are read twice, first for the labels.

    Raises:
        ConfigError: An option names a class that the detector does not have, or `to` is called what it is not.
        ExportError: Detections of classes that `categories` does not have, a label that XML cannot hold, masks that do
            not fit their image, or a file that cannot be written. Nothing is written under a final name then.
    """
    written = {"to": to, "labels_file": options.labels_file}
    require_distinct_files(options, written, read=("categories",), run=info.output)
    require(options.zip or not to.lower().endswith(".zip"), f"a ZIP is written with --zip only, got {redact(to)!r}")
    require(not options.zip or not to.lower().endswith(".xml"), f"with --zip name a .zip file, got {redact(to)!r}")
    names = KnownNames(info, options)
    tally = Tally()
    categories, listed = closed_categories(info, rows, options, storage, options.labels)
    for label in listed.values():
        if not fits_xml(label) or not label.strip():
            raise ExportError(f"{label!r} cannot be a label in CVAT: rename it with class-map")
    rows = without(rows, *UNUSED)
    if options.segmentation == "none":
        rows = without(rows, "masks")
    work = _ImagesOf(categories, listed, options, names)
    position = 0
    try:
        with _xml_file(storage, to, options.zip) as stream:
            stream.write(_head(info, listed.values()).encode())
            for part in each_part(rows, work):
                tally.add(part.tally)
                names.add(part.names)
                for image in part.images:
                    if image:
                        stream.write(b'  <image id="%d"%b' % (position, image))
                    position += 1
            stream.write(b"</annotations>\n")
        tally.files.append(to)
        if options.labels_file:
            storage.publish(options.labels_file, strict_json([_label_json(label) for label in listed.values()]) + b"\n")
            tally.files.append(absolute(options.labels_file))
    except OSError as error:
        raise ExportError(f"cannot write {redact(to)}: {describe(error)}") from error
    tally.warnings += [*names.warnings, *categories.notes, *tally.crowded_note("images")]
    tally.warnings += tally.frame_notes(DISPLAY, choosable=False)
    if not tally.detections:
        tally.warnings.append("no detection was kept")
    return tally.report()


@contextlib.contextmanager
def _xml_file(storage: Storage, to: str, zipped: bool) -> Iterator[Any]:
    with storage.publishing(to) as stream:
        if not zipped:
            yield stream
            return
        # A fixed date: the same rows give the same bytes.
        entry = zipfile.ZipInfo(XML_NAME, (1980, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(stream, "w") as archive, archive.open(entry, "w", force_zip64=True) as file:
            yield file


def _head(info: RunInfo, labels: Iterable[str]) -> str:
    lines = [HEAD + "<annotations>", "  <version>1.1</version>", "  <meta>", "    <task>"]
    lines.append("      " + tag("name", text=f"Pre-annotations made by {info.model_version}"))
    lines += ["      <mode>annotation</mode>", "      " + tag("created", text=info.created), "      <labels>"]
    attribute = "".join(tag(key, text=str(value)) for key, value in {**_SCORE, "values": ""}.items())
    for label in labels:
        parts = tag("name", text=label) + tag("color", text=colour_of(label)) + tag("type", text="any")
        lines.append(f"        <label>{parts}<attributes><attribute>{attribute}</attribute></attributes></label>")
    lines += ["      </labels>", "    </task>", "    " + tag("dumped", text=info.created), "  </meta>"]
    return "\n".join(lines) + "\n"


def _label_json(label: str) -> dict[str, Any]:
    return {"name": label, "color": colour_of(label), "type": "any", "attributes": [_SCORE]}


@dataclass(frozen=True, slots=True)
class _Part:
    """What a part of the rows becomes, and what was seen on the way.

    Attributes:
        images: The element of each row with all its shapes, from after its id on; empty where it has none.
        tally: Of this part.
        names: Of this part.
    """

    images: list[bytes]
    tally: Tally
    names: KnownNames


@dataclass(frozen=True, slots=True)
class _ImagesOf:
    """Makes the elements of a part of the rows."""

    categories: Categories
    labels: Mapping[int, str]
    options: CvatOptions
    names: KnownNames

    def __call__(self, rows: Iterable[ImageRow]) -> _Part:
        part = _Part([], Tally(), self.names.fresh())
        instances = Instances(self.categories, self.options, self.options, part.tally)
        for row, every in instances.each(_fitting(rows, part)):
            found = row.detections
            if found is None:
                part.images.append(b"")
                continue
            part.names.see(found)
            about = opening("", {"name": row.file_name, "width": found.width, "height": found.height})
            groups = itertools.count(1)
            shapes = [shape for one in every for shape in self._shapes(one, found.height, found.width, groups)]
            part.tally.add_regions(len(shapes))
            part.images.append("\n".join([about[1:], *shapes, "  </image>\n"]).encode())
        return part

    def _shapes(self, one: Instance, height: int, width: int, groups: Iterator[int]) -> Iterator[str]:
        common = {"label": self.labels[one.category_id], "source": "auto", "occluded": 0}
        score = f"\n      {tag('attribute', {'name': 'score'}, str(one.score))}\n    "
        shape = one.shape
        if shape.rle is None:
            x, y, w, h = shape.bbox
            corners = zip(("xtl", "ytl", "xbr", "ybr"), (x, y, x + w, y + h), strict=True)
            yield _element("box", {**common, **{key: f"{value:.2f}" for key, value in corners}, "z_order": 0}, score)
        elif self.options.segmentation == "rle":
            yield _element("mask", {**common, **cvat_mask(shape.rle["counts"], height, width), "z_order": 0}, score)
        else:
            group = {"group_id": next(groups)} if len(shape.segmentation) > 1 else {}
            for part in shape.segmentation:
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in zip(part[::2], part[1::2], strict=True))
                yield _element("polygon", {**common, "points": points, "z_order": 0, **group}, score)


def _fitting(rows: Iterable[ImageRow], part: _Part) -> Iterator[ImageRow]:
    """Every row; one that is left out, without detections, so that none of them counts."""
    for row in rows:
        if row.detections is None:
            part.tally.failed += 1
        elif fits_xml(row.file_name):
            part.tally.add_image(row)
        else:
            part.tally.left_out["images whose names XML cannot hold"] += 1
            row = replace(row, detections=None)
        yield row


def _element(name: str, attributes: Mapping[str, object], content: str) -> str:
    return f"    {opening(name, attributes)}{content}</{name}>"


def cvat_mask(counts: str, height: int, width: int) -> dict[str, object]:
    """A mask as CVAT has it: runs of the smallest box around it, read row by row, the first one of zeros.

    Args:
        counts: COCO compressed counts of a mask that is not empty.
        height: Pixels of the image.
        width: Pixels of the image.

    Returns:
        `rle` (`"0, 12"`), `left`, `top`, `width`, `height`: the attributes of `<mask>`.

    Raises:
        StoreError: The counts are none of this size.
        ExportError: The mask is too ragged.
    """
    left, top, w, h = rle.bbox_xywh(counts, height, width)
    starts, ends = rle.spans(counts, height, width)
    # Both ends of a run move by whole columns and rows; a run that goes on in the next column spans the full height.
    if h != height:
        column, row = np.divmod(starts, height)
        starts, ends = (column - left) * h + row - top, (column - left) * h + row - top + (ends - starts)
    else:
        starts, ends = starts - left * height, ends - left * height
    edges = transposed_edges(starts, ends, h, w)
    runs = np.diff(np.concatenate(([0], edges, [h * w])))
    return {"rle": ", ".join(map(str, runs.tolist())), "left": left, "top": top, "width": w, "height": h}
