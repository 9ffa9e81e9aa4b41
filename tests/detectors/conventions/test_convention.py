from __future__ import annotations

from dataclasses import replace

import pytest

from prelabel.detectors.conventions.convention import Convention
from prelabel.detectors.conventions.protos import CALL, Signature, Tensor
from prelabel.detectors.conventions.recognize import recognize
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
    return replace(signature, outputs=tuple(output for output in signature.outputs if output.name not in names))


def test_open_images_module() -> None:
    recognized = recognize([HUB])
    assert recognized == Convention(
        kind="detection",
        signature="default",
        input=HUB.inputs[0],
        batch_dimension=True,
        size=None,
        outputs={"boxes": "detection_boxes", "scores": "detection_scores", "numbers": "detection_class_labels"},
        strings=("detection_class_entities", "detection_class_names"),
    )
    assert not recognized.masks


def test_mask_rcnn() -> None:
    recognized = recognize([MASK_RCNN])
    assert recognized.outputs == {
        "boxes": "detection_boxes",
        "scores": "detection_scores",
        "count": "num_detections",
        "masks": "detection_masks",
        "multiclass_scores": "detection_multiclass_scores",
        "numbers": "detection_classes",
    }
    assert recognized.masks
    assert recognized.strings == ()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), None])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint64"])
def test_a_count_of_any_type_and_shape_is_read(dtype: str, shape: tuple[int, ...] | None) -> None:
    signature = without(MASK_RCNN, "num_detections")
    count = Tensor("num_detections", dtype, shape)
    assert recognize([replace(signature, outputs=(*signature.outputs, count))]).outputs["count"] == "num_detections"


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
    with pytest.raises(DetectorError, match=f"count of detections .*{count.name}.*num_detections"):
        recognize([replace(signature, outputs=(*signature.outputs, count))])


def test_counts_of_other_things_are_not_counts_of_detections() -> None:
    signature = without(MASK_RCNN, "num_detections")
    proposals = Tensor("num_proposals", "float32", (1,))
    assert "count" not in recognize([replace(signature, outputs=(*signature.outputs, proposals))]).outputs


def test_classifier() -> None:
    recognized = recognize([CLASSIFIER])
    assert (recognized.kind, recognized.size, recognized.batches, recognized.outputs, recognized.classes) == (
        "classification",
        (128, 128),
        True,
        {"rows": "logits"},
        1001,
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(1, None, None, 3), (None, None, None, 3), (None, None, 3), (1, 320, 640, 3)])
def test_input_types_and_shapes_of_detectors(dtype: str, shape: tuple[int | None, ...]) -> None:
    recognized = recognize([with_input(MASK_RCNN, dtype, shape)])
    assert recognized.input.dtype == dtype
    assert recognized.batch_dimension is (len(shape) == 4)
    assert recognized.size == ((320, 640) if 320 in shape else None)
    assert not recognized.batches


def test_classes_as_strings_only() -> None:
    recognized = recognize([without(HUB, "detection_class_labels", "detection_class_names")])
    assert "numbers" not in recognized.outputs
    assert recognized.strings == ("detection_class_entities",)


def test_detection_classes_may_be_strings() -> None:
    texts = Tensor("detection_classes", "string", (1, N))
    signature = without(MASK_RCNN, "detection_classes")
    recognized = recognize([replace(signature, outputs=(*signature.outputs, texts))])
    assert recognized.strings == ("detection_classes",)
    assert "numbers" not in recognized.outputs


def test_outputs_of_unknown_rank_are_accepted() -> None:
    loose = replace(MASK_RCNN, outputs=tuple(replace(output, shape=None) for output in MASK_RCNN.outputs))
    assert recognize([loose]).masks


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
    assert recognize([replace(MASK_RCNN, name=name) for name in names]).signature == chosen


def test_signature_that_does_not_fit_is_skipped() -> None:
    encoded = with_input(replace(MASK_RCNN, name="serving_default"), "string", (None,))
    assert recognize([encoded, replace(MASK_RCNN, name="tensor")]).signature == "tensor"
    assert recognize([encoded, replace(MASK_RCNN, name=CALL)]).signature == CALL


