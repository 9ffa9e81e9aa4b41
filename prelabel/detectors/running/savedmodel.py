"""The detector for SavedModels and hub modules of a known convention.

Loading takes seconds and hundreds of megabytes, so a detector lives as long as its worker.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from prelabel.aligned import aligned_empty
from prelabel.detections import Detections
from prelabel.detectors.base import EXACT, OFF, DetectionResult, DetectorInfo, Frame, Optimization, Pixels
from prelabel.detectors.conventions.boxes import Fit, Shown
from prelabel.detectors.conventions.convention import FLOATS
from prelabel.detectors.conventions.resolve_model import PreparedModel
from prelabel.detectors.conventions.working_size import working_size
from prelabel.detectors.models.cache import model_files
from prelabel.detectors.running import runtime
from prelabel.detectors.running.equivalence import EQUIVALENT, SAME, ResultPair, difference, lenient_options
from prelabel.detectors.running.network import (
    LOAD_ERRORS,
    FrozenGraph,
    Network,
    fold_constants,
    freeze,
    freeze_tf1,
    frozen_key,
    frozen_path,
    input_spec,
    is_tf1,
    load_network,
    read_frozen,
    save_frozen,
)
from prelabel.detectors.running.opencv_resize import resize_as_opencv
from prelabel.detectors.running.postprocess import DetectorOptions, to_image_labels, to_result, wanted_outputs
from prelabel.detectors.running.precision import lower, lower_precision_type, most_rewarding, work_per_convolution
from prelabel.errors import DetectorError
from prelabel.select import Selection
from prelabel.storage.address import describe

_log = logging.getLogger(__name__)

#: Images that a network gets at a time, if it takes several: classifiers, detectors on a GPU, detectors on a CPU, where
#: batches gain nothing.
_CLASSIFIER_BATCH, _GPU_BATCH, _CPU_BATCH = 32, 8, 1

#: Images per call and image of a batch, so that there are enough of equal size to fill batches.
_CALL = 4

#: Pixels of the longer side of an image that is filled up to another aspect ratio; at most about a gigabyte.
_LONGEST_SIDE = 1 << 18


class SavedModelDetector:
    """A loaded model with pre- and post-processing; implements `prelabel.detectors.base.Detector`.

    It implements `FrameDetector` itself as well: it encodes only the masks that are kept, directly in pixels of the
    displayed image.

    Attributes:
        optimization: How the model is run.
        batch_size: Images per call of `detect`. Those of equal size are run together.
        network_batch: Images that the network gets at a time; 1 if it takes single images only.
    """

    def __init__(
        self,
        model: PreparedModel,
        network: Network,
        tf: Any,
        options: DetectorOptions,
        optimization: Optimization = OFF,
        loaded: Any = None,
    ) -> None:
        self.optimization = optimization
        self._loaded = loaded  # keeps the variables alive; the functions that read them do not
        self._convention = model.convention
        self._labels = model.labels
        self._network = network
        self._tf = tf
        self._options = options
        self._model = model
        self._size = model.input_size
        self.batch_size = self.network_batch = 1
        if model.convention.batches:
            usual = _CLASSIFIER_BATCH if model.convention.kind == "classification" else _CPU_BATCH
            self._use_batches(options.batch_size or usual)
        self._dtype = getattr(tf, model.convention.input.dtype).as_numpy_dtype

    @cached_property
    def info(self) -> DetectorInfo:
        """What it says about itself. The engine does not ask: it takes a walk through the graph."""
        return DetectorInfo(
            name=self._model.local.name,
            classes=self._model.class_names,
            masks=self._model.convention.masks,
            files=tuple(model_files(self._model.local.path).values()),
            input_size=working_size(self._model),
            notes=self._model.notes,
            keypoints=self._model.convention.keypoints,
        )

    def detect(self, images: Sequence[Pixels]) -> list[Detections]:
        """Run a detection model on up to `batch_size` images; see `Detector.detect`. Returns what is to be kept.

        Raises:
            DetectorError: As for `detect_in`, or it is a classifier, which has no detections.
        """
        if self._convention.kind == "classification":
            raise DetectorError(f"{self._model.local.name} labels whole images: it detects nothing in them")
        return [result.detections for result in self.detect_in(images)]

    def detect_in(self, images: Sequence[Pixels], frames: Sequence[Frame] | None = None) -> list[DetectionResult]:
        """Run the model on up to `batch_size` images; see `FrameDetector.detect_in`.

        Raises:
            DetectorError: The model fails on an image, or its outputs contradict the convention.
        """
        for pixels in images:
            if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
                raise DetectorError(f"pixels must be (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
        frames = frames or [Frame.of(pixels) for pixels in images]
        by_size: dict[tuple[int, ...], list[int]] = {}
        for number, pixels in enumerate(images):
            by_size.setdefault(self._size or pixels.shape, []).append(number)
        results: dict[int, DetectionResult] = {}
        for numbers in by_size.values():
            for start in range(0, len(numbers), self.network_batch):
                batch = numbers[start : start + self.network_batch]
                of_batch = self._detect([images[number] for number in batch], [frames[number] for number in batch])
                results.update(zip(batch, of_batch, strict=True))
        return [results[number] for number in range(len(images))]

    def use_gpu_batches(self) -> None:
        """Run several images at a time, as is usual on a GPU, if the model takes several."""
        if self._convention.batches:
            self._use_batches(max(self.network_batch, _GPU_BATCH))

    def check_batches(self) -> None:
        """Run single images only if the model gives other results for several images at a time than for single ones."""
        if self.network_batch == 1:
            return
        height, width = self._size or (96, 128)
        images = [_test_image(height, width, seed) for seed in (1, 2)]
        # Many detections, so that there is something to compare.
        options = replace(self._options, selection=Selection(score_threshold=EQUIVALENT.score))
        lenient = lenient_options(options)
        try:
            inputs = [self._input(pixels) for pixels in images]
            alone = [self._batch([image])[0] for image in inputs]
            problem = ""
            for pixels, *both in zip(images, alone, self._batch(inputs), strict=True):
                frame = Frame.of(pixels)
                first, second = (
                    ResultPair(*(self._result(outputs, pixels, frame, each) for each in (options, lenient)))
                    for outputs in both
                )
                problem = problem or difference(first, second, SAME)
        except DetectorError as error:
            problem = str(error)
        if problem:
            _log.warning("the model is run on single images, since several at a time give other results: %s", problem)
            self._use_batches(1)

    def _use_batches(self, size: int) -> None:
        self.network_batch = size
        # Images of equal size fill a batch if there are several batches to fill.
        self.batch_size = size if self._size or size == 1 else _CALL * size

    def warm_up(self, height: int = 480, width: int = 640) -> None:
        """Run the model once on a gray image, so that the first real image need not wait for the graph to be built."""
        self.detect_in([np.full((height, width, 3), 128, np.uint8)])

    def _detect(self, images: Sequence[Pixels], frames: Sequence[Frame]) -> list[DetectionResult]:
        """The results of one batch, whose images have inputs of equal size."""
        start = time.perf_counter()
        outputs = self._batch([self._input(pixels) for pixels in images])
        seconds = (time.perf_counter() - start) / len(images)
        results = [self._result(*each, self._options) for each in zip(outputs, images, frames, strict=True)]
        return [
            replace(result, seconds={**result.seconds, "detect": result.seconds["detect"] + seconds})
            for result in results
        ]

    def _batch(self, inputs: Sequence[npt.NDArray[Any]]) -> list[dict[str, npt.NDArray[Any]]]:
        """The outputs for each image of a batch, with a leading dimension of 1 if the model takes several images."""
        if not self._convention.batches:
            (image,) = inputs
            return [self._run(image[None] if self._convention.batch_dimension else image)]
        first = inputs[0]
        batch = first[None]
        if len(inputs) > 1:
            batch = np.stack(inputs, out=aligned_empty((len(inputs), *first.shape), first.dtype.type))
        outputs = self._run(batch)
        for name, array in outputs.items():
            if not array.ndim or len(array) != len(inputs):
                raise DetectorError(
                    f"the model returned shape {list(array.shape)} in {name} for a batch of {len(inputs)} images"
                )
        return [{name: array[number : number + 1] for name, array in outputs.items()} for number in range(len(inputs))]

    def _result(
        self, outputs: Mapping[str, npt.NDArray[Any]], pixels: Pixels, frame: Frame, options: DetectorOptions
    ) -> DetectionResult:
        """The result for one image from its outputs, with these options."""
        if self._convention.kind == "classification":
            start = time.perf_counter()
            rows = outputs[self._convention.outputs["rows"]]
            if rows.ndim != 2:
                raise DetectorError(
                    f"the model returned shape {list(rows.shape)}: it must be [1, classes] for an image"
                )
            image_labels = to_image_labels(rows[0], self._convention, self._labels, options)
            seconds = {"detect": time.perf_counter() - start, "encode": 0.0}
            return DetectionResult(Detections.empty(frame.height, frame.width), image_labels, seconds)
        return to_result(outputs, self._convention, frame, self._labels, options, self._shown(pixels))

    def _shown(self, pixels: Pixels) -> Shown:
        return Shown.of((pixels.shape[0], pixels.shape[1]), self._size, self._convention.fit)

    def _input(self, pixels: Pixels) -> npt.NDArray[Any]:
        """An image as the network takes it, without batch dimension."""
        return self._as_input(self._resized(pixels) if self._size else pixels)

    def _outputs(self, pixels: Pixels) -> dict[str, npt.NDArray[Any]]:
        return self._batch([self._input(pixels)])[0]

    def run_network(self, pixels: Pixels) -> float:
        """Run the network alone on one image, and return the seconds it took.

        Raises:
            DetectorError: The network fails on the image.
        """
        start = time.perf_counter()
        self._outputs(pixels)
        return time.perf_counter() - start

    def result_pair(self, pixels: Pixels, lenient: DetectorOptions) -> ResultPair:
        """The results of one run with this detector's options, and with others that keep more detections.

        Raises:
            DetectorError: The model fails on the image, or its outputs contradict the convention.
        """
        outputs, frame = self._outputs(pixels), Frame.of(pixels)
        return ResultPair(*(self._result(outputs, pixels, frame, options) for options in (self._options, lenient)))

    def _as_input(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Pixels in 0..255, converted to the type, range and layout of the model's input, or encoded."""
        convention = self._convention
        if convention.is_encoded:
            # Little compressed, since it is decoded at once.
            return np.array(self._tf.io.encode_png(pixels, compression=1).numpy(), object)
        pixels = pixels[..., ::-1] if convention.bgr else pixels
        if convention.input.dtype in FLOATS:
            image = scaled_to_range(pixels, convention.input_range)
            if convention.mean:
                image -= np.array(convention.mean, np.float32)
            if convention.deviation:
                image /= np.array(convention.deviation, np.float32)
        elif pixels.dtype == np.uint8:
            image = pixels  # NumPy would round them as float16, which takes as long as a small network
        else:
            image = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        image = image.transpose(2, 0, 1) if convention.channels_first else image
        return image.astype(self._dtype, copy=False)

    def _resized(self, pixels: Pixels) -> npt.NDArray[Any]:
        """The whole image fitted into the model's input size, bilinear, in 0..255.

        Nothing is cropped, unless the network was trained on crops: model cards ask for a size, not for a crop, and
        objects may lie at the border. Without antialiasing, a photo reduced from 4000 to 128 pixels would consist of
        every thirtieth pixel.
        """
        fit, shown = self._convention.fit, self._shown(pixels)
        if fit.mode == "pad":
            return self._padded(pixels, fit, shown.input)
        top, left, bottom, right = map(int, shown.area)
        small = self._bilinear(pixels, (bottom - top, right - left), fit)
        if shown.fills_input:
            return small
        if fit.mode == "crop":
            return small[-top : shown.input[0] - top, -left : shown.input[1] - left]
        filled = np.full((*shown.input, 3), fit.fill, np.float32)
        filled[top:bottom, left:right] = small
        return filled

    def _padded(self, pixels: Pixels, fit: Fit, size: tuple[int, int]) -> npt.NDArray[Any]:
        """The image filled up to the aspect ratio of the input, and stretched to its size.

        Each axis is resized for itself, the one without filling first: a long, narrow image never becomes a large one.

        Raises:
            DetectorError: The image is too narrow.
        """
        height, width = pixels.shape[:2]
        rows, columns = fit.padding((height, width), size)
        if rows or columns:
            if max(height + 2 * rows, width + 2 * columns) > _LONGEST_SIDE:
                raise DetectorError(
                    f"an image of {height} x {width} (height x width) is too narrow to be filled up to the aspect "
                    f"ratio of the input, {size[0]} x {size[1]}"
                )
            pixels = self._bilinear(pixels, (height, size[1]) if rows else (size[0], width), fit)
            pixels = np.pad(pixels, ((rows, rows), (columns, columns), (0, 0)), constant_values=fit.fill)
        return self._bilinear(pixels, size, fit)

    def _bilinear(self, pixels: npt.NDArray[Any], size: tuple[int, int], fit: Fit) -> npt.NDArray[Any]:
        if fit.resize == "opencv":
            return resize_as_opencv(pixels, *size)
        if fit.resize == "pillow":
            return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
        resized: npt.NDArray[Any] = self._tf.image.resize(
            pixels, size, method="bilinear", antialias=fit.antialias
        ).numpy()
        return resized

    def _run(self, image: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        tf = self._tf
        # Named, since the tensor may share the memory of the pixels: it must live until the network has run.
        tensor = runtime.as_tensor(image)
        try:
            return {name: runtime.as_array(value) for name, value in self._network(tensor).items()}
        except (tf.errors.OpError, ValueError) as error:
            raise DetectorError(f"the model failed on this image: {describe(error)}") from error


def scaled_to_range(pixels: npt.NDArray[Any], input_range: str) -> npt.NDArray[np.float32]:
    """Pixels in 0..255, scaled to one of the ranges in `options.INPUT_RANGES`."""
    scaled = aligned_empty(pixels.shape, np.float32)
    if input_range == "0..255":
        np.copyto(scaled, pixels)
        return scaled
    divisor = np.float32(255 if input_range == "0..1" else 127.5)
    np.divide(pixels, divisor, out=scaled, dtype=np.float32)
    if input_range == "-1..1":
        scaled -= np.float32(1)
    return scaled


def load_detector(
    model: PreparedModel,
    options: DetectorOptions | None = None,
    *,
    threads: int = 1,
    streams: int = 1,
    gpus: float = 0.0,
    warm_up: tuple[int, int] | None = (480, 640),
    optimization: Optimization = OFF,
    cache_dir: str | os.PathLike[str] | None = None,
) -> SavedModelDetector:
    """Load a model and run it once.

    Args:
        model: From `resolve_model.prepare`.
        options: Which parts of its outputs are kept.
        threads: TensorFlow threads of this process.
        streams: Number of threads that call the detector at the same time; see `runtime.configure`.
        gpus: GPU share of this process; see `runtime.configure`.
        warm_up: Height and width of the gray image for the first run, or None for no run.
        optimization: How to run the model. If no constant graph gives the same results, the model is run as loaded; the
            detector's `optimization` says so.
        cache_dir: Folder of models and their constant graphs; see `cache_root`.

    Raises:
        DetectorError: The model cannot be loaded, fails on the gray image, or cannot be run as requested.
    """
    options = options or DetectorOptions()
    wanted = wanted_outputs(model.convention, options)
    tf = runtime.configure(threads, gpus, streams)
    if optimization.uses_half_precision and lower_precision_type(tf) != optimization.numbers:
        raise DetectorError(
            f"the run was started in {optimization.numbers}, which this machine does not support: resume it on a "
            "machine that does, or start it again with --overwrite --optimize exact"
        )
    detector = None
    if optimization != OFF:
        frozen = frozen_graph(model, options, tf, cache_dir)
        if frozen is not None and optimization.uses_half_precision:
            convolutions = most_rewarding(frozen, work_per_convolution(frozen, tf), optimization.share)
            frozen = lower(frozen, convolutions, optimization.numbers, tf) if convolutions else None
        if frozen is not None:
            detector = SavedModelDetector(model, frozen.network(tf), tf, options, optimization)
        elif optimization.uses_half_precision:
            raise DetectorError(f"{model.local.path}: the model cannot be run in {optimization.way}")
    if detector is None:
        loaded, network = load_network(model, wanted, tf)
        detector = SavedModelDetector(model, network, tf, options, OFF, loaded)
    if gpus and options.batch_size is None:
        detector.use_gpu_batches()
    if warm_up:
        detector.warm_up(*warm_up)
    detector.check_batches()
    return detector


def frozen_graph(
    model: PreparedModel, options: DetectorOptions, tf: Any, cache_dir: str | os.PathLike[str] | None = None
) -> FrozenGraph | None:
    """The model as one constant graph, from the cache or made now; None if no such graph gives the same results.

    Raises:
        DetectorError: The model cannot be loaded.
    """
    wanted = wanted_outputs(model.convention, options)
    key = frozen_key(model.local.fingerprint, wanted, tf)
    path = frozen_path(key, cache_dir)
    cached = read_frozen(path, key)
    if cached is not None:
        return cached
    loaded, network = load_network(model, wanted, tf)
    try:
        if is_tf1(loaded, model.convention):
            frozen = freeze_tf1(model.local.path, model.graph.chosen_tags, model.convention, wanted, tf)
        else:
            frozen = freeze(network, input_spec(model.convention, tf), wanted, tf)
        frozen = fold_constants(frozen, tf)
        detectors = (
            SavedModelDetector(model, network, tf, options, OFF, loaded),
            SavedModelDetector(model, frozen.network(tf), tf, options, EXACT),
        )
        pixels = _test_image(*(model.convention.size or (480, 640)))
        before, after = (detector.result_pair(pixels, options) for detector in detectors)
        problem = difference(before, after, SAME)
    except (tf.errors.OpError, DetectorError, *LOAD_ERRORS) as error:
        problem = describe(error)
    if problem:
        _log.info("%s: the model is run as loaded, not as one constant graph: %s", model.local.path, problem)
        return None
    save_frozen(frozen, path, key)
    return frozen


def _test_image(height: int, width: int, seed: int = 1) -> Pixels:
    """An image of random 32-pixel patches, always the same for a seed."""
    random = np.random.default_rng(seed)
    patches = random.integers(0, 256, (-(-height // 32), -(-width // 32), 3), np.uint8)
    pixels: Pixels = np.repeat(np.repeat(patches, 32, axis=0), 32, axis=1)[:height, :width]
    return pixels
