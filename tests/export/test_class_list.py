"""The classes of a dataset, which are determined before anything is written."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

from prelabel.detections import ClassName
from prelabel.export.categories import ClassListOptions, closed_categories
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.export.cvat import CvatOptions, export_cvat
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.storage.files import Storage
from prelabel.store.run import RunRows, open_run
from tests.rows import INFO, ListedRows, found, row, rows
from tests.runs import write_run

DOG = (ClassName(1, "Dog", "/m/0bt9lr"),)

#: Unlisted classes: two that share a number, one whose number is listed, one without a number, and two of one name.
UNLISTED = [("b", 5), ("a", 5), ("c", 1), ("d", -1), ("pet", 701), ("pet", 700)]


def photo(name: str, classes: list[tuple[str, int]], score: float = 0.9) -> Any:
    return row(name, *(found(label, score, category_id=number, mid="") for label, number in classes))


def coco_ids(image_rows: Any, folder: Path, **options: Any) -> dict[str, int]:
    export_coco(
        replace(INFO, classes=DOG),
        image_rows,
        str(folder / "coco.json"),
        CocoOptions.of(**options),
        Storage(),
    )
    categories = json.loads((folder / "coco.json").read_text())["categories"]
    return {category["name"]: category["id"] for category in categories}


def test_unlisted_classes_that_share_a_number_get_ids_in_the_order_of_their_names() -> None:
    names = list("hcfaegbd")
    image_rows = rows(row("a.jpg", *(found(name, category_id=5, mid="") for name in names)))
    _, listed, _ = closed_categories(replace(INFO, classes=DOG), image_rows, ClassListOptions(), Storage(), "present")
    assert listed[5] == "a"
    assert sorted(listed.values()) == sorted(names)


def test_ids_of_unlisted_classes_depend_on_neither_order_nor_thresholds(tmp_path: Path) -> None:
    ids = coco_ids(rows(photo("a.jpg", UNLISTED)), tmp_path)
    assert {name: ids[name] for name in ("Dog", "a", "pet")} == {"Dog": 1, "a": 5, "pet": 700}
    assert len(set(ids.values())) == len(ids) == 6
    assert coco_ids(rows(photo("a.jpg", UNLISTED[::-1])), tmp_path) == ids
    assert coco_ids(rows(photo("a.jpg", UNLISTED[:5]), photo("b.jpg", UNLISTED[5:], 0.1)), tmp_path) == ids


def test_a_listed_class_keeps_its_id_if_an_unlisted_one_gets_its_name(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", found("Wolf", category_id=2, mid=""), found("x", category_id=1, mid="")))
    info = replace(INFO, classes=(ClassName(7, "Dog"),))
    export_coco(info, image_rows, str(tmp_path / "coco.json"), CocoOptions.of(class_map={"Dog": "Wolf"}), Storage())
    categories = json.loads((tmp_path / "coco.json").read_text())["categories"]
    assert [(category["id"], category["name"]) for category in categories] == [(1, "x"), (7, "Wolf")]


def test_all_exports_of_a_run_have_the_same_ids_and_colors(tmp_path: Path) -> None:
    output = write_run(tmp_path / "run", [[photo("a.jpg", UNLISTED)], [photo("b.jpg", UNLISTED[:3])]])
    image_rows = open_run(output, Storage()).rows
    info = replace(INFO, classes=DOG)
    export_label_studio(info, image_rows, str(tmp_path), LabelStudioOptions(labels="all"), Storage())
    config = ET.fromstring((tmp_path / "label_config.xml").read_text())  # noqa: S314 - our own
    labels = list(config.iter("Label"))
    ids = {label.get("value", ""): int(label.get("category", "")) for label in labels}
    assert coco_ids(image_rows, tmp_path) == ids
    closed = closed_categories(info, image_rows, ClassListOptions(), Storage(), "all")
    assert {name: number for number, name in closed.names.items()} == ids
    assert {label.get("value"): label.get("background") for label in labels} == closed.colors
    export_cvat(info, image_rows, str(tmp_path / "cvat.xml"), CvatOptions(), Storage())
    cvat = ET.parse(tmp_path / "cvat.xml")  # noqa: S314 - our own
    assert {label.findtext("name"): label.findtext("color") for label in cvat.iter("label")} == closed.colors


def test_the_classes_of_a_run_are_those_of_all_its_detections(tmp_path: Path) -> None:
    shards = [[photo("a.jpg", UNLISTED)], [photo("b.jpg", [("e", 9)])], [row("c.jpg")]]
    image_rows: RunRows = open_run(write_run(tmp_path / "run", shards), Storage()).rows
    in_memory: ListedRows = rows(*(image for shard in shards for image in shard))
    assert image_rows.classes() == in_memory.classes()
    assert len(image_rows.classes()) == len(UNLISTED) + 1