def test_two_signatures_that_fit_are_refused() -> None:
    with pytest.raises(DetectorError, match="a, b"):
        recognize([replace(MASK_RCNN, name="a"), replace(MASK_RCNN, name="b")])


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
def test_unknown_signatures_are_refused_with_the_supported_ones(signature: Signature) -> None:
    with pytest.raises(DetectorError) as caught:
        recognize([signature])
    message = str(caught.value)
    assert f"Found: {signature}" in message
    assert "TF Object Detection" in message
    assert "image classification" in message


def test_no_signature_at_all_is_refused() -> None:
    with pytest.raises(DetectorError, match="no signature"):
        recognize([])


def test_probabilities_are_preferred_to_logits_and_other_heads_are_named() -> None:
    probabilities = Tensor("probabilities", "float32", (None, 1001))
    embedding = Tensor("embedding", "float32", (None, 64))
    recognized = recognize([replace(CLASSIFIER, outputs=(*CLASSIFIER.outputs, embedding, probabilities))])
    assert recognized.outputs == {"rows": "probabilities"}
    assert recognized.unused == (embedding,)


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
        ((1, None, None, None), None, "--input-layout channels-last .*channels-first"),
        ((1, 3, 3, 3), None, "--input-layout"),
        ((1, 3, None, 3), None, "--input-layout"),
        ((1, None, None, 3), "channels-first", "cannot be channels-first"),
        ((1, 3, 224, 224), "channels-last", "cannot be channels-last"),
        ((1, None, None, 1), None, "1 channel"),
        ((1, 4, None, None), None, "4 channels"),
        ((1, 4, 224, 224), None, "4 channels"),
    ],
)
def test_layout_is_known_or_needs_an_option(shape: tuple[int | None, ...], layout: str | None, expected: str) -> None:
    signature = with_input(MASK_RCNN, "uint8", shape)
    if not expected.startswith("channels"):
        with pytest.raises(DetectorError, match=expected):
            recognize([signature], layout=layout)
        return
    recognized = recognize([signature], layout=layout)
    assert recognized.channels_first is (expected == "channels-first")
    assert recognized.size == ((224, 224) if shape.count(224) == 2 else (3, 3) if shape == (1, 3, 3, 3) else None)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (
            [Tensor("boxes", "float32", (1, 9, 4)), Tensor("confidence", "float32", (1, 9))],
            "boxes, confidence.*detection_boxes",
        ),
        (
            [Tensor("nmsed_boxes", "float32", (1, 9, 4)), Tensor("nmsed_scores", "float32", (1, 9))],
            "nmsed_boxes, nmsed_scores.*detection_boxes",
        ),
        ([Tensor("feature_vector", "float32", (None, 1280))], "features .*feature_vector.* --activation"),
        ([Tensor("bbox", "float32", (None, 4))], "regression .*bbox.* --activation"),
        ([Tensor("landmarks", "float32", (None, 10))], "regression .*landmarks.* --activation"),
        ([Tensor("output_0", "float32", (None, 1))], "one number.*output_0"),
        ([Tensor("depth", "float32", (None, None, None, 1))], "depth: float32"),
        ([Tensor("a", "float32", (None, 9)), Tensor("b", "float32", (None, 9))], "several .*a, b"),
        ([Tensor("detection_boxes", "float32", (1, 9, 5))], "detection_scores, detection_classes"),
        ([Tensor("text", "string", (None,))], "no output"),
    ],
)
def test_a_refusal_says_what_the_model_looks_like(outputs: list[Tensor], words: str) -> None:
    with pytest.raises(DetectorError, match=words):
        recognize([replace(CLASSIFIER, outputs=tuple(outputs))])


def test_an_option_can_declare_features_as_scores() -> None:
    features = replace(CLASSIFIER, outputs=(Tensor("feature_vector", "float32", (None, 1280)),))
    assert recognize([features], is_classifier=True).outputs == {"rows": "feature_vector"}


def test_logits_are_preferred_among_several_outputs() -> None:
    features = Tensor("pooled", "float32", (None, 1280))
    assert recognize([replace(CLASSIFIER, outputs=(features, *CLASSIFIER.outputs))]).outputs == {"rows": "logits"}


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
def test_call_does_not_replace_a_refused_signature(name: str, outputs: tuple[Tensor, ...]) -> None:
    refused = replace(CLASSIFIER, name=name, outputs=outputs)
    call = replace(CLASSIFIER, name=CALL, outputs=BARE_HEADS)
    with pytest.raises(DetectorError, match=f": {name} (looks like|has several)"):
        recognize([refused, call])


