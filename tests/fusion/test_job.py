"""Whole calls of `prelabel fuse`: what the new run holds, who reads it, what is refused, what a second call does."""

from __future__ import annotations

import json
import shutil
import threading
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
from prelabel.detections import ImageLabel
from prelabel.errors import ConfigError, OutputInUseError, RunInterrupted, StoreError
from prelabel.fusion.job import Progress
from prelabel.keypoints import KeypointSet
from prelabel.processes import Processes
from prelabel.storage.files import Storage
from prelabel.store.lock import Lock
from prelabel.store.run import read_run
from prelabel.store.verify import verify
from tests.fusion.conftest import CAT, DOG, HORSE, OTHER_DOG, World
from tests.messages import UNFINISHED, telling, tells, told
from tests.rows import failed_row, found, mask_of, row
from tests.s3 import S3Server

SCHEMAS = Path(__file__).parents[2] / "schemas"
LEFT = mask_of(*["###..."] * 4)


@pytest.fixture
def two(world: World) -> World:
    """Runs a and b: a dog in both, a failure in each and in both, and an image in one of them only."""
    world.run(
        "a",
        row("dog.jpg", found(score=0.8, mask=LEFT)),
        failed_row("lost.jpg"),
        row("only-a.jpg", found("Cat", 0.7, mid=CAT.mid, category_id=2)),
        failed_row("broken.jpg"),
        row("empty.jpg"),
        masks=True,
    )
    dog = found("dog", 0.4, category_id=18, mid="")
    world.run(
        "b",
        row("only-b.jpg", found("horse", 0.6, mid="", category_id=1)),
        row("dog.jpg", dog),
        row("broken.jpg", dog),
        failed_row("lost.jpg"),
        row("empty.jpg"),
        classes=(OTHER_DOG, HORSE),
    )
    return world


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
    return result.output


