"""Which images a run is about: directories, globs, single files, lists and COCO files, on any store, as one stream.

    list_images(["s3://bucket/photos", "more/*.jpg", "list.csv"], Storage())

Rules, the same on every store:

- `image_id` is the path below the source root, with forward slashes: below the folder; below the part of a glob before
  its first wildcard; for a single file its name; for an entry of a list what `lists.py` says. Names are never changed.
- In folders and globs a file is an image when its extension says so (`endings.py`, upper or lower case). Others are
  counted, and opened only where they are to be sniffed. A single file and an entry of a list are taken whatever they
  are called.
- Files and folders whose name starts with a dot are left out, unless that part of a glob starts with a dot.
- Sources come in the order given, folders in the order of `walk.py`, lists in their own order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NoReturn
from urllib.parse import unquote

from prelabel.errors import SourceError
from prelabel.image_ref import ImageRef
from prelabel.source.endings import HIDDEN, IMAGE_EXTENSIONS, NO_ENDING, NOT_READ, OTHER, describe_ignored
from prelabel.source.first_bytes import only_pictures
from prelabel.source.glob import ANYTHING, Pattern, split_glob
from prelabel.source.label_studio import is_label_studio, is_task_list, listed_images, project_images
from prelabel.source.lists import LIST_EXTENSIONS, check_text, identity_of, list_entries
from prelabel.source.walk import walk
from prelabel.storage import (
    Storage,
    absolute,
    describe,
    is_http,
    is_known,
    is_local,
    protocol_of,
    redact,
    without_secrets,
)
from prelabel.stores import STORES

__all__ = ["IMAGE_EXTENSIONS", "ImageRef", "OneSource", "SourceSummary", "list_images"]

#: Different extensions told apart in a summary: names of files are not under our control.
_MOST_EXTENSIONS = 200

#: What stands in a summary for the output of the run itself, where that lies in a source; it is not looked into.
THE_OUTPUT = "(the output)"

Kind = Literal["directory", "glob", "file", "list", "coco", "label-studio"]


@dataclass(slots=True)
class OneSource:
    """What one source held; it grows while `list_images` streams.

    Attributes:
        source: Its address, without secrets.
        kind: `directory`, `glob`, `file`, `list`, `coco` or `label-studio`.
        images: Images taken.
        bytes: Their size together, as far as the listing tells sizes (lists do not).
        signed: Those whose address holds a signature or a password, which are not stored.
        by_query: Those told from others by the query of their web address alone; their ids end in its digest.
        ignored: Files left out, by extension (`.txt`, `(no extension)`, `(hidden)`).
    """

    source: str
    kind: Kind
    images: int = 0
    bytes: int = 0
    signed: int = 0
    by_query: int = 0
    ignored: dict[str, int] = field(default_factory=dict)

    def count_query(self) -> None:
        """Count one image that its query tells from another."""
        self.by_query += 1

    def ignore(self, extension: str) -> None:
        """Count one file left out."""
        if extension not in self.ignored and len(self.ignored) >= _MOST_EXTENSIONS:
            extension = OTHER
        self.ignored[extension] = self.ignored.get(extension, 0) + 1


@dataclass(slots=True)
class SourceSummary:
    """What was listed, source by source, in the order given."""

    sources: list[OneSource] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Images of all sources so far."""
        return sum(one.images for one in self.sources)

    @property
    def bytes(self) -> int:
        """Their bytes, as far as known."""
        return sum(one.bytes for one in self.sources)

    @property
    def ignored(self) -> dict[str, int]:
        """Files left out in all sources, by extension."""
        total: Counter[str] = Counter()
        for one in self.sources:
            total.update(one.ignored)
        return dict(total)

    def to_json(self) -> dict[str, Any]:
        """As it stands in `run.json`."""
        return {"images": self.images, "bytes": self.bytes, "sources": [asdict(one) for one in self.sources]}


@dataclass(frozen=True, slots=True)
class _Source:
    url: str
    root: str
    pattern: Pattern
    summary: OneSource


