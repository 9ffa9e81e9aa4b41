"""`compare`: a run against what people made of it, from reading to the result that all reports are made from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from prelabel.compare.annotated import AnnotatedImage, Annotations
from prelabel.compare.fates import FATES, KEPT, MOVED, RELABELLED, Fate, fates
from prelabel.compare.options import CompareOptions
from prelabel.compare.reading import read_annotations
from prelabel.compare.result import BINS, ClassFates, Comparison, Times
from prelabel.compare.shown import STATED, Basis, SeenScores, ShownImage, basis_of, floors
from prelabel.errors import EvaluateError
from prelabel.evaluate.image_names import STEM, UPLOAD, Claims, ImageNames
from prelabel.evaluate.outcomes import Ranking
from prelabel.evaluate.truth_frame import Fit, TruthFrames
from prelabel.evaluate.work import work
from prelabel.export.parts import UNUSED, without
from prelabel.export.reading import Rows, RunInfo
from prelabel.frames import BROWSER, DISPLAY
from prelabel.storage import Storage
from prelabel.store.exports import ExportRecord
from prelabel.store.rows import ImageRow


def compare(
    info: RunInfo, rows: Rows, options: CompareOptions, storage: Storage, exports: Sequence[ExportRecord] = ()
) -> Comparison:
    """Compare a run with what people made of it; the rows are read once, for a COCO dataset twice.

    Args:
        info: The run.
        rows: Begins reading its rows.
        options: What people made, and how to compare.
        storage: Opens the annotations.
        exports: What was written down of the run's exports, the latest last.

    Raises:
        ConfigError: There is no such file, or an option names a class that the detector does not have.
        EvaluateError: The annotations cannot be read, or no image of theirs is in the run.
    """
    if info.classes is not None:
        options.require_known_names((one.name for one in info.classes), (one.mid for one in info.classes))
    annotations = read_annotations(options.annotations, storage)
    basis = basis_of(options, exports, annotations.tool)
    names = ImageNames(one.names(by_task=info.task_numbers) for one in annotations.images)
    claims: Claims[_Outcome] = Claims()
    some: list[str] = []
    fit_of = _fits(rows, annotations, names, options)
    for row in rows():
        way, found = names.find(row.image_id, row.file_name)
        if found:
            image, fit = annotations.images[found[0]], fit_of(found[0], row)
            claims.add(row.file_name, way, found, _outcome(info, row, image, fit, basis, options))
        elif len(some) < 3:
            some.append(row.file_name)
    gathered = _Gathered()
    for _, way, outcome in claims.decided():
        gathered.add(way, outcome)
    gathered.unclear = claims.unclear
    gathered.untouched = len(annotations.images) - len(claims.touched)
    if not gathered.compared:
        raise EvaluateError(_why_none(info, annotations, gathered, some))
    return gathered.result(info, annotations, options, basis, fit_of.notes())


class _Fits:
    """In which frame the regions of each annotated image lie."""

    def __init__(self, annotations: Annotations, frames: TruthFrames | None) -> None:
        """Takes the frames of a COCO dataset; None for Label Studio, where people drew on what their browser showed."""
        self._images = annotations.images
        self._frames = frames
        self._upright: list[str] = []

    def __call__(self, number: int, row: ImageRow) -> Fit | None:
        """How the annotated image at this position is to be read; None where it is another picture."""
        if self._frames is not None:
            return self._frames.of(self._frames.truth.images[number], row)
        size = self._images[number].size
        if size is None or row.height is None or _of_one_form(row.in_frame(BROWSER), size):
            return Fit(BROWSER)
        if not _of_one_form(row, size):
            return None
        self._upright.append(row.file_name)
        return Fit(DISPLAY)

    def notes(self) -> list[str]:
        """What was assumed."""
        if self._frames is not None:
            return self._frames.notes()
        if not self._upright:
            return []
        return [
            f"{len(self._upright)} images were drawn on upright, though browsers do not turn such files, e.g. "
            f"{self._upright[0]!r}"
        ]


#: Sizes may be those of a smaller copy, with sides that were rounded.
_ROUNDING = 0.02


def _of_one_form(row: ImageRow, size: tuple[int, int]) -> bool:
    """Whether a picture has the form of the one that people saw, whatever its scale."""
    height, width = size
    return abs((row.width or 0) * height / ((row.height or 1) * width) - 1) <= _ROUNDING


def _fits(rows: Rows, annotations: Annotations, names: ImageNames, options: CompareOptions) -> _Fits:
    """Reads the rows where the frames of a COCO dataset are to be told from its sizes."""
    truth = annotations.truth
    if truth is None:
        return _Fits(annotations, None)
    frames = TruthFrames(truth, options.annotations_frame, "annotations-frame")
    for row in without(rows, "masks", *UNUSED)():
        _, found = names.find(row.image_id, row.file_name)
        if len(found) == 1:
            frames.see(truth.images[found[0]], row)
    return _Fits(annotations, frames)


#: Why an image is left out.
_SIZE, _OTHER, _BLANK = "size", "other", "blank"

_NOTHING_SEEN = SeenScores({})


@dataclass(frozen=True, slots=True)
class _Outcome:
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
    seen: SeenScores = _NOTHING_SEEN


def _outcome(
    info: RunInfo,
    row: ImageRow,
    image: AnnotatedImage,
    fit: Fit | None,
    basis: Basis,
    options: CompareOptions,
) -> _Outcome:
    if fit is None:
        width, height = (image.size or (0, 0))[::-1]
        return _Outcome(_SIZE, f"{row.file_name!r} ({row.width} x {row.height}, in the annotations {width} x {height})")
    row = row.in_frame(fit.frame)
    image = image.on_turned() if fit.swapped else image
    stated = basis.source == STATED
    shown = ShownImage(info.model_version, row, image, basis, by_selection=stated)
    if not stated and not shown.said and not shown.proven:
        if image.starts:
            return _Outcome(_OTHER, image.starts[0].model_version)
        if image.blank:
            return _Outcome(_BLANK, row.file_name)
    not_shown, unproven = 0, len(shown.unproven)
    if stated and shown.start is not None:
        began = shown.start_numbers()
        not_shown, unproven = len(set(shown.chosen) - began), len(began - set(shown.chosen))
    return _Outcome(
        fates=tuple(fates(shown, image.regions, options)),
        seconds=image.seconds,
        failed=row.detections is None,
        said=shown.said,
        swapped=fit.swapped,
        unproven=unproven,
        not_shown=not_shown,
        seen=shown.seen_scores(),
    )


def _why_none(info: RunInfo, annotations: Annotations, gathered: _Gathered, some: Sequence[str]) -> str:
    left_out = gathered.left_out
    if left_out[_SIZE]:
        return f"all images have another size in {annotations.shown}, e.g. {left_out[_SIZE][0]}"
    if left_out[_OTHER]:
        theirs = sorted({name or "no model version" for name in left_out[_OTHER]})
        return (
            f"people did not begin with this run's predictions ({info.model_version}) but with those of "
            f"{', '.join(theirs[:3])}: compare with that run"
        )
    if left_out[_BLANK]:
        return (
            f"no annotation of {annotations.shown} began with a prediction: people drew everything by hand; "
            "`evaluate` holds a run against such annotations"
        )
    if gathered.unclear:
        return f"no image is clear: several could be {', '.join(map(repr, gathered.unclear[:3]))}"
    if not annotations.images:
        return f"{annotations.shown} has no image that somebody is done with ({annotations.open} are open)"
    theirs = [repr(one.image_id or one.path) for one in annotations.images[:3]]
    ours = ", ".join(map(repr, some)) or "no images"
    return (
        f"no image of {annotations.shown} is in the run: the run has {ours}, ..., the annotations "
        f"{', '.join(theirs)}, ..."
    )


class _Gathered:
    """Adds up the images."""

    def __init__(self) -> None:
        self.compared: list[_Outcome] = []
        self.left_out: dict[str, list[str]] = defaultdict(list)
        self.ways: Counter[str] = Counter()
        self.unclear: list[str] = []
        self.untouched = 0

    def add(self, way: str, outcome: _Outcome) -> None:
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
            other_model=len(self.left_out[_OTHER]),
            blank=len(self.left_out[_BLANK]),
            by_annotations=said,
            basis=basis.source,
            shown=_shown_words(said, len(images), basis),
            by_class=by_class,
            floors={name: floor_of.get(name.casefold()) for name in by_class},
            relabelled=[(*pair, count) for pair, count in sorted(pairs.items(), key=lambda one: (-one[1], one[0]))],
            times=Times(len(seconds), sum(seconds), median(seconds)) if seconds else None,
            work=work(rankings, together),
            notes=(*annotations.notes, *notes, *self._notes(basis, annotations, said)),
        )

    def _notes(self, basis: Basis, annotations: Annotations, said: int) -> list[str]:
        notes = list(basis.notes) if said < len(self.compared) else []
        sizes, other, blank = (self.left_out[reason] for reason in (_SIZE, _OTHER, _BLANK))
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
        for way in (STEM, UPLOAD):
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
