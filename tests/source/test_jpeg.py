"""JPEGs decoded without Pillow's loader: the same pixels as with it, and the same errors."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms, ImageFile

from prelabel.errors import ConfigError, DecodeError, ImageTooLargeError, TruncatedImageError
from prelabel.source import decode as module
from prelabel.source.decode import DecodeOptions, decode, decoded_bytes
from prelabel.source.jpeg import scale_of
from prelabel.source.orientation import rotated
from tests.messages import TRUNCATED, telling


def picture(height: int, width: int) -> np.ndarray:
    """Smooth colors with a little noise, like a photo, so that upsampling and rounding have an effect."""
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    colors = np.stack([127 + 120 * np.sin(x / 7), 127 + 120 * np.cos(y / 5), (x + y) % 256], -1)
    return np.clip(colors + rng.normal(0, 6, colors.shape), 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **{"quality": 85, **options})
    return file.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def levels(left: np.ndarray, right: np.ndarray) -> int:
    """The largest difference between two images of equal size."""
    assert left.shape == right.shape
    return int(np.abs(left.astype(np.int16) - right).max())


@pytest.fixture
def without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(image: object) -> None:
        raise AssertionError("Pillow was asked for pixels")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)


def with_thumbnail(pixels: np.ndarray) -> bytes:
    """A JPEG whose EXIF data has a small one."""
    thumbnail = jpeg(pixels[:16, :24])
    return jpeg(pixels, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail)


def two_images(pixels: np.ndarray) -> bytes:
    """A file with two JPEGs, the second one smaller."""
    file = io.BytesIO()
    first, second = Image.fromarray(pixels), Image.fromarray(pixels[:16, :24])
    first.save(file, "MPO", save_all=True, append_images=[second])
    return file.getvalue()


FORMS = {
    "baseline": jpeg,
    "progressive": lambda pixels: jpeg(pixels, progressive=True),
    "gray": lambda pixels: jpeg(pixels, "L"),
    "with a thumbnail": with_thumbnail,
    "two images": two_images,
    "fill bytes": lambda pixels: jpeg(pixels).replace(b"\xff\xc0", b"\xff\xff\xff\xc0", 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_memory_of_the_pixels_is_known_beforehand(form: str) -> None:
    data = FORMS[form](picture(240, 320))
    for options, size in ((DecodeOptions(), 240 * 320), (DecodeOptions(shortest_side=100), 120 * 160)):
        assert decoded_bytes(data, options) == 3 * size == decode(data, options).pixels.nbytes
    assert decoded_bytes(data, DecodeOptions(max_pixels=240 * 320 - 1)) == 0


@pytest.mark.parametrize("data", [b"\xff\xd8", b"\xff\xd8\xff\xc0\x00\x02", b"\xff\xd8\xff\xda" + bytes(99)])
def test_without_a_frame_nothing_is_known_beforehand(data: bytes) -> None:
    assert decoded_bytes(data, DecodeOptions()) == 0


@pytest.mark.parametrize("filler", [b"\xff", b"\xff\x00", b"\xff\x01", b"\x00"])
def test_a_long_header_without_a_frame_costs_no_time(filler: bytes) -> None:
    data = b"\xff\xd8\xff\xe0\x00\x02" + filler * (2**24 // len(filler))
    began = time.thread_time()
    assert decoded_bytes(data, DecodeOptions()) == 0
    assert time.thread_time() - began < 1.0


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
def test_pixels_of_other_plain_files_are_those_of_pillow(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jpeg(picture(50, 75), **options)
    pixels = decode(data).pixels
    monkeypatch.undo()
    assert levels(pixels, by_pillow(data)) <= 2


def test_untransformed_rgb_and_cmyk_are_decoded() -> None:
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
    decoded = outcome(data, options)
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_pixels", lambda *_: None)
        return decoded, outcome(data, options)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("allow_truncated", [False, True])
def test_file_truncated_anywhere_has_the_same_outcome_as_with_pillow(
    progressive: bool, allow_truncated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jpeg(picture(40, 40), progressive=progressive, quality=60)
    refused = 0
    for length in range(1, len(data) + 1):
        decoded, pillows = both_ways(data[:length], DecodeOptions(allow_truncated=allow_truncated), monkeypatch)
        assert decoded[0] == pillows[0]
        refused += decoded[0] != "ok"
        if decoded[1] is not None and pillows[1] is not None:
            assert levels(decoded[1], pillows[1]) <= 2
    assert refused > (0 if allow_truncated else len(data) * 0.9)


def test_corrupt_bytes_have_the_same_outcome_as_with_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    seen = set()
    for progressive in (False, True):
        data = jpeg(picture(48, 64), progressive=progressive)
        for _ in range(400):
            broken = bytearray(data)
            for position in rng.integers(2, len(data), rng.integers(1, 4)):
                broken[position] = rng.integers(256)
            decoded, pillows = both_ways(bytes(broken), DecodeOptions(max_pixels=10_000_000), monkeypatch)
            assert decoded[0] == pillows[0]
            seen.add(decoded[0].partition(":")[0])
            if decoded[1] is not None and pillows[1] is not None:
                assert levels(decoded[1], pillows[1]) <= 2
    assert {"ok", "CorruptImageError"} <= seen


def test_bytes_after_the_end_and_between_segments_are_ignored() -> None:
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
def test_each_orientation_rotates_two_rows_of_three(orientation: int | None, reds: list[list[int]]) -> None:
    upright = rotated(TINY, orientation)
    assert upright[..., 0].tolist() == reds
    assert np.array_equal(upright[..., 2], upright[..., 0] + 2)
    assert upright.flags.c_contiguous


# --- reduced ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "shortest_side", "scale"),
    [
        ((4000, 3000), None, 1),
        ((4000, 3000), 3000, 1),
        ((4000, 3000), 1501, 1),
        ((4000, 3000), 1500, 2),
        ((3000, 4000), 751, 2),
        ((4000, 3000), 750, 4),
        ((4000, 3000), 376, 4),
        ((4000, 3000), 375, 8),
        ((4000, 3000), 8, 8),
        ((1001, 1003), 501, 1),  # 1001 pixels are 501 at 1/2, the last of them half covered
        ((1001, 1003), 500, 2),
        ((60_000, 1), 8, 1),
        ((60_000, 17), 8, 2),
    ],
)
def test_image_is_reduced_as_far_as_its_shorter_side_allows(
    size: tuple[int, int], shortest_side: int | None, scale: int
) -> None:
    assert scale_of(size, shortest_side) == scale


def blocks(height: int, width: int, scale: int) -> np.ndarray:
    """Blocks of `scale` x `scale` pixels in one color each: the result at 1/scale is known."""
    rng = np.random.default_rng(3)
    small = rng.integers(40, 215, (-(-height // scale), -(-width // scale), 3), np.uint8)
    return small.repeat(scale, 0).repeat(scale, 1)[:height, :width]


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("size", [(64, 128), (67, 129), (73, 200), (64, 1001)])
def test_reduced_pixels_have_the_colors_of_their_regions(scale: int, size: tuple[int, int]) -> None:
    pixels = blocks(*size, 8)
    data = jpeg(pixels, quality=100, subsampling=0)
    result = decode(data, DecodeOptions(shortest_side=64 // scale))
    height, width = size
    assert result.pixels.shape == (-(-height // scale), -(-width // scale), 3)
    assert (result.height, result.width) == size
    assert result.window == (0, 0, result.pixels.shape[1] * scale, result.pixels.shape[0] * scale)
    assert levels(result.pixels, pixels[::scale, ::scale]) <= 4
    assert result.pixels.flags.c_contiguous


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "Gray"])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_reduced_pixels_are_those_of_pillow_reduced(
    scale: int, subsampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = picture(131, 270)
    kind = "GRAY" if subsampling == "Gray" else "RGB"
    data = simplejpeg.encode_jpeg(pixels[..., :1].copy() if kind == "GRAY" else pixels, 85, kind, subsampling)
    decoded, pillows = both_ways(data, DecodeOptions(shortest_side=128 // scale), monkeypatch)
    assert decoded[1] is not None
    assert pillows[1] is not None
    assert decoded[1].shape == (-(-131 // scale), -(-270 // scale), 3)
    assert levels(decoded[1], pillows[1]) <= 2


@pytest.mark.parametrize(
    ("orientation", "shape", "window"),
    # Stored 67 x 131 (height x width); at 1/8 that is 9 x 17 pixels, which stand for 72 x 136.
    [
        (1, (9, 17), (0, 0, 136, 72)),
        (2, (9, 17), (-5, 0, 131, 72)),
        (3, (9, 17), (-5, -5, 131, 67)),
        (4, (9, 17), (0, -5, 136, 67)),
        (5, (17, 9), (0, 0, 72, 136)),
        (6, (17, 9), (-5, 0, 67, 136)),
        (7, (17, 9), (-5, -5, 67, 131)),
        (8, (17, 9), (0, -5, 72, 131)),
    ],
)
def test_window_of_reduced_pixels_is_rotated_with_them(
    orientation: int, shape: tuple[int, int], window: tuple[int, int, int, int]
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    pixels = blocks(67, 131, 8)
    data = jpeg(pixels, quality=100, subsampling=0, exif=exif)
    whole = decode(data)
    result = decode(data, DecodeOptions(shortest_side=8))
    assert result.pixels.shape[:2] == shape
    assert result.window == window
    assert (result.height, result.width) == whole.pixels.shape[:2]
    assert result.exif_orientation == orientation
    # Each pixel has the color in the middle of the region that the window assigns to it.
    y = np.clip(window[1] + 8 * np.arange(shape[0]) + 4, 0, whole.height - 1)
    x = np.clip(window[0] + 8 * np.arange(shape[1]) + 4, 0, whole.width - 1)
    assert levels(result.pixels, whole.pixels[np.ix_(y, x)]) <= 4


def test_truncated_file_is_refused_or_decoded_at_full_size() -> None:
    data = jpeg(picture(320, 480), quality=95)[:-4000]
    with pytest.raises(TruncatedImageError, match=telling(TRUNCATED, "480 x 320")):
        decode(data, DecodeOptions(shortest_side=80))
    result = decode(data, DecodeOptions(shortest_side=80, allow_truncated=True))
    assert np.array_equal(result.pixels, decode(data, DecodeOptions(allow_truncated=True)).pixels)
    assert (result.height, result.width, result.window) == (320, 480, (0, 0, 480, 320))


def test_reduced_cmyk_file_reports_its_full_size() -> None:
    result = decode(jpeg(np.full((64, 96, 3), 200, np.uint8), "CMYK"), DecodeOptions(shortest_side=16))
    assert (result.height, result.width, result.pixels.shape) == (64, 96, (16, 24, 3))
    assert levels(result.pixels, np.full((16, 24, 3), 200, np.uint8)) <= 4


def test_profile_is_applied_to_a_reduced_image() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"tmp!").replace(b"bXYZ", b"rXYZ").replace(b"tmp!", b"bXYZ")
    data = jpeg(np.full((64, 64, 3), (250, 10, 10), np.uint8), icc_profile=swapped)
    red, _, blue = decode(data, DecodeOptions(shortest_side=8)).pixels[4, 4].tolist()
    assert red < 60
    assert blue > 200


def test_limits_apply_to_the_size_in_the_file() -> None:
    data = jpeg(picture(64, 64))
    with pytest.raises(ImageTooLargeError, match="64 x 64"):
        decode(data, DecodeOptions(shortest_side=8, max_pixels=64 * 64 - 1))


def test_other_formats_are_decoded_in_full() -> None:
    file = io.BytesIO()
    Image.fromarray(picture(64, 64)).save(file, "PNG")
    result = decode(file.getvalue(), DecodeOptions(shortest_side=8))
    assert result.pixels.shape == (64, 64, 3)
    assert result.window == (0, 0, 64, 64)


def test_shortest_side_below_one_block_is_refused() -> None:
    with pytest.raises(ConfigError, match=telling("shortest.side", "8", "7")):
        DecodeOptions(shortest_side=7)


@pytest.mark.parametrize("shortest_side", [8, 100])
def test_hard_files_have_the_same_status_size_and_orientation_reduced(assets: Path, shortest_side: int) -> None:
    reduced = 0
    for path in sorted((assets / "images/hard").iterdir()):
        data = path.read_bytes()
        for cut in (False, True):
            verdicts = []
            for side in (None, shortest_side):
                try:
                    decoded = decode(data, DecodeOptions(shortest_side=side, allow_truncated=cut))
                    verdicts.append((decoded.height, decoded.width, decoded.exif_orientation, decoded.frames))
                    reduced += decoded.pixels.shape[:2] != (decoded.height, decoded.width)
                except DecodeError as error:
                    verdicts.append((type(error).__name__, str(error)))
            assert verdicts[0] == verdicts[1], path.name
    assert reduced >= 16


def test_other_threads_run_while_a_jpeg_is_decoded() -> None:
    data = jpeg(np.random.default_rng(1).integers(0, 255, (2500, 2500, 3), np.uint8))
    most = 0
    for _ in range(20):  # on a busy machine this thread may not run during one of them
        thread = threading.Thread(target=decode, args=(data,))
        turns = 0
        thread.start()
        while thread.is_alive():
            time.sleep(0.001)
            turns += 1
        most = max(most, turns)
        if most > 8:
            break
    assert most > 8
