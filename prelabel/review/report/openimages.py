"""The report of Open Images' metrics: JSON for programs, tables for the terminal, and an HTML page.

evaluate --metric openimages       openimages.json       openimages.html
evaluate --metric openimages-v2    openimages-v2.json    openimages-v2.html
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from prelabel.errors import first_of
from prelabel.pages.markup import Markup, tag
from prelabel.review.openimages.evaluation import METRICS, OpenImagesClass, OpenImagesEvaluation
from prelabel.review.openimages.scores import OVERLAP
from prelabel.review.report.document import document, figure, html_table, notes, panels, tiles
from prelabel.review.report.files import json_text, run_json, write_files
from prelabel.review.report.image_lists import ImageLists
from prelabel.review.report.plots import Plot, round_up
from prelabel.review.report.tables import MAX_CLASSES, Table, decimal, nonzero_rows, notes_tables
from prelabel.storage.files import Storage
from prelabel.words import counted

#: Number of bins of the histogram of AP, and maximum number of classes that the tooltip of a bin names.
_BINS, _MAX_NAMES = 10, 12


def write_open_images(evaluation: OpenImagesEvaluation, to: str, storage: Storage) -> tuple[str, ...]:
    """Write the two files of an evaluation into a folder.

    Returns:
        URLs of the files.

    Raises:
        StoreError: A file cannot be written.
    """
    contents = {
        f"{evaluation.metric}.json": json_text(open_images_json(evaluation)),
        f"{evaluation.metric}.html": open_images_page(evaluation),
    }
    return write_files(contents, to, storage)


def open_images_json(evaluation: OpenImagesEvaluation) -> dict[str, Any]:
    """The content of the JSON file; see `schemas/openimages.schema.json`."""
    objects, groups = evaluation.boxes
    return {
        "schema_version": 1,
        "metric": evaluation.metric,
        "run": run_json(evaluation.info),
        "truth": evaluation.truth,
        "image_labels": evaluation.image_labels,
        "images": asdict(evaluation.images),
        "boxes": {"objects": objects, "groups": groups},
        "detections": {
            "total": evaluation.detections,
            "other_classes": evaluation.other_classes,
            "unverified": evaluation.unverified,
            "expanded": evaluation.expanded,
        },
        "iou": OVERLAP,
        "mean_ap": evaluation.mean_ap,
        "classes": [asdict(entry) for entry in evaluation.classes],
        "notes": list(evaluation.notes),
    }


def open_images_tables(evaluation: OpenImagesEvaluation) -> list[Table]:
    """The tables for a terminal, in order; notes are a table of one column."""
    by_objects = sorted(evaluation.classes, key=lambda entry: -entry.objects)[:MAX_CLASSES]
    title = "classes, most objects first"
    if len(by_objects) < len(evaluation.classes):
        title = f"{len(by_objects)} of {len(evaluation.classes)} {title}"
    return [
        images_table(evaluation),
        *notes_tables(evaluation.notes),
        _classes_table(title, by_objects),
        Table(
            "",
            (METRICS[evaluation.metric].title, ""),
            (
                (f"mean AP at IoU {OVERLAP}", decimal(evaluation.mean_ap)),
                ("classes with objects", f"{_with_objects(evaluation):,}"),
            ),
        ),
    ]


def images_table(evaluation: OpenImagesEvaluation) -> Table:
    """How many images, boxes and detections were compared."""
    images, (objects, groups) = evaluation.images, evaluation.boxes
    rows = [
        ("images compared", f"{images.matched:,}"),
        *nonzero_rows(
            ("  failed images (count as no detections)", images.failed),
            ("images in the run but not in the truth", images.only_run),
            (f"images in the truth but not in the {'list' if evaluation.listed else 'run'}", images.only_truth),
        ),
        ("objects", f"{objects:,}"),
        ("groups of objects", f"{groups:,}"),
        ("detections", f"{evaluation.detections:,}"),
        *nonzero_rows(
            ("  of classes that are not verified on their image (ignored)", evaluation.unverified),
            ("  of classes that Open Images does not have (ignored)", sum(evaluation.other_classes.values())),
        ),
    ]
    return Table("", (), tuple(rows))


def _classes_table(title: str, classes: list[OpenImagesClass]) -> Table:
    rows = (
        (
            entry.name,
            decimal(entry.ap),
            *(f"{count:,}" for count in (entry.objects, entry.groups, entry.detections, entry.correct)),
        )
        for entry in classes
    )
    return Table(title, ("class", "AP", "objects", "groups", "detections", "correct"), tuple(rows))


def _with_objects(evaluation: OpenImagesEvaluation) -> int:
    return sum(entry.ap is not None for entry in evaluation.classes)


def open_images_page(evaluation: OpenImagesEvaluation) -> str:
    """The page of an evaluation."""
    images, (objects, groups) = evaluation.images, evaluation.boxes
    facts = (
        evaluation.info.model_version,
        counted(images.matched, "image"),
        f"truth: {evaluation.truth}",
        *([f"image-level labels: {evaluation.image_labels}"] if evaluation.image_labels else []),
    )
    by_ap = sorted(evaluation.classes, key=lambda entry: -math.inf if entry.ap is None else entry.ap, reverse=True)
    boxes = "Objects and groups of a class include those of all classes below it. "
    text = (
        f"{boxes if METRICS[evaluation.metric].by_tree else ''}A class without AP has nothing to find on these images."
    )
    parts = [
        tiles(
            [
                (decimal(evaluation.mean_ap), f"mean AP at IoU {OVERLAP}, {METRICS[evaluation.metric].title}"),
                (f"{_with_objects(evaluation):,}", "classes with objects"),
                (f"{objects:,}", "objects"),
                (f"{groups:,}", "groups of objects"),
            ]
        ),
        notes(evaluation.notes),
        tag("h2", "Classes"),
        panels(_ap_plot(evaluation)),
        tag("p", text, class_="text"),
        html_table(_classes_table("", by_ap), sortable=True),
        tag("h2", "Images"),
        html_table(images_table(evaluation)),
    ]
    return document("Evaluation", facts, parts, ImageLists(()).data())


def _ap_plot(evaluation: OpenImagesEvaluation) -> Markup:
    bins: list[list[str]] = [[] for _ in range(_BINS)]
    for entry in evaluation.classes:
        if entry.ap is not None:
            bins[min(int(entry.ap * _BINS), _BINS - 1)].append(entry.name)
    plot = Plot("Classes by AP", most=round_up(max(1, *map(len, bins))), x_label="AP", y_label="classes")
    for number, names in enumerate(bins):
        if names:
            left, right = number / _BINS, (number + 1) / _BINS
            title = f"{counted(len(names), 'class', 'classes')}, AP {left:.1f} to {right:.1f}: "
            plot.bar((left + 0.003, right - 0.003), (0, len(names)), "b", title + first_of(names, _MAX_NAMES))
    if evaluation.mean_ap is not None:
        plot.rule(x=evaluation.mean_ap, class_="e", label=f"mean {evaluation.mean_ap:.3f}")
    return figure(plot.title, plot.draw())
