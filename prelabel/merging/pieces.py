"""Objects that the border of a tile cuts: pieces get the box of the whole object, or are joined, before merging.

Two tiles of 60 x 40 pixels that overlap by 20, and a train that is longer than each of them:

    tile A    0 ......... 60          the piece in A ends at the right border of A
    tile B         40 ......... 100   the piece in B begins at the left border of B
    train     10 ------------- 90
    strip          40 .. 60           both pieces cross the strip that both tiles saw, at the same height

If a view saw the whole train, both pieces get its box: their tiles saw it, too. If not, they are joined. A piece
without a partner stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prelabel.detections import Detections, as_objects
from prelabel.masks.rle import BoolArray, Int64Array
from prelabel.merging.detections import Names, checked_windows, concatenate, labels_of
from prelabel.merging.keypoints import surest_points
from prelabel.merging.masks import iou_within, unite_masks
from prelabel.merging.neighbors import Floats, area, iou_of_pairs

#: A side is cut if it is this close to the border of a tile, as a share of the tile's side: boxes are not exact.
MARGIN = 0.01

#: Share of a piece that lies in the whole object's box.
_INSIDE = 0.7

#: IoU of a piece's box with what its tile shows of the whole object's box, if one of them has no mask. A child before
#: an adult is no piece of the adult.
_SHOWN = 0.5

#: A whole object counts if it has this share of the piece's score: a doubtful box does not replace a clear piece.
_SCORE = 0.5

#: IoU of the masks of two pieces of one object in the strip that both tiles saw, and of those of a piece and the whole
#: object in the tile. If there are no masks, IoU of the extents of two pieces along the strip.
_MASK_AGREEMENT, _BOX_AGREEMENT = 0.5, 0.6

#: Columns of the low and of the high side in `xyxy` and in `cut_sides`, on each axis.
_AXES = ((0, 2), (1, 3))


class Pieces(NamedTuple):
    """Parts in which pieces have been resolved.

    Attributes:
        parts: The parts without pieces that were joined. After them, parts of joined objects. Pieces of objects that
            another part saw whole have the box of that object, which exceeds their own window.
        windows: `(P, 4)` what each part saw; for joined objects the box around the windows of their pieces.
        origin: `(P,)` the number of the part that was given, of joined objects that of their strongest piece.
    """

    parts: list[Detections]
    windows: Int64Array
    origin: Int64Array


class _Table(NamedTuple):
    """What is compared of detections, in arrays of one entry each; `xyxy` and `cut` have four columns."""

    xyxy: Floats
    label: Int64Array
    score: Floats
    part: Int64Array
    cut: BoolArray

    def at(self, rows: Int64Array) -> _Table:
        """The detections of these rows."""
        return _Table(self.xyxy[rows], self.label[rows], self.score[rows], self.part[rows], self.cut[rows])


def cut_sides(
    xyxy: npt.NDArray[np.floating[Any]],
    window: Sequence[int] | Int64Array,
    height: int,
    width: int,
    margin: float = MARGIN,
) -> BoolArray:
    """`(N, 4)` whether the left, top, right, bottom side of each box lies on a border of the window.

    A border of the window that is also a border of the image cuts nothing.

    Args:
        xyxy: `(N, 4)` boxes in pixels of the image.
        window: x1 y1 x2 y2 of the tile.
        height: Pixels of the image.
        width: Pixels of the image.
        margin: How far a box may end before the border, as a share of the window's side.
    """
    x1, y1, x2, y2 = (int(value) for value in window)
    across, down = margin * (x2 - x1), margin * (y2 - y1)
    return np.column_stack(
        (
            (xyxy[:, 0] <= x1 + across) & (x1 > 0),
            (xyxy[:, 1] <= y1 + down) & (y1 > 0),
            (xyxy[:, 2] >= x2 - across) & (x2 < width),
            (xyxy[:, 3] >= y2 - down) & (y2 < height),
        )
    )


def resolve_pieces(
    parts: Sequence[Detections], windows: npt.ArrayLike, *, names: Names = labels_of, margin: float = MARGIN
) -> Pieces:
    """Give pieces the box of an object that a part saw whole, and join the others across the tiles that they lie in.

    A piece belongs to a whole object if most of it lies in a box of the same label that another part saw whole, and if
    it is what its tile shows of that object: by their masks, or without masks by their boxes. It gets the box of the
    strongest such object, and keeps its score and its mask. Other pieces of the same label are joined if both cross the
    strip that both tiles saw, from one tile's border to the other's, and agree there: by their masks, or without masks
    by their extents along the strip. An object has at most one piece in each tile. The box of a joined object covers
    its pieces, the mask is the union, each keypoint is that of the piece that is surest of it, and the rest is that of
    the strongest piece. Tiles that do not overlap share no strip, so nothing is joined.

    Args:
        parts: The detections of each view or tile, in pixels of the whole image.
        windows: `(P, 4)` whole pixels x1 y1 x2 y2 that each part saw.
        names: The names under which detections are of the same class.
        margin: See `cut_sides`.

    Raises:
        ValueError: There are no parts, their sizes differ, or the windows have the wrong shape.
        StoreError: A mask does not fit the image.
    """
    windows = checked_windows(parts, windows)
    together = concatenate(parts)
    height, width = together.height, together.width
    cut = [cut_sides(part.xyxy, window, height, width, margin) for part, window in zip(parts, windows, strict=True)]
    table = _Table(
        xyxy=together.xyxy.astype(np.float64),
        label=np.unique(names(together).astype(str), return_inverse=True)[1].astype(np.int64),
        score=together.score.astype(np.float64),
        part=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        cut=np.concatenate(cut),
    )
    kept: BoolArray = np.ones(len(together), dtype=bool)
    whole = _whole_objects(table, windows, together)
    groups = _groups(table, np.flatnonzero((whole < 0) & table.cut.any(axis=1)), windows, together, margin)
    joined = [_joined(together, table, group) for group in groups]
    if groups:
        kept[np.concatenate(groups)] = False
        # Pieces without a partner may be pieces of an object that is whole now.
        around = np.array([_around(windows[table.part[group]]) for group in groups])
        windows = np.concatenate((windows, around.astype(np.int64)))
        table = _with_joined(table, groups, joined, len(parts))
        kept = np.append(kept, np.ones(len(groups), dtype=bool))
        together = concatenate([together, *joined])
        rows = np.flatnonzero(kept)
        objects = _whole_objects(table.at(rows), windows, together[rows])
        whole = np.full(len(together), -1)
        whole[rows] = np.where(objects < 0, -1, rows[objects])
    origin = np.array([*range(len(parts)), *(table.part[_strongest(table, group)] for group in groups)], np.int64)
    completed = replace(together, xyxy=together.xyxy[np.where(whole < 0, np.arange(len(together)), whole)])
    remaining = [np.flatnonzero(kept & (table.part == number)) for number in range(len(windows))]
    return Pieces(
        parts=[completed[rows] for rows in remaining],
        windows=windows,
        origin=origin,
    )


def _whole_objects(table: _Table, windows: Int64Array, detections: Detections) -> Int64Array:
    """`(N,)` the row of the object, seen whole by another part, that a detection is a piece of, or -1."""
    is_cut: BoolArray = np.asarray(table.cut.any(axis=1))
    result: Int64Array = np.full(len(table.part), -1)
    pieces_of = _rows_by_part(table, np.flatnonzero(is_cut), len(windows))
    wholes_of = _rows_by_part(table, np.flatnonzero(~is_cut), len(windows))
    for part, pieces in enumerate(pieces_of):
        if not len(pieces):
            continue
        window = windows[part]
        overlaps = (windows[:, :2] < window[2:]).all(axis=1) & (windows[:, 2:] > window[:2]).all(axis=1)
        overlaps[part] = False
        wholes = np.concatenate([wholes_of[other] for other in np.flatnonzero(overlaps)] or [pieces[:0]])
        box = table.xyxy[wholes]
        wholes = wholes[(box[:, :2] < window[2:]).all(axis=1) & (box[:, 2:] > window[:2]).all(axis=1)]
        row, column = np.nonzero(table.label[pieces, None] == table.label[wholes])
        piece, whole = pieces[row], wholes[column]
        inside = area(_clipped(table.xyxy[piece], table.xyxy[whole]))
        is_inside = (inside >= _INSIDE * area(table.xyxy[piece])) & (table.score[whole] >= _SCORE * table.score[piece])
        piece, whole = piece[is_inside], whole[is_inside]
        is_piece = _are_what_is_shown(table, piece, whole, window, detections)
        piece, whole = piece[is_piece], whole[is_piece]
        # The strongest comes last: of several values for one place the last is kept.
        order = np.lexsort((*-table.xyxy[whole].T[::-1], table.score[whole]))
        result[piece[order]] = whole[order]
    return result


def _are_what_is_shown(
    table: _Table, piece: Int64Array, whole: Int64Array, window: Int64Array, detections: Detections
) -> BoolArray:
    """`(K,)` whether pieces of a tile are what the tile shows of whole objects."""
    result: BoolArray = iou_of_pairs(table.xyxy[piece], _clipped(table.xyxy[whole], window)) >= _SHOWN
    if detections.mask is not None:
        for n, (a, b) in enumerate(zip(detections.mask[piece], detections.mask[whole], strict=True)):
            if a is not None and b is not None:
                agreement = iou_within(a, b, window, detections.height, detections.width)
                result[n] = agreement >= _MASK_AGREEMENT
    return result


def _rows_by_part(table: _Table, rows: Int64Array, parts: int) -> list[Int64Array]:
    """Some rows of the table, by part. A part's rows lie together in the table, one part after the other."""
    return np.split(rows, np.searchsorted(table.part[rows], np.arange(1, parts)))


