"""Images of a run as files: exact copies from every kind of source, turned ones in the right frame, exports of both."""

from __future__ import annotations

import io
import json
import re
import unicodedata
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import prelabel
from prelabel.cli import main
from prelabel.engine.reader import Reader
from prelabel.engine.shard import label_shard
from prelabel.errors import ConfigError, ExportError, StoreError
from prelabel.export.extract import ExtractOptions, extract_images
from prelabel.export.file_names import DistinctStems, name_key, safe_stem
from prelabel.source.listing import list_images
from prelabel.storage.files import Storage
from prelabel.store.extracted import read_record, write_record
from prelabel.store.run import Run, open_run
from tests.archives import compressed, ranged_web, tar_of
from tests.engine.fakes import BrightestCorner
from tests.engine.test_shard import SETTINGS
from tests.label_studio.fake_server import FakeServer
from tests.messages import CHANGED, facts, telling, tells, told
from tests.runs import write_run
from tests.s3 import S3Server
from tests.source.oriented import EXIF, exif
from tests.tfrecords import tfrecord_of

STORAGE = Storage()


def image(kind: str, bright: tuple[int, int] = (0, 0), **options: Any) -> bytes:
    """A black image of 16 x 32 pixels (height x width) with a white square of 8 x 8 pixels."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    x, y = bright
    pixels[y : y + 8, x : x + 8] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


A, B, C = image("JPEG"), image("PNG", (8, 0)), image("JPEG", (16, 8))
MEMBERS = {"a.jpg": A, "cats/b.PNG": B, "cats/c.dat.jpeg": C}


def label(folder: Path, *sources: str, shard_size: int = 2, storage: Storage = STORAGE) -> Run:
    """A finished run of these sources."""
    settings = replace(SETTINGS, storage=storage)
    rows = label_shard(list(list_images(list(sources), storage)), Reader(settings), BrightestCorner())
    shards = [rows[start : start + shard_size] for start in range(0, len(rows), shard_size)]
    return replace(open_run(write_run(folder / "run", shards), STORAGE), storage=storage)


def folder_of(folder: Path, members: Mapping[str, bytes] = MEMBERS) -> str:
    for name, data in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return str(folder)


def run_of(tmp_path: Path, members: Mapping[str, bytes] = MEMBERS, **options: Any) -> Run:
    return label(tmp_path, folder_of(tmp_path / "photos", members), **options)


def extract(run: Run, to: Path | str, **options: Any) -> Any:
    return extract_images(run, str(to), ExtractOptions.of(**options), lambda done, total: None)


def files(folder: Path) -> dict[str, bytes]:
    """All files, without the record."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found.pop("extracted.parquet")
    return found


def record(folder: Path) -> list[tuple[str, str]]:
    rows = pq.read_table(folder / "extracted.parquet").to_pylist()
    return [(entry["image_id"], entry["uri"]) for entry in rows]


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["extract", *map(str, arguments)])


def source(tmp_path: Path, kind: str) -> str:
    """The images as a source of this kind."""
    path = tmp_path / f"a.{kind}"
    if kind == "folder":
        return folder_of(tmp_path / "photos")
    if kind == "csv":
        folder_of(tmp_path / "photos")
        path.write_text("uri,image_id\n" + "".join(f"photos/{name},{name}\n" for name in MEMBERS))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in MEMBERS.items():
                archive.writestr(name, data)
    elif kind == "parquet":
        pq.write_table(pa.table({"image": [{"bytes": data, "path": name} for name, data in MEMBERS.items()]}), path)
    elif kind == "tfrecord":
        path.write_bytes(tfrecord_of(MEMBERS))
    else:
        data = tar_of(MEMBERS)
        path.write_bytes(compressed(data, "gzip") if kind == "tar.gz" else data)
    return str(path)


