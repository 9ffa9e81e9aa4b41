"""Imports follow the tables of packages and libraries, and heavy libraries are not loaded at start."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "prelabel"

#: Packages from the lowest layer up, and the packages that each may import. Here, a package is a folder, a part of a
#: folder, or a module without a folder. A part that is listed here does not belong to the package of its folder.
MAY_IMPORT = {
    "errors": set(),
    "words": set(),
    "aligned": set(),
    "masks": {"errors"},
    "detections": {"errors", "masks"},
    "keypoints": set(),
    "merging": {"detections", "masks"},
    "protobuf": set(),
    "image_ref": set(),
    "mapping_files": {"errors"},
    "options": {"errors", "mapping_files"},
    "signatures": {"options"},
    "labels/class_tree": set(),
    "class_rules": {"errors", "detections", "labels/class_tree"},
    "overlaps": {"merging"},
    "select": {"detections", "options", "labels/class_tree", "class_rules", "overlaps"},
    "processes": {"errors"},
    "storage": {"errors", "words"},
    "frames": {"detections", "masks"},
    "views": {"options"},
    "config": {"mapping_files", "options", "select", "storage", "views"},
    "labels": {"errors", "detections", "keypoints", "mapping_files", "storage"},
    "label_studio/client": {"errors", "storage"},
    "source": {
        *{"errors", "words", "aligned", "mapping_files", "storage", "frames", "image_ref", "protobuf"},
        "label_studio/client",
    },
    "detectors/base": {"detections", "keypoints"},
    "detectors/checks": {"errors"},
    "detectors/models": {"errors", "storage", "class_rules"},
    "detectors/conventions": {
        *{"errors", "storage", "detections", "keypoints", "labels", "mapping_files", "options", "overlaps"},
        *{"protobuf", "detectors/base", "detectors/models"},
    },
    "detectors/running": {
        *{"errors", "words", "aligned", "processes", "storage", "detections", "labels", "masks", "select"},
        *{"detectors/base", "detectors/checks", "detectors/models", "detectors/conventions"},
    },
    "detectors/plugins": {
        *{"errors", "storage", "detections", "keypoints", "masks", "class_rules", "select"},
        *{"detectors/base", "detectors/checks", "detectors/models"},
    },
    "detectors/multi_view": {"detections", "detectors/base", "frames", "keypoints", "merging", "select", "views"},
    "detectors": {
        *{"errors", "storage", "labels", "config", "options", "detectors/base", "detectors/models"},
        *{"detectors/conventions", "detectors/running", "detectors/plugins", "detectors/multi_view"},
    },
    "store": {
        *{"errors", "storage", "detections", "detectors/base", "frames", "image_ref", "keypoints", "masks"},
        "processes",
    },
    "triage": {"errors", "options", "storage", "source", "store"},
    "engine": {
        *{"errors", "processes", "storage", "image_ref", "keypoints", "labels", "config", "source", "store"},
        *{"detectors/base", "detectors/running", "detectors/plugins", "detectors", "views", "triage"},
    },
    "estimates": {
        *{"errors", "words", "options", "storage", "image_ref", "config", "source", "store", "engine"},
        *{"detectors/base", "detectors/plugins", "detectors"},
    },
    "export": {
        *{"errors", "storage", "detections", "frames", "keypoints", "labels", "mapping_files", "masks", "options"},
        *{"image_ref", "select", "processes", "source", "store", "triage"},
    },
    "triage/choosing": {
        *{"errors", "options", "select", "processes", "storage", "store", "triage", "export"},
    },
    "fusion": {
        *{"errors", "detections", "image_ref", "keypoints", "merging", "options", "processes", "select", "storage"},
        *{"views", "detectors/base", "store", "export"},
    },
    "label_studio": {
        *{"errors", "storage", "detections", "frames", "keypoints", "labels", "masks", "options", "select", "store"},
        *{"export", "label_studio/client", "processes", "triage"},
    },
    "pages": set(),
    "review": {
        *{"errors", "words", "storage", "detections", "frames", "keypoints", "masks", "options", "select", "store"},
        *{"export", "label_studio", "labels", "labels/class_tree", "pages", "processes", "source", "triage"},
    },
    "gallery": {
        *{"errors", "storage", "detections", "frames", "keypoints", "masks", "options", "select", "store"},
        *{"export", "labels", "pages", "triage"},
    },
    "difference": {
        *{"errors", "words", "storage", "detections", "frames", "labels", "masks", "merging", "options", "processes"},
        *{"select", "store", "export", "fusion", "pages", "review", "gallery"},
    },
    "synth": {"errors", "storage", "masks"},
}

#: Modules that may import every package: the command line, the Python functions and the console.
OUTERMOST = ("cli", "api", "console", "__init__", "__main__")

#: The files that may import a library, by library.
HOMES = {
    "ray": {"engine/cluster.py", "engine/ray_pool.py"},
    "tensorflow": {"detectors/"},
    "tensorflow_hub": {"detectors/"},
    "fsspec": {"storage/files.py", "storage/s3.py", "storage/publishing.py"},
    "botocore": {"storage/s3.py"},
    "adlfs": {"storage/azure.py"},
    "azure": {"storage/azure.py"},
    "gcsfs": {"storage/gcs.py"},
    "google": {"storage/gcs.py"},
    "google_crc32c": {"source/archives/tfrecord.py"},
    "yarl": {"storage/gcs.py"},
    "aiohttp": {"storage/redirects.py"},
    "PIL": {
        "source/",
        "detectors/running/savedmodel.py",
        "export/display_copies.py",
        "synth/",
        "gallery/renditions.py",
    },
    "simplejpeg": {"source/jpeg.py"},
    "requests": {"detectors/models/download.py"},
    "filelock": {"detectors/models/cache.py"},
    "click": {"cli/"},
    "rich": {"console.py"},
    "yaml": {"mapping_files.py"},
    "label_studio_sdk": {"label_studio/preflight.py"},
    "httpx": {"label_studio/client.py"},
}

#: Private modules of libraries, and the only file that may import each: its tests fail when the module has moved.
PRIVATE = {
    "ray._private": "engine/cluster.py",
    "label_studio_sdk._legacy": "label_studio/preflight.py",
    "tensorflow.python": "detectors/running/network.py",
}


#: Private attributes of libraries, and the only file that may use each. The tests of storage and of the cluster fail
#: when a library no longer has one.
PRIVATE_ATTRIBUTES = {
    "_call_s3": "storage/s3.py",
    "_get_headers": "storage/gcs.py",
    "_get_params": "storage/gcs.py",
    "_global_node": "engine/cluster.py",
    "_location": "storage/gcs.py",
    "_set_session": "storage/gcs.py",
}

#: Attributes with a leading underscore that the documentation of Python describes.
DOCUMENTED = {"_exit", "_getframe", "_replace"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The dotted names of all imports of a module, also in functions; `from a import b` gives both `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def package_of(place: str) -> str:
    """The package of a module's path below `prelabel`, without extension: the longest entry that contains it."""
    entries = [entry for entry in (*MAY_IMPORT, *OUTERMOST) if place == entry or place.startswith(f"{entry}/")]
    return max(entries, key=len)


