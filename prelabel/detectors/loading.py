"""A worker's detector, model or Python code: found, compared with that of the run, and loaded.

The worker knows a `Loader`, which returns a `FrameDetector`, and nothing else about detectors.
"""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from prelabel.config import LabelOptions
from prelabel.detectors.base import DetectorRecord, FrameDetector, Optimization, Pixels
from prelabel.detectors.conventions.resolve_model import analyze_model
from prelabel.detectors.conventions.working_size import working_size
from prelabel.detectors.description import reading_options, require_trusted
from prelabel.detectors.models.fetch import fetch_model
from prelabel.detectors.multi_view import MultiViewDetector, selection_of_views
from prelabel.detectors.plugins.addresses import FactoryAddress, find_factory
from prelabel.detectors.plugins.detector import PluginDetector
from prelabel.detectors.plugins.factory import make_detector
from prelabel.detectors.plugins.files import fingerprint_of_detector
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.errors import DetectorError
from prelabel.labels.maps import LabelMap
from prelabel.storage.address import redact
from prelabel.storage.files import Storage

if TYPE_CHECKING:
    from prelabel.detectors.running.savedmodel import SavedModelDetector


class Loader(ABC):
    """Loads a detector that is the same as that of the run.

    Args:
        options: Options of the run.
        expected: The detector as the driver described it.
        gpus: GPUs of this process, possibly a fraction.
        on_views: Called whenever the detector has finished a batch of views, for heartbeats.

    Attributes:
        input_size: Pixels of the shorter side to which the detector resizes images; None if unknown, or if no option
            needs it.
    """

    def __init__(
        self, options: LabelOptions, expected: DetectorRecord, gpus: float, on_views: Callable[[], None]
    ) -> None:
        self._options = options
        self._expected = expected
        self._gpus = gpus
        self._on_views = on_views
        self._threads = max(1, int(options.cpus_per_worker))
        views = options.view_options
        self._selection = options.selection if views.is_plain else selection_of_views(options.selection)
        self.input_size: int | None = None

    @abstractmethod
    def load(self, optimization: Optimization) -> FrameDetector:
        """Load the detector and run it once; it shows as many views of each image as the run has.

        Raises:
            DetectorError: It cannot be loaded, or not be run like this.
        """

    def try_faster(self, sample: Callable[[], Iterator[Pixels]], images: float) -> tuple[Optimization, FrameDetector]:
        """Find the fastest equivalent way to run the loaded detector, and return it with the detector that runs so.

        Args:
            sample: Returns the pixels of the run's images, beginning with the first one at each call.
            images: Number of images that a worker will label.

        Raises:
            DetectorError: There is only one way to run this detector, or it can no longer be loaded.
        """
        raise DetectorError("there is only one way to run this detector")

    def _in_views(self, detector: FrameDetector) -> FrameDetector:
        views = self._options.view_options
        if views.is_plain:
            return detector
        return MultiViewDetector(
            detector, views, self._options.selection, self.input_size, self._on_views, self._expected.keypoints
        )


def loader_of(
    options: LabelOptions,
    storage: Storage,
    expected: DetectorRecord,
    gpus: float = 0.0,
    on_views: Callable[[], None] = lambda: None,
) -> Loader:
    """The loader of the run's detector on this machine.

    Args:
        options: Options of the run.
        storage: Opens the model.
        expected: The detector as the driver described it.
        gpus: GPUs of this process, possibly a fraction.
        on_views: See `Loader`.

    Raises:
        ConfigError: There is no such detector on this machine.
        DetectorError: It cannot be fetched or made, or differs from the one that the run began with.
    """
    factory = find_factory(options.detector)
    if factory is not None:
        return PluginLoader(factory, options, expected, gpus, on_views)
    return ModelLoader(storage, options, expected, gpus, on_views)


