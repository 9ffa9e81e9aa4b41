"""Turn an address into a model that can be loaded: fetch it, recognize its convention, name its classes.

Needs no TensorFlow: a driver only prepares a model; a worker loads it. How inputs and outputs are read (the range of
the input, the activation of a classifier, the area of masks) is decided once per model, and each decision has a reason.
An option takes precedence over the catalog, the catalog over the graph, and the graph over the format. If none of them
decides, the model is refused with a message that names the option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from prelabel.detections import ClassName
from prelabel.detectors.base import Decision, DetectorRecord
from prelabel.detectors.conventions.activation import RowsEnd, rows_end
from prelabel.detectors.conventions.adapter import Adapter
from prelabel.detectors.conventions.convention import FLOATS, LARGEST_BOX_MASK, Convention
from prelabel.detectors.conventions.families.classification import NO_SCORES
from prelabel.detectors.conventions.graph import Entry, enter
from prelabel.detectors.conventions.input_range import Evidence, range_in
from prelabel.detectors.conventions.protos import Graph, Signature, chosen_meta_graph, open_saved_model, read_graph
from prelabel.detectors.conventions.recognize import recognize
from prelabel.detectors.models.fetch import LocalModel, fetch_model
from prelabel.errors import ConfigError, DetectorError, first_of
from prelabel.labels.maps import LabelMap, names_background, parse_label_map, read_label_map
from prelabel.options import ACTIVATIONS, INPUT_LAYOUTS, INPUT_RANGES
from prelabel.storage.files import Storage

#: Input size of classifiers that have no fixed size and are not in the catalog: the usual one for ImageNet.
_USUAL_SIZE = (224, 224)

#: Paths in a model's folder where a label map is looked for.
_OWN_LABEL_MAPS = tuple(
    f"assets/{stem}.{extension}" for stem in ("label_map", "labels") for extension in ("pbtxt", "csv", "json", "txt")
)

_HUB_FILE = "tfhub_module.pb"

#: Names of the image input in exports from the TF Object Detection API.
_EXPORT_INPUTS = ("input_tensor", "image_tensor")

#: Number of ImageNet's classes with the background. A model may have as many classes for other reasons.
_IMAGENET = 1001

#: Numbers per box. A sigmoid may keep a box inside the image.
_BOX = 4


#: The key of an adapter that stands for each option.
_ADAPTER_KEYS = {
    "input_range": "input.range",
    "activation": "outputs.scores.activation",
    "input_layout": "input.layout",
    "mask_frame": "outputs.masks.frame",
}


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """Explicit options on how a model's inputs and outputs are read, each None if not given; see `prelabel.config`.

    Raises:
        ConfigError: An option is given besides the adapter, which declares the same.
    """

    input_range: str | None = None
    activation: str | None = None
    input_layout: str | None = None
    mask_frame: str | None = None
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        if self.adapter is None:
            return
        for name, key in _ADAPTER_KEYS.items():
            if getattr(self, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option}: --adapter declares this with its key {key}: remove {option}")

    def given(self, name: str) -> tuple[str | None, str]:
        """The value of an option, or of the adapter's key in its place; and the name of that, for messages."""
        if self.adapter is None:
            return getattr(self, name), f"--{name.replace('_', '-')}"
        return getattr(self.adapter, name, None), f"--adapter {_ADAPTER_KEYS[name]}"


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model whose convention was recognized. It can be loaded if there are no refusals.

    Attributes:
        local: Its files.
        graph: Its tags and signatures.
        convention: Its convention, with all decisions applied.
        labels: The names of its classes, or None.
        decisions: How inputs and outputs are read, by subject: `input layout`, `input range`, `activation`,
            `background`, `masks`, and what the family knows by itself.
        refusals: Reasons not to run the model, each with the option that helps.
        notes: Remarks for users: unused outputs, contradictions.
    """

    local: LocalModel
    graph: Graph
    convention: Convention
    labels: LabelMap | None
    decisions: Mapping[str, Decision]
    refusals: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width to which images are resized for the model; None if it accepts any size."""
        if self.convention.size or self.convention.kind != "classification":
            return self.convention.size
        return (self.local.entry.input_size if self.local.entry else None) or _USUAL_SIZE

    @property
    def class_names(self) -> tuple[ClassName, ...] | None:
        """The names of its classes by number, or None without a label map."""
        return None if self.labels is None else tuple(self.labels.classes[n] for n in sorted(self.labels.classes))

    @property
    def record(self) -> DetectorRecord:
        """Its record for `run.json`."""
        return DetectorRecord(
            name=self.local.name,
            address=self.local.address,
            fingerprint=self.local.fingerprint,
            model_version=self.local.model_version,
            convention=self.convention.why,
            masks=self.convention.masks,
            classes=self.class_names,
            reading=self.decisions,
            notes=self.notes,
            keypoints=self.convention.keypoints,
        )

    def require_readable(self) -> None:
        """Raise DetectorError if the model has refusals; the message names the options that help."""
        if self.refusals:
            raise DetectorError(f"the model {self.local.address} cannot be used: {'; '.join(self.refusals)}")


