"""How a file appears whole under its name, or not at all, on each kind of store.

    with published(fs, path, store) as file:
        file.write(...)

- A disk: a temporary file beside it, synced and renamed.
- S3, GCS, Azure: an upload in parts that only our own last request turns into an object (`base.Upload`).
- `memory://`: kept aside until its end.
- Any other store: a file on this machine first, then under a temporary name there, then renamed.
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

from prelabel.foreign import storage_errors
from prelabel.stores.base import ObjectStore, Upload


def published(fs: Any, path: str, store: ObjectStore | None) -> contextlib.AbstractContextManager[Any]:
    """A binary file whose content is under its name when the block ends well; when it raises, nothing has changed."""
    if isinstance(fs, LocalFileSystem):
        return _on_disk(Path(path))
    if store is not None:
        return _by_upload(store, fs, path)
    if isinstance(fs, MemoryFileSystem):
        return _in_memory(fs, path)
    return _by_rename(fs, path)


def created_on_disk(target: Path, data: bytes) -> bool:
    """Write a file where there is none; False where there is one."""
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
    # A file name may have 255 bytes, not characters.
    stem = name.encode(errors="surrogateescape")[:200].decode(errors="ignore")
    return f".{stem}.{uuid.uuid4().hex[:12]}.tmp"


@contextlib.contextmanager
def _on_disk(target: Path) -> Iterator[Any]:
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
def _in_memory(fs: Any, path: str) -> Iterator[Any]:
    # Files of a memory:// store are there from the moment they are opened.
    buffer = io.BytesIO()
    yield buffer
    fs.pipe_file(path, buffer.getvalue())


@contextlib.contextmanager
def _by_upload(store: ObjectStore, fs: Any, path: str) -> Iterator[Any]:
    upload = Upload(store, fs, path)
    try:
        yield upload
        upload.commit()
    except BaseException:
        # A failed clean-up must not hide what went wrong.
        with contextlib.suppress(*storage_errors()):
            upload.abandon()
        raise


@contextlib.contextmanager
def _by_rename(fs: Any, path: str) -> Iterator[Any]:
    folder, name = posixpath.split(path)
    temporary = posixpath.join(folder, _temporary_name(name))
    with tempfile.NamedTemporaryFile(prefix="prelabel-") as file:
        yield file
        file.flush()
        try:
            if folder:
                fs.makedirs(folder, exist_ok=True)
            fs.put_file(file.name, temporary)
            if not _is_moved(fs, temporary, path):
                # Where a rename takes no place that is taken, there is nothing under the name for a moment.
                with contextlib.suppress(FileNotFoundError):
                    fs.rm_file(path)
                if not _is_moved(fs, temporary, path):
                    raise OSError(errno.EIO, "the store did not rename the file to its name")
        except BaseException:
            with contextlib.suppress(*storage_errors()):
                fs.rm_file(temporary)
            raise


def _is_moved(fs: Any, temporary: str, path: str) -> bool:
    """Rename a file; False where its new name is taken. Some stores (WebHDFS) refuse without an error."""
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
