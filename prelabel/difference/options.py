"""The options of `prelabel diff`."""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.export.base import links_option
from prelabel.options import Options, group_of, option, require
from prelabel.select import ExportSelection

#: What overlaps are measured on.
AUTO, BOXES = "auto", "boxes"


@dataclass(frozen=True, kw_only=True)
class DiffOptions(Options):
    """Which two runs are compared, what counts as a change, and where the report is written.

    Raises:
        ConfigError: A value is not allowed; the message names the option, the value and the allowed values.
    """

    selection: ExportSelection = group_of(ExportSelection)
    run_a: str = option(
        "",
        "Finished run to start from: the folder or storage prefix that `label --output` or `fuse --to` wrote.",
        missing="no run given: name two finished runs",
    )
    run_b: str = option(
        "",
        "Finished run over the same images, to compare with it.",
        missing="only one run given: name two finished runs",
    )
    iou: float = option(
        0.5,
        "Match a detection of A and one of B if the IoU of their boxes is at least this.",
        above=0,
        max=1,
        heading="Changes",
    )
    kept_iou: float = option(
        0.95, "Count a detection as kept if its class is the same and its IoU is at least this.", metavar="IOU"
    )
    iou_on: str = option(
        AUTO,
        "Measure the IoU of matched detections on their masks if both have one (auto), or always on their boxes.",
        choices=(AUTO, BOXES),
    )
    score_shift: float = option(
        1.0,
        "Also count a detection as changed if its score shifted by more than this; 1 allows any shift.",
        metavar="SCORE",
        min=0,
        max=1,
    )
    fail_above: float = option(
        1.0,
        "Exit with code 3 if a greater share of the detections of both runs changed; 1 allows any share.",
        metavar="SHARE",
        min=0,
        max=1,
        first=True,
    )
    images: int = option(
        40,
        "Show this many of the images that changed most, in diff.json and diff.html.",
        min=0,
        max=1000,
        first=True,
    )
    pictures: bool = option(True, "Read these images again, and show them below their boxes in diff.html.", first=True)
    links: tuple[str, ...] = links_option(first=True)
    to: str = option(
        "",
        "Write diff.json and diff.html into this folder (default: RUN_B/diff).",
        metavar="DIR",
        first=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.iou <= self.kept_iou <= 1, f"--kept-iou must be from --iou ({self.iou}) to 1, got {self.kept_iou}")
