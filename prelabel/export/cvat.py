"""Write CVAT's XML ("CVAT for images 1.1") from finished shards: annotations to upload to a task.

One image of 4 x 6 pixels (height x width) with a dog on its left half becomes

    <image id="0" name="a.jpg" width="6" height="4">
      <mask label="Dog" source="auto" occluded="0" rle="0, 12" left="0" top="0" width="3" height="4" z_order="0">
        <attribute name="score">0.9</attribute>
      </mask>
    </image>

A box is `<box xtl ytl xbr ybr>`. A mask written as a polygon is one `<polygon>`, or with `split` one per part, all in
one group; groups are numbered within the image, as CVAT's own imports do. CVAT keeps the attribute `score` only if the
task's label has it: `--labels-file` writes labels that do.

Keypoints are a skeleton in a group with the box, mask or polygons of their detection. A label of CVAT is either for
skeletons or for other shapes, so the skeletons of the class Dog have the label `Dog skeleton`:

      <skeleton label="Dog skeleton" source="auto" z_order="0" group_id="1">
        <points label="nose" source="auto" occluded="0" outside="0" points="1.00,2.00"></points>
        <attribute name="score">0.9</attribute>
      </skeleton>

A skeleton has all points of its label. Points that are not shown are `outside`, where the detector expects them inside
the image, or else in the middle of the box: annotators switch them on and move them. CVAT finds the task's image by
`name`, or else by `id`, its number in the task. Here, `id` is the position in the plan.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prelabel.errors import ExportError
from prelabel.export.annotations import Instance, Instances
from prelabel.export.base import ExportReport, Rows, RunInfo, Tally, require_distinct_files
from prelabel.export.categories import Categories, ClassListOptions, closed_categories
from prelabel.export.keypoints import ids_with_keypoints, unread_keypoints, written_keypoints
from prelabel.export.options import KeypointOptions, extracted_option, listing_option
from prelabel.export.parallel import UNUSED, Part, make_items
from prelabel.export.run_selection import KnownNames
from prelabel.export.text import HEAD, fits_xml, start_tag, strict_json, tag
from prelabel.frames import DISPLAY
from prelabel.keypoints import KeypointSet
from prelabel.masks import rle
from prelabel.masks.polygons import FRAGMENT_SHARE, MASK_PARTS, PolygonRules
from prelabel.masks.sides import transposed_edges
from prelabel.options import option, require
from prelabel.storage.address import absolute, describe, redact
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.rows import ImageFacts

#: The name of the XML in a ZIP.
XML_NAME = "annotations.xml"

#: Where a new skeleton of COCO's person has its points, in percent of its box; it faces the viewer.
_PERSON = (
    *((50, 8), (53, 5), (47, 5), (57, 8), (43, 8), (62, 24), (38, 24), (68, 40), (32, 40)),
    *((70, 55), (30, 55), (58, 55), (42, 55), (58, 76), (42, 76), (58, 96), (42, 96)),
)

_SCORE = {"name": "score", "mutable": False, "input_type": "text", "default_value": "", "values": [""]}


@dataclass(frozen=True, kw_only=True)
class CvatOptions(KeypointOptions, ClassListOptions):
    """Options of `export cvat`."""

    segmentation: str = option(
        "rle",
        "Write masks as CVAT's masks (rle) or as polygons; none writes only boxes.",
        choices=("rle", "polygon", "none"),
        heading="CVAT",
        first=True,
    )
    polygon_tolerance: float = option(
        1.0, "Let polygons deviate from the mask's contour by up to this.", metavar="PIXELS", min=0
    )
    mask_parts: str = option(
        "bridge",
        "Join the parts of a mask into one polygon by lines without width (bridge), make a group of polygons (split) "
        "or keep only the largest part. Parts under 1 % of their object are dropped.",
        choices=MASK_PARTS,
    )
    zip: bool = option(
        False,
        "Write the XML into a ZIP file, as CVAT itself exports it (the default if --to ends in .zip).",
        first=True,
    )
    labels: str = listing_option("List the labels")
    labels_file: str = option(
        "", "Also write the labels as JSON, for the Raw tab of CVAT's label constructor.", metavar="PATH", first=True
    )
    extracted: str = extracted_option("Name")

    @property
    def polygon_rules(self) -> PolygonRules:
        """How masks become polygons for annotators."""
        return PolygonRules(self.polygon_tolerance, min_share=FRAGMENT_SHARE, parts=self.mask_parts)


def export_cvat(info: RunInfo, rows: Rows, to: str, options: CvatOptions, storage: Storage) -> ExportReport:
    """Write the XML file or the ZIP at `to`; the rows are read twice, first for the labels.

    Raises:
        ConfigError: An option names a class that the detector does not have, or the name of a ZIP file ends in .xml.
        ExportError: `categories` lacks classes of detections, XML cannot contain a label, a mask does not fit its
            image, or a file cannot be written. Nothing is published then.
    """
    written = {"to": to, "labels_file": options.labels_file}
    require_distinct_files(options, written, read=("categories", "images"), run=info.output)
    require(not options.zip or not to.lower().endswith(".xml"), f"with --zip, name a .zip file, got {redact(to)!r}")
    whole: Part[bytes] = Part(names=KnownNames(options.selection, info.classes, info.kept))
    tally = whole.tally
    categories, labels, colors = closed_categories(info, rows, options, storage, options.labels)
    for label in labels.values():
        if not fits_xml(label) or not label.strip():
            raise ExportError(f"{label!r} cannot be a label in CVAT: rename it with --class-map")
    keypoints = written_keypoints(info, options)
    having_keypoints = ids_with_keypoints(info, categories, options.selection)
    skeletons = {
        number: f"{label} skeleton"
        for number, label in labels.items()
        if keypoints is not None and (having_keypoints is None or number in having_keypoints)
    }
    _require_distinct_labels(labels, skeletons, keypoints)
    # A list of the labels, so that those of skeletons follow the others.
    entries = [_label_entry(label, color) for label, color in colors.items()]
    if keypoints is not None:
        entries += [_skeleton_entry(skeletons[n], colors[labels[n]], keypoints) for n in labels if n in skeletons]
    rows = rows.without(*UNUSED, *unread_keypoints(info, options))
    if options.segmentation == "none":
        rows = rows.without("masks")
    work = _ImagesOf(categories, labels, options, skeletons, keypoints)
    try:
        with _xml_file(storage, to, options.zip or to.lower().endswith(".zip")) as stream:
            stream.write(_head(info, entries).encode())
            for position, image in enumerate(make_items(rows, work, whole)):
                if image:
                    stream.write(b'  <image id="%d"%b' % (position, image))
            stream.write(b"</annotations>\n")
        tally.files.append(to)
        if options.labels_file:
            storage.publish(options.labels_file, strict_json(entries) + b"\n")
            tally.files.append(absolute(options.labels_file))
    except OSError as error:
        raise ExportError(f"cannot write {redact(to)}: {describe(error)}") from error
    tally.warnings += [*whole.names.warnings, *categories.notes, *tally.crowded_note("images")]
    tally.warnings += tally.frame_notes(DISPLAY, has_frame_option=False)
    if not tally.detections:
        tally.warnings.append("no detection was kept")
    return tally.report()


@contextlib.contextmanager
def _xml_file(storage: Storage, to: str, zipped: bool) -> Iterator[Any]:
    with storage.publishing(to) as stream:
        if not zipped:
            yield stream
            return
        # A fixed date, so that the same rows give the same bytes.
        entry = zipfile.ZipInfo(XML_NAME, (1980, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(stream, "w") as archive, archive.open(entry, "w", force_zip64=True) as file:
            yield file


def _require_distinct_labels(
    labels: Mapping[int, str], skeletons: Mapping[int, str], keypoints: KeypointSet | None
) -> None:
    """Raise ExportError if a skeleton would have the label of a class, or if XML cannot hold a keypoint's name."""
    for label in skeletons.values():
        if label in labels.values():
            raise ExportError(f"{label!r} is a class and the label of skeletons: rename the class with --class-map")
    for name in keypoints.names if skeletons and keypoints is not None else ():
        # CVAT looks for the names in the picture of the skeleton, without decoding it.
        if not fits_xml(name) or set(name) & set("\"'&<>"):
            raise ExportError(
                f"the keypoint {name!r} cannot be a label in CVAT: leave keypoints out with --no-keypoints"
            )


