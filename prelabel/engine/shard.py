"""Label one shard: fetch its images, decode them, run the detector, and publish the rows as one file.

refs (plan) -> fetch_image, decode_image (a `Reader`'s threads) -> label_images (the detector's threads) -> publish

Plain functions without Ray. An image that fails at any stage becomes a row with its error.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prelabel.detectors.base import DetectionResult, Frame, FrameDetector, Pixels
from prelabel.engine.schedule import FailureCause, Keep, LabelTask
from prelabel.errors import CredentialsError, PrelabelError
from prelabel.image_ref import ImageRef
from prelabel.source.archives.reader import ArchiveReader
from prelabel.source.decode import DecodedImage, DecodeOptions, decode, decoded_bytes
from prelabel.source.fetch import fetch
from prelabel.storage.address import describe
from prelabel.storage.files import Storage
from prelabel.store.kept_rows import KeptRows, read_kept_rows
from prelabel.store.lock import require_held
from prelabel.store.plan import Plan
from prelabel.store.rows import GONE, ImageRow
from prelabel.store.shards import ShardRecord, write_shard

if TYPE_CHECKING:
    from prelabel.engine.reader import Reader
    from prelabel.engine.worker import WorkerSpec

#: An image that is decoded at reduced size keeps at least this many times the detector's input size. The detector
#: resizes the image itself, and with fewer pixels it would have to interpolate.
DECODE_MARGIN = 2

#: The cause of the failed row of an image that is no longer in the source (`--gone fail`).
_NO_LONGER_THERE = FailureCause(GONE, "no longer in the source")

#: The images that the detector is given or that wait for it in batches have about this many bytes of pixels at most.
_BATCH_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """How images are fetched and decoded.

    Attributes:
        storage: Opens the source.
        decoding: Limits and rules of the decoder.
        detector: Name of the detector, for the rows.
        model_version: Version of the model, for the rows.
    """

    storage: Storage
    decoding: DecodeOptions
    detector: str
    model_version: str


def read_settings(spec: WorkerSpec, storage: Storage, working_size: int | None = None) -> ReadSettings:
    """Return how the images of a run are fetched and decoded.

    Args:
        spec: Settings of the worker.
        storage: Opens the source.
        working_size: Pixels of the shorter side of the detector's input; None if unknown.
    """
    options = spec.options
    reduced_for = working_size if options.decode_scale == "auto" else None
    if reduced_for and options.view_options.has_tiles:
        # A tile must have as many pixels as a whole image without tiles has; tiles of fixed size need all pixels.
        share = options.view_options.tile_share
        reduced_for = math.ceil(reduced_for / share) if share else None
    decoding = DecodeOptions(
        max_pixels=options.max_pixels,
        max_bytes=options.max_bytes,
        allow_truncated=options.allow_truncated,
        shortest_side=DECODE_MARGIN * reduced_for if reduced_for else None,
    )
    return ReadSettings(storage, decoding, spec.detector.name, spec.detector.model_version)


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image that is ready for the detector. If it failed, `pixels` is None and `row` holds the error."""

    row: ImageRow
    pixels: Pixels | None
    frame: Frame | None = None


@dataclass(frozen=True, slots=True)
class FetchedImage:
    """The file of one image, its row so far, and the bytes that its pixels will take."""

    data: bytes
    row: ImageRow
    decoded_bytes: int


def fetch_image(
    ref: ImageRef, settings: ReadSettings, on_bytes: Callable[[int], None], archives: ArchiveReader | None
) -> FetchedImage | LoadedImage:
    """Fetch the file of one image, or return its failed row.

    Args:
        ref: The image.
        settings: How images are fetched.
        on_bytes: Called with the bytes received so far.
        archives: Reads the images of a shard that lie in archives, one after another; None if there are none.
    """
    start = time.perf_counter()
    try:
        data = fetch(ref, settings.storage, settings.decoding.max_bytes, on_bytes=on_bytes, archives=archives)
    except CredentialsError:
        raise  # concerns all images, not this one
    except Exception as error:  # noqa: BLE001 - per-image boundary: any storage error becomes a row
        row = _row_of(ref, settings, seconds={"read": time.perf_counter() - start})
        return LoadedImage(failed_row(row, error, "read"), None)
    seconds = {"read": time.perf_counter() - start}
    row = _row_of(ref, settings, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), seconds=seconds)
    return FetchedImage(data, row, decoded_bytes(data, settings.decoding))


def decode_image(fetched: FetchedImage, settings: ReadSettings) -> LoadedImage:
    """Decode one image, or return its failed row."""
    start = time.perf_counter()
    try:
        image: DecodedImage = decode(fetched.data, settings.decoding)
    except Exception as error:  # noqa: BLE001 - per-image boundary: decoders read hostile bytes
        return LoadedImage(failed_row(fetched.row, error, "decode"), None)
    row = replace(
        fetched.row,
        height=image.height,
        width=image.width,
        exif_orientation=image.exif_orientation,
        browser_orientation=image.browser_orientation,
        frames=image.frames,
        seconds={**fetched.row.seconds, "decode": time.perf_counter() - start},
    )
    return LoadedImage(row, image.pixels, Frame(image.height, image.width, image.window))


