"""The images behind the counts of a page: a click on "47" lists the 47 mistakes, image by image.

The page holds each image once and refers to it by number; `report.js` shows the lists:

    {"images": [["a.jpg", "file:///photos/a.jpg", 640, 427, "a.jpg"], ...],      name, URI, width, height, id
     "lists": [{"title": "person: missed", "images": 40, "entries": [[0, 2, [10, 20, 30, 40, 5, 6, 7, 8], []], ...]},
               ...],
     "preview": "../../preview/index.html"}

An entry holds the image's number, the count on that image, and x, y, width, height of each box to draw; the second list
has the boxes that annotators moved, as predicted. Only images on this machine have a URI: a page that is opened from
disk shows them, and loads nothing else. With a preview of the run, each image leads to its place there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prelabel.pages.markup import Markup, tag
from prelabel.review.image_matching import ReviewedBox, ReviewedImage
from prelabel.storage.address import is_local, redact

#: Maximum number of images in a list, and of boxes that are drawn on an image.
MAX_IMAGES, MAX_BOXES = 200, 40


class ImageLists:
    """Collects the lists of a page while its tables are made."""

    def __init__(self, images: Sequence[ReviewedImage], preview: str = "") -> None:
        """Start without lists.

        Args:
            images: The images to which boxes refer by position.
            preview: URL of the run's preview, relative to the page, or `""`.
        """
        self._images, self._preview = images, preview
        self._numbers: dict[int, int] = {}
        self._lists: list[dict[str, Any]] = []

    def of_boxes(self, title: str, boxes: Iterable[ReviewedBox]) -> Markup:
        """The number of boxes, as a button that lists their images, most boxes first.

        Args:
            title: What is counted.
            boxes: The boxes to draw.
        """
        by_image: dict[int, list[ReviewedBox]] = {}
        for box in boxes:
            by_image.setdefault(box.image, []).append(box)
        if not by_image:
            return Markup("0")
        order = sorted(by_image, key=lambda position: (-len(by_image[position]), position))[:MAX_IMAGES]
        self._lists.append(
            {
                "title": title,
                "images": len(by_image),
                "entries": [[self._number(position), *_entry(by_image[position])] for position in order],
            }
        )
        total, number = sum(map(len, by_image.values())), len(self._lists) - 1
        return tag("button", f"{total:,}", type="button", class_="images", data_list=number, title=f"List: {title}")

    def _number(self, position: int) -> int:
        return self._numbers.setdefault(position, len(self._numbers))

    def data(self) -> dict[str, Any]:
        """The images and lists, for the page's script."""
        return {
            "images": [_image(self._images[position]) for position in self._numbers],
            "lists": self._lists,
            "preview": self._preview,
        }


def _image(image: ReviewedImage) -> list[Any]:
    return [redact(image.name), _page_uri(image.uri), image.width, image.height, redact(image.image_id)]


def _entry(boxes: Sequence[ReviewedBox]) -> tuple[int, list[int], list[int]]:
    """The number of boxes on an image, the boxes to draw, and those as predicted that annotators moved."""
    drawn = boxes[:MAX_BOXES]
    return (
        len(boxes),
        [round(value) for box in drawn for value in box.xywh],
        [round(value) for box in drawn for value in box.before or ()],
    )


def _page_uri(uri: str) -> str:
    """A `file:` URI of an image on this machine, else `""`."""
    if not is_local(uri) or not uri.startswith("/"):
        return ""
    return Path(uri).as_uri()
