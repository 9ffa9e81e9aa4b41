"""80 real photos with annotated masks: the folder stays small, and contours fit the masks."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw
from pycocotools.coco import COCO

from prelabel.gallery.content import card
from prelabel.gallery.survey import Predictions, kept_predictions
from prelabel.masks import rle
from prelabel.select import ExportSelection
from prelabel.store.rows import ImageRow
from tests.gallery.galleries import preview
from tests.rows import found, row

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own


@pytest.fixture(scope="module")
def truth(assets: Path) -> list[ImageRow]:
    """A row per photo with its annotated objects, without crowd regions."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(assets / "images" / "coco-val80-instances.json"))
    rows = []
    for image in coco.loadImgs(coco.getImgIds()):
        detections = []
        for annotation in coco.imgToAnns[image["id"]]:
            x, y, w, h = annotation["bbox"]
            mask = coco.annToMask(annotation)
            if annotation["iscrowd"] == 0 and mask.any():
                name = coco.cats[annotation["category_id"]]["name"]
                detections.append(found(name, 0.9, (x, y, x + w, y + h), mid="", mask=rle.encode(mask)))
        uri = str(assets / "images" / "coco-val80" / image["file_name"])
        size = {"height": image["height"], "width": image["width"]}
        rows.append(row(image["file_name"], *detections, **size, masks=True, uri=uri))
    return rows


def test_eighty_photos_with_masks_are_less_than_fifteen_megabytes(truth: list[ImageRow], tmp_path: Path):
    report = preview(truth, tmp_path)
    assert (report.images, report.warnings) == (80, ())
    assert report.detections == sum(len(annotation) for annotation in truth) > 500
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert written < 15e6


def test_contours_cover_their_masks(truth: list[ImageRow]):
    """Every contour, filled by Pillow with the even-odd rule, equals its mask except for pixels at the edge."""
    for annotation in truth[:8]:
        assert annotation.detections is not None
        numbers = dict.fromkeys(annotation.detections.label, 0)
        drawn = card(annotation, kept_predictions(annotation, ExportSelection()), Predictions(None, ()), numbers, 1280)[
            "detections"
        ]
        for (*_, outline), counts in zip(drawn, annotation.detections.mask, strict=True):
            mask = rle.decode(counts, annotation.detections.height, annotation.detections.width)
            if mask.sum() < 400:
                continue
            wrong = filled(outline, *mask.shape) != mask
            edge = np.count_nonzero(mask[1:] != mask[:-1]) + np.count_nonzero(mask[:, 1:] != mask[:, :-1])
            assert np.count_nonzero(wrong) <= edge


def filled(path: str, height: int, width: int) -> np.ndarray:
    """Path data filled by the even-odd rule, at four times the size: Pillow has its own rule for edges."""
    canvas = Image.new("1", (width * 4, height * 4))
    for ring in path.replace("-", " -").strip("M").split("zM"):
        start, _, steps = ring.rstrip("z").partition("l")
        x, y = map(int, start.split())
        numbers = [int(text) for text in steps.split()]
        points = np.cumsum([[x, y], *np.reshape(numbers, (-1, 2)).tolist()], axis=0) * 4
        drawn = Image.new("1", canvas.size)
        ImageDraw.Draw(drawn).polygon([tuple(point) for point in points.tolist()], fill=1)
        canvas = ImageChops.logical_xor(canvas, drawn)
    return np.asarray(canvas)[2::4, 2::4]
