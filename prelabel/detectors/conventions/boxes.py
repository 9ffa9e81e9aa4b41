"""Boxes in the orders and units in which networks return them, and how an image lies in a network's input.

An image of 400 x 200 pixels (width x height) in an input of 100 x 100, fitted by `letterbox`:

    +--------+
    | gray   |  25 rows
    +--------+
    | image  |  50 rows: the area y1 x1 y2 x2 = 25 0 75 100
    +--------+
    | gray   |  25 rows
    +--------+
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from prelabel.errors import DetectorError

Floats = npt.NDArray[np.floating[Any]]
Size = tuple[int, int]

#: Boxes whose sides are all at most this long are shares of the image, not pixels.
_SHARES = 2.0


@dataclass(frozen=True, slots=True)
class Fit:
    """How an image is fitted into an input of fixed size.

    Attributes:
        mode: `stretch` to the input's size; or keep the aspect ratio and fill the rest, with the image in the center
            (`letterbox`) or at the upper left (`corner`); or keep it and fill the input with the center of the image
            (`crop`). `pad` is `letterbox` as Keras does it: it fills first, in whole pixels of the image, then
            stretches, so that edges of the image may lie between pixels of the input.
        fill: Value of the rest, in 0..255.
        antialias: Whether a reduced image is smoothed, as it should be. Some networks were trained on images that are
            not.
        resize: Whose pixels the network was trained on: those of OpenCV's `resize`, which never smooths, of Pillow's,
            which does, or any.
    """

    mode: Literal["stretch", "letterbox", "corner", "crop", "pad"] = "stretch"
    fill: float = 0.0
    antialias: bool = True
    resize: Literal["any", "opencv", "pillow"] = "any"

    def __str__(self) -> str:
        modes = {
            "stretch": "stretched",
            "letterbox": "in the center, filled up",
            "corner": "at the upper left, filled up",
            "crop": "the center",
            "pad": "in the center, filled up to the aspect ratio of the input",
        }
        return modes[self.mode] + ("" if self.antialias else ", without antialiasing")

    def padding(self, image: Size, size: Size) -> Size:
        """Rows added above and below an image of this height and width, and columns added on both sides, by `pad`."""
        (height, width), (input_height, input_width) = image, size
        # In float32, and cut off, as in `resize` of `keras/src/backend/tensorflow/image.py`.
        rows = int(np.float32(width * input_height) / np.float32(input_width)) - height
        columns = int(np.float32(height * input_width) / np.float32(input_height)) - width
        return max(0, rows) // 2, max(0, columns) // 2

    def area(self, image: Size, size: Size) -> tuple[float, float, float, float]:
        """The area y1 x1 y2 x2 of an input of this height and width that an image of this height and width takes.

        It exceeds the input if the image is cropped. The numbers are whole, except for `pad`.
        """
        if self.mode == "stretch":
            return 0, 0, *size
        if self.mode == "pad":
            padding = self.padding(image, size)
            factors = [to / (side + 2 * added) for side, added, to in zip(image, padding, size, strict=True)]
            ends = [side + added for side, added in zip(image, padding, strict=True)]
            return padding[0] * factors[0], padding[1] * factors[1], ends[0] * factors[0], ends[1] * factors[1]
        scales = size[0] / image[0], size[1] / image[1]
        if self.mode == "crop":
            height, width = (max(int(side * max(scales)), least) for side, least in zip(image, size, strict=True))
            first, second = (round((size[0] - height) / 2), round((size[1] - width) / 2))
            return first, second, first + height, second + width
        scale = min(scales)
        height, width = (max(1, round(side * scale)) for side in image)
        if self.mode == "corner":
            return 0, 0, height, width
        # An odd number of rows or columns to fill: one more at the end.
        first, second = (size[0] - height) // 2, (size[1] - width) // 2
        return first, second, first + height, second + width


STRETCH = Fit()


@dataclass(frozen=True, slots=True)
class Shown:
    """How an image was shown to a network.

    Attributes:
        image: Height and width of the image, in pixels.
        input: Height and width of the network's input, in pixels.
        area: y1 x1 y2 x2 of the part of the input that the image takes, in pixels of the input.
    """

    image: Size
    input: Size
    area: tuple[float, float, float, float]

    @classmethod
    def of(cls, image: Size, size: Size | None, fit: Fit) -> Shown:
        """An image of this height and width in an input of this size, or in one of its own size if None."""
        size = size or image
        return cls(image, size, fit.area(image, size))

    def input_window(self, window: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
        """The area x1 y1 x2 y2 that the whole input covers, if the image covers this window."""
        if self.fills_input:
            return window
        x1, y1, x2, y2 = window
        top, left, bottom, right = self.area
        y, x = (y2 - y1) / (bottom - top), (x2 - x1) / (right - left)
        return x1 - left * x, y1 - top * y, x1 + (self.input[1] - left) * x, y1 + (self.input[0] - top) * y

    @property
    def fills_input(self) -> bool:
        """Whether the image takes the whole input."""
        return self.area == (0, 0, *self.input)


@dataclass(frozen=True, slots=True)
class BoxForm:
    """How the four numbers of a box are meant.

    Attributes:
        order: `yxyx` and `xyxy` are corners, `xywh` the upper left corner and the size, `cxcywh` the center and the
            size.
        unit: Shares of the network's `input`, pixels of the `input`, or pixels of the `image`.
    """

    order: Literal["yxyx", "xyxy", "xywh", "cxcywh"] = "yxyx"
    unit: Literal["shares", "input", "image"] = "shares"

    def __str__(self) -> str:
        order = {"yxyx": "y1 x1 y2 x2", "xyxy": "x1 y1 x2 y2", "xywh": "x y width height", "cxcywh": "center x y"}
        text = order[self.order] + (" width height" if self.order == "cxcywh" else "")
        unit = {"shares": "normalized to 0..1", "input": "pixels of the input", "image": "pixels of the image"}
        return f"{text}, {unit[self.unit]}"

    def in_shares(self, boxes: npt.NDArray[Any], shown: Shown) -> Floats:
        """Boxes of this form as y1 x1 y2 x2 in shares of the image.

        Args:
            boxes: `(N, 4)` as the network returned them.
            shown: How the image was shown to the network.

        Returns:
            `(N, 4)`; the same numbers in float32 if the form is that already, else float64.
        """
        if self.order == "yxyx" and self.unit == "shares" and shown.fills_input:
            return boxes.astype(np.float32)
        return points_in_shares(self.corners(boxes).reshape(-1, 2, 2), self.unit, shown).reshape(-1, 4)

    def corners(self, boxes: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """`(N, 4)` boxes of this form as y1 x1 y2 x2, in the same unit."""
        first = boxes.astype(np.float64)
        if self.order in ("xywh", "cxcywh"):
            corner = first[:, :2] - (first[:, 2:] / 2 if self.order == "cxcywh" else 0)
            first = np.concatenate((corner, corner + first[:, 2:]), axis=1)
        return first if self.order == "yxyx" else first[:, [1, 0, 3, 2]]

    def check_unit(self, boxes: npt.NDArray[Any], name: str) -> None:
        """Refuse boxes in pixels that are as small as shares.

        Args:
            boxes: `(N, 4)` boxes to keep, as the network returned them.
            name: The output's name, for the message.

        Raises:
            DetectorError: All numbers are within 0..2.
        """
        if self.unit != "shares" and len(boxes) and float(np.abs(boxes).max()) <= _SHARES:
            raise DetectorError(
                f"{name} have values of up to {np.abs(boxes).max():g} and look normalized: they must be {self}"
            )


NORMALIZED_YXYX = BoxForm()


def points_in_shares(points: npt.NDArray[Any], unit: str, shown: Shown) -> Floats:
    """Points y x as shares of the image.

    Args:
        points: `(..., 2)`.
        unit: Of the points, as of `BoxForm`.
        shown: How the image was shown to the network.
    """
    if unit == "image":
        return np.asarray(points / np.array(shown.image, np.float64))
    top, left, bottom, right = shown.area
    pixels = points * np.array(shown.input, np.float64) if unit == "shares" else points
    return np.asarray((pixels - np.array((top, left))) / np.array((bottom - top, right - left), np.float64))
