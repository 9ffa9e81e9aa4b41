"""How much faster a network runs as one constant graph, and partly in half precision, on one core.

    python benchmarks/models.py                    # all models
    python benchmarks/models.py demo-shapes --repeat 5

For each detector: as the TensorFlow Hub tutorial calls it, with `--optimize off`, with `exact`, and with the choice of
`auto`. For Inception-ResNet-v2 and MobileNetV2, built here with random weights: the network alone, exact and entirely
in lower precision, with the relative error of its features. Targets apply to one core with AMX; the note says if the
machine has none.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from common import ASSETS, Figure, figure, ratio, report, take_turns
from PIL import Image

from prelabel.detectors.base import EXACT, OFF, Optimization
from prelabel.detectors.conventions.resolve_model import prepare
from prelabel.detectors.running import runtime
from prelabel.detectors.running.network import fold_constants, freeze
from prelabel.detectors.running.optimize import try_faster
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.detectors.running.precision import (
    lower,
    lower_precision_type,
    most_rewarding,
    processor_flags,
    work_per_convolution,
)
from prelabel.detectors.running.savedmodel import load_detector

DETECTORS = ("demo-shapes", "maskrcnn-tf2", "openimages-hub-module")
BACKBONES = ("inception-resnet-v2", "mobilenet-v2")

#: Of one core with AMX.
TARGETS = {"maskrcnn-tf2": 2.0, "inception-resnet-v2": 3.5}

#: Images of one round.
_ROUND = 8


def photos(images: int | None = None) -> list[Any]:
    """Real photos, or synthetic scenes if there are none."""
    paths = sorted((ASSETS / "images/coco-val80").glob("*.jpg"))[:images]
    if paths:
        return [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    from prelabel.synth.scenes import draw_scene

    return [draw_scene(0, number).pixels for number in range(images or 80)]


def detector_figures(name: str, repeat: int, cache: Path) -> tuple[list[Figure], dict[str, Any]]:
    """Measure the speed-up of one detector."""
    address = name if name == "demo-shapes" else str(ASSETS / "models" / name)
    model, options = prepare(address), DetectorOptions()
    load_s = {}
    detectors = {}
    for way, optimization in {"off": OFF, "exact, first": EXACT, "exact": EXACT}.items():
        begin = time.process_time()
        detectors[way] = load_detector(model, options, optimization=optimization, cache_dir=cache)
        load_s[way] = round(time.process_time() - begin, 2)
    del detectors["exact, first"]

    def pictures() -> Iterator[Any]:
        yield from photos()

    trial, detectors["auto"] = try_faster(detectors["exact"], model, options, pictures, 1e9, cache_dir=cache)
    images = photos(_ROUND)
    hub = _hub_load(address) if name != "demo-shapes" else None
    ways: dict[str, Callable[[Any], Any]] = {way: detector.run_network for way, detector in detectors.items()}
    if hub is not None:
        network = hub if callable(hub) else hub.signatures["default"]
        floats = model.convention.input.dtype != "uint8"

        def tutorial(image: Any) -> dict[str, Any]:
            tf = runtime.tensorflow()
            tensor = tf.constant(image[None])
            answer = network(tf.image.convert_image_dtype(tensor, tf.float32) if floats else tensor)
            return {key: value.numpy() for key, value in answer.items()}

        ways["hub.load"] = tutorial
    took = _took(ways, images, repeat)
    base = "hub.load" if hub is not None else "off"
    figures = [figure(f"{name}: {way}", [1e3 * s / _ROUND for s in took[way]], "CPU ms/image") for way in took]
    figures.append(ratio(f"{name}: exact, beside {base}", took[base], took["exact"]))
    figures.append(
        ratio(
            f"{name}: auto, beside {base}",
            took[base],
            took["auto"],
            at_least=TARGETS.get(name),
            note=_note(trial.way),
        )
    )
    if (ASSETS / "images/coco-val80-instances.json").exists() and name == "maskrcnn-tf2":
        figures += accuracy(model, name, trial, cache)
    return figures, {"trial": trial.why, "gain": trial.gain, "load_cpu_s": load_s}


def _hub_load(address: str) -> Any:
    """Load a model as tutorials do."""
    runtime.tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorflow_hub uses setuptools' old packaging API
        import tensorflow_hub
    return tensorflow_hub.load(address)


def _seconds(run: Callable[[Any], Any], images: Sequence[Any]) -> float:
    """CPU seconds of this process, which has one busy thread; other load on the machine hardly affects them."""
    begin = time.process_time()
    for image in images:
        run(image)
    return time.process_time() - begin


def _features(network: Any, image: Any) -> Any:
    return network(image)["features"].numpy()


def _took(ways: dict[str, Callable[[Any], Any]], images: Sequence[Any], repeat: int) -> dict[str, list[float]]:
    rounds = take_turns({way: partial(_seconds, run, images) for way, run in ways.items()}, repeat)
    return {way: [seconds for _, seconds in results] for way, results in rounds.items()}


def accuracy(model: Any, name: str, optimization: Optimization, cache: Path) -> list[Figure]:
    """The change of AP on the photos from `off` to the choice of `auto`; every detection above 0.01 counts."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from prelabel.select import Selection

    truth_file = ASSETS / "images/coco-val80-instances.json"
    values = {"info": {}, "licenses": [], **json.loads(truth_file.read_text())}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        truth = COCO()
        truth.dataset = values
        truth.createIndex()
        options = DetectorOptions(selection=Selection(score_threshold=0.01))
        scores: dict[str, list[float]] = {}
        for way in (OFF, optimization):
            detector = load_detector(model, options, optimization=way, cache_dir=cache)
            results: list[dict[str, Any]] = []
            for entry in values["images"]:
                with Image.open(ASSETS / "images/coco-val80" / entry["file_name"]) as image:
                    detections = detector.detect_in([np.asarray(image.convert("RGB"))])[0].detections
                for box, score, number, counts in zip(
                    detections.xyxy.tolist(), detections.score, detections.category_id, detections.mask, strict=True
                ):
                    results.append(
                        {
                            "image_id": entry["id"],
                            "category_id": int(number),
                            "score": float(score),
                            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                            "segmentation": {"size": [detections.height, detections.width], "counts": counts},
                        }
                    )
            scores[way.way] = []
            for kind in ("bbox", "segm"):
                evaluation = COCOeval(truth, truth.loadRes(results), kind)
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
                scores[way.way].append(float(evaluation.stats[0]))
    before, after = scores[OFF.way], scores[optimization.way]
    return [
        figure(f"{name}: {what} AP changed by", [abs(a - b)], "AP", at_most=0.005, note=f"{b:.4f} -> {a:.4f}")
        for what, b, a in zip(("box", "mask"), before, after, strict=True)
    ]


