"""From an address to a model's folder on this machine.

    openimages-ssd-mobilenet-v2                   a name of the catalogue
    https://tfhub.dev/...  https://kaggle.com/... a page of a model hub (any http server that answers
                                                  `?tf-hub-format=compressed` with an archive)
    https://example.org/models/mine.tar.gz        an archive anywhere
    models/mine  models/mine.tar.gz               a folder or an archive on this machine
    s3://bucket/models/mine                       a prefix or an archive in object storage

A local folder is used where it is. Everything else goes through the cache, and needs no network once it is there.
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

from prelabel.detectors.archive import unpack
from prelabel.detectors.cache import cache_root, cached_or_fetched, folder_name
from prelabel.detectors.catalogue import CATALOGUE, CatalogueEntry, lookup
from prelabel.detectors.fingerprint import fingerprint_of
from prelabel.errors import ConfigError, DetectorError
from prelabel.select import nearest_name
from prelabel.storage import Storage, absolute, describe, is_http, is_local, join, redact, without_secrets

#: Most bytes a model may unpack to.
MAX_BYTES = 10 * 2**30
_ARCHIVE = re.compile(r"\.(tar\.gz|tgz|tar)$", re.IGNORECASE)
#: Parts of a query in which hub servers are asked for an archive.
_HUB_QUERY = ("tf-hub-format", "tfhub-redirect", "tf-hub-redirect")
_IN_A_MODEL = ("", "variables", "assets")


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model whose files are on this machine.

    Attributes:
        path: Folder with `saved_model.pb`.
        fingerprint: SHA-256 over its files, hex; see `fingerprint.py`.
        name: Catalogue name, or the name of its folder, archive or page.
        address: Where it came from, without secrets.
        entry: Its catalogue entry, or None.
    """

    path: Path
    fingerprint: str
    name: str
    address: str
    entry: CatalogueEntry | None = None

    @property
    def model_version(self) -> str:
        """Name and start of the fingerprint: what annotation tools show."""
        return f"{self.name}-{self.fingerprint[:8]}"


def fetch_model(
    address: str,
    storage: Storage | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    max_bytes: int = MAX_BYTES,
    say: Callable[[str], None] = lambda text: None,
) -> LocalModel:
    """The model at an address, on this machine, whole.

    Args:
        address: See the top of this file.
        storage: Opens object storage; a plain one by default.
        cache_dir: The cache; see `cache_root`.
        max_bytes: Most bytes it may have, packed and unpacked.
        say: Hears what is being fetched, which may take minutes.

    Raises:
        ConfigError: The address is no address of a model.
        DetectorError: The model cannot be had, or what is there is none.
    """
    storage = storage or Storage()
    entry = lookup(address)
    if entry and not entry.addresses:
        return _bundled(entry)
    if entry and not is_http(address):
        return _from_web(entry.addresses, entry.name, entry, cache_dir, max_bytes, say)
    if is_http(address):
        return _from_web((address,), entry.name if entry else _name_of(address), entry, cache_dir, max_bytes, say)
    if is_local(address):
        return _from_disk(address, cache_dir, max_bytes)
    return _from_storage(address, storage, cache_dir, max_bytes, say)


def _bundled(entry: CatalogueEntry) -> LocalModel:
    path = Path(__file__).with_name(entry.name.replace("-", "_"))
    if not (path / "saved_model.pb").is_file():
        raise DetectorError(f"{entry.name} is missing from this installation: {path} holds no model")
    return LocalModel(path, fingerprint_of(path), entry.name, entry.name, entry)


def _from_web(
    addresses: tuple[str, ...],
    name: str,
    entry: CatalogueEntry | None,
    cache_dir: Any,
    max_bytes: int,
    say: Callable[[str], None],
) -> LocalModel:
    # Takes its time to be imported, and models that are on this machine need none of it.
    from prelabel.detectors.download import download

    def fetch(scratch: Path) -> Path:
        archive = scratch / "archive"
        problems = []
        for address in addresses:
            say(f"fetching the detector from {redact(address)}, once for this machine")
            try:
                download(_download_url(address), archive, max_bytes)
                return _unpacked(archive, scratch / "model", max_bytes, redact(address))
            except DetectorError as error:
                problems.append(error)
                shutil.rmtree(scratch / "model", ignore_errors=True)
        if len(problems) == 1:
            raise problems[0]
        raise DetectorError("; ".join(map(str, problems)))

    key = entry.name if entry else _key_of(addresses[0])
    cached = cached_or_fetched(cache_root(cache_dir), folder_name(key, name), fetch)
    return LocalModel(cached.path, cached.fingerprint, name, redact(addresses[0]), entry)


def _download_url(address: str) -> str:
    """Archives as they are; of a page, as TensorFlow Hub asks for its archive."""
    parts = urlsplit(address)
    if _ARCHIVE.search(parts.path):
        return address
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != "tf-hub-format"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("tf-hub-format", "compressed")]), fragment=""))


