"""Writes the files of a report: JSON for programs, an HTML page, and thresholds for `--class-threshold`.

    evaluate    evaluation.json    evaluation.html    thresholds.yaml    thresholds-best-f1.yaml
    compare     comparison.json    comparison.html    thresholds.yaml

A thresholds file has one threshold per class, and a default for classes that it does not name:

    "*": 0.34
    "Dog": 0.6
    "Cat": 0.21
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from prelabel.errors import ConfigError
from prelabel.export.base import RunInfo
from prelabel.export.text import escaped_yaml
from prelabel.review.comparison import Comparison
from prelabel.review.edits import ClassEdits
from prelabel.review.evaluation import Evaluation
from prelabel.review.report.history import NO_HISTORY, History
from prelabel.review.report.pages import comparison_page, evaluation_page
from prelabel.review.thresholds import Cut, Ranking, Work, best_f1, cut_at
from prelabel.select import OTHERS
from prelabel.storage.address import absolute, join, redact
from prelabel.storage.files import Storage
from prelabel.store.run import Run

#: Thresholds at which evaluation.json gives precision and recall.
GRID = tuple(number / 20 for number in range(20))


def report_folder(run: Run, name: str, to: str) -> str:
    """The folder for the report of a run: `to`, or if that is empty, `name` beside the run's files.

    Raises:
        ConfigError: It is a file.
    """
    folder = absolute(to) if to else run.root.join(name).url
    if run.storage.kind(folder) == "file":
        place = f"--to {redact(to)}" if to else f"the default folder {redact(folder)}"
        raise ConfigError(f"{place} is a file, but the report is several files in a folder; give a folder with --to")
    return folder


def write_evaluation(
    evaluation: Evaluation, to: str, storage: Storage, history: History = NO_HISTORY
) -> tuple[str, ...]:
    """Write the four files of an evaluation into a folder; `history` is what was made of the run before.

    Returns:
        URLs of the files, in the order of the module's docstring.

    Raises:
        StoreError: A file cannot be written.
    """
    contents = {
        "evaluation.json": json_text(evaluation_json(evaluation)),
        "evaluation.html": evaluation_page(evaluation, to, history),
        "thresholds.yaml": suggested_thresholds(evaluation),
        "thresholds-best-f1.yaml": best_f1_thresholds(evaluation),
    }
    return write_files(contents, to, storage)


def write_comparison(
    comparison: Comparison, to: str, storage: Storage, history: History = NO_HISTORY
) -> tuple[str, ...]:
    """Write the three files of a comparison into a folder; see `write_evaluation`."""
    contents = {
        "comparison.json": json_text(comparison_json(comparison)),
        "comparison.html": comparison_page(comparison, to, history),
        "thresholds.yaml": comparison_thresholds(comparison),
    }
    return write_files(contents, to, storage)


def write_files(contents: Mapping[str, str], to: str, storage: Storage) -> tuple[str, ...]:
    """Write texts by name into a folder, and return their URLs."""
    for name, text in contents.items():
        storage.publish(join(to, name), text.encode())
    return tuple(join(to, name) for name in contents)


def json_text(values: Any) -> str:
    """Indented strict JSON, escaped to ASCII because file names may contain characters that UTF-8 cannot encode."""
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """The content of `evaluation.json`; see `schemas/evaluation.schema.json`."""
    matched = evaluation.classes.matched
    return {
        "schema_version": 1,
        "run": run_json(evaluation.info),
        "truth": evaluation.truth,
        "images": asdict(evaluation.images),
        "classes": {
            "matched": {name: [asdict(member) for member in members] for name, members in matched.items() if members},
            "only_run": evaluation.classes.only_run,
            "only_truth": list(evaluation.classes.only_truth),
        },
        "boxes": asdict(evaluation.boxes),
        "masks": None if evaluation.masks is None else asdict(evaluation.masks),
        **({} if evaluation.keypoints is None else {"keypoints": asdict(evaluation.keypoints)}),
        "thresholds": {
            "iou": evaluation.iou,
            "common": evaluation.work.common.threshold,
            "all": _curve_json(evaluation.overall),
            "by_class": {name: _curve_json(ranking) for name, ranking in evaluation.rankings.items()},
        },
        "work": _work_json(evaluation),
        "confusion": [
            {"truth": truth, "run": predicted, "count": count}
            for (truth, predicted), count in sorted(evaluation.confusion.counts.items(), key=lambda item: -item[1])
        ],
        "notes": list(evaluation.notes),
    }


def _work_json(evaluation: Evaluation) -> dict[str, Any]:
    work = evaluation.work
    schemes = ("suggested", "f1", "flat", *(("given",) if evaluation.given else ()))
    totals = {scheme: work.total(scheme) for scheme in (*schemes, "separate")} | {"common": work.common}
    return {
        "images": work.images,
        "objects": work.objects,
        **_by_hand_json(work, work.objects),
        "total": {scheme: _cut_json(cut, work) for scheme, cut in totals.items()},
        "recommended": work.recommended,
        "headline": _headline_json(work),
        "unseen": None
        if work.held_out is None
        else {
            **_by_hand_json(work, work.objects),
            **{
                f"{scheme}_per_100_images": _short(work.per_100(cut.corrections))
                for scheme, cut in {"suggested": work.headline, **work.held_out}.items()
            },
        },
        "relabel": evaluation.confusion.relabel,
        "by_class": {
            name: {
                "objects": class_work.objects,
                **_by_hand_json(work, class_work.objects),
                "own_threshold": class_work.own,
                **{scheme: _cut_json(getattr(class_work, scheme), work) for scheme in schemes},
            }
            for name, class_work in work.by_class.items()
        },
    }


def _headline_json(work: Work) -> dict[str, Any]:
    """The corrections that the suggested thresholds leave, and the boxes to draw without a detector."""
    return {
        "corrections_per_100_images": _short(work.per_100(work.headline.corrections)),
        **_by_hand_json(work, work.objects),
        "unseen_images": work.held_out is not None,
    }


def _by_hand_json(work: Work, objects: int) -> dict[str, float | None]:
    return {"by_hand_per_100_images": _short(work.per_100(objects))}


def _cut_json(cut: Cut | None, work: Work) -> dict[str, Any] | None:
    if cut is None:
        return None
    return {
        **asdict(cut),
        "threshold": None if math.isnan(cut.threshold) else cut.threshold,
        "corrections_per_100_images": _short(work.per_100(cut.corrections)),
        **_rates_json(cut),
    }


def _curve_json(ranking: Ranking) -> list[dict[str, Any]]:
    return [{"threshold": threshold, **_rates_json(cut_at(ranking, threshold))} for threshold in GRID]


def _rates_json(cut: Cut) -> dict[str, float | None]:
    return {"precision": _short(cut.precision), "recall": _short(cut.recall), "f1": _short(cut.f1)}


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The content of `comparison.json`; see `schemas/comparison.schema.json`."""
    times = comparison.times
    return {
        "schema_version": 1,
        "run": run_json(comparison.info),
        "annotations": comparison.annotations,
        "iou": comparison.iou,
        "kept_iou": comparison.kept_iou,
        "images": {
            "compared": comparison.images,
            **{
                name: getattr(comparison, name)
                for name in ("failed", "open", "skipped", "only_annotations", "other_model", "blank")
            },
        },
        "shown": {
            "by_annotations": comparison.by_annotations,
            "others": comparison.basis,
            "words": comparison.shown,
        },
        "total": {**_edits_json(comparison.total), "corrections": comparison.total.corrections},
        "by_class": {
            name: {
                **_edits_json(edits),
                "shown_from": comparison.floors[name],
                "suggested_threshold": comparison.work.by_class[name].suggested.threshold,
                "own_threshold": comparison.work.by_class[name].own,
            }
            for name, edits in comparison.by_class.items()
        },
        "relabeled": [{"from": a, "to": b, "count": count} for a, b, count in comparison.relabeled],
        "seconds": None
        if times is None
        else {"images": times.images, "total": round(times.total, 3), "median": round(times.median, 3)},
        "common_threshold": comparison.work.common.threshold,
        "recommended": comparison.work.recommended,
        "headline": _headline_json(comparison.work),
        "notes": list(comparison.notes),
    }


