"""The Python functions: the commands' options as typed keywords, results as small objects, and their stub."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import prelabel
from prelabel import console
from prelabel.config import LabelOptions
from prelabel.detections import Detections
from prelabel.engine import job
from prelabel.engine.progress import Snapshot
from prelabel.errors import ConfigError, StoreError
from prelabel.export.coco import CocoOptions
from prelabel.masks import rle
from prelabel.options import RenamedOptionWarning, fields_of, option
from prelabel.signatures import OPTION_CLASSES, help_text, options_class, options_of
from tests.messages import UNFINISHED, facts, telling, tells
from tests.rows import failed_row, found, mask_of, row
from tests.runs import write_run
from tools import stub

HALF = mask_of("###...", "###...", "###...", "###...")

FUNCTIONS = [name for name in prelabel.__all__ if inspect.isfunction(getattr(prelabel, name))]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[LabelOptions, Any]]:
    """The options and the reporter of each run that was requested from the engine."""
    made: list[tuple[LabelOptions, Any]] = []
    monkeypatch.setattr(job, "run", lambda options, reporter: made.append((options, reporter)))
    return made


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of three images that exist: a dog with a mask, no detections, and a failure."""
    (tmp_path / "photos").mkdir()
    rows = [row("a.jpg", found("Dog", mask=HALF)), row("b.jpg", masks=True), failed_row("c.jpg")]
    for image_row in rows:
        Image.new("RGB", (6, 4)).save(tmp_path / "photos" / image_row.image_id)
    rows = [dataclasses.replace(image_row, uri=str(tmp_path / "photos" / image_row.image_id)) for image_row in rows]
    return Path(write_run(tmp_path / "run", [rows]))


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Ground truth: the dog at the place where the run detected it."""
    path = tmp_path / "truth.json"
    images = [{"id": n, "file_name": f"{name}.jpg", "height": 4, "width": 6} for n, name in enumerate("ab", start=1)]
    dog = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 3, 4], "area": 12, "iscrowd": 0}
    path.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "Dog"}], "annotations": [dog]}))
    return path


# Calling label


def test_a_former_name_is_reported_at_the_line_that_gives_it(calls: list[tuple[LabelOptions, Any]], run: Path):
    with warnings.catch_warnings(record=True) as renamed:
        warnings.simplefilter("always", RenamedOptionWarning)
        prelabel.label("photos", detector="d", output="out", address="local")
        prelabel.export_coco(run, run / "coco.json", score="key")
    assert [Path(warning.filename) for warning in renamed] == [Path(__file__)] * 2
    lines = Path(__file__).read_text().splitlines()
    assert "address=" in lines[renamed[0].lineno - 1]
    assert "score=" in lines[renamed[1].lineno - 1]


def test_label_accepts_one_or_several_sources_and_any_option(calls: list[tuple[LabelOptions, Any]]):
    prelabel.label("photos", detector="d", output="out", score_threshold=0.05, class_map={"Dog": "pet"})
    prelabel.label([Path("a"), "b"], detector="d", output=Path("out"), workers=2)
    (first, reporter), (second, _) = calls
    assert first == LabelOptions.of(
        source=("photos",), detector="d", output="out", score_threshold=0.05, class_map={"Dog": "pet"}
    )
    assert (second.source, second.output, second.workers) == (("a", "b"), "out", 2)
    assert type(reporter) is console.QuietReporter


def test_a_job_file_supplies_options_that_the_call_does_not_give(calls: list[tuple[LabelOptions, Any]], tmp_path: Path):
    job_file = tmp_path / "job.yaml"
    job_file.write_text("score-threshold: 0.2\nworkers: 3\nlog-json: true\n")
    prelabel.label("photos", detector="d", output="out", config=job_file, workers=1)
    ((options, reporter),) = calls
    assert (options.selection.score_threshold, options.workers) == (0.2, 1)
    assert type(reporter) is console.JsonReporter


def test_a_reporter_of_the_caller_receives_the_progress(calls: list[tuple[LabelOptions, Any]]):
    own = console.QuietReporter()
    prelabel.label("photos", detector="d", output="out", reporter=own)
    assert calls[0][1] is own


def test_progress_is_shown_if_requested_or_in_a_notebook(
    calls: list[tuple[LabelOptions, Any]], monkeypatch: pytest.MonkeyPatch
):
    prelabel.label("photos", detector="d", output="out", progress=True)
    monkeypatch.setattr(console, "in_notebook", lambda: True)
    monkeypatch.setattr(importlib, "import_module", lambda name: SimpleNamespace(display=None))
    prelabel.label("photos", detector="d", output="out")
    prelabel.label("photos", detector="d", output="out", progress=False)
    kinds = [type(reporter) for _, reporter in calls]
    assert kinds == [console.LineReporter, console.NotebookReporter, console.QuietReporter]


def test_a_wrong_option_is_refused_before_anything_runs(calls: list[tuple[LabelOptions, Any]]):
    with pytest.raises(ConfigError, match=telling("label", "score_treshold", "score_threshold")):
        prelabel.label("photos", detector="d", output="out", score_treshold=0.5)  # type: ignore[call-arg]
    assert not calls


# Runs


def test_a_finished_run_is_opened_and_an_unfinished_one_is_not(tmp_path: Path):
    output = write_run(tmp_path / "out", [[row("a.jpg", found("Dog"))], [row("b.jpg")]])
    assert [(row.image_id, len(row)) for row in prelabel.open_run(output).rows()] == [("a.jpg", 1), ("b.jpg", 0)]
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(StoreError, match=telling(UNFINISHED, "prelabel label")):
        prelabel.open_run(output)


def test_the_output_of_an_opened_run_is_its_absolute_address_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_run(tmp_path / "out", [[row("a.jpg")]])
    monkeypatch.chdir(tmp_path)
    run = prelabel.open_run("out/")
    assert (run.output, run.rows.output) == (str(tmp_path / "out"),) * 2
    assert type(run.output) is type(run.rows.output) is str


def test_status_and_verification(run: Path):
    assert prelabel.status(run).state == "finished"
    checked = prelabel.verify(prelabel.open_run(run))
    assert (checked.complete, checked.rows, checked.failed) == (True, 3, 1)


@pytest.mark.parametrize(
    ("export", "to", "options"),
    [
        (prelabel.export_coco, "coco.json", {"segmentation": "polygon", "class_map": {"Dog": "pet"}}),
        (prelabel.export_cvat, "cvat.xml", {}),
        (prelabel.export_yolo, "yolo", {"image_files": "copy"}),
        (prelabel.export_voc, "voc", {"include_class": "Dog"}),
        (prelabel.export_label_studio, "tasks", {"class_threshold": {"Dog": np.float32(0.5)}}),
        (prelabel.preview, "look", {"limit": np.int64(2)}),
    ],
)
def test_each_export_takes_a_path_or_an_opened_run(
    tmp_path: Path, run: Path, export: Callable[..., prelabel.ExportReport], to: str, options: dict[str, Any]
):
    report = export(run, tmp_path / to, **options)
    again = export(prelabel.open_run(run), str(tmp_path / to), **options)
    assert again == report
    assert (report.images, report.failed, report.detections) == (2, 1, 1)
    assert all(Path(file).exists() for file in report.files)
    assert tells(repr(report), "ExportReport", "images=2", "failed=1", "detections=1")
    assert len(repr(report).replace(str(tmp_path), "")) < 160


def test_an_export_is_recorded_beside_the_run_as_by_the_command(tmp_path: Path, run: Path):
    prelabel.export_coco(run, tmp_path / "coco.json", score_threshold=0.4)
    (record,) = (run / "exports").iterdir()
    written = json.loads(record.read_text())
    assert (written["kind"], written["selection"]["score_threshold"]) == ("coco", 0.4)


def test_notes_for_the_user_are_in_the_warnings(tmp_path: Path, run: Path):
    report = prelabel.export_coco(run, tmp_path / "coco.json", score_threshold=0.4, class_threshold={"*": 0.5})
    assert any(tells(warning, "score-threshold", "0.4", "0.5") for warning in report.warnings)


def test_an_evaluation_returns_figures_thresholds_and_files(run: Path, truth: Path, tmp_path: Path):
    pytest.importorskip("faster_coco_eval")
    evaluated = prelabel.evaluate(run, truth=truth, to=tmp_path / "evaluation")
    assert (evaluated.images, evaluated.objects) == (2, 1)
    assert (evaluated.box_ap, evaluated.ap_by_class) == (pytest.approx(1), {"Dog": pytest.approx(1)})
    assert evaluated.thresholds.keys() == {"*"}
    assert [Path(file).name for file in evaluated.files] == [
        *("evaluation.json", "evaluation.html", "thresholds.yaml", "thresholds-best-f1.yaml")
    ]
    assert len(repr(evaluated)) < 160
    # The thresholds as a mapping, and as the file that holds them.
    by_value = prelabel.export_coco(run, tmp_path / "a.json", class_threshold=evaluated.thresholds)
    by_file = prelabel.export_coco(run, tmp_path / "a.json", class_threshold=tmp_path / "evaluation/thresholds.yaml")
    assert by_value == by_file


def test_a_comparison_counts_the_edits(run: Path, truth: Path, tmp_path: Path):
    compared = prelabel.compare(run, annotations=truth, to=tmp_path / "comparison")
    assert (compared.images, compared.shown, compared.kept, compared.corrections) == (2, 1, 1, 0)
    assert compared.edits_by_class["Dog"]["kept"] == 1
    assert (tmp_path / "comparison" / "comparison.json").exists()
    assert len(repr(compared)) < 160


def test_a_push_needs_a_server(run: Path):
    with pytest.raises(ConfigError, match=facts("url")):
        prelabel.push_label_studio(run, project=7)  # type: ignore[call-arg]


# Values


def test_python_types_are_accepted_as_values():
    options = options_of(
        "export_coco",
        {
            "score_threshold": np.float32(0.5),
            "include_class": {"Dog"},
            "exclude_class": ("Cat",),
            "class_threshold": {"Dog": np.float64(0.25)},
            "results": Path("r.json"),
            "split": np.int64(3),
            "categories": None,
        },
    )
    assert options == CocoOptions.of(
        score_threshold=0.5,
        include_class=["Dog"],
        exclude_class=["Cat"],
        class_threshold={"Dog": 0.25},
        results="r.json",
        split=3,
    )


@pytest.mark.parametrize("name", sorted(OPTION_CLASSES))
def test_the_declared_default_of_each_keyword_is_that_of_its_option(name: str):
    """Passing every default gives the same options as passing none."""
    parameters = inspect.signature(getattr(prelabel, name)).parameters
    known = fields_of(options_class(name))
    empty = inspect.Parameter.empty
    given = {"source": "s", "detector": "d", "output": "o", "truth": "t", "annotations": "a", "predictions": "p"}
    given |= {"url": "http://s", "project": "p", "runs": ["a", "b"], "to": "o", "budget": 1, "run_a": "a", "run_b": "b"}
    needed = {key: value for key, value in given.items() if key in known}
    defaults = {key: p.default for key, p in parameters.items() if key in known and p.default is not empty}
    assert options_of(name, {**defaults, **needed}).notes == options_of(name, needed).notes
    stated = options_of(name, {k: v for k, v in defaults.items() if k != "score_threshold"}, **needed)
    assert stated == options_of(name, needed)


# Masks


def test_masks_are_decoded_to_arrays_of_pixels():
    detections = row("a.jpg", found(mask=HALF), found(mask=mask_of("......", ".#....", "......", "......"))).detections
    assert detections is not None
    pixels = detections.decode_masks()
    assert (pixels.shape, pixels.dtype) == ((2, 4, 6), np.bool_)
    assert pixels[0, :, :3].all()
    assert pixels[0].sum() == 12
    assert np.argwhere(pixels[1]).tolist() == [[1, 1]]
    assert detections[1:].decode_masks().shape == (1, 4, 6)
    assert [rle.encode(mask) for mask in pixels] == detections.mask.tolist()  # type: ignore[union-attr]


def test_without_detections_there_are_no_masks_and_without_masks_an_error():
    assert Detections.empty(4, 6, masks=True).decode_masks().shape == (0, 4, 6)
    assert Detections.empty(4, 6).decode_masks().shape == (0, 4, 6)
    boxes = row("a.jpg", found()).detections
    assert boxes is not None
    with pytest.raises(StoreError, match=facts("masks")):
        boxes.decode_masks()


def test_the_repr_of_runs_rows_and_detections_is_short(run: Path):
    opened = prelabel.open_run(run)
    assert tells(repr(opened), "images=3", "failed=1", "detections=1", "detector")
    first = next(iter(opened.rows()))
    assert tells(repr(first.detections), "Dog 0.90", "masks")
    assert len(repr(opened).replace(str(run), "")) < 120
    assert len(repr(prelabel.status(run))) < 160


# Names and types


def test_the_stub_is_what_its_generator_writes():
    assert stub.STUB.read_text(encoding="utf-8") == stub.stub(), "run `python -m tools.stub`"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Needs --score-threshold.", "Needs score_threshold."),
        ("`prelabel inspect --write-adapter` drafts one.", "`prelabel inspect --write-adapter` drafts one."),
        ("Use --to, or `prelabel extract --to`, and --images.", "Use to, or `prelabel extract --to`, and images."),
        ("With `--to`, files.", "With `to`, files."),
    ],
)
def test_help_spells_options_as_keywords_but_not_in_quoted_commands(text: str, expected: str):
    @dataclasses.dataclass
    class Options:
        name: str = option("", text)

    assert help_text(dataclasses.fields(Options)[0]) == expected


def test_help_lists_each_option():
    parameters = inspect.signature(prelabel.export_coco).parameters
    assert parameters["segmentation"].default == "rle"
    assert {*fields_of(CocoOptions)} <= {*parameters}
    assert 'segmentation: Literal["rle", "polygon", "none"] = ' in str(inspect.signature(prelabel.export_coco))
    assert "segmentation: " in (inspect.getdoc(prelabel.export_coco) or "")


def test_import_loads_nothing_heavy_before_use():
    code = (
        "import sys, prelabel\n"
        "print([m for m in sys.modules if m.startswith('prelabel.')])\n"
        "from prelabel import *\n"
        "heavy = ('tensorflow', 'ray', 'tensorflow_hub')\n"
        "print([m for m in heavy if m in sys.modules])\n"
        "prelabel.label, prelabel.preview\n"
        "print([name for name in prelabel.__all__ if not hasattr(prelabel, name)])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]"] * 3


def test_no_module_has_the_name_of_a_function():
    """The import of a module `prelabel.preview` would put the module in the function's place."""
    modules = {module.name for module in pkgutil.iter_modules(prelabel.__path__)}
    assert not modules & set(prelabel.__all__)
    importlib.import_module("prelabel.gallery.preview")
    assert inspect.isfunction(prelabel.preview)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=facts("exprot_coco")):
        prelabel.exprot_coco  # type: ignore[attr-defined]  # noqa: B018


