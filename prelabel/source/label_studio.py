"""The tasks of a Label Studio project as a list of images: asked of the server, or read from an export of its tasks.

    label-studio://host:8080/12            project 12 of http://host:8080
    label-studio+https://host/12           project 12 of https://host
    tasks.json                             a JSON array of tasks, each with `id` and `data`

    data.image of task 7                         image
    s3://, gs://, http(s)://...                  that address (azure-blob:// as abfs://)
    /data/local-files/?d=photos/a%20b.jpg        `photos/a b.jpg` below `image_root` where that is given, else
    /data/upload/12/x-a.jpg                      `upload/12/x-a.jpg` below it; without it both come from the server

The `image_id` of an image is the number of its task and the name of its file, `7/a b.jpg`: with it, predictions find
their way back. The server is asked with the token in LABEL_STUDIO_API_KEY (of either kind), which is sent to it alone.
"""

from __future__ import annotations

import errno
import functools
import http.client
import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, unquote, urlencode

from prelabel.errors import SourceError
from prelabel.image_ref import ImageRef
from prelabel.redirects import require_followed
from prelabel.source.json_stream import JsonStreamError, array_items
from prelabel.storage import Storage, absolute, describe, protocol_of, redact

VARIABLE = "LABEL_STUDIO_API_KEY"

_SCHEMES = {"label-studio": "http", "label-studio+https": "https"}
_STORES = ("s3", "gs", "http", "https", "azure-blob")
_LOCAL_FILES = "/data/local-files/?d="

_PAGE = 500
_TIMEOUT_S = 60.0
_CHUNK = 1 << 16

#: A personal access token is exchanged for one that lives five minutes.
_ACCESS_S = 200.0


def is_label_studio(url: str) -> bool:
    """Whether an address is one of a project, or of an image, on a Label Studio server."""
    return protocol_of(url) in _SCHEMES


def is_task_list(url: str, storage: Storage) -> bool:
    """Whether a JSON file holds an array (tasks) and no object (a COCO dataset). Raises OSError."""
    with storage.open(url) as file:
        return bool(file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[")


def project_images(url: str, *, image_root: str | None = None) -> Iterator[ImageRef]:
    """The images of a project's tasks, in the order of their numbers.

    Args:
        url: `label-studio://host:port/project`.
        image_root: The server's document root, where it can be read directly.

    Raises:
        SourceError: The address is not one of a project, the server refuses or is away, or a task has no image.
    """
    shown = redact(url)
    base, _, number = url.rstrip("/").rpartition("/")
    if not (number.isascii() and number.isdigit() and re.fullmatch(r"[a-z+-]+://[^/].*", base)):
        raise SourceError(f"{shown}: must be label-studio://host:port/ and the number of a project")
    config = _ask(base, f"/api/projects/{number}/", shown).get("label_config") or ""
    key = _image_key(config)
    after = 0
    while True:
        above = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after}
        query = {"filters": {"conjunction": "and", "items": [above]}, "ordering": ["tasks:id"]}
        asked = {"project": number, "page_size": _PAGE, "include": "id,data", "resolve_uri": "false"}
        tasks = _ask(base, f"/api/tasks/?{urlencode({**asked, 'query': json.dumps(query)})}", shown)["tasks"]
        for task in tasks:
            yield _image_of(task, key, f"{shown}: task {task['id']}", image_root, base)
            after = task["id"]
        if not tasks:
            return


def listed_images(url: str, storage: Storage, *, image_root: str | None = None) -> Iterator[ImageRef]:
    """The images of tasks in a JSON file, in its order.

    Args:
        url: The file.
        storage: Where it is.
        image_root: Where the server keeps its files: its document root, for uploads its media folder.

    Raises:
        SourceError: The file is no list of tasks, or a task has no number or no image.
        OSError: The store failed.
    """
    shown = redact(url)
    with storage.open(url) as file:
        try:
            for index, task in enumerate(array_items(file, None)):
                place = f"{shown}: task {index}"
                if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
                    raise SourceError(f'{place}: must be an object with "data"')
                if not isinstance(task.get("id"), int):
                    raise SourceError(f'{place}: has no number "id": export the tasks from their project')
                yield _image_of(task, "", place, image_root, "")
        except JsonStreamError as error:
            raise SourceError(f"{shown}: not a list of tasks: {error}") from None


def read_image(url: str, max_bytes: int, on_bytes: Callable[[int], None]) -> tuple[bytes, int | None]:
    """At most `max_bytes + 1` bytes of an image on a server, and the length it announces.

    Args:
        url: Its address, as a listing gave it.
        max_bytes: Of more, one more is read.
        on_bytes: Called with the bytes that are there whenever some come; may raise to end it.

    Raises:
        OSError: FileNotFoundError, PermissionError, or ConnectionError where a second try may help.
    """
    base = "/".join(url.split("/")[:3])
    try:
        with _open(base, url[len(base) :]) as answer:
            data = bytearray()
            while len(data) <= max_bytes and (chunk := answer.read(min(_CHUNK, max_bytes + 1 - len(data)))):
                data += chunk
                on_bytes(len(data))
            return bytes(data), answer.length + len(data) if answer.length else None
    except urllib.error.HTTPError as error:
        error.close()
        text = f"HTTP {error.code} {error.reason}"
        if error.code in (404, 410):
            raise FileNotFoundError(errno.ENOENT, text) from None
        if error.code in (401, 403):
            raise PermissionError(errno.EACCES, text) from None
        raise ConnectionError(text) from None
    except http.client.HTTPException as error:
        raise ConnectionError(describe(error)) from None


def _image_key(config: str) -> str:
    """The key of `data` that the config shows as the image, or `""`."""
    if "<!DOCTYPE" in config or "<!ENTITY" in config:
        return ""
    try:
        images = list(ET.fromstring(config).iter("Image"))  # noqa: S314 - without a document type, nothing to expand
    except ET.ParseError:
        return ""
    values = {image.get("value", "") for image in images}
    return values.pop()[1:] if len(values) == 1 else ""


def _image_of(task: dict[str, Any], key: str, place: str, image_root: str | None, server: str) -> ImageRef:
    data = task["data"]
    candidates = [key] if key else [name for name, value in data.items() if _is_address(value)]
    if "image" in candidates:
        candidates = ["image"]
    if len(candidates) != 1 or not isinstance(data.get(candidates[0]), str):
        keys = ", ".join(map(repr, data))
        raise SourceError(f"{place}: one key of its data must hold the image's address, there are {keys or 'none'}")
    uri = _uri_of(data[candidates[0]], place, image_root, server)
    # In `?d=photos/a.jpg` the path is the query.
    path = uri.partition("?d=")[2] or re.split(r"[?#]", uri)[0]
    name = (unquote(path) if protocol_of(uri) not in ("s3", "gs", "abfs", "file") else uri).rpartition("/")[2]
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SourceError(f"{place}: the name {name!r} is not valid Unicode and cannot be stored") from None
    image_id = f"{task['id']}/{name}"
    return ImageRef(image_id=image_id, uri=uri, file_name=image_id)


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith("/data/") or protocol_of(value) in _STORES)


