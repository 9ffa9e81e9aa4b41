"""SAHI's sliced prediction with a detector of prelabel, over a folder, in a process of its own; for `slicing.py`.

    PYTHONPATH=.venv-sahi python benchmarks/_sahi.py --images DIR --model DIR --to results.json --slices 60%

Writes the detections in COCO's format for results, with file names for image ids. Prints one JSON object: images, runs
of the detector, and the postprocess that SAHI used.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from sahi.models.base import DetectionModel
from sahi.predict import get_sliced_prediction
from sahi.prediction import ObjectPrediction
from sahi.utils.compatibility import fix_full_shape_list, fix_shift_amount_list
from sahi.utils.cv import get_coco_segmentation_from_bool_mask

from prelabel.detectors.base import EXACT
from prelabel.detectors.conventions.resolve_model import prepare
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.detectors.running.savedmodel import load_detector
from prelabel.select import Selection


class PrelabelModel(DetectionModel):
    """SAHI's interface of a detector, around one of prelabel.

    Args:
        masks: Whether to pass masks on.
        kwargs: Those of SAHI's class; `model` is the detector.
    """

    def __init__(self, *, masks: bool, **kwargs: Any) -> None:
        self.runs = 0
        self._masks = masks
        super().__init__(**kwargs)

    def set_model(self, model: Any, **kwargs: Any) -> None:
        """Use a loaded detector."""
        self.model = model

    def perform_inference(self, image: np.ndarray) -> None:
        """Detect in an image or slice."""
        self.runs += 1
        self._original_predictions = self.model.detect([image])[0]

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Any = ((0, 0),), full_shape_list: Any = None
    ) -> None:
        """Convert the detections as SAHI's adapter of MMDetection does."""
        (shift,) = fix_shift_amount_list(shift_amount_list)
        (full_shape,) = fix_full_shape_list(full_shape_list)
        detections = self._original_predictions
        predictions = []
        for n in range(len(detections)):
            segmentation = None
            if self._masks:
                mask = {"size": [detections.height, detections.width], "counts": detections.mask[n]}
                segmentation = get_coco_segmentation_from_bool_mask(coco_mask.decode(mask))
                if not segmentation:
                    continue
            predictions.append(
                ObjectPrediction(
                    bbox=detections.xyxy[n].tolist(),
                    category_id=int(detections.category_id[n]),
                    score=float(detections.score[n]),
                    segmentation=segmentation,
                    category_name=detections.label[n],
                    shift_amount=shift,
                    full_shape=full_shape,
                )
            )
        self._object_prediction_list_per_image = [predictions]


def main() -> None:
    """Predict and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--slices", required=True, help="pixels, or a share of the image's sides (60%%)")
    parser.add_argument("--score-threshold", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cache")
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--postprocess", help="this one, whatever the threshold; by default SAHI chooses")
    args = parser.parse_args()
    options = DetectorOptions(selection=Selection(score_threshold=args.score_threshold))
    detector = load_detector(
        prepare(args.model, label_map="coco"), options, threads=args.threads, optimization=EXACT, cache_dir=args.cache
    )
    model = PrelabelModel(masks=args.masks, model=detector, confidence_threshold=args.score_threshold)
    chosen = {"postprocess_type": args.postprocess, "force_postprocess_type": True} if args.postprocess else {}
    results = []
    files = sorted(args.images.iterdir())
    for file in files:
        with Image.open(file) as image:
            width, height = image.size
        share = float(args.slices.rstrip("%")) / 100 if args.slices.endswith("%") else None
        slice_height, slice_width = (math.ceil(share * side) if share else int(args.slices) for side in (height, width))
        predicted = get_sliced_prediction(
            str(file), model, slice_height=slice_height, slice_width=slice_width, verbose=0, **chosen
        )
        for prediction in predicted.object_prediction_list:
            entry = {
                "image_id": file.name,
                "category_id": prediction.category.id,
                "score": prediction.score.value,
                "bbox": prediction.bbox.to_xywh(),
            }
            if args.masks:
                entry["segmentation"] = prediction.mask.segmentation
            results.append(entry)
    args.to.write_text(json.dumps(results), encoding="utf-8")
    print(json.dumps({"images": len(files), "runs": model.runs}))


if __name__ == "__main__":
    main()
