"""The rows of one image in several runs become one row.

Two runs with weights 3 and 1, which both know the class Dog and see one with a score of 0.8 and 0.4:

    run A    Dog  0.8  [0, 0, 10, 10]
    run B    Dog  0.4  [0, 0, 12, 10]           wbf    Dog  (3 * 0.8 + 1 * 0.4) / (3 + 1) = 0.7

The box is the mean of both, weighted by weight times score. If B has no row of the image, or failed on it, or does not
know dogs, the score is that of A: only runs that could have seen an object have a vote on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, cast

from prelabel.detections import Detections, ObjectArray
from prelabel.errors import StoreError
from prelabel.fusion.classes import FusedClasses
from prelabel.fusion.options import FuseOptions
from prelabel.merging.detections import merge_detections
from prelabel.store.rows import OK, ImageFacts, ImageRow

if TYPE_CHECKING:
    from prelabel.merging.boxes import Method


@dataclass(frozen=True)
class ImageFuser:
    """Merges the rows of an image. Can be sent to another process.

    Attributes:
        options: How detections are merged, and which are kept.
        classes: The classes of all runs.
        detector: Name of the detector of the new run.
        model_version: Its version.
        has_keypoints: Whether the keypoints of the runs are the same, so that they can be merged.
    """

    options: FuseOptions
    classes: FusedClasses
    detector: str
    model_version: str
    has_keypoints: bool = False

    def fuse(self, rows: Mapping[int, ImageRow]) -> ImageRow:
        """The row of an image in the new run.

        Args:
            rows: The rows of the image by run, at least one. Runs that failed on it count as if they lacked it; if all
                failed, the row is the failed one of the first of them.

        Returns:
            The row. `views_shown` is the number of runs whose row is not failed, and `views` the number of them that
            have each detection.

        Raises:
            StoreError: The runs read different files, or turned them differently.
        """
        good = {run: row for run, row in sorted(rows.items()) if row.status == OK}
        if not good:
            failed = rows[min(rows)]
            return replace(
                failed, detector=self.detector, model_version=self.model_version, seconds={}, dropped=0, revision=0
            )
        self._require_same_image(good)
        runs = list(good)
        parts = [self._prepared(run, row) for run, row in good.items()]
        detections = parts[0] if len(parts) == 1 else self._merged(runs, parts)
        facts = good[runs[0]]
        browser = [row.browser_orientation for row in good.values() if row.browser_orientation is not None]
        return ImageRow(
            image_id=facts.image_id,
            uri=facts.uri,
            file_name=facts.file_name,
            detector=self.detector,
            model_version=self.model_version,
            height=facts.height,
            width=facts.width,
            exif_orientation=facts.exif_orientation,
            browser_orientation=browser[0] if browser else None,
            frames=facts.frames,
            bytes=facts.bytes,
            sha256=facts.sha256,
            location=facts.location,
            dropped=sum(row.dropped for row in good.values()),
            views_shown=len(parts),
            detections=self.options.selection.apply(detections),
        )

    def _prepared(self, run: int, row: ImageRow) -> Detections:
        """The detections of a run under the classes of the new run, without those of classes that are not kept."""
        detections = Detections.empty(row.height or 0, row.width or 0) if row.detections is None else row.detections
        if not self.has_keypoints:
            detections = replace(detections, keypoints=None)
        detections = self.classes.label_as_fused(run, detections)
        return detections[self.options.selection.admitted(detections.label, detections.mid)]

    def _merged(self, runs: Sequence[int], parts: Sequence[Detections]) -> Detections:
        weights = self.options.weights
        size = [0, 0, parts[0].width, parts[0].height]
        return merge_detections(
            parts,
            source=range(len(parts)),
            weights=[weights[run] for run in runs],
            windows=[size] * len(parts),
            method=cast("Method", self.options.merge),
            iou=self.options.merge_iou,
            names=self._names,
            electorate=lambda labels: self.classes.weights_of(labels, runs, weights),
        )

    def _names(self, detections: Detections) -> ObjectArray:
        return self.options.selection.rename(detections.label, detections.mid)

    def _require_same_image(self, rows: Mapping[int, ImageRow]) -> None:
        """Raise StoreError if the rows of an image are of different files, sizes or orientations."""
        for (first, before), (run, row) in combinations(rows.items(), 2):
            differing = differing_facts(before, row)
            if differing:
                names = [self.classes.runs[number].run for number in (first, run)]
                raise StoreError(
                    f"image {before.image_id!r} is not the same in {names[0]} and {names[1]} ({', '.join(differing)}): "
                    "label one of them again from the same files"
                )


def differing_facts(a: ImageFacts, b: ImageFacts) -> list[str]:
    """What proves, in words, that two rows of one image are of different files; facts that a row lacks are skipped."""
    return [
        f"{words} {in_a} and {in_b}"
        for words, in_a, in_b in (
            ("SHA-256", _short(a.sha256), _short(b.sha256)),
            ("bytes", a.bytes, b.bytes),
            ("width", a.width, b.width),
            ("height", a.height, b.height),
            ("EXIF orientation", a.exif_orientation or 1, b.exif_orientation or 1),
            ("orientation in browsers", a.browser_orientation, b.browser_orientation),
        )
        if in_a is not None and in_b is not None and in_a != in_b
    ]


def _short(checksum: str | None) -> str | None:
    return None if checksum is None else checksum[:12]


def is_proven_the_same(rows: Mapping[int, ImageRow]) -> bool:
    """Whether all good rows of an image have the checksum of its file, so that a different file would be noticed."""
    good = [row for row in rows.values() if row.status == OK]
    return len(good) < 2 or all(row.sha256 is not None for row in good)
