"""Walking all files below a folder or prefix, in the same order on all storage, without holding them all in memory.

The order is that of the addresses' UTF-8 bytes, as in listings of S3 and GCS: `a-b.jpg`, `a.jpg`, `a/x.jpg`, `ab.jpg`.
A copy of a bucket on disk is therefore listed, and planned, in the same order as the bucket. Azure's own order is kept:
with a hierarchical namespace, it lists folder by folder.

A glob selects files. `Pattern` matches it part by part as folders are entered, so the walk skips folders in which
nothing can match. `*`, `?` and `[..]` match within one part of a path, `**` matches any number of folders.
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from prelabel.image_ref import ImageRef
from prelabel.source.file_checks import version_of, version_on_disk
from prelabel.storage.address import Address, is_http
from prelabel.storage.base import ObjectStore, Page, StoredObject
from prelabel.storage.files import Storage
from prelabel.storage.retries import retry_patiently

PathFilter = Callable[[str], bool]


def walk(
    root: Address,
    storage: Storage,
    *,
    enter: PathFilter,
    choose: PathFilter,
    start: str = "",
    on_entry: Callable[[], None] = lambda: None,
) -> Iterator[ImageRef]:
    """Yield the files below `root`, in the order of their addresses' bytes.

    S3, GCS and Azure are listed page by page (the next page is requested meanwhile), disks and other storage folder by
    folder. On a disk, links are followed, except to a folder that contains them.

    Args:
        root: Folder or prefix.
        storage: Opens the root.
        enter: Called once with the path of each folder below `root`; returns False to skip it.
        choose: Called with the path of each file before it is opened; returns False to skip the file.
        start: Common start of the paths to list, if known. It only saves requests.
        on_entry: Called for every listed file and folder, skipped or not. May raise to stop the walk.

    Raises:
        OSError: A folder cannot be listed. Nothing is skipped silently.
    """
    if root.is_local:
        return _walk_disk(root.url, enter, choose, on_entry)
    if (store := storage.store(root)) is not None:
        return _walk_pages(root, storage, store, enter, choose, start, on_entry)
    return _walk_folders(root, storage, enter, choose, on_entry)


def _walk_disk(root: str, enter: PathFilter, choose: PathFilter, on_entry: Callable[[], None]) -> Iterator[ImageRef]:
    base = root.rstrip("/")
    # One entry per open folder: its remaining names in order, its path, its identity.
    stack = [(iter(_names_on_disk(root, on_entry)), "", _identity(root))]
    while stack:
        names, prefix, _ = stack[-1]
        key = next(names, None)
        if key is None:
            stack.pop()
            continue
        on_entry()
        path = prefix + key.decode(errors="surrogateescape")
        full = f"{base}/{path}"
        if key.endswith(b"/"):
            if not enter(path[:-1]):
                continue
            identity = _identity(full)
            if all(identity != ancestor for _, _, ancestor in stack):
                stack.append((iter(_names_on_disk(full, on_entry)), path, identity))
        elif choose(path):
            try:
                status = os.stat(full)  # noqa: PTH116 - creating millions of Path objects is slow
            except FileNotFoundError:
                # A dangling link is listed, so that it becomes a failed row; a file deleted just now is not.
                if os.path.islink(full):  # noqa: PTH114
                    yield ImageRef(path, full, path)
                continue
            if stat.S_ISREG(status.st_mode):
                yield ImageRef(path, full, path, status.st_size, version_on_disk(status))


def _names_on_disk(folder: str, on_entry: Callable[[], None]) -> list[bytes]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            on_entry()
            # A slash after a folder's name sorts it where its files belong.
            names.append(entry.name.encode(errors="surrogateescape") + (b"/" if entry.is_dir() else b""))
    return sorted(names)


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116
    return status.st_dev, status.st_ino


def _walk_folders(
    root: Address, storage: Storage, enter: PathFilter, choose: PathFilter, on_entry: Callable[[], None]
) -> Iterator[ImageRef]:
    fs, top = storage.filesystem(root)
    top = top.rstrip("/")
    # Paths on web servers are percent-encoded; image ids are not, so they are the same on all storage.
    decode = unquote if root.is_http else str
    stack = [iter(_entries(fs, top))]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        on_entry()
        below = entry["name"][len(top) + 1 :]
        path = decode(below)
        if below.endswith("/"):
            if enter(path[:-1]):
                stack.append(iter(_entries(fs, entry["name"][:-1])))
        elif choose(path):
            size = entry.get("size")
            uri = f"{root.url.rstrip('/')}/{below}"
            yield ImageRef(path, uri, path, None if size is None else int(size), version_of(entry))


def _entries(fs: Any, folder: str) -> list[dict[str, Any]]:
    """The entries directly in a folder, sorted; names of folders end with a slash."""
    is_web_page = is_http(folder)
    listed = retry_patiently(lambda: fs.ls(folder + "/" if is_web_page else folder, detail=True))
    entries = []
    for entry in listed:
        name = entry["name"].rstrip("/")
        below = name[len(folder) + 1 :]
        # A web page may link to anything. Only direct children are used, not the same page sorted differently (`?C=N`).
        if not below or "/" in below or not name.startswith(folder + "/"):
            continue
        if is_web_page and ("?" in below or "#" in below):
            continue
        entries.append({**entry, "name": name + "/" if entry["type"] == "directory" else name})
    return sorted(entries, key=lambda entry: str(entry["name"]).encode())


def _walk_pages(
    root: Address,
    storage: Storage,
    store: ObjectStore,
    enter: PathFilter,
    choose: PathFilter,
    start: str,
    on_entry: Callable[[], None],
) -> Iterator[ImageRef]:
    fs, top = storage.filesystem(root)
    bucket, _, prefix = top.rstrip("/").partition("/")
    prefix = f"{prefix}/" if prefix else ""
    base = root.url.rstrip("/")
    folder, is_entered, skipped = "", True, None
    for entry in _paged(store, fs, bucket, prefix + start):
        on_entry()
        path = entry.key[len(prefix) :]
        if not path or path.endswith("/"):  # a marker object that stands for an empty folder
            continue
        if skipped is not None and path.startswith(skipped):
            continue
        parent = path.rpartition("/")[0]
        if parent != folder:
            folder, skipped = parent, _first_skipped(parent, folder, enter)
            is_entered = skipped is None
        if is_entered and choose(path):
            yield ImageRef(path, f"{base}/{path}", path, entry.size, entry.version)


def _first_skipped(folder: str, previous: str, enter: PathFilter) -> str | None:
    """The outermost ancestor of `folder` that `enter` refuses, with a slash, or None.

    Ancestors of the previous folder have been entered, so `enter` is not called for them again.
    """
    parts = folder.split("/") if folder else []
    for depth in range(1, len(parts) + 1):
        ancestor = "/".join(parts[:depth])
        if not f"{previous}/".startswith(f"{ancestor}/") and not enter(ancestor):
            return f"{ancestor}/"
    return None


def _paged(store: ObjectStore, fs: Any, bucket: str, prefix: str) -> Iterator[StoredObject]:
    """Yield the objects of a bucket. The next page is requested while the current one is processed."""
    token: str | None = None

    def request() -> Any:
        return asyncio.run_coroutine_threadsafe(store.page(fs, bucket, prefix, token), fs.loop)

    pending = request()

    def receive() -> Page:
        # A failed page is requested again, so that a listing of hours resumes where it stopped.
        nonlocal pending
        future, pending = pending or request(), None
        page: Page = future.result()
        return page

    try:
        while True:
            page = retry_patiently(receive)
            token = page.token
            if token is not None:
                pending = request()
            yield from page.objects
            if token is None:
                return
    finally:
        if pending is not None:
            pending.cancel()


# --- globs ------------------------------------------------------------------------------------------------------------

_WILD = re.compile(r"[*?\[]")
# In a URL, a question mark starts the query.
_WILD_ON_THE_WEB = re.compile(r"[*\[]")


class Pattern:
    """A glob below a root.

    `Pattern(["a*", "**", "*.jpg"])` matches `ab/x.jpg` and `a/b/c/x.jpg`, but not `x.jpg`. As in a shell, a part of a
    path that starts with a dot is matched only by a part of the pattern that does so too.
    """

    def __init__(self, parts: list[str]) -> None:
        self._parts = parts
        self._match = [re.compile(fnmatch.translate(part)).match for part in parts]
        # The last folder and its states are cached: files of one folder follow each other.
        self._folder = ""
        self._states = self._first = self._skip({0})
        #: The part that matches names of files.
        self.name = parts[-1]
        literal = _WILD.split(parts[0], maxsplit=1)[0]
        #: Common start of all matching paths.
        self.start = literal if parts[0] != "**" else ""

    def _skip(self, states: set[int]) -> frozenset[int]:
        # `**` also matches no folder.
        for state in range(len(self._parts)):
            if state in states and self._parts[state] == "**":
                states.add(state + 1)
        return frozenset(states)

    def _step(self, states: frozenset[int], name: str) -> frozenset[int]:
        hidden = name.startswith(".")
        after: set[int] = set()
        for state in states:
            if state == len(self._parts):
                continue
            part = self._parts[state]
            if hidden and not part.startswith("."):
                continue
            if part == "**":
                after.add(state)
            elif self._match[state](name):
                after.add(state + 1)
        return self._skip(after)

    def _within(self, folder: str) -> frozenset[int]:
        if folder != self._folder:
            states = self._first
            for name in folder.split("/") if folder else ():
                states = self._step(states, name)
            self._folder, self._states = folder, states
        return self._states

    def enters(self, folder: str) -> bool:
        """Whether a path below this folder can match."""
        return any(state < len(self._parts) for state in self._within(folder))

    def matches(self, path: str) -> bool:
        """Whether the file path matches."""
        folder, _, name = path.rpartition("/")
        return len(self._parts) in self._step(self._within(folder), name)


#: Every file in every folder that is not hidden.
ANYTHING = Pattern(["**"])


def split_glob(address: Address, is_folder: Callable[[str], bool]) -> tuple[str, Pattern | None]:
    """Split a glob into its root and the pattern below it.

    A part of the address that exists literally as a folder is not a wildcard, so `photos [2020]/*.jpg` works.

    Args:
        address: The glob.
        is_folder: Whether the text of an address is an existing folder.

    Returns:
        The text of the root, and the pattern, or None for an address without wildcards.
    """
    url, wild = address.url, _WILD_ON_THE_WEB if address.is_http else _WILD
    start = 0 if address.is_local else url.find("://") + 3
    head, parts = url[:start], url[start:].split("/")
    for index, part in enumerate(parts):
        if not wild.search(part):
            continue
        before = head + "/".join(parts[:index])
        literal = f"{head}{'/'.join(parts[: index + 1])}"
        if index + 1 < len(parts) and index and is_folder(literal):
            continue
        return before or "/", Pattern(parts[index:])
    return url, None
