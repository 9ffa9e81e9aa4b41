"""The command, the files that it writes and the page: hostile names, rotated images, images that are gone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import prelabel
from prelabel.cli import main
from prelabel.detections import ClassName
from prelabel.errors import ConfigError
from prelabel.store.rows import ImageRow
from tests.difference.conftest import Runs
from tests.fusion.conftest import DOG
from tests.messages import telling, tells
from tests.rows import found, mask_of, row

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "diff.schema.json").read_text())
EVIL = "<img src=x onerror=alert(1)>\u202e.jpg"


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["diff", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
    return result.output


def photo(folder: Path, name: str, *detected: dict[str, Any], exif: int = 1) -> ImageRow:
    """A row of a photo of 60 x 40 pixels (as displayed) on this disk."""
    size = (60, 40) if exif < 5 else (40, 60)
    tags = Image.Exif()
    tags[0x0112] = exif
    path = folder / "photo.jpg"
    Image.fromarray(np.full((*size[::-1], 3), 90, np.uint8)).save(path, exif=tags)
    made = row(name, *detected, height=40, width=60, uri=str(path))
    return replace(made, bytes=path.stat().st_size, exif_orientation=exif, browser_orientation=exif)


@pytest.fixture
def two(runs: Runs, tmp_path: Path) -> Runs:
    classes = (DOG, ClassName(2, "<b>cat</b>"))
    cat = {"label": "<b>cat</b>", "mid": "", "category_id": 2}
    runs.run(
        "a", photo(tmp_path, EVIL, found(xyxy=(0, 0, 20, 20)), found(xyxy=(30, 0, 50, 20), **cat)), classes=classes
    )
    runs.run("b", photo(tmp_path, EVIL, found(xyxy=(0, 0, 20, 14), score=0.7)), classes=classes)
    return runs


def test_the_command_prints_tables_and_writes_valid_json_and_the_page(two: Runs):
    text = call(two.folder / "a", two.folder / "b")
    assert tells(text, "100%", "moved", "vanished", "a-net-1", "b-net-1", str(two.folder / "b" / "diff" / "diff.json"))
    written = json.loads((two.folder / "b" / "diff" / "diff.json").read_text())
    jsonschema.validate(written, SCHEMA)
    assert written["detections"]["share"] == 1
    (image,) = written["most_changed"]
    assert image["image_id"] == EVIL
    assert [(change["kind"], change["iou"]) for change in image["changes"]] == [("moved", 0.7), ("vanished", None)]
    assert image["changes"][0]["b"] == {"label": "Dog", "score": 0.7, "xyxy": [0, 0, 20, 14]}
    printed = call(two.folder / "a", two.folder / "b", "--json", "--to", two.folder / "other")
    assert json.loads(printed) == written
    assert prelabel.verify(two.folder / "b", progress=False).complete


def test_the_exit_code_tells_whether_too_much_changed(two: Runs):
    places = two.folder / "a", two.folder / "b", "--include-class", "Dog"
    call(*places, "--kept-iou", "0.7", "--fail-above", "0")
    out = call(*places, "--fail-above", "0.99", code=3)
    assert tells(out, "--fail-above", "0.99")
    assert (two.folder / "b" / "diff" / "diff.html").is_file()
    assert json.loads((two.folder / "b" / "diff" / "diff.json").read_text())["detections"]["exceeds"]


def test_python_returns_the_figures(two: Runs):
    summary = prelabel.diff(two.folder / "a", two.folder / "b", fail_above=0.5, progress=False)
    assert (summary.images, summary.changed_images, summary.in_a, summary.in_b) == (1, 1, 2, 1)
    assert summary.changes == {**dict.fromkeys(summary.changes, 0), "moved": 1, "vanished": 1}
    assert summary.changes_by_class["Dog"]["moved"] == 1
    assert (summary.share, summary.exceeds) == (1.0, True)
    assert summary.mean_score_shift == pytest.approx(-0.2)
    assert summary.most_changed == {EVIL: 3}
    assert [Path(file).name for file in summary.files] == ["diff.json", "diff.html"]


def test_names_never_become_markup_and_the_page_loads_nothing(two: Runs):
    call(two.folder / "a", two.folder / "b")
    html = (two.folder / "b" / "diff" / "diff.html").read_text()
    assert not re.search("onerror[^<]*>|<b>|\u202e", html.replace("&lt;", ""))
    assert "&lt;b&gt;cat&lt;/b&gt;" in html
    policy = re.search('Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert "default-src 'none'" in policy[1].replace("&#x27;", "'")
    assert "img-src data:;" in policy[1]
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
    # The picture is there once, and the right side refers to it.
    assert html.count("data:image/jpeg;base64,") == html.count('<use href="#p1"') == 1


def test_boxes_fit_on_the_picture_as_browsers_show_it(runs: Runs, tmp_path: Path):
    """The file is rotated, but browsers would not rotate it: the picture is 40 x 60, and boxes are rotated."""
    detected = found(xyxy=(10, 0, 30, 5))
    rows = [replace(photo(tmp_path, "x.jpg", *each, exif=6), browser_orientation=1) for each in ([detected], [])]
    runs.run("a", rows[0])
    runs.run("b", rows[1])
    call(runs.folder / "a", runs.folder / "b")
    html = (runs.folder / "b" / "diff" / "diff.html").read_text()
    assert html.count('viewBox="0 0 40 60"') == 2
    assert '<rect x="0" y="30" width="5" height="20" class="changed"' in html


def test_masks_are_drawn_as_browsers_show_them(runs: Runs, tmp_path: Path):
    top = mask_of(*["#" * 60] * 10, *["." * 60] * 30)
    detected = found(xyxy=(0, 0, 60, 10), mask=top)
    runs.run("a", replace(photo(tmp_path, "x.jpg", detected, exif=6), browser_orientation=1), masks=True)
    runs.run("b", replace(photo(tmp_path, "x.jpg", exif=6), browser_orientation=1), masks=True)
    call(runs.folder / "a", runs.folder / "b")
    html = (runs.folder / "b" / "diff" / "diff.html").read_text()
    # The top of the image is the left of the file.
    assert re.findall('<path d="([^"]*)"', html) == ["M0 0l10 0 0 60-10 0z"]
    wrong = photo(tmp_path, "x.jpg", found(xyxy=(0, 0, 60, 10), mask="05"), exif=6)
    runs.run("wrong", replace(wrong, browser_orientation=1), masks=True)
    line = call(runs.folder / "wrong", runs.folder / "b", "--to", runs.folder / "report", code=1)
    assert tells(line, "x.jpg", "40 x 60")
    assert not (runs.folder / "report").exists()


def test_an_image_that_cannot_be_read_again_is_shown_without_its_picture(runs: Runs, tmp_path: Path):
    for name, detected in (("a", found()), ("b", found("Cat", category_id=2, mid="/m/01yrx"))):
        runs.run(name, replace(row("x.jpg", detected, uri=str(tmp_path / "gone.jpg")), bytes=7))
    text = call(runs.folder / "a", runs.folder / "b")
    assert tells(text, "1 image", "read again")
    html = (runs.folder / "b" / "diff" / "diff.html").read_text()
    assert "No picture:" in html
    assert "<image" not in html
    assert html.count('class="changed"') == 2


def test_nothing_is_written_if_the_runs_cannot_be_compared(two: Runs):
    two.run("other", row("other.jpg", found()))
    line = call(two.folder / "a", two.folder / "other", code=1)
    assert tells(line, "no image", "other.jpg")
    assert not (two.folder / "other" / "diff").exists()
    (two.folder / "file").write_text("")
    with pytest.raises(ConfigError, match=telling("file")):
        prelabel.diff(two.folder / "a", two.folder / "b", to=two.folder / "file", progress=False)
    assert tells(call(two.folder / "a", code=2), "RUN_B")
    assert tells(call(two.folder / "a", two.folder / "a", code=2), "twice")
    assert tells(call(two.folder / "a", two.folder / "b", "--fail-above", "2", code=2), "--fail-above", "2.0")
