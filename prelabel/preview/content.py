"""What the page is told, as plain JSON: the run, its totals, its classes, and a card for every image shown.

A card's `found` is a list of detections, best first, each `[class, score, x1, y1, x2, y2, outline]`: the class by its
place in `classes`, the box in pixels of the image, and the mask's outline as the data of an SVG path in the same
pixels, `""` without a mask. A label of the whole image is `[class, score]`. `below` is the same of what the run has and
the thresholds leave out: the page's slider brings it up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from prelabel.detections import Detections
from prelabel.errors import ExportError
from prelabel.export.bridges import FloatArray
from prelabel.export.colour import colour_of
from prelabel.export.kept import lowest_threshold, selection_words
from prelabel.export.polygons import PolygonRules, mask_parts
from prelabel.export.reading import RunInfo
from prelabel.frames import BROWSER
from prelabel.preview.options import PreviewOptions
from prelabel.preview.survey import Kept, Survey
from prelabel.storage import redact, without_secrets
from prelabel.store.rows import ImageRow

#: How far an outline may be from its mask, and the side of a square that is too small to be drawn, in pixels of the
#: larger rendition.
_TOLERANCE, _SPECK = 0.7, 2.0


def run_facts(info: RunInfo, options: PreviewOptions) -> dict[str, Any]:
    """What the page says of the run."""
    return {
        "detector": info.detector,
        "version": info.model_version,
        "created": info.created,
        "id": info.run_id,
        "program": info.version,
        "threshold": options.score_threshold,
        "kept": min(lowest_threshold(one) for one in (options, info.kept) if one is not None),
        "selection": selection_words(options, info.kept),
    }


def totals(found: Survey) -> dict[str, Any]:
    """Counts of the whole run, for its tiles and histograms."""
    return {
        "images": found.images,
        "failed": found.failed,
        "empty": found.empty,
        "detections": found.detections,
        "scores": found.scores,
        "perImage": found.per_image,
        "failures": [[reason, count] for reason, count in sorted(found.failures.items(), key=_most_first)],
    }


def classes(found: Survey) -> list[dict[str, Any]]:
    """Every class that occurs, the most frequent first, with its colour and the colour of text upon it."""
    return [
        {"name": redact(name), "count": count, "colour": colour_of(name), "ink": ink_on(colour_of(name))}
        for name, count in sorted(found.classes.items(), key=_most_first)
    ]


def class_numbers(found: Survey) -> dict[str, int]:
    """The place of each class in `classes`."""
    return {name: place for place, (name, _) in enumerate(sorted(found.classes.items(), key=_most_first))}


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def ink_on(colour: str) -> str:
    """Black or white, whichever has the better contrast on `#rrggbb` (at least 4.58 to 1, as WCAG computes it)."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # Where (L + 0.05) / 0.05 and 1.05 / (L + 0.05) are equal.
    return "#000000" if luminance > 0.179 else "#ffffff"


def card(row: ImageRow, kept: Kept, below: Kept, numbers: Mapping[str, int], picture_size: int) -> dict[str, Any]:
    """An image with what is kept of it, and what lies below the thresholds; a failed one with its reason.

    Addresses are shown without their secrets, and marks that turn the direction of writing as `\\u202e`.

    Args:
        row: Of the run, in the frame of browsers.
        kept: What the options keep of it.
        below: What only their thresholds leave out.
        numbers: Place of each class in `classes`.
        picture_size: Longest side of the larger rendition, for which outlines are fine enough.

    Raises:
        ExportError: A mask does not fit its image.
    """
    values: dict[str, Any] = {"name": redact(row.file_name), "uri": redact(without_secrets(row.uri))}
    if row.image_id != row.file_name:
        values["id"] = redact(row.image_id)
    if row.width is not None and row.height is not None:
        values.update(w=row.width, h=row.height)
    if row.bytes is not None:
        values["bytes"] = row.bytes
    if row.exif_orientation not in (None, 1):
        values["exif"] = row.exif_orientation
    if row.way_to(BROWSER) != 1:
        values["browser"] = row.browser_orientation
    if row.frames is not None and row.frames > 1:
        values["frames"] = row.frames
    if row.error_type is not None:
        values["error"] = {"type": row.error_type, "text": redact(row.error or ""), "stage": row.error_stage or ""}
        return values
    values["found"] = _found(row, kept, numbers, picture_size)
    if more := _found(row, below, numbers, picture_size):
        values["below"] = more
    return values


def _found(row: ImageRow, kept: Kept, numbers: Mapping[str, int], picture_size: int) -> list[list[Any]]:
    found = [] if kept.detections is None else _boxes(row.image_id, kept.detections, numbers, picture_size)
    return found + [[numbers[name], _score(score)] for name, score in kept.image_labels]


def _boxes(image_id: str, found: Detections, numbers: Mapping[str, int], picture_size: int) -> list[list[Any]]:
    scale = max(1.0, max(found.width, found.height) / picture_size)
    masks = [None] * len(found) if found.mask is None else found.mask.tolist()
    boxes = []
    for label, score, xyxy, counts in zip(found.label, found.score.tolist(), found.xyxy.tolist(), masks, strict=True):
        try:
            outline = "" if counts is None else _outline(counts, found.height, found.width, scale)
        except ExportError as error:
            raise ExportError(f"image {image_id!r}: {error}") from None
        boxes.append([numbers[label], _score(score), *(round(value, 1) for value in xyxy), outline])
    return boxes


def _outline(counts: str, height: int, width: int, scale: float) -> str:
    rules = PolygonRules(_TOLERANCE * scale, (_SPECK * scale) ** 2)
    return path_data(mask_parts(counts, height, width, rules)[0])


def path_data(parts: Iterable[Iterable[FloatArray]]) -> str:
    """Outlines with corners on whole pixels as the `d` of an SVG path: `M3 4l5 0 0 5z` begins at 3, 4 and goes by 5, 0.

    Holes are outlines of their own, to be filled by the even-odd rule: a bridge to a hole would be seen.
    """
    texts = []
    for outline in (outline for part in parts for outline in part):
        corners = np.rint(outline).astype(int)
        steps = " ".join(map(str, np.diff(corners, axis=0).ravel().tolist()))
        texts.append(f"M{corners[0, 0]} {corners[0, 1]}l{steps}z")
    return "".join(texts).replace(" -", "-")


def _score(value: float) -> float:
    return round(value, 4)