def _edits_json(edits: ClassEdits) -> dict[str, Any]:
    return {"shown": edits.shown, "objects": edits.objects, **edits.counts, "overlaps": list(edits.overlaps)}


def run_json(info: RunInfo) -> dict[str, Any]:
    """What identifies the run."""
    return {"run_id": info.run_id, "detector": info.detector, "model_version": info.model_version}


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def suggested_thresholds(evaluation: Evaluation) -> str:
    """The text of `thresholds.yaml` of an evaluation; see `suggested_thresholds_by_class`."""
    model, images = evaluation.info.model_version, evaluation.work.images
    head = f"Score thresholds for {model} with the fewest corrections on {images} images."
    return _thresholds_text(head, suggested_thresholds_by_class(evaluation))


def suggested_thresholds_by_class(evaluation: Evaluation) -> dict[str, float]:
    """The thresholds with the fewest corrections: the common one under `*`, and those of classes that differ."""
    return _thresholds_by_class(evaluation.work, _keys(evaluation))


def best_f1_thresholds(evaluation: Evaluation) -> str:
    """The text of `thresholds-best-f1.yaml`; classes without correct detections get the suggested threshold."""
    work = evaluation.work
    head = (
        f"Score thresholds for {evaluation.info.model_version} with the best F1 per class on {work.images} "
        "images.\n"
        "They leave more corrections than the thresholds in thresholds.yaml."
    )
    cuts = [(key, work.by_class[name].f1 or work.by_class[name].suggested) for name, key in _keys(evaluation)]
    default = best_f1(evaluation.overall, work.common.threshold) or work.common
    return thresholds_text(head, default.threshold, [(key, cut.threshold) for key, cut in cuts])