def _groups(
    table: _Table, pieces: Int64Array, windows: Int64Array, detections: Detections, margin: float
) -> list[Int64Array]:
    """The pieces of each object that lies in several tiles, two or more each."""
    agreements: list[tuple[float, int, int]] = []
    tiles = np.unique(table.part[pieces])
    seen = windows[tiles]
    pieces_of = _rows_by_part(table, pieces, len(windows))
    meets = (seen[:, None, :2] < seen[:, 2:]).all(axis=2)
    for p, q in tiles[np.argwhere(meets & meets.T)].tolist():
        for axis in _AXES:
            agreements += _agreements(table, (pieces_of[p], pieces_of[q]), windows, (p, q), axis, detections, margin)
    agreements.sort(key=lambda pair: (-pair[0], *table.xyxy[pair[1]], *table.xyxy[pair[2]]))
    group = {piece: [piece] for piece in pieces.tolist()}
    for _, first, second in agreements:
        a, b = group[first], group[second]
        if a is not b and not set(table.part[a]) & set(table.part[b]):
            a.extend(b)
            group.update(dict.fromkeys(b, a))
    unique = {id(members): members for members in group.values() if len(members) > 1}
    return [np.sort(np.array(members, np.int64)) for members in unique.values()]


def _agreements(
    table: _Table,
    pieces: tuple[Int64Array, Int64Array],
    windows: Int64Array,
    tiles: tuple[int, int],
    axis: tuple[int, int],
    detections: Detections,
    margin: float,
) -> list[tuple[float, int, int]]:
    """The agreement of pieces of two tiles that are pieces of one object, and both pieces.

    Args:
        table: All detections.
        pieces: Those of each of the two tiles that are pieces.
        windows: Of all parts.
        tiles: The tile to the left (or above) and the tile to the right (or below).
        axis: Columns of the low and high side on the axis on which the tiles are neighbors.
        detections: All detections, with masks.
        margin: See `cut_sides`.
    """
    (low, high), (first_tile, second_tile) = axis, windows[list(tiles)]
    strip = _clipped(first_tile[None], second_tile)[0]
    sides = strip[2:] - strip[:2]
    smaller = np.minimum(first_tile[2:] - first_tile[:2], second_tile[2:] - second_tile[:2])
    slack = margin * max(first_tile[high] - first_tile[low], second_tile[high] - second_tile[low])
    ordered = first_tile[low] < second_tile[low] and first_tile[high] < second_tile[high]
    # Tiles that only meet at a corner are not neighbors.
    if not ordered or sides[low] <= 2 * slack or 2 * sides[1 - low] < smaller[1 - low]:
        return []
    box, cut = table.xyxy, table.cut
    ends, begins = pieces
    ends = ends[cut[ends, high] & (box[ends, low] <= strip[low] + slack)]
    begins = begins[cut[begins, low] & (box[begins, high] >= strip[high] - slack)]
    row, column = np.nonzero(table.label[ends, None] == table.label[begins])
    first, second = ends[row], begins[column]
    in_strip = [_clipped(box[piece], strip) for piece in (first, second)]
    for clipped in in_strip:
        clipped[:, [low, high]] = strip[[low, high]]
    results = []
    for a, b, overlap in zip(first.tolist(), second.tolist(), iou_of_pairs(*in_strip).tolist(), strict=True):
        mask_a, mask_b = (None, None) if detections.mask is None else detections.mask[[a, b]]
        agreement, least = overlap, _BOX_AGREEMENT
        if overlap > 0 and mask_a is not None and mask_b is not None:
            agreement = iou_within(mask_a, mask_b, strip, detections.height, detections.width)
            least = _MASK_AGREEMENT
        if agreement >= least:
            results.append((agreement, a, b))
    return results


