"""Constant graphs and lowered convolutions: the same answers, kept, made again when damaged, refused when different."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelabel.detectors.base import EXACT, OFF, DetectionResult, Optimization
from prelabel.detectors.conventions.resolve_model import PreparedModel, ReadingOptions, prepare
from prelabel.detectors.running import optimize
from prelabel.detectors.running.optimize import is_worth_trying, try_faster
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.detectors.running.precision import lower_precision_type, processor_flags
from prelabel.detectors.running.savedmodel import SavedModelDetector, load_detector
from prelabel.errors import DetectorError
from tests.messages import tells
from tests.models import Models, build_classifier, build_hub_module, build_mask_rcnn, picture

PICTURES = [
    picture(141, 67, ("red", 3, 10, 20, 101), ("blue", 30, 77, 67, 78)),
    picture(53, 211, ("green", 1, 1, 2, 50), ("red", 100, 0, 211, 53)),
    picture(60, 60),
]
LOWERED = Optimization("bfloat16", 1.0)


def load(model: PreparedModel, way: Optimization, cache: Path) -> SavedModelDetector:
    return load_detector(model, optimization=way, cache_dir=cache, warm_up=None)


def same(result: DetectionResult, other: DetectionResult) -> None:
    np.testing.assert_allclose(result.detections.xyxy, other.detections.xyxy, atol=1e-3)
    np.testing.assert_allclose(result.detections.score, other.detections.score, atol=1e-6)
    assert result.detections.label.tolist() == other.detections.label.tolist()
    assert result.detections.mid.tolist() == other.detections.mid.tolist()
    assert (result.detections.mask is None) == (other.detections.mask is None)
    if result.detections.mask is not None and other.detections.mask is not None:
        assert result.detections.mask.tolist() == other.detections.mask.tolist()
    assert (result.image_labels is None) == (other.image_labels is None)
    for mine, expected in zip(result.image_labels or (), other.image_labels or (), strict=True):
        assert mine.category_id == expected.category_id
        assert mine.score == pytest.approx(expected.score, abs=1e-6)


def convolving(path: Path, *, classes: int = 1, noisy: bool = False) -> Path:
    """A detector with a padded convolution, a bias, a branch on the picture's size and batch normalisation behind it.

    It finds one box, the left part of the picture up to the share of red; with `noisy`, the box is the fraction that
    eight binary digits cannot hold.
    """
    import tensorflow as tf

    class Model(tf.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            random = np.random.default_rng(0)
            self.first = tf.Variable(random.normal(0.03, 0.001, (3, 3, 3, 32)), dtype=tf.float32)
            self.second = tf.Variable(random.normal(0.005, 0.0001, (3, 3, 32, 32)), dtype=tf.float32)
            self.scale = tf.Variable(np.full(32, 0.5), dtype=tf.float32)
            self.bias = tf.Variable(np.full(32, 0.01), dtype=tf.float32)

        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])  # type: ignore[misc]
        def __call__(self, image: Any) -> dict[str, Any]:
            pixels = tf.cast(image, tf.float32) / 255
            pixels = tf.cond(tf.shape(pixels)[1] > 200, lambda: pixels[:, ::2, ::2], lambda: pixels)
            features = tf.nn.conv2d(tf.pad(pixels, [[0, 0], [1, 1], [1, 1], [0, 0]]), self.first, 2, "VALID")
            features = tf.nn.relu(features + self.bias)
            features = tf.nn.conv2d(features, self.second, 1, "SAME") * self.scale + self.bias
            mean = tf.reduce_mean(features)
            share = tf.math.floormod(mean * 4096, 1.0) if noisy else tf.clip_by_value(mean, 0.2, 1.0)
            box = tf.stack([0.0, 0.0, 1.0, share])
            return {
                "detection_boxes": tf.tile(box[None, None], [1, classes, 1]),
                "detection_scores": tf.fill([1, classes], 0.9),
                "detection_classes": tf.range(1.0, classes + 1.0)[None],
                "raw_detection_boxes": features,
            }

    model = Model()
    tf.saved_model.save(model, str(path), signatures=model.__call__)
    return path


@pytest.mark.parametrize("name", ["hub_module", "mask_rcnn"])
def test_constant_graph_gives_the_same_results(name: str, models: Models, tmp_path: Path) -> None:
    model = prepare(str(getattr(models, name)))
    off = load(model, OFF, tmp_path)
    assert not (tmp_path / "frozen").exists()
    for detector in (load(model, EXACT, tmp_path), load(model, EXACT, tmp_path)):  # made, and kept
        assert detector.optimization == EXACT
        for pixels in PICTURES:
            same(detector.detect_in([pixels])[0], off.detect_in([pixels])[0])
    assert len(list((tmp_path / "frozen").iterdir())) == 1


@pytest.mark.parametrize("variables", ["full", "empty", "absent"])
def test_modules_with_tf1_variables_become_constant_graphs(variables: str, tmp_path: Path) -> None:
    model = prepare(str(build_hub_module(tmp_path / "m", variables=variables)))
    exact = load(model, EXACT, tmp_path)
    same(exact.detect_in(PICTURES[:1])[0], load(model, OFF, tmp_path).detect_in(PICTURES[:1])[0])
    assert exact.optimization == EXACT


def test_a_constant_graph_of_a_classifier_accepts_batches(tmp_path: Path) -> None:
    model = prepare(str(build_classifier(tmp_path / "m")), reading=ReadingOptions(activation="logits"))
    exact = load(model, EXACT, tmp_path)
    assert exact.optimization == EXACT
    for result, other in zip(exact.detect_in(PICTURES), load(model, OFF, tmp_path).detect_in(PICTURES), strict=True):
        same(result, other)


@pytest.mark.parametrize("signatures", [True, False])
@pytest.mark.parametrize("batch_dimension", [True, False])
def test_models_with_and_without_signatures_become_constant_graphs(
    signatures: bool, batch_dimension: bool, tmp_path: Path
) -> None:
    path = build_mask_rcnn(tmp_path / "m", signatures=signatures, batch_dimension=batch_dimension, raw_rows=2)
    exact = load(prepare(str(path)), EXACT, tmp_path)
    assert exact.optimization == EXACT
    same(exact.detect_in(PICTURES[:1])[0], load(prepare(str(path)), OFF, tmp_path).detect_in(PICTURES[:1])[0])


def test_cached_graphs_differ_by_outputs(models: Models, tmp_path: Path) -> None:
    model = prepare(str(models.mask_rcnn))
    load(model, EXACT, tmp_path)
    more = load_detector(
        model, DetectorOptions(keep=("multiclass-scores",)), optimization=EXACT, cache_dir=tmp_path, warm_up=None
    )
    assert more.detect_in(PICTURES[:1])[0].detections.multiclass_score is not None
    assert len(list((tmp_path / "frozen").iterdir())) == 2


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


@pytest.mark.parametrize("damage", [cut, flipped, lambda data: b"", lambda data: b"[]\n", lambda data: b"\xff" * 99])
def test_corrupt_cached_graph_is_made_again(damage: Callable[[bytes], bytes], models: Models, tmp_path: Path) -> None:
    model = prepare(str(models.hub_module))
    load(model, EXACT, tmp_path)
    (kept,) = (tmp_path / "frozen").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert len(load(model, EXACT, tmp_path).detect_in(PICTURES[:1])[0].detections) == 2
    assert kept.stat().st_size == len(whole)


def test_read_only_cache_is_not_an_error(models: Models, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    exact = load(prepare(str(models.hub_module)), EXACT, tmp_path / "file")
    assert exact.optimization == EXACT


def test_model_with_a_table_is_run_as_loaded(tmp_path: Path) -> None:
    import tensorflow as tf

    class Model(tf.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            keys, values = tf.constant([0, 1]), tf.constant([7.0, 8.0])
            self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0.0)

        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])  # type: ignore[misc]
        def __call__(self, image: Any) -> dict[str, Any]:
            number = self.table.lookup(tf.cast(tf.reduce_max(image) > 100, tf.int32))
            return {
                "detection_boxes": tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
                "detection_scores": tf.ones([1, 1]),
                "detection_classes": tf.reshape(number, [1, 1]),
            }

    model = Model()
    tf.saved_model.save(model, str(tmp_path / "m"), signatures=model.__call__)
    detector = load(prepare(str(tmp_path / "m")), EXACT, tmp_path)
    assert detector.detect_in(PICTURES[:1])[0].detections.category_id.tolist() == [8]
    assert detector.optimization == OFF
    assert not (tmp_path / "frozen").exists()


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor with bfloat16."""
    monkeypatch.setattr("prelabel.detectors.running.savedmodel.lower_precision_type", lambda tf: "bfloat16")
    monkeypatch.setattr("prelabel.detectors.running.optimize.lower_precision_type", lambda tf: "bfloat16")


