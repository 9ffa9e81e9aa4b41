"""Which of the files that their names say nothing about are pictures, told from their first bytes.

Reads a small range of each, in several threads, and keeps the order: a folder of a million such files costs a million
small requests, which is why `--sniff` has to ask for it.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from prelabel.source.fetch import STALL_S
from prelabel.source.sniff import image_format
from prelabel.source.walk import FoundFile
from prelabel.storage import Storage, absolute, is_http, is_local, patiently
from prelabel.stores.base import ObjectStore, run

#: Bytes that tell a format: the brands of an AVIF file end within 256.
_COUNT = 512

#: Files looked at side by side, and those that may wait for an earlier one.
_THREADS, _AHEAD = 32, 256


def only_pictures(
    files: Iterable[FoundFile],
    storage: Storage,
    *,
    is_decided: Callable[[str], bool],
    ignore: Callable[[str], None],
) -> Iterator[FoundFile]:
    """The files that are pictures, in their order.

    Args:
        files: What a walk found.
        storage: Where it is.
        is_decided: Whether the path of a file is enough to take it.
        ignore: Called with the path of each file that is left out.

    Raises:
        OSError: The store failed. A file that is gone or may not be read is left out.
    """
    waiting: deque[tuple[FoundFile, Future[bool] | None]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="sniff") as pool:
        try:
            for file in files:
                ask = None if is_decided(file.path) else pool.submit(_is_picture, file, storage)
                waiting.append((file, ask))
                while waiting and (len(waiting) > _AHEAD or waiting[0][1] is None or waiting[0][1].done()):
                    yield from _settled(*waiting.popleft(), ignore)
            while waiting:
                yield from _settled(*waiting.popleft(), ignore)
        finally:
            for _, ask in waiting:
                if ask is not None:
                    ask.cancel()


def _settled(file: FoundFile, ask: Future[bool] | None, ignore: Callable[[str], None]) -> Iterator[FoundFile]:
    if ask is None or ask.result():
        yield file
    else:
        ignore(file.path)


def _is_picture(file: FoundFile, storage: Storage) -> bool:
    if file.size == 0:
        return False
    try:
        return image_format(first_bytes(file.uri, storage)) is not None
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        return False


def first_bytes(uri: str, storage: Storage) -> bytes:
    """The beginning of a file, no more than it takes to tell a format. Raises OSError."""
    if is_local(uri):
        return _on_disk(absolute(uri))
    fs, path = storage.filesystem(uri)
    store = storage.store(uri)
    if store is not None:
        return patiently(lambda: run(fs, _of_object(store, fs, path)))
    if is_http(uri):
        return patiently(lambda: run(fs, _of_page(fs, path)))
    return patiently(lambda: bytes(fs.cat_file(path, start=0, end=_COUNT)))


def _on_disk(path: str) -> bytes:
    # Without waiting: a named pipe would otherwise stop the listing for good.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        return file.read(_COUNT) or b"" if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""


async def _of_object(store: ObjectStore, fs: Any, path: str) -> bytes:
    async with store.body(fs, path, first=_COUNT) as body:
        return await _read(body.read)


async def _of_page(fs: Any, address: str) -> bytes:
    session = await fs.set_session()
    headers = {**fs.kwargs.get("headers", {}), "Range": f"bytes=0-{_COUNT - 1}"}
    async with session.get(fs.encode_url(address), **{**fs.kwargs, "headers": headers}) as answer:
        if answer.status == 416:  # a file without bytes has no first ones
            return b""
        answer.raise_for_status()
        return await _read(answer.content.read)


async def _read(read: Callable[[int], Awaitable[bytes]]) -> bytes:
    data = b""
    while len(data) < _COUNT and (chunk := await asyncio.wait_for(read(_COUNT - len(data)), STALL_S)):
        data += chunk
    return data
