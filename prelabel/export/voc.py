"""Write Pascal VOC from finished shards: an XML file with boxes per image.

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

with `a` in `ImageSets/Main/train.txt` and the classes in `labelmap.txt`. CVAT and Datumaro read and write these files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from prelabel.errors import ExportError
from prelabel.export.annotations import Instance
from prelabel.export.base import ExportReport, Rows, RunInfo, require_distinct_files
from prelabel.export.categories import closed_categories
from prelabel.export.coco import CocoOptions
from prelabel.export.file_names import stem_of
from prelabel.export.folder import (
    CONFLICTS_NAME,
    UNLISTED,
    UNUSED,
    FilesOf,
    FolderOptions,
    ImageFile,
    NameConflicts,
    make_files,
)
from prelabel.export.options import listing_option
from prelabel.export.parallel import Part
from prelabel.export.run_selection import KnownNames
from prelabel.export.text import HEAD, fits_xml, tag
from prelabel.options import option, require
from prelabel.storage.address import describe, join, redact
from prelabel.storage.files import Storage

LABELS_NAME = "labelmap.txt"

#: VOC's objects have boxes, but no masks.
_BOXES = CocoOptions(segmentation="none", keypoints=False)


@dataclass(frozen=True, kw_only=True)
class VocOptions(FolderOptions):
    """Options of `export voc`."""

    coordinates: str = option(
        "zero",
        "Keep boxes unchanged, as CVAT and Datumaro read and write them (zero), or count whole pixels from 1, as the "
        "VOC dataset does (one).",
        choices=("zero", "one"),
        heading="Pascal VOC",
        first=True,
    )
    subset: str = option("train", "Name the image list in ImageSets/Main.", metavar="NAME", first=True)
    labels: str = listing_option("Write into labelmap.txt the classes")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.subset.replace("-", "").isalnum(),
            f"--subset must be a name of letters, digits and dashes, got {self.subset!r}",
        )


def export_voc(info: RunInfo, rows: Rows, to: str, options: VocOptions, storage: Storage) -> ExportReport:
    """Write annotations, the list of images and the label map into the folder `to`.

    Raises:
        ConfigError: An option names a class that the detector does not have.
        ExportError: `categories` lacks classes of detections, the format cannot contain a label, an image's name leads
            out of the folder, or a file cannot be written.
    """
    list_url = join(to, f"ImageSets/Main/{options.subset}.txt")
    written = {"to": to, LABELS_NAME: join(to, LABELS_NAME), "the list": list_url}
    written[CONFLICTS_NAME] = join(to, CONFLICTS_NAME)
    require_distinct_files(options, written, read=("categories", "images", "links"), run=info.output)
    whole: Part[ImageFile] = Part(names=KnownNames(options.selection, info.classes, info.kept))
    tally = whole.tally
    categories, labels, colors = closed_categories(info, rows, options, storage, options.labels)
    _require_safe(labels.values())
    rows = rows.without("masks", "keypoints", *UNUSED).in_frame(options.frame)
    file_format = _Annotations(info, labels, options.coordinates == "one")
    work = FilesOf(file_format, categories, options.selection, _BOXES, to, storage, options.image_files)
    conflicts = NameConflicts()
    try:
        with storage.publishing(list_url) as stream, closing(make_files(rows, work, whole, conflicts)) as files:
            for file in files:
                stream.write(f"{file.stem}\n".encode())
        conflict_files = conflicts.publish(to, storage)
        storage.publish(join(to, LABELS_NAME), _label_map(colors).encode())
    except OSError as error:
        raise ExportError(f"cannot write to {redact(to)}: {describe(error)}") from error
    tally.files = [join(to, "Annotations/"), list_url, *conflict_files, join(to, LABELS_NAME)]
    tally.warnings += [*whole.names.warnings, *conflicts.notes, *categories.notes, *tally.frame_notes(options.frame)]
    if info.keypoints is not None:
        tally.warnings.append("keypoints are left out: Pascal VOC has no form for them")
    if not tally.detections:
        tally.warnings.append("no detection was kept")
    return tally.report()


def _require_safe(labels: Iterable[str]) -> None:
    for label in labels:
        unsafe = not fits_xml(label) or label != label.strip() or not label or label.startswith("#")
        if unsafe or ":" in label or len(label.splitlines()) > 1:
            raise ExportError(
                f"{label!r} cannot be a class in {LABELS_NAME} (empty, blanks at its ends, a colon, a # in front or "
                "control characters): rename it with --class-map"
            )


@dataclass(frozen=True, slots=True)
class _Annotations:
    """The XML of an image."""

    info: RunInfo
    labels: Mapping[int, str]
    from_one: bool

    def unfit(self, file_name: str) -> str:
        if not fits_xml(file_name):
            return "images whose names cannot be written in XML"
        # Readers remove blanks around a line, and some treat a line that begins with # as a comment.
        stem = stem_of(file_name)
        return UNLISTED if stem != stem.strip() or stem.startswith("#") else ""

    def content(self, file_name: str, size: tuple[int, int], detections: Sequence[Instance]) -> bytes:
        objects = [_object(detection, self.labels, self.from_one) for detection in detections]
        return _annotation(self.info, file_name, size, objects).encode()

    def paths(self, file_name: str, image_id: str) -> tuple[str, str]:
        return f"Annotations/{stem_of(file_name)}.xml", f"JPEGImages/{file_name}"


def _annotation(info: RunInfo, file_name: str, size: tuple[int, int], objects: Iterable[str]) -> str:
    height, width = size
    lines = [HEAD + "<annotation>", "  <folder>JPEGImages</folder>", "  " + tag("filename", text=file_name)]
    source = (
        tag("database", text="prelabel") + tag("annotation", text=info.model_version) + tag("image", text="Unknown")
    )
    # The depth is constant: detectors always get images with three channels.
    shape = tag("width", text=str(width)) + tag("height", text=str(height)) + tag("depth", text="3")
    lines += [f"  <source>{source}</source>", f"  <size>{shape}</size>", "  <segmented>0</segmented>"]
    return "\n".join([*lines, *objects, "</annotation>\n"])


def _object(detection: Instance, labels: Mapping[int, str], from_one: bool) -> str:
    x, y, w, h = detection.bbox
    corners: tuple[float, ...] = (x, y, round(x + w, 2), round(y + h, 2))
    if from_one:
        # The first pixel has the number 1, and the pixels xmax and ymax belong to the box.
        corners = (math.floor(x) + 1, math.floor(y) + 1, math.ceil(corners[2]), math.ceil(corners[3]))
    box = "".join(
        tag(key, text=f"{value:.2f}".rstrip("0").rstrip("."))
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    score = tag("name", text="score") + tag("value", text=str(detection.score))
    lines = [
        "  <object>",
        "    " + tag("name", text=labels[detection.category_id]),
        "    <pose>Unspecified</pose>",
        "    <truncated>0</truncated>",
        "    <difficult>0</difficult>",
        "    <occluded>0</occluded>",
        f"    <bndbox>{box}</bndbox>",
        f"    <attributes><attribute>{score}</attribute></attributes>",
        "  </object>",
    ]
    return "\n".join(lines)


def _label_map(colors: Mapping[str, str]) -> str:
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    for label, color in colors.items():
        if label != "background":
            lines.append(f"{label}:{','.join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))}::")
    return "\n".join(lines) + "\n"
