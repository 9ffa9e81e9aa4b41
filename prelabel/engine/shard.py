"""Label one shard: read and decode ahead in threads, run the detector, write one Parquet file. No Ray here.

refs (plan) -> fetch threads -> decode threads -> detector (this thread) -> rows -> one published file
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice

from prelabel.detectors.base import Detector, Found, Frame, Pixels
from prelabel.engine.schedule import Culprit
from prelabel.errors import CredentialsError, PrelabelError
from prelabel.source.decode import DecodedImage, DecodeOptions, decode
from prelabel.source.fetch import fetch
from prelabel.source.listing import ImageRef
from prelabel.storage import Storage, describe
from prelabel.store.rows import ImageRow

#: Reading waits for the network: several files are under way at once for each worker.
FETCH_THREADS = 8

#: Encoded files held ahead of the decoder, and decoded images held ahead of the detector (36 MB each at 12 megapixels).
FETCH_AHEAD = 24
DECODE_AHEAD = 4

#: Bytes of decoded images held ahead of the detector, beyond which no further one is begun.
DECODE_AHEAD_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Reading:
    """How images are fetched and decoded.

    Attributes:
        storage: Opens the source.
        decoding: Limits and rules of the decoder.
        detector: Name written into each row.
        model_version: Written into each row.
    """

    storage: Storage
    decoding: DecodeOptions
    detector: str
    model_version: str


class _Queue:
    """What of one shard is still to be read, is being fetched, is being decoded."""

    def __init__(self, remaining: Iterator[ImageRef]) -> None:
        self.remaining = remaining
        self.fetching: deque[tuple[ImageRef, Future[Fetched]]] = deque()
        self.decoding: deque[Future[Picture]] = deque()
        self.lock = threading.RLock()
        self.closed = False


class Reader:
    """Fetch and decode images in threads, ahead of whoever consumes them, in order, within bounds."""

    def __init__(self, reading: Reading, decode_threads: int = 1) -> None:
        self.reading = reading
        self._fetchers = ThreadPoolExecutor(FETCH_THREADS, "fetch")
        self._decoders = ThreadPoolExecutor(decode_threads, "decode")
        self._decode_threads = decode_threads
        self._decode_ahead = max(DECODE_AHEAD, 2 * decode_threads)

    def read(self, refs: Iterable[ImageRef]) -> Iterator[Picture]:
        """One `Picture` for each image, in order. Reading begins at once, not when the first one is asked for."""
        queue = _Queue(iter(refs))
        self._fill(queue)
        return self._drain(queue)

    def _fill(self, queue: _Queue) -> None:
        """Begin what there is room for: when an image was taken, and in the decoding thread when one is ready."""
        with queue.lock:
            if queue.closed:
                return
            for ref in islice(queue.remaining, FETCH_AHEAD - len(queue.fetching)):
                queue.fetching.append((ref, self._fetchers.submit(_fetch, ref, self.reading)))
            while queue.fetching and self._has_room(queue):
                ref, fetched = queue.fetching.popleft()
                decoded = self._decoders.submit(_decode, ref, fetched, self.reading)
                queue.decoding.append(decoded)
                decoded.add_done_callback(lambda _: self._fill(queue))

    def _has_room(self, queue: _Queue) -> bool:
        """Whether another image may be decoded ahead. How large it is shows only then, so one is begun at a time."""
        if not queue.decoding:
            return True
        ready = [decoded for decoded in queue.decoding if decoded.done()]
        return (
            len(queue.decoding) < self._decode_ahead
            and len(queue.decoding) - len(ready) < self._decode_threads
            and sum(map(_bytes_held, ready)) < DECODE_AHEAD_BYTES
        )

    def _drain(self, queue: _Queue) -> Iterator[Picture]:
        try:
            while queue.decoding:
                with queue.lock:
                    decoded = queue.decoding.popleft()
                picture = decoded.result()
                self._fill(queue)
                yield picture
        finally:
            with queue.lock:
                queue.closed = True
                for _, fetched in queue.fetching:
                    fetched.cancel()
                for decoded in queue.decoding:
                    decoded.cancel()


def _bytes_held(decoded: Future[Picture]) -> int:
    if decoded.cancelled() or decoded.exception() is not None:
        return 0
    pixels = decoded.result().pixels
    return 0 if pixels is None else pixels.nbytes


@dataclass(frozen=True, slots=True)
class Fetched:
    """Bytes of one image, or the error in their place."""

    data: bytes | None
    sha256: str | None
    seconds: float
    error: Exception | None


@dataclass(frozen=True, slots=True)
class Picture:
    """One image ready for the detector, or failed before it: then `pixels` is None and `row` says why."""

    row: ImageRow
    pixels: Pixels | None
    frame: Frame | None = None


def _fetch(ref: ImageRef, reading: Reading) -> Fetched:
    start = time.perf_counter()
    try:
        data = fetch(ref, reading.storage, reading.decoding.max_bytes)
    except CredentialsError:
        raise  # every other image would meet the same: that is the run's failure
    except Exception as error:  # noqa: BLE001 - the per-image boundary: whatever a store does becomes this image's row
        return Fetched(None, None, time.perf_counter() - start, error)
    return Fetched(data, hashlib.sha256(data).hexdigest(), time.perf_counter() - start, None)


def _decode(ref: ImageRef, future: Future[Fetched], reading: Reading) -> Picture:
    fetched = future.result()
    row = ImageRow(
        image_id=ref.image_id,
        uri=ref.uri,
        file_name=ref.file_name,
        detector=reading.detector,
        model_version=reading.model_version,
        bytes=None if fetched.data is None else len(fetched.data),
        sha256=fetched.sha256,
        seconds={"read": fetched.seconds},
    )
    if fetched.data is None:
        return Picture(failed(row, fetched.error or EOFError(), "read"), None)
    start = time.perf_counter()
    try:
        image: DecodedImage = decode(fetched.data, reading.decoding)
    except Exception as error:  # noqa: BLE001 - the per-image boundary: decoders meet hostile bytes
        return Picture(failed(row, error, "decode"), None)
    row = replace(
        row,
        height=image.height,
        width=image.width,
        exif_orientation=image.exif_orientation,
        browser_orientation=image.browser_orientation,
        frames=image.frames,
        seconds={**row.seconds, "decode": time.perf_counter() - start},
    )
    return Picture(row, image.pixels, Frame(image.height, image.width, image.window))


def failed(row: ImageRow, error: Exception, stage: str) -> ImageRow:
    """The row of an image that failed at a stage: class and message of the error, nothing found."""
    message = str(error) if isinstance(error, PrelabelError) else describe(error)
    return replace(row, error_type=type(error).__name__, error=message, error_stage=stage, detections=None)


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
    pictures = reader.read(ref for position, ref in enumerate(refs) if position not in kept)
    with turn or nullcontext():
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
