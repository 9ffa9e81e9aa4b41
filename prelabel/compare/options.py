"""What `compare` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.evaluate.options import AUTO
from prelabel.export.option_rules import require_choices, require_not_negative
from prelabel.frames import FRAMES
from prelabel.options import option, require
from prelabel.select import ExportSelection

_GROUP = "Comparison"


@dataclass(frozen=True, kw_only=True)
class CompareOptions(ExportSelection):
    """What is compared, and how. A selection that is stated must be that of the export people worked on.

    Raises:
        ConfigError: A value makes no sense.
    """

    predictions: str = option("", "The run whose pre-annotations people worked on.", metavar="OUT", group=_GROUP)
    annotations: str = option(
        "", "What they made of them: Label Studio's JSON export, or a COCO dataset.", metavar="FILE", group=_GROUP
    )
    annotations_frame: str = option(
        AUTO,
        "The picture that the boxes of a COCO dataset lie on: upright (display), as its pixels stand in the file "
        "(stored), as browsers show it (browser), or what its sizes tell (auto).",
        choices=(AUTO, *FRAMES),
        group=_GROUP,
    )
    kept_iou: float = option(
        0.95, "A box of the same class that overlaps by at least this was kept as it was.", metavar="IOU", group=_GROUP
    )
    iou: float = option(
        0.5,
        "Without a common id, a box and a region that overlap by at least this are one object; and a detection counts "
        "as right (for the thresholds) from this on.",
        metavar="IOU",
        group=_GROUP,
    )
    polygon_tolerance: float = option(
        1.0,
        "The polygon-tolerance of the export people worked on (default: as written down beside the run).",
        metavar="PIXELS",
        group=_GROUP,
    )
    polygon_min_area: float = option(
        16.0,
        "The polygon-min-area of the export people worked on (default: as written down).",
        metavar="PIXELS",
        group=_GROUP,
    )
    to: str = option(
        "", "Folder for comparison.json, comparison.html and thresholds.yaml (default: OUT/comparison).", metavar="DIR"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choices(self)
        require(bool(self.predictions), "predictions is missing: name the output of the run people worked on")
        require(bool(self.annotations), "annotations is missing: name the file that people's work was exported to")
        require(0 < self.iou <= 1, f"iou must be above 0 and at most 1, got {self.iou}")
        require(self.iou <= self.kept_iou <= 1, f"kept-iou must be from iou ({self.iou}) to 1, got {self.kept_iou}")
        require_not_negative(self, "polygon_tolerance", "polygon_min_area")
