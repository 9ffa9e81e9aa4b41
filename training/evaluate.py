"""COCO AP of a detector on held-out scenes, by pycocotools.

python training/evaluate.py --model prelabel/detectors/models/demo_shapes --seed 990001 --scenes 500
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from prelabel.masks import rle
from prelabel.masks.paste import paste_masks
from prelabel.synth.scenes import draw_scene
from prelabel.synth.shapes import CLASS_NAMES

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def _as_delivered(pixels: np.ndarray) -> np.ndarray:
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=90)
    return np.asarray(Image.open(jpeg))


def _entries(detect: Callable[[Any], dict[str, Any]], pixels: np.ndarray, image_id: int) -> list[dict[str, Any]]:
    """What the detector finds in one picture, as entries of a COCO results file."""
    height, width = pixels.shape[:2]
    result = {name: value.numpy()[0] for name, value in detect(tf.constant(pixels)[None]).items()}
    count = int(result["num_detections"])
    yxyx = result["detection_boxes"][:count].astype(np.float64)
    xyxy = yxyx[:, [1, 0, 3, 2]] * [width, height, width, height]
    masks = paste_masks(result["detection_masks"][:count], xyxy, height, width)
    return [
        {
            "image_id": image_id,
            "category_id": int(category_id),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(score),
            "segmentation": {"size": [height, width], "counts": counts},
        }
        for category_id, (x1, y1, x2, y2), score, counts in zip(
            result["detection_classes"][:count], xyxy.tolist(), result["detection_scores"][:count], masks, strict=True
        )
    ]


def evaluate(detect: Callable[[Any], dict[str, Any]], seed: int, scenes: int) -> dict[str, float]:
    """AP of boxes (`box_ap`, ...) and masks (`mask_ap`, ...), and per class (`box_ap/star`)."""
    images, annotations, results = [], [], []
    for index in range(scenes):
        scene = draw_scene(seed, index)
        height, width = scene.instance_map.shape
        images.append({"id": index + 1, "height": height, "width": width})
        for number, (category_id, box) in enumerate(zip(scene.category_ids, scene.xyxy, strict=True), start=1):
            mask = scene.instance_map == number
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": int(category_id),
                    "bbox": [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": [height, width], "counts": rle.encode(mask)},
                }
            )
        results += _entries(detect, _as_delivered(scene.pixels), index + 1)
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASS_NAMES, start=1)]
    return _score({"images": images, "annotations": annotations, "categories": categories}, results)


def _score(truth: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    if not results:
        return {f"{kind}_{name}": 0.0 for kind in ("box", "mask") for name in NAMES}
    scores: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        for kind, coco_kind in (("box", "bbox"), ("mask", "segm")):
            # loadRes computes areas from whatever the first entry has: boxes are scored without their masks.
            entries = [
                {k: v for k, v in e.items() if k != ("segmentation" if kind == "box" else "bbox")} for e in results
            ]
            run = COCOeval(reference, reference.loadRes(entries), coco_kind)
            run.evaluate()
            run.accumulate()
            run.summarize()
            scores |= {f"{kind}_{name}": round(float(v), 4) for name, v in zip(NAMES, run.stats[:6], strict=True)}
            precision = run.eval["precision"][:, :, :, 0, 2]
            for number, name in enumerate(CLASS_NAMES):
                valid = precision[:, :, number][precision[:, :, number] > -1]
                scores[f"{kind}_ap/{name}"] = round(float(valid.mean()), 4) if len(valid) else float("nan")
    return scores


def milliseconds(detect: Callable[[Any], Any], height: int = 480, width: int = 640, runs: int = 60) -> dict[str, float]:
    """Median times of one picture, by the clock and of the processor, with the threads that the process has been given.

    On a machine that does other things too the clock tells of those as well; the processor's time does not.
    """
    scene = _as_delivered(draw_scene(3, 3).pixels)
    rows, columns = np.arange(height) * scene.shape[0] // height, np.arange(width) * scene.shape[1] // width
    picture = tf.constant(scene[rows][:, columns][None])
    for _ in range(5):
        detect(picture)
    clock, processor = [], []
    for _ in range(runs):
        start, start_processor = time.perf_counter(), time.process_time()
        detect(picture)
        clock.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    return {
        "median_ms": round(float(np.median(clock)) * 1e3, 1),
        "least_ms": round(min(clock) * 1e3, 1),
        "processor_ms": round(float(np.median(processor)) * 1e3, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Evaluate a SavedModel on held-out scenes.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=990001)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = tf.saved_model.load(str(arguments.model))
    report: dict[str, Any] = {"seed": arguments.seed, "scenes": arguments.scenes, "threads": arguments.threads}
    report |= milliseconds(model)
    print(json.dumps(report | evaluate(model, arguments.seed, arguments.scenes), indent=1))
