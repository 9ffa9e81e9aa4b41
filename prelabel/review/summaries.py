"""Summaries of `evaluate` and `compare`, which the Python functions return; the JSON files have all metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prelabel.review.comparison import Comparison
from prelabel.review.evaluation import Evaluation
from prelabel.review.openimages.evaluation import OpenImagesEvaluation
from prelabel.review.options import COCO
from prelabel.review.report.files import comparison_thresholds_by_class, suggested_thresholds_by_class


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSummary:
    """How good the detections of a run are, compared with ground truth.

    Attributes:
        metric: The metric: `coco`, `openimages` or `openimages-v2`.
        images: Number of images that are both in the run and in the truth.
        objects: Number of objects on these images, in the compared classes, without crowd regions and groups.
        box_ap: AP of the boxes, 0 to 1: COCO's (IoU 0.5 to 0.95), or Open Images' mean AP (IoU 0.5); None if there are
            no objects.
        mask_ap: COCO's AP of the masks; None if masks are not scored, or if there are no objects.
        keypoint_ap: COCO's AP of the keypoints (OKS 0.5 to 0.95); None if keypoints are not scored, or if there are no
            objects with keypoints.
        ap_by_class: AP of the boxes by class name of the truth; None for a class without objects.
        figures: COCO's twelve metrics of the boxes by name (`AP`, `AP50`, ..., `AR_large`); empty for other metrics.
        thresholds: The suggested score threshold by class, with `"*"` for all classes that are not named: a value for
            `class_threshold=`. Equal to `thresholds.yaml`. Empty for Open Images' metrics, which suggest none.
        corrections_per_100_images: Boxes that annotators have to delete or draw per 100 images at these thresholds;
            None for Open Images' metrics.
        by_hand_per_100_images: Boxes that they have to draw per 100 images without detections; None for Open Images'
            metrics.
        files: URLs or paths of `evaluation.json`, `evaluation.html`, `thresholds.yaml`, `thresholds-best-f1.yaml`, or
            of the JSON file and the page of one of Open Images' metrics.
        notes: Notes for the user, one line each.
    """

    metric: str
    images: int
    objects: int
    box_ap: float | None
    mask_ap: float | None
    keypoint_ap: float | None = field(repr=False)
    ap_by_class: Mapping[str, float | None] = field(repr=False)
    figures: Mapping[str, float | None] = field(repr=False)
    thresholds: Mapping[str, float] = field(repr=False)
    corrections_per_100_images: float | None
    by_hand_per_100_images: float | None
    files: tuple[str, ...] = field(repr=False)
    notes: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, evaluation: Evaluation, files: tuple[str, ...]) -> EvaluationSummary:
        """Summarize an evaluation; `files` are the files that were written."""
        boxes, masks, work = evaluation.boxes, evaluation.masks, evaluation.work
        return cls(
            metric=COCO,
            images=evaluation.images.matched,
            objects=work.objects,
            box_ap=boxes.overall["AP"],
            mask_ap=None if masks is None else masks.overall["AP"],
            keypoint_ap=None if evaluation.keypoints is None else evaluation.keypoints.overall["AP"],
            ap_by_class={name: figures["AP"] for name, figures in boxes.by_class.items()},
            figures=dict(boxes.overall),
            thresholds=suggested_thresholds_by_class(evaluation),
            corrections_per_100_images=round(work.per_100(work.headline.corrections), 4),
            by_hand_per_100_images=round(work.per_100(work.objects), 4),
            files=files,
            notes=evaluation.notes,
        )

    @classmethod
    def of_open_images(cls, evaluation: OpenImagesEvaluation, files: tuple[str, ...]) -> EvaluationSummary:
        """Summarize an evaluation by one of Open Images' metrics; `files` are the files that were written."""
        return cls(
            metric=evaluation.metric,
            images=evaluation.images.matched,
            objects=evaluation.boxes[0],
            box_ap=evaluation.mean_ap,
            mask_ap=None,
            keypoint_ap=None,
            ap_by_class={entry.name: entry.ap for entry in evaluation.classes},
            figures={},
            thresholds={},
            corrections_per_100_images=None,
            by_hand_per_100_images=None,
            files=files,
            notes=evaluation.notes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSummary:
    """What annotators changed in the pre-annotations of a run.

    Attributes:
        images: Number of compared images.
        shown: Number of detections that annotators were shown.
        kept: Number of these detections that annotators kept unchanged.
        corrections: Number of boxes that were moved, relabeled, left without a class, deleted or added.
        objects: Number of objects after annotation: the boxes that annotators would draw without pre-annotations.
        edits: Number of detections or objects by kind of edit (`kept`, `moved`, `relabeled`, `deleted`, `added`, ...).
        edits_by_class: `edits` by class name.
        seconds: Annotation time in seconds, in total over the images whose time is known; None if no time is known.
        thresholds: The suggested score threshold by class, with `"*"` for all classes that are not named: a value for
            `class_threshold=`. Equal to `thresholds.yaml`.
        files: URLs or paths of `comparison.json`, `comparison.html`, `thresholds.yaml`.
        notes: Notes for the user, one line each.
    """

    images: int
    shown: int
    kept: int
    corrections: int
    objects: int
    edits: Mapping[str, int] = field(repr=False)
    edits_by_class: Mapping[str, Mapping[str, int]] = field(repr=False)
    seconds: float | None
    thresholds: Mapping[str, float] = field(repr=False)
    files: tuple[str, ...] = field(repr=False)
    notes: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, comparison: Comparison, files: tuple[str, ...], notes: tuple[str, ...] = ()) -> ComparisonSummary:
        """Summarize a comparison; `files` are the written files, `notes` precede the notes of the comparison."""
        total, times = comparison.total, comparison.times
        return cls(
            images=comparison.images,
            shown=total.shown,
            kept=total.counts["kept"],
            corrections=total.corrections,
            objects=total.objects,
            edits=dict(total.counts),
            edits_by_class={name: dict(edits.counts) for name, edits in comparison.by_class.items()},
            seconds=None if times is None else times.total,
            thresholds=comparison_thresholds_by_class(comparison),
            files=files,
            notes=(*notes, *comparison.notes),
        )
