"""Frames: the coordinate systems of an image, and the conversion of boxes, masks, keypoints and sizes between them.

    stored     the pixels as stored in the file
    display    the displayed image, rotated as the file's metadata says; detectors and shards use this frame
    browser    the image as browsers show it; browsers read the orientation from fewer places in a file

EXIF's orientation, 1 to 8, says how stored pixels are rotated or mirrored for display. The eight orientations are a
group (the symmetries of the square): applying two of them is the same as applying a third, and each has an inverse. So
an orientation also converts between any two frames. An image of 2 x 3 pixels (height x width)

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

from prelabel.detections import Detections, as_objects
from prelabel.masks import rle
from prelabel.masks.rle import Int64Array
from prelabel.masks.sides import transposed_edges

STORED, DISPLAY, BROWSER = "stored", "display", "browser"
FRAMES = (DISPLAY, STORED, BROWSER)

Floats = npt.NDArray[np.float64]
Array = TypeVar("Array", bound=npt.NDArray[Any])


class _Steps(NamedTuple):
    """The steps of an orientation: first rows and columns are swapped, then columns are reversed, then rows."""

    transposed: bool
    columns_reversed: bool
    rows_reversed: bool


_STEPS = {
    1: _Steps(False, False, False),
    2: _Steps(False, True, False),
    3: _Steps(False, True, True),
    4: _Steps(False, False, True),
    5: _Steps(True, False, False),
    6: _Steps(True, True, False),
    7: _Steps(True, True, True),
    8: _Steps(True, False, True),
}
_NUMBERS = {steps: number for number, steps in _STEPS.items()}


def orientation_to(frame: str, applied: int | None, browser: int | None) -> int:
    """The orientation, 1..8, that converts from the display frame to another frame.

    Args:
        frame: One of `FRAMES`.
        applied: The orientation that was applied to the stored pixels to get the display frame; None means 1.
        browser: The orientation that browsers apply; None means the same as `applied`.

    Raises:
        ValueError: The frame is unknown, or an orientation is not 1..8.
    """
    if frame not in FRAMES:
        raise ValueError(f"frame must be one of {', '.join(FRAMES)}, got {frame!r}")
    back = inverse(_checked(applied))
    if frame == STORED:
        return back
    if frame == BROWSER:
        return compose(back, _checked(browser, applied))
    return 1


def compose(first: int, second: int) -> int:
    """The orientation, 1..8, that is equal to applying `first` and then `second`."""
    before, after = _steps_of(first), _steps_of(second)
    # Reversing columns and then transposing equals transposing and then reversing rows.
    columns, rows = before[1:] if not after.transposed else (before.rows_reversed, before.columns_reversed)
    transposed = before.transposed != after.transposed
    return _NUMBERS[_Steps(transposed, columns != after.columns_reversed, rows != after.rows_reversed)]


def inverse(orientation: int) -> int:
    """The orientation, 1..8, that undoes an orientation: 8 undoes 6, 6 undoes 8, and the others undo themselves."""
    return {6: 8, 8: 6}.get(orientation, orientation)


def oriented_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Height and width of an image after applying an orientation."""
    return (width, height) if _steps_of(orientation).transposed else (height, width)


def oriented_pixels(image: Array, orientation: int) -> Array:
    """The `(height, width, ...)` pixels after applying an orientation, as a view."""
    transposed, columns, rows = _steps_of(orientation)
    oriented: Any = image.swapaxes(0, 1) if transposed else image
    oriented = oriented[:, ::-1] if columns else oriented
    return oriented[::-1] if rows else oriented  # type: ignore[no-any-return]


def oriented_points(points: npt.NDArray[Any], height: int, width: int, orientation: int) -> Floats:
    """`(..., 2)` float64 x y in the oriented image, from x y in pixels of an image of that height and width."""
    transposed, columns, rows = _steps_of(orientation)
    height, width = oriented_size(height, width, orientation)
    x, y = np.moveaxis(np.asarray(points, np.float64), -1, 0)
    if transposed:
        x, y = y, x
    return np.stack((width - x if columns else x, height - y if rows else y), axis=-1)