@pytest.mark.usefixtures("bfloat16")
def test_lowered_convolutions_return_nearly_the_same(tmp_path: Path) -> None:
    model = prepare(str(convolving(tmp_path / "m")))
    exact, lowered = load(model, EXACT, tmp_path), load(model, LOWERED, tmp_path)
    assert lowered.optimization == LOWERED
    for pixels in (*PICTURES, picture(300, 250, ("red", 0, 0, 90, 300))):  # on both sides of the branch
        exact_xyxy, other = (detector.detect_in([pixels])[0].detections.xyxy for detector in (exact, lowered))
        assert exact_xyxy.tolist() != other.tolist()
        np.testing.assert_allclose(exact_xyxy, other, rtol=0.02)


@pytest.mark.usefixtures("bfloat16")
def test_a_smaller_share_lowers_fewer_convolutions(tmp_path: Path) -> None:
    from prelabel.detectors.running import runtime
    from prelabel.detectors.running.precision import lower, most_rewarding, work_per_convolution
    from prelabel.detectors.running.savedmodel import frozen_graph

    tf = runtime.tensorflow()
    frozen = frozen_graph(prepare(str(convolving(tmp_path / "m"))), DetectorOptions(), tf, tmp_path)
    assert frozen is not None
    work = work_per_convolution(frozen, tf)
    small, large = sorted(work.values())
    # Of 480 x 640 every second pixel, for it is taller than 200, and again by the stride: 120 x 160.
    assert (small, large) == (120 * 160 * 9 * 3 * 32, 120 * 160 * 9 * 32 * 32)
    assert len(most_rewarding(frozen, work, 1.0)) == 2
    assert len(most_rewarding(frozen, work, 0.9)) == 1
    (chosen,) = most_rewarding(frozen, work, 0.5)
    graph = lower(frozen, frozenset([chosen]), "bfloat16", tf).graph
    types = {node.name.split("/in_")[0]: node.attr["T"].type for node in graph.node if node.op == "Conv2D"}
    assert types[chosen] == tf.bfloat16.as_datatype_enum
    assert sorted(types.values()) == sorted([tf.bfloat16.as_datatype_enum, tf.float32.as_datatype_enum])


