"""Reads what people made, from the tool they made it with."""

from __future__ import annotations

from typing import Any

import numpy as np

from prelabel import rle
from prelabel.compare.annotated import COCO, AnnotatedImage, Annotations, Mask, Region
from prelabel.compare.label_studio import read_tasks
from prelabel.errors import ConfigError, EvaluateError
from prelabel.evaluate.truth import TruthImage, TruthObject, read_truth
from prelabel.storage import Storage, describe, redact


def read_annotations(url: str, storage: Storage) -> Annotations:
    """A JSON export of Label Studio (a list of tasks) or a COCO dataset (an object).

    Raises:
        ConfigError: There is no such file.
        EvaluateError: It cannot be read, or is neither.
    """
    shown = redact(url)
    try:
        content = storage.read_json(url)
    except FileNotFoundError:
        raise ConfigError(f"annotations {shown!r}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise EvaluateError(f"annotations {shown} cannot be read: {describe(error)}") from None
    if isinstance(content, list):
        return read_tasks(content, shown)
    if not isinstance(content, dict) or "images" not in content:
        raise EvaluateError(f"{shown} is neither Label Studio's JSON export (a list of tasks) nor a COCO dataset")
    truth = read_truth(url, storage)
    names = {one.id: one.name for one in truth.categories}
    images = [_coco_image(image, names) for image in truth.images]
    notes = ["all images of the COCO dataset count as worked on; regions have no ids in common with the run"]
    if len(images) != len({one.path for one in images}):
        raise EvaluateError(f"{shown} has an image twice")
    return Annotations(shown, images, notes=(*truth.notes, *notes), tool=COCO, truth=truth)


def _coco_image(image: TruthImage, names: dict[int, str]) -> AnnotatedImage:
    if image.height is None or image.width is None:
        raise EvaluateError(f"image {image.file_name!r} of the annotations has no height and width")
    size = (image.height, image.width)
    regions = tuple(Region("", (names[one.category_id],), _coco_shape(one, *size)) for one in image.objects)
    return AnnotatedImage("", image.file_name, regions, size=size)


def _coco_shape(one: TruthObject, height: int, width: int) -> Any:
    if isinstance(one.segmentation, list):
        return tuple(np.asarray(part, np.float64).reshape(-1, 2) / (width, height) for part in one.segmentation)
    if isinstance(one.segmentation, dict):
        counts = one.segmentation["counts"]
        if not isinstance(counts, str):
            runs = np.asarray(counts, np.int64)
            counts = rle.encode_runs(runs, np.array([len(runs)]))[0]
        return Mask(counts, height, width)
    x, y, w, h = one.bbox
    return np.array([(x, y), (x + w, y + h)]) / (width, height)
