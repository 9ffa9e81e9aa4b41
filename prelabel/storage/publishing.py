"""Atomic writing: a file appears under its name when it is complete, or not at all.

    with open_atomically(fs, path, store) as file:
        file.write(...)

- Disk: a temporary file beside the target, synced and renamed.
- S3, GCS, Azure: an upload in parts that only our own last request turns into an object (`base.Upload`).
- `memory://`: a buffer that is written at the end.
- Other storage: a local temporary file, uploaded under a temporary name and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import posixpath
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from prelabel.storage.base import ObjectStore, Upload
from prelabel.storage.store_errors import storage_errors


def open_atomically(fs: Any, path: str, store: ObjectStore | None) -> contextlib.AbstractContextManager[Any]:
    """Open a binary file that appears under its name if the block ends normally; on an exception nothing changes."""
    if isinstance(fs, LocalFileSystem):
        return _write_on_disk(Path(path))
    if store is not None:
        return _write_by_upload(store, fs, path)
    if isinstance(fs, MemoryFileSystem):
        return _write_in_memory(fs, path)
    return _write_by_rename(fs, path)


def create_on_disk(target: Path, data: bytes) -> bool:
    """Create a file on disk; return False if it exists."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = target.open("xb")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return True


def _temporary_name(name: str) -> str:
    # File names are limited to 255 bytes, not characters.
    stem = name.encode(errors="surrogateescape")[:200].decode(errors="ignore")
    return f".{stem}.{uuid.uuid4().hex[:12]}.tmp"


@contextlib.contextmanager
def _write_on_disk(target: Path) -> Iterator[Any]:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(_temporary_name(target.name))
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _write_in_memory(fs: Any, path: str) -> Iterator[Any]:
    # A file of memory:// would exist from the moment it is opened.
    buffer = io.BytesIO()
    yield buffer
    fs.pipe_file(path, buffer.getvalue())


@contextlib.contextmanager
def _write_by_upload(store: ObjectStore, fs: Any, path: str) -> Iterator[Any]:
    upload = Upload(store, fs, path)
    try:
        yield upload
        upload.commit()
    except BaseException:
        # A failed clean-up must not hide the error.
        with contextlib.suppress(*storage_errors()):
            upload.abandon()
        raise


@contextlib.contextmanager
def _write_by_rename(fs: Any, path: str) -> Iterator[Any]:
    folder, name = posixpath.split(path)
    temporary = posixpath.join(folder, _temporary_name(name))
    with tempfile.NamedTemporaryFile(prefix="prelabel-") as file:
        yield file
        file.flush()
        try:
            if folder:
                fs.makedirs(folder, exist_ok=True)
            fs.put_file(file.name, temporary)
            if not _try_rename(fs, temporary, path):
                # This storage does not replace on rename: remove the old file first, so nothing exists for a moment.
                with contextlib.suppress(FileNotFoundError):
                    fs.rm_file(path)
                if not _try_rename(fs, temporary, path):
                    raise OSError(errno.EIO, "storage did not rename the temporary file")
        except BaseException:
            with contextlib.suppress(*storage_errors()):
                fs.rm_file(temporary)
            raise


def _try_rename(fs: Any, temporary: str, path: str) -> bool:
    """Rename a file; return False if the new name is taken. Some storage (WebHDFS) then raises no error."""
    try:
        fs.mv(temporary, path)
    except OSError as error:
        if not isinstance(error, FileExistsError) and error.errno != errno.EEXIST:
            raise
        return False
    fs.invalidate_cache(posixpath.dirname(path))
    try:
        fs.info(temporary)
    except FileNotFoundError:
        return True
    return False