def comparison_thresholds(comparison: Comparison) -> str:
    """The text of `thresholds.yaml` of a comparison; see `comparison_thresholds_by_class`."""
    head = f"Score thresholds with the fewest corrections on {comparison.images} annotated images."
    return _thresholds_text(head, comparison_thresholds_by_class(comparison))


def comparison_thresholds_by_class(comparison: Comparison) -> dict[str, float]:
    """The thresholds with the fewest corrections: the common one under `*`, and those of shown classes that differ."""
    keys = ((name, name) for name, edits in comparison.by_class.items() if edits.shown)
    return _thresholds_by_class(comparison.work, keys)


def _keys(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """Class names of the truth, each with a key for the detector's class: its label, or its MID if labels are equal."""
    members = [(name, member) for name, matched in evaluation.classes.matched.items() for member in matched]
    count_of_label = Counter(label.casefold() for label, _ in {(member.name, member.mid) for _, member in members})
    count_of_label.update(name.casefold() for name in evaluation.classes.only_run)
    keys: set[str] = set()
    for name, member in members:
        key = member.mid if member.mid and count_of_label[member.name.casefold()] > 1 else member.name
        if key not in keys:
            keys.add(key)
            yield name, key


def _thresholds_by_class(work: Work, keys: Iterable[tuple[str, str]]) -> dict[str, float]:
    """The common threshold, and those of classes that differ from it.

    Other classes are not named, because a named class keeps its threshold even if --score-threshold is given.
    """
    common = work.common.threshold
    suggested = [(key, work.by_class[name].suggested.threshold) for name, key in keys if key != OTHERS]
    return {OTHERS: common, **{key: threshold for key, threshold in suggested if threshold != common}}


def _thresholds_text(head: str, thresholds: Mapping[str, float]) -> str:
    return thresholds_text(head, thresholds[OTHERS], thresholds.items())


def thresholds_text(head: str, default: float, entries: Iterable[tuple[str, float]]) -> str:
    """The text of a thresholds file: comments, the default, then one threshold per class.

    Args:
        head: Lines that describe the file.
        default: Threshold for classes that are not named.
        entries: Class names, which are untrusted and escaped, with their thresholds.
    """
    head += f"\n{OTHERS} is for classes that are not named here, unless --score-threshold is given."
    lines = [f"# {escaped_yaml(line)}" for line in head.split("\n")]
    named = [(key, threshold) for key, threshold in entries if key != OTHERS]
    lines += [f'"{escaped_yaml(key)}": {threshold!r}' for key, threshold in [(OTHERS, default), *named]]
    return "\n".join(lines) + "\n"
