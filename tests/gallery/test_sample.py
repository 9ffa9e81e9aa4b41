"""The sample has every class and range of scores, and is the same for the same seed."""

from __future__ import annotations

import random

import pytest

from prelabel.gallery.survey import SCORE_RANGES, Sampler, score_range


def sample(images: dict[str, list[tuple[str, int]]], limit: int, seed: int = 0) -> set[str]:
    sampler = Sampler(limit, seed)
    names = list(images)
    for position, name in enumerate(names):
        sampler.add(position, name, images[name])
    chosen = sampler.chosen()
    assert chosen == sorted(set(chosen))
    return {names[position] for position in chosen}


@pytest.mark.parametrize(("score", "expected"), [(0.2, 0), (0.39, 0), (0.41, 1), (0.61, 2), (0.81, 3), (1.0, 3)])
def test_ranges_divide_what_lies_above_the_threshold(score: float, expected: int):
    assert score_range(score, 0.2) == expected


def test_scores_below_the_threshold_and_a_threshold_of_one_have_a_range():
    assert score_range(0.1, 0.5) == 0
    assert score_range(1.0, 1.0) == SCORE_RANGES - 1


def test_all_images_are_chosen_if_there_are_no_more_than_the_limit():
    images = {f"{n}.jpg": [("Dog", n % 2)] for n in range(5)}
    assert sample(images, 5) == set(images)
    assert sample(images, 50) == set(images)


def test_exactly_as_many_images_as_the_limit_are_chosen():
    images = {f"{n}.jpg": [("Dog", n % 4), ("Cat", n % 3)] for n in range(100)}
    for limit in (1, 7, 40, 99):
        assert len(sample(images, limit)) == limit


def test_a_class_that_occurs_once_among_thousands_is_seen():
    images = {f"{n}.jpg": [("Dog", n % 4)] for n in range(5000)}
    images["rare.jpg"] = [("Dog", 1), ("Okapi", 2)]
    images["nothing.jpg"] = [("", 0)]
    for seed in range(5):
        chosen = sample(images, 8, seed)
        assert {"rare.jpg", "nothing.jpg"} <= chosen


def test_every_range_of_scores_is_seen():
    images = {f"{n}.jpg": [("Dog", 3)] for n in range(1000)} | {f"low{n}.jpg": [("Dog", 0)] for n in range(2)}
    assert len(sample(images, 10) & {"low0.jpg", "low1.jpg"}) == 2


def test_with_a_limit_below_the_number_of_strata_classes_come_before_ranges():
    images = {f"{label}{low}{n}": [(label, low)] for label in "ABCDE" for low in range(4) for n in range(10)}
    assert {name[0] for name in sample(images, 5)} == set("ABCDE")


def test_the_order_in_which_images_come_does_not_matter():
    images = {f"{n}.jpg": [("Dog", n % 4), ("Cat", n % 3)] for n in range(300)}
    shuffled = list(images.items())
    random.Random(1).shuffle(shuffled)
    assert sample(dict(shuffled), 20) == sample(images, 20)


def test_another_seed_draws_another_sample():
    images = {f"{n}.jpg": [("Dog", n % 4)] for n in range(300)}
    assert sample(images, 20, seed=0) == sample(images, 20, seed=0)
    assert sample(images, 20, seed=0) != sample(images, 20, seed=1)


def test_one_more_image_changes_a_sample_little():
    images = {f"{n}.jpg": [("Dog", n % 4)] for n in range(300)}
    more = {"new.jpg": [("Dog", 1)], **images}
    assert len(sample(images, 40) - sample(more, 40)) <= 1


def test_a_name_that_is_not_valid_unicode_can_be_sampled():
    assert sample({"\udcff.jpg": [("\udcff", 0)]}, 1) == {"\udcff.jpg"}
