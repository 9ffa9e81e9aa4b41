"""What comes out of a comparison, and how it stands in `comparison.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prelabel.compare.fates import ADDED, DELETED, FATES, KEPT, MOVED, RELABELLED, UNLABELLED
from prelabel.evaluate.work import Work
from prelabel.export.reading import RunInfo

#: Parts into which overlaps from 0 to 1 are counted.
BINS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFates:
    """How many detections of a class met which fate.

    Attributes:
        counts: By fate; a relabelled one counts under the class it was detected as, an added object under its own.
        overlaps: `BINS` counts of the overlaps of what was kept and moved.
        objects: Objects of the class as people left them.
    """

    counts: Mapping[str, int]
    overlaps: tuple[int, ...]
    objects: int

    @property
    def shown(self) -> int:
        """Detections that people saw."""
        return sum(self.counts[fate] for fate in (KEPT, MOVED, RELABELLED, UNLABELLED, DELETED))


@dataclass(frozen=True, slots=True)
class Times:
    """How long people took, in seconds, for the images whose time is known."""

    images: int
    total: float
    median: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What came out.

    Attributes:
        info: The run.
        annotations: Address of the file, as it may be shown.
        iou: From which overlap on two are one object.
        kept_iou: From which overlap on a box was kept.
        images: Images compared.
        failed: Of these, images of the run that failed.
        open: Images of the annotations that nobody has worked on.
        skipped: Images of the annotations that somebody refused.
        only_annotations: Images of the annotations that the run does not have.
        other_model: Images left out because people began with predictions of another model.
        blank: Images left out because people began with no prediction.
        by_annotations: Images whose annotations say what was shown.
        basis: What tells it of the others: `stated`, `recorded` or `assumed`.
        shown: All that in words.
        by_class: By the class's name, those with most detections and objects first.
        floors: From which score on each class was shown, or None where nothing of it was.
        relabelled: From which class to which, how often, most frequent first.
        times: None where the export tells no times.
        work: What thresholds mean in work, by the rule of `evaluate`.
        notes: What the user should know, one line each.
    """

    info: RunInfo
    annotations: str
    iou: float
    kept_iou: float
    images: int
    failed: int
    open: int
    skipped: int
    only_annotations: int
    other_model: int
    blank: int
    by_annotations: int
    basis: str
    shown: str
    by_class: Mapping[str, ClassFates]
    floors: Mapping[str, float | None]
    relabelled: Sequence[tuple[str, str, int]]
    times: Times | None
    work: Work
    notes: tuple[str, ...]

    @property
    def total(self) -> ClassFates:
        """All classes together."""
        every = list(self.by_class.values())
        return ClassFates(
            counts={fate: sum(one.counts[fate] for one in every) for fate in FATES},
            overlaps=tuple(sum(one.overlaps[place] for one in every) for place in range(BINS)),
            objects=sum(one.objects for one in every),
        )

    @property
    def corrections(self) -> int:
        """Boxes that people moved, relabelled, left without a class, deleted or added."""
        return sum(self.total.counts[fate] for fate in (MOVED, RELABELLED, UNLABELLED, DELETED, ADDED))

    def to_json(self) -> dict[str, Any]:
        """As it stands in `comparison.json`."""
        return {
            "schema_version": 1,
            "run": {
                "run_id": self.info.run_id,
                "detector": self.info.detector,
                "model_version": self.info.model_version,
            },
            "annotations": self.annotations,
            "iou": self.iou,
            "kept_iou": self.kept_iou,
            "images": {
                "compared": self.images,
                "failed": self.failed,
                "open": self.open,
                "skipped": self.skipped,
                "only_annotations": self.only_annotations,
                "other_model": self.other_model,
                "blank": self.blank,
            },
            "shown": {"by_annotations": self.by_annotations, "others": self.basis, "words": self.shown},
            "total": {**_fates_json(self.total), "corrections": self.corrections},
            "by_class": {name: self._class_json(name, one) for name, one in self.by_class.items()},
            "relabelled": [{"from": a, "to": b, "count": count} for a, b, count in self.relabelled],
            "seconds": None
            if self.times is None
            else {
                "images": self.times.images,
                "total": round(self.times.total, 3),
                "median": round(self.times.median, 3),
            },
            "common_threshold": self.work.common.threshold,
            "recommended": self.work.recommended,
            "notes": list(self.notes),
        }

    def _class_json(self, name: str, one: ClassFates) -> dict[str, Any]:
        found = self.work.by_class[name]
        return {
            **_fates_json(one),
            "shown_from": self.floors[name],
            "suggested_threshold": found.suggested.threshold,
            "own_threshold": found.own,
        }


def _fates_json(one: ClassFates) -> dict[str, Any]:
    return {"shown": one.shown, "objects": one.objects, **one.counts, "overlaps": list(one.overlaps)}
