"""What OpenCV 5.0.0 returned for the same images."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from prelabel.detectors.running.opencv_resize import resize_as_opencv


def image(height: int, width: int) -> npt.NDArray[Any]:
    return (np.arange(height * width * 3, dtype=np.int64) ** 2 * 37 % 251).astype(np.uint8).reshape(height, width, 3)


def test_a_line_of_two_pixels_is_enlarged_to_four() -> None:
    line = np.array([[[0] * 3, [100] * 3]], np.uint8)
    assert resize_as_opencv(line, 1, 4)[0].tolist() == [[0] * 3, [25] * 3, [75] * 3, [100] * 3]
    assert resize_as_opencv(line.transpose(1, 0, 2), 4, 1)[:, 0].tolist() == [[0] * 3, [25] * 3, [75] * 3, [100] * 3]


def test_half_the_size_is_the_mean_of_four_pixels() -> None:
    four = np.array([[[9, 0, 0], [10, 0, 1]], [[10, 0, 3], [10, 255, 3]]], np.uint8)
    assert resize_as_opencv(four, 1, 1).tolist() == [[[10, 64, 2]]]


def test_pixels_between_others_are_weighted_and_rounded() -> None:
    assert image(3, 5)[..., 0].tolist() == [[0, 82, 77, 236, 57], [42, 191, 2, 228, 116], [168, 133, 11, 53, 8]]
    assert resize_as_opencv(image(3, 5), 2, 3)[..., 0].tolist() == [[43, 58, 126], [140, 9, 56]]


@pytest.mark.parametrize(
    ("size", "wanted", "checksum"),
    [
        ((480, 641), (319, 427), 3389658219),
        ((33, 31), (96, 90), 2992053674),
        ((640, 300), (320, 150), 238133710),
        ((1, 700), (1, 320), 3974830673),
        ((480, 640), (240, 213), 1172981163),
    ],
)
def test_larger_images_have_the_pixels_of_opencv(size: tuple[int, int], wanted: tuple[int, int], checksum: int) -> None:
    resized = resize_as_opencv(image(*size), *wanted)
    assert (resized.shape, resized.dtype) == ((*wanted, 3), np.uint8)
    assert zlib.crc32(resized.tobytes()) == checksum


def test_an_image_of_the_size_is_left_as_it_is() -> None:
    assert (resize_as_opencv(image(5, 4), 5, 4) == image(5, 4)).all()
