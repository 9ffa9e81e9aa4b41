"""What a file is, told from its bytes: an image format read here, or a description of what it looks like instead.

Names and extensions lie; the first bytes seldom do. Only raster formats with a plain decoder are on the list: SVG, PDF
and EPS are refused, since Pillow would hand an EPS file to Ghostscript, a program that runs what the file says.
"""

from __future__ import annotations

import re

#: First bytes of the formats read here, with Pillow's names. AVIF, HEIF, WebP, BMP, PPM and TGA need a second look.
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),  # BigTIFF
    (b"MM\x00+", "TIFF"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),  # a bare codestream
    (b"8BPS", "PSD"),
)

_AVIF_BRANDS = {b"avif", b"avis"}
_HEVC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEIF_BRANDS = _HEVC_BRANDS | {b"mif1", b"msf1", b"mif2"}
_RAW_BRANDS = {b"crx "}
#: How far into an AVIF its pictures are described.
_ITEMS_WITHIN = 1 << 16

_BMP_HEADER_BYTES = {12, 16, 40, 52, 56, 64, 108, 124}
_TGA_FOOTER = b"TRUEVISION-XFILE.\x00"

#: First bytes of what is often found in the place of a picture.
_STRANGERS = (
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript or EPS document"),
    (b"\xc5\xd0\xd3\xc6", "an EPS document"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "Zstandard-compressed data"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"OggS", "an Ogg recording"),
    (b"ID3", "an MP3 recording"),
    (b"PAR1", "a Parquet file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (b"qoif", "a QOI picture"),
    (b"DDS ", "a DDS texture"),
    (b"v/1\x01", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance HDR picture"),
    (b"SIMPLE  =", "a FITS picture"),
    (b"FUJIFILMCCD-RAW", "a camera raw file"),
    (b"IIU\x00", "a camera raw file"),
    (b"\x00\x00\x01\x00", "a Windows icon"),
    (b"\x00\x00\x02\x00\x01", "a Windows cursor"),
    (b"II\xbc\x01", "a JPEG XR picture"),
    (b"gimp xcf", "a GIMP document"),
    (b"\x8aMNG", "an MNG animation"),
    (b"\x8bJNG", "a JNG picture"),
    (b"FLIF", "a FLIF picture"),
    (b"BPG\xfb", "a BPG picture"),
    (b"\x0a\x05\x01", "a PCX picture"),
    (b"icns", "an Apple icon"),
)


def image_format(data: bytes) -> str | None:
    """Pillow's name of the format these bytes begin like, or None where it is none of those read here."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _iso_media_format(data)
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    if re.match(rb"P[1-6f](#|\s+[\d#])", data):
        return "PPM"
    # TGA has no signature at its beginning, and the old kind has none at all: anything would pass for it.
    if data.endswith(_TGA_FOOTER):
        return "TGA"
    return None


def _iso_media_format(data: bytes) -> str | None:
    """AVIF and HEIF are brands of the MP4 container: the major one, or else those the file is compatible with."""
    length = min(int.from_bytes(data[:4], "big"), 1024)
    major = data[8:12]
    brands = {data[i : i + 4] for i in range(16, length, 4)} | {major}
    if major in _RAW_BRANDS:
        return None
    if major in _AVIF_BRANDS or (major not in _HEVC_BRANDS and brands & _AVIF_BRANDS):
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None


def largest_item(data: bytes) -> tuple[int, int]:
    """Width and height of the largest picture that an AVIF states before its pixels; (0, 0) where it states none."""
    sizes = re.findall(rb"ispe\0{4}(.{4})(.{4})", data[:_ITEMS_WITHIN], re.DOTALL)
    stated = [(int.from_bytes(width, "big"), int.from_bytes(height, "big")) for width, height in sizes]
    return max(stated, key=lambda size: size[0] * size[1], default=(0, 0))


def looks_like(data: bytes) -> str:
    """A few words on bytes that are no image read here, for the person who wonders why."""
    for signature, words in _STRANGERS:
        if data.startswith(signature):
            return words
    if data[4:8] == b"ftyp":
        return "a camera raw file" if data[8:12] in _RAW_BRANDS else "an MP4 or QuickTime video"
    if data[:4] == b"RIFF":
        return "an AVI video or a WAV recording"
    if data[128:132] == b"DICM":
        return "a DICOM file"
    if not data.strip(b"\x00"):
        return "nothing but zero bytes"
    return _text_looks_like(data) or f"unknown data beginning with {data[:8].hex(' ')}"


def _text_looks_like(data: bytes) -> str | None:
    """A few words on text, or None for binary data."""
    head = data[:1024]
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else only the last character was cut in two
            return None
        text = head[: error.start].decode("utf-8-sig")
    if re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text):
        return None
    lower = text.lstrip().lower()
    if "<svg" in lower:
        return "an SVG drawing"
    if lower.startswith(("<!doctype html", "<html")) or "<html" in lower:
        return "an HTML page"
    if lower.startswith("<?xml"):
        return "an XML document"
    shown = " ".join(text.split())
    if not shown:
        return "blank text"
    kind = "JSON text" if lower.startswith(("{", "[")) else "text"
    return f"{kind} beginning with {shown[:40]!r}"
