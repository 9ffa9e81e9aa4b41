"""The files of a factory's package, and the fingerprint of a detector. No code of the package runs.

The fingerprint covers every file of the package that holds the factory, code and data, and the files that the detector
names (`DetectorInfo.files`). It does not cover the libraries that the package imports. The package is the outermost one
with an `__init__.py`; a module outside of such packages is a package of one file.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path

from prelabel.detectors.base import DetectorInfo
from prelabel.detectors.models.cache import fingerprint_of_files
from prelabel.detectors.plugins.addresses import FactoryAddress
from prelabel.errors import ConfigError, DetectorError
from prelabel.storage.address import describe

#: Largest number of files of a package. A larger folder holds other things than a detector, such as images.
MOST_FILES = 10_000

#: Folders and files that do not belong to a package, although they may be in its folder.
_IGNORED_FOLDER = "__pycache__"
_IGNORED_SUFFIXES = (".pyc", ".pyo")


def search_here() -> None:
    """Let modules in the working folder be found, after all others; Python does so only for `python -m`."""
    here = str(Path.cwd())
    if not {"", here} & set(sys.path):
        sys.path.append(here)


def package_files(address: FactoryAddress) -> dict[str, Path]:
    """The files of the package that holds a factory, by their path below the folder of the package, with `/`.

    Raises:
        ConfigError: There is no such module, or it is not a file.
        DetectorError: The package has too many files, or its folder cannot be read.
    """
    root = _root_of(address)
    if not root.is_dir():
        return {root.name: root}
    files: dict[str, Path] = {}
    for path in _walk(root):
        files[f"{root.name}/{path.relative_to(root).as_posix()}"] = path
        if len(files) > MOST_FILES:
            raise DetectorError(
                f"detector {str(address)!r}: the package {root} has more than {MOST_FILES:,} files, which are all part "
                "of the fingerprint: put the detector into a package of its own"
            )
    return files


def _walk(root: Path) -> Iterator[Path]:
    """All files below a folder, through links too, except hidden and compiled ones."""

    def fail(error: OSError) -> None:
        raise DetectorError(f"the package {root} cannot be read: {describe(error)}") from error

    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=fail):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != _IGNORED_FOLDER)
        for name in sorted(names):
            path = Path(folder) / name
            if not name.startswith(".") and not name.endswith(_IGNORED_SUFFIXES) and path.is_file():
                yield path


def _root_of(address: FactoryAddress) -> Path:
    """The folder of the outermost package with an `__init__.py`, or the file of the module."""
    path: list[str] | None = None
    parts = address.module.split(".")
    if parts[0] == "__main__":
        raise ConfigError(
            f"detector {str(address)!r}: put the factory into a module of its own: `__main__` is another module in "
            "each process"
        )
    for number, _ in enumerate(parts, 1):
        name = ".".join(parts[:number])
        spec = _spec_of(name, path)
        if spec is None:
            raise ConfigError(_missing(address, name, path))
        if spec.origin is None and spec.submodule_search_locations is not None:
            path = list(spec.submodule_search_locations)
            continue
        origin = Path(spec.origin or "")
        if not spec.has_location or not origin.is_file():
            raise ConfigError(
                f"detector {str(address)!r}: the module {name} must be a file in a folder, but it is "
                f"{spec.origin or 'built into Python'}"
            )
        return origin.parent if spec.submodule_search_locations is not None else origin
    raise ConfigError(f"detector {str(address)!r}: {address.module} is a folder of packages, not a module")


def _spec_of(name: str, path: list[str] | None) -> ModuleSpec | None:
    """Where a module is, without importing the packages above it, as `importlib.util.find_spec` would."""
    if path is None:
        try:
            return importlib.util.find_spec(name)
        except (ImportError, ValueError):  # ValueError: of a module that was made by code, not loaded
            return None
    specs = (finder.find_spec(name, path) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)


def _missing(address: FactoryAddress, name: str, path: list[str] | None) -> str:
    why = "install its package, or add its folder to PYTHONPATH" if path is None else f"it is not in {', '.join(path)}"
    return f"detector {str(address)!r}: there is no module {name!r}; {why}"


def fingerprint_of_detector(address: FactoryAddress, info: DetectorInfo) -> str:
    """The SHA-256 over the files of a factory's package and the files that its detector names, as 64 hex digits.

    It does not depend on the folders that the package and the named files are in.

    Raises:
        ConfigError: The package cannot be found.
        DetectorError: A file cannot be read.
    """
    files = {f"package/{name}": path for name, path in package_files(address).items()}
    files |= {f"named/{name}": path for name, path in _named_files(address, info).items()}
    try:
        return fingerprint_of_files(dict(sorted(files.items())))
    except OSError as error:
        raise DetectorError(f"detector {str(address)!r}: a file cannot be read: {describe(error)}") from error


def _named_files(address: FactoryAddress, info: DetectorInfo) -> Mapping[str, Path]:
    """The files of `DetectorInfo.files`, and those in the folders among them, by their number and name."""
    files: dict[str, Path] = {}
    for number, given in enumerate(info.files):
        path = Path(given).absolute()
        if path.is_dir():
            files |= {f"{number}/{below.relative_to(path).as_posix()}": below for below in _walk(path)}
        elif path.is_file():
            files[f"{number}/{path.name}"] = path
        else:
            raise DetectorError(f"detector {str(address)!r} names the file {path}, which does not exist")
    return files
