"""Pairs the images of a run with those of the truth, and gives their detections the truth's classes.

Boxes and masks are those in the shards, so the metrics are those of pycocotools on the detector's output. (`export
coco` rounds boxes to hundredths of a pixel. If it writes masks, it also widens the boxes to contain the masks.)
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prelabel.detections import ClassName
from prelabel.errors import EvaluateError, StoreError
from prelabel.export.base import Rows, RunInfo
from prelabel.export.categories import Category, ListedCategories
from prelabel.export.parallel import UNUSED, map_parts_with
from prelabel.frames import BROWSER, oriented_size
from prelabel.keypoints import COCO_PERSON, KeypointSet
from prelabel.masks import rle
from prelabel.review.image_matching import (
    BY_NAME,
    Claims,
    ImageCounts,
    MatchingImage,
    by_part,
    find_matching_images,
    names_of_truth,
    no_image_message,
)
from prelabel.review.options import EvaluateOptions
from prelabel.review.truth import Truth, TruthImage, TruthObject
from prelabel.review.truth_frame import Fit, TruthFrames
from prelabel.select import Selection
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.rows import FAILED

#: How many classes of each side a message names.
_MAX_NAMES = 8


@dataclass(frozen=True, slots=True)
class ImageDetections:
    """The detections of one image in the truth's classes, by descending score.

    Attributes:
        category: `(N,)` category ids of the truth.
        xywh: `(N, 4)` float64 pixels.
        score: `(N,)` float32.
        rle: N masks as `{"size", "counts"}`, or None for detections without one.
        compared: `(N,)` whether the option `compare_thresholds` keeps each detection; all True if it is not given.
        keypoints: `(N, K, 3)` x, y, score, or None without keypoints.
    """

    category: npt.NDArray[np.int64]
    xywh: npt.NDArray[np.float64]
    score: npt.NDArray[np.float32]
    rle: tuple[dict[str, Any] | None, ...]
    compared: npt.NDArray[np.bool_]
    keypoints: npt.NDArray[np.float32] | None = None

    @classmethod
    def join(cls, parts: Sequence[ImageDetections]) -> ImageDetections:
        """The detections of several parts, one after the other."""
        return cls(
            np.concatenate([part.category for part in parts] or [np.empty(0, np.int64)]),
            np.concatenate([part.xywh for part in parts] or [np.empty((0, 4))]),
            np.concatenate([part.score for part in parts] or [np.empty(0, np.float32)]),
            tuple(itertools.chain.from_iterable(part.rle for part in parts)),
            np.concatenate([part.compared for part in parts] or [np.empty(0, bool)]),
            _joined_keypoints(parts),
        )

    def __getitem__(self, index: slice) -> ImageDetections:
        """Some of the detections, which share the arrays."""
        keypoints = None if self.keypoints is None else self.keypoints[index]
        return ImageDetections(
            self.category[index], self.xywh[index], self.score[index], self.rle[index], self.compared[index], keypoints
        )

    def only_compared(self) -> ImageDetections:
        """The detections that the option `compare_thresholds` keeps."""
        kept = self.compared
        masks = tuple(itertools.compress(self.rle, kept))
        keypoints = None if self.keypoints is None else self.keypoints[kept]
        return ImageDetections(self.category[kept], self.xywh[kept], self.score[kept], masks, kept[kept], keypoints)


def _joined_keypoints(parts: Sequence[ImageDetections]) -> npt.NDArray[np.float32] | None:
    """The keypoints of several parts: 0 0 0 where a part has none, None if no part has any."""
    # A part without detections may have keypoints of the shape (0, 0, 3): their number is not known there.
    number = max((part.keypoints.shape[1] for part in parts if part.keypoints is not None), default=0)
    if not number:
        return None
    empty = [np.zeros((len(part.score), number, 3), np.float32) for part in parts]
    known = (part.keypoints if len(part.score) else None for part in parts)
    return np.concatenate([none if some is None else some for some, none in zip(known, empty, strict=True)])


@dataclass(frozen=True, slots=True)
class ImagePair:
    """One image that is in the run and in the truth.

    Attributes:
        file_name: File name in the truth.
        height: Height in pixels from the run, else from the truth, else 0.
        width: Width in pixels, as for the height.
        objects: The truth's objects.
        detections: The run's detections, in the same frame as the objects.
        uri: The image's URI in the run.
        image_id: The image's id in the run.
        as_in_browser: Whether the frame has the same orientation as the image in a browser, so that boxes fit on it.
    """

    file_name: str
    height: int
    width: int
    objects: tuple[TruthObject, ...]
    detections: ImageDetections
    uri: str = ""
    image_id: str = ""
    as_in_browser: bool = True


@dataclass(frozen=True, slots=True)
class ObjectColumns:
    """The objects (G) of all images as parallel arrays, image by image.

    Attributes:
        objects: The objects.
        image: `(G,)` positions of the images.
        category: `(G,)` category ids of the truth.
        xywh: `(G, 4)` float64 pixels.
        crowd: `(G,)` whether each object is a crowd region.
    """

    objects: Sequence[TruthObject]
    image: npt.NDArray[np.int64]
    category: npt.NDArray[np.int64]
    xywh: npt.NDArray[np.float64]
    crowd: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, pairs: Sequence[ImagePair]) -> ObjectColumns:
        """The objects of these images."""
        objects = [annotation for pair in pairs for annotation in pair.objects]
        return cls(
            objects=objects,
            image=np.repeat(np.arange(len(pairs)), [len(pair.objects) for pair in pairs]),
            category=np.array([annotation.category_id for annotation in objects], np.int64),
            xywh=np.array([annotation.bbox for annotation in objects], np.float64).reshape(-1, 4),
            crowd=np.array([annotation.crowd for annotation in objects], bool),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCounts:
    """How the classes of both sides were matched.

    Attributes:
        matched: The truth's class name -> the known classes of the detector that it is matched with.
        only_run: Classes of the run that are not in the truth -> number of their detections on matched images. These
            are ignored.
        only_truth: Classes of the truth that have objects and that the detector does not have or never detected.
    """

    matched: dict[str, tuple[ClassName, ...]]
    only_run: dict[str, int]
    only_truth: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gathered:
    """The images and classes to compare.

    Attributes:
        pairs: Images in the order of the truth.
        categories: Compared classes in the order of the truth.
        images: How images were matched.
        classes: How classes were matched.
        masks: Whether all objects and all detections have masks.
        keypoints: Whether keypoints can be scored.
        notes: Notes for the user, one line each.
    """

    pairs: tuple[ImagePair, ...]
    categories: tuple[Category, ...]
    images: ImageCounts
    classes: ClassCounts
    masks: bool
    keypoints: bool
    notes: tuple[str, ...]


def gather(info: RunInfo, rows: Rows, truth: Truth, options: EvaluateOptions) -> Gathered:
    """Read a run and pair its images with those of the truth; other images of the run are dropped.

    Rows are read twice, with `SpreadRows` by several processes: once to find the images that match, and once for the
    detections of shards with such images. Before that, the classes are read if the truth has MIDs, but the detector has
    no list of classes.

    Raises:
        ConfigError: An option names a class that the detector does not have.
        EvaluateError: No image or no class of the run is in the truth, the truth lists an image twice, or masks
            are scored and one does not fit its image.
    """
    selection = options.selection
    if info.classes is not None:
        for rules in (selection, options.compared):
            if rules is not None:
                rules.require_known_names(info.classes)
    classes_known = info.classes
    if classes_known is None and any(category.mid for category in truth.categories):
        # Names can be matched with MIDs only if all classes are known.
        classes_known = tuple(rows.classes())
    names = names_of_truth(truth, options.match)
    claims: Claims[_Match] = Claims()
    matching_images = find_matching_images(rows, names, claims, lambda facts: (facts.file_name, facts.image_id))
    frames = TruthFrames(truth, options.truth_frame, "--truth-frame")
    frames.vote(matching_images)
    other_sizes = _claim(matching_images, truth, frames, claims)
    decided = list(claims.decided())
    if not decided:
        raise EvaluateError(no_image_message(truth, options.match, claims, other_sizes))
    masks_read = _may_have_masks(truth.images[position] for position, _, _ in decided)
    unread = [*UNUSED, *(() if info.keypoints else ("keypoints",)), *(() if masks_read else ("masks",))]
    new_list = partial(ListedCategories, truth.categories, selection, classes_known)
    frame_by_number = by_part(rows, ((match.image, match.fit.frame) for _, _, match in decided))
    work = partial(_detections_of_part, new_list(), options)
    parts = list(map_parts_with(rows.without(*unread), work, frame_by_number))
    counts: Counter[ClassName] = Counter()
    for part in parts:
        counts.update(part.counts)
    # Not the list that the parts used: the order of its notes depends on which process worked on which part.
    listed = new_list()
    unmatched = {name: count for name, count in counts.items() if listed.id_of(name) is None}
    run_classes = sorted(
        (name for name in {*(info.classes or ()), *counts} if selection.admits(name.name, name.mid)),
        key=lambda name: (name.id, name.name),
    )
    # All categories of the truth, except those that `include_class` and `exclude_class` do not admit.
    in_run = {listed.id_of(name) for name in run_classes}
    categories = [c for c in truth.categories if c.id in in_run or selection.admits(c.name, c.mid)]
    admitted = {category.id for category in categories}
    pairs = tuple(
        _pair(truth.images[position], match, parts[match.image.part][match.image.number], admitted)
        for position, _, match in decided
    )
    classes = _class_counts(categories, run_classes, listed, unmatched, pairs)
    if run_classes and not any(classes.matched.values()):
        raise EvaluateError(_no_class_message(run_classes, truth, selection))
    if not categories:
        raise EvaluateError(f"--include-class and --exclude-class leave no class of {truth.display_url} to compare")
    masks, notes = _masks(info, pairs, read=masks_read)
    keypoints, more_notes = _keypoints(info, truth, pairs)
    notes = [*truth.notes, *frames.notes(), *selection.class_notes(run_classes), *listed.notes, *notes, *more_notes]
    images = _image_counts(truth, claims, decided, other_sizes)
    return Gathered(pairs, tuple(categories), images, classes, masks, keypoints, tuple(notes))


class _Match(NamedTuple):
    """An image of the run that may be compared with an image of the truth, and how to read the boxes of the truth."""

    image: MatchingImage
    fit: Fit


def _claim(images: Iterable[MatchingImage], truth: Truth, frames: TruthFrames, claims: Claims[_Match]) -> list[str]:
    """Claim the truth's images for those of the run.

    Returns:
        In words, the images of the run whose size shows that they are other images.
    """
    other_sizes: list[str] = []
    for image in images:
        facts, in_truth = image.facts, truth.images[image.positions[0]]
        fit = frames.fit(in_truth if len(image.positions) == 1 else None, facts)
        if fit is not None:
            claims.add(facts.file_name, image.way, image.positions, _Match(image, fit))
        else:
            claims.positions.update(image.positions)
            sizes = f"{facts.width} x {facts.height}, in the truth {in_truth.width} x {in_truth.height}"
            other_sizes.append(f"{facts.file_name!r} ({sizes})")
    return other_sizes


@dataclass(frozen=True, slots=True)
class _DetectionsOfPart:
    """The detections of the matched images of a part. Those of all images are in one array, which is sent faster.

    Attributes:
        detections: The detections, image by image.
        places: Where those of each image are, by its position in the part.
        counts: The number of detections of each class of the run, also of classes that the truth does not have.
    """

    detections: ImageDetections
    places: Mapping[int, slice]
    counts: Mapping[ClassName, int]

    def __getitem__(self, number: int) -> ImageDetections:
        return self.detections[self.places[number]]


def _detections_of_part(
    listed: ListedCategories,
    options: EvaluateOptions,
    batches: Iterable[DetectionBatch],
    frame_by_number: Mapping[int, str],
) -> _DetectionsOfPart:
    """The detections that have a category of the truth.

    Args:
        listed: Knows the categories.
        options: Which detections are kept and compared.
        batches: The rows of the part; not read if no image matches.
        frame_by_number: The frame of the truth's boxes for each matched image, by its position in the part.

    Raises:
        EvaluateError: A mask does not fit its image.
        StoreError: A mask cannot be rotated.
    """
    chunks: list[ImageDetections] = []
    places: dict[int, slice] = {}
    counts: Counter[ClassName] = Counter()
    first = done = 0
    for batch in batches if frame_by_number else ():
        frames = [frame_by_number.get(number) for number in range(first, first + len(batch.images))]
        for frame in dict.fromkeys(frame for frame in frames if frame is not None):
            in_frame = np.array([other == frame for other in frames], bool)
            kept, compared = _kept(batch.only_images(in_frame).in_frame(frame), options)
            detections, bounds = _in_truth_classes(kept, compared, listed, counts)
            chunks.append(detections)
            for number in np.flatnonzero(in_frame).tolist():
                places[first + number] = slice(done + bounds[number], done + bounds[number + 1])
            done += len(detections.score)
        first += len(batch.images)
    return _DetectionsOfPart(ImageDetections.join(chunks), places, counts)


def _kept(batch: DetectionBatch, options: EvaluateOptions) -> tuple[DetectionBatch, npt.NDArray[np.bool_]]:
    """The detections that the selection keeps, and which of them the option `compare_thresholds` keeps."""
    columns = (batch.score, batch.label, batch.mid, batch.xyxy, batch.image)
    rules = options.compared
    compared = np.full(len(batch), rules is None)
    if rules is not None:
        compared[rules.indices_by_image(*columns)] = True
    chosen = options.selection.indices_by_image(*columns)
    return batch[chosen], compared[chosen]


def _in_truth_classes(
    kept: DetectionBatch, compared: npt.NDArray[np.bool_], listed: ListedCategories, counts: Counter[ClassName]
) -> tuple[ImageDetections, list[int]]:
    """The detections that have a category of the truth, and where those of each image begin and end.

    The detections of all classes are counted in `counts`. Raises EvaluateError if a mask does not fit its image.
    """
    names = list(zip(kept.category_id.tolist(), kept.label.tolist(), kept.mid.tolist(), strict=True))
    category_of: dict[tuple[int, str, str], int | None] = {}
    for name, count in Counter(names).items():
        counts[ClassName(*name)] += count
        category_of[name] = listed.id_of(ClassName(*name))
    categories = [category_of[name] for name in names]
    chosen = np.array([category is not None for category in categories], bool)
    in_truth = kept[chosen]
    detections = ImageDetections(
        np.array([category for category in categories if category is not None], np.int64),
        xywh(in_truth.xyxy.astype(np.float64)),
        in_truth.score,
        _rles(in_truth),
        compared[chosen],
        in_truth.keypoints,
    )
    return detections, np.searchsorted(in_truth.image, np.arange(len(kept.images) + 1)).tolist()


def xywh(xyxy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Convert `(N, 4)` boxes from two corners to x, y, width, height."""
    return np.concatenate((xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]), axis=1)


