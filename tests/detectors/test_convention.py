from __future__ import annotations

from dataclasses import replace

import pytest

from prelabel.detectors.convention import CALL, Convention, Signature, Tensor, recognise
from prelabel.errors import DetectorError

N = 100
HUB = Signature(
    "default",
    (Tensor("images", "float32", (1, None, None, 3)),),
    (
        Tensor("detection_boxes", "float32", (N, 4)),
        Tensor("detection_class_entities", "string", (N,)),
        Tensor("detection_class_labels", "int64", (N,)),
        Tensor("detection_class_names", "string", (N,)),
        Tensor("detection_scores", "float32", (N,)),
    ),
)
MASK_RCNN = Signature(
    "serving_default",
    (Tensor("input_tensor", "uint8", (1, None, None, 3)),),
    (
        Tensor("anchors", "float32", (None, 4)),
        Tensor("detection_boxes", "float32", (1, N, 4)),
        Tensor("detection_classes", "float32", (1, N)),
        Tensor("detection_masks", "float32", (1, N, 33, 33)),
        Tensor("detection_multiclass_scores", "float32", (1, N, 91)),
        Tensor("detection_scores", "float32", (1, N)),
        Tensor("num_detections", "float32", (1,)),
        Tensor("raw_detection_boxes", "float32", (1, None, 4)),
    ),
)
CLASSIFIER = Signature(
    "serving_default",
    (Tensor("inputs", "float32", (None, 128, 128, 3)),),
    (Tensor("logits", "float32", (None, 1001)),),
)


def with_input(signature: Signature, dtype: str, shape: tuple[int | None, ...] | None) -> Signature:
    return replace(signature, inputs=(replace(signature.inputs[0], dtype=dtype, shape=shape),))


def without(signature: Signature, *names: str) -> Signature:
    return replace(signature, outputs=tuple(one for one in signature.outputs if one.name not in names))


def test_open_images_module() -> None:
    found = recognise([HUB])
    assert found == Convention(
        kind="detection",
        signature="default",
        input=HUB.inputs[0],
        batch_dimension=True,
        batches=False,
        size=None,
        outputs={"boxes": "detection_boxes", "scores": "detection_scores", "numbers": "detection_class_labels"},
        strings=("detection_class_entities", "detection_class_names"),
    )
    assert not found.masks


def test_mask_rcnn() -> None:
    found = recognise([MASK_RCNN])
    assert found.outputs == {
        "boxes": "detection_boxes",
        "scores": "detection_scores",
        "count": "num_detections",
        "masks": "detection_masks",
        "multiclass_scores": "detection_multiclass_scores",
        "numbers": "detection_classes",
    }
    assert found.masks
    assert found.strings == ()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), None])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint64"])
def test_a_count_of_any_type_and_shape_is_read(dtype: str, shape: tuple[int, ...] | None) -> None:
    signature = without(MASK_RCNN, "num_detections")
    count = Tensor("num_detections", dtype, shape)
    assert recognise([replace(signature, outputs=(*signature.outputs, count))]).outputs["count"] == "num_detections"


@pytest.mark.parametrize(
    "count",
    [
        Tensor("detection_count", "int32", (1,)),
        Tensor("num_boxes", "int32", (1,)),
        Tensor("numDetections", "int32", ()),
        Tensor("num_detections", "string", (1,)),
        Tensor("num_detections", "int32", (1, 1, 1)),
    ],
    ids=str,
)
def test_a_count_that_cannot_be_read_is_refused_not_ignored(count: Tensor) -> None:
    signature = without(MASK_RCNN, "num_detections")
    with pytest.raises(DetectorError, match=f"count of detections cannot be read.*{count.name}"):
        recognise([replace(signature, outputs=(*signature.outputs, count))])


def test_counts_of_other_things_are_no_count_of_detections() -> None:
    signature = without(MASK_RCNN, "num_detections")
    proposals = Tensor("num_proposals", "float32", (1,))
    assert "count" not in recognise([replace(signature, outputs=(*signature.outputs, proposals))]).outputs


