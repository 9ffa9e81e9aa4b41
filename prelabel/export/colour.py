"""A colour for every class, the same in every export, run and page."""

from __future__ import annotations

import colorsys
import hashlib


def colour_of(label: str) -> str:
    """`#rrggbb` made from the name alone; dark enough for white text on it and bright enough to be seen on a photo."""
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).digest()
    hue = int.from_bytes(digest[:2], "big") / 65536
    lightness = (0.38, 0.45, 0.52)[digest[2] % 3]
    saturation = (0.65, 0.85)[digest[3] % 2]
    return "#" + "".join(f"{round(part * 255):02x}" for part in colorsys.hls_to_rgb(hue, lightness, saturation))
