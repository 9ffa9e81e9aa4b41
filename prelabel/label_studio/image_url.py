"""The URL from which an annotator's browser loads an image: `data.image` of a Label Studio task.

    --image-url                                  an image photos/a b.jpg, file name "a b.jpg", becomes
    https://host/photos                          https://host/photos/a%20b.jpg
    https://host/{file_name}?size=full           https://host/a%20b.jpg?size=full
    s3://bucket/photos/                          s3://bucket/photos/a b.jpg
    /data/local-files/?d=photos/                 /data/local-files/?d=photos/a%20b.jpg
    (not given), source on S3, GCS, Azure, HTTP  the image's own URL
    (not given), source a Label Studio project   the path on that server
    (not given), source on a disk                /data/local-files/?d= and the path below the document root

URLs that the browser loads are percent-encoded exactly once. URLs of object stores are not: Label Studio uses all that
follows the bucket as the object's key. It changes some keys, though (`_ALTERED`); such images are counted and reported.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace
from urllib.parse import quote, unquote

from prelabel.errors import ConfigError, ExportError
from prelabel.label_studio.client import LOCAL_FILES, SCHEMES
from prelabel.storage.address import absolute, is_local
from prelabel.store.rows import ImageFacts

#: Schemes that Label Studio resolves through a storage of the project, by those that fsspec knows.
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

#: URLs whose keys Label Studio changes: it drops leading slashes, tabs, line breaks, trailing blanks, and everything
#: after a question mark.
_ALTERED = re.compile(r"[^:]+://[^/]*/(?:/|.*[?\t\r\n]|.*\s\Z)", re.DOTALL)

#: Kinds of source storages, by the scheme of the URLs that they serve.
_STORAGES = {"s3": "s3", "gs": "gcs", "azure-blob": "azure"}

#: A source storage: its kind, and its bucket, container or folder on the server (`""` if the folder is unknown).
Place = tuple[str, str]

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class ImageUrls:
    """Makes the URL of each image, and notes what the Label Studio server needs to serve them."""

    def __init__(self, template: str = "", document_root: str = "") -> None:
        """Raises ConfigError for a placeholder that does not exist."""
        for name in _PLACEHOLDER.findall(template):
            if name not in ("uri", "file_name", "image_id"):
                raise ConfigError(f"--image-url: {{{name}}} is not one of {{uri}}, {{file_name}} and {{image_id}}")
        self._template = template
        self._given_root = document_root
        self._root = posixpath.normpath(absolute(document_root)) if document_root else None
        #: What the server needs, in order, and whether it is a source storage.
        self._needs: dict[str, bool] = {}
        self._folders: set[str] = set()
        self._buckets: set[Place] = set()
        #: Folders of local images below their document root on the server, by this root; `""` is an unknown root.
        self._served: dict[str, set[str]] = {}
        self._altered = 0
        self._first_altered = ""

    def extension(self, image: ImageFacts) -> str:
        """The extension of the file that a browser loads for an image, `""` if its URL has none."""
        if not self._template:
            return posixpath.splitext(image.file_name)[1]
        url = self._from_template(image)
        path = url.removeprefix(LOCAL_FILES) if url.startswith(LOCAL_FILES) else url.partition("?")[0]
        return posixpath.splitext(path)[1]

    def of_copy(self, image: ImageFacts, url: str) -> str:
        """The URL of a display copy that was written to `url`, a path or URL; the template does not apply to copies."""
        return self._note_needs(
            *self._own_url(replace(image, uri=url, file_name=url.rpartition("/")[2], location=None))
        )

    def of(self, image: ImageFacts) -> str:
        """The URL of an image. Raises ExportError if there is none without `image_url` or `document_root`."""
        if self._template:
            return self._note_needs(self._from_template(image), self._root or "")
        return self._note_needs(*self._own_url(image))

    def _from_template(self, image: ImageFacts) -> str:
        if _PLACEHOLDER.search(self._template):
            return self._filled_in(image)
        separator = "" if self._template.endswith(("/", "=")) else "/"
        return self._template + separator + self._quoted(image.file_name)

    def _note_needs(self, url: str, root: str = "") -> str:
        """Note what the server needs to show the image at this URL, and return the URL.

        Args:
            url: The URL of the image.
            root: The document root of a local image, `""` if it is unknown.
        """
        scheme, _, path = url.partition("://")
        if url.startswith(LOCAL_FILES):
            self._served.setdefault(root, set()).add(posixpath.dirname(unquote(url.removeprefix(LOCAL_FILES))))
        elif scheme in _STORAGES:
            self._buckets.add((_STORAGES[scheme], path.partition("/")[0]))
        scheme = _scheme(url)
        if scheme in ("http", "https"):
            # The page draws the image on a canvas; browsers allow that only if the other server permits it.
            self._needs[f"{url.split('/')[2]} to allow its origin (CORS header Access-Control-Allow-Origin)"] = False
        elif scheme in _STORES and _ALTERED.match(url):
            self._altered += 1
            self._first_altered = self._first_altered or url
        return url

    def fresh(self) -> ImageUrls:
        """An object for a part of the images; `add` merges its notes."""
        return ImageUrls(self._template, self._given_root)

    def add(self, other: ImageUrls) -> None:
        """Merge the notes of another part. Raises ExportError if the images have no document root in common."""
        self._needs |= other._needs
        self._altered += other._altered
        self._first_altered = self._first_altered or other._first_altered
        self._buckets |= other._buckets
        for root, folders in other._served.items():
            self._served.setdefault(root, set()).update(folders)
        self._add_folders(other._folders)

    @property
    def needs(self) -> tuple[str, ...]:
        """What the server needs, one line each, for the images seen so far."""
        if not self._altered:
            return tuple(self._needs)
        altered = (
            "object keys without '?', tabs, line breaks, leading '/' and trailing blanks, because it drops these: "
            f"{self._altered} image{'s are' if self._altered > 1 else ' is'} not shown (e.g. {self._first_altered!r})"
        )
        return (*self._needs, altered)

    @property
    def storage_needs(self) -> tuple[str, ...]:
        """Those of `needs` that are source storages of the project."""
        return tuple(need for need, is_storage in self._needs.items() if is_storage)

    @property
    def places(self) -> list[Place]:
        """The source storages that the images seen so far need, ordered."""
        places = set(self._buckets)
        for root, folders in self._served.items():
            # Label Studio serves no images that lie in the document root itself.
            places |= (
                {("local", posixpath.join(root, folder)) for folder in _roots(folders)} if root else {("local", "")}
            )
        return sorted(places)

    def _filled_in(self, image: ImageFacts) -> str:
        def value(match: re.Match[str]) -> str:
            if match[1] == "uri":
                _require_own_url(image)
                # At the start of the template, it is the URL itself; elsewhere, it is part of another URL.
                return image.uri if match.start() == 0 else quote(image.uri, safe="")
            return self._quoted(image.file_name if match[1] == "file_name" else image.image_id)

        return _PLACEHOLDER.sub(value, self._template)

    def _quoted(self, path: str) -> str:
        return path if _scheme(self._template) in _STORES else quote(path, safe="/")

    def _own_url(self, image: ImageFacts) -> tuple[str, str]:
        """The URL of an image itself, and the document root if it is a local file."""
        _require_own_url(image)
        scheme = _scheme(image.uri)
        if scheme in ("http", "https"):
            return image.uri, ""
        if scheme in _STORES:
            bucket, _, key = image.uri.partition("://")[2].partition("/")
            bucket = bucket.partition("@")[0]
            self._needs[f"a source storage for {_STORES[scheme]}://{bucket} in the project, or no image is shown"] = (
                True
            )
            return f"{_STORES[scheme]}://{bucket}/{key}", ""
        if scheme in SCHEMES:
            # A file on the server itself: its page loads the file by the path alone.
            return "/" + image.uri.partition("://")[2].partition("/")[2], ""
        if not is_local(image.uri):
            raise ExportError(f"browsers cannot open {scheme}:// URLs: give the images' URL with --image-url")
        return self._local(image)

    def _local(self, image: ImageFacts) -> tuple[str, str]:
        path = posixpath.normpath(absolute(image.uri))
        root = self._root
        if root is None:
            if not path.endswith("/" + image.file_name):
                raise ExportError(
                    f"{path!r} does not end in {image.file_name!r}, so the images' URL is unknown: give "
                    "--document-root or --image-url"
                )
            # Label Studio serves only folders strictly below its document root.
            root = posixpath.dirname(path[: -len(image.file_name) - 1])
        if not path.startswith(root.rstrip("/") + "/"):
            raise ExportError(
                f"{path!r} is not below the document root {root!r}: give another --document-root, or --image-url"
            )
        below = path[len(root.rstrip("/")) + 1 :]
        source = path.removesuffix("/" + image.file_name)
        storage = "local storages below it" if self._root is not None else f"a local storage for {source}"
        variable = "LABEL_STUDIO_LOCAL_FILES_"
        self._needs[
            f"{variable}SERVING_ENABLED=true and {variable}DOCUMENT_ROOT={root or '/'} in its environment, and "
            f"{storage} in the project"
        ] = True
        self._add_folders({source})
        return LOCAL_FILES + quote(below, safe="/"), root

    def _add_folders(self, folders: set[str]) -> None:
        self._folders |= folders
        if len(self._folders) > 1 and self._root is None:
            raise ExportError(
                "the images lie in several folders: give the folder above all of them with --document-root, or give "
                "--image-url"
            )


def _require_own_url(image: ImageFacts) -> None:
    """Raise ExportError for an image inside an archive: browsers cannot load it from there."""
    if image.location is not None:
        raise ExportError(
            f"image {image.file_name!r} lies in an archive, from which browsers cannot load it: write the images as "
            "files with `prelabel extract RUN --to DIR`, and add --extracted DIR; or give the URL of a folder that has "
            "them with --image-url"
        )


def _roots(folders: set[str]) -> set[str]:
    """The deepest folder that holds all given ones; several if they have none in common."""
    common = posixpath.commonpath(list(folders))
    return {common} if common else {folder.partition("/")[0] for folder in folders if folder}


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower() if "://" in url else ""
