"""The views of an image that a detector sees: the whole image, its mirror image, and overlapping tiles of it.

A detector resizes what it sees to its own input size, so small objects of a large image become a few pixels. A tile
shows them larger, and the mirror image is a second opinion. An image of 1000 x 600 pixels with tiles of 60%:

    0      400    600      1000
    +------+------+--------+       spans along x: 0-600 and 400-1000
    |  A   |  both |   B   |       spans along y: 0-360 and 240-600
    +------+------+--------+       four tiles, which overlap by a third of their size

Only numbers here: `prelabel.detectors.multi_view` shows the views to a detector and merges what it detects.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from prelabel.options import Options, default_of, fields_of, flag_of, option, require

WHOLE, FLIP, TILES, AUTO = "whole", "flip", "tiles", "auto"

#: The weight of each kind of view when detections are merged. All tiles together are one view.
WEIGHTS = {WHOLE: 2.0, FLIP: 2.0, TILES: 1.0}

#: The same for `auto`, which takes tiles where the whole image is larger than the detector's input, so that the tiles
#: show most objects better.
AUTO_WEIGHTS = {WHOLE: 1.0, TILES: 2.0}

#: The largest share of an image's sides that a tile of automatic size has.
TILE_SHARE = 0.6

#: Tiles have this size if the detector's input size is needed but unknown: the most common one.
USUAL_INPUT = 640

#: `auto` takes tiles if the longer side of the image is more than this many times the detector's input size. Detectors
#: that keep the aspect ratio see longer sides than that of a square input.
LONG_SIDE = 2

#: The smallest tile in pixels. Smaller ones cut every object.
_SMALLEST_TILE = 32


@dataclass(frozen=True, kw_only=True)
class MergeOptions(Options):
    """How detections of the same object are merged."""

    merge: str = option(
        "wbf",
        "Merge overlapping boxes of a class into their mean (`wbf`, weighted boxes fusion, which lowers the score of a "
        "box that few views show), into the best of them (`nms`) or into their union (`nmm`).",
        choices=("wbf", "nms", "nmm"),
        affects="rows",
        heading="Views",
    )
    merge_iou: float = option(
        0.55,
        "Merge boxes that overlap by more than this IoU.",
        metavar="IOU",
        above=0,
        below=1,
        affects="rows",
    )


@dataclass(frozen=True, kw_only=True)
class ViewOptions(MergeOptions):
    """Which views of each image the detector sees, and how their detections are merged.

    Attributes:
        kinds: The kinds of views in a fixed order, or `("auto",)`.
    """

    views: str = option(
        WHOLE,
        "Show the detector several views of each image and merge what it detects: `whole`, `flip` (mirrored), `tiles`, "
        "joined by commas; or `auto`: whole, and tiles if the image's shorter side is longer than the detector's "
        "input, or its longer side more than twice as long.",
        metavar="VIEWS",
        affects="rows",
        lenient=True,
    )
    tile_size: str = option(
        AUTO,
        "Make tiles of this size: pixels (640), a share of the image's sides (60%), or 60% but at most the detector's "
        "input size (`auto`).",
        metavar="SIZE",
        affects="rows",
        lenient=True,
    )
    tile_overlap: float = option(
        0.2,
        "Let neighboring tiles overlap by at least this share of their size.",
        metavar="SHARE",
        min=0,
        max=0.9,
        affects="rows",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = [kind.strip() for kind in self.views.split(",")]
        require(
            kinds == [AUTO] or (set(kinds) <= set(WEIGHTS) and len(set(kinds)) == len(kinds)),
            f"--views must be {AUTO}, or one or more of {', '.join(WEIGHTS)} joined by commas, got {self.views!r}",
        )
        # A fixed order, so that a run resumes whatever the order of the call.
        ordered = ",".join(kind for kind in (AUTO, *WEIGHTS) if kind in kinds)
        object.__setattr__(self, "views", ordered)
        size = self.tile_size
        share = re.fullmatch(r"(\d+(?:\.\d+)?)%", size)
        require(
            size == AUTO
            or (share is not None and 1 <= float(share[1]) <= 100)
            or (size.isdecimal() and int(size) >= _SMALLEST_TILE),
            f"--tile-size must be auto, pixels of at least {_SMALLEST_TILE} (640) or a share of at least 1% of the "
            f"image's sides (60%), got {size!r}",
        )
        for name, needs, has in (
            ("tile_size", "--views with tiles, or auto", self.has_tiles),
            ("tile_overlap", "--views with tiles, or auto", self.has_tiles),
            ("merge", "several --views", not self.is_plain),
            ("merge_iou", "several --views", not self.is_plain),
        ):
            given = getattr(self, name) != default_of(fields_of(ViewOptions)[name])
            require(has or not given, f"{flag_of(name)} needs {needs}, got --views {self.views}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of views in a fixed order, or `("auto",)`."""
        return tuple(self.views.split(","))

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each kind of view."""
        return AUTO_WEIGHTS if self.is_auto else WEIGHTS

    @property
    def is_auto(self) -> bool:
        """Whether the size of each image decides if it is cut into tiles."""
        return self.views == AUTO

    @property
    def is_plain(self) -> bool:
        """Whether the detector sees each image as it is, once."""
        return self.kinds == (WHOLE,)

    @property
    def has_tiles(self) -> bool:
        """Whether images may be cut into tiles."""
        return bool({TILES, AUTO} & set(self.kinds))

    @property
    def tile_pixels(self) -> int | None:
        """The size of tiles in pixels, or None for a share of the image."""
        return int(self.tile_size) if self.tile_size.isdecimal() else None

    @property
    def tile_share(self) -> float | None:
        """The size of tiles as a share of the image's sides, or None if it is measured in pixels."""
        return float(self.tile_size.rstrip("%")) / 100 if self.tile_size.endswith("%") else None

    @property
    def usual_count(self) -> int:
        """The number of views of an image of usual size."""
        counts = {WHOLE: 1, FLIP: 1, TILES: 4, AUTO: 5}
        return sum(counts[kind] for kind in self.kinds)

    @property
    def needs_input_size(self) -> bool:
        """Whether the views of an image depend on the detector's input size."""
        return self.has_tiles and self.tile_pixels is None and (self.tile_size == AUTO or self.is_auto)


