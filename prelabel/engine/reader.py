"""Read a worker's images ahead of its detector: downloads and decoding in threads, in plan order, within one budget.

refs (plan) -> download threads -> decoding threads -> whoever takes the pictures

A worker has two shards at a time: one that the detector runs, one that is read ahead. Both share the threads and the
budget, and the one whose pictures are being taken comes first: its next image is read and decoded whatever else is
held, and the other one never has more than half. A decoding thread never waits for a download.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from prelabel.detectors.base import Frame, Pixels
from prelabel.errors import CredentialsError, PrelabelError
from prelabel.image_ref import ImageRef
from prelabel.source.decode import DecodedImage, DecodeOptions, decode, decoded_bytes
from prelabel.source.fetch import SILENT_S, fetch
from prelabel.storage import Storage, describe
from prelabel.store.rows import ImageRow

#: Downloads of one shard under way at the same time: they wait for the network, not for a CPU.
FETCH_THREADS = 8

#: Encoded files, and decoded images, that a worker holds ahead of its detector, over all its shards.
FETCH_AHEAD = 24
DECODE_AHEAD = 4

#: Bytes of encoded and decoded images that a worker holds ahead of its detector, over all its shards; the image that
#: is needed next may come on top.
BUDGET_BYTES = 256 * 2**20

#: Bytes that a file is expected to have while no file tells better.
_USUAL_BYTES = 2**20


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


@dataclass(frozen=True, slots=True)
class Picture:
    """One image ready for the detector, or failed before it: then `pixels` is None and `row` says why."""

    row: ImageRow
    pixels: Pixels | None
    frame: Frame | None = None


class _Stage(Enum):
    FETCHING = auto()
    FETCHED = auto()
    DECODING = auto()
    READY = auto()


@dataclass(slots=True, eq=False)
class _Image:
    """An image on its way.

    Attributes:
        ref: Which one.
        encoded: Bytes of its file that are held, or expected.
        decoded: Bytes of its pixels that are held, or expected while it is being decoded.
        heard_at: When its download last made progress or began to try again.
        fetched: Its file, until it is decoded.
        picture: What it becomes.
        failure: An error that is not this image's alone; raised in its place.
    """

    ref: ImageRef
    encoded: int
    decoded: int = 0
    stage: _Stage = _Stage.FETCHING
    heard_at: float = field(default_factory=time.monotonic)
    fetched: _Fetched | None = None
    picture: Picture | None = None
    failure: Exception | None = None

    @property
    def is_encoded(self) -> bool:
        """Whether it is a file, or what stands in the place of one that could not be had; else it has pixels."""
        return self.stage in (_Stage.FETCHING, _Stage.FETCHED) or (self.stage is _Stage.READY and not self.decoded)


@dataclass(frozen=True, slots=True)
class _Fetched:
    """The bytes of one image, their row so far, and the bytes that their pixels will take."""

    data: bytes
    row: ImageRow
    decoded_bytes: int


class _Held:
    """What is held of several images: how many, how many of them as files, and bytes of files and in all."""

    __slots__ = ("bytes", "file_bytes", "files", "images")

    def __init__(self) -> None:
        self.images = self.files = self.file_bytes = self.bytes = 0

    def add(self, image: _Image, sign: int = 1) -> None:
        """One image more."""
        self.images += sign
        self.bytes += sign * (image.encoded + image.decoded)
        if image.is_encoded:
            self.files += sign
            self.file_bytes += sign * image.encoded

    def remove(self, image: _Image) -> None:
        """One image less, as it was added."""
        self.add(image, -1)


class Pictures:
    """The pictures of one shard, in order: an iterator, and a context that ends reading when it is left."""

    def __init__(self, reader: Reader, refs: Iterator[ImageRef]) -> None:
        self._reader = reader
        self._refs: Iterator[ImageRef] = refs
        self._next_ref: ImageRef | None = None
        self.images: deque[_Image] = deque()
        self.fetching = 0
        self.is_begun = False
        self.is_waited_for = False
        self.is_closed = False

    def __iter__(self) -> Pictures:
        return self

    def __next__(self) -> Picture:
        return self._reader.take(self)

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Begin nothing more; what is under way ends by itself and is dropped."""
        self._reader.drop(self)

    def peek(self) -> ImageRef | None:
        """The next image to be begun, or None behind the last. What listing them raises becomes a picture's failure."""
        if self._next_ref is None:
            try:
                self._next_ref = next(self._refs, None)
            except Exception as error:  # noqa: BLE001 - raised where the picture is taken, not in a reading thread
                self._refs = iter(())
                self.images.append(_Image(_NOBODY, 0, stage=_Stage.READY, failure=error))
        return self._next_ref

    def pop(self) -> None:
        """The image that `peek` showed is begun."""
        self._next_ref = None