def test_convolutions_with_much_work_and_few_behind_them_are_lowered_first() -> None:
    import tensorflow as tf

    from prelabel.detectors.running.network import FrozenGraph
    from prelabel.detectors.running.precision import most_rewarding

    graph = tf.compat.v1.GraphDef()
    for name, *inputs in (("first",), ("half", "first"), ("boxes", "half"), ("masks", "half:1")):
        graph.node.add(name=name, input=inputs)
    frozen = FrozenGraph(graph, "first:0", {"boxes": "boxes:0", "masks": "masks:0"})
    work = {"first": 40.0, "boxes": 18.0, "masks": 22.0}
    orders = [most_rewarding(frozen, work, share) for share in (0.25, 0.5, 1.0)]
    assert orders == [{"masks"}, {"masks", "boxes"}, {"masks", "boxes", "first"}]


def test_a_machine_without_the_type_refuses_a_run_in_it(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prelabel.detectors.running.savedmodel.lower_precision_type", lambda tf: None)
    with pytest.raises(DetectorError, match=r"bfloat16.* --optimize exact"):
        load(prepare(str(models.mask_rcnn)), LOWERED, tmp_path)


def test_tensorflow_that_may_not_use_the_type_refuses_a_run_in_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.detectors.running.test_optimize import LOWERED, load, prepare\n"
        "load(prepare(sys.argv[1]), LOWERED, Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", code, str(convolving(tmp_path / "m")), str(tmp_path)]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "CUDA_VISIBLE_DEVICES": "-1"}
    root = Path(__file__).parents[3]
    child = subprocess.run(arguments, env=environment, cwd=root, capture_output=True, text=True, timeout=300)
    assert child.returncode == 1
    assert tells(child.stderr, "DetectorError", "bfloat16", "this machine does not support")


