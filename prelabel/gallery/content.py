"""Makes the data of the page as plain JSON, and the page that a browser opens from disk.

The data describe the run, its totals and its classes, and contain a card per image. What depends on the slider is a
list of `[position, value]`: a value holds from its position (0 to 100) until the next one. The `detections` of a card
are lists, highest score first: `[class, score, x1, y1, x2, y2, contour]`. The class is an index into `classes`, the box
is in pixels of the image, and the contour of the mask is the data of an SVG path in the same pixels, or `""` without a
mask. If keypoints are shown, a list of `[number, x, y]` follows, and `keypoints` has the edges between them. A
whole-image label is `[class, score]`. `below` lists in the same form what the run stores below the thresholds;
the slider of the page reveals these detections.

File names and labels are untrusted. They reach the page as JSON in a block that is never executed, with `<`, `>` and
`&` escaped, and scripts insert them as text, never as markup. As a second line of defense, the Content-Security-Policy
of the page allows only the script and the style whose hashes it names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from prelabel.detections import Detections
from prelabel.errors import ExportError
from prelabel.export.base import RunInfo
from prelabel.export.run_selection import selection_words
from prelabel.frames import BROWSER
from prelabel.gallery.survey import Predictions, Survey, shown_from, shown_score, slider_position
from prelabel.keypoints import shown
from prelabel.labels.colors import colors_by_frequency
from prelabel.masks.bridges import FloatArray
from prelabel.masks.polygons import PolygonRules, mask_parts
from prelabel.pages.embedding import content_hash, embedded_json, resource, style_sheet
from prelabel.select import Selection
from prelabel.storage.address import redact, without_secrets
from prelabel.store.rows import ImageRow

#: In the head of every preview. A page without it is not a preview and is never overwritten.
GENERATOR = '<meta name="generator" content="prelabel preview">'

#: The scripts in the order in which they are joined, inside one function so that they define no global names.
_SCRIPTS = ("model.js", "dom.js", "overlay.js", "overview.js", "grid.js", "viewer.js", "main.js")

#: Maximum distance of a contour from its mask, and side of a square with the minimum area of a part that is drawn, in
#: pixels of the larger rendition.
_TOLERANCE, _FRAGMENT = 0.7, 2.0


def run_facts(info: RunInfo, selection: Selection) -> dict[str, Any]:
    """The facts about the run that the page shows."""
    return {
        "detector": info.detector,
        "version": info.model_version,
        "created": info.created,
        "id": info.run_id,
        "program": info.version,
        "start": slider_position(selection.score_threshold),
        "lowest": slider_position(min(rules.lowest_threshold for rules in (selection, info.kept) if rules is not None)),
        "selection": selection_words(selection, info.kept),
    }


def totals(survey: Survey) -> dict[str, Any]:
    """The counts of the whole run, for the tiles and the histograms."""
    return {
        "images": survey.images,
        "failed": survey.failed,
        "scores": survey.scores,
        "perImage": _steps(survey.per_image.tolist()),
        "failures": [[reason, count] for reason, count in sorted(survey.failures.items(), key=_most_first)],
    }


def classes(survey: Survey) -> list[dict[str, Any]]:
    """All classes of the run, the most frequent first, each with its counts, its color and the color of text on it."""
    kept = survey.kept_by_class()
    colors = colors_by_frequency(kept)
    return [
        {
            "name": redact(name),
            "counts": _steps(shown_from(survey.classes[name]).tolist()),
            "color": colors[name],
            "ink": ink_on(colors[name]),
        }
        for name, _ in sorted(kept.items(), key=_most_first)
    ]


def class_numbers(survey: Survey) -> dict[str, int]:
    """The position of each class in `classes`, by name."""
    kept = survey.kept_by_class()
    return {name: number for number, (name, _) in enumerate(sorted(kept.items(), key=_most_first))}


def _steps(values: list[Any]) -> list[list[Any]]:
    """The values of all positions of the slider as `[position, value]`, without repetitions."""
    return [
        [position, value] for position, value in enumerate(values) if position == 0 or value != values[position - 1]
    ]


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def ink_on(color: str) -> str:
    """Black or white, whichever has the better contrast on `#rrggbb` (at least 4.58 to 1, as WCAG computes it)."""
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # The contrasts (L + 0.05) / 0.05 and 1.05 / (L + 0.05) are equal at this luminance.
    return "#000000" if luminance > 0.179 else "#ffffff"


def card(
    row: ImageRow,
    kept: Predictions,
    below: Predictions,
    numbers: Mapping[str, int],
    picture_size: int,
    lowest_keypoint_score: float | None = None,
) -> dict[str, Any]:
    """The card of an image: facts about it, and its detections or the reason why it failed.

    URLs are shown without secrets, and characters that change the writing direction are escaped (`\\u202e`).

    Args:
        row: The image, in the frame of browsers.
        kept: The predictions that the options keep.
        below: The predictions that only the thresholds remove.
        numbers: Position of each class in `classes`.
        picture_size: Longer side of the larger rendition in pixels, for which contours are precise enough.
        lowest_keypoint_score: The lowest score of a keypoint that is shown; None to show none.

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
    if row.orientation_to(BROWSER) != 1:
        values["browser"] = row.browser_orientation
    if row.frames is not None and row.frames > 1:
        values["frames"] = row.frames
    if row.error_type is not None:
        values["error"] = {"type": row.error_type, "text": redact(row.error or ""), "stage": row.error_stage or ""}
        return values
    values["detections"] = _entries(row, kept, numbers, picture_size, lowest_keypoint_score)
    if hidden := _entries(row, below, numbers, picture_size, lowest_keypoint_score):
        values["below"] = hidden
    return values


