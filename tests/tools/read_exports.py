"""Read an export with a tool that people use, and print what it found; run by that tool's own Python.

python read_exports.py READER PATH [IMAGES]    prints a JSON list of {image, label, xyxy, score, mask}

`image` is the name without ending, `mask` COCO's compressed counts where the tool has a mask. What a tool does not read
is null.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Found = Iterator[dict[str, Any]]


def _entry(image: str, label: str, xyxy: Any = None, score: Any = None, mask: Any = None) -> dict[str, Any]:
    return {
        "image": image,
        "label": label,
        "xyxy": None if xyxy is None else [float(value) for value in xyxy],
        "score": None if score is None else float(score),
        "mask": None if mask is None else _counts(mask),
    }


def _counts(mask: Any) -> str:
    import numpy as np
    from pycocotools import mask as coco_mask

    return str(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode())


def faster_coco_eval(path: Path, _: Path) -> Found:
    """faster-coco-eval's dataset."""
    from faster_coco_eval import COCO

    coco = COCO(str(path))
    for one in coco.anns.values():
        image, (x, y, w, h) = coco.imgs[one["image_id"]], one["bbox"]
        mask = coco.annToMask(one) if one["segmentation"] else None
        label = coco.cats[one["category_id"]]["name"]
        yield _entry(Path(image["file_name"]).stem, label, (x, y, x + w, y + h), one["score"], mask)


def fiftyone(path: Path, _: Path) -> Found:
    """FiftyOne's COCO importer, without the database that a dataset of it needs."""
    from fiftyone.utils.coco import load_coco_detection_annotations

    _, classes, _, images, annotations = load_coco_detection_annotations(str(path), extra_attrs=True)
    for number, objects in annotations.items():
        image = images[number]
        width, height = image["width"], image["height"]
        for one in objects:
            found = one.to_detection((width, height), classes_map=classes, load_segmentation=True)
            x, y, w, h = found.bounding_box
            box = (x * width, y * height, (x + w) * width, (y + h) * height)
            mask = None if found.mask is None else _pasted(found.mask, one.bbox, width, height)
            yield _entry(Path(image["file_name"]).stem, found.label, box, found.confidence, mask)


def _pasted(mask: Any, bbox: Any, width: int, height: int) -> Any:
    # FiftyOne cuts masks to the bbox, from round(x) on.
    import numpy as np

    x, y = round(bbox[0]), round(bbox[1])
    whole = np.zeros((height, width), bool)
    whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return whole


def datumaro(path: Path, _: Path, form: str = "coco_instances", **options: Any) -> Found:
    """Datumaro's importer of a format."""
    import datumaro as dm

    dataset = dm.Dataset.import_from(str(path), form, **options)
    labels = dataset.categories()[dm.AnnotationType.label]
    for item in dataset:
        for one in item.annotations:
            score = one.attributes.get("score")
            mask = one.image if one.type == dm.AnnotationType.mask else None
            box = one.points if one.type == dm.AnnotationType.bbox else None
            yield _entry(Path(item.id).name, labels[one.label].name, box, score, mask)


def supervision(path: Path, images: Path, form: str) -> Found:
    """supervision's reader of a format."""
    import supervision as sv

    if form == "coco":
        dataset = sv.DetectionDataset.from_coco(str(images), str(path))
    elif form == "yolo":
        dataset = sv.DetectionDataset.from_yolo(
            str(path / "images/train"), str(path / "labels/train"), str(path / "data.yaml")
        )
    else:
        dataset = sv.DetectionDataset.from_pascal_voc(str(path / "JPEGImages"), str(path / "Annotations"))
    for name, _, found in dataset:
        masks = [None] * len(found) if found.mask is None else found.mask
        for box, number, mask in zip(found.xyxy, found.class_id, masks, strict=True):
            yield _entry(Path(name).stem, dataset.classes[number], box, None, mask)


def cvat_sdk(path: Path, _: Path) -> Found:
    """CVAT's own decoder of masks, on the XML taken apart as its server does."""
    from cvat_sdk.masks import decode_mask

    for image in ET.parse(path).getroot().iter("image"):  # noqa: S314
        for one in image:
            score = next(each.text for each in one if each.get("name") == "score")
            name, label = Path(image.attrib["name"]).stem, one.attrib["label"]
            if one.tag == "box":
                corners = [one.attrib[key] for key in ("xtl", "ytl", "xbr", "ybr")]
                yield _entry(name, label, corners, score)
                continue
            left, top, width, height = (int(one.attrib[key]) for key in ("left", "top", "width", "height"))
            points = [*map(int, one.attrib["rle"].split(",")), left, top, left + width - 1, top + height - 1]
            size = {"image_width": int(image.attrib["width"]), "image_height": int(image.attrib["height"])}
            yield _entry(name, label, None, score, decode_mask(points, **size))


READERS: dict[str, Callable[[Path, Path], Found]] = {
    "faster-coco-eval": faster_coco_eval,
    "fiftyone": fiftyone,
    "datumaro-coco": datumaro,
    "datumaro-cvat": lambda path, images: datumaro(path, images, "cvat"),
    "datumaro-yolo": lambda path, images: datumaro(path, images, "yolo"),
    "datumaro-voc": lambda path, images: datumaro(path, images, "voc_detection"),
    "datumaro-voc-one": lambda path, images: datumaro(path, images, "voc_detection", coordinate_mode="voc-one-based"),
    "supervision-coco": lambda path, images: supervision(path, images, "coco"),
    "supervision-yolo": lambda path, images: supervision(path, images, "yolo"),
    "supervision-voc": lambda path, images: supervision(path, images, "voc"),
    "cvat-sdk": cvat_sdk,
}

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    reader, *paths = sys.argv[1:]
    out, sys.stdout = sys.stdout, sys.stderr  # some of them talk
    json.dump(list(READERS[reader](*map(Path, (*paths, "")[:2]))), out)