def oriented_boxes(xyxy: npt.NDArray[Any], height: int, width: int, orientation: int) -> Floats:
    """`(N, 4)` float64 x1 y1 x2 y2 in the oriented image, with x1 <= x2 and y1 <= y2, from boxes in pixels."""
    corners = oriented_points(np.asarray(xyxy).reshape(-1, 2, 2), height, width, orientation)
    return np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)


def oriented_keypoints(keypoints: npt.NDArray[Any], height: int, width: int, orientation: int) -> npt.NDArray[Any]:
    """`(N, K, 3)` x, y, score in the oriented image, from keypoints in pixels.

    Keypoints keep their places in the array, also if the orientation mirrors the image: a left eye that is seen there
    is the same eye on the pixels as stored. Only what a detector sees in a mirror image is seen on the wrong side.
    """
    points = oriented_points(keypoints[..., :2], height, width, orientation)
    oriented: npt.NDArray[Any] = np.concatenate((points, keypoints[..., 2:]), axis=-1).astype(keypoints.dtype)
    # Points that are not given stay 0 0 0.
    return np.where(keypoints[..., 2:] == 0, keypoints, oriented)


def oriented_counts(counts: str, height: int, width: int, orientation: int) -> str:
    """COCO compressed counts of the oriented mask, from those of a mask of that height and width, without decoding it.

    Raises:
        StoreError: The counts are not a mask of this size.
        ExportError: The contour of the mask is too long; see `prelabel.masks.sides`.
    """
    if orientation == 1:
        return counts
    transposed, columns, rows = _steps_of(orientation)
    starts, ends = rle.spans(counts, height, width)
    pixels = height * width
    if transposed:
        edges = transposed_edges(starts, ends, height, width)
        starts, ends = edges[::2], np.append(edges[1::2], np.full(len(edges) % 2, pixels))
        height, width = width, height
    # Reversing the order of all pixels reverses columns and rows. Rows that must keep their order are reversed again.
    if columns:
        starts, ends = pixels - ends[::-1], pixels - starts[::-1]
    if rows != columns:
        starts, ends = _rows_reversed(starts, ends, height)
    edges = np.stack((starts, ends), axis=1).ravel()
    edges = edges[edges < pixels]
    return rle.encode_edges(edges, np.array([len(edges)]), pixels)[0]


def _rows_reversed(starts: Int64Array, ends: Int64Array, height: int) -> tuple[Int64Array, Int64Array]:
    column, top, bottom = rle.cut_at_columns(starts, ends, height)  # each column is reversed separately
    mirror = (2 * column + 1) * height
    edges = np.concatenate((mirror - bottom, mirror - top))
    edges.sort(kind="stable")
    # The last run of a column and the first of the next are merged if they now touch.
    edges = rle.without_pairs(edges)
    return edges[::2], edges[1::2]


def oriented_masks(masks: Sequence[str | None], height: int, width: int, orientation: int) -> list[str | None]:
    """`oriented_counts` of each mask; None stays None."""
    return [None if counts is None else oriented_counts(counts, height, width, orientation) for counts in masks]


def oriented_detections(detections: Detections, orientation: int) -> Detections:
    """The same detections on the oriented image.

    Raises:
        StoreError: A mask does not have the size of the image.
        ExportError: The contour of a mask is too long.
    """
    if orientation == 1:
        return detections
    height, width = oriented_size(detections.height, detections.width, orientation)
    size, masks, keypoints = (detections.height, detections.width), detections.mask, detections.keypoints
    return replace(
        detections,
        height=height,
        width=width,
        xyxy=oriented_boxes(detections.xyxy, *size, orientation).astype(np.float32),
        mask=None if masks is None else as_objects(oriented_masks(masks.tolist(), *size, orientation)),
        keypoints=None if keypoints is None else oriented_keypoints(keypoints, *size, orientation),
    )


def _checked(orientation: int | None, default: int | None = None) -> int:
    number = orientation if orientation is not None else default if default is not None else 1
    _steps_of(number)
    return number


def _steps_of(number: int) -> _Steps:
    try:
        return _STEPS[number]
    except KeyError:
        raise ValueError(f"an orientation must be 1 to 8, got {number}") from None
