"""Runs in which the detector sees several views of each image, through the command line and the store."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.command import Place, local_rows
from tests.e2e.test_misread import Labelled
from tests.e2e.test_misread import photos as photos  # a fixture
from tests.messages import tells


@pytest.fixture
def scenes(place: Place, tmp_path: Path) -> Path:
    """Three synthetic scenes, and a file that is no image."""
    folder = tmp_path / "scenes"
    assert place.run("synth", "--to", str(folder), "--images", "3").returncode == 0
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def label(place: Place, scenes: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return place.run(
        *("label", str(scenes), "--detector", "demo-shapes", "--output", str(scenes.parent / "run")),
        *("--runner", "local", "--workers", "1", *options),
    )


def test_rows_say_which_views_showed_a_detection_and_a_retry_keeps_that(place: Place, scenes: Path) -> None:
    run = scenes.parent / "run"
    done = label(place, scenes, "--views", "tiles,whole,flip")
    assert done.returncode == 0, done.stderr
    assert "18 (6.0 per image)" in done.stdout + done.stderr
    rows = local_rows(run).to_pylist()
    assert [row["views_shown"] for row in rows] == [None, 6, 6, 6]
    assert [row["views"] is None for row in rows] == [True, False, False, False]
    for row in rows[1:]:
        assert len(row["views"]) == len(row["scores"]) > 0
        assert {1, 2, 3, 4, 5, 6} >= set(row["views"]) != {1}
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["totals"]["views"] == 18
    settings = json.loads((run / "run.json").read_text())["settings"]
    assert (settings["views"], settings["merge"], settings["tile_size"]) == ("whole,flip,tiles", "wbf", "auto")

    again = label(place, scenes, "--views", "whole,flip,tiles", "--retry-failed")
    assert again.returncode == 0, again.stderr
    assert [row["views"] for row in local_rows(run).to_pylist()] == [row["views"] for row in rows]
    assert place.run("verify", str(run)).returncode == 0

    other = label(place, scenes)
    assert other.returncode == 2
    assert tells(other.stderr, "--views", "whole,flip,tiles")


def test_images_with_one_view_count_where_others_have_more(place: Place, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, width in (("large.png", 300), ("small.png", 100)):
        Image.new("RGB", (width, 100)).save(photos / name)
    run = tmp_path / "run"
    done = place.run(
        *("label", str(photos), "--detector", "demo-shapes", "--output", str(run), "--shard-size", "1"),
        *("--views", "auto", "--tile-size", "120", "--runner", "local", "--workers", "1"),
    )
    assert done.returncode == 0, done.stderr
    assert [row["views_shown"] for row in local_rows(run).to_pylist()] == [4, None]
    manifest = json.loads((run / "manifest.json").read_text())
    assert [shard["views"] for shard in manifest["shards"]] == [4, 1]
    assert manifest["totals"]["views"] == 5
    assert "5 (2.5 per image)" in done.stdout


def test_a_classifier_is_refused(place: Place, photos: Path, networks: Path) -> None:
    run = Labelled(place, photos, networks / "keras3", "--views", "whole,flip")
    assert run.code == 2
    assert tells(run.words, "--views", "keras3", "whole images")
    assert not (run.output / "run.json").exists()
