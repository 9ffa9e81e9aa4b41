"""One closed outline around several: from one to the next over bridges without width.

Two squares, two pixels apart, become one way round: along the first square to the corner that is nearest to the second,
over to it, all around it, back over the same bridge, and on:

    A----B        E----F        A B E F G H E B C D
    |    |--------|    |
    D----C        H----G

The bridge B-E is passed once in each direction. It encloses nothing and fills nothing, whether a reader counts
crossings or windings, also where it crosses another outline: whatever the first passing adds, the second takes away.
Tools that draw the outline of a polygon (Pillow, OpenCV) show it as a line, which is why bridges are as short as can
be: together they are a minimum spanning tree over the outlines' corners.

What needs one outline: Label Studio and CVAT, where one object is one region, YOLO, whose segments have one; and any
polygon with holes, which are outlines the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

#: Corners among which the shortest bridges are looked for: the work grows with their square. Where outlines have more
#: in all, each takes part with evenly spaced ones and a bridge once found moves to the nearest corners beside it.
#: Of more outlines than this, as many at a time are joined first, then what they became.
MOST_CORNERS = 2048


def bridged(outlines: Sequence[FloatArray]) -> FloatArray:
    """`(P, 2)` corners of one closed way around all outlines that begins as the first of them does.

    It fills what they fill together: with outer outlines one way round and holes the other way round, both by winding
    and, where they do not overlap, by crossings.

    Args:
        outlines: `(P, 2)` corners x y each, closed without repeating the first.
    """
    if len(outlines) == 1:
        return outlines[0]
    if len(outlines) > MOST_CORNERS:
        # Neighbours together: in strips from left to right, so many that each is about as high as it is wide.
        first = np.array([outline[0] for outline in outlines[1:]])
        strips = max(1, round((len(first) / MOST_CORNERS) ** 0.5))
        strip = np.argsort(np.argsort(first[:, 0], kind="stable"), kind="stable") * strips // len(first)
        order = [0, *(1 + np.lexsort((first[:, 1], strip))).tolist()]
        lots = [order[start : start + MOST_CORNERS] for start in range(0, len(order), MOST_CORNERS)]
        return bridged([bridged([outlines[n] for n in lot]) for lot in lots])
    return _walk(outlines, _bridges(outlines))


def _bridges(outlines: Sequence[FloatArray]) -> list[tuple[int, int, int, int]]:
    """From which outline and corner to which other and its corner: a tree from the first one on, in order (Prim)."""
    each = max(1, MOST_CORNERS // len(outlines))
    chosen = [np.arange(0, len(one), -(-len(one) // each)) for one in outlines]
    starts = np.cumsum([0, *(len(some) for some in chosen)])
    x, y = np.concatenate([one[some] for one, some in zip(outlines, chosen, strict=True)]).astype(np.float32).T
    apart = np.square(x[:, None] - x)
    apart += np.square(y[:, None] - y)
    # Between outlines: the least of their corners' distances.
    between = np.minimum.reduceat(np.minimum.reduceat(apart, starts[:-1], axis=0), starts[:-1], axis=1)
    distance, reached_from = between[0].copy(), np.zeros(len(outlines), np.intp)
    distance[0] = np.inf
    outside = np.arange(len(outlines)) > 0
    bridges = []
    for _ in range(len(outlines) - 1):
        there = int(distance.argmin())
        here = int(reached_from[there])
        block = apart[starts[here] : starts[here + 1], starts[there] : starts[there + 1]]
        at, to = divmod(int(block.argmin()), block.shape[1])
        place, entry = int(chosen[here][at]), int(chosen[there][to])
        if len(chosen[here]) < len(outlines[here]) or len(chosen[there]) < len(outlines[there]):
            place, entry = _nearby(outlines[here], outlines[there], place, entry)
        bridges.append((here, place, there, entry))
        outside[there] = False
        distance[there] = np.inf
        closer = np.flatnonzero(outside & (between[there] < distance))
        distance[closer], reached_from[closer] = between[there][closer], there
    return bridges


def _nearby(here: FloatArray, there: FloatArray, place: int, entry: int) -> tuple[int, int]:
    """The corners of both outlines to which a bridge moves while that makes it shorter."""
    while True:
        moved = int(((here - there[entry]) ** 2).sum(axis=1).argmin())
        entered = int(((there - here[moved]) ** 2).sum(axis=1).argmin())
        if np.hypot(*(here[moved] - there[entered])) >= np.hypot(*(here[place] - there[entry])):
            return place, entry
        place, entry = moved, entered


def _walk(outlines: Sequence[FloatArray], bridges: Sequence[tuple[int, int, int, int]]) -> FloatArray:
    """The way round along the tree; a loop instead of recursion, since a chain of outlines may be long."""
    leaving: dict[int, dict[int, list[tuple[int, int]]]] = {}
    for here, place, there, entry in bridges:
        leaving.setdefault(here, {}).setdefault(place, []).append((there, entry))
    ways: dict[int, FloatArray] = {}
    entries = {0: 0, **{there: entry for _, _, there, entry in bridges}}
    # Later bridges lead further from the first outline: what hangs on an outline is ready before it is.
    for number in [*(there for _, _, there, _ in reversed(bridges)), 0]:
        outline, entry = outlines[number], entries[number]
        around = [*range(entry, len(outline)), *range(entry)] + ([entry] if number else [])
        pieces: list[FloatArray] = []
        begun = 0
        met = leaving.get(number, {})
        for step, place in enumerate(around):
            for there, _ in met.pop(place, ()):
                pieces += [outline[around[begun : step + 1]], ways.pop(there)]
                begun = step
        ways[number] = np.concatenate([*pieces, outline[around[begun:]]])
    return ways[0]
