"""Small files with an orientation in every place and form, with the orientation applied here and by browsers.

`files()` names each: the file, the orientation that prelabel applies (Pillow's `exif_transpose`, None where it sees
none), and the one that Chromium applies. The latter were seen in Chromium 156; `tests/tools/test_browser_frames.py`
looks again.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32
RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)

SHORT, LONG = 3, 4
EXIF = b"Exif\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"


def stored() -> Image.Image:
    """48 x 32, each quarter in a different color, so that all rotations and flips differ."""
    pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:16, :24], pixels[:16, 24:], pixels[16:, :24], pixels[16:, 24:] = RED, GREEN, BLUE, BLACK
    return Image.fromarray(pixels)


def save(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    stored().save(file, kind, **options)
    return file.getvalue()


# --- EXIF and XMP -----------------------------------------------------------------------------------------------------


def entry(order: str, tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")


def directory(*entries: bytes, order: str = "<", count: int | None = None, behind: bytes = bytes(4)) -> bytes:
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return head + struct.pack(order + "H", len(entries) if count is None else count) + b"".join(entries) + behind


def exif(orientation: int, kind: int = SHORT, count: int = 1, order: str = "<", **more: Any) -> bytes:
    code = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I"}[kind]
    value = struct.pack(order + code * max(count, 1), *[orientation] * max(count, 1))
    return directory(entry(order, 274, kind, count, value), order=order, **more)


SOFTWARE = entry("<", 305, 2, 4, b"abc\0")
ORIENTED_6, ORIENTED_3 = (entry("<", 274, SHORT, 1, struct.pack("<H", value)) for value in (6, 3))

#: EXIF data, the orientation that Pillow reads, and the one that Chromium applies.
EXIF_KINDS: dict[str, tuple[bytes, int | None, int]] = {
    **{f"value {value}": (exif(value), value, value) for value in range(1, 9)},
    **{f"value {value}": (exif(value), None, 1) for value in (0, 9, 65535)},
    "big-endian": (exif(6, order=">"), 6, 6),
    **{f"{name} {order}": (exif(6, kind, order=order), applied, 1)
       for name, kind, applied in (("byte", 1, None), ("ascii", 2, None), ("long", 4, 6), ("sbyte", 6, 6),
                                   ("undefined", 7, None), ("sshort", 8, 6), ("slong", 9, 6), ("ifd", 13, 6))
       for order in "<>"},
    "no value": (exif(6, count=0), None, 1),
    "two values": (exif(6, count=2), 6, 1),
    "two entries": (directory(ORIENTED_6, ORIENTED_3), 6, 6),
    "a value of nothing, then one": (directory(entry("<", 274, SHORT, 1, b"\0\0"), ORIENTED_6), None, 6),
    "a long, then a short": (directory(entry("<", 274, LONG, 1, b"\6\0\0\0"), ORIENTED_3), 6, 3),
    "not in order": (directory(SOFTWARE, ORIENTED_6, SOFTWARE), 6, 6),
    "no offset of a next directory": (exif(6)[:-4], 6, 6),
    "a cut entry": (exif(6)[:-6], None, 1),
    "more entries claimed": (directory(ORIENTED_6, count=50), 6, 6),
    "a broken entry before": (directory(entry("<", 271, 2, 5000, struct.pack("<I", 9999)), ORIENTED_6), 6, 6),
    "in the second directory": (
        directory(SOFTWARE, behind=struct.pack("<I", 26)) + struct.pack("<H", 1) + ORIENTED_6 + bytes(4), None, 1),
    "in the EXIF directory": (
        directory(entry("<", 0x8769, LONG, 1, struct.pack("<I", 26))) + struct.pack("<H", 1) + ORIENTED_6 + bytes(4),
        None, 6),
    "nothing": (directory(), None, 1),
    "wrong magic": (exif(6).replace(b"II*", b"II+"), None, 1),
    "wrong byte order": (exif(6).replace(b"II*", b"XX*"), None, 1),
}  # fmt: skip


def xmp(orientation: int) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        f'tiff:Orientation="{orientation}"/></rdf:RDF></x:xmpmeta>'
    ).encode()


# --- JPEG -------------------------------------------------------------------------------------------------------------

JPEG = save("JPEG", quality=95, subsampling=0)
PROGRESSIVE = save("JPEG", quality=95, subsampling=0, progressive=True)


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg(*bodies: bytes, marker: int = 0xE1, at: int = 2, base: bytes = JPEG) -> bytes:
    """A JPEG with segments inserted."""
    return base[:at] + b"".join(segment(marker, body) for body in bodies) + base[at:]


def _jpegs() -> dict[str, tuple[bytes, int | None, int]]:
    six, upright, other = EXIF + exif(6), EXIF + exif(1), EXIF + directory(SOFTWARE)
    behind_jfif = 4 + struct.unpack(">H", JPEG[4:6])[0]
    second_scan = PROGRESSIVE.index(b"\xff\xc4", PROGRESSIVE.index(b"\xff\xda"))
    multi = io.BytesIO()
    stored().save(multi, "MPO", save_all=True, append_images=[stored().rotate(180)], exif=six, quality=95)
    return {
        **{name: (jpeg(EXIF + data), *rest) for name, (data, *rest) in EXIF_KINDS.items()},
        "two segments": (jpeg(six, EXIF + exif(3)), 6, 6),
        "a segment without, then one": (jpeg(other, six), None, 1),
        "a broken segment, then one": (jpeg(EXIF + b"junkjunkjunk", six), None, 1),
        "an empty segment, then one": (jpeg(EXIF, six), 6, 6),
        "a segment of one byte, then one": (jpeg(EXIF + b"I", six), None, 1),
        "behind JFIF": (jpeg(six, at=behind_jfif), 6, 6),
        "behind junk": (JPEG[:behind_jfif] + b"\0\0\0" + segment(0xE1, six) + JPEG[behind_jfif:], 6, 6),
        "behind filling bytes": (JPEG[:2] + b"\xff\xff" + segment(0xE1, six) + JPEG[2:], 6, 6),
        "behind the frame": (jpeg(six, at=JPEG.index(b"\xff\xda")), 6, 6),
        "behind the pixels": (jpeg(six, at=len(JPEG) - 2), None, 1),
        "behind the end": (JPEG + segment(0xE1, six), None, 1),
        "progressive": (jpeg(six, base=PROGRESSIVE), 6, 6),
        "between two scans": (jpeg(six, base=PROGRESSIVE, at=second_scan), None, 1),
        "several pictures": (multi.getvalue(), 6, 6),
        "padded with ff": (jpeg(b"Exif\0\xff" + exif(6)), None, 6),
        "no padding": (jpeg(b"Exif\0" + exif(6)), None, 1),
        "a doubled head": (jpeg(EXIF + EXIF + exif(6)), 6, 1),
        "in APP0": (jpeg(six, marker=0xE0), None, 1),
        "in APP2": (jpeg(six, marker=0xE2), None, 1),
        "XMP": (jpeg(XMP + xmp(6)), 6, 1),
        "XMP 3, EXIF 6": (jpeg(XMP + xmp(3), six), 6, 6),
        "EXIF 6, XMP 3": (jpeg(six, XMP + xmp(3)), 6, 6),
        "EXIF 1, XMP 6": (jpeg(upright, XMP + xmp(6)), 1, 1),
        "EXIF without, XMP 6": (jpeg(other, XMP + xmp(6)), 6, 1),
    }


# --- PNG --------------------------------------------------------------------------------------------------------------

PNG = save("PNG")
_PIXELS, _END = PNG.index(b"IDAT") - 4, PNG.index(b"IEND") - 4


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def spoiled(data: bytes) -> bytes:
    """A chunk with a wrong checksum."""
    return data[:-1] + bytes([data[-1] ^ 1])


def png(before: bytes = b"", behind: bytes = b"") -> bytes:
    """A PNG with chunks before and after its pixels."""
    return PNG[:_PIXELS] + before + PNG[_PIXELS:_END] + behind + PNG[_END:]


def frame_control(number: int, width: int = WIDTH, height: int = HEIGHT, x: int = 0, y: int = 0) -> bytes:
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, x, y, 60000, 1, 0, 0))


def _pngs() -> dict[str, tuple[bytes, int | None, int]]:
    six, three = chunk(b"eXIf", exif(6)), chunk(b"eXIf", exif(3))
    raw = b"\nexif\n%8d\n%s\n" % (len(EXIF + exif(6)), (EXIF + exif(6)).hex().encode())
    pixels = PNG[_PIXELS + 8 : _END - 4]
    xmp_6, xmp_3 = (chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(value)) for value in (6, 3))
    shown_later = frame_control(0) + chunk(b"fdAT", struct.pack(">I", 1) + pixels)
    return {
        **{name: (png(chunk(b"eXIf", data)), *rest) for name, (data, *rest) in EXIF_KINDS.items()},
        "with the head of a JPEG": (png(chunk(b"eXIf", EXIF + exif(6))), 6, 1),
        "two chunks": (png(six + three), 3, 6),
        "a chunk of nothing, then one": (png(chunk(b"eXIf", exif(0)) + six), 6, 1),
        "a bad check sum": (png(spoiled(six)), None, 1),
        "a bad check sum, then one": (png(spoiled(six) + three), 3, 3),
        "behind the pixels": (png(behind=six), 6, 1),
        "before and behind": (png(six, three), 3, 6),
        "XMP": (png(xmp_6), 6, 1),
        "compressed XMP": (png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(6)))), 6, 1),
        "XMP behind the pixels": (png(behind=xmp_6), 6, 1),
        "XMP 3, EXIF 6": (png(xmp_3 + six), 6, 6),
        "EXIF 1, XMP 6": (png(chunk(b"eXIf", exif(1)) + xmp_6), 1, 1),
        "raw profile": (png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw))), 6, 1),
        "raw profile as text": (png(chunk(b"tEXt", b"Raw profile type exif\0" + raw)), 6, 1),
        "animated": (png(chunk(b"acTL", struct.pack(">II", 1, 0)) + frame_control(0) + six), 6, 6),
        "animated, before a later first frame": (
            png(chunk(b"acTL", struct.pack(">II", 1, 0)), six + shown_later), 6, 1),
    }  # fmt: skip


# --- AVIF and others --------------------------------------------------------------------------------------------------


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def _inside(data: bytes, *path: bytes) -> bytes:
    """The body of a box within boxes."""
    for kind in path:
        at = data.index(kind)
        data = data[at + 4 : at - 4 + int.from_bytes(data[at - 4 : at], "big")]
    return data


def irot(angle: int) -> bytes:
    return box(b"irot", bytes([angle]))


def imir(axis: int) -> bytes:
    return box(b"imir", bytes([axis]))


def avif(*transforms: bytes, exif_data: bytes | None = None, xmp_data: bytes | None = None) -> bytes:
    """An AVIF assembled around pixels encoded by Pillow."""
    plain = save("AVIF", quality=95, subsampling="4:4:4")
    ipco, rest = [], _inside(plain, b"ipco")
    while rest:
        length = int.from_bytes(rest[:4], "big")
        ipco.append(rest[:length])
        rest = rest[length:]
    ipco += transforms
    essential = (b"av1C", b"irot", b"imir", b"clap")
    associated = bytes(number | 0x80 * (part[4:8] in essential) for number, part in enumerate(ipco, 1))
    items = [(b"av01", b"", _inside(plain, b"mdat"))]
    if exif_data is not None:
        items.append((b"Exif", b"", bytes(4) + exif_data))
    if xmp_data is not None:
        items.append((b"mime", b"application/rdf+xml\0", xmp_data))
    infe = b"".join(
        box(b"infe", b"\2\0\0\0" + struct.pack(">HH", number, 0) + kind + b"\0" + more)
        for number, (kind, more, _) in enumerate(items, 1)
    )
    links = b"".join(box(b"cdsc", struct.pack(">HHH", number, 1, 1)) for number in range(2, len(items) + 1))
    ftyp = box(b"ftyp", b"avif\0\0\0\0avifmif1miafMA1A")

    def meta(at: int) -> bytes:
        places = b""
        for number, (_, _, body) in enumerate(items, 1):
            places += struct.pack(">HHHII", number, 0, 1, at, len(body))
            at += len(body)
        return box(
            b"meta",
            bytes(4)
            + box(b"hdlr", bytes(8) + b"pict" + bytes(13))
            + box(b"pitm", b"\0\0\0\0\0\1")
            + box(b"iloc", b"\0\0\0\0\x44\0" + struct.pack(">H", len(items)) + places)
            + box(b"iinf", struct.pack(">IH", 0, len(items)) + infe)
            + (box(b"iref", bytes(4) + links) if links else b"")
            + box(b"iprp", box(b"ipco", b"".join(ipco))
                  + box(b"ipma", struct.pack(">IIHB", 0, 1, 1, len(ipco)) + associated)),
        )  # fmt: skip

    head = ftyp + meta(len(ftyp) + len(meta(0)) + 8)
    return head + box(b"mdat", b"".join(body for _, _, body in items))


def _avifs() -> dict[str, tuple[bytes, int | None, int]]:
    turns = {(0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6, (None, 0): 4, (None, 1): 2, (1, 0): 5, (1, 1): 7,
             (2, 0): 2, (2, 1): 4, (3, 0): 7, (3, 1): 5}  # fmt: skip
    files: dict[str, tuple[bytes, int | None, int]] = {}
    for (angle, axis), value in turns.items():
        transforms = [*([] if angle is None else [irot(angle)]), *([] if axis is None else [imir(axis)])]
        files[f"irot {angle}, imir {axis}"] = avif(*transforms), None if value == 1 else value, value
    return files | {
        "EXIF alone": (avif(exif_data=exif(6)), 1, 1),
        "EXIF 6, irot 3": (avif(irot(3), exif_data=exif(6)), 6, 6),
        "EXIF 3, irot 3": (avif(irot(3), exif_data=exif(3)), 6, 6),
        "EXIF 6 as a long, irot 3": (avif(irot(3), exif_data=exif(6, LONG)), 6, 6),
        "EXIF 6, imir 0": (avif(imir(0), exif_data=exif(6)), 4, 4),
        "XMP": (avif(xmp_data=xmp(6)), 6, 1),
        "XMP 6, irot 2": (avif(irot(2), xmp_data=xmp(6)), 3, 3),
        "by Pillow": (save("AVIF", quality=95, subsampling="4:4:4", exif=EXIF + exif(6)), 6, 6),
    }


def _others() -> dict[str, tuple[bytes, int | None, int]]:
    animated = {"lossless": True, "save_all": True, "append_images": [stored().rotate(180)], "duration": 60_000}
    gif = save("GIF")
    colors = 13 + 3 * (2 << (gif[10] & 7))
    trailer = bytes([1, *range(255, -1, -1), 0])
    gif_xmp = b"GIF89a" + gif[6:colors] + b"\x21\xff\x0bXMP DataXMP" + xmp(6) + trailer + gif[colors:]
    return {
        "exif.webp": (save("WEBP", lossless=True, exif=EXIF + exif(6)), 6, 1),
        "xmp.webp": (save("WEBP", lossless=True, xmp=xmp(6)), 6, 1),
        "animated.webp": (save("WEBP", **animated, exif=EXIF + exif(6)), 6, 1),
        "xmp.gif": (gif_xmp, None, 1),
        "plain.bmp": (save("BMP"), None, 1),
    }


def files(*, with_avif: bool = True) -> dict[str, tuple[bytes, int | None, int]]:
    """Name to file, orientation applied here, orientation that browsers apply."""
    made = {f"{name}.jpg": file for name, file in _jpegs().items()}
    made |= {f"{name}.png": file for name, file in _pngs().items()} | _others()
    return made | ({f"{name}.avif": file for name, file in _avifs().items()} if with_avif else {})
