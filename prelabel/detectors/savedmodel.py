"""Run a SavedModel or hub module of a known convention on pixels.

Loading takes seconds and hundreds of megabytes; an object of this module lives as long as its worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.detections import Detections
from prelabel.detectors import runtime
from prelabel.detectors.answers import DetectorOptions, to_found, to_image_labels, wanted_outputs
from prelabel.detectors.base import DetectorInfo, Found, Frame, Pixels
from prelabel.detectors.convention import CALL, Convention
from prelabel.detectors.prepare import PreparedModel
from prelabel.errors import DetectorError
from prelabel.storage import describe

#: An input tensor -> output tensors by name.
Network = Callable[[Any], Mapping[str, Any]]


class SavedModelDetector:
    """A loaded network with the adapter around it; implements `prelabel.detectors.base.Detector`."""

    def __init__(self, model: PreparedModel, loaded: Any, network: Network, tf: Any, options: DetectorOptions) -> None:
        self._loaded = loaded  # its functions do not keep the variables they read alive
        self._convention = model.convention
        self._labels = model.labels
        self._network = network
        self._tf = tf
        self._options = options
        self._info = model.info
        self._size = model.input_size

    @property
    def info(self) -> DetectorInfo:
        """What this detector is."""
        return self._info

    @property
    def convention(self) -> Convention:
        """How the network is called and what its outputs mean."""
        return self._convention

    @property
    def batch_size(self) -> int:
        """Images run at once: 1 for detectors, none of which takes a batch."""
        return self._options.batch_size if self._convention.batches else 1

    def detect(self, images: Sequence[Pixels], frames: Sequence[Frame] | None = None) -> list[Found]:
        """Run up to `batch_size` images, each `(H, W, 3)` uint8 RGB; one answer each, in order.

        Boxes and masks are those of the `frames`, one for each image, where its pixels do not show it one to one.

        Raises:
            DetectorError: The network fails on an image, or answers what cannot be.
        """
        for pixels in images:
            if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
                raise DetectorError(f"pixels must be (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
        shown = frames or [Frame.of(pixels) for pixels in images]
        if self._convention.kind == "classification":
            return self._classify(images, shown)
        return [self._detect_one(pixels, frame) for pixels, frame in zip(images, shown, strict=True)]

    def warm_up(self, height: int = 480, width: int = 640) -> None:
        """Run once on a grey picture, so that the first real image does not pay for building the graph."""
        self.detect([np.full((height, width, 3), 128, np.uint8)])

    def _detect_one(self, pixels: Pixels, frame: Frame) -> Found:
        start = time.perf_counter()
        image = self._resized(pixels) if self._size else self._as_input(pixels)
        outputs = self._run(image[None] if self._convention.batch_dimension else image)
        ran = time.perf_counter() - start
        found = to_found(
            outputs, self._convention, frame.height, frame.width, self._labels, self._options, window=frame.window
        )
        seconds = {**found.seconds, "detect": found.seconds["detect"] + ran}
        return Found(found.detections, None, seconds, found.dropped)

    def _classify(self, images: Sequence[Pixels], frames: Sequence[Frame]) -> list[Found]:
        if not images:
            return []
        start = time.perf_counter()
        rows = self._run(np.stack([self._resized(pixels) for pixels in images]))[self._convention.outputs["rows"]]
        if rows.ndim != 2 or len(rows) != len(images):
            raise DetectorError(f"the network answers {list(rows.shape)} to {len(images)} images")
        labels = [to_image_labels(row, self._labels, self._options) for row in rows]
        seconds = {"detect": (time.perf_counter() - start) / len(images), "encode": 0.0}
        return [
            Found(Detections.empty(frame.height, frame.width), found, seconds)
            for frame, found in zip(frames, labels, strict=True)
        ]

    def _as_input(self, pixels: Pixels) -> npt.NDArray[Any]:
        """Bytes as they are, or divided by 255: float networks take 0..1."""
        if self._convention.input.dtype == "uint8":
            return pixels
        return _in_unit_range(pixels)

    def _resized(self, pixels: Pixels) -> npt.NDArray[Any]:
        """The whole picture squeezed to the network's size, bilinear with antialiasing.

        Nothing is cropped: the cards ask for a size, not for a crop, and a label may lie at the border. Without
        antialiasing a photo of 4000 pixels shrunk to 128 would show the network every thirtieth pixel.
        """
        small = self._tf.image.resize(pixels, self._size, method="bilinear", antialias=True).numpy()
        if self._convention.input.dtype == "uint8":
            rounded: Pixels = np.clip(np.rint(small), 0, 255).astype(np.uint8)
            return rounded
        return _in_unit_range(small)

    def _run(self, image: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        tf = self._tf
        try:
            return {name: value.numpy() for name, value in self._network(tf.constant(image)).items()}
        except (tf.errors.OpError, ValueError) as error:
            raise DetectorError(f"the network failed on this image: {describe(error)}") from error


def _in_unit_range(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    shares: npt.NDArray[np.float32] = np.divide(pixels, np.float32(255), dtype=np.float32)
    return shares


def load_detector(
    model: PreparedModel,
    options: DetectorOptions | None = None,
    *,
    threads: int = 1,
    gpus: float = 0.0,
    warm_up: tuple[int, int] | None = (480, 640),
) -> SavedModelDetector:
    """Load a model and run it once.

    Args:
        model: From `prepare`.
        options: What is kept of its answers.
        threads: TensorFlow threads of this process.
        gpus: GPU share of this process; see `runtime.configure`.
        warm_up: Height and width of the first picture, or None to run none.

    Raises:
        DetectorError: It cannot be loaded or fails on an empty picture.
    """
    options = options or DetectorOptions()
    wanted = wanted_outputs(model.convention, options)
    tf = runtime.configure(threads, gpus)
    hub = runtime.tensorflow_hub()
    # What TensorFlow's loader raises for a damaged model depends on where it stumbles.
    stumbles = (
        tf.errors.OpError,
        OSError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        RuntimeError,
        AssertionError,
    )
    try:
        loaded = hub.load(str(model.local.path), tags=list(model.graph.chosen_tags))
        network = _network(loaded, model.convention, wanted, tf)
    except stumbles as error:
        raise DetectorError(f"{model.local.path}: TensorFlow cannot load this model: {describe(error)}") from error
    detector = SavedModelDetector(model, loaded, network, tf, options)
    if warm_up:
        detector.warm_up(*warm_up)
    return detector


def _network(loaded: Any, convention: Convention, wanted: Sequence[str], tf: Any) -> Network:
    """A function of one tensor that computes the wanted outputs and nothing else.

    Of a TF1 graph the rest is cut off. A TF2 signature is wrapped in a function that returns the wanted outputs only;
    TensorFlow inlines the call and drops what leads nowhere else.
    """
    if convention.signature == CALL:
        call = loaded
    else:
        signature = loaded.signatures[convention.signature]
        if hasattr(signature, "prune"):
            feed = next(one for one in signature.inputs if one.dtype != tf.resource)
            outputs = {name: signature.structured_outputs[name] for name in wanted}
            pruned = signature.prune(feed, outputs)

            def run(image: Any) -> Mapping[str, Any]:
                answer: Mapping[str, Any] = pruned(image)
                return answer

            return run

        def call(image: Any) -> Any:
            return signature(**{convention.input.name: image})

    shape = convention.input.shape
    spec = tf.TensorSpec(shape, getattr(tf, convention.input.dtype))

    def needed(image: Any) -> dict[str, Any]:
        answer = call(image)
        if not isinstance(answer, Mapping):
            parts = answer if isinstance(answer, tuple | list) else [answer]
            answer = {f"output_{i}": part for i, part in enumerate(parts)}
        return {name: answer[name] for name in wanted}

    network: Network = tf.function(needed, input_signature=[spec], autograph=False).get_concrete_function()
    return network
