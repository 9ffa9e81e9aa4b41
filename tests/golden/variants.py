"""Every export, judgement and look at a run in each variant of its options that changes what is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.golden.harness import Case

Options = tuple[str, ...]

#: Which detections: the same options for all exports, `evaluate`, `compare` and `preview`.
SELECTION: Mapping[str, Options] = {
    "all": ("--score-threshold", "0"),
    "high": ("--score-threshold", "0.7"),
    "class-threshold": ("--class-threshold", "Dog=0.6", "--class-threshold", "Cat=0.1"),
    "class-star": ("--class-threshold", "*=0.5", "--class-threshold", "Dog=0.2"),
    "include": ("--include-class", "Dog", "--score-threshold", "0"),
    "exclude": ("--exclude-class", "Dog", "--score-threshold", "0.1"),
    "max-detections": ("--max-detections", "2", "--score-threshold", "0"),
    "nms": ("--nms-iou", "0.3", "--score-threshold", "0"),
    "nms-across": ("--nms-iou", "0.3", "--no-nms-per-class", "--score-threshold", "0"),
    "class-map": ("--class-map", "Dog=pet", "--class-map", "Cat=pet", "--score-threshold", "0"),
    "none-left": ("--score-threshold", "1"),
}

COCO: Mapping[str, Options] = {
    "default": (),
    "polygon": ("--segmentation", "polygon", "--score-threshold", "0"),
    "polygon-coarse": ("--segmentation", "polygon", "--polygon-tolerance", "4", "--score-threshold", "0"),
    "polygon-exact": ("--segmentation", "polygon", "--polygon-tolerance", "0", "--score-threshold", "0"),
    "boxes": ("--segmentation", "none", "--score-threshold", "0"),
    "results": ("--results", "results.json", "--score-threshold", "0"),
    "results-boxes": ("--results", "results.json", "--score-threshold", "0", "--segmentation", "none"),
    "split": ("--split", "4", "--results", "results.json"),
    "score-attribute": ("--score-field", "attribute"),
    "stored": ("--frame", "stored", "--score-threshold", "0"),
    "browser": ("--frame", "browser", "--score-threshold", "0"),
    "stored-polygon": ("--frame", "stored", "--segmentation", "polygon"),
    "ids-stem": ("--image-ids", "stem"),
    "categories-coco": ("--categories", "coco", "--unlisted", "drop"),
    "categories-coco-error": ("--categories", "coco"),
}

LABEL_STUDIO: Mapping[str, Options] = {
    "default": (),
    "rectangle": ("--shape", "rectangle", "--score-threshold", "0"),
    "polygon": ("--shape", "polygon", "--score-threshold", "0"),
    "brush": ("--shape", "brush", "--score-threshold", "0"),
    "polygon-split": ("--shape", "polygon", "--mask-parts", "split", "--score-threshold", "0"),
    "polygon-largest": ("--shape", "polygon", "--mask-parts", "largest", "--score-threshold", "0"),
    "polygon-coarse": ("--shape", "polygon", "--polygon-tolerance", "3", "--polygon-min-area", "100"),
    "polygon-exact": ("--shape", "polygon", "--polygon-tolerance", "0", "--polygon-min-area", "0"),
    "max-points": ("--shape", "polygon", "--max-points", "20", "--score-threshold", "0"),
    "max-masks": ("--shape", "brush", "--max-masks", "1", "--score-threshold", "0"),
    "image-url": ("--image-url", "https://images.example/root"),
    "image-template": ("--image-url", "https://images.example/{image_id}?f={file_name}&u={uri}"),
    "document-root": ("--document-root", "/tmp"),  # noqa: S108 - no file is written there
    "labels-present": ("--labels", "present"),
    "labels-all": ("--labels", "all"),
    "choice-multiple": ("--choice", "multiple", "--score-threshold", "0"),
    "names": ("--from-name", "tool", "--to-name", "picture"),
    "task-score-min": ("--task-score", "min"),
    "task-score-max": ("--task-score", "max"),
    "task-score-uncertainty": ("--task-score", "uncertainty"),
    "include-failed": ("--include-failed",),
    "sync": ("--layout", "sync"),
    "sync-jsonl": ("--layout", "sync-jsonl"),
    "predictions": ("--layout", "predictions"),
    "tasks-per-file": ("--tasks-per-file", "7"),
    "small-files": ("--max-file-mb", "0.01"),
}

CVAT: Mapping[str, Options] = {
    "default": ("--labels-file", "labels.json"),
    "polygon": ("--segmentation", "polygon", "--score-threshold", "0"),
    "polygon-split": ("--segmentation", "polygon", "--mask-parts", "split", "--score-threshold", "0"),
    "polygon-largest": ("--segmentation", "polygon", "--mask-parts", "largest", "--score-threshold", "0"),
    "polygon-coarse": ("--segmentation", "polygon", "--polygon-tolerance", "4"),
    "boxes": ("--segmentation", "none", "--score-threshold", "0"),
    "zip": ("--zip",),
    "labels-present": ("--labels", "present", "--labels-file", "labels.json"),
    "labels-all": ("--labels", "all", "--labels-file", "labels.json"),
    "categories-coco": ("--categories", "coco", "--unlisted", "drop"),
}

YOLO: Mapping[str, Options] = {
    "default": (),
    "boxes": ("--segmentation", "none", "--score-threshold", "0"),
    "scores": ("--segmentation", "none", "--scores", "--score-threshold", "0"),
    "coarse": ("--polygon-tolerance", "4", "--score-threshold", "0"),
    "labels-present": ("--labels", "present"),
    "labels-auto": ("--labels", "auto"),
    "validation": ("--val-share", "0.3"),
    "stored": ("--frame", "stored"),
    "browser": ("--frame", "browser"),
    "categories-coco": ("--categories", "coco", "--unlisted", "drop"),
}

VOC: Mapping[str, Options] = {
    "default": (),
    "one": ("--coordinates", "one", "--score-threshold", "0"),
    "subset": ("--subset", "val"),
    "labels-present": ("--labels", "present"),
    "labels-all": ("--labels", "all"),
    "stored": ("--frame", "stored"),
    "browser": ("--frame", "browser"),
    "categories-coco": ("--categories", "coco", "--unlisted", "drop"),
}

EXPORTS: Mapping[str, tuple[str, Mapping[str, Options]]] = {
    "coco": ("out.json", COCO),
    "label-studio": ("out", LABEL_STUDIO),
    "cvat": ("out.xml", CVAT),
    "yolo": ("out", YOLO),
    "voc": ("out", VOC),
}

EVALUATE: Mapping[str, Options] = {
    "default": (),
    "iou": ("--iou", "0.75"),
    "compare": ("--compare-thresholds", "Dog=0.5", "--compare-thresholds", "*=0.4"),
    "path": ("--match", "path"),
    "stem": ("--match", "stem"),
    "display": ("--truth-frame", "display"),
    "stored": ("--truth-frame", "stored"),
    "browser": ("--truth-frame", "browser"),
    "to": ("--to", "judged"),
}


def export(run: str, kind: str, variant: str, options: Options, *, whole: bool = False, to: str = "") -> Case:
    """One export of one run."""
    to = to or EXPORTS[kind][0]
    return Case(
        name=f"export-{kind}/{run.rpartition('/')[2]}-{variant}",
        commands=(("export", kind, f"@{run}", "--to", to, *options),),
        whole=whole,
    )


def every_export(run: str, *, whole: bool = False) -> Iterator[Case]:
    """All variants of all exports of a run."""
    for kind, (_, variants) in EXPORTS.items():
        for variant, options in variants.items():
            yield export(run, kind, variant, options, whole=whole and variant == "default")


def default_exports(run: str, *, whole: bool = False) -> Iterator[Case]:
    """Each export of a run without options, and with all that it has."""
    for kind in EXPORTS:
        yield export(run, kind, "default", (), whole=whole)
        yield export(run, kind, "all", ("--score-threshold", "0"))


def selections(run: str, kinds: tuple[str, ...] = ("coco", "label-studio", "yolo")) -> Iterator[Case]:
    """Each way to choose detections, in exports that differ most in what they do with it."""
    for variant, options in SELECTION.items():
        for kind in kinds:
            yield export(run, kind, f"select-{variant}", options)


def judged(run: str, truth: str, variants: Mapping[str, Options]) -> Iterator[Case]:
    """A run held against a truth."""
    for variant, options in variants.items():
        yield Case(
            name=f"evaluate/{run.rpartition('/')[2]}-{variant}",
            commands=(("evaluate", f"@{run}", "--truth", f"@{truth}", *options),),
            needs="faster_coco_eval",
        )


def records(run: str) -> Iterator[Case]:
    """What is said of a run itself."""
    name = run.rpartition("/")[2]
    for command in ("status", "verify"):
        yield Case(name=f"{command}/{name}", commands=((command, f"@{run}"), (command, f"@{run}", "--json")))


def galleries(run: str, variants: Mapping[str, Options]) -> Iterator[Case]:
    """Pages made of a run."""
    for variant, options in variants.items():
        yield Case(
            name=f"preview/{run.rpartition('/')[2]}-{variant}",
            commands=(("preview", f"@{run}", "--to", "look", *options),),
        )
