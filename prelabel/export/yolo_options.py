"""What `export yolo` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.export.image_folder import FolderOptions
from prelabel.export.option_rules import require_not_negative
from prelabel.export.polygons import PolygonRules
from prelabel.options import option, require

_GROUP = "YOLO"


@dataclass(frozen=True, kw_only=True)
class YoloOptions(FolderOptions):
    """What `export yolo` can be told, beside which detections to keep."""

    segmentation: str = option(
        "polygon",
        "How masks are written: as segments, or none for boxes alone.",
        choices=("polygon", "none"),
        group=_GROUP,
    )
    polygon_tolerance: float = option(
        1.0, "How far, in pixels, a segment may be from its mask's outline.", metavar="PIXELS", group=_GROUP
    )
    labels: str = option(
        "all",
        "Classes that get a number: all of the detector or list, those present, or auto: all of up to 100, else those "
        "present.",
        choices=("auto", "present", "all"),
        group=_GROUP,
    )
    val_share: float = option(
        0.0,
        "Share of the images that go to the validation set, the same ones each time.",
        metavar="SHARE",
        group=_GROUP,
    )
    scores: bool = option(
        False, "Add the score at the end of each line, as predictions have it; for boxes alone.", group=_GROUP
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "polygon_tolerance")
        require(0 <= self.val_share < 1, f"val-share must be at least 0 and below 1, got {self.val_share}")
        require(
            not (self.scores and self.segmentation != "none"),
            "scores cannot stand at the end of segments: say segmentation none",
        )

    @property
    def polygon_rules(self) -> PolygonRules:
        """How masks become segments: one each, and none of the mask is lost."""
        return PolygonRules(self.polygon_tolerance, parts="bridge")
