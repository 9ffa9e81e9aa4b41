"""Export a network with random weights by Ultralytics, and let Ultralytics' `predict` run the export on photos.

    python make_ultralytics.py CONFIG SIZE EXPORT FOLDER PHOTO...

CONFIG is one of Ultralytics' own descriptions of a network (`yolo11n-seg.yaml`), SIZE its input (`640` or `320x416`,
height first), and EXPORT further arguments of `export` as JSON (`{"nms": true}`).

The weights are random, since a test downloads none. Without more, all scores would be alike. So the normalization
layers have the statistics of the photos, and the last layers are scaled to outputs that differ.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")

import cv2
import numpy as np
import torch
import ultralytics
from pycocotools import mask as coco_mask
from ultralytics import YOLO
from ultralytics.utils import ROOT, YAML

#: Mean of the last layers' outputs, and how far they go from it, by name of their list: logits of classes; of keypoints
#: or weights of masks; and distances from the sides of a box in steps of the level, or logits of such distances.
_OUTPUTS = {"cv3": (-7.0, 7.0), "cv4": (0.0, 6.0), "cv4_kpts": (0.0, 6.0), "cv2": (2.0, 1.9)}
#: The same for logits of 0, 1, 2, ... steps: nearer sides are more probable.
_FARTHER, _LOGITS = -0.4, 6.0
#: Largest number of detections of `predict`, and their least score.
_MOST, _LEAST = 300, 0.001


def make(config: str, size: list[int], export: dict[str, Any], folder: Path, photos: list[Path]) -> None:
    torch.manual_seed(7)
    # The converter runs its own network on this array; it would download one.
    random = np.random.default_rng(7).random((20, 128, 128, 3), np.float32)
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        np.save("calibration_image_sample_data_20x128x128x3_float32.npy", random)
        network = YOLO(config)
        if network.task == "pose":
            # As its trainer does it (`set_model_attributes` in `models/yolo/pose/train.py`).
            network.model.kpt_names = YAML.load(ROOT / "cfg" / "datasets" / "coco-pose.yaml")["kpt_names"]
        _vary(network.model, torch.cat([_input(photo, size) for photo in photos]))
        exported = network.export(format="saved_model", imgsz=size, **export)
        predictor = YOLO(exported, task=network.task)
        predicted = {
            photo.name: _values(
                predictor.predict(photo, conf=_LEAST, max_det=_MOST, retina_masks=True, verbose=False)[0]
            )
            for photo in photos
        }
        shutil.move(exported, folder / "model")
    library = f"Ultralytics {ultralytics.__version__}"
    (folder / "predictions.json").write_text(json.dumps({"library": library, "images": predicted}))


def _input(photo: Path, size: list[int]) -> torch.Tensor:
    pixels = cv2.resize(cv2.imread(str(photo))[..., ::-1], size[::-1])
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]


@torch.no_grad()
def _vary(model: Any, images: torch.Tensor) -> None:
    """Fit the statistics of all layers, then the outputs, to images `(N, 3, H, W)`."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
    head = model.model[-1]
    # Random layers answer to some photos a hundred times as strongly as to others.
    for layer in head.modules():
        if isinstance(getattr(layer, "act", None), torch.nn.SiLU):
            layer.act = torch.nn.Tanh()
    model.train()
    model(images)
    if isinstance(getattr(head, "linear", None), torch.nn.Linear):
        head.linear.weight *= 30
        return
    for name, levels in head.named_children():
        target = _OUTPUTS.get(name.removeprefix("one2one_"))
        for level in levels if target is not None else ():
            layer = level[-1] if isinstance(level, torch.nn.Sequential) else level
            if isinstance(layer, torch.nn.Conv2d):
                mean, reach = (torch.full((layer.out_channels,), number) for number in target)
                if name.endswith("cv2") and head.reg_max > 1:
                    mean = _FARTHER * torch.arange(head.reg_max).repeat(4)
                    reach = torch.full_like(mean, _LOGITS)
                layer.register_forward_hook(partial(_fit, mean=mean, reach=reach))
    model(images)
    for layer in head.modules():
        layer._forward_hooks.clear()


def _fit(layer: Any, _: Any, output: torch.Tensor, *, mean: torch.Tensor, reach: torch.Tensor) -> None:
    """Give the channels `(N, C, h, w)` of the output of a convolution a mean and a largest distance from it."""
    middle = output.mean((0, 2, 3))
    scale = reach / (output - middle[:, None, None]).abs().amax((0, 2, 3))
    layer.weight *= scale[:, None, None, None]
    layer.bias[:] = (layer.bias - middle) * scale + mean


def _values(result: Any) -> dict[str, Any]:
    """The detections, or the probabilities, of one photo."""
    if result.probs is not None:
        return {"probabilities": result.probs.data.tolist()}
    boxes = result.boxes
    values = {
        "xyxy": boxes.xyxy.tolist(),
        "score": boxes.conf.tolist(),
        "category_id": boxes.cls.int().tolist(),
    }
    if result.masks is not None:
        masks = np.asfortranarray(result.masks.data.numpy().astype(np.uint8).transpose(1, 2, 0))
        values["mask"] = [mask["counts"].decode() for mask in coco_mask.encode(masks)]
    if result.keypoints is not None:
        # `predict` moves keypoints outside of the photo to its edge: these are left out.
        points, (height, width) = result.keypoints.data.clone(), result.orig_shape
        inside = (points[..., :2] > 0).all(-1) & (points[..., 0] < width) & (points[..., 1] < height)
        points[..., 2] *= inside
        values["keypoints"] = points.tolist()
    return values


if __name__ == "__main__":
    _, config, size, export, folder, *photos = sys.argv
    sides = [int(side) for side in size.split("x")]
    make(config, [sides[0], sides[-1]], json.loads(export), Path(folder), [Path(photo) for photo in photos])
