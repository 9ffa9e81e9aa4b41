"""Formats that Pillow opens with a part misread: opened by it, and put right, or refused, before anything is loaded."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable

from PIL import ImageFile, Jpeg2KImagePlugin, PsdImagePlugin, TgaImagePlugin

from prelabel.errors import UnknownFormatError

#: Where the codestream of a JPEG 2000 begins: at once, or in its box, whose length may follow the name.
_CODESTREAM = re.compile(rb"(?:\A|jp2c(?:.{8})?)(\xff\x4f\xff\x51)", re.DOTALL)
_COMPONENTS, _FIRST_COMPONENT, _COMPONENT_BYTES = 40, 42, 3

#: Layouts of the pixels of a TGA with bits for opacity, and the same without.
_WITHOUT_OPACITY = {"BGRA": "BGRX", "BGRA;15Z": "BGR;15"}


def open_jpeg2000(file: io.BytesIO) -> ImageFile.ImageFile:
    """Open a JPEG 2000 of 8 bits, or of one channel with more.

    Others are brought to 8 bits wrong by Pillow: white of 16 bits becomes black, white of 1 bit grey.

    Raises:
        UnknownFormatError: It has other bits.
    """
    image = Jpeg2KImagePlugin.Jpeg2KImageFile(file)
    data = file.getvalue()
    begin = _CODESTREAM.search(data)
    if begin is not None:
        head = data[begin.start(1) :][: _FIRST_COMPONENT + _COMPONENT_BYTES * 64]
        count = int.from_bytes(head[_COMPONENTS:_FIRST_COMPONENT], "big")
        bits = {(size & 0x7F) + 1 for size in head[_FIRST_COMPONENT::_COMPONENT_BYTES][:count]}
        # Pillow takes one channel of 9 bits for one of 8 in some files.
        if bits - {8} and not (count == 1 and image.mode == "I;16"):
            words = " to ".join(map(str, sorted({min(bits), max(bits)})))
            raise UnknownFormatError(
                f"a variant of JPEG 2000 that is not read: {words} bits in {count} channel{'s'[: count > 1]} "
                "(8 bits are, and more in one channel); convert it to PNG or TIFF"
            )
    return image


def open_psd(file: io.BytesIO) -> ImageFile.ImageFile:
    """Open a PSD: its fourth channel is opacity only where it says so, and bits of a bitmap are black."""
    image = PsdImagePlugin.PsdImageFile(file)
    if image.mode == "RGBA" and not _has_opacity(file.getvalue()):
        image._mode = "RGB"  # the fourth is a saved selection
        image.tile = image.tile[:3]
    elif image.mode == "1":
        image.tile = [tile._replace(args="1;I") for tile in image.tile]
    return image


def _has_opacity(data: bytes) -> bool:
    """Whether the first extra channel of a PSD is the opacity of the whole: its number of layers is negative then."""
    at = 26
    for _ in range(2):  # the palette and the resources
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    section, layers, count = struct.unpack_from(">IIh", data.ljust(at + 10, b"\0"), at)
    return bool(section and layers and count < 0)


def open_tga(file: io.BytesIO) -> ImageFile.ImageFile:
    """Open a TGA: what is beside the colours is opacity only where its header says that there are bits of it."""
    image = TgaImagePlugin.TgaImageFile(file)
    opacity_bits = file.getvalue()[17] & 15
    if image.mode == "RGBA" and not opacity_bits and image.tile:
        (tile,) = image.tile
        layout, *rest = tuple(tile.args or ())
        image._mode = "RGB"
        image.tile = [tile._replace(args=(_WITHOUT_OPACITY[layout], *rest))]
    return image


def refuse_cropped(data: bytes, size: tuple[int, int]) -> None:
    """Refuse an AVIF that browsers crop from its upper left corner (its `clap`), which its reader does not."""
    for box in re.findall(rb"\0\0\0\x28clap(.{32})", data[: 1 << 16], re.DOTALL):
        numbers = struct.unpack(">8i", box)
        if min(numbers[1::2]) < 1:
            continue
        width, height, right, down = (numbers[at] / numbers[at + 1] for at in range(0, 8, 2))
        sides = ((size[0], width, right), (size[1], height, down))
        if (width, height) != size and all(2 * offset == part - whole for whole, part, offset in sides):
            raise UnknownFormatError(
                f"an AVIF that is not read: browsers crop it to {width:g} x {height:g} pixels; save it cropped"
            )


#: How each of these formats is opened.
MENDED_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG2000": open_jpeg2000,
    "PSD": open_psd,
    "TGA": open_tga,
}
