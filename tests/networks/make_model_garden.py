"""Export a detector of TF Model Garden Vision, and write what its evaluation sees; run by an environment with it.

python make_model_garden.py {retinanet,retinanet-normalized,maskrcnn,maskrcnn-outer} FOLDER PHOTO...
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from official.core import exp_factory
from official.vision import registry_imports  # noqa: F401
from official.vision.evaluation import coco_utils
from official.vision.serving import detection, export_saved_model_lib
from PIL import Image
from random_weights import spread

#: Height and width of the input; neither square nor of the shape of a photo.
SIZE = [256, 320]


def build(kind: str) -> Any:
    """The library's export module with a small network with random weights."""
    tf_keras.utils.set_random_seed(1)
    is_retinanet = kind.startswith("retinanet")
    params = exp_factory.get_exp_config(f"{'retinanet' if is_retinanet else 'maskrcnn'}_resnetfpn_coco")
    model = params.task.model
    model.input_size = [*SIZE, 3]
    model.num_classes = 7
    model.backbone.resnet.model_id = 18
    model.decoder.fpn.num_filters = 64
    model.max_level = 5
    if is_retinanet:
        params.task.export_config.output_normalized_coordinates = kind == "retinanet-normalized"
    else:
        model.roi_generator.test_num_proposals = 200
        model.outer_boxes_scale = 1.25 if kind == "maskrcnn-outer" else 1.0
    return detection.DetectionModule(params, batch_size=1, input_image_size=SIZE, input_type="image_tensor")


def spread_all(module: Any, photo: np.ndarray) -> None:
    """Give the heads weights with which scores, sizes and masks differ, but none is 0 or 1."""
    model = module.model

    def run() -> None:
        module.serve(tf.constant(photo[None]))

    run()  # builds the layers
    if hasattr(model, "rpn_head"):
        layers = [(model.rpn_head._classifier, 2, 0), (model.rpn_head._box_regressor, 0.3, 0)]
        (head,) = model.detection_head
        layers += [(head._classifier, 2, 0), (head._box_regressor, 1, 0)]
        layers += [(model.mask_head._mask_regressor, 2, 0.5)]
    else:
        layers = [(model.head._classifier, 1.5, -1.5), (model.head._box_regressor, 0.4, 0)]
    for layer, deviation, mean in layers:
        spread(layer, run, deviation, mean)


def predict(module: Any, photo: np.ndarray) -> dict[str, Any]:
    """The detections in a photo as the library's evaluation gets them: boxes divided by the scale, masks pasted."""
    outputs = {name: value.numpy() for name, value in module.serve(tf.constant(photo[None])).items()}
    height, width = photo.shape[:2]
    if _is_normalized(module):
        outputs["detection_boxes"] *= np.array([height, width] * 2, np.float32)
    else:
        scale = np.tile(outputs["image_info"][:, 2:3, :], (1, 1, 2))
        for name in ("detection_boxes", "detection_outer_boxes"):
            if name in outputs:
                outputs[name] = outputs[name] / scale
    count = int(outputs.pop("num_detections")[0])
    annotations = coco_utils.convert_predictions_to_coco_annotations(
        {"source_id": [np.array([1])], **{name: [value] for name, value in outputs.items()}}
    )[:count]
    boxes = np.array([each["bbox"] for each in annotations], np.float64).reshape(-1, 4)
    entry = {
        "xyxy": np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1).tolist(),
        "score": [float(each["score"]) for each in annotations],
        "category_id": [int(each["category_id"]) for each in annotations],
    }
    if "detection_masks" in outputs:
        entry["mask"] = [each["segmentation"]["counts"].decode() for each in annotations]
    return entry


def _is_normalized(module: Any) -> bool:
    return bool(getattr(getattr(module.params.task, "export_config", None), "output_normalized_coordinates", False))


def main(kind: str, folder: Path, photos: list[Path]) -> None:
    module = build(kind)
    pixels = {photo.name: np.asarray(Image.open(photo).convert("RGB")) for photo in photos}
    spread_all(module, next(iter(pixels.values())))
    checkpoint = tf.train.Checkpoint(model=module.model).save(str(folder / "checkpoint" / "c"))
    export_saved_model_lib.export_inference_graph(
        input_type="image_tensor",
        batch_size=1,
        input_image_size=SIZE,
        params=module.params,
        checkpoint_path=checkpoint,
        export_dir=str(folder / "model"),
    )
    images = {name: predict(module, photo) for name, photo in pixels.items()}
    version = importlib.metadata.version("tf-models-official")
    report = {"library": f"TF Model Garden {version}, {kind}", "images": images}
    (folder / "predictions.json").write_text(json.dumps(report))


if __name__ == "__main__":
    kind, folder, *photos = sys.argv[1:]
    main(kind, Path(folder), list(map(Path, photos)))
