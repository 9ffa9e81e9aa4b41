"""Adds up what came out for each image, and says how far the sums can be trusted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from prelabel.compare.annotated import Annotations
from prelabel.compare.fates import FATES, KEPT, MOVED, RELABELLED, Fate
from prelabel.compare.options import CompareOptions
from prelabel.compare.result import BINS, ClassFates, Comparison, Times
from prelabel.compare.shown import Basis, SeenScores, floors
from prelabel.evaluate.image_names import QUOTED, STEM, UPLOAD
from prelabel.evaluate.outcomes import Ranking
from prelabel.evaluate.work import COMMON, Work, work
from prelabel.export.reading import RunInfo

#: Classes that a note names.
_NAMED = 5

#: Why an image is left out.
SIZE, OTHER, BLANK = "size", "other", "blank"

NOTHING_SEEN = SeenScores({})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out for one image.

    Attributes:
        left_out: One of the reasons above, or `""`.
        words: About that.
        fates: Of its detections and regions.
        seconds: How long it took, or None.
        failed: Whether it failed in the run.
        said: Whether its annotation says what was shown.
        swapped: Whether its size was that of the unturned file.
        unproven: Detections that were shown although the selection leaves them out.
        not_shown: Detections that a stated selection keeps and the annotation does not have.
        seen: What it says of the scores shown.
    """

    left_out: str = ""
    words: str = ""
    fates: tuple[Fate, ...] = ()
    seconds: float | None = None
    failed: bool = False
    said: bool = False
    swapped: bool = False
    unproven: int = 0
    not_shown: int = 0
    seen: SeenScores = NOTHING_SEEN


class Tally:
    """Adds up the images."""

    def __init__(self) -> None:
        self.compared: list[Outcome] = []
        self.left_out: dict[str, list[str]] = defaultdict(list)
        self.ways: Counter[str] = Counter()
        self.unclear: list[str] = []
        self.untouched = 0

    def add(self, way: str, outcome: Outcome) -> None:
        """One image that is surely the one that was annotated."""
        self.ways[way] += 1
        if outcome.left_out:
            self.left_out[outcome.left_out].append(outcome.words)
        else:
            self.compared.append(outcome)

    def result(
        self,
        info: RunInfo,
        annotations: Annotations,
        options: CompareOptions,
        basis: Basis,
        notes: Sequence[str],
    ) -> Comparison:
        """Everything counted."""
        images = [one.fates for one in self.compared]
        every = [fate for image in images for fate in image]
        by_class = _by_class(every)
        floor_of = floors(one.seen for one in self.compared)
        rankings = {name: _ranking(images, name, floor_of) for name in by_class}
        together = _ranking(images, None, floor_of)
        seconds = [one.seconds for one in self.compared if one.seconds is not None]
        pairs = Counter(
            (fate.predicted or "", label)
            for fate in every
            if fate.fate == RELABELLED
            for label in fate.objects
            if label.casefold() != (fate.predicted or "").casefold()
        )
        said = sum(one.said for one in self.compared)
        done = work(rankings, together)
        class_floors = {name: floor_of.get(name.casefold()) for name in by_class}
        return Comparison(
            info=info,
            annotations=annotations.shown,
            iou=options.iou,
            kept_iou=options.kept_iou,
            images=len(images),
            failed=sum(one.failed for one in self.compared),
            open=annotations.open,
            skipped=annotations.skipped,
            only_annotations=self.untouched,
            other_model=len(self.left_out[OTHER]),
            blank=len(self.left_out[BLANK]),
            by_annotations=said,
            basis=basis.source,
            shown=_shown_words(said, len(images), basis),
            by_class=by_class,
            floors=class_floors,
            relabelled=[(*pair, count) for pair, count in sorted(pairs.items(), key=lambda one: (-one[1], one[0]))],
            times=Times(len(seconds), sum(seconds), median(seconds)) if seconds else None,
            work=done,
            notes=(
                *annotations.notes,
                *notes,
                *self._notes(basis, annotations, said),
                *_threshold_notes(done, class_floors),
            ),
        )

    def _notes(self, basis: Basis, annotations: Annotations, said: int) -> list[str]:
        notes = list(basis.notes) if said < len(self.compared) else []
        sizes, other, blank = (self.left_out[reason] for reason in (SIZE, OTHER, BLANK))
        if sizes:
            notes.append(f"{len(sizes)} images are left out: another size in the annotations, e.g. {sizes[0]}")
        if other:
            names = ", ".join(sorted({name or "no model version" for name in other})[:3])
            notes.append(f"{len(other)} images are left out: people began with predictions of {names}, not of this run")
        if blank:
            notes.append(f"{len(blank)} images are left out: people began with no prediction, e.g. on {blank[0]!r}")
        if self.unclear:
            names = ", ".join(map(repr, self.unclear[:3]))
            notes.append(f"{len(self.unclear)} images are left out: it is not clear which is meant, e.g. by {names}")
        for way in (STEM, QUOTED, UPLOAD):
            if self.ways[way]:
                notes.append(f"{self.ways[way]} images were found by their {way} only")
        swapped = sum(one.swapped for one in self.compared)
        if swapped:
            notes.append(f"{swapped} images have the size of the unturned file in the annotations: it was turned")
        notes += self._contradictions(basis)
        return notes

    def _contradictions(self, basis: Basis) -> list[str]:
        unproven, not_shown = (sum(getattr(one, name) for one in self.compared) for name in ("unproven", "not_shown"))
        notes = []
        if not_shown:
            notes.append(
                f"{not_shown} detections that the selection given keeps were not shown by what the annotations say of "
                "their beginning; they count as deleted: without a selection, what the annotations say is taken"
            )
        if unproven:
            notes.append(
                f"{unproven} detections were shown although the selection ({basis.source}) leaves them out: it is not "
                "that of the export people worked on"
            )
        return notes


