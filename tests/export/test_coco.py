"""COCO files: exact on tiny cases, by their schema, and as pycocotools reads them."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from prelabel.detections import ClassName, ImageLabel
from prelabel.errors import ConfigError, ExportError
from prelabel.export.base import ExportReport, Rows, RunInfo, require_distinct_files
from prelabel.export.categories import read_categories
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.export.cvat import CvatOptions, export_cvat
from prelabel.export.text import rounded
from prelabel.masks import rle
from prelabel.select import ExportSelection, Selection
from prelabel.storage.files import Storage
from tests.messages import facts, tells, told
from tests.rows import INFO, failed_row, found, mask_of, row, rows

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "coco.schema.json").read_text())
LEFT_HALF = mask_of("###...", "###...", "###...", "###...")
DOG = found(mask=LEFT_HALF)
#: The word "run" in a message, but not as part of a path: the folder may be called "run".
OF_THE_RUN = r".*(?<![\w/])run(?![\w/.])"
UNUSUAL = '<b>&"x"</b> \u00e4\u6f22\U0001f600\u202e#?%+'


def export(
    tmp_path: Path, image_rows: Rows, info: RunInfo = INFO, name: str = "coco.json", **options: Any
) -> tuple[dict[str, Any], ExportReport]:
    report = export_coco(
        info, image_rows, str(tmp_path / name), CocoOptions.of(**{"score_threshold": 0.3, **options}), Storage()
    )
    content = json.loads((tmp_path / name).read_text()) if (tmp_path / name).exists() else {}
    if content:
        jsonschema.validate(content, SCHEMA)
    return content, report


def export_results(tmp_path: Path, image_rows: Rows, **options: Any) -> list[dict[str, Any]]:
    path = tmp_path / "results.json"
    export(tmp_path, image_rows, results=str(path), **options)
    content = json.loads(path.read_text())
    jsonschema.validate(content, {"$defs": SCHEMA["$defs"], "$ref": "#/$defs/results"})
    assert isinstance(content, list)
    return content


def read(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_a_dog_with_a_mask_is_written_exactly(tmp_path: Path) -> None:
    content, report = export(tmp_path, rows(row("a.jpg", DOG)), score_threshold=0.3)
    assert content["images"] == [{"id": 1, "file_name": "a.jpg", "width": 6, "height": 4, "image_id": "a.jpg"}]
    assert content["categories"] == [
        {"id": 1, "name": "Dog", "supercategory": "", "mid": "/m/0bt9lr"},
        {"id": 2, "name": "Cat", "supercategory": "", "mid": "/m/01yrx"},
    ]
    assert content["annotations"] == [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [0.0, 0.0, 3.0, 4.0],
            "area": 12.0,
            "iscrowd": 0,
            "segmentation": {"size": [4, 6], "counts": LEFT_HALF},
            "score": 0.9,
        }
    ]
    assert content["licenses"] == []
    assert content["info"]["version"] == "stub-0123abcd"
    assert content["info"]["date_created"] == "2026-11-20T12:00:00+00:00"
    assert content["info"]["prelabel"]["detector"] == "stub"
    assert content["info"]["prelabel"]["selection"]["score_threshold"] == 0.3
    assert report == ExportReport(
        files=(str(tmp_path / "coco.json"),), images=1, failed=0, detections=1, dropped={}, warnings=()
    )


def test_a_box_without_a_mask_has_an_empty_segmentation_and_the_area_of_the_box(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("a.jpg", found(xyxy=(0.5, 1, 3.126, 3.5)))))
    (annotation,) = content["annotations"]
    assert annotation["segmentation"] == []
    assert annotation["bbox"] == [0.5, 1.0, 2.63, 2.5]
    assert annotation["area"] == pytest.approx(2.63 * 2.5, abs=0.005)


def test_segmentation_none_writes_only_boxes(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("a.jpg", DOG)), segmentation="none")
    assert content["annotations"][0]["segmentation"] == []
    assert "segmentation" not in export_results(tmp_path, rows(row("a.jpg", DOG)), segmentation="none")[0]


def test_the_bbox_contains_the_mask_and_area_counts_its_pixels(tmp_path: Path) -> None:
    mask = mask_of("......", ".##...", ".#....", "......")
    content, _ = export(tmp_path, rows(row("a.jpg", found(xyxy=(1.4, 1.2, 2.7, 2.5), mask=mask))))
    assert content["annotations"][0]["bbox"] == [1.0, 1.0, 2.0, 2.0]
    assert content["annotations"][0]["area"] == 3.0


def test_a_polygon_follows_the_edges_of_pixels_and_results_keep_the_mask(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", DOG))
    content, _ = export(tmp_path, image_rows, segmentation="polygon")
    (annotation,) = content["annotations"]
    assert annotation["segmentation"] == [[0.0, 0.0, 3.0, 0.0, 3.0, 4.0, 0.0, 4.0]]
    assert annotation["area"] == 12.0
    (entry,) = export_results(tmp_path, image_rows, segmentation="polygon")
    assert entry["segmentation"] == {"size": [4, 6], "counts": LEFT_HALF}


def test_failed_images_are_dropped_and_counted_and_keep_their_number(tmp_path: Path) -> None:
    content, report = export(tmp_path, rows(row("a.jpg"), failed_row(), row("c.jpg", DOG)))
    assert [(image["id"], image["file_name"]) for image in content["images"]] == [(1, "a.jpg"), (3, "c.jpg")]
    assert [(a["id"], a["image_id"]) for a in content["annotations"]] == [(1, 3)]
    assert (report.images, report.failed) == (2, 1)


def test_annotations_above_the_threshold_are_sorted_by_descending_score(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", found(score=0.5), found(score=0.75), found(score=0.2)))
    content, _ = export(tmp_path, image_rows, score_threshold=0.3)
    assert [a["score"] for a in content["annotations"]] == [0.75, 0.5]


def test_a_run_without_detections_gives_empty_lists_and_a_warning(tmp_path: Path) -> None:
    content, report = export(tmp_path, rows(row("a.jpg")))
    assert content["annotations"] == []
    (note,) = report.warnings
    assert tells(note, "no", "detection")
    assert export_results(tmp_path, rows(row("a.jpg"))) == []


def test_a_run_without_images_gives_a_valid_file(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows())
    assert (content["images"], content["annotations"]) == ([], [])


def test_empty_masks_and_boxes_without_area_are_dropped_and_counted(tmp_path: Path) -> None:
    empty = mask_of("......", "......", "......", "......")
    image_rows = rows(row("a.jpg", found(mask=empty), DOG), row("b.jpg", found(xyxy=(2, 1, 2, 3))))
    content, report = export(tmp_path, image_rows)
    assert len(content["annotations"]) == 1
    assert report.dropped == {"detections with an empty mask": 1, "detections without area": 1}


def test_results_are_a_bare_list_of_entries_with_the_same_keys(tmp_path: Path) -> None:
    entries = export_results(tmp_path, rows(row("a.jpg", DOG, found(mask=mask_of("#.....", *["......"] * 3)))))
    assert entries[0] == {
        "image_id": 1,
        "category_id": 1,
        "bbox": [0.0, 0.0, 3.0, 4.0],
        "score": 0.9,
        "segmentation": {"size": [4, 6], "counts": LEFT_HALF},
    }
    assert {tuple(entry) for entry in entries} == {tuple(entries[0])}


def test_results_with_both_boxes_and_masks_are_refused(tmp_path: Path) -> None:
    mixed = rows(row("a.jpg", DOG), row("b.jpg", found()))
    with pytest.raises(ExportError, match=facts("b.jpg", "without|no", "mask", "segmentation none")):
        export_results(tmp_path, mixed)
    assert list(tmp_path.iterdir()) == []
    assert len(export(tmp_path, mixed)[0]["annotations"]) == 2


def test_a_mask_that_does_not_fit_its_image_is_an_error_that_names_the_image(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=facts("a.jpg", "5 x 6")):
        export(tmp_path, rows(row("a.jpg", DOG, height=5)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_pycocotools_reads_the_dataset_and_every_mask(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    masks = random.random((20, 9, 7)) < 0.4
    masks[:, 4, 3] = True
    image_rows = rows(
        *(
            row(f"{i}.jpg", found(mask=rle.encode(mask), xyxy=(0, 0, 7, 9), score=0.5 + i / 50), height=9, width=7)
            for i, mask in enumerate(masks)
        )
    )
    export(tmp_path, image_rows, results=str(tmp_path / "results.json"))
    coco = read(tmp_path / "coco.json")
    for i, mask in enumerate(masks):
        (annotation,) = coco.imgToAnns[i + 1]
        assert np.array_equal(coco.annToMask(annotation), mask)
        assert annotation["area"] == coco_mask.area(annotation["segmentation"])
        x, y, w, h = coco_mask.toBbox(annotation["segmentation"])
        bx, by, bw, bh = annotation["bbox"]
        assert bx <= x
        assert by <= y
        assert bx + bw >= x + w
        assert by + bh >= y + h
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = coco.loadRes(str(tmp_path / "results.json"))
    assert len(loaded.anns) == 20
    assert np.array_equal(loaded.annToMask(loaded.anns[1]), masks[0])


def test_unusual_names_are_written_unchanged(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="stub-1", classes=(ClassName(7, UNUSUAL, ""),))
    name = f"photos/{UNUSUAL}/\u00e9 .jpg"
    content, _ = export(tmp_path, rows(row(name, found(UNUSUAL, category_id=7, mid=""))), info)
    assert content["images"][0]["file_name"] == name
    assert content["categories"] == [{"id": 7, "name": UNUSUAL, "supercategory": ""}]
    assert read(tmp_path / "coco.json").loadCats(7)[0]["name"] == UNUSUAL


def test_without_a_class_list_the_classes_that_occur_are_the_categories(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="stub-1")
    content, _ = export(
        tmp_path, rows(row("a.jpg", found(category_id=404), found("Cat", 0.1, category_id=160, mid=""))), info
    )
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(160, "Cat"), (404, "Dog")]
    assert content["annotations"][0]["category_id"] == 404


def test_classes_merged_by_the_class_map_get_the_smallest_number(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", found(), found("Cat", 0.8, category_id=2, mid="/m/01yrx")))
    content, _ = export(tmp_path, image_rows, class_map={"Dog": "pet", "Cat": "pet"})
    assert content["categories"] == [{"id": 1, "name": "pet", "supercategory": ""}]
    assert [a["category_id"] for a in content["annotations"]] == [1, 1]


def test_a_class_renamed_to_another_class_gets_the_number_of_that_class(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("a.jpg", found())), class_map={"Dog": "Cat"})
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(2, "Cat")]
    assert content["annotations"][0]["category_id"] == 2


def test_rolled_up_classes_get_the_number_and_mid_of_the_class_above_them(tmp_path: Path) -> None:
    every = rows(row("a.jpg", found(), found("Cat", 0.8, category_id=2, mid="/m/01yrx")))
    info = replace(INFO, classes=(*INFO.classes, ClassName(9, "Animal", "/m/0jbk")))
    for more in ({}, {"include_class": ("Dog", "Cat")}):  # without its own detections, too
        content, _ = export(tmp_path, every, info, roll_up=("Animal",), **more)
        assert content["categories"] == [{"id": 9, "name": "Animal", "supercategory": "", "mid": "/m/0jbk"}]
        assert [a["category_id"] for a in content["annotations"]] == [9, 9]


def test_classes_rolled_up_to_one_that_the_detector_lacks_get_the_smallest_number(tmp_path: Path) -> None:
    every = rows(row("a.jpg", found("Cat", 0.8, category_id=2, mid="/m/01yrx")))
    for info in (INFO, replace(INFO, classes=None)):
        content, _ = export(tmp_path, every, info, roll_up=("Animal",))
        number = 1 if info.classes else 2
        assert content["categories"] == [{"id": number, "name": "Animal", "supercategory": "", "mid": "/m/0jbk"}]
        assert [a["category_id"] for a in content["annotations"]] == [number]


def test_rolled_up_classes_follow_a_list_by_mid_and_by_name(tmp_path: Path) -> None:
    every = rows(row("a.jpg", found()))
    for entry in ({"id": 5, "name": "creature", "mid": "/m/0jbk"}, {"id": 5, "name": "animal"}):
        path = tmp_path / "list.json"
        path.write_text(json.dumps([{"id": 4, "name": "Dog", "mid": "/m/0bt9lr"}, entry]))
        content, _ = export(tmp_path, every, roll_up=("Animal",), categories=str(path))
        assert [a["category_id"] for a in content["annotations"]] == [5]
    path.write_text(json.dumps([{"id": 5, "name": "Animal", "mid": "/m/other"}]))
    with pytest.raises(ExportError, match=facts("Dog", "/m/0bt9lr")):
        export(tmp_path, every, roll_up=("Animal",), categories=str(path))


def test_excluded_classes_have_no_category(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("a.jpg", found())), exclude_class=("Dog",))
    assert [c["name"] for c in content["categories"]] == ["Cat"]
    assert content["annotations"] == []


def test_class_numbers_that_start_at_zero_are_increased_by_one(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="v", classes=(ClassName(0, "Dog"), ClassName(1, "Cat")))
    content, _ = export(tmp_path, rows(row("a.jpg", found(category_id=0, mid=""))), info)
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(1, "Dog"), (2, "Cat")]
    assert content["annotations"][0]["category_id"] == 1


def test_unusable_class_numbers_are_replaced_by_stable_ids_from_the_mid(tmp_path: Path) -> None:
    dog, cat = found(category_id=-1), found("Cat", category_id=-1, mid="/m/01yrx")
    info = RunInfo(detector="stub", model_version="v")
    both, _ = export(tmp_path, rows(row("a.jpg", dog, cat)), info)
    alone, _ = export(tmp_path, rows(row("a.jpg", cat)), info)
    ids = {c["name"]: c["id"] for c in both["categories"]}
    assert len(set(ids.values())) == 2
    assert all(0 < number < 2**31 for number in ids.values())
    assert ids["Cat"] == alone["categories"][0]["id"]


def test_a_class_beyond_the_class_list_becomes_an_additional_category(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="v", classes=(ClassName(1, "Dog", "/m/0bt9lr"),))
    stray, other = found("class 9", category_id=9, mid=""), found("odd", category_id=1, mid="")
    content, _ = export(tmp_path, rows(row("a.jpg", DOG, stray, other)), info)
    ids = {c["name"]: c["id"] for c in content["categories"]}
    assert (ids["Dog"], ids["class 9"]) == (1, 9)
    assert len({*ids.values()}) == 3
    assert [a["category_id"] for a in content["annotations"]] == [1, 9, ids["odd"]]


def test_a_name_that_the_detector_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=facts("detector", "class|classes", "'Dogg'", "'Dog'")):
        export(tmp_path, rows(), include_class=("Dogg",))


def test_without_a_class_list_a_class_name_that_no_detection_has_gives_a_warning(tmp_path: Path) -> None:
    _, report = export(
        tmp_path, rows(row("a.jpg", found())), replace(INFO, classes=None), exclude_class=("Dogg", "cat")
    )
    assert tells(report.warnings[0], "class|classes", "'Dogg'", "'Dog'", "'cat'")
    _, report = export(tmp_path, rows(row("a.jpg", found())), replace(INFO, classes=None), include_class=("dog",))
    assert not told(report.warnings, "class|classes")


def test_results_and_dataset_must_be_different_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=facts("results", "to", f"{tmp_path}/coco.json")):
        export(tmp_path, rows(), results=str(tmp_path / "coco.json"))


@pytest.mark.parametrize("same", ["coco.json", "./coco.json", "sub/../coco.json"])
def test_two_spellings_of_one_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: str) -> None:
    monkeypatch.chdir(tmp_path)
    image_rows, to = rows(row("a.jpg", found())), str(tmp_path / "coco.json")
    with pytest.raises(ConfigError, match=facts("results", "to", to)):
        export_coco(INFO, image_rows, to, CocoOptions(results=same), Storage())
    with pytest.raises(ConfigError, match=facts("labels-file", "to", to)):
        export_cvat(INFO, image_rows, to, CvatOptions(labels_file=same), Storage())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("same", ["COCO.json", "link.json", "folder/../coco.json", "file://{}/coco.json"])
def test_two_names_that_only_the_disk_treats_as_one_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "coco.json")
    options = CocoOptions(results=same.format(tmp_path))
    with pytest.raises(ConfigError, match=facts("results", "to", Path(same).name)):
        export_coco(INFO, rows(row("a.jpg", found())), "coco.json", options, Storage())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link.json"]


@pytest.mark.parametrize(
    ("to", "results", "refused"),
    [
        ("coco.json", "coco-00000.json", True),
        ("coco.json", "coco-00007.json", True),  # a later part of an earlier export would be deleted
        ("coco.json", "./COCO-123456.json", True),
        ("coco", "coco-00001", True),
        ("coco.json", "coco-001.json", False),
        ("coco.json", "coco-00001.jsonl", False),
        ("coco-00000.json", "coco-00000.json", True),
        ("coco-00000.json", "coco-00001.json", False),
    ],
)
def test_no_other_file_may_be_named_like_a_part_of_a_split_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, results: str, refused: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    image_rows, options = rows(row("a.jpg", found()), row("b.jpg")), CocoOptions(results=results, split=1)
    if not refused:
        report = export_coco(INFO, image_rows, to, options, Storage())
        assert len({*report.files}) == 3 == len(list(tmp_path.iterdir()))
        return
    with pytest.raises(ConfigError, match=facts("results", "to", Path(results).name)):
        export_coco(INFO, image_rows, to, options, Storage())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sequential", "stem"])
def test_a_keyword_of_image_ids_is_not_taken_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    export_coco(INFO, rows(row("1.jpg", found())), name, CocoOptions(image_ids=name), Storage())
    assert [path.name for path in tmp_path.iterdir()] == [name]
    require_distinct_files(CocoOptions(categories="coco"), {"to": "coco"}, read=("categories",))


@pytest.mark.parametrize(
    ("to", "results", "is_same"),
    [
        ("abfs://c/x.json", "abfss://c@a.dfs.core.windows.net/x.json", True),
        ("az://c@a.blob.core.windows.net/x.json", "abfs://c@A.dfs.core.windows.net/./x.json", True),
        ("abfs://c@a.dfs.core.windows.net/x.json", "abfs://c@b.dfs.core.windows.net/x.json", False),
        ("s3://c/x.json", "S3A://c/x.json", True),
        ("gcs://c/x.json", "gs://c/x.json", True),
        ("s3://c/x.json", "gs://c/x.json", False),
    ],
)
def test_several_urls_of_one_object_are_recognized(to: str, results: str, is_same: bool) -> None:
    options = CocoOptions(results=results)
    if not is_same:
        require_distinct_files(options, {"to": to, "results": results})
        return
    with pytest.raises(ConfigError, match=facts("results", "to", "x.json")):
        require_distinct_files(options, {"to": to, "results": results})


def test_records_of_exports_are_files_of_the_run(tmp_path: Path) -> None:
    to = str(tmp_path / "exports" / "a.json")
    with pytest.raises(ConfigError, match=facts("to", to) + OF_THE_RUN):
        export_coco(replace(INFO, output=str(tmp_path)), rows(row("a.jpg", found())), to, CocoOptions(), Storage())


def test_a_file_that_is_read_is_not_overwritten(tmp_path: Path) -> None:
    truth = write_truth(tmp_path)
    before = Path(truth).read_bytes()
    image_rows = rows(row("photos/a.jpg", found()))
    for reads in ({"categories": truth}, {"image_ids": truth}):
        option = next(iter(reads)).replace("_", "-")
        with pytest.raises(ConfigError, match=facts("to", option, truth)):
            export_coco(INFO, image_rows, truth, CocoOptions.of(**reads), Storage())
        with pytest.raises(ConfigError, match=facts("results", option, truth)):
            export_coco(INFO, image_rows, str(tmp_path / "x.json"), CocoOptions.of(results=truth, **reads), Storage())
    with pytest.raises(ConfigError, match=facts("to", "categories", "truth")):
        export_cvat(INFO, image_rows, truth.replace(".json", ".JSON"), CvatOptions(categories=truth), Storage())
    part = tmp_path / "x-00003.json"
    part.write_bytes(before)
    options = CocoOptions(categories=str(part), split=1)
    with pytest.raises(ConfigError, match=facts("categories", "to", str(part))):
        export_coco(INFO, image_rows, str(tmp_path / "x.json"), options, Storage())
    assert Path(truth).read_bytes() == part.read_bytes() == before
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("own", ["run.json", "manifest.json", "lock.json", "shards/shard-00000.parquet", "Plan/x.json"])
def test_files_of_the_run_are_not_overwritten(tmp_path: Path, own: str) -> None:
    info = replace(INFO, output=str(tmp_path / "run"))
    image_rows = rows(row("a.jpg", found()))
    with pytest.raises(ConfigError, match=facts("to", f"{info.output}/{own}") + OF_THE_RUN):
        export_coco(info, image_rows, str(tmp_path / "run" / own), CocoOptions(), Storage())
    with pytest.raises(ConfigError, match=facts("results", f"{info.output}/{own}") + OF_THE_RUN):
        export_coco(info, image_rows, str(tmp_path / "x.json"), CocoOptions(results=f"{info.output}/{own}"), Storage())
    assert list(tmp_path.iterdir()) == []
    assert export_coco(info, image_rows, str(tmp_path / "run" / "coco.json"), CocoOptions(), Storage()).images == 1


def write_truth(tmp_path: Path, **more: Any) -> str:
    truth = {
        "info": {"description": "truth"},
        "licenses": [{"id": 4, "name": "CC BY"}],
        "images": [
            {"id": 900, "file_name": "b.png", "width": 6, "height": 4, "license": 4, "date_captured": "2013-11-20"},
            {"id": 42, "file_name": "photos/a.jpg", "width": 6, "height": 4},
        ],
        "categories": [
            {"id": 18, "name": "dog", "supercategory": "animal"},
            {"id": 74, "name": "mouse", "supercategory": "electronic", "mid": "/m/020lf"},
            {"id": 5, "name": "airplane", "mid": "/m/0cmf2"},
        ],
        "annotations": [],
        **more,
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    return str(path)


def test_classes_are_matched_with_given_categories_by_name_and_mid(tmp_path: Path) -> None:
    plane = found("Aeroplane", category_id=3, mid="/m/0cmf2")
    content, _ = export(tmp_path, rows(row("a.jpg", DOG, plane)), categories=write_truth(tmp_path))
    assert [a["category_id"] for a in content["annotations"]] == [18, 5]
    assert [(c["id"], c["name"], c["supercategory"]) for c in content["categories"]] == [
        (18, "dog", "animal"),
        (74, "mouse", "electronic"),
        (5, "airplane", ""),
    ]


def test_equal_names_with_different_mids_are_different_classes(tmp_path: Path) -> None:
    animal = found("Mouse", category_id=3, mid="/m/04rmv")
    truth = write_truth(tmp_path)
    both = (ClassName(3, "Mouse", "/m/04rmv"), ClassName(4, "Computer mouse", "/m/020lf"))
    info = replace(INFO, classes=(*(INFO.classes or ()), *both))
    with pytest.raises(ExportError, match=facts("categories|category", "Mouse", "/m/04rmv", "class-map")):
        export(tmp_path, rows(row("a.jpg", DOG, animal)), info, categories=truth)
    assert not (tmp_path / "coco.json").exists()
    content, report = export(tmp_path, rows(row("a.jpg", DOG, animal)), info, categories=truth, unlisted="drop")
    assert [a["category_id"] for a in content["annotations"]] == [18]
    assert report.dropped == {"detections of classes that --categories lacks": 1}
    content, _ = export(tmp_path, rows(row("a.jpg", animal)), info, categories=truth, class_map={"Mouse": "mouse"})
    assert [a["category_id"] for a in content["annotations"]] == [74]
    content, _ = export(tmp_path, rows(row("a.jpg", DOG, animal)), info, categories=truth, exclude_class=("Mouse",))
    assert [a["category_id"] for a in content["annotations"]] == [18]


@pytest.mark.parametrize("classes", [(ClassName(1, "Dog", "/m/0bt9lr"), ClassName(3, "Airplane", "/m/jet")), None])
def test_equal_names_match_despite_different_mids_if_no_other_class_has_the_listed_mid(
    tmp_path: Path, classes: tuple[ClassName, ...] | None
) -> None:
    plane = found("Airplane", category_id=3, mid="/m/jet")
    info = replace(INFO, classes=classes)
    content, report = export(tmp_path, rows(row("a.jpg", DOG, plane)), info, categories=write_truth(tmp_path))
    assert [a["category_id"] for a in content["annotations"]] == [18, 5]
    (note,) = report.warnings
    assert tells(note, "MID", "'Airplane'", "/m/jet", "/m/0cmf2", "exclude-class")
    glider = found("Glider", category_id=4, mid="/m/0cmf2")
    image_rows, info = rows(row("a.jpg", DOG, plane, glider)), replace(INFO, classes=None)
    with pytest.raises(ExportError, match=facts("categories|category", "Airplane", "/m/jet", "class-map")):
        export(tmp_path, image_rows, info, categories=write_truth(tmp_path))


def test_classes_without_a_name_are_matched_with_given_categories_by_number(tmp_path: Path) -> None:
    info = replace(INFO, classes=None)
    image_rows = rows(row("a.jpg", found("74", category_id=74, mid="")))
    content, _ = export(tmp_path, image_rows, info, categories=write_truth(tmp_path))
    assert [a["category_id"] for a in content["annotations"]] == [74]
    with pytest.raises(ExportError, match=facts("categories|category", "75", "class-map")):
        export(
            tmp_path, rows(row("a.jpg", found("75", category_id=75, mid=""))), info, categories=write_truth(tmp_path)
        )


def test_classes_below_the_threshold_need_no_category(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", found("Rat", 0.2, category_id=9, mid="/m/x")))
    content, _ = export(tmp_path, image_rows, categories=write_truth(tmp_path), score_threshold=0.3)
    assert content["annotations"] == []


def test_the_built_in_label_map_gives_the_numbers_of_coco_with_their_gaps(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("a.jpg", found())), categories="coco")
    assert len(content["categories"]) == 80
    assert content["annotations"][0]["category_id"] == 18


def test_images_whose_names_differ_only_in_the_extension_are_told(tmp_path: Path) -> None:
    names = ["a.b/c", "a.b/c.png", "x/.", "a.", "a", "a.b/d.png"]
    _, report = export(tmp_path, rows(*map(row, names)))
    assert [warning for warning in report.warnings if "same name" in warning] == [
        "2 images have the same name as another image except for the extension, e.g. 'a.b/c.png': CVAT and Datumaro "
        "treat these as the same image"
    ]
    _, report = export(tmp_path, rows(*map(row, ["a.b", "a/b", "b.b"])))
    assert not [warning for warning in report.warnings if "same name" in warning]


def test_image_ids_from_the_stem(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("val/000000253452.jpg", DOG)), image_ids="stem")
    assert content["images"][0]["id"] == content["annotations"][0]["image_id"] == 253452
    with pytest.raises(ExportError, match=facts("image-ids", "stem", "a.jpg", "number")):
        export(tmp_path, rows(row("a.jpg")), image_ids="stem")
    with pytest.raises(ExportError, match=facts("id 7", "b/7.jpg")):
        export(tmp_path, rows(row("a/7.jpg"), row("b/7.jpg")), image_ids="stem")


def test_image_ids_from_a_dataset_by_name_then_by_stem(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("photos/a.jpg"), row("x/b.jpg")), image_ids=write_truth(tmp_path))
    assert [image["id"] for image in content["images"]] == [42, 900]
    assert content["images"][1]["license"] == 4
    assert content["images"][1]["date_captured"] == "2013-11-20"
    assert content["licenses"] == [{"id": 4, "name": "CC BY"}]
    assert content["info"]["source_info"] == {"description": "truth"}
    with pytest.raises(ExportError, match=facts("truth.json", "no", "c.jpg")):
        export(tmp_path, rows(row("c.jpg")), image_ids=write_truth(tmp_path))


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}], ("ids.json", "'a.jpg'", "1", "2")),
        (
            [{"id": 3, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}],
            ("ids.json", "id 3", "a.jpg", "b.jpg"),
        ),
        ([{"id": 4, "file_name": "a.jpg"}, {"id": 4, "file_name": "a.jpg"}], ("ids.json", "'a.jpg'", "4")),
        ([{"id": "5", "file_name": "a.jpg"}], ("id", "'a.jpg'", "whole number", "0", "'5'")),
        ([{"id": 1.5, "file_name": "a.jpg"}], ("id", "'a.jpg'", "1.5")),
        ([{"id": True, "file_name": "a.jpg"}], ("id", "'a.jpg'", "True")),
        ([{"id": -1, "file_name": "a.jpg"}], ("id", "'a.jpg'", "-1")),
        ([{"id": None, "file_name": "a.jpg"}], ("id", "'a.jpg'", "None")),
        ([{"id": 2**63, "file_name": "a.jpg"}], ("id", "'a.jpg'", "9223372036854775808")),
        ([{"id": 1, "file_name": None}], ("ids.json", "file_name", "image 1", "None")),
        ([["a.jpg", 1]], ("ids.json", "COCO")),
    ],
)
def test_a_dataset_with_invalid_or_ambiguous_images_is_refused(
    tmp_path: Path, images: list[Any], expected: tuple[str, ...]
) -> None:
    (tmp_path / "ids.json").write_text(json.dumps({"images": images}))
    with pytest.raises(ExportError) as error:
        export(tmp_path, rows(row("a.jpg")), image_ids=str(tmp_path / "ids.json"))
    assert tells(str(error.value), *expected)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "coco.json").exists()


@pytest.mark.parametrize("wrong", ["5", 1.5, True, -1, None, 2**63])
def test_category_ids_must_be_whole_numbers(tmp_path: Path, wrong: Any) -> None:
    (tmp_path / "list.json").write_text(json.dumps([{"id": wrong, "name": "Dog"}]))
    with pytest.raises(ExportError, match=facts("id", "'Dog'", "whole number", "0", repr(wrong))):
        export(tmp_path, rows(row("a.jpg", DOG)), categories=str(tmp_path / "list.json"))


def test_categories_with_a_duplicate_key_are_refused() -> None:
    storage = Storage()
    storage.publish("memory://twice/c.json", b'{"categories": [{"id": 1, "name": "Dog", "id": 3}]}')
    with pytest.raises(ExportError, match=facts("categories", "c.json", "'id'") + r".*twice(?!/)"):
        read_categories("memory://twice/c.json", storage)


@pytest.mark.parametrize("wrong", [{"id": 1, "name": None}, {"id": 1}, {"name": "Dog"}, "Dog", None])
def test_categories_must_have_ids_and_names(tmp_path: Path, wrong: Any) -> None:
    (tmp_path / "list.json").write_text(json.dumps([wrong]))
    with pytest.raises(ExportError, match=facts("list.json", "category|categories", "id", "name", repr(wrong))):
        export(tmp_path, rows(row("a.jpg", DOG)), categories=str(tmp_path / "list.json"))


def test_split_files_have_consecutive_ids_and_replace_an_earlier_export(tmp_path: Path) -> None:
    image_rows = [row(f"{i}.jpg", DOG) for i in range(5)]
    _, report = export(tmp_path, rows(*image_rows), split=2)
    names = ["coco-00000.json", "coco-00001.json", "coco-00002.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert report.files == tuple(str(tmp_path / name) for name in names)
    parts = [json.loads((tmp_path / name).read_text()) for name in names]
    for part in parts:
        jsonschema.validate(part, SCHEMA)
    assert [[image["id"] for image in part["images"]] for part in parts] == [[1, 2], [3, 4], [5]]
    assert [[a["id"] for a in part["annotations"]] for part in parts] == [[1, 2], [3, 4], [5]]
    export(tmp_path, rows(*image_rows[:3]), split=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == names[:2]
    export(tmp_path, rows(), split=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == names[:1]


def test_the_score_can_be_written_as_an_attribute(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("a.jpg", DOG)), score_field="attribute")
    assert content["annotations"][0]["attributes"] == {"score": 0.9}


def test_images_that_differ_only_in_their_extension_give_a_warning(tmp_path: Path) -> None:
    _, report = export(tmp_path, rows(row("x/a.jpg", DOG), row("y/a.jpg"), row("x/a.png")))
    assert len(report.warnings) == 1
    assert tells(report.warnings[0], "1", "name", "'x/a.png'", "CVAT")


def test_labels_of_whole_images_are_ignored(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("a.jpg", image_labels=[ImageLabel(1, "Dog", "", 0.9)])))
    assert content["annotations"] == []


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    image_rows = rows(row("a.jpg", DOG, found("Cat", 0.8, category_id=2, mid="/m/01yrx", mask=LEFT_HALF)))
    export(tmp_path, image_rows, name="1.json")
    export(tmp_path, image_rows, name="2.json")
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_object_storage_gets_the_same_bytes_or_nothing(tmp_path: Path) -> None:
    root, storage = f"memory://{tmp_path.name}", Storage()
    export(tmp_path, rows(row("a.jpg", DOG)), results=str(tmp_path / "r.json"))
    options = CocoOptions.of(results=f"{root}/r.json", score_threshold=0.3)
    export_coco(INFO, rows(row("a.jpg", DOG)), f"{root}/coco.json", options, storage)
    assert storage.read(f"{root}/coco.json") == (tmp_path / "coco.json").read_bytes()
    assert storage.read(f"{root}/r.json") == (tmp_path / "r.json").read_bytes()
    with pytest.raises(ExportError):
        export_coco(INFO, rows(row("a.jpg", DOG, height=5)), f"{root}/other.json", CocoOptions(), storage)
    assert sorted(storage.names(root)) == ["coco.json", "r.json"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"segmentation": "masks"}, ("segmentation", "rle", "polygon", "none", "'masks'")),
        ({"split": 0}, ("split", "1", "0")),
        ({"polygon_tolerance": -1.0}, ("polygon-tolerance", "0", "-1.0")),
        ({"score_threshold": 2.0}, ("score-threshold", "0", "1", "2.0")),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], expected: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        CocoOptions.of(**options)
    assert tells(str(error.value), *expected)


def test_a_results_file_without_all_detections_of_the_run_gives_a_hint_how_to_write_all(tmp_path: Path) -> None:
    info = replace(INFO, kept=Selection(score_threshold=0.05))
    image_rows = rows(row("a.jpg", found(score=0.9), found(score=0.1)))
    options = CocoOptions(results=str(tmp_path / "r.json"))
    report = export_coco(info, image_rows, str(tmp_path / "x.json"), options, Storage())
    assert told(report.warnings, "score-threshold", "0", "0.05")
    assert len(json.loads((tmp_path / "r.json").read_text())) == 1
    options = replace(options, selection=ExportSelection(score_threshold=0.05))
    report = export_coco(info, image_rows, str(tmp_path / "x.json"), options, Storage())
    assert report.warnings == ()
    assert len(json.loads((tmp_path / "r.json").read_text())) == 2


@given(st.lists(st.floats(-1e12, 1e12), max_size=20), st.sampled_from([0, 2, 4]))
def test_arrays_are_rounded_like_python_rounds_single_numbers(values: list[float], decimals: int):
    assert rounded(np.array(values), decimals).tolist() == [round(value, decimals) for value in values]


@given(st.lists(st.integers(-(10**6), 10**6), max_size=20))
def test_thousandths_are_rounded_like_python_rounds_them(thousandths: list[int]):
    values = [value / 1000 for value in thousandths]
    assert rounded(np.array(values), 2).tolist() == [round(value, 2) for value in values]
