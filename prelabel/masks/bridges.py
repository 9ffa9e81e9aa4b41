"""Join several contours into one closed contour by bridges of zero width.

Two squares that are two pixels apart become one path. It follows the first square to the corner nearest to the second,
crosses over, goes around the second square, returns over the same bridge, and continues:

    A----B        E----F        A B E F G H E B C D
    |    |--------|    |
    D----C        H----G

The path crosses the bridge B-E once in each direction. The second pass cancels the first, so the bridge adds no area by
the even-odd rule or the nonzero rule, even where it crosses another contour. Tools that draw the contour of a polygon
(Pillow, OpenCV) show the bridge as a line. Bridges are therefore as short as possible: together they are a minimum
spanning tree over the corners of the contours.

Label Studio and CVAT need a single contour because an object is one region there, and YOLO because a segment is one
contour. Polygons with holes need it too: a hole is a contour of the opposite direction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

#: The search for the shortest bridges uses at most this many corners, since its time grows with the square of their
#: number. If the contours have more, it uses a sample of evenly spaced corners, and each bridge is then moved to the
#: nearest corners. If there are more contours than this, they are joined in groups, and then the groups are joined.
MOST_CORNERS = 2048


def join_contours(contours: Sequence[FloatArray]) -> FloatArray:
    """The `(P, 2)` corners of one closed contour that joins all contours and starts at the first corner of the first.

    It fills the same area as the contours together if outer contours and holes have opposite directions: by the nonzero
    rule, and by the even-odd rule if the contours do not overlap.

    Args:
        contours: The `(P, 2)` corners x y of each contour, closed without repeating the first corner.
    """
    if len(contours) == 1:
        return contours[0]
    if len(contours) > MOST_CORNERS:
        # Group neighbors: in strips from left to right, so narrow that each group is about as high as wide.
        first = np.array([contour[0] for contour in contours[1:]])
        strips = max(1, round((len(first) / MOST_CORNERS) ** 0.5))
        strip = np.argsort(np.argsort(first[:, 0], kind="stable"), kind="stable") * strips // len(first)
        order = [0, *(1 + np.lexsort((first[:, 1], strip))).tolist()]
        groups = [order[start : start + MOST_CORNERS] for start in range(0, len(order), MOST_CORNERS)]
        return join_contours([join_contours([contours[n] for n in group]) for group in groups])
    return _path(contours, _bridges(contours))


def _bridges(contours: Sequence[FloatArray]) -> list[tuple[int, int, int, int]]:
    """The bridges of a minimum spanning tree, by Prim's algorithm from the first contour on.

    Returns:
        `(parent, start, child, entry)` per bridge: it leads from corner `start` of contour `parent` to corner `entry`
        of contour `child`.
    """
    corners_per_contour = max(1, MOST_CORNERS // len(contours))
    sampled = [np.arange(0, len(contour), -(-len(contour) // corners_per_contour)) for contour in contours]
    bounds = np.cumsum([0, *(len(corners) for corners in sampled)])
    points = [contour[corners] for contour, corners in zip(contours, sampled, strict=True)]
    x, y = np.concatenate(points).astype(np.float32).T
    squared_distance = np.square(x[:, None] - x)
    squared_distance += np.square(y[:, None] - y)
    # The distance of two contours is the smallest distance of their corners.
    between = np.minimum.reduceat(np.minimum.reduceat(squared_distance, bounds[:-1], axis=0), bounds[:-1], axis=1)
    # The distance of each contour to the nearest contour in the tree, and which contour that is.
    distance, nearest = between[0].copy(), np.zeros(len(contours), np.intp)
    distance[0] = np.inf
    outside = np.arange(len(contours)) > 0
    bridges = []
    for _ in range(len(contours) - 1):
        child = int(distance.argmin())
        parent = int(nearest[child])
        block = squared_distance[bounds[parent] : bounds[parent + 1], bounds[child] : bounds[child + 1]]
        row, column = divmod(int(block.argmin()), block.shape[1])
        start, entry = int(sampled[parent][row]), int(sampled[child][column])
        if len(sampled[parent]) < len(contours[parent]) or len(sampled[child]) < len(contours[child]):
            start, entry = _shortened(contours[parent], contours[child], start, entry)
        bridges.append((parent, start, child, entry))
        outside[child] = False
        distance[child] = np.inf
        closer = np.flatnonzero(outside & (between[child] < distance))
        distance[closer], nearest[closer] = between[child][closer], child
    return bridges


def _shortened(parent: FloatArray, child: FloatArray, start: int, entry: int) -> tuple[int, int]:
    """The corners of both contours after moving the ends of a bridge as long as that makes it shorter."""
    while True:
        next_start = int(((parent - child[entry]) ** 2).sum(axis=1).argmin())
        next_entry = int(((child - parent[next_start]) ** 2).sum(axis=1).argmin())
        if np.hypot(*(parent[next_start] - child[next_entry])) >= np.hypot(*(parent[start] - child[entry])):
            return start, entry
        start, entry = next_start, next_entry


def _path(contours: Sequence[FloatArray], bridges: Sequence[tuple[int, int, int, int]]) -> FloatArray:
    """The joined contour along the tree of `_bridges`.

    This is a loop rather than a recursion, since a chain of contours may be long.
    """
    children: dict[int, dict[int, list[int]]] = {}
    for parent, start, child, _ in bridges:
        children.setdefault(parent, {}).setdefault(start, []).append(child)
    paths: dict[int, FloatArray] = {}
    entries = {0: 0, **{child: entry for _, _, child, entry in bridges}}
    # A contour enters the tree after its parent. In reverse order, the paths of its children are made before its own.
    for number in [*(child for _, _, child, _ in reversed(bridges)), 0]:
        contour, entry = contours[number], entries[number]
        around = [*range(entry, len(contour)), *range(entry)] + ([entry] if number else [])
        pieces: list[FloatArray] = []
        done = 0
        children_at = children.get(number, {})
        for step, corner in enumerate(around):
            for child in children_at.pop(corner, ()):
                pieces += [contour[around[done : step + 1]], paths.pop(child)]
                done = step
        paths[number] = np.concatenate([*pieces, contour[around[done:]]])
    return paths[0]
