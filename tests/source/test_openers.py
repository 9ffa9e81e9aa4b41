"""JPEG 2000, PSD and TGA files that Pillow alone would misread."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, features

from prelabel.errors import UnknownFormatError
from prelabel.source.decode import decode
from tests.messages import telling
from tests.source import oriented


def jpeg2000(values: np.ndarray, bits: int, codec: str = "jp2") -> bytes:
    codecs = pytest.importorskip("imagecodecs", reason="JPEG 2000 of other bits is written with imagecodecs")
    return bytes(codecs.jpeg2k_encode(values, bitspersample=bits, reversible=True, level=0, codecformat=codec))


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize(("bits", "channels"), [(1, 1), (4, 1), (4, 3), (9, 3), (12, 3), (16, 3), (16, 2), (16, 4)])
def test_jpeg_2000_of_unsupported_bit_depth_is_refused(bits: int, channels: int, codec: str) -> None:
    values = np.full((8, 8, channels), 2**bits - 1, np.uint8 if bits <= 8 else np.uint16)
    with pytest.raises(UnknownFormatError, match=telling(f"{bits}", "bits?", f"{channels}", "channels?")):
        decode(jpeg2000(values[..., 0] if channels == 1 else values, bits, codec))


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_jpeg_2000_of_one_channel_is_scaled_to_8_bits(bits: int, codec: str) -> None:
    values = np.zeros((8, 8), np.uint8 if bits == 8 else np.uint16)
    values[:, 4:] = 2**bits - 1
    assert decode(jpeg2000(values, bits, codec)).pixels[0, [0, 7], 0].tolist() == [0, 255]


def test_jpeg_2000_of_9_bits_is_correct_or_refused() -> None:
    white = np.full((8, 8), 511, np.uint16)
    with pytest.raises(UnknownFormatError, match=telling("9", "bits?", "1|one", "channels?")):
        decode(jpeg2000(white, 9, "jp2"))
    assert decode(jpeg2000(white, 9, "j2k")).pixels[0, 0, 0] == 255


def psd(mode: int, depth: int, planes: list[bytes], width: int, layers: int | None = None) -> bytes:
    """A PSD with one row of pixels."""
    head = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", len(planes), 1, width, depth, mode) + bytes(8)
    section = bytes(4) if layers is None else struct.pack(">IIhI", 10, 2, layers, 0)
    return head + section + b"\0\0" + b"".join(planes)


@pytest.mark.parametrize(("layers", "row"), [(None, [10, 10]), (0, [10, 10]), (1, [10, 10]), (-1, [10, 255])])
def test_fourth_channel_of_a_psd_is_opacity_only_if_declared(layers: int | None, row: list[int]) -> None:
    data = psd(3, 8, [b"\x0a\x0a"] * 3 + [b"\xff\x00"], 2, layers)
    assert decode(data).pixels[0, :, 0].tolist() == row


def test_bits_of_a_psd_bitmap_are_black() -> None:
    assert decode(psd(0, 1, [b"\xa0"], 4)).pixels[0, :, 0].tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize("compression", [None, "tga_rle"])
def test_fourth_byte_of_a_tga_is_opacity_only_if_declared(compression: str | None) -> None:
    file = io.BytesIO()
    pixels = np.array([[[1, 2, 3, 0], [4, 5, 6, 255]]], np.uint8)
    Image.fromarray(pixels).save(file, "TGA", compression=compression)
    data = bytearray(file.getvalue())
    assert decode(bytes(data)).pixels.tolist() == [[[255, 255, 255], [4, 5, 6]]]
    data[17] &= 0xF0
    assert decode(bytes(data)).pixels.tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_a_tga_of_16_bits_without_opacity_is_opaque() -> None:
    head = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 2, 1, 16, 0x20)
    data = head + struct.pack("<HH", 0x8000 | 31 << 10, 31) + bytes(8) + b"TRUEVISION-XFILE.\0"
    assert decode(data).pixels.tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_an_avif_that_browsers_crop_is_refused() -> None:
    height, width = decode(oriented.avif()).pixels.shape[:2]

    def cropped(right: int, down: int) -> bytes:
        return oriented.avif(
            oriented.box(b"clap", struct.pack(">8i", width // 2, 1, height // 2, 1, right, 1, down, 1))
        )

    with pytest.raises(UnknownFormatError, match=telling("browsers?", r"crop\w*|cut")):
        decode(cropped(-width // 4, -height // 4))
    assert decode(cropped(0, 0)).pixels.shape[:2] == (
        height,
        width,
    )  # not from the corner: browsers do not crop it either
