"""Listing the images of a run: folders, globs, single files, lists and COCO files, on any storage, as one stream.

    list_images(["s3://bucket/photos", "more/*.jpg", "list.csv"], Storage())

The rules are the same on all storage:

- `image_id` is the path below the source root, with forward slashes. The root is the folder, or the part of a glob
  before its first wildcard. A single file's `image_id` is its name; for list entries see `lists.py`. Names are never
  changed.
- In folders and globs, a file is an image if its extension says so (`formats.py`, upper or lower case). Other files are
  counted, and opened only with `--sniff`. A single file and a list entry are used whatever their names.
- An archive stands for the images in it (`archives/`): a single file, a list entry, or one matched by a glob that names
  the extension of archives (`*.tar`). In folders and other globs, archives are ignored and counted like other files.
- Files and folders whose names start with a dot are skipped, unless that part of a glob starts with a dot.
- Sources keep the given order, folders are in the order of `walk.py`, and lists keep their own order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NoReturn
from urllib.parse import unquote

from prelabel.errors import FetchError, SourceError, first_of
from prelabel.image_ref import ImageRef
from prelabel.source.archives import kind_of, names_archives, without_shard
from prelabel.source.archives.listing import with_members
from prelabel.source.archives.parquet import image_columns, read_schema
from prelabel.source.archives.ranges import open_ranges
from prelabel.source.braces import expand, has_braces
from prelabel.source.formats import (
    HIDDEN,
    IMAGE_EXTENSIONS,
    NO_EXTENSION,
    NOT_READ,
    OTHER,
    describe_ignored,
    extension_of,
)
from prelabel.source.label_studio import is_label_studio, is_task_list, project_images, task_file_images
from prelabel.source.lists import LIST_EXTENSIONS, list_entries, path_of_url, require_unicode
from prelabel.source.sniff import only_images
from prelabel.source.walk import ANYTHING, Pattern, split_glob, walk
from prelabel.storage.address import Address, describe, is_http, redact, without_secrets
from prelabel.storage.files import STORES, Storage, is_known_protocol

#: Most extensions counted separately in a summary. Sources may hold any number of extensions.
_MOST_EXTENSIONS = 200

#: Summary key for the run's own output, which is skipped if it lies in a source.
THE_OUTPUT = "(the output)"

Kind = Literal["directory", "glob", "file", "archive", "list", "coco", "label-studio"]

#: Most archives whose damage is described in a summary; all are counted.
_MOST_DAMAGE = 20


@dataclass(slots=True)
class ListedSource:
    """Counts of what one source contains, updated while `list_images` streams.

    Attributes:
        source: Its address, without secrets.
        kind: `directory`, `glob`, `file`, `archive`, `list`, `coco` or `label-studio`.
        images: Number of images.
        bytes: Total size of the images in bytes, as far as the listing reports sizes (lists do not).
        signed: Number of images whose address holds a signature or a password. Those secrets are not stored.
        by_query: Number of images that differ from another only by the query of their URL. Their ids end in a digest
            of the query.
        ignored: Number of ignored files by extension, or by another key (`.txt`, `(no extension)`, `(hidden)`).
        archives: Number of archives whose images were listed.
        damaged: Number of archives that could not be listed to their end.
        damage: What is wrong with the first of them, one line each.
    """

    source: str
    kind: Kind
    images: int = 0
    bytes: int = 0
    signed: int = 0
    by_query: int = 0
    ignored: dict[str, int] = field(default_factory=dict)
    archives: int = 0
    damaged: int = 0
    damage: list[str] = field(default_factory=list)

    def count_query(self) -> None:
        """Count an image that differs from another only by its query."""
        self.by_query += 1

    def ignore(self, extension: str, count: int = 1) -> None:
        """Count ignored files."""
        if extension not in self.ignored and len(self.ignored) >= _MOST_EXTENSIONS:
            extension = OTHER
        self.ignored[extension] = self.ignored.get(extension, 0) + count

    def count_archive(self, damage: str = "") -> None:
        """Count an archive, and what is wrong with it."""
        self.archives += 1
        if damage:
            self.damaged += 1
            if len(self.damage) < _MOST_DAMAGE:
                self.damage.append(damage)


@dataclass(slots=True)
class SourceSummary:
    """Counts of all sources, in the given order."""

    sources: list[ListedSource] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Number of images in all sources so far."""
        return sum(source.images for source in self.sources)

    @property
    def bytes(self) -> int:
        """Total size of the images in bytes, as far as known."""
        return sum(source.bytes for source in self.sources)

    @property
    def damaged(self) -> int:
        """Number of archives in all sources that could not be listed to their end."""
        return sum(source.damaged for source in self.sources)

    @property
    def damage(self) -> list[str]:
        """What is wrong with the first of them, one line each."""
        return [damage for source in self.sources for damage in source.damage]

    @property
    def ignored(self) -> dict[str, int]:
        """Number of ignored files in all sources, by extension."""
        total: Counter[str] = Counter()
        for source in self.sources:
            total.update(source.ignored)
        return dict(total)

    def to_json(self) -> dict[str, Any]:
        """The summary as stored in `run.json`."""
        return {"images": self.images, "bytes": self.bytes, "sources": [asdict(source) for source in self.sources]}


