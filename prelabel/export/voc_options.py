"""What `export voc` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.export.image_folder import FolderOptions
from prelabel.options import option, require

_GROUP = "Pascal VOC"


@dataclass(frozen=True, kw_only=True)
class VocOptions(FolderOptions):
    """What `export voc` can be told, beside which detections to keep."""

    coordinates: str = option(
        "zero",
        "zero keeps the boxes as they are, as CVAT and Datumaro write and read them; one counts whole pixels from 1, "
        "as the VOC data do.",
        choices=("zero", "one"),
        group=_GROUP,
    )
    subset: str = option("train", "Name of the list in ImageSets/Main.", metavar="NAME", group=_GROUP)
    labels: str = option(
        "auto",
        "Classes in labelmap.txt: those present, all of the detector, or auto: all of up to 100, else those present.",
        choices=("auto", "present", "all"),
        group=_GROUP,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.subset.replace("-", "").isalnum(),
            f"subset must be a name of letters, digits and dashes, got {self.subset!r}",
        )
