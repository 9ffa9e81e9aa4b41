"""Endings of file names: which are pictures that are read here, which are pictures that are not, and why.

A file in a folder or glob is taken by its ending, upper or lower case. Those of `NOT_READ` are left out and never
sniffed: a camera raw file begins like the TIFF file that holds its preview. What any other file is, only its first
bytes tell, for which `--sniff` asks.
"""

from __future__ import annotations

from collections.abc import Mapping

# fmt: off
#: What counts as an image in a folder or glob; a file that turns out not to be readable becomes a failed row.
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

#: Pictures, drawings and films by their endings that are not read here, and what they are.
NOT_READ: Mapping[str, str] = {ending: what for what, endings in _NOT_READ.items() for ending in endings}

#: What often lies beside pictures and is none.
_COMPANIONS = frozenset({
    ".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".md", ".html", ".htm", ".css", ".js",
    ".parquet", ".pbtxt", ".xmp", ".aae", ".thm", ".db", ".ini", ".log", ".sh", ".py", ".ipynb", ".npy", ".npz", ".pkl",
    ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".md5", ".sha256", ".doc", ".docx", ".xls",
    ".xlsx", ".wav", ".mp3", ".m4a", ".geojson", ".kml", ".tfw", ".jgw", ".pgw", ".prj",
})
# fmt: on

#: What stands in a summary for files without an ending, with one too long to be one, and for names with a dot in front.
NO_ENDING, OTHER, HIDDEN = "(no extension)", "(other)", "(hidden)"

#: Endings that a message lists at most; `run.json` lists all.
_MOST_LISTED = 40


def describe_ignored(ignored: Mapping[str, int], sniffed: bool) -> str:
    """`.txt 8, .jxl 2 (JPEG XL, not read here); ...`: all endings left out, the most frequent first, and what helps.

    Args:
        ignored: Files left out, by ending, or by what stands for it.
        sniffed: Whether the first bytes of those that are not known were looked at.
    """
    by_count = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))
    listed = [
        f"{ending} {count:,}" + (f" ({NOT_READ[ending]}, not read here)" if ending in NOT_READ else "")
        for ending, count in by_count[:_MOST_LISTED]
    ]
    more = len(by_count) - len(listed)
    text = ", ".join(listed) + (f" and {more} other endings, see run.json" if more else "")
    unknown = sum(count for ending, count in ignored.items() if _is_unknown(ending))
    if unknown and not sniffed:
        text += f"; --sniff looks into the {unknown:,} whose endings say nothing"
    return text


def _is_unknown(ending: str) -> bool:
    has_name = ending.startswith(".") or ending in (NO_ENDING, OTHER)
    return has_name and ending not in NOT_READ and ending not in _COMPANIONS