@dataclass(frozen=True, slots=True)
class _Source:
    address: Address
    root: Address
    pattern: Pattern
    summary: ListedSource
    names: Iterable[str] = ()  # addresses that stand for the source, instead of a pattern


def list_images(
    sources: Sequence[str],
    storage: Storage,
    *,
    image_root: str | None = None,
    summary: SourceSummary | None = None,
    sniff: bool = False,
    image_column: str | None = None,
    output: Address | None = None,
    on_file: Callable[[], None] = lambda: None,
) -> Iterator[ImageRef]:
    """List the images of all sources as a stream.

    Every source is checked before the first image is yielded, so a mistyped last source fails immediately.

    Args:
        sources: Paths or URLs: folders or prefixes (recursive), globs (`*`, `?`, `[..]`, and `**` for any number of
            folders), names with braces (`{000..999}`, `{a,b}`), single files, archives, lists (`.txt`, `.csv`,
            `.jsonl`, `.parquet`), COCO datasets (`.json`), Label Studio projects and task files. A name that exists
            literally is used as it is, even if it contains wildcards or braces.
        storage: Opens the sources.
        image_root: Folder of relative entries in lists and COCO files; by default the folder of the file.
        summary: Updated while images are yielded.
        sniff: Identify files with unknown extensions in folders and globs by their first bytes.
        image_column: The column with the bytes of images in Parquet files, or `uri` for one with their addresses; by
            default the only such column.
        output: The run's own output; everything below it is skipped.
        on_file: Called for every listed file, used or not, and for each piece of a list that is read. May raise to
            stop the listing.

    Returns:
        The images as a stream, in the order of the sources.

    Raises:
        SourceError: A source is missing, unreadable or has no image, or a list entry is invalid.
        ConfigError: The protocol of an address is unknown or needs an extra.
    """
    if not sources:
        raise SourceError("no source given: name a folder, a glob, a file or a list of images")
    resolved = [part for source in sources for part in _resolve_braces(source, storage, image_column)]
    if summary is not None:
        summary.sources.extend(source.summary for source in resolved)
    root = Address.of_folder(image_root) if image_root else None
    return _stream(resolved, storage, root, sniff, image_column, output, on_file)


def _stream(
    sources: Sequence[_Source],
    storage: Storage,
    image_root: Address | None,
    sniff: bool,
    image_column: str | None,
    output: Address | None,
    on_file: Callable[[], None],
) -> Iterator[ImageRef]:
    for source in sources:
        summary = source.summary
        kind = summary.kind
        if source.names or kind in ("directory", "glob", "file", "archive"):
            refs = _files(source, storage, sniff, output, on_file)
        elif is_label_studio(source.address.url):
            refs = project_images(source.address.url, image_root=image_root)
        elif kind == "label-studio":
            refs = task_file_images(source.address, storage, image_root=image_root)
        else:
            refs = list_entries(
                source.address, storage, image_root=image_root, on_query=summary.count_query, on_read=on_file
            )
        if kind not in ("file", "directory"):
            refs = with_members(refs, storage, lambda ref: kind_of(ref.file_name), summary, on_file, image_column)
        try:
            for ref in refs:
                on_file()
                summary.images += 1
                summary.bytes += ref.size or 0
                summary.signed += without_secrets(ref.uri) != ref.uri
                yield ref
        except OSError as error:
            _raise_source_error("list", str(source.address), error)
        if not summary.images:
            raise SourceError(_no_images_message(source, sniff))


def _files(
    source: _Source, storage: Storage, sniff: bool, output: Address | None, on_file: Callable[[], None]
) -> Iterator[ImageRef]:
    """The files of a folder, a glob, a name with braces or a single name; archives are not opened."""
    if source.names:
        return _named_files(source)
    if source.summary.kind in ("directory", "glob"):
        return _walk_images(source, storage, sniff, _path_of_output(source, output), on_file)
    return iter([_single_image(source.address)])


