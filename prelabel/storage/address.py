"""Addresses: plain paths (`photos/a.jpg`) and URLs (`s3://bucket/photos/a.jpg`), and how to show them without secrets.

    run = Address.of_folder("~/runs/first/")      run.url == "/home/me/runs/first"
    run.join("shards", "00000.parquet")           f"cannot write {run}" shows no password and no signature

Text becomes an `Address` once, at the entry points, and is passed on as such. The addresses of images remain text,
since there are millions of them; the functions in this module are for those.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, unquote_plus

from prelabel.errors import StoreError

LOCAL = ("file", "local")
HTTP = ("http", "https")

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")

#: Azure URLs have the container in the place of user and password: `abfs://container@account.dfs.core.windows.net/a`.
CONTAINER_FIRST = ("abfs", "abfss", "az")
_USER = re.compile("".join(rf"(?<!\b{protocol})" for protocol in CONTAINER_FIRST) + r"(://)[^/?#\s]*@", re.IGNORECASE)

#: Names of query parameters in signed URLs: they identify the caller and the expiry, not the object.
_SIGNATURE_NAMES = (
    r"x-(?:amz|goog|oss|obs)-[\w.-]*|awsaccesskeyid|googleaccessid|ossaccesskeyid|accesskeyid|signature|expires|policy|"
    r"key-pair-id|q-(?:sign[\w-]*|ak|key-time|header-list|url-param-list)|(?:access_?|security-)?token|__token__|"
    r"hdn(?:ts|tl|ea)|sig|api_?key|auth(?:orization)?|jwt|secret|passw(?:or)?d"
)
_SIGNATURE = re.compile(_SIGNATURE_NAMES, re.IGNORECASE)
#: The same parameters, with their values, anywhere in a text.
_SIGNED = re.compile(rf"([?&;](?:{_SIGNATURE_NAMES})=)[^\s&#'\"]+", re.IGNORECASE)
#: Further parameters of Azure. They are so short that they only count next to its `sig`.
_AZURE_SIGNATURE = re.compile(r"s[eprvt]|spr|sip|ss|srt|sk(oid|tid|t|e|s|v)", re.IGNORECASE)

#: Kinds of archives, as the protocols of the files inside them.
MEMBER_PROTOCOLS = ("tar", "zip", "parquet", "tfrecord")

#: Characters that are encoded in names of files in archives: those that mean something in addresses, and controls.
_NOT_IN_KEYS = re.compile("[%:@?#&;\x00-\x1f\x7f]")

#: Longest text that is searched for secrets, in characters. Longer text comes from outside; searching it takes minutes.
_LONGEST_SHOWN = 10_000

# Control characters, marks that change the writing direction, line separators, unpaired surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """A path or URL, as every process of a job sees it.

    `str()` returns it as the user wrote it, but without user and password and without the query of a web URL, so it is
    safe in messages.

    Attributes:
        protocol: `s3`, `https`, ...; `file` for a local path.
        url: The complete address, including secrets; the absolute path of a local file.
        given: The address as the user wrote it, including secrets.
    """

    protocol: str
    url: str
    given: str = field(compare=False)

    @classmethod
    def of(cls, text: str | Address) -> Address:
        """Parse an address. Remote addresses are kept exactly, including a trailing slash."""
        if isinstance(text, Address):
            return text
        protocol = protocol_of(text)
        return cls("file", absolute(text), text) if protocol in LOCAL else cls(protocol, text, text)

    @classmethod
    def of_folder(cls, text: str | Address) -> Address:
        """Parse the address of a folder: a trailing slash is removed, and a local path is also shown as absolute."""
        return text if isinstance(text, Address) else cls.of(absolute(text))

    def __str__(self) -> str:
        return redact(self.given)

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    @property
    def is_local(self) -> bool:
        """Whether this is a path on this machine."""
        return self.protocol == "file"

    @property
    def is_http(self) -> bool:
        """Whether this is a URL on a web server."""
        return self.protocol in HTTP

    @property
    def path(self) -> Path:
        """The path of a local file or folder."""
        return Path(self.url)

    @property
    def bucket(self) -> str:
        """The part after the protocol of a remote address: the bucket or server, with the account if it names one."""
        return self.url.split("/")[2]

    @property
    def parent(self) -> Address:
        """The folder that contains this address."""
        return Address(self.protocol, self.url.rpartition("/")[0], self.given.rpartition("/")[0])

    def join(self, *parts: str) -> Address:
        """An address below this one. Raises StoreError for parts that would lead out of it (`..`, absolute paths)."""
        return Address(self.protocol, join(self.url, *parts), join(self.given, *parts))


#: An address, parsed or as text.
AddressLike = Address | str


def protocol_of(url: str) -> str:
    """The protocol of an address: `"s3"` for `s3://bucket/a.jpg`, `"file"` for a plain path.

    A path that contains `::` or `://` further on is still a plain path.
    """
    match = SCHEME.match(url)
    return match.group(1).lower() if match else "file"


def is_local(url: str) -> bool:
    """Whether an address is a plain path or a `file://` URL."""
    return protocol_of(url) in LOCAL


def is_http(url: str) -> bool:
    """Whether an address is an `http://` or `https://` URL."""
    return protocol_of(url) in HTTP


def absolute(url: str) -> str:
    """The address as every process must see it: no trailing slash; local paths absolute and without `file://`."""
    scheme = SCHEME.match(url)
    if not is_local(url):
        bare = url.rstrip("/")
        return bare if scheme and len(bare) > scheme.end() else url
    path = Path(url[scheme.end() :] if scheme else url)
    # Only the user's own home is expanded: a folder may be called `~old`.
    # `..` is resolved, so that a folder has one address however it is named.
    return os.path.abspath(path.expanduser() if path.parts[:1] == ("~",) else path)  # noqa: PTH100


@dataclass(frozen=True, slots=True)
class MemberAddress:
    """The parts of the address of a file inside an archive.

    Attributes:
        protocol: The kind of the archive, one of `MEMBER_PROTOCOLS`.
        key: The name of the file in the archive.
        archive: The address of the archive, including secrets.
    """

    protocol: str
    key: str
    archive: str


def member_url(protocol: str, key: str, archive: str) -> str:
    """The address of a file inside an archive, in fsspec's notation: `tar://cats/1.jpg::s3://bucket/a.tar`.

    Characters of the key that mean something in addresses are percent-encoded, so that the address can be split again.
    """
    quoted = _NOT_IN_KEYS.sub(lambda match: "".join(f"%{byte:02X}" for byte in match.group().encode()), key)
    return f"{protocol}://{quoted}::{archive}"


def split_member(url: str) -> MemberAddress | None:
    """The parts of the address of a file inside an archive, or None for any other address."""
    protocol, _, rest = url.partition("://")
    if protocol not in MEMBER_PROTOCOLS:
        return None
    key, separator, archive = rest.partition("::")
    return MemberAddress(protocol, unquote(key), archive) if separator and archive else None


def without_secrets(url: str) -> str:
    """The address in a form that may be stored: without user and password, and without the signature in its query.

    `https://me:pw@host/a.jpg?size=2&X-Amz-Signature=ab` becomes `https://host/a.jpg?size=2`. The rest of the query is
    kept exactly, since it may distinguish one image from another. Unlike the result of `redact`, this one can be opened
    by anyone with access.
    """
    if "@" not in url and "?" not in url:
        return url
    if (member := split_member(url)) is not None:
        return f"{url[: -len(member.archive)]}{without_secrets(member.archive)}"
    protocol = protocol_of(url)
    if protocol in (*LOCAL, "memory", *CONTAINER_FIRST):
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
    """Append path parts to `base`. Raises StoreError for parts that would lead out of it (`..`, absolute paths)."""
    for part in parts:
        if part.startswith("/") or ".." in part.split("/"):
            raise StoreError(f"{part!r} is not a path below {redact(base)!r}")
    return posixpath.join(base, *parts)


def redact(text: str) -> str:
    """Make an address, or text that contains addresses, safe to show and log.

    User and password and the queries of web URLs become `***`. Characters that control a terminal or cannot be printed
    are escaped (`\\n`, `\\x1b`, `\\u202e`), so the result is one line. Text beyond 10,000 characters is dropped.
    """
    text = _USER.sub(r"\1***@", text[:_LONGEST_SHOWN])
    text = re.sub(r"(https?://[^\s?#'\"]*)\?[^\s#'\")]+", r"\1?***", text, flags=re.IGNORECASE)
    text = _SIGNED.sub(r"\1***", text)
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """The text on one short line, redacted."""
    return redact(" ".join(text.split()))[:300]


def describe(error: BaseException) -> str:
    """Describe an exception on one short line: its class and text, redacted; without the number of an OSError."""
    text = one_line(re.sub(r"^\[Errno -?\d+\] ", "", str(error)))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
