"""Fetched models on this machine's disk, filled once however many processes ask at once.

A model's folder appears under its final name only when it is complete, with its marker inside; whoever finds the folder
compares the marker with the files, and a folder that does not fit it is thrown away and fetched again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prelabel.detectors.fingerprint import fingerprint_of, model_files
from prelabel.errors import DetectorError
from prelabel.storage import describe

_MARKER = ".prelabel.json"
#: Seconds to wait for another process that is fetching the same model.
_LOCK_TIMEOUT_S = 3600.0
#: Folders whose every byte this process has compared already, with the marker's time.
_compared: set[tuple[str, int]] = set()


@dataclass(frozen=True, slots=True)
class Cached:
    """A whole model in the cache: its folder, its fingerprint, and what its origin was like when it was fetched."""

    path: Path
    fingerprint: str
    origin: Mapping[str, Any]


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder given, else `PRELABEL_CACHE`, else `~/.cache/prelabel`; looked up when called."""
    chosen = cache_dir or os.environ.get("PRELABEL_CACHE") or "~/.cache/prelabel"
    return Path(chosen).expanduser().absolute() / "models"


def folder_name(key: str, name: str) -> str:
    """The folder of a model: readable, and different for different keys."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80]
    return f"{readable}-{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def cached_or_fetched(
    root: Path,
    folder: str,
    fetch: Callable[[Path], Path],
    origin: Mapping[str, Any] | None = None,
) -> Cached:
    """The model of that folder, fetched first if it is not there whole.

    Args:
        root: The cache.
        folder: Name of the model's folder.
        fetch: Is given an empty scratch folder, and returns the folder in it that is the model. Called under a lock
            that all processes of the machine share.
        origin: What the origin is like now, kept beside the model; a model kept with another origin is fetched again.
            None takes the model that is there, whatever its origin was.

    Raises:
        DetectorError: The cache cannot be used, or what `fetch` raises.
    """
    final = root / folder
    found = _whole(final, origin)
    if found:
        return found
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{folder}.lock", timeout=_LOCK_TIMEOUT_S):
            found = _whole(final, origin)
            if found:
                return found
            for leftover in root.glob(f".{folder}.*.partial"):  # of a process that died: we hold the lock
                shutil.rmtree(leftover, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder}.", suffix=".partial", dir=root) as scratch:
                model = fetch(Path(scratch))
                _seal(model, origin)
                if final.exists():
                    final.rename(Path(scratch) / ".old")
                model.rename(final)
    except Timeout:
        raise DetectorError(f"another process has been fetching {folder} for an hour; check {root}") from None
    except OSError as error:
        raise DetectorError(f"cannot use the model cache {root}: {describe(error)}") from error
    found = _whole(final, origin)
    if not found:
        raise DetectorError(f"the model cache {root} does not keep what is written to it")
    return found


def _seal(model: Path, origin: Mapping[str, Any] | None) -> None:
    """Write the marker, the last act before a model gets its name; everything is on the disk by then."""
    files = {name: path.stat().st_size for name, path in model_files(model).items()}
    for path in model_files(model).values():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    marker = {"fingerprint": fingerprint_of(model), "files": files, "origin": dict(origin or {})}
    with (model / _MARKER).open("w", encoding="utf-8") as out:
        json.dump(marker, out, indent=1)
        out.flush()
        os.fsync(out.fileno())


def _whole(folder: Path, origin: Mapping[str, Any] | None) -> Cached | None:
    """The model in the folder if it is all there: every size each time, every byte once in each process."""
    marker = folder / _MARKER
    try:
        stored = json.loads(marker.read_text("utf-8"))
        fingerprint, files, was = stored["fingerprint"], stored["files"], stored["origin"]
        if {name: path.stat().st_size for name, path in model_files(folder).items()} != files:
            return None
        if origin is not None and was != dict(origin):
            return None
        seen = (str(folder), marker.stat().st_mtime_ns)
        if seen not in _compared:
            if fingerprint_of(folder) != fingerprint:
                return None
            _compared.add(seen)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Cached(folder, str(fingerprint), was)