def _head(info: RunInfo, entries: Sequence[Mapping[str, Any]]) -> str:
    lines = [HEAD + "<annotations>", "  <version>1.1</version>", "  <meta>", "    <task>"]
    lines.append("      " + tag("name", text=f"Pre-annotations made by {info.model_version}"))
    lines += ["      <mode>annotation</mode>", "      " + tag("created", text=info.created), "      <labels>"]
    attribute = "".join(tag(key, text=str(value)) for key, value in {**_SCORE, "values": ""}.items())
    attributes = f"<attributes><attribute>{attribute}</attribute></attributes>"
    for entry in entries:
        parts = "".join(tag(key, text=entry[key]) for key in ("name", "color", "type"))
        svg = tag("svg", text=entry["svg"]) if "svg" in entry else ""
        lines.append(f"        <label>{parts}{attributes}{svg}</label>")
        for part in entry.get("sublabels", ()):
            parts = "".join(tag(key, text=part[key]) for key in ("name", "color", "type"))
            lines.append(f"        <label>{parts}<attributes></attributes>{tag('parent', text=entry['name'])}</label>")
    lines += ["      </labels>", "    </task>", "    " + tag("dumped", text=info.created), "  </meta>"]
    return "\n".join(lines) + "\n"


def _label_entry(label: str, color: str) -> dict[str, Any]:
    """A label for boxes, masks and polygons, as CVAT's label constructor takes it."""
    return {"name": label, "color": color, "type": "any", "attributes": [_SCORE]}


