"""`compare`: compares a run with what annotators made of its pre-annotations; reports are made from the result.

For each annotated image of the run, a `PreannotatedImage` holds the detections that annotators were shown
(`preannotations`). Comparing them with the annotator's regions gives edits (`edits`). They are part of the image's
`ImageOutcome`, and the `Tally` collects all outcomes (`tally`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from prelabel.errors import EvaluateError
from prelabel.export.base import Rows, RunInfo
from prelabel.export.parallel import UNUSED, map_parts_with
from prelabel.frames import BROWSER, DISPLAY, oriented_size
from prelabel.review.annotation_files import read_annotations
from prelabel.review.annotations import AnnotatedImage
from prelabel.review.basis import STATED, Basis, basis_of
from prelabel.review.edits import (
    ClassEdits,
    boxes_by_edit,
    edits_by_class,
    edits_of,
    rankings_of_shown,
    relabeled,
    total,
)
from prelabel.review.image_matching import (
    Claims,
    ImageNames,
    MatchingImage,
    ReviewedBox,
    ReviewedImage,
    by_part,
    find_matching_images,
)
from prelabel.review.options import CompareOptions
from prelabel.review.preannotations import PreannotatedImage, score_floors
from prelabel.review.tally import (
    BLANK,
    OTHER_MODEL,
    OTHER_SIZE,
    ImageOutcome,
    Tally,
    nothing_compared_message,
    threshold_notes,
)
from prelabel.review.thresholds import Work, compare_choices
from prelabel.review.truth_frame import Fit, TruthFrames
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.exports import ExportRecord
from prelabel.store.rows import ImageFacts, ImageRow

#: Relative difference of aspect ratios that rounding can explain, since sizes may be those of a scaled copy.
_ROUNDING = 0.02


@dataclass(frozen=True, slots=True)
class Times:
    """How long annotators took, in seconds, for the images whose time is known."""

    images: int
    total: float
    median: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        info: The run.
        annotations: URL of the annotations without secrets.
        iou: Lowest IoU of a detection and a region of the same object.
        kept_iou: Lowest IoU of a box that counts as kept.
        images: Number of compared images.
        failed: Number of compared images that failed in the run.
        open: Number of images that nobody has annotated yet.
        skipped: Number of images that annotators skipped.
        only_annotations: Number of annotated images that are not in the run.
        other_model: Number of images skipped because annotators started from predictions of another model.
        blank: Number of images skipped because annotators started without a prediction.
        by_annotations: Number of images whose annotations tell what was shown.
        basis: Where the selection for the other images comes from: `stated`, `recorded` or `assumed`.
        shown: What was shown, in words.
        by_class: Edits by class name, most detections and objects first.
        total: Edits of all classes.
        floors: The score from which each class was shown, by class name; None if it was not shown.
        relabeled: Old class, new class and count, most frequent first.
        times: Annotation times, or None if the export has none.
        work: The work that thresholds leave, counted as `evaluate` does.
        reviewed: The compared images.
        edited: (class, kind of edit) -> the edited boxes; they refer to `reviewed` by position.
        notes: Notes for the user, one line each.
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
    by_class: Mapping[str, ClassEdits]
    total: ClassEdits
    floors: Mapping[str, float | None]
    relabeled: Sequence[tuple[str, str, int]]
    times: Times | None
    work: Work
    reviewed: tuple[ReviewedImage, ...]
    edited: Mapping[tuple[str, str], Sequence[ReviewedBox]]
    notes: tuple[str, ...]


def compare(
    info: RunInfo, rows: Rows, options: CompareOptions, storage: Storage, exports: Sequence[ExportRecord] = ()
) -> Comparison:
    """Compare a run with annotations that were made from it. Rows are read twice.

    With `SpreadRows` several processes work; the result is the same.

    Args:
        info: The run.
        rows: Reads the rows of the run, from the start each time it is called.
        options: The annotations, and how to compare.
        storage: Opens the annotations.
        exports: Recorded exports of the run, the latest last.

    Raises:
        ConfigError: The annotations do not exist, or an option names a class that the detector does not have.
        EvaluateError: The annotations cannot be read, or none of their images is in the run.
    """
    if info.classes is not None:
        options.selection.require_known_names(info.classes)
    annotations = read_annotations(options.annotations, storage)
    basis = basis_of(options, exports, any_tool=annotations.truth is not None)
    names = ImageNames(image.names(by_task=info.task_numbers) for image in annotations.images)
    claims: Claims[tuple[MatchingImage, Fit | None]] = Claims()
    matching_images = find_matching_images(rows, names, claims, lambda facts: (facts.image_id, facts.file_name))
    frames = None
    if annotations.truth is not None:
        frames = TruthFrames(annotations.truth, options.annotations_frame, "--annotations-frame")
        frames.vote(matching_images)
    drawn_as_displayed: list[str] = []
    for image in matching_images:
        position, facts = image.positions[0], image.facts
        if frames is not None:
            fit = frames.fit(frames.truth.images[position], facts)
        else:
            fit = _fit_by_aspect_ratio(annotations.images[position].size, facts)
            if fit == Fit(DISPLAY):
                drawn_as_displayed.append(facts.file_name)
        claims.add(facts.file_name, image.way, image.positions, (image, fit))
    decided = list(claims.decided())
    matched = by_part(rows, ((image, (annotations.images[at], fit)) for at, _, (image, fit) in decided))
    outcomes = list(map_parts_with(rows.without(*UNUSED), partial(_outcomes, info, basis, options), matched))
    tally = Tally(unclear=claims.unclear)
    for _, way, (image, _) in decided:
        tally.add(way, outcomes[image.part][image.number])
    if not tally.compared:
        raise EvaluateError(nothing_compared_message(info, annotations, tally, claims.unknown_names))
    images = [outcome.edits for outcome in tally.compared]
    edits = [edit for image_edits in images for edit in image_edits]
    by_class = edits_by_class(edits)
    floor_of = score_floors(outcome.score_evidence for outcome in tally.compared)
    class_floors = {name: floor_of.get(name.casefold()) for name in by_class}
    work = compare_choices(*rankings_of_shown(images, by_class, floor_of))
    seconds = [outcome.seconds for outcome in tally.compared if outcome.seconds is not None]
    frame_notes = [] if frames is None else frames.notes()
    if drawn_as_displayed:
        frame_notes.append(
            f"{len(drawn_as_displayed)} images were annotated with EXIF rotation applied, although browsers do not "
            f"rotate such files, e.g. {drawn_as_displayed[0]!r}"
        )
    return Comparison(
        info=info,
        annotations=annotations.display_url,
        iou=options.iou,
        kept_iou=options.kept_iou,
        images=len(images),
        failed=sum(outcome.failed for outcome in tally.compared),
        open=annotations.open,
        skipped=annotations.skipped,
        only_annotations=len(annotations.images) - len(claims.positions),
        other_model=len(tally.skipped[OTHER_MODEL]),
        blank=len(tally.skipped[BLANK]),
        by_annotations=tally.by_annotations,
        basis=basis.source,
        shown=_shown_words(tally, basis),
        by_class=by_class,
        total=total(by_class),
        floors=class_floors,
        relabeled=relabeled(edits),
        times=Times(len(seconds), sum(seconds), median(seconds)) if seconds else None,
        work=work,
        reviewed=tuple(outcome.image for outcome in tally.compared),
        edited=boxes_by_edit(images, by_class),
        notes=(*annotations.notes, *frame_notes, *tally.notes(basis), *threshold_notes(work, class_floors)),
    )


def _fit_by_aspect_ratio(size: tuple[int, int] | None, facts: ImageFacts) -> Fit | None:
    """The frame of Label Studio's regions, found by the image's aspect ratio; None if it is another image."""
    if size is None or facts.height is None or facts.width is None:
        return Fit(BROWSER)
    for frame in (BROWSER, DISPLAY):
        height, width = oriented_size(facts.height, facts.width, facts.orientation_to(frame))
        if abs(width * size[0] / ((height or 1) * size[1]) - 1) <= _ROUNDING:
            return Fit(frame)
    return None


def _outcomes(
    info: RunInfo,
    basis: Basis,
    options: CompareOptions,
    batches: Iterable[DetectionBatch],
    matched: Mapping[int, tuple[AnnotatedImage, Fit | None]],
) -> dict[int, ImageOutcome]:
    """The outcomes of the matched images of a part, by their positions in it."""
    if not matched:
        return {}
    rows = enumerate(row for batch in batches for row in batch.rows())
    return {n: _outcome(info, row, *matched[n], basis, options) for n, row in rows if n in matched}


def _outcome(
    info: RunInfo,
    row: ImageRow,
    image: AnnotatedImage,
    fit: Fit | None,
    basis: Basis,
    options: CompareOptions,
) -> ImageOutcome:
    reviewed = ReviewedImage(row.file_name, row.uri, row.image_id)
    if fit is None:
        width, height = (image.size or (0, 0))[::-1]
        sizes = f"{row.width} x {row.height}, in the annotations {width} x {height}"
        return ImageOutcome(reviewed, OTHER_SIZE, f"{row.file_name!r} ({sizes})")
    as_in_browser = row.orientation_to(fit.frame) == row.orientation_to(BROWSER)
    row = row.in_frame(fit.frame)
    if as_in_browser and row.detections is not None:
        reviewed = replace(reviewed, height=row.detections.height, width=row.detections.width)
    image = image.with_sides_swapped(polygons=not fit.stretched) if fit.swapped else image
    by_selection = basis.source == STATED
    preannotated = PreannotatedImage(info.model_version, row, image, basis, by_selection=by_selection)
    numbers, prediction = preannotated.numbers, preannotated.prediction
    if not by_selection and not preannotated.by_annotation and not numbers:
        if image.predictions:
            return ImageOutcome(reviewed, OTHER_MODEL, image.predictions[0].model_version)
        if image.blank:
            return ImageOutcome(reviewed, BLANK, row.file_name)
    selected_only, shown_only = 0, len(preannotated.contradicting)
    if by_selection and prediction is not None:
        predicted = {numbers[region.id] for region in prediction.regions if region.id in numbers}
        selected = set(preannotated.selected)
        selected_only, shown_only = len(selected - predicted), len(predicted - selected)
    return ImageOutcome(
        reviewed,
        edits=tuple(edits_of(preannotated, image.regions, options)),
        seconds=image.seconds,
        failed=row.detections is None,
        by_annotation=preannotated.by_annotation,
        swapped=fit.swapped,
        selected_only=selected_only,
        shown_only=shown_only,
        score_evidence=preannotated.score_evidence(),
    )


def _shown_words(tally: Tally, basis: Basis) -> str:
    if tally.by_annotations == len(tally.compared):
        return "the predictions that the annotations started from"
    if not tally.by_annotations:
        return basis.words
    return f"the predictions that {tally.by_annotations:,} annotations started from; otherwise {basis.words}"
