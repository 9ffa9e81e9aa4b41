"""The cache of downloaded models on this machine. Each model is downloaded once, however many processes need it.

A model's folder appears under its final name only when it is complete, with a marker inside. A process that uses the
folder compares the marker with the files; a folder that does not match is deleted and downloaded again. A model is
identified by its fingerprint (`fingerprint_of`): SHA-256 over the files of a SavedModel that decide what it computes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prelabel.errors import DetectorError
from prelabel.storage.address import describe

_MARKER = ".prelabel.json"
#: Seconds to wait for another process that is downloading the same model.
_LOCK_TIMEOUT_S = 3600.0
#: Folders whose bytes this process has compared with their marker, and the marker's modification time.
_compared: set[tuple[str, int]] = set()


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of all cached models, below `cache_dir`, else `PRELABEL_CACHE`, else `~/.cache/prelabel`."""
    chosen = cache_dir or os.environ.get("PRELABEL_CACHE") or "~/.cache/prelabel"
    return Path(chosen).expanduser().absolute() / "models"


def folder_name(key: str, name: str) -> str:
    """The name of a model's folder: readable, and unique per key."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80]
    return f"{readable}-{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def cached_or_fetched(
    root: Path,
    folder: str,
    fetch: Callable[[Path], Path],
    origin: Mapping[str, Any] | None = None,
) -> tuple[Path, str]:
    """The folder and the fingerprint of a cached model, which is fetched first if it is missing or incomplete.

    Args:
        root: The cache.
        folder: Name of the model's folder.
        fetch: Receives an empty scratch folder, and returns the folder in it that is the model. Called under a lock
            that all processes of the machine share.
        origin: Sizes and versions of the files at the origin, stored beside the model. A model stored with another
            origin is fetched again. None accepts the cached model, whatever its origin was.

    Raises:
        DetectorError: The cache cannot be used, or `fetch` raised it.
    """
    final = root / folder
    cached = _complete(final, origin)
    if cached:
        return cached
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{folder}.lock", timeout=_LOCK_TIMEOUT_S):
            cached = _complete(final, origin)
            if cached:
                return cached
            for leftover in root.glob(f".{folder}.*.partial"):  # left by a process that died: this one holds the lock
                shutil.rmtree(leftover, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder}.", suffix=".partial", dir=root) as scratch:
                model = fetch(Path(scratch))
                _seal(model, origin)
                if final.exists():
                    final.rename(Path(scratch) / ".old")
                model.rename(final)
    except Timeout:
        raise DetectorError(
            f"another process has been downloading {folder} for an hour; end it if it hangs, then retry (cache: {root})"
        ) from None
    except OSError as error:
        raise DetectorError(f"cannot use the model cache {root}: {describe(error)}") from error
    cached = _complete(final, origin)
    if not cached:
        raise DetectorError(f"the model cache {root} did not keep a model that was just written; check this disk")
    return cached


def _seal(model: Path, origin: Mapping[str, Any] | None) -> None:
    """Write the marker after everything else is on the disk, just before the model gets its final name."""
    for path in model_files(model).values():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    marker = {"fingerprint": fingerprint_of(model), "files": _sizes(model), "origin": dict(origin or {})}
    with (model / _MARKER).open("w", encoding="utf-8") as out:
        json.dump(marker, out, indent=1)
        out.flush()
        os.fsync(out.fileno())


def _complete(folder: Path, origin: Mapping[str, Any] | None) -> tuple[Path, str] | None:
    """Folder and fingerprint of a complete model, else None. Compares sizes at each call, bytes once per process."""
    marker = folder / _MARKER
    try:
        stored = json.loads(marker.read_text("utf-8"))
        fingerprint, files, stored_origin = stored["fingerprint"], stored["files"], stored["origin"]
        if _sizes(folder) != files or (origin is not None and stored_origin != dict(origin)):
            return None
        version = (str(folder), marker.stat().st_mtime_ns)
        if version not in _compared:
            if fingerprint_of(folder) != fingerprint:
                return None
            _compared.add(version)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder, str(fingerprint)


# `fingerprint.pb` (TensorFlow's own checksums), `assets.extra` and stray files do not change what a model computes.
# `metadata.yaml` names the classes and the input size of networks exported by Ultralytics, `task.json` the form of the
# boxes of KerasHub detectors.
COUNTED_FILES = ("saved_model.pb", "tfhub_module.pb", "metadata.yaml", "task.json")
_COUNTED_FOLDERS = ("variables", "assets")
_BLOCK = 1 << 20


def _sizes(folder: Path) -> dict[str, int]:
    return {name: path.stat().st_size for name, path in model_files(folder).items()}


def model_files(folder: Path) -> dict[str, Path]:
    """The files that decide what a model computes, by their path below its folder (with `/`), sorted by that path."""
    files = {name: folder / name for name in COUNTED_FILES if (folder / name).is_file()}
    for name in _COUNTED_FOLDERS:
        for path in (folder / name).rglob("*"):
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = path
    return dict(sorted(files.items()))


def fingerprint_of(folder: Path) -> str:
    """`fingerprint_of_files` of a model. Raises OSError if a file cannot be read."""
    return fingerprint_of_files(model_files(folder))


def fingerprint_of_files(files: Mapping[str, Path]) -> str:
    """The SHA-256 over files, as 64 hex digits: equal on all machines for equal bytes under equal names.

    Each file adds the lengths of its name and content (8 bytes each, little-endian), then both, in the given order. The
    lengths make sure that moving a byte from one file to the next changes the fingerprint.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for name, path in files.items():
        encoded = name.encode("utf-8", "surrogateescape")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(path.stat().st_size.to_bytes(8, "little"))
        digest.update(encoded)
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