def test_classifier() -> None:
    found = recognise([CLASSIFIER])
    assert (found.kind, found.size, found.batches, found.outputs, found.classes) == (
        "classification",
        (128, 128),
        True,
        {"rows": "logits"},
        1001,
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(1, None, None, 3), (None, None, None, 3), (None, None, 3), (1, 320, 640, 3)])
def test_input_types_and_shapes_of_detectors(dtype: str, shape: tuple[int | None, ...]) -> None:
    found = recognise([with_input(MASK_RCNN, dtype, shape)])
    assert found.input.dtype == dtype
    assert found.batch_dimension is (len(shape) == 4)
    assert found.size == ((320, 640) if 320 in shape else None)
    assert not found.batches


def test_classes_as_strings_only() -> None:
    found = recognise([without(HUB, "detection_class_labels", "detection_class_names")])
    assert "numbers" not in found.outputs
    assert found.strings == ("detection_class_entities",)


def test_detection_classes_may_be_strings() -> None:
    texts = Tensor("detection_classes", "string", (1, N))
    signature = without(MASK_RCNN, "detection_classes")
    found = recognise([replace(signature, outputs=(*signature.outputs, texts))])
    assert found.strings == ("detection_classes",)
    assert "numbers" not in found.outputs


def test_unknown_ranks_of_outputs_are_taken() -> None:
    loose = replace(MASK_RCNN, outputs=tuple(replace(one, shape=None) for one in MASK_RCNN.outputs))
    assert recognise([loose]).masks


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["serving_default", "default"], "serving_default"),
        (["other", "default"], "default"),
        (["only"], "only"),
        ([CALL, "default"], "default"),
        ([CALL], CALL),
    ],
)
def test_which_signature_is_called(names: list[str], chosen: str) -> None:
    assert recognise([replace(MASK_RCNN, name=name) for name in names]).signature == chosen


def test_signature_that_does_not_fit_is_passed_over() -> None:
    encoded = with_input(replace(MASK_RCNN, name="serving_default"), "string", (None,))
    assert recognise([encoded, replace(MASK_RCNN, name="tensor")]).signature == "tensor"
    assert recognise([encoded, replace(MASK_RCNN, name=CALL)]).signature == CALL


def test_two_that_fit_are_refused() -> None:
    with pytest.raises(DetectorError, match="not clear: a, b all fit"):
        recognise([replace(MASK_RCNN, name="a"), replace(MASK_RCNN, name="b")])


@pytest.mark.parametrize(
    "signature",
    [
        without(MASK_RCNN, "detection_boxes"),
        without(MASK_RCNN, "detection_scores"),
        without(MASK_RCNN, "detection_classes"),
        with_input(MASK_RCNN, "string", (None,)),
        with_input(MASK_RCNN, "uint8", (4, None, None, 3)),
        with_input(MASK_RCNN, "uint8", (1, 4, None, None)),
        with_input(MASK_RCNN, "uint8", (1, None, None, 1)),
        with_input(MASK_RCNN, "uint8", (1, None, None, None)),
        with_input(MASK_RCNN, "uint8", (1, 3, None, 3)),
        with_input(MASK_RCNN, "uint8", None),
        replace(MASK_RCNN, inputs=MASK_RCNN.inputs * 2),
        replace(MASK_RCNN, inputs=()),
        with_input(CLASSIFIER, "float32", (8, 128, 128, 3)),
        replace(CLASSIFIER, outputs=(Tensor("feature_vector", "float32", (None, 1280)),)),
        replace(CLASSIFIER, outputs=(Tensor("a", "float32", (None, 9)), Tensor("b", "float32", (None, 9)))),
        replace(CLASSIFIER, outputs=(Tensor("map", "float32", (None, 8, 8, 9)),)),
    ],
)
def test_anything_else_is_refused_with_what_was_found_and_what_is_known(signature: Signature) -> None:
    with pytest.raises(DetectorError) as caught:
        recognise([signature])
    message = str(caught.value)
    assert f"Found: {signature}" in message
    assert "TF Object Detection" in message
    assert "image classification" in message


def test_no_signature_at_all_is_refused() -> None:
    with pytest.raises(DetectorError, match="Found: no signature at all"):
        recognise([])