def list_images(
    sources: Sequence[str],
    storage: Storage,
    *,
    image_root: str | None = None,
    summary: SourceSummary | None = None,
    sniff: bool = False,
    output: str | None = None,
    on_file: Callable[[], None] = lambda: None,
) -> Iterator[ImageRef]:
    """The images of all sources, in order, one at a time.

    Every source is looked up before the first image comes, so that a mistyped last one is told at once.

    Args:
        sources: Addresses: directories or prefixes (recursive), globs (`*`, `?`, `[..]`, and `**` for any number of
            folders), single files, lists (`.txt`, `.csv`, `.jsonl`, `.parquet`), COCO datasets (`.json`). What exists
            under exactly the given name is that, even when the name holds a wildcard.
        storage: Where they are.
        image_root: Folder of the relative entries of lists and COCO files; by default the one the file lies in.
        summary: Filled while images come.
        sniff: Look into files in folders and globs whose extension says nothing.
        output: What lies below that address was made of images, and is none.
        on_file: Called for everything that is listed, taken or not, and for each piece of a list that is read; may
            raise to end the listing.

    Raises:
        SourceError: A source is missing, unreadable or holds no image, or an entry of a list is not usable.
        ConfigError: The protocol of an address is unknown or needs an extra.
    """
    if not sources:
        raise SourceError("no source was given: name a folder, a glob, a file or a list of images")
    resolved = [_resolve(source, storage) for source in sources]
    if summary is not None:
        summary.sources.extend(source.summary for source in resolved)
    return _stream(resolved, storage, image_root, sniff, output, on_file)


def _stream(
    sources: Sequence[_Source],
    storage: Storage,
    image_root: str | None,
    sniff: bool,
    output: str | None,
    on_file: Callable[[], None],
) -> Iterator[ImageRef]:
    for source in sources:
        summary = source.summary
        kind = summary.kind
        if kind == "directory" or kind == "glob":
            refs = _found(source, storage, sniff, _inside(source, output), on_file)
        elif kind == "file":
            refs = iter([_single(source.url)])
        elif is_label_studio(source.url):
            refs = project_images(source.url, image_root=image_root)
        elif kind == "label-studio":
            refs = listed_images(source.url, storage, image_root=image_root)
        else:
            refs = list_entries(
                source.url, storage, image_root=image_root, on_query=summary.count_query, on_read=on_file
            )
        try:
            for ref in refs:
                on_file()
                summary.images += 1
                summary.bytes += ref.size or 0
                summary.signed += without_secrets(ref.uri) != ref.uri
                yield ref
        except OSError as error:
            _cannot("list", source.url, error)
        if not summary.images:
            raise SourceError(_nothing(source, sniff))


def _inside(source: _Source, output: str | None) -> str | None:
    """The path of the output below a source's root, or None where it lies elsewhere."""
    if output is None:
        return None
    root, inside = _one_name(source.root), _one_name(absolute(output))
    return inside[len(root) + 1 :] if inside.startswith(f"{root}/") else None


def _one_name(url: str) -> str:
    """An address with one of the names that its store's protocol has."""
    store = STORES.get(protocol_of(url))
    return (f"{store.protocols[0]}{url[url.index('://') :]}" if store else url).rstrip("/")


def _resolve(source: str, storage: Storage) -> _Source:
    if not source:
        raise SourceError("an empty source address")
    if is_label_studio(source):
        return _Source(source, source, ANYTHING, OneSource(redact(source), "label-studio"))
    if not is_known(source):
        raise SourceError(f"{redact(source)}: unknown kind of address {protocol_of(source)}://")
    url = absolute(source)
    shown = redact(source)
    if not is_local(url) and protocol_of(url) != "memory" and re.search(r"[*?\[]", url.split("/")[2]):
        raise SourceError(f"{shown}: the bucket or server must be named without wildcards")
    # On a web server only the slash at the end tells a folder.
    if is_http(source) and source.endswith("/"):
        return _Source(url, url, ANYTHING, OneSource(shown, "directory"))
    try:
        kind = _kind(url, storage)
        if kind is None:
            # A web server has no folders that it would tell of.
            root, pattern = split_glob(url, lambda at: not is_http(at) and storage.kind(at) == "directory")
            if pattern is None:
                raise SourceError(f"{shown}: no such file or folder")
            if not is_http(root) and storage.kind(root) != "directory":
                raise SourceError(f"{shown}: no such folder {redact(root)}")
            return _Source(url, root, pattern, OneSource(shown, "glob"))
    except OSError as error:
        _cannot("look up", source, error)
    if kind == "directory":
        return _Source(url, url, ANYTHING, OneSource(shown, "directory"))
    extension = _extension(identity_of(url))
    if extension == ".json":
        try:
            tasks = is_task_list(url, storage)
        except OSError as error:
            _cannot("read", source, error)
        return _Source(url, url, ANYTHING, OneSource(shown, "label-studio" if tasks else "coco"))
    if extension in LIST_EXTENSIONS:
        return _Source(url, url, ANYTHING, OneSource(shown, "list"))
    return _Source(url, url, ANYTHING, OneSource(shown, "file"))


