"""`evaluate --metric openimages`: compares a finished run with Open Images' annotations.

The images of a run stream through, some shards at a time: detections of classes that are not verified on their image
are dropped, the others are matched, and only their scores and whether they are correct are kept.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.errors import EvaluateError, first_of
from prelabel.export.base import Rows, RunInfo
from prelabel.export.image_ids import stem
from prelabel.export.parallel import UNUSED, map_parts
from prelabel.frames import STORED
from prelabel.review.evaluation import score_notes
from prelabel.review.image_matching import MAX_NAMES
from prelabel.review.openimages.classes import Indices, open_images_classes
from prelabel.review.openimages.scores import Candidates, Outcomes, average_precision, match
from prelabel.review.openimages.truth import OpenImagesTruth, read_open_images
from prelabel.review.options import AUTO, OPEN_IMAGES, OPEN_IMAGES_V2, EvaluateOptions
from prelabel.select import Selection
from prelabel.storage.address import redact
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of Open Images.

    Attributes:
        title: Its name for users.
        by_tree: Whether a box counts for all classes above its own, too.
        group_weight: 1 if a box around a group is one object to find, 0 if it only excuses detections in it.
    """

    title: str
    by_tree: bool
    group_weight: int


METRICS = {
    OPEN_IMAGES: Metric("Open Images Challenge", by_tree=True, group_weight=1),
    OPEN_IMAGES_V2: Metric("Open Images V2", by_tree=False, group_weight=0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenImagesImages:
    """How many images of both sides were matched, and how many were not.

    Attributes:
        matched: Matched images, from which AP is computed.
        failed: Matched images that failed in the run; they count as images without detections.
        only_run: Images that only the run has.
        only_truth: Images that only the truth has.
    """

    matched: int
    failed: int
    only_run: int
    only_truth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenImagesClass:
    """The result for one class.

    Attributes:
        mid: Its MID.
        name: Its name.
        ap: AP at IoU 0.5, or None without objects.
        objects: Number of boxes of single objects, those of classes below included.
        groups: Number of boxes around groups, likewise.
        detections: Number of detections that count, correct or false.
        correct: Number of correct ones, with one for each group that is detected.
    """

    mid: str
    name: str
    ap: float | None
    objects: int
    groups: int
    detections: int
    correct: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenImagesEvaluation:
    """The result of an evaluation by one of Open Images' metrics.

    Attributes:
        info: The run.
        metric: Name of the metric.
        truth: URL of the boxes without secrets.
        image_labels: URL of the image-level labels without secrets, or `""`.
        expanded: Whether detections also count for the classes above theirs.
        images: How images were matched.
        boxes: Number of boxes on the matched images, of single objects and of groups.
        detections: Number of detections on the matched images.
        other_classes: Number of these in classes that Open Images does not have, by class name.
        unverified: Number of these in classes that are not verified on their image; they are ignored.
        classes: The classes that have objects or detections, in the order of the class tree.
        listed: Whether the option `images` restricted the run to the images of a list.
        notes: Notes for the user, one line each.
    """

    info: RunInfo
    metric: str
    truth: str
    image_labels: str
    expanded: bool
    images: OpenImagesImages
    boxes: tuple[int, int]
    detections: int
    other_classes: dict[str, int]
    unverified: int
    classes: tuple[OpenImagesClass, ...]
    listed: bool
    notes: tuple[str, ...]

    @property
    def mean_ap(self) -> float | None:
        """The mean of the AP of all classes with objects; None if there are none."""
        values = [entry.ap for entry in self.classes if entry.ap is not None]
        return float(np.mean(values)) if values else None


def evaluate_open_images(info: RunInfo, rows: Rows, options: EvaluateOptions, storage: Storage) -> OpenImagesEvaluation:
    """Compare a run with Open Images' annotations. Failed images count as images without detections.

    Args:
        info: The run.
        rows: Reads the rows of the run.
        options: The metric, the truth, and which detections count.
        storage: Opens the truth.

    Raises:
        ConfigError: A file of the truth does not exist, or an option names a class that the detector does not have.
        EvaluateError: A file of the truth is invalid, or the two sides have no image or no class in common.
    """
    metric, classes = METRICS[options.metric], open_images_classes()
    if info.classes is not None:
        options.selection.require_known_names(info.classes)
        if not any(known.mid in classes.positions for known in info.classes):
            raise EvaluateError(_no_class_message(known.name for known in info.classes))
    # The options have image-level labels for the metric that ignores classes without them, and only for that.
    truth = read_open_images(options.truth, options.image_labels, storage, classes, expand=metric.by_tree)
    collected = _collect(rows, truth, metric, options)
    if not collected.matched:
        in_run = ", ".join(map(repr, collected.unknown_names)) or "no images"
        in_truth = ", ".join(map(repr, list(truth.images)[:MAX_NAMES]))
        raise EvaluateError(
            f"no image of the run is in {redact(options.truth)}: the run has {in_run}, ..., the truth {in_truth}, ...; "
            "the name of an image without folder and extension must be its ImageID"
        )
    if not collected.known and collected.other_classes:
        raise EvaluateError(_no_class_message(collected.other_classes))
    matched = np.array(sorted(collected.matched))
    return OpenImagesEvaluation(
        info=info,
        metric=options.metric,
        truth=redact(options.truth),
        image_labels=redact(options.image_labels),
        expanded=options.expand_detections,
        images=OpenImagesImages(
            matched=len(collected.matched),
            failed=collected.failed,
            only_run=collected.only_run,
            only_truth=len(truth.images) - len(collected.matched),
        ),
        boxes=(int(truth.objects.per_image[matched].sum()), int(truth.groups.per_image[matched].sum())),
        detections=collected.detections,
        other_classes=dict(collected.other_classes.most_common()),
        unverified=collected.unverified,
        classes=tuple(_scored(info, Outcomes.join(collected.outcomes), truth, matched, options)),
        listed=bool(options.listed.images),
        notes=(*truth.notes, *_notes(info, collected, truth, options)),
    )


@dataclass(slots=True)
class _Collected:
    """What is kept of the run.

    Attributes:
        matched: Name of the image in the run, by its position in the truth.
        rotated: Number of matched images that are displayed rotated.
        known: Whether any detection is of a class of Open Images.
        unknown_names: First few names of images that the truth does not have.
    """

    outcomes: list[Outcomes] = field(default_factory=list)
    matched: dict[int, str] = field(default_factory=dict)
    failed: int = 0
    rotated: int = 0
    only_run: int = 0
    unknown_names: list[str] = field(default_factory=list)
    detections: int = 0
    known: bool = False
    other_classes: Counter[str] = field(default_factory=Counter)
    unverified: int = 0
    lowest: float = 1.0


def _collect(rows: Rows, truth: OpenImagesTruth, metric: Metric, options: EvaluateOptions) -> _Collected:
    """Read the run once, match each batch of images, and keep the outcomes."""
    collected = _Collected()
    frame = STORED if options.truth_frame == AUTO else options.truth_frame
    rows = rows.without(*UNUSED, "masks", "keypoints").in_frame(frame)
    for batch in itertools.chain.from_iterable(map_parts(rows, partial(_read, options.selection))):
        images = _positions_of_images(batch, truth, collected)
        batch = batch[images[batch.image] >= 0]
        collected.detections += len(batch)
        if not len(batch):
            continue
        collected.lowest = min(collected.lowest, float(batch.score.min()))
        positions = truth.classes.positions
        category = np.fromiter((positions.get(mid, -1) for mid in batch.mid), np.intp, len(batch))
        if np.any(category < 0):
            collected.other_classes.update(batch.label[category < 0].tolist())
            batch, category = batch[category >= 0], category[category >= 0]
        collected.known |= bool(len(batch))
        candidates = Candidates(images[batch.image], category, batch.score, batch.box)
        if options.expand_detections:
            entry, expanded = truth.classes.with_ancestors(category)
            candidates = replace(candidates[entry], category=expanded)
        verified = truth.is_verified(candidates.image, candidates.category)
        collected.unverified += int(np.count_nonzero(~verified))
        collected.outcomes.append(match(candidates[verified], truth, metric.group_weight))
    return collected


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is compared of some images of the run: little, since it may come from another process.

    Attributes:
        names: The file name of each image.
        failed: Whether each image failed.
        rotated: Whether each image is displayed rotated.
        image: `(N,)` index of the image of each detection that the selection keeps.
        label: `(N,)` names of their classes.
        mid: `(N,)` MIDs of their classes.
        score: `(N,)`.
        box: `(N, 4)` corners as fractions of the image.
    """

    names: Sequence[str]
    failed: Sequence[bool]
    rotated: Sequence[bool]
    image: Indices
    label: npt.NDArray[np.object_]
    mid: npt.NDArray[np.object_]
    score: npt.NDArray[np.floating[Any]]
    box: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Number of detections."""
        return len(self.image)

    def __getitem__(self, chosen: npt.NDArray[np.bool_]) -> _Batch:
        """Some of the detections."""
        columns = ("image", "label", "mid", "score", "box")
        return replace(self, **{name: getattr(self, name)[chosen] for name in columns})


def _read(selection: Selection, batches: Iterable[DetectionBatch]) -> list[_Batch]:
    return [_batch_of(batch, batch.kept(selection)) for batch in batches]


def _batch_of(batch: DetectionBatch, kept: DetectionBatch) -> _Batch:
    size = np.stack([kept.width, kept.height, kept.width, kept.height], axis=1)
    return _Batch(
        names=[facts.file_name for facts in batch.images],
        failed=batch.failed,
        rotated=[facts.orientation_to(STORED) != 1 for facts in batch.images],
        image=kept.image,
        label=kept.label,
        mid=kept.mid,
        score=kept.score,
        box=kept.xyxy / size,
    )


def _positions_of_images(batch: _Batch, truth: OpenImagesTruth, collected: _Collected) -> Indices:
    """Position of each image of a batch in the truth, or -1. Raises EvaluateError if two images have the same name."""
    positions = np.full(len(batch.names), -1, np.intp)
    for number, name in enumerate(batch.names):
        position = truth.images.get(stem(name), -1)
        if position < 0:
            collected.only_run += 1
            if len(collected.unknown_names) < MAX_NAMES:
                collected.unknown_names.append(name)
            continue
        if position in collected.matched:
            raise EvaluateError(
                f"{collected.matched[position]!r} and {name!r} of the run have the same image id: the truth does not "
                "tell which of them it is for"
            )
        collected.matched[position] = name
        positions[number] = position
        collected.failed += batch.failed[number]
        collected.rotated += batch.rotated[number]
    return positions


def _scored(
    info: RunInfo, outcomes: Outcomes, truth: OpenImagesTruth, matched: Indices, options: EvaluateOptions
) -> Iterator[OpenImagesClass]:
    """The results of the classes that the selection admits and that have boxes or detections."""
    classes, group_weight = truth.classes, METRICS[options.metric].group_weight
    objects, groups = (boxes.count_by_class(matched, len(classes)) for boxes in (truth.objects, truth.groups))
    # Of equal scores, the order of the images decides: that of their ids, however the run is ordered.
    order = np.lexsort((outcomes.image, outcomes.category))
    score, correct = outcomes.score[order], outcomes.correct[order]
    bounds = np.searchsorted(outcomes.category[order], np.arange(len(classes) + 1)).tolist()
    labels = {known.mid: known.name for known in info.classes or ()}
    for number, (mid, name) in enumerate(zip(classes.mids, classes.names, strict=True)):
        begin, end = bounds[number : number + 2]
        occurs = objects[number] or groups[number] or begin < end
        if not occurs or not options.selection.admits(labels.get(mid, name), mid):
            continue
        total = int(objects[number] + group_weight * groups[number])
        yield OpenImagesClass(
            mid=mid,
            name=name,
            ap=average_precision(score[begin:end], correct[begin:end], total),
            objects=int(objects[number]),
            groups=int(groups[number]),
            detections=end - begin,
            correct=int(np.count_nonzero(correct[begin:end])),
        )


def _notes(info: RunInfo, collected: _Collected, truth: OpenImagesTruth, options: EvaluateOptions) -> list[str]:
    lines = []
    missing = len(truth.images) - len(collected.matched)
    if missing:
        lines.append(
            f"{'--images' if options.listed.images else 'the run'} has {len(collected.matched):,} of the truth's "
            f"{len(truth.images):,} images; mean AP is usually higher on a part, which has fewer classes"
        )
    if options.expand_detections:
        lines.append("detections count for all classes above their own, too, which the Challenge does not do by itself")
    elif METRICS[options.metric].by_tree:
        lines.append(
            "boxes of the truth count for all classes above their own, detections for their own class only, as in the "
            "Challenge; --expand-detections treats both alike"
        )
    if collected.rotated and options.truth_frame == AUTO:
        lines.append(
            f"{collected.rotated:,} images have an EXIF orientation: boxes are for the stored pixels, as Open Images "
            "defines them; --truth-frame display if these files were rotated since"
        )
    return [*lines, *score_notes(info, collected.lowest if collected.known else None, options.selection)]


def _no_class_message(names: Iterable[str]) -> str:
    return (
        f"no class of the run is a class of Open Images: it has {first_of([*names], MAX_NAMES)}. Classes are compared "
        "by MID, which a label map can give: `prelabel label --label-map`"
    )