def _entries(
    row: ImageRow, predictions: Predictions, numbers: Mapping[str, int], picture_size: int, lowest: float | None
) -> list[list[Any]]:
    detections = predictions.detections
    boxes = [] if detections is None else _boxes(row.image_id, detections, numbers, picture_size)
    if detections is not None and detections.keypoints is not None and lowest is not None:
        are_shown = shown(detections.keypoints, lowest, detections.height, detections.width)
        for box, points, is_shown in zip(boxes, detections.keypoints.tolist(), are_shown.tolist(), strict=True):
            xy = [[number, round(x, 1), round(y, 1)] for number, (x, y, _) in enumerate(points) if is_shown[number]]
            box.extend([xy] if xy else [])
    return boxes + [[numbers[name], shown_score(score)] for name, score in predictions.image_labels]


def _boxes(image_id: str, detections: Detections, numbers: Mapping[str, int], picture_size: int) -> list[list[Any]]:
    scale = max(1.0, max(detections.width, detections.height) / picture_size)
    masks = [None] * len(detections) if detections.mask is None else detections.mask.tolist()
    boxes = []
    for label, score, xyxy, counts in zip(
        detections.label, detections.score.tolist(), detections.xyxy.tolist(), masks, strict=True
    ):
        try:
            contour = "" if counts is None else contour_of(counts, detections.height, detections.width, scale)
        except ExportError as error:
            raise ExportError(f"image {image_id!r}: {error}") from None
        boxes.append([numbers[label], shown_score(score), *(round(value, 1) for value in xyxy), contour])
    return boxes


def contour_of(counts: str, height: int, width: int, scale: float) -> str:
    """The contour of a mask as the `d` of an SVG path; `scale` is the number of pixels of the image per pixel shown.

    Raises:
        ExportError: The mask does not fit its image.
    """
    rules = PolygonRules(_TOLERANCE * scale, (_FRAGMENT * scale) ** 2)
    return path_data(mask_parts(counts, height, width, rules)[0])


def path_data(parts: Iterable[Iterable[FloatArray]]) -> str:
    """Contours, rounded to whole pixels, as the `d` of an SVG path: `M3 4l5 0 0 5z` starts at 3, 4 and moves by 5, 0.

    Holes are separate contours, for the even-odd fill rule, because a bridge to a hole would be visible.
    """
    texts = []
    for contour in (contour for part in parts for contour in part):
        corners = np.rint(contour).astype(int)
        steps = " ".join(map(str, np.diff(corners, axis=0).ravel().tolist()))
        texts.append(f"M{corners[0, 0]} {corners[0, 1]}l{steps}z")
    return "".join(texts).replace(" -", "-")


def page(data: Mapping[str, Any]) -> str:
    """The HTML of the page with the data that `write_preview` makes. Raises ValueError for NaN and infinity."""
    style = style_sheet("prelabel.gallery", "template/page.css")
    script = '(() => {\n"use strict";\n' + "\n".join(_template(name) for name in _SCRIPTS) + "})();\n"
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src 'self' file: data:",
            f"style-src {content_hash(style)}",
            f"script-src {content_hash(script)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    # The data are inserted last, so that text in them that looks like a placeholder is not replaced.
    parts = {"<!--policy-->": policy, "<!--generator-->": GENERATOR, "/*style*/": style, "/*script*/": script}
    html = _template("index.html")
    for placeholder, text in parts.items():
        html = html.replace(placeholder, text, 1)
    before, placeholder, after = html.partition("<!--data-->")
    return before + embedded_json(data) + after


def _template(name: str) -> str:
    return resource("prelabel.gallery", f"template/{name}")
