"""A detector with ONNX Runtime, for detection models that torchvision exported: boxes, labels and scores of an image.

    python -m pip install onnxruntime
    prelabel label photos/ --detector onnx_detector:TorchvisionDetector --trust-model --output out/run \
      --detector-option model=fasterrcnn.onnx --detector-option classes=classes.txt

`classes.txt` has the name of each class in a line, from class 0 on. Use absolute paths on a Ray cluster.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from prelabel import ClassName, Detections, DetectorInfo


class TorchvisionDetector:
    """Runs a model with the input `[3, H, W]`, float32 in 0..1, and the outputs `boxes`, `labels` and `scores`."""

    batch_size = 1

    def __init__(self, model: str, classes: str) -> None:
        self._names = Path(classes).read_text(encoding="utf-8").splitlines()
        names = [ClassName(number, name) for number, name in enumerate(self._names)]
        # The content of the files is part of the fingerprint: a run does not resume with other weights.
        self.info = DetectorInfo(Path(model).stem, classes=names, files=[model, classes])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1"))  # the CPUs of this worker
        providers = onnxruntime.get_available_providers()
        self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        self._input = self._session.get_inputs()[0].name

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """One `Detections` per image, in pixels of its array."""
        return [self._detect(pixels) for pixels in images]

    def _detect(self, pixels: np.ndarray) -> Detections:
        image = pixels.transpose(2, 0, 1).astype(np.float32) / 255
        boxes, labels, scores = self._session.run(["boxes", "labels", "scores"], {self._input: image})
        names = [self._names[number] for number in labels]
        return Detections.of(*pixels.shape[:2], xyxy=boxes, score=scores, label=names, category_id=labels)
