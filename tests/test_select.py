"""Which detections are kept, in which order, under which name."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from prelabel.class_rules import nearest_name
from prelabel.config import LabelOptions
from prelabel.detections import ClassName, Detections, ImageLabel
from prelabel.errors import ConfigError
from prelabel.export.coco import CocoOptions
from prelabel.export.cvat import CvatOptions
from prelabel.export.voc import VocOptions
from prelabel.export.yolo import YoloOptions
from prelabel.gallery.preview import PreviewOptions
from prelabel.label_studio.options import LabelStudioOptions, PushOptions
from prelabel.options import fields_of, from_mapping
from prelabel.review.options import EvaluateOptions
from prelabel.select import ExportSelection, Selection
from tests.messages import is_told, telling

XYXY = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]], np.float32)
LABEL = ["Dog", "Cat", "Person"]
MID = ["/m/0bt9lr", "/m/01yrx", "/m/01g317"]
SCORE = np.array([0.8, 0.9, 0.4], np.float32)


def keep(selection: Selection, score: np.ndarray = SCORE, xyxy: np.ndarray = XYXY) -> list[int]:
    return selection.indices(score, LABEL, MID, xyxy).tolist()


def test_kept_detections_come_by_descending_score() -> None:
    assert keep(Selection()) == [1, 0, 2]


def test_equal_scores_keep_their_order() -> None:
    assert keep(Selection(), score=np.array([0.5, 0.9, 0.5], np.float32)) == [1, 0, 2]


def test_a_score_equal_to_the_threshold_is_kept_whatever_its_float32_rounding() -> None:
    for tenths in range(1, 10):
        score = np.full(3, tenths / 10, np.float32)
        assert keep(Selection(score_threshold=tenths / 10), score=score) == [0, 1, 2]
        assert keep(Selection(class_threshold={"Dog": tenths / 10}, score_threshold=1.0), score=score) == [0]


def test_a_score_of_nan_is_dropped() -> None:
    assert keep(Selection(score_threshold=0.0), score=np.array([np.nan, 0.5, 0.0], np.float32)) == [1, 2]


def test_class_threshold_by_label_or_mid_replaces_the_general_one() -> None:
    assert keep(Selection(class_threshold={"Person": 0.6})) == [1, 0]
    assert keep(Selection(class_threshold={"/m/01g317": 0.6})) == [1, 0]
    assert keep(Selection(score_threshold=0.85, class_threshold={"person": 0.1})) == [1, 2]


def test_mid_wins_over_label_and_model_label_over_mapped_label() -> None:
    assert keep(Selection(class_threshold={"Dog": 0.1, "/m/0bt9lr": 0.99})) == [1, 2]
    assert keep(Selection(class_map={"Dog": "pet"}, class_threshold={"pet": 0.99, "Dog": 0.1})) == [1, 0, 2]


def test_a_threshold_of_zero_is_a_threshold() -> None:
    assert keep(Selection(score_threshold=0.85, class_threshold={"Person": 0.0})) == [1, 2]


def test_include_and_exclude_by_label_mid_and_mapped_label() -> None:
    assert keep(Selection(include_class=("Dog", "/m/01g317"))) == [0, 2]
    assert keep(Selection(exclude_class=("DOG",))) == [1, 2]
    assert keep(Selection(include_class=("pet",), class_map={"Dog": "pet", "/m/01yrx": "pet"})) == [1, 0]
    assert keep(Selection(include_class=("pet",), exclude_class=("Cat",), class_map={"Dog": "pet", "Cat": "pet"})) == [
        0
    ]


def test_admits_tells_which_classes_can_occur() -> None:
    selection = Selection(include_class=("pet",), class_map={"Dog": "pet"}, score_threshold=1.0)
    assert [selection.admits(*label_and_mid) for label_and_mid in zip(LABEL, MID, strict=True)] == [True, False, False]
    assert selection.admitted(LABEL, MID).tolist() == [True, False, False]
    assert Selection().admits("Dog", "")
    assert Selection().admitted([], []).tolist() == []


def test_max_detections_keeps_the_best() -> None:
    assert keep(Selection(max_detections=1)) == [1]


def test_nms_within_classes_and_across_them() -> None:
    assert keep(Selection(nms_iou=0.5)) == [1, 0, 2]
    assert keep(Selection(nms_iou=0.5, nms_per_class=False)) == [1, 2]


def test_nms_per_class_sees_classes_after_the_class_map() -> None:
    pets = {"Dog": "pet", "Cat": "pet"}
    assert keep(Selection(nms_iou=0.5, class_map=pets)) == [1, 2]
    assert keep(Selection(nms_iou=0.01, class_map=pets)) == [1, 2]


def test_class_map_renames_by_label_and_mid_and_leaves_the_others() -> None:
    selection = Selection(class_map={"dog": "pet", "/m/01yrx": "pet"})
    assert selection.rename(LABEL, MID).tolist() == ["pet", "pet", "Person"]


def test_a_name_in_the_same_case_wins_over_another_case() -> None:
    assert Selection(class_map={"DOG": "a", "Dog": "b"}).rename(["Dog", "DOG", "dog"], ["", "", ""]).tolist() == [
        "b",
        "a",
        "a",
    ]


def test_apply_selects_every_array_and_keeps_the_models_class_number() -> None:
    detections = Detections(
        height=10, width=30, xyxy=XYXY, category_id=[18, 17, 1], score=SCORE, label=LABEL, mid=MID, mask=["a", "b", "c"]
    )
    kept = Selection(score_threshold=0.5, class_map={"Dog": "pet"}).apply(detections)
    assert kept.label.tolist() == ["Cat", "pet"]
    assert kept.category_id.tolist() == [17, 18]
    assert kept.mid.tolist() == ["/m/01yrx", "/m/0bt9lr"]
    assert kept.mask is not None
    assert kept.mask.tolist() == ["b", "a"]
    assert detections.label.tolist() == LABEL


def test_no_detections_remain_no_detections() -> None:
    nothing = Detections.empty(4, 6, masks=True)
    full = Selection(
        nms_iou=0.5, class_map={"a": "b"}, class_threshold={"a": 0.5}, include_class=("a",), max_detections=3
    )
    assert len(full.apply(nothing)) == 0


def test_default_thresholds_of_label_exports_and_evaluation() -> None:
    assert LabelOptions(source=("a",), detector="d", output="o").selection.score_threshold == 0.05
    option_classes = (CocoOptions, CvatOptions, YoloOptions, VocOptions, LabelStudioOptions, PreviewOptions)
    assert {options().selection.score_threshold for options in option_classes} == {0.3}
    assert PushOptions(url="http://host", project="p").selection.score_threshold == 0.3
    assert EvaluateOptions(truth="t").selection.score_threshold == 0.0


def test_image_labels_follow_the_same_rules_and_merge_under_one_name() -> None:
    labels = [ImageLabel(1, "Cat", "", 0.4), ImageLabel(2, "Dog", "", 0.5), ImageLabel(3, "Car", "", 0.1)]
    kept = Selection(class_map={"Cat": "pet", "Dog": "pet"}, score_threshold=0.3).apply_to_image_labels(labels)
    assert kept == (ImageLabel(2, "pet", "", 0.5),)
    assert Selection(exclude_class=("dog",), score_threshold=0.3).apply_to_image_labels(labels) == (labels[0],)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"score_threshold": 1.5}, ("score-threshold", "0", "1", r"1\.5")),
        ({"score_threshold": float("nan")}, ("score-threshold", "0", "1", "nan")),
        ({"class_threshold": {"Dog": -1}}, ("class-threshold", "Dog", "0", "1", "-1")),
        ({"nms_iou": 2}, ("nms-iou", "0", "1", "2")),
        ({"max_detections": 0}, ("max-detections", "1", "0")),
        ({"include_class": ("Dog",), "exclude_class": ("dog",)}, ("dog", r"includ\w+", r"exclud\w+")),
        ({"include_class": (" ",)}, ("class", "empty|no name|nameless|blank|without a name")),
        ({"class_map": {"Dog": ""}}, ("class-map", "Dog", "''", "exclude-class")),
    ],
)
def test_a_wrong_value_is_refused_with_the_value(options: dict, facts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=telling(*facts)):
        Selection(**options)


def test_unknown_names_are_found_and_the_nearest_is_suggested() -> None:
    selection = Selection(
        include_class=("dgo", "pet", "/m/01yrx"),
        class_threshold={"PERSON": 0.5},
        class_map={"Cat": "pet", "Hound": "x"},
    )
    classes = list(map(ClassName, range(3), LABEL, MID))
    assert selection.unknown_names(classes) == ["dgo", "Hound"]
    with pytest.raises(ConfigError, match=telling(r"'dgo'.*'Dog'.*'Hound'", ", ".join(LABEL))):
        selection.require_known_names(classes)
    with pytest.raises(ConfigError, match="^(?!.*c20)" + telling("'zzz'", "c0", "c19")):
        Selection(include_class=("zzz",)).require_known_names([ClassName(n, f"c{n}") for n in range(21)])
    # A label of the class map is not a name that the detector could have.
    assert Selection(class_map={"human": "humane"}).unknown_names_with_hints(classes) == ["'human'"]
    Selection(include_class=("dog",)).require_known_names(classes)
    assert nearest_name("zzz", LABEL) is None


def test_a_selection_without_thresholds_is_made_once_and_keeps_the_other_rules() -> None:
    selection = Selection(score_threshold=0.5, class_threshold={"Dog": 0.7}, exclude_class=("Cat",))
    without_general, without_any = selection.without_score_threshold, selection.without_thresholds
    assert without_general == Selection(score_threshold=0.0, class_threshold={"Dog": 0.7}, exclude_class=("Cat",))
    assert without_any == Selection(score_threshold=0.0, exclude_class=("Cat",))
    assert selection.without_score_threshold is without_general
    assert selection.without_thresholds is without_any


def test_options_come_from_a_job_file_and_survive_pickling() -> None:
    selection = from_mapping(
        Selection,
        {"score-threshold": "0.5", "class-threshold": ["Person=0.6"], "class_map": {"Dog": "pet"}},
        "job.yaml",
    )
    assert selection == Selection(score_threshold=0.5, class_threshold={"Person": 0.6}, class_map={"Dog": "pet"})
    assert keep(pickle.loads(pickle.dumps(selection))) == [1, 0]  # noqa: S301 - our own bytes
    assert keep(replace(selection, score_threshold=0.1, class_threshold={})) == [1, 0, 2]
    assert {f.metadata["affects"] for f in fields_of(Selection).values()} == {"rows"}


def test_a_star_applies_to_unnamed_classes_unless_a_score_threshold_is_given() -> None:
    for made in (
        Selection(class_threshold={"*": 0.85, "Person": 0.1}),
        from_mapping(Selection, {"class_threshold": ["*=0.85", "Person=0.1"]}, "test"),
    ):
        assert (made.score_threshold, made.class_threshold) == (0.85, {"Person": 0.1})
        assert keep(made) == [1, 2]
        assert made.notes == ()
    stated = from_mapping(Selection, {"class_threshold": ["*=0.85", "Person=0.1"], "score_threshold": 0.5}, "test")
    assert keep(stated) == [1, 0, 2]
    assert len(stated.notes) == 1
    assert is_told(stated.notes[0], "score-threshold", r"0\.5", r"0\.85")
    # This also holds if the given number equals the default.
    default = Selection().score_threshold
    assert from_mapping(Selection, {"class_threshold": ["*=0.85"], "score_threshold": default}, "test").notes
    with pytest.raises(ConfigError, match=telling("class-threshold", r"\*", "0", "1", r"1\.5")):
        Selection(class_threshold={"*": 1.5})


def test_a_selection_knows_whether_any_option_was_given() -> None:
    assert not Selection().is_given
    assert not ExportSelection().is_given
    for stated in (
        {"score_threshold": 0.3},
        {"class_threshold": {"*": 0.3}},
        {"nms_per_class": False},
        {"nms_iou": 1.0},
    ):
        assert ExportSelection(**stated).is_given, stated
    assert type(Selection().score_threshold) is float
    assert pickle.loads(pickle.dumps(ExportSelection(score_threshold=0.3))).is_given  # noqa: S301 - made here
