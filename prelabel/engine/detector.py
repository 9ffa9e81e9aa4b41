"""What is known of a run's detector from its files alone: whoever drives workers never loads TensorFlow."""

from __future__ import annotations

from collections.abc import Callable

from prelabel.config import LabelOptions
from prelabel.detectors.prepare import prepare
from prelabel.detectors.reach import require_harmless
from prelabel.detectors.reading import Stated
from prelabel.detectors.resize import working_size
from prelabel.storage import Storage
from prelabel.store.run import ClassName, DetectorRecord

#: Names of classes that a message lists.
_MOST_NAMES = 5


def look_at_detector(options: LabelOptions, storage: Storage, say: Callable[[str], None]) -> DetectorRecord:
    """Fetch a model where that is needed, recognise it, and refuse what must not be run.

    Args:
        options: Of the run.
        storage: Opens the model's address.
        say: Hears what somebody may want to state otherwise.

    Raises:
        DetectorError: It cannot be had, is not recognised, or reaches beyond its own files without being trusted.
        ConfigError: The label map cannot be used, or a class that is selected is not in it.
    """
    model = prepare(
        options.detector,
        storage,
        label_map=options.label_map,
        stated=stated_by(options),
        cache_dir=options.model_cache,
        say=say,
    )
    if not options.trust_model:
        require_harmless(model)
    if model.labels is None and not model.convention.strings:
        say("the detector only numbers its classes; --label-map names them (a file, or `coco`)")
    if options.decode_scale == "auto" and working_size(model) is None:
        say("decode-scale auto: the detector does not say what size it looks at, so all is decoded in full")
    classes = None
    if model.labels is not None:
        named = model.labels.classes
        classes = tuple(ClassName(number, named[number].label, named[number].mid) for number in sorted(named))
        options.require_known_names([c.name for c in classes], [c.mid for c in classes])
    elif model.convention.strings and (names := options.unknown_names(())):
        say(
            "the detector names its classes only while it runs, so nobody has checked that it has "
            + ", ".join(map(repr, names[:_MOST_NAMES]))
            + (f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else "")
        )
    info = model.info
    for note in info.notes:
        say(note)
    return DetectorRecord(
        name=info.name,
        address=model.local.address,
        fingerprint=info.fingerprint,
        model_version=info.model_version,
        convention=info.convention,
        masks=info.masks,
        classes=classes,
        reading={about: {"value": value, "why": why} for about, (value, why) in info.reading.items()},
        notes=info.notes,
    )


def stated_by(options: LabelOptions) -> Stated:
    """What the options say of how the network's numbers are read."""
    return Stated(options.input_range, options.activation, options.input_layout, options.mask_frame)
