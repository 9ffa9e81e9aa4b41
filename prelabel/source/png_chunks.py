"""PNG chunks, read by the browsers' rules, and a reduced PNG of the pixels alone for the decoder.

Pillow rejects a whole image for one bad text chunk, and shows the default image of an animation where browsers show the
first frame. This module follows the browsers (observed in Chromium 156): an ancillary chunk that is corrupt, invalid,
misplaced or a duplicate of an earlier one is ignored. A corrupt critical chunk is an error.
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

#: Largest unpacked size of a text or profile, in bytes; a larger one is ignored.
_MOST_TEXT = 1 << 20
_MOST_PROFILE = 16 << 20

#: First column, column step, first row and row step of the seven passes of an interlaced image.
_PASSES = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))

_RAW_PROFILE, _XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"

#: Ancillary chunks that are used if they precede the pixels, each with a check of its content.
_VALIDATORS: dict[bytes, Callable[[memoryview], bool]] = {
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
    """The content of a PNG file.

    Attributes:
        size: Width and height of the image.
        bits: Bits per sample.
        pixels: A plain PNG (IHDR, PLTE, tRNS, IDAT) of the image, or of the first frame of an animation.
        frame: x1 y1 x2 y2 that `pixels` cover; the image around them is transparent.
        frames: Number of images in the file.
        ends: Whether the file has its end marker (IEND).
        metadata: Metadata that may hold an orientation, by Pillow's names. The last of each kind counts, as in Pillow.
        browser_exif: The EXIF data that browsers apply.
        code_points: The values in cICP: primaries, transfer, matrix, full range.
        profile: The ICC profile, unpacked.
        is_srgb: Whether the file is declared as sRGB.
        gamma: The value in gAMA, in 100,000ths; 0 if there is none.
        chromaticities: The values in cHRM, in 100,000ths: x and y of white, red, green and blue.
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
    """The chunks of a file that are used.

    Attributes:
        header: Body of IHDR.
        accepted: Bodies of other chunks before the pixels, by kind; the first of each kind.
        default: Pixel data of the default image.
        has_default_control: Whether the default image is the first frame of an animation.
        control: fcTL of the first frame after the default image.
        later: Pixel data of that frame, with their sequence numbers.
        is_corrupt: Whether a checksum is wrong, for the default image and for the later frame.
        metadata: As in `PngChunks`.
    """

    header: bytes = b""
    accepted: dict[bytes, bytes] = field(default_factory=dict)
    default: list[memoryview] = field(default_factory=list)
    has_default_control: bool = False
    control: bytes | None = None
    later: list[memoryview] = field(default_factory=list)
    is_corrupt: list[bool] = field(default_factory=lambda: [False, False])
    metadata: dict[str, object] = field(default_factory=dict)

    @property
    def is_animated(self) -> bool:
        return b"acTL" in self.accepted


