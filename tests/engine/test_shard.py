"""One shard, in plain Python: order, errors as rows, what is set aside, what is taken over, how it is decoded."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prelabel.engine.shard as shard
from prelabel.config import LabelOptions
from prelabel.detections import ClassName, Detections
from prelabel.detectors.base import DetectionResult, DetectorRecord, Frame, Pixels
from prelabel.engine.reader import Reader
from prelabel.engine.schedule import FailureCause
from prelabel.engine.shard import LoadedImage, ReadSettings, label_images, label_shard, read_settings
from prelabel.engine.worker import WorkerSpec
from prelabel.export.base import RunInfo
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.export.cvat import CvatOptions, export_cvat
from prelabel.export.yolo import YoloOptions, export_yolo
from prelabel.image_ref import ImageRef
from prelabel.keypoints import KeypointSet
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.source.decode import DecodeOptions
from prelabel.storage.files import Storage
from prelabel.store.rows import ImageRow
from prelabel.store.run import open_run
from prelabel.store.verify import verify
from tests.engine.fakes import BrightestCorner
from tests.runs import DETECTOR, write_run

SETTINGS = ReadSettings(Storage(), DecodeOptions(), "brightest", "brightest-00000000")


def picture(folder: Path, name: str, bright: tuple[int, int], size: tuple[int, int] = (6, 4)) -> ImageRef:
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[bright[1], bright[0]] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    path = folder / name
    path.write_bytes(file.getvalue())
    return ImageRef(name, str(path), name)


def broken(folder: Path, name: str, data: bytes) -> ImageRef:
    path = folder / name
    path.write_bytes(data)
    return ImageRef(name, str(path), name)


def label(refs: Sequence[ImageRef], detector: BrightestCorner | None = None, **kwargs: object) -> list[ImageRow]:
    return label_shard(refs, Reader(SETTINGS), detector or BrightestCorner(), **kwargs)  # type: ignore[arg-type]


def test_rows_come_in_plan_order_with_their_detections(tmp_path: Path):
    refs = [picture(tmp_path, f"{i}.png", (i % 6, i % 4)) for i in range(40)]
    rows = label(refs)
    assert [row.image_id for row in rows] == [ref.image_id for ref in refs]
    assert [row.detections.xyxy[0, :2].tolist() for row in rows] == [[i % 6, i % 4] for i in range(40)]
    first = rows[0]
    assert (first.status, first.height, first.width, first.frames) == ("ok", 4, 6, 1)
    assert first.bytes == Path(first.uri).stat().st_size
    assert len(first.sha256) == 64
    assert set(first.seconds) == {"read", "decode", "detect"}


class Poses(BrightestCorner):
    """Gives each corner two keypoints; above the corner it expects one that lies outside an image's top row."""

    def detect_in(self, images: Sequence[Pixels], frames: Sequence[Frame] | None = None) -> list[DetectionResult]:
        results = super().detect_in(images, frames)
        return [replace(result, detections=self._posed(result.detections)) for result in results]

    @staticmethod
    def _posed(detections: Detections) -> Detections:
        x, y = detections.xyxy[0, :2].tolist()
        return replace(detections, keypoints=[[(x + 0.5, y + 0.5, 0.75), (x + 0.5, y - 1, 0.5)]])


def test_keypoints_go_from_the_detector_through_a_finished_run_into_every_export(tmp_path: Path):
    refs = [picture(tmp_path, "a.png", (2, 3)), picture(tmp_path, "b.png", (4, 0)), broken(tmp_path, "c.png", b"x")]
    detector = replace(
        DETECTOR, keypoints=KeypointSet(("middle", "top"), ((0, 1),)), classes=(ClassName(1, "corner", "/m/corner"),)
    )
    output = write_run(tmp_path / "run", [label(refs, Poses())], detector)
    assert not list(verify(output, Storage()).problems)
    run = open_run(output, Storage())
    stored = [row.detections.keypoints.tolist() for row in run.rows() if row.detections is not None]
    assert stored == [[[[2.5, 3.5, 0.75], [2.5, 2, 0.5]]], [[[4.5, 0.5, 0.75], [4.5, -1, 0.5]]]]
    info = RunInfo.of(run)
    export_coco(info, run.rows, str(tmp_path / "coco.json"), CocoOptions(), Storage())
    annotations = json.loads((tmp_path / "coco.json").read_text())["annotations"]
    assert [a["keypoints"] for a in annotations] == [[2.5, 3.5, 2, 2.5, 2, 2], [4.5, 0.5, 2, 0, 0, 0]]
    export_yolo(info, run.rows, str(tmp_path / "yolo"), YoloOptions(), Storage())
    assert len((tmp_path / "yolo" / "labels" / "train" / "a.txt").read_text().split()) == 5 + 6
    export_cvat(info, run.rows, str(tmp_path / "cvat.xml"), CvatOptions(), Storage())
    assert (tmp_path / "cvat.xml").read_text().count("<skeleton ") == 2
    options = LabelStudioOptions(document_root=str(tmp_path))
    export_label_studio(info, run.rows, str(tmp_path / "tasks"), options, Storage())
    tasks = json.loads((tmp_path / "tasks" / "tasks-00000.json").read_text())
    assert [len(task["predictions"][0]["result"]) for task in tasks] == [3, 2]


