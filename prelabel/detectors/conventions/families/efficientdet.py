"""EfficientDet and EfficientDet-Lite as google/automl saves them, such as the hub models efficientdet/lite0 to lite4.

Their outputs have no names: `output_0` are boxes, `output_1` scores, `output_2` class numbers, `output_3` the number of
detections. Other networks may return the same shapes and mean something else by them. What is certain are the names of
the network's parts, which TensorFlow stores: `EfficientDetNet` (`efficientdet/tf2/efficientdet_keras.py`) has a
`class_net`, a `box_net` and `fpn_cells`.

Facts from `efficientdet/tf2`: the image is resized inside, with its aspect ratio, and boxes are scaled back
(`postprocess_global`, `image_scale_to_original`), so they are y1 x1 y2 x2 in pixels of the image; class numbers begin
with 1 (`CLASS_OFFSET` in `postprocess.py`); those of the hub models are COCO's.
"""

from __future__ import annotations

from prelabel.detectors.base import Decision
from prelabel.detectors.conventions.boxes import BoxForm
from prelabel.detectors.conventions.convention import FLOATS, INTEGERS, Convention, Family, Question
from prelabel.detectors.conventions.protos import has_object_with

_ROLES = ("boxes", "scores", "numbers", "count")
_NUMBERS = (*INTEGERS, *FLOATS)

#: Parts of the network: attributes of `EfficientDetNet`.
_PARTS = frozenset(("class_net", "box_net", "fpn_cells"))

_BOXES = BoxForm("yxyx", "image")


def _claims(question: Question) -> bool:
    """Whether the outputs are four without names, of the shapes of boxes, scores, classes and a count."""
    ranks = ((3,), (2,), (2,), (1,))
    types = (FLOATS, FLOATS, _NUMBERS, _NUMBERS)
    tensors = [question.outputs.get(f"output_{number}") for number in range(4)]
    return len(question.outputs) == 4 and all(
        tensor is not None and tensor.may_be(*form) and (form[1] != (3,) or tensor.last in (4, None))
        for tensor, form in zip(tensors, zip(types, ranks, strict=True), strict=True)
    )


def _match(question: Question) -> Convention | str:
    image = question.image
    if question.folder is None or not has_object_with(_PARTS, question.folder):
        return (
            "returns four outputs without names, like EfficientDet of google/automl, but does not consist of its parts "
            f"({', '.join(sorted(_PARTS))}), so that the order and unit of its boxes are not known: save it with the "
            "outputs detection_boxes (y1 x1 y2 x2, normalized), detection_scores, detection_classes and "
            "num_detections, or describe its outputs with --adapter"
        )
    if image.size is not None or image.input.dtype != "uint8" or image.channels_first:
        return (
            f"is an EfficientDet of google/automl without its preprocessing (input {image.input}): export it with an "
            "input of uint8 images of any size, without --only_network, or describe its input and outputs with "
            "--adapter"
        )
    return Convention(
        **vars(image),
        kind="detection",
        outputs={role: f"output_{number}" for number, role in enumerate(_ROLES)},
        why=f"EfficientDet of google/automl by signature {image.signature!r} and the names of its parts",
        box_form=_BOXES,
        known={"boxes": Decision(str(_BOXES), "EfficientDet of google/automl")},
    )


EFFICIENTDET = Family(
    "EfficientDet of google/automl (uint8 image [batch, h, w, 3] -> output_0 to output_3)", _claims, _match
)
