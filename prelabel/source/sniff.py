"""Identifying images among files with unknown extensions by their first bytes (`--sniff`).

A small range of each file is read, in several threads, and the order is kept. This is off by default, since a folder of
a million such files costs a million small requests.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from prelabel.image_ref import ImageRef
from prelabel.source.formats import image_format
from prelabel.storage.address import Address
from prelabel.storage.base import STALL_S, ObjectStore, run_coroutine
from prelabel.storage.files import Storage
from prelabel.storage.retries import retry_patiently

#: Number of bytes that identify a format; the brands of an AVIF file end within 256.
_HEAD_BYTES = 512

#: Number of files read concurrently, and of finished files that may wait for an earlier one.
_THREADS, _AHEAD = 32, 256


def only_images(
    files: Iterable[ImageRef],
    storage: Storage,
    *,
    is_decided: Callable[[str], bool],
    ignore: Callable[[str], None],
) -> Iterator[ImageRef]:
    """Yield the files that are images, in order.

    Args:
        files: The files of a walk.
        storage: Opens the files.
        is_decided: Whether a file's path alone identifies it as an image, so that the file is not read.
        ignore: Called with the path of each file that is skipped.

    Raises:
        OSError: Storage failed. A file that is missing or may not be read is skipped.
    """
    waiting: deque[tuple[ImageRef, Future[bool] | None]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="sniff") as pool:
        try:
            for file in files:
                is_image = None if is_decided(file.file_name) else pool.submit(_is_image, file, storage)
                waiting.append((file, is_image))
                while waiting and (len(waiting) > _AHEAD or waiting[0][1] is None or waiting[0][1].done()):
                    yield from _resolve(*waiting.popleft(), ignore)
            while waiting:
                yield from _resolve(*waiting.popleft(), ignore)
        finally:
            for _, is_image in waiting:
                if is_image is not None:
                    is_image.cancel()


def _resolve(file: ImageRef, is_image: Future[bool] | None, ignore: Callable[[str], None]) -> Iterator[ImageRef]:
    if is_image is None or is_image.result():
        yield file
    else:
        ignore(file.file_name)


def _is_image(file: ImageRef, storage: Storage) -> bool:
    if file.size == 0:
        return False
    try:
        return image_format(first_bytes(file.uri, storage)) is not None
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        return False


def first_bytes(uri: str, storage: Storage) -> bytes:
    """Read the first bytes of a file, enough to identify its format. Raises OSError."""
    address = Address.of(uri)
    if address.is_local:
        return _head_on_disk(address.url)
    fs, path = storage.filesystem(address)
    store = storage.store(address)
    if store is not None:
        return retry_patiently(lambda: run_coroutine(fs, _head_of_object(store, fs, path)))
    if address.is_http:
        return retry_patiently(lambda: run_coroutine(fs, _head_of_url(fs, path)))
    return retry_patiently(lambda: bytes(fs.cat_file(path, start=0, end=_HEAD_BYTES)))


def _head_on_disk(path: str) -> bytes:
    # Non-blocking: a named pipe would otherwise block the listing forever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        return file.read(_HEAD_BYTES) or b"" if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""


async def _head_of_object(store: ObjectStore, fs: Any, path: str) -> bytes:
    async with store.body(fs, path, first=_HEAD_BYTES) as body:
        return await _read_head(body.read)


async def _head_of_url(fs: Any, url: str) -> bytes:
    session = await fs.set_session()
    headers = {**fs.kwargs.get("headers", {}), "Range": f"bytes=0-{_HEAD_BYTES - 1}"}
    async with session.get(fs.encode_url(url), **{**fs.kwargs, "headers": headers}) as response:
        if response.status == 416:  # an empty file has no such range
            return b""
        response.raise_for_status()
        return await _read_head(response.content.read)


async def _read_head(read: Callable[[int], Awaitable[bytes]]) -> bytes:
    data = b""
    while len(data) < _HEAD_BYTES and (chunk := await asyncio.wait_for(read(_HEAD_BYTES - len(data)), STALL_S)):
        data += chunk
    return data
