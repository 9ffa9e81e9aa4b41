"""Export a CenterNet of the TF Object Detection API, and write what its evaluation sees; run by an environment with it.

python make_object_detection.py FOLDER PHOTO...    see comparison.py
"""

from __future__ import annotations

# ruff: noqa: E402 - the libraries read these settings when they are imported
import ast
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

# The API was written for Keras 2.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
# Only the training of DeepMAC calls it, and its latest version is for TensorFlow 2.16.
sys.modules["tensorflow_io"] = ModuleType("tensorflow_io")

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.internal import builder


def load_messages() -> None:
    """Load the API's messages from the descriptors in its modules.

    The modules themselves were made by a protoc that is too old for protobuf's C code, without which networks are saved
    in pure Python.
    """
    spec = importlib.util.find_spec("object_detection")
    files: dict[str, FileDescriptorProto] = {}
    for path in (Path(spec.origin).parent / "protos").glob("*_pb2.py"):
        keywords = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.keyword)]
        (serialized,) = (ast.literal_eval(each.value) for each in keywords if each.arg == "serialized_pb")
        file = FileDescriptorProto.FromString(serialized)
        files[file.name] = file

    def load(name: str) -> None:
        module = f"{name.removesuffix('.proto').replace('/', '.')}_pb2"
        if module in sys.modules:
            return
        for dependency in files[name].dependency:
            load(dependency)
        sys.modules[module] = ModuleType(module)
        descriptor = descriptor_pool.Default().AddSerializedFile(files[name].SerializeToString())
        builder.BuildMessageAndEnumDescriptors(descriptor, vars(sys.modules[module]))
        builder.BuildTopDescriptorsAndMessages(descriptor, module, vars(sys.modules[module]))

    for name in files:
        load(name)


load_messages()

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from object_detection import eval_util, exporter_lib_v2
from object_detection.builders import model_builder
from object_detection.core.standard_fields import DetectionResultFields as Fields
from object_detection.protos import pipeline_pb2
from PIL import Image
from random_weights import spread

#: `configs/tf2/centernet_resnet50_v1_fpn_512x512_kpts_coco17_tpu-8.config`, but smaller.
PIPELINE = """
model { center_net {
  num_classes: 3
  feature_extractor { type: "resnet_v1_50_fpn" }
  image_resizer { keep_aspect_ratio_resizer { min_dimension: 256 max_dimension: 256 pad_to_max_dimension: true } }
  object_detection_task {
    task_loss_weight: 1.0 offset_loss_weight: 1.0 scale_loss_weight: 0.1
    localization_loss { l1_localization_loss {} }
  }
  object_center_params {
    object_center_loss_weight: 1.0 min_box_overlap_iou: 0.7 max_box_predictions: 100
    classification_loss { penalty_reduced_logistic_focal_loss { alpha: 2.0 beta: 4.0 } }
  }
  keypoint_label_map_path: "%s"
  keypoint_estimation_task {
    task_name: "human_pose" task_loss_weight: 1.0
    loss {
      localization_loss { l1_localization_loss {} }
      classification_loss { penalty_reduced_logistic_focal_loss { alpha: 2.0 beta: 4.0 } }
    }
    keypoint_class_name: "person"
    keypoint_regression_loss_weight: 0.1 keypoint_heatmap_loss_weight: 1.0 keypoint_offset_loss_weight: 1.0
    offset_peak_radius: 3 per_keypoint_offset: true
  }
} }
"""

LABELS = """
item { id: 1 name: "person"
  keypoints { id: 0 label: "nose" } keypoints { id: 1 label: "left_eye" } keypoints { id: 2 label: "right_eye" }
  keypoints { id: 3 label: "left_hip" } keypoints { id: 4 label: "right_hip" } }
item { id: 2 name: "dog" }
item { id: 3 name: "car" }
"""

#: Deviation and mean of the outputs of each head. The unit is a cell of the heatmap, of 4 pixels, except for logits.
HEADS = {
    "object_center": (1.5, -3.0),
    "box/scale": (4.0, 14.0),
    "box/offset": (0.3, 0.5),
    "human_pose/keypoint/heatmap": (1.5, -3.0),
    "human_pose/keypoint/offset": (0.3, 0.5),
    "human_pose/keypoint/regression": (5.0, 0.0),
}


def run(model: Any, photo: np.ndarray) -> tuple[dict[str, Any], Any]:
    """The detections of a photo, and the size of its part of the input."""
    inputs, shapes = model.preprocess(tf.constant(photo[None], tf.float32))
    return model.postprocess(model.predict(inputs, shapes), shapes), shapes


def spread_all(model: Any, photo: np.ndarray) -> None:
    """Give the heads weights with which scores, sizes and keypoints differ, but no score is 0 or 1."""
    run(model, photo)  # builds the layers
    for name, (deviation, mean) in HEADS.items():
        (head,) = model._prediction_head_dict[name]
        spread(head.layers[-1], lambda: run(model, photo), deviation, mean, per_channel=True)


def predict(model: Any, photo: np.ndarray) -> dict[str, Any]:
    """The detections in a photo as the evaluation gets them, in pixels of the photo."""
    detections, shapes = run(model, photo)
    result = eval_util.result_dict_for_batched_example(
        tf.constant(photo[None]),
        tf.constant(["photo"]),
        detections,
        scale_to_absolute=True,
        original_image_spatial_shapes=tf.constant([photo.shape[:2]]),
        true_image_shapes=shapes,
        label_id_offset=1,
    )
    result = {name: np.asarray(values)[0] for name, values in result.items() if name.startswith("detection_")}
    points = np.concatenate(
        (result[Fields.detection_keypoints], result[Fields.detection_keypoint_scores][..., None]), 2
    )
    return {
        "xyxy": result[Fields.detection_boxes][:, [1, 0, 3, 2]].tolist(),
        "score": result[Fields.detection_scores].tolist(),
        "category_id": result[Fields.detection_classes].tolist(),
        "keypoints": points[..., [1, 0, 2]].tolist(),
    }


def main(folder: Path, photos: list[Path]) -> None:
    tf.keras.utils.set_random_seed(1)
    (folder / "labels.pbtxt").write_text(LABELS)
    pipeline = pipeline_pb2.TrainEvalPipelineConfig()
    text_format.Parse(PIPELINE % (folder / "labels.pbtxt"), pipeline)
    model = model_builder.build(pipeline.model, is_training=False)
    pixels = {photo.name: np.asarray(Image.open(photo).convert("RGB")) for photo in photos}
    spread_all(model, next(iter(pixels.values())))
    tf.train.Checkpoint(model=model).save(str(folder / "checkpoint" / "c"))
    exporter_lib_v2.export_inference_graph(
        "image_tensor", pipeline, str(folder / "checkpoint"), str(folder / "export"), False, "", "", ""
    )
    shutil.move(folder / "export" / "saved_model", folder / "model")
    images = {name: predict(model, photo) for name, photo in pixels.items()}
    version = importlib.metadata.version("tf-models-research-object-detection")
    report = {"library": f"TF Object Detection API {version}, CenterNet", "images": images}
    (folder / "predictions.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), list(map(Path, sys.argv[2:])))
