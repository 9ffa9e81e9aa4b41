"""Which images of a source a run has planned already, and what a run records of its detector's keypoints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prelabel.config import LabelOptions
from prelabel.detections import ClassName
from prelabel.engine.planning import with_named_keypoints
from prelabel.errors import ConfigError
from prelabel.keypoints import COCO_PERSON, KeypointSet
from prelabel.labels.maps import LabelMap
from prelabel.storage.files import Storage
from tests.runs import DETECTOR

STORAGE = Storage()


def named(keypoints: KeypointSet | None, in_label_map: KeypointSet | None = None, **options: Any) -> KeypointSet | None:
    detector = replace(DETECTOR, keypoints=keypoints, classes=(ClassName(4, "person"),))
    labels = LabelMap({4: ClassName(4, "person")}, keypoints=in_label_map)
    label_options = LabelOptions.of(source=("photos",), detector="d", output="out", **options)
    return with_named_keypoints(detector, labels, label_options, STORAGE).keypoints


def test_keypoints_are_named_by_the_option_or_the_label_map() -> None:
    unnamed = KeypointSet.unnamed(17)
    assert named(unnamed) == unnamed
    assert named(unnamed, in_label_map=COCO_PERSON) == COCO_PERSON
    assert named(unnamed, keypoint_names="coco-person") == replace(COCO_PERSON, classes=(4,))
    assert named(None) is None


def test_mirrored_views_need_to_know_left_and_right() -> None:
    unnamed = KeypointSet.unnamed(17)
    with pytest.raises(ConfigError, match="--keypoint-names") as caught:
        named(unnamed, views="whole,flip")
    assert "flip" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert named(unnamed, views="whole,tiles") == unnamed
    assert named(unnamed, views="whole,flip", keypoint_names="coco-person") is not None


def test_names_for_a_detector_without_keypoints_are_refused() -> None:
    with pytest.raises(ConfigError, match="no keypoints"):
        named(None, keypoint_names="coco-person")