def _rles(detections: DetectionBatch) -> tuple[dict[str, Any] | None, ...]:
    """The mask of each detection in COCO's form. Raises EvaluateError if one does not fit its image."""
    if detections.mask is None:
        return (None,) * len(detections)
    masks: list[dict[str, Any] | None] = []
    size_of: dict[int, list[int]] = {}  # shared by the masks of an image, which saves memory
    columns = (detections.mask, detections.height, detections.width, detections.image)
    for counts, height, width, image in zip(*(column.tolist() for column in columns), strict=True):
        if counts is None:
            masks.append(None)
            continue
        try:
            rle.validate(counts, height, width)
        except StoreError as error:
            raise EvaluateError(f"image {detections.images[image].image_id!r}: {error}") from None
        masks.append({"size": size_of.setdefault(image, [height, width]), "counts": counts})
    return tuple(masks)


def _pair(image: TruthImage, match: _Match, detections: ImageDetections, admitted: set[int]) -> ImagePair:
    """The pair of a matched image, with the objects of admitted categories."""
    facts, fit = match.image.facts, match.fit
    height, width, orientation = facts.height, facts.width, facts.orientation_to(fit.frame)
    if height is not None and width is not None:
        height, width = oriented_size(height, width, orientation)
    return ImagePair(
        image.file_name,
        height or image.height or 0,
        width or image.width or 0,
        tuple(annotation for annotation in fit.objects(image) if annotation.category_id in admitted),
        detections,
        facts.uri,
        facts.image_id,
        orientation == facts.orientation_to(BROWSER),
    )


