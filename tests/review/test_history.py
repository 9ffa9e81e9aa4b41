"""What was made of a run before its report: commands to do it again with other thresholds, and links to the preview."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

import prelabel
from prelabel.cli import main
from prelabel.review.report.history import History, next_commands, relative_url
from prelabel.storage.address import Address
from prelabel.storage.files import Storage
from prelabel.store.exports import ExportRecord, read_exports
from tests.review.cases import image, thing, write_truth
from tests.rows import found, row
from tests.runs import RUN_ID, write_run

EVERYTHING = {"score_threshold": 0.5, "class_threshold": {"Cat": 0.6}, "include_class": [], "nms_per_class": True}


def record(kind: str, to: str, **values: Any) -> ExportRecord:
    shapes = {name: values.pop(name) for name in ("shape", "mask_parts", "segmentation") if name in values}
    common = {"run_id": RUN_ID, "at": "2026-11-01T00:00:00+00:00", "model_version": "d-0"}
    return ExportRecord(kind=kind, to=to, selection={**EVERYTHING, **values}, shapes=shapes, **common)


def commands(*records: ExportRecord) -> list[list[str]]:
    return [shlex.split(command) for _, command in next_commands("out/my run", "t.yaml", records)]


def test_without_a_record_both_commands_are_offered_and_the_server_is_left_to_fill_in():
    assert commands() == [
        shlex.split("prelabel export label-studio 'out/my run' --to tasks --class-threshold t.yaml"),
        shlex.split(
            "prelabel push label-studio 'out/my run' --url URL --project PROJECT --class-threshold t.yaml",
        ),
    ]


def test_a_push_comes_first_with_its_project_selection_and_shapes():
    push = record(
        "push label-studio",
        "http://host:8080/ls/projects/12",
        shape="rectangle",
        class_map={"Dog": "a dog"},
        exclude_class=["Cat", "Tree"],
        nms_per_class=False,
    )
    first, second = commands(push, record("coco", "out.json"))
    target = "--url http://host:8080/ls --project 12"
    same = "--shape rectangle --exclude-class Cat --exclude-class Tree --no-nms-per-class --class-map 'Dog=a dog'"
    words = shlex.split(f"prelabel push label-studio 'out/my run' {target} {same} --class-threshold t.yaml")
    assert sorted(first) == sorted(words)
    assert first[:3] == words[:3]
    assert second[:3] == ["prelabel", "export", "coco"]


def test_the_same_images_are_exported_again():
    listed = replace(record("coco", "a.json"), listed={"images": "my list.csv", "part": "work"})
    assert shlex.join(commands(listed)[0]) == (
        "prelabel export coco 'out/my run' --to coco.json --images 'my list.csv' --part work --class-threshold t.yaml"
    )


def test_an_export_is_in_the_format_of_the_last_one():
    (export, push) = commands(record("coco", "a.json"), record("cvat", "a.xml", nms_iou=0.5), record("preview", "look"))
    assert export == shlex.split(
        "prelabel export cvat 'out/my run' --to cvat.xml --nms-iou 0.5 --class-threshold t.yaml"
    )
    assert push[:3] == ["prelabel", "push", "label-studio"]


@pytest.mark.parametrize("kind", ["label-studio", "coco", "cvat", "yolo", "voc", "push label-studio"])
def test_the_command_line_accepts_the_commands(kind: str, tmp_path: Path):
    (tmp_path / "t.yaml").write_text('"*": 0.5\n')
    old = record(kind, "http://h/projects/1", max_detections=9, class_map={"Dog": "dog"}, include_class=["Dog"])
    for _, command in next_commands(str(tmp_path / "none"), str(tmp_path / "t.yaml"), [old]):
        words = ["http://h" if word == "URL" else word for word in shlex.split(command)[1:]]
        result = CliRunner().invoke(main, words)
        assert "no run at" in result.output, result.output


@pytest.mark.parametrize(
    ("page", "folder", "url"),
    [
        ("/a/look/index.html", "/a/run/evaluation", "../../look/index.html"),
        ("/a/my look#1/index.html", "/a/run", "../my%20look%231/index.html"),
        ("s3://bucket/look/index.html", "s3://bucket/run/evaluation", "../../look/index.html"),
        ("s3://bucket/look/index.html", "s3://other/run", ""),
        ("s3://bucket/look/index.html", "/a/run", ""),
        ("/a/look/index.html", "s3://bucket/run", ""),
    ],
)
def test_a_preview_is_linked_relative_to_the_report(page: str, folder: str, url: str):
    assert relative_url(Address.of(page), Address.of_folder(folder)) == url


def test_only_a_preview_that_still_exists_is_linked(tmp_path: Path):
    old, new = record("preview", str(tmp_path / "old")), record("preview", str(tmp_path / "new"))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "index.html").write_text("")
    to = str(tmp_path / "report")
    assert History.of([old, new], to, Storage()).preview == "../old/index.html"
    assert History.of([new, record("coco", str(tmp_path / "old"))], to, Storage()).preview == ""


def test_a_preview_is_recorded_and_the_report_leads_to_it(tmp_path: Path):
    photo = tmp_path / "a.jpg"
    Image.new("RGB", (60, 40)).save(photo)
    run = write_run(tmp_path / "run", [[row("a.jpg", found("Dog"), height=40, width=60, uri=str(photo))]])
    truth = write_truth(tmp_path, [thing((0, 0, 20, 40))], [image()])
    prelabel.preview(run, tmp_path / "look", progress=False)
    assert [made.kind for made in read_exports(run, Storage(), RUN_ID)[0]] == ["preview"]
    page = Path(prelabel.evaluate(run, truth=truth, progress=False).files[1]).read_text()
    assert '"../../look/index.html"' in page
