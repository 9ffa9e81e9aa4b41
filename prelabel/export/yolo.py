"""Write the files from which Ultralytics' YOLO trains: a text file per image, lists of images, and `data.yaml`.

One image of 4 x 6 pixels (height x width) with a dog on its left half becomes

    labels/train/a.txt     0 0.25 0.5 0.5 1                    a box: class, middle x y, width, height
                           0 0 0 0.5 0 0.5 1 0 1               or a segment: class, corners x y
    train.txt              ./images/train/a.jpg
    data.yaml              train: train.txt, val: val.txt, names: {0: "Dog"}

All coordinates are shares of the image's width and height. An image without detections has an empty file. A segment is
a single polygon: the parts of a mask are joined by bridges without width. If a file has a segment, all its lines are
segments, since readers treat a box among segments as a segment with two corners.

If the detector has keypoints, each line has a box and after it x, y, v of each keypoint: v is 2, or 0 0 0 stands for a
point that is not shown. A line cannot have a segment, too. `data.yaml` names the keypoints, and says with `flip_idx`
which trade places in a mirror image.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np

from prelabel.errors import ExportError
from prelabel.export.annotations import Instance
from prelabel.export.base import ExportReport, Rows, RunInfo, require_distinct_files
from prelabel.export.categories import closed_categories
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
from prelabel.export.keypoints import unread_keypoints, written_keypoints
from prelabel.export.options import KeypointOptions, listing_option
from prelabel.export.parallel import Part
from prelabel.export.run_selection import KnownNames
from prelabel.export.text import escaped_yaml
from prelabel.keypoints import KeypointSet
from prelabel.masks.polygons import PolygonRules
from prelabel.options import option, require
from prelabel.storage.address import describe, join, redact
from prelabel.storage.files import Storage

DATA_NAME = "data.yaml"

#: Decimals of a share: a hundredth of a pixel in an image of 10,000 pixels.
DECIMALS = 6


@dataclass(frozen=True, kw_only=True)
class YoloOptions(KeypointOptions, FolderOptions):
    """Options of `export yolo`."""

    segmentation: str = option(
        "polygon",
        "Write masks as segments, unless there are keypoints; none writes only boxes.",
        choices=("polygon", "none"),
        heading="YOLO",
        first=True,
    )
    polygon_tolerance: float = option(
        1.0, "Let segments deviate from the mask's contour by up to this.", metavar="PIXELS", min=0
    )
    labels: str = listing_option("Number the classes", "all", every="of the detector or of --categories")
    val_share: float = option(
        0.0,
        "Put this share of the images into the validation set, the same images each time.",
        metavar="SHARE",
        first=True,
        min=0,
        below=1,
    )
    scores: bool = option(
        False, "Add the score at the end of each line, as in YOLO's own predictions; only with --segmentation none."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not (self.scores and self.segmentation != "none"),
            "--scores cannot be added to segments: add --segmentation none",
        )

    @property
    def polygon_rules(self) -> PolygonRules:
        """How masks become segments: one per mask, and no part of the mask is dropped."""
        return PolygonRules(self.polygon_tolerance, parts="bridge")


def export_yolo(info: RunInfo, rows: Rows, to: str, options: YoloOptions, storage: Storage) -> ExportReport:
    """Write labels, lists and `data.yaml` into the folder `to`.

    Raises:
        ConfigError: An option names a class that the detector does not have.
        ExportError: `categories` lacks classes of detections, an image's name leads out of the folder, a mask does not
            fit its image, or a file cannot be written. `data.yaml` is written last.
    """
    written = {name: join(to, name) for name in ("train.txt", "val.txt", DATA_NAME, CONFLICTS_NAME)}
    require_distinct_files(options, {"to": to, **written}, read=("categories", "images", "links"), run=info.output)
    whole: Part[ImageFile] = Part(names=KnownNames(options.selection, info.classes, info.kept))
    tally = whole.tally
    categories, names, _ = closed_categories(info, rows, options, storage, options.labels)
    numbers = {category: number for number, category in enumerate(names)}
    keypoints = written_keypoints(info, options)
    rows = rows.without(*UNUSED, *unread_keypoints(info, options)).in_frame(options.frame)
    if options.segmentation == "none" or keypoints is not None:
        rows = rows.without("masks")
    labels = _Labels(numbers, options.scores, options.val_share, pose=keypoints is not None)
    work = FilesOf(
        labels,
        categories,
        options.selection,
        options,
        to,
        storage,
        options.image_files,
        keypoints,
    )
    conflicts = NameConflicts()
    subsets = ("train", "val") if options.val_share else ("train",)
    lists = {subset: join(to, f"{subset}.txt") for subset in subsets}
    try:
        with ExitStack() as stack:
            streams = {subset: stack.enter_context(storage.publishing(url)) for subset, url in lists.items()}
            for file in stack.enter_context(closing(make_files(rows, work, whole, conflicts))):
                subset = _subset(file.image.image_id, options.val_share)
                path = labels.paths(file.name, file.image.image_id)[1]
                streams[subset].write(f"./{path}\n".encode("utf-8", "surrogateescape"))
        conflict_files = conflicts.publish(to, storage)
        storage.publish(join(to, DATA_NAME), _data(info, names, subsets, keypoints).encode())
    except OSError as error:
        raise ExportError(f"cannot write to {redact(to)}: {describe(error)}") from error
    tally.files = [join(to, "labels/"), *lists.values(), *conflict_files, join(to, DATA_NAME)]
    tally.warnings += [*whole.names.warnings, *conflicts.notes, *categories.notes, *tally.frame_notes(options.frame)]
    if options.image_files == "none" and tally.images:
        places = " and ".join(f"images/{subset}/" for subset in subsets)
        tally.warnings.append(
            f"YOLO looks for the images in {places} beside labels/: put them there, or use --image-files"
        )
    if info.classes is None and not options.categories:
        tally.warnings.append(
            "the detector has no list of classes, so class numbers count the classes that occur in this run, and other "
            "runs may have other numbers. For fixed numbers give a label map or COCO dataset with --categories"
        )
    if keypoints is not None and info.masks and options.segmentation != "none":
        tally.warnings.append("masks are left out, since a line cannot have keypoints and a segment: --no-keypoints")
    if keypoints is not None and keypoints.mirrored_order is None:
        tally.warnings.append(
            "which keypoints are left and right is unknown: data.yaml has no flip_idx, and YOLO does not mirror images"
        )
    if not tally.detections:
        tally.warnings.append("no detection was kept")
    return tally.report()


@dataclass(frozen=True, slots=True)
class _Labels:
    """The text file of an image; YOLO's class numbers are consecutive, unlike category ids."""

    numbers: Mapping[int, int]
    scores: bool
    val_share: float
    pose: bool = False

    def unfit(self, file_name: str) -> str:
        # Ultralytics replaces every "./" in a line by the folder of the list, not only the first one.
        folders = file_name.split("/")[:-1]
        return UNLISTED if any(folder.endswith(".") and folder not in (".", "..") for folder in folders) else ""

    def content(self, file_name: str, size: tuple[int, int], detections: Sequence[Instance]) -> bytes:
        return "".join(line + "\n" for line in self._lines(size, detections)).encode()

    def paths(self, file_name: str, image_id: str) -> tuple[str, str]:
        path = f"images/{_subset(image_id, self.val_share)}/{file_name}"
        return label_path(path), path

    def _lines(self, size: tuple[int, int], detections: Sequence[Instance]) -> Iterator[str]:
        height, width = size
        segments = not self.pose and any(detection.mask is not None for detection in detections)
        for detection in detections:
            x, y, w, h = detection.bbox
            if not segments:
                values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
            else:
                (corners,) = detection.polygons or [[x, y, x + w, y, x + w, y + h, x, y + h]]
                values = (np.reshape(corners, (-1, 2)) / (width, height)).ravel().tolist()
            shares = [_share(value) for value in values]
            for point in detection.keypoints:
                shares += [_share(point.x / width), _share(point.y / height), "2"] if point.shown else ["0", "0", "0"]
            score = [str(detection.score)] if self.scores else []
            yield " ".join([str(self.numbers[detection.category_id]), *shares, *score])


