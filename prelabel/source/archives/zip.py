"""ZIP archives, listed by the directory at their end.

The directory names the files and where they lie; a header of variable length precedes each file. Archives and files of
more than 4 GB (ZIP64) are read. Split archives are refused, and encrypted files are counted as ignored.

The location of a file is `OFFSET+COMPRESSED:METHOD:SIZE:CRC`: of its header, the bytes after it, the method by which
they are compressed (0 for none, 8 for deflate), and size and checksum (hexadecimal) of the file.
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prelabel.errors import FetchError
from prelabel.source.archives.base import ArchiveFormat, Member, reads_on, unicode_name
from prelabel.source.archives.ranges import RandomFile, read_patiently
from prelabel.source.file_checks import too_large
from prelabel.storage.retries import PATIENT_ATTEMPTS, retry

#: The fixed parts of the end, of its ZIP64 locator, of the ZIP64 end, of an entry of the directory, of a file's header.
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_HEADER = struct.Struct("<4s5H3I2H")

#: A comment of up to this many bytes may follow the end.
_LONGEST_COMMENT = 0xFFFF

#: Longest directory, in bytes, for more than a million files. It is held in memory while it is listed.
_LONGEST_DIRECTORY = 1 << 28

_STORED, _DEFLATED = 0, 8
_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}

_ENCRYPTED, _UTF_8 = 0x1, 0x800
_IN_ZIP64 = 0xFFFFFFFF

_LOCATION = re.compile(r"(\d{1,19})\+(\d{1,19}):(\d{1,5}):(\d{1,19}):([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of the directory, as far as it is needed.

    Attributes:
        mode: Kind and permissions of the file as Unix has them; 0 if the archive was made elsewhere.
        offset: Where the file's header lies.
        end: Where the next entry begins in the directory.
    """

    name: bytes
    flags: int
    method: int
    mode: int
    crc: int
    plain: int
    compressed: int
    offset: int
    end: int


def members(file: RandomFile, _: str | None = None) -> Iterator[Member]:
    """As in `ArchiveFormat`."""
    start, size, shift = _directory(file)
    if size > _LONGEST_DIRECTORY:
        raise FetchError(f"its directory has {size:,} bytes; at most {_LONGEST_DIRECTORY:,} are read")
    directory = read_patiently(file, start, size)
    places: list[tuple[int, int]] = []
    place = 0
    while place + _ENTRY.size <= len(directory) and directory.startswith(b"PK\x01\x02", place):
        entry = _entry(directory, place)
        if entry.end > len(directory):
            break  # its name or its offset would be cut off
        places.append((entry.offset, place))
        place = entry.end
    # Some programs sort the directory. In that order, each image would cost a request.
    for _offset, listed_at in sorted(places):
        entry = _entry(directory, listed_at)
        if entry.name.endswith(b"/"):
            continue
        problem = "(link)" if stat.S_ISLNK(entry.mode) else "(encrypted)" if entry.flags & _ENCRYPTED else ""
        location = f"{entry.offset + shift}+{entry.compressed}:{entry.method}:{entry.plain}:{entry.crc:08x}"
        yield Member(_text(entry), entry.plain, "" if problem else location, problem)
    if place < size:
        raise FetchError(f"its directory is damaged at byte {start + place:,}")


def _entry(directory: bytes, place: int) -> _Entry:
    fields = _ENTRY.unpack_from(directory, place)
    name_length, extra_length, comment_length = fields[10:13]
    name_end = place + _ENTRY.size + name_length
    extra_end = name_end + extra_length
    plain, compressed, offset = _sizes_of_64(directory[name_end:extra_end], fields[9], fields[8], fields[16])
    return _Entry(
        name=directory[place + _ENTRY.size : name_end],
        flags=fields[3],
        method=fields[4],
        mode=fields[15] >> 16,
        crc=fields[7],
        plain=plain,
        compressed=compressed,
        offset=offset,
        end=extra_end + comment_length,
    )


