"""Lists of images of a run: how they are read, what is refused, and which rows remain, in which order."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import prelabel
from prelabel.cli import main
from prelabel.errors import ConfigError, PrelabelError, SourceError
from prelabel.export.parallel import SpreadRows
from prelabel.label_studio.list_order import in_list_order
from prelabel.processes import Processes
from prelabel.storage.files import Storage
from prelabel.store.links import Links
from prelabel.store.plan import digests_of
from prelabel.store.run import Run, RunRows, open_run
from prelabel.store.subset import ABSENT, ImageOrder
from prelabel.triage.image_list import ImageList, listed_rows
from prelabel.triage.options import ImageListOptions
from tests.messages import TWICE, facts, is_told, telling
from tests.rows import failed_row, found, row
from tests.runs import write_run

STORAGE = Storage()


def made_run(folder: Path) -> Run:
    """Seven images in three shards; the fourth failed, and only `e.jpg` shows a cat."""
    dogs = [row(f"{name}.jpg", found(score=0.5 + n / 100)) for n, name in enumerate("abc")]
    cat = row("e.jpg", found("Cat", category_id=2, mid="/m/01yrx"))
    rows = [*dogs, failed_row("d.jpg"), cat, row("f.jpg"), row("night/g.jpg", found())]
    rows = [replace(image, uri=str(folder / image.image_id)) for image in rows]
    return open_run(write_run(folder / "run", [rows[:3], rows[3:6], rows[6:]]), STORAGE)


def written(file: Path, *ids: str, part: Mapping[str, str] | None = None) -> str:
    """A list in the format of the file's extension."""
    parts = part or {}
    if file.suffix == ".parquet":
        columns = {"image_id": list(ids), "rank": list(range(len(ids))), "part": [parts.get(name) for name in ids]}
        pq.write_table(pa.table(columns), file, row_group_size=2)
        return str(file)
    lines = {
        ".txt": [*ids],
        ".csv": ["score,image_id,part", *(f"1,{name},{parts.get(name, '')}" for name in ids)],
        ".jsonl": [json.dumps({"image_id": name, "part": parts.get(name)}) for name in ids],
    }
    file.write_text("\n".join(lines[file.suffix]) + "\n")
    return str(file)


def listed(run: Run, path: str, part: str = "") -> RunRows:
    return listed_rows(run, ImageListOptions(images=path, part=part))


def ids_of(rows: RunRows | SpreadRows) -> list[str]:
    return [image.image_id for image in rows()]


@pytest.mark.parametrize("extension", ["txt", "csv", "jsonl", "parquet"])
def test_every_kind_of_list_names_rows_of_several_shards(tmp_path: Path, extension: str) -> None:
    run = made_run(tmp_path)
    path = written(tmp_path / f"list.{extension}", "night/g.jpg", "d.jpg", "b.jpg", "f.jpg")
    rows = listed(run, path)
    assert ids_of(rows) == ["b.jpg", "d.jpg", "f.jpg", "night/g.jpg"]
    assert [image.error_type is not None for image in rows()] == [False, True, False, False]
    assert len(rows) == 4
    assert [len(part) for part in rows.by_shard()] == [1, 2, 1]
    assert rows.order is not None
    assert [rows.order.place_of(name) for name in ("b.jpg", "d.jpg", "f.jpg", "night/g.jpg", "x")] == [2, 1, 3, 0, -1]
    assert ids_of(rows.of_all_images()) == ids_of(run.rows)
    only_last = listed(run, written(tmp_path / f"one.{extension}", "night/g.jpg"))
    assert (ids_of(only_last), len(only_last.by_shard())) == (["night/g.jpg"], 1)


