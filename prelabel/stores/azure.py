"""Azure Blob Storage and Data Lake through adlfs and the SDK below it.

From adlfs come credentials, options, and what is asked of single files. Its files for writing commit what they have
when they are closed or collected, whatever happened, so uploads, listings and reads use the SDK's own client, which
is public but for the way to it: `fs.service_client`. Overridden: `do_connect`, `_container_exists`, `_strip_protocol`,
`split_path`.
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

from prelabel.address import redact
from prelabel.errors import ConfigError, FetchError
from prelabel.stores.base import Body, ObjectStore, Page, Part, StoredObject, changed, quiet, split

#: `account.dfs.core.windows.net`, and the same in clouds of their own.
_HOST = re.compile(r"([a-z0-9]+)\.(?:dfs|blob)\.([\w.-]+\.[\w.-]+)", re.IGNORECASE)

#: The SDK's own tries wait 15 seconds and more, also after credentials that are not there; ours come on top.
_CLIENT = {"retry_total": 1, "initial_backoff": 1, "random_jitter_range": 1}
_CLIENT |= {"connection_timeout": 20, "read_timeout": 60}


class Azure(ObjectStore):
    """A version is an ETag, compared by the store itself."""

    protocols = ("abfs", "abfss", "az")
    extra = "azure"
    has_account = True

    def place(self, url: str) -> tuple[str, str | None]:
        """Container and key, however the account is written."""
        return f"{self.protocols[0]}://{_path(url)}", _account(url)[0]

    def filesystem(self, url: str, options: dict[str, Any]) -> Any:
        """adlfs for the account that the address or the options name."""
        quiet("azure", "adlfs")
        make = _filesystem_class()
        if "AZURE_STORAGE_ANON" not in os.environ:
            options.setdefault("anon", False)  # adlfs before 2026.4 took no credentials for none wanted
        account, host = _account(url)
        if account is not None and "connection_string" not in options:
            if options.get("account_name", account) != account:
                raise ConfigError(f"{redact(url)}: storage-options name the account {options['account_name']!r}")
            options["account_name"] = account
            if host != f"{account}.blob.core.windows.net":
                options.setdefault("account_host", host)
        try:
            return make(**options)
        except ValueError as error:
            if "Must provide either" not in str(error):
                raise
            raise ConfigError(
                f"{redact(url)}: the storage account is not known: write abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/"
                "..., or give account_name or connection_string in storage-options, or set AZURE_STORAGE_ACCOUNT_NAME"
            ) from None

    async def page(self, fs: Any, bucket: str, prefix: str, token: str | None) -> Page:
        """Up to 5,000 blobs; the markers that stand for folders in Data Lake accounts are left out."""
        client = fs.service_client.get_container_client(bucket)
        pages = client.list_blobs(name_starts_with=prefix or None, include=["metadata"], results_per_page=5000)
        pages = pages.by_page(continuation_token=token)
        with _translated(bucket):
            blobs = [blob async for blob in await anext(pages)]
        objects = [
            StoredObject(blob.name, int(blob.size), blob.etag.strip('"')) for blob in blobs if not _is_folder(blob)
        ]
        return Page(objects, pages.continuation_token or None)

    @contextlib.asynccontextmanager
    async def body(
        self, fs: Any, path: str, *, version: str | None = None, first: int | None = None
    ) -> AsyncIterator[Body]:
        """One request for up to 32 MiB, further ones for more, all of the same version."""
        from azure.core import MatchConditions

        condition = {"etag": f'"{version}"', "match_condition": MatchConditions.IfNotModified} if version else {}
        length = {} if first is None else {"offset": 0, "length": first}
        client = fs.service_client.get_blob_client(*split(path))
        try:
            with _translated(path, version):
                stream = await client.download_blob(max_concurrency=1, **length, **condition)
        except FetchError:
            with _translated(path):
                await client.get_blob_properties()  # to what is not there, some say that the version is another
            raise

        async def read(size: int) -> bytes:
            with _translated(path, version):
                return bytes(await stream.read(size))

        yield Body(read, int(stream.properties.size))

    async def begin(self, fs: Any, path: str) -> str:
        """Blocks need no beginning; their names tell one upload from another."""
        return uuid.uuid4().hex

    async def part(self, fs: Any, path: str, upload: str, part: Part) -> str:
        """A block, which the store throws away after a week if no list of blocks names it."""
        block = f"{upload}-{part.number:08d}"
        with _translated(path):
            await fs.service_client.get_blob_client(*split(path)).stage_block(block, part.data, length=len(part.data))
        return block

    async def commit(self, fs: Any, path: str, upload: str, parts: list[Any]) -> None:
        """Commit the list of blocks."""
        from azure.storage.blob import BlobBlock

        client = fs.service_client.get_blob_client(*split(path))
        with _translated(path):
            await client.commit_block_list([BlobBlock(block) for block in parts], metadata={"is_directory": "false"})

    async def abandon(self, fs: Any, path: str, upload: str) -> None:
        """There is no request for that, and no need."""


def _account(url: str) -> tuple[str | None, str | None]:
    """The account that an address names and the host of its blobs, or None."""
    match = _HOST.fullmatch(urlsplit(url).netloc.rpartition("@")[2])
    return (match.group(1).lower(), f"{match.group(1)}.blob.{match.group(2)}".lower()) if match else (None, None)


def _path(url: str) -> str:
    """`container/key` of an address or of such a path, letter by letter."""
    rest = re.sub(r"^[A-Za-z]+://", "", url).lstrip("/")
    host, slash, key = rest.partition("/")
    container, at, account = host.rpartition("@")
    if at and _HOST.fullmatch(account):
        return container + slash + key
    return key if _HOST.fullmatch(host) else rest


def _is_folder(blob: Any) -> bool:
    metadata = {name.lower(): value for name, value in (blob.metadata or {}).items()}
    return metadata.get("hdi_isfolder") == "true" or metadata.get("is_directory") == "true"


@contextlib.contextmanager
def _translated(path: str, version: str | None = None) -> Iterator[None]:
    from azure.core.exceptions import HttpResponseError

    try:
        yield
    except HttpResponseError as error:
        if error.status_code == 412 and version:
            raise changed(version) from None
        if error.status_code == 404:
            raise FileNotFoundError(path) from error
        raise


@functools.cache
def _filesystem_class() -> Any:
    from adlfs import AzureBlobFileSystem
    from azure.core.exceptions import HttpResponseError
    from azure.storage.blob.aio import BlobServiceClient

    class PatientFileSystem(AzureBlobFileSystem):  # type: ignore[misc]
        """adlfs that takes names letter by letter, and says at once what does not work."""

        def do_connect(self) -> None:
            """With retries of a few seconds."""
            super().do_connect()
            client: Any = self.service_client
            self.service_client: Any = BlobServiceClient(client.url, credential=client.credential, **_CLIENT)

        @classmethod
        def _strip_protocol(cls, path: Any) -> Any:
            # adlfs reads a path as a URL, which loses what looks like an empty query or a line break.
            return [cls._strip_protocol(one) for one in path] if isinstance(path, list) else _path(path)

        def split_path(self, path: str, delimiter: str = "/", **kwargs: Any) -> tuple[str, str, str | None]:
            """As adlfs does, but that only a file system of versions looks for one in a name."""
            if self.version_aware:
                return super().split_path(path, delimiter, **kwargs)  # type: ignore[no-any-return]
            return (*split(_path(path)), None)

        async def _container_exists(self, container_name: str) -> bool:
            # adlfs warns and says yes, whatever went wrong.
            try:
                async with self.service_client.get_container_client(container_name) as client:
                    await client.get_container_properties()
            except HttpResponseError as error:
                if error.status_code == 404:
                    return False
                if error.status_code != 403:  # whoever may read blobs need not see the container
                    raise
            return True

    return PatientFileSystem
