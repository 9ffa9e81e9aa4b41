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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from prelabel.errors import ExportError
from prelabel.export.class_list import closed_categories
from prelabel.export.coco_options import CocoOptions
from prelabel.export.colour import colour_of
from prelabel.export.folder_files import UNLISTED, UNUSED, FilesOf, each_file, stem_of
from prelabel.export.image_folder import folder_writer
from prelabel.export.instances import Instance
from prelabel.export.known_names import KnownNames
from prelabel.export.option_rules import require_distinct_files
from prelabel.export.parts import in_frame, without
from prelabel.export.reading import ExportReport, Rows, RunInfo, Tally
from prelabel.export.voc_options import VocOptions
from prelabel.export.xml_text import HEAD, fits_xml, tag
from prelabel.storage import Storage, describe, join, redact

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
    listed = join(to, f"ImageSets/Main/{options.subset}.txt")
    written = {"to": to, LABELS_NAME: join(to, LABELS_NAME), "the list": listed}
    require_distinct_files(options, written, read=("categories", "links"), run=info.output)
    names = KnownNames(info, options)
    tally = Tally()
    categories, labels = closed_categories(info, rows, options, storage, options.labels)
    _require_safe(labels.values())
    rows = in_frame(without(rows, "masks", *UNUSED), options.frame)
    work = FilesOf(_Annotations(info, labels, options.coordinates == "one"), categories, options, _BOXES, names)
    try:
        with ExitStack() as stack:
            stream = stack.enter_context(storage.publishing(listed))
            writer = stack.enter_context(folder_writer(to, storage))
            for one in each_file(rows, work, tally):
                writer.add(f"Annotations/{one.stem}.xml", one.content)
                writer.add_image(f"JPEGImages/{one.row.file_name}", one.row, options.images)
                stream.write(f"{one.stem}\n".encode())
        storage.publish(join(to, LABELS_NAME), _label_map(labels.values()).encode())
    except OSError as error:
        raise ExportError(f"cannot write to {redact(to)}: {describe(error)}") from error
    tally.files = [join(to, "Annotations/"), listed, join(to, LABELS_NAME)]
    tally.warnings += [*names.warnings, *categories.notes, *tally.frame_notes(options.frame)]
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


@dataclass(frozen=True, slots=True)
class _Annotations:
    """The XML of an image."""

    info: RunInfo
    labels: Mapping[int, str]
    from_one: bool

    def unfit(self, file_name: str) -> str:
        if not fits_xml(file_name):
            return "images whose names XML cannot hold"
        # Readers drop blanks around a line, and some take one with a # in front for a comment.
        stem = stem_of(file_name)
        return UNLISTED if stem != stem.strip() or stem.startswith("#") else ""

    def content(self, file_name: str, size: tuple[int, int], every: Sequence[Instance]) -> bytes:
        objects = [_object(one, self.labels, self.from_one) for one in every]
        return _annotation(self.info, file_name, size, objects).encode()


def _annotation(info: RunInfo, file_name: str, size: tuple[int, int], objects: Iterable[str]) -> str:
    height, width = size
    lines = [HEAD + "<annotation>", "  <folder>JPEGImages</folder>", "  " + tag("filename", text=file_name)]
    source = (
        tag("database", text="prelabel") + tag("annotation", text=info.model_version) + tag("image", text="Unknown")
    )
    # The depth is a constant of the format: what was detected is always shown in three channels.
    shape = tag("width", text=str(width)) + tag("height", text=str(height)) + tag("depth", text="3")
    lines += [f"  <source>{source}</source>", f"  <size>{shape}</size>", "  <segmented>0</segmented>"]
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