def test_the_rows_are_those_of_the_run_in_every_process_and_frame(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    rows = listed(run, written(tmp_path / "list.txt", "c.jpg", "a.jpg"))
    by_id = {image.image_id: image for image in run.rows()}
    for image in pickle.loads(pickle.dumps(rows.by_shard()))[0]():  # noqa: S301
        assert image.detections is not None
        assert image.detections.score.tolist() == by_id[image.image_id].detections.score.tolist()
    spread = SpreadRows(rows, Processes())
    assert ids_of(spread.without("masks").in_frame("browser")) == ["a.jpg", "c.jpg"]
    assert (len(spread), spread.order) == (2, rows.order)
    # The numbers of categories come from all classes of the run, so that they do not depend on the list.
    assert {name.name for name in spread.classes()} == {name.name for name in rows.classes()} == {"Dog", "Cat"}


def test_row_groups_without_listed_images_are_skipped(tmp_path: Path) -> None:
    names = [f"{n:04d}.jpg" for n in range(600)]
    run = open_run(write_run(tmp_path / "run", [[row(name, found()) for name in names]]), STORAGE)
    chosen = [names[n] for n in (599, 0, 255, 256, 257, 511)]
    assert ids_of(listed(run, written(tmp_path / "list.txt", *chosen))) == sorted(chosen)


def test_signed_links_belong_to_the_same_images(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    links = Links()
    links.add(1, {0: "https://x/d?sig=1", 2: "https://x/f?sig=2"})
    rows = listed(run, written(tmp_path / "list.txt", "f.jpg", "e.jpg")).with_links(links)
    assert [image.uri for image in rows()] == [str(tmp_path / "e.jpg"), "https://x/f?sig=2"]


def test_only_a_part_of_the_list(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    parts = {"b.jpg": "random", "f.jpg": "random", "a.jpg": "work"}
    for name in ("list.csv", "list.jsonl", "list.parquet"):
        path = written(tmp_path / name, "f.jpg", "a.jpg", "b.jpg", part=parts)
        rows = listed(run, path, "random")
        assert ids_of(rows) == ["b.jpg", "f.jpg"]
        assert rows.order is not None
        assert [rows.order.place_of(name) for name in ("f.jpg", "b.jpg")] == [0, 1]
        with pytest.raises(ConfigError, match=telling("--part none", "random", "work")):
            listed(run, path, "none")
    with pytest.raises(ConfigError, match=telling("--part random", "no column")):
        listed(run, written(tmp_path / "list.txt", "a.jpg"), "random")
    with pytest.raises(ConfigError, match=telling("--part", "--images")):
        ImageListOptions(part="random")


REFUSED: dict[str, tuple[str, str, type[PrelabelError], tuple[str, ...]]] = {
    "unknown": ("l.csv", "image_id\na.jpg\nno.jpg\nb.jpg\nneither.jpg\n", ConfigError,
                ("2", "4", "run", "'no.jpg'", "line 3", "'neither.jpg'", "line 5", "image_id")),
    "twice": ("l.txt", "a.jpg\nb.jpg\na.jpg\nb.jpg\n", SourceError, ("line 3", "'a.jpg'", "line 1", "duplicate")),
    "no id": ("l.csv", "image_id\na.jpg\n\"\"\n", SourceError, ("line 3", "empty")),
    "another column": ("l.csv", "uri\na.jpg\n", SourceError, ("image_id", "uri")),
    "empty": ("l.txt", "\n \n", SourceError, ("empty",)),
    "not UTF-8": ("l.txt", "\udcff.jpg\n", SourceError, ("line 1", "UTF-8")),
    "half a pair": ("l.jsonl", '{"image_id": "\\ud800"}\n', SourceError, ("line 1", "Unicode")),
    "number": ("l.jsonl", '{"image_id": 7}\n', SourceError, ("line 1", "image_id", "string")),
    "header of a .txt": ("l.txt", "image_id\na.jpg\n", ConfigError, ("'image_id'", "line 1", r"\.txt", "header")),
    "another table": ("l.csv", "file;rank\na.jpg;1\n", SourceError, ("line 1", "column", "image_id", "file;rank")),
    "extension": ("l.json", "[]", ConfigError, ("--images", r"\.parquet", r"l\.json'")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_list_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    name, content, error, expected = REFUSED[case]
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(error) as caught:
        listed(made_run(tmp_path), str(tmp_path / name))
    assert is_told(str(caught.value), *expected), caught.value
    assert "\n" not in str(caught.value)


def test_a_missing_list_and_one_of_numbers_are_refused(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    with pytest.raises(ConfigError, match=telling("--images", "no such file|not found")):
        listed(run, str(tmp_path / "none.csv"))
    pq.write_table(pa.table({"image_id": [1, 2]}), tmp_path / "numbers.parquet")
    with pytest.raises(SourceError, match=telling("image_id", "string", "int64")):
        listed(run, str(tmp_path / "numbers.parquet"))


def test_missing_images_are_named_by_their_place_within_the_part(tmp_path: Path) -> None:
    parts = {"a.jpg": "work", "x.jpg": "work", "y.jpg": "random"}
    path = written(tmp_path / "list.csv", "y.jpg", "a.jpg", "x.jpg", part=parts)
    with pytest.raises(ConfigError, match=telling("1", "2", r"'x\.jpg'", "line 4")):
        listed(made_run(tmp_path), path, "work")


def test_the_checksum_depends_on_the_order(tmp_path: Path) -> None:
    lists = [
        ImageList.read(written(tmp_path / name, *ids), "", STORAGE)
        for name, ids in {"1.txt": ("a", "b"), "2.csv": ("a", "b"), "3.txt": ("b", "a")}.items()
    ]
    assert lists[0].sha256 == lists[1].sha256 != lists[2].sha256


def test_places_of_ids() -> None:
    order = ImageOrder.of(digests_of(["b", "a", "c"]))
    assert order.places_of(digests_of(["a", "b", "x", "c"])).tolist() == [1, 0, ABSENT, 2]
    assert ImageOrder.of(np.empty(0, "S16")).places_of(digests_of(["a"])).tolist() == [ABSENT]


def test_tasks_come_in_the_order_of_the_list() -> None:
    tasks = [(name, f"task {name}".encode()) for name in ("a", "é", "c", "d")]
    order = ImageOrder.of(digests_of(["d", "é", "unused", "a", "c"]))
    assert [name for name, _ in in_list_order(iter(tasks), order)] == ["d", "é", "a", "c"]
    assert dict(in_list_order(iter(tasks), order)) == dict(tasks)
    assert list(in_list_order(iter(tasks), None)) == tasks
    assert list(in_list_order(iter([]), order)) == []


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_every_export_has_only_the_listed_images(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    images = ("--images", written(tmp_path / "list.csv", "night/g.jpg", "a.jpg", "f.jpg"))
    names = {"a.jpg", "f.jpg", "night/g.jpg"}
    invoke("export", "coco", run.output, "--to", tmp_path / "coco.json", *images)
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert {image["file_name"] for image in coco["images"]} == names
    assert len(coco["annotations"]) == 2
    invoke("export", "cvat", run.output, "--to", tmp_path / "cvat.xml", *images)
    assert (tmp_path / "cvat.xml").read_text().count("<image ") == 3
    invoke("export", "yolo", run.output, "--to", tmp_path / "yolo", *images)
    assert set((tmp_path / "yolo/train.txt").read_text().split()) == {f"./images/train/{name}" for name in names}
    invoke("export", "voc", run.output, "--to", tmp_path / "voc", *images)
    assert len(list((tmp_path / "voc").rglob("*.xml"))) == 3
    invoke("preview", run.output, "--to", tmp_path / "preview", *images)
    page = (tmp_path / "preview/index.html").read_text()
    assert all(name in page for name in names)
    assert "e.jpg" not in page
    for layout, file in (("import", "tasks-00000.json"), ("sync-jsonl", "tasks/tasks-00000.jsonl")):
        invoke("export", "label-studio", run.output, "--to", tmp_path / layout, "--layout", layout, *images)
        text = (tmp_path / layout / file).read_text()
        positions = [text.index(f'"image_id":"{name}"') for name in ("night/g.jpg", "a.jpg", "f.jpg")]
        assert positions == sorted(positions)
    records = [json.loads(file.read_text()) for file in (tmp_path / "run/exports").iterdir()]
    assert len(records) == 7
    assert all(record["listed"] == {"images": images[1], "part": ""} for record in records)


def test_python_takes_the_same_list_and_never_overwrites_it(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    path = written(tmp_path / "list.csv", "b.jpg", part={"b.jpg": "work"})
    report = prelabel.export_coco(run, tmp_path / "coco.json", images=Path(path), part="work")
    assert report.images == 1
    with pytest.raises(ConfigError, match=facts("images", "same")):
        prelabel.export_coco(run, path, images=path)
    with pytest.raises(SourceError, match=telling(r"line \d", TWICE + "|already")):
        prelabel.export_coco(run, tmp_path / "c.json", images=written(tmp_path / "twice.txt", "b.jpg", "b.jpg"))


def test_only_listed_images_are_evaluated_and_compared(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    names = ("a.jpg", "b.jpg", "e.jpg")
    dog = {"category_id": 1, "bbox": [0, 0, 3, 4], "area": 12, "iscrowd": 0}
    truth = {
        "images": [{"id": n, "file_name": name, "height": 4, "width": 6} for n, name in enumerate(names, 1)],
        "annotations": [{"id": n, "image_id": n, **dog} for n in (1, 2, 3)],
        "categories": [{"id": 1, "name": "Dog"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    images = written(tmp_path / "list.csv", "e.jpg", "b.jpg", part={"b.jpg": "random"})
    for part, count in (("", 2), ("random", 1)):
        done = prelabel.evaluate(run, truth=tmp_path / "truth.json", images=images, part=part)
        assert done.images == count
        edits = prelabel.compare(run, annotations=tmp_path / "truth.json", images=images, part=part, to=tmp_path / "c")
        assert edits.images == count
    page = Path(run.output, "evaluation/evaluation.html").read_text()
    assert "not in the list" in page  # of the truth's images, the others: the run has them
    assert "not in the run" not in page
    prelabel.export_coco(run, tmp_path / "coco.json", images=images, part="random")
    # What annotators saw was an export of some images: the report says of which.
    prelabel.compare(run, annotations=tmp_path / "truth.json", to=tmp_path / "c")
    assert f"only part random of {images}" in (tmp_path / "c/comparison.json").read_text()
