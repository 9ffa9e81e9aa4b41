"""One shard, in plain Python: order, errors as rows, what is set aside, what is taken over."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from prelabel.detectors.base import Pixels
from prelabel.engine.reader import Reader, Reading
from prelabel.engine.schedule import Culprit
from prelabel.engine.shard import label_shard
from prelabel.image_ref import ImageRef
from prelabel.source.decode import DecodeOptions
from prelabel.storage import Storage
from prelabel.store.rows import ImageRow
from tests.engine.fakes import BrightestCorner

READING = Reading(Storage(), DecodeOptions(), "brightest", "brightest-00000000")


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
    return label_shard(refs, Reader(READING), detector or BrightestCorner(), **kwargs)  # type: ignore[arg-type]


def test_rows_come_in_plan_order_with_what_was_found(tmp_path: Path):
    refs = [picture(tmp_path, f"{i}.png", (i % 6, i % 4)) for i in range(40)]
    rows = label(refs)
    assert [row.image_id for row in rows] == [ref.image_id for ref in refs]
    assert [row.detections.xyxy[0, :2].tolist() for row in rows] == [[i % 6, i % 4] for i in range(40)]
    first = rows[0]
    assert (first.status, first.height, first.width, first.frames) == ("ok", 4, 6, 1)
    assert first.bytes == Path(first.uri).stat().st_size
    assert len(first.sha256) == 64
    assert set(first.seconds) == {"read", "decode", "detect"}


def test_every_image_in_is_a_row_out_whatever_is_wrong_with_it(tmp_path: Path):
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


def test_an_image_the_detector_fails_on_is_a_row_of_its_own(tmp_path: Path):
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


def test_a_batching_detector_gets_whole_batches_without_the_failed_images(tmp_path: Path):
    refs = [picture(tmp_path, f"{i}.png", (i % 6, 0)) for i in range(5)]
    refs.insert(1, broken(tmp_path, "empty.png", b""))
    detector = BrightestCorner(batch_size=3)
    rows = label(refs, detector)
    assert detector.batches == [2, 3]
    assert [row.status for row in rows].count("ok") == 5
    assert [row.detections.xyxy[0, 0] for row in rows if row.detections] == [0, 1, 2, 3, 4]


def test_images_set_aside_are_not_touched_and_say_why(tmp_path: Path):
    refs = [picture(tmp_path, "a.png", (0, 0)), picture(tmp_path, "b.png", (1, 0)), picture(tmp_path, "c.png", (2, 0))]
    Path(refs[1].uri).unlink()
    rows = label(refs, set_aside={1: Culprit("WorkerDied", "the worker's process died")})
    assert [row.status for row in rows] == ["ok", "failed", "ok"]
    assert (rows[1].error_type, rows[1].error_stage) == ("WorkerDied", "worker")
    assert rows[2].detections.xyxy[0, 0] == 2


def test_rows_that_are_done_are_taken_over_unread(tmp_path: Path):
    refs = [picture(tmp_path, "a.png", (0, 0)), picture(tmp_path, "b.png", (1, 0))]
    done = label(refs)[0]
    Path(refs[0].uri).unlink()
    rows = label(refs, done={"a.png": done})
    assert rows[0] is done
    assert rows[1].status == "ok"


def test_a_reduced_picture_has_the_row_of_the_whole_one(tmp_path: Path):
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "tall.jpg"
    Image.new("RGB", (131, 67)).save(path, exif=exif)
    ref = ImageRef("tall.jpg", str(path), "tall.jpg")
    shown: list[tuple[int, ...]] = []
    detector = BrightestCorner(before=lambda images: shown.extend(image.shape for image in images))
    reading = replace(READING, decoding=DecodeOptions(shortest_side=16))
    (row,) = label_shard([ref], Reader(reading), detector)
    assert shown == [(33, 17, 3)]
    assert (row.status, row.height, row.width, row.exif_orientation) == ("ok", 131, 67, 6)
    assert row.browser_orientation == 6
    assert (row.detections.height, row.detections.width) == (131, 67)


def test_a_row_says_which_orientation_browsers_apply(tmp_path: Path):
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "tall.webp"
    Image.new("RGB", (131, 67)).save(path, exif=exif)
    (row,) = label_shard([ImageRef("tall.webp", str(path), "tall.webp")], Reader(READING), BrightestCorner())
    assert (row.height, row.width) == (131, 67)
    assert (row.exif_orientation, row.browser_orientation) == (6, 1)


def test_progress_hears_of_every_new_row(tmp_path: Path):
    refs = [picture(tmp_path, "a.png", (0, 0)), broken(tmp_path, "b.png", b"")]
    heard: list[str] = []
    label(refs, on_image=lambda row: heard.append(f"{row.image_id} {row.status}"))
    assert heard == ["a.png ok", "b.png failed"]
