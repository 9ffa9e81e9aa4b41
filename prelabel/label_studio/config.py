"""Label Studio's labeling config: the tools and labels that annotators have, as XML.

    <View>
      <Image name="image" value="$image" zoom="true" zoomControl="true" rotateControl="true" />
      <RectangleLabels name="label" toName="image">
        <Label value="Dog" background="#b38f1e" category="1" />
      </RectangleLabels>
    </View>

A prediction is shown only if its `from_name`, `to_name`, type and label match the project's config. Either the config
is made from the same data as the tasks, or the tasks are made to fit a config that the team already has (`config_for`).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from prelabel.errors import ExportError, first_of
from prelabel.export.base import Rows, RunInfo
from prelabel.export.categories import NumberedCategories
from prelabel.export.keypoints import written_keypoints
from prelabel.export.options import MANY_CLASSES
from prelabel.export.parallel import map_parts
from prelabel.export.text import fits_xml
from prelabel.keypoints import KeypointSet, shown
from prelabel.label_studio.options import TaskOptions
from prelabel.labels.colors import colors_by_frequency
from prelabel.storage.address import describe, redact
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch

#: The tag of each kind of region; a region's `type` is the tag in lower case.
TAGS = {
    "rectangle": "RectangleLabels",
    "polygon": "PolygonLabels",
    "brush": "BrushLabels",
    "keypoint": "KeyPointLabels",
    "choices": "Choices",
}


@dataclass(frozen=True)
class Control:
    """One tool of a config.

    Attributes:
        kind: A key of `TAGS`.
        name: The tool's name; regions refer to it as `from_name`.
        labels: The tool's labels, in order.
        multiple: Whether an image may have several labels of this tool; only for choices.
    """

    kind: str
    name: str
    labels: tuple[str, ...]
    multiple: bool = False

    @cached_property
    def type(self) -> str:
        """The `type` of the tool's regions, which is also the key of the labels in their `value`."""
        return TAGS[self.kind].lower()

    def fit(self, label: str) -> str | None:
        """The label as this tool spells it, or None. Case is ignored if no label matches exactly."""
        if label in self._exact:
            return label
        return self._folded.get(label.casefold())

    @cached_property
    def _exact(self) -> frozenset[str]:
        return frozenset(self.labels)

    @cached_property
    def _folded(self) -> dict[str, str]:
        return {label.casefold(): label for label in reversed(self.labels)}


