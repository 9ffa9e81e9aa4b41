"""Tar archives, as WebDataset writes them, also compressed as a whole.

A header of 512 bytes precedes each file. Long names stand in additional members before it: those of GNU tar (`L`) or
of POSIX (`x`, `g`). A listing needs only the headers; what lies between is skipped, or received and dropped if it is
small.

The location of a file is `OFFSET+SIZE`, or `gzip:OFFSET+SIZE` in the decompressed archive.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator

from prelabel.errors import FetchError
from prelabel.source.archives.base import ArchiveFormat, Member, reads_on, unicode_name
from prelabel.source.archives.compressed import compression_of, decompressed
from prelabel.source.archives.ranges import RandomFile, read_patiently
from prelabel.source.file_checks import too_large
from prelabel.storage.retries import PATIENT_ATTEMPTS

_BLOCK = 512

#: Largest additional member with a name, in bytes. Longer ones are no names.
_LONGEST_HEADER = 1 << 20

#: Bytes behind the mark of the end that are searched for another archive: tar pads archives to a multiple of 10 kB.
_LONGEST_PADDING = 1 << 16

#: Types of members that are a file with content, and their names in the standards.
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
#: Types without content, whatever size their header states.
_EMPTY = (*_LINKS, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
#: Beginning of the names of records about sparse files, of which only the parts with content are stored.
_SPARSE = b"GNU.sparse."
_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_PAX, _PAX_OF_ALL = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE), tarfile.XGLTYPE


def members(file: RandomFile, _: str | None = None) -> Iterator[Member]:
    """As in `ArchiveFormat`."""
    compression = compression_of(read_patiently(file, 0, 8)) or ""
    content = decompressed(file, compression, PATIENT_ATTEMPTS)
    prefix = f"{compression}:" if compression else ""
    offset = 0
    name: bytes | None = None
    for_all: dict[bytes, bytes] = {}
    for_next: dict[bytes, bytes] = {}
    while True:
        block = read_patiently(content, offset, _BLOCK)
        if len(block) < _BLOCK:
            if not offset:
                raise FetchError("it is not a tar archive")
            raise FetchError(f"it ends at byte {offset + len(block):,} without the mark of a tar archive's end")
        if not block.strip(b"\0"):
            _require_nothing_behind(content, offset)
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            problem = "it is not a tar archive" if not offset else f"its header at byte {offset:,} is damaged"
            raise FetchError(f"{problem} ({error})") from None
        records = for_all | for_next
        offset += _BLOCK
        size = _size_of(header, records, offset)
        if header.type == tarfile.GNUTYPE_SPARSE:
            offset = _behind_sparse_map(content, block, offset)
        following = offset + (size + _BLOCK - 1) // _BLOCK * _BLOCK
        if header.type in (_LONG_NAME, _LONG_LINK, *_PAX, _PAX_OF_ALL):
            data = _header_data(content, offset, size)
            if header.type == _LONG_NAME:
                name = data.rstrip(b"\0")
            elif header.type in _PAX:
                for_next = _pax_records(data, offset)
            elif header.type == _PAX_OF_ALL:
                for_all |= _pax_records(data, offset)
        else:
            path = records.get(b"path") or name or header.name.encode("utf-8", "surrogateescape")
            is_sparse = header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith(_SPARSE) for key in records)
            problem = "(link)" if header.type in _LINKS else "(sparse file)" if is_sparse else ""
            if problem or header.type in _REGULAR:
                yield Member(unicode_name(path), size, "" if problem else f"{prefix}{offset}+{size}", problem)
            name, for_next = None, {}
        offset = following


def _require_nothing_behind(file: RandomFile, offset: int) -> None:
    """Raise FetchError if another archive follows behind the mark of the end: tar would not read it either."""
    data = read_patiently(file, offset, _LONGEST_PADDING)
    padding = len(data) - len(data.lstrip(b"\0"))
    start = padding // _BLOCK * _BLOCK
    try:
        tarfile.TarInfo.frombuf(data[start : start + _BLOCK], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return
    raise FetchError(
        f"another archive follows at byte {offset + start:,}, and is not read: join archives with `tar -A`, not `cat`"
    )


def _header_data(file: RandomFile, offset: int, size: int) -> bytes:
    if size > _LONGEST_HEADER:
        raise FetchError(f"its header at byte {offset:,} has {size:,} bytes")
    data = read_patiently(file, offset, size)
    if len(data) < size:
        raise FetchError(f"it ends within the header at byte {offset:,}")
    return data


def _size_of(header: tarfile.TarInfo, records: dict[bytes, bytes], offset: int) -> int:
    """Bytes of a member's content. The size in an additional header counts, which has room for more than 8 GB."""
    if header.type in _EMPTY:
        return 0
    is_additional = header.type in (_LONG_NAME, _LONG_LINK, *_PAX, _PAX_OF_ALL)
    text = None if is_additional else records.get(b"size")
    if text is not None and (not text.isdigit() or len(text) > 18):
        raise FetchError(f"its header before byte {offset:,} states a size of {text[:20]!r}")
    size = header.size if text is None else int(text)
    if size < 0:
        raise FetchError(f"its header before byte {offset:,} states a size of {size}")
    return size


def _behind_sparse_map(file: RandomFile, header: bytes, offset: int) -> int:
    """The offset behind the further blocks of a sparse file's map: each says whether another one follows."""
    goes_on = header[482]
    while goes_on:
        block = read_patiently(file, offset, _BLOCK)
        if len(block) < _BLOCK:
            raise FetchError(f"it ends within the header at byte {offset:,}")
        goes_on, offset = block[504], offset + _BLOCK
    return offset


def _pax_records(data: bytes, offset: int) -> dict[bytes, bytes]:
    """The records `LENGTH KEY=VALUE\\n` of an additional header."""
    records = {}
    position = 0
    while position < len(data) and data[position]:
        digits = data[position : position + 10].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        record = data[position : position + length]
        key, equals, value = record[len(digits) + 1 :].partition(b"=")
        if not equals or not record.endswith(b"\n") or len(record) != length:
            raise FetchError(f"its additional header at byte {offset:,} is damaged")
        records[key] = value[:-1]
        position += length
    return records


class _OpenTar:
    def __init__(self, file: RandomFile, attempts: int) -> None:
        self._raw, self._attempts = file, attempts
        self._content: RandomFile | None = None
        self._compression = ""

    def read(self, location: str, max_bytes: int, on_bytes: Callable[[int], None]) -> bytes:
        compression, _, place = location.rpartition(":")
        offset, _, size = place.partition("+")
        if not (offset.isdigit() and size.isdigit()):
            raise FetchError(f"the plan's location {location[:80]!r} is not a location in a tar archive")
        if int(size) > max_bytes:
            raise too_large(int(size), max_bytes)
        if self._content is None or compression != self._compression:
            self.close()
            self._compression, self._content = compression, decompressed(self._raw, compression, self._attempts)
        self._content.on_bytes = on_bytes
        data = self._content.read_at(int(offset), int(size))
        if len(data) < int(size):
            raise FetchError(f"its archive is cut off: {len(data):,} of {int(size):,} bytes are left")
        return data

    def close(self) -> None:
        if self._content is not None:
            self._content.close()
        self._raw.close()


TAR = ArchiveFormat("tar", members, _OpenTar, reads_on)
