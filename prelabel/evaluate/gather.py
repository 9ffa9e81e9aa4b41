"""From the rows of a run to what is compared: the images both sides know, with detections in the truth's classes.

Boxes and masks are the detector's own, as shards hold them: the figures are those of pycocotools on the detector's
answers. (`export coco` rounds boxes to hundredths of a pixel and, where it writes masks, widens them to contain those.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel import rle
from prelabel.detections import Detections
from prelabel.errors import EvaluateError, StoreError
from prelabel.evaluate.options import EvaluateOptions
from prelabel.evaluate.pairing import ImageCounts, Pairing
from prelabel.evaluate.truth import Truth, TruthObject
from prelabel.evaluate.truth_frame import Fit, TruthFrames
from prelabel.export.categories import Category, ListedCategories
from prelabel.export.class_list import classes_in
from prelabel.export.parts import UNUSED, without
from prelabel.export.reading import Rows, RunInfo
from prelabel.store.rows import ImageRow
from prelabel.store.run import ClassName

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Found:
    """The detections of one image in the truth's classes, by descending score.

    Attributes:
        category: `(N,)` category ids of the truth.
        xywh: `(N, 4)` float64 pixels.
        score: `(N,)` float32.
        rle: N masks as `{"size", "counts"}`, or None for detections without one.
        compared: `(N,)` whether the thresholds of `compare` keep them; all where there are none.
    """

    category: npt.NDArray[np.int64]
    xywh: npt.NDArray[np.float64]
    score: npt.NDArray[np.float32]
    rle: tuple[dict[str, Any] | None, ...]
    compared: npt.NDArray[np.bool_]

    def only_compared(self) -> Found:
        """What the thresholds of `compare` keep."""
        chosen = np.flatnonzero(self.compared)
        masks = tuple(self.rle[index] for index in chosen)
        return Found(self.category[chosen], self.xywh[chosen], self.score[chosen], masks, self.compared[chosen])


@dataclass(frozen=True, slots=True)
class Pair:
    """One image that both sides know; the size is that of the side that has one, else `(0, 0)`."""

    file_name: str
    height: int
    width: int
    objects: tuple[TruthObject, ...]
    found: Found


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCounts:
    """How the classes of both sides came together.

    Attributes:
        matched: The truth's name of a class -> the detector's classes that stand for it, as far as they are known.
        only_run: Classes of the run that the truth does not have -> their detections, which do not count.
        only_truth: Classes of the truth with objects that the detector does not have, or of which nothing was found.
    """

    matched: dict[str, tuple[ClassName, ...]]
    only_run: dict[str, int]
    only_truth: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gathered:
    """Everything that is compared.

    Attributes:
        pairs: Images, in the order of the truth.
        categories: Classes that are compared, in the truth's order.
        images: How images were matched.
        classes: How classes were matched.
        masks: Whether both sides have masks throughout.
        notes: What the user should know.
    """

    pairs: tuple[Pair, ...]
    categories: tuple[Category, ...]
    images: ImageCounts
    classes: ClassCounts
    masks: bool
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Kept:
    height: int | None
    width: int | None
    found: Found
    fit: Fit


@dataclass(slots=True)
class _Gatherer:
    listed: ListedCategories
    options: EvaluateOptions
    seen: set[ClassName] = field(default_factory=set)
    unmatched: Counter[ClassName] = field(default_factory=Counter)

    def found(self, row: ImageRow) -> Found:
        """The detections of a row in the truth's classes."""
        one = row.detections
        if one is None:
            return Found(np.empty(0, np.int64), np.empty((0, 4)), np.empty(0, np.float32), (), np.empty(0, bool))
        listed: list[tuple[int, int]] = []
        for index in self.options.indices(one.score, one.label, one.mid, one.xyxy).tolist():
            name = ClassName(int(one.category_id[index]), one.label[index], one.mid[index])
            self.seen.add(name)
            category = self.listed.id_of(name)
            if category is None:
                self.unmatched[name] += 1
            else:
                listed.append((index, category))
        chosen = np.array([index for index, _ in listed], np.intp)
        xyxy = one.xyxy[chosen].astype(np.float64)
        return Found(
            np.array([category for _, category in listed], np.int64),
            np.concatenate((xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]), axis=1),
            one.score[chosen],
            _masks_of(row.image_id, one, chosen),
            self._compared(one)[chosen],
        )

    def _compared(self, one: Detections) -> npt.NDArray[np.bool_]:
        rules = self.options.compared
        kept = np.full(len(one), rules is None)
        if rules is not None:
            kept[rules.indices(one.score, one.label, one.mid, one.xyxy)] = True
        return kept


