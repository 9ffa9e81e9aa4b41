"""PNG chunks as browsers read them: corruption, colors, animations. `tests/tools` checks each case in Chromium.

`CASES` maps a name to a file and what is right: three pixels of its middle row (of the default ramp those at 6, 32 and
57), or the error.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest

from prelabel.errors import CorruptImageError, DecodeError, TruncatedImageError, UnknownFormatError
from prelabel.source.decode import decode
from tests.messages import BROKEN, TRUNCATED, telling
from tests.source.oriented import chunk, spoiled
from tests.source.test_decode import profile, swapped_profile

WIDTH, HEIGHT = 64, 16
COLUMNS = (6, 32, 57)

Pixels = list[tuple[int, int, int]]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = chunk(b"IEND", b"")
PALETTE = chunk(b"PLTE", bytes([255, 0, 0, 100, 100, 100, 0, 0, 255, 0, 200, 0]))


def header(
    kind: int = 2, bits: int = 8, width: int = WIDTH, height: int = HEIGHT, rest: tuple[int, int, int] = (0, 0, 0)
) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, *rest))


def rows(kind: int = 2, bits: int = 8) -> bytes:
    """Red increases and blue decreases by column, gray increases, and palette indices cycle."""
    rising = np.arange(WIDTH) * 255 // (WIDTH - 1)
    full = np.full(WIDTH, 60)
    half = np.full(WIDTH, 128)
    samples = {
        0: [rising], 2: [rising, full, 255 - rising], 3: [np.arange(WIDTH) % 4], 4: [rising, half],
        6: [rising, full, 255 - rising, half],
    }[kind]  # fmt: skip
    row = np.stack(samples, -1)
    packed = row.astype(np.uint8).tobytes() if bits == 8 else (row * 257).astype(">u2").tobytes()
    return (b"\0" + packed) * HEIGHT


def png(
    before: bytes = b"",
    behind: bytes = b"",
    *,
    kind: int = 2,
    bits: int = 8,
    pixels: bytes | None = None,
    head: bytes | None = None,
    end: bytes = END,
) -> bytes:
    """A PNG with chunks before and after its pixels."""
    pixels = chunk(b"IDAT", zlib.compress(rows(kind, bits))) if pixels is None else pixels
    return SIGNATURE + (head or header(kind, bits)) + before + pixels + behind + end


def gama(value: int) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", value))


def chrm(*values: int) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *values))


def iccp(icc: bytes, name: bytes = b"x", method: int = 0) -> bytes:
    return chunk(b"iCCP", name + b"\0" + bytes([method]) + zlib.compress(icc))


def cicp(*values: int) -> bytes:
    return chunk(b"cICP", bytes(values))


SRGB_PRIMARIES = chrm(31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
WIDE_PRIMARIES = chrm(34570, 35850, 73470, 26530, 11520, 82640, 15660, 1770)
NO_PRIMARIES = chrm(*[0] * 8)
SRGB = chunk(b"sRGB", b"\0")
SWAPPED = swapped_profile()
PIXELS = chunk(b"IDAT", zlib.compress(rows()))
PACKED = zlib.compress(rows())

PLAIN: Pixels = [(24, 60, 231), (129, 60, 126), (230, 60, 25)]
TURNED_ROUND: Pixels = [(231, 60, 24), (126, 60, 129), (25, 60, 230)]
LINEAR: Pixels = [(86, 133, 244), (189, 133, 187), (244, 133, 88)]
WIDE: Pixels = [(30, 125, 252), (224, 111, 190), (255, 93, 80)]
PALETTED: Pixels = [(0, 0, 255), (255, 0, 0), (100, 100, 100)]


def grays(*values: int) -> Pixels:
    return [(value, value, value) for value in values]


COLORS: dict[str, tuple[bytes, Pixels]] = {
    "gamma 1": (png(gama(100_000)), LINEAR),
    "gamma 1 of 16 bits": (png(gama(100_000), bits=16), LINEAR),
    "gamma 1 of gray": (png(gama(100_000), kind=0), grays(86, 189, 244)),
    "gamma 1 of 16-bit gray": (png(gama(100_000), kind=0, bits=16), grays(86, 189, 244)),
    "gamma 1 of gray with alpha": (png(gama(100_000), kind=4), grays(170, 222, 249)),
    "gamma 1 with alpha": (png(gama(100_000), kind=6), [(170, 194, 250), (222, 194, 221), (249, 194, 171)]),
    "gamma 1 of 16 bits with alpha": (
        png(gama(100_000), kind=6, bits=16), [(170, 194, 250), (222, 194, 221), (249, 194, 171)]),
    "gamma 1 of a palette": (png(gama(100_000) + PALETTE, kind=3), [(0, 0, 255), (255, 0, 0), (168, 168, 168)]),
    "gamma of most files": (png(gama(45455)), PLAIN),
    "gamma close to it": (png(gama(43500)), PLAIN),
    "gamma not close to it": (png(gama(43000)), [(13, 52, 230), (125, 52, 122), (229, 52, 14)]),
    "gamma of old Macs": (png(gama(55556)), [(32, 77, 236), (147, 77, 145), (235, 77, 33)]),
    "gamma 0": (png(gama(0)), PLAIN),
    "gamma beyond measure": (png(gama(1_000_000_000)), [(255, 255, 255)] * 3),
    "gamma next to nothing": (png(gama(1)), [(0, 0, 0)] * 3),
    "two gammas": (png(gama(100_000) + gama(45455)), LINEAR),
    "a spoiled gamma, then one": (png(spoiled(gama(45455)) + gama(100_000)), LINEAR),
    "a short gamma": (png(chunk(b"gAMA", b"\0\1\x86")), PLAIN),
    "a long gamma": (png(chunk(b"gAMA", struct.pack(">II", 100_000, 0))), PLAIN),
    "gamma behind the pixels": (png(behind=gama(100_000)), PLAIN),
    "gamma and primaries of sRGB": (
        png(gama(45455) + SRGB_PRIMARIES), [(17, 57, 232), (130, 57, 127), (231, 57, 18)]),
    "gamma 1 and wide primaries": (png(gama(100_000) + WIDE_PRIMARIES), WIDE),
    "gamma 1 and wide primaries of 16 bits": (png(gama(100_000) + WIDE_PRIMARIES, bits=16), WIDE),
    "gamma 1 and wide primaries of gray": (png(gama(100_000) + WIDE_PRIMARIES, kind=0), grays(86, 189, 244)),
    "wide primaries alone": (png(WIDE_PRIMARIES), PLAIN),
    "senseless primaries": (png(gama(100_000) + NO_PRIMARIES), PLAIN),
    "short primaries": (png(gama(100_000) + chunk(b"cHRM", bytes(20))), LINEAR),
    "sRGB before gamma": (png(SRGB + gama(100_000)), PLAIN),
    "sRGB behind gamma": (png(gama(100_000) + SRGB), PLAIN),
    "sRGB before primaries": (png(SRGB + gama(100_000) + WIDE_PRIMARIES), PLAIN),
    "sRGB of no known intent": (png(chunk(b"sRGB", b"\x09") + gama(100_000)), LINEAR),
    "sRGB spoiled": (png(spoiled(SRGB) + gama(100_000)), LINEAR),
    "sRGB behind the pixels": (png(gama(100_000), SRGB), LINEAR),
    "a profile": (png(iccp(SWAPPED)), TURNED_ROUND),
    "a profile and gamma": (png(iccp(SWAPPED) + gama(100_000)), TURNED_ROUND),
    "a profile and sRGB": (png(SRGB + iccp(SWAPPED)), TURNED_ROUND),
    "two profiles": (png(iccp(profile("sRGB")) + iccp(SWAPPED)), PLAIN),
    "a spoiled profile, then one": (png(spoiled(iccp(profile("sRGB"))) + iccp(SWAPPED)), TURNED_ROUND),
    "a profile for color on gray": (png(iccp(SWAPPED) + gama(100_000), kind=0), grays(24, 129, 230)),
    "no profile, but gamma": (png(iccp(b"junk") + gama(100_000)), LINEAR),
    "a cut profile, but gamma": (png(iccp(profile("sRGB")[:200]) + gama(100_000)), LINEAR),
    "a profile packed otherwise": (png(iccp(SWAPPED, method=1)), PLAIN),
    "a profile packed badly": (png(chunk(b"iCCP", b"x\0\0abc")), PLAIN),
    "a profile cut while packed": (png(chunk(b"iCCP", b"x\0\0" + zlib.compress(SWAPPED)[:-10])), PLAIN),
    "a profile without a name": (png(iccp(SWAPPED, b"")), PLAIN),
    "a profile behind the pixels": (png(behind=iccp(SWAPPED)), PLAIN),
    "code points of sRGB before gamma": (png(cicp(1, 13, 0, 1) + gama(100_000)), PLAIN),
    "code points before a profile": (png(iccp(SWAPPED) + cicp(1, 13, 0, 1)), PLAIN),
    "code points of Display P3": (png(cicp(12, 13, 0, 1)), [(3, 61, 240), (139, 55, 129), (250, 31, 0)]),
    "code points of light": (png(cicp(1, 8, 0, 1)), LINEAR),
    "code points of television": (png(cicp(1, 1, 0, 1)), [(11, 49, 230), (122, 49, 119), (229, 49, 12)]),
    "code points of BT.2020": (png(cicp(9, 1, 0, 1)), [(0, 47, 241), (147, 24, 123), (255, 0, 0)]),
    "code points of gamma 2.8": (png(cicp(1, 5, 0, 1)), [(4, 36, 226), (107, 36, 104), (224, 36, 5)]),
    "code points unknown": (png(cicp(2, 2, 0, 1) + gama(100_000)), LINEAR),
    "code points of a narrow range": (png(cicp(1, 13, 0, 0) + gama(100_000)), LINEAR),
    "code points too few": (png(chunk(b"cICP", b"\1\15\0") + gama(100_000)), LINEAR),
}  # fmt: skip


def control(number: int, width: int = WIDTH, height: int = HEIGHT, x: int = 0, y: int = 0, blend: int = 0) -> bytes:
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, x, y, 60000, 1, 0, blend))


def green(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    return zlib.compress((b"\0" + bytes([0, 255, 0]) * width) * height)


def data(number: int, packed: bytes) -> bytes:
    return chunk(b"fdAT", struct.pack(">I", number) + packed)


def animation(frames: int = 1) -> bytes:
    return chunk(b"acTL", struct.pack(">II", frames, 0))


GREEN: Pixels = [(0, 255, 0)] * 3
WHITE = (255, 255, 255)
FRAME = control(0) + data(1, green())
LAST_COLOR = zlib.compress((b"\0" + b"\3" * WIDTH) * HEIGHT)

ANIMATIONS: dict[str, tuple[bytes, Pixels]] = {
    "default picture is no frame": (png(animation(), FRAME), GREEN),
    "default picture is the first frame": (png(animation(2) + control(0), control(1) + data(2, green())), PLAIN),
    "first frame in parts": (png(animation(), control(0) + data(1, green()[:9]) + data(2, green()[9:])), GREEN),
    "first frame covers a part": (
        png(animation(), control(0, 20, 8, 25, 4) + data(1, green(20, 8))), [WHITE, (0, 255, 0), WHITE]),
    "first frame is blended over nothing": (
        png(animation(), control(0, 20, 8, 25, 4, 1) + data(1, green(20, 8))), [WHITE, (0, 255, 0), WHITE]),
    "two frames": (png(animation(2), FRAME + control(2) + data(3, PACKED)), GREEN),
    "frames that are not there": (png(animation(9), FRAME), GREEN),
    "broken default picture": (png(animation(), FRAME, pixels=chunk(b"IDAT", b"junk")), GREEN),
    "spoiled data of the frame": (png(animation(), control(0) + spoiled(data(1, green()))), GREEN),
    "twice called an animation": (png(animation() * 2, FRAME), GREEN),
    "an animation of no frames": (png(animation(0), FRAME), PLAIN),
    "called an animation too late": (png(behind=animation() + FRAME), PLAIN),
    "called an animation too shortly": (png(chunk(b"acTL", bytes([0, 0, 0, 1])), FRAME), PLAIN),
    "called an animation in a spoiled chunk": (png(spoiled(animation()), FRAME), PLAIN),
    "frames without an animation": (png(control(0), control(1) + data(2, green())), PLAIN),
    "with a palette": (png(PALETTE + animation(), control(0) + data(1, LAST_COLOR), kind=3), [(0, 200, 0)] * 3),
    "with a palette and transparency": (
        png(animation() + PALETTE + chunk(b"tRNS", b"\xff\xff\xff\x80"), control(0) + data(1, LAST_COLOR), kind=3),
        [(127, 227, 127)] * 3),
}  # fmt: skip

TEXT = chunk(b"tEXt", b"a\0b")

DAMAGED: dict[str, tuple[bytes, Pixels]] = {
    "spoiled text": (png(spoiled(TEXT)), PLAIN),
    "spoiled text behind the pixels": (png(behind=spoiled(TEXT)), PLAIN),
    "text without a key": (png(chunk(b"tEXt", b"")), PLAIN),
    "text of 2 MB": (png(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2_000_000)))), PLAIN),
    "text packed otherwise": (png(chunk(b"zTXt", b"a\0\1xx")), PLAIN),
    "broken international text": (png(chunk(b"iTXt", b"a\0\1\0\0\0xx")), PLAIN),
    "broken raw profile": (png(chunk(b"zTXt", b"Raw profile type exif\0\0junk")), PLAIN),
    "broken EXIF": (png(chunk(b"eXIf", b"I")), PLAIN),
    "short resolution": (png(chunk(b"pHYs", b"\0")), PLAIN),
    "short background": (png(chunk(b"bKGD", b"\0")), PLAIN),
    "short time": (png(chunk(b"tIME", b"\0")), PLAIN),
    "wrong significant bits": (png(chunk(b"sBIT", bytes(6))), PLAIN),
    "unknown": (png(chunk(b"abCD", b"x")), PLAIN),
    "unknown and spoiled": (png(spoiled(chunk(b"abCD", b"x"))), PLAIN),
    "unknown behind the pixels": (png(behind=chunk(b"ABCD", b"x")), PLAIN),
    "no letters behind the pixels": (png(behind=chunk(b"a1CD", b"x")), PLAIN),
    "transparency too short": (png(chunk(b"tRNS", b"\0\0")), PLAIN),
    "transparency spoiled": (png(spoiled(chunk(b"tRNS", struct.pack(">3H", 129, 60, 126)))), PLAIN),
    "transparency": (png(chunk(b"tRNS", struct.pack(">3H", 129, 60, 126))), [PLAIN[0], WHITE, PLAIN[2]]),
    "transparency behind the pixels": (png(behind=chunk(b"tRNS", struct.pack(">3H", 129, 60, 126))), PLAIN),
    "transparency before the palette": (png(chunk(b"tRNS", b"\0") + PALETTE, kind=3), PALETTED),
    "transparency of a palette spoiled": (png(PALETTE + spoiled(chunk(b"tRNS", b"\0")), kind=3), PALETTED),
    "palette of gray": (png(chunk(b"PLTE", b"\0\0\0"), kind=0), grays(24, 129, 230)),
    "empty pixels first": (png(pixels=chunk(b"IDAT", b"") + PIXELS), PLAIN),
    "more pixels than rows": (png(pixels=chunk(b"IDAT", zlib.compress(rows() + bytes(500)))), PLAIN),
    "junk behind the pixels": (png(pixels=chunk(b"IDAT", PACKED + b"junk" * 10)), PLAIN),
    "sound pixels under a wrong check sum": (png(pixels=spoiled(PIXELS)), PLAIN),
    "spoiled end": (png(end=spoiled(END)), PLAIN),
    "junk behind the end": (png(end=END + b"junk" * 30), PLAIN),
}  # fmt: skip

SEEN = {
    **{f"color, {name}": case for name, case in COLORS.items()},
    **{f"animation, {name}": case for name, case in ANIMATIONS.items()},
    **{f"damage, {name}": case for name, case in DAMAGED.items()},
}

#: Files that browsers do not show either, or only in part.
REFUSED: dict[str, tuple[bytes, type[DecodeError], str]] = {
    "header spoiled": (png(head=spoiled(header())), CorruptImageError, "header"),
    "header too long": (png(head=chunk(b"IHDR", header()[8:21] + b"\0")), CorruptImageError, "header"),
    "header not first": (SIGNATURE + TEXT + header() + PIXELS + END, CorruptImageError, "header"),
    "two headers": (png(header()), UnknownFormatError, "IHDR"),
    "compression unknown": (png(head=header(rest=(1, 0, 0))), CorruptImageError, "fields?|values?|sense|unknown"),
    "filtering unknown": (png(head=header(rest=(0, 1, 0))), CorruptImageError, "fields?|values?|sense|unknown"),
    "interlacing unknown": (png(head=header(rest=(0, 0, 2))), CorruptImageError, "fields?|values?|sense|unknown"),
    "color type unknown": (png(head=header(kind=5)), CorruptImageError, "fields?|values?|sense|unknown"),
    "critical and unknown": (png(chunk(b"ABCD", b"x")), UnknownFormatError, "ABCD"),
    "Apple's variant": (
        SIGNATURE + chunk(b"CgBI", bytes(4)) + header() + PIXELS + END, UnknownFormatError, "CgBI"),
    "palette missing": (png(kind=3), CorruptImageError, "palette"),
    "palette empty": (png(chunk(b"PLTE", b""), kind=3), CorruptImageError, "palette"),
    "palette too long": (png(chunk(b"PLTE", bytes(3 * 257)), kind=3), CorruptImageError, "palette"),
    "palette spoiled": (png(spoiled(PALETTE), kind=3), CorruptImageError, "palette"),
    "two palettes": (png(PALETTE * 2, kind=3), CorruptImageError, "palette"),
    "pixels changed": (
        png(pixels=PIXELS[:60] + bytes([PIXELS[60] ^ 4]) + PIXELS[61:]), CorruptImageError, "check ?sums?|CRC"),
    "filter unknown": (png(pixels=chunk(b"IDAT", zlib.compress(b"\7" + rows()[1:]))), CorruptImageError, BROKEN),
    "rows missing": (png(pixels=chunk(b"IDAT", zlib.compress(rows()[:-500]))), TruncatedImageError, TRUNCATED),
    "pixels in two places": (
        png(pixels=chunk(b"IDAT", PACKED[:40]) + TEXT + chunk(b"IDAT", PACKED[40:])), TruncatedImageError, TRUNCATED),
    "no pixels": (png(pixels=b""), TruncatedImageError, TRUNCATED),
    "no end": (png(end=b""), TruncatedImageError, TRUNCATED),
    "a chunk that goes beyond the end": (png(struct.pack(">I", 5000) + b"tEXt"), TruncatedImageError, TRUNCATED),
    "no frame": (png(animation(), control(0)), CorruptImageError, "frames?"),
    "no frame control": (png(animation(), data(0, green())), CorruptImageError, "frames?"),
    "frame beyond the canvas": (
        png(animation(), control(0, WIDTH + 5) + data(1, green(WIDTH + 5))), CorruptImageError, "frames?"),
    "frame of no size": (png(animation(), control(0, 0) + data(1, green())), CorruptImageError, "frames?"),
    "frames out of order": (png(animation(), control(5) + data(6, green())), CorruptImageError, "frames?"),
    "frame cut": (png(animation(), control(0) + data(1, green()[:9])), TruncatedImageError, TRUNCATED),
    "first frame of another size": (
        png(animation() + control(0, 20, 8)), CorruptImageError, r"frame\b.*\bsize"),
}  # fmt: skip


@pytest.mark.parametrize("name", SEEN)
def test_image_is_as_browsers_show_it(name: str) -> None:
    file, expected = SEEN[name]
    pixels = decode(file).pixels
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels[HEIGHT // 2, COLUMNS].astype(np.int16) - expected).max() <= 1


@pytest.mark.parametrize("name", REFUSED)
def test_corrupt_critical_chunk_is_refused(name: str) -> None:
    file, error, words = REFUSED[name]
    with pytest.raises(error, match=telling(words)):
        decode(file)


def test_every_changed_bit_in_the_pixels_is_detected() -> None:
    """Pillow itself stops at the last row and never checks the checksums."""
    file = png()
    sound, start, refused = decode(file).pixels, file.index(b"IDAT") + 4, 0
    for at in range(start, len(file) - 16):
        changed = bytearray(file)
        changed[at] ^= 0x10
        try:
            assert np.array_equal(decode(bytes(changed)).pixels, sound)
        except DecodeError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize("missing", [1, 200, 1000])
def test_missing_rows_of_a_dark_image_are_detected(interlaced: int, missing: int) -> None:
    """The decoder leaves missing rows black, so a truncated image must be distinguished from a black one."""
    width = height = 33
    sizes = [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)]
    passes = sizes if interlaced else [(0, 1, 0, 1)]
    content = b"".join(
        (b"\0" + bytes(3 * len(range(left, width, step)))) * len(range(top, height, down))
        for left, step, top, down in passes
    )
    head = header(width=width, height=height, rest=(0, 0, interlaced))
    whole = png(head=head, pixels=chunk(b"IDAT", zlib.compress(content)))
    assert not decode(whole).pixels.any()
    cut = png(head=head, pixels=chunk(b"IDAT", zlib.compress(content[:-missing])))
    with pytest.raises(TruncatedImageError):
        decode(cut)


@pytest.mark.parametrize(
    ("file", "frames"),
    [
        (png(animation(3), FRAME), 4),
        (png(animation(2) + control(0), control(1) + data(2, green())), 2),
        (png(animation(0), FRAME), 1),
        (png(), 1),
    ],
)
def test_frames_are_counted(file: bytes, frames: int) -> None:
    assert decode(file).frames == frames


def test_16_bit_linear_image_keeps_its_dark_steps() -> None:
    """Dark tones of a linear image are in its lower 8 of 16 bits: one step of the upper 8 is 13 steps of sRGB."""
    values = np.arange(0, 512, 8)
    row: Any = np.stack([values] * 3, -1).astype(">u2").tobytes()
    file = png(gama(100_000), head=header(bits=16), pixels=chunk(b"IDAT", zlib.compress((b"\0" + row) * HEIGHT)))
    expected = np.floor(12.92 * values / 65535 * 255 + 0.5)
    light = values / 65535
    assert light.max() > 0.0031308
    expected = np.where(light > 0.0031308, np.floor((1.055 * light ** (1 / 2.4) - 0.055) * 255 + 0.5), expected)
    assert np.array_equal(decode(file).pixels[0, :, 0], expected)


@pytest.mark.parametrize(
    "gamma", [b"", struct.pack(">I4sII", 4, b"gAMA", 45455, zlib.crc32(b"gAMA" + struct.pack(">I", 45455)))]
)
def test_16_bit_transparent_color_is_compared_in_all_bits(gamma: bytes) -> None:
    def piece(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    samples = struct.pack(">9H", 0x8000, 0x8000, 0x8000, 0x8000, 0x8000, 0x8001, 0x80FF, 0x80FF, 0x80FF)
    data = b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", struct.pack(">IIBBBBB", 3, 1, 16, 2, 0, 0, 0)) + gamma
    data += piece(b"tRNS", struct.pack(">3H", 0x8000, 0x8000, 0x8000))
    data += piece(b"IDAT", zlib.compress(b"\0" + samples)) + piece(b"IEND", b"")
    assert decode(data).pixels[0, :, 0].tolist() == [255, 128, 128]