def list_archives(source: str, storage: Storage) -> list[ImageRef]:
    """The files that a name, a glob or a name with braces stands for, unopened; a glob must name archives.

    Raises:
        SourceError: There is none, or storage failed.
        ConfigError: The protocol of an address is unknown or needs an extra.
    """
    archives: list[ImageRef] = []
    for part in _resolve_braces(source, storage, None):
        try:
            archives += _files(part, storage, False, None, lambda: None)
        except OSError as error:
            _raise_source_error("list", str(part.address), error)
    if not archives:
        raise SourceError(f"no file matches {redact(source)}: check the pattern and its quotes")
    return archives


def _path_of_output(source: _Source, output: Address | None) -> str | None:
    """The path of the output below a source's root, or None if it lies elsewhere."""
    if output is None:
        return None
    root_url, output_url = _canonical_url(source.root), _canonical_url(output)
    return output_url[len(root_url) + 1 :] if output_url.startswith(f"{root_url}/") else None


def _canonical_url(address: Address) -> str:
    """The URL of an address without a trailing slash, with the first of its store's protocol names."""
    store, url = STORES.get(address.protocol), address.url
    return (f"{store.protocols[0]}{url[url.index('://') :]}" if store else url).rstrip("/")


def _resolve_braces(source: str, storage: Storage, image_column: str | None) -> list[_Source]:
    """Resolve a source; braces in it stand for several addresses, unless a file or folder has this name literally."""
    if not has_braces(source) or is_label_studio(source):
        return [_resolve(source, storage, image_column)]
    name, address = redact(source), Address.of_folder(source)
    _require_one_bucket(name, address)
    try:
        if not is_known_protocol(address.protocol) or _kind(address, storage) is not None:
            return [_resolve(source, storage, image_column)]
        text, pattern = split_glob(address, lambda text: False)
        is_literal = pattern is not None and not has_braces(pattern.name) and not address.is_http
        if is_literal and storage.kind(text) == "directory":
            return [_resolve(source, storage, image_column)]
    except OSError as error:
        _raise_source_error("look up", name, error)
    if pattern is not None:
        return [_resolve(part, storage, image_column) for part in expand(source)]
    # The folder in front of the first braces: the names below it are the ids, as for a glob.
    root = Address.of(address.url.partition("{")[0].rpartition("/")[0] or "/")
    names = [Address.of(part).url for part in expand(address.url)]
    return [_Source(address, root, ANYTHING, ListedSource(name, "glob"), names)]


def _named_files(source: _Source) -> Iterator[ImageRef]:
    root = source.root.url.rstrip("/")
    for url in source.names:
        path = path_of_url(url)[len(path_of_url(root)) :].lstrip("/")
        path = unquote(path) if source.root.is_http else path
        require_unicode(path, source.summary.source)
        yield ImageRef(path, url, path)


def _require_one_bucket(name: str, address: Address) -> None:
    """Raise SourceError if wildcards or braces stand in the name of the bucket or server."""
    if not (address.is_local or address.protocol == "memory") and re.search(r"[*?\[{]", address.bucket):
        raise SourceError(
            f"{name}: the name of the bucket or server must not contain wildcards or braces: give each one as a source"
        )


def _resolve(source: str, storage: Storage, image_column: str | None) -> _Source:
    if not source:
        raise SourceError("a source is empty: name a folder, a glob, a file or a list of images")
    source_name, address = redact(source), Address.of_folder(source)
    if is_label_studio(source):
        return _Source(Address.of(source), address, ANYTHING, ListedSource(source_name, "label-studio"))
    if not is_known_protocol(address.protocol):
        raise SourceError(f"{source_name}: unknown protocol {address.protocol}://")
    _require_one_bucket(source_name, address)
    # On a web server, only a trailing slash marks a folder.
    if address.is_http and source.endswith("/"):
        return _Source(address, address, ANYTHING, ListedSource(source_name, "directory"))
    try:
        kind = _kind(address, storage)
        if kind is None:
            # A web server does not report folders.
            text, pattern = split_glob(address, lambda text: not address.is_http and storage.kind(text) == "directory")
            if pattern is None:
                raise SourceError(f"source {source_name}: no such file or folder")
            root = Address.of(text)
            if not root.is_http and storage.kind(root) != "directory":
                raise SourceError(f"{source_name}: no such folder: {root}")
            return _Source(address, root, pattern, ListedSource(source_name, "glob"))
    except OSError as error:
        _raise_source_error("look up", source_name, error)
    if kind == "directory":
        return _Source(address, address, ANYTHING, ListedSource(source_name, "directory"))
    extension = extension_of(path_of_url(address.url))
    if extension == ".json":
        try:
            tasks = is_task_list(address, storage)
        except OSError as error:
            _raise_source_error("read", source_name, error)
        return _Source(address, address, ANYTHING, ListedSource(source_name, "label-studio" if tasks else "coco"))
    if extension == ".parquet" and _holds_images(address, storage, image_column):
        return _Source(address, address, ANYTHING, ListedSource(source_name, "archive"))
    kind_of_file: Kind = "list" if extension in LIST_EXTENSIONS else "archive" if kind_of(address.url) else "file"
    return _Source(address, address, ANYTHING, ListedSource(source_name, kind_of_file))


