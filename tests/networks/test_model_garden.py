"""RetinaNet and Mask R-CNN of TF Model Garden Vision, saved by their own export."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.networks.comparison import assert_same, compare, make_network


@pytest.mark.parametrize("kind", ["retinanet", "retinanet-normalized"])
def test_boxes_are_those_of_its_evaluation(kind: str, photos: list[Path], tmp_path: Path) -> None:
    make_network("tf-models", "make_model_garden.py", tmp_path, photos, kind)
    assert_same(compare(tmp_path, photos))


@pytest.mark.parametrize("kind", ["maskrcnn", "maskrcnn-outer"])
def test_masks_are_those_of_its_evaluation(kind: str, photos: list[Path], tmp_path: Path) -> None:
    make_network("tf-models", "make_model_garden.py", tmp_path, photos, kind)
    # With random weights, masks consist of details as small as their pixels, which half a pixel of the photo changes.
    assert_same(compare(tmp_path, photos), mask_iou=(0.82, 0.96))