def refused(*arguments: object, code: int = 2) -> str:
    """The one line on standard error of a command that must fail."""
    lines = [line for line in run(*arguments, code=code).splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_all_images_of_all_runs_with_what_is_good_of_them(two: World):
    summary = two.fuse("a", "b", weights="3,1")
    rows = two.rows()
    assert list(rows) == ["dog.jpg", "lost.jpg", "only-a.jpg", "broken.jpg", "empty.jpg", "only-b.jpg"]
    detected = {name: row.detections for name, row in rows.items() if row.detections is not None}
    assert {name: detections.label.tolist() for name, detections in detected.items()} == {
        "dog.jpg": ["Dog"],
        "only-a.jpg": ["Cat"],
        "broken.jpg": ["Dog"],
        "empty.jpg": [],
        "only-b.jpg": ["horse"],
    }
    assert detected["dog.jpg"].score == pytest.approx([0.7])
    assert detected["dog.jpg"].views.tolist() == [2]
    assert detected["broken.jpg"].score == pytest.approx([0.4])
    assert detected["dog.jpg"].mask.tolist() == [LEFT]
    assert rows["lost.jpg"].error_type == "TruncatedImageError"
    assert (summary.images, summary.in_one_run, summary.failed, summary.failed_in_some) == (6, 2, 1, 1)
    assert (summary.detections, summary.by_runs) == (4, (3, 1))
    assert summary.of_one_run == {str(two.folder / "a"): ("Cat",), str(two.folder / "b"): ("horse",)}
    # The rows of these tests have no checksums.
    assert summary.unproven == 2


def test_the_new_run_records_where_it_comes_from(two: World):
    two.fuse("a", "b", weights="3,1", merge_iou=0.6, score_threshold=0.1)
    written = json.loads((two.folder / "fused" / "run.json").read_text())
    jsonschema.validate(written, json.loads((SCHEMAS / "run.schema.json").read_text()))
    manifest = json.loads((two.folder / "fused" / "manifest.json").read_text())
    jsonschema.validate(manifest, json.loads((SCHEMAS / "manifest.schema.json").read_text()))
    record = two.opened("fused").record
    assert [(part.run, part.weight, part.detector.name) for part in record.fused] == [
        (str(two.folder / "a"), 3.0, "a-net"),
        (str(two.folder / "b"), 1.0, "b-net"),
    ]
    assert (record.fused[0].images, record.fused[0].failed, record.fused[0].detections) == (5, 2, 2)
    assert record.fused[1].detector == two.opened("b").record.detector
    assert {name: record.settings[name] for name in ("weights", "merge", "merge_iou", "score_threshold")} == {
        "weights": [3.0, 1.0],
        "merge": "wbf",
        "merge_iou": 0.6,
        "score_threshold": 0.1,
    }
    assert (record.detector.name, record.detector.masks) == ("a-net+b-net", True)
    assert record.detector.classes == (DOG, CAT, replace(HORSE, id=3))
    assert told(record.detector.notes, "ASSUMED", "Dog|dog")
    assert (record.shard_size, record.images, record.shards) == (2, 6, 3)


def test_the_fingerprint_depends_on_weights_and_settings_but_not_on_the_order(two: World):
    def fingerprint(*names: str, **options: Any) -> str:
        two.fuse(*names, overwrite=True, **options)
        return two.opened("fused").record.detector.fingerprint

    first = fingerprint("a", "b", weights="3,1")
    assert fingerprint("b", "a", weights="1,3") == first
    others = [fingerprint("a", "b"), fingerprint("a", "b", merge_iou=0.6), fingerprint("a", "b", merge="nms")]
    assert len({first, *others}) == 4


def test_every_command_reads_the_new_run(two: World, tmp_path: Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a", "b"):
        rows = [replace(row, uri=str(photos / row.image_id)) for row in two.rows(name).values()]
        for image in rows:
            Image.new("RGB", (6, 4)).save(photos / image.image_id)
        shutil.rmtree(two.folder / name)
        classes = (DOG, CAT) if name == "a" else (OTHER_DOG, HORSE)
        two.run(name, *rows, classes=classes, masks=name == "a")
    fused, out = two.folder / "fused", tmp_path / "out"
    output = run("fuse", two.folder / "a", two.folder / "b", "--to", fused, "--weights", "3,1")
    assert tells(output, "ASSUMED", "Dog|dog")
    assert tells(run("verify", fused), "problems", "0")
    assert tells(run("status", fused), "finished", "6 of 6")
    for kind, to in (("coco", "c.json"), ("label-studio", "tasks"), ("cvat", "c.xml"), ("yolo", "y"), ("voc", "v")):
        run("export", kind, fused, "--to", out / to)
    coco = json.loads((out / "c.json").read_text())
    assert {category["name"]: category["id"] for category in coco["categories"]} == {"Dog": 1, "Cat": 2, "horse": 3}
    assert len(coco["annotations"]) == 4
    run("preview", fused, "--to", out / "preview")
    dog = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 3, 4], "area": 12, "iscrowd": 0}
    images = [{"id": 1, "file_name": "dog.jpg", "height": 4, "width": 6}]
    truth = {"images": images, "categories": [{"id": 7, "name": "dog"}], "annotations": [dog]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    run("evaluate", fused, "--truth", tmp_path / "truth.json")
    assert json.loads((fused / "evaluation" / "evaluation.json").read_text())["boxes"]["overall"][
        "AP"
    ] == pytest.approx(1)
    corrected = {**truth, "annotations": [{**dog, "bbox": [0, 0, 3, 4]}]}
    (tmp_path / "corrected.json").write_text(json.dumps(corrected))
    run("compare", "--predictions", fused, "--annotations", tmp_path / "corrected.json")
    assert next(row.image_id for row in prelabel.open_run(fused).rows()) == "dog.jpg"


def test_masks_of_one_run_beside_boxes_of_the_other_are_valid(world: World):
    world.run("a", row("a.jpg", found(mask=LEFT)), masks=True)
    world.run("b", row("a.jpg", found("Cat", 0.5, mid=CAT.mid, category_id=2)))
    world.fuse("a", "b")
    detections = world.rows()["a.jpg"].detections
    assert detections.mask.tolist() == [LEFT, None]
    assert verify(str(world.folder / "fused"), Storage()).complete
    assert detections.decode_masks().sum(axis=(1, 2)).tolist() == [12, 0]
    for kind, to in (("coco", "c.json"), ("label-studio", "tasks"), ("cvat", "c.xml"), ("yolo", "y"), ("voc", "v")):
        run("export", kind, world.folder / "fused", "--to", world.folder / to)


def test_keypoints_of_the_same_names_are_merged_and_others_are_left_out_with_a_note(world: World):
    eyes = KeypointSet(("left_eye", "right_eye"), edges=((0, 1),), pairs=((0, 1),), classes=(1,))
    points = [(1, 1, 0.8), (2, 1, 0.4)]
    world.run("a", row("x.jpg", found(score=0.5, keypoints=points)), keypoints=eyes)
    world.run("b", row("x.jpg", found("dog", 0.5, category_id=18, mid="")), classes=(OTHER_DOG, HORSE))
    other = replace(eyes, classes=(18,))
    world.run(
        "c",
        row("x.jpg", found("dog", 0.5, category_id=18, mid="", keypoints=points)),
        classes=(OTHER_DOG, HORSE),
        keypoints=other,
    )
    world.run("d", row("x.jpg", found(score=0.5, keypoints=points[:1])), keypoints=KeypointSet(("nose",), classes=(1,)))
    for names in ("ab", "ac"):
        world.fuse(*names, to=names)
        detections = world.rows(names)["x.jpg"].detections
        assert detections.keypoints[..., :2].tolist() == [[[1, 1], [2, 1]]]
        assert world.opened(names).record.detector.keypoints == eyes
        assert verify(str(world.folder / names), Storage()).complete
    assert told(world.fuse("a", "d", to="ad").notes, "keypoints", str(world.folder / "d"))
    assert world.opened("ad").record.detector.keypoints is None
    assert world.rows("ad")["x.jpg"].detections.keypoints is None
    unnamed = replace(eyes, names=("keypoint 1", "keypoint 2"))
    world.run("e", row("x.jpg", found(keypoints=points)), keypoints=unnamed)
    world.run("f", row("x.jpg", found(keypoints=points)), keypoints=unnamed)
    assert told(world.fuse("e", "f", to="ef").notes, "keypoints", str(world.folder / "f"))


def test_order_of_runs_changes_only_the_order_of_images_names_and_numbers(two: World):
    two.fuse("a", "b", weights="3,1")
    two.fuse("b", "a", weights="1,3", to="other")
    first, second = two.rows("fused"), two.rows("other")
    assert first.keys() == second.keys()
    for name, image in first.items():
        other = second[name]
        assert (image.status, image.views_shown) == (other.status, other.views_shown)
        if image.detections is not None:
            for column in ("xyxy", "score", "mid"):
                assert getattr(image.detections, column).tolist() == getattr(other.detections, column).tolist()


def test_the_same_call_changes_nothing_and_resumes_what_is_missing(two: World):
    first = two.fuse("a", "b")
    before = {path: path.read_bytes() for path in (two.folder / "fused").rglob("*.*")}
    again = two.fuse("a", "b")
    assert {path: path.read_bytes() for path in (two.folder / "fused").rglob("*.*")} == before
    assert replace(again, wall_s=0, skipped_shards=0, unproven=0) == replace(first, wall_s=0, unproven=0)
    (two.folder / "fused" / "shards" / "shard-00001.parquet").write_bytes(b"broken")
    (two.folder / "fused" / "manifest.json").unlink()
    told_lines: list[str] = []
    resumed = two.fuse("a", "b", progress=Progress(told_lines.append))
    assert told(told_lines, "shard-00001.parquet", "again")
    assert (resumed.skipped_shards, resumed.by_runs) == (2, first.by_runs)
    assert verify(str(two.folder / "fused"), Storage()).complete
    shard = two.folder / "fused" / "shards" / "shard-00001.parquet"
    assert shard.read_bytes() == before[shard]


def test_a_stopped_call_keeps_finished_shards(two: World):
    stop = threading.Event()
    with pytest.raises(RunInterrupted, match=telling("1", "3", "same command")):
        two.fuse("a", "b", progress=Progress(count=lambda done, total: stop.set() if done else None, stop=stop))
    assert not (two.folder / "fused" / "manifest.json").exists()
    with pytest.raises(StoreError, match=telling(UNFINISHED, "prelabel fuse")):
        two.opened("fused")
    assert two.fuse("a", "b").skipped_shards == 1


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"weights": "2,1"}, ("weights", r"1\.0", r"2\.0")),
        ({"merge": "nms"}, ("merge", "wbf", "nms")),
        ({"score_threshold": 0.2}, ("score-threshold", r"0\.05", r"0\.2")),
        ({"class_map": {"Dog": "pet"}}, ("class-map", "pet")),
    ],
)
def test_another_setting_is_another_run(two: World, change: dict[str, Any], facts: tuple[str, ...]):
    two.fuse("a", "b")
    with pytest.raises(ConfigError, match=telling("fused", *facts, "--overwrite")):
        two.fuse("a", "b", **change)
    assert two.fuse("a", "b", overwrite=True, **change).skipped_shards == 0
    assert verify(str(two.folder / "fused"), Storage()).complete


