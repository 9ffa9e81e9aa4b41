"""The chunks of a PNG as browsers take them, and a file of its pixels alone for the decoder.

Pillow loses a whole picture to one bad text, and shows the default picture of an animation where browsers show the
first frame. Here chunks are read by the rules of browsers (seen in Chromium 156): an ancillary chunk that is damaged,
odd or in the wrong place is as if it were not there, and of two the first counts; damage to the others is an error.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prelabel.errors import CorruptImageError, TruncatedImageError, UnknownFormatError

Buffer = bytes | memoryview

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE = 3

#: What a text or a profile may unpack to; a larger one is as if it were not there.
_MOST_TEXT = 1 << 20
_MOST_PROFILE = 16 << 20

#: First column, step, first row and step of the seven passes of an interlaced picture.
_PASSES = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))

_RAW_PROFILE, _XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"

#: Ancillary chunks that count where they stand before the pixels, and whether their content makes sense.
_COUNTED: dict[bytes, Callable[[memoryview], bool]] = {
    b"acTL": lambda body: len(body) == 8 and 0 < int.from_bytes(body[:4], "big") < 1 << 31,
    b"cHRM": lambda body: len(body) == 32,
    b"cICP": lambda body: len(body) == 4,
    b"eXIf": lambda body: True,
    b"gAMA": lambda body: len(body) == 4,
    b"iCCP": lambda body: True,
    b"sRGB": lambda body: len(body) == 1 and body[0] <= 3,
    b"tRNS": lambda body: True,
}


@dataclass(frozen=True, slots=True)
class PngChunks:
    """What a PNG file holds.

    Attributes:
        size: Width and height of the picture.
        bits: Of one sample.
        pixels: A plain PNG (IHDR, PLTE, tRNS, IDAT) of the picture; of an animation, of its first frame.
        frame: x1 y1 x2 y2 that `pixels` cover; around them the picture is transparent.
        frames: Pictures in the file.
        ends: Whether the end of the file is there.
        metadata: What may state an orientation, under Pillow's names; the last of each, as Pillow takes them.
        browser_exif: The EXIF that browsers obey.
        code_points: What cICP states: primaries, transfer, matrix, full range.
        profile: The ICC profile, unpacked.
        is_srgb: Whether the file says that it is sRGB.
        gamma: What gAMA states, in 100,000ths; 0 where it states nothing.
        chromaticities: What cHRM states, in 100,000ths: x and y of white, red, green and blue.
    """

    size: tuple[int, int]
    bits: int
    pixels: bytes
    frame: tuple[int, int, int, int]
    frames: int
    ends: bool
    metadata: dict[str, object]
    browser_exif: bytes | None
    code_points: tuple[int, ...] | None
    profile: bytes | None
    is_srgb: bool
    gamma: int
    chromaticities: tuple[int, ...] | None


@dataclass(slots=True)
class _Chunks:
    """Chunks that count.

    Attributes:
        header: Body of IHDR.
        counted: Of each kind the first before the pixels.
        default: Pixels of the default picture.
        has_default_control: Whether the default picture is the first frame of an animation.
        control: fcTL of the first frame behind the default picture.
        later: Pixels of that frame, with their numbers.
        is_damaged: Whether a check sum of the default picture, of the later frame, is wrong.
        metadata: As in `PngChunks`.
    """

    header: bytes = b""
    counted: dict[bytes, bytes] = field(default_factory=dict)
    default: list[memoryview] = field(default_factory=list)
    has_default_control: bool = False
    control: bytes | None = None
    later: list[memoryview] = field(default_factory=list)
    is_damaged: list[bool] = field(default_factory=lambda: [False, False])
    metadata: dict[str, object] = field(default_factory=dict)

    @property
    def is_animated(self) -> bool:
        return b"acTL" in self.counted


def read_png(data: bytes) -> PngChunks:
    """Read the chunks of a PNG file.

    Raises:
        TruncatedImageError: The file ends before the pixels begin.
        CorruptImageError: A chunk that the picture depends on is damaged, missing or makes no sense.
        UnknownFormatError: A critical chunk that is not known, or Apple's variant.
    """
    chunks = _read_chunks(data)
    counted, header = chunks.counted, chunks.header
    width, height, bits, kind, compression, filtering, interlace = struct.unpack(">IIBBBBB", header)
    if not width or not height:
        raise CorruptImageError(f"the PNG data is broken: its header states no size ({width} x {height})")
    if kind not in _CHANNELS or compression or filtering or interlace > 1:
        raise CorruptImageError("the PNG data is broken: a field of its header makes no sense")
    is_later = chunks.is_animated and not chunks.has_default_control
    parts, frame = (_later_frame if is_later else _default_picture)(chunks, width, height)
    header = struct.pack(">II", frame[2] - frame[0], frame[3] - frame[1]) + header[8:]
    if chunks.is_damaged[is_later] and not _is_whole(parts, header):
        raise CorruptImageError("the PNG data is broken: the check sum of its pixels is wrong")
    ends = data.rfind(b"IEND") >= 0
    pixels = [_SIGNATURE, *_chunk(b"IHDR", header)]
    if kind == _PALETTE:
        palette = counted.get(b"PLTE", b"")
        if not 3 <= len(palette) < 3 * 257:
            raise CorruptImageError(f"the PNG data is broken: its palette has {len(palette) // 3} colours")
        pixels += _chunk(b"PLTE", palette[: len(palette) // 3 * 3])
    if len(counted.get(b"tRNS", b"")) >= {0: 2, 2: 6, _PALETTE: 1}.get(kind, 1 << 32):
        pixels += _chunk(b"tRNS", counted[b"tRNS"])
    pixels += [*_chunk(b"IDAT", *parts), *(_chunk(b"IEND") if ends else ())]
    return PngChunks(
        size=(width, height),
        bits=bits,
        pixels=b"".join(pixels),
        frame=frame,
        frames=int.from_bytes(counted[b"acTL"][:4], "big") + is_later if chunks.is_animated else 1,
        ends=ends,
        metadata=chunks.metadata,
        browser_exif=counted.get(b"eXIf"),
        code_points=tuple(counted[b"cICP"]) if b"cICP" in counted else None,
        profile=_profile(counted.get(b"iCCP")),
        is_srgb=b"sRGB" in counted,
        gamma=int.from_bytes(counted.get(b"gAMA", b""), "big"),
        chromaticities=struct.unpack(">8I", counted[b"cHRM"]) if b"cHRM" in counted else None,
    )


def fills_all_rows(pixels: bytes) -> bool:
    """Whether `PngChunks.pixels` hold data for every row."""
    at = pixels.index(b"IDAT")
    length = int.from_bytes(pixels[at - 4 : at], "big")
    return _is_whole([memoryview(pixels)[at + 4 : at + 4 + length]], pixels[16:29])


def _read_chunks(data: bytes) -> _Chunks:
    chunks, previous = _Chunks(), b""
    for kind, body, is_sound in _walk(data):
        if not chunks.header:
            chunks.header = _header(kind, body, is_sound)
        elif kind == b"IEND":
            break
        elif kind == b"IDAT":
            if not chunks.default or previous == b"IDAT":  # pixels in a second place are none
                chunks.default.append(body)
                chunks.is_damaged[0] |= not is_sound
        elif kind == b"fdAT":
            if chunks.control is not None:
                chunks.later.append(body)
                chunks.is_damaged[1] |= not is_sound
        elif kind == b"fcTL" and chunks.is_animated:
            if chunks.default and (chunks.has_default_control or chunks.later):
                break  # the second frame
            if is_sound:
                _take_control(chunks, bytes(body))
        elif kind[0] & 0x20:
            if is_sound:
                _take_ancillary(chunks, kind, body)
        elif chunks.default:
            break  # the pixels are there; what follows cannot be told
        elif kind != b"PLTE":
            raise UnknownFormatError(f"a variant of PNG that is not read: it depends on a chunk {kind!r:.20}")
        elif not is_sound or kind in chunks.counted:
            raise CorruptImageError("the PNG data is broken: its palette is damaged, or there are two")
        else:
            chunks.counted[kind] = bytes(body)
        previous = kind
    if not chunks.default:
        raise TruncatedImageError(f"the file ends before the picture begins (PNG, {len(data):,} bytes)")
    return chunks


def _walk(data: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Kind, body, and whether the check sum is right, of each chunk; the last body may be cut."""
    view, at = memoryview(data), len(_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        body, end = view[at + 8 : at + 8 + length], at + 12 + length
        if end > len(data):
            if kind in (b"IDAT", b"fdAT"):
                yield kind, body, True
            return
        yield kind, body, zlib.crc32(body, zlib.crc32(kind)) == int.from_bytes(view[end - 4 : end], "big")
        at = end


def _header(kind: bytes, body: memoryview, is_sound: bool) -> bytes:
    if kind == b"CgBI":
        raise UnknownFormatError("a PNG in Apple's own variant (CgBI), which only its tools read: convert it first")
    if kind != b"IHDR" or len(body) != 13 or not is_sound:
        raise CorruptImageError("the PNG data is broken: it does not begin with a sound header")
    return bytes(body)


def _take_control(chunks: _Chunks, body: bytes) -> None:
    """The first fcTL: before the pixels it makes the default picture a frame, behind them it is of the next one."""
    if not chunks.default:
        chunks.has_default_control = True
        chunks.counted.setdefault(b"fcTL", body)
    elif chunks.control is None:
        chunks.control = body


def _take_ancillary(chunks: _Chunks, kind: bytes, body: memoryview) -> None:
    is_before = not chunks.default
    if is_before and kind in _COUNTED and _COUNTED[kind](body):
        has_order = kind != b"tRNS" or chunks.header[9] != _PALETTE or b"PLTE" in chunks.counted
        if has_order:
            chunks.counted.setdefault(kind, bytes(body))
    if chunks.control is None:  # what stands behind further frames is not looked for
        _take_metadata(chunks.metadata, kind, body)


def _take_metadata(metadata: dict[str, object], kind: bytes, body: memoryview) -> None:
    if kind == b"eXIf":
        metadata["exif"] = b"Exif\0\0" + body
    elif kind in (b"tEXt", b"zTXt", b"iTXt"):
        key = bytes(body[: len(_RAW_PROFILE) + 1]).partition(b"\0")[0]
        value = body[len(key) + 1 :]
        if kind == b"tEXt" and key == b"exif":
            metadata["exif"] = bytes(value)
        elif kind != b"iTXt" and key == _RAW_PROFILE:
            text = (
                bytes(value)
                if kind == b"tEXt"
                else _unpacked(value[1:], _MOST_TEXT)
                if bytes(value[:1]) == b"\0"
                else None
            )
            if text is not None:
                metadata[_RAW_PROFILE.decode()] = text.decode("latin-1")
        elif kind == b"iTXt" and key == _XMP:
            _take_xmp(metadata, value)


def _take_xmp(metadata: dict[str, object], value: memoryview) -> None:
    """Whether it is packed, how, language, translated key, text."""
    packet = bytes(value[2:]).split(b"\0", 2)[-1]
    text = _unpacked(packet, _MOST_TEXT) if bytes(value[:1]) == b"\1" else packet
    if text is not None:
        metadata["xmp"] = text


def _default_picture(chunks: _Chunks, width: int, height: int) -> tuple[list[memoryview], tuple[int, int, int, int]]:
    if chunks.has_default_control and _box(chunks.counted[b"fcTL"]) != (0, 0, width, height):
        raise CorruptImageError("the PNG data is broken: the first frame of its animation has another size")
    return chunks.default, (0, 0, width, height)


def _later_frame(chunks: _Chunks, width: int, height: int) -> tuple[list[memoryview], tuple[int, int, int, int]]:
    """Pixels and place of the first frame of an animation whose default picture is none."""
    if chunks.control is None or not chunks.later:
        raise CorruptImageError("the PNG data is broken: an animation without a first frame")
    numbers = [int.from_bytes(part[:4], "big") for part in [memoryview(chunks.control), *chunks.later]]
    left, top, right, bottom = box = _box(chunks.control)
    if numbers != list(range(len(numbers))) or not (left < right <= width and top < bottom <= height):
        raise CorruptImageError("the PNG data is broken: the first frame of its animation makes no sense")
    return [part[4:] for part in chunks.later], box


def _box(control: bytes) -> tuple[int, int, int, int]:
    """x1 y1 x2 y2 of a frame."""
    width, height, left, top = struct.unpack(">4I", control[4:20].ljust(16, b"\0"))
    return left, top, left + width, top + height


def _profile(body: bytes | None) -> bytes | None:
    """The ICC profile of an iCCP chunk, or None where it cannot be unpacked."""
    name, _, rest = (body or b"").partition(b"\0")
    return _unpacked(rest[1:], _MOST_PROFILE) if name and rest[:1] == b"\0" else None


def _unpacked(packed: Buffer, most: int) -> bytes | None:
    """Unpacked data; None where it is damaged, cut, or more than a limit."""
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, most)
    except zlib.error:
        return None
    return data if unpacker.eof else None


