"""CVAT's own XML ("CVAT for images 1.1") from finished shards: annotations to upload to a task.

One image of 4 x 6 pixels (height x width) with a dog on its left half becomes

    <image id="0" name="a.jpg" width="6" height="4">
      <mask label="Dog" source="auto" occluded="0" rle="0, 12" left="0" top="0" width="3" height="4" z_order="0">
        <attribute name="score">0.9</attribute>
      </mask>
    </image>

A box is `<box xtl ytl xbr ybr>`; a mask written as polygons is one `<polygon>` a part, several in one group. CVAT keeps
the attribute `score` only where the task's label has it: `--labels-file` is the JSON for making them so. It finds the
image of a task by `name`, and failing that takes `id` for the number of the task's image: here the place in the plan.
"""

from __future__ import annotations

import contextlib
import itertools
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from prelabel import rle
from prelabel.errors import ExportError
from prelabel.export.class_list import closed_categories
from prelabel.export.colour import colour_of
from prelabel.export.cvat_options import CvatOptions
from prelabel.export.instances import Instance, Instances
from prelabel.export.known_names import KnownNames
from prelabel.export.reading import ExportReport, Rows, RunInfo, Tally, strict_json
from prelabel.export.sides import transposed_edges
from prelabel.export.xml_text import HEAD, fits_xml, opening, tag
from prelabel.options import require
from prelabel.storage import Storage, describe, redact
from prelabel.store.rows import ImageRow

#: The name of the XML in a ZIP.
XML_NAME = "annotations.xml"

_SCORE = {"name": "score", "mutable": False, "input_type": "text", "default_value": "", "values": [""]}


def export_cvat(info: RunInfo, rows: Rows, to: str, options: CvatOptions, storage: Storage) -> ExportReport:
    """Write the XML, or the ZIP, at `to`; the rows are read twice, first for the labels.

    Raises:
        ConfigError: An option names a class that the detector does not have.
        ExportError: Detections of classes that `categories` does not have, a label that XML cannot hold, masks that do
            not fit their image, or a file that cannot be written. Nothing is written under a final name then.
    """
    require(options.labels_file != to, f"labels-file and to are the same file {redact(to)!r}")
    names = KnownNames(info, options)
    tally = Tally()
    categories, listed = closed_categories(info, rows, options, storage, options.labels)
    for label in listed.values():
        if not fits_xml(label) or not label.strip():
            raise ExportError(f"{label!r} cannot be a label in CVAT: rename it with class-map")
    writer = _Images(Instances(categories, options, options, tally), listed, options, tally)
    try:
        with _xml_file(storage, to, options.zip) as stream:
            stream.write(_head(info, listed.values()).encode())
            for position, row in enumerate(rows()):
                if row.detections is not None:
                    names.see(row.detections)
                stream.write(writer.image(position, row).encode())
            stream.write(b"</annotations>\n")
        tally.files.append(to)
        if options.labels_file:
            storage.publish(options.labels_file, strict_json([_label_json(label) for label in listed.values()]) + b"\n")
            tally.files.append(options.labels_file)
    except OSError as error:
        raise ExportError(f"cannot write {redact(to)}: {describe(error)}") from error
    tally.warnings += [*names.warnings, *categories.notes]
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


class _Images:
    """Writes one image after another."""

    def __init__(self, instances: Instances, labels: Mapping[int, str], options: CvatOptions, tally: Tally) -> None:
        self._instances = instances
        self._labels = labels
        self._polygons = options.segmentation == "polygon"
        self._tally = tally
        self._groups = itertools.count(1)

    def image(self, position: int, row: ImageRow) -> str:
        """The element of an image with all its shapes; nothing for a failed one."""
        if row.detections is None:
            self._tally.failed += 1
            return ""
        if not fits_xml(row.file_name):
            self._tally.left_out["images whose names XML cannot hold"] += 1
            return ""
        self._tally.images += 1
        size = {"width": row.detections.width, "height": row.detections.height}
        lines = [f"  {opening('image', {'id': position, 'name': row.file_name, **size})}"]
        for one in self._instances(row):
            lines += self._shapes(one, row.detections.height, row.detections.width)
        return "\n".join([*lines, "  </image>\n"])

    def _shapes(self, one: Instance, height: int, width: int) -> Iterator[str]:
        common = {"label": self._labels[one.category_id], "source": "auto", "occluded": 0}
        score = f"\n      {tag('attribute', {'name': 'score'}, str(one.score))}\n    "
        shape = one.shape
        if shape.rle is None:
            x, y, w, h = shape.bbox
            corners = zip(("xtl", "ytl", "xbr", "ybr"), (x, y, x + w, y + h), strict=True)
            yield _element("box", {**common, **{key: f"{value:.2f}" for key, value in corners}, "z_order": 0}, score)
        elif not self._polygons:
            yield _element("mask", {**common, **cvat_mask(shape.rle["counts"], height, width), "z_order": 0}, score)
        else:
            group = {"group_id": next(self._groups)} if len(shape.segmentation) > 1 else {}
            for part in shape.segmentation:
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in zip(part[::2], part[1::2], strict=True))
                yield _element("polygon", {**common, "points": points, "z_order": 0, **group}, score)


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
