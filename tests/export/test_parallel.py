"""An export by several processes is byte for byte the same as by a single process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prelabel.errors import ExportError
from prelabel.export.base import ExportReport, RunInfo
from prelabel.export.categories import closed_categories
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.export.cvat import CvatOptions, export_cvat
from prelabel.export.file_names import with_digest
from prelabel.export.folder import FilesOf, ImageFile, NameConflicts, make_files, parts_apart
from prelabel.export.parallel import Part, SpreadRows, row_at
from prelabel.export.run_selection import KnownNames
from prelabel.export.voc import VocOptions, export_voc
from prelabel.export.yolo import YoloOptions, export_yolo
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.processes import Processes
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import Run, open_run
from tests.messages import facts, told
from tests.rows import failed_row, found, mask_of, row
from tests.runs import write_run

MASK = mask_of("###...", "###...", "###...", "###...")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Six shards; all have unlisted classes, which share a number."""
    shards = [
        [
            row(
                f"{shard}/{n}.jpg",
                found("Dog", 0.9 - n / 10, mask=MASK),
                found("Cat", 0.4, (0, 0, 1.005, 2), category_id=2, mid="", mask=MASK),
                found(f"new {shard % 3}", 0.3, category_id=-1, mid="", mask=MASK),
                found("other", 0.2, category_id=7 + shard % 2, mid="", mask=mask_of(*["......"] * 4)),
            )
            for n in range(3)
        ]
        + [failed_row(f"{shard}/broken.jpg")]
        for shard in range(6)
    ]
    output = write_run(tmp_path_factory.mktemp("run"), shards)
    return open_run(output, Storage())


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with Processes(2, at_once=True) as several:
        yield several


