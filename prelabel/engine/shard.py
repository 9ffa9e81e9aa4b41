"""Label one shard: pictures that a `Reader` has read ahead, the detector, rows. No Ray here.

refs (plan) -> reader (threads) -> detector (this thread) -> rows, which a worker publishes as one file
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice

from prelabel.detectors.base import Detector, Found
from prelabel.engine.reader import Picture, Reader, Reading, failed
from prelabel.engine.schedule import Culprit
from prelabel.image_ref import ImageRef
from prelabel.store.rows import ImageRow


def label_images(
    pictures: Iterable[Picture],
    detector: Detector,
    on_image: Callable[[ImageRow], None] = lambda row: None,
) -> Iterator[ImageRow]:
    """Rows of pictures, in order: the detector's answer, or the error at whatever stage.

    Args:
        pictures: As a `Reader` gives them.
        detector: Gets up to its `batch_size` images at once.
        on_image: Called with each row when it is made, for progress.
    """
    remaining = iter(pictures)
    while batch := list(islice(remaining, detector.batch_size)):
        for row in _label_batch(batch, detector):
            on_image(row)
            yield row


def _label_batch(batch: Sequence[Picture], detector: Detector) -> Iterator[ImageRow]:
    whole = [picture.pixels for picture in batch if picture.pixels is not None]
    frames = [picture.frame for picture in batch if picture.frame is not None]
    start = time.perf_counter()
    try:
        answers = iter(detector.detect(whole, frames)) if whole else iter(())
    except Exception as error:  # noqa: BLE001 - the per-image boundary: TensorFlow raises dozens of classes
        if len(whole) > 1:  # one image must not take its neighbours along
            for picture in batch:
                yield from _label_batch([picture], detector)
            return
        for picture in batch:
            yield picture.row if picture.pixels is None else failed(picture.row, error, "detect")
        return
    seconds = (time.perf_counter() - start) / max(1, len(whole))
    for picture in batch:
        yield picture.row if picture.pixels is None else _with_found(picture.row, next(answers), seconds)


def _with_found(row: ImageRow, found: Found, seconds: float) -> ImageRow:
    stages: Mapping[str, float] = found.seconds or {"detect": seconds}
    return replace(
        row,
        detections=found.detections,
        image_labels=found.image_labels,
        dropped=found.dropped,
        seconds={**row.seconds, **stages},
    )


def label_shard(
    refs: Sequence[ImageRef],
    reader: Reader,
    detector: Detector,
    *,
    set_aside: Mapping[int, Culprit] | None = None,
    done: Mapping[str, ImageRow] | None = None,
    turn: AbstractContextManager[object] | None = None,
    on_image: Callable[[ImageRow], None] = lambda row: None,
) -> list[ImageRow]:
    """All rows of a shard in plan order.

    Args:
        refs: Its images, in plan order.
        reader: Fetches and decodes; it begins before the detector's turn.
        detector: A loaded detector.
        set_aside: Positions that must not be touched, and why: they become failed rows.
        done: Rows that are taken over as they are, by image id.
        turn: Held while the detector runs; a worker reads its next shard while it runs this one.
        on_image: Called with each new row.
    """
    set_aside, done = set_aside or {}, done or {}
    kept: dict[int, ImageRow] = {}
    for position, ref in enumerate(refs):
        if ref.image_id in done:
            kept[position] = done[ref.image_id]
        elif position in set_aside:
            kept[position] = set_aside_row(ref, reader.reading, set_aside[position])
    to_read = (ref for position, ref in enumerate(refs) if position not in kept)
    with reader.read(to_read) as pictures, turn or nullcontext():
        fresh = label_images(pictures, detector, on_image)
        return [kept[position] if position in kept else next(fresh) for position in range(len(refs))]


def set_aside_row(ref: ImageRef, reading: Reading, culprit: Culprit) -> ImageRow:
    """The failed row of an image that is not touched because it killed, or may have killed, its worker."""
    return ImageRow(
        image_id=ref.image_id,
        uri=ref.uri,
        file_name=ref.file_name,
        detector=reading.detector,
        model_version=reading.model_version,
        error_type=culprit.error_type,
        error=culprit.error,
        error_stage="worker",
    )
