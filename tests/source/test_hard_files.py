"""Fifty real files that break image readers: each is decoded correctly or refused for the right reason."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from prelabel.errors import CorruptImageError, DecodeError, TruncatedImageError
from prelabel.source.decode import DecodedImage, DecodeOptions, decode
from tests.messages import BROKEN, telling

#: Displayed height and width, number of images, EXIF orientation; or the error.
EXPECTED: dict[str, tuple[int, int, int, int | None] | type[DecodeError]] = {
    "ianare__11-tests.jpg": (775, 1136, 1, None),
    "ianare__36-memory_error.jpg": (1200, 1600, 1, 1),
    "ianare__BSG1.tiff": (348, 635, 1, 1),
    "ianare__DudleyLeavittUtah.tiff": (257, 196, 1, 1),
    "ianare__Reconyx_HC500_Hyperfire.jpg": (1536, 2048, 1, None),
    "ianare__jolla.jpg": (2448, 3264, 1, 1),
    "ianare__nikon-e950.jpg": (600, 800, 1, 1),
    "image-rs__3.jpg": (470, 650, 1, None),
    "image-rs__anim.webp": (200, 200, 6, None),
    "image-rs__basn2c16.png": (32, 32, 1, None),
    "image-rs__cat.jpg": (240, 320, 1, None),
    "image-rs__rgb-3c-16b.tiff": (151, 157, 1, None),
    "image-rs__tbbn3p08.png": (32, 32, 1, None),
    "libvips__1.webp": (368, 550, 1, None),
    "libvips__cd4.2.jpg": (373, 531, 1, None),
    "libvips__indexed.png": (442, 290, 1, None),
    "libvips__rotation_0.png": (442, 290, 1, None),
    "libvips__rotation_2.jpg": (410, 308, 1, 2),
    "libvips__rotation_4.jpg": (410, 308, 1, 4),
    "libvips__rotation_6.jpg": (308, 231, 1, 6),
    "libvips__rotation_8.jpg": (308, 231, 1, 8),
    "libvips__sample.jpg": (442, 290, 1, 1),
    "libvips__sample.tif": (442, 290, 1, 1),
    "libvips__truncated.gif": TruncatedImageError,
    "pillow__16bit.cropped.tif": (64, 64, 1, None),
    "pillow__broken_data_stream.png": CorruptImageError,
    "pillow__dispose_bgnd.gif": (100, 100, 5, None),
    "pillow__hopper.bmp": (128, 128, 1, None),
    "pillow__hopper.jpg": (128, 128, 1, None),
    "pillow__hopper.psd": (128, 128, 2, None),
    "pillow__hopper_idat_after_image_end.png": (128, 128, 1, None),
    "pillow__hopper_orientation_6.jpg": (128, 128, 1, 6),
    "pillow__hopper_orientation_6.webp": (128, 128, 1, 6),
    "pillow__hopper_orientation_8.jpg": (128, 128, 1, 8),
    "pillow__icc_profile_big.jpg": (250, 425, 1, None),
    "pillow__iss634.gif": (245, 245, 42, None),
    "pillow__itxt_chunks.png": (2000, 2400, 1, None),
    "pillow__junk_jpeg_header.jpg": (768, 1024, 1, None),
    "pillow__mode_16bit.png": (64, 128, 3, None),
    "pillow__p_16.png": (128, 128, 1, None),
    "pillow__sugarshack.mpo": (480, 640, 2, None),
    "pillow__test-card-lossless.jp2": (480, 640, 1, None),
    "pillow__tiff_adobe_deflate.tif": (374, 278, 1, None),
    "pillow__transparent.png": (150, 200, 1, None),
    "pillow__truncated_end_chunk.png": TruncatedImageError,
    "pillow__truncated_image.png": TruncatedImageError,
    "pillow__ultrahdr.jpg": TruncatedImageError,  # truncated in the header of its second scan
    "recurser__Landscape_5.jpg": (1200, 1800, 1, 5),
    "recurser__Landscape_7.jpg": (1200, 1800, 1, 7),
    "recurser__Portrait_6.jpg": (1800, 1200, 1, 6),
}

#: From stored to displayed pixels, with NumPy alone, by the table in the EXIF standard.
DISPLAYED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda p: p[:, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, 1),
}

TURNED = sorted(name for name, fact in EXPECTED.items() if isinstance(fact, tuple) and (fact[3] or 1) > 1)


@pytest.fixture(scope="module")
def hard(assets: Path) -> Path:
    return assets / "images" / "hard"


def read(folder: Path, name: str, options: DecodeOptions | None = None) -> DecodedImage:
    return decode((folder / name).read_bytes(), options or DecodeOptions())


def stored(folder: Path, name: str) -> np.ndarray:
    """The stored pixels, neither rotated nor converted."""
    with Image.open(folder / name) as image:
        return np.asarray(image)


def difference(left: DecodedImage, right: DecodedImage) -> float:
    """Mean difference of two images reduced to 16 x 16 fields, in gray levels."""
    fields = [
        np.asarray(Image.fromarray(image.pixels).resize((16, 16), Image.Resampling.BOX)) for image in (left, right)
    ]
    return float(np.abs(fields[0].astype(np.int16) - fields[1]).mean())


def test_every_hard_file_has_an_expectation(hard: Path) -> None:
    assert {path.name for path in hard.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_hard_file_is_decoded_or_refused_as_expected(hard: Path, name: str) -> None:
    expected = EXPECTED[name]
    if isinstance(expected, tuple):
        result = read(hard, name)
        assert (*result.pixels.shape[:2], result.frames, result.exif_orientation) == expected
        assert result.pixels.shape[2] == 3
        return
    with pytest.raises(expected) as caught:
        read(hard, name)
    assert type(caught.value) is expected


@pytest.mark.parametrize("name", TURNED)
def test_rotated_photo_equals_the_upright_one(hard: Path, name: str) -> None:
    fact = EXPECTED[name]
    assert isinstance(fact, tuple)
    assert np.array_equal(read(hard, name).pixels, DISPLAYED[fact[3] or 1](stored(hard, name)))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        # One photo stored in two ways: the displayed image is the same for every orientation, format and depth. Files
        # of `recurser` and `rotation_` differ by the digit drawn on them; a wrong rotation differs by 13 and more.
        ("pillow__hopper_orientation_6.jpg", "pillow__hopper.jpg"),
        ("pillow__hopper_orientation_8.jpg", "pillow__hopper.jpg"),
        ("pillow__hopper_orientation_6.webp", "pillow__hopper.jpg"),
        ("pillow__hopper.bmp", "pillow__hopper.jpg"),
        ("pillow__hopper.psd", "pillow__hopper.bmp"),
        ("pillow__hopper_idat_after_image_end.png", "pillow__hopper.bmp"),
        ("recurser__Landscape_5.jpg", "recurser__Landscape_7.jpg"),
        ("libvips__rotation_2.jpg", "libvips__rotation_4.jpg"),
        ("libvips__rotation_6.jpg", "libvips__rotation_8.jpg"),
        ("libvips__sample.tif", "libvips__rotation_0.png"),
        ("libvips__indexed.png", "libvips__rotation_0.png"),
    ],
)
def test_two_files_of_one_photo_look_the_same(hard: Path, left: str, right: str) -> None:
    assert difference(read(hard, left), read(hard, right)) < 2


@pytest.mark.parametrize("name", ["libvips__sample.jpg", "pillow__icc_profile_big.jpg"])
def test_photo_with_a_wide_profile_is_converted(hard: Path, name: str) -> None:
    with Image.open(hard / name) as image:
        source = io.BytesIO(image.info["icc_profile"])
        expected = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))
    assert expected is not None
    pixels = read(hard, name).pixels
    assert np.array_equal(pixels, np.asarray(expected))
    assert not np.array_equal(pixels, stored(hard, name))


def test_photo_with_an_srgb_profile_keeps_its_pixels(hard: Path) -> None:
    assert np.array_equal(read(hard, "image-rs__cat.jpg").pixels, stored(hard, "image-rs__cat.jpg"))


def test_dark_16_bit_tiff_is_scaled_by_its_type_and_stays_dark(hard: Path) -> None:
    values = stored(hard, "pillow__16bit.cropped.tif")
    assert (values.min(), values.max()) == (291, 694)
    gray = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(read(hard, "pillow__16bit.cropped.tif").pixels, np.repeat(gray[:, :, None], 3, 2))


def test_transparent_dice_lie_on_white(hard: Path) -> None:
    rgba = stored(hard, "pillow__transparent.png").astype(np.float64)
    pixels = read(hard, "pillow__transparent.png").pixels
    assert (pixels[rgba[:, :, 3] == 0] == 255).all()
    alpha = rgba[:, :, 3:] / 255
    assert np.abs(pixels - (rgba[:, :, :3] * alpha + 255 * (1 - alpha))).max() <= 1


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("libvips__truncated.gif", 800, 575),
        ("pillow__truncated_end_chunk.png", 128, 128),
        ("pillow__truncated_image.png", 480, 640),
        ("pillow__ultrahdr.jpg", 2688, 1512),
    ],
)
def test_truncated_file_is_decoded_if_allowed(hard: Path, name: str, height: int, width: int) -> None:
    assert read(hard, name, DecodeOptions(allow_truncated=True)).pixels.shape == (height, width, 3)


def test_corrupt_file_fails_even_if_truncated_ones_are_allowed(hard: Path) -> None:
    with pytest.raises(CorruptImageError, match=telling("PNG", BROKEN)):
        read(hard, "pillow__broken_data_stream.png", DecodeOptions(allow_truncated=True))


def test_plain_photos_have_the_pixels_of_a_bare_pillow_decode(assets: Path) -> None:
    compared = 0
    for path in sorted((assets / "images" / "coco-val80").iterdir()):
        with Image.open(path) as image:
            if image.info.get("icc_profile"):
                continue
            assert np.array_equal(decode(path.read_bytes()).pixels, np.asarray(image.convert("RGB")))
            compared += 1
    assert compared == 44
