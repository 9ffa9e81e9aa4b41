"""Image formats, by file extension and by first bytes.

Files in folders and globs are selected by extension, in upper or lower case. Extensions in `NOT_READ` are skipped and
never opened: a camera raw file begins like the TIFF file that holds its preview. With `--sniff`, any other file is
identified by its first bytes.

Names and extensions can be wrong; the first bytes seldom are, so decoding relies on them alone. Only raster formats
with a plain decoder are supported. SVG, PDF and EPS are refused: Pillow would pass an EPS file to Ghostscript, which
executes the program in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# fmt: off
#: Extensions that count as images in a folder or glob. A file that cannot be read becomes a failed row.
IMAGE_EXTENSIONS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo",  # JPEG
    ".png", ".apng", ".gif", ".webp", ".bmp", ".dib",
    ".tif", ".tiff", ".btf", ".tf8",  # TIFF and BigTIFF
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx",  # JPEG 2000
    ".heic", ".heics", ".heif", ".heifs", ".hif", ".avif", ".avifs",
    ".psd", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".icb", ".vda", ".vst",
})

_NOT_READ = {
    "camera raw": (
        ".3fr", ".ari", ".arw", ".bay", ".cap", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".eip", ".erf", ".fff", ".gpr",
        ".iiq", ".k25", ".kdc", ".mdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".ptx", ".raf", ".raw",
        ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
    ),
    "JPEG XL": (".jxl",),
    "JPEG XR": (".jxr", ".hdp", ".wdp"),
    "JPEG XS": (".jxs",),
    "JPEG LS": (".jls",),
    "H.264 or VVC in HEIF": (".avci", ".avcs", ".vvic", ".vvis"),
    "high dynamic range": (".exr", ".hdr", ".rgbe", ".logluv"),
    "drawing": (".svg", ".svgz", ".eps", ".ps", ".ai", ".wmf", ".emf", ".cdr", ".dwg", ".dxf"),
    "document": (".pdf", ".djvu", ".djv", ".xps"),
    "large Photoshop": (".psb",),
    "image editor's own": (".xcf", ".kra", ".ora", ".afphoto", ".clip", ".pdn"),
    "icon": (".ico", ".cur", ".icns", ".ani"),
    "texture": (".dds", ".ktx", ".ktx2", ".basis", ".astc", ".pvr", ".vtf", ".blp"),
    "medical": (".dcm", ".dicom", ".nii", ".mha", ".mhd", ".nrrd"),
    "microscope": (".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".bif", ".czi", ".lif", ".nd2", ".oib", ".oif", ".lsm"),
    "scientific": (".fits", ".fit", ".fts", ".hdf", ".h5", ".grib", ".bufr"),
    "video or animation": (
        ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mts", ".m2ts",
        ".ts", ".ogv", ".mng", ".flc", ".fli", ".insv",
    ),
    "rare format": (
        ".pcx", ".dcx", ".pam", ".qoi", ".flif", ".bpg", ".sgi", ".rgb", ".rgba", ".bw", ".ras", ".sun", ".xbm", ".xpm",
        ".wbmp", ".pict", ".pct", ".pic", ".iff", ".lbm", ".jng", ".jbig", ".jbg", ".jb2", ".cin", ".dpx", ".pcd",
        ".msp", ".im", ".pxr", ".gbr", ".palm", ".mac", ".ecw", ".sid",
    ),
}

#: Extensions of images, drawings and videos that are not supported, each with the name of its kind.
NOT_READ: Mapping[str, str] = {extension: kind for kind, extensions in _NOT_READ.items() for extension in extensions}

#: Extensions of other files that often lie beside images.
_COMPANIONS = frozenset({
    ".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".md", ".html", ".htm", ".css", ".js",
    ".parquet", ".pbtxt", ".xmp", ".aae", ".thm", ".db", ".ini", ".log", ".sh", ".py", ".ipynb", ".npy", ".npz", ".pkl",
    ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".md5", ".sha256", ".doc", ".docx", ".xls",
    ".xlsx", ".wav", ".mp3", ".m4a", ".geojson", ".kml", ".tfw", ".jgw", ".pgw", ".prj",
})
# fmt: on

#: Extensions of TFRecord files.
TFRECORD_EXTENSIONS = (".tfrecord", ".tfrecords", ".tfrec", ".record")

#: Extensions of archives that are opened if a source names them.
ARCHIVES = frozenset((".tar", ".tgz", ".tzst", ".zip", *TFRECORD_EXTENSIONS))

#: Summary keys for files without an extension, with an unusable one (too long, unprintable), and with a leading dot.
NO_EXTENSION, OTHER, HIDDEN = "(no extension)", "(other)", "(hidden)"

#: Most extensions that a message lists; `run.json` lists all of them.
_MOST_LISTED = 40


def extension_of(path: str) -> str:
    """The extension in lower case with its dot; `""` if there is none, `(other)` if it is too long or unprintable."""
    name = path.rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    if not dot or not stem:
        return ""
    return "." + extension.lower() if len(extension) <= 10 and extension.isprintable() else OTHER


def describe_ignored(ignored: Mapping[str, int], sniffed: bool) -> str:
    """Describe ignored files by extension, most frequent first: `.txt 8, .jxl 2 (JPEG XL, not supported); ...`.

    Args:
        ignored: Number of ignored files by extension, or by the key that stands for it.
        sniffed: Whether files with unknown extensions were identified by their first bytes. If not, the text
            recommends `--sniff` for them.
    """
    by_count = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))
    listed = [
        f"{extension} {count:,}" + (f" ({NOT_READ[extension]}, not supported)" if extension in NOT_READ else "")
        for extension, count in by_count[:_MOST_LISTED]
    ]
    more = len(by_count) - len(listed)
    text = ", ".join(listed) + (f" and {more} other extensions, see run.json" if more else "")
    if (archives := next((extension for extension, _ in by_count if extension in ARCHIVES), None)) is not None:
        text += (
            f"; to read the images in archives, name these: FOLDER/*{archives}{'*' * (archives in TFRECORD_EXTENSIONS)}"
        )
    unknown = sum(count for extension, count in ignored.items() if _is_unknown(extension))
    if unknown and not sniffed:
        text += f"; use --sniff to identify the {unknown:,} with unknown extensions by their content"
    return text


def _is_unknown(extension: str) -> bool:
    can_be_image = extension.startswith(".") or extension in (NO_EXTENSION, OTHER)
    return can_be_image and extension not in NOT_READ and extension not in _COMPANIONS | ARCHIVES


# --- by the bytes -----------------------------------------------------------------------------------------------------

#: First bytes of supported formats, with Pillow's names. AVIF, HEIF, WebP, BMP, PPM and TGA need more than a prefix.
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
#: Number of leading bytes of an AVIF or HEIF file that are searched for descriptions of its images.
ITEMS_WITHIN = 1 << 16

_BMP_HEADER_BYTES = {12, 16, 40, 52, 56, 64, 108, 124}
_TGA_FOOTER = b"TRUEVISION-XFILE.\x00"

#: First bytes of other files that are often found in place of an image.
_OTHER_SIGNATURES = (
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
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (b"qoif", "a QOI image"),
    (b"DDS ", "a DDS texture"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"SIMPLE  =", "a FITS image"),
    (b"FUJIFILMCCD-RAW", "a camera raw file"),
    (b"IIU\x00", "a camera raw file"),
    (b"\x00\x00\x01\x00", "a Windows icon"),
    (b"\x00\x00\x02\x00\x01", "a Windows cursor"),
    (b"II\xbc\x01", "a JPEG XR image"),
    (b"gimp xcf", "a GIMP document"),
    (b"\x8aMNG", "an MNG animation"),
    (b"\x8bJNG", "a JNG image"),
    (b"FLIF", "a FLIF image"),
    (b"BPG\xfb", "a BPG image"),
    (b"\x0a\x05\x01", "a PCX image"),
    (b"icns", "an Apple icon"),
)


_USUAL_EXTENSIONS = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "GIF": ".gif",
    "TIFF": ".tif",
    "JPEG2000": ".jp2",
    "PSD": ".psd",
    "WEBP": ".webp",
    "AVIF": ".avif",
    "HEIF": ".heic",
    "BMP": ".bmp",
    "PPM": ".ppm",
    "TGA": ".tga",
}


def image_format(data: bytes) -> str | None:
    """Identify the format of a file by its bytes.

    Returns:
        Pillow's name of the format, or None for one that is not supported.
    """
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
    # TGA has its signature at the end. The older version, which has none, is not accepted: any file could pass for it.
    if data.endswith(_TGA_FOOTER):
        return "TGA"
    return None


def extension_of_content(data: bytes) -> str:
    """The extension for an image with these bytes, `""` if its format is not supported."""
    return _USUAL_EXTENSIONS.get(image_format(data) or "", "")


def _iso_media_format(data: bytes) -> str | None:
    """Tell AVIF from HEIF: both are brands of the MP4 container. The major brand counts before the compatible ones."""
    length = min(int.from_bytes(data[:4], "big"), 1024)
    major = data[8:12]
    brands = {data[i : i + 4] for i in range(16, length, 4)} | {major}
    if major in _RAW_BRANDS:
        return None
    if major in _AVIF_BRANDS or (major not in _HEVC_BRANDS and brands & _AVIF_BRANDS):
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None


def largest_item(data: bytes) -> tuple[int, int]:
    """Width and height of the largest image that an AVIF header declares, or (0, 0) if it declares none."""
    sizes = re.findall(rb"ispe\0{4}(.{4})(.{4})", data[:ITEMS_WITHIN], re.DOTALL)
    declared = [(int.from_bytes(width, "big"), int.from_bytes(height, "big")) for width, height in sizes]
    return max(declared, key=lambda size: size[0] * size[1], default=(0, 0))


def describe_content(data: bytes) -> str:
    """Describe the content of a file that is not a supported image, for an error message."""
    for signature, description in _OTHER_SIGNATURES:
        if data.startswith(signature):
            return description
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
    """Describe text, or return None for binary data."""
    head = data[:1024]
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # otherwise `head` only ends inside a character
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
    line = " ".join(text.split())
    if not line:
        return "blank text"
    kind = "JSON text" if lower.startswith(("{", "[")) else "text"
    return f"{kind} beginning with {line[:40]!r}"