class ModelLoader(Loader):
    """Loads a SavedModel.

    Attributes:
        model: The model, whose files are on this machine.
    """

    def __init__(
        self,
        storage: Storage,
        options: LabelOptions,
        expected: DetectorRecord,
        gpus: float,
        on_views: Callable[[], None],
    ) -> None:
        super().__init__(options, expected, gpus, on_views)
        local = fetch_model(options.detector, storage, cache_dir=options.model_cache, mirror=options.model_mirror)
        _require_same_fingerprint(f"the model at {expected.address}", local.fingerprint, expected)
        # The label map may be a file that exists on the driver's machine only.
        names = {class_name.id: class_name for class_name in expected.classes or ()}
        source = redact(options.label_map) if options.label_map else f"of {expected.name}"
        model = analyze_model(local, LabelMap(names, source) if names else None, reading_options(options))
        model.require_readable()
        decided = {about: decision.value for about, decision in model.decisions.items()}
        recorded = expected.reading
        if recorded is not None and decided != {about: decision.value for about, decision in recorded.items()}:
            raise DetectorError(
                f"{socket.gethostname()} interprets the model at {expected.address} differently from the run: "
                f"{decided}; install the same version of prelabel on all machines"
            )
        self.model = model
        self._network: SavedModelDetector | None = None
        if options.needs_working_size:
            self.input_size = working_size(model)
        self._detector_options = DetectorOptions(
            selection=self._selection,
            mask_threshold=options.mask_threshold,
            keep=options.keep,
            top_k=options.top_k,
            batch_size=options.batch_size,
            decisive_score=options.selection.lowest_threshold,
        )
        self._process_options: dict[str, Any] = {
            "threads": self._threads,
            "streams": options.streams,
            "gpus": gpus,
            "cache_dir": options.model_cache,
        }

    def load(self, optimization: Optimization) -> FrameDetector:
        # Imported here: TensorFlow must start after the environment is set.
        from prelabel.detectors.running.savedmodel import load_detector

        self._network = load_detector(
            self.model, self._detector_options, optimization=optimization, **self._process_options
        )
        return self._in_views(self._network)

    def try_faster(self, sample: Callable[[], Iterator[Pixels]], images: float) -> tuple[Optimization, FrameDetector]:
        from prelabel.detectors.running.optimize import try_faster

        if self._network is None:
            raise DetectorError("the detector is not loaded yet")
        optimization, self._network = try_faster(
            self._network, self.model, self._detector_options, sample, images, **self._process_options
        )
        return optimization, self._in_views(self._network)


class PluginLoader(Loader):
    """Makes a detector that is Python code; its factory is called once."""

    def __init__(
        self,
        factory: FactoryAddress,
        options: LabelOptions,
        expected: DetectorRecord,
        gpus: float,
        on_views: Callable[[], None],
    ) -> None:
        super().__init__(options, expected, gpus, on_views)
        require_trusted(factory, trusted=options.trust_model)
        # Libraries of most kinds read it when they are imported. Ray sets it, too.
        os.environ.setdefault("OMP_NUM_THREADS", str(self._threads))
        self._detector = make_detector(factory, options.detector_option)
        info = self._detector.info
        what = f"the detector {str(factory)!r}"
        _require_same_fingerprint(what, fingerprint_of_detector(factory, info), expected)
        classes = None if info.classes is None else tuple(info.classes)
        points = None if info.keypoints is None else len(info.keypoints)
        expected_points = None if expected.keypoints is None else len(expected.keypoints)
        traits = (info.name, classes, info.masks, points)
        if traits != (expected.name, expected.classes, expected.masks, expected_points):
            raise DetectorError(
                f"{what} says something else about itself on {socket.gethostname()} than on the machine that started "
                f"the job, although its files are the same: {info}"
            )
        self.input_size = info.input_size

    def load(self, optimization: Optimization) -> FrameDetector:
        plugin = PluginDetector(
            self._detector,
            self._selection,
            decisive_score=self._options.selection.lowest_threshold,
            batch_size=self._options.batch_size,
        )
        plugin.warm_up()
        return self._in_views(plugin)


def _require_same_fingerprint(what: str, fingerprint: str, expected: DetectorRecord) -> None:
    if fingerprint != expected.fingerprint:
        raise DetectorError(
            f"{what} differs between machines: fingerprint {fingerprint[:12]} on {socket.gethostname()}, "
            f"{expected.fingerprint[:12]} on the machine that started the job"
        )
