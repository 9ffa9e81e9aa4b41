"""Detectors in Python, from the option to the rows: in local processes and on Ray, resumed, in several views."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prelabel.config import LabelOptions
from prelabel.detections import Detections
from prelabel.engine.job import run
from prelabel.engine.progress import Summary
from prelabel.errors import ConfigError, DetectorError, PrelabelError, RunInterrupted
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import open_run
from prelabel.store.verify import verify
from tests.detectors.plugins.modules import detector_code, install, write
from tests.engine.world import Recorder
from tests.messages import facts, told
from tests.models import picture

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


class Place:
    """Photos with one bright pixel each, modules that Python finds, and an output."""

    def __init__(self, folder: Path) -> None:
        self.photos, self.modules, self.out = (folder / name for name in ("photos", "modules", "out"))
        self.photos.mkdir()
        self.modules.mkdir()
        self.recorder = Recorder()

    def add(self, count: int) -> None:
        for number in range(count):
            pixels = np.zeros((40, 60 + number, 3), np.uint8)
            pixels[10 + number, 20] = 200 + number
            Image.fromarray(pixels).save(self.photos / f"{number}.png")

    def label(self, detector: str, stop: threading.Event | None = None, **values: Any) -> Summary:
        self.recorder = Recorder()
        usual: dict[str, Any] = {"runner": "local", "workers": 1, "trust_model": True, "shard_size": 4}
        options = LabelOptions.of(
            source=(str(self.photos),), output=str(self.out), detector=detector, **{**usual, **values}
        )
        return run(options, self.recorder, stop)

    def rows(self) -> list[ImageRow]:
        return list(open_run(str(self.out), Storage()).rows())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    monkeypatch.syspath_prepend(str(made.modules))
    return made


def boxes(row: ImageRow) -> list[list[float]]:
    assert row.detections is not None, row.error
    assert isinstance(row.detections.xyxy, np.ndarray)
    return row.detections.xyxy.tolist()


def test_a_run_is_labeled_resumed_and_refused_with_other_code(place: Place) -> None:
    place.add(5)
    # TensorFlow is not loaded beside a detector that does not use it.
    code = detector_code() + "\nimport sys\nif 'tensorflow' in sys.modules: raise ImportError('tensorflow is there')\n"
    write(place.modules, spots____init__="", spots__find=code)
    options = {"detector_option": {"level": "0.5"}}
    summary = place.label("spots.find:Found", **options)
    assert (summary.images, summary.failed, summary.detections) == (5, 0, 5)
    for number, row in enumerate(place.rows()):
        assert boxes(row) == [[20, 10 + number, 21, 11 + number]]
        assert row.detections is not None
        assert (row.detections.label.tolist(), row.detections.score.tolist()) == (["spot"], [np.float32(0.45)])
        assert row.detector == "found"
    assert verify(str(place.out), Storage()).problems == ()
    record = json.loads((place.out / "run.json").read_text())
    detector = record["detector"]
    assert (detector["name"], detector["address"], detector["convention"]) == (
        "found",
        "spots.find:Found",
        "Python code",
    )
    assert detector["model_version"] == f"found-{detector['fingerprint'][:8]}"
    assert detector["classes"] == [{"id": 1, "name": "spot", "mid": ""}]
    assert record["settings"]["detector_option"] == {"level": "0.5"}

    place.label("spots.find:Found", **options)
    assert place.recorder.said("nothing left to do")
    with pytest.raises(ConfigError, match=facts("--detector-option", "level")):
        place.label("spots.find:Found", detector_option={"level": "0.6"})
    (place.modules / "spots" / "other.py").write_text("changed = True")
    with pytest.raises(ConfigError, match=facts("detector was spots.find:Found", detector["fingerprint"][:12])):
        place.label("spots.find:Found", **options)


def test_code_that_is_not_trusted_is_not_run(place: Place, tmp_path: Path) -> None:
    place.add(1)
    write(place.modules, spots_untrusted=f"open({str(tmp_path / 'ran')!r}, 'w').close()\n" + detector_code())
    with pytest.raises(DetectorError, match=facts("spots_untrusted:Found", "Python code", "--trust-model")):
        place.label("spots_untrusted:Found", trust_model=False)
    assert not (tmp_path / "ran").exists()
    assert not place.out.exists()


def test_an_image_fails_alone_with_the_error_of_the_detector(place: Place) -> None:
    place.add(4)
    fails = "if pixels.max() == 202: raise KeyError('no such thing')\n        return Detections.empty(height, width)"
    write(place.modules, spots_fail=detector_code(fails, batch_size=3))
    summary = place.label("spots_fail:Found")
    assert (summary.images, summary.failed, summary.failures) == (4, 1, {"KeyError": 1})
    assert [row.error for row in place.rows()] == [None, None, "KeyError: 'no such thing'", None]
    assert place.rows()[2].error_stage == "detect"


def test_a_detector_that_breaks_the_protocol_is_refused_before_a_run_begins(place: Place) -> None:
    place.add(1)
    write(place.modules, spots_wrong=detector_code("return [x, y]"))
    with pytest.raises(PrelabelError, match=facts("found", "must return prelabel.Detections", "got list")):
        place.label("spots_wrong:Found")
    assert not (place.out / "run.json").exists()


def test_an_installed_detector_is_found_by_its_name(place: Place) -> None:
    place.add(1)
    write(place.modules, spots_installed=detector_code())
    install(place.modules, "spots", spots="spots_installed:Found")
    place.label("spots")
    assert boxes(place.rows()[0]) == [[20, 10, 21, 11]]
    # The name and the factory that it stands for are the same detector.
    place.label("spots_installed:Found")
    assert place.recorder.said("nothing left to do")


def test_several_views_of_an_image_are_shown_to_any_detector(place: Place) -> None:
    place.add(2)
    write(place.modules, spots_views=detector_code())
    summary = place.label("spots_views:Found", views="whole,flip,tiles", score_threshold=0.5)
    assert summary.views == 12
    for number, row in enumerate(place.rows()):
        # The tiles without the bright pixel return their first pixel, which no other view confirms.
        assert boxes(row) == [[20, 10 + number, 21, 11 + number]]
        assert row.views_shown == 6


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"label_map": "coco"}, ("--label-map is for SavedModels", "spots_options:Found", "remove it")),
        ({"optimize": "auto"}, ("--optimize",)),
        ({"mask_threshold": 0.4}, ("--mask-threshold",)),
        ({"detector_option": {"lvel": "1"}}, ("no option 'lvel': it accepts level",)),
        ({"include_class": ("sport",)}, ("no class 'sport'", "did you mean 'spot'")),
        ({"detector": "demo-shapes", "detector_option": {"a": "b"}}, ("--detector-option", "remove it")),
        ({"detector": "spots_options:Fund"}, ("has no 'Fund'; did you mean 'Found'",)),
        ({"detector": "no_such_module:Found"}, ("no module 'no_such_module'",)),
        ({"detector": "spots_crash:Found"}, ("spots_crash:Found", "ended with code -6", "the last words")),
    ],
)
def test_options_that_do_not_fit_are_refused(given: dict[str, Any], words: tuple[str, ...], place: Place) -> None:
    place.add(1)
    write(
        place.modules,
        spots_options=detector_code(),
        spots_crash="import os, sys; print('the last words', flush=True); os.abort()",
    )
    with pytest.raises(PrelabelError, match=facts(*words)):
        place.label(**{"detector": "spots_options:Found", **given})
    assert not place.out.exists()


def test_a_run_is_stopped_while_its_detector_is_asked(place: Place) -> None:
    place.add(1)
    write(place.modules, spots_slow="import time; time.sleep(600)")
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    with pytest.raises(RunInterrupted):
        place.label("spots_slow:Found", stop)


def test_the_size_of_tiles_follows_the_detector(place: Place) -> None:
    place.add(1)
    write(
        place.modules, spots_sized=detector_code(info="input_size=32"), spots_unsized=detector_code(info="masks=False")
    )
    place.label("spots_sized:Found", views="auto")
    assert not told(place.recorder.messages, "input size", "unknown")
    assert place.rows()[0].views_shown == 7  # whole, and 2 x 3 tiles of 32 pixels
    place.label("spots_unsized:Found", views="auto", overwrite=True)
    assert told(place.recorder.messages, "input size", "unknown", "640")


def on_both_runners(folder: Path, detector: str, *options: str) -> dict[str, list[tuple[str, Detections | None]]]:
    """What an example finds in `folder/photos`, in local processes and on Ray."""
    found = {}
    for runner, more in (("local", ()), ("ray", ("--ray-address", "local", "--gpus-per-worker", "0"))):
        out = folder / runner
        command = [sys.executable, "-m", "prelabel", "label", folder / "photos", "--output", out, "--runner", runner]
        command += ["--detector", detector, "--trust-model", *options]
        # The module is found in the working folder; `prelabel` itself is not.
        result = subprocess.run(
            [*map(str, command), *more],
            cwd=EXAMPLES,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        found[runner] = [(row.image_id, row.detections) for row in open_run(str(out), Storage()).rows()]
    return found


@pytest.mark.ray
def test_the_example_in_numpy_gives_the_same_on_ray(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.zeros((40, 60, 3), np.uint8)
        pixels[5:15, 20:40] = 250
        pixels[30:35, 5 : 10 + number] = 220
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    found = on_both_runners(tmp_path, "numpy_detector:BrightAreas", "--workers", "2", "--shard-size", "2")
    for number, ((image, local), (other, on_ray)) in enumerate(zip(found["local"], found["ray"], strict=True)):
        assert (image, other) == (f"{number}.png",) * 2
        assert local is not None
        assert on_ray is not None
        assert local.xyxy.tolist() == on_ray.xyxy.tolist() == [[20, 5, 40, 15], [5, 30, 10 + number, 35]]
        assert local.score.tolist() == on_ray.score.tolist() == pytest.approx([250 / 255, 220 / 255])
        assert local.mask is not None
        assert on_ray.mask is not None
        assert local.mask.tolist() == on_ray.mask.tolist()
        mask = local.decode_masks()
        assert [int(one.sum()) for one in mask] == [200, 5 * (5 + number)]


def test_the_example_with_onnx_runtime(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    model, classes = tmp_path / "reds.onnx", tmp_path / "classes.txt"
    write_reds(model)
    classes.write_text("background\nred\n")
    Image.fromarray(picture(50, 80, ("red", 10, 20, 30, 45))).save(place.photos / "a.png")
    Image.fromarray(picture(50, 80)).save(place.photos / "b.png")
    options = {"detector_option": {"model": str(model), "classes": str(classes)}}
    place.label("onnx_detector:TorchvisionDetector", **options)
    first, second = place.rows()
    assert boxes(first) == [[10, 20, 30, 45]]
    assert first.detections is not None
    assert (first.detections.label.tolist(), first.detections.category_id.tolist()) == (["red"], [1])
    assert first.detections.score.tolist() == pytest.approx([0.75])
    assert boxes(second) == []
    # Other weights are another detector.
    write_reds(model, score=0.5)
    with pytest.raises(ConfigError, match="detector was onnx_detector:TorchvisionDetector"):
        place.label("onnx_detector:TorchvisionDetector", **options)


@pytest.mark.ray
def test_the_example_with_onnx_runtime_gives_the_same_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model, classes = tmp_path / "reds.onnx", tmp_path / "classes.txt"
    write_reds(model)
    classes.write_text("background\nred\n")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.fromarray(picture(50, 80, ("red", 10, 20, 30 + number, 45))).save(tmp_path / "photos" / f"{number}.png")
    options = ("--detector-option", f"model={model}", "--detector-option", f"classes={classes}")
    found = on_both_runners(tmp_path, "onnx_detector:TorchvisionDetector", "--workers", "1", *options)
    for runner in ("local", "ray"):
        assert [image for image, _ in found[runner]] == ["0.png", "1.png", "2.png"]
        for number, (_, detections) in enumerate(found[runner]):
            assert detections is not None
            assert detections.xyxy.tolist() == [[10, 20, 30 + number, 45]]
            assert detections.score.tolist() == pytest.approx([0.75])


def write_reds(path: Path, score: float = 0.75) -> None:
    """An ONNX model with torchvision's interface that returns the box around all red pixels, or the score 0."""
    from onnx import TensorProto, checker, helper, save

    def constant(name: str, kind: int, shape: list[int], values: list[float]) -> Any:
        return helper.make_tensor(name, kind, shape, values)

    float_, int_ = TensorProto.FLOAT, TensorProto.INT64
    edges = []
    for name, axis in (("x", 0), ("y", 1)):
        edges += [
            helper.make_node("ReduceMax", ["mask", f"axis{axis}"], [f"on_{name}"], keepdims=0),
            helper.make_node("ArgMax", [f"on_{name}"], [f"{name}1"], axis=0, keepdims=1),
            helper.make_node("ArgMax", [f"on_{name}"], [f"{name}_last"], axis=0, keepdims=1, select_last_index=1),
            helper.make_node("Add", [f"{name}_last", "one"], [f"{name}2"]),
        ]
    nodes = [
        helper.make_node("Gather", ["image", "first"], ["red"], axis=0),
        helper.make_node("Gather", ["image", "second"], ["green"], axis=0),
        helper.make_node("Sub", ["red", "green"], ["redness"]),
        helper.make_node("Greater", ["redness", "half"], ["is_red"]),
        helper.make_node("Cast", ["is_red"], ["mask"], to=float_),
        *edges,
        helper.make_node("Concat", ["x1", "y1", "x2", "y2"], ["box"], axis=0),
        helper.make_node("Cast", ["box"], ["float_box"], to=float_),
        helper.make_node("Unsqueeze", ["float_box", "axis0"], ["boxes"]),
        helper.make_node("ReduceMax", ["on_x", "axis0"], ["any"], keepdims=1),
        helper.make_node("Mul", ["any", "score"], ["scores"]),
        helper.make_node("Identity", ["one"], ["labels"]),
    ]
    constants = [
        constant("first", int_, [], [0]),
        constant("second", int_, [], [1]),
        constant("axis0", int_, [1], [0]),
        constant("axis1", int_, [1], [1]),
        constant("one", int_, [1], [1]),
        constant("half", float_, [], [0.5]),
        constant("score", float_, [1], [score]),
    ]
    outputs = [
        helper.make_tensor_value_info("boxes", float_, [1, 4]),
        helper.make_tensor_value_info("labels", int_, [1]),
        helper.make_tensor_value_info("scores", float_, [1]),
    ]
    image = helper.make_tensor_value_info("image", float_, [3, None, None])
    graph = helper.make_graph(nodes, "reds", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model)
    save(model, str(path))
