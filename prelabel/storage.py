"""Addresses and bytes: the one module that talks to fsspec.

An address is a plain path (`photos/a.jpg`) or a URL (`s3://bucket/photos/a.jpg`). `Storage` holds what it takes to
open them (credentials, endpoints), never shows it, and knows how to publish a file whole on each kind of store.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from prelabel.errors import ConfigError, StoreError

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_EXTRA_OF = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One listed file: its full address, its size in bytes and what identifies this version of it (or None)."""

    url: str
    size: int | None
    version: str | None


def is_local(url: str) -> bool:
    """True for a plain path or a `file://` URL."""
    return not _SCHEME.match(url) or url.startswith(("file://", "local://"))


def absolute(url: str) -> str:
    """The address as every process of the job must see it: local paths absolute and without `file://`, URLs as given."""
    if not is_local(url):
        return url.rstrip("/") if url.count("/") > 2 else url
    path = re.sub(r"^(file|local)://", "", url)
    return str(Path(path).expanduser().absolute())


def join(base: str, *parts: str) -> str:
    """`base` with path parts below it. Parts that would leave `base` (`..`, absolute) are refused."""
    for part in parts:
        if part.startswith("/") or ".." in part.split("/"):
            raise StoreError(f"{part!r} is not a path below {base!r}")
    return posixpath.join(base, *parts)


class Storage:
    """Opens addresses on any fsspec file system.

    Args:
        options: Keyword arguments for the file systems of remote addresses, either for all of them
            (`{"key": ..., "secret": ...}`) or by protocol (`{"s3": {...}, "gs": {...}}`). May hold secrets: they are
            kept out of `repr` and of every message.
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self._options = dict(options or {})
        by_protocol = bool(self._options) and all(isinstance(v, Mapping) for v in self._options.values())
        known = set(fsspec.available_protocols())
        self._by_protocol = by_protocol and all(k in known for k in self._options)

    def __repr__(self) -> str:
        return f"Storage(<{len(self._options)} options>)"

    def _options_for(self, protocol: str) -> dict[str, Any]:
        if protocol in ("file", "local", "memory"):
            return {}
        if self._by_protocol:
            return dict(self._options.get(protocol, {}))
        return dict(self._options)

    def filesystem(self, url: str) -> tuple[Any, str]:
        """The fsspec file system of an address, and the path it uses there.

        Raises:
            ConfigError: The protocol is unknown, its package is missing, or the storage options do not fit it.
        """
        protocol = get_protocol(url)
        try:
            fs = fsspec.filesystem(protocol, **self._options_for(protocol))
        except ImportError:
            extra = _EXTRA_OF.get(protocol)
            hint = f": pip install 'prelabel[{extra}]'" if extra else ""
            raise ConfigError(f"{protocol}:// addresses need a package that is not installed{hint}") from None
        except ValueError:
            raise ConfigError(f"unknown kind of address {protocol}:// in {redact(url)!r}") from None
        except TypeError as error:
            raise ConfigError(f"the storage options do not fit {protocol}://: {type(error).__name__}") from None
        return fs, fs._strip_protocol(url)

    def read(self, url: str) -> bytes:
        """All bytes of one file. Raises OSError (FileNotFoundError, PermissionError, ...) as the file system does."""
        fs, path = self.filesystem(url)
        data = fs.cat_file(path)
        return bytes(data)

    def open(self, url: str) -> Any:
        """A seekable binary file object for reading, to be used in a `with` block."""
        fs, path = self.filesystem(url)
        if isinstance(fs, LocalFileSystem):
            return Path(path).open("rb")
        return fs.open(path, "rb")

    def exists(self, url: str) -> bool:
        """Whether something (a file or a folder) is at the address."""
        fs, path = self.filesystem(url)
        return bool(fs.exists(path))

    def is_dir(self, url: str) -> bool:
        """Whether the address is a folder, or on an object store a prefix with something below it."""
        fs, path = self.filesystem(url)
        return bool(fs.isdir(path))

    def names(self, url: str) -> dict[str, int]:
        """Names and sizes of the files directly inside a folder; empty where there is no such folder."""
        fs, path = self.filesystem(url)
        with contextlib.suppress(AttributeError):
            fs.invalidate_cache(path)
        try:
            entries = fs.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        return {
            posixpath.basename(entry["name"]): int(entry.get("size") or 0)
            for entry in entries
            if entry["type"] == "file" and entry["name"].rstrip("/") != path.rstrip("/")
        }

    def publish(self, url: str, data: bytes) -> None:
        """Write a file whole: under its name there is the old content or all of the new, never a part.

        On a disk that is a temporary file, synced and renamed; on an object store a single upload.

        Raises:
            StoreError: It could not be written.
        """
        fs, path = self.filesystem(url)
        try:
            if isinstance(fs, LocalFileSystem):
                _publish_on_disk(Path(path), data)
            else:
                fs.pipe_file(path, data)
                with contextlib.suppress(AttributeError):
                    fs.invalidate_cache(posixpath.dirname(path))
        except OSError as error:
            raise StoreError(f"cannot write {redact(url)}: {describe(error)}") from error

    @contextlib.contextmanager
    def publishing(self, url: str) -> Iterator[Any]:
        """A binary file to stream into that appears under its name when the block ends well, and not at all otherwise.

        On a disk the stream goes to a temporary file; on other stores through fsspec's multipart upload, which is
        discarded when the block raises.
        """
        fs, path = self.filesystem(url)
        if isinstance(fs, LocalFileSystem):
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = _temporary_name(target)
            try:
                with temporary.open("wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            return
        file = fs.open(path, "wb", autocommit=False)
        try:
            yield file
            file.close()
            file.commit()
        except BaseException:
            with contextlib.suppress(Exception):
                file.discard()
            raise

    def delete(self, url: str) -> None:
        """Remove one file; nothing happens where there is none."""
        fs, path = self.filesystem(url)
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(path)


def _temporary_name(target: Path) -> Path:
    return target.with_name(f".{target.name[:200]}.{uuid.uuid4().hex[:12]}.tmp")


def _publish_on_disk(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(target)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def redact(url: str) -> str:
    """The address without what may be secret in it: user and password, and the query (presigned URLs)."""
    url = re.sub(r"(://)[^/@]*@", r"\1***@", url)
    return re.sub(r"^(https?://[^?#]*)\?[^#]*", r"\1?***", url)


def describe(error: BaseException) -> str:
    """An exception as one short line: its class and first line, redacted."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {redact(text)[:300]}" if text else type(error).__name__
