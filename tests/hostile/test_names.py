"""Names that break things, from the source through everything that is written: unchanged, inert, and never outside."""

from __future__ import annotations

import contextlib
import io
import json
import re
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image
from pycocotools.coco import COCO

import prelabel
from prelabel.cli import main as command
from prelabel.errors import ExportError
from prelabel.export.base import RunInfo
from prelabel.export.cvat import CvatOptions, export_cvat
from prelabel.export.voc import VocOptions, export_voc
from prelabel.export.yolo import YoloOptions, export_yolo
from prelabel.image_ref import ImageRef
from prelabel.source.fetch import fetch
from prelabel.source.listing import list_images
from prelabel.storage.files import Storage
from prelabel.store.plan import Plan, write_plan
from tests.hostile.names import NAMES
from tests.messages import tells
from tests.rows import ListedRows, found, row
from tests.runs import write_run
from tests.s3 import S3Server

STORAGE = Storage()
INFO = RunInfo(detector="d", model_version="d-0")


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (240, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names") / "pho tos#1"
    folder.mkdir()
    for name in NAMES.values():
        (folder / name).write_bytes(picture())
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES.values())
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over them."""
    refs = list(list_images([str(photos)], STORAGE))
    rows = [row(ref.image_id, found(label="<b>&'\""), uri=ref.uri, height=6, width=8) for ref in refs]
    return Path(write_run(tmp_path_factory.mktemp("run") / "out", [rows]))


def stored(refs: list[ImageRef], folder: Path) -> list[ImageRef]:
    plan = write_plan(refs, str(folder), STORAGE, shard_size=7, plan_id="0" * 8)
    return list(Plan.open(str(folder), plan.parts, STORAGE))


def test_from_a_disk_names_are_unchanged_and_fetched(photos: Path, tmp_path: Path) -> None:
    refs = stored(list(list_images([str(photos)], STORAGE)), tmp_path)
    assert sorted(ref.image_id for ref in refs) == sorted(NAMES.values())
    for ref in refs:
        assert ref.uri == f"{photos}/{ref.image_id}"
        assert fetch(ref, STORAGE, 1 << 20) == picture()


def test_extracted_files_have_names_that_every_disk_and_tool_takes(run: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    assert prelabel.extract(run, to).images == len(NAMES)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "extracted.parquet"]
    assert len({path.name.casefold() for path in files}) == len(NAMES)
    assert all(path.read_bytes() == picture() and path.parent == to for path in files)
    assert not any(re.search(r'[\\:*?"<>|%#\x00-\x1f\ufffe]|^[. ]|[. ]$', path.name) for path in files)
    # Without extraction, XML cannot hold some of the names.
    report = prelabel.export_cvat(run, tmp_path / "x.xml", extracted=to)
    assert (report.images, report.dropped) == (len(NAMES), {})
    named = {image.get("name") for image in ET.parse(tmp_path / "x.xml").iter("image")}  # noqa: S314 - our own
    assert named == {path.name for path in files}


def test_from_a_bucket_names_are_unchanged_and_fetched(s3_server: S3Server, tmp_path: Path) -> None:
    bucket, storage = s3_server.new_bucket(), Storage(s3_server.options)
    # XML 1.0, in which S3 lists, cannot say these.
    names = [name for name in NAMES.values() if not re.search("[\x00-\x08\x0b-\x1f\ufffe\uffff\x85\x9b]", name)]
    for name in names:
        s3_server.put(bucket, f"in/{name}", picture())
    refs = stored(list(list_images([f"s3://{bucket}/in"], storage)), tmp_path)
    assert sorted(ref.image_id for ref in refs) == sorted(names)
    for ref in refs:
        assert fetch(ref, storage, 1 << 20) == picture()


def test_from_lists_names_are_unchanged(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "list.jsonl"
    file.write_text("".join(json.dumps({"uri": f"{photos}/{n}", "image_id": n}) + "\n" for n in NAMES.values()))
    refs = stored(list(list_images([str(file)], STORAGE)), tmp_path)
    assert [ref.image_id for ref in refs] == list(NAMES.values())
    for ref in refs:
        assert fetch(ref, STORAGE, 1 << 20) == picture()


def test_coco_keeps_names_and_pycocotools_reads_them(run: Path, tmp_path: Path) -> None:
    output = invoke("export", "coco", run, "--to", tmp_path / "coco.json")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "coco.json"))
    assert sorted(image["file_name"] for image in coco.dataset["images"]) == sorted(NAMES.values())
    assert coco.loadCats(coco.getCatIds())[0]["name"] == "<b>&'\""
    assert_inert_on_a_terminal(output)


def test_label_studio_tasks_quote_once_and_the_config_is_inert(run: Path, photos: Path, tmp_path: Path) -> None:
    output = invoke(
        *("export", "label-studio", run, "--to", tmp_path / "tasks"),
        *("--image-url", "https://images.example/{file_name}"),
    )
    tasks = [task for path in (tmp_path / "tasks").glob("*.json") for task in json.loads(path.read_text())]
    assert len(tasks) == len(NAMES)
    for task in tasks:
        url = urlsplit(task["data"]["image"])
        assert url.query == url.fragment == ""
        assert unquote(url.path[1:]) == task["data"]["image_id"]
        assert task["data"]["image"].isascii()
        assert task["data"]["image"].isprintable()
    assert sorted(task["data"]["image_id"] for task in tasks) == sorted(NAMES.values())
    assert_inert_on_a_terminal(output)


def test_a_config_with_markup_in_labels_is_xml_that_says_the_label(tmp_path: Path) -> None:
    label = "<b>&'\" ]]> <!-- --> {x}"
    out = write_run(tmp_path / "out", [[row("a.png", found(label=label), height=6, width=8)]])
    invoke("export", "label-studio", out, "--to", tmp_path / "tasks")
    labels = [element.get("value") for element in ET.parse(tmp_path / "tasks/label_config.xml").iter("Label")]  # noqa: S314
    assert labels == [label]


def test_the_preview_shows_names_as_text(run: Path, tmp_path: Path) -> None:
    output = invoke("preview", run, "--to", tmp_path / "look")
    page = (tmp_path / "look/index.html").read_text()
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page
    assert "<b>&'" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", page)
    assert {path.name for path in (tmp_path / "look").rglob("*.jpg")} == {
        *(f"{number:05d}.jpg" for number in range(1, len(NAMES) + 1)),
    }
    assert_inert_on_a_terminal(output)


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "a/../../b.png", "a\0b.png", "a/../b.png"])
@pytest.mark.parametrize(
    ("exporter", "options"),
    [
        (export_yolo, YoloOptions(image_files="copy")),
        (export_voc, VocOptions(image_files="copy")),
        (export_yolo, YoloOptions(image_files="link")),
    ],
)
def test_nothing_is_written_outside_of_a_folder(exporter, options, name: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "image.png").write_bytes(picture())
    before = sorted(tmp_path.rglob("*"))
    image_row = row(name, found(), uri=str(tmp_path / "image.png"), height=6, width=8)
    with contextlib.suppress(ExportError):
        exporter(INFO, ListedRows([image_row]), str(tmp_path / "to"), options, STORAGE)
    after = [path for path in sorted(tmp_path.rglob("*")) if tmp_path / "to" not in (path, *path.parents)]
    assert after == before
    assert not Path("/etc/a.png").exists()


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_images_with_odd_names_are_copied_into_the_folder(form: str, run: Path, tmp_path: Path) -> None:
    if form == "voc":
        pytest.skip("labels that VOC cannot hold are refused as a whole")
    output = invoke("export", form, run, "--to", tmp_path / "to", "--image-files", "copy")
    copied = {path.name for path in (tmp_path / "to/images/train").iterdir()}
    listed = (tmp_path / "to/train.txt").read_text().splitlines()
    assert len(copied) == len(listed)
    assert copied <= set(NAMES.values())
    assert len(copied) >= len(NAMES) - 3, sorted(set(NAMES.values()) - copied)
    assert_inert_on_a_terminal(output)


def test_cvat_xml_is_inert(run: Path, tmp_path: Path) -> None:
    rows = [row(name, found(label="dog"), height=6, width=8) for name in NAMES.values()]
    export_cvat(INFO, ListedRows(rows), str(tmp_path / "a.xml"), CvatOptions(), STORAGE)
    names = [image.get("name") for image in ET.parse(tmp_path / "a.xml").iter("image")]  # noqa: S314
    assert set(names) <= set(NAMES.values())
    assert len(names) >= len(NAMES) - 3


def test_a_cvat_zip_holds_one_file_whatever_images_are_called(tmp_path: Path) -> None:
    slipping = ["../a.png", "../../etc/cron.d/a", "/etc/a.png", "a/../../b.png", "..\\..\\a.png", "annotations.xml"]
    no_xml = ["a\0b.png", "\x1b[31m.png", "a\ufffe.png"]
    kept = [*slipping, *(name for name in NAMES.values() if not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe]", name))]
    image_rows = [row(name, found(), height=6, width=8) for name in (*kept, *no_xml)]
    report = export_cvat(INFO, ListedRows(image_rows), str(tmp_path / "a.zip"), CvatOptions(zip=True), STORAGE)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["annotations.xml"]
        document = archive.read("annotations.xml")
    names = [image.get("name") for image in ET.fromstring(document).iter("image")]  # noqa: S314
    assert names == kept
    assert report.images == len(kept)
    ((reason, count),) = report.dropped.items()
    assert tells(reason, "names", "XML")
    assert count == len(no_xml)


def test_errors_about_such_names_are_inert_on_a_terminal(photos: Path, tmp_path: Path) -> None:
    for name in NAMES.values():
        output = invoke("verify", f"{tmp_path}/{name}", code=1)
        output += invoke("export", "coco", f"{tmp_path}/{name}", "--to", "x", code=1)
        output += invoke("inspect", f"{tmp_path}/{name}", code=2)
        assert_inert_on_a_terminal(output)
        assert len(output.splitlines()) == 3


def invoke(*arguments: object, code: int = 0) -> str:
    from click.testing import CliRunner

    done = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


def assert_inert_on_a_terminal(output: str) -> None:
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]", output), repr(output)
