"""Pascal VOC from finished shards: an XML file of boxes for each image.

One image of 4 x 6 pixels (height x width) with a dog on its left half becomes `Annotations/a.xml`,

    <annotation>
      <folder>JPEGImages</folder> <filename>a.jpg</filename>
      <size><width>6</width><height>4</height><depth>3</depth></size>
      <object>
        <name>Dog</name> <difficult>0</difficult> <truncated>0</truncated> <occluded>0</occluded>
        <bndbox><xmin>0</xmin><ymin>0</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>
        <attributes><attribute><name>score</name><value>0.9</value></attribute></attributes>
      </object>
    </annotation>

with `a` in `ImageSets/Main/train.txt` and the classes in `labelmap.txt`, as CVAT and Datumaro read and write them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from prelabel.errors import ExportError
from prelabel.export.class_list import closed_categories
from prelabel.export.coco_options import CocoOptions
from prelabel.export.colour import colour_of
from prelabel.export.image_folder import FolderNames, folder_writer
from prelabel.export.instances import Instance, Instances
from prelabel.export.known_names import KnownNames
from prelabel.export.reading import ExportReport, Rows, RunInfo, Tally
from prelabel.export.voc_options import VocOptions
from prelabel.export.xml_text import HEAD, fits_xml, tag
from prelabel.storage import Storage, describe, join, redact
from prelabel.store.rows import ImageRow

LABELS_NAME = "labelmap.txt"

#: VOC's objects are boxes.
_BOXES = CocoOptions(segmentation="none")


def export_voc(info: RunInfo, rows: Rows, to: str, options: VocOptions, storage: Storage) -> ExportReport:
    """Write annotations, the list of images and the label map into the folder `to`; the rows are read twice.

    Raises:
        ConfigError: An option names a class that the detector does not have.
        ExportError: Detections of classes that `categories` does not have, a label that the format cannot hold, an
            image whose name leads out of the folder, or a file that cannot be written.
    """
    names = KnownNames(info, options)
    tally = Tally()
    categories, labels = closed_categories(info, rows, options, storage, options.labels)
    _require_safe(labels.values())
    instances = Instances(categories, options, _BOXES, tally)
    folder = FolderNames(tally)
    listed = join(to, f"ImageSets/Main/{options.subset}.txt")
    try:
        with ExitStack() as stack:
            stream = stack.enter_context(storage.publishing(listed))
            writer = stack.enter_context(folder_writer(to, storage))
            for row in rows():
                if row.detections is None:
                    tally.failed += 1
                    continue
                if not fits_xml(row.file_name):
                    tally.left_out["images whose names XML cannot hold"] += 1
                    continue
                stem = folder.stem(row)
                if stem is None:
                    continue
                names.see(row.detections)
                tally.images += 1
                objects = [_object(one, labels, options.coordinates == "one") for one in instances(row)]
                writer.add(f"Annotations/{stem}.xml", _annotation(info, row, objects).encode())
                writer.add_image(f"JPEGImages/{row.file_name}", row, options.images)
                stream.write(f"{stem}\n".encode())
        storage.publish(join(to, LABELS_NAME), _label_map(labels.values()).encode())
    except OSError as error:
        raise ExportError(f"cannot write to {redact(to)}: {describe(error)}") from error
    tally.files = [join(to, "Annotations/"), listed, join(to, LABELS_NAME)]
    tally.warnings += [*names.warnings, *categories.notes, *folder.warnings]
    if not tally.detections:
        tally.warnings.append("no detection was kept")
    return tally.report()


def _require_safe(labels: Iterable[str]) -> None:
    for label in labels:
        unsafe = not fits_xml(label) or label != label.strip() or not label or label.startswith("#")
        if unsafe or ":" in label or len(label.splitlines()) > 1:
            raise ExportError(
                f"{label!r} cannot be a class in {LABELS_NAME} (empty, blanks at its ends, a colon, a # in front or "
                "control characters): rename it with class-map"
            )


def _annotation(info: RunInfo, row: ImageRow, objects: Iterable[str]) -> str:
    lines = [HEAD + "<annotation>", "  <folder>JPEGImages</folder>", "  " + tag("filename", text=row.file_name)]
    source = (
        tag("database", text="prelabel") + tag("annotation", text=info.model_version) + tag("image", text="Unknown")
    )
    # The depth is a constant of the format: what was detected is always shown in three channels.
    size = tag("width", text=str(row.width)) + tag("height", text=str(row.height)) + tag("depth", text="3")
    lines += [f"  <source>{source}</source>", f"  <size>{size}</size>", "  <segmented>0</segmented>"]
    return "\n".join([*lines, *objects, "</annotation>\n"])


def _object(one: Instance, labels: Mapping[int, str], from_one: bool) -> str:
    x, y, w, h = one.shape.bbox
    corners: tuple[float, ...] = (x, y, round(x + w, 2), round(y + h, 2))
    if from_one:
        # The first pixel is 1, and xmax and ymax are pixels that belong to the box.
        corners = (math.floor(x) + 1, math.floor(y) + 1, math.ceil(corners[2]), math.ceil(corners[3]))
    box = "".join(
        tag(key, text=f"{value:.2f}".rstrip("0").rstrip("."))
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    score = tag("name", text="score") + tag("value", text=str(one.score))
    lines = [
        "  <object>",
        "    " + tag("name", text=labels[one.category_id]),
        "    <pose>Unspecified</pose>",
        "    <truncated>0</truncated>",
        "    <difficult>0</difficult>",
        "    <occluded>0</occluded>",
        f"    <bndbox>{box}</bndbox>",
        f"    <attributes><attribute>{score}</attribute></attributes>",
        "  </object>",
    ]
    return "\n".join(lines)


def _label_map(labels: Iterable[str]) -> str:
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    for label in labels:
        colour = colour_of(label)
        if label != "background":
            lines.append(f"{label}:{','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))}::")
    return "\n".join(lines) + "\n"
