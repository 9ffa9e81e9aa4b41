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

from prelabel import rle
from prelabel.detections import ImageLabel
from prelabel.errors import ConfigError, ExportError
from prelabel.export.categories import read_categories
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.export.coco_shapes import rounded
from prelabel.export.cvat import export_cvat
from prelabel.export.cvat_options import CvatOptions
from prelabel.export.option_rules import require_distinct_files
from prelabel.export.reading import ExportReport, Rows, RunInfo
from prelabel.select import Selection
from prelabel.storage import Storage
from prelabel.store.run import ClassName
from tests.rows import INFO, failed_row, found, mask_of, row, rows

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "coco.schema.json").read_text())
LEFT_HALF = mask_of("###...", "###...", "###...", "###...")
DOG = found(mask=LEFT_HALF)
HOSTILE = '<b>&"x"</b> \u00e4\u6f22\U0001f600\u202e#?%+'


def export(
    tmp_path: Path, every: Rows, info: RunInfo = INFO, name: str = "coco.json", **options: Any
) -> tuple[dict[str, Any], ExportReport]:
    report = export_coco(
        info, every, str(tmp_path / name), CocoOptions(**{"score_threshold": 0.3, **options}), Storage()
    )
    content = json.loads((tmp_path / name).read_text()) if (tmp_path / name).exists() else {}
    if content:
        jsonschema.validate(content, SCHEMA)
    return content, report


def export_results(tmp_path: Path, every: Rows, **options: Any) -> list[dict[str, Any]]:
    path = tmp_path / "results.json"
    export(tmp_path, every, results=str(path), **options)
    content = json.loads(path.read_text())
    jsonschema.validate(content, {"$defs": SCHEMA["$defs"], "$ref": "#/$defs/results"})
    assert isinstance(content, list)
    return content


def read(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_one_dog_with_a_mask(tmp_path: Path) -> None:
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
        files=(str(tmp_path / "coco.json"),), images=1, failed=0, detections=1, left_out={}, warnings=()
    )


def test_a_box_alone_has_an_empty_segmentation_and_its_own_area(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("a.jpg", found(xyxy=(0.5, 1, 3.126, 3.5)))))
    (annotation,) = content["annotations"]
    assert annotation["segmentation"] == []
    assert annotation["bbox"] == [0.5, 1.0, 2.63, 2.5]
    assert annotation["area"] == pytest.approx(2.63 * 2.5, abs=0.005)


def test_segmentation_none_writes_boxes_alone(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("a.jpg", DOG)), segmentation="none")
    assert content["annotations"][0]["segmentation"] == []
    assert "segmentation" not in export_results(tmp_path, rows(row("a.jpg", DOG)), segmentation="none")[0]


def test_the_bbox_contains_the_mask_and_area_counts_its_pixels(tmp_path: Path) -> None:
    mask = mask_of("......", ".##...", ".#....", "......")
    content, _ = export(tmp_path, rows(row("a.jpg", found(xyxy=(1.4, 1.2, 2.7, 2.5), mask=mask))))
    assert content["annotations"][0]["bbox"] == [1.0, 1.0, 2.0, 2.0]
    assert content["annotations"][0]["area"] == 3.0


def test_a_polygon_runs_along_the_pixels_edges_and_results_keep_the_mask(tmp_path: Path) -> None:
    every = rows(row("a.jpg", DOG))
    content, _ = export(tmp_path, every, segmentation="polygon")
    (annotation,) = content["annotations"]
    assert annotation["segmentation"] == [[0.0, 0.0, 3.0, 0.0, 3.0, 4.0, 0.0, 4.0]]
    assert annotation["area"] == 12.0
    (entry,) = export_results(tmp_path, every, segmentation="polygon")
    assert entry["segmentation"] == {"size": [4, 6], "counts": LEFT_HALF}


