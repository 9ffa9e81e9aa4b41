"""The written folder: numbered renditions, the same bytes each time, and no changes to other files."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prelabel.errors import ConfigError, ExportError
from prelabel.gallery.preview import PreviewOptions, write_preview
from prelabel.storage.files import Storage
from tests.gallery.galleries import LEFT, OPEN_INFO, RIGHT, STORAGE, photo, picture, preview
from tests.messages import facts, tells, told
from tests.rows import INFO, ListedRows, failed_row, found, row
from tests.s3 import S3Server


def data_of(to: Path) -> dict[str, Any]:
    html = (to / "index.html").read_text(encoding="utf-8")
    match = re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.DOTALL)
    assert match is not None
    values: dict[str, Any] = json.loads(match.group(1))
    return values


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_renditions_are_numbered_and_never_named_after_the_images(tmp_path: Path):
    hostile = '<img src=x onerror="alert(1)">.jpg'
    rows = [photo(tmp_path / "in", hostile, found(), name="x.jpg", width=900, height=600), photo(tmp_path / "in", "b")]
    report = preview(rows, tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == [
        "index.html",
        "preview-files/00001-small.jpg",
        "preview-files/00001.jpg",
        "preview-files/00002.jpg",
    ]
    cards = data_of(tmp_path / "out")["cards"]
    assert [card["name"] for card in cards] == [hostile, "b"]
    assert cards[0]["thumbnail"] == "preview-files/00001-small.jpg"
    assert cards[1]["thumbnail"] == cards[1]["picture"] == "preview-files/00002.jpg"
    assert (report.images, report.failed, report.detections, report.warnings) == (2, 0, 1, ())
    assert report.files == (str(tmp_path / "out" / "index.html"),)


def test_renditions_have_the_requested_sizes_and_no_metadata(tmp_path: Path):
    preview([photo(tmp_path, "a.jpg", width=900, height=600)], tmp_path / "out", thumbnail_size=90, picture_size=300)
    for name, size in (("00001.jpg", (300, 200)), ("00001-small.jpg", (90, 60))):
        with Image.open(tmp_path / "out" / "preview-files" / name) as image:
            assert image.size == size
            assert not image.getexif()


def test_a_rendition_is_rotated_as_the_run_saw_the_image(tmp_path: Path):
    path = picture(tmp_path / "a.jpg", 60, 40, exif_orientation=6)
    preview([row("a.jpg", height=60, width=40, uri=str(path))], tmp_path / "out")
    with Image.open(tmp_path / "out" / "preview-files" / "00001.jpg") as image:
        assert image.size == (40, 60)
        top, bottom = image.getpixel((20, 5)), image.getpixel((20, 55))
    assert max(abs(a - b) for a, b in zip((*top, *bottom), (*LEFT, *RIGHT), strict=True)) < 12


@pytest.mark.parametrize("single_file", [False, True])
def test_the_same_run_gives_the_same_bytes_with_any_number_of_threads(tmp_path: Path, single_file: bool):
    rows = [photo(tmp_path / "in", f"{n}.jpg", found(), width=450) for n in range(12)]
    preview(rows, tmp_path / "one", threads=1, limit=7, single_file=single_file)
    preview(rows, tmp_path / "many", threads=8, limit=7, single_file=single_file)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    assert (list(contents(tmp_path / "one")) == ["index.html"]) is single_file


def test_a_single_file_contains_its_images(tmp_path: Path):
    preview([photo(tmp_path, "a.jpg", found())], tmp_path / "out", single_file=True)
    assert data_of(tmp_path / "out")["cards"][0]["picture"].startswith("data:image/jpeg;base64,/9j/")


def test_images_beyond_the_limit_are_counted(tmp_path: Path):
    rows = [photo(tmp_path / "in", f"{n}.jpg", found()) for n in range(9)] + [failed_row()]
    report = preview(rows, tmp_path / "out", limit=4)
    assert (report.images, report.failed, report.dropped) == (4, 1, {"images beyond the limit": 5})
    data = data_of(tmp_path / "out")
    assert data["sampled"] is True
    assert data["totals"]["images"] == 10
    assert len(data["cards"]) == 5
    preview(rows, tmp_path / "out", limit=0)
    assert len(data_of(tmp_path / "out")["cards"]) == 10
    assert data_of(tmp_path / "out")["sampled"] is False


def test_failed_images_are_listed_up_to_a_limit_with_every_reason(tmp_path: Path):
    rows = [failed_row(f"{n}.jpg") for n in range(600)] + [replace(failed_row("odd.jpg"), error_type="OddError")]
    report = preview(rows, tmp_path / "out")
    assert report.dropped == {"failed images beyond the listed": 101}
    data = data_of(tmp_path / "out")
    assert data["totals"]["failures"] == [["TruncatedImageError", 600], ["OddError", 1]]
    assert "odd.jpg" in [card["name"] for card in data["cards"]]


def test_an_image_that_failed_after_decoding_is_shown(tmp_path: Path):
    image_row = photo(tmp_path, "a.jpg")
    preview(
        [replace(image_row, error_type="X", error="it died", error_stage="detect", detections=None)], tmp_path / "out"
    )
    assert data_of(tmp_path / "out")["cards"][0]["picture"] == "preview-files/00001.jpg"


def test_images_that_are_no_longer_available_are_cards_with_a_reason(tmp_path: Path):
    rows = [photo(tmp_path, f"{name}.jpg", found()) for name in ("gone", "cut", "longer", "resized", "fine")]
    (tmp_path / "gone.jpg").unlink()
    (tmp_path / "cut.jpg").write_bytes(b"")
    with (tmp_path / "longer.jpg").open("ab") as file:
        file.write(b"more")
    picture(tmp_path / "resized.jpg", 61, 40)
    rows[3] = replace(rows[3], bytes=(tmp_path / "resized.jpg").stat().st_size)
    report = preview(rows, tmp_path / "out")
    cards = data_of(tmp_path / "out")["cards"]
    assert ["missing" in card for card in cards] == [True, True, True, True, False]
    assert tells(cards[3]["missing"], "61 x 40", "60 x 40")
    (note,) = report.warnings
    assert tells(note, "4", "read", "page")
    assert report.images == 5


def test_an_earlier_preview_is_replaced_and_its_images_are_deleted(tmp_path: Path):
    rows = [photo(tmp_path / "in", f"{n}.jpg", found()) for n in range(3)]
    preview(rows, tmp_path / "out")
    (tmp_path / "out" / "preview-files" / "notes.txt").write_text("mine")
    preview(rows[:1], tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == ["index.html", "preview-files/00001.jpg", "preview-files/notes.txt"]


def test_a_page_that_is_not_a_preview_is_not_overwritten(tmp_path: Path):
    (tmp_path / "index.html").write_text("<title>My site</title>")
    with pytest.raises(ExportError, match=facts("index.html", "folder")):
        preview([row("a.jpg")], tmp_path)
    assert (tmp_path / "index.html").read_text() == "<title>My site</title>"


def test_no_page_is_written_if_images_cannot_be_written(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "preview-files").write_text("a file where the folder should be")
    with pytest.raises(
        Exception, match=facts(f"{tmp_path}/out/preview-files|{tmp_path}/out/preview-files/00001.jpg", "write|written")
    ):
        preview([photo(tmp_path, "a.jpg")], tmp_path / "out")
    assert not (tmp_path / "out" / "index.html").exists()


def test_progress_is_reported_after_each_image(tmp_path: Path):
    rows = [photo(tmp_path, f"{n}.jpg") for n in range(3)]
    told: list[tuple[int, int]] = []
    write_preview(
        OPEN_INFO,
        ListedRows(rows),
        str(tmp_path / "out"),
        PreviewOptions(),
        STORAGE,
        progress=lambda done, of: told.append((done, of)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("preview")]


def test_an_unknown_class_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ConfigError, match=facts("'Dgo'", "'Dog'")):
        preview([row("a.jpg")], tmp_path / "out", info=INFO, include_class=("Dgo",))
    assert not (tmp_path / "out").exists()


def test_a_class_map_renames_and_an_exclusion_removes(tmp_path: Path):
    rows = [photo(tmp_path, "a.jpg", found("Dog"), found("Cat", category_id=2, mid="/m/01yrx"))]
    preview(rows, tmp_path / "out", info=INFO, class_map={"Dog": "pet"}, exclude_class=("Cat",))
    assert [entry["name"] for entry in data_of(tmp_path / "out")["classes"]] == ["pet"]


def test_a_run_without_images_gives_an_empty_page(tmp_path: Path):
    report = preview([], tmp_path / "out")
    assert (report.images, data_of(tmp_path / "out")["cards"]) == (0, [])


def test_images_and_preview_may_be_in_object_storage(tmp_path: Path, s3_server: S3Server):
    bucket, storage = s3_server.new_bucket(), Storage(s3_server.options)
    s3_server.put(bucket, "photos/a.jpg", picture(tmp_path / "a.jpg").read_bytes())
    image_row = row("a.jpg", found(), height=40, width=60, uri=f"s3://{bucket}/photos/a.jpg")
    report = write_preview(OPEN_INFO, ListedRows([image_row]), f"s3://{bucket}/out", PreviewOptions(), storage)
    assert report.warnings == ()
    assert storage.names(f"s3://{bucket}/out").keys() == {"index.html"}
    assert storage.names(f"s3://{bucket}/out/preview-files").keys() == {"00001.jpg"}


def webp(path: Path, exif_orientation: int) -> Path:
    """Stored 60 x 40, the left half red, the right half blue; browsers do not rotate it."""
    image = Image.new("RGB", (60, 40), RIGHT)
    image.paste(LEFT, (0, 0, 30, 40))
    exif = Image.Exif()
    exif[274] = exif_orientation
    image.save(path, "WEBP", lossless=True, exif=exif)
    return path


def test_renditions_boxes_and_sizes_are_in_the_browser_frame(tmp_path: Path):
    # The detector saw 40 x 60 with red on top; browsers show 60 x 40 with red on the left.
    path = webp(tmp_path / "a.webp", 6)
    upright = row("a.webp", found(xyxy=(0, 0, 40, 30)), height=60, width=40, uri=str(path))
    plain = photo(tmp_path, "b.jpg", found(xyxy=(0, 0, 30, 40)))
    report = preview([replace(upright, exif_orientation=6, browser_orientation=1), plain], tmp_path / "out")
    assert told(report.warnings, "1 of 2", "'a.webp'")
    with Image.open(tmp_path / "out" / "preview-files" / "00001.jpg") as image:
        assert image.size == (60, 40)
        left, right = image.getpixel((5, 20)), image.getpixel((55, 20))
    assert max(abs(a - b) for a, b in zip((*left, *right), (*LEFT, *RIGHT), strict=True)) < 12
    turned, other = data_of(tmp_path / "out")["cards"]
    assert (turned["w"], turned["h"], turned["exif"], turned["browser"]) == (60, 40, 6, 1)
    assert turned["detections"][0][2:6] == other["detections"][0][2:6] == [0, 0, 30, 40]
    assert "browser" not in other
