"""Decoding of one image file to displayed pixels: upright 8-bit sRGB on white.

Boxes must lie where the annotator's browser shows the object, so pixels are in the display frame: after EXIF rotation.
A file that cannot be decoded raises a DecodeError whose message says why. `color.py` holds the rules for every pixel
type and `formats.py` identifies formats; this module opens, checks, loads and rotates.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile
from PIL.ExifTags import Base as Tag

from prelabel.errors import (
    ConfigError,
    CorruptImageError,
    DecodeError,
    EmptyFileError,
    ImageTooLargeError,
    TruncatedImageError,
    UnknownFormatError,
)
from prelabel.source.color import on_white, parts_to_rgb, srgb_pixels, to_rgb
from prelabel.source.failures import describe_file, explain, is_truncation, tiff_ends_early
from prelabel.source.formats import describe_content, image_format, largest_item
from prelabel.source.jpeg import draft_at_scale, jpeg_exif, jpeg_size, read_pixels, reduced_size, scale_of
from prelabel.source.openers import opener, refuse_cropped
from prelabel.source.orientation import browser_orientation, displayed_size, rotated, window_of
from prelabel.source.png import has_all_rows, open_png, png_rgb
from prelabel.source.png_chunks import PngChunks, read_png
from prelabel.source.tiff import (
    Tags,
    count_images,
    declared_size,
    layout_of,
    profile_of,
    read_directory,
    refuse_large_blocks,
    unpacking_bytes,
)
from prelabel.source.tiff_samples import read_samples

_IS_REDUCED = 1
_PILLOW_MODULES = r"PIL\.|pillow_heif\b|prelabel\.source\.(decode|color|openers)\b"
_JPEG_END = b"\xff\xd9"


@dataclass(frozen=True)
class DecodeOptions:
    """Limits and options for decoding one image.

    Attributes:
        max_pixels: Largest width times height, checked from the header before memory is allocated. The default is
            Pillow's own limit.
        max_bytes: Largest file size in bytes.
        allow_truncated: Decode a truncated file as far as it goes. Missing pixels are black, or gray in a JPEG, and
            transparent where there is an alpha channel.
        shortest_side: Decode a JPEG at 1/2, 1/4 or 1/8 scale if its shorter side keeps at least this many pixels (8 or
            more). None decodes at full size, as is always done for truncated files. The limits above apply to the
            size in the file.
    """

    max_pixels: int = 178_956_970
    max_bytes: int = 512 * 1024 * 1024
    allow_truncated: bool = False
    shortest_side: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.shortest_side is not None and self.shortest_side < 8:
            raise ConfigError(f"shortest_side must be at least 8, got {self.shortest_side}")


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """A decoded image.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, C-contiguous, in the display frame. Read-only. H and W are smaller than `height`
            and `width` if the image was decoded at reduced scale.
        height: Height of the displayed image at full size, in pixels.
        width: Width of the displayed image at full size, in pixels.
        window: x1 y1 x2 y2 that `pixels` cover, in pixels of the displayed image at full size. At reduced scale this
            may extend up to 7 pixels beyond an edge.
        exif_orientation: 1..8, the orientation applied to the stored pixels to make the image upright; None if the
            file has none or an invalid one. HEIC decoders rotate by themselves: the stored pixels are upright.
        browser_orientation: 1..8, the orientation that browsers apply to the stored pixels. For formats that browsers
            do not show, it is the orientation applied here.
        frames: Number of images in the file (frames, pages, PSD layers); `pixels` is the first.
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

    Safe to call from several threads with different options: no global setting of Pillow is toggled. (Setting
    `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` allows truncated files in the whole process.)

    Args:
        data: The complete file.
        options: Limits and options.

    Raises:
        EmptyFileError: The file has no bytes.
        UnknownFormatError: Not an image, or an unsupported format or variant; the message describes the content.
        MissingCodecError: The decoder for HEIC or AVIF is not installed; the message names the extra.
        ImageTooLargeError: The image exceeds a limit.
        TruncatedImageError: The file is truncated, and `allow_truncated` is off or no pixels remain.
        CorruptImageError: The content violates the format.
    """
    if not data:
        raise EmptyFileError("the file is empty (0 bytes)")
    if len(data) > options.max_bytes:
        raise ImageTooLargeError(f"the file has {len(data):,} bytes; the limit is {options.max_bytes:,} (--max-bytes)")
    name = image_format(data)
    if name is None:
        raise UnknownFormatError(f"not an image: it looks like {describe_content(data)}")
    _configure_pillow(options.max_pixels)
    _check_pixels(_size_in_header(data, name), options.max_pixels)
    try:
        return _decode(data, name, options)
    except TruncatedImageError:
        if not options.allow_truncated:
            raise
    return _decode(data, name, options, keep_truncated=True)


def decoded_bytes(data: bytes, options: DecodeOptions) -> int:
    """Memory in bytes that decoding a file will need, estimated from its header.

    For a TIFF this includes the memory for unpacking its samples, which may be many times the size of the pixels.

    Returns:
        The estimate; 0 if the header does not tell it, or exceeds a limit. `decode` may refuse the file all the same.
    """
    name = image_format(data)
    if name is None or len(data) > options.max_bytes:
        return 0
    _configure_pillow(options.max_pixels)
    unpacking = 0
    try:
        size = _size_in_header(data, name)
        _check_pixels(size, options.max_pixels)
        if name == "TIFF":
            tags = read_directory(io.BytesIO(data))
            size = declared_size(tags)
            layout = layout_of(tags, data)
            if layout is not None:
                refuse_large_blocks(layout, options.max_pixels)
                unpacking = unpacking_bytes(layout)
        elif name == "JPEG":
            size = jpeg_size(data)
        elif name != "PNG":
            with opener(name)(io.BytesIO(data)) as image:
                size = image.size
        _check_pixels(size, options.max_pixels)
    except Exception:  # noqa: BLE001 - Pillow raises any exception on hostile bytes, see `_decode`
        return 0
    width, height = reduced_size(size, scale_of(size, options.shortest_side) if name == "JPEG" else 1)
    return 3 * width * height + unpacking


def _decode(data: bytes, name: str, options: DecodeOptions, keep_truncated: bool = False) -> DecodedImage:
    """Decode a file of a known format; with `keep_truncated`, decode a truncated one as far as it goes."""
    # With an end marker, libjpeg fills in missing pixels itself.
    file = io.BytesIO(data + _JPEG_END if keep_truncated and name == "JPEG" else data)
    image: ImageFile.ImageFile | None = None
    size = png = None
    try:
        if name == "PNG":
            png = read_png(data)
            size = png.size
            image = open_png(png)
        elif name == "TIFF" and (decoded := _decode_samples(file, data, options, keep_truncated)) is not None:
            return decoded
        else:
            image = opener(name)(file)
            size = image.size
        _check_pixels(size, options.max_pixels)
        if name == "AVIF":
            refuse_cropped(data, size)
        # Truncated files are decoded at full size, so that `_is_flat` sees all pixels.
        scale = scale_of(size, options.shortest_side) if name == "JPEG" and not keep_truncated else 1
        return _finish(image, name, data, file, keep_truncated, scale, png)
    except DecodeError:
        raise
    # On hostile bytes Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error, KeyError, TypeError,
    # OverflowError, AssertionError and others. At this boundary, all of them mean that this one file is bad.
    except Exception as error:
        raise explain(error, data, name, image, size, file) from error


def _decode_samples(file: io.BytesIO, data: bytes, options: DecodeOptions, keep_truncated: bool) -> DecodedImage | None:
    """Decode a TIFF that is an array of samples; return None for one that Pillow decodes."""
    tags = read_directory(file)
    _refuse_camera_raw(tags, data)
    _check_pixels(declared_size(tags), options.max_pixels)
    try:
        layout = layout_of(tags, data)
        if layout is None:
            file.seek(0)
            return None
        refuse_large_blocks(layout, options.max_pixels)
        color, opacity = read_samples(layout, tags, data, keep_truncated)
    except CorruptImageError as error:
        if tiff_ends_early(tags, data):
            raise _truncated("TIFF", data, declared_size(tags)) from error
        raise
    if keep_truncated and _is_flat(color):
        raise _without_pixels("TIFF", data, color.size)
    xmp_holder = Image.new("L", (1, 1))  # lets Pillow look for an orientation in the XMP
    xmp_holder.info["xmp"] = tags.get(Tag.XMLPacket, b"")
    orientation = tags.get(Tag.Orientation, _orientation(xmp_holder))
    orientation = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else None
    stored = np.asarray(parts_to_rgb(color, opacity, profile_of(tags)))
    width, height = displayed_size(color.size, orientation)
    return DecodedImage(
        pixels=rotated(stored, orientation),
        height=height,
        width=width,
        window=(0, 0, width, height),
        exif_orientation=orientation,
        browser_orientation=browser_orientation("TIFF", orientation, None, None),
        frames=count_images(data),
    )


def _finish(
    image: ImageFile.ImageFile,
    name: str,
    data: bytes,
    file: io.BytesIO,
    keep_truncated: bool,
    scale: int,
    png: PngChunks | None,
) -> DecodedImage:
    """Load an opened image, convert its pixels to RGB, and rotate them."""
    # Read before loading: Pillow rotates a TIFF while it loads and drops the tag. Reading the EXIF of a PNG loads it.
    before = None if png is not None else _orientation(image)
    covered = image.tile[0][1] if name == "GIF" and image.tile else None
    size = image.size
    stored = read_pixels(image, data, scale) if name == "JPEG" and not keep_truncated else None
    if stored is not None:
        stored = srgb_pixels(stored, image.info.get("icc_profile"))
    else:
        if scale > 1:
            draft_at_scale(image, scale)
        _load(image, name, data, file, keep_truncated, png)
        stored = np.asarray(_rgb_of(image, covered) if png is None else png_rgb(image, png))
    after = _orientation(image)
    applied = before or after
    rows, columns = stored.shape[:2]
    if scale == 1:
        size = columns, rows  # Pillow rotates some TIFFs while loading, so their size is known only now
    width, height = displayed_size(size, after)
    exif = jpeg_exif(data) if name == "JPEG" else png.browser_exif if png is not None else None
    container = _container_orientation(image) if name == "AVIF" else None
    return DecodedImage(
        pixels=rotated(stored, after),
        height=height,
        width=width,
        window=window_of(size, (columns, rows), scale, after),
        exif_orientation=applied,
        browser_orientation=browser_orientation(name, applied, exif, container),
        frames=_frames(image) if png is None else png.frames,
    )


def _rgb_of(image: ImageFile.ImageFile, covered: tuple[int, int, int, int] | None) -> Image.Image:
    """Convert a loaded image to RGB. If the first frame of a GIF covers only part of its canvas, the rest is white."""
    rgb = to_rgb(image)
    if covered and covered != (0, 0, *rgb.size):
        rgb = on_white(rgb.crop(covered), rgb.size, covered)
    # A truncated TIFF with an orientation reports its displayed size, but its pixels are still as stored.
    return rgb if rgb.size == rgb.im.size else rgb.copy()


def _load(
    image: ImageFile.ImageFile, name: str, data: bytes, file: io.BytesIO, keep_truncated: bool, png: PngChunks | None
) -> None:
    """Load an opened image with Pillow."""
    if keep_truncated:
        _load_truncated(image, name, data, file)
        return
    image.load()
    if png is not None and not (png.ends and has_all_rows(image, png)):
        raise _truncated(name, data, png.size)


def _load_truncated(image: ImageFile.ImageFile, name: str, data: bytes, file: io.BytesIO) -> None:
    """Decode a truncated file as far as it goes.

    Pillow's own switch, `LOAD_TRUNCATED_IMAGES`, is not used: it is one global for all threads.
    """
    try:
        image.load()
    except Exception as error:  # any exception, see `_decode`; only those that truncation explains are accepted
        if not is_truncation(error, data, name, image, file):
            raise
        # An image without tiles left to decode counts as loaded. If the decoder produced no pixels, this fails.
        image.tile = []
        try:
            image.load()
        except Exception:  # noqa: BLE001
            raise error from None
    if _is_flat(image):
        raise _without_pixels(name, data, image.size)


def _truncated(name: str, data: bytes, size: tuple[int, int]) -> TruncatedImageError:
    return TruncatedImageError(f"the file is truncated ({describe_file(name, data, size)})")


def _without_pixels(name: str, data: bytes, size: tuple[int, int]) -> TruncatedImageError:
    return TruncatedImageError(f"the file is truncated before its first pixels ({describe_file(name, data, size)})")


def _is_flat(image: Image.Image) -> bool:
    """Whether all pixels are equal."""
    extrema = np.asarray(image.getextrema()).reshape(-1, 2)
    return bool((extrema[:, 0] == extrema[:, 1]).all())


def _orientation(image: Image.Image) -> int | None:
    """The EXIF (or XMP) orientation, 1..8, or None."""
    try:
        value = image.getexif().get(Tag.Orientation)
    except Exception:  # noqa: BLE001 - corrupt metadata of a valid image: Pillow's parser raises any exception
        return None
    return value if isinstance(value, int) and 1 <= value <= 8 else None


def _container_orientation(image: ImageFile.ImageFile) -> int | None:
    """The orientation in the container of an AVIF, which Pillow stores as the EXIF tag."""
    try:
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        value = exif.get(Tag.Orientation)
    except Exception:  # noqa: BLE001 - corrupt metadata of a valid image: Pillow's parser raises any exception
        return None
    return value if isinstance(value, int) and 1 <= value <= 8 else None


def _frames(image: ImageFile.ImageFile) -> int:
    """Number of images in the file, at least 1. Seeks to another frame, so call it last."""
    try:
        return max(1, int(getattr(image, "n_frames", 1)))
    except Exception:  # noqa: BLE001 - a corrupt later page is no reason to refuse the first
        return max(1, image.tell())


def _refuse_camera_raw(tags: Tags, data: bytes) -> None:
    """Refuse camera raw files: a raw file is a TIFF whose first image is a small preview, not the photo."""
    kind = tags.get(Tag.NewSubfileType, 0)
    is_preview = Tag.SubIFDs in tags and isinstance(kind, int) and kind & _IS_REDUCED
    if Tag.DNGVersion in tags or data[8:10] == b"CR" or is_preview:
        raise UnknownFormatError("camera raw files are not supported: convert to JPEG or TIFF")
    if isinstance(kind, int) and kind & _IS_REDUCED and count_images(data) > 1:
        raise UnknownFormatError(
            "unsupported TIFF variant: its first image is a reduced copy of another; "
            "save the full-size image first, or alone"
        )


def _size_in_header(data: bytes, name: str) -> tuple[int, int]:
    """Width and height of formats whose opening may allocate memory or fail; (0, 0) for others."""
    if name == "PNG" and data[12:16] == b"IHDR":
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if name == "AVIF":  # libavif gives no reason when it refuses more than 32,768 pixels per side
        return largest_item(data)
    if name == "GIF":
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if name == "WEBP" and data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    return 0, 0  # the two simple WebP variants have at most 16,383 pixels per side and are checked once open


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{width} x {height} is {width * height:,} pixels; the limit is {max_pixels:,} (--max-pixels)"
        )


def _configure_pillow(max_pixels: int) -> None:
    """Raise Pillow's pixel limit to ours, and keep its warnings about unusual files out of the log.

    Both settings are global. Each is only changed in one direction, so that threads cannot undo each other's changes:
    `warnings.catch_warnings` is not thread-safe.
    """
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    first = warnings.filters[0] if warnings.filters else None
    if not first or first[0] != "ignore" or getattr(first[3], "pattern", None) != _PILLOW_MODULES:
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES)
