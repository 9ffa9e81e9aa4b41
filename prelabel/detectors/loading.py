"""From the options of a run to a loaded detector: what a worker calls. The one importer of TensorFlow's side."""

from __future__ import annotations

from prelabel.config import LabelOptions
from prelabel.detectors.answers import DetectorOptions
from prelabel.detectors.prepare import prepare
from prelabel.detectors.savedmodel import SavedModelDetector, load_detector
from prelabel.storage import Storage


def load(options: LabelOptions, storage: Storage, *, threads: int, gpus: float = 0.0) -> SavedModelDetector:
    """Fetch, recognise, load and warm up the detector of a run.

    Args:
        options: Of the run.
        storage: Opens object storage.
        threads: TensorFlow threads of this process.
        gpus: GPU share of this process, 0 for none.

    Raises:
        ConfigError: No such detector or label map.
        DetectorError: It cannot be had, is not recognised, or cannot be loaded.
    """
    model = prepare(options.detector, storage, label_map=options.label_map, cache_dir=options.model_cache)
    return load_detector(model, detector_options(options), threads=threads, gpus=gpus)


def detector_options(options: LabelOptions) -> DetectorOptions:
    """The options that concern a network's answers. The run's options are themselves the selection."""
    return DetectorOptions(
        selection=options, mask_threshold=options.mask_threshold, keep=options.keep, top_k=options.top_k
    )
