"""`evaluate`: compares a finished run with ground truth; all reports are made from its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from prelabel.detections import ClassName
from prelabel.export.base import Rows, RunInfo
from prelabel.export.parallel import SpreadRows
from prelabel.export.run_selection import beyond_kept
from prelabel.processes import Processes
from prelabel.review.coco_scores import CocoScores, coco_scores, import_faster_coco_eval
from prelabel.review.gather import ClassCounts, gather
from prelabel.review.image_matching import ImageCounts, ReviewedImage
from prelabel.review.matching import Confusion, confusion, outcomes, ranking
from prelabel.review.options import EvaluateOptions
from prelabel.review.tfrecord_truth import is_tfrecord, read_tfrecord_truth
from prelabel.review.thresholds import Ranking, Work, compare_choices
from prelabel.review.truth import read_truth
from prelabel.select import KEPT, Selection
from prelabel.storage.files import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        info: The run.
        truth: URL of the truth without secrets.
        iou: Lowest IoU of a correct detection (for thresholds, work and confusion).
        images: How images were matched.
        classes: How classes were matched.
        boxes: COCO metrics of boxes.
        masks: COCO metrics of masks, or None if one side has no masks.
        keypoints: COCO metrics of keypoints, or None if one side has none, or if they are not COCO's of a person.
        rankings: The ranked detections of each class, by class name of the truth.
        overall: The ranked detections of all classes.
        work: The work that each choice of thresholds leaves.
        confusion: The confusion table at the suggested thresholds.
        reviewed: The compared images; the mistakes of the confusion table refer to them by position.
        given: Whether the option `compare_thresholds` was given.
        listed: Whether the option `images` restricted the run to the images of a list.
        notes: Notes for the user, one line each.
    """

    info: RunInfo
    truth: str
    iou: float
    images: ImageCounts
    classes: ClassCounts
    boxes: CocoScores
    masks: CocoScores | None
    keypoints: CocoScores | None
    rankings: Mapping[str, Ranking]
    overall: Ranking
    work: Work
    confusion: Confusion
    reviewed: tuple[ReviewedImage, ...]
    given: bool
    listed: bool
    notes: tuple[str, ...]


def evaluate(info: RunInfo, rows: Rows, options: EvaluateOptions, storage: Storage) -> Evaluation:
    """Compare a run with ground truth. Failed images count as images without detections.

    Args:
        info: The run.
        rows: Reads the rows of the run, from the start each time it is called. With `SpreadRows`, several processes
            may read them, and compute the metrics of the classes.
        options: The truth, and how to compare.
        storage: Opens the truth.

    Raises:
        ConfigError: faster-coco-eval is not installed, the truth does not exist, or an option names a class that the
            detector does not have.
        EvaluateError: The truth is not valid, or the two sides have no image or no class in common.
    """
    import_faster_coco_eval()
    processes = rows.processes if isinstance(rows, SpreadRows) else Processes()
    if is_tfrecord(options.truth):
        truth = read_tfrecord_truth(options.truth, storage, options.truth_labels, masks=info.masks)
    else:
        truth = read_truth(options.truth, storage, options.truth_labels)
    gathered = gather(info, rows, truth, options)
    pairs, categories = gathered.pairs, gathered.categories
    matched = outcomes(pairs, options.iou)
    floors = {c.name: _floor(gathered.classes.matched[c.name], info, options) for c in categories}
    rankings = {c.name: replace(ranking(matched, c.id), floor=floors[c.name]) for c in categories}
    overall = replace(ranking(matched), floor=min(floors.values(), default=0.0))
    given = None
    if options.compare_thresholds:
        kept_pairs = [replace(pair, detections=pair.detections.only_compared()) for pair in pairs]
        kept_matched = outcomes(kept_pairs, options.iou)
        given = {c.name: ranking(kept_matched, c.id) for c in categories}
    work = compare_choices(rankings, overall, given)
    confused = confusion(
        matched,
        {c.id: c.name for c in categories},
        {c.id: work.by_class[c.name].suggested.threshold for c in categories},
        options.iou,
    )
    del matched  # COCO's metrics need its memory
    return Evaluation(
        info=info,
        truth=truth.display_url,
        iou=options.iou,
        images=gathered.images,
        classes=gathered.classes,
        boxes=coco_scores(pairs, categories, "bbox", processes),
        masks=coco_scores(pairs, categories, "segm", processes) if gathered.masks else None,
        keypoints=coco_scores(pairs, categories, "keypoints", processes) if gathered.keypoints else None,
        rankings=rankings,
        overall=overall,
        work=work,
        confusion=confused,
        reviewed=tuple(
            ReviewedImage(
                pair.file_name, pair.uri, pair.image_id, *((pair.height, pair.width) if pair.as_in_browser else (0, 0))
            )
            for pair in pairs
        ),
        given=given is not None,
        listed=bool(options.listed.images),
        notes=(*gathered.notes, *score_notes(info, _lowest(overall), options.selection)),
    )


def _floor(classes: Iterable[ClassName], info: RunInfo, options: EvaluateOptions) -> float:
    """The score below which no detections of a class are evaluated, because the run or the selection excludes them."""
    rules: list[Selection] = [options.selection, *([info.kept] if info.kept is not None else [])]
    return max((rule.threshold_of(name.name, name.mid) for name in classes for rule in rules), default=0.0)


def _lowest(ranking: Ranking) -> float | None:
    return float(ranking.score[-1]) if len(ranking.score) else None


def score_notes(info: RunInfo, lowest: float | None, selection: Selection) -> list[str]:
    """Notes on detections that the run did not keep, or that the selection excludes.

    Args:
        info: The run.
        lowest: The lowest score of a detection of the truth's classes, or None without detections.
        selection: Which detections are evaluated.
    """
    if lowest is None:
        return ["the run has no detections of the truth's classes"]
    if selection.class_threshold or selection.score_threshold > 0:
        return [
            "detections below the given --class-threshold and --score-threshold were excluded first",
            *beyond_kept(selection, info.kept, info.classes),
        ]
    # If the run does not record its thresholds, its lowest score stands for them.
    kept = info.kept or Selection(score_threshold=lowest)
    # Detections below `KEPT` change the AP little, so a run gets a note only if its threshold is higher.
    lines = beyond_kept(replace(selection, score_threshold=KEPT), kept, info.classes)
    advice = "a run made with --score-threshold 0.01 would have a higher AP, and perhaps lower best thresholds"
    return [*lines, advice] if lines else []
