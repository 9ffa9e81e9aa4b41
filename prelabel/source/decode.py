"""The bytes of one image file as the picture a person sees: RGB, upright, 8 bits, sRGB on white.

Boxes must lie where the annotator's browser shows the object, so the frame is the displayed one, after the EXIF turn.
Whatever is wrong with a file becomes one of the DecodeErrors, with a sentence that says what. `color.py` holds the rule
for every kind of pixel, `sniff.py` tells formats apart; this module opens, checks, loads and turns.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

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
from prelabel.source.color import on_white, parts_to_rgb, srgb_pixels, to_rgb
from prelabel.source.failures import describe, explain, is_cut, tiff_ends_early
from prelabel.source.jpeg import jpeg_exif, read_pixels, reduce, reduced, scale_of
from prelabel.source.mended import MENDED_OPENERS, refuse_cropped
from prelabel.source.orientation import browser_orientation
from prelabel.source.png import has_all_rows, open_png, png_rgb
from prelabel.source.png_chunks import PngChunks, read_png
from prelabel.source.sniff import image_format, largest_item, looks_like
from prelabel.source.tiff import (
    count_pictures,
    layout_of,
    profile_of,
    read_directory,
    read_samples,
    refuse_large_blocks,
    stated_size,
    unpacking_bytes,
)
from prelabel.source.upright import displayed_size, turned, window_of

#: How each format is opened: by its plugin itself, since `Image.open` swallows the reason why a file is refused,
#: tries formats nobody asked for, and has a pixel limit of its own.
_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,  # also MPO
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}

_ORIENTATION = 274
_XMP = 700
_DNG_VERSION = 50706
_SUB_IFDS = 330
_NEW_SUBFILE_TYPE = 254
_IS_REDUCED = 1
_PILLOW_MODULES = r"PIL\.|pillow_heif\b|prelabel\.source\.(decode|color)\b"
_JPEG_END = b"\xff\xd9"


@dataclass(frozen=True)
class DecodeOptions:
    """What is allowed of one image.

    Attributes:
        max_pixels: Width times height; checked from the header, before memory is taken. Pillow's own default.
        max_bytes: Of the file.
        allow_truncated: Take a file whose end is missing, as far as it goes. What is missing is black, or grey in a
            JPEG, and counts as transparent where there is an alpha channel.
        shortest_side: Decode a JPEG at 1/2, 1/4 or 1/8 where its shorter side keeps at least so many pixels, 8 or more;
            None decodes everything in full, as cut files always are. The limits hold for the size in the file.
    """

    max_pixels: int = 178_956_970
    max_bytes: int = 512 * 1024 * 1024
    allow_truncated: bool = False
    shortest_side: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.shortest_side is not None and self.shortest_side < 8:
            raise ConfigError(f"shortest-side must be at least 8, got {self.shortest_side}")


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """A decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, C-contiguous, in the displayed frame; H and W are less than `height` and `width`
            where the picture was decoded reduced. Not to be written to.
        height: Of the whole picture as displayed, in pixels.
        width: Of the whole picture as displayed, in pixels.
        window: x1 y1 x2 y2 that `pixels` show, in pixels of the whole picture: all of it and, where it was decoded
            reduced, perhaps up to 7 beyond an edge.
        exif_orientation: 1..8, what was applied to the stored pixels to bring the picture upright; None where the file
            states nothing, or what makes no sense. HEIC is turned by whatever reads it: its stored pixels are upright.
        browser_orientation: 1..8, what browsers apply to the stored pixels; the same as was applied here for formats
            that browsers do not show.
        frames: Pictures in the file (frames, pages, layers of a PSD); `pixels` is the first.
    """

    pixels: npt.NDArray[np.uint8]
    height: int
    width: int
    window: tuple[int, int, int, int]
    exif_orientation: int | None
    browser_orientation: int
    frames: int


def decode(data: bytes, options: DecodeOptions = DecodeOptions()) -> DecodedImage:
    """Decode one image file.

    Safe to call from several threads at once, with different options: no setting of Pillow is switched to and fro.
    (Whoever sets `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` in this process allows cut files everywhere in it.)

    Raises:
        EmptyFileError: There are no bytes.
        UnknownFormatError: No image, or a format or variant that is not read; the message says what it looks like.
        MissingCodecError: HEIC or AVIF without its reader; the message names the extra.
        ImageTooLargeError: Over one of the limits.
        TruncatedImageError: The file ends before the picture does, and `allow_truncated` is off or nothing is there.
        CorruptImageError: The content contradicts the format.
    """
    if not data:
        raise EmptyFileError("the file is empty (0 bytes)")
    if len(data) > options.max_bytes:
        raise ImageTooLargeError(f"the file has {len(data):,} bytes; the limit is {options.max_bytes:,} (max-bytes)")
    name = image_format(data)
    if name is None:
        raise UnknownFormatError(f"not an image: it looks like {looks_like(data)}")
    _calm_pillow(options.max_pixels)
    _check_pixels(_size_in_header(data, name), options.max_pixels)
    try:
        return _decode(data, name, options)
    except TruncatedImageError:
        if not options.allow_truncated:
            raise
    return _decode(data, name, options, keep_cut=True)


def decoded_bytes(data: bytes, options: DecodeOptions) -> int:
    """Bytes that the pixels of a file will take, from its header; 0 where that does not say, and `decode` refuses.

    Of a TIFF with what unpacking its samples takes, which may be many times as much.
    """
    name = image_format(data)
    if name is None or len(data) > options.max_bytes:
        return 0
    _calm_pillow(options.max_pixels)
    unpacking = 0
    try:
        size = _size_in_header(data, name)
        _check_pixels(size, options.max_pixels)
        if name == "TIFF":
            tags = read_directory(io.BytesIO(data))
            size = stated_size(tags)
            layout = layout_of(tags, data)
            if layout is not None:
                refuse_large_blocks(layout, options.max_pixels)
                unpacking = unpacking_bytes(layout)
        elif name != "PNG":
            with _opener(name)(io.BytesIO(data)) as image:
                size = image.size
        _check_pixels(size, options.max_pixels)
    except Exception:  # noqa: BLE001 - Pillow meets hostile bytes with anything, see `_decode`
        return 0
    width, height = reduced(size, scale_of(size, options.shortest_side) if name == "JPEG" else 1)
    return 3 * width * height + unpacking


def _decode(data: bytes, name: str, options: DecodeOptions, keep_cut: bool = False) -> DecodedImage:
    """Decode a file of a known format; with `keep_cut` one whose end is missing, as far as it goes."""
    # With an end put on, libjpeg fills in what is missing by itself.
    file = io.BytesIO(data + _JPEG_END if keep_cut and name == "JPEG" else data)
    image: ImageFile.ImageFile | None = None
    size = png = None
    try:
        if name == "PNG":
            png = read_png(data)
            size = png.size
            image = open_png(png)
        elif name == "TIFF" and (decoded := _decode_samples(file, data, options, keep_cut)) is not None:
            return decoded
        else:
            image = _opener(name)(file)
            size = image.size
        _check_pixels(size, options.max_pixels)
        if name == "AVIF":
            refuse_cropped(data, size)
        # Whether anything is there of a cut file is judged in full.
        scale = scale_of(size, options.shortest_side) if name == "JPEG" and not keep_cut else 1
        return _finish(image, name, data, file, keep_cut, scale, png)
    except DecodeError:
        raise
    # Pillow meets hostile bytes with OSError, SyntaxError, ValueError, struct.error, zlib.error, KeyError, TypeError,
    # OverflowError, AssertionError and others: here, at the border of one image, all of them mean "this file".
    except Exception as error:
        raise explain(error, data, name, image, size, file) from error


def _decode_samples(file: io.BytesIO, data: bytes, options: DecodeOptions, keep_cut: bool) -> DecodedImage | None:
    """Decode a TIFF that is an array of samples; None for one that is for Pillow."""
    tags = read_directory(file)
    _refuse_camera_raw(tags, data)
    _check_pixels(stated_size(tags), options.max_pixels)
    try:
        layout = layout_of(tags, data)
        if layout is None:
            file.seek(0)
            return None
        refuse_large_blocks(layout, options.max_pixels)
        colour, opacity = read_samples(layout, tags, data, keep_cut)
    except CorruptImageError as error:
        if tiff_ends_early(tags, data):
            raise _cut("does", data, "TIFF", stated_size(tags)) from error
        raise
    if keep_cut and _is_flat(colour):
        raise _cut("begins", data, "TIFF", colour.size)
    holder = Image.new("L", (1, 1))  # by whose rules Pillow finds an orientation
    holder.info["xmp"] = tags.get(_XMP, b"")
    turn = tags.get(_ORIENTATION, _orientation(holder))
    turn = turn if isinstance(turn, int) and 1 <= turn <= 8 else None
    stored = np.asarray(parts_to_rgb(colour, opacity, profile_of(tags)))
    width, height = displayed_size(colour.size, turn)
    shown = browser_orientation("TIFF", turn, None, None)
    pixels = turned(stored, turn)
    return DecodedImage(pixels, height, width, (0, 0, width, height), turn, shown, count_pictures(data))


def _finish(
    image: ImageFile.ImageFile,
    name: str,
    data: bytes,
    file: io.BytesIO,
    keep_cut: bool,
    scale: int,
    png: PngChunks | None,
) -> DecodedImage:
    """Load an opened file, bring its pixels to RGB, and turn them."""
    # A TIFF turns itself while it loads and forgets its tag; a PNG would load itself for being asked.
    orientation = None if png is not None else _orientation(image)
    covered = image.tile[0][1] if name == "GIF" and image.tile else None
    size = image.size
    stored = read_pixels(image, data, scale) if name == "JPEG" and not keep_cut else None
    if stored is not None:
        stored = srgb_pixels(stored, image.info.get("icc_profile"))
    else:
        if scale > 1:
            reduce(image, scale)
        _load(image, name, data, file, keep_cut, png)
        stored = np.asarray(_rgb_of(image, covered) if png is None else png_rgb(image, png))
    turn = _orientation(image)
    applied = orientation or turn
    rows, columns = stored.shape[:2]
    if scale == 1:
        size = columns, rows  # of a TIFF that turns itself this is known only now
    width, height = displayed_size(size, turn)
    window = window_of(size, (columns, rows), scale, turn)
    exif = jpeg_exif(data) if name == "JPEG" else png.browser_exif if png is not None else None
    shown = browser_orientation(name, applied, exif, _container_orientation(image) if name == "AVIF" else None)
    frames = _frames(image) if png is None else png.frames
    return DecodedImage(turned(stored, turn), height, width, window, applied, shown, frames)


def _rgb_of(image: ImageFile.ImageFile, covered: tuple[int, int, int, int] | None) -> Image.Image:
    """A loaded picture in RGB; where the first frame of a GIF covers a part of its canvas, white around it."""
    rgb = to_rgb(image)
    if covered and covered != (0, 0, *rgb.size):
        rgb = on_white(rgb.crop(covered), rgb.size, covered)
    # A cut TIFF that is to be turned states its displayed size, its pixels are still as they are stored.
    return rgb if rgb.size == rgb.im.size else rgb.copy()


def _load(
    image: ImageFile.ImageFile, name: str, data: bytes, file: io.BytesIO, keep_cut: bool, png: PngChunks | None
) -> None:
    """Load an opened file with Pillow."""
    if keep_cut:
        _load_cut(image, name, data, file)
        return
    image.load()
    if png is not None and not (png.ends and has_all_rows(image, png)):
        raise _cut("does", data, name, png.size)


def _load_cut(image: ImageFile.ImageFile, name: str, data: bytes, file: io.BytesIO) -> None:
    """Decode what there is of a file whose end is missing.

    Not with Pillow's own switch for this, `LOAD_TRUNCATED_IMAGES`, which is one global for all threads.
    """
    try:
        image.load()
    except Exception as error:  # any of Pillow's, see `_decode`; only what the cut explains is forgiven
        if not is_cut(error, data, name, image, file):
            raise
        # Without tiles left to decode a picture counts as loaded; where the decoder made none at all this fails.
        image.tile = []
        try:
            image.load()
        except Exception:  # noqa: BLE001
            raise error from None
    if _is_flat(image):
        raise _cut("begins", data, name, image.size)


def _cut(what: str, data: bytes, name: str, size: tuple[int, int]) -> TruncatedImageError:
    """For a file that ends before the picture `does`, or `begins`."""
    return TruncatedImageError(f"the file ends before the picture {what} ({describe(name, data, size)})")


def _is_flat(image: Image.Image) -> bool:
    """Whether all pixels are the same."""
    extrema = np.asarray(image.getextrema()).reshape(-1, 2)
    return bool((extrema[:, 0] == extrema[:, 1]).all())


def _orientation(image: Image.Image) -> int | None:
    """The EXIF (or XMP) orientation, 1..8, or None."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - broken metadata of a sound picture: Pillow's parser raises anything
        return None
    return value if isinstance(value, int) and 1 <= value <= 8 else None


