"""Every rule of decoding, on literal images: orientation, colors, frames, and refused files."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, features

from prelabel.errors import (
    ConfigError,
    CorruptImageError,
    DecodeError,
    EmptyFileError,
    ImageTooLargeError,
    MissingCodecError,
    TruncatedImageError,
    UnknownFormatError,
)
from prelabel.source import color
from prelabel.source.decode import DecodeOptions, decode
from tests.messages import TRUNCATED, telling
from tests.source import oriented

RED, GREEN, BLUE, GRAY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)

TAKE_CUT = DecodeOptions(allow_truncated=True)

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
AVIF = pytest.param("AVIF", marks=needs_avif)


def corners() -> np.ndarray:
    """32 x 48, each quarter in a different color, so that all rotations and flips differ."""
    pixels = np.empty((32, 48, 3), np.uint8)
    pixels[:16, :24], pixels[:16, 24:], pixels[16:, :24], pixels[16:, 24:] = RED, GREEN, BLUE, GRAY
    return pixels


#: The pixels that a camera stores, given the displayed image: the inverse of each orientation, with NumPy alone.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda p: np.rot90(p, -1),
}


def noise(height: int = 96, width: int = 128) -> Image.Image:
    """An image that does not compress, so that truncation hits its pixels."""
    return Image.fromarray(np.random.default_rng(7).integers(1, 255, (height, width, 3), dtype=np.uint8))


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, color_type: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """An assembled PNG; each of its `rows` begins with a filter byte."""
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    between = b"".join(chunk(*part) for part in chunks)
    image_data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + between + image_data + chunk(b"IEND", b"")


def first_row(data: bytes) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in decode(data).pixels[0].tolist()]


def close(left: Any, right: Any, tolerance: int) -> bool:
    return int(np.abs(np.asarray(left, np.int16) - np.asarray(right, np.int16)).max()) <= tolerance


def profile(space: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def swapped_profile() -> bytes:
    """sRGB with the red and blue colorants exchanged: a pixel stored red is displayed blue."""
    data = profile("sRGB")
    return data.replace(b"rXYZ", b"tmp!").replace(b"bXYZ", b"rXYZ").replace(b"tmp!", b"bXYZ")


def black_profile() -> bytes:
    """sRGB with colorants of no light: every color would be black."""
    data = bytearray(profile("sRGB"))
    for tag in (b"rXYZ", b"gXYZ", b"bXYZ"):
        at = int.from_bytes(data[data.index(tag) + 4 :][:4], "big")
        data[at + 8 : at + 20] = bytes(12)
    return bytes(data)


# --- the result -------------------------------------------------------------------------------------------------------


def test_pixels_are_rgb_bytes_in_rows() -> None:
    result = decode(save(Image.fromarray(corners()), "PNG"))
    assert result.pixels.dtype == np.uint8
    assert result.pixels.flags.c_contiguous
    assert np.array_equal(result.pixels, corners())
    assert (result.height, result.width, result.frames, result.exif_orientation) == (32, 48, 1, None)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "PPM", "TGA"])
def test_each_format_is_read(kind: str) -> None:
    pixels = decode(save(Image.fromarray(corners()), kind)).pixels
    assert pixels.shape == (32, 48, 3)
    assert close(pixels[::31, ::47], corners()[::31, ::47], 3 if kind in ("JPEG", "WEBP") else 0)


# --- orientation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_exif_orientation_is_applied_and_recorded(kind: str, options: dict[str, Any], orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](corners())))
    result = decode(save(stored, kind, exif=exif, **options))
    assert result.pixels.shape == (32, 48, 3)
    assert close(result.pixels, corners(), 3)
    assert result.exif_orientation == orientation


@needs_avif
@pytest.mark.parametrize("orientation", range(2, 9))
def test_avif_rotation_is_applied_and_recorded(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](corners())))
    result = decode(save(stored, "AVIF", exif=exif, quality=100, subsampling="4:4:4"))
    assert close(result.pixels, corners(), 3)
    assert result.exif_orientation == orientation


def test_orientation_after_the_pixels_of_a_png_is_applied() -> None:
    data = save(Image.fromarray(np.ascontiguousarray(STORED[6](corners()))), "PNG")
    exif = Image.Exif()
    exif[274] = 6
    end = chunk(b"IEND", b"")
    result = decode(data.removesuffix(end) + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + end)
    assert np.array_equal(result.pixels, corners())
    assert result.exif_orientation == 6


def test_orientation_in_xmp_is_applied() -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[8](corners())))
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    result = decode(save(stored, "WEBP", lossless=True, xmp=xmp))
    assert np.array_equal(result.pixels, corners())
    assert result.exif_orientation == 8


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_out_of_range_is_none(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    result = decode(save(Image.fromarray(corners()), "PNG", exif=exif))
    assert np.array_equal(result.pixels, corners())
    assert result.exif_orientation is None


def test_corrupt_exif_does_not_fail_the_image() -> None:
    result = decode(save(Image.fromarray(corners()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense"))
    assert result.pixels.shape == (32, 48, 3)
    assert result.exif_orientation is None


# --- color spaces -----------------------------------------------------------------------------------------------------

CMYK_INKS = {RED: (0, 255, 255, 0), GREEN: (255, 0, 255, 0), BLUE: (255, 255, 0, 0), GRAY: (0, 0, 0, 127)}


def cmyk_corners() -> Image.Image:
    inks = np.empty((32, 48, 4), np.uint8)
    for rgb, ink in CMYK_INKS.items():
        inks[(corners() == rgb).all(-1)] = ink
    return Image.frombytes("CMYK", (48, 32), inks.tobytes())


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted(kind: str) -> None:
    """Adobe's JPEGs store inverted inks, TIFFs do not."""
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    assert close(decode(save(cmyk_corners(), kind, **options)).pixels, corners(), 4)


