"""Which labelling config an export uses: one made from the classes and tools that occur, or the team's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prelabel.errors import ExportError
from prelabel.export.categories import NumberedCategories, project_label
from prelabel.export.class_list import classes_in
from prelabel.export.label_config import TAGS, Control, LabelConfig, make_config, read_config
from prelabel.export.label_studio_options import TaskOptions
from prelabel.export.parts import each_part
from prelabel.export.reading import Rows, RunInfo
from prelabel.export.side_by_side import SideBySide, lots
from prelabel.storage import Storage, describe, redact
from prelabel.store.rows import ImageRow

#: Up to so many labels an annotator can still find one; more are offered only if they occur or are asked for.
MANY_LABELS = 100


@dataclass(slots=True)
class _Present:
    """Labels that occur, by kind of tool, each with the class number that orders them."""

    by_kind: dict[str, dict[str, int]] = field(default_factory=dict)
    classifier: bool = False

    def add(self, kind: str, label: str, category_id: int) -> None:
        known = self.by_kind.setdefault(kind, {})
        known[label] = min(category_id, known.get(label, category_id))

    def merge(self, other: _Present) -> None:
        self.classifier |= other.classifier
        for kind, labels in other.by_kind.items():
            for label, category_id in labels.items():
                self.add(kind, label, category_id)


def kind_of(options: TaskOptions, has_mask: bool, config: LabelConfig | None) -> str:
    """The tool for a detection: a key of `TAGS`.

    `auto` takes a polygon for a mask and a rectangle for a box; of a given config it takes what that has: for a mask a
    polygon before a brush before a rectangle.
    """
    if options.shape != "auto":
        return options.shape
    preferred = ("polygon", "brush", "rectangle") if has_mask else ("rectangle",)
    if config is None:
        return preferred[0]
    return next((kind for kind in preferred if config.control(kind)), preferred[0])


def config_for(
    info: RunInfo,
    rows: Rows,
    options: TaskOptions,
    storage: Storage,
    *,
    given: LabelConfig | None = None,
    given_by: str = "",
) -> LabelConfig:
    """The config of an export; reads all rows.

    Args:
        info: About the run.
        rows: Its rows.
        options: May name a config that is given.
        storage: Where that is.
        given: A config to fit, instead of the one that the options name.
        given_by: Whose config that is, for messages.

    Raises:
        ExportError: A given config cannot be read, or what does not fit it, as a list.
    """
    if given is None and options.label_config:
        given, given_by = _given(options.label_config, storage), redact(options.label_config)
    present = _Present()
    for part in each_part(rows, _PresentIn(options, given)):
        present.merge(part)
    if given is not None:
        if options.unlisted == "error":
            _require_fit(present, given, given_by)
        return given
    controls = _controls(info, present, options)
    return make_config(controls, options.to_name, category_ids=_category_ids(info, rows, options, controls))


def _given(url: str, storage: Storage) -> LabelConfig:
    try:
        text = storage.read(url).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"the label config cannot be read from {redact(url)}: {describe(error)}") from None
    return read_config(text, redact(url))


@dataclass(frozen=True, slots=True)
class _PresentIn:
    options: TaskOptions
    given: LabelConfig | None

    def __call__(self, rows: Iterable[ImageRow]) -> _Present:
        present = _Present()
        for some in lots(rows):
            for row in some:
                if row.image_labels is not None:
                    present.classifier = True
                    for one in self.options.apply_to_image_labels(row.image_labels):
                        present.add("choices", one.label, one.category_id)
            kept = SideBySide.kept(some, self.options)
            if kept is not None:
                self._see(present, some, kept)
        return present

    def _see(self, present: _Present, rows: Sequence[ImageRow], kept: SideBySide) -> None:
        masks = [None] * len(kept) if kept.mask is None else kept.mask
        has_mask = [counts is not None for counts in masks]
        labels = self.options.rename(kept.label, kept.mid).tolist()
        kinds = {one: kind_of(self.options, one, self.given) for one in set(has_mask)}
        if False in kinds and kinds[False] in ("polygon", "brush"):
            image_id = rows[int(kept.row[has_mask.index(False)])].image_id
            raise ExportError(
                f"image {image_id!r} has a detection without a mask: shape {kinds[False]} needs a detector with masks"
            )
        for one, label, category_id in set(zip(has_mask, labels, kept.category_id.tolist(), strict=True)):
            present.add(kinds[one], label, category_id)


def _require_fit(present: _Present, given: LabelConfig, given_by: str) -> None:
    missing = []
    for kind, labels in present.by_kind.items():
        control = given.control(kind)
        unfit = sorted(labels if control is None else (label for label in labels if control.fit(label) is None))
        if unfit:
            shown = ", ".join(unfit[:20]) + (f" and {len(unfit) - 20} more" if len(unfit) > 20 else "")
            missing.append(f"no <{TAGS[kind]}> with {shown}" if control is None else f"<{TAGS[kind]}> lacks {shown}")
    if missing:
        raise ExportError(
            f"{given_by} does not fit: {'; '.join(missing)}. Add them to the config (of a project: Settings, "
            "Labeling Interface), rename with --class-map, leave out with --exclude-class or a higher "
            "--score-threshold, choose another --shape, or leave out all such detections with --unlisted drop"
        )


def _controls(info: RunInfo, present: _Present, options: TaskOptions) -> list[Control]:
    kinds = [kind for kind in TAGS if present.by_kind.get(kind)]
    if not kinds:
        kinds = ["choices"] if present.classifier else [kind_of(options, info.masks, None)]
    every = _every_label(info, options)
    if options.labels == "present" or (options.labels == "auto" and len(every) > MANY_LABELS):
        every = {}
    controls: list[Control] = []
    for kind in kinds:
        numbers = {**every, **present.by_kind.get(kind, {})}
        labels = tuple(sorted(numbers, key=lambda label: (numbers[label], label)))
        name = f"{options.from_name}_{kind}" if controls else options.from_name
        controls.append(Control(kind, name, labels, kind == "choices" and options.choice == "multiple"))
    return controls


def _category_ids(info: RunInfo, rows: Rows, options: TaskOptions, controls: Iterable[Control]) -> dict[str, int]:
    """The number of each label in `export coco` of the same run."""
    labels = {label for control in controls for label in control.labels if control.kind != "choices"}
    if not labels:
        return {}
    categories = NumberedCategories(info.classes or classes_in(rows, None), options)
    ids = {entry.name: entry.id for entry in categories.entries}
    if not labels <= ids.keys():
        # Classes beyond the detector's list get their numbers as they turn up.
        for one in classes_in(rows, options):
            categories.id_of(one)
        ids = {entry.name: entry.id for entry in categories.entries}
    return {label: ids[label] for label in labels if label in ids}


def _every_label(info: RunInfo, options: TaskOptions) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for one in info.classes or ():
        if options.admits(one.name, one.mid):
            label = project_label(one, options)
            numbers[label] = min(one.id, numbers.get(label, one.id))
    return numbers