def prepare(
    address: str,
    storage: Storage | None = None,
    *,
    label_map: str | None = None,
    reading: ReadingOptions | None = None,
    cache_dir: str | None = None,
    mirror: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> PreparedModel:
    """Fetch a model, recognize its convention, and name its classes. Takes about a second if the model is cached.

    Args:
        address: See `fetch.py`.
        storage: Reads object storage.
        label_map: A built-in label map or a file; by default the one inside the model, or that of the catalog.
        reading: Explicit options on how its inputs and outputs are read.
        cache_dir: See `cache_root`.
        mirror: See `fetch_model`.
        say: Called with a line of text before each download.

    Raises:
        ConfigError: There is no such detector or label map.
        DetectorError: The model cannot be fetched, is not recognized, or needs an option.
    """
    local = fetch_model(address, storage, cache_dir=cache_dir, mirror=mirror, say=say)
    model = analyze_model(local, find_labels(local, label_map, storage, reading), reading)
    model.require_readable()
    return model


def analyze_model(local: LocalModel, labels: LabelMap | None, reading: ReadingOptions | None = None) -> PreparedModel:
    """Recognize the convention of a model on this machine, and decide how its inputs and outputs are read.

    Raises:
        DetectorError: The model cannot be read, or follows no known convention.
    """
    reading, entry, graph = reading or ReadingOptions(), local.entry, read_graph(local.path)
    is_classifier = reading.activation is not None or (entry is not None and entry.activation is not None)
    if reading.adapter is not None:
        convention = reading.adapter.convention(graph.signatures)
    else:
        convention = recognize(
            graph.signatures, folder=local.path, layout=reading.input_layout, is_classifier=is_classifier
        )
    labels = labels or convention.labels
    if labels and convention.classes:
        labels = labels.fitted_to(convention.classes)
    name, inputs = convention.signature, (convention.input,)
    signature = next(other for other in graph.signatures if (other.name, other.inputs[:1]) == (name, inputs))
    with open_saved_model(local.path) as data:
        entry_point = enter(chosen_meta_graph(data)[1], signature)
        return _Reader(local, graph, convention, labels, reading, signature, entry_point).read()


def find_labels(
    model: LocalModel, label_map: str | None, storage: Storage | None = None, reading: ReadingOptions | None = None
) -> LabelMap | None:
    """The label map that is given, by an option or an adapter, else one inside the model, else the catalog's, or None.

    Raises:
        ConfigError: There is no such label map, or it is given twice.
    """
    in_adapter = reading.adapter.labels if reading is not None and reading.adapter is not None else None
    if label_map and in_adapter:
        raise ConfigError("--label-map: --adapter has labels, too: remove one of them")
    if in_adapter:
        return in_adapter
    if label_map:
        return read_label_map(label_map, storage)
    for name in _OWN_LABEL_MAPS:
        path = model.path / name
        if path.is_file():
            return parse_label_map(name, path.read_bytes())
    if model.entry and model.entry.label_map:
        return read_label_map(model.entry.label_map)
    return None


@dataclass
class _Reader:
    """Decides how the inputs and outputs of one model are read."""

    _local: LocalModel
    _graph: Graph
    _convention: Convention
    _labels: LabelMap | None
    _given: ReadingOptions
    _signature: Signature
    _entry_point: Entry | None
    _decisions: dict[str, Decision] = field(default_factory=dict)
    _refusals: list[str] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)

    def read(self) -> PreparedModel:
        """The model with all decisions, refusals and notes."""
        convention = replace(self._convention, input_range=self._input_range())
        given_layout, option = self._given.given("input_layout")
        if convention.channels_first or given_layout:
            layout = INPUT_LAYOUTS[convention.channels_first]
            why = f"given by {option}" if given_layout else "by the shape of the input"
            self._decide("input layout", layout, why)
        self._check_label_map()
        if convention.kind == "classification":
            convention = replace(convention, activation=self._activation(), background=self._background())
        elif self._given.activation:
            self._refusals.append("it is a detector, and --activation is for classifiers")
        if convention.masks:
            convention = replace(convention, mask_frame=self._mask_frame())
        elif self._given.mask_frame:
            self._refusals.append("--mask-frame was given, but it returns no masks")
        for about, decision in convention.known.items():
            self._decisions.setdefault(about, decision)
        self._notes += convention.notes
        self._notes += [f"the output {tensor} is not used" for tensor in convention.unused]
        refusals, notes = tuple(self._refusals), tuple(self._notes)
        return PreparedModel(self._local, self._graph, convention, self._labels, self._decisions, refusals, notes)

    # The following methods return "" if they add a refusal.

    def _input_range(self) -> str:
        (given, option), image = self._given.given("input_range"), self._convention.input
        if self._convention.is_encoded:
            if given or self._given.input_layout:
                option = "--input-range" if given else "--input-layout"
                self._refusals.append(f"it decodes images itself: remove {option}")
            self._decide("input encoding", "png", "the input is a string that the graph decodes; PNG loses nothing")
            return ""
        if image.dtype not in FLOATS:
            if given not in (None, "0..255"):
                self._refusals.append(f"its input is {image.dtype}: {option} can only be 0..255")
            return self._integer_range(image.dtype)
        evidence = (
            range_in(self._entry_point) if self._entry_point else Evidence(None, "the graph does not name its input")
        )
        decisions = [*self._known_ranges(evidence)]
        if given:
            if decisions and decisions[0].value != given:
                first = decisions[0]
                self._notes.append(f"{option} {given} was given, but {first.why}, as for {first.value}")
            return self._decide("input range", given, f"given by {option}")
        if decisions:
            return self._decide("input range", decisions[0].value, decisions[0].why)
        self._refusals.append(
            f"its input is {image.dtype} of unknown range ({evidence.why}): give {option} "
            f"{', '.join(INPUT_RANGES)}, according to its documentation or training"
        )
        return ""

    def _integer_range(self, dtype: str) -> str:
        """The range of an integer input. Types wider than bytes may need other ranges, which are not supported."""
        evidence = range_in(self._entry_point) if self._entry_point and dtype != "uint8" else Evidence(None, "")
        if evidence.is_scaled and evidence.range != "0..255":
            against = f"{evidence.why}{f', as for {evidence.range}' if evidence.range else ''}"
            given, option = self._given.given("input_range")
            if not given:
                self._refusals.append(
                    f"its input is {dtype} and would receive 0..255, but {against}: give {option} 0..255 if that "
                    "is right nevertheless, or export the model with an input of uint8 or float32"
                )
                return ""
            self._notes.append(f"{option} 0..255 was given, but {against}")
        return self._decide("input range", "0..255", f"the input is {dtype}")

    def _known_ranges(self, evidence: Evidence) -> Iterator[Decision]:
        """The ranges that are known without an option, in order of precedence."""
        entry = self._local.entry
        if entry is not None and entry.input_range:
            yield Decision(entry.input_range, f"listed in the catalog for {entry.name}")
        if "input range" in self._convention.known:
            yield self._convention.known["input range"]
        if evidence.range:
            yield Decision(evidence.range, evidence.why)
        is_hub = (self._local.path / _HUB_FILE).is_file()
        names = (self._convention.input.name, self._entry_point.image.partition(":")[0] if self._entry_point else "")
        exported = self._convention.kind == "detection" and any(name in _EXPORT_INPUTS for name in names)
        if is_hub and not exported and "images" in names:
            yield Decision("0..1", f"it is a hub module ({_HUB_FILE}) with the input `images`")
        if exported and not is_hub:
            yield Decision(
                "0..255", f"it is a TF Object Detection export (input `{names[0]}`), which scales pixels itself"
            )

    def _activation(self) -> str:
        convention, given = self._convention, self._given.activation
        output = convention.outputs["rows"]
        end = rows_end(self._entry_point, output) if self._entry_point else RowsEnd(None, "", "")
        entry = self._local.entry
        graph_end = f"the graph ends in {end.operation}" + (f" ({end.node})" if end.node != end.operation else "")
        if given:
            if end.activation and end.activation != given:
                self._notes.append(f"--activation {given} was given, but {graph_end}")
            return self._decide("activation", given, "given by --activation")
        if entry is not None and entry.activation:
            return self._decide("activation", entry.activation, f"listed in the catalog for {entry.name}")
        if "activation" in convention.known:
            known = convention.known["activation"]
            return self._decide("activation", known.value, known.why)
        if NO_SCORES.search(end.node.lower()) or not end.activation:
            self._refusals.append(_no_activation(end, convention.classes, output))
            return ""
        if end.activation == "sigmoid" and convention.classes == _BOX and not self._all_classes_are_named():
            self._refusals.append(
                f"its output {output!r} has 4 sigmoids per image, which may be a box or the scores of 4 classes: for "
                "scores, give --activation sigmoid, or a label map of the 4 classes"
            )
            return ""
        return self._decide("activation", end.activation, graph_end)

    def _check_label_map(self) -> None:
        """Note the classes that the label map does not name, and refuse a map with classes that the model lacks."""
        labels, classes = self._labels, self._convention.classes
        if labels is None or not classes:
            return
        surplus = sorted(number for number in labels.classes if number >= classes)
        if surplus:
            first = first_of([f"{number} ({labels.classes[number].name!r})" for number in surplus], 1)
            self._refusals.append(
                f"the label map {labels.source} names class {first}, but the model's classes are 0 to {classes - 1}: "
                "give its own label map with --label-map"
            )
            return
        missing = [number for number in range(classes) if labels.get(number) is None]
        if missing:
            numbers = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
            self._notes.append(
                f"the label map names {classes - len(missing)} of {classes} classes; others ({numbers}) are labeled "
                "with their numbers"
            )

    def _all_classes_are_named(self) -> bool:
        labels, classes = self._labels, self._convention.classes or 0
        return labels is not None and all(labels.get(number) is not None for number in range(classes))

    def _background(self) -> bool:
        """Whether class 0 is the background, by the catalog or the label map; never by the number of classes."""
        entry, labels, classes = self._local.entry, self._labels, self._convention.classes
        if entry is not None and entry.background:
            self._decide("background", "class 0", f"listed in the catalog for {entry.name}")
            return True
        name = labels.get(0) if labels else None
        if name is not None and names_background(name.name):
            self._decide("background", "class 0", f"its name in the label map is {name.name!r}")
            return True
        if classes == _IMAGENET and name is None:
            self._notes.append(
                "class 0 of the 1001 classes is used like the others; if it is the background, as in ImageNet, give a "
                "label map that names it `background`, or --exclude-class 0"
            )
        return False

    def _mask_frame(self) -> str:
        convention, (given, option) = self._convention, self._given.given("mask_frame")
        if "masks" in convention.known:
            if given:
                self._refusals.append("what its masks cover is known: remove --mask-frame")
            return convention.mask_frame
        if given:
            return self._decide("masks", given, f"given by {option}")
        masks = next(output for output in self._signature.outputs if output.name == convention.outputs["masks"])
        height, width = masks.shape[-2:] if masks.shape else (None, None)
        if height is None or width is None:
            why = "their size is not fixed: masks of the image's size cover the image, squares of up to "
            return self._decide("masks", "by-size", f"{why}{LARGEST_BOX_MASK} pixels cover their box")
        size = f"masks of {height} x {width}"
        if (height, width) == convention.size:
            return self._decide("masks", "image", f"{size}, as large as the input")
        if height == width <= LARGEST_BOX_MASK:
            return self._decide("masks", "box", f"{size}, a usual size for masks of boxes")
        self._refusals.append(
            f"it returns {size}, which may cover their box or the whole image: give --mask-frame box or image"
        )
        return ""

    def _decide(self, about: str, value: str, why: str) -> str:
        self._decisions[about] = Decision(value, why)
        return value


def _no_activation(end: RowsEnd, classes: int | None, output: str) -> str:
    scores = f"its output {output!r} ({f'{classes} numbers' if classes else 'a row'} per image)"
    where = f" ({end.node})" if end.node and end.node != end.operation else ""
    if NO_SCORES.search(end.node.lower()):
        looks = f"{scores} looks like features or a regression by the name of its last layer{where}"
    elif end.looks_like_features:
        looks = f"{scores} looks like a feature vector: it ends in {end.operation}{where}"
    elif end.is_linear:
        looks = (
            f"{scores} ends in {end.operation}{where}, without an activation: it may be a feature vector, a regression "
            "(of boxes, for example), or the logits of a classifier"
        )
    else:
        ends = (
            f"it ends in {end.operation}{where}, which does not return scores"
            if end.operation
            else "its end is unknown"
        )
        looks = f"{scores} looks like a feature vector or a regression: {ends}"
    return f"{looks}; if it has class scores, give --activation {', '.join(ACTIVATIONS)}"
