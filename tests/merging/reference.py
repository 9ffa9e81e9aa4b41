"""The definitions of merging, one box and one pixel at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return width * height / (sum(areas) - width * height)


def clusters(
    xyxy: np.ndarray,
    score: np.ndarray,
    group: np.ndarray,
    source: np.ndarray,
    weights: Sequence[float],
    *,
    method: str,
    threshold: float,
) -> list[tuple[list[int], np.ndarray]]:
    """Members, from the strongest to the weakest, and box of each cluster."""
    strength = score * np.array(weights)[source] if method == "wbf" else score
    order = sorted(range(len(xyxy)), key=lambda i: (-strength[i], *xyxy[i], source[i], group[i]))
    members: list[list[int]] = []
    boxes: list[np.ndarray] = []
    for i in order:
        overlaps = [
            iou(xyxy[i], xyxy[cluster[0]] if method != "wbf" else box) if group[i] == group[cluster[0]] else 0.0
            for cluster, box in zip(members, boxes, strict=True)
        ]
        over = [k for k, overlap in enumerate(overlaps) if overlap > threshold]
        if not over:
            members.append([i])
            boxes.append(xyxy[i])
            continue
        joined = max(over, key=lambda k: (overlaps[k], -k)) if method == "wbf" else over[0]
        members[joined].append(i)
        corners = xyxy[members[joined]]
        if method == "wbf":
            boxes[joined] = np.average(corners, axis=0, weights=strength[members[joined]])
        elif method == "nmm":
            boxes[joined] = np.concatenate((corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)))
    return list(zip(members, boxes, strict=True))


def fused_score(members: Sequence[int], score: np.ndarray, source: np.ndarray, weights: Sequence[float]) -> float:
    """The best score of each source times its weight, by the weights of all sources."""
    best = {s: max(score[i] for i in members if source[i] == s) for s in {source[i] for i in members}}
    return min(sum(weights[s] * value for s, value in best.items()) / sum(weights), 1)


def voted(masks: np.ndarray, weights: Sequence[float], windows: np.ndarray) -> np.ndarray:
    """The pixels that members contain with at least half of the weights of the members that saw them."""
    contain, saw = np.zeros(masks.shape[1:]), np.zeros(masks.shape[1:])
    for mask, weight, (x1, y1, x2, y2) in zip(masks, weights, windows, strict=True):
        contain += weight * mask
        saw[y1:y2, x1:x2] += weight
    pixels: np.ndarray = (contain > 0) & (2 * contain >= saw - 1e-9)
    return pixels if pixels.any() else masks[0]