def _is_whole(parts: Iterable[Buffer], header: bytes) -> bool:
    """Whether packed pixels unpack to as much as the picture takes, with the right check sum at their end."""
    wanted, unpacker, size = _unpacked_size(header), zlib.decompressobj(), 0
    try:
        for part in parts:
            while part and not unpacker.eof:
                size += len(unpacker.decompress(part, 1 << 20))
                part = unpacker.unconsumed_tail
    except zlib.error:
        return False
    return size >= wanted


def _unpacked_size(header: bytes) -> int:
    """Bytes of the filtered rows of a picture with this header."""
    width, height, bits, kind, _, _, interlace = struct.unpack(">IIBBBBB", header)
    size = 0
    for left, step_x, top, step_y in _PASSES if interlace else ((0, 1, 0, 1),):
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            size += rows * (1 + (columns * bits * _CHANNELS[kind] + 7) // 8)
    return size


def _chunk(kind: bytes, *parts: Buffer) -> list[Buffer]:
    """A chunk in parts. Its check sum is not for the decoder, which looks at none of pixels."""
    check = zlib.crc32(kind)
    if kind != b"IDAT":
        for part in parts:
            check = zlib.crc32(part, check)
    return [sum(map(len, parts)).to_bytes(4, "big"), kind, *parts, check.to_bytes(4, "big")]