def test_every_image_becomes_a_row_whatever_is_wrong_with_it(tmp_path: Path):
    refs = [
        picture(tmp_path, "good.png", (1, 1)),
        broken(tmp_path, "empty.png", b""),
        broken(tmp_path, "page.jpg", b"<!doctype html><html></html>"),
        ImageRef("gone.png", str(tmp_path / "gone.png"), "gone.png"),
        picture(tmp_path, "also-good.png", (2, 2)),
    ]
    rows = label(refs)
    assert [row.status for row in rows] == ["ok", "failed", "failed", "failed", "ok"]
    assert [row.error_type for row in rows] == [None, "EmptyFileError", "UnknownFormatError", "FetchError", None]
    assert [row.error_stage for row in rows] == [None, "decode", "decode", "read", None]
    assert all(row.error and "\n" not in row.error for row in rows if row.status == "failed")
    assert rows[2].bytes == 28


def test_an_image_on_which_the_detector_fails_does_not_affect_others(tmp_path: Path):
    def refuse_wide(images: Sequence[Pixels]) -> None:
        if any(image.shape[1] > 6 for image in images):
            raise RuntimeError("too wide")

    refs = [picture(tmp_path, "a.png", (0, 0)), picture(tmp_path, "b.png", (0, 0), size=(7, 4))]
    refs.append(picture(tmp_path, "c.png", (3, 3)))
    rows = label(refs, BrightestCorner(batch_size=8, before=refuse_wide))
    assert [row.status for row in rows] == ["ok", "failed", "ok"]
    assert (rows[1].error_type, rows[1].error, rows[1].error_stage) == (
        "RuntimeError",
        "RuntimeError: too wide",
        "detect",
    )
    assert (rows[1].height, rows[1].width) == (4, 7)


def test_a_batching_detector_gets_batches_without_failed_images(tmp_path: Path):
    refs = [picture(tmp_path, f"{i}.png", (i % 6, 0)) for i in range(5)]
    refs.insert(1, broken(tmp_path, "empty.png", b""))
    detector = BrightestCorner(batch_size=3)
    rows = label(refs, detector)
    assert detector.batches == [2, 3]
    assert [row.status for row in rows].count("ok") == 5
    assert [row.detections.xyxy[0, 0] for row in rows if row.detections] == [0, 1, 2, 3, 4]


def test_images_set_aside_are_not_read_and_have_the_cause(tmp_path: Path):
    refs = [picture(tmp_path, "a.png", (0, 0)), picture(tmp_path, "b.png", (1, 0)), picture(tmp_path, "c.png", (2, 0))]
    Path(refs[1].uri).unlink()
    rows = label(refs, set_aside={1: FailureCause("WorkerDied", "the worker's process died")})
    assert [row.status for row in rows] == ["ok", "failed", "ok"]
    assert (rows[1].error_type, rows[1].error_stage) == ("WorkerDied", "worker")
    assert rows[2].detections.xyxy[0, 0] == 2


def test_finished_rows_are_kept_without_reading_the_images(tmp_path: Path):
    refs = [picture(tmp_path, "a.png", (0, 0)), picture(tmp_path, "b.png", (1, 0))]
    Path(refs[0].uri).unlink()
    (row,) = label(refs, done={"a.png"})
    assert (row.image_id, row.status) == ("b.png", "ok")


@pytest.mark.parametrize("batch_size", [1, 2])
def test_streams_run_at_the_same_time_and_rows_stay_in_order(batch_size: int, tmp_path: Path):
    refs = [picture(tmp_path, f"{i:02}.png", (i % 6, i % 4)) for i in range(12 * batch_size)]
    refs[4] = broken(tmp_path, "broken.png", b"no image")
    three = threading.Barrier(3)  # breaks unless three calls are in it together

    def wait(images: Sequence[Pixels]) -> None:
        three.wait(20)
        time.sleep(0.01 * (images[0].sum() % 3))

    counted: list[str] = []
    if batch_size == 1:
        refs.append(picture(tmp_path, "last.png", (0, 0)))  # for the broken one, which the detector does not see
    detector = BrightestCorner(batch_size, before=wait)
    rows = label(refs, detector, streams=3, on_image=lambda row: counted.append(row.image_id))
    assert [row.image_id for row in rows] == counted == [ref.image_id for ref in refs]
    assert [row.status for row in rows].count("failed") == 1
    assert [row.detections.xyxy[0, 0] for row in rows[:4]] == [0, 1, 2, 3]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_pixels_of_all_streams_together_are_bounded(batch_size: int, monkeypatch: pytest.MonkeyPatch):
    """Images of which five fill the bound: three streams have one more each at most, and each stream has one to run."""
    streams, most_images = 3, 5
    monkeypatch.setattr(shard, "_BATCH_BYTES", most_images * 300)
    taken: list[int] = []
    waiting = threading.Event()

    def images() -> Iterator[LoadedImage]:
        for number in range(40):
            taken.append(number)
            pixels = np.full((10, 10, 3), number, np.uint8)
            yield LoadedImage(ImageRow(str(number), "", "", "d", "d"), pixels, Frame.of(pixels))

    detector = BrightestCorner(batch_size, before=lambda batch: assert_set(waiting))
    rows: list[ImageRow] = []
    thread = threading.Thread(target=lambda: rows.extend(label_images(images(), detector, streams=streams)))
    thread.start()
    time.sleep(0.3)
    held = len(taken)
    waiting.set()
    thread.join(20)
    assert most_images <= held <= most_images + streams
    assert [row.image_id for row in rows] == [str(number) for number in range(40)]


