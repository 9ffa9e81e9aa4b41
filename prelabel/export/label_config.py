"""Label Studio's labelling config: which tools and labels an annotator has, as ET.

    <View>
      <Image name="image" value="$image" zoom="true" zoomControl="true" rotateControl="true" />
      <RectangleLabels name="label" toName="image">
        <Label value="Dog" background="#b38f1e" category="1" />
      </RectangleLabels>
    </View>

A prediction is shown only if its `from_name`, `to_name`, type and label are those of the project's config. Either the
config is made from the same data as the tasks, or the tasks are made to fit a config that the team already has.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from prelabel.errors import ExportError
from prelabel.export.colour import colour_of
from prelabel.export.xml_text import fits_xml

#: The tag of each kind of region; a region's `type` is the tag in lower case.
TAGS = {
    "rectangle": "RectangleLabels",
    "polygon": "PolygonLabels",
    "brush": "BrushLabels",
    "choices": "Choices",
}


@dataclass(frozen=True)
class Control:
    """One tool of a config.

    Attributes:
        kind: A key of `TAGS`.
        name: Its name.
        labels: In order.
        multiple: Whether an image may have several of its labels at once; of choices only.
    """

    kind: str
    name: str
    labels: tuple[str, ...]
    multiple: bool = False

    @cached_property
    def type(self) -> str:
        """The `type` of its regions, which is also the key of the labels in their value."""
        return TAGS[self.kind].lower()

    def fit(self, label: str) -> str | None:
        """The label as this tool spells it, without regard to case where no exact one exists, or None."""
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
    """The parts of a labelling config that predictions refer to.

    Attributes:
        to_name: Name of the image tag.
        data_key: The key of a task's `data` that holds the image's address.
        controls: The tools, at most one of a kind.
        xml: The config as text.
    """

    to_name: str
    data_key: str
    controls: tuple[Control, ...]
    xml: str

    def control(self, kind: str) -> Control | None:
        """The tool of a kind, or None."""
        return next((one for one in self.controls if one.kind == kind), None)

    def named(self, name: object) -> Control | None:
        """The tool of a name, or None."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[object, Control]:
        return {one.name: one for one in reversed(self.controls)}


def make_config(
    controls: Iterable[Control], to_name: str, data_key: str = "image", category_ids: Mapping[str, int] | None = None
) -> LabelConfig:
    """A config for given tools; every label gets the colour of its name.

    Args:
        controls: The tools.
        to_name: Name of the image.
        data_key: The key of a task's `data` that holds the image's address.
        category_ids: By label: the server's COCO export writes them, where it would number labels from 0 by name. It
            writes a category for each tool that states one, so only the first tool with a label does.

    Raises:
        ExportError: A label that XML cannot hold, or that the page would not show as it is.
    """
    controls = tuple(controls)
    unstated = dict(category_ids or {})
    view = ET.Element("View")
    shown = {"zoom": "true", "zoomControl": "true", "rotateControl": "true"}
    ET.SubElement(view, "Image", {"name": to_name, "value": f"${data_key}", **shown})
    for control in controls:
        choice = {"choice": "multiple" if control.multiple else "single", "showInline": "true"}
        more = choice if control.kind == "choices" else {}
        tool = ET.SubElement(view, TAGS[control.kind], {"name": control.name, "toName": to_name, **more})
        for label in control.labels:
            if not label or label != label.strip() or not fits_xml(label):
                raise ExportError(
                    f"{label!r} cannot be a label in Label Studio (empty, blanks at its ends or control characters): "
                    "rename it with class-map"
                )
            if control.kind == "choices":
                ET.SubElement(tool, "Choice", {"value": label})
            else:
                category = {"category": str(unstated.pop(label))} if label in unstated else {}
                ET.SubElement(tool, "Label", {"value": label, "background": colour_of(label), **category})
    ET.indent(view)
    return LabelConfig(to_name, data_key, controls, ET.tostring(view, encoding="unicode") + "\n")


def has_tools(xml: str, where: str) -> bool:
    """Whether there is anything in a config. Raises ExportError for one that is no XML or declares a document type."""
    return len(_parsed(xml, where)) > 0


def _parsed(xml: str, where: str) -> ET.Element:
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ExportError(f"{where}: a labelling config has no document type declaration")
    try:
        return ET.fromstring(xml)  # noqa: S314 - without a document type there are no entities to expand
    except ET.ParseError as error:
        raise ExportError(f"{where} is not well-formed XML: {error}") from None


def read_config(xml: str, where: str) -> LabelConfig:
    """A config that a team already has.

    Args:
        xml: Its text.
        where: For messages.

    Raises:
        ExportError: It is no XML, declares a document type, or has no image or several.
    """
    root = _parsed(xml, where)
    images = [tag for tag in root.iter("Image") if tag.get("name")]
    if len(images) != 1:
        raise ExportError(f"{where}: a labelling config needs one <Image> with a name, found {len(images)}")
    to_name, value = images[0].get("name", ""), images[0].get("value", "")
    if not value.startswith("$") or len(value) < 2:
        raise ExportError(f"{where}: the value of <Image> must be a key of the task's data like $image, got {value!r}")
    controls: dict[str, Control] = {}
    for kind, tag in TAGS.items():
        for tool in root.iter(tag):
            if to_name in tool.get("toName", "").split(",") and tool.get("name") and kind not in controls:
                child = "Choice" if kind == "choices" else "Label"
                labels = (each.get("alias") or each.get("value") or "" for each in tool.iter(child))
                multiple = kind == "choices" and tool.get("choice") == "multiple"
                controls[kind] = Control(kind, tool.get("name", ""), tuple(filter(None, labels)), multiple)
    if not controls:
        raise ExportError(f"{where}: there is none of {', '.join(f'<{tag}>' for tag in TAGS.values())} for its image")
    return LabelConfig(to_name, value[1:], tuple(controls.values()), xml)