RIGHT = """
from pathlib import Path
import prelabel

summary = prelabel.label(["a", Path("b")], detector="d", output=Path("out"), class_map={"Dog": "pet"}, workers=2)
images: int = summary.images
run: prelabel.Run = prelabel.open_run("out")
for row in run.rows():
    if row.detections is not None:
        shape = row.detections.decode_masks().shape
report: prelabel.ExportReport = prelabel.export_coco(run, "x.json", segmentation="rle", class_threshold={"Dog": 0.5})
ap: float | None = prelabel.evaluate("out", truth="t.json", iou=0.75).box_ap
prelabel.push_label_studio(run, url="http://localhost:8080", project=7)
prelabel.preview("out", "look", score_threshold=0.3, progress=False)
"""

WRONG = {
    'prelabel.label("a", detector="d")': "output",
    'prelabel.label("a", detector="d", output="o", wrokers=2)': "wrokers",
    'prelabel.label("a", detector="d", output="o", workers="two")': "workers",
    'prelabel.export_coco("out", "x.json", segmentation="mask")': "segmentation",
    'prelabel.evaluate("out")': "truth",
    'prelabel.compare("out", annotations="a.json", predictions="b")': "predictions",
    'prelabel.status("out").image': "image",
}


@pytest.mark.slow
def test_type_checkers_check_calls(tmp_path: Path):
    (tmp_path / "right.py").write_text(RIGHT)
    lines = ["import prelabel", *WRONG]
    (tmp_path / "wrong.py").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(tmp_path / "cache")]
    command += ["--follow-imports", "silent", "--ignore-missing-imports", "right.py", "wrong.py"]
    environment = {"MYPYPATH": str(Path(prelabel.__file__).parents[1]), "PATH": ""}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    errors = [line for line in result.stdout.splitlines() if ": error: " in line]
    assert not [line for line in errors if line.startswith("right.py")]
    for number, name in enumerate(WRONG.values(), start=2):
        assert any(line.startswith(f"wrong.py:{number}:") and name in line for line in errors), (number, errors)