def label_images(
    images: Iterable[LoadedImage],
    detector: FrameDetector,
    on_image: Callable[[ImageRow], None] = lambda row: None,
    streams: int = 1,
) -> Generator[ImageRow]:
    """Yield the rows of images, in order, with the detector's result or with the error.

    Args:
        images: As for `label_batches`.
        detector: As for `label_batches`.
        on_image: Called with each row, for progress, in this thread.
        streams: As for `label_batches`.
    """
    for rows in label_batches(images, detector, streams):
        for row in rows:
            on_image(row)
            yield row


def label_batches(
    images: Iterable[LoadedImage], detector: FrameDetector, streams: int = 1
) -> Generator[Iterable[ImageRow]]:
    """Yield the rows of one batch of images after the other, in order.

    The pixels of all batches under way have about `_BATCH_BYTES` at most: one image of each stream may exceed it.

    Args:
        images: Loaded images, from a `Reader`; they are taken in this thread.
        detector: Receives batches of up to its `batch_size` images, fewer if they are large.
        streams: The detector is called for so many batches at the same time, if there is more than one.
    """
    remaining = iter(images)
    return _by_batch(remaining, detector) if streams == 1 else _by_stream(remaining, detector, streams)


def _by_batch(images: Iterator[LoadedImage], detector: FrameDetector) -> Generator[Iterable[ImageRow]]:
    while batch := _next_batch(images, detector.batch_size, _BATCH_BYTES):
        yield _label_batch(batch, detector)


