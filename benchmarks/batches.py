"""What several images at a time gain on a CPU, and what they change, compared with single images.

    python benchmarks/batches.py
    python benchmarks/batches.py --repeat 7 --images 64

Two detectors for batches of any size are built here, a small and a larger one: convolutions with random weights, whose
channels are normalized on photos, so that scores and boxes depend on the pixels. Each labels the same images one at a
time, and 2, 4 and 8 at a time, with one TensorFlow thread on one core, as a worker does. Images per second are those of
the CPU time: resizing, network and post-processing, without decoding. The difference is the largest of all detections,
of a corner or a score; an image counts as another one if it has more, fewer or other classes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from common import Figure, figure, report, take_turns
from models import photos

from prelabel.detections import Detections
from prelabel.detectors.conventions.resolve_model import prepare
from prelabel.detectors.running import runtime
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.detectors.running.savedmodel import SavedModelDetector, load_detector
from prelabel.select import Selection

BATCHES = (1, 2, 4, 8)
CLASSES = 20

#: Side of the input, and channels of the convolutions; each halves height and width.
NETWORKS = {
    "small": (96, (16, 32, 64, 96)),
    "larger": (320, (32, 64, 128, 256, 384)),
}

#: Detections per image at most, and the lowest score that counts.
DETECTIONS, THRESHOLD = 100, 0.05


def save_network(side: int, channels: Sequence[int], folder: str) -> None:
    """Save a detector for uint8 images `[batch, side, side, 3]`."""
    tf = runtime.configure(1)
    random = np.random.default_rng(1)
    examples = tf.stack([tf.image.resize(image, (side, side)) for image in photos(8)]) / 127.5 - 1
    layers = []
    values = examples
    for wanted in (*channels, CLASSES + 4):
        last = wanted == CLASSES + 4
        size, stride = (1, 1) if last else (3, 2)
        kernel = random.normal(size=(size, size, values.shape[-1], wanted)).astype(np.float32)
        values = tf.nn.conv2d(values, kernel, stride, "SAME")
        center, deviation = tf.math.reduce_mean(values, [0, 1, 2]), tf.math.reduce_std(values, [0, 1, 2])
        layers.append((tf.constant(kernel / deviation), -center / deviation, stride))
        values = (values - center) / deviation
        if not last:
            values = tf.nn.relu(values)
    rows, columns = values.shape[1:3]
    cells = np.stack(np.meshgrid(np.arange(rows) + 0.5, np.arange(columns) + 0.5, indexing="ij"), 2)
    centers = tf.constant(cells / [rows, columns], tf.float32)

    def serve(images: Any) -> dict[str, Any]:
        values = tf.cast(images, tf.float32) / 127.5 - 1
        for number, (kernel, bias, stride) in enumerate(layers):
            values = tf.nn.bias_add(tf.nn.conv2d(values, kernel, stride, "SAME"), bias)
            if number < len(channels):
                values = tf.nn.relu(values)
        scores = tf.sigmoid(2 * values[..., :CLASSES] - 2)
        half = tf.exp(0.4 * values[..., CLASSES : CLASSES + 2]) * 0.12
        middle = centers + 0.05 * tf.tanh(values[..., CLASSES + 2 :])
        boxes = tf.reshape(tf.concat([middle - half, middle + half], -1), [-1, rows * columns, 1, 4])
        scores = tf.reshape(scores, [-1, rows * columns, CLASSES])
        kept = tf.image.combined_non_max_suppression(boxes, scores, 50, DETECTIONS, 0.6, THRESHOLD)
        return {
            "detection_boxes": kept.nmsed_boxes,
            "detection_scores": kept.nmsed_scores,
            "detection_classes": kept.nmsed_classes + 1,
            "num_detections": kept.valid_detections,
        }

    network = tf.Module()
    network.layers = layers
    network.serve = tf.function(serve, input_signature=[tf.TensorSpec([None, side, side, 3], tf.uint8, name="images")])
    tf.saved_model.save(network, folder, signatures=network.serve)


def load(folder: str, batch: int) -> SavedModelDetector:
    """The network as a worker loads it."""
    options = DetectorOptions(selection=Selection(score_threshold=THRESHOLD), batch_size=batch)
    detector = load_detector(prepare(folder), options)
    assert detector.network_batch == batch, f"runs {detector.network_batch} images at a time instead of {batch}"
    return detector


def run(detector: SavedModelDetector, images: Sequence[Any]) -> list[Detections]:
    """The detections of all images."""
    detections: list[Detections] = []
    for start in range(0, len(images), detector.network_batch):
        batch = images[start : start + detector.network_batch]
        detections += [result.detections for result in detector.detect_in(batch)]
    return detections


@dataclass
class Difference:
    """Between the detections of two ways: the largest of a corner, in pixels, and of a score."""

    detections: int = 0
    other_images: int = 0
    corner_px: float = 0.0
    score: float = 0.0


def difference(single: Sequence[Detections], several: Sequence[Detections]) -> Difference:
    """Compare the detections of each image, in the order of their scores."""
    result = Difference()
    for first, second in zip(single, several, strict=True):
        if first.category_id.tolist() != second.category_id.tolist():
            result.other_images += 1
            continue
        result.detections += len(first)
        result.corner_px = max(result.corner_px, float(np.abs(first.xyxy - second.xyxy).max(initial=0)))
        result.score = max(result.score, float(np.abs(first.score - second.score).max(initial=0)))
    return result


def check_pixels_matter(detections: Sequence[Detections]) -> None:
    """Without detections that differ from image to image, a difference of 0 would show nothing."""
    scores = np.concatenate([each.score for each in detections])
    best = {(int(each.category_id[0]), round(float(each.score[0]), 4)) for each in detections}
    assert len(best) > len(detections) / 2, f"{len(detections)} images have {len(best)} different best detections"
    assert scores.std() > 0.05, f"the scores of all detections are alike: {scores.min():g} to {scores.max():g}"


def network_figures(name: str, repeat: int, images: Sequence[Any]) -> tuple[list[Figure], dict[str, Any]]:
    """Measure all batch sizes of one network."""
    with tempfile.TemporaryDirectory() as folder:
        save_network(*NETWORKS[name], folder)
        detectors = {size: load(folder, size) for size in BATCHES}
    ways: dict[str, Callable[[], list[Detections]]] = {
        str(size): partial(run, detector, images) for size, detector in detectors.items()
    }
    took = take_turns(ways, repeat, clock=time.process_time)
    single = took["1"][0][1]
    check_pixels_matter(single)
    figures, detail = [], {}
    for size, rounds in took.items():
        differs = difference(single, rounds[0][1])
        detail[size] = vars(differs)
        rates = [len(images) / seconds for seconds, _ in rounds]
        note = f"{differs.detections:,} detections"
        if size != "1":
            others = f"; {differs.other_images} images have other ones" if differs.other_images else ""
            note += f" differ by at most {differs.corner_px:.2g} pixels and {differs.score:.2g} of the score{others}"
        figures.append(figure(f"{name} network, {size} at a time", rates, "images/CPU s", note=note))
    return figures, detail


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--images", type=int, default=32)
    args = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    images = photos(args.images)
    figures: list[Figure] = []
    detail: dict[str, Any] = {}
    for name in NETWORKS:
        measured, detail[name] = network_figures(name, args.repeat, images)
        figures += measured
    setup = {"images": len(images), "repeat": args.repeat, "networks": NETWORKS, "threads": 1, "gpu": False}
    report("batches", figures, setup=setup, detail=detail)


if __name__ == "__main__":
    main()