@pytest.mark.parametrize("other", ["default", "scores"])
def test_another_signature_does_not_replace_a_refused_serving_default(other: str) -> None:
    with pytest.raises(DetectorError, match=r"serving_default .*detector.*detection_boxes"):
        recognize([replace(CLASSIFIER, outputs=NAMED_HEADS), replace(CLASSIFIER, name=other)])


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
def test_several_heads_are_refused(outputs: list[tuple[str, int]]) -> None:
    heads = tuple(Tensor(name, "float32", (None, size)) for name, size in outputs)
    with pytest.raises(DetectorError, match="several outputs"):
        recognize([replace(CLASSIFIER, outputs=heads)])


def test_rows_in_two_forms_are_one_head() -> None:
    heads = tuple(Tensor(name, "float32", (None, 3)) for name in ("default", "logits", "probabilities"))
    recognized = recognize([replace(CLASSIFIER, outputs=heads)])
    assert (recognized.outputs, recognized.unused) == ({"rows": "probabilities"}, ())


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
def test_boxes_next_to_class_rows_make_a_detector_whatever_their_names(
    regression: tuple[int | None, ...], rows: tuple[int | None, ...], stated: bool
) -> None:
    outputs = (Tensor("output_0", "float32", regression), Tensor("output_1", "float32", rows))
    with pytest.raises(DetectorError, match=r"detector .*output_0"):
        recognize([replace(CLASSIFIER, outputs=outputs)], is_classifier=stated)


@pytest.mark.parametrize("dtype", ["int32", "int64", "string"])
@pytest.mark.parametrize(("best", "rows"), [((None, 5), (None, 5)), ((None, None), (None, 5)), ((1, 5), (1, None))])
def test_sorted_scores_are_not_mistaken_for_class_scores(
    dtype: str, best: tuple[int | None, ...], rows: tuple[int | None, ...]
) -> None:
    outputs = (Tensor("scores", "float32", rows), Tensor("labels", dtype, best))
    with pytest.raises(DetectorError, match="columns of scores"):
        recognize([replace(CLASSIFIER, outputs=outputs)])


def test_top_classes_next_to_all_scores_are_reported_as_unused() -> None:
    best = Tensor("top_classes", "int32", (None, 2))
    recognized = recognize([replace(CLASSIFIER, outputs=(*CLASSIFIER.outputs, best))])
    assert (recognized.outputs, recognized.unused) == ({"rows": "logits"}, (best,))


@pytest.mark.parametrize(
    "name", ["masks", "instance_masks", "landmarks", "embeddings", "panoptic", "detection_boxes_3d", "heading"]
)
def test_every_unused_output_except_intermediate_results_is_reported(name: str) -> None:
    steps = (
        *("raw_detection_scores", "detection_anchor_indices", "final_anchors", "image_shape", "mask_predictions"),
        *("rpn_features_to_crop", "refined_box_encodings", "num_proposals", "proposal_boxes_normalized"),
        *("box_classifier_features", "class_predictions_with_background"),
    )
    wanted = Tensor(name, "float32", (1, N, 9))
    outputs = (*MASK_RCNN.outputs, wanted, *(Tensor(step, "float32", (1, N)) for step in steps))
    assert recognize([replace(MASK_RCNN, outputs=outputs)]).unused == (wanted,)
    assert recognize([MASK_RCNN]).unused == ()


def batched(*shapes: tuple[int | None, ...]) -> Signature:
    """A signature with an open number of images, and boxes, classes, scores and a count of these shapes."""
    names = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
    outputs = tuple(Tensor(name, "float32", shape) for name, shape in zip(names, shapes, strict=True))
    return Signature("serving_default", (Tensor("x", "uint8", (None, None, None, 3)),), outputs)


def test_several_images_are_run_together_if_every_output_has_a_dimension_for_them() -> None:
    assert recognize([batched((None, 100, 4), (None, 100), (None, 100), (None,))]).batches
    assert not recognize([batched((1, 100, 4), (1, 100), (1, 100), (1,))]).batches
    # An open number of detections is no number of images.
    assert not recognize([without(batched((None, 4), (None,), (None,), ()), "num_detections")]).batches
