"""Exports take the images of a run out of their archives again, and notice an archive that was replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import prelabel
from prelabel.engine.reader import Reader
from prelabel.engine.shard import label_shard
from prelabel.errors import ExportError, FetchError
from prelabel.export.base import RunInfo
from prelabel.export.reread import browser_pixels, image_bytes
from prelabel.export.yolo import YoloOptions, export_yolo
from prelabel.frames import BROWSER
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.source.listing import list_images
from prelabel.storage.files import Storage
from prelabel.store.run import Run, open_run
from tests.archives import RangedWeb, ranged_web, tar_of
from tests.engine.fakes import BrightestCorner
from tests.engine.test_shard import SETTINGS, picture
from tests.messages import telling
from tests.runs import write_run
from tests.tfrecords import tfrecord_of

STORAGE = Storage()


def members(tmp_path: Path) -> dict[str, bytes]:
    refs = [picture(tmp_path, f"{number}.png", (number, 1)) for number in range(4)]
    return {ref.file_name: Path(ref.uri).read_bytes() for ref in refs}


#: Archives by name, and what writes them.
ARCHIVES = {"a.tar": tar_of, "a.tfrecord": tfrecord_of}


def run_of(tmp_path: Path, web: RangedWeb, name: str = "a.tar") -> Run:
    """A finished run of an archive on a web server."""
    (tmp_path / name).write_bytes(ARCHIVES[name](members(tmp_path)))
    refs = list(list_images([f"{web.url}/{name}"], STORAGE))
    rows = label_shard(refs, Reader(SETTINGS), BrightestCorner())
    return open_run(write_run(tmp_path / "run", [rows[:2], rows[2:]]), STORAGE)


@pytest.mark.parametrize("archive", ARCHIVES)
def test_images_are_copied_out_of_an_archive_with_one_request(tmp_path: Path, archive: str) -> None:
    with ranged_web(tmp_path) as web:
        run = run_of(tmp_path, web, archive)
        web.requests.clear()
        export_yolo(RunInfo.of(run), run.rows, str(tmp_path / "yolo"), YoloOptions(image_files="copy"), STORAGE)
        assert len(web.requests) == 1
    for name, data in members(tmp_path).items():
        assert (tmp_path / "yolo" / "images" / "train" / archive / name).read_bytes() == data
    assert (tmp_path / "yolo" / "labels" / "train" / archive / "0.txt").exists()
    with pytest.raises(ExportError, match=telling("--image-files copy")):
        export_yolo(RunInfo.of(run), run.rows, str(tmp_path / "linked"), YoloOptions(image_files="link"), STORAGE)


@pytest.mark.parametrize("archive", ARCHIVES)
def test_an_image_is_read_again_only_if_it_is_the_same(tmp_path: Path, archive: str) -> None:
    with ranged_web(tmp_path) as web:
        run = run_of(tmp_path, web, archive)
        row = next(iter(run.rows())).in_frame(BROWSER)
        assert np.argwhere(browser_pixels(row, STORAGE).sum(axis=2)).tolist() == [[1, 0]]
        names, contents = zip(*members(tmp_path).items(), strict=True)
        (tmp_path / archive).write_bytes(ARCHIVES[archive](dict(zip(names, contents[::-1], strict=True))))
        with pytest.raises(FetchError, match=telling("changed")):
            image_bytes(row, STORAGE)


def test_label_studio_needs_a_place_from_which_browsers_load_the_images(tmp_path: Path) -> None:
    with ranged_web(tmp_path) as web:
        run = run_of(tmp_path, web)
    to, info = str(tmp_path / "tasks"), RunInfo.of(run)
    for url in ("", "{uri}"):
        with pytest.raises(ExportError, match=telling("a.tar/0.png", "--image-url")):
            export_label_studio(info, run.rows, to, LabelStudioOptions(image_url=url), STORAGE)
    options = LabelStudioOptions(image_url="https://host/images")
    assert export_label_studio(info, run.rows, to, options, STORAGE).images == 4


def test_a_fused_run_knows_where_its_images_lie(tmp_path: Path) -> None:
    with ranged_web(tmp_path) as web:
        run = run_of(tmp_path, web)
        other = write_run(tmp_path / "other", [list(run.rows())], run_id="f" * 32)
        prelabel.fuse([str(run.root), other], tmp_path / "fused")
        fused = open_run(str(tmp_path / "fused"), STORAGE)
        assert [row.location for row in fused.rows()] == [row.location for row in run.rows()]
        assert [ref.location for ref in fused.plan()] == [ref.location for ref in run.plan()]