def test_ycck_is_converted() -> None:
    """YCCK is CMYK whose first three inks are stored as YCbCr, marked by transform 2 in Adobe's segment."""
    inks = cmyk_corners().split()
    luma, blue, red = Image.merge("RGB", inks[:3]).convert("YCbCr").split()
    # Pillow inverts what it writes; the three channels of YCCK must be stored unchanged.
    stored = Image.merge("CMYK", [*(channel.point(lambda v: 255 - v) for channel in (luma, blue, red)), inks[3]])
    data = save(stored, "JPEG", quality=95, subsampling=0)
    marker = data.index(b"Adobe")
    assert data[marker + 11] == 0
    ycck = data[: marker + 11] + b"\x02" + data[marker + 12 :]
    assert close(decode(ycck).pixels, corners(), 6)


def test_lab_is_converted() -> None:
    """CIELAB D50 of white, a pure sRGB red, and middle gray, from published tables."""
    lab = bytes([255, 0, 0, 138, 81, 70, 137, 0, 0])  # L* times 2.55; a*, b* signed
    blank = save(Image.new("LAB", (3, 1)), "TIFF")
    at = Image.open(io.BytesIO(blank)).tag_v2[273][0]  # type: ignore[attr-defined]
    white, red, gray = first_row(blank[:at] + lab + blank[at + 9 :])
    assert close(white, WHITE, 1)
    assert close(red, RED, 10)
    assert close(gray, GRAY, 2)


def test_icc_profile_is_applied() -> None:
    result = decode(save(Image.fromarray(corners()), "PNG", icc_profile=swapped_profile()))
    assert close(result.pixels, corners()[:, :, ::-1], 2)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_icc_profile_is_applied_before_compositing_on_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (*RED, 0))
    data = save(image if mode == "RGBA" else image.quantize(4), "PNG", icc_profile=swapped_profile())
    opaque, clear = first_row(data)
    assert close(opaque, BLUE, 2)
    assert clear == WHITE


def test_srgb_profile_does_not_change_pixels() -> None:
    picture = noise()
    assert color._transform(profile("sRGB"), "RGB") is None  # no conversion needed
    assert np.array_equal(decode(save(picture, "PNG", icc_profile=profile("sRGB"))).pixels, np.asarray(picture))


def test_a_profile_is_applied_to_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    data = save(noise(50, 30), "JPEG", icc_profile=swapped_profile())
    whole = decode(data).pixels
    assert not np.array_equal(whole, decode(save(noise(50, 30), "JPEG")).pixels)
    monkeypatch.setattr(color, "_BAND_PIXELS", 7 * 30)
    assert np.array_equal(decode(data).pixels, whole)