def _by_stream(images: Iterator[LoadedImage], detector: FrameDetector, streams: int) -> Generator[Iterable[ImageRow]]:
    """The rows of one batch after the other; the batches behind it are labeled meanwhile.

    At its end, even an early one, the detector runs no more.
    """
    under_way: deque[tuple[Future[list[ImageRow]], int]] = deque()

    def may_add() -> bool:
        # As many wait as are run, so that no stream waits for the slowest one, whose rows come first. Rows that are
        # done do not wait for the next image to be read.
        if len(under_way) == 2 * streams or (under_way and under_way[0][0].done()):
            return False
        in_memory = [size for future, size in under_way if not future.done()]
        return len(in_memory) < streams or sum(in_memory) < _BATCH_BYTES

    pool = ThreadPoolExecutor(streams, "stream")
    try:
        while True:
            while may_add() and (batch := _next_batch(images, detector.batch_size, _BATCH_BYTES // streams)):
                under_way.append((pool.submit(_rows_of_batch, batch, detector), sum(map(_pixel_bytes, batch))))
                del batch  # the pool lets go of the pixels when they are labeled
            if not under_way:
                return
            yield under_way.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)


def _rows_of_batch(batch: Sequence[LoadedImage], detector: FrameDetector) -> list[ImageRow]:
    return list(_label_batch(batch, detector))


def _next_batch(images: Iterator[LoadedImage], size: int, most_bytes: int) -> list[LoadedImage]:
    """Up to `size` images; fewer if they have `most_bytes` of pixels, which the last of them may exceed."""
    batch: list[LoadedImage] = []
    total = 0
    while len(batch) < size and total < most_bytes and (image := next(images, None)) is not None:
        batch.append(image)
        total += _pixel_bytes(image)
    return batch


def _pixel_bytes(image: LoadedImage) -> int:
    return 0 if image.pixels is None else image.pixels.nbytes


def _label_batch(batch: Sequence[LoadedImage], detector: FrameDetector) -> Iterator[ImageRow]:
    pixels = [image.pixels for image in batch if image.pixels is not None]
    frames = [image.frame for image in batch if image.frame is not None]
    start = time.perf_counter()
    try:
        results = iter(detector.detect_in(pixels, frames)) if pixels else iter(())
    except Exception as error:  # noqa: BLE001 - per-image boundary: TensorFlow raises dozens of classes
        if len(pixels) > 1:  # run the images one by one, so that only the one that causes the error fails
            for image in batch:
                yield from _label_batch([image], detector)
            return
        for image in batch:
            yield image.row if image.pixels is None else failed_row(image.row, error, "detect")
        return
    seconds = (time.perf_counter() - start) / max(1, len(pixels))
    for image in batch:
        yield image.row if image.pixels is None else _with_result(image.row, next(results), seconds)


def _with_result(row: ImageRow, result: DetectionResult, seconds: float) -> ImageRow:
    stages: Mapping[str, float] = result.seconds or {"detect": seconds}
    return replace(
        row,
        detections=result.detections,
        image_labels=result.image_labels,
        dropped=result.dropped,
        views_shown=result.views,
        seconds={**row.seconds, **stages},
    )


def label_shard(
    refs: Sequence[ImageRef],
    reader: Reader,
    detector: FrameDetector,
    *,
    set_aside: Mapping[int, FailureCause] | None = None,
    done: Collection[str] = (),
    turn: AbstractContextManager[object] | None = None,
    on_image: Callable[[ImageRow], None] = lambda row: None,
    streams: int = 1,
) -> list[ImageRow]:
    """Label a shard and return its new rows, in plan order.

    Args:
        refs: The shard's images, in plan order.
        reader: Fetches and decodes them; it begins before `turn` is acquired.
        detector: A loaded detector.
        set_aside: Images that must not be read, by position, with the cause: they become failed rows.
        done: Ids of images that already have their row: they get no new one.
        turn: Lock held while the detector runs, so that a worker can read its next shard meanwhile.
        on_image: Called with each new row.
        streams: See `label_images`.
    """
    to_do = [position for position, ref in enumerate(refs) if ref.image_id not in done]
    unread = unread_rows(refs, reader.settings, set_aside or {}, to_do)
    to_read = [refs[position] for position in to_do if position not in unread]
    # Closed before the turn ends: then no stream runs the detector any more.
    with (
        reader.read(to_read) as images,
        turn or nullcontext(),
        closing(label_images(images, detector, on_image, streams)) as labeled,
    ):
        return [unread[position] if position in unread else next(labeled) for position in to_do]


def unread_rows(
    refs: Sequence[ImageRef], settings: ReadSettings, set_aside: Mapping[int, FailureCause], positions: Iterable[int]
) -> dict[int, ImageRow]:
    """Return the failed rows of those images, by position, that are not read: they are gone, or were set aside."""
    causes = {
        position: _NO_LONGER_THERE if refs[position].is_gone else set_aside.get(position) for position in positions
    }
    return {position: _unread_row(refs[position], settings, cause) for position, cause in causes.items() if cause}


def failed_row(row: ImageRow, error: Exception, stage: str) -> ImageRow:
    """Return the row of an image that failed at a stage, with the class and the message of the error."""
    message = str(error) if isinstance(error, PrelabelError) else describe(error)
    return replace(row, error_type=type(error).__name__, error=message, error_stage=stage, detections=None)


def _unread_row(ref: ImageRef, settings: ReadSettings, cause: FailureCause) -> ImageRow:
    stage = "list" if cause is _NO_LONGER_THERE else "worker"
    return _row_of(ref, settings, error_type=cause.error_type, error=cause.error, error_stage=stage)


def _row_of(ref: ImageRef, settings: ReadSettings, **known: Any) -> ImageRow:
    """Return the row of an image with the values of the plan, and with those that are known by now."""
    return ImageRow(
        image_id=ref.image_id,
        uri=ref.uri,
        file_name=ref.file_name,
        detector=settings.detector,
        model_version=settings.model_version,
        location=ref.location,
        revision=ref.revision,
        **known,
    )


def kept_rows(spec: WorkerSpec, storage: Storage, task: LabelTask, refs: Sequence[ImageRef]) -> KeptRows:
    """Read the rows that a task keeps. Raises StoreError if the shard's existing file cannot be read."""
    if task.keep is Keep.NOTHING:
        return KeptRows()
    return read_kept_rows(spec.options.output, storage, task.shard, refs, only_ok=task.keep is Keep.OK)


def publish(
    rows: list[ImageRow], spec: WorkerSpec, storage: Storage, shard: int, kept: KeptRows, refs: Sequence[ImageRef]
) -> ShardRecord:
    """Write a shard's file, unless another job has taken over the output.

    Args:
        rows: The new rows.
        spec: Settings of the worker.
        storage: Opens the output.
        shard: Number of the shard.
        kept: The rows of the existing file that are kept.
        refs: All images of the shard, in plan order.

    Raises:
        OutputInUseError: Another job has taken over, since this process's job was considered dead.
        StoreError: The file cannot be written.
    """
    require_held(spec.options.output, storage, spec.owner)
    return write_shard(
        rows,
        spec.options.output,
        storage,
        shard=shard,
        run_id=spec.run_id,
        kept=kept.table,
        image_ids=[ref.image_id for ref in refs],
    )


def publish_unlabeled(task: LabelTask, spec: WorkerSpec, storage: Storage, plan: Plan) -> ShardRecord:
    """Write a shard without a detector: images that are gone, or that were set aside, become failed rows.

    It is for shards that lost images, and for those that were given up. All other images must have rows to keep.
    """
    refs = plan.read(task.shard)
    kept = kept_rows(spec, storage, task, refs)
    to_do = [position for position, ref in enumerate(refs) if ref.image_id not in kept.image_ids]
    rows = unread_rows(refs, read_settings(spec, storage), task.set_aside, to_do)
    return publish(list(rows.values()), spec, storage, task.shard, kept, refs)
