"""Small cases of Open Images' metrics, one for each rule, and a sample in the official format.

`tests/data/openimages/reference.json` has the results of the TensorFlow Object Detection API for all of them;
`tests/review/openimages_reference.py` makes it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prelabel.labels.class_tree import open_images_tree

DATA = Path(__file__).parents[1] / "data" / "openimages"
BOXES, LABELS, DETECTIONS = (DATA / f"sample-{name}.csv" for name in ("boxes", "labels", "detections"))
REFERENCE = DATA / "reference.json"

#: Height and width of every image: corners in pixels are exact as fractions.
SIZE = 64

BOX_HEADER = (
    *("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"),
    *("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"),
)
LABEL_HEADER = ("ImageID", "Source", "LabelName", "Confidence")
DETECTION_HEADER = ("ImageID", "LabelName", "Score", "XMin", "XMax", "YMin", "YMax")

#: Corners (x1, y1, x2, y2) in pixels.
LEFT, RIGHT, HALF_LEFT, ALL = (0, 0, 16, 16), (32, 32, 48, 48), (0, 0, 16, 8), (0, 0, 64, 64)
ALMOST_HALF, INSIDE, ACROSS = (0, 0, 16, 7), (4, 4, 8, 8), (24, 0, 40, 16)

Corners = tuple[int, int, int, int]


def mid(name: str) -> str:
    """The MID of a class."""
    entry = open_images_tree().find(name)
    assert entry is not None
    return entry.mid


@dataclass(frozen=True)
class Case:
    """Boxes as (image, class, corners) or (image, class, corners, True) for a group; labels; detections."""

    boxes: Sequence[tuple[Any, ...]]
    labels: Sequence[tuple[str, str, int]]
    detections: Sequence[tuple[str, str, float, Corners]]

    def write(self, folder: Path) -> tuple[Path, Path, Path]:
        """Write the three files in Open Images' format."""
        paths = tuple(folder / f"{name}.csv" for name in ("boxes", "labels", "detections"))
        boxes = [
            (image, "xclick", mid(name), 1, *_fractions(corners), 0, 0, int(bool(group)), 0, 0)
            for image, name, corners, *group in self.boxes
        ]
        labels = [(image, "verification", mid(name), confidence) for image, name, confidence in self.labels]
        detections = [
            (image, mid(name), score, *_fractions(corners)) for image, name, score, corners in self.detections
        ]
        write_csv(paths[0], BOX_HEADER, boxes)
        write_csv(paths[1], LABEL_HEADER, labels)
        write_csv(paths[2], DETECTION_HEADER, detections)
        return paths[0], paths[1], paths[2]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _fractions(corners: Corners) -> tuple[float, ...]:
    x1, y1, x2, y2 = (value / SIZE for value in corners)
    return x1, x2, y1, y2