@pytest.mark.parametrize("broken", [b"no profile", profile("sRGB")[:200], profile("LAB"), black_profile()])
def test_unusable_profile_is_ignored(broken: bytes) -> None:
    assert np.array_equal(decode(save(Image.fromarray(corners()), "PNG", icc_profile=broken)).pixels, corners())


def test_profile_for_another_color_space_is_ignored() -> None:
    gray = Image.new("L", (1, 1), 77)
    assert first_row(save(gray, "PNG", icc_profile=swapped_profile())) == [(77, 77, 77)]


# --- pixel types ------------------------------------------------------------------------------------------------------


def test_gray_is_the_same_in_three_channels() -> None:
    assert first_row(png(3, 1, 8, 0, bytes([0, 0, 77, 255]))) == [BLACK, (77, 77, 77), WHITE]


def test_one_bit_is_black_and_white() -> None:
    assert first_row(png(2, 1, 1, 0, b"\x00\x40")) == [BLACK, WHITE]


def test_16_bit_gray_is_divided_by_257() -> None:
    values = struct.pack(">4H", 0, 257, 32768, 65535)
    assert first_row(png(4, 1, 16, 0, b"\x00" + values)) == [BLACK, (1, 1, 1), GRAY, WHITE]


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_16_bit_tiff_of_either_byte_order_is_divided_by_257(mode: str) -> None:
    order = ">" if mode == "I;16B" else "<"
    image = Image.frombytes(mode, (3, 1), struct.pack(order + "3H", 0, 257 * 9, 65535))
    assert first_row(save(image, "TIFF")) == [BLACK, (9, 9, 9), WHITE]


def test_16_bit_tiff_is_scaled_by_its_declared_maximum() -> None:
    image = Image.frombytes("I;16", (3, 1), struct.pack("<3H", 0, 500, 1000))
    assert first_row(save(image, "TIFF", tiffinfo={281: 1000})) == [BLACK, GRAY, WHITE]


def test_16_bit_tiff_with_white_at_zero_is_inverted() -> None:
    data = save(Image.frombytes("I;16", (2, 1), struct.pack("<2H", 0, 65535)), "TIFF")
    photometric = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert photometric in data
    assert first_row(data.replace(photometric, struct.pack("<HHIHH", 262, 3, 1, 0, 0))) == [WHITE, BLACK]


def test_16_bit_color_is_reduced() -> None:
    assert first_row(png(2, 1, 16, 2, b"\x00" + struct.pack(">6H", 65535, 0, 0, 0, 32896, 65535))) == [
        RED,
        (0, 128, 255),
    ]


def test_16_bit_pgm_is_scaled_by_its_own_maximum() -> None:
    assert first_row(b"P5 3 1 1000\n" + struct.pack(">3H", 0, 400, 1000)) == [BLACK, (102, 102, 102), WHITE]


