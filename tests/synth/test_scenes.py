"""Scenes are the same for the same seed, and their ground truth matches the pixels."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from prelabel.errors import ConfigError
from prelabel.masks import rle
from prelabel.synth import CLASS_NAMES, make_scenes
from prelabel.synth.scenes import MIN_BOX_SIDE, draw_scene
from prelabel.synth.shapes import random_outline
from tests.messages import facts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scenes")
    make_scenes(directory, images=40, seed=3)
    return directory


@pytest.fixture(scope="module")
def truth(made: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((made / "instances.json").read_text())
    return loaded


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def test_same_seed_and_index_give_the_same_scene() -> None:
    first, second = draw_scene(5, 2), draw_scene(5, 2)
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.instance_map, second.instance_map)
    assert first.category_ids.tolist() == second.category_ids.tolist()


@pytest.mark.parametrize("other", [(5, 3), (6, 2)])
def test_another_seed_or_index_gives_another_scene(other: tuple[int, int]) -> None:
    first, second = draw_scene(5, 2), draw_scene(*other)
    assert first.pixels.shape != second.pixels.shape or not np.array_equal(first.pixels, second.pixels)


def test_box_is_the_tight_box_of_the_visible_mask() -> None:
    boxes = 0
    for index in range(20):
        scene = draw_scene(11, index)
        for number, (x1, y1, x2, y2) in enumerate(scene.xyxy.astype(int), start=1):
            rows, columns = np.nonzero(scene.instance_map == number)
            assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (y1, y2, x1, x2)
            assert min(x2 - x1, y2 - y1) >= MIN_BOX_SIDE
            boxes += 1
        assert scene.instance_map.max() == len(scene.xyxy)
    assert boxes > 60


def test_all_classes_all_sizes_and_both_orientations_occur() -> None:
    scenes = [draw_scene(12, index) for index in range(150)]
    assert {int(c) for scene in scenes for c in scene.category_ids} == set(range(1, len(CLASS_NAMES) + 1))
    shares = [
        float(np.sqrt(np.prod(box[2:] - box[:2]) / np.prod(scene.instance_map.shape)))
        for scene in scenes
        for box in scene.xyxy
    ]
    sides = [float(min(box[2:] - box[:2])) for scene in scenes for box in scene.xyxy]
    assert min(sides) < 10
    assert max(shares) > 0.85
    assert {scene.pixels.shape[0] > scene.pixels.shape[1] for scene in scenes} == {True, False}


def test_backgrounds_are_not_flat() -> None:
    for index in range(20):
        scene = draw_scene(13, index)
        assert scene.pixels[scene.instance_map == 0].std(axis=0).max() > 2


def test_a_mask_lies_on_pixels_that_differ_from_its_surroundings() -> None:
    """Ground truth shifted by a few pixels would lose most of this contrast at the edges."""
    inside_steps, shifted_steps = [], []
    for index in range(20):
        scene = draw_scene(14, index)
        gray = scene.pixels.astype(float).mean(axis=2)
        step = np.abs(np.diff(gray, axis=1))
        edge = np.diff((scene.instance_map > 0).astype(int), axis=1) != 0
        inside_steps.append(step[edge].mean())
        shifted_steps.append(step[np.roll(edge, 4, axis=1)].mean())
    assert np.mean(inside_steps) > 2.5 * np.mean(shifted_steps)


@pytest.mark.parametrize("category_id", range(1, len(CLASS_NAMES) + 1))
def test_an_outline_has_the_requested_size_and_is_centered_at_the_origin(category_id: int) -> None:
    outline = random_outline(np.random.default_rng(category_id), category_id, 50)
    points = np.concatenate([points for points, ink in outline if ink])
    low, high = points.min(axis=0), points.max(axis=0)
    assert np.sqrt(np.prod(high - low)) == pytest.approx(50)
    assert low + high == pytest.approx(0, abs=1e-9)


def test_files_depend_only_on_seed_and_number(made: Path, tmp_path: Path) -> None:
    """Two processes, a smaller set and another directory give the same bytes."""
    make_scenes(tmp_path, images=12, seed=3, workers=2)
    few, many = digests(tmp_path), digests(made)
    assert len(few) == 13
    del few["instances.json"]
    assert few.items() <= many.items()


def test_a_second_run_writes_the_same_truth(made: Path, tmp_path: Path) -> None:
    make_scenes(tmp_path, images=40, seed=3)
    assert digests(tmp_path) == digests(made)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_truth_is_a_consistent_coco_dataset(made: Path, truth: dict[str, Any]) -> None:
    assert [category["name"] for category in truth["categories"]] == list(CLASS_NAMES)
    assert len(truth["images"]) == 40
    for image in truth["images"]:
        with Image.open(made / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])
    reference = COCO()
    reference.dataset = truth
    reference.createIndex()
    for annotation in truth["annotations"]:
        mask = reference.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        x, y = columns.min(), rows.min()
        assert annotation["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
        assert annotation["area"] == mask.sum()
        assert annotation["iscrowd"] == 0


def test_truth_matches_the_scene_that_was_drawn(truth: dict[str, Any]) -> None:
    scene = draw_scene(3, 0)
    of_first = [annotation for annotation in truth["annotations"] if annotation["image_id"] == 1]
    assert [annotation["category_id"] for annotation in of_first] == scene.category_ids.tolist()
    for number, annotation in enumerate(of_first, start=1):
        mask = rle.decode(annotation["segmentation"]["counts"], *annotation["segmentation"]["size"])
        assert np.array_equal(mask, scene.instance_map == number)


def test_progress_is_reported_after_every_image(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    made = make_scenes(tmp_path, images=3, seed=1, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert made.images == 3
    assert Path(made.truth) == tmp_path / "instances.json"


def test_a_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match=facts(str(tmp_path), "files", "'holiday.jpg'")):
        make_scenes(tmp_path, images=1, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_smaller_set_is_not_mixed_into_a_larger_one(tmp_path: Path) -> None:
    make_scenes(tmp_path, images=2, seed=1)
    with pytest.raises(ConfigError, match=facts("scene-000001.jpg")):
        make_scenes(tmp_path, images=1, seed=1)


@pytest.mark.parametrize(("arguments", "expected"), [((0, 1), ("images", "1", "0")), ((1, -1), ("seed", "0", "-1"))])
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, arguments: tuple[int, int], expected: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match=facts(*expected)):
        make_scenes(tmp_path, *arguments)


def test_scenes_import_neither_tensorflow_nor_ray() -> None:
    code = "import sys, prelabel.synth; print(sorted({'tensorflow', 'ray'} & {m.split('.')[0] for m in sys.modules}))"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "[]"
