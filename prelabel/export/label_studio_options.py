"""What `export label-studio` can be told, and what it shares with `push label-studio`."""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.export.option_rules import require_choices, require_not_negative, require_positive
from prelabel.export.polygons import MASK_PARTS, SPECK, PolygonRules
from prelabel.export.task_files import LAYOUTS
from prelabel.options import option, require
from prelabel.select import ExportSelection

_GROUP = "Label Studio"


@dataclass(frozen=True, kw_only=True)
class TaskOptions(ExportSelection):
    """How detections become regions of tasks, beside which of them to keep."""

    shape: str = option(
        "auto",
        "The tool of the regions; auto takes polygons where there are masks, else rectangles.",
        choices=("auto", "rectangle", "polygon", "brush"),
        group=_GROUP,
    )
    image_url: str = option(
        "",
        "Where the browser finds the images: a prefix to which the file name is added, or a template with {uri}, "
        "{file_name}, {image_id}. By default the image's own address, or Label Studio's local files.",
        metavar="URL",
        group=_GROUP,
    )
    document_root: str = option(
        "",
        "For images on a disk: the server's LOCAL_FILES_DOCUMENT_ROOT (by default the folder above the source).",
        metavar="DIR",
        group=_GROUP,
    )
    label_config: str = option(
        "", "Fit the tasks to this labelling config instead of making one.", metavar="FILE", group=_GROUP
    )
    labels: str = option(
        "auto",
        "Labels of the config made: those present, all of the detector, or auto: all of up to 100, else those present.",
        choices=("auto", "present", "all"),
        group=_GROUP,
    )
    choice: str = option(
        "single",
        "Labels of the whole image in the config made: one, the best; or multiple, all that are kept.",
        choices=("single", "multiple"),
        group=_GROUP,
    )
    unlisted: str = option(
        "error", "What to do with classes that --label-config does not have.", choices=("error", "drop"), group=_GROUP
    )
    from_name: str = option("label", "Name of the tool in the config made.", metavar="NAME", group=_GROUP)
    to_name: str = option("image", "Name of the image in the config made.", metavar="NAME", group=_GROUP)
    task_score: str = option(
        "mean",
        "A prediction's score from its regions' scores; Label Studio can serve the lowest first.",
        choices=("mean", "min", "max", "uncertainty"),
        group=_GROUP,
    )
    polygon_tolerance: float = option(
        1.0, "How far, in pixels, a polygon may be from its mask's outline.", metavar="PIXELS", group=_GROUP
    )
    polygon_min_area: float = option(
        16.0,
        "Parts of a mask with fewer pixels are left out, too (the largest never is), and smaller holes are filled.",
        metavar="PIXELS",
        group=_GROUP,
    )
    mask_parts: str = option(
        "bridge",
        "What the parts of a mask become: bridge joins them to one polygon by lines without width, split makes a "
        "region of each, largest takes the largest alone. Parts under 1 % of their object are left out.",
        choices=MASK_PARTS,
        group=_GROUP,
    )
    max_points: int = option(3000, "Polygon corners a task at most; the rest is left out.", group=_GROUP)
    max_masks: int = option(100, "Brush masks a task at most; the rest is left out.", group=_GROUP)
    include_failed: bool = option(False, "Make tasks without a prediction of failed images.", group=_GROUP)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choices(self)
        require_positive(self, "max_points", "max_masks")
        require_not_negative(self, "polygon_tolerance", "polygon_min_area")
        for name in ("from_name", "to_name"):
            value = getattr(self, name)
            require(bool(value.strip()), f"{name.replace('_', '-')} must not be empty")
        require(self.from_name != self.to_name, f"from-name and to-name must differ, both are {self.to_name!r}")

    @property
    def polygon_rules(self) -> PolygonRules:
        """How masks become polygons for people."""
        return PolygonRules(self.polygon_tolerance, self.polygon_min_area, SPECK, self.mask_parts)


@dataclass(frozen=True, kw_only=True)
class LabelStudioOptions(TaskOptions):
    """What `export label-studio` can be told, beside which detections to keep."""

    layout: str = option(
        "import",
        "Task files for the import page and API, or for a source storage to sync: a task a file, or a line; or "
        "predictions for the tasks that the run was made of.",
        choices=LAYOUTS,
        group=_GROUP,
    )
    tasks_per_file: int = option(1000, "Tasks a file at most.", group=_GROUP)
    max_file_mb: float = option(20.0, "Megabytes a file at most.", metavar="MB", group=_GROUP)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "tasks_per_file", "max_file_mb")
