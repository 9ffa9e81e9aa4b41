"""Listing the images of a Label Studio project, from its server or from an export of its tasks.

    label-studio://host:8080/12            project 12 of http://host:8080
    label-studio+https://host/12           project 12 of https://host
    tasks.json                             a JSON array of tasks, each with `id` and `data`

    data.image of a task                         with `image_root`                without
    s3://, gs://, http(s)://...                  that URL                         that URL (azure-blob:// as abfs://)
    /data/local-files/?d=photos/a%20b.jpg        `photos/a b.jpg` below it        from the server
    /data/upload/12/x-a.jpg                      `upload/12/x-a.jpg` below it     from the server

The `image_id` of an image is the number of its task and its file name, `7/a b.jpg`, so that predictions can be assigned
to their tasks. The token in LABEL_STUDIO_API_KEY (either kind) is sent to the server, and to no other.
"""

from __future__ import annotations

import functools
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import quote, unquote

from prelabel.errors import ConfigError, SourceError
from prelabel.image_ref import ImageRef
from prelabel.label_studio.client import LOCAL_FILES, SCHEMES, VARIABLE, Server, ServerError, read_token
from prelabel.source.json_stream import JsonStreamError, array_items
from prelabel.source.lists import require_unicode
from prelabel.storage.address import Address, protocol_of, redact
from prelabel.storage.files import Storage

_STORES = ("s3", "gs", "http", "https", "azure-blob")

#: Seconds without a response after which the server counts as down.
_TIMEOUT_S = 60.0


def is_label_studio(url: str) -> bool:
    """Whether a URL is that of a project, or of an image, on a Label Studio server."""
    return protocol_of(url) in SCHEMES


