"""Reading the bytes of one image, with a size limit, retries of transient errors, and clear messages.

    data = fetch(ref, storage, max_bytes=256 << 20)

Safe to call from many threads. Never reads more than `max_bytes + 1` bytes. The result is compared with the plan: a
body with fewer bytes than announced is read again, and an object other than the planned one is an error.

The listing stores a version in the plan, see `file_checks.py`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable
from typing import Any

from prelabel.errors import CredentialsError, FetchError
from prelabel.image_ref import ImageRef
from prelabel.label_studio.client import ServerError
from prelabel.source.archives.reader import ArchiveReader
from prelabel.source.file_checks import (
    changed,
    is_same_on_disk,
    open_on_disk,
    require_regular,
    too_large,
    version_of,
)
from prelabel.source.label_studio import is_label_studio, read_image
from prelabel.storage.address import Address, describe, redact, split_member
from prelabel.storage.base import STALL_S, ObjectStore, run_coroutine
from prelabel.storage.files import Storage
from prelabel.storage.retries import IMAGE_ATTEMPTS, retry
from prelabel.storage.store_errors import as_os_error, http_error

#: Minimum average rate of a body after `STALL_S`. Slower downloads are aborted like stalled ones.
LEAST_BYTES_PER_S = 4096

#: Seconds without a byte and without a retry after which an observer may consider a download dead. A store's own
#: library may retry several times, each with a timeout of a minute, before it raises an error.
SILENT_S = 5 * STALL_S

#: Size limit for an image whose run recorded no limit.
MAX_BYTES = 512 << 20

_CHUNK = 1 << 20

#: Largest file that is read in one request through fsspec's common interface. Larger files are read in chunks, which
#: reports progress; for smaller ones, that is not worth the extra request.
_SINGLE_REQUEST_BYTES = 8 << 20

#: Messages by error class; the first matching class counts.
_MESSAGES = (
    (FileNotFoundError, "not found"),
    (PermissionError, "permission denied"),
    (IsADirectoryError, "is a folder, not a file"),
    (TimeoutError, "timed out"),
    (ConnectionError, "connection lost"),
    (OSError, "cannot be read"),
)


def fetch(
    ref: ImageRef,
    storage: Storage,
    max_bytes: int,
    *,
    attempts: int = IMAGE_ATTEMPTS,
    pause: Callable[[float], None] = time.sleep,
    on_bytes: Callable[[int], None] = lambda received: None,
    archives: ArchiveReader | None = None,
) -> bytes:
    """Read all bytes of an image.

    A reset, a timeout, a server's 5xx or SlowDown, or a truncated body is retried after a random pause whose limit
    doubles. A missing or forbidden file is not retried.

    Args:
        ref: The image. Its size and version, if any, must still be those of the listing.
        storage: Opens the image.
        max_bytes: Largest accepted size. If the size is known, a larger image is refused before anything is read.
        attempts: Maximum number of attempts.
        pause: Sleeps for a number of seconds.
        on_bytes: Called from any thread with the number of bytes received, when an attempt begins and whenever some
            arrive.
        archives: Reads an image inside an archive, after others in the same archive; by default, the archive is opened
            for this image alone.

    Raises:
        FetchError: The image cannot be read, or has changed since it was listed.
        ImageTooLargeError: The image has more than `max_bytes` bytes.
        CredentialsError: Storage rejected the credentials, which concerns the whole run.
    """
    if ref.size is not None and ref.size > max_bytes:
        raise too_large(ref.size, max_bytes)
    if ref.location is None:
        if split_member(ref.uri) is not None:
            raise FetchError("the place of the image in its archive is unknown: it must come from a run or a source")
        read = _reader_of(ref, storage, max_bytes, on_bytes)
    elif archives is not None:
        read = functools.partial(archives.read, ref, max_bytes, attempts, on_bytes)
    else:
        with ArchiveReader(storage) as own:
            return fetch(ref, storage, max_bytes, attempts=attempts, pause=pause, on_bytes=on_bytes, archives=own)
    attempt = 0

    def read_complete() -> bytes:
        nonlocal attempt
        attempt += 1
        on_bytes(0)
        data = read()
        if ref.size is not None and len(data) < ref.size and attempt < attempts:
            raise _incomplete(len(data), ref.size)
        return data

    try:
        data = retry(read_complete, attempts=attempts, pause=pause)
    except CredentialsError as error:
        raise CredentialsError(f"{redact(ref.uri)}: {error}") from error
    except OSError as error:
        raise FetchError(_explain(error, attempt)) from error
    except ValueError as error:
        raise FetchError(f"invalid path or URL ({describe(error)})") from error
    if ref.size is not None and len(data) != ref.size:
        raise changed(f"{len(data)} bytes instead of {ref.size}")
    return data


def _reader_of(ref: ImageRef, storage: Storage, max_bytes: int, on_bytes: Callable[[int], None]) -> Callable[[], bytes]:
    address = Address.of(ref.uri)
    if address.is_local:
        return lambda: _read_disk(address.url, ref, max_bytes)
    if (store := storage.store(address)) is not None:
        return lambda: _read_object(address, ref.version, storage, store, max_bytes, on_bytes)
    if address.is_http:
        return lambda: _read_http(address, storage, max_bytes, on_bytes)
    if is_label_studio(ref.uri):
        return lambda: _read_label_studio(ref.uri, max_bytes, on_bytes)
    return lambda: _read_other(address, ref, storage, max_bytes, on_bytes)


def _read_disk(path: str, ref: ImageRef, max_bytes: int) -> bytes:
    descriptor = open_on_disk(path)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        require_regular(status)
        if ref.size is not None and status.st_size != ref.size:
            raise changed(f"{status.st_size} bytes instead of {ref.size}")
        if ref.version is not None and not is_same_on_disk(ref.version, status):
            raise changed("its modification time differs (use `cp -p` or `rsync -t` to keep it in copies)")
        if status.st_size > max_bytes:
            raise too_large(status.st_size, max_bytes)
        data = file.read(status.st_size + 1)
        # The file may be growing, or lie in a virtual file system that reports no size.
        rest, most = bytearray(), max_bytes + 1 - len(data)
        while data and len(rest) < most and (chunk := file.read(min(_CHUNK, most - len(rest)))):
            rest += chunk
    if len(rest) == most:
        raise too_large(None, max_bytes)
    return data + rest  # without a rest, nothing is copied


def _read_object(
    address: Address,
    version: str | None,
    storage: Storage,
    store: ObjectStore,
    max_bytes: int,
    on_bytes: Callable[[int], None],
) -> bytes:
    fs, path = storage.filesystem(address)

    async def read() -> bytes:
        async with store.body(fs, path, version=version) as body:
            return await _read_body(body.read, body.length, max_bytes, on_bytes)

    return run_coroutine(fs, read())


def _read_http(address: Address, storage: Storage, max_bytes: int, on_bytes: Callable[[int], None]) -> bytes:
    fs, url = storage.filesystem(address)

    async def read() -> bytes:
        session = await fs.set_session()
        async with session.get(fs.encode_url(url), **fs.kwargs) as response:
            if response.status != 200:
                raise http_error(response.status, response.reason)
            # The length of a compressed response is not that of the file.
            encoded = "Content-Encoding" in response.headers
            length = None if encoded else response.content_length
            return await _read_body(response.content.read, length, max_bytes, on_bytes)

    return run_coroutine(fs, read())


async def _read_body(
    read: Callable[[int], Any], length: int | None, max_bytes: int, on_bytes: Callable[[int], None]
) -> bytes:
    if length is not None and length > max_bytes:
        raise too_large(length, max_bytes)
    data = bytearray()
    start = time.monotonic()
    while len(data) <= max_bytes:
        _require_pace(start, len(data))
        chunk = await asyncio.wait_for(read(min(_CHUNK, max_bytes + 1 - len(data))), STALL_S)
        if not chunk:
            break
        data += chunk
        on_bytes(len(data))
    return _require_complete(data, length, max_bytes)


def _require_complete(data: bytearray | bytes, length: int | None, max_bytes: int) -> bytes:
    """Return the received bytes; raise if there are more than allowed, or fewer than the announced length."""
    if len(data) > max_bytes:
        raise too_large(length if length is not None and length > max_bytes else None, max_bytes)
    if length is not None and len(data) < length:
        raise _incomplete(len(data), length)
    return bytes(data)


def _require_pace(start: float, received: int) -> None:
    """Raise TimeoutError if too few bytes have been received since `start` (monotonic seconds)."""
    if time.monotonic() - start > STALL_S + received / LEAST_BYTES_PER_S:
        raise TimeoutError(f"received only {received} bytes in {time.monotonic() - start:.0f} s")


def _incomplete(received: int, expected: int) -> ConnectionError:
    return ConnectionError(f"received only {received} of {expected} bytes")


def _read_label_studio(url: str, max_bytes: int, on_bytes: Callable[[int], None]) -> bytes:
    start = time.monotonic()

    def on_received(received: int) -> None:
        _require_pace(start, received)
        on_bytes(received)

    try:
        data, length = read_image(url, max_bytes, on_received)
    except ServerError as error:
        raise http_error(error.status, error.reason) if error.status else ConnectionError(error.reason) from None
    return _require_complete(data, length, max_bytes)


def _read_other(
    address: Address, ref: ImageRef, storage: Storage, max_bytes: int, on_bytes: Callable[[int], None]
) -> bytes:
    fs, path = storage.filesystem(address)
    with as_os_error():
        info = fs.info(path)
        size, version = info.get("size"), version_of(info)
        if size is not None and size > max_bytes:
            raise too_large(size, max_bytes)
        if size is not None and ref.size is not None and size != ref.size:
            raise changed(f"{size} bytes instead of {ref.size}")
        if ref.version is not None and version is not None and version != ref.version:
            raise changed(f"its version is no longer {ref.version}")
        if size is None:
            data = bytes(fs.cat_file(path, start=0, end=max_bytes + 1))
        elif size <= _SINGLE_REQUEST_BYTES:
            data = bytes(fs.cat_file(path))
        else:
            data = _read_pieces(fs, path, size, on_bytes)
    if len(data) > max_bytes:
        raise too_large(len(data), max_bytes)
    return data


def _read_pieces(fs: Any, path: str, size: int, on_bytes: Callable[[int], None]) -> bytes:
    data = bytearray()
    start = time.monotonic()
    with fs.open(path, "rb") as file:
        while len(data) < size and (chunk := file.read(min(_CHUNK, size - len(data)))):
            data += chunk
            _require_pace(start, len(data))
            on_bytes(len(data))
    return _require_complete(data, size, size)


def _explain(error: OSError, attempts: int) -> str:
    after = f" after {attempts} attempts" if attempts > 1 else ""
    message = next(message for kind, message in _MESSAGES if isinstance(error, kind))
    return redact(f"{message}{after} ({describe(error)})")
