"""Bring a model to this machine, from wherever its address points.

    openimages-ssd-mobilenet-v2                   a name from the catalog
    https://tfhub.dev/...  https://kaggle.com/... a page of a model hub (any web server that answers
                                                  `?tf-hub-format=compressed` with an archive)
    https://example.org/models/mine.tar.gz        an archive on any web server
    models/mine  models/mine.tar.gz               a folder or an archive on this machine
    s3://bucket/models/mine                       a prefix or an archive in object storage

A local folder is used in place. Everything else is cached, and needs no network afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from prelabel.class_rules import nearest_name
from prelabel.detectors.models import hubs
from prelabel.detectors.models.cache import (
    COUNTED_FILES,
    cache_root,
    cached_or_fetched,
    fingerprint_of,
    folder_name,
    model_files,
)
from prelabel.detectors.models.catalog import CATALOG, CatalogEntry, lookup
from prelabel.detectors.models.publish import MODEL_FOLDERS, NOTE, noted_name
from prelabel.errors import ConfigError, DetectorError
from prelabel.storage.address import absolute, describe, is_http, is_local, join, redact, without_secrets
from prelabel.storage.files import Storage

#: Largest size of a model, in bytes.
MAX_BYTES = 10 * 2**30
#: Query parameters that ask hub servers for an archive.
_HUB_QUERY = ("tf-hub-format", "tfhub-redirect", "tf-hub-redirect")


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model whose files are on this machine.

    Attributes:
        path: Folder with `saved_model.pb`.
        fingerprint: SHA-256 over its files, hex; see `cache.fingerprint_of`.
        name: Catalog name, or the name of its folder, archive or page.
        address: The address that it came from, without secrets.
        entry: Its catalog entry, or None.
    """

    path: Path
    fingerprint: str
    name: str
    address: str
    entry: CatalogEntry | None = None

    @property
    def model_version(self) -> str:
        """The name and the first 8 digits of the fingerprint, as annotation tools show them."""
        return f"{self.name}-{self.fingerprint[:8]}"


def fetch_model(
    address: str,
    storage: Storage | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    mirror: str | None = None,
    max_bytes: int = MAX_BYTES,
    say: Callable[[str], None] = lambda text: None,
) -> LocalModel:
    """Return the model at an address, after downloading it if necessary.

    Args:
        address: See the top of this file.
        storage: Reads object storage; by default without options.
        cache_dir: The cache; see `cache_root`.
        mirror: Base URL that takes the place of tfhub.dev and Kaggle; see `hubs.mirror_base`.
        max_bytes: Largest allowed size in bytes, of the archive and of its content.
        say: Called with a line of text before each download, which may take minutes.

    Raises:
        ConfigError: There is no model at the address, or the address is not valid.
        DetectorError: The model cannot be fetched, or is not a SavedModel.
    """
    storage = storage or Storage()
    entry = lookup(address)
    if entry and not entry.addresses:
        return _bundled(entry)
    if entry and not is_http(address):
        return _from_web(entry.addresses, entry.name, entry, cache_dir, mirror, max_bytes, say)
    if is_http(address):
        name = entry.name if entry else _name_of(address)
        return _from_web((address,), name, entry, cache_dir, mirror, max_bytes, say)
    if is_local(address):
        return _from_disk(address, cache_dir, max_bytes)
    return _from_storage(address, storage, cache_dir, max_bytes, say)


def _bundled(entry: CatalogEntry) -> LocalModel:
    path = Path(__file__).with_name(entry.name.replace("-", "_"))
    if not (path / "saved_model.pb").is_file():
        raise DetectorError(f"{entry.name} is missing from this installation ({path}); reinstall prelabel")
    return LocalModel(path, fingerprint_of(path), entry.name, entry.name, entry)


