"""`diff.html`: the result in one sentence, tables and plots, and the images that changed most, A beside B.

The page is one file. The picture of an image is in it once; the right side refers to that of the left. Names of
classes, files and models are untrusted text; `prelabel.pages.markup` escapes them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from prelabel.difference.changes import APPEARED, RESCORED, VANISHED, Change, Side
from prelabel.difference.job import Difference
from prelabel.difference.pictures import PICTURE_SIDE
from prelabel.difference.tables import (
    KIND_WORDS,
    changes_table,
    classes_table,
    images_table,
    lines,
    relabeled_table,
    runs_table,
    sentence,
    settings_table,
    signed,
)
from prelabel.difference.tally import SHIFT_BINS, ChangedImage
from prelabel.errors import ExportError, StoreError
from prelabel.frames import BROWSER, oriented_boxes, oriented_counts, oriented_size
from prelabel.gallery.content import contour_of
from prelabel.labels.colors import colors_by_frequency
from prelabel.masks.areas import Box
from prelabel.pages.embedding import resource
from prelabel.pages.markup import Markup, join, tag
from prelabel.review.edits import BINS, KEPT, MOVED, RELABELED
from prelabel.review.report.document import document, figure, html_table, notes, panels, tiles
from prelabel.review.report.image_lists import ImageLists
from prelabel.review.report.plots import Plot, round_up
from prelabel.storage.address import redact
from prelabel.words import counted, share

#: Kinds of changes from the one that matters most.
_ORDER = (RELABELED, VANISHED, APPEARED, MOVED, RESCORED, KEPT)

#: Width of a letter of a caption, in font sizes.
_LETTER = 0.62

#: Most detections that are drawn on an image, and most changes that are listed beside it.
MAX_BOXES, MAX_LINES = 200, 12


def difference_page(difference: Difference, pictures: Mapping[str, bytes | str]) -> str:
    """The page of a difference.

    Args:
        difference: The result.
        pictures: By image id, a JPEG of each image that changed most, or one line that says why there is none;
            empty to show none.
    """
    images = difference.most_changed
    colors = colors_by_frequency({name: changes.in_a + changes.in_b for name, changes in difference.by_class.items()})
    facts = tuple(f"{letter}: {redact(name)}" for letter, name in zip("AB", difference.names, strict=True))
    parts = [
        tag("section", tag("p", sentence(difference), class_="sentence"), class_="panel result"),
        _tiles(difference),
        notes(lines(difference)),
        tag("h2", "Changes"),
        tag("div", html_table(changes_table(difference)), html_table(images_table(difference)), class_="beside"),
        panels(_shift_plot(difference.shifts), _overlap_plot(difference.overlaps, difference.options.kept_iou)),
        tag("h2", "Classes"),
        html_table(classes_table(difference), sortable=True),
    ]
    if difference.relabeled:
        parts += [tag("h2", "Relabeled"), html_table(relabeled_table(difference), sortable=True)]
    if images:
        of_all = f"The {len(images):,} images" if len(images) < difference.changed_images else "All images"
        text = (
            f"{of_all} with changes, most changed first. Left: A. Right: B. Dashed: the box in A of a detection that "
            "moved. Thin and gray: detections that were kept."
        )
        parts += [tag("h2", "Images that changed most"), tag("p", text, class_="text")]
        parts += [_image(n, image, colors, pictures) for n, image in enumerate(images, 1)]
    parts += [tag("h2", "Runs"), html_table(runs_table(difference))]
    if difference.settings:
        parts += [tag("h2", "Settings that differ"), html_table(settings_table(difference))]
    style = resource("prelabel.difference", "diff.css")
    return document("Difference", facts, parts, ImageLists(()).data(), pictures="data:", style=style)


def _tiles(difference: Difference) -> Markup:
    total = difference.total
    values = [
        (share(total.changed + sum(difference.lost), total.in_a + total.in_b + sum(difference.lost)), "changed"),
        (f"{difference.changed_images:,}", f"of {counted(difference.compared, 'image')} changed"),
    ]
    kinds = (RESCORED, MOVED, RELABELED, VANISHED, APPEARED)
    values += [(f"{total.counts[k]:,}", KIND_WORDS[k]) for k in kinds if k != RESCORED or total.counts[k]]
    if total.mean_shift is not None:
        values.append((signed(total.mean_shift), "mean shift of scores"))
    return tiles(values)


def _shift_plot(shifts: npt.NDArray[np.int64]) -> Markup:
    """Detections by the shift of their score, from -1 to 1."""
    top = round_up(max(int(shifts.max()), 1))
    plot = Plot(
        "Scores: B minus A",
        most=top,
        x_label="shift of the score",
        y_label="detections in both runs",
        x_range=(-1.0, 1.0),
    )
    for number, count in enumerate(shifts.tolist()):
        left, right = (2 * edge / SHIFT_BINS - 1 for edge in (number, number + 1))
        plot.bar((left + 0.006, right - 0.006), (0, count), "a", f"{count:,} detections, {left:+.2f} to {right:+.2f}")
    return figure(plot.title, plot.draw())


def _overlap_plot(overlaps: npt.NDArray[np.int64], kept_iou: float) -> Markup:
    """Detections by their overlap."""
    top = round_up(max(int(overlaps.max()), 1))
    plot = Plot(
        "Places: overlap (IoU) of A and B", most=top, x_label="IoU in A and B", y_label="detections in both runs"
    )
    for number, count in enumerate(overlaps.tolist()):
        left, right = number / BINS, (number + 1) / BINS
        color = "b" if left >= kept_iou - 1e-9 else "a"
        plot.bar((left + 0.003, right - 0.003), (0, count), color, f"{count:,} detections, {left:.2f} to {right:.2f}")
    plot.rule(x=kept_iou, class_="e")
    return figure(plot.title, plot.draw())


def _image(number: int, image: ChangedImage, colors: Mapping[str, str], pictures: Mapping[str, bytes | str]) -> Markup:
    """An image, A beside B, with its changes in words."""
    picture = pictures.get(image.facts.image_id, "")
    hint = f"{image.changed:,} of {counted(image.detections, 'detection')} changed"
    sides = [_side(f"p{number}", image, side, colors, picture) for side in "ab"]
    missing = [tag("p", f"No picture: {picture}", class_="hint")] if picture and isinstance(picture, str) else []
    changed = sorted((change for change in image.changes if change.kind != KEPT), key=_drawn_first)
    items = [tag("li", _words(change, colors)) for change in changed[:MAX_LINES]]
    if len(changed) > MAX_LINES:
        items.append(tag("li", f"and {len(changed) - MAX_LINES:,} more"))
    return figure(
        redact(image.facts.file_name),
        tag("div", *sides, class_="sides"),
        *missing,
        tag("ul", *items, class_="changes"),
        hint=hint,
    )


def _side(id_: str, image: ChangedImage, side: str, colors: Mapping[str, str], picture: bytes | str) -> Markup:
    """One side as SVG, in the pixels and the orientation in which browsers show the file."""
    facts = image.facts
    orientation = facts.orientation_to(BROWSER)
    stored = facts.height or 1, facts.width or 1
    height, width = oriented_size(*stored, orientation)
    parts: list[Markup] = [tag("rect", width=width, height=height, class_="ground")]
    if not isinstance(picture, str):
        data = f"data:image/jpeg;base64,{base64.b64encode(picture).decode('ascii')}"
        picture_of_a = tag("image", id=id_, href=data, width=width, height=height, preserveAspectRatio="none")
        parts.append(picture_of_a if side == "a" else tag("use", href=f"#{id_}"))
    drawn = [change for change in image.changes if getattr(change, side) is not None]
    drawn.sort(key=_drawn_first)
    captions = _Captions(width, height)
    boxes, masks = list[Markup](), list[Markup]()
    for change in drawn[:MAX_BOXES]:
        detection: Side = getattr(change, side)
        xyxy = _oriented(detection.xyxy, stored, orientation)
        if change.kind == KEPT:
            boxes.append(_rect(xyxy, "same", None, ""))
            continue
        color, text = colors[detection.label], f"{redact(detection.label)} {detection.score:.2f}"
        if detection.mask is not None:
            outline = _outline(image, detection.mask, orientation)
            masks.append(tag("path", d=outline, class_="mask", fill=color))
        style = "before" if side == "a" and change.kind == MOVED else "changed"
        boxes += [_rect(xyxy, style, color, f"{KIND_WORDS[change.kind]}: {text}"), _rect(xyxy, "halo", None, "")]
        if side == "b" and change.kind == MOVED and change.a is not None:
            boxes.append(_rect(_oriented(change.a.xyxy, stored, orientation), "before", color, ""))
        captions.add(text, xyxy, color)
    svg = tag(
        "svg",
        # What comes first is drawn last, above the others.
        *(*parts, *reversed(masks), *reversed(boxes), *captions.drawn),
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"{side.upper()}: {counted(len(drawn), 'detection')}",
        font_size=captions.size,
    )
    return tag("div", tag("span", side.upper(), class_="hint"), svg)


class _Captions:
    """Captions above boxes, as many as fit without covering each other."""

    def __init__(self, width: int, height: int) -> None:
        self.size = max(width, height) / 44
        self.drawn: list[Markup] = []
        self._limits = width, height
        self._taken: list[Box] = []

    def add(self, text: str, xyxy: Box, color: str) -> None:
        """Draw a caption, unless it would cover an earlier one."""
        length, height = len(text) * self.size * _LETTER, self.size * 1.1
        x = max(min(xyxy[0] + self.size / 4, self._limits[0] - length), 0.0)
        y = max(xyxy[1] - self.size / 4, self.size)
        place = (x, y - height, x + length, y)
        covers = any(
            place[0] < x2 and x1 < place[2] and place[1] < y2 and y1 < place[3] for x1, y1, x2, y2 in self._taken
        )
        if not covers:
            self._taken.append(place)
            self.drawn.append(tag("text", text, x=x, y=y, style=f"fill:{color}"))


def _drawn_first(change: Change) -> int:
    """Sort key of changes: those that matter most come first."""
    return _ORDER.index(change.kind)


def _oriented(xyxy: Box, size: tuple[int, int], orientation: int) -> Box:
    """A box as browsers show it."""
    x1, y1, x2, y2 = oriented_boxes(np.array([xyxy]), *size, orientation)[0].tolist()
    return x1, y1, x2, y2


def _outline(image: ChangedImage, mask: str, orientation: int) -> str:
    """The contour of a mask as browsers show it. Raises ExportError if it does not fit its image."""
    size = image.facts.height or 0, image.facts.width or 0
    try:
        counts = mask if orientation == 1 else oriented_counts(mask, *size, orientation)
        return contour_of(counts, *oriented_size(*size, orientation), max(1.0, max(size) / PICTURE_SIDE))
    except (StoreError, ExportError) as error:
        raise ExportError(f"image {image.facts.image_id!r}: {error}") from None


def _rect(xyxy: Box, class_: str, color: str | None, title: str) -> Markup:
    x1, y1, x2, y2 = xyxy
    tooltip = [tag("title", title)] if title else []
    return tag("rect", *tooltip, x=x1, y=y1, width=x2 - x1, height=y2 - y1, class_=class_, stroke=color)


def _words(change: Change, colors: Mapping[str, str]) -> Markup:
    """A change in words, with the color of its class: `vanished: dog 0.62 (0.21 in B)`."""
    a, b = change.a, change.b
    detections = [f"{redact(side.label)} {side.score:.2f}" for side in (a, b) if side is not None]
    label = next(side.label for side in (b, a) if side is not None)
    text = f" {KIND_WORDS[change.kind]}: {' → '.join(detections)}"
    if change.iou is not None and change.kind in (MOVED, RELABELED):
        text += f", IoU {change.iou:.3f}"
    if change.hidden is not None:
        text += f" ({change.hidden:.3f} in {'B' if change.kind == VANISHED else 'A'}, below the threshold)"
    square = tag("rect", width=10, height=10, fill=colors[label])
    return join(tag("svg", square, viewBox="0 0 10 10", class_="square", aria_hidden="true"), text)
