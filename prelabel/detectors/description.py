"""What the driver knows of a detector, model or Python code, before any worker loads it.

A model is known from its files. Code is asked by a process of its own (`plugins/describe.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from prelabel.config import LabelOptions
from prelabel.detectors.base import DetectorRecord
from prelabel.detectors.conventions.adapter import Adapter
from prelabel.detectors.conventions.op_audit import require_safe
from prelabel.detectors.conventions.resolve_model import ReadingOptions, prepare
from prelabel.detectors.conventions.working_size import working_size
from prelabel.detectors.models.hubs import mirror_base
from prelabel.detectors.plugins.addresses import FactoryAddress, find_factory, require_model
from prelabel.detectors.plugins.describe import describe_plugin
from prelabel.detectors.plugins.files import package_files, search_here
from prelabel.errors import ConfigError, DetectorError
from prelabel.labels.maps import LabelMap
from prelabel.options import default_of, fields_of, flag_of
from prelabel.storage.files import Storage

#: Options of `label` that say how a SavedModel is found, read and run.
_OF_MODELS = (
    *("adapter", "label_map", "input_range", "activation", "input_layout", "mask_frame", "mask_threshold", "keep"),
    *("top_k", "streams", "optimize", "model_cache", "model_mirror"),
)


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a detector before it is loaded.

    Attributes:
        record: Its record for `run.json`.
        input_size: Pixels of the shorter side to which it resizes images; None if unknown.
        labels: The label map, or None.
        labels_images: Whether it labels whole images.
        takes_batches: Whether it takes several images at a time.
        names_classes: Whether it returns the names of classes itself, which may be other than those of the record.
    """

    record: DetectorRecord
    input_size: int | None
    labels: LabelMap | None = None
    labels_images: bool = False
    takes_batches: bool = True
    names_classes: bool = True


def with_detector_defaults(options: LabelOptions) -> LabelOptions:
    """The options of a run as its driver and all its workers need them, whether the detector is a model or code.

    Raises:
        ConfigError: An option was given that such a detector does not have, or the detector's name is ambiguous.
    """
    factory = find_factory(options.detector)
    if factory is None:
        if options.detector_option:
            raise ConfigError("--detector-option is for detectors that are Python code; for a model, remove it")
        # Workers may have a different environment, where the variable for it is not set.
        return replace(options, model_mirror=mirror_base(options.model_mirror) or None)
    fields = fields_of(LabelOptions)
    for name in _OF_MODELS:
        if getattr(options, name) != default_of(fields[name]):
            raise ConfigError(
                f"{flag_of(name)} is for SavedModels, but the detector {str(factory)!r} is Python code: remove it"
            )
    return replace(options, optimize="off")


def describe_detector(
    options: LabelOptions, storage: Storage, notify: Callable[[str], None], stop: threading.Event | None = None
) -> Description:
    """Find the detector of a run, and refuse it if it is unsafe.

    Args:
        options: Options of the run.
        storage: Opens the model and the label map.
        notify: Called with a line of text before each download.
        stop: Ends the wait for a detector that is code.

    Raises:
        DetectorError: The model cannot be fetched, is not recognized, or is unsafe without `--trust-model`; or the code
            is not trusted, fails, or is not a detector.
        ConfigError: There is no such detector, or its label map or options cannot be used.
        RunInterrupted: `stop` was set.
    """
    factory = find_factory(options.detector)
    if factory is not None:
        require_trusted(factory, trusted=options.trust_model)
        plugin = describe_plugin(factory, options.detector_option, stop=stop)
        return Description(plugin.record, plugin.info.input_size, takes_batches=plugin.batch_size > 1)
    require_model(options.detector)
    model = prepare(
        options.detector,
        storage,
        label_map=options.label_map,
        reading=reading_options(options),
        cache_dir=options.model_cache,
        mirror=options.model_mirror,
        say=notify,
    )
    if not options.trust_model:
        require_safe(model)
    return Description(
        record=model.record,
        input_size=working_size(model) if options.needs_working_size else None,
        labels=model.labels,
        labels_images=model.convention.kind == "classification",
        takes_batches=bool(model.convention.batches),
        names_classes=bool(model.convention.strings),
    )


def require_trusted(factory: FactoryAddress, *, trusted: bool) -> None:
    """Check that a factory exists and may be run; `trusted` stands for `--trust-model`.

    Raises:
        ConfigError: There is no such module.
        DetectorError: It is not trusted.
    """
    search_here()
    package_files(factory)
    if not trusted:
        raise DetectorError(
            f"detector {str(factory)!r} is Python code, which can do anything on the machines that run it: pass "
            "--trust-model if you trust its author"
        )


def reading_options(options: LabelOptions) -> ReadingOptions:
    """The options that set how the model's inputs and outputs are interpreted.

    Raises:
        ConfigError: The adapter is not valid, or an option contradicts it.
    """
    adapter = None if options.adapter is None else Adapter.of(options.adapter)
    return ReadingOptions(options.input_range, options.activation, options.input_layout, options.mask_frame, adapter)
