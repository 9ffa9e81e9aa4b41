"""Merging masks: votes and unions on runs, compared with votes on pixels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prelabel.merging.masks
from prelabel.errors import StoreError
from prelabel.masks import rle
from prelabel.merging.masks import unite_masks, vote_masks
from tests.merging import reference
from tests.rows import mask_of


def vote(masks: Sequence[str], weights: Sequence[float], height: int, width: int, windows: Any = None) -> str:
    whole = [[0, 0, width, height]] * len(masks)
    bounds = np.array([0, len(masks)])
    (mask,) = vote_masks(masks, bounds, np.array(weights), np.array(windows or whole), height, width)
    return mask


def test_a_pixel_belongs_to_the_mask_with_half_of_the_weights():
    masks = [mask_of("###..."), mask_of(".####."), mask_of("..###.")]
    assert vote(masks, [1, 1, 1], 1, 6) == mask_of(".####.")
    assert vote(masks, [2, 1, 1], 1, 6) == mask_of("#####.")
    assert vote(masks, [1, 3, 1], 1, 6) == mask_of(".####.")


def test_inexact_float_weights_still_sum_to_half():
    masks = [mask_of("#.."), mask_of("#.."), mask_of(".##")]
    assert vote(masks, [0.1, 0.2, 0.3], 1, 3) == mask_of("###")


def test_runs_that_continue_in_the_next_column():
    masks = [mask_of(".#.", ".#.", "##."), mask_of(".##", ".##", ".#."), mask_of(".#.", "##.", "##.")]
    assert vote(masks, [1, 1, 1], 3, 3) == mask_of(".#.", ".#.", "##.")
    assert unite_masks(masks, np.array([0, 3]), 3, 3) == [mask_of(".##", "###", "##.")]


def test_a_view_has_no_vote_where_it_saw_nothing():
    """Two tiles saw the left half only: on the right the whole view decides alone."""
    masks = [mask_of("######", "######"), mask_of("#.....", "##...."), mask_of("......", "##....")]
    left = [[0, 0, 6, 2], [0, 0, 3, 2], [0, 0, 3, 2]]
    assert vote(masks, [1, 1, 1], 2, 6) == mask_of("#.....", "##....")
    assert vote(masks, [1, 1, 1], 2, 6, left) == mask_of("#..###", "##.###")


def test_the_strongest_mask_stays_if_no_pixel_has_enough_votes():
    masks = [mask_of("#...", "...."), mask_of(".#..", "...."), mask_of("..#.", "....")]
    assert vote(masks, [1, 1, 1], 2, 4) == masks[0]
    assert vote([mask_of("...."), mask_of("....")], [1, 1], 1, 4) == mask_of("....")


def test_clusters_keep_apart_at_the_corners_of_the_image():
    full, last, first = mask_of("##", "##"), mask_of("..", ".#"), mask_of("#.", "..")
    counts, bounds = [full, full, first, last, last, first], np.array([0, 2, 3, 5, 6])
    windows = np.tile([0, 0, 2, 2], (6, 1))
    assert vote_masks(counts, bounds, np.ones(6), windows, 2, 2) == [full, first, last, first]
    assert vote_masks([], np.array([0]), np.ones(0), np.zeros((0, 4), int), 2, 2) == []


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(StoreError, match="2 x 2"):
        vote([mask_of("##", "##"), mask_of("###", "###")], [1, 1], 2, 2)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), batch=st.sampled_from((1, 60, 1 << 17)))
def test_masks_are_merged_as_pixels_would_be(seed: int, batch: int):
    random = np.random.default_rng(seed)
    height, width = (int(side) for side in random.integers(1, 14, 2))
    bounds = np.append(0, np.cumsum(random.integers(1, 6, 4)))
    windows, masks = np.tile([0, 0, width, height], (bounds[-1], 1)), []
    for window in windows:
        if random.random() < 0.6:
            x1, y1 = random.integers(0, width), random.integers(0, height)
            window[:] = x1, y1, random.integers(x1, width) + 1, random.integers(y1, height) + 1
        mask = random.random((height, width)) < random.choice([0, 0.3, 0.6, 1])
        mask[: window[1]] = mask[window[3] :] = mask[:, : window[0]] = mask[:, window[2] :] = False
        masks.append(mask)
    weights = random.choice([0.1, 0.2, 0.3, 1, 2], len(masks))
    counts = [rle.encode(mask) for mask in masks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prelabel.merging.masks, "_BATCH_CHARACTERS", batch)
        voted = vote_masks(counts, bounds, weights, windows, height, width)
        united = unite_masks(counts, bounds, height, width)
    for number, (a, b) in enumerate(itertools.pairwise(bounds)):
        expected = reference.voted(np.array(masks[a:b]), weights[a:b], windows[a:b])
        assert voted[number] == rle.encode(expected)
        assert united[number] == rle.encode(np.any(masks[a:b], axis=0))