def read_png(data: bytes) -> PngChunks:
    """Read the chunks of a PNG file.

    Raises:
        TruncatedImageError: The file ends before its first pixels.
        CorruptImageError: A critical chunk is corrupt, missing or invalid.
        UnknownFormatError: A critical chunk is unknown, or the file is in Apple's variant.
    """
    chunks = _read_chunks(data)
    accepted, header = chunks.accepted, chunks.header
    width, height, bits, kind, compression, filtering, interlace = struct.unpack(">IIBBBBB", header)
    if not width or not height:
        raise CorruptImageError(f"corrupt PNG data: the size in the header is {width} x {height}")
    if kind not in _CHANNELS or compression or filtering or interlace > 1:
        raise CorruptImageError("corrupt PNG data: a header field is invalid")
    is_later = chunks.is_animated and not chunks.has_default_control
    parts, frame = (_later_frame if is_later else _default_image)(chunks, width, height)
    header = struct.pack(">II", frame[2] - frame[0], frame[3] - frame[1]) + header[8:]
    if chunks.is_corrupt[is_later] and not _is_complete(parts, header):
        raise CorruptImageError("corrupt PNG data: the checksum of the pixels is wrong")
    ends = data.rfind(b"IEND") >= 0
    pixels = [_SIGNATURE, *_chunk(b"IHDR", header)]
    if kind == _PALETTE:
        palette = accepted.get(b"PLTE", b"")
        if not 3 <= len(palette) < 3 * 257:
            raise CorruptImageError(f"corrupt PNG data: the palette has {len(palette) // 3} colors")
        pixels += _chunk(b"PLTE", palette[: len(palette) // 3 * 3])
    if len(accepted.get(b"tRNS", b"")) >= {0: 2, 2: 6, _PALETTE: 1}.get(kind, 1 << 32):
        pixels += _chunk(b"tRNS", accepted[b"tRNS"])
    pixels += [*_chunk(b"IDAT", *parts), *(_chunk(b"IEND") if ends else ())]
    return PngChunks(
        size=(width, height),
        bits=bits,
        pixels=b"".join(pixels),
        frame=frame,
        frames=int.from_bytes(accepted[b"acTL"][:4], "big") + is_later if chunks.is_animated else 1,
        ends=ends,
        metadata=chunks.metadata,
        browser_exif=accepted.get(b"eXIf"),
        code_points=tuple(accepted[b"cICP"]) if b"cICP" in accepted else None,
        profile=_profile(accepted.get(b"iCCP")),
        is_srgb=b"sRGB" in accepted,
        gamma=int.from_bytes(accepted.get(b"gAMA", b""), "big"),
        chromaticities=struct.unpack(">8I", accepted[b"cHRM"]) if b"cHRM" in accepted else None,
    )


def fills_all_rows(pixels: bytes) -> bool:
    """Whether `PngChunks.pixels` contain data for every row."""
    offset = pixels.index(b"IDAT")
    length = int.from_bytes(pixels[offset - 4 : offset], "big")
    return _is_complete([memoryview(pixels)[offset + 4 : offset + 4 + length]], pixels[16:29])


def _read_chunks(data: bytes) -> _Chunks:
    chunks, previous = _Chunks(), b""
    for kind, body, is_valid in _walk(data):
        if not chunks.header:
            chunks.header = _header(kind, body, is_valid)
        elif kind == b"IEND":
            break
        elif kind == b"IDAT":
            if not chunks.default or previous == b"IDAT":  # a second run of pixel data is ignored
                chunks.default.append(body)
                chunks.is_corrupt[0] |= not is_valid
        elif kind == b"fdAT":
            if chunks.control is not None:
                chunks.later.append(body)
                chunks.is_corrupt[1] |= not is_valid
        elif kind == b"fcTL" and chunks.is_animated:
            if chunks.default and (chunks.has_default_control or chunks.later):
                break  # the second frame
            if is_valid:
                _add_control(chunks, bytes(body))
        elif kind[0] & 0x20:
            if is_valid:
                _add_ancillary(chunks, kind, body)
        elif chunks.default:
            break  # the pixels are complete; an unknown critical chunk after them is not an error
        elif kind != b"PLTE":
            raise UnknownFormatError(f"unsupported PNG variant: unknown critical chunk {kind!r:.20}")
        elif not is_valid or kind in chunks.accepted:
            raise CorruptImageError("corrupt PNG data: the palette is corrupt or duplicated")
        else:
            chunks.accepted[kind] = bytes(body)
        previous = kind
    if not chunks.default:
        raise TruncatedImageError(f"the file is truncated before its first pixels (PNG, {len(data):,} bytes)")
    return chunks


def _walk(data: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Yield the kind and body of each chunk, and whether its checksum is right. The last body may be truncated."""
    view, offset = memoryview(data), len(_SIGNATURE)
    while offset + 8 <= len(data):
        length, kind = int.from_bytes(view[offset : offset + 4], "big"), bytes(view[offset + 4 : offset + 8])
        body, end = view[offset + 8 : offset + 8 + length], offset + 12 + length
        if end > len(data):
            if kind in (b"IDAT", b"fdAT"):
                yield kind, body, True
            return
        yield kind, body, zlib.crc32(body, zlib.crc32(kind)) == int.from_bytes(view[end - 4 : end], "big")
        offset = end


def _header(kind: bytes, body: memoryview, is_valid: bool) -> bytes:
    if kind == b"CgBI":
        raise UnknownFormatError("unsupported PNG variant: Apple's CgBI; convert it to a standard PNG")
    if kind != b"IHDR" or len(body) != 13 or not is_valid:
        raise CorruptImageError("corrupt PNG data: the file does not begin with a valid header")
    return bytes(body)


def _add_control(chunks: _Chunks, body: bytes) -> None:
    """Record the first fcTL. Before the pixels it makes the default image a frame; after them it starts the next."""
    if not chunks.default:
        chunks.has_default_control = True
        chunks.accepted.setdefault(b"fcTL", body)
    elif chunks.control is None:
        chunks.control = body


def _add_ancillary(chunks: _Chunks, kind: bytes, body: memoryview) -> None:
    is_before = not chunks.default
    if is_before and kind in _VALIDATORS and _VALIDATORS[kind](body):
        has_order = kind != b"tRNS" or chunks.header[9] != _PALETTE or b"PLTE" in chunks.accepted
        if has_order:
            chunks.accepted.setdefault(kind, bytes(body))
    if chunks.control is None:  # metadata after later frames is ignored
        _add_metadata(chunks.metadata, kind, body)


def _add_metadata(metadata: dict[str, object], kind: bytes, body: memoryview) -> None:
    if kind == b"eXIf":
        metadata["exif"] = b"Exif\0\0" + body
    elif kind in (b"tEXt", b"zTXt", b"iTXt"):
        key = bytes(body[: len(_RAW_PROFILE) + 1]).partition(b"\0")[0]
        value = body[len(key) + 1 :]
        if kind == b"tEXt" and key == b"exif":
            metadata["exif"] = bytes(value)
        elif kind != b"iTXt" and key == _RAW_PROFILE:
            text = bytes(value) if kind == b"tEXt" else None
            if kind == b"zTXt" and bytes(value[:1]) == b"\0":
                text = _unpack(value[1:], _MOST_TEXT)
            if text is not None:
                metadata[_RAW_PROFILE.decode()] = text.decode("latin-1")
        elif kind == b"iTXt" and key == _XMP:
            _add_xmp(metadata, value)


def _add_xmp(metadata: dict[str, object], value: memoryview) -> None:
    """Record XMP. `value` holds: compression flag, compression method, language, translated keyword, text."""
    packet = bytes(value[2:]).split(b"\0", 2)[-1]
    text = _unpack(packet, _MOST_TEXT) if bytes(value[:1]) == b"\1" else packet
    if text is not None:
        metadata["xmp"] = text


def _default_image(chunks: _Chunks, width: int, height: int) -> tuple[list[memoryview], tuple[int, int, int, int]]:
    if chunks.has_default_control and _box(chunks.accepted[b"fcTL"]) != (0, 0, width, height):
        raise CorruptImageError("corrupt PNG data: the first animation frame differs in size from the image")
    return chunks.default, (0, 0, width, height)


def _later_frame(chunks: _Chunks, width: int, height: int) -> tuple[list[memoryview], tuple[int, int, int, int]]:
    """Pixel data and box of the first frame of an animation whose default image is not a frame."""
    if chunks.control is None or not chunks.later:
        raise CorruptImageError("corrupt PNG data: the animation has no first frame")
    numbers = [int.from_bytes(part[:4], "big") for part in [memoryview(chunks.control), *chunks.later]]
    left, top, right, bottom = box = _box(chunks.control)
    if numbers != list(range(len(numbers))) or not (left < right <= width and top < bottom <= height):
        raise CorruptImageError("corrupt PNG data: the first animation frame is invalid")
    return [part[4:] for part in chunks.later], box


def _box(control: bytes) -> tuple[int, int, int, int]:
    """x1 y1 x2 y2 of a frame."""
    width, height, left, top = struct.unpack(">4I", control[4:20].ljust(16, b"\0"))
    return left, top, left + width, top + height


def _profile(body: bytes | None) -> bytes | None:
    """The ICC profile in an iCCP chunk, or None if it cannot be unpacked."""
    name, _, rest = (body or b"").partition(b"\0")
    return _unpack(rest[1:], _MOST_PROFILE) if name and rest[:1] == b"\0" else None


def _unpack(packed: Buffer, most: int) -> bytes | None:
    """Unpack data; return None if it is corrupt, truncated, or exceeds `most` bytes."""
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, most)
    except zlib.error:
        return None
    return data if unpacker.eof else None


def _is_complete(parts: Iterable[Buffer], header: bytes) -> bool:
    """Whether packed pixel data unpack to the size that the header requires, without an error."""
    required, unpacker, size = _unpacked_size(header), zlib.decompressobj(), 0
    try:
        for part in parts:
            while part and not unpacker.eof:
                size += len(unpacker.decompress(part, 1 << 20))
                part = unpacker.unconsumed_tail
    except zlib.error:
        return False
    return size >= required


def _unpacked_size(header: bytes) -> int:
    """Size in bytes of the filtered rows of an image with this header."""
    width, height, bits, kind, _, _, interlace = struct.unpack(">IIBBBBB", header)
    size = 0
    for left, step_x, top, step_y in _PASSES if interlace else ((0, 1, 0, 1),):
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            size += rows * (1 + (columns * bits * _CHANNELS[kind] + 7) // 8)
    return size


def _chunk(kind: bytes, *parts: Buffer) -> list[Buffer]:
    """A chunk as a list of buffers. The checksum of IDAT covers only its kind, since the decoder ignores it."""
    check = zlib.crc32(kind)
    if kind != b"IDAT":
        for part in parts:
            check = zlib.crc32(part, check)
    return [sum(map(len, parts)).to_bytes(4, "big"), kind, *parts, check.to_bytes(4, "big")]