def packages_imported_by(path: Path) -> set[str]:
    """The packages of this project that a module imports."""
    places = {
        name.removeprefix("prelabel.").replace(".", "/") for name in imports(path) if name.startswith("prelabel.")
    }
    modules_and_folders = {place for place in places if (PACKAGE / f"{place}.py").is_file()}
    return {package_of(place) for place in modules_and_folders}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_its_package_may_import(path: Path):
    place = path.relative_to(PACKAGE).with_suffix("").as_posix()
    if place in OUTERMOST or place.split("/")[0] in OUTERMOST:
        return
    package = package_of(place)
    assert packages_imported_by(path) - {package} <= MAY_IMPORT[package]


def test_the_table_allows_no_more_than_is_used():
    used: dict[str, set[str]] = {package: set() for package in MAY_IMPORT}
    for path in modules():
        package = package_of(path.relative_to(PACKAGE).with_suffix("").as_posix())
        if package in MAY_IMPORT:
            used[package] |= packages_imported_by(path) - {package}
    assert used == MAY_IMPORT


def test_imports_between_packages_have_no_cycle():
    """Each package imports only packages above it in the table, so there is no cycle."""
    above: set[str] = set()
    for package, may_import in MAY_IMPORT.items():
        assert may_import <= above, package
        above.add(package)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_library_is_imported_in_one_package_only(path: Path):
    place = path.relative_to(PACKAGE).as_posix()
    for name in imports(path):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or any(place == home or (home.endswith("/") and place.startswith(home)) for home in homes)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_private_modules_of_libraries_are_imported_in_only_one_file(path: Path):
    place = path.relative_to(PACKAGE).as_posix()
    for name in imports(path):
        if re.search(r"\.(_[a-z]|python\.)", name) and not name.startswith("prelabel."):
            library = ".".join(name.split(".")[:2])
            assert PRIVATE.get(library) == place, name


@pytest.mark.parametrize(
    "module",
    [
        "prelabel.cli",
        "prelabel.export.coco",
        "prelabel.label_studio.export",
        "prelabel.gallery.preview",
        "prelabel.store.verify",
        "prelabel.fusion.job",
        "prelabel.difference.from_run",
        "prelabel.config",
    ],
)
def test_no_heavy_library_is_loaded_by(module: str):
    code = f"import sys, {module}; print([m for m in ('tensorflow', 'ray', 'tensorflow_hub') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_first_process_can_be_started_before_the_driver_imports_what_it_needs():
    heavy = "('pyarrow', 'fsspec', 'PIL', 'prelabel.engine.job', 'prelabel.engine.worker')"
    code = f"import sys, prelabel.engine.runner; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_driver_does_not_load_tensorflow():
    code = "import sys, prelabel.engine.driver; print('tensorflow' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_the_table_in_architecture_md_is_the_same():
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = text.split("| package or module | holds | may import |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[set(re.findall(r"`([\w/]+)`", cell)) for cell in row.strip("|").split("|")] for row in rows]
    assert {package: may_import for (package,), _, may_import in cells[:-1]} == MAY_IMPORT
    assert [package for (package,), *_ in cells[:-1]] == list(MAY_IMPORT)
    assert cells[-1][0] | {"__init__", "__main__"} == set(OUTERMOST)


def private_attributes() -> dict[str, set[str]]:
    """The files that use each attribute with a leading underscore which the package does not define itself."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in modules()}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    files: dict[str, set[str]] = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr) and node.attr not in own:
                files.setdefault(node.attr, set()).add(path.relative_to(PACKAGE).as_posix())
    return {name: places for name, places in files.items() if name not in DOCUMENTED}


def test_private_attributes_of_libraries_are_used_in_only_one_file():
    assert private_attributes() == {name: {place} for name, place in PRIVATE_ATTRIBUTES.items()}


def test_a_short_module_says_why_it_is_one():
    for path in modules():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") < 40 and path.stem not in ("__init__", "__main__"):
            assert re.search(r"own module\s+because", text.partition("\n\nfrom ")[0]), path


def test_every_module_belongs_to_a_package_of_the_table():
    for path in modules():
        package_of(path.relative_to(PACKAGE).with_suffix("").as_posix())
