"""Which files a detector's fingerprint covers, found without running them."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from prelabel.detectors.base import DetectorInfo
from prelabel.detectors.plugins import files as module
from prelabel.detectors.plugins.addresses import FactoryAddress
from prelabel.detectors.plugins.files import fingerprint_of_detector, package_files
from prelabel.errors import ConfigError, DetectorError
from tests.detectors.plugins.modules import write
from tests.messages import facts

#: Running any of the modules would end the test.
STOP = "raise AssertionError('this must not run')"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def names(detector_module: str) -> list[str]:
    return list(package_files(FactoryAddress(detector_module, "make")))


def test_the_files_are_those_of_the_outermost_package(folder: Path) -> None:
    write(folder, pack____init__=STOP, pack__a____init__=STOP, pack__a__b=STOP, pack__c=STOP, other=STOP)
    (folder / "pack" / "weights").mkdir()
    (folder / "pack" / "weights" / "w.bin").write_bytes(b"1")
    for ignored in ("__pycache__/c.pyc", ".git/config", ".hidden", "d.pyc"):
        path = folder / "pack" / ignored
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    expected = ["pack/__init__.py", "pack/c.py", "pack/a/__init__.py", "pack/a/b.py", "pack/weights/w.bin"]
    assert names("pack.a.b") == expected
    assert names("pack") == expected
    assert "pack" not in sys.modules


def test_a_module_outside_of_packages_is_one_file(folder: Path) -> None:
    write(folder, single_module=STOP, space__inner=STOP, space__pack____init__=STOP, space__pack__m=STOP)
    assert names("single_module") == ["single_module.py"]
    assert names("space.inner") == ["inner.py"]  # `space` has no __init__.py
    assert names("space.pack.m") == ["pack/__init__.py", "pack/m.py"]


def test_links_are_followed_once(folder: Path) -> None:
    write(folder, pack____init__=STOP)
    (folder / "data").mkdir()
    (folder / "data" / "w.bin").write_bytes(b"1")
    (folder / "pack" / "linked").symlink_to(folder / "data")
    (folder / "pack" / "loop").symlink_to(folder / "pack")
    assert names("pack") == ["pack/__init__.py", "pack/linked/w.bin"]


def test_the_fingerprint_changes_with_every_file_and_nothing_else(folder: Path) -> None:
    write(folder, pack____init__="", pack__m="a = 1")
    (folder / "w1.bin").write_bytes(b"12")
    address, info = FactoryAddress("pack.m", "make"), DetectorInfo("d", files=[folder / "w1.bin"])
    seen = [fingerprint_of_detector(address, info)]
    assert len(seen[0]) == 64

    def changed() -> bool:
        seen.append(fingerprint_of_detector(address, info))
        return seen[-1] not in seen[:-1]

    (folder / "pack" / "__pycache__").mkdir()
    (folder / "pack" / "__pycache__" / "m.pyc").write_bytes(b"1")
    assert not changed()
    (folder / "pack" / "m.py").write_text("a = 2")
    assert changed()
    (folder / "pack" / "labels.txt").write_text("cat")
    assert changed()
    (folder / "w1.bin").write_bytes(b"13")
    assert changed()
    (folder / "elsewhere").mkdir()
    (folder / "w1.bin").rename(folder / "elsewhere" / "w1.bin")
    info = DetectorInfo("d", files=[folder / "elsewhere" / "w1.bin"])
    assert not changed()
    info = DetectorInfo("d", files=[folder / "elsewhere"])
    assert not changed()  # a folder stands for the files in it
    info = DetectorInfo("d")
    assert changed()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module", ("no_such_module:make", "no module 'no_such_module'", "install", "PYTHONPATH")),
        ("space.no_such", ("no module 'space.no_such'", "space")),
        ("__main__", ("__main__:make", "put the factory into a module")),
        ("space", ("space is a folder of packages",)),
        ("itertools", ("itertools", "built")),
        ("zipped", ("file in a folder", "zipped.zip")),
    ],
)
def test_a_module_that_is_not_there_is_told(
    name: str, words: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, pack____init__=STOP, space__pack____init__=STOP)
    with zipfile.ZipFile(folder / "zipped.zip", "w") as archive:
        archive.writestr("zipped.py", STOP)
    monkeypatch.syspath_prepend(str(folder / "zipped.zip"))
    with pytest.raises(ConfigError, match=facts(*words)):
        names(name)


def test_a_package_with_too_many_files_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, pack____init__="", pack__a="", pack__b="")
    monkeypatch.setattr(module, "MOST_FILES", 2)
    with pytest.raises(DetectorError, match=facts("pack", "more than 2 files", "package of its own")):
        names("pack.a")


def test_a_named_file_that_is_missing_is_told(folder: Path) -> None:
    write(folder, single_module="")
    with pytest.raises(DetectorError, match=facts("single_module:make", f"{folder / 'w.onnx'}", "not exist")):
        fingerprint_of_detector(FactoryAddress("single_module", "make"), DetectorInfo("d", files=[folder / "w.onnx"]))


def test_a_module_of_the_working_folder_is_found_after_all_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = [entry for entry in sys.path if entry not in ("", str(folder))]
    monkeypatch.setattr(sys, "path", [*path])
    monkeypatch.chdir(folder)
    write(folder, module_of_this_folder="", json="")
    module.search_here()
    module.search_here()
    assert sys.path == [*path, str(folder)]
    assert names("module_of_this_folder") == ["module_of_this_folder.py"]
    assert len(names("json")) > 3  # Python's own package
