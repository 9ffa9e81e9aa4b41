"""The options of `evaluate` and `compare`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prelabel.export.options import extracted_option
from prelabel.frames import FRAMES
from prelabel.options import Options, default_of, fields_of, flag_of, group_of, option, require, values_of
from prelabel.select import DefaultThreshold, ExportSelection, Selection
from prelabel.triage.options import ImageListOptions

#: Find the frame from the image sizes in the file.
AUTO = "auto"

#: The metrics of `evaluate`.
COCO, OPEN_IMAGES, OPEN_IMAGES_V2 = "coco", "openimages", "openimages-v2"

#: Options of `evaluate` that not every metric uses, with the metrics that do.
_BY_METRIC = {
    "truth_labels": (COCO,),
    "iou": (COCO,),
    "compare_thresholds": (COCO,),
    "class_map": (COCO,),
    "image_labels": (OPEN_IMAGES,),
    "expand_detections": (OPEN_IMAGES,),
}

#: The customary threshold, with which chosen thresholds are compared.
FLAT = 0.5


def _frame_option(boxes: str) -> Any:
    """An option for the frame of boxes in a file; `boxes` names them in the help."""
    return option(
        AUTO,
        f"Read {boxes} in this frame: the displayed image (display), the pixels as stored in the file (stored), the "
        "image as browsers show it (browser), or whichever fits the image sizes in the file (auto).",
        choices=(AUTO, *FRAMES),
    )


@dataclass(frozen=True, kw_only=True)
class AllDetections(ExportSelection):
    """The selection rules of exports, except that by default detections of any score are kept."""

    score_threshold: float = option(
        DefaultThreshold(0.0),
        "Count only detections with at least this score; 0 counts all that the run has.",
        metavar="SCORE",
        min=0,
        max=1,
        heading="Selection",
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """Options of `evaluate`.

    Raises:
        ConfigError: A value makes no sense.
    """

    listed: ImageListOptions = group_of(ImageListOptions)
    selection: AllDetections = group_of(AllDetections)
    truth: str = option(
        "",
        "Compare with this ground truth: a COCO dataset of the same images, TFRecord files with boxes (also a glob or "
        "braces) or, for the metrics of Open Images, its CSV file of boxes.",
        metavar="FILE",
        missing="no --truth given: name a COCO dataset of the same images, TFRecord files, or Open Images' CSV file of "
        "boxes",
        heading="Ground truth",
        first=True,
    )
    metric: str = option(
        COCO,
        "Compute COCO's AP and suggest thresholds (coco), or compute the mean AP of the Open Images Challenge "
        "(openimages) or of Open Images V2 (openimages-v2).",
        choices=(COCO, OPEN_IMAGES, OPEN_IMAGES_V2),
        first=True,
    )
    image_labels: str = option(
        "",
        "Read from this CSV file of Open Images which classes people verified on each image; the metric openimages "
        "ignores detections of all other classes.",
        metavar="FILE",
        first=True,
    )
    truth_labels: str = option(
        "",
        "Add MIDs to the categories of the ground truth by name, from this label map (or the built-in `coco`). For "
        "TFRecord files, it also tells which classes there are, and names those that have only a number.",
        metavar="FILE",
        first=True,
    )
    match: str = option(
        "auto",
        "Match images by path, by stem (without folder and extension), or by path if possible, else by stem (auto).",
        choices=("auto", "path", "stem"),
    )
    truth_frame: str = _frame_option("the truth's boxes")
    iou: float = option(
        0.5,
        "Count a box as correct if its IoU with an object of its class is at least this (for thresholds, corrections "
        "and the confusion table).",
        above=0,
        max=1,
    )
    expand_detections: bool = option(
        False,
        "For the metric openimages, count a detection also for all classes above its own in the class tree, as the "
        "metric does with the boxes of the truth.",
    )
    compare_thresholds: dict[str, float] = option(
        {},
        "Also evaluate these thresholds, for example from a file chosen on other images. Classes that they do not name "
        "get their default ('*'), else 0.5.",
        metavar="CLASS=SCORE",
        was="compare",
    )
    to: str = option(
        "",
        "Write the report and the thresholds into this folder (default: RUN/evaluation).",
        metavar="DIR",
        first=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.compared  # noqa: B018 - checks the thresholds
        values, fields = values_of(self), fields_of(self)
        for name, metrics in _BY_METRIC.items():
            require(
                self.metric in metrics or values[name] == default_of(fields[name]),
                f"{flag_of(name)} is for --metric {' or '.join(metrics)}, not for {self.metric}",
            )
        require(
            self.metric != OPEN_IMAGES or bool(self.image_labels),
            "--metric openimages needs --image-labels, which tells the classes that count on each image: give Open "
            "Images' CSV file of human-verified image-level labels, or use --metric openimages-v2",
        )
        require(
            self.metric == COCO or self.match != "path",
            f"--match path is for --metric {COCO}: Open Images names images by their ids, without folder and extension",
        )

    @property
    def compared(self) -> Selection | None:
        """The selection by `compare_thresholds`, or None if they are not given."""
        if not self.compare_thresholds:
            return None
        return Selection(
            score_threshold=DefaultThreshold(FLAT),
            class_threshold=self.compare_thresholds,
            class_map=self.selection.class_map,
            roll_up=self.selection.roll_up,
        )


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """Options of `compare`. A given selection must be that of the export that annotators worked on.

    Raises:
        ConfigError: A value makes no sense.
    """

    listed: ImageListOptions = group_of(ImageListOptions)
    selection: ExportSelection = group_of(ExportSelection)
    predictions: str = option(
        "",
        "Compare the pre-annotations of this run.",
        metavar="RUN",
        missing="no --predictions given: name the run whose pre-annotations were corrected",
        heading="Comparison",
        first=True,
    )
    annotations: str = option(
        "",
        "Compare with these corrected annotations: Label Studio's JSON export or a COCO dataset.",
        metavar="FILE",
        missing="no --annotations given: name the file of corrected annotations",
        first=True,
    )
    annotations_frame: str = _frame_option("the boxes of a COCO dataset")
    extracted: str = extracted_option("Compare with annotations of", first=False)
    kept_iou: float = option(
        0.95, "Count a box as kept if its class is the same and its IoU is at least this.", metavar="IOU"
    )
    iou: float = option(
        0.5,
        "Match a detection and an annotation without a common id if their IoU is at least this. The suggested "
        "thresholds count a detection as correct from this IoU on.",
        metavar="IOU",
        above=0,
        max=1,
    )
    polygon_tolerance: float = option(
        1.0,
        "Assume that the export was made with this --polygon-tolerance (default: as recorded with the run, else 1).",
        metavar="PIXELS",
        min=0,
    )
    polygon_min_area: float = option(
        16.0,
        "Assume that the export was made with this --polygon-min-area (default: as recorded with the run, else 16).",
        metavar="PIXELS",
        min=0,
    )
    to: str = option(
        "",
        "Write comparison.json, comparison.html and thresholds.yaml into this folder (default: RUN/comparison).",
        metavar="DIR",
        first=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.iou <= self.kept_iou <= 1, f"--kept-iou must be from --iou ({self.iou}) to 1, got {self.kept_iou}")