# Notebooks


class FakeDisplay:
    def __init__(self) -> None:
        self.shown: list[str] = []

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool) -> FakeDisplay:
        assert raw
        assert display_id
        self.shown.append(content["text/plain"])
        return self

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        self.shown.append(content["text/plain"])


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> FakeDisplay:
    """Imitate Python in a notebook, as far as `in_notebook` and `NotebookLine` need it."""
    shell = type("ZMQInteractiveShell", (), {})()
    fake = FakeDisplay()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", fake)  # type: ignore[arg-type]
    return fake


def test_a_notebook_shows_one_line_of_progress(notebook: FakeDisplay, run: Path, tmp_path: Path):
    prelabel.export_coco(run, tmp_path / "x.json")
    assert notebook.shown[-1] == "3 of 3 images read"
    reporter = console.reporter(quiet=False, log_json=False)
    reporter.progress(Snapshot(10, 4, failed=1, images_per_s=2.0, workers=1, waiting=""))
    reporter.progress(Snapshot(10, 10, failed=1, images_per_s=2.0, workers=1, waiting=""))
    reporter.close()
    assert notebook.shown[-1].startswith("10 of 10 images, 1 failed")


def test_a_notebook_shows_nothing_if_progress_is_off(notebook: FakeDisplay, run: Path, tmp_path: Path):
    prelabel.export_coco(run, tmp_path / "x.json", progress=False)
    assert notebook.shown == []
