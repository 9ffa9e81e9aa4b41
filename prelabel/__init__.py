"""Pre-label image datasets at scale: from object storage through a detector to Parquet, COCO, Label Studio and others.

    import prelabel

    prelabel.label("s3://bucket/photos", detector="openimages-ssd-mobilenet-v2", output="s3://bucket/run")
    for row in prelabel.open_run("s3://bucket/run").rows():
        print(row.image_id, row.detections.label if row.detections else row.error)
    prelabel.export_label_studio("s3://bucket/run", "tasks/")

Each function does what the command of the same name does, and accepts its options as keywords. Everything in `__all__`
is stable. `import prelabel` loads nothing else; each name is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_FUNCTIONS = (
    *("label", "estimate", "fuse", "open_run", "status", "verify"),
    *("choose_images", "preview", "evaluate", "compare", "diff"),
    *("export_coco", "export_cvat", "export_label_studio", "export_voc", "export_yolo"),
    *("extract", "push_label_studio"),
)

#: The classes that the functions return and raise, and those that detectors are made of, each with its module.
_CLASSES = {
    "Summary": "engine.progress",
    "Estimate": "estimates.estimate",
    "FusionSummary": "fusion.job",
    "Run": "store.run",
    "ImageRow": "store.rows",
    "Detections": "detections",
    "Detector": "detectors.base",
    "DetectorInfo": "detectors.base",
    "ClassName": "detections",
    "KeypointSet": "keypoints",
    "RunStatus": "store.status",
    "Verification": "store.verify",
    "ImageChoice": "triage.choosing",
    "ExportReport": "export.base",
    "ExtractReport": "export.extract",
    "PushReport": "label_studio.push",
    "EvaluationSummary": "review.summaries",
    "ComparisonSummary": "review.summaries",
    "DiffSummary": "difference.from_run",
    "PrelabelError": "errors",
}

__all__ = ["__version__", *_FUNCTIONS, *_CLASSES]


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        from prelabel import api
        from prelabel.signatures import document

        value = document(getattr(api, name))
    elif name in _CLASSES:
        value = getattr(import_module(f"prelabel.{_CLASSES[name]}"), name)
    else:
        raise AttributeError(f"module 'prelabel' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_FUNCTIONS, *_CLASSES]