@pytest.mark.parametrize("kind", ["folder", "csv", "tar", "tar.gz", "zip", "parquet", "tfrecord"])
def test_images_of_any_source_become_files_byte_by_byte(tmp_path: Path, kind: str) -> None:
    run = label(tmp_path, source(tmp_path, kind))
    report = extract(run, tmp_path / "to")
    names = list(MEMBERS) if kind in ("folder", "csv") else [f"a.{kind}/{name}" for name in MEMBERS]
    ids = names
    if kind == "parquet":
        ids, names = [f"a.parquet/{n}" for n in range(3)], ["a.parquet/0.jpg", "a.parquet/1.png", "a.parquet/2.jpg"]
    assert files(tmp_path / "to") == dict(zip(names, MEMBERS.values(), strict=True))
    assert record(tmp_path / "to") == list(zip(ids, names, strict=True))
    assert (report.images, report.written, report.bytes) == (3, 3, len(A) + len(B) + len(C))
    assert (report.renamed, report.turned, report.failed, report.unextracted, report.warnings) == (0, 0, 0, (), ())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "to").rglob("*")}
    again = extract(run, tmp_path / "to")
    assert (again.images, again.written) == (3, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "to").rglob("*")} == before


def test_an_archive_is_read_with_one_request(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of({f"{n}.jpg": A for n in range(20)}))
    with ranged_web(tmp_path) as web:
        run = label(tmp_path, f"{web.url}/a.tar")
        web.requests.clear()
        assert extract(run, tmp_path / "to").written == 20
        assert len(web.requests) == 1


def test_files_have_the_extension_of_what_they_are(tmp_path: Path) -> None:
    members = {"png.jpg": B, "photo.jfif": A, "photo.JPEG": C, "photo.jpe": A, "photo.tif": image("TIFF")}
    extract(run_of(tmp_path, members), tmp_path / "to")
    names = dict(record(tmp_path / "to"))
    assert names["png.jpg"] == "png.png"
    assert names["photo.JPEG"] == "photo.JPEG"  # the first image of this name
    assert re.fullmatch(r"photo-[0-9a-f]{8}\.jpg", names["photo.jfif"])
    assert re.fullmatch(r"photo-[0-9a-f]{8}\.tif", names["photo.tif"])
    assert len(set(names.values())) == 5


HOSTILE = {
    "photos/a.jpg": "photos/a",
    "../x.jpg": "_/x",
    "a/../../../x.png": "a/_/_/_/x",
    "/etc/x.jpg": "etc/x",
    "//x.jpg": "x",
    "C:\\Windows\\x.jpg": "C__Windows_x",
    "c:x.jpg": "c_x",
    "a\0b\n.jpg": "a_b_",
    "a\u202eb.jpg": "a_b",
    "%2e%2e/x.jpg": "_2e_2e/x",
    "con.jpg": "_con",
    "Aux/LPT1.tar.jpg": "_Aux/_LPT1.tar",
    ".extracted/x.jpg": "_extracted/x",
    "extracted.parquet/0": "extracted.parquet_/0",
    "a.jpg/b.jpg": "a.jpg_/b",
    "a. /b .jpg": "a/b",
    "..": "_",
    "": "_",
    "v1.2": "v1.2",
    "e\u0301.jpg": "\u00e9",
    "x" * 400 + ".jpg": "x" * 150,
    "\u6f22" * 100: "\u6f22" * 50,
    "f/" * 2000 + "x.jpg": "long-names/x",
}


@pytest.mark.parametrize("image_id", HOSTILE)
def test_a_stem_is_a_valid_path_below_the_folder(image_id: str) -> None:
    assert safe_stem(image_id) == HOSTILE[image_id]
    assert safe_stem(HOSTILE[image_id]) == HOSTILE[image_id]


