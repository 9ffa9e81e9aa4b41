"""What every exporter takes and gives: rows of finished shards, a few facts about their run, and a closing report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson

from prelabel.detections import FloatArray
from prelabel.export.kept import kept_selection
from prelabel.frames import BROWSER, DISPLAY, STORED
from prelabel.select import Selection
from prelabel.store.rows import ImageRow
from prelabel.store.run import ClassName, Run

#: Regions of one task from which on they are more of a burden than a help: slow to draw, and most of them wrong.
MANY_REGIONS = 30

_PICTURES = {DISPLAY: "upright pictures", STORED: "pixels as stored"}

#: Begins reading the rows of a run, in plan order, each time it is called: some exports need two passes.
Rows = Callable[[], Iterator[ImageRow]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What an export says about where its content came from.

    Attributes:
        detector: Catalogue name, or the name of its folder or archive.
        model_version: What annotation tools show: the name and the start of the fingerprint.
        classes: The detector's label map as the rows name it, or None where the network itself names its classes.
        masks: Whether the detector gives masks.
        created: When the run was begun, ISO 8601.
        run_id: Tells runs apart.
        fingerprint: SHA-256 over the model's files, hex.
        version: The version of this package that made the run.
        kept: The rules by which the run chose what it has, or None where they are not known.
        output: Where the run is, or `""`.
        task_numbers: Whether the images came from an annotation project, so that their ids begin with task numbers.
    """

    detector: str
    model_version: str
    classes: tuple[ClassName, ...] | None = None
    masks: bool = False
    created: str = ""
    run_id: str = ""
    fingerprint: str = ""
    version: str = ""
    kept: Selection | None = None
    output: str = ""
    task_numbers: bool = False

    @classmethod
    def of(cls, run: Run) -> RunInfo:
        """The facts of an opened run; its classes under the labels that the run's own class map gave them."""
        record = run.record
        classes = record.detector.classes
        kept = kept_selection(record.settings, classes)
        sources = record.source.get("sources") or []
        return cls(
            detector=record.detector.name,
            model_version=record.detector.model_version,
            classes=None
            if classes is None
            else tuple(replace(one, name=str(kept.rename([one.name], [one.mid])[0])) for one in classes),
            masks=record.detector.masks,
            created=record.created,
            run_id=record.run_id,
            fingerprint=record.detector.fingerprint,
            version=str(record.versions.get("prelabel", "")),
            kept=kept,
            output=run.output,
            task_numbers=bool(sources) and all(one.get("kind") == "label-studio" for one in sources),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export wrote and what it left out.

    Attributes:
        files: Addresses of the files written, in order.
        images: Images written.
        failed: Images of the run that have no detections because they failed.
        detections: Detections (or labels of a whole image) written; a mask of several parts is one.
        left_out: How much was left out, by reason.
        warnings: What the user should know, one line each.
        regions: What people get for them, where a detection may become several; else 0.
    """

    files: tuple[str, ...]
    images: int
    failed: int
    detections: int
    left_out: Mapping[str, int]
    warnings: tuple[str, ...]
    regions: int = 0


@dataclass(slots=True)
class Tally:
    """Counts kept while an export is written."""

    files: list[str] = field(default_factory=list)
    images: int = 0
    failed: int = 0
    detections: int = 0
    regions: int = 0
    crowded: int = 0
    most_regions: int = 0
    turned: int = 0
    unlike_browsers: int = 0
    unlike_browsers_example: str = ""
    unrecorded: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    def add_image(self, row: ImageRow) -> None:
        """Count an image that is written, and whether its frames (see `prelabel.frames`) differ."""
        self.images += 1
        if row.browser_orientation is None and row.exif_orientation not in (None, 1):
            # Browsers turn nearly every JPEG that is turned at all; of others nobody knows.
            self.unrecorded += not row.file_name.lower().endswith((".jpg", ".jpeg"))
        self.turned += row.way_to(STORED) != 1
        if row.way_to(BROWSER) != 1:
            self.unlike_browsers += 1
            self.unlike_browsers_example = self.unlike_browsers_example or row.file_name

    def add_regions(self, number: int) -> None:
        """Count the regions of one image."""
        self.regions += number
        self.crowded += number > MANY_REGIONS
        self.most_regions = max(self.most_regions, number)

    def add(self, other: Tally) -> None:
        """Count what another one has counted."""
        self.files += other.files
        self.images += other.images
        self.failed += other.failed
        self.detections += other.detections
        self.regions += other.regions
        self.crowded += other.crowded
        self.most_regions = max(self.most_regions, other.most_regions)
        self.unrecorded += other.unrecorded
        self.turned += other.turned
        self.unlike_browsers += other.unlike_browsers
        self.unlike_browsers_example = self.unlike_browsers_example or other.unlike_browsers_example
        self.left_out.update(other.left_out)
        self.warnings += other.warnings

    def frame_notes(self, frame: str, *, choosable: bool = True) -> list[str]:
        """A line where the frame that is written is not the only one in which tools may show or read the images.

        Args:
            frame: What is written.
            choosable: Whether the user chose it, from `prelabel.frames.FRAMES`.
        """
        notes = []
        if choosable and self.turned:
            where = {
                DISPLAY: "boxes lie on the upright pictures; for tools that read the pixels as stored say frame stored",
                STORED: "boxes lie on the pixels as stored; for tools that apply the orientation say frame display",
                BROWSER: "boxes lie on what browsers show; for tools that read the pixels as stored say frame stored",
            }[frame]
            notes.append(f"{self.turned:,} of {self.images:,} images are stored in another orientation: {where}")
        if self.unlike_browsers:
            where = "boxes lie on what browsers show" if frame == BROWSER else f"boxes lie on the {_PICTURES[frame]}"
            other = "; for tools that show the files in a browser say frame browser"
            notes.append(
                f"browsers show {self.unlike_browsers:,} of {self.images:,} images in another orientation than the "
                f"detector saw (e.g. {self.unlike_browsers_example!r}): {where}"
                + (other if choosable and frame != BROWSER else "")
            )
        if self.unrecorded and frame == BROWSER:
            notes.append(
                f"the run does not say how browsers show {self.unrecorded:,} of {self.images:,} images, which are "
                "turned by their files and are no JPEGs: taken for upright; a run made now knows"
            )
        return notes

    def crowded_note(self, tasks: str) -> list[str]:
        """A line where images (`tasks`: what they are called) have more regions than people can work with."""
        if not self.crowded:
            return []
        return [
            f"{self.crowded:,} of {self.images:,} {tasks} have more than {MANY_REGIONS} regions, up to "
            f"{self.most_regions:,}: raise score-threshold, or limit them with nms-iou or max-detections"
        ]

    def report(self) -> ExportReport:
        """The counts as the export's result."""
        return ExportReport(
            files=tuple(self.files),
            images=self.images,
            failed=self.failed,
            detections=self.detections,
            left_out=dict(sorted(self.left_out.items())),
            warnings=tuple(self.warnings),
            regions=self.regions,
        )


def strict_json(value: Any) -> bytes:
    """Compact JSON that every reader takes: ASCII, no NaN. Raises ValueError for a number JSON does not have."""
    try:
        data: bytes = orjson.dumps(value)
    except TypeError:  # of what it does not write, some can be written all the same: half a surrogate pair in a name
        return _STRICT.encode(value).encode("ascii")
    # It writes other letters as they are, and null for a NaN.
    if data.isascii() and b"null" not in data:
        return data
    return _STRICT.encode(value).encode("ascii")


_STRICT = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def shortest(values: FloatArray) -> list[float]:
    """float32 numbers with as few digits as tell them apart: 0.9 and not 0.8999999761581421.

    Raises:
        ValueError: One of them is no finite number.
    """
    if not np.isfinite(values).all():
        raise ValueError("a number is not finite")
    text = orjson.dumps(np.ascontiguousarray(values, np.float32), option=orjson.OPT_SERIALIZE_NUMPY)
    numbers: list[float] = orjson.loads(text)
    return numbers
