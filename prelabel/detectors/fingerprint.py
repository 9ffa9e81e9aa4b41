"""What a model is, as a number: SHA-256 over the files of a SavedModel that decide what it computes."""

from __future__ import annotations

import hashlib
from pathlib import Path

#: `fingerprint.pb` (TensorFlow's own checksums), `assets.extra` and stray files change nothing in the answers.
_COUNTED_FILES = ("saved_model.pb", "tfhub_module.pb")
_COUNTED_FOLDERS = ("variables", "assets")
_BLOCK = 1 << 20


def model_files(folder: Path) -> dict[str, Path]:
    """The counted files of a model, by their path below its folder with `/`, sorted."""
    found = {name: folder / name for name in _COUNTED_FILES if (folder / name).is_file()}
    for name in _COUNTED_FOLDERS:
        for path in (folder / name).rglob("*"):
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items()))


def fingerprint_of(folder: Path) -> str:
    """64 hex digits, the same on every machine for the same bytes under the same names.

    Each file adds the length of its name and of its content (8 bytes each, little-endian) and both, in the order of
    the names, so that no byte can move from one file to the next unnoticed.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for name, path in model_files(folder).items():
        encoded = name.encode("utf-8", "surrogateescape")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(path.stat().st_size.to_bytes(8, "little"))
        digest.update(encoded)
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
