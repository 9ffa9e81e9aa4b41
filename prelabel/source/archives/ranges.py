"""Reading parts of a large file in ascending order, with few requests and without holding more than a part.

    with open_ranges(Address.of("s3://bucket/a.tar"), storage, version) as file:
        header = file.read_at(0, 512)                # one request, which stays open
        image = file.read_at(512, 10_000)            # continues it
        other = file.read_at(50_000, 10_000)         # skips what is between
        far = file.read_at(10**9, 10_000)            # a new request

A request stays open and is read as fast as its bytes are needed, so a thousand images that follow each other cost one
request and one latency. Every request is for the given version of the file. A request that breaks is not repeated here:
the next call begins a new one at its offset, so callers may retry.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from prelabel.source.file_checks import (
    changed,
    is_same_on_disk,
    open_on_disk,
    require_regular,
    version_of,
    version_on_disk,
)
from prelabel.storage.address import Address
from prelabel.storage.base import STALL_S, ObjectStore, run_coroutine, split_bucket
from prelabel.storage.files import Storage
from prelabel.storage.retries import PATIENT_ATTEMPTS, retry
from prelabel.storage.store_errors import as_os_error, http_error

#: Largest gap that is read and dropped; behind a larger one, a new request begins. At 100 MB/s, this takes as long as a
#: request.
MAX_GAP = 8 << 20

#: Bytes before the position that stay in memory: readers of archives look back by a few bytes.
_KEPT = 1 << 10

#: Bytes requested from an open request at a time, at least; and from storage without open requests.
_PIECE, _BLOCK = 256 << 10, 8 << 20


class RandomFile(ABC):
    """A file of which parts are read in ascending order. Not thread-safe.

    Attributes:
        name: The address of the file, which may contain secrets.
        version: The version of the file, or None if storage does not report one.
        on_bytes: Called with the bytes received so far for the part that is being read; may be replaced at any time.
    """

    name: str = ""
    version: str | None = None

    def __init__(self) -> None:
        self.on_bytes: Callable[[int], None] = lambda received: None

    @abstractmethod
    def read_at(self, offset: int, length: int) -> bytes:
        """Read `length` bytes from `offset` on, fewer at the end of the file.

        Raises:
            OSError: Storage failed; the call may be repeated.
            FetchError: The file has another version now, or cannot be decompressed.
        """

    @property
    @abstractmethod
    def size(self) -> int:
        """Size of the file in bytes. Raises OSError."""

    @abstractmethod
    def close(self) -> None:
        """End an open request. A later `read_at` begins a new one."""

    def __enter__(self) -> RandomFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class ForwardFile(RandomFile):
    """A file that is received as a stream, from an offset on. Looking back beyond a few bytes begins a new stream."""

    max_gap = MAX_GAP

    def __init__(self) -> None:
        super().__init__()
        self._is_open = False
        self._start = 0  # offset of the first byte of the buffer
        self._buffer = bytearray()

    def read_at(self, offset: int, length: int) -> bytes:
        """As in `RandomFile`."""
        end = offset + length
        try:
            if not self._is_open or offset < self._start or offset > self._start + len(self._buffer) + self.max_gap:
                self.close()
                self._start = self._open(offset)
                self._is_open = True
            while (received := self._start + len(self._buffer)) < end:
                if (dropped := min(offset, received) - _KEPT - self._start) > 0:
                    del self._buffer[:dropped]
                    self._start += dropped
                piece = self._receive(end - received)
                if not piece:
                    break
                self._buffer += piece
                self.on_bytes(max(0, self._start + len(self._buffer) - offset))
        except BaseException:
            self.close()
            raise
        return bytes(self._buffer[max(0, offset - self._start) : max(0, end - self._start)])

    def close(self) -> None:
        """As in `RandomFile`."""
        is_open, self._is_open = self._is_open, False
        self._buffer = bytearray()
        if is_open:
            self._end()

    @abstractmethod
    def _open(self, offset: int) -> int:
        """Begin a stream at an offset, or before. Returns where it begins."""

    @abstractmethod
    def _receive(self, wanted: int) -> bytes:
        """The next bytes of the stream, `b""` at its end; about `wanted` bytes are needed."""

    @abstractmethod
    def _end(self) -> None:
        """End the stream. Raises nothing."""


class _FileOnDisk(RandomFile):
    def __init__(self, path: str, version: str | None) -> None:
        super().__init__()
        self._path, self._descriptor = path, -1
        self.version = version

    def _open(self) -> os.stat_result:
        if self._descriptor < 0:
            self._descriptor = open_on_disk(self._path)
        status = os.fstat(self._descriptor)
        require_regular(status)
        if self.version is None:
            self.version = version_on_disk(status)
        elif not is_same_on_disk(self.version, status):
            raise changed("the archive's modification time differs (use `cp -p` or `rsync -t` to keep it in copies)")
        return status

    def read_at(self, offset: int, length: int) -> bytes:
        size = self._open().st_size
        data = os.pread(self._descriptor, max(0, min(length, size - offset)), offset)
        while len(data) < length and (more := os.pread(self._descriptor, length - len(data), offset + len(data))):
            data += more  # one call reads 2 GB at most
        return data

    @property
    def size(self) -> int:
        return self._open().st_size

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _RemoteFile(ForwardFile):
    """A file in an object store or on a web server, read through requests that stay open."""

    def __init__(self, address: Address, storage: Storage, version: str | None) -> None:
        super().__init__()
        self._fs, self._path = storage.filesystem(address)
        self._stack = AsyncExitStack()
        self._read: Callable[[int], Any] | None = None
        self._left = -1  # bytes that the open request still returns, or -1 if unknown
        self._size: int | None = None
        self.version = version

    def _open(self, offset: int) -> int:
        self._stack = AsyncExitStack()
        try:
            return run_coroutine(self._fs, self._request(offset))
        except BaseException:
            self._end()  # the server has answered, but with an error or another version
            raise

    async def _request(self, offset: int) -> int:
        """Send a request for the bytes from `offset` on. Returns where the response begins."""
        raise NotImplementedError

    def _receive(self, wanted: int) -> bytes:
        return run_coroutine(self._fs, self._pieces(wanted))

    async def _pieces(self, wanted: int) -> bytes:
        """Receive pieces, so that the event loop is entered once per image instead of once per network packet."""
        data = bytearray()
        start = time.monotonic()
        while len(data) < min(wanted, _PIECE):
            if self._read is None:
                break
            piece = await asyncio.wait_for(self._read(max(wanted - len(data), _PIECE)), STALL_S)
            if not piece:
                if not data and self._left == 0:
                    return await self._continued(wanted)
                break
            data += piece
            if self._left >= 0:
                self._left -= len(piece)
            if time.monotonic() - start > STALL_S:
                raise TimeoutError(f"received only {len(data)} bytes in {time.monotonic() - start:.0f} s")
        return bytes(data)

    async def _continued(self, wanted: int) -> bytes:
        """What follows a response that was limited to a range."""
        return b""

    def _end(self) -> None:
        self._read = None
        try:
            run_coroutine(self._fs, self._stack.aclose())
        except OSError:
            return  # the connection is given up anyway


class _StoredFile(_RemoteFile):
    def __init__(
        self, address: Address, storage: Storage, store: ObjectStore, version: str | None, size: int | None
    ) -> None:
        super().__init__(address, storage, version)
        self._store, self._size = store, size

    async def _request(self, offset: int) -> int:
        if self.version is None:
            self.version, self._size = await self._look_up()
        body = await self._stack.enter_async_context(
            self._store.body(self._fs, self._path, version=self.version, start=offset, first=self._store.range_bytes)
        )
        self._read, self._left = body.read, -1 if self._store.range_bytes is None else body.length or 0
        return offset

    async def _continued(self, wanted: int) -> bytes:
        offset = self._start + len(self._buffer)
        if offset == self._size:
            return b""
        await self._stack.aclose()
        self._stack = AsyncExitStack()
        await self._request(offset)
        return await self._pieces(wanted) if self._left else b""

    async def _look_up(self) -> tuple[str | None, int]:
        # A page has the version in the form that `body` compares; the object is the first one with its key as prefix.
        bucket, key = split_bucket(self._path)
        page = await self._store.page(self._fs, bucket, key, None)
        for entry in page.objects:
            if entry.key == key:
                return entry.version, entry.size
        raise FileNotFoundError(errno.ENOENT, "not found")

    @property
    def size(self) -> int:
        if self._size is None:
            version, self._size = run_coroutine(self._fs, self._look_up())
            if self.version is not None and version != self.version:
                raise changed(f"its version is no longer {self.version}")
            self.version = version
        return self._size


class _FileOnTheWeb(_RemoteFile):
    """Web servers need not serve ranges: then the file is read from its beginning."""

    async def _request(self, offset: int) -> int:
        session = await self._fs.set_session()
        headers = {**self._fs.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        response = await self._stack.enter_async_context(
            session.get(self._fs.encode_url(self._path), **{**self._fs.kwargs, "headers": headers})
        )
        if response.status == 416:
            self._read = None
            return offset
        if response.status not in (200, 206):
            raise http_error(response.status, response.reason)
        begins_at = offset if response.status == 206 else 0
        length = response.content_length
        size = None if length is None else begins_at + length
        self._check_version(response.headers, size)
        self._read, self._size = response.content.read, size
        return begins_at

    def _check_version(self, headers: Any, size: int | None) -> None:
        tag = headers.get("ETag") or headers.get("Last-Modified") or ("" if size is None else f"{size} bytes")
        version = tag.removeprefix("W/").strip('"')
        if self.version is None:
            self.version = version or None
        elif version and version != self.version:
            raise changed(f"its version is no longer {self.version}")

    @property
    def size(self) -> int:
        if self._size is None:
            self.read_at(0, 1)
        if self._size is None:
            raise OSError(errno.EINVAL, "the server does not report the size of the file")
        return self._size


class _OtherFile(ForwardFile):
    """A file of any other fsspec file system, read block by block."""

    def __init__(self, address: Address, storage: Storage, version: str | None) -> None:
        super().__init__()
        self._fs, self._path = storage.filesystem(address)
        self._position = 0
        self._size: int | None = None
        self.version = version

    def _open(self, offset: int) -> int:
        self._look_up()
        self._position = offset
        return offset

    def _look_up(self) -> None:
        with as_os_error():
            info = self._fs.info(self._path)
        version = version_of(info)
        if self.version is not None and version is not None and version != self.version:
            raise changed(f"its version is no longer {self.version}")
        self._size, self.version = info.get("size"), version

    def _receive(self, wanted: int) -> bytes:
        end = self._position + max(wanted, _BLOCK)
        end = end if self._size is None else min(end, self._size)
        if end <= self._position:
            return b""
        with as_os_error():
            data = bytes(self._fs.cat_file(self._path, start=self._position, end=end))
        self._position += len(data)
        return data

    def _end(self) -> None:
        pass

    @property
    def size(self) -> int:
        self._look_up()
        if self._size is None:
            raise OSError(errno.EINVAL, "storage does not report the size of the file")
        return self._size


def read_patiently(file: RandomFile, offset: int, length: int) -> bytes:
    """`read_at` for a listing, which repeats a failed read as often as listings do: nothing else would repeat it."""
    return retry(lambda: file.read_at(offset, length), attempts=PATIENT_ATTEMPTS)


def open_ranges(address: Address, storage: Storage, version: str | None, size: int | None = None) -> RandomFile:
    """A file of which parts are read; nothing is requested yet.

    Args:
        address: The file.
        storage: Opens it.
        version: The version that it must still have; None for the one it has when it is first read.
        size: Its size in bytes, if a listing of an object store has just reported it: this saves a request.
    """
    file: RandomFile
    if address.is_local:
        file = _FileOnDisk(address.url, version)
    elif (store := storage.store(address)) is not None:
        file = _StoredFile(address, storage, store, version, size)
    elif address.is_http:
        file = _FileOnTheWeb(address, storage, version)
    else:
        file = _OtherFile(address, storage, version)
    file.name = address.url
    return file


class SequentialView(io.RawIOBase):
    """A `RandomFile` as a readable and seekable file object, for libraries that expect one.

    Args:
        file: The file.
        attempts: Maximum number of attempts of a read.
        most: Most bytes of one read: a header may claim any length.
    """

    def __init__(self, file: RandomFile, *, attempts: int, most: int) -> None:
        self._file, self._attempts, self._most = file, attempts, most
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Set the position; sends no request, except for a position relative to the end."""
        base = (0, self._position, self._file.size if whence == io.SEEK_END else 0)[whence]
        if base + offset < 0:
            raise ValueError(f"the position must not be negative, got {base + offset}")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes. Raises ValueError for more than allowed."""
        if size is None or size < 0:
            size = max(0, self._file.size - self._position)
        if size > self._most:
            raise ValueError(f"a part of {size:,} bytes is longer than {self._most:,}")
        data = retry(lambda: self._file.read_at(self._position, size), attempts=self._attempts)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(min(len(view), self._most))
        view[: len(data)] = data
        return len(data)