def test_stems_differ_on_disks_that_ignore_case_and_accents_forms() -> None:
    ids = ["a.jpg", "A.jpg", "a.png", "\u00e9.jpg", "e\u0301.jpg", "E\u0301.jpg", "x/../a", "x/_/a", "../a", "_/a"]
    names = DistinctStems()
    stems = [names.stem(image_id) for image_id in ids]
    assert len({unicodedata.normalize("NFD", stem.casefold()) for stem in stems}) == len(ids)
    assert [stem for stem in stems if "-" not in stem] == ["a", "\u00e9", "x/_/a", "_/a"]
    # A name that was made to be taken is avoided, too.
    again = DistinctStems()
    again.stem(stems[1])
    assert again.stem("a.jpg") == "a"
    assert re.fullmatch(r"A-[0-9a-f]{16}", again.stem("A.jpg"))
    assert name_key("\u00c9") == name_key("e\u0301")


def test_hostile_names_stay_below_the_prefix(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(A)
    rows = label_shard(list(list_images([str(tmp_path / "a.jpg")], STORAGE)), Reader(SETTINGS), BrightestCorner())
    named = [replace(rows[0], image_id=image_id, file_name=image_id) for image_id in HOSTILE if image_id]
    run = open_run(write_run(tmp_path / "run", [named]), STORAGE)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    report = extract(run, tmp_path / "deep" / "er" / "to")
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert len(written) == len(named) + 1
    assert all(path.is_relative_to(tmp_path / "deep" / "er" / "to") for path in written)
    assert {path.suffix for path in written} == {".jpg", ".parquet"}
    assert [image_id for image_id, _ in record(tmp_path / "deep" / "er" / "to")] == [row.image_id for row in named]
    assert told(report.warnings, "renamed", str(report.renamed), "extracted.parquet")


class Crash(BaseException):
    """As if the process ended."""


@pytest.mark.parametrize(("ends", "rest"), [("by an error", 6), ("at once", 7)])
def test_a_call_that_was_stopped_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, rest: int
) -> None:
    run = run_of(tmp_path, {f"{n}.png": image("PNG", (n, 0)) for n in range(10)})
    to, publish, written = tmp_path / "to", Storage.publish, list[str]()

    def stop_after_four(storage: Storage, url: Any, data: bytes) -> None:
        if str(url).endswith(".png"):
            if len(written) >= 4:
                raise Crash
            written.append(str(url))
        publish(storage, url, data)

    with monkeypatch.context() as patch:
        patch.setattr("prelabel.export.extract._THREADS", 1)
        patch.setattr("prelabel.export.extraction_record._PART_FILES", 3)
        patch.setattr(Storage, "publish", stop_after_four)
        if ends == "at once":
            patch.setattr("prelabel.export.extract._Files.give_up", lambda files: None)
        with pytest.raises(Crash):
            extract(run, to)
    assert not (to / "extracted.parquet").exists()
    with pytest.raises(ConfigError, match=facts("--extracted", "extracted.parquet", "prelabel extract")):
        prelabel.export_coco(run, tmp_path / "x.json", extracted=to)
    report = extract(run, to)
    assert (report.images, report.written) == (10, rest)
    assert [uri for _, uri in record(to)] == [f"{n}.png" for n in range(10)]
    assert not list((to / ".extracted").iterdir())
    # A file that was lost or cut is written again.
    (to / "3.png").unlink()
    (to / "4.png").write_bytes(b"cut")
    assert extract(run, to).written == 2
    assert files(to) == {f"{n}.png": image("PNG", (n, 0)) for n in range(10)}


def test_lists_of_images_add_up_and_names_do_not_depend_on_them(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"a.JPG": A, "a.png": B, "b.png": B, "c.jpg": C})
    (tmp_path / "list.csv").write_text("image_id,part\nc.jpg,\na.png,work\n")
    to = tmp_path / "to"
    assert extract(run, to, images=str(tmp_path / "list.csv"), part="work").images == 1
    second = record(to)[0][1]
    assert second.startswith("a-")
    assert extract(run, to, images=str(tmp_path / "list.csv")).written == 1
    assert record(to) == [("a.png", second), ("c.jpg", "c.jpg")]
    with pytest.raises(StoreError, match=telling("'a.JPG'", "1 more", "prelabel extract", "--images")):
        prelabel.export_coco(run, tmp_path / "x.json", extracted=to)
    report = prelabel.export_coco(run, tmp_path / "x.json", extracted=to, images=tmp_path / "list.csv")
    assert report.images == 2
    assert [entry["file_name"] for entry in json.loads((tmp_path / "x.json").read_text())["images"]] == [
        second,
        "c.jpg",
    ]
    assert extract(run, to).written == 2
    assert prelabel.export_coco(run, tmp_path / "x.json", extracted=to).images == 4


