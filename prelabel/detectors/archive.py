"""Unpack a model's archive: whole or not at all, and never outside its folder."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any

from prelabel.errors import DetectorError

_BLOCK = 1 << 20
_MOST_FILES = 100_000


def unpack(archive: Path, into: Path, max_bytes: int, shown: str) -> None:
    """Unpack a `.tar` or `.tar.gz` into an existing empty folder.

    Only folders and ordinary files are taken, read to the last byte so that gzip's checksum is compared.

    Args:
        archive: The file.
        into: The folder.
        max_bytes: Most bytes it may unpack to.
        shown: What messages call it.

    Raises:
        DetectorError: It is no such archive, is damaged, is too large, or holds links, devices or names that lead
            out of its folder.
    """
    with archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        if not packed:
            _require_tar(file, shown)
        file.seek(0)
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        limited = _Limited(stream, max_bytes, shown)
        try:
            with tarfile.open(fileobj=limited, mode="r|") as tar:
                for number, member in enumerate(tar):
                    if number >= _MOST_FILES:
                        raise DetectorError(f"{shown}: the archive holds more than {_MOST_FILES} files")
                    _take(tar, member, into, shown)
            while limited.read(_BLOCK):
                pass
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DetectorError(f"{shown}: the archive is damaged ({error})") from error


def _require_tar(file: IO[bytes], shown: str) -> None:
    """A bare tar has a magic word, and ends in a block of zeros: the only sign that its end is there."""
    file.seek(0)
    head = file.read(512)
    if head[257:262] != b"ustar":
        beginning = head[:15].decode("ascii", "replace").strip()
        raise DetectorError(f"{shown}: no .tar.gz archive (it begins with {beginning!r})")
    if file.seek(0, io.SEEK_END) < 1024:
        raise DetectorError(f"{shown}: the archive is damaged (its end is missing)")
    file.seek(-512, io.SEEK_END)
    if any(file.read(512)):
        raise DetectorError(f"{shown}: the archive is damaged (its end is missing)")


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path, shown: str) -> None:
    name = member.name
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or (parts and ":" in parts[0]):
        raise DetectorError(f"{shown}: the archive holds {name!r}, a name that leads out of its folder")
    if not (member.isdir() or (member.isreg() and not member.issparse())):
        raise DetectorError(f"{shown}: the archive holds {name!r}, which is neither a file nor a folder")
    target = into.joinpath(*parts)
    try:
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        with target.open("xb") as out:
            left = member.size
            while content is not None and left:
                block = content.read(min(_BLOCK, left))
                if not block:
                    raise EOFError(f"{name} ends early")
                out.write(block)
                left -= len(block)
    except (FileExistsError, NotADirectoryError):
        raise DetectorError(f"{shown}: the archive holds {name!r} twice") from None


class _Limited(io.RawIOBase):
    """Reads from a stream and refuses to go beyond a number of bytes, however small the packed file is."""

    def __init__(self, stream: Any, most: int, shown: str) -> None:
        self._stream, self._most, self._shown, self._seen = stream, most, shown, 0

    def read(self, size: int | None = -1, /) -> bytes:
        data: bytes = self._stream.read(_BLOCK if size is None or size < 0 else size)
        self._seen += len(data)
        if self._seen > self._most:
            raise DetectorError(f"{self._shown}: the archive unpacks to more than {self._most} bytes")
        return data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