@pytest.mark.parametrize(
    ("values", "grays"),
    [
        ([0, 7, 255], [0, 7, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([0, 50_000, 100_000], [0, 128, 255]),
        ([-100, 0, 100], [0, 128, 255]),
        ([70_000, 70_000, 70_000], [0, 0, 0]),
    ],
)
def test_32_bit_integers_keep_their_range_or_are_stretched(values: list[int], grays: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.int32))
    assert first_row(save(image, "TIFF")) == [(gray, gray, gray) for gray in grays]


@pytest.mark.parametrize(
    ("values", "grays"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 7.4, 255.0], [0, 7, 255]),
        ([0.0, 500.0, 1000.0], [0, 128, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.5, float("nan"), 1.0], [128, 0, 255]),
        ([0.0, float("-inf"), float("inf")], [0, 0, 0]),
        ([2.0, 4.0, float("inf")], [0, 255, 255]),  # neither 0..1 nor 0..255
        ([20.0, 40.0, float("inf")], [20, 40, 40]),
        ([float("nan")] * 3, [0, 0, 0]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
    ],
)
def test_floats_keep_their_range_or_are_stretched(values: list[float], grays: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    assert first_row(save(image, "TIFF")) == [(gray, gray, gray) for gray in grays]


# --- transparency -----------------------------------------------------------------------------------------------------


def test_alpha_is_composited_on_white() -> None:
    rgba = b"\x00" + bytes([*RED, 255, *RED, 0, *RED, 128])
    assert first_row(png(3, 1, 8, 6, rgba)) == [RED, WHITE, (255, 127, 127)]


def test_gray_with_alpha_is_composited_on_white() -> None:
    assert first_row(png(3, 1, 8, 4, bytes([0, 10, 255, 10, 0, 0, 128]))) == [(10, 10, 10), WHITE, (127, 127, 127)]


def test_palette_is_looked_up_and_its_transparency_is_white() -> None:
    palette = (b"PLTE", bytes([*RED, *GREEN, *BLUE]))
    rows = bytes([0, 0, 1, 2])
    assert first_row(png(3, 1, 8, 3, rows, palette)) == [RED, GREEN, BLUE]
    assert first_row(png(3, 1, 8, 3, rows, palette, (b"tRNS", b"\xff\x00"))) == [RED, WHITE, BLUE]
    assert first_row(png(3, 1, 8, 3, rows, palette, (b"tRNS", b"\xff\x80\x00"))) == [RED, (127, 255, 127), WHITE]


@pytest.mark.parametrize(
    ("bits", "color_type", "row", "transparent"),
    [
        (1, 0, b"\x40", b"\x00\x01"),
        (2, 0, b"\x20", b"\x00\x02"),
        (4, 0, b"\x0e", b"\x00\x0e"),
        (8, 0, b"\x00\xc8", b"\x00\xc8"),
        (16, 0, b"\x00\x00\x12\x34", b"\x12\x34"),
        (8, 2, bytes([*BLACK, *RED]), b"\x00\xff\x00\x00\x00\x00"),
        (16, 2, bytes(6) + b"\x12\x34\x56\x78\x9a\xbc", b"\x12\x34\x56\x78\x9a\xbc"),
    ],
)
def test_single_transparent_value_of_a_png_is_white(bits: int, color_type: int, row: bytes, transparent: bytes) -> None:
    assert first_row(png(2, 1, bits, color_type, b"\x00" + row, (b"tRNS", transparent))) == [BLACK, WHITE]


def test_canvas_around_a_small_first_gif_frame_is_white() -> None:
    data = save(Image.new("RGB", (2, 2), RED), "GIF")
    larger = data[:6] + struct.pack("<HH", 4, 3) + data[10:]
    pixels = decode(larger).pixels
    assert pixels.shape == (3, 4, 3)
    assert (pixels[:2, :2] == RED).all()
    assert (pixels[2:] == 255).all()
    assert (pixels[:, 2:] == 255).all()


# --- several images in a file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("MPO", {"quality": 95, "subsampling": 0}),
    ],
)
def test_first_of_several_images_is_decoded_and_all_are_counted(kind: str, options: dict[str, Any]) -> None:
    others = [Image.new("RGB", (48, 32), BLUE), Image.new("RGB", (48, 32), GREEN)]
    result = decode(save(Image.fromarray(corners()), kind, save_all=True, append_images=others, **options))
    assert close(result.pixels, corners(), 3)
    assert result.frames == 3


def test_corrupt_later_page_does_not_fail_the_first() -> None:
    page = save(Image.fromarray(corners()), "TIFF")
    entries = int.from_bytes(page[8:10], "little")
    next_page = 10 + 12 * entries
    data = page[:next_page] + struct.pack("<I", len(page)) + page[next_page + 4 :] + b"\x05\x00 no directory"
    result = decode(data)
    assert np.array_equal(result.pixels, corners())
    assert result.frames >= 1


# --- truncated files --------------------------------------------------------------------------------------------------

CUTTABLE = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("TIFF", {}),
    ("GIF", {}),
    ("BMP", {}),
]


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(("kind", "options"), CUTTABLE)
def test_truncated_file_fails_unless_allowed(kind: str, options: dict[str, Any], part: float) -> None:
    whole = save(noise(), kind, **options)
    cut = whole[: int(len(whole) * part)]
    with pytest.raises(TruncatedImageError, match=telling(TRUNCATED, kind, "128 x 96")):
        decode(cut)
    pixels = decode(cut, TAKE_CUT).pixels
    expected = decode(whole).pixels
    first, last = (-1, 0) if kind == "BMP" else (0, -1)  # a BMP stores the bottom row first
    if not options:
        assert np.array_equal(pixels[first, :8], expected[first, :8])
    assert not np.array_equal(pixels[last], expected[last])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "JPEG2000"])
