"""Addresses as text: plain paths (`photos/a.jpg`) and URLs (`s3://bucket/photos/a.jpg`), and what to show of them."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote_plus

from prelabel.errors import StoreError

LOCAL = ("file", "local")
HTTP = ("http", "https")

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")

#: Azure writes the container where others write user and password: `abfs://container@account.dfs.core.windows.net/a`.
_CONTAINER_FIRST = ("abfs", "abfss")

#: Parts of a web address's query that say who asks and until when, not what is asked for.
_SIGNATURE_NAMES = (
    r"x-(?:amz|goog|oss|obs)-[\w.-]*|awsaccesskeyid|googleaccessid|ossaccesskeyid|accesskeyid|signature|expires|policy|"
    r"key-pair-id|q-(?:sign[\w-]*|ak|key-time|header-list|url-param-list)|(?:access_?|security-)?token|__token__|"
    r"hdn(?:ts|tl|ea)|sig|api_?key|auth(?:orization)?|jwt|secret|passw(?:or)?d"
)
_SIGNATURE = re.compile(_SIGNATURE_NAMES, re.IGNORECASE)
#: The same in any text, whatever stands before the query and wherever a reader would see the address end.
_SIGNED = re.compile(rf"([?&;](?:{_SIGNATURE_NAMES})=)[^\s&#'\"]+", re.IGNORECASE)
#: Those of Azure, too short to be taken for one anywhere but beside its `sig`.
_AZURE_SIGNATURE = re.compile(r"s[eprvt]|spr|sip|ss|srt|sk(oid|tid|t|e|s|v)", re.IGNORECASE)

#: Of longer text, which can only be a stranger's, the search for secrets would take minutes.
_LONGEST_SHOWN = 10_000

# Control characters, marks that turn the direction of writing, line separators, unpaired surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def protocol_of(url: str) -> str:
    """`"s3"` for `s3://bucket/a.jpg`, `"file"` for a plain path (also one that holds `::` or `://` further on)."""
    match = _SCHEME.match(url)
    return match.group(1).lower() if match else "file"


def is_local(url: str) -> bool:
    """True for a plain path or a `file://` URL."""
    return protocol_of(url) in LOCAL


def is_http(url: str) -> bool:
    """True for an `http://` or `https://` URL."""
    return protocol_of(url) in HTTP


def absolute(url: str) -> str:
    """The address as every process of the job must see it: no trailing slash; local paths absolute, without `file://`."""
    scheme = _SCHEME.match(url)
    if not is_local(url):
        bare = url.rstrip("/")
        return bare if scheme and len(bare) > scheme.end() else url
    path = Path(url[scheme.end() :] if scheme else url)
    # Only one's own home: a folder may well be called `~old`.
    # `..` is taken out, so that one folder has one address however it was named.
    return os.path.abspath(path.expanduser() if path.parts[:1] == ("~",) else path)  # noqa: PTH100


def without_secrets(url: str) -> str:
    """An address as it may be stored: without user and password, and without the signature in a web address's query.

    `https://me:pw@host/a.jpg?size=2&X-Amz-Signature=ab` becomes `https://host/a.jpg?size=2`. The rest of the query
    stays, letter by letter, since it may be what tells one image from another; unlike `redact`, the result is an
    address that can be opened by whoever may.
    """
    if "@" not in url and "?" not in url:
        return url
    protocol = protocol_of(url)
    if protocol in (*LOCAL, "memory", *_CONTAINER_FIRST):
        return url
    start = url.index("://") + 3
    host, slash, path = url[start:].partition("/")
    url = url[:start] + host.rpartition("@")[2] + slash + path
    if protocol not in HTTP or "?" not in url:
        return url
    bare, _, query = url.partition("?")
    query, mark, fragment = query.partition("#")
    pairs = [(unquote_plus(pair.partition("=")[0]), pair) for pair in query.split("&")]
    azure = any(name.lower() == "sig" for name, _ in pairs)
    kept = [
        pair for name, pair in pairs if not (_SIGNATURE.fullmatch(name) or (azure and _AZURE_SIGNATURE.fullmatch(name)))
    ]
    return bare + ("?" + "&".join(kept) if kept else "") + mark + fragment


def join(base: str, *parts: str) -> str:
    """`base` with path parts below it. Parts that would leave `base` (`..`, absolute) are refused."""
    for part in parts:
        if part.startswith("/") or ".." in part.split("/"):
            raise StoreError(f"{part!r} is not a path below {base!r}")
    return posixpath.join(base, *parts)


def redact(text: str) -> str:
    """An address, or text that quotes some, fit to be shown and logged.

    Without user and password and without the query of a web address, on one line, and without characters that steer a
    terminal or cannot be printed (`\\n`, `\\x1b`, `\\u202e` stand for them). What is longer than any address is cut.
    """
    text = text[:_LONGEST_SHOWN]
    text = re.sub(r"(?<!\babfs)(?<!\babfss)(://)[^/?#\s]*@", r"\1***@", text, flags=re.IGNORECASE)
    text = re.sub(r"(https?://[^\s?#'\"]*)\?[^\s#'\")]+", r"\1?***", text, flags=re.IGNORECASE)
    text = _SIGNED.sub(r"\1***", text)
    return _UNPRINTABLE.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def describe(error: BaseException) -> str:
    """An exception as one short line: its class and first line, redacted."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {redact(text)[:300]}" if text else type(error).__name__
