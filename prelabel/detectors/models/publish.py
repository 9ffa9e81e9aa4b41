"""Copy a model to a folder or to object storage, for machines that cannot download it.

Each file appears complete or not at all, and `saved_model.pb` appears last: until then the folder is not a model. A
note beside it (`prelabel-model.json`) keeps the model's name, so that a copy of a catalog model is recognized as such.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from prelabel.detectors.models.cache import model_files
from prelabel.errors import ConfigError, DetectorError
from prelabel.storage.address import absolute, describe, is_http, join, redact
from prelabel.storage.files import Storage

if TYPE_CHECKING:
    from prelabel.detectors.models.fetch import LocalModel

NOTE = "prelabel-model.json"
#: Folders that hold files of a model, below its own.
MODEL_FOLDERS = ("", "variables", "assets")
_GRAPH = "saved_model.pb"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")


def publish_model(model: LocalModel, to: str, storage: Storage) -> tuple[str, bool]:
    """Copy a model into a folder with its name below `to`.

    Args:
        model: From `fetch_model`.
        to: A folder, or a prefix in object storage.
        storage: Opens object storage.

    Returns:
        The path or URL of the copy, and whether anything was written: False if the same model was there already.

    Raises:
        ConfigError: `to` is a web URL, or the target folder holds another model or other files.
        DetectorError: The copy cannot be written, or the model cannot be read.
    """
    if is_http(to):
        raise ConfigError(f"--to must be a folder or a prefix in object storage, got the web URL {redact(to)}")
    target = join(absolute(to), model.name)
    display_name = redact(target)
    files = model_files(model.path)
    try:
        sizes = {name: path.stat().st_size for name, path in files.items()}
        present = _files_at(target, storage)
        if _GRAPH in present and read_note(storage.read(join(target, NOTE)) if NOTE in present else b"") == (
            model.name,
            model.fingerprint,
        ):
            present.pop(NOTE)
            if present == sizes:
                return target, False
        elif _GRAPH in present:
            raise ConfigError(f"{display_name} holds another model; choose another --to, or remove that model")
        if others := sorted(present.keys() - sizes.keys() - {NOTE}):
            raise ConfigError(f"{display_name} holds other files ({', '.join(others[:5])}); choose another --to")
        for name in sorted(files.keys() - {_GRAPH}):
            _copy(files[name], join(target, name), storage)
        note = {"name": model.name, "fingerprint": model.fingerprint, "address": model.address}
        storage.publish(join(target, NOTE), json.dumps(note, indent=1).encode() + b"\n")
        _copy(files[_GRAPH], join(target, _GRAPH), storage)
        present = _files_at(target, storage)
    except OSError as error:
        raise DetectorError(f"{display_name}: the model cannot be copied: {describe(error)}") from error
    if {name: present.get(name) for name in sizes} != sizes:
        raise DetectorError(f"{display_name}: the storage does not hold what was written; run the same command again")
    return target, True


def read_note(data: bytes) -> tuple[str, str] | None:
    """Name and fingerprint of a model from its note, or None if it is not a valid note."""
    try:
        note = json.loads(data)
        name, fingerprint = note["name"], note["fingerprint"]
    except (ValueError, LookupError, TypeError):
        return None
    return (name, fingerprint) if isinstance(name, str) and _NAME.fullmatch(name) else None


def noted_name(folder: Path, fingerprint: str) -> str | None:
    """The name that the note in a model's folder gives, or None if there is none for exactly these files."""
    try:
        noted = read_note((folder / NOTE).read_bytes())
    except OSError:
        return None
    return noted[0] if noted and noted[1] == fingerprint else None


def _files_at(target: str, storage: Storage) -> dict[str, int]:
    """Sizes of the model files that exist at a target, by their path below it."""
    present: dict[str, int] = {}
    for folder in MODEL_FOLDERS:
        names = storage.names(join(target, folder) if folder else target)
        present |= {f"{folder}/{name}" if folder else name: size for name, size in names.items()}
    return present


def _copy(source: Path, target: str, storage: Storage) -> None:
    with source.open("rb") as file, storage.publishing(target) as out:
        shutil.copyfileobj(file, out, 1 << 20)
