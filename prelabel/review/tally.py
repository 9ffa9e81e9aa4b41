"""Counts the images of a comparison, and writes the notes on those that it skips."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prelabel.errors import first_of
from prelabel.export.base import RunInfo
from prelabel.review.annotations import Annotations
from prelabel.review.basis import Basis
from prelabel.review.edits import Edit
from prelabel.review.image_matching import BY_NAME, MAX_NAMES, ReviewedImage
from prelabel.review.preannotations import ScoreEvidence
from prelabel.review.thresholds import COMMON, Work
from prelabel.words import counted

#: How many classes a note names.
_MAX_CLASSES = 5

#: Reasons to skip an image.
OTHER_SIZE, OTHER_MODEL, BLANK = "size", "model", "blank"


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """The result for one image.

    Attributes:
        image: The image.
        skipped: Why it is skipped: one of the reasons above, or `""`.
        details: Details of that reason: an example, or the name of the other model.
        edits: What the annotator did to its detections, and the objects that were added.
        seconds: How long the annotation took, or None.
        failed: Whether it failed in the run.
        by_annotation: Whether its annotation tells what was shown.
        swapped: Whether its size is that of the file before EXIF rotation.
        selected_only: Number of detections that a given selection keeps but that the annotation did not start from.
        shown_only: Number of detections that were shown although the selection excludes them.
        score_evidence: What the image tells about the scores from which classes were shown.
    """

    image: ReviewedImage
    skipped: str = ""
    details: str = ""
    edits: tuple[Edit, ...] = ()
    seconds: float | None = None
    failed: bool = False
    by_annotation: bool = False
    swapped: bool = False
    selected_only: int = 0
    shown_only: int = 0
    score_evidence: ScoreEvidence = field(default_factory=ScoreEvidence)


class Tally:
    """The results of all images that match annotations.

    Attributes:
        compared: Results of the images that count.
        skipped: `details` of the skipped images, by reason.
        unclear: Names of images of the run whose match is ambiguous.
    """

    def __init__(self, unclear: Sequence[str]) -> None:
        self.compared: list[ImageOutcome] = []
        self.skipped: dict[str, list[str]] = defaultdict(list)
        self.unclear = unclear
        self._ways: Counter[str] = Counter()

    def add(self, way: str, outcome: ImageOutcome) -> None:
        """Add the result of an image, with the way in which its name was matched (`image_matching`)."""
        self._ways[way] += 1
        if outcome.skipped:
            self.skipped[outcome.skipped].append(outcome.details)
        else:
            self.compared.append(outcome)

    @property
    def by_annotations(self) -> int:
        """Number of images whose annotations tell what was shown."""
        return sum(outcome.by_annotation for outcome in self.compared)

    @property
    def other_models(self) -> str:
        """The first few names of other models whose predictions annotators started from."""
        names = sorted({name or "no model version" for name in self.skipped[OTHER_MODEL]})
        return ", ".join(names[:MAX_NAMES])

    def notes(self, basis: Basis) -> list[str]:
        """What was skipped or assumed, and where annotations and selection contradict each other; one line each."""
        notes = list(basis.notes) if self.by_annotations < len(self.compared) else []
        sizes, other, blank = (self.skipped[reason] for reason in (OTHER_SIZE, OTHER_MODEL, BLANK))
        if sizes:
            notes.append(f"skipped {counted(len(sizes), 'image')}: the annotations give another size, e.g. {sizes[0]}")
        if other:
            notes.append(
                f"skipped {counted(len(other), 'image')}: annotators started from predictions of {self.other_models}, "
                "not of this run"
            )
        if blank:
            notes.append(
                f"skipped {counted(len(blank), 'image')}: annotators started without a prediction, e.g. on {blank[0]!r}"
            )
        if self.unclear:
            names = ", ".join(map(repr, self.unclear[:MAX_NAMES]))
            notes.append(f"skipped {counted(len(self.unclear), 'image')} with ambiguous names, e.g. {names}")
        for way in BY_NAME:
            if self._ways[way]:
                notes.append(f"matched {counted(self._ways[way], 'image')} by {way} only")
        swapped = sum(outcome.swapped for outcome in self.compared)
        selected_only = sum(outcome.selected_only for outcome in self.compared)
        shown_only = sum(outcome.shown_only for outcome in self.compared)
        if swapped:
            notes.append(
                f"swapped height and width of {counted(swapped, 'image')}: the annotations give the size before EXIF "
                "rotation"
            )
        if selected_only:
            notes.append(
                f"counted {counted(selected_only, 'detection')} as deleted that the given selection keeps, although "
                "the annotations did not start from them; without selection options, the annotations decide what was "
                "shown"
            )
        if shown_only:
            notes.append(
                f"annotators were shown {counted(shown_only, 'detection')} that the selection ({basis.source}) "
                "excludes: it is not the selection of the export that they worked on"
            )
        return notes


def threshold_notes(work: Work, class_floors: Mapping[str, float | None]) -> list[str]:
    """Notes on how far the suggested thresholds can be trusted."""
    if work.held_out is None:
        notes = [
            f"thresholds are chosen from {counted(work.images, 'image')}; measuring them on held-out images needs at "
            "least 10"
        ]
    else:
        common = work.recommended == COMMON
        suggested = "one threshold for all classes" if common else "some classes with their own threshold"
        notes = [f"suggested: {suggested}"]
    if work.objects:
        where = "on held-out images" if work.held_out is not None else "on the images used to choose"
        notes[0] += f"; {work.headline_in_words()} ({where})"
    lowest = [
        name
        for name, floor in class_floors.items()
        if floor is not None and np.float32(work.by_class[name].suggested.threshold) <= np.float32(floor)
    ]
    if lowest:
        notes.append(
            f"for {first_of(lowest, _MAX_CLASSES)} the suggestion is the lowest score that was shown; whether a "
            "lower threshold would save more is unknown"
        )
    return notes


def nothing_compared_message(info: RunInfo, annotations: Annotations, tally: Tally, unknown: Sequence[str]) -> str:
    """A message that says why no image is compared.

    Args:
        info: The run.
        annotations: The annotations.
        tally: The results of matched images.
        unknown: Names of images of the run without annotations.
    """
    skipped = tally.skipped
    if skipped[OTHER_SIZE]:
        return f"all images have another size in {annotations.display_url}, e.g. {skipped[OTHER_SIZE][0]}"
    if skipped[OTHER_MODEL]:
        return (
            f"annotators did not start from this run's predictions ({info.model_version}), but from those of "
            f"{tally.other_models}: compare with the run of that model"
        )
    if skipped[BLANK]:
        return (
            f"no annotation of {annotations.display_url} started from a prediction: annotators drew everything "
            "manually. Use `prelabel evaluate` to compare a run with such annotations"
        )
    if tally.unclear:
        return f"every match is ambiguous: several images match {', '.join(map(repr, tally.unclear[:MAX_NAMES]))}"
    if not annotations.images:
        return f"{annotations.display_url} has no annotated image ({annotations.open} are not annotated yet)"
    annotated = [repr(image.image_id or image.path) for image in annotations.images[:MAX_NAMES]]
    in_run = ", ".join(map(repr, unknown)) or "no images"
    return (
        f"no image of {annotations.display_url} is in the run: the run has {in_run}, ..., the annotations "
        f"{', '.join(annotated)}, ..."
    )