def test_failed_images_are_left_out_and_counted_and_keep_their_number(tmp_path: Path) -> None:
    content, report = export(tmp_path, rows(row("a.jpg"), failed_row(), row("c.jpg", DOG)))
    assert [(image["id"], image["file_name"]) for image in content["images"]] == [(1, "a.jpg"), (3, "c.jpg")]
    assert [(a["id"], a["image_id"]) for a in content["annotations"]] == [(1, 3)]
    assert (report.images, report.failed) == (2, 1)


def test_annotations_come_by_descending_score_above_the_threshold(tmp_path: Path) -> None:
    every = rows(row("a.jpg", found(score=0.5), found(score=0.75), found(score=0.2)))
    content, _ = export(tmp_path, every, score_threshold=0.3)
    assert [a["score"] for a in content["annotations"]] == [0.75, 0.5]


def test_nothing_found_is_empty_lists_and_a_warning(tmp_path: Path) -> None:
    content, report = export(tmp_path, rows(row("a.jpg")))
    assert content["annotations"] == []
    assert report.warnings == ("no detection was kept",)
    assert export_results(tmp_path, rows(row("a.jpg"))) == []


def test_a_run_of_nothing_is_a_valid_file(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows())
    assert (content["images"], content["annotations"]) == ([], [])


def test_empty_masks_and_boxes_without_area_are_left_out_and_counted(tmp_path: Path) -> None:
    empty = mask_of("......", "......", "......", "......")
    every = rows(row("a.jpg", found(mask=empty), DOG), row("b.jpg", found(xyxy=(2, 1, 2, 3))))
    content, report = export(tmp_path, every)
    assert len(content["annotations"]) == 1
    assert report.left_out == {"detections with an empty mask": 1, "detections without area": 1}


def test_results_are_a_bare_list_all_alike(tmp_path: Path) -> None:
    entries = export_results(tmp_path, rows(row("a.jpg", DOG, found(mask=mask_of("#.....", *["......"] * 3)))))
    assert entries[0] == {
        "image_id": 1,
        "category_id": 1,
        "bbox": [0.0, 0.0, 3.0, 4.0],
        "score": 0.9,
        "segmentation": {"size": [4, 6], "counts": LEFT_HALF},
    }
    assert {tuple(entry) for entry in entries} == {tuple(entries[0])}


def test_results_refuse_a_mixture_of_boxes_and_masks(tmp_path: Path) -> None:
    mixed = rows(row("a.jpg", DOG), row("b.jpg", found()))
    with pytest.raises(ExportError, match=r"'b\.jpg' has detections without masks, unlike those before it"):
        export_results(tmp_path, mixed)
    assert list(tmp_path.iterdir()) == []
    assert len(export(tmp_path, mixed)[0]["annotations"]) == 2


def test_a_mask_of_another_size_is_an_error_that_names_the_image(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^image 'a\.jpg': RLE for 5 x 6"):
        export(tmp_path, rows(row("a.jpg", DOG, height=5)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_pycocotools_reads_the_dataset_and_every_mask(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    masks = random.random((20, 9, 7)) < 0.4
    masks[:, 4, 3] = True
    every = rows(
        *(
            row(f"{i}.jpg", found(mask=rle.encode(mask), xyxy=(0, 0, 7, 9), score=0.5 + i / 50), height=9, width=7)
            for i, mask in enumerate(masks)
        )
    )
    export(tmp_path, every, results=str(tmp_path / "results.json"))
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


def test_hostile_names_survive(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="stub-1", classes=(ClassName(7, HOSTILE, ""),))
    name = f"photos/{HOSTILE}/\u00e9 .jpg"
    content, _ = export(tmp_path, rows(row(name, found(HOSTILE, category_id=7, mid=""))), info)
    assert content["images"][0]["file_name"] == name
    assert content["categories"] == [{"id": 7, "name": HOSTILE, "supercategory": ""}]
    assert read(tmp_path / "coco.json").loadCats(7)[0]["name"] == HOSTILE


def test_without_a_class_list_the_classes_found_are_the_categories(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="stub-1")
    content, _ = export(
        tmp_path, rows(row("a.jpg", found(category_id=404), found("Cat", 0.1, category_id=160, mid=""))), info
    )
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(160, "Cat"), (404, "Dog")]
    assert content["annotations"][0]["category_id"] == 404


def test_classes_merged_by_the_class_map_take_the_smallest_number(tmp_path: Path) -> None:
    every = rows(row("a.jpg", found(), found("Cat", 0.8, category_id=2, mid="/m/01yrx")))
    content, _ = export(tmp_path, every, class_map={"Dog": "pet", "Cat": "pet"})
    assert content["categories"] == [{"id": 1, "name": "pet", "supercategory": ""}]
    assert [a["category_id"] for a in content["annotations"]] == [1, 1]


def test_a_class_renamed_to_another_takes_that_ones_number(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("a.jpg", found())), class_map={"Dog": "Cat"})
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(2, "Cat")]
    assert content["annotations"][0]["category_id"] == 2


def test_excluded_classes_are_no_categories(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("a.jpg", found())), exclude_class=("Dog",))
    assert [c["name"] for c in content["categories"]] == ["Cat"]
    assert content["annotations"] == []


