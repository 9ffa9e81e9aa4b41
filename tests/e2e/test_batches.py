"""Runs of a network that takes several images at a time, through the command line and the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.e2e.command import Place, local_rows
from tests.messages import tells

#: Height and width of the images: equal sizes are not neighbors.
SIZES = [(40, 60), (60, 40), (40, 60), (33, 71), (60, 40), (40, 60), (33, 71)]


def test_batches_give_the_rows_of_single_images_in_the_order_of_the_plan(
    place: Place, tmp_path: Path, networks: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, (height, width) in enumerate(SIZES):
        pixels = np.full((height, width, 3), 20, np.uint8)
        pixels[number : number + 9, 3 * number : 3 * number + 7] = 250
        Image.fromarray(pixels).save(images / f"{number}.png")
    (images / "3b.png").write_bytes(b"no image")
    rows = {}
    for size in (1, 3):
        run = tmp_path / f"run{size}"
        done = place.run(
            *("label", str(images), "--detector", str(networks / "batches"), "--output", str(run)),
            *("--batch-size", str(size), "--score-threshold", "0.01", "--runner", "local", "--workers", "1"),
        )
        assert done.returncode == 0, done.stderr
        assert place.run("verify", str(run)).returncode == 0
        rows[size] = local_rows(run).to_pylist()
    for number, (single, several) in enumerate(zip(rows[1], rows[3], strict=True)):
        assert single["image_id"] == several["image_id"], number
        assert (single["status"], len(single["scores"] or ())) == (several["status"], len(several["scores"] or ()))
        np.testing.assert_allclose(single["boxes"] or [], several["boxes"] or [], atol=1e-3)
    assert [row["status"] for row in rows[3]].count("failed") == 1
    boxes = [row["boxes"][0] for row in rows[3] if row["status"] == "ok"]
    expected = [[3 * n, n, 3 * n + 7, n + 9] for n in range(len(SIZES))]
    np.testing.assert_allclose(boxes, expected, atol=0.01)


def test_a_model_of_single_images_says_that_the_batch_size_has_no_effect(place: Place, tmp_path: Path) -> None:
    images = tmp_path / "images"
    assert place.run("synth", "--to", str(images), "--images", "1").returncode == 0
    done = place.run(
        *("label", str(images), "--detector", "demo-shapes", "--output", str(tmp_path / "run"), "--batch-size", "4"),
        *("--runner", "local", "--workers", "1"),
    )
    assert done.returncode == 0, done.stderr
    assert tells(done.stdout + done.stderr, "--batch-size 4", "one image at a time")
