"""The table of who may import whom, walked over the source; and what must not be loaded at start."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "prelabel"

#: Rooms, and the rooms of this project they may import. A module without a room of its own is named by its file.
MAY_IMPORT = {
    "errors": set(),
    "detections": set(),
    "image_ref": set(),
    "mapping_files": {"errors"},
    "options": {"errors", "mapping_files"},
    "address": {"errors"},
    "redirects": set(),
    "retries": set(),
    "foreign": {"errors", "address", "redirects", "retries"},
    "stores": {"errors", "address", "foreign", "retries"},
    "storage": {"errors", "address", "foreign", "redirects", "retries", "stores"},
    "rle": {"errors"},
    "rle_many": {"errors", "rle"},
    "sides": {"errors", "rle"},
    "frames": {"detections", "rle", "sides"},
    "select": {"errors", "detections", "options"},
    "processes": {"errors"},
    "config": {"errors", "mapping_files", "options", "select", "storage"},
    "labels": {"errors", "mapping_files", "storage"},
    "source": {"errors", "mapping_files", "storage", "stores", "frames", "image_ref", "redirects", "retries"},
    "store": {"errors", "storage", "detections", "frames", "image_ref", "rle", "rle_many", "processes"},
    "detectors": {"errors", "storage", "detections", "labels", "options", "redirects", "rle", "select"},
    "engine": {
        *{"errors", "storage", "detections", "image_ref", "labels", "config"},
        *{"source", "store", "detectors"},
    },
    "export": {
        *{"errors", "storage", "detections", "image_ref", "labels", "options", "select", "rle", "source", "store"},
        *{"frames", "mapping_files", "rle_many", "sides", "processes"},
    },
    "evaluate": {"errors", "storage", "detections", "frames", "labels", "options", "select", "rle", "store", "export"},
    "compare": {
        *{"errors", "storage", "detections", "frames", "options", "select", "rle", "store", "export", "evaluate"},
    },
    "preview": {
        *{"errors", "storage", "detections", "frames", "image_ref", "options", "select"},
        *{"source", "store", "export"},
    },
    "push": {"errors", "frames", "options", "storage", "select", "store", "export"},
    "synth": {"errors", "storage", "rle"},
}

#: Libraries with one home each.
HOMES = {
    "ray": {"engine/cluster.py", "engine/fleet.py", "engine/metrics.py"},
    "tensorflow": {"detectors/"},
    "tensorflow_hub": {"detectors/"},
    "fsspec": {"storage.py", "stores/s3.py", "stores/whole.py"},
    "adlfs": {"stores/azure.py"},
    "azure": {"stores/azure.py"},
    "gcsfs": {"stores/gcs.py"},
    "google": {"stores/gcs.py"},
    "yarl": {"stores/gcs.py"},
    "aiohttp": {"redirects.py"},
    "PIL": {"source/", "synth/", "preview/pictures.py"},
    "simplejpeg": {"source/jpeg.py"},
    "requests": {"detectors/download.py"},
    "filelock": {"detectors/cache.py"},
    "click": {"cli/"},
    "rich": {"console.py"},
    "yaml": {"mapping_files.py"},
    "label_studio_sdk": {"push/server.py", "export/sdk_rules.py"},
    "httpx": {"push/server.py"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names if node.module == "prelabel")
    return found


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path):
    room = room_of(path)
    if room in ("cli", "console", "demo", "__init__", "__main__"):
        return  # the outermost layer may use every room
    own = {name.split(".")[1] for name in imports(path) if name.startswith("prelabel.")}
    assert own - {room, "__version__"} <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_library_is_imported_in_its_home_only(path: Path):
    place = path.relative_to(PACKAGE).as_posix()
    for name in imports(path):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or any(place == home or (home.endswith("/") and place.startswith(home)) for home in homes)


@pytest.mark.parametrize(
    "module",
    [
        "prelabel.cli",
        "prelabel.export.coco",
        "prelabel.export.label_studio",
        "prelabel.preview.gallery",
        "prelabel.store.verify",
        "prelabel.config",
    ],
)
def test_no_heavy_library_is_loaded_by(module: str):
    code = f"import sys, {module}; print([m for m in ('tensorflow', 'ray', 'tensorflow_hub') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_engine_drives_without_tensorflow():
    code = "import sys, prelabel.engine.drive; print('tensorflow' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_the_table_of_rooms_names_every_room():
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = text.split("| room | holds | may import |")[1].split("\n\n")[0].splitlines()[2:]
    named = {name.strip("/") for row in rows for name in re.findall(r"`([\w/]+)`", row.split("|")[1])}
    there = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in modules()} - {"__init__", "__main__"}
    assert named == there
    assert set(MAY_IMPORT) == there - {"cli", "console", "demo"}
