"""The files that Ultralytics' YOLO trains from: a text file for each image, lists of images, and `data.yaml`.

One image of 4 x 6 pixels (height x width) with a dog on its left half becomes

    labels/train/a.txt     0 0.25 0.5 0.5 1                    a box: class, middle x y, width, height
                           0 0 0 0.5 0 0.5 1 0 1               or a segment: class, corners x y
    train.txt              ./images/train/a.jpg
    data.yaml              train: train.txt, val: val.txt, names: {0: "Dog"}

Everything is a share of the image's width and height, as displayed. An image on which nothing was found has an empty
file. A segment is one outline: the parts of a mask are joined by bridges without width. In a file with a segment all
lines are segments, since readers take a box among segments for a segment of two corners.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from prelabel.errors import ExportError
from prelabel.export.class_list import closed_categories
from prelabel.export.folder_files import UNLISTED, UNUSED, FilesOf, each_file
from prelabel.export.image_folder import folder_writer
from prelabel.export.instances import Instance
from prelabel.export.known_names import KnownNames
from prelabel.export.option_rules import require_distinct_files
from prelabel.export.parts import in_frame, without
from prelabel.export.reading import ExportReport, Rows, RunInfo, Tally
from prelabel.export.yolo_options import YoloOptions
from prelabel.storage import Storage, describe, join, redact

DATA_NAME = "data.yaml"

#: Decimals of a share: a hundredth of a pixel on an image of 10,000.
DECIMALS = 6


def export_yolo(info: RunInfo, rows: Rows, to: str, options: YoloOptions, storage: Storage) -> ExportReport:
    """Write labels, lists and `data.yaml` into the folder `to`; the rows are read twice, first for the classes.

    Raises:
        ConfigError: An option names a class that the detector does not have.
        ExportError: Detections of classes that `categories` does not have, an image whose name leads out of the folder,
            masks that do not fit their image, or a file that cannot be written. `data.yaml` is written last.
    """
    written = {name: join(to, name) for name in ("train.txt", "val.txt", DATA_NAME)}
    require_distinct_files(options, {"to": to, **written}, read=("categories", "links"), run=info.output)
    names = KnownNames(info, options)
    tally = Tally()
    categories, listed = closed_categories(info, rows, options, storage, options.labels)
    numbers = {category: number for number, category in enumerate(listed)}
    rows = in_frame(without(rows, *UNUSED), options.frame)
    if options.segmentation == "none":
        rows = without(rows, "masks")
    work = FilesOf(_Labels(numbers, options.scores), categories, options, options, names)
    subsets = ("train", "val") if options.val_share else ("train",)
    lists = {subset: join(to, f"{subset}.txt") for subset in subsets}
    try:
        with ExitStack() as stack:
            streams = {subset: stack.enter_context(storage.publishing(url)) for subset, url in lists.items()}
            writer = stack.enter_context(folder_writer(to, storage))
            for one in each_file(rows, work, tally):
                subset = _subset(one.row.image_id, options.val_share)
                image = f"images/{subset}/{one.row.file_name}"
                writer.add(label_path(image), one.content)
                writer.add_image(image, one.row, options.images)
                streams[subset].write(f"./{image}\n".encode("utf-8", "surrogateescape"))
        storage.publish(join(to, DATA_NAME), _data(info, listed, subsets).encode())
    except OSError as error:
        raise ExportError(f"cannot write to {redact(to)}: {describe(error)}") from error
    tally.files = [join(to, "labels/"), *lists.values(), join(to, DATA_NAME)]
    tally.warnings += [*names.warnings, *categories.notes, *tally.frame_notes(options.frame)]
    if options.images == "none" and tally.images:
        places = " and ".join(f"images/{subset}/" for subset in subsets)
        tally.warnings.append(f"the images are looked for in {places} beside labels/: put them there, or say images")
    if info.classes is None and not options.categories:
        tally.warnings.append(
            "class numbers count the classes that this run saw, since its detector comes without a list of them: "
            "another run's can differ. For the same numbers each time give --categories a label map or COCO dataset"
        )
    if not tally.detections:
        tally.warnings.append("no detection was kept")
    return tally.report()


@dataclass(frozen=True, slots=True)
class _Labels:
    """The text file of an image; classes have other numbers here than categories."""

    numbers: Mapping[int, int]
    scores: bool

    def unfit(self, file_name: str) -> str:
        # Ultralytics puts the folder of the list in place of every "./" in it, not of the first alone.
        folders = file_name.split("/")[:-1]
        return UNLISTED if any(one.endswith(".") and one not in (".", "..") for one in folders) else ""

    def content(self, file_name: str, size: tuple[int, int], every: Sequence[Instance]) -> bytes:
        lines = _lines(every, self.numbers, size, self.scores)
        return "".join(line + "\n" for line in lines).encode()


def label_path(image: str) -> str:
    """Where the labels of an image are looked for: with the last `images` in its path replaced, and another ending."""
    folders, _, name = image.rpartition("/")
    before, _, after = f"/{folders}/".rpartition("/images/")
    return f"{before}/labels/{after}{name.rpartition('.')[0] or name}.txt".lstrip("/")


def _subset(image_id: str, val_share: float) -> str:
    digest = hashlib.blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return "val" if int.from_bytes(digest, "big") < val_share * 2**64 else "train"


def _lines(every: Sequence[Instance], numbers: Mapping[int, int], size: tuple[int, int], scores: bool) -> Iterator[str]:
    height, width = size
    segments = any(one.shape.rle is not None for one in every)
    for one in every:
        x, y, w, h = one.shape.bbox
        if not segments:
            values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
        else:
            (outline,) = one.shape.segmentation or [[x, y, x + w, y, x + w, y + h, x, y + h]]
            values = (np.reshape(outline, (-1, 2)) / (width, height)).ravel().tolist()
        shares = [f"{min(max(value, 0.0), 1.0):.{DECIMALS}f}".rstrip("0").rstrip(".") for value in values]
        yield " ".join([str(numbers[one.category_id]), *shares, *([str(one.score)] if scores else [])])


def _data(info: RunInfo, names: Mapping[int, str], subsets: Sequence[str]) -> str:
    lines = [f"# Pre-annotations made by {_escaped(info.model_version)}"]
    if len(subsets) == 1:
        lines.append("# No images were set apart for validation: val names the same list.")
    lines += ["train: train.txt", f"val: {subsets[-1]}.txt", f"nc: {len(names)}", "names:" + ("" if names else " {}")]
    lines += [f'  {number}: "{_escaped(name)}"' for number, name in zip(itertools.count(), names.values())]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """As YAML has it between double quotes."""
    return "".join(f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