class Reader:
    """Fetches and decodes images in threads, ahead of whoever takes them, in order, within bounds.

    Args:
        reading: How.
        decode_threads: Images decoded at the same time.
        budget_bytes: Bytes held ahead, encoded and decoded, over everything that is being read.

    Attributes:
        most_bytes: Most bytes that were held at any time.
    """

    def __init__(self, reading: Reading, decode_threads: int = 1, budget_bytes: int = BUDGET_BYTES) -> None:
        self.reading = reading
        self.most_bytes = 0
        self._budget = budget_bytes
        self._decode_threads = decode_threads
        self._decode_ahead = max(DECODE_AHEAD, 2 * decode_threads)
        # Enough for two shards, and for downloads of one that was broken off: none queues behind another's.
        self._fetchers = ThreadPoolExecutor(3 * FETCH_THREADS, "fetch")
        self._decoders = ThreadPoolExecutor(decode_threads, "decode")
        self._changed = threading.Condition()
        self._open: list[Pictures] = []
        self._images: dict[_Image, Pictures] = {}
        self._decoding = 0
        self._usual_bytes = _USUAL_BYTES

    def read(self, refs: Iterable[ImageRef]) -> Pictures:
        """One `Picture` for each image, in order. Reading begins at once, not when the first one is asked for."""
        pictures = Pictures(self, iter(refs))
        with self._changed:
            self._open.append(pictures)
            self._advance()
        return pictures

    def awaits_download(self) -> bool:
        """Whether somebody waits for an image whose download makes progress, or may still do so by trying again."""
        with self._changed:
            waited_for = [pictures.images[0] for pictures in self._open if pictures.is_waited_for and pictures.images]
            now = time.monotonic()
            return any(image.stage is _Stage.FETCHING and now - image.heard_at < SILENT_S for image in waited_for)

    def take(self, pictures: Pictures) -> Picture:
        """The next picture, as soon as it is there.

        Raises:
            StopIteration: There is none.
            CredentialsError: The store takes the credentials no longer.
        """
        with self._changed:
            pictures.is_begun = True
            self._advance()
            if not pictures.images:
                self.drop(pictures)
                raise StopIteration
            image = pictures.images[0]
            pictures.is_waited_for = True
            self._changed.wait_for(lambda: image.stage is _Stage.READY)
            pictures.is_waited_for = False
            pictures.images.popleft()
            self._images.pop(image, None)
            self._advance()
        if image.failure is not None:
            raise image.failure
        if image.picture is None:
            raise StopIteration
        return image.picture

    def drop(self, pictures: Pictures) -> None:
        """See `Pictures.close`."""
        with self._changed:
            if pictures.is_closed:
                return
            pictures.is_closed = True
            self._open.remove(pictures)
            for image in pictures.images:
                if image.stage in (_Stage.FETCHED, _Stage.READY):
                    self._images.pop(image, None)
            pictures.images.clear()
            self._advance()

    def _advance(self) -> None:
        """Begin what there is room for, with the lock held; what is being taken comes first, then what came first."""
        if not self._open:
            return
        ordered = sorted(self._open, key=lambda pictures: not pictures.is_begun)
        held, beside = _Held(), _Held()
        for image, pictures in self._images.items():
            held.add(image)
            if pictures is not ordered[0]:
                beside.add(image)
        for pictures in ordered:
            self._fetch_ahead(pictures, held, None if pictures is ordered[0] else beside)
        for pictures in ordered:
            self._decode_ready(pictures, held, None if pictures is ordered[0] else beside)
        self.most_bytes = max(self.most_bytes, held.bytes)

    def _fetch_ahead(self, pictures: Pictures, held: _Held, beside: _Held | None) -> None:
        while pictures.fetching < FETCH_THREADS and (ref := pictures.peek()) is not None:
            size = self._usual_bytes if ref.size is None else ref.size
            is_needed = pictures.is_begun and not pictures.images
            # Where nothing else is held an image may have any size.
            if not (is_needed or not held.images or self._has_room_for_file(size, held, beside)):
                return
            pictures.pop()
            image = _Image(ref, size)
            pictures.images.append(image)
            pictures.fetching += 1
            self._images[image] = pictures
            held.add(image)
            if beside is not None:
                beside.add(image)
            self._fetchers.submit(self._fetch, pictures, image)

    def _has_room_for_file(self, size: int, held: _Held, beside: _Held | None) -> bool:
        # Files have half of the room only: a worker that holds nothing else could decode nothing ahead.
        return (
            held.files < FETCH_AHEAD
            and held.file_bytes + size <= self._budget // 2
            and held.bytes + size <= self._budget
            and (
                beside is None
                or (
                    beside.files < FETCH_AHEAD // 2
                    and beside.file_bytes + size <= self._budget // 4
                    and beside.bytes + size <= self._budget // 2
                )
            )
        )

    def _decode_ready(self, pictures: Pictures, held: _Held, beside: _Held | None) -> None:
        for image in pictures.images:
            if self._decoding >= self._decode_threads:
                return
            if image.stage is not _Stage.FETCHED or image.fetched is None:
                continue
            size = image.fetched.decoded_bytes
            is_needed = pictures.is_begun and image is pictures.images[0]
            if is_needed or held.images == 1 or self._has_room_for_pixels(size, held, beside):
                held.remove(image)
                if beside is not None:
                    beside.remove(image)
                image.stage, image.decoded = _Stage.DECODING, size
                held.add(image)
                if beside is not None:
                    beside.add(image)
                self._decoding += 1
                self._decoders.submit(self._decode, pictures, image)

    def _has_room_for_pixels(self, size: int, held: _Held, beside: _Held | None) -> bool:
        return (
            held.images - held.files < self._decode_ahead
            and held.bytes + size <= self._budget
            and (
                beside is None
                or (beside.images - beside.files < self._decode_ahead // 2 and beside.bytes + size <= self._budget // 2)
            )
        )

    def _fetch(self, pictures: Pictures, image: _Image) -> None:
        """In a thread: download one image."""
        if pictures.is_closed:
            self._end_fetch(pictures, image, None)
            return

        def heard(held: int) -> None:
            if image.stage is _Stage.FETCHING:
                image.heard_at, image.encoded = time.monotonic(), max(image.encoded, held)

        try:
            result = _fetch(image.ref, self.reading, heard)
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits for this image must hear of it
            image.failure = error
            result = None
        self._end_fetch(pictures, image, result)

    def _end_fetch(self, pictures: Pictures, image: _Image, result: _Fetched | Picture | None) -> None:
        with self._changed:
            pictures.fetching -= 1
            if isinstance(result, _Fetched):
                image.stage, image.fetched, image.encoded = _Stage.FETCHED, result, len(result.data)
                self._usual_bytes += (image.encoded - self._usual_bytes) // 8
            else:
                image.stage, image.picture, image.encoded = _Stage.READY, result, 0
            self._arrived(pictures, image)

    def _decode(self, pictures: Pictures, image: _Image) -> None:
        """In a thread: decode one image, whose bytes are there."""
        fetched = image.fetched
        if fetched is not None and not pictures.is_closed:
            try:
                image.picture = _decode(fetched, self.reading)
            except Exception as error:  # noqa: BLE001 - as in `_fetch`
                image.failure = error
        with self._changed:
            self._decoding -= 1
            pixels = None if image.picture is None else image.picture.pixels
            image.stage, image.fetched, image.encoded = _Stage.READY, None, 0
            image.decoded = 0 if pixels is None else pixels.nbytes
            self._arrived(pictures, image)

    def _arrived(self, pictures: Pictures, image: _Image) -> None:
        if pictures.is_closed:
            self._images.pop(image, None)
        self._advance()
        self._changed.notify_all()


#: Stands in for an image that could not even be named.
_NOBODY = ImageRef("", "", "")


def _fetch(ref: ImageRef, reading: Reading, heard: Callable[[int], None]) -> _Fetched | Picture:
    """The bytes of one image, or its failed row."""
    row = ImageRow(
        image_id=ref.image_id,
        uri=ref.uri,
        file_name=ref.file_name,
        detector=reading.detector,
        model_version=reading.model_version,
    )
    start = time.perf_counter()
    try:
        data = fetch(ref, reading.storage, reading.decoding.max_bytes, on_bytes=heard)
    except CredentialsError:
        raise  # every other image would meet the same: no image is to blame
    except Exception as error:  # noqa: BLE001 - the per-image boundary: whatever a store does becomes this image's row
        return Picture(failed(replace(row, seconds={"read": time.perf_counter() - start}), error, "read"), None)
    seconds = time.perf_counter() - start
    row = replace(row, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), seconds={"read": seconds})
    return _Fetched(data, row, decoded_bytes(data, reading.decoding))


def _decode(fetched: _Fetched, reading: Reading) -> Picture:
    start = time.perf_counter()
    try:
        image: DecodedImage = decode(fetched.data, reading.decoding)
    except Exception as error:  # noqa: BLE001 - the per-image boundary: decoders meet hostile bytes
        return Picture(failed(fetched.row, error, "decode"), None)
    row = replace(
        fetched.row,
        height=image.height,
        width=image.width,
        exif_orientation=image.exif_orientation,
        browser_orientation=image.browser_orientation,
        frames=image.frames,
        seconds={**fetched.row.seconds, "decode": time.perf_counter() - start},
    )
    return Picture(row, image.pixels, Frame(image.height, image.width, image.window))


def failed(row: ImageRow, error: Exception, stage: str) -> ImageRow:
    """The row of an image that failed at a stage: class and message of the error, nothing found."""
    message = str(error) if isinstance(error, PrelabelError) else describe(error)
    return replace(row, error_type=type(error).__name__, error=message, error_stage=stage, detections=None)
