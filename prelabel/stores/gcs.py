"""Google Cloud Storage through gcsfs.

Private: `fs._call`, `fs._set_session`, `fs._get_headers`, `fs._get_params`, `fs._location`, `fs._request`,
`gcsfs.retry.validate_response`. gcsfs lists a folder as a whole, reads without a condition, and waits half a minute
for a request that fails before anybody hears of it; these send one request with its session, credentials and errors.
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
from prelabel.stores.base import Body, ObjectStore, Page, Part, StoredObject, changed, quiet, split

#: Where gcsfs finds it "true" or missing, it asks over gRPC what kind each bucket is: for a minute where gRPC does not
#: come through, with tracebacks on the terminal. Only buckets of one zone ("Rapid") need that.
ZONAL = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"

#: Tries of gcsfs for one request. Ours come on top.
_TRIES = 2

_importing = threading.Lock()


class Gcs(ObjectStore):
    """A version is an object's generation, compared by the store itself."""

    protocols = ("gs", "gcs")
    extra = "gcs"

    def filesystem(self, url: str, options: dict[str, Any]) -> Any:
        """gcsfs without gRPC, unless the user asks for it; never anonymous by accident."""
        quiet("gcsfs", "google.auth", "google.api_core")
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
                "GOOGLE_APPLICATION_CREDENTIALS, or give a token in storage-options; public buckets are read with "
                '{"gs": {"token": "anon"}}'
            ) from None

    async def page(self, fs: Any, bucket: str, prefix: str, token: str | None) -> Page:
        """Up to 1,000 objects, of each no more than is needed."""
        answer = await fs._call(
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
            for entry in answer.get("items", ())
        ]
        return Page(objects, answer.get("nextPageToken"))

    @contextlib.asynccontextmanager
    async def body(
        self, fs: Any, path: str, *, version: str | None = None, first: int | None = None
    ) -> AsyncIterator[Body]:
        """One request. What does not say which generation it sends (emulators) is asked."""
        from gcsfs.retry import validate_response

        if version and not version.isdecimal():
            version = None  # an ETag: so plans of earlier releases have it, and never compared it
        bucket, key = split(path)
        headers = fs._get_headers({"Range": f"bytes=0-{first - 1}"} if first is not None else {})
        params = fs._get_params({"alt": "media", "ifGenerationMatch": version})
        session = await fs._set_session()
        url = f"{fs._location}/download/storage/v1/b/{quote(bucket, safe='')}/o/{quote(key, safe='')}"
        async with session.get(_encoded(url, params), headers=headers, timeout=fs.requests_timeout) as answer:
            if answer.status == 412 and version:
                raise changed(version)
            if answer.status == 416 and first is not None:
                yield Body(_nothing, 0)  # an object without bytes has no first ones
                return
            if answer.status >= 300:
                validate_response(answer.status, await answer.read(), path)
            if version:
                there = answer.headers.get("x-goog-generation") or await _generation(fs, bucket, key)
                if there != version:
                    raise changed(version)
            # The length of a compressed answer is not that of the object.
            encoded = "Content-Encoding" in answer.headers
            yield Body(answer.content.read, None if encoded else answer.content_length)

    async def begin(self, fs: Any, path: str) -> str:
        """A resumable upload; its parts are gone after a week at the latest."""
        bucket, key = split(path)
        headers, _ = await fs._call(
            "POST",
            f"{fs._location}/upload/storage/v1/b/{quote(bucket, safe='')}/o?name={quote(key, safe='')}",
            uploadType="resumable",
            json={"name": key},
            headers={"X-Upload-Content-Type": "application/octet-stream"},
        )
        return str(headers["Location"])

    async def part(self, fs: Any, path: str, upload: str, part: Part) -> None:
        """What the store has of a part that is sent again is left out. The last one makes the object."""
        start, end = part.start, part.start + len(part.data)
        if part.again:
            kept = await _kept(fs, upload)
            if kept is None or kept == end:
                return
            start = max(start, kept)
        total = str(end) if part.is_last else "*"
        headers, _ = await fs._call(
            "PUT",
            upload,
            headers={"Content-Range": f"bytes {start}-{end - 1}/{total}", "Content-Length": str(end - start)},
            data=part.data[start - part.start :],
        )
        if not part.is_last and _end_of(headers) != end:
            raise ConnectionError(f"the store kept {_end_of(headers)} bytes of an upload of {end} so far")

    async def commit(self, fs: Any, path: str, upload: str, parts: list[Any]) -> None:
        """The last part has done it."""

    async def abandon(self, fs: Any, path: str, upload: str) -> None:
        """Cancel the resumable upload."""
        await fs._call("DELETE", upload)


@functools.cache
def _filesystem_class() -> Any:
    with _importing:
        stated = ZONAL in os.environ
        os.environ.setdefault(ZONAL, "false")  # read while gcsfs is imported
        try:
            import gcsfs
            from gcsfs.core import GCSFileSystem
            from gcsfs.retry import retry_request
        finally:
            if not stated:
                del os.environ[ZONAL]
    if stated and os.environ[ZONAL].lower() in ("true", "1"):
        return gcsfs.GCSFileSystem

    class HttpFileSystem(GCSFileSystem):  # type: ignore[misc]
        """gcsfs that speaks HTTP and gives a failing request up earlier."""

        _request = retry_request(retries=_TRIES)(GCSFileSystem._request.__wrapped__)

    return HttpFileSystem


async def _kept(fs: Any, upload: str) -> int | None:
    """How many bytes of an upload the store has; None where it has ended."""
    headers, answer = await fs._call("PUT", upload, headers={"Content-Range": "bytes */*", "Content-Length": "0"})
    return None if answer.strip() else _end_of(headers)


def _end_of(headers: Any) -> int:
    return int(headers["Range"].rpartition("-")[2]) + 1 if "Range" in headers else 0


async def _generation(fs: Any, bucket: str, key: str) -> str | None:
    answer = await fs._call("GET", "b/{}/o/{}", bucket, key, json_out=True, fields="generation")
    generation = answer.get("generation")
    return None if generation is None else str(generation)


def _encoded(url: str, params: dict[str, Any]) -> Any:
    # A string would be encoded once more: `%2F` in an object's name is not a slash in the path.
    from yarl import URL

    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in params.items())
    return URL(f"{url}?{query}", encoded=True)


async def _nothing(_: int) -> bytes:
    return b""