CASES = {
    "one correct detection": Case([("a", "Car", LEFT)], [("a", "Car", 1)], [("a", "Car", 0.5, LEFT)]),
    "no detection": Case([("a", "Car", LEFT)], [("a", "Car", 1)], []),
    "overlap of exactly a half": Case([("a", "Car", LEFT)], [("a", "Car", 1)], [("a", "Car", 0.5, HALF_LEFT)]),
    "overlap of less than a half": Case([("a", "Car", LEFT)], [("a", "Car", 1)], [("a", "Car", 0.5, ALMOST_HALF)]),
    "second detection of an object": Case(
        [("a", "Car", LEFT), ("b", "Car", LEFT)],
        [("a", "Car", 1), ("b", "Car", 1)],
        [("a", "Car", 0.5, LEFT), ("a", "Car", 0.75, HALF_LEFT), ("b", "Car", 0.25, LEFT)],
    ),
    "best object is taken, second best is free": Case(
        [("a", "Car", LEFT), ("a", "Car", (0, 0, 16, 12))],
        [("a", "Car", 1)],
        [("a", "Car", 0.75, LEFT), ("a", "Car", 0.5, (0, 0, 16, 15))],
    ),
    "equally good objects": Case(
        [("a", "Car", (0, 0, 16, 12)), ("a", "Car", (0, 4, 16, 16))],
        [("a", "Car", 1)],
        [("a", "Car", 0.75, LEFT), ("a", "Car", 0.5, (0, 0, 16, 12))],
    ),
    "class is not verified on the image": Case(
        [("a", "Car", LEFT), ("b", "Car", LEFT)],
        [("a", "Car", 1), ("b", "Car", 1), ("c", "Car", 0)],
        [("a", "Dog", 0.875, RIGHT), ("a", "Car", 0.5, LEFT), ("b", "Cat", 0.75, LEFT), ("b", "Car", 0.25, LEFT)],
    ),
    "class is verified to be absent": Case(
        [("a", "Car", LEFT)],
        [("a", "Car", 1), ("b", "Car", 0)],
        [("b", "Car", 0.75, LEFT), ("a", "Car", 0.5, LEFT)],
    ),
    "boxes verify their class without a label": Case(
        [("a", "Car", LEFT)], [("b", "Car", 0)], [("a", "Car", 0.5, RIGHT), ("a", "Car", 0.25, LEFT)]
    ),
    "image without annotations": Case(
        [("a", "Car", LEFT)], [("a", "Car", 1)], [("z", "Car", 0.875, LEFT), ("a", "Car", 0.25, LEFT)]
    ),
    "group is detected": Case(
        [("a", "Car", ALL, True), ("b", "Car", LEFT)],
        [("a", "Car", 1), ("b", "Car", 1)],
        [("a", "Car", 0.75, LEFT), ("a", "Car", 0.5, RIGHT), ("a", "Car", 0.25, INSIDE), ("b", "Car", 0.375, LEFT)],
    ),
    "group is missed": Case(
        [("a", "Car", RIGHT, True), ("b", "Car", LEFT)],
        [("a", "Car", 1), ("b", "Car", 1)],
        [("a", "Car", 0.75, LEFT), ("b", "Car", 0.5, LEFT)],
    ),
    "half inside of a group": Case(
        [("a", "Car", (32, 0, 64, 64), True), ("b", "Car", LEFT)],
        [("a", "Car", 1), ("b", "Car", 1)],
        [("a", "Car", 0.75, ACROSS), ("a", "Car", 0.5, (16, 0, 40, 16)), ("b", "Car", 0.25, LEFT)],
    ),
    "object inside of a group": Case(
        [("a", "Car", ALL, True), ("a", "Car", LEFT)],
        [("a", "Car", 1)],
        [("a", "Car", 0.75, LEFT), ("a", "Car", 0.5, HALF_LEFT), ("a", "Car", 0.25, RIGHT)],
    ),
    "two groups": Case(
        [("a", "Car", (0, 0, 32, 64), True), ("a", "Car", (16, 0, 64, 64), True), ("a", "Car", (0, 0, 4, 4))],
        [("a", "Car", 1)],
        [("a", "Car", 0.75, INSIDE), ("a", "Car", 0.5, RIGHT), ("a", "Car", 0.25, (20, 20, 24, 24))],
    ),
    "group whose best detection has the score 0": Case(
        [("a", "Car", ALL, True), ("b", "Car", LEFT)],
        [("a", "Car", 1), ("b", "Car", 1)],
        [("a", "Car", 0.0, LEFT), ("b", "Car", 0.5, LEFT)],
    ),
    "only groups": Case([("a", "Car", ALL, True)], [("a", "Car", 1)], [("a", "Car", 0.5, LEFT)]),
    "box counts for the classes above": Case(
        [("a", "Dog", LEFT), ("b", "Cat", LEFT), ("b", "Bird", RIGHT)],
        [("a", "Dog", 1), ("b", "Cat", 1), ("b", "Bird", 1)],
        [
            ("a", "Dog", 0.75, LEFT),
            ("a", "Animal", 0.5, LEFT),
            ("b", "Carnivore", 0.25, LEFT),
            ("b", "Cat", 0.125, RIGHT),
        ],
    ),
    "box of a class with several parents": Case(
        [("a", "Tank", LEFT)],
        [("a", "Tank", 1)],
        [("a", "Weapon", 0.75, LEFT), ("a", "Vehicle", 0.5, LEFT), ("a", "Land vehicle", 0.25, RIGHT)],
    ),
    "part of a class is not the class": Case(
        [("a", "Wheel", LEFT), ("b", "Car", LEFT)],
        [("a", "Wheel", 1), ("b", "Car", 1)],
        [("a", "Car", 0.75, LEFT), ("b", "Car", 0.5, LEFT)],
    ),
    "present label verifies the classes above": Case(
        [("b", "Animal", LEFT)],
        [("a", "Dog", 1), ("b", "Animal", 1)],
        [("a", "Animal", 0.75, RIGHT), ("a", "Mammal", 0.625, RIGHT), ("b", "Animal", 0.5, LEFT)],
    ),
    "present label does not verify the classes below": Case(
        [("a", "Animal", LEFT), ("b", "Dog", LEFT)],
        [("a", "Animal", 1), ("b", "Dog", 1)],
        [("a", "Dog", 0.75, LEFT), ("b", "Dog", 0.5, LEFT)],
    ),
    "absent label verifies the classes below": Case(
        [("b", "Dog", LEFT)],
        [("a", "Animal", 0), ("b", "Dog", 1)],
        [("a", "Dog", 0.75, RIGHT), ("b", "Dog", 0.5, LEFT)],
    ),
    "absent label does not verify the classes above": Case(
        [("b", "Dog", LEFT)],
        [("a", "Dog", 0), ("b", "Dog", 1)],
        [("a", "Animal", 0.75, RIGHT), ("b", "Animal", 0.5, LEFT)],
    ),
    "detection without size": Case(
        [("a", "Car", LEFT)], [("a", "Car", 1)], [("a", "Car", 0.75, (5, 5, 5, 9)), ("a", "Car", 0.5, LEFT)]
    ),
    "precision rises with recall": Case(
        [("a", "Car", LEFT), ("b", "Car", LEFT), ("c", "Car", LEFT), ("d", "Car", LEFT)],
        [(image, "Car", 1) for image in "abcd"],
        [
            *[("a", "Car", 0.875, RIGHT), ("a", "Car", 0.75, LEFT), ("b", "Car", 0.625, LEFT)],
            *[("c", "Car", 0.5, RIGHT), ("c", "Car", 0.375, INSIDE), ("c", "Car", 0.25, LEFT)],
        ],
    ),
}