def is_task_list(address: Address, storage: Storage) -> bool:
    """Whether a JSON file contains an array (tasks) rather than an object (a COCO dataset). Raises OSError."""
    with storage.open(address) as file:
        return bool(file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[")


def project_images(url: str, *, image_root: Address | None = None) -> Iterator[ImageRef]:
    """Yield the images of a project's tasks, in the order of the task numbers.

    Args:
        url: `label-studio://host:port/project`.
        image_root: The server's document root, if it can be read directly.

    Raises:
        SourceError: The URL is not that of a project, the server refuses or does not respond, or a task has no image.
    """
    source = redact(url)
    base, _, number = url.rstrip("/").rpartition("/")
    if not (number.isascii() and number.isdigit() and re.fullmatch(r"[a-z+-]+://[^/].*", base)):
        raise SourceError(f"{source}: must be label-studio://host:port/NUMBER, with the number of a project")
    try:
        with closing(_server(base, _token())) as server:
            key = _image_key(server.project(int(number)).label_config)
            for task in server.tasks(int(number)):
                yield _image_ref(task.id, task.data, key, f"{source}: task {task.id}", image_root, base)
    except ServerError as error:
        raise SourceError(f"{source}: {_server_problem(error)}") from None
    except ConfigError as error:
        raise SourceError(f"{source}: {error}") from None


def task_file_images(address: Address, storage: Storage, *, image_root: Address | None = None) -> Iterator[ImageRef]:
    """Yield the images of the tasks in a JSON file, in its order.

    Args:
        address: The file.
        storage: Opens the file.
        image_root: Folder with the server's files: its document root, or its media folder for uploads.

    Raises:
        SourceError: The file is not a list of tasks, or a task has no number or no image.
        OSError: Storage failed.
    """
    source = str(address)
    with storage.open(address) as file:
        try:
            for index, task in enumerate(array_items(file.read, None)):
                location = f"{source}: task {index}"
                if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
                    raise SourceError(f'{location}: must be an object with "data"')
                if not isinstance(task.get("id"), int):
                    raise SourceError(f'{location}: must have an integer "id": export the tasks from their project')
                yield _image_ref(task["id"], task["data"], "", location, image_root, "")
        except JsonStreamError as error:
            raise SourceError(f"{source}: not a list of Label Studio tasks: {error}") from None


def read_image(url: str, max_bytes: int, on_bytes: Callable[[int], None]) -> tuple[bytes, int | None]:
    """Read an image from a Label Studio server.

    Args:
        url: URL of the image, as listed.
        max_bytes: Largest accepted size. Of a larger image, `max_bytes + 1` bytes are read.
        on_bytes: Called with the number of bytes received so far, whenever some arrive. May raise to stop.

    Returns:
        The bytes, and the length that the server announced, or None.

    Raises:
        ServerError: The server refuses.
        OSError: The connection broke or timed out, or a redirect is not followed.
    """
    base = "/".join(url.split("/")[:3])
    return _file_server(base, _token()).read(url[len(base) :], max_bytes, on_bytes)


def _token() -> str:
    try:
        return read_token()
    except ConfigError as error:
        raise SourceError(str(error)) from None


def _server(base: str, token: str) -> Server:
    protocol, _, host = base.partition("://")
    return Server(f"{SCHEMES[protocol]}://{host}", token, timeout_s=_TIMEOUT_S)


#: Clients for reading files. They keep no connection open between two files.
_file_server = functools.lru_cache(maxsize=8)(_server)


def _server_problem(error: ServerError) -> str:
    """Describe why a server did not return its tasks."""
    if not error.status:
        return f"the server does not respond: {error.reason}"
    if error.status < 300:
        return "the server responds, but not like Label Studio"
    hint = f"; check that {VARIABLE} is a token of this server" if error.status in (401, 403) else ""
    return f"the server responded {error.status} {error.reason}{hint}"


def _image_key(config: str) -> str:
    """The key of `data` that the labeling configuration shows as the image, or `""` if that is unclear."""
    if "<!DOCTYPE" in config or "<!ENTITY" in config:
        return ""
    try:
        images = list(ET.fromstring(config).iter("Image"))  # noqa: S314 - without a document type there are no entities to expand
    except ET.ParseError:
        return ""
    values = {image.get("value", "") for image in images}
    return values.pop()[1:] if len(values) == 1 else ""


def _image_ref(
    number: int, data: Mapping[str, Any], key: str, location: str, image_root: Address | None, server: str
) -> ImageRef:
    candidates = [key] if key else [name for name, value in data.items() if _is_url(value)]
    if "image" in candidates:
        candidates = ["image"]
    if len(candidates) != 1 or not isinstance(data.get(candidates[0]), str):
        keys = ", ".join(map(repr, data))
        raise SourceError(f"{location}: exactly one key of its data must hold the image's URL, got {keys or 'no keys'}")
    uri = _image_uri(data[candidates[0]], location, image_root, server)
    # In `?d=photos/a.jpg` the query holds the path.
    path = uri.partition("?d=")[2] or re.split(r"[?#]", uri)[0]
    name = (unquote(path) if protocol_of(uri) not in ("s3", "gs", "abfs", "file") else uri).rpartition("/")[2]
    require_unicode(name, location)
    image_id = f"{number}/{name}"
    return ImageRef(image_id=image_id, uri=uri, file_name=image_id)


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith("/data/") or protocol_of(value) in _STORES)


def _image_uri(address: str, location: str, image_root: Address | None, server: str) -> str:
    protocol = protocol_of(address)
    if protocol in _STORES:
        return address.replace("azure-blob://", "abfs://", 1) if protocol == "azure-blob" else address
    if image_root and address.startswith("/data/"):
        below = unquote(address.removeprefix(LOCAL_FILES if address.startswith(LOCAL_FILES) else "/data/"))
        if ".." in below.split("/"):
            raise SourceError(f"{location}: {address!r} lies outside --image-root")
        return f"{image_root.url}/{below}"
    if address.startswith("/") and server:
        return server + quote(address, safe="/?=&%:+,;@~")
    if address.startswith("/data/"):
        raise SourceError(f"{location}: {address!r} is a path on the server: give its folder as --image-root")
    raise SourceError(f"{location}: {redact(address)[:200]!r} is not the URL of an image")