def test_images_that_have_changed_are_named_and_not_written(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    changed = bytearray(A)
    changed[-3] ^= 1  # the same size
    (tmp_path / "photos" / "a.jpg").write_bytes(changed)
    (tmp_path / "photos" / "cats" / "b.PNG").unlink()
    result = command(run.root, "--to", tmp_path / "to")
    assert result.exit_code == 1
    assert re.search(telling("a.jpg", CHANGED), result.output)
    assert re.search(telling("cats/b.PNG", "not found"), result.output)
    assert tells(result.output.splitlines()[-1], "2 of 3")
    assert files(tmp_path / "to") == {"cats/c.dat.jpeg": C}
    with pytest.raises(StoreError, match=telling("'a.jpg'", "1 more")):
        prelabel.export_coco(run, tmp_path / "x.json", extracted=tmp_path / "to")
    values = json.loads(command(run.root, "--to", tmp_path / "to", "--json").stdout.rpartition("}")[0] + "}")
    assert [entry["image_id"] for entry in values["unextracted"]] == ["a.jpg", "cats/b.PNG"]
    assert values["images"] == 1
    folder_of(tmp_path / "photos")
    assert extract(run, tmp_path / "to").written == 2


def test_an_image_that_was_labeled_again_is_extracted_again(tmp_path: Path) -> None:
    run, to = run_of(tmp_path), tmp_path / "to"
    extract(run, to)
    (tmp_path / "photos" / "a.jpg").write_bytes(C)
    later = run_of(tmp_path, {**MEMBERS, "a.jpg": C})
    with pytest.raises(StoreError, match=telling("'a.jpg'", CHANGED, "prelabel extract")):
        prelabel.export_coco(later, tmp_path / "x.json", extracted=to)
    assert not (tmp_path / "x.json").exists()
    assert extract(later, to).written == 1
    assert (to / "a.jpg").read_bytes() == C
    assert prelabel.export_coco(later, tmp_path / "x.json", extracted=to).images == 3


def test_failed_images_are_counted_and_need_no_file(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"a.jpg": A, "broken.jpg": A[:100]})
    report = extract(run, tmp_path / "to")
    assert (report.images, report.failed, report.complete) == (1, 1, True)
    assert record(tmp_path / "to") == [("a.jpg", "a.jpg")]
    assert prelabel.export_coco(run, tmp_path / "x.json", extracted=tmp_path / "to").failed == 1
    with pytest.raises(ConfigError, match=facts("--include-failed", "--extracted")):
        prelabel.export_label_studio(run, tmp_path / "t", extracted=tmp_path / "to", include_failed=True)


def test_only_files_of_an_extraction_are_replaced(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"a.jpg": image("JPEG", exif=EXIF + exif(6))})
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.jpg").write_bytes(B)
    for folder in ("photos", "link", "mine"):
        before = (tmp_path / folder / "a.jpg").read_bytes()
        with pytest.raises(ConfigError, match=facts(folder, "'a.jpg'", "empty folder")):
            extract(run, tmp_path / folder, upright=True)
        assert (tmp_path / folder / "a.jpg").read_bytes() == before
    for folder in ("run", "run/shards"):
        with pytest.raises(ConfigError, match=facts("run", "choose another")):
            extract(run, tmp_path / folder)