def test_file_truncated_before_its_pixels_fails_even_if_allowed(kind: str) -> None:
    # The directory of this TIFF follows its pixels.
    data = save(noise(), kind, **({"compression": "tiff_lzw"} if kind == "TIFF" else {}))[:40]
    for options in (DecodeOptions(), TAKE_CUT):
        with pytest.raises(TruncatedImageError):
            decode(data, options)


@pytest.mark.parametrize("kind", ["WEBP", "JPEG2000", AVIF])
def test_truncated_file_fails_even_if_allowed_when_the_decoder_needs_all_of_it(kind: str) -> None:
    data = save(noise(), kind)
    for options in (DecodeOptions(), TAKE_CUT):
        with pytest.raises(TruncatedImageError):
            decode(data[: len(data) // 2], options)


def test_jpeg_without_end_marker_is_truncated() -> None:
    data = save(noise(), "JPEG").removesuffix(b"\xff\xd9")
    with pytest.raises(TruncatedImageError):
        decode(data)
    assert decode(data, TAKE_CUT).pixels.shape == (96, 128, 3)


def test_png_without_end_chunk_is_truncated() -> None:
    data = save(noise(), "PNG")[:-12]
    with pytest.raises(TruncatedImageError):
        decode(data)
    assert np.array_equal(decode(data, TAKE_CUT).pixels, np.asarray(noise()))


def test_truncated_tiff_is_rotated_like_a_complete_one() -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = save(noise(96, 128), "TIFF", exif=exif)
    result = decode(data[:-3000], TAKE_CUT)
    assert result.pixels.shape == (128, 96, 3)
    assert result.exif_orientation == 6
    assert np.array_equal(result.pixels[:, -1], decode(data).pixels[:, -1])


def test_allowing_truncated_files_does_not_change_complete_ones() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF"):
        data = save(noise(), kind)
        assert np.array_equal(decode(data, TAKE_CUT).pixels, decode(data).pixels)
        assert np.array_equal(decode(data + b"trailing", TAKE_CUT).pixels, decode(data).pixels)


def test_uniform_image_with_trailing_bytes_is_complete() -> None:
    data = save(Image.new("RGB", (32, 16), BLUE), "JPEG", quality=95, subsampling=0)
    assert close(decode(data + bytes(100), TAKE_CUT).pixels, np.broadcast_to(BLUE, (16, 32, 3)), 2)


def test_threads_with_different_options_do_not_disturb_each_other() -> None:
    whole = save(noise(256, 256), "PNG")
    cut = whole[: len(whole) // 2]

    def strict(_: int) -> bool:
        try:
            decode(cut)
        except TruncatedImageError:
            return True
        return False

    def lenient(_: int) -> bool:
        return decode(cut, TAKE_CUT).pixels.shape == (256, 256, 3)

    with ThreadPoolExecutor(4) as pool:
        outcomes = [list(pool.map(call, range(40))) for call in (strict, lenient)]
        mixed = list(pool.map(lambda i: (strict if i % 2 else lenient)(i), range(80)))
    assert all(outcomes[0])
    assert all(outcomes[1])
    assert all(mixed)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_threads_share_a_color_transform() -> None:
    data = save(noise(200, 300), "PNG", icc_profile=swapped_profile())
    expected = decode(data).pixels
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(result.pixels, expected) for result in pool.map(lambda _: decode(data), range(24)))


# --- limits -----------------------------------------------------------------------------------------------------------


def bomb(width: int, height: int) -> bytes:
    return png(width, height, 8, 2, b"")


def test_pixel_limit_is_checked_before_the_pixels() -> None:
    with pytest.raises(ImageTooLargeError, match=telling("60000 x 60000", "3,600,000,000", "pixels?", "178,956,970")):
        decode(bomb(60_000, 60_000))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", AVIF])
def test_pixel_limit_is_exact(kind: str) -> None:
    data = save(Image.new("RGB", (32, 16)), kind)
    assert decode(data, DecodeOptions(max_pixels=512)).pixels.shape == (16, 32, 3)
    with pytest.raises(ImageTooLargeError, match=telling("32 x 16", "512", "pixels?", "511")):
        decode(data, DecodeOptions(max_pixels=511))


def test_canvas_of_a_webp_is_checked_before_it_is_opened() -> None:
    canvas = (99_999).to_bytes(3, "little")
    data = b"RIFF\x1a\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x02\x00\x00\x00" + canvas + canvas
    with pytest.raises(ImageTooLargeError, match=telling("100000 x 100000")):
        decode(data)


def test_only_our_own_pixel_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns above its limit (an error in these tests), and fails above twice that."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind in ("PNG", "TIFF", "WEBP", "GIF"):
        assert decode(save(Image.new("RGB", (32, 16)), kind)).pixels.shape == (16, 32, 3)


def test_long_thin_image_is_not_a_decompression_bomb() -> None:
    assert decode(save(Image.new("L", (60_000, 1)), "PNG")).pixels.shape == (1, 60_000, 3)


def test_file_larger_than_the_limit_is_refused() -> None:
    data = save(noise(), "BMP")
    with pytest.raises(ImageTooLargeError, match=telling("36,918", "bytes?", "1,000", "max-bytes")):
        decode(data, DecodeOptions(max_bytes=1000))


@pytest.mark.parametrize("name", [b"Comment", b"Raw profile type exif", b"XML:com.adobe.xmp", b"profile"])
def test_compressed_text_neither_fills_memory_nor_fails_the_image(name: bytes) -> None:
    packed = zlib.compress(bytes(100_000_000))
    kind, head = {b"XML:com.adobe.xmp": (b"iTXt", b"\0\1\0\0\0"), b"profile": (b"iCCP", b"\0\0")}.get(
        name, (b"zTXt", b"\0\0")
    )
    data = png(1, 1, 8, 0, b"\x00\x00", (kind, name + head + packed))
    tracemalloc.start()
    assert first_row(data) == [BLACK]
    assert tracemalloc.get_traced_memory()[1] < 40_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("options", [{"max_pixels": 0}, {"max_bytes": -1}])
def test_invalid_limits_are_refused(options: dict[str, int]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ConfigError, match=telling(name.replace("_", "-"), "1", str(value))):
        DecodeOptions(**options)


# --- files that are not images ----------------------------------------------------------------------------------------


def test_empty_file_is_refused() -> None:
    with pytest.raises(EmptyFileError, match=telling("empty|0 bytes")):
        decode(b"")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>", "HTML"),
        (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "XML"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript|EPS"),
        (b'{"error": "not found"}', "JSON"),
        ("grüße".encode() * 500, "text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (bytes(1000), "zeros?|zero bytes?"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(20), "MP4|QuickTime|video"),
        (b"BM, the beginning of a letter", "text"),
        (bytes(range(1, 99)), "01 02 03 04 05 06 07 08"),
    ],
)
def test_non_image_is_refused_with_a_description_of_its_content(data: bytes, words: str) -> None:
    with pytest.raises(UnknownFormatError, match=telling("not|no", "images?|pictures?", words)):
        decode(data)


def test_eps_is_never_passed_to_ghostscript(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(UnknownFormatError):
        decode(save(noise(), "EPS"))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_heic_is_decoded_if_its_decoder_is_installed(orientation: int) -> None:
    heif = pytest.importorskip("pillow_heif", reason="the extra prelabel[heif] is not installed")
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](corners())))
    file = io.BytesIO()
    heif.from_pillow(stored).save(file, exif=exif.tobytes(), quality=95)
    result = decode(file.getvalue())
    assert result.pixels.shape == (32, 48, 3)
    assert close(result.pixels[::31, ::47], corners()[::31, ::47], 6)
    with pytest.raises(TruncatedImageError):
        decode(file.getvalue()[:-100])