def _from_web(
    addresses: tuple[str, ...],
    name: str,
    entry: CatalogEntry | None,
    cache_dir: Any,
    mirror: str | None,
    max_bytes: int,
    say: Callable[[str], None],
) -> LocalModel:
    # Slow to import, and not needed for a model that is on this machine.
    from prelabel.detectors.models.download import DownloadError, download, summarize

    base = hubs.mirror_base(mirror)

    def fetch(scratch: Path) -> Path:
        problems: list[DetectorError] = []
        for address in addresses:
            for number, url in enumerate(hubs.archive_urls(address, base)):
                # Messages do not show the query that is added to a page: the user did not type it.
                display_name = redact(address if number == 0 and not base else url).removesuffix("?***" if base else "")
                say(f"fetching the detector from {display_name}, once per machine")
                try:
                    download(url, scratch / "archive", max_bytes, display_name)
                    return _unpacked(scratch / "archive", scratch / "model", max_bytes, display_name)
                except DetectorError as error:
                    problems.append(error)
                    shutil.rmtree(scratch / "model", ignore_errors=True)
        if os.environ.get("TFHUB_CACHE_DIR"):
            say("asking TensorFlow Hub's own resolver, since TFHUB_CACHE_DIR is set")
            try:
                return _copied(hubs.resolve_with_tensorflow_hub(addresses), scratch / "model", max_bytes)
            except DetectorError as error:
                problems.append(error)
        refusals = [error for error in problems if isinstance(error, DownloadError)]
        others = [str(error) for error in problems if not isinstance(error, DownloadError)]
        text = "; ".join([*([summarize(name, refusals)] if refusals else []), *others])
        if not refusals:
            raise DetectorError(text) from problems[0]
        advice = hubs.download_advice(addresses, [error.status for error in refusals], base)
        raise DetectorError(f"{text}. {advice[0].upper()}{advice[1:]}") from problems[0]

    key = entry.name if entry else _key_of(addresses[0])
    cached = cached_or_fetched(cache_root(cache_dir), folder_name(key, name), fetch)
    return LocalModel(*cached, name, redact(addresses[0]), entry)


def _copied(source: Path, target: Path, max_bytes: int) -> Path:
    """Copy a model's files from a folder of this machine."""
    files = model_files(_model_folder(source, str(source)))
    try:
        if sum(path.stat().st_size for path in files.values()) > max_bytes:
            raise DetectorError(f"{source}: more than the {max_bytes} bytes allowed")
        for name, path in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
    except OSError as error:
        raise DetectorError(f"{source}: cannot be read: {describe(error)}") from error
    return target


def _key_of(address: str) -> str:
    """The cache key of a URL: without its signature, so that a link that is signed again is the same model."""
    parts = urlsplit(without_secrets(address))
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0].lower() not in _HUB_QUERY]
    return urlunsplit(parts._replace(netloc=parts.netloc.lower(), query=urlencode(query), fragment="")).rstrip("/")


def _from_disk(address: str, cache_dir: Any, max_bytes: int) -> LocalModel:
    path = Path(absolute(address))
    if path.is_file() and hubs.ARCHIVE.search(path.name):
        status = path.stat()
        origin = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
        cached = cached_or_fetched(
            cache_root(cache_dir),
            folder_name(str(path), _name_of(str(path))),
            lambda scratch: _unpacked(path, scratch / "model", max_bytes, str(path)),
            origin,
        )
        return LocalModel(*cached, _name_of(str(path)), str(path))
    if not path.exists():
        similar = nearest_name(address, [entry.name for entry in CATALOG])
        hint = f"; did you mean {similar!r}?" if similar else "; `prelabel detectors` lists the catalog"
        raise ConfigError(f"detector {address!r} is neither a catalog name nor a file or folder{hint}")
    if not path.is_dir():
        raise ConfigError(f"detector {address!r} is a file, but not a .tar.gz archive")
    folder = _model_folder(path, str(path))
    try:
        return _identified(folder, fingerprint_of(folder), _name_of(str(path)), str(path))
    except OSError as error:
        raise DetectorError(f"{path}: cannot be read: {describe(error)}") from error


