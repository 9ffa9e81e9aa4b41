"""The bytes at addresses, on every kind of store.

`Storage` holds what it takes to open addresses (credentials, endpoints) and never shows it. What single stores need
beyond fsspec's common interface is in `stores/`.

What goes wrong on a store is an `OSError` here, or a `CredentialsError` (`foreign`); what may pass is tried again
(`retries`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import posixpath
import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations, registry

from prelabel.address import (
    HTTP,
    LOCAL,
    absolute,
    describe,
    is_http,
    is_local,
    join,
    protocol_of,
    redact,
    without_secrets,
)
from prelabel.errors import ConfigError, StoreError
from prelabel.foreign import ForeignFile, as_os_error, patiently, storage_errors
from prelabel.redirects import web_client
from prelabel.retries import status_of
from prelabel.stores import STORES
from prelabel.stores.base import PART_BYTES, ObjectStore
from prelabel.stores.whole import created_on_disk, published

#: Whoever opens addresses works with them as text, too: both come from here.
__all__ = [
    "Storage",
    "absolute",
    "as_os_error",
    "describe",
    "is_http",
    "is_known",
    "is_local",
    "join",
    "patiently",
    "protocol_of",
    "redact",
    "storage_errors",
    "without_secrets",
]


def is_known(url: str) -> bool:
    """Whether fsspec has a file system of the address's protocol, installed or not."""
    protocol = protocol_of(url)
    return protocol in known_implementations or protocol in registry


class _OptionsError(Exception):
    """What a store's library says of its options, in an error class of its own."""


#: Errors about files on this machine that options name, such as one with a key.
_OWN_FILES = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def _filesystem(url: str, store: ObjectStore | None, options: dict[str, Any]) -> Any:
    """A file system; what may pass while it is made (a token has to be fetched) is raised as it is."""
    try:
        return store.filesystem(url, options) if store else fsspec.filesystem(protocol_of(url), **options)
    except storage_errors() as error:
        asked = type(error).__module__.startswith(("google.auth", "gcsfs"))
        if asked or isinstance(error, OSError | asyncio.TimeoutError):
            raise
        raise _OptionsError(describe(error)) from None


