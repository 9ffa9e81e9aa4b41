"""What an object store has to offer: listings page by page, reads that hold to a version, uploads that end by choice.

Paths are `bucket/key`, as fsspec writes them; Azure calls a bucket a container. Coroutines run on fsspec's own loop.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from prelabel.errors import FetchError
from prelabel.foreign import as_os_error, patiently

T = TypeVar("T")

#: Bytes of one part of an upload. S3 takes 5 MiB or more and 10,000 parts, GCS multiples of 256 KiB: 160 GB at most.
PART_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a listing: its key in the bucket, its bytes, and what identifies its version."""

    key: str
    size: int
    version: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some objects in the store's order, and the token that asks for those after them (None on the last page)."""

    objects: list[StoredObject]
    token: str | None


@dataclass(frozen=True, slots=True)
class Body:
    """An object that is being read: `await read(n)` gives up to n bytes, `b""` at its end.

    Attributes:
        read: Reads on.
        length: Bytes of the whole object, where the store tells.
    """

    read: Callable[[int], Awaitable[bytes]]
    length: int | None


class ObjectStore(ABC):
    """One kind of object store. Holds nothing: the fsspec file system is given to every call.

    Attributes:
        protocols: Beginnings of its addresses.
        extra: The extra of this package that installs its library.
        has_account: Whether an address may name an account before the path: `CONTAINER@ACCOUNT`.
    """

    protocols: tuple[str, ...]
    extra: str
    has_account: bool = False

    def place(self, url: str) -> tuple[str, str | None]:
        """What an address names, the same for all its spellings, and the account in it: None where it names none."""
        return f"{self.protocols[0]}://{url.partition('://')[2]}", None

    @abstractmethod
    def filesystem(self, url: str, options: dict[str, Any]) -> Any:
        """The fsspec file system of an address.

        Raises:
            ConfigError: The address and the options contradict each other, or something is missing in both.
            CredentialsError: There are no credentials, as far as that is known without asking the store.
            ImportError, TypeError, ValueError: The package is missing; the options do not fit.
        """

    @abstractmethod
    async def page(self, fs: Any, bucket: str, prefix: str, token: str | None) -> Page:
        """The first objects whose keys begin with `prefix`, or those after an earlier page; all folders below."""

    @abstractmethod
    def body(
        self, fs: Any, path: str, *, version: str | None = None, first: int | None = None
    ) -> AbstractAsyncContextManager[Body]:
        """Open an object for reading from its beginning.

        Args:
            fs: The file system.
            path: `bucket/key`.
            version: As a listing gave it; the object must still be that one.
            first: How many bytes are wanted at most; None for all.

        Raises:
            FetchError: It is another version now.
        """

    @abstractmethod
    async def begin(self, fs: Any, path: str) -> str:
        """Begin an upload in parts, of which nothing is to be seen under its name; returns what identifies it."""

    @abstractmethod
    async def part(self, fs: Any, path: str, upload: str, part: Part) -> Any:
        """Upload one part; may be repeated. Returns what `commit` has to know of it."""

    @abstractmethod
    async def commit(self, fs: Any, path: str, upload: str, parts: list[Any]) -> None:
        """Make the object of the parts. No other call makes it, but the last part on GCS."""

    @abstractmethod
    async def abandon(self, fs: Any, path: str, upload: str) -> None:
        """Throw the parts away."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an upload: its number from 1 on, where it begins, its bytes, whether it is the last or sent again."""

    number: int
    start: int
    data: bytes
    is_last: bool
    again: bool


def run(fs: Any, coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, run on fsspec's own loop from whatever thread this is. Raises as `as_os_error` does."""
    with as_os_error():
        return asyncio.run_coroutine_threadsafe(coroutine, fs.loop).result()


class Upload(io.RawIOBase):
    """A file to write into that becomes an object when `commit` is called, and only then.

    Closing it, dropping it or an exception inside a `with` block never make an object: fsspec's own files of some
    stores commit what they have when they are closed or collected. Parts are tried again as patiently as anything
    that a run cannot do without. Memory holds one part and what one `write` adds.
    """

    def __init__(self, store: ObjectStore, fs: Any, path: str) -> None:
        self._store, self._fs, self._path = store, fs, path
        self._buffer = bytearray()
        self._upload: str | None = None
        self._parts: list[Any] = []
        self._sent = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes written so far."""
        return self._sent + len(self._buffer)

    def write(self, data: Any, /) -> int:
        """Take all of `data`. Raises OSError where a part cannot be uploaded."""
        view = memoryview(data).cast("B")
        self._buffer += view
        # The last part is kept back, since on some stores it ends the upload.
        while len(self._buffer) > PART_BYTES:
            self._send(PART_BYTES, is_last=False)
        return len(view)

    def commit(self) -> None:
        """Make the object. Raises OSError where that fails."""
        if self._upload is None:
            data = bytes(self._buffer)
            patiently(lambda: self._fs.pipe_file(self._path, data))
            return
        self._send(len(self._buffer), is_last=True)
        upload, parts = self._upload, self._parts
        patiently(lambda: run(self._fs, self._store.commit(self._fs, self._path, upload, parts)))

    def abandon(self) -> None:
        """Throw away what was uploaded, as far as the store lets us. Raises OSError where that fails."""
        self._buffer.clear()
        if self._upload is not None:
            run(self._fs, self._store.abandon(self._fs, self._path, self._upload))

    def _send(self, size: int, *, is_last: bool) -> None:
        if self._upload is None:
            self._upload = patiently(lambda: run(self._fs, self._store.begin(self._fs, self._path)))
        upload, number, data, tries = self._upload, len(self._parts) + 1, bytes(self._buffer[:size]), itertools.count()

        def send() -> Any:
            part = Part(number, self._sent, data, is_last, again=next(tries) > 0)
            return run(self._fs, self._store.part(self._fs, self._path, upload, part))

        self._parts.append(patiently(send))
        del self._buffer[:size]
        self._sent += size


def split(path: str) -> tuple[str, str]:
    """`bucket/a/b` as bucket and key."""
    bucket, _, key = path.partition("/")
    return bucket, key


def changed(version: str) -> FetchError:
    """The error of a read whose object is not the planned one any more."""
    return FetchError(f"changed since it was listed: its version is no longer {version}")


def quiet(*loggers: str) -> None:
    """Keep a library from writing its log, tracebacks included, to the terminal of whoever set up no logging."""
    for name in loggers:
        logger = logging.getLogger(name)
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())