def _from_storage(
    address: str, storage: Storage, cache_dir: Any, max_bytes: int, say: Callable[[str], None]
) -> LocalModel:
    base = absolute(address)
    display_name = redact(base)
    archive = hubs.ARCHIVE.search(base) is not None
    origin: dict[str, Any] | None
    try:
        origin = _remote_files(base, storage, archive)
        problem = "there is no model; check the URL and --storage-options"
    except OSError as error:
        # Without a connection, a cached model is used if there is one.
        origin, problem = None, describe(error)
    if origin and sum(size for size, _ in origin.values()) > max_bytes:
        raise DetectorError(f"{display_name}: more than the {max_bytes} bytes allowed")

    def fetch(scratch: Path) -> Path:
        if not origin:
            raise DetectorError(f"{display_name}: {problem}")
        say(f"fetching the detector from {display_name}, once per machine")
        folder = scratch / ("archive" if archive else "model")
        for name, (size, _) in origin.items():
            _copy(join(base, name) if name else base, folder / name if name else folder, size, storage)
        return (
            _unpacked(folder, scratch / "model", max_bytes, display_name)
            if archive
            else _model_folder(folder, display_name)
        )

    name = _name_of(base)
    cached = cached_or_fetched(cache_root(cache_dir), folder_name(base, name), fetch, origin or None)
    return _identified(*cached, name, display_name)


def _identified(folder: Path, fingerprint: str, name: str, address: str) -> LocalModel:
    """A model with its catalog entry, if the note of `prelabel fetch` in its folder names one."""
    noted = noted_name(folder, fingerprint)
    return LocalModel(folder, fingerprint, noted or name, address, lookup(noted) if noted else None)


def _remote_files(base: str, storage: Storage, archive: bool) -> dict[str, list[Any]]:
    """`[size, version]` of each file of a model in object storage, by its path below `base` (`""` for an archive)."""
    if archive:
        return {"": _size_and_version(storage.info(base))}
    files = {}
    for folder in MODEL_FOLDERS:
        for name in sorted(storage.names(join(base, folder) if folder else base)):
            relative = f"{folder}/{name}" if folder else name
            if folder or name in (*COUNTED_FILES, NOTE):
                files[relative] = _size_and_version(storage.info(join(base, relative)))
    return files


def _size_and_version(info: dict[str, Any]) -> list[Any]:
    keys = ("ETag", "etag", "content_md5", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created")
    return [int(info.get("size") or 0), next((str(info[key]) for key in keys if info.get(key)), "")]


def _copy(url: str, target: Path, size: int, storage: Storage) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with storage.open(url) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    except OSError as error:
        raise DetectorError(f"{redact(url)}: {describe(error)}") from error
    if target.stat().st_size != size:
        raise DetectorError(f"{redact(url)}: received {target.stat().st_size} of {size} bytes; retry")


def _unpacked(archive: Path, into: Path, max_bytes: int, display_name: str) -> Path:
    from prelabel.detectors.models.download import unpack  # slow to import

    into.mkdir()
    unpack(archive, into, max_bytes, display_name)
    return _model_folder(into, display_name)


def _model_folder(folder: Path, display_name: str) -> Path:
    """The folder that holds the model: this one, or its only subfolder with a model."""
    if (folder / "saved_model.pb").is_file():
        return folder
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DetectorError(f"{display_name}: cannot be read: {describe(error)}") from error
    inside = [folder / name for name in names if (folder / name / "saved_model.pb").is_file()]
    if len(inside) == 1:
        return inside[0]
    content = "it contains " + ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "it is empty"
    raise DetectorError(
        f"{display_name} is not a SavedModel: it has no saved_model.pb ({content}); name the folder with that file"
    )


def _name_of(address: str) -> str:
    """The name of a model outside the catalog: the last part of its address, or the last two for a bare version."""
    parts = [part for part in re.split(r"[/\\]", re.sub(r"[?#].*", "", address)) if part]
    last = hubs.ARCHIVE.sub("", parts[-1]) if parts else "model"
    if last.isdigit() and len(parts) > 1:
        last = f"{parts[-2]}-{last}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-") or "model"
