"""`prelabel label` on networks that are easily misread: the right numbers, or one line and nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests.e2e.command import Place, local_rows
from tests.messages import tells

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

VALUES = {"bright.png": 230, "dark.png": 10, "middle.png": 115}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, value in VALUES.items():
        Image.new("RGB", (64, 48), (value, value, value)).save(folder / name)
    return folder


class Labelled:
    """What a command left: its end, its words, its rows by image, its record."""

    def __init__(self, place: Place, photos: Path, network: Path, *options: str) -> None:
        self.output = photos.parent / "out"
        done = place.run(
            *("label", str(photos), "--detector", str(network), "--output", str(self.output)),
            *("--runner", "local", "--workers", "1", "--score-threshold", "0.01", *options),
        )
        self.code, self.words = done.returncode, done.stdout + done.stderr

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["image_id"]: row for row in local_rows(self.output).to_pylist()}

    @property
    def detector(self) -> dict[str, Any]:
        detector: dict[str, Any] = json.loads((self.output / "run.json").read_text())["detector"]
        return detector


def test_floats_in_bytes(place: Place, photos: Path, networks: Path) -> None:
    run = Labelled(place, photos, networks / "od_api_float")
    assert run.code == 0, run.words
    assert run.detector["reading"]["input range"]["value"] == "0..255"
    for name, value in VALUES.items():
        np.testing.assert_allclose(run.rows[name]["scores"], [value / 255, 0.9 * value / 255], rtol=1e-4)
        np.testing.assert_allclose(run.rows[name]["boxes"][0], [12.8, 4.8, 44.8, 28.8], rtol=1e-4)
    # The same command has nothing left to do; another range is another run.
    again = Labelled(place, photos, networks / "od_api_float")
    assert (again.code, "nothing left to do" in again.words) == (0, True)
    other = Labelled(place, photos, networks / "od_api_float", "--input-range", "0..1")
    assert other.code == 2
    assert "input-range was not given, now 0..1" in other.words


def test_a_keras_classifier(place: Place, photos: Path, networks: Path) -> None:
    run = Labelled(place, photos, networks / "keras3")
    assert run.code == 0, run.words
    assert {name: row["image_labels"][0]["label"] for name, row in run.rows.items()} == {
        "dark.png": "0",
        "middle.png": "0",
        "bright.png": "2",
    }
    assert run.rows["bright.png"]["image_labels"][0]["score"] == pytest.approx(0.993, abs=1e-3)
    assert {about: decision["value"] for about, decision in run.detector["reading"].items()} == {
        "input range": "0..255",
        "activation": "softmax",
    }


def test_independent_probabilities(place: Place, photos: Path, networks: Path) -> None:
    run = Labelled(place, photos, networks / "multilabel_sigmoid", "--input-range", "-1..1", "--activation", "sigmoid")
    assert run.code == 0, run.words
    for row in run.rows.values():
        scores = {label["label"]: round(label["score"], 3) for label in row["image_labels"]}
        assert scores == {"0": 0.953, "1": 0.924, "2": 0.018, "3": 0.731}
    assert run.detector["reading"]["input range"] == {"value": "-1..1", "why": "given by --input-range"}


def test_masks_of_the_image(place: Place, photos: Path, networks: Path) -> None:
    run = Labelled(place, photos, networks / "masks_of_image_uint8")
    assert run.code == 0, run.words
    for row in run.rows.values():
        areas = [
            int(coco_mask.area({"size": [48, 64], "counts": counts["counts"].encode()}))
            if isinstance(counts, dict)
            else int(coco_mask.area({"size": [48, 64], "counts": counts.encode()}))
            for counts in row["masks"]
        ]
        np.testing.assert_allclose(areas, [32 * 24, 32 * 29], atol=32)


def test_unused_outputs_are_reported_where_users_look(place: Place, photos: Path, networks: Path) -> None:
    (photos.parent / "names.csv").write_text("1,one\n")
    run = Labelled(place, photos, networks / "embeddings", "--label-map", str(photos.parent / "names.csv"))
    assert run.code == 0, run.words
    assert tells(run.words, "label map", "2 (3 x)")
    assert [row["labels"] for row in run.rows.values()] == [["one", "2"]] * 3
    note = "the output detection_embeddings: float32 [1, 2, 17, 2] is not used"
    assert note in run.detector["notes"]
    assert run.words.count(note) == 2  # when it starts, and in the summary


@pytest.mark.parametrize("name", ["pixel_boxes", "corner_and_size"])
def test_boxes_of_unknown_meaning_end_the_run(name: str, place: Place, photos: Path, networks: Path) -> None:
    run = Labelled(place, photos, networks / name)
    assert run.code == 1
    assert "detection_boxes" in run.words.splitlines()[-1]
    assert "Traceback" not in run.words
    assert not (run.output / "manifest.json").exists()


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("detector_of_floats", "--input-range"),
        ("multilabel_sigmoid", "--input-range"),
        ("logits", "--activation"),
        ("feature_vector", "--activation"),
        ("keras_dense", "--activation"),
        ("channels_unknown", "--input-layout"),
        ("masks_of_prototypes", "--mask-frame"),
        ("int_classes", "detection_boxes"),
    ],
)
def test_a_refusal_is_one_line_that_names_the_option_and_writes_nothing(
    name: str, option: str, place: Place, photos: Path, networks: Path
) -> None:
    run = Labelled(place, photos, networks / name)
    assert run.code == 1
    assert option in run.words.splitlines()[-1]
    assert "Traceback" not in run.words
    assert not run.output.exists()
    inspected = place.run("inspect", str(networks / name))
    assert inspected.returncode == 1
    assert "refused" in inspected.stdout
    assert option in inspected.stdout
    assert "returns class names" not in inspected.stdout


OTHER_WAYS = ("--adapter", "--detector package.module:factory")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("feature_vector", ("feature vector", "--activation")),
        ("unit_embedding", ("feature vector", "--activation")),
        ("one_number", ("regression", *OTHER_WAYS)),
        ("segmentation", ("map", "segmentation", *OTHER_WAYS)),
        ("depth", ("map", "depth", *OTHER_WAYS)),
        ("heat_maps", ("map", "heatmaps", *OTHER_WAYS)),
        ("video", ("not an image", *OTHER_WAYS)),
        ("audio", ("waveform", "not an image", *OTHER_WAYS)),
        ("text", ("strings", "StringToHashBucketFast", *OTHER_WAYS)),
        ("oriented_boxes", ("oriented boxes", "upright boxes", *OTHER_WAYS)),
    ],
)
def test_a_wrong_model_is_refused_in_one_line_that_names_the_ways_out(
    name: str, words: tuple[str, ...], place: Place, photos: Path, networks: Path
) -> None:
    run = Labelled(place, photos, networks / name)
    assert run.code == 1
    (line,) = run.words.splitlines()
    assert tells(line, *words), line
    assert not run.output.exists()
