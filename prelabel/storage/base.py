"""The interface of an object store: listings by page, reads of a given version, uploads with an explicit commit.

Paths are `bucket/key`, as in fsspec; Azure calls a bucket a container. Coroutines run on fsspec's own event loop.

Each store's library has one file that implements the interface. Private interfaces of the library are used only there;
its docstring lists them with the reason, and `tests/storage/test_stores.py` fails when one of them moves.
"""

from __future__ import annotations

import asyncio
import errno
import io
import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from prelabel.errors import FetchError
from prelabel.storage.address import Address
from prelabel.storage.retries import retry_patiently
from prelabel.storage.store_errors import as_os_error

T = TypeVar("T")

#: Timeout of a request in seconds without a byte.
STALL_S = 60.0

#: Bytes per part of an upload. S3 requires 5 MiB or more and at most 10,000 parts (so 160 GB); GCS, multiples of
#: 256 KiB.
PART_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a listing: its key in the bucket, its size in bytes, and its version."""

    key: str
    size: int
    version: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing: objects in the store's order, and the token of the next page (None on the last page)."""

    objects: list[StoredObject]
    token: str | None


@dataclass(frozen=True, slots=True)
class Body:
    """An object opened for reading.

    Attributes:
        read: `await read(n)` returns up to n further bytes, `b""` at the end.
        length: Number of bytes from the start of the range to its end, or None if the store does not report it.
    """

    read: Callable[[int], Awaitable[bytes]]
    length: int | None


async def _no_bytes(_: int) -> bytes:
    return b""


#: No bytes. To a request for a range behind the end of an object, stores respond that there is no such range.
EMPTY = Body(_no_bytes, 0)


def range_header(start: int, first: int | None) -> str | None:
    """The value of the header `Range` for `first` bytes from `start` on, or None for the complete object."""
    if not start and first is None:
        return None
    return f"bytes={start}-{'' if first is None else start + first - 1}"


def require_range(status: int, start: int) -> None:
    """Raise OSError if a server has answered a request for the bytes from `start` on with those from the beginning."""
    if start and status != 206:
        raise OSError(errno.EINVAL, f"the server does not serve ranges (HTTP {status} instead of 206)")


class ObjectStore(ABC):
    """One kind of object store. It has no state: every call receives the fsspec file system.

    Attributes:
        protocols: Protocols of its addresses; the first is the canonical one.
        extra: The extra of this package that installs the store's library.
        has_account: Whether an address may name an account: `CONTAINER@ACCOUNT`.
        range_bytes: Most bytes that one request for a range should ask for; None for any number.
    """

    protocols: tuple[str, ...]
    extra: str
    has_account: bool = False
    range_bytes: int | None = None

    def place(self, address: Address) -> tuple[str, str | None]:
        """The canonical form of an address, equal for all its spellings, and the account in it, or None."""
        return f"{self.protocols[0]}://{address.url.partition('://')[2]}", None

    @abstractmethod
    def filesystem(self, address: Address, options: dict[str, Any]) -> Any:
        """Create the fsspec file system of an address.

        Raises:
            ConfigError: The address and the options contradict each other, or both lack something required.
            CredentialsError: There are no credentials, as far as is known without a request.
            ImportError: The store's package is not installed.
            TypeError, ValueError: The options are invalid.
        """

    @abstractmethod
    async def page(self, fs: Any, bucket: str, prefix: str, token: str | None) -> Page:
        """List one page of the objects whose keys begin with `prefix`, including those in folders below.

        Args:
            fs: The file system.
            bucket: Name of the bucket.
            prefix: Common start of the keys.
            token: Token of the page, from the page before; None for the first.
        """

    @abstractmethod
    def body(
        self, fs: Any, path: str, *, version: str | None = None, start: int = 0, first: int | None = None
    ) -> AbstractAsyncContextManager[Body]:
        """Open an object for reading.

        Args:
            fs: The file system.
            path: `bucket/key`.
            version: Version from a listing, which the object must still have; None for any.
            start: Offset of the first byte to read. If it lies behind the end, there are no bytes.
            first: Number of bytes to read at most; None for all.

        Raises:
            FetchError: The object has another version now.
            OSError: It cannot be read, or not from `start`.
        """

    @abstractmethod
    async def begin(self, fs: Any, path: str) -> str:
        """Begin an upload in parts, which stays invisible under its name. Returns the id of the upload."""

    @abstractmethod
    async def part(self, fs: Any, path: str, upload: str, part: Part) -> Any:
        """Upload one part; the call may be repeated. Returns what `commit` needs to know about the part."""

    @abstractmethod
    async def commit(self, fs: Any, path: str, upload: str, parts: list[Any]) -> None:
        """Create the object from its parts. No other call creates it, except the last part on GCS."""

    @abstractmethod
    async def abandon(self, fs: Any, path: str, upload: str) -> None:
        """Discard the parts of an upload."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an upload.

    Attributes:
        number: Its number, from 1.
        start: Offset of its first byte in the object.
        data: Its bytes.
        is_last: Whether it is the last part.
        is_retry: Whether it has been sent before.
    """

    number: int
    start: int
    data: bytes
    is_last: bool
    is_retry: bool