def label_path(image: str) -> str:
    """The path where YOLO looks for an image's labels: with the last `images` replaced, and the extension .txt."""
    folders, _, name = image.rpartition("/")
    before, _, after = f"/{folders}/".rpartition("/images/")
    return f"{before}/labels/{after}{name.rpartition('.')[0] or name}.txt".lstrip("/")


def _subset(image_id: str, val_share: float) -> str:
    digest = hashlib.blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return "val" if int.from_bytes(digest, "big") < val_share * 2**64 else "train"


def _share(value: float) -> str:
    return f"{min(max(value, 0.0), 1.0):.{DECIMALS}f}".rstrip("0").rstrip(".")


def _data(info: RunInfo, names: Mapping[int, str], subsets: Sequence[str], keypoints: KeypointSet | None) -> str:
    lines = [f"# Pre-annotations made by {escaped_yaml(info.model_version)}"]
    if len(subsets) == 1:
        lines.append("# No images were set apart for validation: val names the same list.")
    lines += ["train: train.txt", f"val: {subsets[-1]}.txt", f"nc: {len(names)}", "names:" + ("" if names else " {}")]
    lines += [f'  {number}: "{escaped_yaml(name)}"' for number, name in zip(itertools.count(), names.values())]
    if keypoints is not None:
        order, points = keypoints.mirrored_order, ", ".join(f'"{escaped_yaml(name)}"' for name in keypoints.names)
        lines.append(f"kpt_shape: [{len(keypoints)}, 3]")
        lines += [] if order is None else [f"flip_idx: {order}"]
        lines += ["kpt_names:" + ("" if names else " {}"), *(f"  {number}: [{points}]" for number in range(len(names)))]
    return "\n".join(lines) + "\n"
