"""Annotations are compared in the frame in which they were drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prelabel.errors import ConfigError, EvaluateError
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.review.comparison import Comparison, compare
from prelabel.review.options import CompareOptions
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from tests.messages import facts, told
from tests.rows import INFO, found, mask_of, row, rows

DOG = found(xyxy=(0, 0, 2, 3), mask=mask_of("##....", "##....", "#.....", "......"))


def compared(path: Path, *image_rows: ImageRow, **options: Any) -> Comparison:
    chosen = CompareOptions.of(predictions="o", annotations=str(path), score_threshold=0.3, **options)
    return compare(INFO, rows(*image_rows), chosen, Storage())


def fates(result: Comparison) -> dict[str, int]:
    return {fate: count for fate, count in result.total.counts.items() if count}


@pytest.mark.parametrize("shape", ["rectangle", "polygon", "brush"])
@pytest.mark.parametrize("browser", range(1, 9))
@pytest.mark.parametrize("applied", [1, 3, 6, 7])
def test_untouched_regions_of_any_pair_of_orientations_are_kept(
    tmp_path: Path, applied: int, browser: int, shape: str
) -> None:
    image_row = replace(row("a.webp", DOG), exif_orientation=applied, browser_orientation=browser)
    options = LabelStudioOptions.of(score_threshold=0.3, shape=shape)
    export_label_studio(INFO, rows(image_row), str(tmp_path), options, Storage())
    (task,) = json.loads((tmp_path / "tasks-00000.json").read_text())
    # Without the ids that connect regions with detections, only overlap decides.
    result = [{**region, "id": f"r{n}"} for n, region in enumerate(task["predictions"][0]["result"])]
    path = tmp_path / "export.json"
    path.write_text(json.dumps([{"data": task["data"], "annotations": [{"result": result}]}]))
    assert fates(compared(path, image_row)) == {"kept": 1}


def drawn_on(folder: Path, height: int, width: int) -> Path:
    """Label Studio's export of a region over the upper left quarter of an image of that size."""
    value = {"x": 0, "y": 0, "width": 50, "height": 50, "rectanglelabels": ["Dog"]}
    region = {"id": "h", "type": "rectanglelabels", "original_width": width, "original_height": height, "value": value}
    path = folder / "export.json"
    path.write_text(json.dumps([{"data": {"image_id": "a.jpg"}, "annotations": [{"result": [region]}]}]))
    return path


def test_region_sizes_tell_on_which_frame_they_were_drawn(tmp_path: Path) -> None:
    photo = row("a.jpg", found(xyxy=(0, 0, 30, 20)), height=40, width=60)
    # The same size, or a smaller copy with the same aspect ratio.
    for height, width in ((40, 60), (20, 30), (400, 601)):
        assert fates(compared(drawn_on(tmp_path, height, width), photo)) == {"kept": 1}, (height, width)
    # Another aspect ratio means another image.
    with pytest.raises(EvaluateError, match=facts("size", "'a.jpg'", "60 x 40", "40 x 60")):
        compared(drawn_on(tmp_path, 60, 40), photo)
    # The size shows that a tool rotated the file although browsers do not; a note reports it.
    odd = replace(photo, exif_orientation=6, browser_orientation=1)
    result = compared(drawn_on(tmp_path, 40, 60), odd)
    assert fates(result) == {"kept": 1}
    assert told(result.notes, "1", "upright|displayed|EXIF", "browsers")


def coco(folder: Path, bbox: list[float], height: int, width: int) -> Path:
    path = folder / "coco.json"
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": height, "width": width}],
        "categories": [{"id": 1, "name": "Dog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": bbox, "iscrowd": 0, "segmentation": []}],
    }
    path.write_text(json.dumps(content))
    return path


def test_a_coco_dataset_of_the_stored_pixels_is_compared_in_that_frame(tmp_path: Path) -> None:
    photo = replace(row("a.jpg", found(xyxy=(0, 0, 2, 3))), exif_orientation=6)
    result = compared(coco(tmp_path, [0, 4, 3, 2], 6, 4), photo)
    assert fates(result) == {"kept": 1}
    assert told(result.notes, "stored")
    result = compared(coco(tmp_path, [0, 0, 2, 3], 4, 6), photo)
    assert fates(result) == {"kept": 1}
    assert not told(result.notes, "stored")


def test_after_a_rotation_by_180_degrees_the_option_tells_the_frame(tmp_path: Path) -> None:
    photo = replace(row("a.jpg", found(xyxy=(0, 0, 2, 3))), exif_orientation=3)
    path = coco(tmp_path, [4, 1, 2, 3], 4, 6)
    result = compared(path, photo)
    assert "kept" not in fates(result)
    assert told(result.notes, "annotations-frame")
    assert fates(compared(path, photo, annotations_frame="stored")) == {"kept": 1}
    with pytest.raises(ConfigError, match=facts("annotations-frame", "stored", "'upright'")):
        compared(path, photo, annotations_frame="upright")


def test_polygons_and_rectangles_in_label_studios_coco_of_a_rotated_photo_have_different_sizes(tmp_path: Path) -> None:
    # Displayed 60 x 40, stored 40 x 60: a polygon at 50%, 10% is written at (20, 6), a rectangle there at (30, 4).
    photo = row("a.jpg", found(xyxy=(30, 4, 50, 14)), found("Cat", xyxy=(2, 3, 12, 23)), height=40, width=60)
    photo = replace(photo, exif_orientation=6)
    path = coco(tmp_path, [2, 3, 10, 20], 60, 40)
    content = json.loads(path.read_text())
    content["info"] = {"contributor": "Label Studio"}
    content["categories"].append({"id": 2, "name": "Cat"})
    content["annotations"][0]["category_id"] = 2
    right, bottom = 20 + 20 * 40 / 60, 6 + 10 * 60 / 40
    polygon = {
        **content["annotations"][0],
        "id": 2,
        "category_id": 1,
        "bbox": [20, 6, right - 20, 15],
        "segmentation": [[20, 6, right, 6, right, bottom, 20, bottom]],
    }
    content["annotations"].append(polygon)
    path.write_text(json.dumps(content))
    result = compared(path, photo)
    assert fates(result) == {"kept": 2}
    assert told(result.notes, "polygons", "1", "stretched")