def test_probabilities_are_preferred_to_logits_and_other_heads_are_named() -> None:
    probabilities = Tensor("probabilities", "float32", (None, 1001))
    embedding = Tensor("embedding", "float32", (None, 64))
    found = recognise([replace(CLASSIFIER, outputs=(*CLASSIFIER.outputs, embedding, probabilities))])
    assert found.outputs == {"rows": "probabilities"}
    assert found.unused == (embedding,)


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((1, None, None, 3), None, "channels-last"),
        ((1, 224, 224, 3), None, "channels-last"),
        ((1, 3, None, None), None, "channels-first"),
        ((1, 3, 224, 224), None, "channels-first"),
        ((None, None, 3), None, "channels-last"),
        ((3, None, None), None, "channels-first"),
        ((1, 224, 224, None), None, "channels-last"),
        ((1, None, 224, 224), None, "channels-first"),
        ((1, None, None, None), "channels-last", "channels-last"),
        ((1, None, None, None), "channels-first", "channels-first"),
        ((1, 3, 3, 3), "channels-first", "channels-first"),
        ((1, None, None, None), None, "state --input-layout channels-last or channels-first"),
        ((1, 3, 3, 3), None, "state --input-layout"),
        ((1, 3, None, 3), None, "state --input-layout"),
        ((1, None, None, 3), "channels-first", "cannot be channels-first"),
        ((1, 3, 224, 224), "channels-last", "cannot be channels-last"),
        ((1, None, None, 1), None, "images of 1 channels"),
        ((1, 4, None, None), None, "images of 4 channels"),
        ((1, 4, 224, 224), None, "images of 4 channels"),
    ],
)
def test_where_the_channels_are_is_known_or_asked_for(
    shape: tuple[int | None, ...], layout: str | None, expected: str
) -> None:
    signature = with_input(MASK_RCNN, "uint8", shape)
    if not expected.startswith("channels"):
        with pytest.raises(DetectorError, match=expected):
            recognise([signature], layout=layout)
        return
    found = recognise([signature], layout=layout)
    assert found.channels_first is (expected == "channels-first")
    assert found.size == ((224, 224) if shape.count(224) == 2 else (3, 3) if shape == (1, 3, 3, 3) else None)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([Tensor("boxes", "float32", (1, 9, 4)), Tensor("confidence", "float32", (1, 9))], "names of their own"),
        ([Tensor("nmsed_boxes", "float32", (1, 9, 4)), Tensor("nmsed_scores", "float32", (1, 9))], "names of their"),
        ([Tensor("feature_vector", "float32", (None, 1280))], "looks like features or a regression"),
        ([Tensor("bbox", "float32", (None, 4))], "looks like features or a regression"),
        ([Tensor("landmarks", "float32", (None, 10))], "looks like features or a regression"),
        ([Tensor("output_0", "float32", (None, 1))], "one number for an image"),
        ([Tensor("depth", "float32", (None, None, None, 1))], "map of each picture's parts"),
        ([Tensor("a", "float32", (None, 9)), Tensor("b", "float32", (None, 9))], "several outputs .*: a, b"),
        ([Tensor("detection_boxes", "float32", (1, 9, 5))], "without detection_scores, detection_classes"),
        ([Tensor("text", "string", (None,))], "no output that is a row of numbers"),
    ],
)
def test_a_refusal_says_what_the_model_looks_like(outputs: list[Tensor], words: str) -> None:
    with pytest.raises(DetectorError, match=words):
        recognise([replace(CLASSIFIER, outputs=tuple(outputs))])


def test_somebody_may_say_that_features_are_scores() -> None:
    features = replace(CLASSIFIER, outputs=(Tensor("feature_vector", "float32", (None, 1280)),))
    assert recognise([features], is_classifier=True).outputs == {"rows": "feature_vector"}


def test_logits_are_preferred_among_several_outputs() -> None:
    features = Tensor("pooled", "float32", (None, 1280))
    assert recognise([replace(CLASSIFIER, outputs=(features, *CLASSIFIER.outputs))]).outputs == {"rows": "logits"}


NAMED_HEADS = (Tensor("bounding_box", "float32", (None, 4)), Tensor("class_label", "float32", (None, 7)))
BARE_HEADS = (Tensor("output_0", "float32", (None, 4)),)


@pytest.mark.parametrize(
    "outputs",
    [
        NAMED_HEADS,
        (Tensor("embedding", "float32", (None, 64)),),
        (Tensor("colour", "float32", (None, 5)), Tensor("shape", "float32", (None, 7))),
    ],
)
@pytest.mark.parametrize("name", ["serving_default", "default", "predict"])
def test_what_a_signature_is_refused_for_is_not_passed_over_by_the_call(name: str, outputs: tuple[Tensor, ...]) -> None:
    refused = replace(CLASSIFIER, name=name, outputs=outputs)
    call = replace(CLASSIFIER, name=CALL, outputs=BARE_HEADS)
    with pytest.raises(DetectorError, match=f"no known kind: {name} (looks like|has several)"):
        recognise([refused, call])


