"""The whole comparison: two finished runs in, one `Difference` out, shard by shard and in several processes.

Images are read in the order of A. The rows of an image may be anywhere in B (`prelabel.fusion.index`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from prelabel.difference.changes import changes_of
from prelabel.difference.inputs import ImageSelector, differing_settings, notes_on_runs, require_comparable
from prelabel.difference.options import DiffOptions
from prelabel.difference.tally import (
    CHANGED,
    COMPARED,
    FAILED_IN_A,
    FAILED_IN_B,
    FAILED_IN_BOTH,
    NOT_COMPARED,
    OTHER_FILE,
    OTHER_SIZE,
    ChangedImage,
    ClassChanges,
    Tally,
)
from prelabel.errors import EvaluateError, StoreError
from prelabel.export.base import RunInfo
from prelabel.fusion.images import differing_facts, is_proven_the_same
from prelabel.fusion.index import ImageIndex
from prelabel.fusion.reading import RowsByPosition
from prelabel.processes import Processes
from prelabel.store.rows import OK, ImageRow
from prelabel.store.run import Run
from prelabel.store.subset import ABSENT, Positions
from prelabel.words import counted

#: Called with the number of images compared and the total.
Progress = Callable[[int, int], None]

#: Most names of images that only one run has.
_EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What changed from run A to run B.

    Attributes:
        infos: Facts about A and B.
        names: Paths or URLs of A and B, without secrets.
        options: What counts as a change.
        settings: Name, value in A and value in B of each setting that differs.
        images: Number of images that both runs have, by what became of them.
        only: For A and B, the number of images that only this run has.
        examples: The first few names of images that cannot be compared, by reason, and of those that only one run has.
        unproven: Compared images of which a run has no checksum, so that another file would not be noticed.
        lost: For A and B, detections on images that cannot be compared although both runs have them.
        foreign: For A and B, detections of classes that the other run does not know, by label.
        by_class: Changes by class, most detections first.
        total: Changes of all classes.
        relabeled: Class in A, class in B and count, most frequent first.
        shifts: Histogram of the score in B minus the score in A, from -1 to 1.
        overlaps: Histogram of the IoU of detections that have the same class in both, from 0 to 1.
        most_changed: The images that changed most, most changes first.
        notes: Notes for the user, one line each.
    """

    infos: tuple[RunInfo, RunInfo]
    names: tuple[str, str]
    options: DiffOptions
    settings: tuple[tuple[str, str, str], ...]
    images: Mapping[str, int]
    only: tuple[int, int]
    examples: Mapping[str, Sequence[str]]
    unproven: int
    lost: tuple[int, int]
    foreign: tuple[Mapping[str, int], Mapping[str, int]]
    by_class: Mapping[str, ClassChanges]
    total: ClassChanges
    relabeled: tuple[tuple[str, str, int], ...]
    shifts: npt.NDArray[np.int64]
    overlaps: npt.NDArray[np.int64]
    most_changed: tuple[ChangedImage, ...]
    notes: tuple[str, ...]

    @property
    def compared(self) -> int:
        """Number of compared images."""
        return self.images.get(COMPARED, 0)

    @property
    def not_compared(self) -> dict[str, int]:
        """Number of images that both runs have but that cannot be compared, by reason."""
        return {reason: self.images[reason] for reason in NOT_COMPARED}

    @property
    def changed_images(self) -> int:
        """Number of compared images with a change."""
        return self.images.get(CHANGED, 0)

    @property
    def share(self) -> float:
        """Share of the detections of both runs that changed, 0 to 1; 0 if there are none.

        It covers the images that both runs have. If one cannot be compared, all detections on it count as changed.
        """
        lost = sum(self.lost)
        whole = self.total.in_a + self.total.in_b + lost
        return (self.total.changed + lost) / whole if whole else 0.0

    @property
    def exceeds(self) -> bool:
        """Whether the share is above the option `fail_above`."""
        return self.share > self.options.fail_above


