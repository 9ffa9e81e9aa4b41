"""Opening image files with Pillow. Files that Pillow would misread are corrected or refused before they are loaded.

Private interface used: `image._mode`. Without it, a fourth channel of a PSD or TGA would always count as opacity.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PpmImagePlugin,
    PsdImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from prelabel.errors import MissingCodecError, UnknownFormatError
from prelabel.words import install_hint

#: Start of a JPEG 2000 codestream: at the start of the file, or in its box, whose length may follow the name.
_CODESTREAM = re.compile(rb"(?:\A|jp2c(?:.{8})?)(\xff\x4f\xff\x51)", re.DOTALL)
_COMPONENTS, _FIRST_COMPONENT, _COMPONENT_BYTES = 40, 42, 3

#: Pillow's layouts of TGA pixels with opacity bits, and the same layouts without.
_WITHOUT_OPACITY = {"BGRA": "BGRX", "BGRA;15Z": "BGR;15"}


def opener(name: str) -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    """Return the function that opens files of a format without loading them.

    Args:
        name: Pillow's name of the format.

    Raises:
        MissingCodecError: The decoder for HEIC or AVIF is not installed.
    """
    if name in _OPENERS:
        return _OPENERS[name]
    if name == "AVIF" and AvifImagePlugin.SUPPORTED:
        return _open_avif
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError:
        kind = "HEIC" if name == "HEIF" else name
        raise MissingCodecError(
            f"the {kind} decoder is not installed: {install_hint('heif')}; or convert the file to JPEG"
        ) from None
    return HeifImageFile  # type: ignore[no-any-return]


def _open_jpeg2000(file: io.BytesIO) -> ImageFile.ImageFile:
    """Open a JPEG 2000 of 8 bits per channel, or of more bits in a single channel.

    Pillow converts other depths to 8 bits wrongly: 16-bit white becomes black, 1-bit white becomes gray.

    Raises:
        UnknownFormatError: The file has another bit depth.
    """
    image = Jpeg2KImagePlugin.Jpeg2KImageFile(file)
    data = file.getvalue()
    start = _CODESTREAM.search(data)
    if start is not None:
        head = data[start.start(1) :][: _FIRST_COMPONENT + _COMPONENT_BYTES * 64]
        count = int.from_bytes(head[_COMPONENTS:_FIRST_COMPONENT], "big")
        bits = {(size & 0x7F) + 1 for size in head[_FIRST_COMPONENT::_COMPONENT_BYTES][:count]}
        # In some files Pillow treats a single 9-bit channel as 8-bit, so the mode is checked as well.
        if bits - {8} and not (count == 1 and image.mode == "I;16"):
            depth = " to ".join(map(str, sorted({min(bits), max(bits)})))
            raise UnknownFormatError(
                f"unsupported JPEG 2000 variant: {depth} bits in {count} channel{'s'[: count > 1]} "
                "(supported: 8 bits, or more in a single channel); convert it to PNG or TIFF"
            )
    return image


def _open_psd(file: io.BytesIO) -> ImageFile.ImageFile:
    """Open a PSD. The fourth channel is opacity only if the file says so; in a bitmap, set bits are black."""
    image = PsdImagePlugin.PsdImageFile(file)
    if image.mode == "RGBA" and not _has_opacity(file.getvalue()):
        image._mode = "RGB"  # the fourth channel is a saved selection
        image.tile = image.tile[:3]
    elif image.mode == "1":
        image.tile = [tile._replace(args="1;I") for tile in image.tile]
    return image


def _has_opacity(data: bytes) -> bool:
    """Whether the first extra channel of a PSD is opacity, which the format marks by a negative number of layers."""
    offset = 26
    for _ in range(2):  # skip the palette and the resources
        offset += 4 + int.from_bytes(data[offset : offset + 4], "big")
    section, layers, count = struct.unpack_from(">IIh", data.ljust(offset + 10, b"\0"), offset)
    return bool(section and layers and count < 0)


def _open_tga(file: io.BytesIO) -> ImageFile.ImageFile:
    """Open a TGA. The extra bits of a pixel are opacity only if the header declares opacity bits."""
    image = TgaImagePlugin.TgaImageFile(file)
    opacity_bits = file.getvalue()[17] & 15
    if image.mode == "RGBA" and not opacity_bits and image.tile:
        (tile,) = image.tile
        layout, *rest = tuple(tile.args or ())
        image._mode = "RGB"
        image.tile = [tile._replace(args=(_WITHOUT_OPACITY[layout], *rest))]
    return image


def _open_avif(file: io.BytesIO) -> ImageFile.ImageFile:
    """Open an AVIF. Corrupt EXIF is dropped: it does not affect the orientation of an AVIF."""
    try:
        return AvifImagePlugin.AvifImageFile(file)
    except ValueError as error:
        if "Exif" not in str(error):
            raise
    data = re.sub(rb"(infe[\x02\x03].{7,9})Exif", rb"\1none", file.getvalue(), count=1, flags=re.DOTALL)
    return AvifImagePlugin.AvifImageFile(io.BytesIO(data))


def refuse_cropped(data: bytes, size: tuple[int, int]) -> None:
    """Refuse an AVIF that browsers crop from its upper left corner (`clap` box) but the decoder does not."""
    for box in re.findall(rb"\0\0\0\x28clap(.{32})", data[: 1 << 16], re.DOTALL):
        numbers = struct.unpack(">8i", box)
        if min(numbers[1::2]) < 1:
            continue
        width, height, dx, dy = (numbers[index] / numbers[index + 1] for index in range(0, 8, 2))
        sides = ((size[0], width, dx), (size[1], height, dy))
        if (width, height) != size and all(2 * shift == cropped - full for full, cropped, shift in sides):
            raise UnknownFormatError(
                f"unsupported AVIF variant: browsers crop it to {width:g} x {height:g} pixels; save a cropped copy"
            )


#: Functions that open each format. Plugins are called directly: `Image.open` hides why a file is refused, tries other
#: formats, and has its own pixel limit.
_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,  # also MPO
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "JPEG2000": _open_jpeg2000,
    "PSD": _open_psd,
    "TGA": _open_tga,
}