def assert_set(event: threading.Event) -> None:
    assert event.wait(20)


def test_an_image_that_fails_in_a_stream_fails_alone(tmp_path: Path):
    refs = [picture(tmp_path, f"{i}.png", (i % 6, 1)) for i in range(8)]

    def refuse(images: Sequence[Pixels]) -> None:
        if images[0][1, 3].any():
            raise ValueError("not this one")

    rows = label(refs, BrightestCorner(before=refuse), streams=2)
    assert [row.image_id for row in rows if row.status == "failed"] == ["3.png"]
    assert (rows[3].error_type, rows[3].error_stage) == ("ValueError", "detect")


def test_no_stream_runs_the_detector_once_a_shard_has_ended_with_an_error(tmp_path: Path):
    refs = [picture(tmp_path, f"{i}.png", (0, 0)) for i in range(3)]
    running: list[int] = []

    def work(images: Sequence[Pixels]) -> None:
        running.append(1)
        time.sleep(0.3)
        running.pop()

    def stop(row: ImageRow) -> None:
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        label(refs, BrightestCorner(before=work), streams=3, on_image=stop)
    assert not running


def test_an_image_decoded_at_reduced_size_has_the_same_row(tmp_path: Path):
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "tall.jpg"
    Image.new("RGB", (131, 67)).save(path, exif=exif)
    ref = ImageRef("tall.jpg", str(path), "tall.jpg")
    shapes: list[tuple[int, ...]] = []
    detector = BrightestCorner(before=lambda images: shapes.extend(image.shape for image in images))
    reading = replace(SETTINGS, decoding=DecodeOptions(shortest_side=16))
    (row,) = label_shard([ref], Reader(reading), detector)
    assert shapes == [(33, 17, 3)]
    assert (row.status, row.height, row.width, row.exif_orientation) == ("ok", 131, 67, 6)
    assert row.browser_orientation == 6
    assert (row.detections.height, row.detections.width) == (131, 67)


def test_a_row_has_the_orientation_that_browsers_apply(tmp_path: Path):
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "tall.webp"
    Image.new("RGB", (131, 67)).save(path, exif=exif)
    (row,) = label_shard([ImageRef("tall.webp", str(path), "tall.webp")], Reader(SETTINGS), BrightestCorner())
    assert (row.height, row.width) == (131, 67)
    assert (row.exif_orientation, row.browser_orientation) == (6, 1)


def test_progress_is_reported_for_every_new_row(tmp_path: Path):
    refs = [picture(tmp_path, "a.png", (0, 0)), broken(tmp_path, "b.png", b"")]
    heard: list[str] = []
    label(refs, on_image=lambda row: heard.append(f"{row.image_id} {row.status}"))
    assert heard == ["a.png ok", "b.png failed"]


def decoding(working_size: int | None, **options: object) -> DecodeOptions:
    stated = {"source": ("photos",), "detector": "d", "output": "out", **options}
    detector = DetectorRecord("d", "/models/d", "0" * 64, "d-00000000", "test", False, None)
    spec = WorkerSpec(LabelOptions.of(**stated), "run", (), detector, owner="me")  # type: ignore[arg-type]
    return read_settings(spec, Storage(), working_size).decoding


def test_images_are_decoded_at_full_size_by_default() -> None:
    assert decoding(300).shortest_side is None


def test_reduced_images_keep_twice_the_input_size_of_the_detector() -> None:
    assert decoding(300, decode_scale="auto").shortest_side == 600


def test_a_detector_of_unknown_input_size_gets_images_at_full_size() -> None:
    assert decoding(None, decode_scale="auto").shortest_side is None


def test_limits_are_those_of_the_run() -> None:
    limits = decoding(None, max_pixels=7, max_bytes=8, allow_truncated=True)
    assert (limits.max_pixels, limits.max_bytes, limits.allow_truncated) == (7, 8, True)