def diff_runs(a: Run, b: Run, options: DiffOptions, processes: Processes, progress: Progress) -> Difference:
    """Compare two finished runs.

    Raises:
        ConfigError: The runs cannot be compared, or an option names a class that no run has.
        EvaluateError: No image can be compared, or a mask does not fit its image.
        StoreError: A shard is missing or corrupt.
    """
    runs = (a, b)
    require_comparable(runs)
    selector = ImageSelector.of(runs, options.selection, processes)
    index = ImageIndex.of([run.plan() for run in runs])
    in_a, in_b = index.positions
    rows = tuple(map(RowsByPosition.of, runs))
    work = _ShardDiffer(selector, options, rows)
    starts = rows[0].starts
    items = [_Item(int(start), in_b[start:stop]) for start, stop in itertools.pairwise(starts)]
    tally, done, whole = Tally(options.images), 0, int((in_a != ABSENT).sum())
    progress(0, whole)
    for item, part in zip(items, processes.map(work, items), strict=True):
        tally.add(part)
        done += len(item.in_b)
        progress(done, whole)
    only = np.flatnonzero(in_b == ABSENT), in_b[in_a == ABSENT]
    examples = {
        **tally.examples,
        **{
            name: [row.file_name for row in rows[run].read(only[run][:_EXAMPLES])]
            for run, name in enumerate(("only_in_a", "only_in_b"))
            if len(only[run])
        },
    }
    by_class = tally.by_class()
    difference = Difference(
        infos=(RunInfo.of(a), RunInfo.of(b)),
        names=(str(a.root), str(b.root)),
        options=options,
        settings=differing_settings(runs),
        images={name: tally.images[name] for name in (COMPARED, CHANGED, *NOT_COMPARED)},
        only=(len(only[0]), len(only[1])),
        examples=examples,
        unproven=tally.unproven,
        lost=tally.lost,
        foreign=(dict(tally.foreign[0].most_common()), dict(tally.foreign[1].most_common())),
        by_class=by_class,
        total=tally.total(),
        relabeled=tuple(
            (*pair, count) for pair, count in sorted(tally.relabeled.items(), key=lambda item: (-item[1], item[0]))
        ),
        shifts=tally.shifts,
        overlaps=tally.overlaps,
        most_changed=tuple(tally.most_changed),
        notes=notes_on_runs(runs, selector, options, list(by_class)),
    )
    if not difference.compared:
        raise EvaluateError(_nothing_compared(difference))
    return difference


@dataclass(frozen=True, slots=True)
class _Item:
    """The images of a shard of A: the position of the first, and the position of each in B, or `ABSENT`."""

    first: int
    in_b: Positions


@dataclass(frozen=True)
class _ShardDiffer:
    """Compares the images of a shard of A. Can be sent to another process."""

    selector: ImageSelector
    options: DiffOptions
    runs: tuple[RowsByPosition, ...]

    def __call__(self, item: _Item) -> Tally:
        """Compare the images. Raises StoreError and EvaluateError as `diff_runs` does."""
        tally = Tally(self.options.images)
        shared = np.flatnonzero(item.in_b != ABSENT)
        if not len(shared):
            return tally
        rows_a = self.runs[0].read(shared + item.first)
        rows_b = self.runs[1].read(item.in_b[shared])
        positions = zip((shared + item.first).tolist(), item.in_b[shared].tolist(), strict=True)
        for (in_a, in_b), a, b in zip(positions, rows_a, rows_b, strict=True):
            if a.image_id != b.image_id:
                names = " and ".join(run.name for run in self.runs)
                raise StoreError(f"{names} do not agree with their plans: check both with `prelabel verify`")
            self._add_image(tally, (in_a, in_b), a, b)
        return tally

    def _add_image(self, tally: Tally, positions: tuple[int, int], a: ImageRow, b: ImageRow) -> None:
        rows = (a, b)
        selected = [self.selector.select(run, row) for run, row in enumerate(rows)]
        reason, example = _reason(a, b)
        if reason:
            in_a, in_b = (len(detections.kept) for detections, _ in selected)
            tally.add_uncompared(reason, example, (in_a, in_b))
            return
        tally.unproven += not is_proven_the_same(dict(enumerate(rows)))
        for run, (_, foreign) in enumerate(selected):
            tally.foreign[run].update(foreign)
        changes = changes_of(a.image_id, selected[0][0], selected[1][0], self.options)
        tally.add_image(ChangedImage(replace(b, detections=None), *positions, changes))


def _reason(a: ImageRow, b: ImageRow) -> tuple[str, str]:
    """Why an image cannot be compared, and its name for a message with the facts; empty if it can be."""
    failed = [row.status != OK for row in (a, b)]
    if all(failed):
        return FAILED_IN_BOTH, a.file_name
    if any(failed):
        row = a if failed[0] else b
        return (FAILED_IN_A if failed[0] else FAILED_IN_B), f"{row.file_name} ({row.error_type})"
    if facts := differing_facts(a, b):
        has_other_size = (a.height, a.width) != (b.height, b.width)
        return (OTHER_SIZE if has_other_size else OTHER_FILE), f"{a.file_name} ({', '.join(facts)})"
    return "", ""


def _nothing_compared(difference: Difference) -> str:
    """A message that says why no image can be compared."""
    a, b = difference.names
    in_both = sum(difference.not_compared.values())
    if not in_both:
        examples = [", ".join(map(repr, difference.examples.get(f"only_in_{run}", ()))) or "no images" for run in "ab"]
        return (
            f"no image is in both runs: {a} has {examples[0]}, ..., {b} {examples[1]}, ...; images are matched by "
            "image_id, their path below the source"
        )
    reason = next(reason for reason in NOT_COMPARED if difference.images[reason])
    return (
        f"of {counted(in_both, 'image')} in both runs, none can be compared: {reason.replace('_', ' ')}, e.g. "
        f"{difference.examples[reason][0]}"
    )
