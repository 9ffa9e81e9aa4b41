"""Frames: the ways in which one picture can lie, and how boxes, masks and sizes get from one into another.

    stored     the pixels as they stand in the file
    display    upright: turned as the file's metadata says; what the detector saw and a shard holds
    browser    what browsers show; they look for an orientation in fewer places than there are

EXIF's orientation, 1 to 8, says how stored pixels are turned for showing. The eight turns are a group (that of the
square): any two after each other are one of them, and each can be undone. So a number of 1 to 8 names the way between
any two frames, too. A picture of 2 x 3 pixels (height x width)

    a b c
    d e f

becomes

    1  a b c    2  c b a    3  f e d    4  d e f    5  a d    6  d a    7  f c    8  c f
       d e f       f e d       c b a       a b c       b e       e b       e b       b e
                                                       c f       f c       d a       a d
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from prelabel import rle
from prelabel.detections import Detections, as_objects
from prelabel.rle import Int64Array
from prelabel.sides import transposed_edges

STORED, DISPLAY, BROWSER = "stored", "display", "browser"
FRAMES = (DISPLAY, STORED, BROWSER)

Floats = npt.NDArray[np.float64]
Array = TypeVar("Array", bound=npt.NDArray[Any])


class _Turn(NamedTuple):
    """A turn in its parts: rows and columns change places first, then the columns are reversed, then the rows."""

    transposed: bool
    columns_reversed: bool
    rows_reversed: bool


_TURNS = {
    1: _Turn(False, False, False),
    2: _Turn(False, True, False),
    3: _Turn(False, True, True),
    4: _Turn(False, False, True),
    5: _Turn(True, False, False),
    6: _Turn(True, True, False),
    7: _Turn(True, True, True),
    8: _Turn(True, False, True),
}
_NUMBERS = {turn: number for number, turn in _TURNS.items()}


def way_to(frame: str, applied: int | None, browser: int | None) -> int:
    """The turn, 1..8, that leads from the display frame to another.

    Args:
        frame: One of `FRAMES`.
        applied: The orientation that was applied to the stored pixels to get the display frame; None is 1.
        browser: The one that browsers apply; None is the same as applied.

    Raises:
        ValueError: No such frame, or an orientation that is not 1..8.
    """
    if frame not in FRAMES:
        raise ValueError(f"frame must be one of {', '.join(FRAMES)}, got {frame!r}")
    back = inverse(_number(applied))
    if frame == STORED:
        return back
    if frame == BROWSER:
        return after_each_other(back, _number(browser, applied))
    return 1


def after_each_other(first: int, second: int) -> int:
    """The one turn, 1..8, that does what two do after each other."""
    one, other = _turn(first), _turn(second)
    # Reversing columns and then transposing is transposing and then reversing rows.
    columns, rows = one[1:] if not other.transposed else (one.rows_reversed, one.columns_reversed)
    transposed = one.transposed != other.transposed
    return _NUMBERS[_Turn(transposed, columns != other.columns_reversed, rows != other.rows_reversed)]


def inverse(turn: int) -> int:
    """The turn, 1..8, that undoes one: 8 for 6, 6 for 8, for all others they themselves."""
    return {6: 8, 8: 6}.get(turn, turn)


def turned_size(height: int, width: int, turn: int) -> tuple[int, int]:
    """Height and width of a turned picture."""
    return (width, height) if _turn(turn).transposed else (height, width)


def turned_rows(picture: Array, turn: int) -> Array:
    """`(height, width, ...)` of pixels, turned; a view where that is possible."""
    transposed, columns, rows = _turn(turn)
    turned: Any = picture.swapaxes(0, 1) if transposed else picture
    turned = turned[:, ::-1] if columns else turned
    return turned[::-1] if rows else turned  # type: ignore[no-any-return]


def turned_points(points: npt.NDArray[Any], height: int, width: int, turn: int) -> Floats:
    """`(..., 2)` x y in pixels of a picture of that height and width -> the same places in the turned one, float64."""
    transposed, columns, rows = _turn(turn)
    height, width = turned_size(height, width, turn)
    x, y = np.moveaxis(np.asarray(points, np.float64), -1, 0)
    if transposed:
        x, y = y, x
    return np.stack((width - x if columns else x, height - y if rows else y), axis=-1)


def turned_boxes(xyxy: npt.NDArray[Any], height: int, width: int, turn: int) -> Floats:
    """`(N, 4)` x1 y1 x2 y2 in pixels -> the boxes in the turned picture, float64, with x1 <= x2 and y1 <= y2."""
    corners = turned_points(np.asarray(xyxy).reshape(-1, 2, 2), height, width, turn)
    return np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)


def turned_counts(counts: str, height: int, width: int, turn: int) -> str:
    """COCO compressed counts of a mask of that height and width -> those of the turned mask, from run to run.

    Raises:
        StoreError: The counts are none of this size.
        ExportError: The mask is too ragged, see `prelabel.sides`.
    """
    if turn == 1:
        return counts
    transposed, columns, rows = _turn(turn)
    starts, ends = rle.spans(counts, height, width)
    pixels = height * width
    if transposed:
        edges = transposed_edges(starts, ends, height, width)
        starts, ends = edges[::2], np.append(edges[1::2], np.full(len(edges) % 2, pixels))
        height, width = width, height
    # Reversing the whole order of pixels reverses columns and rows; what must not be reversed is reversed again.
    if columns:
        starts, ends = pixels - ends[::-1], pixels - starts[::-1]
    if rows != columns:
        starts, ends = _rows_reversed(starts, ends, height)
    edges = np.stack((starts, ends), axis=1).ravel()
    edges = edges[edges < pixels]
    return rle.encode_edges(edges, np.array([len(edges)]), pixels)[0]


def _rows_reversed(starts: Int64Array, ends: Int64Array, height: int) -> tuple[Int64Array, Int64Array]:
    first, last = starts // height, (ends - 1) // height
    # Runs that go on in the next column are cut at its top, since each column is reversed by itself.
    number = last - first + 1
    begin = np.cumsum(number) - number
    column = np.repeat(first - begin, number) + np.arange(number.sum())
    top, bottom = column * height, (column + 1) * height
    top[begin], bottom[begin + number - 1] = starts, ends
    mirror = (2 * column + 1) * height
    edges = np.concatenate((mirror - bottom, mirror - top))
    edges.sort(kind="stable")
    # Where one column's last run and the next one's first now touch, they are one.
    edges = rle.without_pairs(edges)
    return edges[::2], edges[1::2]


def turned_masks(masks: Sequence[str | None], height: int, width: int, turn: int) -> list[str | None]:
    """`turned_counts` of each mask; None stays None."""
    return [None if counts is None else turned_counts(counts, height, width, turn) for counts in masks]


def turned_detections(found: Detections, turn: int) -> Detections:
    """The same detections on the turned picture.

    Raises:
        StoreError: A mask does not fit the image.
        ExportError: A mask is too ragged.
    """
    if turn == 1:
        return found
    height, width = turned_size(found.height, found.width, turn)
    masks = found.mask
    return replace(
        found,
        height=height,
        width=width,
        xyxy=turned_boxes(found.xyxy, found.height, found.width, turn).astype(np.float32),
        mask=None if masks is None else as_objects(turned_masks(masks.tolist(), found.height, found.width, turn)),
    )


def _number(orientation: int | None, default: int | None = None) -> int:
    number = orientation if orientation is not None else default if default is not None else 1
    _turn(number)
    return number


def _turn(number: int) -> _Turn:
    try:
        return _TURNS[number]
    except KeyError:
        raise ValueError(f"an orientation must be 1 to 8, got {number}") from None
