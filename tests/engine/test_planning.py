"""Which images of a source a run has planned already, and what a run records of its detector's keypoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prelabel.config import LabelOptions
from prelabel.detections import ClassName
from prelabel.engine.planning import new_refs, with_named_keypoints
from prelabel.errors import ConfigError
from prelabel.image_ref import ImageRef
from prelabel.keypoints import COCO_PERSON, KeypointSet
from prelabel.labels.maps import LabelMap
from prelabel.storage.files import Storage
from prelabel.store.plan import Plan, write_plan
from tests.runs import DETECTOR

STORAGE = Storage()


def refs(*numbers: int) -> Iterator[ImageRef]:
    for n in numbers:
        yield ImageRef(f"{n:06d}.jpg", f"s3://b/{n:06d}.jpg", f"{n:06d}.jpg", n if n % 2 else None, f"v{n}")


def test_only_images_that_are_not_in_the_plan_are_new(tmp_path: Path) -> None:
    first = write_plan(refs(1, 3, 5), str(tmp_path), STORAGE, shard_size=2, plan_id="1a2b3c4d")
    plan = Plan.open(str(tmp_path), first.parts, STORAGE)
    new = list(new_refs(refs(0, 1, 2, 3, 4, 5, 6), plan))
    assert new == list(refs(0, 2, 4, 6))
    more = write_plan(iter(new), str(tmp_path), STORAGE, shard_size=2, first_shard=plan.shards, plan_id="5e6f7a8b")
    assert more.parts[0].name == "plan-00002-5e6f7a8b.parquet"
    both = Plan.open(str(tmp_path), first.parts + more.parts, STORAGE)
    assert both.shards == 4
    assert both.read(1) == list(refs(5))
    assert both.read(2) == list(refs(0, 2))
    assert list(new_refs(refs(*range(7)), both)) == []


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


def test_everything_is_new_to_an_empty_plan(tmp_path: Path) -> None:
    assert list(new_refs(refs(1, 2), Plan.open(str(tmp_path), (), STORAGE))) == list(refs(1, 2))


def test_ten_thousand_known_and_new_images_are_distinguished(tmp_path: Path) -> None:
    known = write_plan(refs(*range(0, 20_000, 2)), str(tmp_path), STORAGE, shard_size=None, plan_id="1a2b3c4d")
    plan = Plan.open(str(tmp_path), known.parts, STORAGE)
    assert list(new_refs(refs(*range(20_000)), plan)) == list(refs(*range(1, 20_000, 2)))