def test_a_call_that_was_killed_at_its_first_file_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, to = run_of(tmp_path), tmp_path / "to"
    publish = Storage.publish

    def killed(storage: Storage, url: Any, data: bytes) -> None:
        publish(storage, url, data)
        if not str(url).endswith(".parquet"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Storage, "publish", killed)
    monkeypatch.setattr("prelabel.export.extract._Files.give_up", lambda _: None)  # as after SIGKILL
    with pytest.raises(KeyboardInterrupt):
        extract(run, to)
    monkeypatch.undo()
    assert extract(run, to).images == 3
    assert sorted(files(to).values()) == sorted(MEMBERS.values())


def test_a_folder_has_the_images_of_one_run_and_serves_others_over_the_same_images(tmp_path: Path) -> None:
    run, to = run_of(tmp_path), tmp_path / "to"
    extract(run, to)
    other = open_run(write_run(tmp_path / "other", [list(run.rows())], run_id="f" * 32), STORAGE)
    with pytest.raises(ConfigError, match=facts("another run", "01234567", "--extracted")):
        extract(other, to)
    assert prelabel.export_coco(other, tmp_path / "x.json", extracted=to).images == 3
    strange = replace(next(iter(run.rows())), sha256="0" * 64)
    stranger = open_run(write_run(tmp_path / "stranger", [[strange]], run_id="e" * 32), STORAGE)
    with pytest.raises(StoreError, match=telling("'a.jpg'", "not the (one|image)", "another folder")):
        prelabel.export_coco(stranger, tmp_path / "x.json", extracted=to)


def test_a_record_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    run, to = run_of(tmp_path), tmp_path / "to"
    extract(run, to)
    table, run_id = read_record(str(to / "extracted.parquet"), STORAGE) or (None, "")
    uris = pa.array(["../photos/a.jpg", "/etc/passwd", "cats/c.dat.jpeg"])
    write_record(str(to / "extracted.parquet"), STORAGE, table.set_column(1, "uri", uris), run_id)
    with pytest.raises(StoreError, match=facts("../photos/a.jpg", "not a path below")):
        prelabel.export_coco(run, tmp_path / "x.json", extracted=to)
    assert extract(run, to).written == 2
    assert prelabel.export_coco(run, tmp_path / "x.json", extracted=to).images == 3


# --- exports of the files ---------------------------------------------------------------------------------------------


def urls_of(folder: Path) -> list[str]:
    return [task["data"]["image"] for task in json.loads((folder / "tasks-00000.json").read_text())]


def test_exports_name_the_files(tmp_path: Path) -> None:
    (tmp_path / "a b.tar").write_bytes(tar_of({"c#.jpg": A, "d": B, "e.jpg": b""}))
    run = label(tmp_path, str(tmp_path / "a b.tar"), shard_size=1)
    to = tmp_path / "to"
    extract(run, to)
    names = ["a b.tar/c_.jpg"]
    prelabel.export_coco(run, tmp_path / "x.json", extracted=to)
    (entry,) = json.loads((tmp_path / "x.json").read_text())["images"]
    assert (entry["file_name"], entry["image_id"]) == (names[0], "a b.tar/c#.jpg")
    prelabel.export_cvat(run, tmp_path / "x.xml", extracted=to)
    root = ET.fromstring((tmp_path / "x.xml").read_text())  # noqa: S314 - our own
    assert [element.get("name") for element in root.iter("image")] == names

    with pytest.raises(ExportError, match=telling("prelabel extract", "--extracted", "--image-url")):
        prelabel.export_label_studio(run, tmp_path / "t")
    report = prelabel.export_label_studio(run, tmp_path / "t", extracted=to)
    assert urls_of(tmp_path / "t") == ["/data/local-files/?d=to/a%20b.tar/c_.jpg"]
    assert told(report.warnings, f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={tmp_path}", f"local storage for {to}")
    for options, url in (
        ({"image_url": "https://host/x"}, "https://host/x/a%20b.tar/c_.jpg"),
        ({"image_url": "s3://bucket/x/"}, "s3://bucket/x/a b.tar/c_.jpg"),
        ({"image_url": "https://host/{image_id}"}, "https://host/a%20b.tar/c%23.jpg"),
        ({"document_root": str(to)}, "/data/local-files/?d=a%20b.tar/c_.jpg"),
    ):
        prelabel.export_label_studio(run, tmp_path / "t", extracted=to, **options)
        assert urls_of(tmp_path / "t") == [url]


def test_push_shows_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer()
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "token")
    monkeypatch.setattr("prelabel.label_studio.push.Server", lambda url, token: server)
    (tmp_path / "a.tar").write_bytes(tar_of(MEMBERS))
    run = label(tmp_path, str(tmp_path / "a.tar"))
    extract(run, tmp_path / "to")
    target = {"url": "http://fake", "project": "x", "extracted": tmp_path / "to"}
    report = prelabel.push_label_studio(run, **target, create_storage=True)
    urls = [task.data["image"] for task in server.held.values()]
    assert urls == [f"/data/local-files/?d=to/a.tar/{name}" for name in MEMBERS]
    assert told(report.warnings, "created", f"local folder {tmp_path / 'to' / 'a.tar'}")
    assert prelabel.push_label_studio(run, **target).sent.unchanged == 3


