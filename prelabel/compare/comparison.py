"""`compare`: a run against what people made of it, from reading to the result that all reports are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

import numpy as np

from prelabel.compare.annotated import Annotations
from prelabel.compare.fates import FATES, KEPT, MOVED, RELABELLED, Fate, fates
from prelabel.compare.images import ImageFinder
from prelabel.compare.options import CompareOptions
from prelabel.compare.reading import read_annotations
from prelabel.compare.result import BINS, ClassFates, Comparison, Times
from prelabel.errors import EvaluateError
from prelabel.evaluate.outcomes import Ranking
from prelabel.evaluate.work import work
from prelabel.export.reading import Rows, RunInfo
from prelabel.storage import Storage


def compare(info: RunInfo, rows: Rows, options: CompareOptions, storage: Storage) -> Comparison:
    """Compare a run with what people made of it; the rows are read once.

    Args:
        info: The run.
        rows: Begins reading its rows.
        options: What people made, and how to compare.
        storage: Opens the annotations.

    Raises:
        ConfigError: There is no such file, or an option names a class that the detector does not have.
        EvaluateError: The annotations cannot be read, or no image of theirs is in the run.
    """
    if info.classes is not None:
        options.require_known_names((one.name for one in info.classes), (one.mid for one in info.classes))
    annotations = read_annotations(options.annotations, storage)
    finder = ImageFinder(annotations.images)
    gathered = _Gathered()
    for row in rows():
        image = finder.find(row)
        if image is None:
            gathered.name(row.file_name)
            continue
        size = None if row.detections is None else (row.detections.height, row.detections.width)
        if image.size is not None and size is not None and image.size != size:
            gathered.other_size(row.file_name, size, image.size)
            continue
        gathered.failed += row.detections is None
        every = fates(info.model_version, row.image_id, row.detections, image.regions, options)
        gathered.add(list(every), image.seconds)
    if not gathered.images:
        raise EvaluateError(_why_none(annotations, gathered))
    return gathered.result(info, annotations, options, len(finder.left))


def _why_none(annotations: Annotations, gathered: _Gathered) -> str:
    if gathered.sizes:
        return f"all images have another size in {annotations.shown}, e.g. {gathered.sizes[0]}"
    if not annotations.images:
        return f"{annotations.shown} has no image that somebody is done with ({annotations.open} are open)"
    theirs = ", ".join(repr(one.image_id or one.path) for one in annotations.images[:3])
    ours = ", ".join(map(repr, gathered.names)) or "no images"
    return f"no image of {annotations.shown} is in the run: the run has {ours}, ..., the annotations {theirs}, ..."


class _Gathered:
    """Counts images and fates while rows are read."""

    def __init__(self) -> None:
        self.images: list[list[Fate]] = []
        self.seconds: list[float] = []
        self.failed = 0
        self.names: list[str] = []
        self.sizes: list[str] = []

    def name(self, file_name: str) -> None:
        """An image of the run that nobody is done with."""
        if len(self.names) < 3:
            self.names.append(file_name)

    def other_size(self, file_name: str, size: tuple[int, int], theirs: tuple[int, int]) -> None:
        """An image left out because its size differs."""
        self.sizes.append(f"{file_name!r} ({size[1]} x {size[0]}, in the annotations {theirs[1]} x {theirs[0]})")

    def add(self, every: list[Fate], seconds: float | None) -> None:
        """The fates on one image, and how long it took."""
        self.images.append(every)
        if seconds is not None:
            self.seconds.append(seconds)

    def result(self, info: RunInfo, annotations: Annotations, options: CompareOptions, left: int) -> Comparison:
        """Everything counted."""
        every = [fate for image in self.images for fate in image]
        by_class = _by_class(every)
        together = _ranking(self.images, None)
        notes = list(annotations.notes)
        if self.sizes:
            notes.append(
                f"{len(self.sizes)} images are left out: another size in the annotations, e.g. {self.sizes[0]}"
            )
        if together.total and len(together.score):
            notes.append(
                f"of detections below {float(together.score[-1]):.2g} nothing is known, as nobody saw them: "
                "lower thresholds cannot be suggested"
            )
        pairs = Counter((fate.predicted or "", fate.label or "") for fate in every if fate.fate == RELABELLED)
        return Comparison(
            info=info,
            annotations=annotations.shown,
            iou=options.iou,
            kept_iou=options.kept_iou,
            images=len(self.images),
            failed=self.failed,
            open=annotations.open,
            skipped=annotations.skipped,
            only_annotations=left,
            by_class=by_class,
            relabelled=[(*pair, count) for pair, count in sorted(pairs.items(), key=lambda one: (-one[1], one[0]))],
            times=Times(len(self.seconds), sum(self.seconds), median(self.seconds)) if self.seconds else None,
            work=work({name: _ranking(self.images, name) for name in by_class}, together),
            notes=tuple(notes),
        )


def _by_class(every: Sequence[Fate]) -> dict[str, ClassFates]:
    counts: dict[str, Counter[str]] = {}
    overlaps: dict[str, list[float]] = {}
    objects: Counter[str] = Counter()
    spelling: dict[str, str] = {}
    for fate in every:
        for name in (fate.predicted, fate.label):
            if name is not None:
                spelling.setdefault(name.casefold(), name)
        name = spelling[(fate.predicted if fate.predicted is not None else fate.label or "").casefold()]
        counts.setdefault(name, Counter())[fate.fate] += 1
        if fate.fate in (KEPT, MOVED) and fate.iou is not None:
            overlaps.setdefault(name, []).append(fate.iou)
        if fate.label is not None:
            label = spelling[fate.label.casefold()]
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


def _ranking(images: Sequence[Sequence[Fate]], name: str | None) -> Ranking:
    """The detections of a class that people saw, or of all classes, by descending score."""

    def is_it(label: str | None) -> bool:
        return label is not None and (name is None or label.casefold() == name.casefold())

    seen = [(fate, place) for place, image in enumerate(images) for fate in image if is_it(fate.predicted)]
    seen.sort(key=lambda one: -(one[0].score or 0))
    return Ranking(
        score=np.array([fate.score for fate, _ in seen], np.float32),
        right=np.array([fate.right for fate, _ in seen], bool),
        image=np.array([place for _, place in seen], np.int64),
        objects=np.array([sum(is_it(fate.label) for fate in image) for image in images], np.int64),
    )