def _text(entry: _Entry) -> str:
    """The name of a file. Without a flag it should be in code page 437, but macOS and Info-ZIP write UTF-8."""
    if not entry.flags & _UTF_8:
        try:
            return entry.name.decode()
        except UnicodeDecodeError:
            return entry.name.decode("cp437")
    return unicode_name(entry.name)


def _directory(file: RandomFile) -> tuple[int, int, int]:
    """Offset and size of the directory, and what must be added to the offsets in it."""
    size = retry(lambda: file.size, attempts=PATIENT_ATTEMPTS)
    tail_start = max(0, size - _END.size - _LONGEST_COMMENT - _LOCATOR.size)
    tail = read_patiently(file, tail_start, size - tail_start)
    place = len(tail) - _END.size
    while (place := tail.rfind(b"PK\x05\x06", 0, place + 4)) >= 0:
        if place + _END.size <= len(tail):
            end = _END.unpack_from(tail, place)
            if place + _END.size + end[7] <= len(tail):
                break
        place -= 1
    if place < 0:
        raise FetchError("it is not a ZIP archive, or its end is cut off")
    disk, directory_disk, length, offset = end[1], end[2], end[5], end[6]
    directory_end = tail_start + place
    if place >= _LOCATOR.size and tail[place - _LOCATOR.size : place - _LOCATOR.size + 4] == b"PK\x06\x07":
        end_64_offset = _LOCATOR.unpack_from(tail, place - _LOCATOR.size)[2]
        data = read_patiently(file, end_64_offset, _END_64.size)
        if len(data) < _END_64.size or data[:4] != b"PK\x06\x06":
            raise FetchError("its end is damaged (ZIP64)")
        end_64 = _END_64.unpack(data)
        disk, directory_disk, length, offset = end_64[4], end_64[5], end_64[8], end_64[9]
        directory_end = end_64_offset
    if disk or directory_disk:
        raise FetchError("it is a part of a split archive: join the parts first")
    start = directory_end - length
    # A program before the archive, as in a self-extracting one, moves everything.
    if start < 0 or start < offset:
        raise FetchError("its end is damaged: the directory does not fit into the file")
    return start, length, start - offset


def _sizes_of_64(extra: bytes, plain: int, compressed: int, offset: int) -> tuple[int, int, int]:
    """Both sizes and the offset, which stand in an additional field if they do not fit into 32 bits."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        values = extra[4 : 4 + length]
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{len(values) // 8}Q", values))
            present = (plain, compressed, offset)
            plain, compressed, offset = (next(numbers, n) if n == _IN_ZIP64 else n for n in present)
            break
        extra = extra[4 + length :]
    return plain, compressed, offset


class _OpenZip:
    def __init__(self, file: RandomFile, attempts: int) -> None:
        self._file = file

    def read(self, location: str, max_bytes: int, on_bytes: Callable[[int], None]) -> bytes:
        match = _LOCATION.fullmatch(location)
        if match is None:
            raise FetchError(f"the plan's location {location[:80]!r} is not a location in a ZIP archive")
        offset, compressed, method, plain = map(int, match.groups()[:4])
        if method not in (_STORED, _DEFLATED):
            raise FetchError(f"compressed with {_METHODS.get(method, f'method {method}')}, which is not supported")
        if max(compressed, plain) > max_bytes:
            raise too_large(max(compressed, plain), max_bytes)
        self._file.on_bytes = on_bytes
        header = self._file.read_at(offset, _HEADER.size)
        if len(header) < _HEADER.size or header[:4] != b"PK\x03\x04":
            raise FetchError(f"its archive is damaged: there is no header at byte {offset:,}")
        fields = _HEADER.unpack(header)
        data = self._file.read_at(offset + _HEADER.size + fields[9] + fields[10], compressed)
        if method == _DEFLATED:
            decoder = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
            try:
                data = decoder.decompress(data, plain + 1)
            except zlib.error as error:
                raise FetchError(f"damaged in its archive ({error})") from None
        if len(data) != plain or zlib.crc32(data) != int(match[5], 16):
            raise FetchError("damaged in its archive: its checksum or its size is wrong")
        return data

    def close(self) -> None:
        self._file.close()


ZIP = ArchiveFormat("zip", members, _OpenZip, reads_on)
