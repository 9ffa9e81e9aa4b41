"""The address under which an annotator's browser gets an image: `data.image` of a Label Studio task.

    --image-url                                  an image photos/a b.jpg, file name "a b.jpg", becomes
    https://host/photos                          https://host/photos/a%20b.jpg
    https://host/{file_name}?size=full           https://host/a%20b.jpg?size=full
    s3://bucket/photos/                          s3://bucket/photos/a b.jpg
    /data/local-files/?d=photos/                 /data/local-files/?d=photos/a%20b.jpg
    (not given), source on S3, GCS, Azure, HTTP  the image's own address
    (not given), source a Label Studio project   the path on that server
    (not given), source on a disk                /data/local-files/?d= and the path below the document root

What a browser fetches is URL-quoted, exactly once. Addresses of object stores are not: Label Studio takes what follows
the bucket as the object's key, letter by letter, but for what it alters: such images are counted and said.
"""

from __future__ import annotations

import copy
import posixpath
import re
from collections.abc import Callable
from urllib.parse import quote

from prelabel.errors import ConfigError, ExportError
from prelabel.storage import absolute, is_local
from prelabel.store.rows import ImageRow

LOCAL_FILES = "/data/local-files/?d="

#: Schemes that Label Studio resolves by a storage of the project, by those that fsspec knows.
_STORES = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "abfs": "azure-blob",
    "abfss": "azure-blob",
    "az": "azure-blob",
    "azure-blob": "azure-blob",
}
#: Schemes of images that were taken from a Label Studio server.
_LABEL_STUDIO = ("label-studio", "label-studio+https")

#: What Label Studio makes another key of: it drops slashes at the front, tabs, line breaks and blanks at the end, and
#: what follows a question mark.
_ALTERED = re.compile(r"[^:]+://[^/]*/(?:/|.*[?\t\r\n]|.*\s\Z)", re.DOTALL)

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class ImageUrls:
    """Gives every image its address, and remembers what the Label Studio server needs to serve them."""

    def __init__(self, template: str = "", document_root: str = "") -> None:
        """Raises ConfigError for a placeholder that does not exist."""
        for name in _PLACEHOLDER.findall(template):
            if name not in ("uri", "file_name", "image_id"):
                raise ConfigError(f"image-url: {{{name}}} is not one of {{uri}}, {{file_name}} and {{image_id}}")
        self._template = template
        self._root = posixpath.normpath(absolute(document_root)) if document_root else None
        self._needs: dict[str, None] = {}
        self._folders: set[str] = set()
        self._altered = 0
        self._first_altered = ""
        self._of: Callable[[ImageRow], str] = self._own_address
        if _PLACEHOLDER.search(template):
            self._of = self._filled_in
        elif template:
            self._of = self._below_prefix

    def of(self, row: ImageRow) -> str:
        """The address of one image. Raises ExportError where none can be made without `image_url`."""
        address = self._of(row)
        scheme = _scheme(address)
        if scheme in ("http", "https"):
            # The page draws the image on a canvas, and browsers let it only read what the other server allows it.
            self._needs[f"an Access-Control-Allow-Origin for its address from {address.split('/')[2]} (CORS)"] = None
        elif scheme in _STORES and _ALTERED.match(address):
            self._altered += 1
            self._first_altered = self._first_altered or address
        return address

    def fresh(self) -> ImageUrls:
        """Makes the same addresses of some of the images; what they need is told by `add`."""
        other = copy.copy(self)
        other._needs, other._folders, other._altered, other._first_altered = {}, set(), 0, ""
        other._of = getattr(other, self._of.__name__)
        return other

    def add(self, other: ImageUrls) -> None:
        """Remember what another one has seen. Raises ExportError where the images have no root in common."""
        self._needs |= other._needs
        self._altered += other._altered
        self._first_altered = self._first_altered or other._first_altered
        self._add_folders(other._folders)

    @property
    def needs(self) -> tuple[str, ...]:
        """What the server needs, one line each, for the images seen so far."""
        if not self._altered:
            return tuple(self._needs)
        altered = (
            "object keys without '?', tabs, line breaks, '/' at the front and blanks at the end, which it drops: "
            f"{self._altered} are not shown, the first is {self._first_altered!r}"
        )
        return (*self._needs, altered)

    def _below_prefix(self, row: ImageRow) -> str:
        between = "" if self._template.endswith(("/", "=")) else "/"
        return self._template + between + self._quoted(row.file_name)

    def _filled_in(self, row: ImageRow) -> str:
        def value(match: re.Match[str]) -> str:
            if match[1] == "uri":
                # At the front it is the address itself; elsewhere it is a part of another one.
                return row.uri if match.start() == 0 else quote(row.uri, safe="")
            return self._quoted(row.file_name if match[1] == "file_name" else row.image_id)

        return _PLACEHOLDER.sub(value, self._template)

    def _quoted(self, path: str) -> str:
        return path if _scheme(self._template) in _STORES else quote(path, safe="/")

    def _own_address(self, row: ImageRow) -> str:
        scheme = _scheme(row.uri)
        if scheme in ("http", "https"):
            return row.uri
        if scheme in _STORES:
            bucket, _, key = row.uri.partition("://")[2].partition("/")
            bucket = bucket.partition("@")[0]
            self._needs[f"a source storage for {_STORES[scheme]}://{bucket} in the project, or no image is shown"] = (
                None
            )
            return f"{_STORES[scheme]}://{bucket}/{key}"
        if scheme in _LABEL_STUDIO:
            # The server's own file: its page finds it by the path alone.
            return "/" + row.uri.partition("://")[2].partition("/")[2]
        if not is_local(row.uri):
            raise ExportError(f"a browser cannot open {scheme}:// addresses: say with image-url where the images are")
        return self._local(row)

    def _local(self, row: ImageRow) -> str:
        path = posixpath.normpath(absolute(row.uri))
        root = self._root
        if root is None:
            if not path.endswith("/" + row.file_name):
                raise ExportError(
                    f"{path!r} does not end in {row.file_name!r}: say with document-root or image-url "
                    "under which address a browser finds the images"
                )
            # Label Studio serves only folders strictly below its document root.
            root = posixpath.dirname(path[: -len(row.file_name) - 1])
        if not path.startswith(root.rstrip("/") + "/"):
            raise ExportError(f"{path!r} is not below the document root {root!r}: give another one or an image-url")
        below = path[len(root.rstrip("/")) + 1 :]
        source = path.removesuffix("/" + row.file_name)
        storage = "local storages below it" if self._root is not None else f"a local storage for {source}"
        variable = "LABEL_STUDIO_LOCAL_FILES_"
        self._needs[
            f"{variable}SERVING_ENABLED=true and {variable}DOCUMENT_ROOT={root or '/'} in its environment, and "
            f"{storage} in the project"
        ] = None
        self._add_folders({source})
        return LOCAL_FILES + quote(below, safe="/")

    def _add_folders(self, folders: set[str]) -> None:
        self._folders |= folders
        if len(self._folders) > 1 and self._root is None:
            raise ExportError("the images lie in several folders: give the document-root they share, or an image-url")


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower() if "://" in url else ""