def gather(info: RunInfo, rows: Rows, truth: Truth, options: EvaluateOptions) -> Gathered:
    """Read a run and bring it together with the truth; of images the truth does not have nothing is kept.

    The rows are read twice, first for the frame of the truth; and once more where the truth has MIDs and the detector
    no list of classes.

    Raises:
        ConfigError: An option names a class that the detector does not have.
        EvaluateError: No image or no class of the run is in the truth, an image is in it twice, or a mask does not fit.
    """
    if info.classes is not None:
        for rules in (options, options.compared):
            if rules is not None:
                rules.require_known_names((one.name for one in info.classes), (one.mid for one in info.classes))
    classes_known = info.classes
    if classes_known is None and any(one.mid for one in truth.categories):
        # Which name may stand against a MID is known when all classes are.
        classes_known = tuple(classes_in(rows, None))
    listed = ListedCategories(truth.categories, options, classes_known)
    gatherer = _Gatherer(listed, options)
    pairing: Pairing[_Kept] = Pairing(truth, options.match)
    frames = TruthFrames(truth, options.truth_frame, "truth-frame")
    for row in without(rows, "masks", *UNUSED)():
        frames.see(pairing.place(row), row)
    for row in rows():
        if pairing.may_be(row):
            fit = frames.of(pairing.place(row), row)
            turned = row if fit is None else row.in_frame(fit.frame)
            kept = None if fit is None else _Kept(turned.height, turned.width, gatherer.found(turned), fit)
            pairing.add(row, kept, swapped=fit is not None and fit.swapped)
    known = _admitted({*(info.classes or ()), *gatherer.seen}, options)
    categories = _compared(truth.categories, known, listed, options)
    admitted = {one.id for one in categories}
    pairs = tuple(
        Pair(
            truth.images[number].file_name,
            kept.height or truth.images[number].height or 0,
            kept.width or truth.images[number].width or 0,
            tuple(one for one in kept.fit.objects(truth.images[number]) if one.category_id in admitted),
            kept.found,
        )
        for number, kept in pairing.pairs()
    )
    classes = _class_counts(categories, known, listed, gatherer, pairs)
    if known and not any(classes.matched.values()):
        raise EvaluateError(_why_no_class(known, truth, options))
    masks, notes = _masks(info, pairs)
    notes = [*truth.notes, *frames.notes(), *listed.notes, *notes]
    return Gathered(pairs, tuple(categories), pairing.counts(), classes, masks, tuple(notes))


def _masks_of(image_id: str, found: Detections, chosen: npt.NDArray[np.intp]) -> tuple[dict[str, Any] | None, ...]:
    if found.mask is None:
        return (None,) * len(chosen)
    counts: list[str | None] = found.mask[chosen].tolist()
    size = [found.height, found.width]
    for one in counts:
        if one is None:
            continue
        try:
            rle.validate(one, *size)
        except StoreError as error:
            raise EvaluateError(f"image {image_id!r}: {error}") from None
    return tuple(None if one is None else {"size": size, "counts": one} for one in counts)


def _admitted(classes: Iterable[ClassName], options: EvaluateOptions) -> list[ClassName]:
    return sorted((one for one in classes if options.admits(one.name, one.mid)), key=lambda one: (one.id, one.name))


def _compared(
    categories: Iterable[Category], known: Iterable[ClassName], listed: ListedCategories, options: EvaluateOptions
) -> list[Category]:
    """Without `include_class` and `exclude_class` all categories of the truth; with them those they admit."""
    hit = {listed.id_of(one) for one in known}
    return [one for one in categories if one.id in hit or options.admits(one.name, one.mid)]


def _class_counts(
    categories: Iterable[Category],
    known: Iterable[ClassName],
    listed: ListedCategories,
    gatherer: _Gatherer,
    pairs: Iterable[Pair],
) -> ClassCounts:
    members: dict[int | None, list[ClassName]] = {}
    for one in known:
        members.setdefault(listed.id_of(one), []).append(one)
    with_objects = {one.category_id for pair in pairs for one in pair.objects if not one.crowd}
    unmatched: Counter[str] = Counter()
    for name, count in gatherer.unmatched.items():
        unmatched[name.name] += count
    return ClassCounts(
        matched={one.name: tuple(members.get(one.id, ())) for one in categories},
        only_run=dict(unmatched.most_common()),
        only_truth=tuple(one.name for one in categories if one.id in with_objects and one.id not in members),
    )


def _masks(info: RunInfo, pairs: Sequence[Pair]) -> tuple[bool, list[str]]:
    with_mask = [mask is not None for pair in pairs for mask in pair.found.rle]
    if not any(with_mask) and not (info.masks and not with_mask):
        return False, []
    objects = [one for pair in pairs for one in pair.objects]
    if not all(one.segmentation is not None or one.odd for one in objects):
        return False, ["masks are not scored: not every object of the truth has a segmentation"]
    if objects and all(one.odd for one in objects):
        return False, ["masks are not scored: no object of the truth has an outline that is one"]
    if not all(with_mask):
        return False, ["masks are not scored: not every detection has one"]
    return True, []


def _why_no_class(known: Iterable[ClassName], truth: Truth, options: EvaluateOptions) -> str:
    ours = [f"{name!r}" + (f" ({one.mid})" if one.mid else "") for one in known for name in [_name(one, options)]]
    theirs = [f"{one.name!r}" + (f" ({one.mid})" if one.mid else "") for one in truth.categories]
    return (
        f"no class of the run is in {truth.shown}: the run has {_some(ours)}, the truth {_some(theirs)}; "
        "name pairs with class-map, or give the MIDs of the truth's classes with truth-labels"
    )


def _name(one: ClassName, options: EvaluateOptions) -> str:
    return str(options.rename([one.name], [one.mid])[0])


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
