"""`compare`: a run against what people made of it, from reading to the result that all reports are made from."""

from __future__ import annotations

from collections.abc import Sequence

from prelabel.compare.annotated import AnnotatedImage, Annotations
from prelabel.compare.fates import fates
from prelabel.compare.options import CompareOptions
from prelabel.compare.reading import read_annotations
from prelabel.compare.result import Comparison
from prelabel.compare.shown import STATED, Basis, ShownImage, basis_of
from prelabel.compare.tally import BLANK, OTHER, SIZE, Outcome, Tally, why_none
from prelabel.errors import EvaluateError
from prelabel.evaluate.image_names import Claims, ImageNames
from prelabel.evaluate.truth_frame import Fit, TruthFrames
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
    claims: Claims[Outcome] = Claims()
    some: list[str] = []
    fit_of = _fits(rows, annotations, names, options)
    for row in rows():
        way, found = names.find(row.image_id, row.file_name)
        if found:
            image, fit = annotations.images[found[0]], fit_of(found[0], row)
            claims.add(row.file_name, way, found, _outcome(info, row, image, fit, basis, options))
        elif len(some) < 3:
            some.append(row.file_name)
    tally = Tally()
    for _, way, outcome in claims.decided():
        tally.add(way, outcome)
    tally.unclear = claims.unclear
    tally.untouched = len(annotations.images) - len(claims.touched)
    if not tally.compared:
        raise EvaluateError(why_none(info, annotations, tally, some))
    return tally.result(info, annotations, options, basis, fit_of.notes())


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


def _outcome(
    info: RunInfo,
    row: ImageRow,
    image: AnnotatedImage,
    fit: Fit | None,
    basis: Basis,
    options: CompareOptions,
) -> Outcome:
    if fit is None:
        width, height = (image.size or (0, 0))[::-1]
        return Outcome(SIZE, f"{row.file_name!r} ({row.width} x {row.height}, in the annotations {width} x {height})")
    row = row.in_frame(fit.frame)
    image = image.on_turned(outlines=not fit.stretched) if fit.swapped else image
    stated = basis.source == STATED
    shown = ShownImage(info.model_version, row, image, basis, by_selection=stated)
    if not stated and not shown.said and not shown.proven:
        if image.starts:
            return Outcome(OTHER, image.starts[0].model_version)
        if image.blank:
            return Outcome(BLANK, row.file_name)
    not_shown, unproven = 0, len(shown.unproven)
    if stated and shown.start is not None:
        began = shown.start_numbers()
        not_shown, unproven = len(set(shown.chosen) - began), len(began - set(shown.chosen))
    return Outcome(
        fates=tuple(fates(shown, image.regions, options)),
        seconds=image.seconds,
        failed=row.detections is None,
        said=shown.said,
        swapped=fit.swapped,
        unproven=unproven,
        not_shown=not_shown,
        seen=shown.seen_scores(),
    )
