"""The bytes of one image, with a limit, retries where they can help, and a message that says what is wrong.

    data = fetch(ref, storage, max_bytes=256 << 20)

Called from many threads at once. Never reads more than `max_bytes + 1` bytes, and what comes is compared with what the
plan says: fewer bytes than announced are read again, another object than the one planned is an error.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Callable
from typing import Any

from prelabel.errors import CredentialsError, FetchError, ImageTooLargeError
from prelabel.image_ref import ImageRef
from prelabel.retries import IMAGE_ATTEMPTS, retried
from prelabel.source.label_studio import is_label_studio, read_image
from prelabel.source.versions import is_same_on_disk, version_of
from prelabel.storage import Storage, absolute, as_os_error, describe, is_http, is_local, redact
from prelabel.stores.base import ObjectStore, run

#: Seconds without a byte after which a request is given up.
STALL_S = 60.0

#: After that time a body must have come at this rate on average: what drips is given up like what stalls.
LEAST_BYTES_PER_S = 4096

#: After so long without a byte and without another try a download is taken for dead by whoever watches it from
#: outside. A store's own library may try several times, each with a timeout of a minute, before it says anything.
SILENT_S = 5 * STALL_S

_CHUNK = 1 << 20

#: Files of stores without a reader of ours that are larger come in pieces, so that whoever watches hears of them; for
#: smaller ones the extra request would cost more than it tells.
_WHOLE = 8 << 20


def fetch(
    ref: ImageRef,
    storage: Storage,
    max_bytes: int,
    *,
    attempts: int = IMAGE_ATTEMPTS,
    pause: Callable[[float], None] = time.sleep,
    on_bytes: Callable[[int], None] = lambda held: None,
) -> bytes:
    """All bytes of an image.

    A reset, a timeout, a server's 5xx or SlowDown, or a body that ends too early is tried again after a random pause
    that doubles; a missing or forbidden file is not.

    Args:
        ref: The image; its size and version are what the listing saw, and must still be those (`versions`).
        storage: Where it is.
        max_bytes: More is refused, before anything is read where the size is known.
        attempts: Tries at most.
        pause: Waits for so many seconds.
        on_bytes: Called with the bytes that are there, when a try begins and whenever some come; from any thread.

    Raises:
        FetchError: The bytes cannot be had, or are those of another object than was planned.
        ImageTooLargeError: More than `max_bytes`.
        CredentialsError: The store takes the credentials no longer, which is not about this image.
    """
    if ref.size is not None and ref.size > max_bytes:
        raise _too_large(ref.size, max_bytes)
    read = _reader_of(ref, storage, max_bytes, on_bytes)
    tries = 0

    def read_whole() -> bytes:
        nonlocal tries
        tries += 1
        on_bytes(0)
        data = read()
        if ref.size is not None and len(data) < ref.size and tries < attempts:
            raise ConnectionError(f"only {len(data)} of {ref.size} bytes came")
        return data

    try:
        data = retried(read_whole, attempts=attempts, pause=pause)
    except CredentialsError as error:
        raise CredentialsError(f"{redact(ref.uri)}: {error}") from error
    except OSError as error:
        raise FetchError(_explain(error, tries)) from error
    except ValueError as error:
        raise FetchError(f"the address cannot be used ({describe(error)})") from error
    if ref.size is not None and len(data) != ref.size:
        raise _changed(f"{len(data)} bytes instead of {ref.size}")
    return data


def _reader_of(ref: ImageRef, storage: Storage, max_bytes: int, on_bytes: Callable[[int], None]) -> Callable[[], bytes]:
    if is_local(ref.uri):
        return lambda: _read_disk(absolute(ref.uri), ref, max_bytes)
    if (store := storage.store(ref.uri)) is not None:
        return lambda: _read_object(ref, storage, store, max_bytes, on_bytes)
    if is_http(ref.uri):
        return lambda: _read_http(ref.uri, storage, max_bytes, on_bytes)
    if is_label_studio(ref.uri):
        return lambda: _read_label_studio(ref.uri, max_bytes, on_bytes)
    return lambda: _read_other(ref, storage, max_bytes, on_bytes)


def _read_disk(path: str, ref: ImageRef, max_bytes: int) -> bytes:
    # Without waiting: a named pipe in a list would otherwise stop a worker for good.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, "is no regular file")
        if ref.size is not None and found.st_size != ref.size:
            raise _changed(f"{found.st_size} bytes instead of {ref.size}")
        if ref.version is not None and not is_same_on_disk(ref.version, found):
            raise _changed("the file's time is another; copies keep it with `cp -p` or `rsync -t`")
        if found.st_size > max_bytes:
            raise _too_large(found.st_size, max_bytes)
        data = bytearray(file.read(found.st_size + 1))
        # A file that grows, or one of a virtual file system that tells no size.
        while data and len(data) <= max_bytes and (chunk := file.read(min(_CHUNK, max_bytes + 1 - len(data)))):
            data += chunk
    if len(data) > max_bytes:
        raise _too_large(None, max_bytes)
    return bytes(data)


def _read_object(
    ref: ImageRef, storage: Storage, store: ObjectStore, max_bytes: int, on_bytes: Callable[[int], None]
) -> bytes:
    fs, path = storage.filesystem(ref.uri)

    async def read() -> bytes:
        async with store.body(fs, path, version=ref.version) as body:
            return await _read_body(body.read, body.length, max_bytes, on_bytes)

    return run(fs, read())


def _read_http(url: str, storage: Storage, max_bytes: int, on_bytes: Callable[[int], None]) -> bytes:
    fs, address = storage.filesystem(url)

    async def read() -> bytes:
        session = await fs.set_session()
        async with session.get(fs.encode_url(address), **fs.kwargs) as response:
            if response.status != 200:
                raise _http_error(response.status, response.reason)
            # The length of a compressed answer is not that of the file.
            encoded = "Content-Encoding" in response.headers
            length = None if encoded else response.content_length
            return await _read_body(response.content.read, length, max_bytes, on_bytes)

    return run(fs, read())


def _http_error(status: int, reason: str | None) -> OSError:
    text = f"HTTP {status} {reason or ''}".strip()
    if status in (404, 410):
        return FileNotFoundError(errno.ENOENT, text)
    if status in (401, 403):
        return PermissionError(errno.EACCES, text)
    if 400 <= status < 500 and status not in (408, 425, 429):
        return OSError(errno.EINVAL, text)
    return ConnectionError(text)


async def _read_body(
    read: Callable[[int], Any], length: int | None, max_bytes: int, on_bytes: Callable[[int], None]
) -> bytes:
    if length is not None and length > max_bytes:
        raise _too_large(length, max_bytes)
    data = bytearray()
    start = time.monotonic()
    while len(data) <= max_bytes:
        _require_pace(start, len(data))
        chunk = await asyncio.wait_for(read(min(_CHUNK, max_bytes + 1 - len(data))), STALL_S)
        if not chunk:
            break
        data += chunk
        on_bytes(len(data))
    if len(data) > max_bytes:
        raise _too_large(None, max_bytes)
    if length is not None and len(data) < length:
        raise ConnectionError(f"only {len(data)} of {length} bytes came")
    return bytes(data)


def _require_pace(start: float, held: int) -> None:
    """Raise TimeoutError where fewer bytes have come than must since `start`."""
    if time.monotonic() - start > STALL_S + held / LEAST_BYTES_PER_S:
        raise TimeoutError(f"only {held} bytes came in {time.monotonic() - start:.0f} s")


def _read_label_studio(url: str, max_bytes: int, on_bytes: Callable[[int], None]) -> bytes:
    start = time.monotonic()

    def heard(held: int) -> None:
        _require_pace(start, held)
        on_bytes(held)

    data, length = read_image(url, max_bytes, heard)
    if len(data) > max_bytes:
        raise _too_large(length, max_bytes)
    if length is not None and len(data) < length:
        raise ConnectionError(f"only {len(data)} of {length} bytes came")
    return data


def _read_other(ref: ImageRef, storage: Storage, max_bytes: int, on_bytes: Callable[[int], None]) -> bytes:
    fs, path = storage.filesystem(ref.uri)
    with as_os_error():
        info = fs.info(path)
        size, version = info.get("size"), version_of(info)
        if size is not None and size > max_bytes:
            raise _too_large(size, max_bytes)
        if size is not None and ref.size is not None and size != ref.size:
            raise _changed(f"{size} bytes instead of {ref.size}")
        if ref.version is not None and version is not None and version != ref.version:
            raise _changed(f"its version is no longer {ref.version}")
        if size is None:
            data = bytes(fs.cat_file(path, start=0, end=max_bytes + 1))
        elif size <= _WHOLE:
            data = bytes(fs.cat_file(path))
        else:
            data = _read_pieces(fs, path, size, on_bytes)
    if len(data) > max_bytes:
        raise _too_large(len(data), max_bytes)
    return data


def _read_pieces(fs: Any, path: str, size: int, on_bytes: Callable[[int], None]) -> bytes:
    data = bytearray()
    start = time.monotonic()
    with fs.open(path, "rb") as file:
        while len(data) < size and (chunk := file.read(min(_CHUNK, size - len(data)))):
            data += chunk
            _require_pace(start, len(data))
            on_bytes(len(data))
    if len(data) < size:
        raise ConnectionError(f"only {len(data)} of {size} bytes came")
    return bytes(data)


def _too_large(size: int | None, max_bytes: int) -> ImageTooLargeError:
    having = f"more than {max_bytes}" if size is None else str(size)
    return ImageTooLargeError(f"the file has {having} bytes, {max_bytes} are allowed")


def _changed(how: str) -> FetchError:
    return FetchError(f"changed since it was listed: {how}")


def _explain(error: OSError, attempts: int) -> str:
    tries = f" after {attempts} tries" if attempts > 1 else ""
    if isinstance(error, FileNotFoundError):
        what = "not found"
    elif isinstance(error, PermissionError):
        what = "no permission to read it"
    elif isinstance(error, IsADirectoryError):
        what = "a folder, not a file"
    elif isinstance(error, TimeoutError):
        what = "the store did not answer in time"
    elif isinstance(error, ConnectionError):
        what = "the connection broke"
    else:
        what = "cannot be read"
    return redact(f"{what}{tries} ({describe(error)})")