class Storage:
    """Opens addresses on any fsspec file system.

    Args:
        options: Keyword arguments for the file systems of remote addresses, either by protocol
            (`{"s3": {...}, "https": {...}}`) or flat (`{"key": ..., "secret": ...}`), which is then for every remote
            store but web servers: keys of a bucket are not for them. May hold secrets: they are kept out of `repr`
            and of every message.
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self._options = dict(options or {})
        by_protocol = bool(self._options) and all(isinstance(v, Mapping) for v in self._options.values())
        known = set(fsspec.available_protocols())
        self._by_protocol = by_protocol and all(k in known for k in self._options)

    def __repr__(self) -> str:
        return f"Storage(<{len(self._options)} options>)"

    def _options_for(self, protocol: str) -> dict[str, Any]:
        if protocol in (*LOCAL, "memory"):
            return {}
        # Without fsspec's cache of listings: what another process has written since must be seen, and the listing of
        # a large bucket must not stay in memory.
        options: dict[str, Any] = {"use_listings_cache": False}
        if protocol in HTTP:
            options["get_client"] = web_client
        if self._by_protocol:
            # Options given for one name of a store serve all.
            store = STORES.get(protocol)
            for name in store.protocols if store else HTTP if protocol in HTTP else (protocol,):
                options.update(self._options.get(name, {}))
        elif protocol not in HTTP:
            options.update(self._options)
        return options

    @staticmethod
    def store(url: str) -> ObjectStore | None:
        """What knows the address's store, or None where fsspec's common interface is all there is."""
        return STORES.get(protocol_of(url))

    def filesystem(self, url: str) -> tuple[Any, str]:
        """The fsspec file system of an address, and the path it uses there.

        Raises:
            ConfigError: The protocol is unknown, its package is missing, or the storage options do not fit it.
            CredentialsError: There are no credentials for it, as far as that is known without asking.
            OSError: What has to be asked before the first request (a token, a server's version) cannot be had.
        """
        protocol = protocol_of(url)
        store, options = self.store(url), self._options_for(protocol)
        if store is not None and not store.has_account and "@" in url.split("/")[2]:
            # It would be taken for a part of the bucket's name, and quoted as such.
            raise ConfigError(f"{redact(url)}: an address in a bucket has no user and password, see storage-options")
        try:
            fs = patiently(lambda: _filesystem(url, store, options))
        except ImportError:
            hint = f": pip install 'prelabel[{store.extra}]'" if store else ""
            raise ConfigError(f"{protocol}:// addresses need a package that is not installed{hint}") from None
        except KeyError as error:
            raise ConfigError(f"the storage options do not fit {protocol}://: {error} is missing in them") from None
        except (_OptionsError, TypeError, ValueError, *_OWN_FILES) as error:
            if not is_known(url):
                raise ConfigError(f"unknown kind of address {protocol}:// in {redact(url)!r}") from None
            raise ConfigError(f"the storage options do not fit {protocol}://: {describe(error)}") from None
        if is_local(url):
            return fs, absolute(url)
        return fs, fs._strip_protocol(url)

    def read(self, url: str) -> bytes:
        """All bytes of one file. Raises OSError (FileNotFoundError, PermissionError, ...)."""
        if is_local(url):
            return Path(absolute(url)).read_bytes()
        fs, path = self.filesystem(url)
        # One request instead of two: s3fs would ask for the size first, to read parts of large files side by side.
        how = {"max_concurrency": 1} if protocol_of(url) in ("s3", "s3a") else {}
        return patiently(lambda: bytes(fs.cat_file(path, **how)))

    def read_json(self, url: str, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
        """The content of one JSON file that a person names.

        Args:
            url: Its address.
            pairs: Makes objects of their keys and values; without it of equal keys the last counts.

        Raises:
            OSError: It cannot be read.
            ValueError: It is no JSON.
            ConfigError: It is an archive.
        """
        content = self.read(url)
        if content.startswith((b"PK\x03\x04", b"\x1f\x8b")):
            kind = "ZIP" if content.startswith(b"PK") else "gzip"
            raise ConfigError(
                f"{redact(url)} is a {kind} file, and JSON is needed: unpack it and give the JSON file in it "
                "(result.json in what Label Studio downloads as COCO)"
            )
        return json.loads(content, object_pairs_hook=pairs)

    def open(self, url: str, *, block_size: int | None = None) -> Any:
        """A binary file object for reading, to be used in a `with` block; seekable except from some web servers.

        Args:
            url: Its address.
            block_size: Bytes that are read ahead from a remote store; by default what suits reading from end to end.
        """
        if is_local(url):
            return Path(absolute(url)).open("rb")
        fs, path = self.filesystem(url)
        file = patiently(lambda: fs.open(path, "rb", block_size=block_size))
        return ForeignFile(file, again=not is_http(url))

    def kind(self, url: str) -> Literal["file", "directory"] | None:
        """What is at the address; on an object store a prefix with something below it is a directory.

        None only where the store says that there is nothing. Raises OSError when it cannot say.
        """
        if is_local(url):
            path = Path(absolute(url))
            try:
                mode = path.stat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                return None
            return "directory" if stat.S_ISDIR(mode) else "file"
        try:
            info = self.info(url)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return "directory" if info["type"] == "directory" else "file"

    def info(self, url: str) -> dict[str, Any]:
        """What the store says of a file or folder, in fsspec's words: `type`, `size`, and others of its own.

        Raises:
            OSError: There is nothing (FileNotFoundError), or the store cannot say.
        """
        fs, path = self.filesystem(url)
        found: dict[str, Any] = patiently(lambda: fs.info(path))
        return found

    def exists(self, url: str) -> bool:
        """Whether something (a file or a folder) is at the address. Raises OSError when the store cannot say."""
        return self.kind(url) is not None

    def is_dir(self, url: str) -> bool:
        """Whether the address is a folder, or on an object store a prefix with something below it."""
        return self.kind(url) == "directory"

    def names(self, url: str) -> dict[str, int]:
        """Names and sizes in bytes of the files directly inside a folder; empty where there is no such folder."""
        return {name: int(entry.get("size") or 0) for name, entry in self._files(url)}

    def times(self, url: str) -> dict[str, float | None]:
        """Names of the files directly inside a folder, and when each was written: seconds since 1970, or None."""
        return {name: _written_at(entry) for name, entry in self._files(url)}

    def _files(self, url: str) -> list[tuple[str, dict[str, Any]]]:
        fs, path = self.filesystem(url)
        try:
            entries = patiently(lambda: fs.ls(path, detail=True))
        except FileNotFoundError:
            return []
        return [
            (posixpath.basename(entry["name"]), entry)
            for entry in entries
            if entry["type"] == "file" and entry["name"].rstrip("/") != path.rstrip("/")
        ]

    def publish(self, url: str, data: bytes) -> None:
        """Write a file whole: under its name there is the old content or all of the new, never a part.

        How, `stores/whole.py` says.

        Raises:
            StoreError: It could not be written.
        """
        try:
            fs, path = self.filesystem(url)
            patiently(lambda: self._publish(url, fs, path, data))
        except OSError as error:
            raise StoreError(f"cannot write {redact(url)}: {describe(error)}") from error

    def _publish(self, url: str, fs: Any, path: str, data: bytes) -> None:
        if is_http(url) or (self.store(url) is not None and len(data) <= PART_BYTES):
            fs.pipe_file(path, data)
            return
        with published(fs, path, self.store(url)) as file:
            file.write(data)

    def create(self, url: str, data: bytes) -> bool:
        """Write a small file where there is none; of several processes that try at once, one succeeds.

        That holds on disks and on stores with conditional writes (S3, GCS, Azure); a store that does not know them
        takes every file, so that whoever relies on this reads back what is there. On a disk the file is there for a
        moment before its content is.

        Returns:
            False where there is a file. It may be this one after all, where a store's answer was lost on the way.

        Raises:
            StoreError: It could not be written.
        """
        try:
            fs, path = self.filesystem(url)
        except OSError as error:
            raise StoreError(f"cannot write {redact(url)}: {describe(error)}") from error
        try:
            if isinstance(fs, LocalFileSystem):
                return created_on_disk(Path(path), data)
            patiently(lambda: fs.pipe_file(path, data, mode="create"))
        except OSError as error:
            if not isinstance(fs, LocalFileSystem) and (isinstance(error, FileExistsError) or status_of(error) == 412):
                return False
            if error.errno == errno.ENOSYS:
                self.publish(url, data)
                return True
            raise StoreError(f"cannot write {redact(url)}: {describe(error)}") from error
        return True

    @contextlib.contextmanager
    def publishing(self, url: str) -> Iterator[Any]:
        """A binary file to stream into that appears under its name when the block ends well, and not at all otherwise.

        How, `stores/whole.py` says.

        Raises:
            OSError: It could not be written.
        """
        fs, path = self.filesystem(url)
        with as_os_error(), published(fs, path, self.store(url)) as file:
            yield file

    def delete(self, url: str) -> None:
        """Remove one file; nothing happens where there is none."""
        fs, path = self.filesystem(url)
        with contextlib.suppress(FileNotFoundError):
            patiently(lambda: fs.rm_file(path))


def _written_at(entry: Mapping[str, Any]) -> float | None:
    """Every file system of fsspec has its own name and type for the time of the last change."""
    for key in ("mtime", "LastModified", "updated", "last_modified", "created"):
        value = entry.get(key)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value.replace("Z", "+00:00"))
            except ValueError:
                continue
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return None