@pytest.mark.parametrize("other", ["default", "scores"])
def test_a_refused_serving_default_is_not_passed_over_by_another_signature(other: str) -> None:
    with pytest.raises(DetectorError, match="serving_default looks like a detector whose outputs have names"):
        recognise([replace(CLASSIFIER, outputs=NAMED_HEADS), replace(CLASSIFIER, name=other)])


@pytest.mark.parametrize(
    "outputs",
    [
        [("output_0", 3), ("output_1", 5)],
        [("output_0", 3), ("output_1", 3)],
        [("predictions", 3), ("quality", 3)],
        [("default", 3), ("seg", 1024)],
        [("probabilities", 3), ("logits", 4)],
    ],
)
def test_of_several_heads_none_is_taken_unasked(outputs: list[tuple[str, int]]) -> None:
    heads = tuple(Tensor(name, "float32", (None, size)) for name, size in outputs)
    with pytest.raises(DetectorError, match=r"several outputs .* save it with the one that is meant"):
        recognise([replace(CLASSIFIER, outputs=heads)])


def test_rows_in_two_forms_are_one_head() -> None:
    heads = tuple(Tensor(name, "float32", (None, 3)) for name in ("default", "logits", "probabilities"))
    found = recognise([replace(CLASSIFIER, outputs=heads)])
    assert (found.outputs, found.unused) == ({"rows": "probabilities"}, ())


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize(
    ("regression", "rows"),
    [
        ((None, 50, 4), (None, 50)),
        ((None, 896, 16), (None, 896)),
        ((None, 900, 4), (None, 9)),
        ((1, None, 4), (1, None)),
    ],
)
def test_boxes_of_any_name_beside_rows_are_a_detector(
    regression: tuple[int | None, ...], rows: tuple[int | None, ...], stated: bool
) -> None:
    outputs = (Tensor("output_0", "float32", regression), Tensor("output_1", "float32", rows))
    with pytest.raises(DetectorError, match="looks like a detector: output_0"):
        recognise([replace(CLASSIFIER, outputs=outputs)], is_classifier=stated)


@pytest.mark.parametrize("dtype", ["int32", "int64", "string"])
@pytest.mark.parametrize(("best", "rows"), [((None, 5), (None, 5)), ((None, None), (None, 5)), ((1, 5), (1, None))])
def test_sorted_scores_are_not_taken_for_those_of_classes(
    dtype: str, best: tuple[int | None, ...], rows: tuple[int | None, ...]
) -> None:
    outputs = (Tensor("scores", "float32", rows), Tensor("labels", dtype, best))
    with pytest.raises(DetectorError, match="columns of scores are no class numbers"):
        recognise([replace(CLASSIFIER, outputs=outputs)])


def test_the_best_classes_beside_the_scores_of_all_are_named_as_unused() -> None:
    best = Tensor("top_classes", "int32", (None, 2))
    found = recognise([replace(CLASSIFIER, outputs=(*CLASSIFIER.outputs, best))])
    assert (found.outputs, found.unused) == ({"rows": "logits"}, (best,))


@pytest.mark.parametrize(
    "name", ["masks", "instance_masks", "landmarks", "embeddings", "panoptic", "detection_boxes_3d", "heading"]
)
def test_every_output_that_is_no_step_to_another_is_named_as_unused(name: str) -> None:
    steps = (
        *("raw_detection_scores", "detection_anchor_indices", "final_anchors", "image_shape", "mask_predictions"),
        *("rpn_features_to_crop", "refined_box_encodings", "num_proposals", "proposal_boxes_normalized"),
        *("box_classifier_features", "class_predictions_with_background"),
    )
    wanted = Tensor(name, "float32", (1, N, 9))
    outputs = (*MASK_RCNN.outputs, wanted, *(Tensor(step, "float32", (1, N)) for step in steps))
    assert recognise([replace(MASK_RCNN, outputs=outputs)]).unused == (wanted,)
    assert recognise([MASK_RCNN]).unused == ()
