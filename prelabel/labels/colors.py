"""Colors of classes: the most frequent classes get the colors that are easiest to tell apart.

    colors_by_frequency({"dog": 3, "person": 90, "cat": 3})
        ->  {"person": "#d82828", "cat": "#0808f8", "dog": "#00a800"}

This is its own module because the gallery, Label Studio's labeling configuration, CVAT's labels and Pascal VOC's label
map all take their colors from it. A class has the same color in all of them if they count the same detections.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Each color is the one farthest (in OKLab) from all colors before it, among those on which white text is legible
#: (contrast of at least 3) and which stand out from a dark photo. Any two differ by at least 0.097.
PALETTE = (
    *("#d82828", "#0808f8", "#00a800", "#c800f8", "#4898e0", "#005828", "#703080", "#c08800"),
    *("#d078b0", "#803808", "#006898", "#7050e8", "#c80090", "#687820", "#38a088", "#906098"),
    *("#f838c8", "#b070f8", "#a00048", "#9800c0", "#4038b8", "#f86000", "#a86028", "#f82078"),
    *("#0070e0", "#c87868", "#809828", "#c050c0", "#008068", "#c05078", "#5800f0", "#2088a8"),
)


def colors_by_frequency(counts: Mapping[str, int]) -> dict[str, str]:
    """Assign each class a color (`#rrggbb`), the most frequent class first.

    Args:
        counts: Detections by class name; 0 for a class that does not occur. Classes with equal counts are ordered by
            name.

    Returns:
        The color by class name. After the last color of `PALETTE`, the colors repeat.
    """
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    return {name: PALETTE[position % len(PALETTE)] for position, name in enumerate(ordered)}
