"""What `preview` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.options import option, require
from prelabel.select import ExportSelection

_GROUP = "Preview"


@dataclass(frozen=True, kw_only=True)
class PreviewOptions(ExportSelection):
    """What `preview` can be told, beside which detections to show."""

    limit: int = option(
        200,
        "Show at most so many images, chosen so that every class and score range is seen; 0 shows all.",
        metavar="N",
        group=_GROUP,
    )
    seed: int = option(0, "Which sample is chosen; the same seed chooses the same images.", metavar="N", group=_GROUP)
    thumbnail_size: int = option(
        400, "Longest side of a thumbnail; never larger than the image.", metavar="PIXELS", group=_GROUP
    )
    picture_size: int = option(
        1280, "Longest side of an opened picture; never larger than the image.", metavar="PIXELS", group=_GROUP
    )
    threads: int | None = option(
        None, "Pictures read and scaled at a time; by default one per CPU and at least 4.", type="int", group=_GROUP
    )
    links: tuple[str, ...] = option(
        (),
        "A list of signed links by which images are read again: a run keeps no signatures.",
        metavar="LIST",
        group=_GROUP,
    )
    single_file: bool = option(False, "Put the pictures into index.html, so that it is all there is.", group=_GROUP)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.limit >= 0, f"limit must be 0 or more, got {self.limit}")
        for name, least in (("thumbnail_size", 32), ("picture_size", 32)):
            value = getattr(self, name)
            require(least <= value <= 8192, f"{name.replace('_', '-')} must be {least} to 8192, got {value}")
        require(self.threads is None or self.threads >= 1, f"threads must be 1 or more, got {self.threads}")
