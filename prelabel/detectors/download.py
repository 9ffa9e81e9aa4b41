"""Download one file over http(s): bounded, resumed where it broke off, and never taken for whole when it is not."""

from __future__ import annotations

import random
import time
from pathlib import Path
from urllib.parse import urljoin

import requests
import urllib3

from prelabel import __version__
from prelabel.errors import DetectorError
from prelabel.redirects import RedirectError, require_followed
from prelabel.storage import redact

#: Seconds to connect, and seconds without a byte.
TIMEOUT_S = (10.0, 60.0)
#: Attempts in a row that bring nothing new; an attempt that brings bytes starts the count again.
ATTEMPTS = 5
#: Attempts where the server's name is not known: a machine without network should hear it soon.
_UNKNOWN_NAME_ATTEMPTS = 2
#: The first pause between attempts; each fruitless one doubles it.
PAUSE_S = 0.5
_MOST_ATTEMPTS = 100
_MOST_REDIRECTS = 10
_BLOCK = 1 << 16
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class _Again(Exception):  # noqa: N818 - never leaves this module
    """This attempt failed for a reason that may pass."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def download(url: str, target: Path, max_bytes: int) -> None:
    """Write what an address answers to a file.

    A connection that breaks off, a timeout, and answers 5xx, 408, 425 and 429 are tried again with growing pauses;
    where the server supports ranges and says which version it serves, from where it broke off.

    Args:
        url: An http or https address.
        target: The file; an older one is replaced.
        max_bytes: Most bytes it may have.

    Raises:
        DetectorError: It cannot be had; the message names the address (without its query) and what to check.
    """
    target.unlink(missing_ok=True)
    validator = None
    fruitless, attempts = 0, ATTEMPTS
    with requests.Session() as session:
        for _ in range(_MOST_ATTEMPTS):
            had = target.stat().st_size if target.exists() else 0
            try:
                with _get(session, url, had, validator) as response:
                    validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
                    if validator and validator.startswith("W/"):
                        validator = None
                    _receive(response, target, had, max_bytes, url)
                return
            except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
                if isinstance(error, requests.exceptions.SSLError):
                    raise DetectorError(
                        f"{redact(url)}: no secure connection; check the server's certificate"
                    ) from error
                kind = _reason(error)
                reason, wait_s = f"the connection failed ({kind})", 0.0
                attempts = _UNKNOWN_NAME_ATTEMPTS if kind == "NameResolutionError" else ATTEMPTS
            except requests.RequestException as error:
                raise DetectorError(f"{redact(url)}: {type(error).__name__}; check the address") from error
            except ValueError as error:
                raise DetectorError(f"{redact(url)}: it, or where it redirects to, is no address") from error
            except _Again as error:
                reason, wait_s = str(error), error.wait_s
            now = target.stat().st_size if target.exists() else 0
            fruitless = 0 if now > had else fruitless + 1
            if fruitless >= attempts:
                break
            time.sleep(min(60.0, max(wait_s, PAUSE_S * 2**fruitless * random.uniform(0.75, 1.25))))  # noqa: S311
    raise DetectorError(f"{redact(url)}: {reason}, after {fruitless} attempts; check the network and the address")


def _get(session: requests.Session, url: str, had: int, validator: str | None) -> requests.Response:
    """The answer of the last address of a chain of redirects, or an error; the caller closes it."""
    headers = {"Accept-Encoding": "identity", "User-Agent": f"prelabel/{__version__}"}
    if had and validator:
        headers |= {"Range": f"bytes={had}-", "If-Range": validator}
    here = url
    for _ in range(_MOST_REDIRECTS):
        response = session.get(here, headers=headers, stream=True, timeout=TIMEOUT_S, allow_redirects=False)
        if response.status_code not in (301, 302, 303, 307, 308):
            return _accepted(response, url)
        response.close()
        try:
            there = urljoin(here, response.headers.get("Location", ""))
            require_followed(here, there)
        except RedirectError as error:
            raise DetectorError(f"{redact(url)}: {error}") from None
        here = there
    raise DetectorError(f"{redact(url)}: more than {_MOST_REDIRECTS} redirects")


def _accepted(response: requests.Response, url: str) -> requests.Response:
    status = response.status_code
    if status in (200, 206):
        return response
    after = response.headers.get("Retry-After", "")
    response.close()
    if status in _PASSING:
        raise _Again(f"the server answers {status}", float(after) if after.isdigit() else 0.0)
    if status == 416:
        raise _Again("the server has no such range")
    advice = {
        401: "it wants credentials; download the model by hand and name its folder or archive",
        403: "access is denied; check the permission, or download the model by hand and name its folder or archive",
        404: "there is nothing; check the address and the model's version in it",
        410: "it is gone; check for a newer address",
    }.get(status, "check the address")
    raise DetectorError(f"{redact(url)}: the server answers {status}: {advice}")


def _receive(response: requests.Response, target: Path, had: int, max_bytes: int, url: str) -> None:
    resumed = response.status_code == 206
    if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {had}-"):
        target.unlink(missing_ok=True)
        raise _Again("the server resumed at the wrong place")
    have = had if resumed else 0
    length = response.headers.get("Content-Length", "")
    wanted = have + int(length) if length.isdigit() else None
    if wanted is not None and wanted > max_bytes:
        raise DetectorError(f"{redact(url)}: {wanted} bytes, more than the {max_bytes} allowed")
    with target.open("ab" if resumed else "wb") as file:
        for block in response.raw.stream(_BLOCK, decode_content=False):
            have += len(block)
            if have > max_bytes:
                raise DetectorError(f"{redact(url)}: more than the {max_bytes} bytes allowed")
            file.write(block)
    if wanted is not None and have != wanted:
        raise _Again(f"the connection ended after {have} of {wanted} bytes")


def _reason(error: BaseException) -> str:
    """The class of an error's innermost cause; its text would quote the address with its query."""
    inner = error.args[0] if error.args and isinstance(error.args[0], BaseException) else None
    inner = getattr(inner, "reason", None) or inner
    return type(inner if isinstance(inner, BaseException) else error).__name__