def test_numbers_from_zero_go_up_by_one(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="v", classes=(ClassName(0, "Dog"), ClassName(1, "Cat")))
    content, _ = export(tmp_path, rows(row("a.jpg", found(category_id=0, mid=""))), info)
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(1, "Dog"), (2, "Cat")]
    assert content["annotations"][0]["category_id"] == 1


def test_numbers_that_say_nothing_become_stable_numbers_from_the_mid(tmp_path: Path) -> None:
    dog, cat = found(category_id=-1), found("Cat", category_id=-1, mid="/m/01yrx")
    info = RunInfo(detector="stub", model_version="v")
    both, _ = export(tmp_path, rows(row("a.jpg", dog, cat)), info)
    alone, _ = export(tmp_path, rows(row("a.jpg", cat)), info)
    ids = {c["name"]: c["id"] for c in both["categories"]}
    assert len(set(ids.values())) == 2
    assert all(0 < number < 2**31 for number in ids.values())
    assert ids["Cat"] == alone["categories"][0]["id"]


def test_a_class_beyond_the_class_list_becomes_one_more_category(tmp_path: Path) -> None:
    info = RunInfo(detector="stub", model_version="v", classes=(ClassName(1, "Dog", "/m/0bt9lr"),))
    stray, other = found("class 9", category_id=9, mid=""), found("odd", category_id=1, mid="")
    content, _ = export(tmp_path, rows(row("a.jpg", DOG, stray, other)), info)
    ids = {c["name"]: c["id"] for c in content["categories"]}
    assert (ids["Dog"], ids["class 9"]) == (1, 9)
    assert len({*ids.values()}) == 3
    assert [a["category_id"] for a in content["annotations"]] == [1, 9, ids["odd"]]


def test_a_name_that_the_detector_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^the detector has no class 'Dogg' \(did you mean 'Dog'\?\)$"):
        export(tmp_path, rows(), include_class=("Dogg",))


def test_a_name_that_no_detection_has_is_warned_of_where_no_class_list_is_known(tmp_path: Path) -> None:
    _, report = export(
        tmp_path, rows(row("a.jpg", found())), replace(INFO, classes=None), exclude_class=("Dogg", "cat")
    )
    assert report.warnings[0] == "no detection of the run is of class 'Dogg' (did you mean 'Dog'?), 'cat'"
    _, report = export(tmp_path, rows(row("a.jpg", found())), replace(INFO, classes=None), include_class=("dog",))
    assert not any("is of class" in warning for warning in report.warnings)


def test_results_and_dataset_must_be_two_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="are the same file"):
        export(tmp_path, rows(), results=str(tmp_path / "coco.json"))