def _threshold_notes(done: Work, class_floors: Mapping[str, float | None]) -> list[str]:
    """How far the suggested thresholds can be trusted."""
    if done.unseen is None:
        notes = [f"thresholds are chosen on {done.images} images: 10 are needed to judge them on others"]
    else:
        corrections = done.per_100(done.headline.corrections)
        notes = [
            "suggested: "
            + (
                "one threshold for all classes"
                if done.recommended == COMMON
                else "some classes with their own threshold"
            )
            + f"; {corrections:,.1f} corrections per 100 images where they had no part in choosing"
        ]
    lowest = [
        name
        for name, floor in class_floors.items()
        if floor is not None and np.float32(done.by_class[name].suggested.threshold) <= np.float32(floor)
    ]
    if lowest:
        more = f" and {len(lowest) - _NAMED} more" if len(lowest) > _NAMED else ""
        notes.append(
            f"of {', '.join(lowest[:_NAMED])}{more} the lowest score of what people were shown is suggested: what a "
            "lower one would save nobody knows"
        )
    return notes


def _shown_words(said: int, images: int, basis: Basis) -> str:
    if said == images:
        return "what the annotations began with"
    return basis.words if not said else f"what {said:,} annotations began with; of the others {basis.words}"


def _by_class(every: Sequence[Fate]) -> dict[str, ClassFates]:
    counts: dict[str, Counter[str]] = {}
    overlaps: dict[str, list[float]] = {}
    objects: Counter[str] = Counter()
    spelling: dict[str, str] = {}
    for fate in every:
        for name in (fate.predicted, *fate.objects):
            if name is not None:
                spelling.setdefault(name.casefold(), name)
        name = spelling[(fate.predicted if fate.predicted is not None else fate.label or "").casefold()]
        counts.setdefault(name, Counter())[fate.fate] += 1
        if fate.fate in (KEPT, MOVED) and fate.iou is not None:
            overlaps.setdefault(name, []).append(fate.iou)
        for object_name in fate.objects:
            label = spelling[object_name.casefold()]
            objects[label] += 1
            counts.setdefault(label, Counter())
    result = {
        name: ClassFates(
            counts={fate: some[fate] for fate in FATES},
            overlaps=_histogram(overlaps.get(name, [])),
            objects=objects[name],
        )
        for name, some in counts.items()
    }
    return dict(sorted(result.items(), key=lambda one: (-one[1].objects - one[1].shown, one[0])))


def _histogram(overlaps: Sequence[float]) -> tuple[int, ...]:
    """`BINS` counts; what lies between two parts belongs to the upper one, also where it cannot be told exactly."""
    counts = [0] * BINS
    for value in overlaps:
        counts[min(int(value * BINS + 1e-9), BINS - 1)] += 1
    return tuple(counts)


def _ranking(images: Sequence[Sequence[Fate]], name: str | None, floor_of: Mapping[str, float]) -> Ranking:
    """The detections of a class that people saw, or of all classes, by descending score.

    A detection below its class's floor was shown on some images only: it is none of the ranking's, and its object is
    one that nothing has found.
    """

    def is_it(label: str | None) -> bool:
        return label is not None and (name is None or label.casefold() == name.casefold())

    seen = [
        (fate.score, fate.right, place)
        for place, image in enumerate(images)
        for fate in image
        if fate.predicted is not None and fate.score is not None and is_it(fate.predicted)
        if np.float32(fate.score) >= np.float32(floor_of.get(fate.predicted.casefold(), 0.0))
    ]
    seen.sort(key=lambda one: -one[0])
    known = floor_of.values() if name is None else [floor_of.get(name.casefold(), 0.0)]
    return Ranking(
        score=np.array([score for score, _, _ in seen], np.float32),
        right=np.array([right for _, right, _ in seen], bool),
        image=np.array([place for _, _, place in seen], np.int64),
        objects=np.array([sum(is_it(label) for fate in image for label in fate.objects) for image in images], np.int64),
        floor=min(known, default=0.0),
    )


def why_none(info: RunInfo, annotations: Annotations, tally: Tally, some: Sequence[str]) -> str:
    left_out = tally.left_out
    if left_out[SIZE]:
        return f"all images have another size in {annotations.shown}, e.g. {left_out[SIZE][0]}"
    if left_out[OTHER]:
        theirs = sorted({name or "no model version" for name in left_out[OTHER]})
        return (
            f"people did not begin with this run's predictions ({info.model_version}) but with those of "
            f"{', '.join(theirs[:3])}: compare with that run"
        )
    if left_out[BLANK]:
        return (
            f"no annotation of {annotations.shown} began with a prediction: people drew everything by hand; "
            "`evaluate` holds a run against such annotations"
        )
    if tally.unclear:
        return f"no image is clear: several could be {', '.join(map(repr, tally.unclear[:3]))}"
    if not annotations.images:
        return f"{annotations.shown} has no image that somebody is done with ({annotations.open} are open)"
    theirs = [repr(one.image_id or one.path) for one in annotations.images[:3]]
    ours = ", ".join(map(repr, some)) or "no images"
    return (
        f"no image of {annotations.shown} is in the run: the run has {ours}, ..., the annotations "
        f"{', '.join(theirs)}, ..."
    )