def _container_orientation(image: ImageFile.ImageFile) -> int | None:
    """The orientation that the container of an AVIF asks for: Pillow puts it in the place of the EXIF tag."""
    try:
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        value = exif.get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - broken metadata of a sound picture: Pillow's parser raises anything
        return None
    return value if isinstance(value, int) and 1 <= value <= 8 else None


def _frames(image: ImageFile.ImageFile) -> int:
    """Number of pictures in the file, at least 1. Moves to another frame: call it last."""
    try:
        return max(1, int(getattr(image, "n_frames", 1)))
    except Exception:  # noqa: BLE001 - a later page is broken: that is no reason to refuse the first
        return max(1, image.tell())


def _opener(name: str) -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    if name in _OPENERS:
        return _OPENERS[name]
    if name in MENDED_OPENERS:
        return MENDED_OPENERS[name]
    if name == "AVIF" and AvifImagePlugin.SUPPORTED:
        return _open_avif
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError:
        kind = "HEIC" if name == "HEIF" else name
        raise MissingCodecError(
            f"{kind} needs a reader that is not installed: pip install 'prelabel[heif]', or convert the file to JPEG"
        ) from None
    return HeifImageFile  # type: ignore[no-any-return]


def _open_avif(file: io.BytesIO) -> ImageFile.ImageFile:
    """Open an AVIF; without its EXIF where that is broken, which neither turns it nor is a reason to lose it."""
    try:
        return AvifImagePlugin.AvifImageFile(file)
    except ValueError as error:
        if "Exif" not in str(error):
            raise
    data = re.sub(rb"(infe[\x02\x03].{7,9})Exif", rb"\1none", file.getvalue(), count=1, flags=re.DOTALL)
    return AvifImagePlugin.AvifImageFile(io.BytesIO(data))


