"""The table of cases: what is recorded of the commands with the data beside this file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.golden.damage import DAMAGES, RUN, changed_crowd, second_crowd
from tests.golden.harness import Case
from tests.golden.variants import (
    EVALUATE,
    SELECTION,
    default_exports,
    every_export,
    export,
    galleries,
    judged,
    records,
    selections,
)

HERE = Path(__file__).parent
DATA = HERE / "data"
EXPECTED = HERE / "expected"
#: Where a run's rows say that its photos are.
PHOTOS = Path("/tmp/prelabel-golden/photos")  # noqa: S108 - a fixed place is what is wanted

COMMANDS = (
    *((), ("label",), ("fuse",), ("status",), ("verify",), ("export",), ("export", "coco"), ("export", "label-studio")),
    *(
        ("export", "cvat"),
        ("export", "yolo"),
        ("export", "voc"),
        ("preview",),
        ("select",),
        ("extract",),
        ("evaluate",),
        ("compare",),
    ),
    ("diff",),
    *(("push",), ("push", "label-studio"), ("detectors",), ("inspect",), ("fetch",), ("synth",), ("demo",)),
)

RUNS = ("shapes", "photos", "crowd", "many", "named", "labels", "tasks", "nothing", "failures")


def every_case() -> list[Case]:
    """All of them, each with a name of its own."""
    cases = [
        *helps(),
        *exports(),
        *evaluations(),
        *comparisons(),
        *previews(),
        *of_runs(),
        *fusions(),
        *differences(),
        *damages(),
        *models(),
        *scenes(),
        *mistakes(),
    ]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return cases


def put_photos() -> None:
    """The photos where the run has them; whole at once, since others may be doing the same."""
    if PHOTOS.is_dir():
        return
    PHOTOS.parent.mkdir(exist_ok=True)
    beside = PHOTOS.with_name(f"photos-{id(PHOTOS)}")
    shutil.copytree(DATA / "photos", beside, dirs_exist_ok=True)
    try:
        beside.rename(PHOTOS)
    except OSError:
        shutil.rmtree(beside)


def helps() -> Iterator[Case]:
    """What every command says of itself, on a narrow and a wide terminal."""
    for command in COMMANDS:
        name = "-".join(command) or "prelabel"
        yield Case(name=f"help/{name}", commands=((*command, "--help"),), whole=True)
        yield Case(name=f"help/{name}-narrow", commands=((*command, "-h"),), terminal=60)
    yield Case(name="help/version", commands=(("--version",),))
    yield Case(name="help/nothing", commands=((),), own_process=True)
    yield Case(name="help/group", commands=(("export",),))
    yield Case(name="help/own-process", commands=(("status", "--help"),), own_process=True)
    yield Case(
        name="help/complete-bash", commands=((),), own_process=True, env=(("_PRELABEL_COMPLETE", "bash_source"),)
    )
    words = (("COMP_WORDS", "prelabel export coco --seg"), ("COMP_CWORD", "3"))
    yield Case(
        name="help/complete-words",
        commands=((),),
        own_process=True,
        env=(("_PRELABEL_COMPLETE", "bash_complete"), *words),
    )


def exports() -> Iterator[Case]:
    """Every format in every variant."""
    yield from every_export("runs/shapes", whole=True)
    yield from every_export("runs/crowd")
    yield from selections("runs/shapes")
    yield from selections("runs/crowd")
    for run in ("photos", "many", "named", "labels", "tasks", "nothing", "failures"):
        yield from default_exports(f"runs/{run}")
    crowd = "runs/crowd"
    for kind in ("coco", "cvat", "yolo", "voc"):
        for name, file in (("pbtxt", "crowd.pbtxt"), ("csv", "crowd.csv"), ("names", "names.json")):
            yield export(crowd, kind, f"categories-{name}", ("--categories", f"@files/{file}"))
        yield export(crowd, kind, "categories-truth", ("--categories", "@truth/crowd.json"))
        yield export(crowd, kind, "categories-few", ("--categories", "@files/few.txt", "--unlisted", "drop"))
        yield export(crowd, kind, "categories-few-error", ("--categories", "@files/few.txt"))
    yield export(crowd, "coco", "ids-truth", ("--image-ids", "@truth/crowd.json", "--results", "results.json"))
    yield export(crowd, "coco", "ids-others", ("--image-ids", "@truth/turns.json"))
    yield export("runs/shapes", "coco", "odd", ("--categories", "@files/odd.json", "--score-threshold", "0"))
    yield export("runs/many", "coco", "polygon", ("--segmentation", "polygon"))
    yield export("runs/many", "label-studio", "labels-all", ("--labels", "all"))
    yield export("runs/many", "cvat", "labels-all", ("--labels", "all"))
    yield export("runs/many", "voc", "labels-all", ("--labels", "all"))
    yield export("runs/many", "yolo", "labels-present", ("--labels", "present"))
    yield export("runs/many", "label-studio", "polygon", ("--shape", "polygon"))
    yield export("runs/labels", "label-studio", "multiple", ("--choice", "multiple", "--score-threshold", "0"))
    yield export("runs/labels", "label-studio", "failed", ("--include-failed",))
    yield export("runs/tasks", "label-studio", "predictions", ("--layout", "predictions"))
    yield export(crowd, "label-studio", "config", ("--label-config", "@files/labels.xml", "--unlisted", "drop"))
    yield export(crowd, "label-studio", "config-error", ("--label-config", "@files/labels.xml"))
    yield export(crowd, "label-studio", "config-all", ("--label-config", "@files/labels-all.xml"))
    yield export(crowd, "label-studio", "threshold-file", ("--class-threshold", "@files/thresholds.yaml"))
    yield export(crowd, "coco", "roll-up", ("--roll-up", "Mammal", "--roll-up", "Animal", "--score-threshold", "0"))
    yield export(crowd, "voc", "subclasses", ("--include-class", "Animal", "--with-subclasses"))
    yield export("runs/shapes", "cvat", "roll-up", ("--roll-up", "Animal", "--most-specific", "--nms-iou", "0.5"))
    yield export(crowd, "label-studio", "class-map-file", ("--class-map", "@files/classes.csv"))
    for kind in ("yolo", "voc"):
        for images in ("copy", "link"):
            yield export("runs/photos", kind, images, ("--image-files", images))
    yield export("runs/photos", "yolo", "copy-validation", ("--image-files", "copy", "--val-share", "0.5"))
    yield export("runs/named", "yolo", "copy", ("--image-files", "copy", "--links", "@files/list.csv"))
    # Once more into the same place, and by an address of a folder that is not there yet.
    again = ("export", "label-studio", "@runs/shapes", "--to", "deep/er/out", "--layout", "sync")
    yield Case(name="export-label-studio/again", commands=(again, (*again, "--score-threshold", "0.9")))
    yield Case(
        name="export-coco/again",
        commands=tuple(("export", "coco", "@runs/crowd", "--to", "out.json", "--split", n) for n in ("5", "30")),
    )
    yield Case(
        name="export-yolo/own-process",
        commands=(("export", "yolo", "@runs/shapes", "--to", "out"),),
        own_process=True,
    )


def evaluations() -> Iterator[Case]:
    """Runs beside truths."""
    yield from judged("runs/crowd", "truth/crowd.json", {**EVALUATE, **SELECTION})
    stems = {f"stems-{name}": EVALUATE[name] for name in ("default", "path", "stem")}
    yield from judged("runs/crowd", "truth/crowd-stems.json", stems)
    labels = {"stems-labels": ("--truth-labels", "@files/crowd.csv")}
    yield from judged("runs/crowd", "truth/crowd-stems.json", labels)
    frames = {name: EVALUATE[name] for name in ("default", "display", "stored", "browser")}
    yield from judged("runs/shapes", "truth/turns.json", frames)
    yield from judged("runs/labels", "truth/turns.json", {"default": ()})
    yield from judged("runs/named", "truth/turns.json", {"default": ()})
    thresholds = ("--class-threshold", "evaluated/thresholds.yaml")
    first = ("evaluate", "@runs/crowd", "--truth", "@truth/crowd.json", "--to", "evaluated")
    yield Case(
        name="evaluate/crowd-then-export",
        commands=(first, ("export", "coco", "@runs/crowd", "--to", "out.json", *thresholds)),
        needs="faster_coco_eval",
    )


def comparisons() -> Iterator[Case]:
    """Runs beside what people made of them."""
    start = ("compare", "--predictions", "@runs/crowd", "--annotations")
    for shape in ("rectangle", "polygon", "brush"):
        made = ("export", "label-studio", "@runs/crowd", "--to", "tasks", "--shape", shape)
        compared = (*start, f"@annotations/crowd-{shape}.json")
        yield Case(name=f"compare/{shape}", commands=(compared,))
        yield Case(name=f"compare/{shape}-after-export", commands=(made, compared))
        yield Case(name=f"compare/{shape}-stated", commands=((*compared, "--score-threshold", "0.5"),))
    compared = (*start, "@annotations/crowd-coco.json")
    variants = {
        "coco": (),
        "coco-stored": ("--annotations-frame", "stored"),
        "coco-iou": ("--iou", "0.8", "--kept-iou", "0.9"),
        "coco-to": ("--to", "compared"),
        "coco-classes": ("--class-map", "Dog=pet", "--exclude-class", "Cat"),
    }
    for variant, options in variants.items():
        yield Case(name=f"compare/{variant}", commands=((*compared, *options),))
    exported = ("export", "coco", "@runs/crowd", "--to", "out.json", "--score-threshold", "0.2")
    higher = ("export", "coco", "@runs/crowd", "--to", "out.json", "--score-threshold", "0.6")
    yield Case(name="compare/coco-after-export", commands=(exported, compared))
    yield Case(name="compare/coco-after-two", commands=(exported, higher, compared))
    yield Case(
        name="compare/polygon-tolerance",
        commands=((*start, "@annotations/crowd-polygon.json", "--polygon-tolerance", "2", "--polygon-min-area", "0"),),
    )


def previews() -> Iterator[Case]:
    """Galleries."""
    variants = {
        "default": (),
        "single": ("--single-file",),
        "small": ("--thumbnail-size", "32", "--picture-size", "64", "--threads", "1"),
        "sample": ("--limit", "3", "--seed", "4"),
        "all": ("--limit", "0", "--score-threshold", "0"),
        "chosen": ("--include-class", "Dog", "--max-detections", "1"),
        "none-left": ("--score-threshold", "1"),
    }
    yield from galleries("runs/photos", variants)
    yield from galleries("runs/failures", {"default": ()})


def of_runs() -> Iterator[Case]:
    """What is said of runs, those of earlier releases too."""
    for run in RUNS:
        yield from records(f"runs/{run}")
    yield Case(name="status/own-process", commands=(("status", "@runs/crowd"),), own_process=True)
    yield Case(name="verify/own-process", commands=(("verify", "@runs/crowd"),), own_process=True)


def fusions() -> Iterator[Case]:
    """Runs that become one. What is written differs from run to run, as the id of a run does, so it is not recorded."""
    start = ("fuse", "@runs/crowd", "runs/second", "--to", "memory://fused")
    yield Case(name="fuse/weights", commands=((*start, "--weights", "3,1", "--overwrite"),), edit=second_crowd)
    yield Case(
        name="fuse/again",
        commands=((*start, "--merge", "nms", "--overwrite"), (*start, "--merge", "nms"), (*start, "--merge", "nmm")),
        edit=second_crowd,
    )
    pets = ("--class-map", "Dog=pet", "--class-map", "Cat=pet")
    yield Case(name="fuse/class-map", commands=((*start, *pets, "--overwrite"),), edit=second_crowd)
    yield Case(
        name="fuse/apart",
        commands=(("fuse", "@runs/crowd", "@runs/named", "--to", "memory://fused", "--overwrite"),),
    )


def differences() -> Iterator[Case]:
    """What changed between two runs."""
    start = ("diff", "@runs/crowd", "runs/second", "--to", "report", "--no-pictures")
    variants = {
        "default": (),
        "all-scores": ("--score-threshold", "0", "--images", "2"),
        "rescored": ("--score-shift", "0.05", "--kept-iou", "0.8", "--iou-on", "boxes"),
        "fail-above": ("--fail-above", "0.01", "--include-class", "Dog"),
    }
    for variant, options in variants.items():
        yield Case(name=f"diff/{variant}", commands=((*start, *options),), edit=changed_crowd)
    yield Case(name="diff/same", commands=(start,), edit=second_crowd)
    yield Case(name="diff/apart", commands=(("diff", "@runs/crowd", "@runs/named", "--to", "report"),))


def damages() -> Iterator[Case]:
    """Runs to which something happened."""
    run = f"@{RUN}"
    exported = ("export", "coco", run, "--to", "out.json")
    for name, edit in DAMAGES.items():
        more = (("verify", "@runs/crowd"),) if name == "foreign" else ()
        commands = (("verify", run), ("verify", run, "--json"), ("status", run), exported, *more)
        yield Case(name=f"damaged/{name}", commands=commands, edit=edit)


def models() -> Iterator[Case]:
    """The catalog, and networks that come with the package or are none."""
    yield Case(name="models/detectors", commands=(("detectors",), ("detectors", "--json")), whole=True)
    yield Case(name="models/demo-shapes", commands=(("inspect", "demo-shapes"),), whole=True)
    yield Case(name="models/label-map", commands=(("inspect", "demo-shapes", "--label-map", "@files/few.txt"),))
    yield Case(name="models/range", commands=(("inspect", "demo-shapes", "--input-range", "0..1"),))
    yield Case(name="models/mask-frame", commands=(("inspect", "demo-shapes", "--mask-frame", "image"),))
    yield Case(name="models/folder", commands=(("inspect", "@files"),))
    yield Case(name="models/file", commands=(("inspect", "@files/few.txt"),))
    yield Case(name="models/unknown", commands=(("inspect", "demo-shape"),))


def scenes() -> Iterator[Case]:
    """Scenes that are drawn."""
    yield Case(name="synth/three", commands=(("synth", "--images", "3", "--seed", "7", "--to", "scenes"),))
    yield Case(
        name="synth/other-files",
        commands=(("synth", "--images", "2", "--to", "runs"), ("verify", "@runs/nothing")),
    )
    yield Case(name="synth/none", commands=(("synth", "--images", "0", "--to", "scenes"),))


def mistakes() -> Iterator[Case]:
    """What people get wrong, and what they are told."""
    run, to = "@runs/crowd", ("--to", "out")
    label = ("label", "@photos", "--detector", "demo-shapes", "--output", "out")
    compared = ("compare", "--predictions", run, "--annotations")
    truth = ("--truth", "@truth/crowd.json")
    table: dict[str, tuple[str, ...]] = {
        "unknown-command": ("lable",),
        "unknown-option": ("export", "coco", run, "--to", "x.json", "--tresholds", "1"),
        "unknown-export": ("export", "pascal", run),
        "no-such-run": ("status", "nowhere"),
        "run-is-a-file": ("status", "@files/few.txt"),
        "folder-is-no-run": ("verify", "@files"),
        "export-no-run": ("export", "coco", "nowhere", "--to", "x.json"),
        "export-no-to": ("export", "coco", run),
        "export-to-a-folder": ("export", "coco", run, "--to", "@files"),
        "export-to-a-file": ("export", "yolo", run, "--to", "@files/few.txt"),
        "threshold-text": ("export", "coco", run, "--to", "x.json", "--score-threshold", "high"),
        "threshold-high": ("export", "coco", run, "--to", "x.json", "--score-threshold", "1.5"),
        "threshold-class": ("export", "coco", run, "--to", "x.json", "--class-threshold", "Dog"),
        "threshold-class-high": ("export", "coco", run, "--to", "x.json", "--class-threshold", "Dog=7"),
        "threshold-unknown-class": ("export", "coco", run, "--to", "x.json", "--class-threshold", "Dgo=0.5"),
        "threshold-file": (
            "export",
            "coco",
            run,
            "--to",
            "x.json",
            "--class-threshold",
            "@files/wrong-thresholds.yaml",
        ),
        "threshold-both": (
            *("export", "coco", run, "--to", "x.json"),
            *("--class-threshold", "*=0.5", "--score-threshold", "0.2"),
        ),
        "include-unknown": ("export", "coco", run, "--to", "x.json", "--include-class", "Dogg"),
        "include-and-exclude": (
            *("export", "coco", run, "--to", "x.json"),
            *("--include-class", "Dog", "--exclude-class", "Dog"),
        ),
        "roll-up-unknown": ("export", "coco", run, "--to", "x.json", "--roll-up", "Vehicel"),
        "roll-up-none": ("export", "coco", run, "--to", "x.json", "--roll-up", "Vehicle"),
        "roll-up-list": ("export", "coco", run, "--to", "x.json", "--roll-up", "Vehicle,Animal"),
        "most-specific-none": ("export", "coco", run, "--to", "x.json", "--most-specific"),
        "map-unknown": ("export", "coco", run, "--to", "x.json", "--class-map", "Horse=pet"),
        "map-nothing": ("export", "coco", run, "--to", "x.json", "--class-map", "Dog="),
        "nms-zero": ("export", "coco", run, "--to", "x.json", "--nms-iou", "0"),
        "max-detections-zero": ("export", "coco", run, "--to", "x.json", "--max-detections", "0"),
        "segmentation-word": ("export", "coco", run, "--to", "x.json", "--segmentation", "masks"),
        "tolerance-negative": ("export", "coco", run, "--to", "x.json", "--polygon-tolerance", "-1"),
        "split-zero": ("export", "coco", run, "--to", "x.json", "--split", "0"),
        "results-same-file": ("export", "coco", run, "--to", "x.json", "--results", "x.json"),
        "image-ids-missing": ("export", "coco", run, "--to", "x.json", "--image-ids", "nowhere.json"),
        "image-ids-stem": ("export", "coco", "@runs/shapes", "--to", "x.json", "--image-ids", "stem"),
        "categories-missing": ("export", "coco", run, "--to", "x.json", "--categories", "nowhere.txt"),
        "categories-empty": ("export", "coco", run, "--to", "x.json", "--categories", "@files/empty.txt"),
        "categories-bytes": ("export", "coco", run, "--to", "x.json", "--categories", "@files/not-utf8.txt"),
        "categories-doubled": ("export", "coco", run, "--to", "x.json", "--categories", "@files/doubled.json"),
        "categories-odd-csv": ("export", "coco", run, "--to", "x.json", "--categories", "@files/without-numbers.csv"),
        "storage-options": ("status", run, "--storage-options", "{"),
        "storage-options-list": ("status", run, "--storage-options", "[]"),
        "protocol": ("status", "nonsense://bucket/run"),
        "voc-categories-ending": ("export", "voc", run, *to, "--categories", "@files/broken.xml"),
        "yolo-share": ("export", "yolo", run, *to, "--val-share", "2"),
        "yolo-scores-segments": ("export", "yolo", run, *to, "--scores"),
        "cvat-zip-name": ("export", "cvat", run, "--to", "out.xml", "--zip", "--labels-file", "out.xml"),
        "config-missing": ("export", "label-studio", run, *to, "--label-config", "nowhere.xml"),
        "config-broken": ("export", "label-studio", run, *to, "--label-config", "@files/broken.xml"),
        "config-no-image": ("export", "label-studio", run, *to, "--label-config", "@files/no-image.xml"),
        "image-url-field": ("export", "label-studio", run, *to, "--image-url", "https://x/{name}"),
        "layout-predictions": ("export", "label-studio", run, *to, "--layout", "predictions"),
        "tasks-zero": ("export", "label-studio", run, *to, "--tasks-per-file", "0"),
        "local-files": ("export", "label-studio", "@runs/photos", *to, "--document-root", "/nowhere"),
        "truth-none": ("evaluate", run),
        "truth-missing": ("evaluate", run, "--truth", "nowhere.json"),
        "truth-broken": ("evaluate", run, "--truth", "@files/broken.json"),
        "truth-list": ("evaluate", run, "--truth", "@files/list.json"),
        "truth-no-images": ("evaluate", run, "--truth", "@files/no-images.json"),
        "truth-zip": ("evaluate", run, "--truth", "@files/zipped.json"),
        "truth-of-others": ("evaluate", run, "--truth", "@truth/turns.json"),
        "truth-iou": ("evaluate", run, *truth, "--iou", "0"),
        "truth-labels-missing": ("evaluate", run, *truth, "--truth-labels", "nowhere.txt"),
        "evaluate-to-a-file": ("evaluate", run, *truth, "--to", "@files/few.txt"),
        "annotations-none": ("compare", "--predictions", run),
        "predictions-none": ("compare", "--annotations", "@annotations/crowd-coco.json"),
        "annotations-missing": (*compared, "nowhere.json"),
        "annotations-broken": (*compared, "@files/broken.json"),
        "annotations-list": (*compared, "@files/list.json"),
        "annotations-zip": (*compared, "@files/zipped.json"),
        "annotations-of-others": (*compared, "@truth/turns.json"),
        "annotations-iou": (*compared, "@annotations/crowd-coco.json", "--kept-iou", "2"),
        "preview-limit": ("preview", run, *to, "--limit", "-1"),
        "preview-size": ("preview", run, *to, "--thumbnail-size", "0"),
        "preview-threads": ("preview", run, *to, "--threads", "0"),
        "push-no-url": ("push", "label-studio", run),
        "push-no-project": ("push", "label-studio", run, "--url", "http://127.0.0.1:9"),
        "push-no-token": ("push", "label-studio", run, "--url", "http://127.0.0.1:9", "--project", "x"),
        "push-token-file": (
            *("push", "label-studio", run, "--url", "http://127.0.0.1:9", "--project", "x"),
            *("--token-file", "nowhere"),
        ),
        "push-token-words": (
            *("push", "label-studio", run, "--url", "http://127.0.0.1:9", "--project", "x"),
            *("--token-file", "@files/labels.xml"),
        ),
        "label-nothing": ("label",),
        "label-no-detector": ("label", "@photos", "--output", "out"),
        "label-no-output": ("label", "@photos", "--detector", "demo-shapes"),
        "label-no-source": ("label", "--detector", "demo-shapes", "--output", "out"),
        "label-source-missing": ("label", "nowhere", *label[2:]),
        "label-source-glob": ("label", "nowhere/*.jpg", *label[2:]),
        "label-source-empty": ("label", "@runs/crowd/shards", *label[2:]),
        "label-list-columns": ("label", "@files/list.csv", *label[2:]),
        "label-list-empty": ("label", "@files/empty.csv", *label[2:]),
        "label-list-twice": ("label", "@files/twice.csv", *label[2:]),
        "label-coco-broken": ("label", "@files/broken.json", *label[2:]),
        "label-detector-unknown": ("label", "@photos", "--detector", "openimages-sdd", "--output", "out"),
        "fuse-one": ("fuse", run, "--to", "out"),
        "fuse-none": ("fuse", "--to", "out"),
        "fuse-no-to": ("fuse", run, "@runs/shapes"),
        "fuse-twice": ("fuse", run, run, "--to", "out"),
        "fuse-into-a-run": ("fuse", run, "@runs/shapes", "--to", "runs/shapes"),
        "fuse-no-such-run": ("fuse", run, "nowhere", "--to", "out"),
        "fuse-classifier": ("fuse", run, "@runs/labels", "--to", "out"),
        "fuse-weights": ("fuse", run, "@runs/shapes", "--to", "out", "--weights", "1,2,3"),
        "fuse-weights-zero": ("fuse", run, "@runs/shapes", "--to", "out", "--weights", "1,0"),
        "fuse-weights-text": ("fuse", run, "@runs/shapes", "--to", "out", "--weights", "1;2"),
        "fuse-weights-nms": ("fuse", run, "@runs/shapes", "--to", "out", "--weights", "1,2", "--merge", "nms"),
        "fuse-iou": ("fuse", run, "@runs/shapes", "--to", "out", "--merge-iou", "1"),
        "fuse-unknown-class": ("fuse", run, "@runs/shapes", "--to", "out", "--include-class", "Dogg"),
        "diff-one": ("diff", run),
        "diff-twice": ("diff", run, run),
        "diff-classifier": ("diff", run, "@runs/labels", "--to", "out"),
        "diff-no-such-run": ("diff", run, "nowhere"),
        "diff-share": ("diff", run, "@runs/shapes", "--fail-above", "1.5"),
        "diff-kept-iou": ("diff", run, "@runs/shapes", "--kept-iou", "0.2"),
        "fuse-over-label": ("fuse", run, "@runs/shapes", "--to", "@runs/photos"),
        "label-detector-folder": ("label", "@photos", "--detector", "@files", "--output", "out"),
        "label-detector-file": ("label", "@photos", "--detector", "@files/few.txt", "--output", "out"),
        "label-map-missing": (*label, "--label-map", "nowhere.txt"),
        "label-output-is-source": ("label", "@photos", "--detector", "demo-shapes", "--output", "photos"),
        "label-output-is-a-file": (*label[:-1], "@files/few.txt"),
        "label-output-other-run": (*label[:-1], "@runs/photos"),
        "label-score": (*label, "--score-threshold", "2"),
        "label-workers": (*label, "--workers", "0"),
        "label-shard-size": (*label, "--shard-size", "0"),
        "label-limit": (*label, "--limit", "0"),
        "label-range": (*label, "--input-range", "0..2"),
        "label-keep": (*label, "--keep", "embeddings"),
        "label-top-k": (*label, "--top-k", "0"),
        "label-two-ways": (*label, "--overwrite", "--retry-failed"),
        "label-job-missing": ("label", "--config", "nowhere.yaml"),
        "label-job-option": ("label", "--config", "@files/job.yaml"),
        "label-job-type": ("label", "--config", "@files/job-type.yaml"),
        "label-job-output": ("label", "--config", "@files/job.toml"),
        "label-job-ending": ("label", "--config", "@files/few.txt"),
        "label-server": ("label", "label-studio://server/x", *label[2:]),
        "inspect-nothing": ("inspect",),
        "synth-no-to": ("synth",),
        "synth-seed": ("synth", "--seed", "-1", "--to", "out"),
        "demo-images": ("demo", "--images", "0"),
    }
    for name, command in table.items():
        needs = "label_studio_sdk" if name.startswith("push-no-token") else ""
        yield Case(name=f"mistakes/{name}", commands=(command,), needs=needs)
    for name in ("unknown-command", "no-such-run", "export-no-to"):
        yield Case(name=f"mistakes/{name}-own-process", commands=(table[name],), own_process=True)
