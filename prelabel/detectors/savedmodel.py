"""Run a SavedModel or hub module of a known convention on pixels.

Loading takes seconds and hundreds of megabytes; an object of this module lives as long as its worker.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel.detections import Detections
from prelabel.detectors import runtime
from prelabel.detectors.answers import DetectorOptions, to_found, to_image_labels, wanted_outputs
from prelabel.detectors.base import DetectorInfo, Found, Frame, Pixels
from prelabel.detectors.choice import EXACT, OFF, Choice, lower_numbers
from prelabel.detectors.convention import FLOATS, Convention
from prelabel.detectors.fidelity import SAME, Answer, difference
from prelabel.detectors.frozen import FrozenGraph, Network, folded, freeze, freeze_tf1, keep, kept_at, key_of, read_kept
from prelabel.detectors.loaded import STUMBLES, as_loaded, is_tf1, spec_of
from prelabel.detectors.lowered import lower, rewarding, work_of
from prelabel.detectors.prepare import PreparedModel
from prelabel.errors import DetectorError
from prelabel.storage import describe

_log = logging.getLogger(__name__)


class SavedModelDetector:
    """A loaded network with the adapter around it; implements `prelabel.detectors.base.Detector`.

    Attributes:
        choice: How its network is run.
    """

    def __init__(
        self,
        model: PreparedModel,
        network: Network,
        tf: Any,
        options: DetectorOptions,
        choice: Choice = OFF,
        loaded: Any = None,
    ) -> None:
        self.choice = choice
        self._loaded = loaded  # its functions do not keep the variables they read alive
        self._convention = model.convention
        self._labels = model.labels
        self._network = network
        self._tf = tf
        self._options = options
        self._info = model.info
        self._size = model.input_size
        self._dtype = getattr(tf, model.convention.input.dtype).as_numpy_dtype

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
        outputs = self._outputs(pixels)
        ran = time.perf_counter() - start
        fed = self._size or (pixels.shape[0], pixels.shape[1])
        found = to_found(
            outputs,
            self._convention,
            frame.height,
            frame.width,
            self._labels,
            self._options,
            window=frame.window,
            fed=fed,
        )
        seconds = {**found.seconds, "detect": found.seconds["detect"] + ran}
        return Found(found.detections, None, seconds, found.dropped)

    def _outputs(self, pixels: Pixels) -> dict[str, npt.NDArray[Any]]:
        image = self._as_input(self._resized(pixels) if self._size else pixels)
        return self._run(image[None] if self._convention.batch_dimension else image)

    def run_network(self, pixels: Pixels) -> float:
        """Seconds that the network takes for one image.

        Raises:
            DetectorError: The network fails on it.
        """
        start = time.perf_counter()
        self._outputs(pixels)
        return time.perf_counter() - start

    def answer(self, pixels: Pixels, more: DetectorOptions) -> Answer:
        """What one run of the network says under this detector's options and under others that keep more.

        Raises:
            DetectorError: The network fails on the image, or answers what cannot be.
        """
        outputs = self._outputs(pixels)
        height, width = pixels.shape[:2]

        def under(options: DetectorOptions) -> Found:
            if self._convention.kind == "classification":
                row = outputs[self._convention.outputs["rows"]][0]
                image_labels = to_image_labels(row, self._convention, self._labels, options)
                return Found(Detections.empty(height, width), image_labels)
            fed = self._size or (height, width)
            return to_found(outputs, self._convention, height, width, self._labels, options, fed=fed)

        return Answer(under(self._options), under(more))

    def _classify(self, images: Sequence[Pixels], frames: Sequence[Frame]) -> list[Found]:
        if not images:
            return []
        start = time.perf_counter()
        batch = np.stack([self._as_input(self._resized(pixels)) for pixels in images])
        rows = self._run(batch)[self._convention.outputs["rows"]]
        if rows.ndim != 2 or len(rows) != len(images):
            raise DetectorError(f"the network answers {list(rows.shape)} to {len(images)} images")
        labels = [to_image_labels(row, self._convention, self._labels, self._options) for row in rows]
        seconds = {"detect": (time.perf_counter() - start) / len(images), "encode": 0.0}
        return [
            Found(Detections.empty(frame.height, frame.width), found, seconds)
            for frame, found in zip(frames, labels, strict=True)
        ]

    def _as_input(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Pixels in 0..255 as the network takes them: its type, range and layout."""
        convention = self._convention
        if convention.input.dtype in FLOATS:
            image = in_range(pixels, convention.input_range)
        else:
            image = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        image = image.transpose(2, 0, 1) if convention.channels_first else image
        return image.astype(self._dtype, copy=False)

    def _resized(self, pixels: Pixels) -> npt.NDArray[Any]:
        """The whole picture squeezed to the network's size, bilinear with antialiasing, in 0..255.

        Nothing is cropped: the cards ask for a size, not for a crop, and a label may lie at the border. Without
        antialiasing a photo of 4000 pixels shrunk to 128 would show the network every thirtieth pixel.
        """
        small: npt.NDArray[Any] = self._tf.image.resize(pixels, self._size, method="bilinear", antialias=True).numpy()
        return small

    def _run(self, image: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        tf = self._tf
        try:
            return {name: value.numpy() for name, value in self._network(tf.constant(image)).items()}
        except (tf.errors.OpError, ValueError) as error:
            raise DetectorError(f"the network failed on this image: {describe(error)}") from error


def in_range(pixels: npt.NDArray[Any], input_range: str) -> npt.NDArray[np.float32]:
    """Pixels in 0..255 in one of the ranges of `options.INPUT_RANGES`."""
    if input_range == "0..255":
        return pixels.astype(np.float32)
    divisor = np.float32(255 if input_range == "0..1" else 127.5)
    shares: npt.NDArray[np.float32] = np.divide(pixels, divisor, dtype=np.float32)
    if input_range == "-1..1":
        shares -= np.float32(1)
    return shares


def load_detector(
    model: PreparedModel,
    options: DetectorOptions | None = None,
    *,
    threads: int = 1,
    gpus: float = 0.0,
    warm_up: tuple[int, int] | None = (480, 640),
    choice: Choice = OFF,
    cache_dir: str | os.PathLike[str] | None = None,
) -> SavedModelDetector:
    """Load a model and run it once.

    Args:
        model: From `prepare`.
        options: What is kept of its answers.
        threads: TensorFlow threads of this process.
        gpus: GPU share of this process; see `runtime.configure`.
        warm_up: Height and width of the first picture, or None to run none.
        choice: How its network is run. A network that cannot be made one constant graph, or that would then say
            something else, is run as loaded; see the detector's `choice`.
        cache_dir: Where models and their constant graphs are kept; see `cache_root`.

    Raises:
        DetectorError: It cannot be loaded or fails on an empty picture, or cannot be run as chosen.
    """
    options = options or DetectorOptions()
    wanted = wanted_outputs(model.convention, options)
    tf = runtime.configure(threads, gpus)
    if choice.lowers and lower_numbers(tf) != choice.numbers:
        raise DetectorError(
            f"this machine does not compute in {choice.numbers}, in which the run was begun: go on where that can be "
            "done, or begin anew with --overwrite --optimize exact"
        )
    detector = None
    if choice != OFF:
        frozen = frozen_graph(model, options, tf, cache_dir)
        if frozen is not None and choice.lowers:
            frozen = lowered_graph(frozen, choice, tf)
        if frozen is not None:
            detector = SavedModelDetector(model, frozen.network(tf), tf, options, choice)
        elif choice.lowers:
            raise DetectorError(f"{model.local.path}: the network cannot be run in {choice}")
    if detector is None:
        loaded, network = as_loaded(model, wanted, tf)
        detector = SavedModelDetector(model, network, tf, options, OFF, loaded)
    if warm_up:
        detector.warm_up(*warm_up)
    return detector


def frozen_graph(
    model: PreparedModel, options: DetectorOptions, tf: Any, cache_dir: str | os.PathLike[str] | None = None
) -> FrozenGraph | None:
    """The model's network as one constant graph, kept or made now; None where it cannot be one that says the same.

    Raises:
        DetectorError: The model cannot be loaded.
    """
    wanted = wanted_outputs(model.convention, options)
    key = key_of(model.local.fingerprint, wanted, tf)
    path = kept_at(key, cache_dir)
    kept = read_kept(path, key)
    if kept is not None:
        return kept
    loaded, network = as_loaded(model, wanted, tf)
    try:
        if is_tf1(loaded, model.convention):
            frozen = freeze_tf1(model.local.path, model.graph.chosen_tags, model.convention, wanted, tf)
        else:
            frozen = freeze(network, spec_of(model.convention, tf), wanted, tf)
        frozen = folded(frozen, tf)
        pair = (
            SavedModelDetector(model, network, tf, options, OFF, loaded),
            SavedModelDetector(model, frozen.network(tf), tf, options, EXACT),
        )
        pixels = _motley(*(model.convention.size or (480, 640)))
        before, after = (detector.answer(pixels, options) for detector in pair)
        unlike = difference(before, after, SAME)
    except (tf.errors.OpError, DetectorError, *STUMBLES) as error:
        unlike = describe(error)
    if unlike:
        _log.info("%s: the network is run as loaded, not as one constant graph: %s", model.local.path, unlike)
        return None
    keep(frozen, path, key)
    return frozen


def lowered_graph(frozen: FrozenGraph, choice: Choice, tf: Any) -> FrozenGraph | None:
    """The graph with as many of its convolutions lowered as were chosen; None where it has none that could be."""
    convolutions = rewarding(frozen, work_of(frozen, tf), choice.share)
    return lower(frozen, convolutions, choice.numbers, tf) if convolutions else None


def _motley(height: int, width: int) -> Pixels:
    """A picture with edges and colours of all kinds, always the same."""
    random = np.random.default_rng(1)
    patches = random.integers(0, 256, (-(-height // 32), -(-width // 32), 3), np.uint8)
    pixels: Pixels = np.repeat(np.repeat(patches, 32, axis=0), 32, axis=1)[:height, :width]
    return pixels