def _refuse_camera_raw(tags: TiffImagePlugin.ImageFileDirectory_v2, data: bytes) -> None:
    """A camera raw file is a TIFF whose first picture is a small preview: never take that for the photo."""
    kind = tags.get(_NEW_SUBFILE_TYPE, 0)
    is_preview = _SUB_IFDS in tags and isinstance(kind, int) and kind & _IS_REDUCED
    if _DNG_VERSION in tags or data[8:10] == b"CR" or is_preview:
        raise UnknownFormatError("a camera raw file: convert it to JPEG or TIFF first")
    if isinstance(kind, int) and kind & _IS_REDUCED and count_pictures(data) > 1:
        raise UnknownFormatError(
            "a variant of TIFF that is not read: its first picture is a reduced copy of another one; "
            "save the full picture alone or first"
        )


def _size_in_header(data: bytes, name: str) -> tuple[int, int]:
    """Width and height where they are needed before a file is opened, which may take memory or fail; else (0, 0)."""
    if name == "PNG" and data[12:16] == b"IHDR":
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if name == "AVIF":  # libavif does not say why it refuses one of more than 32,768 pixels a side
        return largest_item(data)
    if name == "GIF":
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if name == "WEBP" and data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    return 0, 0  # the two simple kinds of WebP have at most 16,383 pixels a side and are checked once open


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{width} x {height} is {width * height:,} pixels; the limit is {max_pixels:,} (max-pixels)"
        )


def _calm_pillow(max_pixels: int) -> None:
    """Leave the pixel limit to us and keep Pillow's remarks on odd files out of the log.

    Both settings belong to the process. They are only ever moved one way, so that threads cannot undo each other's;
    `warnings.catch_warnings` is not safe in threads.
    """
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    first = warnings.filters[0] if warnings.filters else None
    if not first or first[0] != "ignore" or getattr(first[3], "pattern", None) != _PILLOW_MODULES:
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES)


_PILLOW_MODULES = r"PIL\.|pillow_heif\b|prelabel\.source\.(decode|color)\b"
