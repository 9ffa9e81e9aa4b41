"""S3 and compatible storage, through s3fs.

Private interfaces used: `fs._call_s3`, which sends any S3 request with s3fs's session, options and retries, and
`fs._s3`, which is None until connected. The public interface of s3fs lists a folder only as a whole, reads without
checking the version, and uploads without retries.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

import fsspec

from prelabel.errors import ConfigError
from prelabel.storage.address import Address, describe
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
    split_bucket,
)
from prelabel.storage.store_errors import code_of, status_of


class S3(ObjectStore):
    """S3 storage. A version is an ETag, compared by the store itself."""

    protocols = ("s3", "s3a")
    extra = "s3"

    def filesystem(self, address: Address, options: dict[str, Any]) -> Any:
        """A connected s3fs file system. s3fs checks its options only when connecting; no request is sent."""
        # A worker downloads up to 64 images at a time and publishes shards meanwhile; with botocore's default of ten
        # connections, they would wait for each other.
        options["config_kwargs"] = {"max_pool_connections": 80, **options.get("config_kwargs", {})}
        fs = fsspec.filesystem(self.protocols[0], **options)
        if fs._s3 is None:
            fs.connect()
        return fs

    async def page(self, fs: Any, bucket: str, prefix: str, token: str | None) -> Page:
        """List up to 1,000 objects."""
        continuation = {} if token is None else {"ContinuationToken": token}
        response = await fs._call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **continuation, **fs.req_kw)
        objects = [
            StoredObject(entry["Key"], int(entry["Size"]), _etag(entry.get("ETag")))
            for entry in response.get("Contents", ())
        ]
        return Page(objects, response["NextContinuationToken"] if response.get("IsTruncated") else None)

    @contextlib.asynccontextmanager
    async def body(
        self, fs: Any, path: str, *, version: str | None = None, start: int = 0, first: int | None = None
    ) -> AsyncIterator[Body]:
        """Open an object with one request: its condition makes the store check the version."""
        bucket, key, version_id = fs.split_path(path)
        conditions = {"IfMatch": f'"{version}"'} if version else {}
        if version_id:
            conditions["VersionId"] = version_id
        if (range_ := range_header(start, first)) is not None:
            conditions["Range"] = range_
        try:
            response = await fs._call_s3("get_object", Bucket=bucket, Key=key, **conditions, **fs.req_kw)
        except OSError as error:
            if version and (code_of(error) in ("PreconditionFailed", "412") or status_of(error) == 412):
                raise changed_error(version) from None
            if range_ is not None and (code_of(error) == "InvalidRange" or status_of(error) == 416):
                yield EMPTY
                return
            raise
        stream = response["Body"]
        try:
            require_range(response["ResponseMetadata"]["HTTPStatusCode"], start)
            yield Body(stream.read, response.get("ContentLength"))
        finally:
            stream.close()

    async def begin(self, fs: Any, path: str) -> str:
        """Begin a multipart upload."""
        response = await _call(fs, "create_multipart_upload", path)
        return str(response["UploadId"])

    async def part(self, fs: Any, path: str, upload: str, part: Part) -> dict[str, Any]:
        """Upload a part; it replaces an earlier one of the same number."""
        response = await _call(fs, "upload_part", path, UploadId=upload, PartNumber=part.number, Body=part.data)
        checksums = {
            name: response[name] for name in response if name.startswith("Checksum") and name != "ChecksumType"
        }
        return {"PartNumber": part.number, "ETag": response["ETag"], **checksums}

    async def commit(self, fs: Any, path: str, upload: str, parts: list[Any]) -> None:
        """Complete the multipart upload.

        If the upload no longer exists but the object consists of its parts, an earlier attempt has completed it.
        """
        try:
            await _call(fs, "complete_multipart_upload", path, UploadId=upload, MultipartUpload={"Parts": parts})
        except FileNotFoundError:
            head = await _call(fs, "head_object", path)
            if _etag(head["ETag"]) != _etag_of(parts):
                raise

    async def abandon(self, fs: Any, path: str, upload: str) -> None:
        """Abort the multipart upload: parts of unfinished uploads cost money."""
        bucket, key = split_bucket(path)
        await fs._call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)


async def _call(fs: Any, method: str, path: str, **values: Any) -> Any:
    """Send a request about one object."""
    bucket, key = split_bucket(path)
    return await fs._call_s3(method, Bucket=bucket, Key=key, **values, **fs.req_kw)


def aws_settings() -> dict[str, str]:
    """The AWS credentials and region of this machine's user, for a server that cannot look them up itself.

    With the extra `s3`, botocore finds them: environment variables, and the profiles in both files with their roles,
    SSO and credential processes. Those of the machine or container itself are not for other machines. Without the
    extra, only environment variables count.

    Returns:
        `aws_access_key_id`, `aws_secret_access_key`, `aws_session_token` and `region_name`, as far as they are known.

    Raises:
        ConfigError: A profile does not exist, or its credentials cannot be obtained.
    """
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION", "")
    keys = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError:
        if os.environ.get("AWS_PROFILE") and not os.environ.get("AWS_ACCESS_KEY_ID"):
            raise ConfigError(
                "the profile in AWS_PROFILE cannot be read without botocore: install prelabel[s3]"
            ) from None
        return {**{key: os.environ.get(key.upper(), "") for key in keys}, "region_name": region}
    session = Session()
    try:
        providers = session.get_component("credential_provider")
        for machine in ("container-role", "iam-role"):
            providers.remove(machine)
        credentials = session.get_credentials()
        frozen = None if credentials is None else credentials.get_frozen_credentials()
        region = region or session.get_config_variable("region") or ""
    except BotoCoreError as error:
        raise ConfigError(f"AWS credentials cannot be read: {describe(error)}") from None
    values = ("", "", "") if frozen is None else (frozen.access_key, frozen.secret_key, frozen.token or "")
    return {**dict(zip(keys, values, strict=True)), "region_name": region}


def _etag(value: Any) -> str | None:
    return value.strip('"') if isinstance(value, str) else None


def _etag_of(parts: list[Any]) -> str | None:
    """The ETag of an object made of parts, or None if the parts' ETags are not MD5 digests (with KMS keys)."""
    try:
        digests = b"".join(bytes.fromhex(part["ETag"].strip('"')) for part in parts)
    except ValueError:
        return None
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
