"""All files below a folder or prefix, in one order on every kind of store, without holding them all.

The order is that of the addresses' UTF-8 bytes, which is how S3 and GCS list: `a-b.jpg`, `a.jpg`, `a/x.jpg`,
`ab.jpg`. A copy of a bucket on a disk is therefore listed, and planned, as the bucket is. Azure's own order is taken as
it comes: with a hierarchical namespace, folder by folder.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from prelabel.source.versions import version_of, version_on_disk
from prelabel.storage import Storage, absolute, is_http, is_local, patiently
from prelabel.stores.base import ObjectStore, Page, StoredObject

Choose = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class FoundFile:
    """One file: its path below the walked folder, full address, bytes, and what identifies its version (or None)."""

    path: str
    uri: str
    size: int | None
    version: str | None


def walk(
    root: str,
    storage: Storage,
    *,
    enter: Choose,
    choose: Choose,
    start: str = "",
    on_entry: Callable[[], None] = lambda: None,
) -> Iterator[FoundFile]:
    """The files below `root` in the order of their addresses' bytes.

    S3, GCS and Azure are held a page at a time (the next page is asked for meanwhile), a disk and any other store a
    folder at a time. On a disk links are followed, except to a folder that the walk is inside of.

    Args:
        root: Folder or prefix.
        storage: Where it is.
        enter: Called once with the path of each folder below `root`; False leaves it out.
        choose: Called with the path of each file before it is looked at; False leaves it out.
        start: How the paths of interest start, where that is known; it only saves requests.
        on_entry: Called for everything that is listed, whatever becomes of it; may raise to end the walk.

    Raises:
        OSError: A folder cannot be listed. Nothing is skipped in silence.
    """
    if is_local(root):
        return _walk_disk(absolute(root), enter, choose, on_entry)
    if (store := storage.store(root)) is not None:
        return _walk_pages(root, storage, store, enter, choose, start, on_entry)
    return _walk_folders(root, storage, enter, choose, on_entry)


def _walk_disk(root: str, enter: Choose, choose: Choose, on_entry: Callable[[], None]) -> Iterator[FoundFile]:
    base = root.rstrip("/")
    # One entry per folder the walk is inside of: its sorted names still to come, its path, its identity.
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
                found = os.stat(full)  # noqa: PTH116 - a Path for each of millions of files is slow
            except FileNotFoundError:
                # A link to nothing stays in the list, to fail with its name; a file deleted just now does not.
                if os.path.islink(full):  # noqa: PTH114
                    yield FoundFile(path, full, None, None)
                continue
            if stat.S_ISREG(found.st_mode):
                yield FoundFile(path, full, found.st_size, version_on_disk(found))


def _names_on_disk(folder: str, on_entry: Callable[[], None]) -> list[bytes]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            on_entry()
            # A slash after a folder's name sorts it where the files in it belong.
            names.append(entry.name.encode(errors="surrogateescape") + (b"/" if entry.is_dir() else b""))
    return sorted(names)


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)  # noqa: PTH116
    return found.st_dev, found.st_ino


def _walk_folders(
    root: str, storage: Storage, enter: Choose, choose: Choose, on_entry: Callable[[], None]
) -> Iterator[FoundFile]:
    fs, top = storage.filesystem(root)
    top = top.rstrip("/")
    # The paths of web servers come percent-encoded; a name is the same name wherever its file lies.
    plain = unquote if is_http(root) else str
    stack = [iter(_entries(fs, top))]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        on_entry()
        below = entry["name"][len(top) + 1 :]
        path = plain(below)
        if below.endswith("/"):
            if enter(path[:-1]):
                stack.append(iter(_entries(fs, entry["name"][:-1])))
        elif choose(path):
            size = entry.get("size")
            uri = f"{root.rstrip('/')}/{below}"
            yield FoundFile(path, uri, None if size is None else int(size), version_of(entry))


def _entries(fs: Any, folder: str) -> list[dict[str, Any]]:
    """What lies directly in a folder, in order; names of folders end with a slash."""
    page = is_http(folder)
    listed = patiently(lambda: fs.ls(folder + "/" if page else folder, detail=True))
    entries = []
    for entry in listed:
        name = entry["name"].rstrip("/")
        below = name[len(folder) + 1 :]
        # A web page links to anything; only what is directly below counts, and not the same page sorted otherwise.
        if not below or "/" in below or not name.startswith(folder + "/") or (page and ("?" in below or "#" in below)):
            continue
        entries.append({**entry, "name": name + "/" if entry["type"] == "directory" else name})
    return sorted(entries, key=lambda entry: str(entry["name"]).encode())


def _walk_pages(
    root: str,
    storage: Storage,
    store: ObjectStore,
    enter: Choose,
    choose: Choose,
    start: str,
    on_entry: Callable[[], None],
) -> Iterator[FoundFile]:
    fs, top = storage.filesystem(root)
    bucket, _, prefix = top.rstrip("/").partition("/")
    prefix = f"{prefix}/" if prefix else ""
    base = root.rstrip("/")
    folder, inside, refused = "", True, None
    for entry in _paged(store, fs, bucket, prefix + start):
        on_entry()
        path = entry.key[len(prefix) :]
        if not path or path.endswith("/"):  # a marker object that makes an empty folder visible
            continue
        if refused is not None and path.startswith(refused):
            continue
        here = path.rpartition("/")[0]
        if here != folder:
            folder, refused = here, _first_refused(here, folder, enter)
            inside = refused is None
        if inside and choose(path):
            yield FoundFile(path, f"{base}/{path}", entry.size, entry.version)


def _first_refused(folder: str, previous: str, enter: Choose) -> str | None:
    """The outermost folder on the way that must not be entered, with a slash; those entered before are not asked."""
    parts = folder.split("/") if folder else []
    for depth in range(1, len(parts) + 1):
        ancestor = "/".join(parts[:depth])
        if not f"{previous}/".startswith(f"{ancestor}/") and not enter(ancestor):
            return f"{ancestor}/"
    return None


def _paged(store: ObjectStore, fs: Any, bucket: str, prefix: str) -> Iterator[StoredObject]:
    """The objects of a bucket page by page. The next page is on its way while the last one is worked on."""
    token: str | None = None

    def ask() -> Any:
        return asyncio.run_coroutine_threadsafe(store.page(fs, bucket, prefix, token), fs.loop)

    pending = ask()

    def receive() -> Page:
        # Asked for anew where it did not come: a listing of hours goes on from where it broke off.
        nonlocal pending
        asked, pending = pending or ask(), None
        page: Page = asked.result()
        return page

    try:
        while True:
            page = patiently(receive)
            token = page.token
            if token is not None:
                pending = ask()
            yield from page.objects
            if token is None:
                return
    finally:
        if pending is not None:
            pending.cancel()
