"""Reading and writing files on any storage.

`Storage` holds what is needed to open addresses (credentials, endpoints) and never shows it. `base` defines what an
object store needs beyond fsspec's common interface, and each store's library has a file that implements it (`s3`,
`gcs`, `azure`). `STORES` maps the protocol of an address to it. A new store with an fsspec file system needs such a
file, an entry in `STORES`, and the errors of its library in `store_errors`.

Storage failures are `OSError`s or `CredentialsError`s (`store_errors`), transient ones are retried (`retries`), and
files appear under their names only when complete (`publishing`). Private interface used: `_strip_protocol` of fsspec's
file systems, by which each of them converts an address to a path.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import math
import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import fsspec
from fsspec.registry import known_implementations, registry

from prelabel.errors import ConfigError, StoreError
from prelabel.storage.address import HTTP, Address, AddressLike, describe
from prelabel.storage.azure import Azure
from prelabel.storage.base import PART_BYTES, ObjectStore
from prelabel.storage.gcs import Gcs
from prelabel.storage.publishing import create_on_disk, open_atomically
from prelabel.storage.redirects import web_client
from prelabel.storage.retries import retry_patiently
from prelabel.storage.s3 import S3
from prelabel.storage.store_errors import as_os_error, status_of, storage_errors
from prelabel.words import install_hint

#: Object stores by protocol. All other storage is used through fsspec's common interface.
STORES: dict[str, ObjectStore] = {protocol: store for store in (S3(), Gcs(), Azure()) for protocol in store.protocols}


def is_known_protocol(protocol: str) -> bool:
    """Whether fsspec has a file system for a protocol, installed or not."""
    return protocol in known_implementations or protocol in registry


class _OptionsError(Exception):
    """A storage library rejected its options with its own error class."""


#: Errors about local files named in the options, such as a key file.
_LOCAL_FILE_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def _filesystem(address: Address, store: ObjectStore | None, options: dict[str, Any]) -> Any:
    """Create a file system. Transient errors meanwhile, such as fetching a token, are raised unchanged."""
    try:
        return store.filesystem(address, options) if store else fsspec.filesystem(address.protocol, **options)
    except storage_errors() as error:
        is_from_request = type(error).__module__.startswith(("google.auth", "gcsfs"))
        if is_from_request or isinstance(error, OSError | asyncio.TimeoutError):
            raise
        raise _OptionsError(describe(error)) from None


class Storage:
    """Reads and writes files on any fsspec file system. Addresses given as text are parsed by `Address.of`.

    Args:
        options: Keyword arguments for the file systems of remote addresses, either by protocol
            (`{"s3": {...}, "https": {...}}`) or flat (`{"key": ..., "secret": ...}`). Flat options apply to all remote
            storage except web servers, which must not receive the keys of a bucket. Options may contain secrets: they
            never appear in `repr` or in messages.
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self._options = dict(options or {})
        for name, value in self._options.items():
            if name in (*STORES, *HTTP) and not isinstance(value, Mapping):
                raise ConfigError(f"--storage-options: {name!r} must be an object with the options of {name}://")
        by_protocol = bool(self._options) and all(isinstance(value, Mapping) for value in self._options.values())
        protocols = set(fsspec.available_protocols())
        self._by_protocol = by_protocol and all(name in protocols for name in self._options)

    def __repr__(self) -> str:
        return f"Storage(<{len(self._options)} options>)"

    def _options_for(self, protocol: str) -> dict[str, Any]:
        if protocol in ("file", "memory"):
            return {}
        # fsspec's cache of listings is off: files written by other processes must be visible, and the listing of a
        # large bucket must not stay in memory.
        options: dict[str, Any] = {"use_listings_cache": False}
        if protocol in HTTP:
            options["get_client"] = web_client
        if self._by_protocol:
            # Options for one protocol of a store apply to all of its protocols.
            store = STORES.get(protocol)
            for name in store.protocols if store else HTTP if protocol in HTTP else (protocol,):
                options.update(self._options.get(name, {}))
        elif protocol not in HTTP:
            options.update(self._options)
        return options

    @staticmethod
    def store(url: AddressLike) -> ObjectStore | None:
        """The object store of an address, or None if it is used through fsspec's common interface."""
        return STORES.get(Address.of(url).protocol)

    def filesystem(self, url: AddressLike) -> tuple[Any, str]:
        """The fsspec file system of an address, and its path there.

        Raises:
            ConfigError: The protocol is unknown, its package is not installed, or the storage options are invalid.
            CredentialsError: There are no credentials, as far as is known without a request.
            OSError: A request before the first access failed (a token, a server's version).
        """
        address = Address.of(url)
        protocol = address.protocol
        store, options = STORES.get(protocol), self._options_for(protocol)
        if store is not None and not store.has_account and "@" in address.bucket:
            # The library would take them for part of the bucket's name and show them in its errors.
            raise ConfigError(
                f"{address}: a bucket URL must not contain user and password: pass them in --storage-options"
            )
        try:
            fs = retry_patiently(lambda: _filesystem(address, store, options))
        except ImportError:
            hint = f": {install_hint(store.extra)}" if store else ""
            raise ConfigError(f"{protocol}:// needs a package that is not installed{hint}") from None
        except KeyError as error:
            raise ConfigError(f"invalid --storage-options for {protocol}://: {error} is missing") from None
        except (_OptionsError, TypeError, ValueError, *_LOCAL_FILE_ERRORS) as error:
            if not is_known_protocol(protocol):
                raise ConfigError(f"unknown protocol {protocol}:// in {str(address)!r}") from None
            raise ConfigError(f"invalid --storage-options for {protocol}://: {describe(error)}") from None
        return fs, address.url if address.is_local else fs._strip_protocol(address.url)

    def read(self, url: AddressLike) -> bytes:
        """Read all bytes of a file. Raises OSError (FileNotFoundError, PermissionError, ...)."""
        address = Address.of(url)
        if address.is_local:
            return address.path.read_bytes()
        fs, path = self.filesystem(address)
        # One request instead of two: s3fs would request the size first, to read parts of large files concurrently.
        options = {"max_concurrency": 1} if address.protocol in ("s3", "s3a") else {}
        return retry_patiently(lambda: bytes(fs.cat_file(path, **options)))

    def read_json(self, url: AddressLike, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
        """Read a JSON file named by the user.

        Args:
            url: Path or URL of the file.
            pairs: Builds an object from its (key, value) pairs; by default a dict, in which the last of duplicate keys
                counts.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is not JSON.
            ConfigError: The file is an archive.
        """
        content = self.read(url)
        if content.startswith((b"PK\x03\x04", b"\x1f\x8b")):
            kind = "ZIP" if content.startswith(b"PK") else "gzip"
            raise ConfigError(
                f"{Address.of(url)} is a {kind} file, expected JSON: unpack it and give the JSON file inside "
                "(result.json in a COCO export of Label Studio)"
            )
        return json.loads(content, object_pairs_hook=pairs)

    def open(self, url: AddressLike, *, block_size: int | None = None) -> Any:
        """Open a file for binary reading, for use in a `with` block. It is seekable, except on some web servers.

        Args:
            url: Path or URL of the file.
            block_size: Number of bytes to read ahead from remote storage; the default suits sequential reading.
        """
        address = Address.of(url)
        if address.is_local:
            return address.path.open("rb")
        fs, path = self.filesystem(address)
        file = retry_patiently(lambda: fs.open(path, "rb", block_size=block_size))
        return _RemoteFile(file, can_retry=not address.is_http)

    def kind(self, url: AddressLike) -> Literal["file", "directory"] | None:
        """Whether the address is a file or a directory. On an object store, a prefix of any object is a directory.

        Returns:
            None if storage reports that nothing exists there.

        Raises:
            OSError: Storage cannot tell.
        """
        address = Address.of(url)
        try:
            if address.is_local:
                is_folder = stat.S_ISDIR(address.path.stat().st_mode)
            else:
                is_folder = self.info(address)["type"] == "directory"
        except (FileNotFoundError, NotADirectoryError):
            return None
        return "directory" if is_folder else "file"

    def info(self, url: AddressLike) -> dict[str, Any]:
        """The fsspec entry of a file or folder: `type`, `size`, and keys specific to the storage.

        Raises:
            OSError: Nothing exists there (FileNotFoundError), or storage cannot tell.
        """
        fs, path = self.filesystem(url)
        entry: dict[str, Any] = retry_patiently(lambda: fs.info(path))
        return entry

    def exists(self, url: AddressLike) -> bool:
        """Whether a file or folder exists at the address. Raises OSError if storage cannot tell."""
        return self.kind(url) is not None

    def names(self, url: AddressLike) -> dict[str, int]:
        """Sizes in bytes by name of the files directly in a folder; empty if there is no such folder."""
        address = Address.of(url)
        if address.is_local:
            return retry_patiently(lambda: _sizes_on_disk(address.path))
        return {name: int(entry.get("size") or 0) for name, entry in self._files(url)}

    def times(self, url: AddressLike, most: int | None = None) -> dict[str, float | None]:
        """Times of writing by name of the files directly in a folder: seconds since 1970, or None if unknown.

        Args:
            url: Path or URL of the folder.
            most: Read at most so many times from a disk, of files spread over the folder: each takes a system call.
        """
        address = Address.of(url)
        if address.is_local:
            return retry_patiently(lambda: _times_on_disk(address.path, most))
        return {name: _written_at(entry) for name, entry in self._files(url)}

    def _files(self, url: AddressLike) -> list[tuple[str, dict[str, Any]]]:
        fs, path = self.filesystem(url)
        try:
            entries = retry_patiently(lambda: fs.ls(path, detail=True))
        except FileNotFoundError:
            return []
        return [
            (posixpath.basename(entry["name"]), entry)
            for entry in entries
            if entry["type"] == "file" and entry["name"].rstrip("/") != path.rstrip("/")
        ]

    def publish(self, url: AddressLike, data: bytes) -> None:
        """Write a file atomically: its name refers to the old content or to all of the new, never to a part.

        See `storage/publishing.py`.

        Raises:
            StoreError: The file could not be written.
        """
        address = Address.of(url)
        try:
            fs, path = self.filesystem(address)
            retry_patiently(lambda: self._publish(address, fs, path, data))
        except OSError as error:
            raise _not_written(address, error) from error

    def publish_in_pieces(self, url: AddressLike, pieces: Callable[[], Iterable[bytes]]) -> None:
        """Write a file atomically whose content need not be in memory as a whole.

        Args:
            url: Path or URL of the file.
            pieces: Returns the content in pieces. It is called again when the write is retried.

        Raises:
            StoreError: The file could not be written.
        """

        def write() -> None:
            with self.publishing(url) as file:
                for piece in pieces():
                    file.write(piece)

        try:
            retry_patiently(write)
        except OSError as error:
            raise _not_written(Address.of(url), error) from error

    def _publish(self, address: Address, fs: Any, path: str, data: bytes) -> None:
        store = self.store(address)
        if address.is_http or (store is not None and len(data) <= PART_BYTES):
            fs.pipe_file(path, data)
            return
        with open_atomically(fs, path, store) as file:
            file.write(data)

    def create(self, url: AddressLike, data: bytes) -> bool:
        """Create a small file if it does not exist. Of several processes that try concurrently, one succeeds.

        This holds on disks and on stores with conditional writes (S3, GCS, Azure). Other storage accepts every write,
        so callers must read the file back. On a disk, the file exists for a moment before its content.

        Returns:
            False if the file exists. It may be the one written by this call, if the store's response was lost.

        Raises:
            StoreError: The file could not be written.
        """
        address = Address.of(url)
        try:
            if address.is_local:
                return create_on_disk(address.path, data)
            fs, path = self.filesystem(address)
            retry_patiently(lambda: fs.pipe_file(path, data, mode="create"))
        except OSError as error:
            if not address.is_local and (isinstance(error, FileExistsError) or status_of(error) == 412):
                return False
            if error.errno == errno.ENOSYS:
                self.publish(address, data)
                return True
            raise _not_written(address, error) from error
        return True

    @contextlib.contextmanager
    def publishing(self, url: AddressLike) -> Iterator[Any]:
        """Open a binary file for writing that appears under its name only if the block ends without an exception.

        See `storage/publishing.py`.

        Raises:
            OSError: The file could not be written.
        """
        address = Address.of(url)
        fs, path = self.filesystem(address)
        with as_os_error(), open_atomically(fs, path, self.store(address)) as file:
            yield file

    def delete(self, url: AddressLike) -> None:
        """Remove a file, if it exists."""
        fs, path = self.filesystem(url)
        with contextlib.suppress(FileNotFoundError):
            retry_patiently(lambda: fs.rm_file(path))


def _names_on_disk(folder: Path) -> list[str]:
    """Names of the files in a folder; none if there is no such folder. fsspec asks about each several times."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sizes_on_disk(folder: Path) -> dict[str, int]:
    """See `Storage.names`."""
    sizes = {}
    for name in _names_on_disk(folder):
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            sizes[name] = (folder / name).stat().st_size
    return sizes


def _times_on_disk(folder: Path, most: int | None) -> dict[str, float | None]:
    """See `Storage.times`."""
    names = _names_on_disk(folder)
    times: dict[str, float | None] = dict.fromkeys(names)
    for name in names[:: 1 if most is None else max(1, math.ceil(len(names) / most))]:
        try:
            times[name] = (folder / name).stat().st_mtime
        except FileNotFoundError:  # deleted meanwhile
            del times[name]
    return times


def _not_written(address: Address, error: OSError) -> StoreError:
    return StoreError(f"cannot write {address}: {describe(error)}")


def _written_at(entry: Mapping[str, Any]) -> float | None:
    """The time of the last modification; each fsspec file system has its own key and type for it."""
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


class _RemoteFile(io.RawIOBase):
    """A remote file open for reading. Errors are converted by `as_os_error`, and reads are retried.

    Args:
        file: The file as opened by fsspec.
        can_retry: Whether a failed read may be repeated; a stream from a web server does not keep its position.
    """

    def __init__(self, file: Any, *, can_retry: bool) -> None:
        self._file, self._can_retry = file, can_retry

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes. Raises errors as converted by `as_os_error`."""
        if self._can_retry:
            return retry_patiently(lambda: bytes(self._file.read(size)))
        with as_os_error():
            return bytes(self._file.read(size))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Set the position; sends no request."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
