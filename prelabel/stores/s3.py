"""S3 and what speaks its protocol, through s3fs.

Private: `fs._call_s3`. s3fs lists a folder as a whole, reads without a condition, and its files upload without another
try; `_call_s3` sends any request of the protocol with s3fs's session, options and retries.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import fsspec

from prelabel.retries import code_of, status_of
from prelabel.stores.base import Body, ObjectStore, Page, Part, StoredObject, changed, split


class S3(ObjectStore):
    """A version is an ETag, compared by the store itself."""

    protocols = ("s3", "s3a")
    extra = "s3"

    def filesystem(self, url: str, options: dict[str, Any]) -> Any:
        """As fsspec makes it, connected: s3fs looks at its options only then, and sends nothing yet."""
        # Many threads read at once; botocore's ten connections would make them wait for each other.
        options["config_kwargs"] = {"max_pool_connections": 64, **options.get("config_kwargs", {})}
        fs = fsspec.filesystem(self.protocols[0], **options)
        if fs._s3 is None:
            fs.connect()
        return fs

    async def page(self, fs: Any, bucket: str, prefix: str, token: str | None) -> Page:
        """Up to 1,000 objects."""
        place = {} if token is None else {"ContinuationToken": token}
        answer = await fs._call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **place, **fs.req_kw)
        objects = [
            StoredObject(entry["Key"], int(entry["Size"]), _etag(entry.get("ETag")))
            for entry in answer.get("Contents", ())
        ]
        return Page(objects, answer["NextContinuationToken"] if answer.get("IsTruncated") else None)

    @contextlib.asynccontextmanager
    async def body(
        self, fs: Any, path: str, *, version: str | None = None, first: int | None = None
    ) -> AsyncIterator[Body]:
        """One request: its condition makes the store compare the version, the answer's head tells the size."""
        bucket, key, version_id = fs.split_path(path)
        ask = {"IfMatch": f'"{version}"'} if version else {}
        if version_id:
            ask["VersionId"] = version_id
        if first is not None:
            ask["Range"] = f"bytes=0-{first - 1}"
        try:
            answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, **ask, **fs.req_kw)
        except OSError as error:
            if version and (code_of(error) in ("PreconditionFailed", "412") or status_of(error) == 412):
                raise changed(version) from None
            if first is not None and (code_of(error) == "InvalidRange" or status_of(error) == 416):
                yield Body(_nothing, 0)  # an object without bytes has no first ones
                return
            raise
        stream = answer["Body"]
        try:
            yield Body(stream.read, answer.get("ContentLength"))
        finally:
            stream.close()

    async def begin(self, fs: Any, path: str) -> str:
        """A multipart upload."""
        bucket, key = split(path)
        answer = await fs._call_s3("create_multipart_upload", Bucket=bucket, Key=key, **fs.req_kw)
        return str(answer["UploadId"])

    async def part(self, fs: Any, path: str, upload: str, part: Part) -> dict[str, Any]:
        """A part replaces one of the same number."""
        bucket, key = split(path)
        answer = await fs._call_s3(
            "upload_part", Bucket=bucket, Key=key, UploadId=upload, PartNumber=part.number, Body=part.data, **fs.req_kw
        )
        checksums = {name: answer[name] for name in answer if name.startswith("Checksum") and name != "ChecksumType"}
        return {"PartNumber": part.number, "ETag": answer["ETag"], **checksums}

    async def commit(self, fs: Any, path: str, upload: str, parts: list[Any]) -> None:
        """Complete the multipart upload; one that is gone was completed if the object is made of its parts."""
        bucket, key = split(path)
        try:
            await fs._call_s3(
                "complete_multipart_upload",
                Bucket=bucket,
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
                **fs.req_kw,
            )
        except FileNotFoundError:
            there = await fs._call_s3("head_object", Bucket=bucket, Key=key, **fs.req_kw)
            if _etag(there["ETag"]) != _etag_of(parts):
                raise

    async def abandon(self, fs: Any, path: str, upload: str) -> None:
        """Parts of uploads that were never ended cost money."""
        bucket, key = split(path)
        await fs._call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)


async def _nothing(_: int) -> bytes:
    return b""


def _etag(value: Any) -> str | None:
    return value.strip('"') if isinstance(value, str) else None


def _etag_of(parts: list[Any]) -> str | None:
    """The ETag of an object made of parts, None where theirs are no MD5 (with keys of KMS)."""
    try:
        digests = b"".join(bytes.fromhex(part["ETag"].strip('"')) for part in parts)
    except ValueError:
        return None
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