def _holds_images(address: Address, storage: Storage, image_column: str | None) -> bool:
    """Whether a Parquet file holds the bytes of images, or is a list of their addresses.

    Raises:
        SourceError: It may be either, or it cannot be read.
    """
    try:
        with open_ranges(address, storage, None) as file:
            schema = read_schema(file)
    except FetchError:
        return False  # reported where the list is read
    except OSError as error:
        _raise_source_error("read", str(address), error)
    columns = image_columns(schema)
    if image_column is None and "uri" in schema.names and columns:
        raise SourceError(
            f"{address}: is it a list of addresses (column uri) or does it hold images (column "
            f"{first_of(columns, 5)})? Name the column with --image-column"
        )
    return image_column != "uri" if image_column is not None else "uri" not in schema.names and bool(columns)


def _kind(address: Address, storage: Storage) -> Literal["file", "directory"] | None:
    try:
        return storage.kind(address)
    except PermissionError:
        # A web server may answer "forbidden" for the literal name of a glob, or for braces.
        is_pattern = split_glob(address, lambda text: False)[1] is not None or has_braces(address.url)
        if address.is_http and is_pattern:
            return None
        raise


def _single_image(address: Address) -> ImageRef:
    name = path_of_url(address.url).rpartition("/")[2]
    name = unquote(name) if address.is_http else name
    require_unicode(name, str(address))
    return ImageRef(image_id=name, uri=address.url, file_name=name)


def _walk_images(
    source: _Source, storage: Storage, sniff: bool, output: str | None, on_file: Callable[[], None]
) -> Iterator[ImageRef]:
    pattern, summary = source.pattern, source.summary
    first_undecodable, undecodable = "", 0
    opens_archives = names_archives(pattern.name)

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
        extension = extension_of(path)
        if extension in IMAGE_EXTENSIONS or (opens_archives and kind_of(path) is not None):
            return True
        if sniff and extension not in NOT_READ and kind_of(path) is None:
            return True
        ignore(path)
        return False

    def is_decided(path: str) -> bool:
        return extension_of(path) in IMAGE_EXTENSIONS or kind_of(path) is not None

    def ignore(path: str) -> None:
        summary.ignore(extension_of(without_shard(path)) or NO_EXTENSION)

    files = walk(source.root, storage, enter=enter, choose=choose, start=pattern.start, on_entry=on_file)
    if sniff:
        files = only_images(files, storage, is_decided=is_decided, ignore=ignore)
    for ref in files:
        try:
            ref.image_id.encode()
        except UnicodeEncodeError:
            undecodable += 1
            first_undecodable = first_undecodable or ref.image_id
            continue
        yield ref
    if undecodable:
        name = first_undecodable.encode(errors="surrogateescape")
        raise SourceError(
            f"{summary.source}: {undecodable:,} image names are not valid UTF-8 and cannot be stored, the first is "
            f"{name!r}: rename the files"
        )


def _no_images_message(source: _Source, sniff: bool) -> str:
    summary = source.summary
    message = {
        "directory": f"no images in {summary.source}",
        "glob": f"no image matches {summary.source}",
        "archive": f"no images in {summary.source}",
        "list": f"{summary.source}: the list is empty",
        "coco": f'{summary.source}: "images" is empty',
        "label-studio": f"{summary.source}: there are no tasks",
    }[summary.kind]
    if summary.damage:
        return f"{message}: {summary.damage[0]}"
    total = sum(summary.ignored.values())
    if not total:
        way_out = {
            "directory": ": name a folder that holds images",
            "glob": ": check the pattern and its quotes",
        }
        return message + way_out.get(summary.kind, "")
    return f"{message} ({total:,} file{'s' * (total != 1)} ignored: {describe_ignored(summary.ignored, sniff)})"


def _raise_source_error(action: str, source_name: str, error: OSError) -> NoReturn:
    if isinstance(error, PermissionError):
        raise SourceError(f"no permission to {action} {source_name} ({describe(error)})") from error
    hint = "; check the URL and the network" if is_http(source_name) else ""
    raise SourceError(f"cannot {action} {source_name}: {describe(error)}{hint}") from error