def test_other_runs_are_another_run_and_so_are_runs_that_changed(two: World):
    two.fuse("a", "b")
    with pytest.raises(ConfigError, match=telling("fused", "a", "b", "--overwrite")):
        two.fuse("b", "a")
    manifest = two.folder / "b" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("12:00:01", "13:00:01"))
    with pytest.raises(ConfigError, match=telling(f"{two.folder}/b", "changed", "--overwrite")):
        two.fuse("a", "b")


def test_a_run_of_label_in_the_output_is_refused_and_replaced_on_request(two: World):
    two.run("c", row("a.jpg"))
    with pytest.raises(ConfigError, match=telling("prelabel label", "--overwrite")):
        two.fuse("a", "b", to="c")
    two.fuse("a", "b", to="c", overwrite=True)
    assert verify(str(two.folder / "c"), Storage()).complete


def test_a_fused_run_is_fused_again_with_its_origin(two: World):
    two.run("c", row("dog.jpg", found(score=0.2)))
    two.fuse("a", "b", to="ab")
    two.fuse("ab", "c", to="abc", weights="2,1")
    record = two.opened("abc").record
    assert [part.run for part in record.fused[0].fused] == [str(two.folder / name) for name in "ab"]
    assert record.fused[1].fused == ()
    written = json.loads((two.folder / "abc" / "run.json").read_text())
    jsonschema.validate(written, json.loads((SCHEMAS / "run.schema.json").read_text()))
    with pytest.raises(ConfigError, match=telling("twice", "ab", "a")):
        two.fuse("ab", "a", to="twice")
    assert not (two.folder / "twice").exists()