def _kind(url: str, storage: Storage) -> Literal["file", "directory"] | None:
    try:
        return storage.kind(url)
    except PermissionError:
        # A pattern is no address that a web server would have to know.
        if is_http(url) and split_glob(url, lambda at: False)[1] is not None:
            return None
        raise


def _single(url: str) -> ImageRef:
    name = identity_of(url).rpartition("/")[2]
    name = unquote(name) if is_http(url) else name
    check_text(name, redact(url))
    return ImageRef(image_id=name, uri=url, file_name=name)


def _found(
    source: _Source, storage: Storage, sniff: bool, output: str | None, on_file: Callable[[], None]
) -> Iterator[ImageRef]:
    pattern, summary = source.pattern, source.summary
    unreadable: list[str] = []
    unreadable_count = 0

    def enter(folder: str) -> bool:
        if pattern.enters(folder):
            if folder == output:
                summary.ignore(THE_OUTPUT)
            return folder != output
        if pattern is ANYTHING:
            summary.ignore(HIDDEN)
        return False

    def choose(path: str) -> bool:
        if not pattern.matches(path):
            if pattern is ANYTHING:
                summary.ignore(HIDDEN)
            return False
        extension = _extension(path)
        if extension in IMAGE_EXTENSIONS or (sniff and extension not in NOT_READ):
            return True
        ignore(path)
        return False

    def ignore(path: str) -> None:
        summary.ignore(_extension(path) or NO_ENDING)

    files = walk(source.root, storage, enter=enter, choose=choose, start=pattern.start, on_entry=on_file)
    if sniff:
        files = only_pictures(
            files, storage, is_decided=lambda path: _extension(path) in IMAGE_EXTENSIONS, ignore=ignore
        )
    for found in files:
        if not found.path.isascii() and not _is_text(found.path):
            unreadable_count += 1
            unreadable = unreadable or [found.path]
            continue
        yield ImageRef(found.path, found.uri, found.path, found.size, found.version)
    if unreadable:
        name = unreadable[0].encode(errors="surrogateescape")
        raise SourceError(
            f"{summary.source}: {unreadable_count} image name(s) are not UTF-8 and cannot be stored, the first is "
            f"{name!r}: rename them"
        )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _extension(path: str) -> str:
    """The extension in lower case with its dot, or `""`; one that is too long to be one is `(other)`."""
    name = path.rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    if not dot or not stem:
        return ""
    return "." + extension.lower() if len(extension) <= 10 and extension.isprintable() else OTHER


def _nothing(source: _Source, sniff: bool) -> str:
    summary = source.summary
    what = {
        "directory": f"no image under {summary.source}",
        "glob": f"no image matches {summary.source}",
        "list": f"{summary.source}: the list names no image",
        "coco": f'{summary.source}: "images" is empty',
        "label-studio": f"{summary.source}: there is no task",
    }[summary.kind]
    total = sum(summary.ignored.values())
    if not total:
        return what
    return f"{what} ({total:,} file{'s' * (total != 1)} ignored: {describe_ignored(summary.ignored, sniff)})"


def _cannot(what: str, url: str, error: OSError) -> NoReturn:
    if isinstance(error, PermissionError):
        raise SourceError(f"{redact(url)}: no permission to {what} it ({describe(error)})") from error
    raise SourceError(f"cannot {what} {redact(url)}: {describe(error)}") from error
