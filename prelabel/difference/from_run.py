"""The comparison of two runs and its report, the same for the command and for Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from prelabel.difference.changes import KINDS
from prelabel.difference.files import write_difference
from prelabel.difference.job import Difference, Progress, diff_runs
from prelabel.difference.options import DiffOptions
from prelabel.difference.pictures import read_pictures
from prelabel.difference.tables import lines
from prelabel.processes import Processes
from prelabel.review.report.files import report_folder
from prelabel.store.run import Run


def report_difference(
    a: Run, b: Run, options: DiffOptions, processes: Processes, progress: Progress
) -> tuple[Difference, tuple[str, ...]]:
    """Compare two runs and write the report.

    Returns:
        The difference, and the URLs of the files.

    Raises:
        PrelabelError: As `diff_runs` does, or the report cannot be written.
    """
    to = report_folder(b, "diff", options.to)
    difference = diff_runs(a, b, options, processes, progress)
    images = difference.most_changed if options.pictures else ()
    pictures, notes = read_pictures(images, b, options.links)
    difference = replace(difference, notes=(*difference.notes, *notes))
    return difference, write_difference(difference, to, b.storage, pictures)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffSummary:
    """What changed from run A to run B; `diff.json` has all figures.

    Attributes:
        images: Number of compared images.
        changed_images: Number of these on which a detection changed.
        not_compared: Number of images that both runs have but that cannot be compared, by reason: `failed_in_a`,
            `failed_in_b`, `failed_in_both`, `other_size`, `other_file`.
        only_in_a: Number of images that only A has.
        only_in_b: Number of images that only B has.
        in_a: Number of compared detections in A.
        in_b: Number of compared detections in B.
        changes: Number of detections by what became of them: `kept`, `rescored`, `moved`, `relabeled`, `vanished`,
            `appeared`.
        changes_by_class: `changes` by class name. A relabeled detection counts under its class in A.
        share: Share of the detections of both runs that changed, 0 to 1, on the images that both have. All detections
            on an image that cannot be compared count as changed.
        exceeds: Whether the share is above `fail_above`.
        mean_score_shift: Mean of the score in B minus the score in A, over detections that have the same class in both;
            None without any.
        most_changed: Ids of the images that changed most, with the number of detections that changed.
        files: URLs or paths of `diff.json` and `diff.html`.
        notes: Notes for the user, one line each.
    """

    images: int
    changed_images: int
    not_compared: Mapping[str, int] = field(repr=False)
    only_in_a: int
    only_in_b: int
    in_a: int
    in_b: int
    changes: Mapping[str, int]
    changes_by_class: Mapping[str, Mapping[str, int]] = field(repr=False)
    share: float
    exceeds: bool
    mean_score_shift: float | None
    most_changed: Mapping[str, int] = field(repr=False)
    files: tuple[str, ...] = field(repr=False)
    notes: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, difference: Difference, files: tuple[str, ...], notes: tuple[str, ...] = ()) -> DiffSummary:
        """Summarize a difference; `files` are the written files, `notes` precede the notes of the difference."""
        total = difference.total
        return cls(
            images=difference.compared,
            changed_images=difference.changed_images,
            not_compared=difference.not_compared,
            only_in_a=difference.only[0],
            only_in_b=difference.only[1],
            in_a=total.in_a,
            in_b=total.in_b,
            changes={kind: total.counts[kind] for kind in KINDS},
            changes_by_class={name: dict(changes.counts) for name, changes in difference.by_class.items()},
            share=difference.share,
            exceeds=difference.exceeds,
            mean_score_shift=total.mean_shift,
            most_changed={image.facts.image_id: image.changed for image in difference.most_changed},
            files=files,
            notes=(*notes, *lines(difference)),
        )
