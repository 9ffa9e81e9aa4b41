"""RetinaNet and Mask R-CNN of TF Model Garden Vision, saved by its own export."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.networks.comparison import assert_same, compare, make_network


@pytest.mark.parametrize("kind", ["retinanet", "retinanet-normalized", "maskrcnn", "maskrcnn-outer"])
def test_boxes_and_masks_are_those_of_its_evaluation(kind: str, photos: list[Path], tmp_path: Path) -> None:
    """Of a Mask R-CNN, masks cover boxes or, with `outer_boxes_scale`, larger ones."""
    make_network("tf-models", "make_model_garden.py", tmp_path, photos, kind)
    assert_same(compare(tmp_path, photos))