def test_compare_finds_the_annotations_of_files_with_other_names(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"a.jpg": A, "a.png": B})
    extract(run, tmp_path / "to")
    prelabel.export_coco(run, tmp_path / "x.json", extracted=tmp_path / "to")
    options = {"annotations": tmp_path / "x.json", "to": tmp_path / "comparison"}
    assert prelabel.compare(run, **options).kept == 1
    assert prelabel.compare(run, **options, extracted=tmp_path / "to").kept == 2


def test_the_record_is_a_list_of_images(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of({"a#.jpg": A, "b.png": B}))
    extract(label(tmp_path, str(tmp_path / "a.tar")), tmp_path / "to")
    refs = list(list_images([str(tmp_path / "to" / "extracted.parquet")], STORAGE))
    assert [ref.image_id for ref in refs] == ["a.tar/a#.jpg", "a.tar/b.png"]
    assert [Path(ref.uri).read_bytes() for ref in refs] == [A, B]


def test_files_are_written_to_an_object_store_and_shown_from_there(tmp_path: Path, s3_server: S3Server) -> None:
    bucket, storage = s3_server.new_bucket(), Storage(s3_server.options)
    s3_server.put(bucket, "in/a.tar", tar_of(MEMBERS))
    run = label(tmp_path, f"s3://{bucket}/in/a.tar", storage=storage)
    to = f"s3://{bucket}/files"
    assert extract(run, to).written == 3
    assert extract(run, to).written == 0
    keys = [entry["Key"] for entry in s3_server.client().list_objects_v2(Bucket=bucket, Prefix="files")["Contents"]]
    assert keys == [
        "files/a.tar/a.jpg",
        "files/a.tar/cats/b.PNG",
        "files/a.tar/cats/c.dat.jpeg",
        "files/extracted.parquet",
    ]
    assert storage.read(f"{to}/a.tar/a.jpg") == A
    prelabel.export_label_studio(run, tmp_path / "t", extracted=f"{to}/")
    assert urls_of(tmp_path / "t") == [f"s3://{bucket}/{key}" for key in keys[:3]]


# --- turned files -----------------------------------------------------------------------------------------------------

TURNED = {f"{n}.jpg": image("JPEG", (24, 8), exif=EXIF + exif(n)) for n in range(1, 9)}


def brightness(data: bytes, bbox: list[float]) -> int:
    """The brightness of the pixel in the middle of a box, with the pixels as they are stored."""
    x, y, w, h = bbox
    return int(np.asarray(Image.open(io.BytesIO(data)).convert("L"))[int(y + h / 2), int(x + w / 2)])


