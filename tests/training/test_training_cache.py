"""The cache of drawn scenes that training reads: what was put in comes out, and nothing in it can run code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prelabel.synth.scenes import draw_scene

TRAINING = Path(__file__).parents[2] / "training"


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `data` of the training code, which is no package."""
    monkeypatch.syspath_prepend(str(TRAINING))
    import data

    return data


def test_scenes_come_out_of_the_cache_as_they_were_drawn(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "SHARD", 3)
    data.draw_cache(tmp_path, seed=7, scenes=5)
    first, second = sorted(tmp_path.iterdir())
    rows = [*data.read_rows(first), *data.read_rows(second)]
    assert len(rows) == 6  # whole files of them
    for index, (jpeg, png, classes) in enumerate(rows):
        scene = draw_scene(7, index)
        with Image.open(io.BytesIO(png)) as image:
            assert np.array_equal(image, scene.instance_map)
        with Image.open(io.BytesIO(jpeg)) as image:
            assert (image.height, image.width) == scene.pixels.shape[:2]
        assert classes.tolist() == scene.category_ids.tolist()


def test_scenes_without_a_shape_are_separate_from_their_neighbors(data: Any, tmp_path: Path) -> None:
    rows = [(b"a", b"bc", np.array([3, 1])), (b"", b"d", np.array([], np.int64)), (b"ef", b"", np.array([2]))]
    with (tmp_path / "rows.npz").open("wb") as file:
        data.write_rows(file, rows)
    cached = [(jpeg, png, classes.tolist()) for jpeg, png, classes in data.read_rows(tmp_path / "rows.npz")]
    assert cached == [(jpeg, png, classes.tolist()) for jpeg, png, classes in rows]


def test_objects_in_a_cache_are_refused_rather_than_built(data: Any, tmp_path: Path) -> None:
    objects = np.empty(1, object)
    objects[0] = _Runs()
    np.savez(tmp_path / "scenes-000000.npz", pictures=objects, lengths=[1, 1], classes=[1], instances=[1])
    with pytest.raises(ValueError, match="allow_pickle=False"):
        data.read_rows(tmp_path / "scenes-000000.npz")


def test_batches_are_cut_out_of_what_the_cache_holds(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "SHARD", 4)
    data.draw_cache(tmp_path, seed=7, scenes=4)
    rng = np.random.default_rng(1)
    sample = data._sample(rng, *next(data._rows(tmp_path, rng)), 64)
    assert [part.shape for part in sample] == [(64, 64, 3), (64, 64), (12,), (12, 4)]


class _Runs:
    """Would end the test, were it ever built from a file."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pytest.fail, ("code of the cache has run",)