@pytest.mark.parametrize("same", ["coco.json", "./coco.json", "sub/../coco.json"])
def test_one_file_is_not_written_twice_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: str
) -> None:
    monkeypatch.chdir(tmp_path)
    every, to = rows(row("a.jpg", found())), str(tmp_path / "coco.json")
    with pytest.raises(ConfigError, match=r"^results and to are the same file '.*/coco\.json'$"):
        export_coco(INFO, every, to, CocoOptions(results=same), Storage())
    with pytest.raises(ConfigError, match=r"^labels-file and to are the same file '.*/coco\.json'$"):
        export_cvat(INFO, every, to, CvatOptions(labels_file=same), Storage())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("same", ["COCO.json", "link.json", "folder/../coco.json", "file://{}/coco.json"])
def test_nor_where_only_the_disk_knows_that_two_names_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "coco.json")
    options = CocoOptions(results=same.format(tmp_path))
    with pytest.raises(ConfigError, match="results and to are the same file"):
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
def test_parts_of_a_split_dataset_have_their_names_to_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, results: str, refused: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    every, options = rows(row("a.jpg", found()), row("b.jpg")), CocoOptions(results=results, split=1)
    if not refused:
        report = export_coco(INFO, every, to, options, Storage())
        assert len({*report.files}) == 3 == len(list(tmp_path.iterdir()))
        return
    with pytest.raises(ConfigError, match=r"results .*(part of to|same file)"):
        export_coco(INFO, every, to, options, Storage())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sequential", "stem"])
