"""One server and one browser for all tests of this folder, and runs of both real detectors on real photos.

Screenshots go to `out/screenshots`, for looking at. With `TOOLS_KEEP=DIR` photos and runs are kept in that folder and
used again, which saves a minute or two each time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prelabel.storage.files import Storage
from prelabel.store.run import Run, open_run
from tests.emulators import free_port
from tests.tools import browser
from tests.tools.environment import missing, needed
from tests.tools.label_studio import ROOT, Server, running, venv

HOSTILE_CLASS = '<b>&"x"'
ROTATED = "recurser__Portrait_6.jpg"
ODDLY_NAMED = "ein Bild \u00fc \u6f22 #1 100%.jpg"
NOTHING = "nothing on it.png"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("tools")
            fixtures = getattr(item, "fixturenames", ())
            if "signed_in" in fixtures:
                item.add_marker("browser")
            # One process has the server and labels the photos; another may run the tests without them.
            if not {"label_studio", "photos"}.isdisjoint(fixtures):
                item.add_marker(pytest.mark.xdist_group("label-studio"))


@dataclass(frozen=True)
class Photos:
    """Folders below the server's document root, and the runs made of them."""

    root: Path
    runs: dict[str, Run]


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("TOOLS_KEEP")
    return Path(given) if given else tmp_path_factory.mktemp("tools")


@pytest.fixture(scope="session")
def document_root(kept: Path) -> Path:
    root = kept / "served"
    root.mkdir(parents=True, exist_ok=True)
    return root


@pytest.fixture(scope="session")
def gcs_port() -> int:
    """The port where the server looks for GCS."""
    return free_port()


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory, document_root: Path, gcs_port: int) -> Iterator[Server]:
    if venv() is None:
        missing("Label Studio is not installed: make test-tools")
    # The server looks at no address of this machine otherwise, and that is where the test's object store is.
    gcs = f"http://127.0.0.1:{gcs_port}"
    environment = {
        "SSRF_PROTECTION_ENABLED": "false",
        "STORAGE_EMULATOR_HOST": gcs,
        "RESOLVER_PROXY_GCS_DOWNLOAD_URL": gcs + "/download/storage/v1/b/{bucket_name}/o/{blob_name}?alt=media",
    }
    with running(tmp_path_factory.mktemp("server"), document_root, environment) as server:
        yield server


@pytest.fixture(scope="session")
def signed_in(label_studio: Server) -> Iterator[Any]:
    needed("playwright")
    if browser.executable() is None:
        missing("there is no Chromium: apt-get install chromium")
    with browser.signed_in(label_studio) as context:
        yield context


@pytest.fixture
def page(signed_in: Any) -> Iterator[Any]:
    """A fresh tab."""
    page = signed_in.new_page()
    yield page
    page.close()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    folder = ROOT / "out" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def photos(assets: Path, document_root: Path, kept: Path) -> Photos:
    """The 80 photos under both detectors (`ssd`, `mask`), and three difficult pictures under one (`odd`)."""
    eighty, odd = document_root / "coco val", document_root / "odd \u00fc"
    shutil.copytree(assets / "images" / "coco-val80", eighty, dirs_exist_ok=True)
    odd.mkdir(exist_ok=True)
    shutil.copy(assets / "images" / "hard" / ROTATED, odd)
    shutil.copy(eighty / "000000020992.jpg", odd / ODDLY_NAMED)
    Image.new("RGB", (320, 240), (200, 200, 200)).save(odd / NOTHING)
    out = kept / "runs"
    models = assets / "models"
    mask = [models / "maskrcnn-tf2", "--label-map", "coco"]
    for name, folder, detector in (
        ("ssd", eighty, [models / "openimages-hub-module"]),
        ("mask", eighty, mask),
        ("odd", odd, [*mask, "--class-map", f"person={HOSTILE_CLASS}"]),
    ):
        if (out / name / "manifest.json").exists():
            continue
        command = [sys.executable, "-m", "prelabel", "label", folder, "--ray-address", "local", "--workers", "1"]
        command += ["--output", out / name, "--score-threshold", "0.05", "--quiet", "--detector", *detector]
        subprocess.run([str(part) for part in command], cwd=ROOT, check=True, capture_output=True, timeout=600)
    return Photos(document_root, {name: open_run(str(out / name), Storage()) for name in ("ssd", "mask", "odd")})