def backbone_figures(name: str, repeat: int, side: int) -> tuple[list[Figure], dict[str, Any]]:
    """Measure the speed-up of a backbone of the catalog's detectors, entirely in lower precision."""
    tf = runtime.configure(1)
    import keras

    keras.utils.set_random_seed(1)
    make = {
        "inception-resnet-v2": keras.applications.InceptionResNetV2,
        "mobilenet-v2": keras.applications.MobileNetV2,
    }[name]
    network = make(include_top=False, weights=None, input_shape=(side, side, 3))
    spec = tf.TensorSpec([1, side, side, 3], tf.float32)
    loaded = tf.function(lambda image: {"features": network(image, training=False)}, input_signature=[spec])
    frozen = fold_constants(freeze(loaded, spec, ["features"], tf), tf)
    image = tf.constant(np.random.default_rng(0).uniform(-1, 1, spec.shape).astype(np.float32))
    networks = {"as loaded": loaded, "exact": frozen.network(tf)}
    numbers = lower_precision_type(tf)
    if numbers:
        lowered = lower(frozen, most_rewarding(frozen, work_per_convolution(frozen, tf), 1.0), numbers, tf)
        networks[numbers] = lowered.network(tf)
    took = _took({way: partial(_features, network) for way, network in networks.items()}, [image], repeat)
    answers = {way: _features(network, image) for way, network in networks.items()}
    scale = float(np.abs(answers["as loaded"]).mean())
    errors = {way: float(np.abs(features - answers["as loaded"]).mean()) / scale for way, features in answers.items()}
    label = f"{name} at {side}"
    figures = [figure(f"{label}: {way}", [1e3 * s for s in took[way]], "CPU ms/image") for way in took]
    figures.append(ratio(f"{label}: exact, beside as loaded", took["as loaded"], took["exact"]))
    figures.append(
        ratio(
            f"{label}: lowered, beside as loaded",
            took["as loaded"],
            took[numbers] if numbers else [],
            at_least=TARGETS.get(name),
            note=_note(f"{numbers}, relative error {errors[numbers]:.3f}" if numbers else "no faster type"),
        )
        if numbers
        else figure(
            f"{label}: lowered, beside as loaded", [], "x", at_least=TARGETS.get(name), note=_note("no faster type")
        )
    )
    return figures, {"relative_error": errors}


def _note(text: str) -> str:
    return text if "amx_bf16" in processor_flags() else f"{text}; CPU without AMX"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*DETECTORS, *BACKBONES, []], help="default: all but the last")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--side", type=int, default=600, help="pixels of the heavy backbone's square input")
    args = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    figures: list[Figure] = []
    detail: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in args.models or [*DETECTORS, BACKBONES[0]]:
            if name in BACKBONES:
                new, detail[name] = backbone_figures(name, args.repeat, args.side)
            elif name == "demo-shapes" or (ASSETS / "models" / name).is_dir():
                new, detail[name] = detector_figures(name, args.repeat, Path(cache) / "models")
            else:
                new = [
                    figure(
                        f"{name}: auto, beside hub.load",
                        [],
                        "x",
                        at_least=TARGETS.get(name),
                        note="the model is not here",
                    )
                ]
            figures += new
    setup = {"images": _ROUND, "repeat": args.repeat, "side": args.side, "threads": 1}
    report("models", figures, setup=setup, detail=detail)


if __name__ == "__main__":
    main()