def test_what_cannot_be_fused_is_refused_in_one_line(two: World):
    a, b, to = two.folder / "a", two.folder / "b", two.folder / "out"
    assert tells(refused("fuse", a, "--to", to), "two", "1")
    assert tells(refused("fuse", "--to", to), "two")
    assert tells(refused("fuse", a, b), "--to")
    assert tells(refused("fuse", a, a, "--to", to), "same", str(a))
    shutil.copytree(a, two.folder / "copy")
    assert tells(refused("fuse", a, two.folder / "copy", "--to", to), "same", "copy")
    assert tells(refused("fuse", a, b, "--to", b), "--to", str(b))
    assert tells(refused("fuse", a, b, "--to", b, "--overwrite"), "--to", str(b))
    for weights in ("1", "1,2,3"):
        assert tells(refused("fuse", a, b, "--to", to, "--weights", weights), "--weights", "2")
    for weights in ("1,0", "1,-2"):
        assert tells(refused("fuse", a, b, "--to", to, "--weights", weights), "--weights", "above", "0")
    for weights in ("1,x", "", "1,,2", "1,nan"):
        assert tells(refused("fuse", a, b, "--to", to, "--weights", weights), "--weights", "numbers")
    assert tells(refused("fuse", a, b, "--to", to, "--weights", "3,1", "--merge", "nms"), "--weights", "nms", "wbf")
    assert tells(refused("fuse", a, b, "--to", to, "--include-class", "Dgo"), "Dgo", "Dog")
    (b / "manifest.json").unlink()
    assert tells(refused("fuse", a, b, "--to", to, code=1), str(b), "not finished")
    assert tells(refused("fuse", a, two.folder / "none", "--to", to, code=1), "none", "run.json")
    assert not to.exists()


def test_a_classifier_is_refused(two: World):
    two.run("c", failed_row("x.jpg"), row("dog.jpg", image_labels=[ImageLabel(1, "Dog", "", 0.9)]))
    assert tells(refused("fuse", two.folder / "a", two.folder / "c", "--to", two.folder / "out"), "c", "whole images")


def test_another_file_under_the_same_id_is_refused_with_the_image_and_both_runs(world: World):
    world.run("a", replace(row("x.jpg"), sha256="a" * 64))
    world.run("b", replace(row("x.jpg"), sha256="b" * 64))
    message = refused("fuse", world.folder / "a", world.folder / "b", "--to", world.folder / "out", code=1)
    assert tells(message, "x.jpg", str(world.folder / "a"), str(world.folder / "b"), "SHA-256")


def test_runs_without_a_common_image_are_fused_and_this_is_told(world: World):
    world.run("a", row("photos/x.jpg", found()))
    world.run("b", row("x.jpg", found()))
    summary = world.fuse("a", "b")
    assert (summary.images, summary.in_one_run) == (2, 2)
    assert told(summary.notes, "image_id")