class View(NamedTuple):
    """One way of showing an image to a detector.

    Attributes:
        kind: `whole`, `flip` or `tiles`.
        x1: Left side of the area that is shown, in pixels of the image.
        y1: Its upper side.
        x2: Its right side.
        y2: Its lower side.
    """

    kind: str
    x1: int
    y1: int
    x2: int
    y2: int


def views_of(height: int, width: int, options: ViewOptions, input_size: int | None) -> list[View]:
    """The views of an image of this height and width: whole, mirrored, then tiles row by row.

    Args:
        height: Pixels of the image, top to bottom.
        width: Pixels of the image, left to right.
        options: Which views.
        input_size: Pixels of the shorter side of what the detector sees; None if unknown, then `USUAL_INPUT`.

    Returns:
        At least one view. An image that is not larger than a tile has none, but is shown whole.
    """
    size = options.tile_pixels or input_size or USUAL_INPUT
    kinds = set(options.kinds)
    if options.is_auto:
        kinds = {WHOLE, TILES} if min(height, width) > size or max(height, width) > LONG_SIDE * size else {WHOLE}
    views = [View(kind, 0, 0, width, height) for kind in (WHOLE, FLIP) if kind in kinds]
    if TILES in kinds:
        rows, columns = (_spans(side, options, size) for side in (height, width))
        tiles = [View(TILES, x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]
        if len(tiles) > 1 or not views:
            views += tiles
    return views


def _spans(side: int, options: ViewOptions, size: int) -> list[tuple[int, int]]:
    """Begin and end of the tiles along one side of an image, evenly spaced."""
    if options.tile_pixels:
        tile = options.tile_pixels
    elif options.tile_share:
        tile = math.ceil(options.tile_share * side)
    elif options.is_auto and side <= size:
        tile = side
    else:
        tile = min(math.ceil(TILE_SHARE * side), size)
    tile = max(tile, _SMALLEST_TILE)
    if tile >= side:
        return [(0, side)]
    overlap = options.tile_overlap * tile
    count = max(2, math.ceil((side - overlap) / (tile - overlap) - 1e-9))
    starts = (round(number * (side - tile) / (count - 1)) for number in range(count))
    return [(start, start + tile) for start in starts]
