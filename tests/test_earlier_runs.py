"""Every command reads runs of earlier releases; `tests/data/runs` holds a finished and an unfinished one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import prelabel.label_studio.push as push_module
from prelabel.cli import main
from prelabel.errors import StoreError
from prelabel.storage.files import Storage
from prelabel.store.rows import OPTIONAL_COLUMNS, SHARD_SCHEMA
from prelabel.store.shards import read_shard
from tests.label_studio.fake_server import FakeServer
from tests.messages import UNFINISHED, is_told

RUNS = Path(__file__).parent / "data" / "runs"
#: The folder of the images, as the runs recorded it.
PHOTOS = Path("/tmp/prelabel-old-run/photos")  # noqa: S108 - a fixed place is what is wanted
IMAGES, FAILED, DETECTIONS = 6, 1, 23


@pytest.fixture
def photos() -> Iterator[Path]:
    """Copies of the images of the runs, at the recorded place; their times differ from those in the plans."""
    PHOTOS.parent.mkdir(exist_ok=True)
    shutil.copytree(RUNS / "photos", PHOTOS, dirs_exist_ok=True)
    for path in PHOTOS.rglob("*.*"):
        path.touch()
    yield PHOTOS
    shutil.rmtree(PHOTOS.parent, ignore_errors=True)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUNS / "finished", tmp_path / "finished"))


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUNS / "unfinished", tmp_path / "unfinished"))


def output_of(*arguments: str | Path) -> str:
    """The output of a command, which must succeed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def coco_of(run: Path, to: Path) -> dict[str, list[dict[str, object]]]:
    output_of("export", "coco", run, "--to", to, "--score-threshold", "0")
    dataset: dict[str, list[dict[str, object]]] = json.loads(to.read_text())
    return dataset


def test_earlier_runs_lack_columns_added_later():
    for path in RUNS.rglob("*.parquet"):
        if path.parent.name == "shards":
            assert OPTIONAL_COLUMNS.isdisjoint(pq.read_schema(path).names)


def test_verify_and_status(finished: Path, unfinished: Path):
    verified = output_of("verify", finished)
    assert str(IMAGES) in verified
    assert str(DETECTIONS) in verified
    assert is_told(output_of("status", finished), "finished|complete|done")
    assert any(is_told(line, "2", "3") for line in output_of("status", unfinished).splitlines())
    result = CliRunner().invoke(main, ["verify", str(unfinished)])
    assert result.exit_code != 0
    assert is_told(result.output, UNFINISHED)


def test_exports(finished: Path, photos: Path, tmp_path: Path):
    dataset = coco_of(finished, tmp_path / "coco.json")
    assert len(dataset["images"]) == IMAGES - FAILED
    assert len(dataset["annotations"]) == DETECTIONS
    assert all(annotation["segmentation"] for annotation in dataset["annotations"])
    for name in ("label-studio", "cvat", "yolo", "voc"):
        output_of("export", name, finished, "--to", tmp_path / name, "--score-threshold", "0")
        assert (tmp_path / name).exists(), name
    tasks = json.loads((tmp_path / "label-studio" / "tasks-00000.json").read_text())
    assert len(tasks) == IMAGES - FAILED


def test_evaluate_compare_and_preview(finished: Path, photos: Path, tmp_path: Path):
    pytest.importorskip("faster_coco_eval")
    coco_of(finished, tmp_path / "truth.json")
    output_of("evaluate", finished, "--truth", tmp_path / "truth.json")
    scores = json.loads((finished / "evaluation" / "evaluation.json").read_text())
    assert scores["boxes"]["overall"]["AP"] == pytest.approx(1.0, abs=0.01)

    output_of("export", "label-studio", finished, "--to", tmp_path / "tasks", "--score-threshold", "0")
    tasks = json.loads((tmp_path / "tasks" / "tasks-00000.json").read_text())
    for number, task in enumerate(tasks, start=1):
        result = task["predictions"][0]["result"]
        task.update(id=number, annotations=[{"id": number, "was_cancelled": False, "result": result}])
    (tmp_path / "annotations.json").write_text(json.dumps(tasks))
    annotations = ["--annotations", tmp_path / "annotations.json"]
    output_of("compare", "--predictions", finished, *annotations, "--score-threshold", "0")
    compared = json.loads((finished / "comparison" / "comparison.json").read_text())
    assert (compared["total"]["shown"], compared["total"]["deleted"]) == (DETECTIONS, 0)

    output_of("preview", finished, "--to", tmp_path / "preview")
    assert (tmp_path / "preview" / "index.html").exists()