def _image_counts(
    truth: Truth,
    claims: Claims[_Match],
    decided: Sequence[tuple[int, str, _Match]],
    other_sizes: Sequence[str],
) -> ImageCounts:
    unclear = claims.unclear
    return ImageCounts(
        matched=len(decided),
        failed=sum(match.image.facts.status == FAILED for _, _, match in decided),
        by_stem=sum(way in BY_NAME for _, way, _ in decided),
        only_run=claims.unknown + claims.count - len(decided) - len(unclear),
        only_truth=len(truth.images) - len(claims.positions),
        other_size=len(other_sizes),
        unclear=len(unclear),
        swapped=sum(match.fit.swapped for _, _, match in decided),
        other_size_example=other_sizes[0] if other_sizes else "",
        unclear_example=unclear[0] if unclear else "",
    )


def _class_counts(
    categories: Iterable[Category],
    run_classes: Iterable[ClassName],
    listed: ListedCategories,
    unmatched: Mapping[ClassName, int],
    pairs: Iterable[ImagePair],
) -> ClassCounts:
    members: dict[int | None, list[ClassName]] = {}
    for name in run_classes:
        members.setdefault(listed.id_of(name), []).append(name)
    with_objects = {annotation.category_id for pair in pairs for annotation in pair.objects if not annotation.crowd}
    only_run: Counter[str] = Counter()
    for name, count in unmatched.items():
        only_run[name.name] += count
    return ClassCounts(
        matched={category.name: tuple(members.get(category.id, ())) for category in categories},
        only_run=dict(only_run.most_common()),
        only_truth=tuple(c.name for c in categories if c.id in with_objects and c.id not in members),
    )