@pytest.mark.usefixtures("bfloat16")
def test_a_network_without_convolutions_cannot_be_lowered(models: Models, tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match="bfloat16 in 100%"):
        load(prepare(str(models.hub_module)), LOWERED, tmp_path)


def photos() -> Iterator[np.ndarray[Any, Any]]:
    for n in range(40):
        yield picture(90 + n, 120, ("red", 0, 0, 3 * n + 1, 60))


def tried(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, *, gain: float = 2.0, images: float = 1e9
) -> tuple[Optimization, SavedModelDetector]:
    """What comes of trying where a network lowered is `gain` times faster, whatever the clock says."""
    monkeypatch.setattr(
        SavedModelDetector,
        "run_network",
        lambda self, pixels: 1 / (gain if self.optimization.uses_half_precision else 1),
    )
    model = prepare(str(path))
    return try_faster(load(model, EXACT, cache), model, DetectorOptions(), photos, images, cache_dir=cache)


@pytest.mark.usefixtures("bfloat16")
def test_most_aggressive_equivalent_variant_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, detector = tried(convolving(tmp_path / "m"), tmp_path, monkeypatch)
    assert (trial.numbers, trial.share, trial.gain, trial.images) == ("bfloat16", 1.0, 2.0, 16)
    assert trial.why
    assert detector.optimization == LOWERED
    assert len(detector.detect_in(PICTURES[:1])[0].detections) == 1


@pytest.mark.usefixtures("bfloat16")
def test_variant_that_changes_detections_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, detector = tried(convolving(tmp_path / "m", noisy=True), tmp_path, monkeypatch)
    assert trial == detector.optimization == EXACT
    assert trial.why.startswith("bfloat16 changes detections: 1 0.90 at [0, 0, ")


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"gain": 1.01}, "is not faster (1.01 x)"),
        ({"images": 50}, "the run is too small"),
    ],
)
def test_model_stays_exact_without_a_gain(
    changed: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, detector = tried(convolving(tmp_path / "m"), tmp_path, monkeypatch, **changed)
    assert trial == detector.optimization == EXACT
    assert why in trial.why


@pytest.mark.usefixtures("bfloat16")
def test_model_stays_exact_with_too_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimize, "IMAGES", 41)
    trial, _ = tried(convolving(tmp_path / "m"), tmp_path, monkeypatch)
    assert trial == EXACT
    assert "40 images" in trial.why


def test_no_trials_without_a_faster_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prelabel.detectors.running.optimize.lower_precision_type", lambda tf: None)
    trial, _ = tried(convolving(tmp_path / "m"), tmp_path, monkeypatch)
    assert (trial, trial.gain, trial.images) == (EXACT, None, 0)
    assert "float32" in trial.why


def test_trials_are_worth_it_for_many_or_slow_images() -> None:
    assert not is_worth_trying(200, 0.1)
    assert is_worth_trying(1000, 0.1)
    assert not is_worth_trying(100, 5)
    assert is_worth_trying(500, 5)


@pytest.mark.parametrize(
    ("flags", "numbers"),
    [("fpu avx512f avx512_bf16", "bfloat16"), ("amx_bf16", "bfloat16"), ("fpu avx512f avx2", None), ("", None)],
)
def test_the_flags_of_the_processor_decide_the_type(
    flags: str, numbers: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prelabel.detectors.running.precision._can_convolve", lambda numbers, tf: True)
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: some\nflags\t\t: {flags}\n\nprocessor\t: 1\n")

    class NoGpu:
        bfloat16 = None

        class config:  # noqa: N801 - TensorFlow's name
            @staticmethod
            def get_visible_devices(kind: str) -> list[str]:
                return []

    assert lower_precision_type(NoGpu, processor_flags(file)) == numbers
    assert processor_flags(tmp_path / "none") == frozenset()


def test_an_optimization_in_words() -> None:
    assert str(EXACT) == "exact"
    assert Optimization("bfloat16", 0.8).way == "bfloat16 in 80% of the convolutions' work"
    assert not OFF.uses_half_precision
