"""Compressed files, read from their beginning: gzip, also of several parts, zlib, and Zstandard."""

from __future__ import annotations

import functools
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from prelabel.errors import FetchError
from prelabel.source.archives.ranges import ForwardFile, RandomFile, SequentialView
from prelabel.storage.address import describe

#: First bytes of compressed files, with the names of the compressions. Those without a reader are refused by name.
_SIGNATURES = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    *((bytes((first, 0x2A, 0x4D, 0x18)), "zstd") for first in range(0x50, 0x60)),  # frames to skip, as pzstd writes
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
)

#: Bytes that are read, and decompressed, at a time.
_PIECE = 1 << 18


def compression_of(head: bytes) -> str | None:
    """The compression of a file that begins with these bytes, or None for none. Raises FetchError if it is not read."""
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            if name not in _READERS:
                raise FetchError(f"it is compressed with {name}: use gzip or zstd, or none")
            return name
    return None


class DecompressedFile(ForwardFile):
    """The content of a compressed file. Looking back begins again at its start.

    Args:
        raw: The compressed file; closed with this one.
        compression: Name of the compression.
        attempts: Maximum number of attempts to read a part of `raw`.
    """

    max_gap = sys.maxsize

    def __init__(self, raw: RandomFile, compression: str, attempts: int) -> None:
        super().__init__()
        self._raw, self._compression, self._attempts = raw, compression, attempts
        self._pieces: Iterator[bytes] = iter(())

    def _open(self, offset: int) -> int:
        view = SequentialView(self._raw, attempts=self._attempts, most=_PIECE)
        self._raw.on_bytes = lambda received: self.on_bytes(0)
        self._pieces = _READERS[self._compression](view)
        return 0

    def _receive(self, wanted: int) -> bytes:
        return next(self._pieces, b"")

    def _end(self) -> None:
        self._pieces = iter(())
        self._raw.close()

    @property
    def size(self) -> int:
        """As in `RandomFile`: unknown until all is read, so it is not available."""
        raise FetchError("the size of the decompressed file is unknown")


def decompressed(file: RandomFile, compression: str, attempts: int) -> RandomFile:
    """The content of a file with this compression: the file itself for `""`."""
    return DecompressedFile(file, compression, attempts) if compression else file


def _deflated(raw: SequentialView, wbits: int) -> Iterator[bytes]:
    """What gzip (31) or zlib (15) has compressed; `wbits` is as in `zlib.decompressobj`."""
    decoder = zlib.decompressobj(wbits=wbits)
    data, is_between = b"", True
    while True:
        data = data or raw.read(_PIECE)
        if not data:
            if not is_between:
                raise FetchError("the compressed file is cut off")
            return
        if is_between and not (data := data.lstrip(b"\0")):  # padding behind a part
            continue
        try:
            piece = decoder.decompress(data, _PIECE)
        except zlib.error as error:
            raise FetchError(f"the compressed file is damaged ({describe(error)})") from None
        is_between, data = False, decoder.unconsumed_tail
        if decoder.eof:
            is_between, data = True, decoder.unused_data
            decoder = zlib.decompressobj(wbits=wbits)
        if piece:
            yield piece


def _zstd(raw: SequentialView) -> Iterator[bytes]:
    source = _ErrorKeeper(raw)
    try:
        with pa.CompressedInputStream(pa.PythonFile(source, mode="r"), "zstd") as stream:
            while piece := stream.read(_PIECE):
                yield piece
    except (pa.ArrowException, OSError) as error:
        if source.error is not None:
            raise source.error from None
        raise FetchError(f"the compressed file is cut off or damaged ({describe(error)})") from None


class _ErrorKeeper:
    """Tells an error of storage from one of the decoder: Arrow reports both as OSError."""

    closed = False

    def __init__(self, raw: SequentialView) -> None:
        self._raw = raw
        self.error: Exception | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._raw.read(min(size, _PIECE) if size >= 0 else _PIECE)
        except Exception as error:
            self.error = error
            raise

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """Do nothing: the file is closed by its owner."""


_READERS: dict[str, Callable[[Any], Iterator[bytes]]] = {
    "gzip": functools.partial(_deflated, wbits=31),
    "zlib": functools.partial(_deflated, wbits=15),
    "zstd": _zstd,
}
