from __future__ import annotations

import gzip
import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from prelabel.detectors.models.download import unpack
from prelabel.errors import DetectorError
from tests.detectors.models.hub_server import archive
from tests.messages import BROKEN, telling

NOISE = np.random.default_rng(1).bytes(50_000)
FILES = {"./saved_model.pb": b"graph", "variables/data": NOISE}


@pytest.fixture(autouse=True, params=["filter", "no filter"])
def _with_and_without_filter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first releases of Python 3.11 have no filters of archives: nothing depends on them."""
    if request.param == "no filter":
        monkeypatch.setattr(tarfile, "data_filter", tarfile.fully_trusted_filter)


def try_unpack(data: bytes, tmp_path: Path, max_bytes: int = 1 << 20) -> Path:
    (tmp_path / "a.tar.gz").write_bytes(data)
    into = tmp_path / "into"
    into.mkdir()
    unpack(tmp_path / "a.tar.gz", into, max_bytes, "a.tar.gz")
    return into


def one_member(**attributes: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("x")
        for name, value in attributes.items():
            setattr(info, name, value)
        tar.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_files_are_unpacked_completely(mode: str, tmp_path: Path) -> None:
    into = try_unpack(archive(FILES, mode), tmp_path)
    assert (into / "saved_model.pb").read_bytes() == b"graph"
    assert (into / "variables/data").read_bytes() == NOISE


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\\..\\x", "C:/x", "./../x"])
def test_name_that_leads_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match=re.escape(repr(name))):
        try_unpack(archive({name: b"evil"}), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "into"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match="'x'"):
        try_unpack(one_member(type=kind, linkname="saved_model.pb"), tmp_path)


def test_duplicate_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match=r"'saved_model\.pb'"):
        try_unpack(archive({"./saved_model.pb": b"a", "saved_model.pb": b"b"}), tmp_path)


def test_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match="'a/b'"):
        try_unpack(archive({"a": b"a", "a/b": b"b"}), tmp_path)


@pytest.mark.parametrize("left", [0.1, 0.5, 0.9, 0.999])
def test_every_truncation_is_detected(left: float, tmp_path: Path) -> None:
    data = archive(FILES)
    with pytest.raises(DetectorError, match=telling(BROKEN)):
        try_unpack(data[: int(len(data) * left)], tmp_path)


@pytest.mark.parametrize("left", [0.1, 0.5, 0.8])
def test_truncation_of_a_bare_tar_is_detected(left: float, tmp_path: Path) -> None:
    data = archive(FILES, "w")  # its last tenth is padding
    with pytest.raises(DetectorError, match=telling(BROKEN)):
        try_unpack(data[: int(len(data) * left)], tmp_path)


def test_flipped_bit_in_the_last_part_is_detected(tmp_path: Path) -> None:
    data = bytearray(archive(FILES))
    data[-5] ^= 1  # in gzip's checksum
    with pytest.raises(DetectorError, match=telling(BROKEN)):
        try_unpack(bytes(data), tmp_path)


def test_small_file_that_unpacks_to_a_giant_is_refused(tmp_path: Path) -> None:
    data = archive({"zeros": bytes(5 << 20)})
    assert len(data) < 10_000
    with pytest.raises(DetectorError, match="more than 1048576 bytes"):
        try_unpack(data, tmp_path)


def test_giant_after_the_end_of_the_archive_is_refused_too(tmp_path: Path) -> None:
    inner = archive({"a": b"a"}, "w")
    with pytest.raises(DetectorError, match="more than 1048576 bytes"):
        try_unpack(gzip.compress(inner + bytes(5 << 20)), tmp_path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" + bytes(600), b"<html>", bytes(1024)])
def test_file_that_is_not_an_archive_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match=r"\.tar\.gz"):
        try_unpack(data, tmp_path)