def test_a_word_that_says_how_images_are_numbered_is_no_file(
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
def test_one_object_has_several_addresses(to: str, results: str, is_same: bool) -> None:
    options = CocoOptions(results=results)
    if not is_same:
        require_distinct_files(options, {"to": to, "results": results})
        return
    with pytest.raises(ConfigError, match="results and to are the same file"):
        require_distinct_files(options, {"to": to, "results": results})


def test_notes_of_exports_are_files_of_the_run(tmp_path: Path) -> None:
    to = str(tmp_path / "exports" / "a.json")
    with pytest.raises(ConfigError, match="is one of the run's own files"):
        export_coco(replace(INFO, output=str(tmp_path)), rows(row("a.jpg", found())), to, CocoOptions(), Storage())


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    truth = write_truth(tmp_path)
    before = Path(truth).read_bytes()
    every = rows(row("photos/a.jpg", found()))
    for reads in ({"categories": truth}, {"image_ids": truth}):
        with pytest.raises(ConfigError, match="are the same file"):
            export_coco(INFO, every, truth, CocoOptions(**reads), Storage())
        with pytest.raises(ConfigError, match="are the same file"):
            export_coco(INFO, every, str(tmp_path / "x.json"), CocoOptions(results=truth, **reads), Storage())
    with pytest.raises(ConfigError, match="are the same file"):
        export_cvat(INFO, every, truth.replace(".json", ".JSON"), CvatOptions(categories=truth), Storage())
    part = tmp_path / "x-00003.json"
    part.write_bytes(before)
    options = CocoOptions(categories=str(part), split=1)
    with pytest.raises(ConfigError, match=r"categories .* has the name of a part of to"):
        export_coco(INFO, every, str(tmp_path / "x.json"), options, Storage())
    assert Path(truth).read_bytes() == part.read_bytes() == before
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("own", ["run.json", "manifest.json", "lock.json", "shards/shard-00000.parquet", "Plan/x.json"])
def test_nor_is_the_run(tmp_path: Path, own: str) -> None:
    info = replace(INFO, output=str(tmp_path / "run"))
    every = rows(row("a.jpg", found()))
    with pytest.raises(ConfigError, match="one of the run's own files"):
        export_coco(info, every, str(tmp_path / "run" / own), CocoOptions(), Storage())
    with pytest.raises(ConfigError, match="one of the run's own files"):
        export_coco(info, every, str(tmp_path / "x.json"), CocoOptions(results=f"{info.output}/{own}"), Storage())
    assert list(tmp_path.iterdir()) == []
    assert export_coco(info, every, str(tmp_path / "run" / "coco.json"), CocoOptions(), Storage()).images == 1


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


def test_categories_are_taken_over_by_name_and_mid(tmp_path: Path) -> None:
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
    with pytest.raises(ExportError, match=r"has no category for Mouse \(/m/04rmv\): rename with class-map"):
        export(tmp_path, rows(row("a.jpg", DOG, animal)), info, categories=truth)
    assert not (tmp_path / "coco.json").exists()
    content, report = export(tmp_path, rows(row("a.jpg", DOG, animal)), info, categories=truth, unlisted="drop")
    assert [a["category_id"] for a in content["annotations"]] == [18]
    assert report.left_out == {"detections of classes that are not in the list of categories": 1}
    content, _ = export(tmp_path, rows(row("a.jpg", animal)), info, categories=truth, class_map={"Mouse": "mouse"})
    assert [a["category_id"] for a in content["annotations"]] == [74]
    content, _ = export(tmp_path, rows(row("a.jpg", DOG, animal)), info, categories=truth, exclude_class=("Mouse",))
    assert [a["category_id"] for a in content["annotations"]] == [18]


@pytest.mark.parametrize("classes", [(ClassName(1, "Dog", "/m/0bt9lr"), ClassName(3, "Airplane", "/m/jet")), None])
def test_a_name_counts_against_its_mid_where_no_other_class_has_that_of_the_list(
    tmp_path: Path, classes: tuple[ClassName, ...] | None
) -> None:
    plane = found("Airplane", category_id=3, mid="/m/jet")
    info = replace(INFO, classes=classes)
    content, report = export(tmp_path, rows(row("a.jpg", DOG, plane)), info, categories=write_truth(tmp_path))
    assert [a["category_id"] for a in content["annotations"]] == [18, 5]
    assert report.warnings == (
        "paired by name although the MIDs differ: 'Airplane' (/m/jet, in the list /m/0cmf2); "
        "where that is wrong, leave out with exclude-class",
    )
    glider = found("Glider", category_id=4, mid="/m/0cmf2")
    every, info = rows(row("a.jpg", DOG, plane, glider)), replace(INFO, classes=None)
    with pytest.raises(ExportError, match=r"has no category for Airplane \(/m/jet\)"):
        export(tmp_path, every, info, categories=write_truth(tmp_path))


def test_classes_without_a_name_are_taken_over_by_number(tmp_path: Path) -> None:
    info = replace(INFO, classes=None)
    every = rows(row("a.jpg", found("74", category_id=74, mid="")))
    content, _ = export(tmp_path, every, info, categories=write_truth(tmp_path))
    assert [a["category_id"] for a in content["annotations"]] == [74]
    with pytest.raises(ExportError, match="has no category for 75"):
        export(
            tmp_path, rows(row("a.jpg", found("75", category_id=75, mid=""))), info, categories=write_truth(tmp_path)
        )


def test_classes_below_the_threshold_need_no_category(tmp_path: Path) -> None:
    every = rows(row("a.jpg", found("Rat", 0.2, category_id=9, mid="/m/x")))
    content, _ = export(tmp_path, every, categories=write_truth(tmp_path), score_threshold=0.3)
    assert content["annotations"] == []


def test_the_built_in_label_map_gives_cocos_numbers_with_their_gaps(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("a.jpg", found())), categories="coco")
    assert len(content["categories"]) == 80
    assert content["annotations"][0]["category_id"] == 18


def test_image_ids_from_the_stem(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("val/000000253452.jpg", DOG)), image_ids="stem")
    assert content["images"][0]["id"] == content["annotations"][0]["image_id"] == 253452
    with pytest.raises(ExportError, match=r"the name of 'a\.jpg' is not a number of 1 or more"):
        export(tmp_path, rows(row("a.jpg")), image_ids="stem")
    with pytest.raises(ExportError, match=r"image id 7 of 'b/7\.jpg' belongs to another image already"):
        export(tmp_path, rows(row("a/7.jpg"), row("b/7.jpg")), image_ids="stem")