def run_coroutine(fs: Any, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on fsspec's own event loop, from another thread. Raises errors as converted by `as_os_error`."""
    with as_os_error():
        return asyncio.run_coroutine_threadsafe(coroutine, fs.loop).result()


class Upload(io.RawIOBase):
    """A writable file that becomes an object when `commit` is called, and only then.

    Closing it, dropping it or an exception inside a `with` block never creates an object, whereas fsspec's own files of
    some stores commit their content when they are closed or garbage-collected. Parts are retried by `retry_patiently`.
    Memory holds one part plus the data of one `write`.
    """

    def __init__(self, store: ObjectStore, fs: Any, path: str) -> None:
        self._store, self._fs, self._path = store, fs, path
        self._buffer = bytearray()
        self._upload: str | None = None
        self._parts: list[Any] = []
        self._sent = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        """Number of bytes written so far."""
        return self._sent + len(self._buffer)

    def write(self, data: Any, /) -> int:
        """Write all of `data`. Raises OSError if a part cannot be uploaded."""
        view = memoryview(data).cast("B")
        self._buffer += view
        # The last part is held back, since it completes the upload on some stores.
        while len(self._buffer) > PART_BYTES:
            self._send(PART_BYTES, is_last=False)
        return len(view)

    def commit(self) -> None:
        """Create the object. Raises OSError if that fails."""
        if self._upload is None:
            data = bytes(self._buffer)
            retry_patiently(lambda: self._fs.pipe_file(self._path, data))
            return
        self._send(len(self._buffer), is_last=True)
        upload, parts = self._upload, self._parts
        retry_patiently(lambda: run_coroutine(self._fs, self._store.commit(self._fs, self._path, upload, parts)))

    def abandon(self) -> None:
        """Discard what was uploaded, as far as the store allows. Raises OSError if that fails."""
        self._buffer.clear()
        if self._upload is not None:
            run_coroutine(self._fs, self._store.abandon(self._fs, self._path, self._upload))

    def _send(self, size: int, *, is_last: bool) -> None:
        if self._upload is None:
            self._upload = retry_patiently(lambda: run_coroutine(self._fs, self._store.begin(self._fs, self._path)))
        upload, number, data = self._upload, len(self._parts) + 1, bytes(self._buffer[:size])
        attempts = itertools.count()

        def send() -> Any:
            part = Part(number, self._sent, data, is_last, is_retry=next(attempts) > 0)
            return run_coroutine(self._fs, self._store.part(self._fs, self._path, upload, part))

        self._parts.append(retry_patiently(send))
        del self._buffer[:size]
        self._sent += size


def split_bucket(path: str) -> tuple[str, str]:
    """Split `bucket/a/b` into bucket and key."""
    bucket, _, key = path.partition("/")
    return bucket, key


def changed_error(version: str) -> FetchError:
    """The error for an object that no longer has the planned version."""
    return FetchError(f"changed since it was listed: its version is no longer {version}")


def silence(*loggers: str) -> None:
    """Keep loggers of a library from printing to the terminal, including tracebacks, if logging is not configured."""
    for name in loggers:
        logger = logging.getLogger(name)
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())
