"""Where the labelling page draws the regions, for the person who opens it in a browser."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from prelabel.export.base import RunInfo
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions, PushOptions
from prelabel.label_studio.push import push
from prelabel.masks import rle
from prelabel.masks.polygons import FRAGMENT_SHARE, PolygonRules, object_polygons
from prelabel.select import ExportSelection
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from tests.rows import INFO, found, row, rows
from tests.s3 import S3Server
from tests.tools.conftest import HOSTILE_CLASS, NOTHING, ODDLY_NAMED, ROTATED, Photos
from tests.tools.label_studio import Server
from tests.tools.labelling import Labelling


class Project:
    """A project filled from a run."""

    def __init__(self, server: Server, photos: Photos, name: str, folder: Path, **options: Any) -> None:
        run = photos.runs[name]
        chosen = LabelStudioOptions.of(document_root=str(photos.root), **options)
        export_label_studio(RunInfo.of(run), run.rows, str(folder), chosen, run.storage)
        self.server = server
        self.id = server.project((folder / "label_config.xml").read_text(), name)
        server.serve(self.id, photos.root / ("odd \u00fc" if name == "odd" else "coco val"))
        server.api("POST", f"projects/{self.id}/import", json.loads((folder / "tasks-00000.json").read_text()))
        self.tasks = {task["data"]["image_id"]: task for task in server.tasks(self.id)}
        self.rows = {row.image_id: row for row in run.rows()}

    def open(self, page: Any, image_id: str) -> tuple[Labelling, list[dict[str, Any]]]:
        task = self.tasks[image_id]
        regions = task["predictions"][0]["result"]
        return Labelling(page, self.server, self.id, task["id"], len(regions)), regions


def on_page(xyxy: Any, row: ImageRow, task: Labelling) -> list[float]:
    """Where a box should be: pixels of the visible part of the photo, cut to it."""
    assert row.width
    assert row.height
    frame, (left, top, right, bottom) = task.frame, task.visible
    wide, high = frame.width / row.width, frame.height / row.height
    xs = [min(max(frame.x + float(x) * wide, left), right) - left for x in xyxy[::2]]
    ys = [min(max(frame.y + float(y) * high, top), bottom) - top for y in xyxy[1::2]]
    return [xs[0], ys[0], xs[1], ys[1]]


def assert_drawn_where_found(task: Labelling, index: int, xyxy: Any, row: ImageRow) -> None:
    """The stroke is a pixel or two wide and lies on the outline."""
    ys, xs = np.nonzero(task.drawn(index))
    drawn = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    np.testing.assert_allclose(drawn, on_page(xyxy, row, task), atol=2.5)


def assert_shown(task: Labelling, photo: Path) -> None:
    """The page shows these pixels, upright and not turned over."""
    with Image.open(photo) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    assert task.natural_size == upright.size
    displayed = task.photo()
    x1, y1, x2, y2 = (np.array(task.visible) - [task.frame.x, task.frame.y] * 2).tolist()
    scale = upright.width / task.frame.width
    part = (max(x1, 0) * scale, max(y1, 0) * scale, min(x2 * scale, upright.width), min(y2 * scale, upright.height))
    wanted = np.asarray(upright.resize((displayed.shape[1], displayed.shape[0]), box=part)).astype(np.int16)
    assert np.abs(displayed - wanted).mean() < 12
    assert np.abs(displayed[::-1] - wanted).mean() > 24


def ordered(row: ImageRow) -> Any:
    assert row.detections is not None
    return row.detections[np.argsort(-row.detections.score, kind="stable")]


def test_rectangles_enclose_the_detections(
    label_studio: Server, page: Any, photos: Photos, tmp_path: Path, screenshots: Path
) -> None:
    few = {"score_threshold": 0.4, "nms_iou": 0.5}
    project = Project(label_studio, photos, "ssd", tmp_path, shape="rectangle", **few)
    for image_id in sorted(project.tasks)[:2]:
        task, regions = project.open(page, image_id)
        task.screenshot(screenshots / f"rectangles-{image_id}.png")
        row = project.rows[image_id]
        assert row.detections is not None
        kept = ExportSelection(**few).apply(row.detections)
        assert len(regions) == len(kept) >= 1
        for index in range(min(len(regions), 4)):
            assert_drawn_where_found(task, index, kept.xyxy[index], row)


def under_page(task: Labelling, row: ImageRow) -> tuple[Any, Any]:
    """For every line and column of the visible part, which y and x of the photo lie under its middle."""
    frame, (left, top, right, bottom) = task.frame, task.visible
    assert row.width
    assert row.height
    ys = (np.arange(top, bottom) + 0.5 - frame.y) * row.height / frame.height
    xs = (np.arange(left, right) + 0.5 - frame.x) * row.width / frame.width
    return ys, xs


def iou(box: Any, other: Any) -> float:
    return float((box & other).sum() / (box | other).sum())


def test_brush_masks_cover_the_detections(
    label_studio: Server, page: Any, photos: Photos, tmp_path: Path, screenshots: Path
) -> None:
    project = Project(label_studio, photos, "mask", tmp_path, shape="brush", score_threshold=0.4)
    image_id = sorted(project.tasks)[0]
    task, regions = project.open(page, image_id)
    task.screenshot(screenshots / f"brush-{image_id}.png")
    row = project.rows[image_id]
    detections, (ys, xs) = ordered(row), under_page(task, row)
    assert len(regions) >= 3
    for index in range(3):
        mask = rle.decode(detections.mask[index], detections.height, detections.width)
        assert iou(mask[np.ix_(ys.astype(int), xs.astype(int))], task.drawn(index)) > 0.95


def test_parts_of_one_object_are_one_region_and_filled_as_the_mask_is(
    label_studio: Server, page: Any, photos: Photos, tmp_path: Path, screenshots: Path
) -> None:
    """The canvas of a browser fills by winding; bridges neither fill nor empty anything."""
    project = Project(label_studio, photos, "mask", tmp_path, shape="polygon", score_threshold=0.4)
    parted = []
    for image_id, image in project.rows.items():
        detections = ordered(image)
        for index, (counts, score) in enumerate(zip(detections.mask, detections.score, strict=True)):
            parts = object_polygons(
                counts, detections.height, detections.width, PolygonRules(1.0, 16, FRAGMENT_SHARE, "split")
            ).polygons
            sizes = [np.ptp(np.reshape(part, (-1, 2)), axis=0).prod() for part in parts]
            if score >= np.float32(0.4) and len(parts) > 1:
                parted.append((sorted(sizes)[-2], image_id, index))
    (_, image_id, index) = max(parted)
    task, regions = project.open(page, image_id)
    task.screenshot(screenshots / f"parts-{image_id}.png")
    image = project.rows[image_id]
    detections, (ys, xs) = ordered(image), under_page(task, image)
    assert len(regions) == np.count_nonzero(detections.score >= np.float32(0.4))
    mask = rle.decode(detections.mask[index], detections.height, detections.width)
    assert iou(mask[np.ix_(ys.astype(int), xs.astype(int))], task.drawn(index)) > 0.9


def test_polygons_are_drawn_with_their_corners_where_they_should_be(
    label_studio: Server, page: Any, photos: Photos, tmp_path: Path, screenshots: Path
) -> None:
    project = Project(label_studio, photos, "mask", tmp_path, shape="polygon", score_threshold=0.4)
    image_id = sorted(project.tasks)[0]
    task, regions = project.open(page, image_id)
    task.screenshot(screenshots / f"polygons-{image_id}.png")
    frame, (left, top, right, bottom) = task.frame, task.visible
    large = sorted(range(len(regions)), key=lambda i: -np.ptp(regions[i]["value"]["points"], axis=0).prod())[:3]
    for index in large:
        points = [
            (frame.x + x / 100 * frame.width - left, frame.y + y / 100 * frame.height - top)
            for x, y in regions[index]["value"]["points"]
        ]
        canvas = Image.new("1", (right - left, bottom - top))
        ImageDraw.Draw(canvas).polygon(points, fill=1)
        assert iou(np.asarray(canvas), task.drawn(index)) > 0.93


def test_regions_of_a_photo_rotated_by_exif_are_on_the_people(
    label_studio: Server, page: Any, photos: Photos, tmp_path: Path, screenshots: Path
) -> None:
    project = Project(label_studio, photos, "odd", tmp_path, score_threshold=0.4, shape="rectangle")
    task, regions = project.open(page, ROTATED)
    task.screenshot(screenshots / "rotated.png")
    row = project.rows[ROTATED]
    assert row.exif_orientation == 6
    assert task.natural_size == (row.width, row.height)
    assert_shown(task, photos.root / "odd \u00fc" / ROTATED)
    assert len(regions) >= 1
    for index in range(min(len(regions), 4)):
        assert_drawn_where_found(task, index, ordered(row).xyxy[index], row)


def test_odd_names_of_files_and_classes_are_shown_as_they_are(
    label_studio: Server, page: Any, photos: Photos, tmp_path: Path, screenshots: Path
) -> None:
    project = Project(label_studio, photos, "odd", tmp_path, score_threshold=0.3, shape="rectangle")
    task, regions = project.open(page, ODDLY_NAMED)
    task.screenshot(screenshots / "odd-names.png")
    labels = [region["value"]["rectanglelabels"][0] for region in regions]
    assert HOSTILE_CLASS in labels
    # Once as a button, and once for each region.
    assert task.text.count(HOSTILE_CLASS) > labels.count(HOSTILE_CLASS)
    row = project.rows[ODDLY_NAMED]
    index = labels.index(HOSTILE_CLASS)
    assert_drawn_where_found(task, index, ordered(row).xyxy[index], row)


def test_an_image_with_nothing_on_it_opens_empty(
    label_studio: Server, page: Any, photos: Photos, tmp_path: Path, screenshots: Path
) -> None:
    project = Project(label_studio, photos, "odd", tmp_path, score_threshold=0.3)
    task, regions = project.open(page, NOTHING)
    task.screenshot(screenshots / "nothing.png")
    assert regions == []
    assert (np.abs(task.photo() - 200).max(axis=2) <= 2).mean() > 0.99
    assert photos.runs["odd"].record.detector.model_version[:8] in task.text


def imported(server: Server, image: ImageRow, folder: Path, title: str) -> tuple[int, int]:
    """A project with the task of one image: the numbers of both."""
    export_label_studio(INFO, rows(image), str(folder), LabelStudioOptions(), Storage())
    project = server.project((folder / "label_config.xml").read_text(), title)
    server.api("POST", f"projects/{project}/import", json.loads((folder / "tasks-00000.json").read_text()))
    return project, int(server.tasks(project)[0]["id"])


PHOTO, BOX = "000000020992.jpg", found(xyxy=(80, 60, 160, 180))


def of_photo(image_id: str, uri: str, photo: Path) -> ImageRow:
    """A row that says what was found on a photo: a dog, on its left half."""
    with Image.open(photo) as opened:
        return row(image_id, BOX, height=opened.height, width=opened.width, uri=uri)


def test_images_of_a_bucket_are_shown_through_a_source_storage(
    label_studio: Server, page: Any, photos: Photos, s3_server: S3Server, tmp_path: Path, screenshots: Path
) -> None:
    bucket, key = s3_server.new_bucket(), "a b/\u00fc #1 100% +.jpg"
    photo = photos.root / "coco val" / PHOTO
    s3_server.put(bucket, key, photo.read_bytes())
    image = of_photo(key, f"s3://{bucket}/{key}", photo)
    project, number = imported(label_studio, image, tmp_path, "bucket")
    place = {"project": project, "bucket": bucket, "s3_endpoint": s3_server.endpoint, "region_name": "us-east-1"}
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test-secret"}
    label_studio.api("POST", "storages/s3", {**place, **keys, "presign": True, "use_blob_urls": True})
    task = Labelling(page, label_studio, project, number, 1)
    task.screenshot(screenshots / "bucket.png")
    assert_shown(task, photo)
    assert_drawn_where_found(task, 0, BOX["xyxy"], image)


def test_images_of_a_web_server_are_shown_when_it_allows_it(
    label_studio: Server, page: Any, photos: Photos, tmp_path: Path, screenshots: Path
) -> None:
    class Allowing(http.server.SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            self.send_header("Access-Control-Allow-Origin", "*")
            super().end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    handler = functools.partial(Allowing, directory=str(photos.root / "odd \u00fc"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{web.server_port}/{quote(ODDLY_NAMED)}"
        photo = photos.root / "odd \u00fc" / ODDLY_NAMED
        image = of_photo("x.jpg", url, photo)
        project, number = imported(label_studio, image, tmp_path, "web")
        task = Labelling(page, label_studio, project, number, 1)
        task.screenshot(screenshots / "web.png")
        assert_shown(task, photo)
        assert_drawn_where_found(task, 0, BOX["xyxy"], image)
        web.shutdown()


def test_the_copy_of_a_rotated_tiff_has_the_regions_where_the_displayed_image_has_them(
    label_studio: Server, page: Any, document_root: Path, tmp_path: Path, screenshots: Path
) -> None:
    displayed = Image.new("RGB", (320, 240), (60, 90, 120))
    ImageDraw.Draw(displayed).rectangle((40, 30, 159, 89), fill=(220, 40, 40))
    ImageDraw.Draw(displayed).rectangle((0, 160, 319, 239), fill=(240, 240, 240))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise for display
    photo = document_root / "tiffs" / "rotated.tif"
    photo.parent.mkdir(exist_ok=True)
    displayed.transpose(Image.Transpose.ROTATE_90).save(photo, exif=exif)
    tiff = row("rotated.tif", found(xyxy=(40, 30, 160, 90)), height=240, width=320, uri=str(photo))
    image = replace(tiff, exif_orientation=6, browser_orientation=6)
    (tmp_path / "token").write_text(label_studio.token)
    options = PushOptions(
        url=label_studio.url,
        project="copies",
        token_file=str(tmp_path / "token"),
        create_storage=True,
        document_root=str(document_root),
        display_copies=str(document_root / "copies"),
    )
    report = push(INFO, rows(image), options, Storage())
    project = int(report.url.rpartition("/")[2])
    (task,) = label_studio.tasks(project)
    labelling = Labelling(page, label_studio, project, task["id"], 1)
    labelling.screenshot(screenshots / "copy.png")
    assert_shown(labelling, photo)
    assert_drawn_where_found(labelling, 0, (40, 30, 160, 90), image)
