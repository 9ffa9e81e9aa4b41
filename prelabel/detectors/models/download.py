"""Download a model's archive over http(s), and unpack it.

The download is limited in size, resumes where it stopped, and counts as complete only when all bytes have arrived. The
archive is unpacked completely or not at all, and never outside its folder.
"""

from __future__ import annotations

import gzip
import io
import lzma
import random
import tarfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from prelabel import __version__
from prelabel.detectors.models import hubs
from prelabel.errors import DetectorError
from prelabel.storage.redirects import RedirectError, require_allowed_redirect

#: Seconds to connect, and seconds without a byte.
TIMEOUT_S = (10.0, 60.0)
#: Attempts in a row that receive no bytes; an attempt that receives some resets the count.
ATTEMPTS = 5
#: Attempts if the server's name cannot be resolved: a machine without network should report that soon.
_UNKNOWN_NAME_ATTEMPTS = 2
#: The first pause between attempts; it doubles with each attempt that receives no bytes.
PAUSE_S = 0.5
_MAX_ATTEMPTS = 100
_MAX_REDIRECTS = 10
_BLOCK = 1 << 16
_TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}

_UNPACKED_BLOCK = 1 << 20
_MAX_FILES = 100_000


class DownloadError(DetectorError):
    """The server refused a download, or did not answer.

    Attributes:
        url: The URL as shown in messages.
        reason: What the server answered, or why there is no answer.
        status: The HTTP status, or None if no server answered.
    """

    def __init__(self, url: str, reason: str, status: int | None = None) -> None:
        super().__init__(f"{url}: {reason}")
        self.url, self.reason, self.status = url, reason, status

    def __reduce__(self) -> tuple[type[DownloadError], tuple[str, str, int | None]]:
        return DownloadError, (self.url, self.reason, self.status)


def summarize(name: str, errors: Sequence[DownloadError]) -> str:
    """Describe why none of a model's URLs could be downloaded; each reason is given once, with its hosts."""
    if len(errors) == 1:
        return str(errors[0])
    hosts: dict[str, dict[str, None]] = {}
    for error in errors:
        hosts.setdefault(error.reason, {})[urlsplit(error.url).hostname or error.url] = None
    reasons = [f"{' and '.join(names)}: {reason}" for reason, names in hosts.items()]
    return f"{name} cannot be downloaded: {'; '.join(reasons)}"


class _TransientError(Exception):
    """This attempt failed for a reason that may pass."""

    def __init__(self, reason: str, wait_s: float = 0.0, status: int | None = None) -> None:
        super().__init__(reason)
        self.wait_s, self.status = wait_s, status


def download(url: str, target: Path, max_bytes: int, display_name: str) -> None:
    """Download a URL to a file.

    A broken connection, a timeout, and the statuses 5xx, 408, 425 and 429 are retried with growing pauses. The download
    resumes where it stopped if the server supports ranges and names the version that it serves.

    Args:
        url: An http or https URL.
        target: The file to write; an existing one is replaced.
        max_bytes: Largest allowed size, in bytes.
        display_name: The URL as shown in messages.

    Raises:
        DownloadError: The server refuses, or does not answer.
        DetectorError: The connection is not secure, or the content is too large.
    """
    target.unlink(missing_ok=True)
    validator = None
    fruitless, attempts = 0, ATTEMPTS
    with requests.Session() as session:
        for _ in range(_MAX_ATTEMPTS):
            offset = target.stat().st_size if target.exists() else 0
            try:
                with _get(session, url, offset, validator, display_name) as response:
                    validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
                    if validator and validator.startswith("W/"):
                        validator = None
                    _receive(response, target, offset, max_bytes, display_name)
                return
            except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
                if isinstance(error, requests.exceptions.SSLError):
                    raise DetectorError(
                        f"{display_name}: no secure connection; check the server's certificate"
                    ) from error
                kind = _reason(error)
                is_unknown = kind == "NameResolutionError"
                reason, wait_s, status = "unknown host" if is_unknown else f"the connection failed ({kind})", 0.0, None
                attempts = _UNKNOWN_NAME_ATTEMPTS if is_unknown else ATTEMPTS
            except requests.RequestException as error:
                raise DetectorError(f"{display_name}: {type(error).__name__}; check the URL") from error
            except ValueError as error:
                raise DetectorError(
                    f"{display_name}: this is not a valid URL, or redirects to one that is not"
                ) from error
            except _TransientError as error:
                reason, wait_s, status = str(error), error.wait_s, error.status
            received = target.stat().st_size if target.exists() else 0
            fruitless = 0 if received > offset else fruitless + 1
            if fruitless >= attempts:
                break
            time.sleep(min(60.0, max(wait_s, PAUSE_S * 2**fruitless * random.uniform(0.75, 1.25))))  # noqa: S311
    raise DownloadError(display_name, f"{reason} after {fruitless} attempts", status)


def _get(
    session: requests.Session, url: str, offset: int, validator: str | None, display_name: str
) -> requests.Response:
    """Follow redirects to the response that has the content; the caller closes it."""
    headers = {"Accept-Encoding": "identity", "User-Agent": f"prelabel/{__version__}"}
    if offset and validator:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    current = url
    for _ in range(_MAX_REDIRECTS):
        response = session.get(
            current,
            headers=headers,
            auth=_Authorization.for_url(current),
            stream=True,
            timeout=TIMEOUT_S,
            allow_redirects=False,
        )
        if response.status_code not in (301, 302, 303, 307, 308):
            return _accepted(response, display_name)
        response.close()
        try:
            following = urljoin(current, response.headers.get("Location", ""))
            require_allowed_redirect(current, following)
        except RedirectError as error:
            raise DetectorError(f"{display_name}: {error}") from None
        current = following
    raise DetectorError(f"{display_name}: more than {_MAX_REDIRECTS} redirects")


