"""Google Cloud Storage through gcsfs.

Private interfaces used: `fs._call`, `fs._set_session`, `fs._get_headers`, `fs._get_params`, `fs._location`,
`fs._request`, `gcsfs.retry.validate_response`. They send single requests with gcsfs's session, credentials and errors.
Its public interface lists a folder only as a whole, reads without checking the version, and reports a failing request
only after half a minute.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from prelabel.errors import CredentialsError
from prelabel.storage.address import Address
from prelabel.storage.base import (
    EMPTY,
    Body,
    ObjectStore,
    Page,
    Part,
    StoredObject,
    changed_error,
    range_header,
    require_range,
    silence,
    split_bucket,
)

#: If this is "true" or missing, gcsfs asks for the kind of each bucket over gRPC. Where gRPC is blocked, that takes a
#: minute and prints tracebacks. Only zonal buckets ("Rapid") need it.
ZONAL = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"

#: Attempts of gcsfs per request. Ours are in addition.
_ATTEMPTS = 2

_importing = threading.Lock()


class Gcs(ObjectStore):
    """Google Cloud Storage. A version is an object's generation, compared by the store itself."""

    protocols = ("gs", "gcs")
    extra = "gcs"

    def filesystem(self, address: Address, options: dict[str, Any]) -> Any:
        """A gcsfs file system without gRPC, unless the user enables it. Anonymous only if the options say so."""
        silence("gcsfs", "google.auth", "google.api_core")
        make = _filesystem_class()
        emulated = options.get("endpoint_url") or os.environ.get("STORAGE_EMULATOR_HOST")
        if options.get("token") is None:
            options["token"] = "anon" if emulated else "google_default"
        from google.auth.exceptions import DefaultCredentialsError

        try:
            return make(**options)
        except DefaultCredentialsError:
            raise CredentialsError(
                "no Google Cloud credentials were found: run `gcloud auth application-default login`, set "
                "GOOGLE_APPLICATION_CREDENTIALS, or pass a token in --storage-options; for public buckets, pass "
                '{"gs": {"token": "anon"}}'
            ) from None

    async def page(self, fs: Any, bucket: str, prefix: str, token: str | None) -> Page:
        """List up to 1,000 objects, requesting only the necessary fields."""
        response = await fs._call(
            "GET",
            "b/{}/o",
            bucket,
            json_out=True,
            prefix=prefix or None,
            pageToken=token,
            maxResults=1000,
            fields="nextPageToken,items(name,size,generation)",
        )
        objects = [
            StoredObject(entry["name"], int(entry.get("size", 0)), entry.get("generation"))
            for entry in response.get("items", ())
        ]
        return Page(objects, response.get("nextPageToken"))

    @contextlib.asynccontextmanager
    async def body(
        self, fs: Any, path: str, *, version: str | None = None, start: int = 0, first: int | None = None
    ) -> AsyncIterator[Body]:
        """Open an object with one request, plus one for its generation if the response lacks it (emulators)."""
        from gcsfs.retry import validate_response

        if version and not version.isdecimal():
            version = None  # plans of earlier releases hold an ETag, which was never compared
        bucket, key = split_bucket(path)
        range_ = range_header(start, first)
        headers = fs._get_headers({"Range": range_} if range_ is not None else {})
        params = fs._get_params({"alt": "media", "ifGenerationMatch": version})
        session = await fs._set_session()
        url = f"{fs._location}/download/storage/v1/b/{quote(bucket, safe='')}/o/{quote(key, safe='')}"
        async with session.get(_encoded(url, params), headers=headers, timeout=fs.requests_timeout) as response:
            if response.status == 412 and version:
                raise changed_error(version)
            if response.status == 416 and range_ is not None:
                yield EMPTY
                return
            if response.status >= 300:
                validate_response(response.status, await response.read(), path)
            require_range(response.status, start)
            if version:
                generation = response.headers.get("x-goog-generation") or await _generation(fs, bucket, key)
                if generation != version:
                    raise changed_error(version)
            # The length of a compressed response is not that of the object.
            encoded = "Content-Encoding" in response.headers
            yield Body(response.content.read, None if encoded else response.content_length)

    async def begin(self, fs: Any, path: str) -> str:
        """Begin a resumable upload. The store discards its parts after a week at the latest."""
        bucket, key = split_bucket(path)
        headers, _ = await fs._call(
            "POST",
            f"{fs._location}/upload/storage/v1/b/{quote(bucket, safe='')}/o?name={quote(key, safe='')}",
            uploadType="resumable",
            json={"name": key},
            headers={"X-Upload-Content-Type": "application/octet-stream"},
        )
        return str(headers["Location"])

    async def part(self, fs: Any, path: str, upload: str, part: Part) -> None:
        """Upload a part; a retry skips bytes that the store already has. The last part creates the object."""
        start, end = part.start, part.start + len(part.data)
        if part.is_retry:
            stored = await _stored_bytes(fs, upload)
            if stored is None or stored == end:
                return
            start = max(start, stored)
        total = str(end) if part.is_last else "*"
        headers, _ = await fs._call(
            "PUT",
            upload,
            headers={"Content-Range": f"bytes {start}-{end - 1}/{total}", "Content-Length": str(end - start)},
            data=part.data[start - part.start :],
        )
        if not part.is_last and _end_of(headers) != end:
            raise ConnectionError(f"storage kept only {_end_of(headers)} of {end} uploaded bytes")

    async def commit(self, fs: Any, path: str, upload: str, parts: list[Any]) -> None:
        """Do nothing: the last part has created the object."""

    async def abandon(self, fs: Any, path: str, upload: str) -> None:
        """Cancel the resumable upload."""
        await fs._call("DELETE", upload)


@functools.cache
def _filesystem_class() -> Any:
    with _importing:
        is_set = ZONAL in os.environ
        os.environ.setdefault(ZONAL, "false")  # read while gcsfs is imported
        try:
            import gcsfs
            from gcsfs.core import GCSFileSystem
            from gcsfs.retry import retry_request
        finally:
            if not is_set:
                del os.environ[ZONAL]
    if is_set and os.environ[ZONAL].lower() in ("true", "1"):
        return gcsfs.GCSFileSystem

    class HttpFileSystem(GCSFileSystem):  # type: ignore[misc]
        """A gcsfs file system that uses HTTP and gives up failing requests earlier."""

        _request = retry_request(retries=_ATTEMPTS)(GCSFileSystem._request.__wrapped__)

    return HttpFileSystem


async def _stored_bytes(fs: Any, upload: str) -> int | None:
    """Number of bytes of an upload that the store has; None if the upload is complete."""
    headers, body = await fs._call("PUT", upload, headers={"Content-Range": "bytes */*", "Content-Length": "0"})
    return None if body.strip() else _end_of(headers)


def _end_of(headers: Any) -> int:
    return int(headers["Range"].rpartition("-")[2]) + 1 if "Range" in headers else 0


async def _generation(fs: Any, bucket: str, key: str) -> str | None:
    response = await fs._call("GET", "b/{}/o/{}", bucket, key, json_out=True, fields="generation")
    generation = response.get("generation")
    return None if generation is None else str(generation)


def _encoded(url: str, params: dict[str, Any]) -> Any:
    # aiohttp would encode a string again. `%2F` in an object's name must not become a slash of the path.
    from yarl import URL

    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in params.items())
    return URL(f"{url}?{query}", encoded=True)
