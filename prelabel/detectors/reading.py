"""How a network's numbers are read, decided once for a model: the range of its input, what a classifier's rows are,
what masks show. Each decision has its reason, and what nothing decides is refused with the option that would.

Who decides, in this order: the user by an option; the catalogue for a network it knows; the graph; the format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from prelabel.detectors.activation import RowsEnd, rows_end
from prelabel.detectors.convention import FLOATS, LARGEST_BOX_MASK, NO_SCORES, Convention, Signature, recognise
from prelabel.detectors.fetch import LocalModel
from prelabel.detectors.graph import Graph, chosen_meta_graph, reading
from prelabel.detectors.input_range import Evidence, range_in
from prelabel.detectors.scopes import Entry, enter
from prelabel.errors import DetectorError
from prelabel.labels.maps import LabelMap, names_background
from prelabel.options import ACTIVATIONS, INPUT_LAYOUTS, INPUT_RANGES

_HUB_FILE = "tfhub_module.pb"
#: What the exporters of the TF Object Detection API call the image.
_EXPORTERS_INPUTS = ("input_tensor", "image_tensor")

#: ImageNet's classes and one for the background, which other networks may have for other reasons.
_IMAGENET = 1001

#: As many numbers as a box has, which a sigmoid keeps within the image.
_BOX = 4


@dataclass(frozen=True, slots=True)
class Stated:
    """What the user says of a network, each None where nothing is said; `prelabel.config` has the options."""

    input_range: str | None = None
    activation: str | None = None
    input_layout: str | None = None
    mask_frame: str | None = None


#: Of somebody who says nothing.
NOTHING_STATED = Stated()


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, and why, in words."""

    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Reading:
    """How a network's numbers are read.

    Attributes:
        convention: Of its signature, with everything that was decided.
        decisions: By what they are about: `input range`, `activation`, `background`, `masks`.
        refusals: What could not be decided, with the option that decides it; such a network is not run.
        notes: What somebody should know who reads the run: outputs that are not used, contradictions.
    """

    convention: Convention
    decisions: dict[str, Decision]
    refusals: tuple[str, ...]
    notes: tuple[str, ...]


def read_network(local: LocalModel, graph: Graph, labels: LabelMap | None, stated: Stated) -> Reading:
    """Recognise a network and decide how its numbers are read.

    Raises:
        DetectorError: It is of no known kind, or damaged.
    """
    entry = local.entry
    is_classifier = stated.activation is not None or (entry is not None and entry.activation is not None)
    convention = recognise(graph.signatures, layout=stated.input_layout, is_classifier=is_classifier)
    if labels and convention.classes:
        labels = labels.fitted_to(convention.classes)
    with reading(local.path) as data:
        signature = _signature(graph.signatures, convention)
        way_in = enter(chosen_meta_graph(data)[1], signature)
        return _Reader(local, convention, signature, way_in, labels, stated).read()


def _signature(signatures: Sequence[Signature], convention: Convention) -> Signature:
    return next(one for one in signatures if one.name == convention.signature and one.inputs[:1] == (convention.input,))