def _may_have_masks(images: Iterable[TruthImage]) -> bool:
    """Whether masks may be scored: any object has one, or there are no objects, so that none lacks one."""
    objects = [annotation for image in images for annotation in image.objects]
    return not objects or any(map(_has_segmentation, objects))


def _has_segmentation(annotation: TruthObject) -> bool:
    return annotation.segmentation is not None or annotation.invalid_segmentation


def _masks(info: RunInfo, pairs: Sequence[ImagePair], *, read: bool) -> tuple[bool, list[str]]:
    """Whether masks are scored; if not, although the run has masks, also a note with the reason.

    Args:
        info: The run.
        pairs: The images.
        read: Whether the masks of the detections have been read.
    """
    no_masks_in_truth = ["masks are not scored: not every object of the truth has a segmentation"]
    if not read:
        return False, no_masks_in_truth if info.masks else []
    with_mask = [mask is not None for pair in pairs for mask in pair.detections.rle]
    if not any(with_mask) and not (info.masks and not with_mask):
        return False, []
    objects = [annotation for pair in pairs for annotation in pair.objects]
    if not all(map(_has_segmentation, objects)):
        return False, no_masks_in_truth
    if objects and all(annotation.invalid_segmentation for annotation in objects):
        return False, ["masks are not scored: no object of the truth has a valid segmentation"]
    if not all(with_mask):
        return False, ["masks are not scored: not every detection has a mask"]
    return True, []