def test_heic_without_its_decoder_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif.as_plugin", None)
    with pytest.raises(MissingCodecError, match=telling("HEIC", r"pip install 'prelabel\[heif\]'")):
        decode(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(40))


@needs_avif
def test_avif_without_its_decoder_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = save(noise(), "AVIF")
    monkeypatch.setattr("PIL.AvifImagePlugin.SUPPORTED", False)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif.as_plugin", None)
    with pytest.raises(MissingCodecError, match=telling("AVIF", r"pip install 'prelabel\[heif\]'")):
        decode(data)


def test_camera_raw_is_refused_instead_of_decoding_its_preview() -> None:
    data = save(noise(), "TIFF", tiffinfo={50706: b"\x01\x04\x00\x00"})
    with pytest.raises(UnknownFormatError, match=telling("raw")):
        decode(data)


def test_zero_size_is_refused() -> None:
    with pytest.raises(CorruptImageError, match=telling("size|width|height|wide|high", "0")):
        decode(bomb(0, 10))


def test_unsupported_variant_is_reported() -> None:
    data = save(noise(), "JPEG")
    frame = data.index(b"\xff\xc0")
    with pytest.raises(UnknownFormatError, match=telling("JPEG", "12[- ]bits?")):
        decode(data[: frame + 4] + b"\x0c" + data[frame + 5 :])


