"""What all exporters share: their input, their counts and report, and checks of the files that they write.

An exporter reads `Rows` of finished shards and `RunInfo` about their run. It counts in a `Tally` and returns an
`ExportReport`. `require_distinct_files` refuses to overwrite a file that is read, or another file that is written.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from prelabel.detections import ClassName
from prelabel.export.run_selection import kept_selection
from prelabel.frames import BROWSER, DISPLAY, FRAMES, STORED
from prelabel.keypoints import KeypointSet
from prelabel.masks.polygons import PolygonRules
from prelabel.options import option, require, values_of
from prelabel.select import Selection
from prelabel.storage.address import Address, absolute, is_local, redact
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.rows import ImageFacts, ImageRow
from prelabel.store.run import Run
from prelabel.store.subset import ImageOrder

#: With more regions, a task is more of a burden than a help: slow to draw, and most regions are wrong.
MANY_REGIONS = 30

_FRAME_WORDS = {DISPLAY: "images as displayed", STORED: "pixels as stored", BROWSER: "images as browsers show them"}


class Rows(Protocol):
    """The rows of a run, or of some of its images, in plan order.

    Each call reads them again from the start, since some exports need two passes.

    Either `RunRows`, or `SpreadRows` if several processes may read them.
    """

    def __call__(self) -> Iterator[ImageRow]:
        """All rows, one at a time."""

    def __len__(self) -> int: ...

    def batches(self) -> Iterator[DetectionBatch]:
        """All rows in batches of a few hundred, with the detections as columns."""

    def classes(self) -> set[ClassName]:
        """The classes of all detections of the run; much faster than reading the detections."""

    @property
    def order(self) -> ImageOrder | None:
        """The order in which tools should show the images, or None for that of the plan."""

    def of_all_images(self) -> Rows:
        """The rows of all images of the run."""

    def without(self, *names: str) -> Rows:
        """The same rows without these columns, which are then not read."""

    def in_frame(self, frame: str) -> Rows:
        """The same rows with sizes, boxes and masks in another frame; see `prelabel.frames`."""

    def by_shard(self) -> Sequence[Rows]:
        """The rows of each shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """Facts about a run that exports use and record.

    Attributes:
        detector: Catalog name, or the name of its folder or archive.
        model_version: What annotation tools show: the name and the start of the fingerprint.
        classes: The detector's label map, with the names used in the rows, or None if the model names its classes.
        masks: Whether the detector outputs masks.
        keypoints: The keypoints of each detection, or None if the detector outputs none.
        created: When the run began, ISO 8601.
        run_id: Unique id of the run.
        fingerprint: SHA-256 over the model's files, hexadecimal.
        version: Version of prelabel that made the run.
        kept: The selection with which the run was made, or None if unknown.
        output: Path or URL of the run, or `""`.
        signed: Images that came from signed URLs; a run stores no signatures.
        task_numbers: Whether the images come from an annotation project, so that their ids begin with task numbers.
    """

    detector: str
    model_version: str
    classes: tuple[ClassName, ...] | None = None
    masks: bool = False
    keypoints: KeypointSet | None = None
    created: str = ""
    run_id: str = ""
    fingerprint: str = ""
    version: str = ""
    kept: Selection | None = None
    output: str = ""
    signed: int = 0
    task_numbers: bool = False

    @classmethod
    def of(cls, run: Run) -> RunInfo:
        """The facts of a finished run; classes are as the run's class map and roll-up name them."""
        record = run.record
        classes = record.detector.classes
        kept = kept_selection(record.settings, classes)
        sources = record.source.get("sources") or []
        return cls(
            detector=record.detector.name,
            model_version=record.detector.model_version,
            classes=None
            if classes is None
            else tuple(ClassName(known.id, *kept.class_of(known.name, known.mid)) for known in classes),
            masks=record.detector.masks,
            keypoints=record.detector.keypoints,
            created=record.created,
            run_id=record.run_id,
            fingerprint=record.detector.fingerprint,
            version=str(record.versions.get("prelabel", "")),
            kept=kept,
            output=run.output,
            signed=run.signed,
            task_numbers=bool(sources) and all(source.get("kind") == "label-studio" for source in sources),
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExportReport:
    """What an export wrote and what it dropped.

    Attributes:
        files: Paths or URLs of the files written, in order.
        images: Images written.
        failed: Images of the run that have no detections because they failed.
        detections: Detections (or labels of a whole image) written; a mask of several parts counts once.
        dropped: Counts of images and detections that were not written, by reason.
        warnings: What the user should know, one line each.
        regions: Regions written, in formats where one detection may become several; else 0.
        simplified: Parts of masks and keypoints that were not drawn, by reason; their detections are written.
    """

    files: tuple[str, ...]
    images: int
    failed: int
    detections: int
    dropped: Mapping[str, int]
    warnings: tuple[str, ...]
    regions: int = 0
    simplified: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The counts and the first file, in one line."""
        first = redact(self.files[0]) if self.files else ""
        more = f" and {len(self.files) - 1:,} more" if len(self.files) > 1 else ""
        counts = f"images={self.images}, failed={self.failed}, detections={self.detections}"
        dropped = f", dropped={sum(self.dropped.values())}" if self.dropped else ""
        warnings = f", warnings={len(self.warnings)}" if self.warnings else ""
        return f"ExportReport({counts}{dropped}{warnings}, files={first!r}{more})"


#: Attributes that are added, or concatenated, when two tallies are merged.
_SUMMED = (
    *("files", "images", "failed", "detections", "regions", "crowded"),
    *("rotated", "unlike_browsers", "unrecorded", "warnings"),
)


@dataclass(slots=True)
class Tally:
    """Counts kept while an export is written.

    Attributes besides those of `ExportReport`:
        crowded: Images with more than `MANY_REGIONS` regions.
        most_regions: The highest number of regions of an image.
        rotated: Images that are stored in a different orientation than they are displayed.
        unlike_browsers: Images that browsers show in a different orientation than the detector saw.
        unlike_browsers_example: File name of the first of these.
        unrecorded: Rotated images for which the run does not record how browsers show them.
    """

    files: list[str] = field(default_factory=list)
    images: int = 0
    failed: int = 0
    detections: int = 0
    regions: int = 0
    crowded: int = 0
    most_regions: int = 0
    rotated: int = 0
    unlike_browsers: int = 0
    unlike_browsers_example: str = ""
    unrecorded: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    simplified: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    def fresh(self) -> Tally:
        """A new tally without counts."""
        return Tally()

    def drop(self, reason: str, count: int = 1) -> None:
        """Count images or detections that are not written, for a reason."""
        self.dropped[reason] += count

    def simplify(self, rules: PolygonRules, parts: int) -> None:
        """Count parts of a mask that are not drawn, although its detection is written."""
        if parts:
            self.simplified[rules.undrawn_parts] += parts

    def add_image(self, image: ImageFacts) -> None:
        """Count an image that is written, and whether its frames differ (see `prelabel.frames`)."""
        self.images += 1
        if image.browser_orientation is None and image.exif_orientation not in (None, 1):
            # Browsers rotate nearly all JPEGs that have an orientation; for other formats it is unknown.
            self.unrecorded += not image.file_name.lower().endswith((".jpg", ".jpeg"))
        self.rotated += image.orientation_to(STORED) != 1
        if image.orientation_to(BROWSER) != 1:
            self.unlike_browsers += 1
            self.unlike_browsers_example = self.unlike_browsers_example or image.file_name

    def add_regions(self, number: int, keypoints: int = 0) -> None:
        """Count the regions of an image; its keypoints do not make it crowded."""
        self.regions += number + keypoints
        self.crowded += number > MANY_REGIONS
        self.most_regions = max(self.most_regions, number)

    def add(self, other: Tally) -> None:
        """Add the counts of another tally."""
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.most_regions = max(self.most_regions, other.most_regions)
        self.unlike_browsers_example = self.unlike_browsers_example or other.unlike_browsers_example
        self.dropped.update(other.dropped)
        self.simplified.update(other.simplified)

    def frame_notes(self, frame: str, *, has_frame_option: bool = True) -> list[str]:
        """Notes if tools may show or read the images in a different frame than the one that is written.

        Args:
            frame: The frame that is written, one of `prelabel.frames.FRAMES`.
            has_frame_option: Whether the format has the option `--frame`.
        """
        notes = []
        if has_frame_option and self.rotated:
            hint = (
                "use --frame display for tools that apply the orientation"
                if frame == STORED
                else "use --frame stored for tools that read the pixels as stored"
            )
            notes.append(
                f"{self.rotated:,} of {self.images:,} images are stored in a different orientation than they are "
                f"displayed: boxes match the {_FRAME_WORDS[frame]}; {hint}"
            )
        if self.unlike_browsers:
            hint = "; use --frame browser for tools that show the files in a browser"
            notes.append(
                f"browsers show {self.unlike_browsers:,} of {self.images:,} images in a different orientation than the "
                f"detector saw (e.g. {self.unlike_browsers_example!r}): boxes match the {_FRAME_WORDS[frame]}"
                + (hint if has_frame_option and frame != BROWSER else "")
            )
        if self.unrecorded and frame == BROWSER:
            notes.append(
                f"the run does not record how browsers show {self.unrecorded:,} of {self.images:,} images, which have "
                "an orientation and are not JPEGs: boxes match these as displayed. New runs record it"
            )
        return notes

    def crowded_note(self, tasks: str) -> list[str]:
        """A note if images have too many regions for annotators; `tasks` is what the note calls the images."""
        if not self.crowded:
            return []
        return [
            f"{self.crowded:,} of {self.images:,} {tasks} have more than {MANY_REGIONS} regions, up to "
            f"{self.most_regions:,}: raise --score-threshold, or limit them with --nms-iou 0.5 or "
            f"--max-detections {MANY_REGIONS}"
        ]

    def report(self) -> ExportReport:
        """The report with these counts."""
        counts = {name: getattr(self, name) for name in ("images", "failed", "detections", "regions")}
        return ExportReport(
            files=tuple(self.files),
            dropped=dict(sorted(self.dropped.items())),
            simplified=dict(self.simplified),
            warnings=tuple(self.warnings),
            **counts,
        )


def simplified_rows(simplified: Mapping[str, int]) -> list[tuple[str, str]]:
    """The rows of a summary about parts of masks and keypoints that are not drawn, as names and values."""
    return [
        ("simplified", f"{parts}: {count:,} not drawn; their detections are kept")
        for parts, count in simplified.items()
    ]


def frame_option() -> Any:
    """The option `--frame` of formats that many different tools read."""
    return option(
        DISPLAY,
        "Write boxes and masks for the displayed image, with its EXIF orientation applied (display), for the pixels as "
        "stored in the file (stored), or for the image as browsers show it (browser).",
        choices=FRAMES,
        heading="Frame",
    )


def links_option(*, heading: str = "", first: bool = False) -> Any:
    """The option `--links` of commands that read the images again."""
    return option(
        (),
        "Fetch images by the signed URLs in this list, since a run stores no signatures; repeatable.",
        metavar="LIST",
        heading=heading,
        first=first,
    )


def require_distinct_files(
    options: Any,
    written: Mapping[str, str],
    *,
    read: Iterable[str] = (),
    numbered: str = "",
    run: str = "",
) -> None:
    """Check that an export overwrites no file that it reads, no other file that it writes, and no file of the run.

    Local paths are compared after resolving links and `..`. Their case is ignored, since some disks ignore it; the case
    of URLs of object storage is not.

    Args:
        options: The options of the export.
        written: Paths or URLs of the files, by their names in messages; `""` for a file that is not written.
        read: Names of the options whose value may be a file that is read.
        numbered: The key of `written` whose file is written in numbered parts; no other file may be named like
            a part.
        run: Path or URL of the run, if known.

    Raises:
        ConfigError: Two files are the same; the message names both.
    """
    # Imported here, because declaring options must not import what reads and writes runs.
    from prelabel.export.coco_files import numbered_name
    from prelabel.export.image_ids import SEQUENTIAL, STEM
    from prelabel.labels.maps import BUILT_IN
    from prelabel.store.exports import EXPORTS
    from prelabel.store.lock import LOCK
    from prelabel.store.run import MANIFEST, RUN

    files = {name: url for name, url in written.items() if url}
    keywords: Mapping[str, Iterable[str]] = {"image_ids": (SEQUENTIAL, STEM), "categories": BUILT_IN}
    inputs = {
        name: url for name in read for url in _addresses(values_of(options)[name]) if url not in keywords.get(name, ())
    }
    run_folders = [same_file(posixpath.join(run, folder)) for folder in ("plan", "shards", EXPORTS)] if run else []
    run_files = [same_file(posixpath.join(run, file)) for file in (RUN, MANIFEST, LOCK)] if run else []
    for index, (name, url) in enumerate(files.items()):
        for other, address in [*list(files.items())[:index], *inputs.items()]:
            require(
                not _are_same(url, address),
                f"{_dashed(name)} and {_dashed(other)} are the same file {redact(absolute(url))!r}",
            )
        path = same_file(url)
        inside = any(path.startswith((f"{folder}/", f"{folder}-")) for folder in run_folders)
        require(
            not (inside or path in [*run_files, *run_folders]),
            f"{_dashed(name)} {redact(url)!r} belongs to the run itself: choose another path",
        )
    if numbered:
        # The number comes last, before the extension.
        before, _, after = same_file(numbered_name(files[numbered], 0)).rpartition("-00000")
        part_name = re.compile(rf"{re.escape(before)}-\d{{5,}}{re.escape(after)}")
        for name, url in {**files, **inputs}.items():
            require(
                part_name.fullmatch(same_file(url)) is None,
                f"{_dashed(name)} {redact(url)!r} has the name of a part of {_dashed(numbered)}: choose another name",
            )


def _addresses(value: Any) -> list[str]:
    return [value] if isinstance(value, str) and value else list(value) if isinstance(value, tuple) else []


def _are_same(url: str, other: str) -> bool:
    accounts = {
        store.place(Address.of(address))[1] for address in (url, other) if (store := Storage.store(address)) is not None
    }
    # A URL without an account may refer to any account that the other URL names.
    return same_file(url) == same_file(other) and len(accounts - {None}) < 2


def same_file(url: str) -> str:
    """A canonical form of a file's path or URL, without the account of the storage."""
    if is_local(url):
        return unicodedata.normalize("NFC", os.path.realpath(absolute(url))).casefold()
    store = Storage.store(url)
    scheme, _, path = (store.place(Address.of_folder(url))[0] if store else absolute(url)).partition("://")
    return f"{scheme.lower()}://{posixpath.normpath(path)}"


def _dashed(name: str) -> str:
    return name.replace("_", "-")