def _joined(detections: Detections, table: _Table, group: Int64Array) -> Detections:
    """The one detection that pieces are joined to."""
    strongest = detections[np.array([_strongest(table, group)])]
    mask = None
    if detections.mask is not None:
        counts = [counts for counts in detections.mask[group] if counts is not None]
        united = (
            unite_masks(counts, np.array([0, len(counts)]), detections.height, detections.width) if counts else [None]
        )
        mask = as_objects(united)
    keypoints = None
    if detections.keypoints is not None:
        # By falling score, so that the result does not depend on the order of the tiles.
        order = group[np.lexsort((*detections.xyxy[group].T[::-1], -table.score[group]))]
        keypoints = surest_points(detections.keypoints[order], np.array([0, len(order)]))
    return replace(strongest, xyxy=_around(detections.xyxy[group])[None], mask=mask, keypoints=keypoints)


def _with_joined(table: _Table, groups: list[Int64Array], joined: list[Detections], parts: int) -> _Table:
    """The table with a further row and part for each joined object. It is cut where its outermost piece is."""
    outermost = [
        group[[*table.xyxy[group, :2].argmin(axis=0), *table.xyxy[group, 2:].argmax(axis=0)]] for group in groups
    ]
    first = [group[0] for group in groups]
    return _Table(
        xyxy=np.concatenate((table.xyxy, *(detection.xyxy for detection in joined))),
        label=np.append(table.label, table.label[first]),
        score=np.append(table.score, [detection.score[0] for detection in joined]),
        part=np.append(table.part, np.arange(parts, parts + len(groups))),
        cut=np.concatenate((table.cut, [table.cut[piece, range(4)] for piece in outermost])),
    )


def _strongest(table: _Table, group: Int64Array) -> int:
    """The piece with the highest score; the first by its box if there are several."""
    return int(group[np.lexsort((*table.xyxy[group].T[::-1], -table.score[group]))[0]])


def _around(boxes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The box around boxes."""
    return np.concatenate((boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)))


def _clipped(boxes: npt.NDArray[Any], window: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`(N, 4)` the parts of boxes in a window, or each in its own; without area if they do not meet."""
    low = np.maximum(boxes[:, :2], window[..., :2])
    return np.concatenate((low, np.maximum(np.minimum(boxes[:, 2:], window[..., 2:]), low)), axis=1)