def _uri_of(address: str, place: str, image_root: str | None, server: str) -> str:
    protocol = protocol_of(address)
    if protocol in _STORES:
        return address.replace("azure-blob://", "abfs://", 1) if protocol == "azure-blob" else address
    if image_root and address.startswith("/data/"):
        below = unquote(address.removeprefix(_LOCAL_FILES if address.startswith(_LOCAL_FILES) else "/data/"))
        if ".." in below.split("/"):
            raise SourceError(f"{place}: {address!r} leads out of the image root")
        return f"{absolute(image_root)}/{below}"
    if address.startswith("/") and server:
        return server + quote(address, safe="/?=&%:+,;@~")
    if address.startswith("/data/"):
        raise SourceError(f"{place}: {address!r} is on the server: say with image-root where its files are")
    raise SourceError(f"{place}: {redact(address)[:200]!r} is not the address of an image")


def _ask(base: str, path: str, shown: str) -> Any:
    try:
        with _open(base, path) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        hint = f" (is {VARIABLE} a token of this server?)" if error.code in (401, 403) else ""
        raise SourceError(f"{shown}: the server answered {error.code} {error.reason}{hint}") from None
    except (OSError, http.client.HTTPException) as error:
        raise SourceError(f"{shown}: the server does not answer: {describe(error)}") from None
    except ValueError:
        raise SourceError(f"{shown}: the server answers, but not as Label Studio does") from None


def _open(base: str, path: str) -> Any:
    protocol, _, host = base.partition("://")
    root = f"{_SCHEMES[protocol]}://{host}"
    request = urllib.request.Request(root + path)  # noqa: S310 - http or https, from the table above
    # Not sent on when the server points elsewhere, as it does for files in a bucket.
    request.add_unredirected_header("Authorization", _authorization(root))
    return urllib.request.build_opener(_Redirects).open(request, timeout=_TIMEOUT_S)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        require_followed(req.full_url, newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _authorization(root: str) -> str:
    token = os.environ.get(VARIABLE, "").strip()
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token):
        raise SourceError(f"{VARIABLE} must hold an access token of the Label Studio server")
    if token.count(".") != 2:
        return f"Token {token}"
    with _LOCK:
        return f"Bearer {_access_token(root, token, int(time.monotonic() // _ACCESS_S))}"


_LOCK = threading.Lock()


@functools.lru_cache(maxsize=8)
def _access_token(root: str, token: str, period: int) -> str:
    """The short-lived token for a personal one; asked for once in a period."""
    body = json.dumps({"refresh": token}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{root}/api/token/refresh/", body, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
        return str(json.load(answer)["access"])