def make_sample(images: int = 40, seed: int = 4) -> None:
    """Write the sample: random boxes, labels and detections of related classes, in Open Images' format."""
    random = np.random.default_rng(seed)
    names = ["Animal", "Mammal", "Carnivore", "Dog", "Cat", "Bear", "Bird", "Owl", "Vehicle", "Land vehicle", "Car"]
    names += ["Tank", "Weapon", "Taxi", "Wheel", "Tire", "Person", "Man", "Woman", "Human face", "Clothing", "Hat"]
    boxes: list[Sequence[Any]] = []
    labels: list[Sequence[Any]] = []
    detections: list[Sequence[Any]] = []
    for number in range(images):
        image = f"{random.integers(1 << 63):016x}"
        for name in random.choice(names, random.integers(0, 5), replace=False):
            labels.append((image, "verification", mid(name), 1))
            for _ in range(random.integers(1, 6)):
                corners, group = _random_corners(random), random.random() < 0.15
                if random.random() < 0.9:
                    boxes.append((image, "xclick", mid(name), 1, *corners, 0, 0, int(group), 0, 0))
                for _ in range(random.integers(0, 3)):
                    near = np.clip(np.array(corners) + random.integers(-64, 65, 4) / 1024, 0, 1)
                    detections.append((image, mid(name), *_ordered_corners(near)))
        others = random.choice(names, random.integers(0, 3), replace=False)
        labels += [(image, "verification", mid(name), int(number % 7 == 0)) for name in others]
        detections += [
            (image, mid(name), *_random_corners(random)) for name in random.choice(names, random.integers(0, 12))
        ]
    # Distinct scores, exact in float32: how the reference ranks equal ones depends on the machine.
    scores = (random.permutation(1 << 14)[: len(detections)] + 1) / (1 << 14)
    scored = [(image, name, score, *corners) for (image, name, *corners), score in zip(detections, scores, strict=True)]
    write_csv(BOXES, BOX_HEADER, boxes)
    write_csv(LABELS, LABEL_HEADER, labels)
    write_csv(DETECTIONS, DETECTION_HEADER, scored)


def _random_corners(random: np.random.Generator) -> tuple[float, ...]:
    x, y, w, h = random.integers(0, 512, 4) / 1024
    return x, x + w + 1 / 64, y, y + h + 1 / 64


def _ordered_corners(values: np.ndarray[Any, Any]) -> tuple[float, ...]:
    x1, x2, y1, y2 = values.tolist()
    return min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
