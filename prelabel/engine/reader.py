"""Read images ahead of the detector: download and decode them in threads, in plan order, within a memory budget.

refs (plan) -> download threads -> decoding threads -> the detector's thread

A worker has a few shards at a time: the one that the detector runs, and mostly one that is read ahead. They share the
threads and the budget. The shard that the detector runs has priority: its next image is always read and decoded, and
the others use at most half of the budget. A decoding thread never waits for a download. If the next shard goes on in
the same archive, it is read behind the first with the same request.

There are as many downloads at a time as the detector needs to find the next image there, see `downloads_needed`, but
from the first ones on no more than storage serves, see `_DownloadLimit`.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum, auto

from prelabel.engine.shard import FetchedImage, LoadedImage, ReadSettings, decode_image, fetch_image
from prelabel.image_ref import ImageRef
from prelabel.source.archives.reader import ArchiveReader, reads_on
from prelabel.source.fetch import SILENT_S

#: Limits on the simultaneous downloads of a worker; they wait for the network, not for a CPU. `FIRST_DOWNLOADS` begin
#: before the latency is known, if sizes are.
LEAST_DOWNLOADS, FIRST_DOWNLOADS, MOST_DOWNLOADS = 8, 16, 64

#: Limits on the files that are not being decoded yet (beyond as many as there may be downloads), and on the decoded
#: images that a worker holds ahead of its detector, over all its shards.
FETCH_AHEAD = 16
DECODE_AHEAD = 4

#: Limit on the bytes of encoded and decoded images that a worker holds ahead of its detector, over all its shards. The
#: image that the detector needs next may exceed it, and so may `LEAST_DOWNLOADS` files of unknown size. Further files
#: of unknown size count as the largest of the last `_LATEST_SIZES`: only if larger ones follow, they exceed it, too.
#: Before any size is known, they wait.
BUDGET_BYTES = 256 * 2**20

#: Expected bytes of a file of unknown size, before any file was read.
_TYPICAL_BYTES = 2**20

#: Expected seconds of the detector per image, before it has taken any.
_TYPICAL_IMAGE_S = 0.02

#: The last so many downloads count for their mean duration, and the last so many images for the detector's time.
_LATEST_DOWNLOADS, _LATEST_IMAGES = 8, 32

#: The last so many files count for the largest expected size of others.
_LATEST_SIZES = 64

#: Rounds in which the number of downloads is not raised after storage had served no more, see `_DownloadLimit`.
_ROUNDS_HELD = 8


def images_during_two_downloads(latency_s: float, image_s: float, running: int = 1) -> float:
    """Return how many images a detector takes during two downloads: so early, an image should be requested.

    While one image is being downloaded, the detector takes `latency_s / image_s` others. This is twice as many, since
    some downloads take longer than others, and since up to half of them are of the next shards.

    Args:
        latency_s: Mean seconds of a download that succeeds at its first attempt.
        image_s: Mean seconds between two images that a shard's detector takes, without its waiting for them.
        running: Number of shards that are being run at the same time.
    """
    return 2 * latency_s * max(1, running) / max(image_s, 1e-6)


def downloads_needed(images_ahead: float) -> int:
    """Return how many downloads a worker should have under way, so that its detector does not wait for images.

    >>> [downloads_needed(images_during_two_downloads(latency_s, 0.025)) for latency_s in (0.001, 0.02, 0.2, 0.5, 5.0)]
    [8, 8, 16, 40, 64]
    """
    return max(LEAST_DOWNLOADS, math.ceil(min(images_ahead, MOST_DOWNLOADS)))


class _DownloadLimit:
    """How many downloads storage serves at a time, found out by trying.

    A round is as many finished downloads as there may be at a time; the first is half as long. While the detector needs
    more, the limit doubles after each round. A raise is taken back, for `_ROUNDS_HELD` rounds, if the detector still
    does not get enough and downloads finish less than half as much faster as there are more of them: then they only
    queue. The limit is halved if an eighth of a round's downloads had to be retried, since storage may be throttling:
    fewer may be chance. Those begun before that do not halve it again.

    Attributes:
        downloads: The limit.
    """

    def __init__(self) -> None:
        self.downloads = FIRST_DOWNLOADS
        self._held = 0
        self._before_raise: tuple[int, float] | None = None
        self._halved_at = self._round_began_at = -math.inf
        self._finished = self._retried = 0

    def retried(self, begun_at: float, now: float) -> None:
        """Count a download that needed more than one attempt. Times are monotonic seconds."""
        if begun_at < self._halved_at:
            return
        self._retried += 1
        if 8 * self._retried >= self.downloads:
            self.downloads, self._halved_at = max(LEAST_DOWNLOADS, self.downloads // 2), now
            self._held, self._before_raise = _ROUNDS_HELD, None
            self.begin_round(now)

    def finished(self, now: float, seconds: float, needed: int, detector_rate: float) -> None:
        """Count a download that succeeded at its first attempt, while about as many as possible were under way.

        Args:
            now: The time, in monotonic seconds.
            seconds: How long it took.
            needed: See `downloads_needed`.
            detector_rate: Images per second that the detector would take.
        """
        self._finished += 1
        if self.is_first_round:
            # Those of known size were begun together: half of them have taken at most as long as this one.
            if self._finished >= self.downloads // 2:
                self._raise_to(needed, self.downloads / max(seconds, 1e-6))
                self.begin_round(now)
            return
        if self._finished < self.downloads:
            return
        rate = self._finished / max(now - self._round_began_at, 1e-6)
        before, self._before_raise = self._before_raise, None
        if before is not None and rate < min(0.9 * detector_rate, before[1] * (1 + self.downloads / before[0]) / 2):
            self.downloads, self._held = before[0], _ROUNDS_HELD
        elif self._held:
            self._held -= 1
        else:
            self._raise_to(needed, rate)
        self.begin_round(now)

    @property
    def is_first_round(self) -> bool:
        """Whether too few downloads have finished to tell anything about storage."""
        return self._round_began_at == -math.inf

    def _raise_to(self, needed: int, rate: float) -> None:
        """Raise the limit to what is needed, at most to twice as much, and note the rate before."""
        if needed > self.downloads:
            self._before_raise = self.downloads, rate
            self.downloads = min(needed, 2 * self.downloads)

    def begin_round(self, now: float) -> None:
        """Begin to count again: fewer downloads than possible tell nothing about storage."""
        self._finished, self._retried, self._round_began_at = 0, 0, now


class _Stage(Enum):
    FETCHING = auto()
    FETCHED = auto()
    DECODING = auto()
    READY = auto()


@dataclass(slots=True, eq=False)
class _Image:
    """An image that is being read. Its stage and bytes change only while it is not counted (`Reader._release`).

    Attributes:
        ref: The image in the plan.
        encoded: Bytes of its file as they are counted, in memory or expected.
        decoded: Bytes of its pixels, in memory or expected while it is being decoded.
        stage: The stage that it has reached.
        begun_at: When its download was begun (monotonic).
        progress_at: When its download last made progress or began a retry (monotonic).
        attempts: Number of attempts to download it so far.
        fetched: Its file, until it is decoded.
        loaded: The result.
        failure: An error that concerns other images, too; raised in place of the result.
    """

    ref: ImageRef
    encoded: int
    decoded: int = 0
    stage: _Stage = _Stage.FETCHING
    begun_at: float = field(default_factory=time.monotonic)
    progress_at: float = field(default_factory=time.monotonic)
    attempts: int = 0
    fetched: FetchedImage | None = None
    loaded: LoadedImage | None = None
    failure: Exception | None = None

    @property
    def is_encoded(self) -> bool:
        """Whether it is in memory as a file, or failed without pixels; otherwise as pixels."""
        return self.stage in (_Stage.FETCHING, _Stage.FETCHED) or (self.stage is _Stage.READY and not self.decoded)


@dataclass(slots=True)
class _Held:
    """The images of a group in memory: how many, how many of them as files, and their bytes."""

    images: int = 0
    files: int = 0
    file_bytes: int = 0
    bytes: int = 0

    def add(self, image: _Image, sign: int = 1) -> None:
        """Add an image, or with `sign=-1` remove one that is as it was when it was added."""
        self.images += sign
        self.bytes += sign * (image.encoded + image.decoded)
        if image.is_encoded:
            self.files += sign
            self.file_bytes += sign * image.encoded

    def without(self, part: _Held) -> _Held:
        """Return the group without a part of it."""
        return _Held(
            self.images - part.images,
            self.files - part.files,
            self.file_bytes - part.file_bytes,
            self.bytes - part.bytes,
        )


@dataclass(frozen=True, slots=True)
class _Limits:
    """Limits on the images that a group has in memory: files, decoded images, and the bytes of both."""

    files: int
    decoded: int
    bytes: int

    def half(self) -> _Limits:
        """Return half of each limit."""
        return _Limits(self.files // 2, self.decoded // 2, self.bytes // 2)

    def allows_file(self, held: _Held, size: int) -> bool:
        """Whether a file of `size` bytes may be added."""
        # Files may use half of the bytes only: otherwise nothing could be decoded ahead.
        fits_half = held.file_bytes + size <= self.bytes // 2
        return held.files < self.files and fits_half and held.bytes + size <= self.bytes

    def allows_pixels(self, held: _Held, size: int) -> bool:
        """Whether a decoded image of `size` bytes may be added."""
        return held.images - held.files < self.decoded and held.bytes + size <= self.bytes


class ImageStream:
    """The loaded images of one shard, in order: an iterator, and a context manager that ends reading on exit.

    Attributes:
        images: Images that are being read or waiting to be taken, in order.
        held: Its images in memory, also those that are still being read after its end.
        last: The last image of the shard, if it is known.
        archives: Reads the images that lie in archives, one at a time, since they follow each other; None before the
            first of them and after the last.
        fetching: Number of downloads under way.
        reads_archive: Whether one of them is of an image in an archive.
        is_begun: Whether an image has been requested.
        taken_at: When an image was last taken (monotonic), or None.
        is_waited_for: Whether a thread is waiting for the first of `images`.
        is_closed: Whether reading has ended.
    """

    def __init__(self, reader: Reader, refs: Iterable[ImageRef]) -> None:
        self._reader = reader
        self._refs: Iterator[ImageRef] = iter(refs)
        self.last = refs[-1] if isinstance(refs, Sequence) and refs else None
        self._next_ref: ImageRef | None = None
        self.images: deque[_Image] = deque()
        self.held = _Held()
        self.archives: ArchiveReader | None = None
        self.fetching = 0
        self.reads_archive = False
        self.is_begun = False
        self.taken_at: float | None = None
        self.is_waited_for = False
        self.is_closed = False

    def __iter__(self) -> ImageStream:
        return self

    def __next__(self) -> LoadedImage:
        return self._reader.take(self)

    def __enter__(self) -> ImageStream:
        return self

    def __exit__(self, *exc: object) -> None:
        """Begin no more images; downloads under way end by themselves, and their results are dropped."""
        self._reader.drop(self)

    def peek(self) -> ImageRef | None:
        """Return the next image to be read, or None after the last.

        An error of the iterator of images becomes the failure of an image, which is raised where it is taken.
        """
        if self._next_ref is None:
            try:
                self._next_ref = next(self._refs, None)
            except Exception as error:  # noqa: BLE001 - raised where the image is taken, not in a reading thread
                self._refs = iter(())
                placeholder = ImageRef("", "", "")
                self.images.append(_Image(placeholder, 0, stage=_Stage.READY, failure=error))
        return self._next_ref

    def pop(self) -> None:
        """Remove the image that `peek` returned."""
        self._next_ref = None


class Reader:
    """Fetches and decodes images in threads, in order, ahead of the detector and within a budget.

    Args:
        settings: How images are fetched and decoded.
        decode_threads: Number of images decoded at the same time.
        budget_bytes: Limit on the bytes held ahead, encoded and decoded, over all streams.

    Attributes:
        most_bytes: Largest number of bytes held at any time.
    """

    def __init__(self, settings: ReadSettings, decode_threads: int = 1, budget_bytes: int = BUDGET_BYTES) -> None:
        self.settings = settings
        self.most_bytes = 0
        self._budget_bytes = budget_bytes
        self._decode_threads = decode_threads
        self._decode_ahead = max(DECODE_AHEAD, 2 * decode_threads)
        # Enough for the remaining downloads of an aborted shard as well, so that no shard waits for another's. A thread
        # is started only when there are more downloads than threads.
        self._fetchers = ThreadPoolExecutor(2 * MOST_DOWNLOADS, "fetch")
        self._decoders = ThreadPoolExecutor(decode_threads, "decode")
        self._changed = threading.Condition()
        self._open: list[ImageStream] = []
        self._images: dict[_Image, ImageStream] = {}
        self._held = _Held()
        # Bytes received of files that are larger than counted, filled without the lock.
        self._grown: dict[_Image, int] = {}
        self._decoding = 0
        self._spare: tuple[ImageRef, ArchiveReader] | None = None
        self._typical_bytes = _TYPICAL_BYTES
        self._latest_sizes: deque[int] = deque(maxlen=_LATEST_SIZES)
        self._limit = _DownloadLimit()
        self._latency_s: float | None = None
        self._image_s = _TYPICAL_IMAGE_S

    def read(self, refs: Iterable[ImageRef]) -> ImageStream:
        """Return a stream with a `LoadedImage` per image, in order. Reading begins immediately."""
        stream = ImageStream(self, refs)
        with self._changed:
            self._open.append(stream)
            self._advance()
        return stream

    def awaits_download(self) -> bool:
        """Whether the detector waits for an image whose download is making progress or may still be retried."""
        with self._changed:
            waited_for = [stream.images[0] for stream in self._open if stream.is_waited_for and stream.images]
            now = time.monotonic()
            return any(image.stage is _Stage.FETCHING and now - image.progress_at < SILENT_S for image in waited_for)

    def take(self, stream: ImageStream) -> LoadedImage:
        """Wait for the next image of a stream and return it.

        Raises:
            StopIteration: The stream has no more images.
            CredentialsError: The storage no longer accepts the credentials.
        """
        with self._changed:
            if stream.taken_at is not None:
                self._image_s += (time.monotonic() - stream.taken_at - self._image_s) / _LATEST_IMAGES
            if not (stream.is_begun and stream.images):  # otherwise all that can be begun has been
                stream.is_begun = True
                self._advance()
            if not stream.images:
                self.drop(stream)
                raise StopIteration
            image = stream.images[0]
            stream.is_waited_for = True
            self._changed.wait_for(lambda: image.stage is _Stage.READY)
            stream.is_waited_for, stream.taken_at = False, time.monotonic()
            stream.images.popleft()
            self._release(image)
            self._advance()
        if image.failure is not None:
            raise image.failure
        if image.loaded is None:
            raise StopIteration
        return image.loaded

    def drop(self, stream: ImageStream) -> None:
        """End a stream, see `ImageStream.__exit__`. A second call does nothing."""
        with self._changed:
            if stream.is_closed:
                return
            stream.is_closed = True
            self._open.remove(stream)
            for image in stream.images:
                if image.stage in (_Stage.FETCHED, _Stage.READY):
                    self._release(image)
            stream.images.clear()
            if stream.archives is not None and not stream.reads_archive:
                self._fetchers.submit(stream.archives.close)
            self._advance()

    def _advance(self) -> None:
        """Begin the downloads and decodings that the budget allows. Call it with the lock held.

        The stream that the detector takes images from comes first, then the oldest.
        """
        self._count_grown()
        if not self._open:
            return
        ordered = sorted(self._open, key=lambda stream: not stream.is_begun)
        first = ordered[0]
        downloads = min(self._limit.downloads, self._downloads_needed())
        limits = _Limits(downloads + FETCH_AHEAD, self._decode_ahead, self._budget_bytes)
        for stream in ordered:
            # What the first stream does not need is for the others, up to half: slow downloads of theirs leave it the
            # other half.
            others_fetching = sum(other.fetching for other in ordered if other is not first)
            most = (
                downloads - min(others_fetching, downloads // 2)
                if stream is first
                else stream.fetching + min(downloads // 2, downloads - first.fetching) - others_fetching
            )
            self._fetch_ahead(stream, most, limits, first)
        for stream in ordered:
            self._decode_ready(stream, limits, first)

    def _hold(self, stream: ImageStream, image: _Image) -> None:
        """Count an image of a stream as one in memory."""
        self._images[image] = stream
        self._held.add(image)
        stream.held.add(image)
        self.most_bytes = max(self.most_bytes, self._held.bytes)

    def _release(self, image: _Image) -> None:
        """Count an image no longer, if it is counted."""
        stream = self._images.pop(image, None)
        if stream is not None:
            self._held.add(image, -1)
            stream.held.add(image, -1)

    def _count_grown(self) -> None:
        """Count the bytes of the files under way that are larger than was expected."""
        while self._grown:
            image, received = self._grown.popitem()
            if image.stage is _Stage.FETCHING:
                stream = self._images[image]
                self._release(image)
                image.encoded = received
                self._hold(stream, image)

    def _allows(
        self,
        allows: Callable[[_Limits, _Held, int], bool],
        size: int,
        limits: _Limits,
        stream: ImageStream,
        first: ImageStream,
    ) -> bool:
        """Whether the limits allow a stream `size` bytes, and half of them all streams other than `first`."""
        return allows(limits, self._held, size) and (
            stream is first or allows(limits.half(), self._held.without(first.held), size)
        )

    def _fetch_ahead(self, stream: ImageStream, most: int, limits: _Limits, first: ImageStream) -> None:
        """Begin downloads of a stream, up to `most` at a time; one that the detector waits for in any case."""
        while (ref := stream.peek()) is not None:
            is_needed = stream.is_begun and not stream.images
            if stream.fetching >= most and not is_needed:
                return
            if ref.location is not None and (stream.reads_archive or not self._has_archives(stream, ref, is_needed)):
                return
            size = self._expected_bytes() if ref.size is None else ref.size
            # An image may have any size if no other is in memory.
            is_alone = not self._held.images
            if not (is_needed or is_alone or self._allows(_Limits.allows_file, size, limits, stream, first)):
                return
            stream.pop()
            image = _Image(ref, size)
            stream.images.append(image)
            stream.fetching += 1
            stream.reads_archive |= ref.location is not None
            self._hold(stream, image)
            self._fetchers.submit(self._fetch, stream, image)

    def _expected_bytes(self) -> int:
        """Bytes that the next file of unknown size counts as; see `BUDGET_BYTES`."""
        fetching = sum(image.stage is _Stage.FETCHING and image.ref.size is None for image in self._images)
        if fetching < LEAST_DOWNLOADS:
            return self._typical_bytes
        return max(self._latest_sizes, default=self._budget_bytes)

    def _has_archives(self, stream: ImageStream, ref: ImageRef, is_needed: bool) -> bool:
        """Whether a stream can read an image in an archive now.

        If another stream ends shortly before the image, this one waits for its end and reads on with the open request.
        So the images of an archive cost one request and one latency, however many shards there are. An image that the
        detector waits for does not wait for another stream.
        """
        if stream.archives is not None:
            return True
        others = (other for other in self._open if other is not stream and (other.peek() or other.reads_archive))
        if not is_needed and any(other.last is not None and reads_on(other.last, ref) for other in others):
            return False
        if self._spare is not None and reads_on(self._spare[0], ref):
            stream.archives, self._spare = self._spare[1], None
        else:
            stream.archives = ArchiveReader(self.settings.storage)
        return True

    def _spare_archives(self, stream: ImageStream, ref: ImageRef) -> None:
        """Keep the open archive of a stream that has read its last image, for a stream that reads on behind it."""
        if self._spare is not None:
            self._fetchers.submit(self._spare[1].close)
        if stream.archives is not None:
            self._spare, stream.archives = (ref, stream.archives), None

    def _decode_ready(self, stream: ImageStream, limits: _Limits, first: ImageStream) -> None:
        for image in stream.images:
            if self._decoding >= self._decode_threads:
                return
            if image.stage is not _Stage.FETCHED or image.fetched is None:
                continue
            size = image.fetched.decoded_bytes
            is_needed = stream.is_begun and image is stream.images[0]
            is_alone = self._held.images == 1
            if is_needed or is_alone or self._allows(_Limits.allows_pixels, size, limits, stream, first):
                self._release(image)
                image.stage, image.decoded = _Stage.DECODING, size
                self._hold(stream, image)
                self._decoding += 1
                self._decoders.submit(self._decode, stream, image)

    def _fetch(self, stream: ImageStream, image: _Image) -> None:
        """Download one image, in a download thread."""
        if stream.is_closed:
            self._end_fetch(stream, image, None)
            return

        def on_bytes(received: int) -> None:
            if image.stage is _Stage.FETCHING:
                image.attempts += not received  # an attempt begins
                image.progress_at = time.monotonic()
                if received > image.encoded:
                    # Without the lock: its holder may be waiting for the thread that calls this, to read the plan.
                    self._grown[image] = received

        try:
            result = fetch_image(image.ref, self.settings, on_bytes, stream.archives)
        except Exception as error:  # noqa: BLE001 - raised where the image is taken, not in a reading thread
            image.failure = error
            result = None
        self._end_fetch(stream, image, result)

    def _end_fetch(self, stream: ImageStream, image: _Image, result: FetchedImage | LoadedImage | None) -> None:
        with self._changed:
            if image.ref.location is None:
                self._count_download(image, is_fetched=isinstance(result, FetchedImage))
            stream.fetching -= 1
            if image.ref.location is not None:
                stream.reads_archive = False
                if not stream.is_closed and stream.peek() is None:
                    self._spare_archives(stream, image.ref)
            if isinstance(result, FetchedImage):
                image.fetched, size = result, len(result.data)
                self._typical_bytes += (size - self._typical_bytes) // 8
                self._latest_sizes.append(size)
                self._reached(stream, image, _Stage.FETCHED, encoded=size)
            else:
                image.loaded = result
                self._reached(stream, image, _Stage.READY)
            archives = stream.archives if stream.is_closed and image.ref.location is not None else None
        if archives is not None:
            archives.close()

    def _count_download(self, image: _Image, *, is_fetched: bool) -> None:
        """Count a download that has ended. Images of an archive do not count: they come one after another."""
        now = time.monotonic()
        if image.attempts > 1:
            self._limit.retried(image.begun_at, now)
        elif self._limit.is_first_round and any(other.attempts > 1 for other in self._images):
            return  # storage may serve no more than those that have succeeded
        elif is_fetched:
            seconds = now - image.begun_at
            before = seconds if self._latency_s is None else self._latency_s
            self._latency_s = before + (seconds - before) / _LATEST_DOWNLOADS
            if 2 * sum(stream.fetching for stream in self._open) >= self._limit.downloads:
                detector_rate = max(1, self._running) / max(self._image_s, 1e-6)
                self._limit.finished(now, seconds, self._downloads_needed(), detector_rate)
            else:
                self._limit.begin_round(now)

    def images_ahead(self) -> int:
        """With how many images left the worker needs more: its detector takes so many during two downloads.

        0 where it takes none, and never more than there may be downloads under way: begun earlier, they would not come
        sooner. Images of archives do not count, since they come one after another.
        """
        return int(min(self._during_two_downloads, self._limit.downloads))

    def _downloads_needed(self) -> int:
        return FIRST_DOWNLOADS if self._latency_s is None else downloads_needed(self._during_two_downloads)

    @property
    def _during_two_downloads(self) -> float:
        """See `images_during_two_downloads`; 0 before the latency is known."""
        return images_during_two_downloads(self._latency_s or 0.0, self._image_s, self._running)

    @property
    def _running(self) -> int:
        """Number of shards that the detector takes images from."""
        return sum(stream.is_begun for stream in self._open)

    def _decode(self, stream: ImageStream, image: _Image) -> None:
        """Decode one fetched image, in a decoding thread."""
        fetched = image.fetched
        if fetched is not None and not stream.is_closed:
            try:
                image.loaded = decode_image(fetched, self.settings)
            except Exception as error:  # noqa: BLE001 - as in `_fetch`
                image.failure = error
        with self._changed:
            self._decoding -= 1
            pixels = None if image.loaded is None else image.loaded.pixels
            image.fetched = None
            self._reached(stream, image, _Stage.READY, decoded=0 if pixels is None else pixels.nbytes)

    def _reached(
        self, stream: ImageStream, image: _Image, stage: _Stage, *, encoded: int = 0, decoded: int = 0
    ) -> None:
        """Note the stage that an image has reached with its bytes, and begin what that allows."""
        self._release(image)
        image.stage, image.encoded, image.decoded = stage, encoded, decoded
        if not stream.is_closed:
            self._hold(stream, image)
        self._changed.notify_all()
        self._advance()
