"""How much faster a network runs as one constant graph, and with part of it in half the digits, on one core.

    python benchmarks/models.py                    # every model there is
    python benchmarks/models.py demo-shapes --repeat 5

For each detector: as the TensorFlow Hub tutorial calls it, as `--optimize off`, `exact` and what `auto` finds. For
Inception-ResNet-v2 and MobileNetV2, built here with random weights: the network alone, exact and wholly lowered, with
the relative error of its features. Targets hold for one core with AMX; the note says where there is none.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from common import ASSETS, Figure, figure, ratio, report, take_turns
from PIL import Image

from prelabel.detectors import runtime
from prelabel.detectors.answers import DetectorOptions
from prelabel.detectors.choice import EXACT, OFF, Choice, lower_numbers, processor_flags
from prelabel.detectors.frozen import folded, freeze
from prelabel.detectors.lowered import lower, rewarding, work_of
from prelabel.detectors.optimize import try_faster
from prelabel.detectors.prepare import prepare
from prelabel.detectors.savedmodel import load_detector

DETECTORS = ("demo-shapes", "maskrcnn-tf2", "openimages-hub-module")
BACKBONES = ("inception-resnet-v2", "mobilenet-v2")

#: Of one core with AMX.
TARGETS = {"maskrcnn-tf2": 2.0, "inception-resnet-v2": 3.5}

#: Images of one round.
_ROUND = 8


def photos(images: int | None = None) -> list[Any]:
    """Real photos, or scenes where there are none."""
    paths = sorted((ASSETS / "images/coco-val80").glob("*.jpg"))[:images]
    if paths:
        return [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    from prelabel.synth.scenes import draw_scene

    return [draw_scene(0, number).pixels for number in range(images or 80)]


def detector_figures(name: str, repeat: int, cache: Path) -> tuple[list[Figure], dict[str, Any]]:
    """What one detector gains."""
    address = name if name == "demo-shapes" else str(ASSETS / "models" / name)
    model, options = prepare(address), DetectorOptions()
    load_s = {}
    detectors = {}
    for way, choice in {"off": OFF, "exact, first": EXACT, "exact": EXACT}.items():
        begin = time.process_time()
        detectors[way] = load_detector(model, options, choice=choice, cache_dir=cache)
        load_s[way] = round(time.process_time() - begin, 2)
    del detectors["exact, first"]

    def pictures() -> Iterator[Any]:
        yield from photos()

    trial, detectors["auto"] = try_faster(detectors["exact"], model, options, pictures, 1e9, cache_dir=cache)
    images = photos(_ROUND)
    hub = runtime.tensorflow_hub().load(address) if name != "demo-shapes" else None
    ways: dict[str, Callable[[Any], Any]] = {way: one.run_network for way, one in detectors.items()}
    if hub is not None:
        network = hub if callable(hub) else hub.signatures["default"]
        floats = model.convention.input.dtype != "uint8"

        def tutorial(one: Any) -> dict[str, Any]:
            tf = runtime.tensorflow()
            tensor = tf.constant(one[None])
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
            note=_note(str(trial.choice)),
        )
    )
    if (ASSETS / "images/coco-val80-instances.json").exists() and name == "maskrcnn-tf2":
        figures += accuracy(model, name, trial.choice, cache)
    return figures, {"trial": trial.why, "gain": trial.gain, "load_cpu_s": load_s}


def _seconds(run: Callable[[Any], Any], images: Sequence[Any]) -> float:
    """CPU seconds of this process, which has one thread at work: what others do on the machine counts little."""
    begin = time.process_time()
    for image in images:
        run(image)
    return time.process_time() - begin


def _features(network: Any, image: Any) -> Any:
    return network(image)["features"].numpy()


def _took(ways: dict[str, Callable[[Any], Any]], images: Sequence[Any], repeat: int) -> dict[str, list[float]]:
    rounds = take_turns({way: partial(_seconds, run, images) for way, run in ways.items()}, repeat)
    return {way: [seconds for _, seconds in results] for way, results in rounds.items()}


def accuracy(model: Any, name: str, choice: Choice, cache: Path) -> list[Figure]:
    """How much AP on the photos changes from `off` to what `auto` found; every detection above 0.01 counts."""
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
        for way in (OFF, choice):
            detector = load_detector(model, options, choice=way, cache_dir=cache)
            results: list[dict[str, Any]] = []
            for entry in values["images"]:
                with Image.open(ASSETS / "images/coco-val80" / entry["file_name"]) as image:
                    found = detector.detect([np.asarray(image.convert("RGB"))])[0].detections
                for box, score, number, counts in zip(
                    found.xyxy.tolist(), found.score, found.category_id, found.mask, strict=True
                ):
                    results.append(
                        {
                            "image_id": entry["id"],
                            "category_id": int(number),
                            "score": float(score),
                            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                            "segmentation": {"size": [found.height, found.width], "counts": counts},
                        }
                    )
            scores[str(way)] = []
            for kind in ("bbox", "segm"):
                evaluation = COCOeval(truth, truth.loadRes(results), kind)
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
                scores[str(way)].append(float(evaluation.stats[0]))
    before, after = scores[str(OFF)], scores[str(choice)]
    return [
        figure(f"{name}: {what} AP changed by", [abs(a - b)], "AP", at_most=0.005, note=f"{b:.4f} -> {a:.4f}")
        for what, b, a in zip(("box", "mask"), before, after, strict=True)
    ]


def backbone_figures(name: str, repeat: int, side: int) -> tuple[list[Figure], dict[str, Any]]:
    """What a network of the catalogue's heavy (or light) detectors gains, wholly lowered."""
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
    frozen = folded(freeze(loaded, spec, ["features"], tf), tf)
    image = tf.constant(np.random.default_rng(0).uniform(-1, 1, spec.shape).astype(np.float32))
    networks = {"as loaded": loaded, "exact": frozen.network(tf)}
    numbers = lower_numbers(tf)
    if numbers:
        lowered = lower(frozen, rewarding(frozen, work_of(frozen, tf), 1.0), numbers, tf)
        networks[numbers] = lowered.network(tf)
    took = _took({way: partial(_features, one) for way, one in networks.items()}, [image], repeat)
    answers = {way: _features(one, image) for way, one in networks.items()}
    scale = float(np.abs(answers["as loaded"]).mean())
    errors = {way: float(np.abs(one - answers["as loaded"]).mean()) / scale for way, one in answers.items()}
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
                found, detail[name] = backbone_figures(name, args.repeat, args.side)
            elif name == "demo-shapes" or (ASSETS / "models" / name).is_dir():
                found, detail[name] = detector_figures(name, args.repeat, Path(cache) / "models")
            else:
                found = [
                    figure(
                        f"{name}: auto, beside hub.load",
                        [],
                        "x",
                        at_least=TARGETS.get(name),
                        note="the model is not here",
                    )
                ]
            figures += found
    setup = {"images": _ROUND, "repeat": args.repeat, "side": args.side, "threads": 1}
    report("models", figures, setup=setup, detail=detail)


if __name__ == "__main__":
    main()
