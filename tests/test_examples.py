"""The scripts in `examples/` run unchanged and print the right results."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from prelabel.synth import make_scenes
from tests.rows import failed_row, found, mask_of, row
from tests.runs import write_run

EXAMPLES = Path(__file__).parents[1] / "examples"

#: Environment without downloads, and with caches in the test's folder.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def output_of(script: str, *arguments: object, home: Path) -> str:
    command = [sys.executable, EXAMPLES / script, *map(str, arguments)]
    environment = {**os.environ, **OFFLINE, "HF_HOME": str(home)}
    environment["PYTHONPATH"] = str(EXAMPLES.parent)
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_five_libraries_read_the_same_rows(tmp_path: Path):
    pytest.importorskip("datasets")
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    half, corner = mask_of("###...", "###...", "###...", "###..."), mask_of("......", "......", "......", ".....#")
    cat = found("Cat", 0.4, (5, 3, 6, 4), category_id=2, mask=corner)
    first = dataclasses.replace(row("a.png", found("Dog", 0.9, mask=half), cat), uri=str(tmp_path / "a.png"))
    others = [row("b.jpg", found("Dog", 0.2, mask=half), found("Dog", 0.35, mask=half)), failed_row("c.jpg")]
    run = write_run(tmp_path / "run", [[first, row("d.jpg", masks=True)], others])
    lines = output_of("read_a_run.py", run, home=tmp_path / "home").splitlines()
    counts = "Cat 1, Dog 2"
    libraries = ("duckdb", "pandas", "polars", "datasets", "prelabel")
    assert lines[-5:] == [f"{library}: {counts}" for library in libraries]
    assert "the first image is (6, 4)" in lines
    assert "a.png: the objects cover 54% of the image" in lines


@pytest.mark.slow
def test_from_images_to_tasks(tmp_path: Path):
    make_scenes(str(tmp_path / "scenes"), 4, 0)
    output = tmp_path / "out"
    text = output_of("label_to_label_studio.py", tmp_path / "scenes", "demo-shapes", output, home=tmp_path / "home")
    assert str(output / "preview" / "index.html") in text
    tasks = json.loads((output / "label-studio" / "tasks-00000.json").read_text())
    assert len(tasks) == 4
    assert any(task["predictions"][0]["result"] for task in tasks)
