"""TIFFs in every sample layout: written here, verified with tifffile, and then decoded.

What is right is told from the values by the rules that README states; a layout is right or refused, never noise.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prelabel.errors import CorruptImageError, DecodeError, ImageTooLargeError, TruncatedImageError, UnknownFormatError
from prelabel.source import tiff_samples
from prelabel.source.decode import DecodeOptions, decode, decoded_bytes
from tests.messages import telling

HEIGHT, WIDTH = 21, 37

NONE, LZW, DEFLATE, OLD_DEFLATE, PACKBITS, ZSTD, LZMA = 1, 5, 8, 32946, 32773, 50000, 34925
GRAY_FROM_WHITE, GRAY, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
UNKNOWN, PREMULTIPLIED, OPACITY = 0, 1, 2


@dataclass(frozen=True)
class Layout:
    """The layout in which a TIFF is written."""

    bits: int = 8
    kind: str = "u"
    photometric: int = GRAY
    extra: tuple[int, ...] = ()
    planar: bool = False
    order: str = "<"
    compression: int = NONE
    predictor: int = 1
    tiled: bool = False
    fill_order: int = 1


def packed(block: np.ndarray, layout: Layout) -> bytes:
    """Encode the rows of a strip or tile, (H, W, samples)."""
    rows, _, samples = block.shape
    size = layout.bits // 8
    if layout.predictor == 2:
        differences = block.copy()
        differences[:, 1:] -= block[:, :-1]
        block = differences
    if layout.predictor == 3:
        planes = block.astype(block.dtype.newbyteorder(">")).view(np.uint8).reshape(rows, -1, size).transpose(0, 2, 1)
        line = planes.reshape(rows, -1, samples)
        differences = line.copy()
        differences[:, 1:] -= line[:, :-1]
        data = differences.tobytes()
    elif layout.bits % 8:
        flat = block.reshape(rows, -1)
        bits = flat[..., None] >> np.arange(layout.bits - 1, -1, -1) & 1
        data = np.packbits(bits.astype(np.uint8).reshape(rows, -1), axis=1).tobytes()
    elif layout.bits == 24:
        data = (
            block.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3][:, :: 1 if layout.order == "<" else -1].tobytes()
        )
    else:
        data = block.astype(block.dtype.newbyteorder(layout.order)).tobytes()
    data = compress(data, layout.compression)
    return bytes(int(f"{byte:08b}"[::-1], 2) for byte in data) if layout.fill_order == 2 else data


def compress(data: bytes, compression: int) -> bytes:
    if compression in (DEFLATE, OLD_DEFLATE):
        return zlib.compress(data)
    if compression == NONE:
        return data
    codecs = pytest.importorskip("imagecodecs", reason="TIFFs are packed with imagecodecs")
    encode = {LZW: codecs.lzw_encode, PACKBITS: codecs.packbits_encode, ZSTD: codecs.zstd_encode}[compression]
    return bytes(encode(data))


def write(values: np.ndarray, layout: Layout, more: dict[int, tuple[int, ...]] | None = None) -> bytes:
    """Write values (H, W, samples) as a TIFF."""
    height, width, samples = values.shape
    planes = np.split(values, samples, -1) if layout.planar else [values]
    block_width, block_height = (16, 16) if layout.tiled else (width, 8)
    blocks = []
    for plane in planes:
        for top, left in itertools.product(range(0, height, block_height), range(0, width, block_width)):
            block = plane[top : top + block_height, left : left + block_width]
            if layout.tiled:
                missing = ((0, 16 - block.shape[0]), (0, 16 - block.shape[1]), (0, 0))
                block = np.pad(block, missing, mode="edge")
            blocks.append(packed(np.ascontiguousarray(block), layout))
    tags: dict[int, tuple[int, ...]] = {
        256: (width,), 257: (height,), 258: (layout.bits,) * samples, 259: (layout.compression,),
        262: (layout.photometric,), 277: (samples,), 284: (2 if layout.planar else 1,),
        339: ({"u": 1, "i": 2, "f": 3}[layout.kind],) * samples,
        **({322: (16,), 323: (16,)} if layout.tiled else {278: (8,)}),
        **({317: (layout.predictor,)} if layout.predictor > 1 else {}),
        **({266: (2,)} if layout.fill_order == 2 else {}),
        **({338: layout.extra} if layout.extra else {}),
        **(more or {}),
    }  # fmt: skip
    offsets, sizes = (324, 325) if layout.tiled else (273, 279)
    tags[offsets] = tags[sizes] = (0,) * len(blocks)
    start = 8 + 2 + 12 * len(tags) + 4 + sum(4 * len(value) for value in tags.values() if len(value) > 1)
    tags[sizes] = tuple(map(len, blocks))
    tags[offsets] = tuple(itertools.accumulate(tags[sizes][:-1], initial=start))
    entries, behind, order = b"", b"", layout.order
    for tag, value in sorted(tags.items()):
        body = struct.pack(f"{order}{len(value)}I", *value)
        if len(value) > 1:
            body, behind = struct.pack(order + "I", 8 + 2 + 12 * len(tags) + 4 + len(behind)), behind + body
        entries += struct.pack(order + "HHI", tag, 4, len(value)) + body
    head = b"II*\0" if order == "<" else b"MM\0*"
    head += struct.pack(order + "IH", 8, len(tags)) + entries + bytes(4) + behind
    return head.ljust(start, b"\0") + b"".join(blocks)


def values_of(layout: Layout, samples: int) -> np.ndarray:
    """(H, W, samples): a noisy ramp per channel, over the usual range of its type."""
    random = np.random.default_rng(7)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    ramps = [x / (WIDTH - 1), y / (HEIGHT - 1), 1 - x / (WIDTH - 1), (x + y) / (WIDTH + HEIGHT - 2)]
    share = np.stack([ramps[number % 4] for number in range(samples)], -1)
    share = (share * 0.9 + random.random(share.shape) * 0.1).clip(0, 1)
    share.reshape(-1)[:2] = 0, 1
    if layout.kind == "f":
        return share.astype(f"f{layout.bits // 8}")
    if layout.kind == "i":
        most = 2 ** (min(layout.bits, 48) - 1) - 1
        return np.rint(share * 2 * most - most).astype(f"i{layout.bits // 8}")
    most = 2**layout.bits - 1 if layout.bits <= 16 else 65535
    dtype = (
        np.uint8
        if layout.bits <= 8
        else np.uint16
        if layout.bits <= 16
        else np.uint32
        if layout.bits <= 32
        else np.uint64
    )
    return np.rint(share * most).astype(dtype)


def eight_bits(values: np.ndarray, layout: Layout) -> np.ndarray:
    """Expected values 0..255 as floats, by the rules in the README."""
    exact = values.astype(np.float64)
    if layout.kind == "u":
        return np.floor(exact / (2**layout.bits - 1 if layout.bits <= 16 else 65535) * 255 + 0.5)
    if layout.kind == "f":
        return np.floor(exact * 255 + 0.5)
    low, high = exact.min(), exact.max()
    return np.floor((exact - low) / (high - low) * 255 + 0.5)


def as_seen(values: np.ndarray, layout: Layout, table: np.ndarray | None = None) -> np.ndarray:
    """(H, W, 3): the expected pixels."""
    channels = {GRAY: 1, GRAY_FROM_WHITE: 1, RGB: 3, PALETTE: 1, CMYK: 4}[layout.photometric]
    color = values[..., :channels]
    color = eight_bits(color, layout) if table is None else table[color[..., 0]].astype(np.float64)
    if layout.photometric == GRAY_FROM_WHITE:
        color = 255 - color
    if layout.photometric == CMYK:
        color = (255 - color[..., :3]) * (255 - color[..., 3:]) / 255
    color = np.broadcast_to(color, (*color.shape[:2], 3))
    for number, meaning in enumerate(layout.extra, channels):
        if meaning in (PREMULTIPLIED, OPACITY):
            opacity = values[..., number : number + 1].astype(np.float64)
            if layout.kind == "i":  # 0 to the maximum of the type, never stretched
                opacity = (opacity / (2 ** (layout.bits - 1) - 1)).clip(0, 1)
            else:
                opacity = eight_bits(opacity, layout) / 255
            color = color * (1 if meaning == PREMULTIPLIED else opacity) + 255 * (1 - opacity)
    return color.clip(0, 255)


KINDS = [("u", bits) for bits in (1, 2, 4, 8, 10, 12, 14, 16, 24, 32, 64)]
KINDS += [("i", bits) for bits in (8, 16, 32, 64)] + [("f", bits) for bits in (16, 32, 64)]

COLORS: dict[str, tuple[int, tuple[int, ...]]] = {
    "gray": (GRAY, ()), "gray from white": (GRAY_FROM_WHITE, ()), "gray, unknown": (GRAY, (UNKNOWN,)),
    "gray, premultiplied": (GRAY, (PREMULTIPLIED,)), "gray, opacity": (GRAY, (OPACITY,)), "RGB": (RGB, ()),
    "RGB, unknown": (RGB, (UNKNOWN,)), "RGB, premultiplied": (RGB, (PREMULTIPLIED,)), "RGB, opacity": (RGB, (OPACITY,)),
    "RGB, unknown, opacity": (RGB, (UNKNOWN, OPACITY)), "CMYK": (CMYK, ()), "CMYK, opacity": (CMYK, (OPACITY,)),
    "palette": (PALETTE, ()), "palette, opacity": (PALETTE, (OPACITY,)),
}  # fmt: skip


def layouts(base: Layout) -> Iterator[Layout]:
    """All layouts for the same values."""
    predictors = [1]
    if base.kind == "f":
        predictors.append(3)
    elif base.bits in (8, 16, 32, 64):
        predictors.append(2)
    for planar, order, compression, predictor, tiled in itertools.product(
        (False, True), "<>", (NONE, LZW, DEFLATE, PACKBITS, ZSTD), predictors, (False, True)
    ):
        if predictor == 1 or compression in (LZW, DEFLATE, ZSTD):
            yield replace(base, planar=planar, order=order, compression=compression, predictor=predictor, tiled=tiled)


@pytest.mark.parametrize("colors", COLORS)
@pytest.mark.parametrize(("kind", "bits"), KINDS)  # signed premultiplied samples make no sense
def test_every_layout_is_correct_or_refused(kind: str, bits: int, colors: str) -> None:
    reference = pytest.importorskip("tifffile", reason="written TIFFs are read with tifffile")
    photometric, extra = COLORS[colors]
    if kind == "i" and PREMULTIPLIED in extra:
        return
    base = Layout(bits, kind, photometric, extra)
    samples = {GRAY: 1, GRAY_FROM_WHITE: 1, RGB: 3, PALETTE: 1, CMYK: 4}[photometric] + len(extra)
    values, table, more = values_of(base, samples), None, {}
    is_short = kind == "u" and bits <= 16
    if photometric == PALETTE and is_short:
        table = np.random.default_rng(3).integers(0, 256, (2**bits, 3))
        more = {320: tuple((table.T * 257).ravel().tolist())}
    if PREMULTIPLIED in extra:
        opacity = values[..., -1:].astype(np.float64)
        values[..., :-1] = (values[..., :-1] * (opacity / opacity.max())).astype(values.dtype)
    refused, right = [], 0
    # For the rarer colors, only every fifth layout is tested, from a different start each (5 divides no option count).
    step, first = (1, 0) if colors in ("gray", "RGB, opacity") else (5, (bits + len(colors)) % 5)
    for number, layout in enumerate(itertools.islice(layouts(base), first, None, step)):
        data = write(values, layout, more)
        if number % 3 == 0 and bits not in (10, 14, 24) and not (bits % 8 and layout.compression == PACKBITS):
            read = reference.imread(io.BytesIO(data))
            by_channels = values[..., 0] if samples == 1 else values.transpose(2, 0, 1) if layout.planar else values
            assert np.array_equal(read, by_channels), layout
        try:
            pixels = decode(data).pixels
        except UnknownFormatError:
            refused.append(layout)
            continue
        right += 1
        assert np.abs(pixels - as_seen(values, layout, table)).max() <= 3, layout
    assert not (right and refused)
    assert bool(refused) == (photometric in (PALETTE, CMYK) and not is_short)


# --- single rules -----------------------------------------------------------------------------------------------------


def pixels_of(data: bytes) -> list[int]:
    return list(decode(data).pixels[0, :, 0].tolist())


def row(*values: int | float, kind: str = "u1") -> np.ndarray:
    return np.array(values, kind)[None, :, None]


def test_reversed_bit_order_is_supported() -> None:
    for compression in (NONE, DEFLATE):
        layout = Layout(fill_order=2, compression=compression)
        assert pixels_of(write(row(1, 2, 128, 255), layout)) == [1, 2, 128, 255]


def test_declared_maximum_is_white() -> None:
    layout = Layout(bits=16)
    assert pixels_of(write(row(0, 500, 1000, 4000, kind="u2"), layout, {281: (1000,)})) == [0, 128, 255, 255]
    assert pixels_of(write(row(0, 512, 1023, kind="u2"), replace(layout, bits=10))) == [0, 128, 255]


def test_palette_of_8_bit_values_is_recognized() -> None:
    table = {320: tuple(range(256)) * 3}
    assert pixels_of(write(row(0, 7, 255), Layout(photometric=PALETTE), table)) == [0, 7, 255]


def test_undeclared_fourth_channel_is_opacity_only_in_rgb() -> None:
    rgb = np.array([[[10, 10, 10, 255], [10, 10, 10, 0]]], np.uint8)
    assert pixels_of(write(rgb, Layout(photometric=RGB))) == [10, 255]
    gray = np.array([[[10, 255], [10, 0]]], np.uint8)
    assert pixels_of(write(gray, Layout())) == [10, 10]


def test_32_bit_color_has_one_range_for_all_channels() -> None:
    values = np.array([[[0, 500, 1000], [1000, 1000, 1000]]], np.float32)
    assert decode(write(values, Layout(32, "f", RGB))).pixels[0].tolist() == [[0, 128, 255], [255, 255, 255]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 0.5, 1.0000001), [0, 128, 255]),
        ((0, 0.5, 1.1), [0, 128, 255]),  # slightly above 1: white
        ((0, 1, 2), [0, 128, 255]),  # neither range: stretched
        ((0, 1, 16), [0, 1, 16]),
        ((0, 128, 255), [0, 128, 255]),
    ],
)
def test_floats_slightly_above_1_are_not_black(values: tuple[float, ...], expected: list[int]) -> None:
    assert pixels_of(write(row(*values, kind="f4"), Layout(32, "f"))) == expected


def test_declared_range_counts_unless_values_exceed_it() -> None:
    assert pixels_of(write(row(0, 2, 4, kind="u4"), Layout(32), {341: (8,)})) == [0, 64, 128]
    assert pixels_of(write(row(2, 4, 8, kind="u4"), Layout(32), {340: (2,), 341: (8,)})) == [0, 85, 255]
    assert pixels_of(write(row(0, 1, 2, kind="f4"), Layout(32, "f"), {341: (4,)})) == [0, 64, 128]
    assert pixels_of(write(row(0, 2, 4, kind="u4"), Layout(32), {341: (3,)})) == [0, 2, 4]
    assert pixels_of(write(row(0, 2, 4, kind="u4"), Layout(32), {341: (2**32 - 1,)})) == [
        0,
        2,
        4,
    ]  # the maximum of the type counts as undeclared


@pytest.mark.parametrize(
    ("kind", "bits", "color", "opaque"),
    [
        ("u", 32, 2**32 - 1, 2**32 - 1), ("u", 32, 65535, 65535), ("u", 32, 255, 255), ("i", 8, 127, 127),
        ("i", 16, 32767, 32767), ("i", 16, 255, 255), ("i", 32, 2**31 - 1, 2**31 - 1), ("f", 32, 1, 1),
        ("f", 32, 255, 1), ("f", 32, 255, 255), ("f", 32, 65535, 65535),
    ],
)  # fmt: skip
def test_constant_opacity_is_not_stretched(kind: str, bits: int, color: int, opaque: int) -> None:
    layout, dtype = Layout(bits, kind, RGB, (OPACITY,)), f"{kind}{bits // 8}"
    black = -color - 1 if kind == "i" and color in (127, 32767, 2**31 - 1) else 0
    values = np.array([[[black, black, black, opaque], [color, color, color, opaque]]], dtype)
    assert pixels_of(write(values, layout)) == [0, 255]
    values[..., 3] = opaque // 2 if kind != "f" else opaque / 2
    half = pixels_of(write(values, layout))
    assert abs(half[0] - 128) <= 1
    assert half[1] == 255
    values[..., 3] = 0
    assert pixels_of(write(values, layout)) == [255, 255]


@pytest.mark.parametrize("compression", [NONE, DEFLATE])
def test_tiles_omitted_from_a_sparse_file_are_zeros(compression: int) -> None:
    layout = Layout(tiled=True, compression=compression)
    values = np.full((16, 32, 1), 200, np.uint8)
    sparse = with_second_block(write(values, layout), 324, 325, 0, 0)
    expected = np.full((16, 32), 200)
    expected[:, 16:] = 0
    assert np.array_equal(decode(sparse).pixels[..., 0], expected)


def test_strips_omitted_from_a_sparse_file_are_zeros_and_never_read_the_header() -> None:
    values = np.full((16, 4, 1), 200, np.uint8)
    sparse = with_second_block(write(values, Layout()), 273, 279, 0, 0)
    assert decode(sparse).pixels[..., 0].tolist() == [[200] * 4] * 8 + [[0] * 4] * 8
    with pytest.raises(CorruptImageError, match=telling("strips?|tiles?", r"begin\w*|start\w*|offset")):
        decode(with_second_block(write(values, Layout()), 273, 279, 0, 32))
    with pytest.raises(UnknownFormatError, match=telling("strips?|tiles?|parts?", "omitted|missing|absent")):
        decode(with_second_block(write(values, Layout(compression=DEFLATE)), 273, 279, 0, 0))


def with_second_block(data: bytes, offsets: int, sizes: int, offset: int, size: int) -> bytes:
    """A TIFF with a changed offset and size of its second strip or tile."""
    changed_data = bytearray(data)
    for number in range(struct.unpack_from("<H", data, 8)[0]):
        tag, _, _, at = struct.unpack_from("<HHII", data, 10 + 12 * number)
        if tag in (offsets, sizes):
            struct.pack_into("<I", changed_data, at + 4, offset if tag == offsets else size)
    return bytes(changed_data)


@pytest.mark.parametrize("compression", [NONE, DEFLATE, 7])
def test_tiff_without_photometric_tag_is_refused(compression: int) -> None:
    data = changed(Layout(), 259, compression).replace(struct.pack("<HHII", 262, 4, 1, GRAY), bytes(12))
    with pytest.raises(UnknownFormatError, match=telling("262")):
        decode(data)


def test_thumbnail_before_the_full_image_is_not_decoded_instead() -> None:
    file = io.BytesIO()
    thumbnail = Image.new("L", (8, 8))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    thumbnail.save(file, "TIFF", save_all=True, append_images=[Image.new("L", (80, 80))], tiffinfo={254: 1})
    with pytest.raises(UnknownFormatError, match=telling("reduced|smaller|thumbnail|preview", "first")):
        decode(file.getvalue())
    assert decode(changed(Layout(), 254, 1)).frames == 1  # a reduced copy alone is the image


def test_unsigned_32_bit_values_are_not_negative() -> None:
    assert pixels_of(write(row(0, 2**31, 2**32 - 1, kind="u4"), Layout(32))) == [0, 128, 255]


def test_strips_are_unpacked_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imagecodecs")
    values = values_of(Layout(photometric=RGB), 3)
    for layout in (Layout(photometric=RGB, compression=LZW, planar=planar) for planar in (False, True)):
        whole = decode(write(values, layout)).pixels
        with monkeypatch.context() as patched:
            patched.setattr(tiff_samples, "_BAND_BYTES", 1)
            assert np.array_equal(decode(write(values, layout)).pixels, whole)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("by_pillow", [False, True])
def test_tiff_is_rotated_by_its_tag(orientation: int, by_pillow: bool) -> None:
    file = io.BytesIO()
    picture = Image.new("RGB", (40, 30), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 40, 8))
    picture.save(file, "TIFF", compression="jpeg" if by_pillow else "raw", quality=95, tiffinfo={274: orientation})
    image = decode(file.getvalue())
    assert (image.exif_orientation, image.browser_orientation) == (orientation, orientation)
    assert (image.height, image.width) == ((30, 40) if orientation == 3 else (40, 30))
    blue = image.pixels[-4, 20] if orientation == 3 else image.pixels[20, -4]
    assert np.abs(blue.astype(int) - (0, 0, 255)).max() < 20


@pytest.mark.parametrize(
    ("options", "photometric"),
    [
        ({"compression": "jpeg"}, None),
        ({"compression": "jpeg", "byteorder": ">", "tile": (16, 16)}, None),
        ({"compression": "jpeg", "planarconfig": "separate"}, None),
        ({"photometric": "ycbcr", "compression": "lzw"}, "YCbCr"),
        ({"photometric": "ycbcr"}, "YCbCr"),
        ({"compression": "lzma"}, None),
        ({"bigtiff": True}, None),
    ],
)
def test_images_decoded_by_pillow_are_correct(options: dict[str, Any], photometric: str | None) -> None:
    reference = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    y, x = np.mgrid[0:64, 0:96]
    values = np.stack([x * 255 // 95, y * 255 // 63, (x + y) * 255 // 158], -1).astype(np.uint8)
    expected = np.asarray(Image.fromarray(values) if photometric is None else
                          Image.frombytes(photometric, (96, 64), values.tobytes()).convert("RGB"))  # fmt: skip
    if "planarconfig" in options:
        values = np.ascontiguousarray(values.transpose(2, 0, 1))
    file = io.BytesIO()
    reference.imwrite(file, values, **{"photometric": "rgb", **options})
    assert np.abs(decode(file.getvalue()).pixels.astype(int) - expected).mean() < 1


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
@pytest.mark.parametrize("photometric", [GRAY_FROM_WHITE, GRAY])
def test_a_fax_is_black_on_white(compression: str, photometric: int) -> None:
    page = Image.new("1", (40, 30), 255)
    page.paste(0, (5, 5, 20, 10))
    file = io.BytesIO()
    page.save(file, "TIFF", compression=compression, tiffinfo={262: photometric})
    assert np.array_equal(decode(file.getvalue()).pixels[..., 0], np.asarray(page) * np.uint8(255))


def changed(layout: Layout, tag: int, *values: int) -> bytes:
    samples = {RGB: 3, CMYK: 4}.get(layout.photometric, 1)
    return write(values_of(replace(layout, photometric=GRAY), samples), layout, {tag: values})


REFUSED: dict[str, tuple[bytes, str]] = {
    "WebP": (changed(Layout(), 259, 50001), "WebP"),
    "JPEG XL": (changed(Layout(), 259, 50002), "JPEG XL"),
    "LERC": (changed(Layout(), 259, 34887), "LERC"),
    "unknown compression": (changed(Layout(), 259, 4711), "4711"),
    "a mask": (changed(Layout(), 262, 4), r"colors?\b.*\b4|4\b.*\bcolors?"),
    "a color filter": (changed(Layout(), 262, 32803), "32803"),
    "complex": (changed(Layout(), 339, 6), "complex"),
    "channels of several sizes": (
        changed(Layout(photometric=RGB), 258, 5, 6, 5), "(different|several|other) (sample )?(kinds|types|sizes|bits)"),
    "five spectral channels": (
        write(values_of(Layout(), 5), Layout(), {338: (0, 0, 0, 0)}), "5 (channels|samples|colors)"),
    "other inks": (changed(Layout(photometric=CMYK), 332, 2), "inks"),
    "YCbCr with fewer samples": (changed(Layout(photometric=YCBCR), 530, 2, 2), "YCbCr"),
    "predictor of 12 bits": (changed(Layout(bits=12, compression=DEFLATE), 317, 2), "predictor"),
    "BigTIFF of the other order": (b"MM\0+\0\x08" + bytes(30), "BigTIFF"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_variants_are_refused_with_the_reason(name: str) -> None:
    data, words = REFUSED[name]
    with pytest.raises(UnknownFormatError, match=telling(words)):
        decode(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (changed(Layout(), 256, 0), "no size|size|width|height"),
        (changed(Layout(photometric=RGB), 277, 2), "2 samples?"),
        (changed(Layout(), 257, 500), "few|fewer|missing"),
        (changed(Layout(tiled=True), 322, 0), "tiles?"),
        (changed(Layout(tiled=True), 322, 1 << 30), "tiles?"),
        (changed(Layout(photometric=PALETTE), 320, *range(9)), "palette"),
        (changed(Layout(compression=DEFLATE), 259, LZW), r"unpack\w*|decompress\w*|decod\w*"),
    ],
)
def test_contradictory_tags_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(CorruptImageError, match=telling(words)):
        decode(data)


@pytest.mark.parametrize("compression", [NONE, DEFLATE, PACKBITS])
@pytest.mark.parametrize("planar", [False, True])
def test_truncated_tiff_is_detected_and_decoded_if_allowed(compression: int, planar: bool) -> None:
    layout = Layout(photometric=RGB, compression=compression, planar=planar)
    values = values_of(layout, 3)
    data = write(values, layout)
    whole = decode(data).pixels
    for share in (0.5, 0.8, 0.99):
        cut = data[: int(len(data) * share)]
        with pytest.raises(TruncatedImageError):
            decode(cut)
        kept = decode(cut, DecodeOptions(allow_truncated=True)).pixels
        assert kept.shape == whole.shape
        assert np.array_equal(kept[:2, :, 0], whole[:2, :, 0])


def test_pages_are_counted() -> None:
    file = io.BytesIO()
    pages = [Image.new("L", (8, 8), gray) for gray in (10, 20, 30)]
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    image = decode(file.getvalue())
    assert (image.frames, image.pixels[0, 0].tolist()) == (3, [10, 10, 10])


def test_changed_bytes_raise_only_decode_errors() -> None:
    random = np.random.default_rng(5)
    sources = [
        write(values_of(Layout(bits, kind), 1), Layout(bits, kind, compression=compression, tiled=tiled))
        for bits, kind in ((8, "u"), (12, "u"), (32, "f"))
        for compression in (NONE, DEFLATE)
        for tiled in (False, True)
    ]
    messages = []
    for turn in range(600):
        data = bytearray(sources[turn % len(sources)])
        for at in random.integers(0, 220, 3):
            data[at] = random.integers(256)
        try:
            decode(bytes(data), DecodeOptions(max_pixels=1_000_000, allow_truncated=bool(turn % 2)))
        except DecodeError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert max(map(len, messages)) < 300


def of_64_channels(rows: int) -> bytes:
    """The header of an image of 2048 x 1536 pixels with 64 channels, in strips of the given number of rows."""
    layout = Layout(photometric=RGB, extra=(0,) * 61, compression=DEFLATE)
    stated = {256: (2048,), 257: (1536,), 278: (rows,)}
    return write(np.zeros((8, 16, 64), np.uint8), layout, stated)


def test_memory_for_unpacking_is_known_in_advance() -> None:
    options = DecodeOptions()
    assert decoded_bytes(of_64_channels(1536), options) == 3 * 2048 * 1536 + 3 * 64 * 2048 * 1536
    assert decoded_bytes(of_64_channels(8), options) == 3 * 2048 * 1536 + 3 * 64 * 2048 * 8


def test_strip_far_larger_than_the_pixel_limit_is_refused() -> None:
    options = DecodeOptions(max_pixels=4_000_000)
    with pytest.raises(ImageTooLargeError, match=telling("201,326,592", "bytes?", "max-pixels")):
        decode(of_64_channels(1536), options)
    assert decoded_bytes(of_64_channels(1536), options) == 0
    with pytest.raises(CorruptImageError, match=telling("strips?|tiles?", "few|fewer|missing")):
        decode(of_64_channels(8), options)