class _Authorization(requests.auth.AuthBase):
    """Sends one `Authorization` header; given as `auth`, so that requests does not replace it from `~/.netrc`."""

    def __init__(self, header: str) -> None:
        self._header = header

    @classmethod
    def for_url(cls, url: str) -> _Authorization | None:
        """Credentials for this request, decided anew for every redirect."""
        header = hubs.authorization(url)
        return cls(header) if header else None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._header
        return request


def _accepted(response: requests.Response, display_name: str) -> requests.Response:
    status = response.status_code
    if status in (200, 206):
        return response
    after = response.headers.get("Retry-After", "")
    response.close()
    if status in _TRANSIENT_STATUSES:
        raise _TransientError(f"the server answers {status}", float(after) if after.isdigit() else 0.0, status)
    if status == 416:
        raise _TransientError("the server has no such range", status=status)
    meaning = {401: "credentials required", 403: "access denied", 404: "not found", 410: "gone"}.get(status)
    raise DownloadError(display_name, f"the server answers {status}" + (f" ({meaning})" if meaning else ""), status)


def _receive(response: requests.Response, target: Path, offset: int, max_bytes: int, display_name: str) -> None:
    resumed = response.status_code == 206
    if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        target.unlink(missing_ok=True)
        raise _TransientError("the server resumed at the wrong place")
    received = offset if resumed else 0
    length = response.headers.get("Content-Length", "")
    size = received + int(length) if length.isdigit() else None
    if size is not None and size > max_bytes:
        raise DetectorError(f"{display_name}: {size} bytes, more than the {max_bytes} allowed")
    with target.open("ab" if resumed else "wb") as file:
        for block in response.raw.stream(_BLOCK, decode_content=False):
            received += len(block)
            if received > max_bytes:
                raise DetectorError(f"{display_name}: more than the {max_bytes} bytes allowed")
            file.write(block)
    if size is not None and received != size:
        raise _TransientError(f"the connection ended after {received} of {size} bytes")


def _reason(error: BaseException) -> str:
    """The class name of an error's innermost cause; its text would quote the URL with its query."""
    inner = error.args[0] if error.args and isinstance(error.args[0], BaseException) else None
    inner = getattr(inner, "reason", None) or inner
    return type(inner if isinstance(inner, BaseException) else error).__name__


def unpack(archive: Path, into: Path, max_bytes: int, display_name: str) -> None:
    """Unpack a `.tar` or `.tar.gz` into an existing empty folder.

    Only folders and ordinary files are accepted. The archive is read to its last byte, which checks gzip's checksum.

    Args:
        archive: The file.
        into: The folder.
        max_bytes: Largest allowed size of its content.
        display_name: The archive as shown in messages.

    Raises:
        DetectorError: The file is not such an archive, is corrupt or too large, or holds links, devices or names that
            lead out of the folder.
    """
    with archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        if not packed:
            _require_tar(file, display_name)
        file.seek(0)
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        limited: Any = _Limited(stream, max_bytes, display_name)
        try:
            with tarfile.open(fileobj=limited, mode="r|") as tar:
                # Only a second safeguard: `_extract` accepts nothing but plain files below the folder. Python 3.11.0
                # to 3.11.3 have no filters and ignore this.
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                for number, member in enumerate(tar):
                    if number >= _MAX_FILES:
                        raise DetectorError(f"{display_name}: the archive holds more than {_MAX_FILES} files")
                    _extract(tar, member, into, display_name)
            while limited.read(_UNPACKED_BLOCK):
                pass
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DetectorError(f"{display_name}: the archive is corrupt ({error})") from error


def _require_tar(file: IO[bytes], display_name: str) -> None:
    """Check the magic word of an uncompressed tar, and the zeros at its end, which alone show that it is complete."""
    file.seek(0)
    head = file.read(512)
    if head[257:262] != b"ustar":
        beginning = head[:15].decode("ascii", "replace").strip()
        raise DetectorError(f"{display_name} is not a .tar.gz archive (it begins with {beginning!r})")
    if file.seek(0, io.SEEK_END) < 1024:
        raise DetectorError(f"{display_name}: the archive is corrupt (its end is missing)")
    file.seek(-512, io.SEEK_END)
    if any(file.read(512)):
        raise DetectorError(f"{display_name}: the archive is corrupt (its end is missing)")


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path, display_name: str) -> None:
    name = member.name
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or (parts and ":" in parts[0]):
        raise DetectorError(f"{display_name}: the archive holds {name!r}, a name that leads out of the folder")
    if not (member.isdir() or (member.isreg() and not member.issparse())):
        raise DetectorError(f"{display_name}: the archive holds {name!r}, which is neither a file nor a folder")
    target = into.joinpath(*parts)
    try:
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
        elif target.exists():
            raise FileExistsError
        else:
            tar.extract(member, into, set_attrs=False)
    except (FileExistsError, NotADirectoryError):
        raise DetectorError(f"{display_name}: the archive holds {name!r} more than once") from None


class _Limited:
    """Reads a stream up to a number of bytes, and raises DetectorError beyond."""

    def __init__(self, stream: Any, max_bytes: int, display_name: str) -> None:
        self._stream, self._max_bytes, self._display_name, self._read = stream, max_bytes, display_name, 0

    def read(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        self._read += len(data)
        if self._read > self._max_bytes:
            raise DetectorError(f"{self._display_name}: the archive unpacks to more than {self._max_bytes} bytes")
        return data
