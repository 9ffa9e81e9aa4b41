"""Azure Blob Storage and Data Lake through adlfs and its underlying SDK.

adlfs provides credentials, options, and operations on single files. Its writable files commit their content when they
are closed or garbage-collected, even after an error. Uploads, listings and reads therefore use the SDK's own client,
which is public except for the way to it, `fs.service_client`. Private interfaces overridden: `do_connect`,
`_container_exists`, `_strip_protocol`, `split_path`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

from prelabel.errors import ConfigError, FetchError
from prelabel.storage.address import CONTAINER_FIRST, Address
from prelabel.storage.base import (
    EMPTY,
    Body,
    ObjectStore,
    Page,
    Part,
    StoredObject,
    changed_error,
    silence,
    split_bucket,
)

#: `account.dfs.core.windows.net`, and the same in national clouds.
_HOST = re.compile(r"([a-z0-9]+)\.(?:dfs|blob)\.([\w.-]+\.[\w.-]+)", re.IGNORECASE)

#: The SDK's own retries would wait 15 seconds and more, even if credentials are missing. Ours are in addition.
_CLIENT = {"retry_total": 1, "initial_backoff": 1, "random_jitter_range": 1}
_CLIENT |= {"connection_timeout": 20, "read_timeout": 60}


class Azure(ObjectStore):
    """Azure storage. A version is an ETag, compared by the store itself."""

    protocols = CONTAINER_FIRST
    extra = "azure"
    has_account = True
    #: The library downloads this much in the first request for an object or a range, and 4 MiB in each further one.
    range_bytes = 32 << 20

    def place(self, address: Address) -> tuple[str, str | None]:
        """The container and key, and the account if the address names one."""
        return f"{self.protocols[0]}://{_path(address.url)}", _account(address)[0]

    def filesystem(self, address: Address, options: dict[str, Any]) -> Any:
        """An adlfs file system for the account in the address or the options."""
        silence("azure", "adlfs")
        make = _filesystem_class()
        if "AZURE_STORAGE_ANON" not in os.environ:
            options.setdefault("anon", False)  # adlfs before 2026.4 treats missing credentials as anonymous access
        account, host = _account(address)
        if account is not None and "connection_string" not in options:
            if options.get("account_name", account) != account:
                raise ConfigError(f"{address}: --storage-options name another account, {options['account_name']!r}")
            options["account_name"] = account
            if host != f"{account}.blob.core.windows.net":
                options.setdefault("account_host", host)
        try:
            return make(**options)
        except ValueError as error:
            if "Must provide either" not in str(error):
                raise
            raise ConfigError(
                f"{address}: the storage account is unknown: write abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/..., "
                "pass account_name or connection_string in --storage-options, or set AZURE_STORAGE_ACCOUNT_NAME"
            ) from None

    async def page(self, fs: Any, bucket: str, prefix: str, token: str | None) -> Page:
        """List up to 5,000 blobs, without the markers that stand for folders in Data Lake accounts."""
        client = fs.service_client.get_container_client(bucket)
        pages = client.list_blobs(name_starts_with=prefix or None, include=["metadata"], results_per_page=5000)
        pages = pages.by_page(continuation_token=token)
        with _converted_errors(bucket):
            blobs = [blob async for blob in await anext(pages)]
        objects = [
            StoredObject(blob.name, int(blob.size), blob.etag.strip('"')) for blob in blobs if not _is_folder(blob)
        ]
        return Page(objects, pages.continuation_token or None)

    @contextlib.asynccontextmanager
    async def body(
        self, fs: Any, path: str, *, version: str | None = None, start: int = 0, first: int | None = None
    ) -> AsyncIterator[Body]:
        """Open an object: one request for up to 32 MiB and further ones for more, all for the same version."""
        from azure.core import MatchConditions

        condition = {"etag": f'"{version}"', "match_condition": MatchConditions.IfNotModified} if version else {}
        length = {} if not start and first is None else {"offset": start, "length": first}
        client = fs.service_client.get_blob_client(*split_bucket(path))
        try:
            with _converted_errors(path, version):
                stream = await client.download_blob(max_concurrency=1, **length, **condition)
        except _NoSuchRange:
            yield EMPTY
            return
        except FetchError:
            with _converted_errors(path):
                await client.get_blob_properties()  # some servers report a missing blob as a changed version
            raise

        async def read(size: int) -> bytes:
            with _converted_errors(path, version):
                return bytes(await stream.read(size))

        yield Body(read, int(stream.size))

    async def begin(self, fs: Any, path: str) -> str:
        """Choose a name for the upload, which begins the names of its blocks. Nothing is sent."""
        return uuid.uuid4().hex

    async def part(self, fs: Any, path: str, upload: str, part: Part) -> str:
        """Upload a block. The store discards it after a week if no block list includes it."""
        block = f"{upload}-{part.number:08d}"
        with _converted_errors(path):
            await fs.service_client.get_blob_client(*split_bucket(path)).stage_block(
                block, part.data, length=len(part.data)
            )
        return block

    async def commit(self, fs: Any, path: str, upload: str, parts: list[Any]) -> None:
        """Commit the block list."""
        from azure.storage.blob import BlobBlock

        client = fs.service_client.get_blob_client(*split_bucket(path))
        with _converted_errors(path):
            await client.commit_block_list([BlobBlock(block) for block in parts], metadata={"is_directory": "false"})

    async def abandon(self, fs: Any, path: str, upload: str) -> None:
        """Do nothing: the store discards uncommitted blocks."""


def _account(address: Address) -> tuple[str | None, str | None]:
    """The account in an address and the host of its blobs, or None for both."""
    match = _HOST.fullmatch(urlsplit(address.url).netloc.rpartition("@")[2])
    return (match.group(1).lower(), f"{match.group(1)}.blob.{match.group(2)}".lower()) if match else (None, None)


def _path(url: str) -> str:
    """`container/key` of an address or path, without interpreting any character of the key."""
    rest = re.sub(r"^[A-Za-z]+://", "", url).lstrip("/")
    host, slash, key = rest.partition("/")
    container, at, account = host.rpartition("@")
    if at and _HOST.fullmatch(account):
        return container + slash + key
    return key if _HOST.fullmatch(host) else rest


def _is_folder(blob: Any) -> bool:
    metadata = {name.lower(): value for name, value in (blob.metadata or {}).items()}
    return metadata.get("hdi_isfolder") == "true" or metadata.get("is_directory") == "true"


class _NoSuchRange(Exception):  # noqa: N818 - the end of an object rather than an error
    """A range begins behind the end of the blob."""


@contextlib.contextmanager
def _converted_errors(path: str, version: str | None = None) -> Iterator[None]:
    from azure.core.exceptions import HttpResponseError

    try:
        yield
    except HttpResponseError as error:
        if error.status_code == 412 and version:
            raise changed_error(version) from None
        if error.status_code == 404:
            raise FileNotFoundError(path) from error
        if error.status_code == 416:
            raise _NoSuchRange from error
        raise


@functools.cache
def _filesystem_class() -> Any:
    from adlfs import AzureBlobFileSystem
    from azure.core.exceptions import HttpResponseError
    from azure.storage.blob.aio import BlobServiceClient

    class PatientFileSystem(AzureBlobFileSystem):  # type: ignore[misc]
        """An adlfs file system that keeps names exactly and reports errors early."""

        def do_connect(self) -> None:
            """Connect with a client whose retries take only a few seconds."""
            super().do_connect()
            client: Any = self.service_client
            self.service_client: Any = BlobServiceClient(client.url, credential=client.credential, **_CLIENT)

        @classmethod
        def _strip_protocol(cls, path: Any) -> Any:
            # adlfs parses a path as a URL, which loses an empty query or a line break in a name.
            return [cls._strip_protocol(item) for item in path] if isinstance(path, list) else _path(path)

        def split_path(self, path: str, delimiter: str = "/", **kwargs: Any) -> tuple[str, str, str | None]:
            """Split like adlfs, but look for a version in the name only if the file system is version-aware."""
            if self.version_aware:
                return super().split_path(path, delimiter, **kwargs)  # type: ignore[no-any-return]
            return (*split_bucket(_path(path)), None)

        async def _container_exists(self, container_name: str) -> bool:
            # adlfs warns and returns True on any error.
            try:
                async with self.service_client.get_container_client(container_name) as client:
                    await client.get_container_properties()
            except HttpResponseError as error:
                if error.status_code == 404:
                    return False
                if error.status_code != 403:  # permission to read blobs does not include seeing the container
                    raise
            return True

    return PatientFileSystem
