"""JPEGs decoded without Pillow's loader: the same pixels as with it, and the same verdicts."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageFile

from prelabel.errors import DecodeError, TruncatedImageError
from prelabel.source import decode as module
from prelabel.source.decode import DecodeOptions, decode
from prelabel.source.upright import turned


def picture(height: int, width: int) -> np.ndarray:
    """Smooth colours with a little noise: much as a photo, so that upsampling and rounding show."""
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    colours = np.stack([127 + 120 * np.sin(x / 7), 127 + 120 * np.cos(y / 5), (x + y) % 256], -1)
    return np.clip(colours + rng.normal(0, 6, colours.shape), 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **{"quality": 85, **options})
    return file.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def levels(left: np.ndarray, right: np.ndarray) -> int:
    """The largest difference of two pictures of one size."""
    assert left.shape == right.shape
    return int(np.abs(left.astype(np.int16) - right).max())


@pytest.fixture
def without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(image: object) -> None:
        raise AssertionError("Pillow was asked for pixels")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)


SIZES = [(1, 1), (1, 9), (9, 1), (7, 15), (16, 16), (17, 33), (33, 17), (120, 161), (1, 60_000), (60_000, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411", "Gray"])
@pytest.mark.usefixtures("without_pillow")
def test_pixels_are_those_of_pillow(size: tuple[int, int], subsampling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture(*size)
    if subsampling == "Gray":
        data = simplejpeg.encode_jpeg(pixels[..., :1].copy(), 85, "GRAY", "Gray")
    else:
        data = simplejpeg.encode_jpeg(pixels, 85, "RGB", subsampling)
    result = decode(data)
    monkeypatch.undo()
    assert levels(result.pixels, by_pillow(data)) <= 2
    assert result.pixels.flags.c_contiguous
    assert (result.height, result.width) == size


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"restart_marker_blocks": 2}, {"optimize": True}, {"quality": 3}]
)
@pytest.mark.usefixtures("without_pillow")
def test_so_are_those_of_other_plain_files(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(picture(50, 75), **options)
    pixels = decode(data).pixels
    monkeypatch.undo()
    assert levels(pixels, by_pillow(data)) <= 2


def test_rgb_stored_as_such_and_cmyk_are_read() -> None:
    rgb = jpeg(picture(50, 75), keep_rgb=True)
    assert levels(decode(rgb).pixels, by_pillow(rgb)) <= 2
    assert levels(decode(jpeg(np.full((16, 16, 3), 200, np.uint8), "CMYK")).pixels, np.full((16, 16, 3), 200)) <= 4


def outcome(data: bytes, options: DecodeOptions) -> tuple[str, np.ndarray | None]:
    try:
        return "ok", decode(data, options).pixels
    except DecodeError as error:
        return f"{type(error).__name__}: {error}", None


def both_ways(
    data: bytes, options: DecodeOptions, monkeypatch: pytest.MonkeyPatch
) -> tuple[tuple[str, np.ndarray | None], tuple[str, np.ndarray | None]]:
    ours = outcome(data, options)
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_pixels", lambda *_: None)
        return ours, outcome(data, options)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("allow_truncated", [False, True])
def test_a_file_cut_anywhere_is_judged_as_pillow_judges_it(
    progressive: bool, allow_truncated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jpeg(picture(40, 40), progressive=progressive, quality=60)
    refused = 0
    for length in range(1, len(data) + 1):
        ours, pillows = both_ways(data[:length], DecodeOptions(allow_truncated=allow_truncated), monkeypatch)
        assert ours[0] == pillows[0]
        refused += ours[0] != "ok"
        if ours[1] is not None and pillows[1] is not None:
            assert levels(ours[1], pillows[1]) <= 2
    assert refused > (0 if allow_truncated else len(data) * 0.9)


def test_broken_bytes_are_judged_as_pillow_judges_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    seen = set()
    for progressive in (False, True):
        data = jpeg(picture(48, 64), progressive=progressive)
        for _ in range(400):
            broken = bytearray(data)
            for position in rng.integers(2, len(data), rng.integers(1, 4)):
                broken[position] = rng.integers(256)
            ours, pillows = both_ways(bytes(broken), DecodeOptions(max_pixels=10_000_000), monkeypatch)
            assert ours[0] == pillows[0]
            seen.add(ours[0].partition(":")[0])
            if ours[1] is not None and pillows[1] is not None:
                assert levels(ours[1], pillows[1]) <= 2
    assert {"ok", "CorruptImageError"} <= seen


def test_bytes_after_the_end_and_between_segments_are_forgiven() -> None:
    data = jpeg(picture(40, 56))
    expected = by_pillow(data)
    assert levels(decode(data + b"more").pixels, expected) <= 2
    assert levels(decode(data[:2] + b"\xff\xff\xff" + data[2:]).pixels, expected) <= 2


def test_a_file_without_its_end_is_truncated() -> None:
    with pytest.raises(TruncatedImageError):
        decode(jpeg(picture(64, 64))[:-40])


TINY = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)


@pytest.mark.parametrize(
    ("orientation", "reds"),
    [
        (None, [[0, 3, 6], [9, 12, 15]]),
        (1, [[0, 3, 6], [9, 12, 15]]),
        (2, [[6, 3, 0], [15, 12, 9]]),
        (3, [[15, 12, 9], [6, 3, 0]]),
        (4, [[9, 12, 15], [0, 3, 6]]),
        (5, [[0, 9], [3, 12], [6, 15]]),
        (6, [[9, 0], [12, 3], [15, 6]]),
        (7, [[15, 6], [12, 3], [9, 0]]),
        (8, [[6, 15], [3, 12], [0, 9]]),
    ],
)
def test_each_orientation_turns_two_rows_of_three(orientation: int | None, reds: list[list[int]]) -> None:
    upright = turned(TINY, orientation)
    assert upright[..., 0].tolist() == reds
    assert np.array_equal(upright[..., 2], upright[..., 0] + 2)
    assert upright.flags.c_contiguous
