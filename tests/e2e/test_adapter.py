"""`prelabel label --adapter` on networks that no family recognizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.detectors.test_adapter import ROWS, SIZES, TRANSPOSED, adapter, picture, tolerance
from tests.e2e.command import Place, local_rows
from tests.messages import tells


@pytest.mark.parametrize(
    ("kind", "network", "outputs"),
    [
        ("letterbox", "fixed", {**ROWS, "masks": {"tensor": "box_masks", "frame": "box", "activation": "none"}}),
        ("caffe", "caffe", TRANSPOSED),
    ],
)
def test_rows_of_a_network_with_an_adapter(
    place: Place, adapter_networks: Path, tmp_path: Path, kind: str, network: str, outputs: Mapping[str, Any]
) -> None:
    photos, file, output = tmp_path / "photos", tmp_path / "model.yaml", tmp_path / "out"
    photos.mkdir()
    for height, width in SIZES:
        Image.fromarray(picture(height, width)[0]).save(photos / f"{height}x{width}.png")
    values = adapter(kind, labels=["red", "green"], **outputs)
    file.write_text(yaml.safe_dump(values))
    command = [
        *("label", str(photos), "--detector", str(adapter_networks / network), "--adapter", str(file)),
        *("--output", str(output), "--runner", "local", "--workers", "1"),
    ]
    done = place.run(*command)
    assert done.returncode == 0, done.stderr
    rows = {row["image_id"]: row for row in local_rows(output).to_pylist()}
    for size in SIZES:
        row = rows["{}x{}.png".format(*size)]
        assert (row["labels"], row["classes"]) == (["red", "green"], [1, 2])
        np.testing.assert_allclose(row["boxes"], picture(*size)[1], atol=tolerance(kind, *size))
        assert (row["masks"] is not None and len(row["masks"]) == 2) == ("masks" in outputs)
    record = json.loads((output / "run.json").read_text())
    assert record["settings"]["adapter"] == values
    assert record["detector"]["reading"]["colors"]["value"] == values["input"]["colors"]
    # Another adapter is another run.
    values["input"]["fill"] = 1
    file.write_text(yaml.safe_dump(values))
    other = place.run(*command)
    assert other.returncode == 2
    assert tells(other.stderr, "--adapter", "input.fill", "1", "--overwrite")