@dataclass(frozen=True)
class LabelConfig:
    """The parts of a labeling config that predictions refer to.

    Attributes:
        to_name: Name of the image tag.
        data_key: The key of a task's `data` that holds the image's URL.
        controls: The tools, at most one of each kind.
        xml: The whole config as text.
    """

    to_name: str
    data_key: str
    controls: tuple[Control, ...]
    xml: str

    def control(self, kind: str) -> Control | None:
        """The tool of this kind, or None."""
        return next((control for control in self.controls if control.kind == kind), None)

    def named(self, name: object) -> Control | None:
        """The tool with this name, or None."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[object, Control]:
        return {control.name: control for control in reversed(self.controls)}


def config_for(
    info: RunInfo,
    rows: Rows,
    options: TaskOptions,
    storage: Storage,
    *,
    given: LabelConfig | None = None,
    given_by: str = "",
) -> LabelConfig:
    """Make the config of an export, or check a given one; reads all rows.

    Args:
        info: Facts about the run.
        rows: The rows of the run.
        options: `label_config` may name an existing config.
        storage: Reads that config.
        given: An existing config to fit, instead of the one that the options name.
        given_by: Name of the given config in messages.

    Raises:
        ExportError: A given config cannot be read or lacks tools or labels; the message lists these.
    """
    if given is None and options.label_config:
        given, given_by = _read_given(options.label_config, storage), redact(options.label_config)
    present = _Present()
    keypoints = written_keypoints(info, options)
    for part in map_parts(rows, partial(_labels_present, options, given, keypoints), more_follows=True):
        present.merge(part)
    if given is not None:
        if options.unlisted == "error":
            _require_fit(present, given, given_by, masks=info.masks)
        return given
    controls = _controls(info, present, options)
    category_ids = {}
    if any(control.kind != "choices" for control in controls):
        categories = NumberedCategories(info, rows, options.selection)
        category_ids = {entry.name: entry.id for entry in categories.entries}
    return make_config(controls, options.to_name, category_ids=category_ids, counts=present.counts)


def kind_of(options: TaskOptions, has_mask: bool, config: LabelConfig | None) -> str:
    """Choose the tool for a detection: a key of `TAGS`.

    `auto` chooses polygons for masks and rectangles for boxes. If a config is given, it chooses from the tools of that
    config; a mask prefers polygons to brushes to rectangles.
    """
    if options.shape != "auto":
        return options.shape
    preferred = ("polygon", "brush", "rectangle") if has_mask else ("rectangle",)
    if config is None:
        return preferred[0]
    return next((kind for kind in preferred if config.control(kind)), preferred[0])


def _read_given(url: str, storage: Storage) -> LabelConfig:
    try:
        text = storage.read(url).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"cannot read the labeling config {redact(url)}: {describe(error)}") from None
    return read_config(text, redact(url))


@dataclass(slots=True)
class _Present:
    """The labels that occur.

    Attributes:
        by_kind: The lowest class number by label, by kind of tool.
        counts: How often each label occurs.
        classifier: Whether images have labels for the whole image, as classifiers give them.
    """

    by_kind: dict[str, dict[str, int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    classifier: bool = False

    def add(self, kind: str, label: str, category_id: int) -> None:
        known = self.by_kind.setdefault(kind, {})
        known[label] = min(category_id, known.get(label, category_id))

    def merge(self, other: _Present) -> None:
        self.classifier |= other.classifier
        self.counts.update(other.counts)
        for kind, labels in other.by_kind.items():
            for label, category_id in labels.items():
                self.add(kind, label, category_id)


def _labels_present(
    options: TaskOptions, given: LabelConfig | None, keypoints: KeypointSet | None, batches: Iterable[DetectionBatch]
) -> _Present:
    present = _Present()
    for batch in batches:
        for image in batch.images:
            if image.image_labels is not None:
                present.classifier = True
                for image_label in options.selection.apply_to_image_labels(image.image_labels):
                    present.add("choices", image_label.label, image_label.category_id)
                    present.counts[image_label.label] += 1
        kept = batch.kept(options.selection)
        has_mask = [False] * len(kept) if kept.mask is None else [counts is not None for counts in kept.mask.tolist()]
        kinds = {masked: kind_of(options, masked, given) for masked in set(has_mask)}
        if kinds.get(False) in ("polygon", "brush"):
            image_id = kept.images[int(kept.image[has_mask.index(False)])].image_id
            raise ExportError(
                f"image {image_id!r} has a detection without a mask: --shape {kinds[False]} needs a detector with masks"
            )
        labels = options.selection.rename(kept.label, kept.mid).tolist()
        present.counts.update(labels)
        for masked, label, category_id in set(zip(has_mask, labels, kept.category_id.tolist(), strict=True)):
            present.add(kinds[masked], label, category_id)
        if keypoints is not None and kept.keypoints is not None:
            are_shown = shown(kept.keypoints, options.keypoint_threshold, kept.height, kept.width)
            for number in np.flatnonzero(np.any(are_shown, axis=0)).tolist():
                present.add("keypoint", keypoints.names[number], number)
    return present


def _require_fit(present: _Present, given: LabelConfig, given_by: str, *, masks: bool) -> None:
    """Raise ExportError if the given config lacks a tool or a label that the run needs."""
    problems = []
    for kind, labels in present.by_kind.items():
        control = given.control(kind)
        if control is None:
            problems.append(_missing_tool(kind, labels, given, masks=masks))
        elif unfit := sorted(label for label in labels if control.fit(label) is None):
            otherwise = (
                "leave keypoints out with --no-keypoints, or drop all that do not fit with --unlisted drop"
                if kind == "keypoint"
                else "rename the classes with --class-map, exclude them with --exclude-class or a higher "
                "--score-threshold, or drop all detections that do not fit with --unlisted drop"
            )
            problems.append(
                f"its <{TAGS[kind]}> lacks {first_of(unfit, 20)}. Add these labels there (in a project: Settings, "
                f"Labeling Interface), {otherwise}"
            )
    if problems:
        raise ExportError(f"{given_by} does not fit the run: {'; '.join(problems)}")


def _missing_tool(kind: str, labels: Iterable[str], given: LabelConfig, *, masks: bool) -> str:
    """Say that a config lacks a tool, which tools it has instead, and which --shape would use them."""
    names = " and ".join(f"<{TAGS[control.kind]}>" for control in given.controls)
    if kind == "keypoint":
        return (
            f"it has {names} but no <{TAGS[kind]}>. Leave keypoints out with --no-keypoints, or add <{TAGS[kind]}> "
            f"with the labels {first_of(list(labels), 3)} (in a project: Settings, Labeling Interface)"
        )
    # Every detection has a box; only detections with a mask have polygons and brush masks.
    shapes = [control.kind for control in given.controls if control.kind == "rectangle" or masks]
    shapes = [shape for shape in shapes if shape in ("rectangle", "polygon", "brush")] if kind != "choices" else []
    use = f"Use {' or '.join(f'--shape {shape}' for shape in shapes)}, or add" if shapes else "Add"
    return (
        f"it has {names} but no <{TAGS[kind]}>. {use} <{TAGS[kind]}> with the labels {first_of(sorted(labels), 3)} "
        "(in a project: Settings, Labeling Interface)"
    )


def _controls(info: RunInfo, present: _Present, options: TaskOptions) -> list[Control]:
    kinds = [kind for kind in TAGS if present.by_kind.get(kind) and kind != "keypoint"]
    if not kinds:
        kinds = ["choices"] if present.classifier else [kind_of(options, info.masks, None)]
    offered = _all_labels(info, options)
    if options.labels == "present" or (options.labels == "auto" and len(offered) > MANY_CLASSES):
        offered = {}
    controls: list[Control] = []
    for kind in kinds:
        numbers = {**offered, **present.by_kind.get(kind, {})}
        # Label Studio gives the first ten labels the keys 1 to 0.
        labels = tuple(sorted(numbers, key=lambda label: (-present.counts[label], numbers[label], label)))
        name = f"{options.from_name}_{kind}" if controls else options.from_name
        controls.append(Control(kind, name, labels, kind == "choices" and options.choice == "multiple"))
    if (keypoints := written_keypoints(info, options)) is not None:
        controls.append(Control("keypoint", f"{options.from_name}_keypoint", keypoints.names))
    return controls


def _all_labels(info: RunInfo, options: TaskOptions) -> dict[str, int]:
    """The labels that the detector can give, each with its lowest class number."""
    numbers: dict[str, int] = {}
    for class_name in info.classes or ():
        if options.selection.admits(class_name.name, class_name.mid):
            label = options.selection.label_of(class_name.name, class_name.mid)
            numbers[label] = min(class_name.id, numbers.get(label, class_name.id))
    return numbers


def make_config(
    controls: Iterable[Control],
    to_name: str,
    data_key: str = "image",
    category_ids: Mapping[str, int] | None = None,
    counts: Mapping[str, int] | None = None,
) -> LabelConfig:
    """Make a labeling config for the given tools.

    Args:
        controls: The tools.
        to_name: Name of the image tag.
        data_key: The key of a task's `data` that holds the image's URL.
        category_ids: Category id by label, which the server's COCO export writes; without ids, it numbers the labels
            from 0, ordered by name. It writes a category for each tool that states the id, so only the first tool with
            a label does.
        counts: How often each label occurs: the most frequent labels get the colors that are easiest to tell apart.

    Raises:
        ExportError: XML cannot hold a label, or Label Studio's page would show it differently.
    """
    controls = tuple(controls)
    remaining_ids = dict(category_ids or {})
    colors = colors_by_frequency(
        {
            label: (counts or {}).get(label, 0)
            for control in controls
            for label in control.labels
            if control.kind != "keypoint"
        }
    )
    view = ET.Element("View")
    zoom = {"zoom": "true", "zoomControl": "true", "rotateControl": "true"}
    ET.SubElement(view, "Image", {"name": to_name, "value": f"${data_key}", **zoom})
    for control in controls:
        choice = {"choice": "multiple" if control.multiple else "single", "showInline": "true"}
        attributes = choice if control.kind == "choices" else {}
        is_keypoint = control.kind == "keypoint"
        colors_of_labels = colors_by_frequency(dict.fromkeys(control.labels, 0)) if is_keypoint else colors
        tool = ET.SubElement(view, TAGS[control.kind], {"name": control.name, "toName": to_name, **attributes})
        for label in control.labels:
            if not label or label != label.strip() or not fits_xml(label):
                raise ExportError(
                    f"{label!r} cannot be a label in Label Studio: it is empty, begins or ends with a blank or has "
                    "control characters. Rename it with --class-map"
                )
            if control.kind == "choices":
                ET.SubElement(tool, "Choice", {"value": label})
            else:
                has_id = label in remaining_ids and not is_keypoint
                category = {"category": str(remaining_ids.pop(label))} if has_id else {}
                ET.SubElement(tool, "Label", {"value": label, "background": colors_of_labels[label], **category})
    ET.indent(view)
    return LabelConfig(to_name, data_key, controls, ET.tostring(view, encoding="unicode") + "\n")


def read_config(xml: str, where: str) -> LabelConfig:
    """Read a config that a team already has.

    Args:
        xml: The config as text.
        where: Its name in messages.

    Raises:
        ExportError: The text is not XML, declares a document type, or does not have exactly one image.
    """
    root = _parse(xml, where)
    images = [tag for tag in root.iter("Image") if tag.get("name")]
    if len(images) != 1:
        raise ExportError(f"{where}: a labeling config needs one <Image> with a name, but this one has {len(images)}")
    to_name, value = images[0].get("name", ""), images[0].get("value", "")
    if not value.startswith("$") or len(value) < 2:
        raise ExportError(
            f"{where}: the value of <Image> must name a key of the task's data, like $image; it is {value!r}"
        )
    controls: dict[str, Control] = {}
    for kind, tool_tag in TAGS.items():
        for tool in root.iter(tool_tag):
            if to_name in tool.get("toName", "").split(",") and tool.get("name") and kind not in controls:
                child = "Choice" if kind == "choices" else "Label"
                labels = (tag.get("alias") or tag.get("value") or "" for tag in tool.iter(child))
                multiple = kind == "choices" and tool.get("choice") == "multiple"
                controls[kind] = Control(kind, tool.get("name", ""), tuple(filter(None, labels)), multiple)
    if not controls:
        raise ExportError(f"{where}: there is no tool for its image ({', '.join(f'<{tag}>' for tag in TAGS.values())})")
    return LabelConfig(to_name, value[1:], tuple(controls.values()), xml)


def has_tools(xml: str, where: str) -> bool:
    """Whether a config has any tags. Raises ExportError if it is not XML or declares a document type."""
    return len(_parse(xml, where)) > 0


def _parse(xml: str, where: str) -> ET.Element:
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ExportError(f"{where}: a labeling config must not declare a document type")
    try:
        return ET.fromstring(xml)  # noqa: S314 - without a document type there are no entities to expand
    except ET.ParseError as error:
        raise ExportError(f"{where} is not well-formed XML: {error}") from None