def _key_of(address: str) -> str:
    """The address as a cache knows it: a link signed anew each hour is the same model."""
    parts = urlsplit(without_secrets(address))
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0].lower() not in _HUB_QUERY]
    return urlunsplit(parts._replace(netloc=parts.netloc.lower(), query=urlencode(query), fragment="")).rstrip("/")


def _from_disk(address: str, cache_dir: Any, max_bytes: int) -> LocalModel:
    path = Path(absolute(address))
    if path.is_file() and _ARCHIVE.search(path.name):
        status = path.stat()
        origin = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
        cached = cached_or_fetched(
            cache_root(cache_dir),
            folder_name(str(path), _name_of(str(path))),
            lambda scratch: _unpacked(path, scratch / "model", max_bytes, str(path)),
            origin,
        )
        return LocalModel(cached.path, cached.fingerprint, _name_of(str(path)), str(path))
    if not path.exists():
        near = nearest_name(address, [entry.name for entry in CATALOGUE])
        hint = f"; did you mean {near!r}?" if near else "; `prelabel detectors` lists the known ones"
        raise ConfigError(f"detector {address!r} is neither in the catalogue nor a file or folder{hint}")
    if not path.is_dir():
        raise ConfigError(f"detector {address!r} is a file, but not a .tar.gz archive")
    folder = _model_folder(path, str(path))
    try:
        return LocalModel(folder, fingerprint_of(folder), _name_of(str(path)), str(path))
    except OSError as error:
        raise DetectorError(f"{path}: cannot be read: {describe(error)}") from error


def _from_storage(
    address: str, storage: Storage, cache_dir: Any, max_bytes: int, say: Callable[[str], None]
) -> LocalModel:
    base = absolute(address)
    shown = redact(base)
    archive = _ARCHIVE.search(base) is not None
    origin: dict[str, Any] | None
    try:
        origin = _remote_files(base, storage, archive)
        problem = "there is nothing; check the address and the storage options"
    except OSError as error:
        # Offline: what the cache holds will do.
        origin, problem = None, describe(error)
    if origin and sum(size for size, _ in origin.values()) > max_bytes:
        raise DetectorError(f"{shown}: more than the {max_bytes} bytes allowed")

    def fetch(scratch: Path) -> Path:
        if not origin:
            raise DetectorError(f"{shown}: {problem}")
        say(f"fetching the detector from {shown}, once for this machine")
        folder = scratch / ("archive" if archive else "model")
        for name, (size, _) in origin.items():
            _copy(join(base, name) if name else base, folder / name if name else folder, size, storage)
        return _unpacked(folder, scratch / "model", max_bytes, shown) if archive else _model_folder(folder, shown)

    name = _name_of(base)
    cached = cached_or_fetched(cache_root(cache_dir), folder_name(base, name), fetch, origin or None)
    return LocalModel(cached.path, cached.fingerprint, name, shown)


def _remote_files(base: str, storage: Storage, archive: bool) -> dict[str, list[Any]]:
    """Size and version of each file of a model in object storage, by its path below the address (archive: `""`)."""
    if archive:
        return {"": _size_and_version(storage.info(base))}
    found = {}
    for folder in _IN_A_MODEL:
        below = join(base, folder) if folder else base
        inside = storage.names(below)
        for name in sorted(inside):
            relative = f"{folder}/{name}" if folder else name
            if folder or name in ("saved_model.pb", "tfhub_module.pb"):
                found[relative] = _size_and_version(storage.info(join(base, relative)))
    return found


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
        raise DetectorError(f"{redact(url)}: {target.stat().st_size} bytes came of the {size} listed; try again")


def _unpacked(archive: Path, into: Path, max_bytes: int, shown: str) -> Path:
    into.mkdir()
    unpack(archive, into, max_bytes, shown)
    return _model_folder(into, shown)


def _model_folder(folder: Path, shown: str) -> Path:
    """The folder itself or its only sub-folder, whichever holds a model."""
    if (folder / "saved_model.pb").is_file():
        return folder
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DetectorError(f"{shown}: cannot be read: {describe(error)}") from error
    inside = [folder / name for name in names if (folder / name / "saved_model.pb").is_file()]
    if len(inside) == 1:
        return inside[0]
    holds = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
    raise DetectorError(f"{shown}: no SavedModel: there is no saved_model.pb (it holds {holds})")


def _name_of(address: str) -> str:
    """What to call a model that has no name: the last part of its address, with its version if that is a number."""
    parts = [part for part in re.split(r"[/\\]", re.sub(r"[?#].*", "", address)) if part]
    last = _ARCHIVE.sub("", parts[-1]) if parts else "model"
    if last.isdigit() and len(parts) > 1:
        last = f"{parts[-2]}-{last}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-") or "model"