def _skeleton_entry(label: str, color: str, keypoints: KeypointSet) -> dict[str, Any]:
    """A label for skeletons. Its picture shows where a new skeleton has its points, in percent of its box."""
    positions = _PERSON if keypoints.is_coco_person else _around_a_circle(len(keypoints))
    picture = []
    for a, b in keypoints.edges:
        ends = {"x1": positions[a][0], "y1": positions[a][1], "x2": positions[b][0], "y2": positions[b][1]}
        nodes = {"data-type": "edge", "data-node-from": a + 1, "data-node-to": b + 1}
        picture.append(tag("line", {**ends, **nodes}))
    for number, (name, (x, y)) in enumerate(zip(keypoints.names, positions, strict=True), start=1):
        node = {"data-type": "element node", "data-element-id": number, "data-node-id": number, "data-label-name": name}
        picture.append(tag("circle", {"r": 1.5, "cx": x, "cy": y, **node}))
    sublabels = [{"name": name, "color": color, "type": "points", "attributes": []} for name in keypoints.names]
    entry = {"name": label, "color": color, "type": "skeleton", "attributes": [_SCORE]}
    return {**entry, "sublabels": sublabels, "svg": "".join(picture)}


def _around_a_circle(count: int) -> list[tuple[float, float]]:
    angles = [2 * math.pi * number / count for number in range(count)]
    return [(round(50 + 40 * math.sin(angle), 1), round(50 - 40 * math.cos(angle), 1)) for angle in angles]


