"""`diff.json`, and writing the report.

{"runs": {"a": {...}, "b": {...}},
 "images": {"compared": 80, "changed": 12, ...},
 "detections": {"in_a": 310, "in_b": 305, "kept": 280, ..., "changed": 55, "share": 0.0894},
 "by_class": {"Dog": {...}},
 "most_changed": [{"image_id": "a.jpg", "changes": [{"kind": "vanished", "a": {...}, "b": null}]}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prelabel.difference.changes import Change, Side
from prelabel.difference.job import Difference
from prelabel.difference.page import difference_page
from prelabel.difference.tables import lines, sentence
from prelabel.difference.tally import ChangedImage, ClassChanges
from prelabel.options import fields_of
from prelabel.review.edits import KEPT
from prelabel.review.report.files import json_text, run_json, write_files
from prelabel.select import Selection
from prelabel.storage.address import redact
from prelabel.storage.files import Storage

JSON, PAGE = "diff.json", "diff.html"


def write_difference(
    difference: Difference, to: str, storage: Storage, pictures: Mapping[str, bytes | str]
) -> tuple[str, ...]:
    """Write the two files of the report into a folder, and return their URLs.

    Args:
        difference: The result.
        to: The folder.
        storage: Opens the folder.
        pictures: See `difference_page`.

    Raises:
        StoreError: A file cannot be written.
    """
    contents = {JSON: json_text(difference_json(difference)), PAGE: difference_page(difference, pictures)}
    return write_files(contents, to, storage)


def difference_json(difference: Difference) -> dict[str, Any]:
    """The content of `diff.json`; see `schemas/diff.schema.json`."""
    options = difference.options
    selection = {name: getattr(options.selection, name) for name in fields_of(Selection)}
    return {
        "schema_version": 1,
        "runs": {
            letter: {"run": name, **run_json(info), "created": info.created}
            for letter, name, info in zip("ab", difference.names, difference.infos, strict=True)
        },
        "settings": [{"setting": name, "a": a, "b": b} for name, a, b in difference.settings],
        "selection": {k: list(v) if isinstance(v, tuple) else v for k, v in selection.items()},
        "iou": options.iou,
        "kept_iou": options.kept_iou,
        "iou_on": options.iou_on,
        "score_shift": options.score_shift,
        "fail_above": options.fail_above,
        "images": {
            **difference.images,
            "only_in_a": difference.only[0],
            "only_in_b": difference.only[1],
            "unproven": difference.unproven,
            "examples": {reason: [redact(name) for name in names] for reason, names in difference.examples.items()},
        },
        "detections": {
            **_changes_json(difference.total),
            "not_compared": sum(difference.lost),
            "share": round(difference.share, 6),
            "exceeds": difference.exceeds,
        },
        "by_class": {name: _changes_json(changes) for name, changes in difference.by_class.items()},
        "of_one_run": {letter: dict(labels) for letter, labels in zip("ab", difference.foreign, strict=True)},
        "relabeled": [{"from": a, "to": b, "count": count} for a, b, count in difference.relabeled],
        "score_shifts": difference.shifts.tolist(),
        "overlaps": difference.overlaps.tolist(),
        "most_changed": [_image_json(image) for image in difference.most_changed],
        "result": sentence(difference),
        "notes": lines(difference),
    }


def _changes_json(changes: ClassChanges) -> dict[str, Any]:
    return {
        "in_a": changes.in_a,
        "in_b": changes.in_b,
        **changes.counts,
        "relabeled_to": changes.relabeled_to,
        "vanished_below": changes.vanished_below,
        "appeared_below": changes.appeared_below,
        "changed": changes.changed,
        "mean_score_shift": _short(changes.mean_shift),
        "mean_absolute_score_shift": _short(changes.mean_absolute_shift),
    }


def _image_json(image: ChangedImage) -> dict[str, Any]:
    return {
        "image_id": image.facts.image_id,
        "file_name": image.facts.file_name,
        "detections": image.detections,
        "changed": image.changed,
        "changes": [_change_json(change) for change in image.changes if change.kind != KEPT],
    }


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "a": _side_json(change.a),
        "b": _side_json(change.b),
        "iou": _short(change.iou),
        "hidden_score": _short(change.hidden),
    }


def _side_json(side: Side | None) -> dict[str, Any] | None:
    if side is None:
        return None
    return {"label": side.label, "score": _short(side.score), "xyxy": [round(v, 2) for v in side.xyxy]}


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
