"""An export by several processes is, byte by byte, the one that a single process writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prelabel.errors import ExportError
from prelabel.export.coco import export_coco
from prelabel.export.coco_options import CocoOptions
from prelabel.export.cvat import export_cvat
from prelabel.export.cvat_options import CvatOptions
from prelabel.export.label_studio import export_label_studio
from prelabel.export.label_studio_options import LabelStudioOptions
from prelabel.export.parts import SpreadRows, row_at, without
from prelabel.export.reading import ExportReport, RunInfo
from prelabel.export.voc import export_voc
from prelabel.export.voc_options import VocOptions
from prelabel.export.yolo import export_yolo
from prelabel.export.yolo_options import YoloOptions
from prelabel.processes import Processes
from prelabel.storage import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import Run, open_run
from tests.rows import failed_row, found, mask_of, row
from tests.runs import write_run

MASK = mask_of("###...", "###...", "###...", "###...")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Six shards; classes that no list names turn up in all of them, and ask for the same number."""
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
    with Processes(2, worth_s=0) as several:
        yield several


def both(
    tmp_path: Path, run: Run, processes: Processes, export: Callable[[Any, str], ExportReport]
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files by one process and by several; their reports are the same, too."""
    reports, written = [], []
    for name, rows in (("one", run.rows), ("several", SpreadRows(run.rows, processes))):
        folder = tmp_path / name
        reports.append(export(rows, str(folder)))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        written.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    one, several = (dataclasses.replace(report, files=()) for report in reports)
    assert one == several
    return written[0], written[1]


@pytest.mark.parametrize("options", [{}, {"segmentation": "none", "score_threshold": 0.35}, {"split": 5}])
def test_coco(tmp_path: Path, run: Run, processes: Processes, options: dict[str, Any]) -> None:
    info = dataclasses.replace(RunInfo.of(run), classes=None)

    def export(rows: Any, folder: str) -> ExportReport:
        chosen = CocoOptions(results=f"{folder}/results.json", **options)
        return export_coco(info, rows, f"{folder}/coco.json", chosen, run.storage)

    one, several = both(tmp_path, run, processes, export)
    assert len(one) >= 2
    assert one == several


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
        return export_label_studio(info, rows, folder, LabelStudioOptions(**options), run.storage)

    one, several = both(tmp_path, run, processes, export)
    assert len(one) >= 2
    assert one == several


@pytest.mark.parametrize("options", [{}, {"segmentation": "polygon"}, {"segmentation": "none", "zip": True}])
def test_cvat(tmp_path: Path, run: Run, processes: Processes, options: dict[str, Any]) -> None:
    info = dataclasses.replace(RunInfo.of(run), classes=None)

    def export(rows: Any, folder: str) -> ExportReport:
        name = "cvat.zip" if options.get("zip") else "cvat.xml"
        return export_cvat(info, rows, f"{folder}/{name}", CvatOptions(**options), run.storage)

    one, several = both(tmp_path, run, processes, export)
    assert len(one) == 1
    assert one == several


@pytest.mark.parametrize("options", [{}, {"segmentation": "none", "scores": True, "val_share": 0.5}])
def test_yolo(tmp_path: Path, run: Run, processes: Processes, options: dict[str, Any]) -> None:
    info = dataclasses.replace(RunInfo.of(run), classes=None)

    def export(rows: Any, folder: str) -> ExportReport:
        return export_yolo(info, rows, folder, YoloOptions(**options), run.storage)

    one, several = both(tmp_path, run, processes, export)
    assert len(one) >= 18 + 2
    assert one == several


def test_voc(tmp_path: Path, run: Run, processes: Processes) -> None:
    info = dataclasses.replace(RunInfo.of(run), classes=None)

    def export(rows: Any, folder: str) -> ExportReport:
        return export_voc(info, rows, folder, VocOptions(), run.storage)

    one, several = both(tmp_path, run, processes, export)
    assert len(one) == 18 + 2
    assert one == several


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_of_twins_in_different_shards_the_first_has_the_file(tmp_path: Path, processes: Processes, ending: str) -> None:
    names = ["a.jpg", "b.jpg", f"a.{ending}", "c.jpg", "d.jpg", "a.webp", f"b.{ending}", "e.jpg"]
    shards = [[row(name, found(score=0.1 + n / 10))] for n, name in enumerate(names)]
    twins = open_run(write_run(tmp_path / "run", shards), Storage())

    options = YoloOptions(segmentation="none", scores=True, score_threshold=0.0)

    def export(rows: Any, folder: str) -> ExportReport:
        report = export_yolo(RunInfo.of(twins), rows, folder, options, Storage())
        assert report.left_out == {"images whose name up to the ending another image has": 3}
        assert (report.images, report.detections) == (5, 5)
        assert f"'a.{ending}' is left out: another image has its name up to the ending" in report.warnings
        return report

    one, several = both(tmp_path, twins, processes, export)
    assert one == several
    assert one["labels/train/a.txt"].endswith(b" 0.1\n")


def test_images_are_copied_from_several_processes_too(tmp_path: Path, processes: Processes) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    shards = []
    for n in range(6):
        (photos / f"{n}.jpg").write_bytes(b"%d" % n)
        shards.append([dataclasses.replace(row(f"{n}.jpg", found(), uri=str(photos / f"{n}.jpg")), bytes=1)])
    copied = open_run(write_run(tmp_path / "run", shards), Storage())
    rows = SpreadRows(copied.rows, processes)
    export_voc(RunInfo.of(copied), rows, str(tmp_path / "out"), VocOptions(images="copy"), Storage())
    assert [(tmp_path / f"out/JPEGImages/{n}.jpg").read_bytes() for n in range(6)] == [b"%d" % n for n in range(6)]


def test_images_in_several_folders_have_no_document_root_in_several_processes_either(
    tmp_path: Path, processes: Processes
) -> None:
    shards = [[row(f"{n}.jpg", found(), uri=f"/photos/{n // 6}/{n}.jpg")] for n in range(12)]
    spread = open_run(write_run(tmp_path / "run", shards), Storage())
    rows = SpreadRows(spread.rows, processes)
    with pytest.raises(ExportError, match="the images lie in several folders"):
        export_label_studio(RunInfo.of(spread), rows, str(tmp_path / "tasks"), LabelStudioOptions(), Storage())


def test_classes_beyond_the_list_get_the_same_numbers(tmp_path: Path, run: Run, processes: Processes) -> None:
    info = dataclasses.replace(RunInfo.of(run), classes=RunInfo.of(run).classes or ())

    def export(rows: Any, folder: str) -> ExportReport:
        return export_coco(info, rows, f"{folder}/coco.json", CocoOptions(), run.storage)

    one, several = both(tmp_path, run, processes, export)
    assert one == several


def test_the_first_error_in_the_order_of_the_plan_is_the_one_told(tmp_path: Path, processes: Processes) -> None:
    shards = [[row(f"{n}.jpg", found(mask=MASK if n < 4 else mask_of("#")))] for n in range(8)]
    bad = open_run(write_run(tmp_path / "run", shards), Storage())
    rows = SpreadRows(bad.rows, processes)
    with pytest.raises(ExportError, match=r"image '4\.jpg': RLE for 4 x 6"):
        export_coco(RunInfo.of(bad), rows, str(tmp_path / "coco.json"), CocoOptions(), Storage())
    assert not (tmp_path / "coco.json").exists()


def test_progress_is_told_shard_by_shard(run: Run, processes: Processes) -> None:
    told: list[tuple[int, int]] = []
    rows = SpreadRows(run.rows, processes, lambda done, of: told.append((done, of)))
    assert len(list(rows())) == 24
    assert told == [(4 * n, 24) for n in range(1, 7)]


def test_rows_without_columns_and_by_place(run: Run, processes: Processes) -> None:
    rows = SpreadRows(run.rows, processes)
    one: ImageRow = row_at(without(rows, "masks"), 13)
    assert one.image_id == "3/1.jpg"
    assert one.detections is not None
    assert one.detections.mask is None
    assert row_at(rows, 13).detections.mask is not None  # type: ignore[union-attr]
    with pytest.raises(IndexError):
        rows.at(24)