def _keypoints(info: RunInfo, truth: Truth, pairs: Sequence[ImagePair]) -> tuple[bool, list[str]]:
    """Whether keypoints are scored; if not, although both sides have some, also a note with the reason."""
    objects = [annotation for pair in pairs for annotation in pair.objects if annotation.keypoints]
    if info.keypoints is None or not any(any(annotation.keypoints[2::3]) for annotation in objects):
        return False, []
    measure = "COCO's measure knows only its 17 keypoints of a person"
    if not info.keypoints.is_coco_person:
        names = ", ".join(map(repr, info.keypoints.names[:3]))
        return False, [
            f"keypoints are not scored: {measure}, and the run has {len(info.keypoints)} ({names}, ...); if they are "
            "COCO's, run `label` with --keypoint-names coco-person"
        ]
    named = [truth.keypoint_names[number] for number in {o.category_id for o in objects} & truth.keypoint_names.keys()]
    if not all(len(annotation.keypoints) == 3 * len(COCO_PERSON) for annotation in objects) or not all(
        names and KeypointSet.named(names).is_coco_person for names in named
    ):
        return False, [f"keypoints are not scored: {measure}, and the truth has others"]
    return True, []


def _no_class_message(run_classes: Iterable[ClassName], truth: Truth, selection: Selection) -> str:
    in_run = [(selection.label_of(name.name, name.mid), name.mid) for name in run_classes]
    in_truth = [(category.name, category.mid) for category in truth.categories]
    message = (
        f"no class of the run is in {truth.display_url}: the run has {_first_names(in_run)}, the truth has "
        f"{_first_names(in_truth)}. Pair the names with --class-map RUN_CLASS=TRUTH_CLASS"
    )
    if any(mid for _, mid in in_run) and not all(mid for _, mid in in_truth):
        message += ", or pair by MID: --truth-labels coco for COCO's class names, --truth-labels FILE for others"
    return message


def _first_names(classes: Sequence[tuple[str, str]]) -> str:
    names = [f"{name!r}" + (f" ({mid})" if mid else "") for name, mid in classes]
    return ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