def test_push(finished: Path, monkeypatch: pytest.MonkeyPatch):
    server = FakeServer()
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "token")
    monkeypatch.setattr(push_module, "Server", lambda url, token: server)
    output_of("push", "label-studio", finished, "--url", "http://fake", "--project", "shapes")
    assert len(server.held) == IMAGES - FAILED


def test_the_thresholds_of_an_earlier_run_are_reported(finished: Path, tmp_path: Path):
    """When these runs were made, `label` kept only detections of 0.3 and above, which annotators see."""
    for number, command in enumerate(
        (("export", "coco"), ("export", "label-studio"), ("export", "yolo"), ("preview",))
    ):
        to = tmp_path / f"{number}.json" if "coco" in command else tmp_path / str(number)
        output = output_of(*command, finished, "--to", to)
        (line,) = (line for line in output.splitlines() if is_told(line, r"0\.3"))
        assert len(re.findall(r"\b0\.3\b", line)) == 2, line  # what is shown, and what the run keeps
        lower = output_of(*command, finished, "--to", to, "--score-threshold", "0.1")
        # The threshold that is shown, the one that was kept, and a note that detections are missing.
        assert sum(is_told(line, r"0\.1", r"0\.3") for line in lower.splitlines()) == 2, lower
    assert "regions" in output_of("export", "label-studio", finished, "--to", tmp_path / "tasks")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unfinished", "finished"])
def test_label_resumes_either_run(name: str, photos: Path, tmp_path: Path, request: pytest.FixtureRequest):
    run = request.getfixturevalue(name)
    before = {path.name: path.read_bytes() for path in (run / "shards").iterdir()}
    # The command that started the runs, when the default of --score-threshold was 0.3.
    command = [
        sys.executable,
        "-m",
        "prelabel",
        "label",
        PHOTOS,
        "--detector",
        "demo-shapes",
        "--output",
        run,
        "--quiet",
    ]
    if name == "finished":
        command += ["--score-threshold", "0.3", "--retry-failed"]
    else:  # these options did not exist then
        command += ["--mask-frame", "box", "--input-range", "0..255"]
    subprocess.run([str(word) for word in command], check=True, cwd=tmp_path)
    output_of("verify", run)
    after = {path.name: path.read_bytes() for path in (run / "shards").iterdir()}
    assert len(after) == 3
    untouched = [shard for shard in before if shard != "shard-00002.parquet"]
    assert {shard: after[shard] for shard in untouched} == {shard: before[shard] for shard in untouched}
    dataset = coco_of(run, tmp_path / "coco.json")
    assert (len(dataset["images"]), len(dataset["annotations"])) == (IMAGES - FAILED, DETECTIONS)


def test_a_shard_with_a_column_of_a_later_release_is_accepted(finished: Path):
    path = finished / "shards" / "shard-00000.parquet"
    table = pq.read_table(path)
    rows = list(read_shard(str(path), Storage()))
    table = table.add_column(3, "of_tomorrow", pa.array(["x"] * len(table)))
    pq.write_table(table, path)
    again = list(read_shard(str(path), Storage()))
    assert [(row.image_id, row.dropped, row.browser_orientation) for row in again] == [
        (row.image_id, 0, None) for row in rows
    ]


@pytest.mark.parametrize("name", ["scores", "browser_orientation"])
def test_a_column_of_another_type_is_refused(finished: Path, name: str):
    path = finished / "shards" / "shard-00000.parquet"
    table = pq.read_table(path)
    if name in table.column_names:
        table = table.drop_columns([name])
    pq.write_table(table.append_column(name, pa.array(["x"] * len(table))), path)
    with pytest.raises(StoreError, match=name):
        list(read_shard(str(path), Storage()))


def test_columns_added_later_may_be_null():
    assert set(SHARD_SCHEMA.names) >= OPTIONAL_COLUMNS
    assert all(SHARD_SCHEMA.field(name).nullable for name in OPTIONAL_COLUMNS)