class _Reader:
    def __init__(
        self,
        local: LocalModel,
        convention: Convention,
        signature: Signature,
        way_in: Entry | None,
        labels: LabelMap | None,
        stated: Stated,
    ) -> None:
        self._local, self._convention, self._signature, self._way_in = local, convention, signature, way_in
        self._labels, self._stated = labels, stated
        self._decisions: dict[str, Decision] = {}
        self._refusals: list[str] = []
        self._notes: list[str] = []

    def read(self) -> Reading:
        convention = replace(self._convention, input_range=self._range())
        if convention.channels_first or self._stated.input_layout:
            layout = INPUT_LAYOUTS[convention.channels_first]
            stated = "stated by --input-layout" if self._stated.input_layout else "its shape says so"
            self._decide("input layout", layout, stated)
        if convention.kind == "classification":
            self._names()
            convention = replace(convention, activation=self._activation(), background=self._background())
        elif self._stated.activation:
            self._refusals.append("it is a detector: --activation is about the rows of classifiers")
        if convention.masks:
            convention = replace(convention, mask_frame=self._mask_frame())
        elif self._stated.mask_frame:
            self._refusals.append("it gives no masks that --mask-frame could be about")
        self._notes += [f"the output {one} is there and is not used" for one in convention.unused]
        return Reading(convention, self._decisions, tuple(self._refusals), tuple(self._notes))

    # What each of these returns is "" where it has refused.

    def _range(self) -> str:
        stated, image = self._stated.input_range, self._convention.input
        if image.dtype not in FLOATS:
            if stated not in (None, "0..255"):
                self._refusals.append(f"it takes {image.dtype}, whole numbers: --input-range can only be 0..255")
            return self._whole_numbers(image.dtype)
        evidence = range_in(self._way_in) if self._way_in else Evidence(None, "the graph does not name its input")
        known = [*self._known_ranges(evidence)]
        if stated:
            if known and known[0].value != stated:
                self._notes.append(f"--input-range {stated} is stated, though {known[0].why}, as for {known[0].value}")
            return self._decide("input range", stated, "stated by --input-range")
        if known:
            return self._decide("input range", known[0].value, known[0].why)
        self._refusals.append(
            f"it takes {image.dtype} and nothing says in which range: {evidence.why}; state --input-range "
            f"{', '.join(INPUT_RANGES)}, as its documentation or its training says"
        )
        return ""

    def _whole_numbers(self, dtype: str) -> str:
        """Bytes are bytes; wider types can hold other ranges, which no option feeds."""
        evidence = range_in(self._way_in) if self._way_in and dtype != "uint8" else Evidence(None, "")
        if evidence.is_scaled and evidence.range != "0..255":
            meant = f", as for {evidence.range}" if evidence.range else ""
            against = f"{evidence.why}{meant}"
            if not self._stated.input_range:
                self._refusals.append(
                    f"it takes {dtype} and would get 0..255, but {against}; state --input-range 0..255 if that is "
                    "right all the same, or export it with an input of uint8 or float32"
                )
                return ""
            self._notes.append(f"--input-range 0..255 is stated, though {against}")
        return self._decide("input range", "0..255", f"the input is {dtype}")

    def _known_ranges(self, evidence: Evidence) -> Iterator[Decision]:
        """What is known of the range without being told, what counts most first."""
        entry = self._local.entry
        if entry is not None and entry.input_range:
            yield Decision(entry.input_range, f"the catalogue says so of {entry.name}")
        if evidence.range:
            yield Decision(evidence.range, evidence.why)
        is_hub = (self._local.path / _HUB_FILE).is_file()
        names = (self._convention.input.name, self._way_in.image.partition(":")[0] if self._way_in else "")
        exported = self._convention.kind == "detection" and any(one in _EXPORTERS_INPUTS for one in names)
        if is_hub and not exported and "images" in names:
            yield Decision("0..1", f"it is a hub module ({_HUB_FILE}) whose input is `images`: these take 0..1")
        if exported and not is_hub:
            yield Decision(
                "0..255", f"it is a TF Object Detection export (input `{names[0]}`): these scale pixels themselves"
            )

    def _activation(self) -> str:
        convention, stated = self._convention, self._stated.activation
        output = convention.outputs["rows"]
        end = rows_end(self._way_in, output) if self._way_in else RowsEnd(None, "", "")
        entry = self._local.entry
        seen = f"the graph ends in {end.operation}" + (f" ({end.node})" if end.node != end.operation else "")
        if stated:
            if end.activation and end.activation != stated:
                self._notes.append(f"--activation {stated} is stated, though {seen}")
            return self._decide("activation", stated, "stated by --activation")
        if entry is not None and entry.activation:
            return self._decide("activation", entry.activation, f"the catalogue says so of {entry.name}")
        if NO_SCORES.search(end.node.lower()):
            self._refusals.append(_no_activation(end, convention.classes, output))
            return ""
        if end.activation == "sigmoid" and convention.classes == _BOX and not self._names_all():
            self._refusals.append(
                f"it gives 4 numbers for an image in {output!r}, each a sigmoid by itself: a box, or scores of 4 "
                "classes; if they are scores, state --activation sigmoid, or a label map that names the 4"
            )
            return ""
        if end.activation:
            return self._decide("activation", end.activation, seen)
        self._refusals.append(_no_activation(end, convention.classes, output))
        return ""

    def _names(self) -> None:
        """Notes classes of a classifier that the label map does not name; refuses a map that names others."""
        labels, classes = self._labels, self._convention.classes
        if labels is None or not classes:
            return
        surplus = sorted(number for number in labels.classes if number >= classes)
        if surplus:
            more = f" and {len(surplus) - 1} more" if len(surplus) > 1 else ""
            self._refusals.append(
                f"the label map {labels.source} names class {surplus[0]} ({labels.classes[surplus[0]].label!r}){more}, "
                f"and the network's classes are 0 to {classes - 1}: the map is another's, or counts otherwise; state "
                "with --label-map one that names these"
            )
            return
        missing = [number for number in range(classes) if labels.get(number) is None]
        if missing:
            numbers = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
            self._notes.append(
                f"the label map names {classes - len(missing)} of {classes} classes, not {numbers}: these are called "
                "by their numbers"
            )

    def _names_all(self) -> bool:
        labels, classes = self._labels, self._convention.classes or 0
        return labels is not None and all(labels.get(number) is not None for number in range(classes))

    def _background(self) -> bool:
        """Whether class 0 is the background: where the catalogue or the label map says so, not by a number."""
        entry, labels, classes = self._local.entry, self._labels, self._convention.classes
        if entry is not None and entry.background:
            self._decide("background", "class 0", f"the catalogue says so of {entry.name}")
            return True
        name = labels.get(0) if labels else None
        if name is not None and names_background(name.label):
            self._decide("background", "class 0", f"the label map calls it {name.label!r}")
            return True
        if classes == _IMAGENET and name is None:
            self._notes.append(
                "of the 1001 classes, class 0 is one like the others; if it is the background, as in ImageNet, state a "
                "label map that names it so, or --exclude-class 0"
            )
        return False

    def _mask_frame(self) -> str:
        convention, stated = self._convention, self._stated.mask_frame
        if stated:
            return self._decide("masks", stated, "stated by --mask-frame")
        masks = next(one for one in self._signature.outputs if one.name == convention.outputs["masks"])
        height, width = masks.shape[-2:] if masks.shape else (None, None)
        if height is None or width is None:
            why = "their size is not stated: as large as the image they are of it, squares of up to "
            return self._decide("masks", "by-size", f"{why}{LARGEST_BOX_MASK} pixels are of their box")
        size = f"masks of {height} x {width}"
        if (height, width) == convention.size:
            return self._decide("masks", "image", f"{size}, as large as the input")
        if height == width <= LARGEST_BOX_MASK:
            return self._decide("masks", "box", f"{size}, as they are cut out along boxes")
        self._refusals.append(
            f"it gives {size}: nothing says whether they show their box or the whole image; state --mask-frame box or "
            "image"
        )
        return ""

    def _decide(self, about: str, value: str, why: str) -> str:
        self._decisions[about] = Decision(value, why)
        return value


def _no_activation(end: RowsEnd, classes: int | None, output: str) -> str:
    numbers = f"{classes or 'some'} numbers for an image in {output!r}"
    where = f" ({end.node})" if end.node and end.node != end.operation else ""
    if NO_SCORES.search(end.node.lower()):
        looks = f"it gives {numbers} and looks like features or a regression by the name of its last layer{where}"
    elif end.looks_like_features:
        looks = f"it gives {numbers} and looks like a feature vector: it ends in {end.operation}{where}"
    elif end.is_linear:
        looks = (
            f"it gives {numbers} and ends in {end.operation}{where}, without an activation: a feature vector, a "
            "regression (of boxes, say), or logits of a classifier"
        )
    else:
        ends = f"it ends in {end.operation}{where}" if end.operation else "its end was not found"
        looks = f"it gives {numbers} and looks like a feature vector or a regression: {ends}, which makes no scores"
    return f"{looks}; if they are scores of classes, state --activation {', '.join(ACTIVATIONS)}"


def require_readable(reading: Reading, address: str) -> None:
    """Raises DetectorError, which names the options that decide, for a network that cannot be read for sure."""
    if reading.refusals:
        raise DetectorError(f"the model {address} is not run: {'; '.join(reading.refusals)}")
