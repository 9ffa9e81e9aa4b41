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
    for annotation in coco.anns.values():
        image, (x, y, w, h) = coco.imgs[annotation["image_id"]], annotation["bbox"]
        mask = coco.annToMask(annotation) if annotation["segmentation"] else None
        label = coco.cats[annotation["category_id"]]["name"]
        yield _entry(Path(image["file_name"]).stem, label, (x, y, x + w, y + h), annotation["score"], mask)


def fiftyone(path: Path, images: Path) -> Found:
    """FiftyOne's COCO importer, into a dataset of its database."""
    import fiftyone as fo

    kinds = {"data_path": str(images), "labels_path": str(path), "label_types": ["detections", "segmentations"]}
    dataset = fo.Dataset.from_dir(dataset_type=fo.types.COCODetectionDataset, extra_attrs=True, progress=False, **kinds)
    masks = "segmentations" in dataset.get_field_schema()
    try:
        for sample in dataset:
            width, height = sample.metadata.width, sample.metadata.height
            detections = sample["segmentations" if masks else "detections"]
            for detection in detections.detections if detections is not None else ():
                x, y, w, h = detection.bounding_box
                box = (x * width, y * height, (x + w) * width, (y + h) * height)
                mask = None if detection.mask is None else _pasted(detection.mask, box, width, height)
                yield _entry(Path(sample.filepath).stem, detection.label, box, detection.confidence, mask)
    finally:
        dataset.delete()


def _pasted(mask: Any, box: Any, width: int, height: int) -> Any:
    # FiftyOne cuts masks to the bbox, from round(x) on.
    import numpy as np

    x, y = round(box[0]), round(box[1])
    whole = np.zeros((height, width), bool)
    whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return whole


def ultralytics(path: Path, _: Path, task: str) -> Found:
    """The dataset that Ultralytics' YOLO trains from: boxes in pixels, segments drawn as it draws them."""
    _declare_torchvision()
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset, polygon2mask

    data = check_det_dataset(str(path / "data.yaml"), autodownload=False)
    for label in YOLODataset(data["train"], data=data, task=task, augment=False, imgsz=640).labels:
        height, width = label["shape"]
        segments = label["segments"] or [None] * len(label["cls"])
        for number, (x, y, w, h), segment in zip(label["cls"][:, 0], label["bboxes"], segments, strict=True):
            box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            mask = polygon2mask((height, width), [segment * (width, height)]) if segment is not None else None
            yield _entry(Path(label["im_file"]).stem, data["names"][int(number)], box, None, mask)


#: What is declared lives as long as the library it was declared in.
_HELD: list[Any] = []


def _declare_torchvision() -> None:
    # The compiled part of torchvision from PyPI does not load beside a torch without CUDA, and the Python part wants
    # its operators declared, which reading a dataset never calls.
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        _HELD.append(library)
        pooling = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")
        for name in ("nms", "qnms", "qroi_align", *pooling, *(f"_{operation}_backward" for operation in pooling)):
            library.define(f"{name}(Tensor a) -> Tensor")
        for name in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
            del sys.modules[name]


def datumaro(path: Path, _: Path, form: str = "coco_instances", **options: Any) -> Found:
    """Datumaro's importer of a format."""
    import datumaro as dm

    dataset = dm.Dataset.import_from(str(path), form, **options)
    labels = dataset.categories()[dm.AnnotationType.label]
    for item in dataset:
        for annotation in item.annotations:
            score = annotation.attributes.get("score")
            mask = annotation.image if annotation.type == dm.AnnotationType.mask else None
            box = annotation.points if annotation.type == dm.AnnotationType.bbox else None
            yield _entry(Path(item.id).name, labels[annotation.label].name, box, score, mask)


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
    for name, _, detections in dataset:
        masks = [None] * len(detections) if detections.mask is None else detections.mask
        for box, number, mask in zip(detections.xyxy, detections.class_id, masks, strict=True):
            yield _entry(Path(name).stem, dataset.classes[number], box, None, mask)


def cvat_sdk(path: Path, _: Path) -> Found:
    """CVAT's own decoder of masks, on the XML taken apart as its server does."""
    from cvat_sdk.masks import decode_mask

    for image in ET.parse(path).getroot().iter("image"):  # noqa: S314
        for shape in image:
            score = next(each.text for each in shape if each.get("name") == "score")
            name, label = Path(image.attrib["name"]).stem, shape.attrib["label"]
            if shape.tag == "box":
                corners = [shape.attrib[key] for key in ("xtl", "ytl", "xbr", "ybr")]
                yield _entry(name, label, corners, score)
                continue
            left, top, width, height = (int(shape.attrib[key]) for key in ("left", "top", "width", "height"))
            points = [*map(int, shape.attrib["rle"].split(",")), left, top, left + width - 1, top + height - 1]
            size = {"image_width": int(image.attrib["width"]), "image_height": int(image.attrib["height"])}
            yield _entry(name, label, None, score, decode_mask(points, **size))


READERS: dict[str, Callable[[Path, Path], Found]] = {
    "faster-coco-eval": faster_coco_eval,
    "fiftyone": fiftyone,
    "datumaro-coco": datumaro,
    "datumaro-0.3-coco": datumaro,
    "ultralytics": lambda path, images: ultralytics(path, images, "detect"),
    "ultralytics-segments": lambda path, images: ultralytics(path, images, "segment"),
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