def test_pillows_warnings_about_unusual_files_are_not_shown(recwarn: pytest.WarningsRecorder) -> None:
    data = save(noise(), "TIFF")
    at = data.index(struct.pack("<HHI", 258, 3, 3))
    # The offset of the bits per channel lies beyond the end of the file.
    odd = data[: at + 8] + struct.pack("<I", len(data) + 10) + data[at + 12 :]
    with pytest.raises(DecodeError):
        decode(odd)
    assert not recwarn.list


def test_corrupt_files_always_fail_with_a_decode_error() -> None:
    random = np.random.default_rng(3)
    sources = [save(noise(24, 32), kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "PPM")]
    messages = []
    for turn in range(400):
        data = bytearray(sources[turn % len(sources)])
        for at in random.integers(0, min(len(data), 300), 4):
            data[at] = random.integers(256)
        try:
            decode(bytes(data), DecodeOptions(max_pixels=1_000_000))
        except DecodeError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert not [message for message in messages if "\n" in message or len(message) > 300]


# --- reasons in messages ----------------------------------------------------------------------------------------------


def restated(data: bytes, width: int, height: int) -> bytes:
    """An AVIF or HEIC whose declared size is changed."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


@needs_avif
def test_avif_over_the_decoders_limit_is_reported_as_too_large() -> None:
    huge = restated(save(noise(), "AVIF"), 40_000, 40_000)
    with pytest.raises(ImageTooLargeError, match=telling("40000 x 40000", "1,600,000,000", "pixels?", "max-pixels")):
        decode(huge)
    with pytest.raises(ImageTooLargeError, match=telling("AVIF", "reader|decoder|library")):
        decode(huge, DecodeOptions(max_pixels=10**10))


@needs_avif
@pytest.mark.parametrize("major", [b"miaf", b"MA1A", b"mif1", b"isom"])
def test_avif_is_recognized_by_any_of_its_brands(major: bytes) -> None:
    data = save(noise(), "AVIF")
    assert decode(data[:8] + major + data[12:]).pixels.shape == (96, 128, 3)


@needs_avif
def test_avif_with_unsupported_content_is_described() -> None:
    data = save(noise(), "AVIF")
    with pytest.raises(UnknownFormatError, match=telling("HEVC")):
        decode(data.replace(b"av01", b"hvc1"))
    video = b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + struct.pack(">I4s", 108, b"moov") + bytes(100)
    with pytest.raises(UnknownFormatError, match=telling("video|film|movie")):
        decode(video)


@needs_avif
def test_corrupt_exif_of_an_avif_does_not_fail_the_image() -> None:
    image = decode(oriented.avif(exif_data=b"Exif\0\0" + oriented.exif(6)))
    assert (image.pixels.shape, image.exif_orientation, image.browser_orientation) == ((32, 48, 3), None, 1)


@pytest.mark.parametrize("frame", [0xC3, 0xC5, 0xCB])
def test_unsupported_kind_of_jpeg_is_reported(frame: int) -> None:
    data = save(noise(), "JPEG").replace(b"\xff\xc0", bytes([0xFF, frame]), 1)
    with pytest.raises(UnknownFormatError, match=telling("JPEG", "lossless|hierarchical|JPEG-LS")):
        decode(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(40), "raw"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + bytes(40), "MP4|QuickTime|video"),
        (b"II\xbc\x01" + bytes(40), "JPEG XR"),
        (b"gimp xcf v011" + bytes(40), "GIMP"),
        (b"8BPS\0\2" + bytes(60), "PSB"),
    ],
)
def test_unsupported_formats_are_named(data: bytes, words: str) -> None:
    with pytest.raises(UnknownFormatError, match=telling(words)):
        decode(data)
