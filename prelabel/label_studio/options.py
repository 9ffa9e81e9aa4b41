"""Options of `export label-studio` and `push label-studio`; `TaskOptions` are those that both share."""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.export.options import KeypointOptions, extracted_option, listing_option
from prelabel.label_studio.client import LOCAL_FILES
from prelabel.masks.polygons import FRAGMENT_SHARE, MASK_PARTS, PolygonRules
from prelabel.options import group_of, option, require
from prelabel.select import ExportSelection
from prelabel.triage.options import ImageListOptions

_GROUP = "Label Studio"


@dataclass(frozen=True, kw_only=True)
class TaskOptions(KeypointOptions):
    """Which detections are kept, and how they become regions of tasks."""

    listed: ImageListOptions = group_of(ImageListOptions)
    selection: ExportSelection = group_of(ExportSelection)
    shape: str = option(
        "auto",
        "Draw regions with this tool; auto draws polygons if there are masks, else rectangles.",
        choices=("auto", "rectangle", "polygon", "brush"),
        heading=_GROUP,
        first=True,
    )
    image_url: str = option(
        "",
        "Load images in the browser from this URL: a prefix for the file name, or a template with {uri}, {file_name}, "
        "{image_id} (default: the image's own URL, or Label Studio's local files).",
        metavar="URL",
        first=True,
    )
    extracted: str = extracted_option("Show")
    document_root: str = option(
        "",
        "Use this as the server's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT for images on disk (default: the folder above "
        "the source).",
        metavar="DIR",
        heading=_GROUP,
    )
    display_copies: str = option(
        "",
        "Write JPEG copies (quality 92, EXIF orientation applied) of images that most browsers do not show (TIFF, JPEG "
        "2000, HEIC, PSD) into this folder, and show the copies in the tasks.",
        metavar="DIR|URL",
    )
    label_config: str = option(
        "", "Fit the tasks to this labeling config instead of making one.", metavar="FILE", first=True
    )
    labels: str = listing_option("Put into the new config the labels", first=False)
    choice: str = option(
        "single",
        "Allow one label for the whole image in the new config (single: the best), or several (multiple: all that are "
        "kept).",
        choices=("single", "multiple"),
    )
    unlisted: str = option(
        "error", "Stop with an error for classes that --label-config lacks, or drop them.", choices=("error", "drop")
    )
    from_name: str = option(
        "label", "Name the tool in the new config.", metavar="NAME", missing="--from-name must not be empty"
    )
    to_name: str = option(
        "image", "Name the image in the new config.", metavar="NAME", missing="--to-name must not be empty"
    )
    task_score: str = option(
        "mean",
        "Compute a prediction's score from the scores of its regions; Label Studio can serve the lowest first.",
        choices=("mean", "min", "max", "uncertainty"),
    )
    polygon_tolerance: float = option(
        1.0, "Let polygons deviate from the mask's contour by up to this.", metavar="PIXELS", min=0
    )
    polygon_min_area: float = option(
        16.0,
        "Drop parts of a mask that have fewer pixels than this, except the largest, and fill smaller holes.",
        metavar="PIXELS",
        min=0,
    )
    mask_parts: str = option(
        "bridge",
        "Join the parts of a mask into one polygon by lines without width (bridge), make each a region (split) or "
        "keep only the largest. Parts under 1 % of their object are dropped.",
        choices=MASK_PARTS,
    )
    max_points: int = option(3000, "Limit the polygon corners per task; the rest is dropped.", above=0)
    max_masks: int = option(100, "Limit the brush masks per task; the rest is dropped.", above=0)
    include_failed: bool = option(False, "Also make tasks, without predictions, for failed images.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.from_name != self.to_name, f"--from-name and --to-name must differ, both are {self.to_name!r}")
        require(
            not (self.extracted and self.include_failed),
            "--include-failed makes tasks for failed images, which are not extracted: leave out --extracted or "
            "--include-failed",
        )

    @property
    def polygon_rules(self) -> PolygonRules:
        """How masks become polygons for annotators."""
        return PolygonRules(self.polygon_tolerance, self.polygon_min_area, FRAGMENT_SHARE, self.mask_parts)


@dataclass(frozen=True, kw_only=True)
class LabelStudioOptions(TaskOptions):
    """Options of `export label-studio`."""

    layout: str = option(
        "import",
        "Write task files for the import page and API (import), or for a source storage with one task per file (sync) "
        "or per line (sync-jsonl), or only predictions for the tasks that the run was made from.",
        choices=("import", "sync", "sync-jsonl", "predictions"),
        heading=_GROUP,
        first=True,
    )
    tasks_per_file: int = option(1000, "Limit the tasks per file.", above=0)
    max_file_mb: float = option(20.0, "Limit the size of a file.", metavar="MB", above=0)


@dataclass(frozen=True, kw_only=True)
class PushOptions(TaskOptions):
    """Options of `push label-studio`: server, project, and limits of a request."""

    url: str = option(
        "",
        "Send to the Label Studio server at this URL.",
        metavar="URL",
        missing="no --url given: name the Label Studio server",
        heading="Server",
        first=True,
    )
    project: str = option(
        "",
        "Send to the project with this number or title; a new title creates a project.",
        metavar="ID|TITLE",
        missing="no --project given: name its number or title",
        first=True,
    )
    token_file: str = option(
        "",
        "Read the access token (personal or legacy) from this file (default: from LABEL_STUDIO_API_KEY).",
        metavar="FILE",
        first=True,
    )
    create_storage: bool = option(
        False,
        "Create the source storages that the images need and the project lacks, with credentials from AWS_..., "
        "GOOGLE_APPLICATION_CREDENTIALS or AZURE_STORAGE_... (else the server's own). Syncing them adds no tasks.",
        first=True,
    )
    new_tasks: bool = option(True, "Create tasks for images that are not in the project yet.", first=True)
    show: bool = option(True, "Show these predictions to the project's annotators.", first=True)
    tasks_per_request: int = option(1000, "Limit the tasks per request.", above=0)
    max_request_mb: float = option(20.0, "Limit the size of a request.", metavar="MB", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.url.startswith(("http://", "https://")),
            f"--url must be the URL of a server (https://...), got {self.url!r}",
        )
        require(
            not (self.create_storage and self.image_url.startswith(LOCAL_FILES) and not self.document_root),
            "--create-storage needs --document-root (the server's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT) to know the "
            f"folder of the images on the server: --image-url names it only as {self.image_url!r}",
        )