def coco_boxes(run: Run, to: Path, **options: Any) -> dict[str, tuple[tuple[int, int], list[float]]]:
    prelabel.export_coco(run, to, **options)
    content = json.loads(to.read_text())
    boxes = {annotation["image_id"]: annotation["bbox"] for annotation in content["annotations"]}
    return {i["file_name"]: ((i["width"], i["height"]), boxes[i["id"]]) for i in content["images"]}


def test_boxes_lie_on_exact_copies_in_the_stored_frame_and_on_turned_files_in_every_frame(tmp_path: Path) -> None:
    run = run_of(tmp_path, TURNED)
    copies, upright = tmp_path / "copies", tmp_path / "upright"
    assert extract(run, copies).turned == 0
    assert extract(run, upright, upright=True).turned == 7
    assert files(copies) == TURNED
    written = files(upright)
    assert written["1.jpg"] == TURNED["1.jpg"]
    for name, (size, bbox) in coco_boxes(run, tmp_path / "c.json", extracted=copies, frame="stored").items():
        assert size == (32, 16)
        assert brightness(TURNED[name], bbox) > 200
    shown = coco_boxes(run, tmp_path / "d.json", extracted=copies)
    for frame in ("display", "stored", "browser"):
        boxes = coco_boxes(run, tmp_path / "u.json", extracted=upright, frame=frame)
        assert boxes == shown
        for name, (size, bbox) in boxes.items():
            turned = Image.open(io.BytesIO(written[name]))
            assert (turned.size, turned.getexif().get(274, 1)) == (size, 1)
            assert brightness(written[name], bbox) > 200
    # Without the option, files that were turned are written again as they are.
    assert extract(run, upright).written == 7
    assert files(upright) == TURNED


def test_label_studio_and_cvat_show_turned_files_as_they_show_the_images(tmp_path: Path) -> None:
    run = run_of(tmp_path, TURNED)
    extract(run, tmp_path / "upright", upright=True)
    for name, options in (("images", {}), ("files", {"extracted": tmp_path / "upright"})):
        prelabel.export_label_studio(run, tmp_path / name, **options)
        prelabel.export_cvat(run, tmp_path / name / "x.xml", **options)
    tasks = [json.loads((tmp_path / name / "tasks-00000.json").read_text()) for name in ("images", "files")]
    regions = [[task["predictions"][0]["result"] for task in each] for each in tasks]
    assert regions[0] == regions[1]
    documents = [(tmp_path / name / "x.xml").read_text() for name in ("images", "files")]
    assert documents[0] == documents[1]


def test_images_whose_orientation_browsers_ignore_are_not_turned(tmp_path: Path) -> None:
    members = {"a.webp": image("WEBP", (24, 8), lossless=True, exif=exif(6)), "b.png": image("PNG", exif=exif(6))}
    run = run_of(tmp_path, members)
    report = extract(run, tmp_path / "to", upright=True)
    assert report.turned == 1
    assert told(report.warnings, "1 image", "browsers")
    written = files(tmp_path / "to")
    assert written["a.webp"] == members["a.webp"]
    assert Image.open(io.BytesIO(written["b.png"])).size == (16, 32)
    boxes = coco_boxes(run, tmp_path / "x.json", extracted=tmp_path / "to", frame="stored")
    assert [size for size, _ in boxes.values()] == [(32, 16), (16, 32)]
    assert all(brightness(written[name], bbox) > 200 for name, (_, bbox) in boxes.items())


def test_the_command_ends_with_the_next_commands(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    result = command(run.root, "--to", tmp_path / "to")
    assert result.exit_code == 0
    assert re.search(rf"export label-studio {run.root} --extracted {tmp_path}/to --to ", result.output)
    assert "wrote" not in command(run.root, "--to", tmp_path / "to").output
    assert prelabel.extract(run, tmp_path / "to").written == 0
    assert "extracted.parquet" in prelabel.extract(run, tmp_path / "to").record