def test_what_the_runs_kept_is_told_if_it_differs(world: World):
    world.run("a", row("x.jpg"), score_threshold=0.05)
    world.run("b", row("x.jpg"), score_threshold=0.3, keep=["multiclass-scores"])
    notes = world.fuse("a", "b").notes
    assert told(notes, "0.05", "0.3", str(world.folder / "b"))
    assert told(notes, "multiclass-scores")


def test_classes_that_a_run_excluded_are_not_known_to_it(world: World):
    world.run("a", row("x.jpg", found("Cat", 0.8, mid=CAT.mid, category_id=2)))
    world.run("b", row("x.jpg", found(score=0.5)), exclude_class=["Cat"])
    summary = world.fuse("a", "b")
    detections = world.rows()["x.jpg"].detections
    assert dict(zip(detections.label, detections.score.tolist(), strict=True)) == {
        "Cat": pytest.approx(0.8),
        "Dog": pytest.approx(0.25),
    }
    assert summary.of_one_run == {str(world.folder / "a"): ("Cat",)}


def test_label_neither_resumes_nor_extends_a_fused_run(two: World, tmp_path: Path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "a.jpg")
    two.fuse("a", "b")
    fused = two.folder / "fused"
    for option in ((), ("--retry-failed",), ("--add-new",)):
        command = ("label", tmp_path / "photos", "--detector", "demo-shapes", "--output", fused, *option)
        assert tells(refused(*command), str(fused), "prelabel fuse", "--output", "--overwrite")
    assert verify(str(fused), Storage()).complete


def test_one_job_at_a_time_writes_the_output(two: World):
    output = str(two.folder / "fused")
    with Lock(output, Storage(), lambda text: None, threading.Event()), pytest.raises(OutputInUseError):
        two.fuse("a", "b")
    assert read_run(output, Storage()) is None
    assert not list((two.folder / "fused").rglob("*.parquet"))


def test_a_failure_before_the_run_exists_leaves_no_plan(two: World, monkeypatch: pytest.MonkeyPatch):
    def fail(self: object, *_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr("prelabel.store.output.Output.begin", fail)
    with pytest.raises(StoreError, match="full"):
        two.fuse("a", "b")
    assert not list((two.folder / "fused").rglob("*.parquet"))


def test_several_processes_write_the_same_shards(world: World, monkeypatch: pytest.MonkeyPatch):
    scores = np.random.default_rng(0).uniform(0.1, 1, 40).tolist()
    images = [f"{number:02d}.jpg" for number in range(20)]
    world.run("a", *(row(name, found(score=score)) for name, score in zip(images, scores[:20], strict=True)))
    world.run("b", *(row(name, found(score=score)) for name, score in zip(images[::-1], scores[20:], strict=True)))
    world.fuse("a", "b")
    chosen = {"runs": [str(world.folder / "a"), str(world.folder / "b")], "to": str(world.folder / "other")}
    monkeypatch.setattr(Processes, "all_cores", lambda: Processes(2, at_once=True))
    prelabel.fuse(**chosen)
    first, second = world.rows("fused"), world.rows("other")
    assert list(first) == list(second)
    for name, image in first.items():
        assert image.detections.score.tolist() == second[name].detections.score.tolist()


def test_python_accepts_paths_opened_runs_and_numbers(two: World):
    opened = prelabel.open_run(two.folder / "a")
    summary = prelabel.fuse([opened, two.folder / "b"], two.folder / "fused", weights=[3, 1], progress=False)
    assert isinstance(summary, prelabel.FusionSummary)
    assert tells(repr(summary), "2", "images=6", "detections=4")
    assert [part.weight for part in summary.runs] == [3, 1]
    with pytest.raises(ConfigError, match=telling("fuse", "weigths", "weights")):
        prelabel.fuse([opened, two.folder / "b"], two.folder / "fused", weigths=[3, 1])  # type: ignore[call-arg]


def test_runs_and_output_in_object_storage(two: World, s3_server: S3Server):
    bucket = s3_server.new_bucket()
    for name in "ab":
        for path in (two.folder / name).rglob("*.*"):
            s3_server.put(bucket, f"{name}/{path.relative_to(two.folder / name)}", path.read_bytes())
    places = [f"s3://{bucket}/{name}" for name in "ab"]
    prelabel.fuse(places, f"s3://{bucket}/fused", storage_options=s3_server.options)
    rows = list(prelabel.open_run(f"s3://{bucket}/fused", s3_server.options).rows())
    two.fuse("a", "b")
    assert [row.image_id for row in rows] == list(two.rows())
    assert verify(f"s3://{bucket}/fused", Storage(s3_server.options)).complete
