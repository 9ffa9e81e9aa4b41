from __future__ import annotations

import numpy as np
import pytest

from prelabel.detectors.conventions.boxes import NORMALIZED_YXYX, STRETCH, BoxForm, Fit, Shown, points_in_shares
from prelabel.errors import DetectorError

#: An image of 200 x 400 pixels (height x width) in an input of 100 x 100.
CENTERED = Shown.of((200, 400), (100, 100), Fit("letterbox"))
CORNER = Shown.of((200, 400), (100, 100), Fit("corner"))
STRETCHED = Shown.of((200, 400), (100, 100), STRETCH)


def test_area_of_each_fit() -> None:
    assert CENTERED.area == (25, 0, 75, 100)
    assert CORNER.area == (0, 0, 50, 100)
    assert STRETCHED.area == (0, 0, 100, 100)
    assert Shown.of((200, 400), None, Fit("letterbox")).area == (0, 0, 200, 400)


def test_small_images_are_enlarged_and_an_odd_row_is_filled_at_the_end() -> None:
    assert Fit("letterbox").area((3, 10), (20, 20)) == (7, 0, 13, 20)
    assert Fit("letterbox").area((5, 20), (20, 20)) == (7, 0, 12, 20)
    assert Fit("letterbox").area((1, 1000), (20, 20)) == (9, 0, 10, 20)


def test_padding_is_whole_pixels_of_the_image_on_both_sides_before_it_is_stretched():
    """As Keras does it: 640 x 444 in 352 x 256 is filled up by (465 - 444) // 2 rows above and below."""
    fit = Fit("pad")
    assert fit.padding((444, 640), (256, 352)) == (10, 0)
    assert fit.area((444, 640), (256, 352)) == pytest.approx((10 * 256 / 464, 0, 454 * 256 / 464, 352))
    assert fit.padding((640, 358), (256, 352)) == (0, 261)
    assert fit.area((640, 358), (256, 352)) == pytest.approx((0, 261 * 352 / 880, 256, 619 * 352 / 880))
    assert fit.padding((256, 352), (256, 352)) == (0, 0)
    assert fit.area((128, 176), (256, 352)) == (0, 0, 256, 352)


# The box that covers the left half of the image, in every form.
@pytest.mark.parametrize(
    ("order", "unit", "shown", "numbers"),
    [
        ("yxyx", "shares", STRETCHED, (0, 0, 1, 0.5)),
        ("xyxy", "shares", STRETCHED, (0, 0, 0.5, 1)),
        ("xywh", "shares", STRETCHED, (0, 0, 0.5, 1)),
        ("cxcywh", "shares", STRETCHED, (0.25, 0.5, 0.5, 1)),
        ("yxyx", "input", STRETCHED, (0, 0, 100, 50)),
        ("xyxy", "image", STRETCHED, (0, 0, 200, 200)),
        ("yxyx", "shares", CENTERED, (0.25, 0, 0.75, 0.5)),
        ("cxcywh", "input", CENTERED, (25, 50, 50, 50)),
        ("yxyx", "image", CENTERED, (0, 0, 200, 200)),
        ("xyxy", "input", CORNER, (0, 0, 50, 50)),
        ("xywh", "shares", CORNER, (0, 0, 0.5, 0.5)),
    ],
)
def test_every_form_gives_the_same_box(order: str, unit: str, shown: Shown, numbers: tuple[float, ...]) -> None:
    form = BoxForm(order, unit)  # type: ignore[arg-type]
    assert form.in_shares(np.array([numbers], np.float32), shown).tolist() == [[0, 0, 1, 0.5]]


def test_normalized_corners_keep_their_numbers_and_type() -> None:
    boxes = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)
    shares = NORMALIZED_YXYX.in_shares(boxes, STRETCHED)
    assert shares.dtype == np.float32
    assert np.array_equal(shares, boxes)


def test_points_are_converted_like_corners() -> None:
    points = np.array([[[50, 25]]])
    assert points_in_shares(points, "input", CENTERED).tolist() == [[[0.5, 0.25]]]


def test_window_of_the_whole_input_extends_beyond_the_image() -> None:
    assert CENTERED.input_window((0, 0, 400, 200)) == (0, -100, 400, 300)
    assert CORNER.input_window((10, 20, 410, 220)) == (10, 20, 410, 420)
    assert STRETCHED.input_window((1, 2, 3, 4)) == (1, 2, 3, 4)


def test_shares_are_no_pixels() -> None:
    form = BoxForm("xyxy", "input")
    form.check_unit(np.array([[0, 0, 30, 0.5]]), "output_0")
    form.check_unit(np.empty((0, 4)), "output_0")
    with pytest.raises(DetectorError, match=r"output_0 have values of up to 0\.9 and look normalized"):
        form.check_unit(np.array([[0.1, 0.1, 0.9, 0.9]]), "output_0")


@pytest.mark.parametrize(
    ("image", "size", "area"),
    [
        ((10, 20), (5, 5), (0, -2, 5, 8)),
        ((21, 10), (5, 5), (-2, 0, 8, 5)),
        ((3, 3), (6, 6), (0, 0, 6, 6)),
        ((7, 3), (5, 5), (-3, 0, 8, 5)),
    ],
)
def test_a_cropped_image_exceeds_the_input(
    image: tuple[int, int], size: tuple[int, int], area: tuple[int, int, int, int]
) -> None:
    """The sizes are those of torchvision's `Resize` of the shorter edge and `CenterCrop`."""
    assert Fit("crop").area(image, size) == area
