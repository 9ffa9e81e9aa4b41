"""Brush masks: literal bytes, round trips, hostile bytes, and Label Studio's own encoder if it is installed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prelabel.errors import ExportError
from prelabel.masks import rle
from prelabel.masks.brush import brush_from_rle, brushes_from_rle, rle_from_brush
from tests.messages import facts

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20))


def brush(mask: np.ndarray) -> bytes:
    return brush_from_rle(rle.encode(mask), *mask.shape)


def bits(*fields: str) -> list[int]:
    text = "".join(fields).replace(" ", "")
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def header(values: int, word: str = "00111", widths: str = "0010 0011 0111 1111") -> str:
    return f"{values:032b}" + word + widths


def test_the_example_in_the_module_docstring() -> None:
    assert brush(np.array([[True, False]])).hex(" ").upper() == "00 00 00 08 39 1B FC 7F F1 80 00"


def test_an_empty_and_a_full_mask_are_one_run() -> None:
    assert list(brush(np.zeros((1, 2), bool))) == bits(header(8), "1 00 111 00000000")
    assert list(brush(np.ones((1, 2), bool))) == bits(header(8), "1 00 111 11111111")


def test_run_lengths_of_every_width() -> None:
    mask = np.zeros((1, 300), bool)
    mask[0, 1:4] = mask[0, 100:300] = True
    expected = bits(
        header(1200),
        "1 00 011 00000000",
        "1 01 1011 11111111",
        f"1 11 {96 * 4 - 1:016b} 00000000",
        f"1 11 {200 * 4 - 1:016b} 11111111",
    )
    # The stream fills its last byte, so the reference encoder adds a byte of zeros.
    assert list(brush(mask)) == [*expected, 0]


def test_a_long_run_is_split() -> None:
    whole = f"1 11 {'1' * 16} 00000000"
    assert list(brush(np.zeros((100, 400), bool))) == bits(header(160_000), whole, whole, f"1 11 {28927:016b} 00000000")
    assert list(brush(np.zeros((128, 128), bool))) == [*bits(header(65_536), whole), 0]


def test_rows_that_touch_at_the_image_border_are_one_run() -> None:
    mask = np.array([[False, True], [True, False]])
    assert list(brush(mask)) == bits(header(16), "1 00 011 00000000", "1 00 111 11111111", "1 00 011 00000000")


def test_bytes_equal_those_of_the_reference_encoder() -> None:
    # The result of label_studio_sdk.converter.brush.mask2rle, release 2.1.2, for this mask.
    mask = np.zeros((3, 5), np.uint8)
    mask[1, 1:4] = 255
    assert list(brush(mask)) == [0, 0, 0, 60, 57, 27, 254, 23, 0, 183, 255, 133, 192, 0]


@settings(deadline=None)
@given(masks)
def test_a_mask_survives_the_round_trip(mask: np.ndarray) -> None:
    counts = rle.encode(mask)
    assert rle_from_brush(list(brush_from_rle(counts, *mask.shape)), *mask.shape) == counts


def test_a_large_mask_survives_the_round_trip() -> None:
    y, x = np.mgrid[:1024, :700]
    mask = np.hypot(y - 500, x - 350) % 200 > 90
    assert rle_from_brush(brush(mask), 1024, 700) == rle.encode(mask)


@settings(deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(4))), st.data())
def test_single_values_and_runs_of_any_length_are_read(image: np.ndarray, data: st.DataObject) -> None:
    values, done, packets = image.ravel().tolist(), 0, ""
    while done < len(values):
        length = data.draw(st.integers(1, min(16, len(values) - done)))
        run = data.draw(st.booleans())
        packets += f"{int(run)}01{length - 1:04b}"
        if run:
            values[done : done + length] = [values[done]] * length
            packets += f"{values[done]:08b}"
        else:
            packets += "".join(f"{value:08b}" for value in values[done : done + length])
        done += length
    height, width = image.shape[:2]
    alpha = np.array(values).reshape(height, width, 4)[:, :, 3]
    assert rle_from_brush(bits(header(len(values)), packets), height, width) == rle.encode(alpha >= 128)


def test_other_widths_of_run_lengths_are_read() -> None:
    stream = bits(header(8, widths="0001 0001 0001 0001"), "1 10 11 11111111", "1 00 11 00000000")
    assert rle_from_brush(stream, 1, 2) == rle.encode(np.array([[True, False]]))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ("bytes", "7", "0")),
        ([256] * 20, ("whole numbers", "0", "255")),
        ([-1] * 20, ("whole numbers", "0", "255")),
        (["x"] * 20, ("whole numbers", "0", "255")),
        ([0.5] * 20, ("whole numbers", "0", "255")),
        ([None] * 20, ("whole numbers", "0", "255")),
        (bits(header(12), "1 00 111 00000000"), ("values", "1 x 2", "8", "12")),
        (bits(header(8, word="01111"), "1 00 111 00000000"), ("bits", "8", "16")),
        (bits(header(8)), ("7 bytes", "8 values")),
        (bits(header(8), "0 00 111 00000000"), ("9 bytes", "8 values")),
        (bits(header(8), "1 00 011 00000000"), ("9 bytes", "4 values")),
        (bits(header(8), "1 01 1111 00000000"), ("values", "16", "8")),
    ],
)
def test_invalid_bytes_are_refused_with_the_reason(values: list[int], expected: tuple[str, ...]) -> None:
    with pytest.raises(ExportError, match=facts(*expected)):
        rle_from_brush(values, 1, 2)


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_any_bytes_give_a_mask_or_an_export_error(data: bytes, height: int, width: int, right_size: bool) -> None:
    if right_size:
        data = bytes(bits(header(height * width * 4)))[:6] + bytes([0b01111000 | (data[0] if data else 0) & 7]) + data
    try:
        counts = rle_from_brush(data, height, width)
    except ExportError:
        return
    rle.validate(counts, height, width)


def test_a_short_rle_of_very_many_stripes_is_refused_quickly() -> None:
    side = 20_000
    stripes = rle.encode_runs(np.full(side, side, np.int64), np.array([side]))[0]
    with pytest.raises(ExportError, match=facts("pixels", "400000000|400,000,000", "20000000|20,000,000")):
        brush_from_rle(stripes, side, side)


def test_invalid_counts_and_impossible_sizes_are_refused() -> None:
    with pytest.raises(ExportError, match=facts("3 x 4", "character", "1")):
        brush_from_rle("3 4", 3, 4)
    with pytest.raises(ExportError, match=facts("pixels", "2**30", "0 x 4")):
        brush_from_rle("344M", 0, 4)
    with pytest.raises(ExportError, match=facts("pixels", "2**30", "32768 x 32768")):
        brush_from_rle("344M", 2**15, 2**15)


@settings(deadline=None)
@given(masks)
def test_bytes_equal_those_of_label_studio(mask: np.ndarray) -> None:
    sdk = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed")
    encoded = list(brush(mask))
    assert encoded == sdk.mask2rle(mask.astype(np.uint8) * 255)
    np.testing.assert_array_equal(
        sdk.decode_rle(encoded).reshape(*mask.shape, 4), np.repeat(mask[..., None] * 255, 4, 2)
    )


@pytest.mark.parametrize("shape", [(1024, 1024), (300, 777), (1, 70_000), (70_000, 1)])
def test_bytes_of_large_masks_equal_those_of_label_studio(shape: tuple[int, int]) -> None:
    sdk = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed")
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = np.hypot(y - shape[0] / 2, x - shape[1] / 3) % 400 > 150
    assert list(brush(mask)) == sdk.mask2rle(mask.astype(np.uint8) * 255)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**32), max_size=7), st.integers(1, 9), st.integers(1, 9))
def test_masks_converted_together_equal_masks_converted_separately(seeds: list[int], height: int, width: int) -> None:
    drawn = [np.random.default_rng(seed).random((height, width)) < seed % 11 / 10 for seed in seeds]
    counts = [rle.encode(mask) for mask in drawn]
    made = brushes_from_rle(counts, height, width)
    assert made == [brush_from_rle(mask_counts, height, width) for mask_counts in counts]
    for data, mask_counts in zip(made, counts, strict=True):
        assert rle_from_brush(data, height, width) == mask_counts


def test_an_invalid_mask_among_valid_ones_is_reported() -> None:
    with pytest.raises(ExportError, match=facts("pixels", "9", "12")):
        brushes_from_rle(["344M", "9", "344M"], 3, 4)
