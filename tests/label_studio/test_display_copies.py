"""Images that browsers do not show are counted; with --display-copies, the tasks show JPEGs that match the regions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import prelabel.label_studio.push as push_module
from prelabel.errors import ConfigError, ExportError
from prelabel.export.base import ExportReport
from prelabel.export.display_copies import NOT_SHOWN, copy_name
from prelabel.export.parallel import SpreadRows
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions, PushOptions
from prelabel.label_studio.push import push
from prelabel.processes import Processes
from prelabel.source.formats import IMAGE_EXTENSIONS
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import open_run
from tests.label_studio.fake_server import FakeServer
from tests.messages import facts, told
from tests.rows import INFO, failed_row, found, row, rows
from tests.runs import write_run

#: Red on the left half of the displayed image of 40 x 60 pixels (height x width).
DISPLAYED = np.zeros((40, 60, 3), np.uint8)
DISPLAYED[:, :30] = 255, 0, 0


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """`a.tif` is stored rotated, with orientation 6; `b.jpg` is shown by browsers."""
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    # Orientation 6 means: rotate by 90 degrees clockwise for display.
    Image.fromarray(np.rot90(DISPLAYED)).save(folder / "a.tif", exif=exif)
    Image.fromarray(DISPLAYED).save(folder / "b.jpg")
    return folder


def images(photos: Path) -> list[ImageRow]:
    box = found(xyxy=(0, 0, 30, 40))
    first = row("a.tif", box, height=40, width=60, uri=str(photos / "a.tif"))
    second = row("b.jpg", box, height=40, width=60, uri=str(photos / "b.jpg"))
    return [replace(first, exif_orientation=6, browser_orientation=6), second]


def export(tmp_path: Path, image_rows: Any, **options: Any) -> tuple[ExportReport, list[dict[str, Any]]]:
    chosen = LabelStudioOptions.of(**options)
    report = export_label_studio(INFO, image_rows, str(tmp_path / "out"), chosen, Storage())
    return report, json.loads((tmp_path / "out" / "tasks-00000.json").read_text())


def test_every_format_that_browsers_do_not_show_can_be_read() -> None:
    assert NOT_SHOWN <= IMAGE_EXTENSIONS


def test_images_that_browsers_do_not_show_are_counted(tmp_path: Path, photos: Path) -> None:
    image_rows = [*images(photos), row("c.TIFF"), row("d.psd"), failed_row("e.tif")]
    report, _ = export(tmp_path, rows(*image_rows), image_url="https://host/")
    assert told(report.warnings, "3 of 4 images", ".tif 1", ".tiff 1", ".psd 1", "browsers", "--display-copies")
    # If the URLs are those of a server that converts the images, they count as shown.
    report, _ = export(tmp_path, rows(*image_rows), image_url="https://host/{file_name}/full.jpg")
    assert not any("browsers" in warning for warning in report.warnings)
    report, _ = export(tmp_path, rows(*image_rows), image_url="/data/local-files/?d=photos/")
    assert told(report.warnings, "3 of 4 images", "--display-copies")


@pytest.mark.parametrize("processes", [1, 2])
def test_copies_have_the_display_orientation_and_only_tasks_that_need_them_show_them(
    tmp_path: Path, photos: Path, processes: int
) -> None:
    run = open_run(write_run(tmp_path / "run", [[image] for image in images(photos)]), Storage())
    copies = tmp_path / "copies"
    with Processes(processes) as several:
        spread = SpreadRows(run.rows, several)
        report, tasks = export(tmp_path, spread, display_copies=str(copies), document_root=str(tmp_path))
    (file,) = copies.iterdir()
    assert [task["data"]["image"] for task in tasks] == [
        f"/data/local-files/?d=copies/{file.name}",
        "/data/local-files/?d=photos/b.jpg",
    ]
    assert [task["data"]["file_name"] for task in tasks] == ["a.tif", "b.jpg"]
    assert f"{copies}/" in report.files
    assert told(report.warnings, "1 of 2 images", ".tif 1", "JPEG", "quality 92", str(copies))
    with Image.open(file) as copy:
        assert (copy.format, copy.size, copy.getexif()) == ("JPEG", (60, 40), Image.Exif())
        difference = np.abs(np.asarray(copy).astype(int) - DISPLAYED)
    assert difference[:, :28].max() < 16
    assert difference[:, 32:].max() < 16
    for task in tasks:
        (region,) = task["predictions"][0]["result"]
        assert [region["value"][key] for key in ("x", "y", "width", "height")] == [0, 0, 50, 100]
        assert (region["original_width"], region["original_height"]) == (60, 40)


def test_a_push_shows_copies_too(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer()
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "token")
    monkeypatch.setattr(push_module, "Server", lambda url, token: server)
    to = f"memory://copies-{tmp_path.name}"
    options = PushOptions(url="http://fake", project="x", image_url="https://host/", display_copies=to)
    with pytest.raises(ExportError, match=facts("memory", "--image-url|image-url")):
        push(INFO, rows(*images(photos)), options, Storage())
    options = replace(options, display_copies=str(tmp_path / "copies"))
    report = push(INFO, rows(*images(photos)), options, Storage())
    urls = [task.data["image"] for task in server.held.values()]
    assert urls == [f"/data/local-files/?d=copies/{copy_name(images(photos)[0])}", "https://host/b.jpg"]
    assert told(report.warnings, "1 of 2 images", "JPEG")
    # The copy is the same task as the image: a push without copies finds it.
    without_copies = replace(options, display_copies="")
    assert push(INFO, rows(*images(photos)), without_copies, Storage()).sent.unchanged == 2


def test_storages_are_created_for_copies_and_for_images(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FakeServer()
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "token")
    monkeypatch.setattr(push_module, "Server", lambda url, token: server)
    options = PushOptions(
        url="http://fake", project="x", display_copies=str(tmp_path / "copies"), document_root=str(tmp_path)
    )
    images_only = replace(images(photos)[1], file_name="photos/b.jpg")
    report = push(INFO, rows(images(photos)[0], images_only), options, Storage())
    assert told(report.warnings, "not shown", "--create-storage")
    push(INFO, rows(images(photos)[0], images_only), replace(options, create_storage=True), Storage())
    assert [fields["path"] for fields in server.created["local"]] == [f"{tmp_path}/copies", f"{tmp_path}/photos"]


def test_copies_of_images_from_signed_links_are_refused(tmp_path: Path, photos: Path) -> None:
    options = LabelStudioOptions(display_copies=str(tmp_path / "copies"))
    with pytest.raises(ConfigError, match=facts("--display-copies", "2 images", "signed", "--extracted")):
        export_label_studio(replace(INFO, signed=2), rows(*images(photos)), str(tmp_path / "out"), options, Storage())
    assert not (tmp_path / "copies").exists()


def test_names_of_copies_are_safe_and_unique() -> None:
    names = ["a.tif", "x/a.tif", "../../etc/passwd.tif", "a\nb?#%.tif", "\u72d7.tif", "." * 300 + ".tif"]
    copies = [copy_name(row(name)) for name in names]
    assert len(set(copies)) == len(names)
    for name in copies:
        assert name.isascii()
        assert not set(name) & set("/\\?#%\n ")
        assert not name.startswith(".")
        assert len(name) < 100


def test_missing_or_changed_images_end_the_export(tmp_path: Path, photos: Path) -> None:
    first, second = images(photos)
    gone = replace(first, uri=str(photos / "gone.tif"))
    options = {"display_copies": str(tmp_path / "copies"), "document_root": str(tmp_path)}
    with pytest.raises(ExportError, match=facts("'a.tif'", "display copy")):
        export(tmp_path, rows(gone, second), **options)
    other = row("a.tif", height=4, width=6, uri=str(photos / "a.tif"))
    with pytest.raises(ExportError, match=facts("'a.tif'", "60 x 40", "6 x 4")):
        export(tmp_path, rows(other), **options)


def test_copies_in_a_folder_where_they_would_do_harm_are_refused(tmp_path: Path, photos: Path) -> None:
    image_rows = rows(*images(photos))
    with pytest.raises(ConfigError, match=facts("--display-copies", "sync")):
        export(tmp_path, image_rows, layout="sync", display_copies=str(tmp_path / "out" / "tasks" / "x"))
    info = replace(INFO, task_numbers=True)
    options = LabelStudioOptions(layout="predictions", display_copies="x")
    with pytest.raises(ConfigError, match=facts("--display-copies", "tasks")):
        export_label_studio(info, image_rows, str(tmp_path / "out"), options, Storage())