@dataclass(frozen=True, slots=True)
class _ImagesOf:
    """Makes the XML element of each row, without the part up to its id; empty if the row is not written."""

    categories: Categories
    labels: Mapping[int, str]
    options: CvatOptions
    skeletons: Mapping[int, str]
    keypoints: KeypointSet | None

    def __call__(self, batches: Iterable[DetectionBatch], part: Part[bytes]) -> None:
        instances = Instances(self.categories, self.options.selection, self.options, part.tally, self.keypoints)
        for batch in batches:
            images = zip(batch.images, batch.failed, strict=True)
            fitting = [self._fits(image, failed, part.tally) for image, failed in images]
            written = batch.only_images(np.array(fitting))
            part.names.see(written.label, written.mid)
            for image, fits, detections in zip(batch.images, fitting, instances.of(written).by_image(), strict=True):
                part.items.append(self._image(image, detections, part.tally) if fits else b"")

    @staticmethod
    def _fits(image: ImageFacts, failed: bool, tally: Tally) -> bool:
        """Count an image, and return whether it is written."""
        fits = not failed and fits_xml(image.file_name)
        if failed:
            tally.failed += 1
        elif fits:
            tally.add_image(image)
        else:
            tally.drop("images whose names cannot be written in XML")
        return fits

    def _image(self, image: ImageFacts, detections: Iterable[Instance], tally: Tally) -> bytes:
        height, width = image.height or 0, image.width or 0
        start = start_tag("", {"name": image.file_name, "width": width, "height": height})
        groups = itertools.count(1)
        shapes = [shape for detection in detections for shape in self._shapes(detection, height, width, groups)]
        tally.add_regions(len(shapes))
        return "\n".join([start[1:], *shapes, "  </image>\n"]).encode()

    def _shapes(self, detection: Instance, height: int, width: int, groups: Iterator[int]) -> Iterator[str]:
        label = self.labels[detection.category_id]
        score = f"\n      {tag('attribute', {'name': 'score'}, str(detection.score))}\n    "
        skeleton = self.skeletons.get(detection.category_id)
        has_skeleton = skeleton is not None and any(point.shown for point in detection.keypoints)
        parts = len(detection.polygons) if self.options.segmentation == "polygon" and detection.mask is not None else 1
        group = {"group_id": next(groups)} if has_skeleton or parts > 1 else {}
        common, last = {"label": label, "source": "auto", "occluded": 0}, {"z_order": 0, **group}
        if detection.mask is None:
            x, y, w, h = detection.bbox
            corners = zip(("xtl", "ytl", "xbr", "ybr"), (x, y, x + w, y + h), strict=True)
            yield _element("box", {**common, **{key: f"{value:.2f}" for key, value in corners}, **last}, score)
        elif self.options.segmentation == "rle":
            yield _element("mask", {**common, **cvat_mask(detection.mask, height, width), **last}, score)
        else:
            for part in detection.polygons:
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in zip(part[::2], part[1::2], strict=True))
                yield _element("polygon", {**common, "points": points, **last}, score)
        if has_skeleton:
            yield _element(
                "skeleton",
                {"label": skeleton, "source": "auto", **last},
                self._points(detection, height, width) + score,
            )

    def _points(self, detection: Instance, height: int, width: int) -> str:
        x, y, w, h = detection.bbox
        lines = []
        for name, point in zip(self.keypoints.names if self.keypoints else (), detection.keypoints, strict=True):
            place = (point.x, point.y) if point.score > 0 else (x + w / 2, y + h / 2)
            inside = [min(max(value, 0), side) for value, side in zip(place, (width, height), strict=True)]
            flags = {"occluded": 0, "outside": int(not point.shown)}
            points = {"points": f"{inside[0]:.2f},{inside[1]:.2f}"}
            lines.append("\n      " + tag("points", {"label": name, "source": "auto", **flags, **points}))
        return "".join(lines)


def _element(name: str, attributes: Mapping[str, object], content: str) -> str:
    return f"    {start_tag(name, attributes)}{content}</{name}>"


def cvat_mask(counts: str, height: int, width: int) -> dict[str, object]:
    """Convert a mask to CVAT's form: run lengths in its bounding box, row by row, beginning with zeros.

    Args:
        counts: COCO's compressed RLE counts of a mask that is not empty.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        The attributes of `<mask>`: `rle` (`"0, 12"`), `left`, `top`, `width`, `height`.

    Raises:
        StoreError: The counts do not fit this size.
        ExportError: The mask has too many runs.
    """
    left, top, w, h = rle.bbox_xywh(counts, height, width)
    starts, ends = rle.spans(counts, height, width)
    # Both ends of a run move by whole columns and rows; a run that continues in the next column spans the full height.
    if h != height:
        column, row = np.divmod(starts, height)
        starts, ends = (column - left) * h + row - top, (column - left) * h + row - top + (ends - starts)
    else:
        starts, ends = starts - left * height, ends - left * height
    edges = transposed_edges(starts, ends, h, w)
    runs = np.diff(np.concatenate(([0], edges, [h * w])))
    return {"rle": ", ".join(map(str, runs.tolist())), "left": left, "top": top, "width": w, "height": h}
