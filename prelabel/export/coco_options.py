"""What `export coco` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.export.class_list import ClassListOptions
from prelabel.export.option_rules import frame_option, require_not_negative
from prelabel.export.polygons import PolygonRules
from prelabel.options import option, require

_GROUP = "COCO"


@dataclass(frozen=True, kw_only=True)
class CocoOptions(ClassListOptions):
    """What `export coco` can be told, beside which detections to keep."""

    segmentation: str = option(
        "rle",
        "How masks are written, with boxes widened to contain them; none writes the detector's own boxes alone.",
        choices=("rle", "polygon", "none"),
        group=_GROUP,
    )
    polygon_tolerance: float = option(
        1.0, "How far, in pixels, a polygon may be from its mask's outline.", metavar="PIXELS", group=_GROUP
    )
    results: str = option(
        "",
        "Also write a results file (a bare list, for loadRes) of the same detections to this address; for scoring say "
        "--score-threshold 0, too, and for scoring boxes --segmentation none.",
        metavar="PATH",
        group=_GROUP,
    )
    image_ids: str = option(
        "sequential",
        "Where image ids come from: sequential (1, 2, ...), stem (the file name is a number), or a COCO dataset.",
        metavar="sequential|stem|FILE",
        group=_GROUP,
    )
    frame: str = frame_option()
    split: int | None = option(None, "Begin a new file after so many images.", type="int", metavar="N", group=_GROUP)
    score: str = option(
        "key",
        "Where an annotation's score stands: as its key, or also among its attributes, where CVAT looks.",
        choices=("key", "attribute"),
        group=_GROUP,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "polygon_tolerance")
        require(self.split is None or self.split >= 1, f"split must be 1 or more, got {self.split}")

    @property
    def polygon_rules(self) -> PolygonRules:
        """How masks become polygons: an annotation may have several, and none of the mask is lost."""
        return PolygonRules(self.polygon_tolerance)
