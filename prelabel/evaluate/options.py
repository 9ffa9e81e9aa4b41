"""What `evaluate` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.export.option_rules import require_choices
from prelabel.frames import FRAMES
from prelabel.options import option, require
from prelabel.select import ExportSelection, Selection, Unstated

_GROUP = "Truth"

#: The truth's frame is what its sizes tell.
AUTO = "auto"

#: The threshold that everybody starts with.
FLAT = 0.5


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ExportSelection):
    """What a run is held against, and how; by default all detections count, whatever their score.

    Raises:
        ConfigError: A value makes no sense.
    """

    score_threshold: float = option(
        Unstated(0.0),
        "Count detections with at least this score; by default all that the run kept.",
        type="float",
        metavar="SCORE",
        group="Selection",
    )
    truth: str = option("", "What is really on the images: a COCO dataset.", metavar="FILE", group=_GROUP)
    truth_labels: str = option(
        "",
        "Label map that gives the MIDs of the truth's categories, found by their names.",
        metavar="FILE",
        group=_GROUP,
    )
    match: str = option(
        "auto",
        "Which image of the truth is which: by path, by stem (without folder and ending), or by path where it can.",
        choices=("auto", "path", "stem"),
        group=_GROUP,
    )
    truth_frame: str = option(
        AUTO,
        "The picture that the truth's boxes lie on: upright (display), as its pixels stand in the file (stored), as "
        "browsers show it (browser), or what its sizes tell (auto).",
        choices=(AUTO, *FRAMES),
        group=_GROUP,
    )
    iou: float = option(
        0.5,
        "A box is right that overlaps an object of its class by at least this (thresholds, work, confusion).",
        group=_GROUP,
    )
    compare: dict[str, float] = option(
        {},
        "Put these thresholds beside the suggested ones, e.g. a file chosen on other images (classes that it "
        "does not name: its default, else 0.5).",
        type="float-pairs",
        metavar="CLASS=SCORE",
        group=_GROUP,
    )
    to: str = option(
        "", "Folder for evaluation.json, evaluation.html and the thresholds (default: OUT/evaluation).", metavar="DIR"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.truth), "truth is missing: give a COCO dataset of the same images")
        require_choices(self)
        require(0 < self.iou <= 1, f"iou must be above 0 and at most 1, got {self.iou}")
        self.compared  # noqa: B018 - checks the thresholds

    @property
    def compared(self) -> Selection | None:
        """The rules of `compare`, or None where nothing is to be compared."""
        if not self.compare:
            return None
        return Selection(score_threshold=Unstated(FLAT), class_threshold=self.compare, class_map=self.class_map)
