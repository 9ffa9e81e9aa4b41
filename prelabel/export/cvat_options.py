"""What `export cvat` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.export.class_list import ClassListOptions
from prelabel.export.option_rules import require_not_negative
from prelabel.export.polygons import MASK_PARTS, SPECK, PolygonRules
from prelabel.options import option

_GROUP = "CVAT"


@dataclass(frozen=True, kw_only=True)
class CvatOptions(ClassListOptions):
    """What `export cvat` can be told, beside which detections to keep."""

    segmentation: str = option(
        "rle",
        "How masks are written: as CVAT's masks, as polygons, or none for boxes alone.",
        choices=("rle", "polygon", "none"),
        group=_GROUP,
    )
    polygon_tolerance: float = option(
        1.0, "How far, in pixels, a polygon may be from its mask's outline.", metavar="PIXELS", group=_GROUP
    )
    mask_parts: str = option(
        "bridge",
        "What the parts of a mask become: bridge joins them to one polygon by lines without width, split makes "
        "a group of polygons, largest takes the largest part alone. Parts under 1 % of their object are left out.",
        choices=MASK_PARTS,
        group=_GROUP,
    )
    zip: bool = option(False, "Write the XML into a ZIP, as CVAT itself exports it.", group=_GROUP)
    labels: str = option(
        "auto",
        "Labels stated: those present, all of the detector, or auto: all of up to 100, else those present.",
        choices=("auto", "present", "all"),
        group=_GROUP,
    )
    labels_file: str = option(
        "",
        "Also write the labels as JSON, for the Raw tab of CVAT's label constructor.",
        metavar="PATH",
        group=_GROUP,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "polygon_tolerance")

    @property
    def polygon_rules(self) -> PolygonRules:
        """How masks become polygons for people."""
        return PolygonRules(self.polygon_tolerance, min_share=SPECK, parts=self.mask_parts)
