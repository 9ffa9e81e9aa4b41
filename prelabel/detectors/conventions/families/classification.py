"""Classifiers of whole images: one row of class scores per image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from prelabel.detectors.conventions.convention import FLOATS, INTEGERS, Convention, Family, Question
from prelabel.detectors.conventions.protos import Tensor

#: Common names of outputs that are not class scores.
NO_SCORES = re.compile(
    r"feature|embed|bottleneck|pooled|(^|[_/])(n?bbox(es)?|box(es)?|bounding|coord\w*|regress\w*|keypoints?|landmarks?|pose|age|"
    r"depth|offsets?|anchors?)([_/\d]|$)"
)

#: Names of outputs that hold the same scores in several forms, if they have the same size; the preferred one first.
_FORMS = ("probabilities", "logits", "predictions", "default")

#: Types of outputs that hold class numbers rather than scores.
_CLASSES = (*INTEGERS, "int8", "uint32", "uint64")
_BOXES = re.compile(r"(^|_)(n?bbox(es)?|box(es)?|rois?|nmsed_boxes)(_|$|\d)")


def _match(question: Question) -> Convention | str:
    """Match image classification: the input is a batch of images, the output one row of class scores per image."""
    image, outputs = question.image, question.outputs
    if len(outputs) > 1 and any(_BOXES.search(name) for name in outputs):
        return (
            f"looks like a detector, but its outputs ({', '.join(outputs)}) must have the names detection_boxes, "
            "detection_scores and detection_classes"
        )
    if not image.batch_dimension:
        return "accepts one image without a batch dimension, but does not have the outputs of a detector"
    rows = [output for output in outputs.values() if output.dtype in FLOATS and output.rank == 2]
    of_any_name = [row for row in rows if row.last is None or row.last >= 2]
    fitting = [row for row in of_any_name if not NO_SCORES.search(row.name)]
    if question.is_classifier and not fitting:
        fitting = of_any_name
    chosen = _chosen(fitting)
    if chosen is None:
        return _no_classifier(outputs, rows, fitting)
    contradiction = _contradiction(chosen, outputs.values())
    if contradiction:
        return contradiction
    classes = f"{chosen.last or 'an unknown number of'} classes in {chosen.name!r}"
    return Convention(
        **vars(image),
        kind="classification",
        outputs={"rows": chosen.name},
        classes=chosen.last,
        why=f"image classification by signature {image.signature!r} ({classes})",
        unused=tuple(output for output in outputs.values() if output not in fitting),
        batches=image.input.shape is not None and image.input.shape[0] is None,
    )


def _chosen(fitting: Sequence[Tensor]) -> Tensor | None:
    """The only output, or the preferred one of several forms of the same scores."""
    if len(fitting) < 2:
        return fitting[0] if fitting else None
    forms = {row.name: row for row in fitting if row.name in _FORMS}
    if len(forms) < len(fitting) or len({row.last for row in fitting}) > 1:
        return None
    return next(forms[name] for name in _FORMS if name in forms)


def _contradiction(rows: Tensor, outputs: Iterable[Tensor]) -> str:
    """Why the other outputs show that the rows are not class scores, or `""`."""
    length = rows.last
    for output in outputs:
        other = output.last
        if output.rank == 2 and output.dtype in (*_CLASSES, "string") and (other is None or length in (other, None)):
            return (
                f"looks like a classifier that returns the best classes of an image in order: {output.name} has their "
                f"numbers or names, so the columns of {rows.name} are not class numbers; save the model with the "
                "scores of all classes as its only output"
            )
        if output.rank == 3 and output.shape and output.dtype in FLOATS:
            boxes = output.shape[1]
            if other == 4 or ((other is None or other > 4) and (boxes is None or length is None or boxes == length)):
                return (
                    f"looks like a detector with the outputs {output} and {rows}: they must have the names "
                    "detection_boxes, detection_scores and detection_classes"
                )
    return ""


def _no_classifier(outputs: Mapping[str, Tensor], rows: Sequence[Tensor], fitting: Sequence[Tensor]) -> str:
    if len(fitting) > 1:
        names = ", ".join(row.name for row in fitting)
        return f"has several outputs that may be class scores ({names}): save the model with one of them"
    suspicious = [row for row in rows if NO_SCORES.search(row.name)]
    if suspicious:
        return (
            f"looks like features or a regression by the name of its output {suspicious[0]}; if these are class "
            "scores, give --activation"
        )
    if rows:
        return f"returns one number per image ({rows[0]}): a regression, or a binary classifier"
    maps = [output for output in outputs.values() if output.rank in (3, 4)]
    if maps:
        return f"looks like a map over the image (segmentation, depth, features): {maps[0]}"
    return "has no output with a row of numbers per image"


CLASSIFICATION = Family(
    "image classification (images [batch, h, w, 3] -> logits or probabilities [batch, classes])",
    lambda question: True,
    _match,
)