def test_image_ids_from_a_dataset_by_name_then_by_stem(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("photos/a.jpg"), row("x/b.jpg")), image_ids=write_truth(tmp_path))
    assert [image["id"] for image in content["images"]] == [42, 900]
    assert content["images"][1]["license"] == 4
    assert content["images"][1]["date_captured"] == "2013-11-20"
    assert content["licenses"] == [{"id": 4, "name": "CC BY"}]
    assert content["info"]["source_info"] == {"description": "truth"}
    with pytest.raises(ExportError, match=r"truth\.json has no image 'c\.jpg'"):
        export(tmp_path, rows(row("c.jpg")), image_ids=write_truth(tmp_path))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}], "has 'a.jpg' under two ids, 1 and 2"),
        (
            [{"id": 3, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}],
            "id 3 twice, for 'a.jpg' and 'b.jpg'",
        ),
        ([{"id": 4, "file_name": "a.jpg"}, {"id": 4, "file_name": "a.jpg"}], "has 'a.jpg' under two ids, 4 and 4"),
        ([{"id": "5", "file_name": "a.jpg"}], "the id of image 'a.jpg' must be a whole number, 0 or more, got '5'"),
        ([{"id": 1.5, "file_name": "a.jpg"}], "got 1.5"),
        ([{"id": True, "file_name": "a.jpg"}], "got True"),
        ([{"id": -1, "file_name": "a.jpg"}], "got -1"),
        ([{"id": None, "file_name": "a.jpg"}], "got None"),
        ([{"id": 2**63, "file_name": "a.jpg"}], "got 9223372036854775808"),
        ([{"id": 1, "file_name": None}], "the file_name of image 1 must be text, got None"),
        ([["a.jpg", 1]], "is no COCO dataset"),
    ],
)
def test_a_dataset_whose_images_cannot_be_told_apart_is_refused(
    tmp_path: Path, images: list[Any], message: str
) -> None:
    (tmp_path / "ids.json").write_text(json.dumps({"images": images}))
    with pytest.raises(ExportError) as error:
        export(tmp_path, rows(row("a.jpg")), image_ids=str(tmp_path / "ids.json"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "coco.json").exists()


@pytest.mark.parametrize("wrong", ["5", 1.5, True, -1, None, 2**63])
def test_categories_have_whole_numbers(tmp_path: Path, wrong: Any) -> None:
    (tmp_path / "list.json").write_text(json.dumps([{"id": wrong, "name": "Dog"}]))
    with pytest.raises(ExportError, match="the id of category 'Dog' must be a whole number, 0 or more, got"):
        export(tmp_path, rows(row("a.jpg", DOG)), categories=str(tmp_path / "list.json"))


def test_categories_with_a_key_twice_are_refused() -> None:
    storage = Storage()
    storage.publish("memory://twice/c.json", b'{"categories": [{"id": 1, "name": "Dog", "id": 3}]}')
    with pytest.raises(ExportError, match=r"categories cannot be read from .*'id' is given twice"):
        read_categories("memory://twice/c.json", storage)


@pytest.mark.parametrize("wrong", [{"id": 1, "name": None}, {"id": 1}, {"name": "Dog"}, "Dog", None])
def test_categories_have_names(tmp_path: Path, wrong: Any) -> None:
    (tmp_path / "list.json").write_text(json.dumps([wrong]))
    with pytest.raises(ExportError, match="every category needs a whole number id and a name"):
        export(tmp_path, rows(row("a.jpg", DOG)), categories=str(tmp_path / "list.json"))


def test_split_files_count_ids_over_all_and_replace_an_earlier_export(tmp_path: Path) -> None:
    every = [row(f"{i}.jpg", DOG) for i in range(5)]
    _, report = export(tmp_path, rows(*every), split=2)
    names = ["coco-00000.json", "coco-00001.json", "coco-00002.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert report.files == tuple(str(tmp_path / name) for name in names)
    parts = [json.loads((tmp_path / name).read_text()) for name in names]
    for part in parts:
        jsonschema.validate(part, SCHEMA)
    assert [[image["id"] for image in part["images"]] for part in parts] == [[1, 2], [3, 4], [5]]
    assert [[a["id"] for a in part["annotations"]] for part in parts] == [[1, 2], [3, 4], [5]]
    export(tmp_path, rows(*every[:3]), split=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == names[:2]
    export(tmp_path, rows(), split=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == names[:1]


def test_score_as_an_attribute(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("a.jpg", DOG)), score="attribute")
    assert content["annotations"][0]["attributes"] == {"score": 0.9}


def test_images_that_differ_in_their_ending_only_are_warned_of(tmp_path: Path) -> None:
    _, report = export(tmp_path, rows(row("x/a.jpg", DOG), row("y/a.jpg"), row("x/a.png")))
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith("1 images share their name up to the ending with another one, e.g. 'x/a.png'")


def test_image_labels_do_not_disturb(tmp_path: Path) -> None:
    content, _ = export(tmp_path, rows(row("a.jpg", image_labels=[ImageLabel(1, "Dog", "", 0.9)])))
    assert content["annotations"] == []


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    every = rows(row("a.jpg", DOG, found("Cat", 0.8, category_id=2, mid="/m/01yrx", mask=LEFT_HALF)))
    export(tmp_path, every, name="1.json")
    export(tmp_path, every, name="2.json")
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_object_stores_get_the_same_bytes_or_nothing(tmp_path: Path) -> None:
    root, storage = f"memory://{tmp_path.name}", Storage()
    export(tmp_path, rows(row("a.jpg", DOG)), results=str(tmp_path / "r.json"))
    options = CocoOptions(results=f"{root}/r.json", score_threshold=0.3)
    export_coco(INFO, rows(row("a.jpg", DOG)), f"{root}/coco.json", options, storage)
    assert storage.read(f"{root}/coco.json") == (tmp_path / "coco.json").read_bytes()
    assert storage.read(f"{root}/r.json") == (tmp_path / "r.json").read_bytes()
    with pytest.raises(ExportError):
        export_coco(INFO, rows(row("a.jpg", DOG, height=5)), f"{root}/other.json", CocoOptions(), storage)
    assert sorted(storage.names(root)) == ["coco.json", "r.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segmentation": "masks"}, "segmentation must be one of rle, polygon, none, got 'masks'"),
        ({"split": 0}, "split must be 1 or more, got 0"),
        ({"polygon_tolerance": -1.0}, "polygon-tolerance must be 0 or more, got -1.0"),
        ({"score_threshold": 2.0}, "score-threshold must be between 0 and 1, got 2.0"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        CocoOptions(**options)
    assert str(error.value) == message


def test_a_results_file_that_lacks_what_the_run_kept_says_how_to_have_all(tmp_path: Path) -> None:
    info = replace(INFO, kept=Selection(score_threshold=0.05))
    every = rows(row("a.jpg", found(score=0.9), found(score=0.1)))
    options = CocoOptions(results=str(tmp_path / "r.json"))
    report = export_coco(info, every, str(tmp_path / "x.json"), options, Storage())
    assert any("score-threshold 0" in note and "0.05" in note for note in report.warnings)
    assert len(json.loads((tmp_path / "r.json").read_text())) == 1
    report = export_coco(info, every, str(tmp_path / "x.json"), replace(options, score_threshold=0.05), Storage())
    assert report.warnings == ()
    assert len(json.loads((tmp_path / "r.json").read_text())) == 2


@given(st.lists(st.floats(-1e12, 1e12), max_size=20), st.sampled_from([0, 2, 4]))
def test_many_numbers_are_rounded_as_python_rounds_each(values: list[float], decimals: int):
    assert rounded(np.array(values), decimals).tolist() == [round(value, decimals) for value in values]


@given(st.lists(st.integers(-(10**6), 10**6), max_size=20))
def test_a_number_half_way_is_rounded_as_python_rounds_it(thousandths: list[int]):
    values = [one / 1000 for one in thousandths]
    assert rounded(np.array(values), 2).tolist() == [round(value, 2) for value in values]