def both(
    tmp_path: Path, run: Run, processes: Processes, export: Callable[[Any, str], ExportReport]
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files written by a single process and by several; checks that the reports are the same."""
    reports, written = [], []
    for name, rows in (("single", run.rows), ("several", SpreadRows(run.rows, processes))):
        folder = tmp_path / name
        reports.append(export(rows, str(folder)))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        written.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    single, several = (dataclasses.replace(report, files=()) for report in reports)
    assert single == several
    return written[0], written[1]


@pytest.mark.parametrize("options", [{}, {"segmentation": "none", "score_threshold": 0.35}, {"split": 5}])
def test_coco(tmp_path: Path, run: Run, processes: Processes, options: dict[str, Any]) -> None:
    info = dataclasses.replace(RunInfo.of(run), classes=None)

    def export(rows: Any, folder: str) -> ExportReport:
        chosen = CocoOptions.of(results=f"{folder}/results.json", **options)
        return export_coco(info, rows, f"{folder}/coco.json", chosen, run.storage)

    single, several = both(tmp_path, run, processes, export)
    assert len(single) >= 2
    assert single == several


@pytest.mark.parametrize(
    "options",
    [
        {"shape": "rectangle", "layout": "sync"},
        {"shape": "polygon", "layout": "sync-jsonl", "polygon_min_area": 0.0},
        {"shape": "brush", "tasks_per_file": 4, "max_masks": 2, "include_failed": True},
    ],
)
def test_label_studio(tmp_path: Path, run: Run, processes: Processes, options: dict[str, Any]) -> None:
    info = dataclasses.replace(RunInfo.of(run), classes=None)

    def export(rows: Any, folder: str) -> ExportReport:
        return export_label_studio(info, rows, folder, LabelStudioOptions.of(**options), run.storage)

    single, several = both(tmp_path, run, processes, export)
    assert len(single) >= 2
    assert single == several


@pytest.mark.parametrize("options", [{}, {"segmentation": "polygon"}, {"segmentation": "none", "zip": True}])
def test_cvat(tmp_path: Path, run: Run, processes: Processes, options: dict[str, Any]) -> None:
    info = dataclasses.replace(RunInfo.of(run), classes=None)

    def export(rows: Any, folder: str) -> ExportReport:
        name = "cvat.zip" if options.get("zip") else "cvat.xml"
        return export_cvat(info, rows, f"{folder}/{name}", CvatOptions.of(**options), run.storage)

    single, several = both(tmp_path, run, processes, export)
    assert len(single) == 1
    assert single == several


@pytest.mark.parametrize("options", [{}, {"segmentation": "none", "scores": True, "val_share": 0.5}])
def test_yolo(tmp_path: Path, run: Run, processes: Processes, options: dict[str, Any]) -> None:
    info = dataclasses.replace(RunInfo.of(run), classes=None)

    def export(rows: Any, folder: str) -> ExportReport:
        return export_yolo(info, rows, folder, YoloOptions.of(**options), run.storage)

    single, several = both(tmp_path, run, processes, export)
    assert len(single) >= 18 + 2
    assert single == several


def test_voc(tmp_path: Path, run: Run, processes: Processes) -> None:
    info = dataclasses.replace(RunInfo.of(run), classes=None)

    def export(rows: Any, folder: str) -> ExportReport:
        return export_voc(info, rows, folder, VocOptions(), run.storage)

    single, several = both(tmp_path, run, processes, export)
    assert len(single) == 18 + 2
    assert single == several


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_the_first_of_the_images_with_equal_stems_in_different_shards_has_the_file(
    tmp_path: Path, processes: Processes, ending: str
) -> None:
    names = ["a.jpg", "b.jpg", f"a.{ending}", "c.jpg", "d.jpg", "a.webp", f"b.{ending}", "e.jpg"]
    shards = [[row(name, found(score=0.1 + n / 10))] for n, name in enumerate(names)]
    twins = open_run(write_run(tmp_path / "run", shards), Storage())

    options = YoloOptions.of(segmentation="none", scores=True, score_threshold=0.0)

    def export(rows: Any, folder: str) -> ExportReport:
        report = export_yolo(RunInfo.of(twins), rows, folder, options, Storage())
        assert report.dropped == {"images with the same name as another one except for the extension": 3}
        assert (report.images, report.detections) == (5, 5)
        assert told(report.warnings, f"'a.{ending}'", "name")
        return report

    single, several = both(tmp_path, twins, processes, export)
    assert single == several
    assert single["labels/train/a.txt"].endswith(b" 0.1\n")


def test_a_name_that_a_renamed_image_gets_is_not_written_by_another_process(
    tmp_path: Path, processes: Processes
) -> None:
    renamed = f"{with_digest('a', 'a.png')}.jpg"
    shards = [[row(name, found(), uri=str(tmp_path / name))] for name in ("a.jpg", "a.png", "b.jpg", renamed, "c.jpg")]
    twins = open_run(write_run(tmp_path / "run", shards), Storage())

    def export(rows: Any, folder: str) -> ExportReport:
        return export_voc(RunInfo.of(twins), rows, folder, VocOptions(image_files="link"), Storage())

    single, several = both(tmp_path, twins, processes, export)
    assert single == several
    assert len([name for name in single if name.endswith(".xml")]) == 5


def test_parts_are_apart_unless_another_image_has_a_stem_of_theirs_or_could_get_it(
    tmp_path: Path, processes: Processes
) -> None:
    renamed = with_digest("a", "a.png")
    names = ("a.jpg", "a.png", "b.jpg", f"{renamed}.jpg", "b/c.jpg", "d/c.png", "E.jpg", "e.png", "caf\u00e9.jpg")
    shards = [[row(name, found())] for name in (*names, "cafe\u0301.png")]
    twins = open_run(write_run(tmp_path / "run", shards), Storage())
    apart = parts_apart(SpreadRows(twins.rows, processes))
    assert [name for name, is_apart in zip(names, apart, strict=False) if is_apart] == ["b.jpg", "b/c.jpg", "d/c.png"]
    assert not apart[-1]


def test_one_process_does_not_look_for_parts_that_are_apart(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path / "run", [[row("a.jpg", found())], [row("b.jpg", found())]]), Storage())
    read: list[tuple[int, int]] = []
    assert parts_apart(SpreadRows(run.rows, Processes(), lambda *counts: read.append(counts))) == [False, False]
    assert not read


@pytest.mark.parametrize(("name", "published"), [("1/2.jpg", True), ("1/1.png", False)])
def test_other_processes_publish_their_files_unless_a_stem_is_contested(
    tmp_path: Path, processes: Processes, name: str, published: bool
) -> None:
    shards = [[row(f"{shard}/{n}.jpg", found()) for n in range(3)] for shard in range(6)]
    shards[1][2] = row(name, found())
    run = open_run(write_run(tmp_path / "run", shards), Storage())
    rows = SpreadRows(run.rows, processes)
    info, selection = RunInfo.of(run), VocOptions().selection
    categories = closed_categories(info, rows, VocOptions(), run.storage, "all").categories
    to = str(tmp_path / "out")
    work = FilesOf(Names(), categories, selection, CocoOptions(), to, run.storage, "none")
    whole: Part[ImageFile] = Part(names=KnownNames(selection, info.classes, info.kept))
    files = {file.name: file for file in make_files(rows, work, whole, NameConflicts())}
    assert {path.name for path in Path(to).iterdir()} == {f"{n.replace('/', '-')}.txt" for n in files}
    assert files["0/0.jpg"].is_published
    assert files["1/0.jpg"].is_published == published


class Names:
    """Writes the name of each image."""

    def unfit(self, file_name: str) -> str:
        return ""

    def content(self, file_name: str, size: tuple[int, int], detections: Any) -> bytes:
        return file_name.encode()

    def paths(self, file_name: str, image_id: str) -> tuple[str, str]:
        return f"{file_name.replace('/', '-')}.txt", file_name


def test_images_are_copied_when_several_processes_work(tmp_path: Path, processes: Processes) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    shards = []
    for n in range(6):
        (photos / f"{n}.jpg").write_bytes(b"%d" % n)
        shards.append([dataclasses.replace(row(f"{n}.jpg", found(), uri=str(photos / f"{n}.jpg")), bytes=1)])
    copied = open_run(write_run(tmp_path / "run", shards), Storage())
    rows = SpreadRows(copied.rows, processes)
    export_voc(RunInfo.of(copied), rows, str(tmp_path / "out"), VocOptions(image_files="copy"), Storage())
    assert [(tmp_path / f"out/JPEGImages/{n}.jpg").read_bytes() for n in range(6)] == [b"%d" % n for n in range(6)]


def test_several_processes_also_refuse_images_in_several_folders_without_a_document_root(
    tmp_path: Path, processes: Processes
) -> None:
    shards = [[row(f"{n}.jpg", found(), uri=f"/photos/{n // 6}/{n}.jpg")] for n in range(12)]
    spread = open_run(write_run(tmp_path / "run", shards), Storage())
    rows = SpreadRows(spread.rows, processes)
    with pytest.raises(ExportError, match=facts("folders", "document-root")):
        export_label_studio(RunInfo.of(spread), rows, str(tmp_path / "tasks"), LabelStudioOptions(), Storage())


def test_unlisted_classes_get_the_same_numbers(tmp_path: Path, run: Run, processes: Processes) -> None:
    info = dataclasses.replace(RunInfo.of(run), classes=RunInfo.of(run).classes or ())

    def export(rows: Any, folder: str) -> ExportReport:
        return export_coco(info, rows, f"{folder}/coco.json", CocoOptions(), run.storage)

    single, several = both(tmp_path, run, processes, export)
    assert single == several


def test_the_first_error_in_plan_order_is_reported(tmp_path: Path, processes: Processes) -> None:
    shards = [[row(f"{n}.jpg", found(mask=MASK if n < 4 else mask_of("#")))] for n in range(8)]
    bad = open_run(write_run(tmp_path / "run", shards), Storage())
    rows = SpreadRows(bad.rows, processes)
    with pytest.raises(ExportError, match=facts("4.jpg", "4 x 6")):
        export_coco(RunInfo.of(bad), rows, str(tmp_path / "coco.json"), CocoOptions(), Storage())
    assert not (tmp_path / "coco.json").exists()


def test_progress_is_reported_per_shard(run: Run, processes: Processes) -> None:
    reported: list[tuple[int, int]] = []
    rows = SpreadRows(run.rows, processes, lambda done, total: reported.append((done, total)))
    assert len(list(rows())) == 24
    assert reported == [(4 * n, 24) for n in range(1, 7)]


def test_rows_without_columns_and_rows_at_a_position(run: Run, processes: Processes) -> None:
    rows = SpreadRows(run.rows, processes)
    image: ImageRow = row_at(rows.without("masks"), 13)
    assert image.image_id == "3/1.jpg"
    assert image.detections is not None
    assert image.detections.mask is None
    assert row_at(rows, 13).detections.mask is not None  # type: ignore[union-attr]
    with pytest.raises(IndexError):
        row_at(rows, 24)
