"""TFRecord files of `tf.train.Example`, as TensorFlow's Object Detection API, Model Garden and TFDS write them.

A record is the length of its data (8 bytes), a checksum of the length (4), the data, and a checksum of the data (4).
There is no list of the records: a listing goes from length to length. Of the data, it reads the names and the small
features only, so what lies between is skipped, or received and dropped if it is small.

Each record is an image, also a damaged one or one without an image, which then fails. The key of an image is its
`image/filename`; without one, its `image/source_id`; without either, the number of the record, from 0.

The location of an image is `OFFSET+LENGTH:START+SIZE`: of the record, the length of its data, and where in the data the
image lies; without the second part if there is none. `gzip:` or `zlib:` in front counts in the decompressed file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, overload

import google_crc32c

from prelabel.errors import FetchError, first_of
from prelabel.protobuf import V
from prelabel.source.archives.base import ArchiveFormat, Member, reads_on
from prelabel.source.archives.compressed import compression_of, decompressed
from prelabel.source.archives.ranges import RandomFile, read_patiently
from prelabel.source.archives.tf_example import byte_values, pairs_of, text_of
from prelabel.source.file_checks import too_large
from prelabel.source.formats import IMAGE_EXTENSIONS, extension_of, extension_of_content
from prelabel.storage.address import one_line
from prelabel.storage.retries import PATIENT_ATTEMPTS

#: Length and its checksum, before the data; the checksum of the data, behind it.
_HEADER, _CHECKSUM = struct.Struct("<QI"), struct.Struct("<I")

#: Longest data that a header may state, in bytes: offsets behind it are none that storage could serve.
_LONGEST = 1 << 40

#: Longest data of a record that is held at once, in bytes.
_LONGEST_HELD = 1 << 30

#: Bytes of a record that a listing reads at a time, and that a checksum is computed of at a time.
_AHEAD, _PIECE = 1 << 12, 1 << 20

#: Features that may hold the image: of the Object Detection API and the Model Garden, and of TFDS.
_IMAGE_FEATURES = ("image/encoded", "image")

#: Features that name the image, the best first, and all that are read as text.
_NAME_FEATURES = ("image/filename", "image/source_id")
_TEXT_FEATURES = (*_NAME_FEATURES, "image/format")

#: First bytes of an image that tell its format.
_HEAD = 512

#: Records without an image at the beginning of a file, after which its features are taken for others.
_MOST_WITHOUT = 1000

_LOCATION = re.compile(r"(?:(gzip|zlib|zstd):)?(\d{1,19})\+(\d{1,19})(?::(\d{1,19})\+(\d{1,19}))?")


def members(file: RandomFile, feature: str | None) -> Iterator[Member]:
    """As in `ArchiveFormat`."""
    compression, content = _content(file)
    prefix = f"{compression}:" if compression else ""
    image_features = _IMAGE_FEATURES if feature is None else (feature,)
    window = _Window(content)
    waiting: list[Member] = []
    has_images, others = False, set[str]()
    for number, (offset, length) in enumerate(_places(window)):
        start = offset + _HEADER.size
        try:
            image, key, file_name = _Facts.of(_View(window, start, length), image_features, others).named(number)
        except EOFError:
            raise _cut_off(offset) from None
        except ValueError:  # its checksum will say whether it is damaged
            image, key, file_name = None, str(number), str(number)
        place, size = f"{prefix}{offset}+{length}", None
        if image is not None:
            place, size = f"{place}:{image.offset - start}+{len(image)}", len(image)
        waiting.append(Member(key, size, place, file_name=file_name))
        has_images |= image is not None
        if has_images or (len(waiting) > _MOST_WITHOUT and not others):
            yield from waiting
            waiting = []
        elif len(waiting) > _MOST_WITHOUT:
            break
    if waiting and others:
        names = one_line(first_of(sorted(others), 20))
        raise FetchError(
            f"its records have no image in {' or '.join(image_features)}, but {names}: name the feature with the image "
            "with --image-column"
        )
    yield from waiting


@dataclass(frozen=True, slots=True)
class Example:
    """A record.

    Attributes:
        number: Its number in the file, from 0.
        offset: Offset of the record in the file, after decompression.
        file_name: The name of its image, as in a listing.
        features: Its features by name, read by `tf_example`.
        image: The bytes of its image; empty if there is none.
    """

    number: int
    offset: int
    file_name: str
    features: Mapping[str, memoryview]
    image: bytes | memoryview


def examples(file: RandomFile) -> Iterator[Example]:
    """All records of a file. Raises FetchError at the first damaged one, and OSError if storage fails."""
    content = _content(file)[1]
    window = _Window(content)
    for number, (offset, length) in enumerate(_places(window)):
        where = f"its record {number:,} at byte {offset:,}"
        if length > _LONGEST_HELD:
            raise FetchError(f"{where} has {length:,} bytes")
        data = read_patiently(content, offset + _HEADER.size, length + _CHECKSUM.size)
        if len(data) < length + _CHECKSUM.size:
            raise _cut_off(offset)
        if data[length:] != _CHECKSUM.pack(_masked(google_crc32c.value(data[:length]))):
            raise FetchError(f"{where} is damaged: its checksum is wrong")
        try:
            view = memoryview(data)[:length]
            image, _, file_name = _Facts.of(view, _IMAGE_FEATURES, set()).named(number)
            features = dict(pairs_of(view))
        except ValueError as error:
            raise FetchError(f"{where} is not a tf.train.Example ({error})") from None
        yield Example(number, offset, file_name, features, b"" if image is None else image)


def _content(file: RandomFile) -> tuple[str, RandomFile]:
    """The compression of a file, `""` for none, and its content."""
    head = read_patiently(file, 0, _HEADER.size)
    compression = ""
    if head and not _is_header(head):
        is_zlib = head[0] & 0xF == 8 and int.from_bytes(head[:2], "big") % 31 == 0
        compression = "zlib" if is_zlib else compression_of(head) or ""
        if not compression:
            raise FetchError("it is not a TFRecord file")
    return compression, decompressed(file, compression, PATIENT_ATTEMPTS)


def _masked(checksum: int) -> int:
    """A checksum as it is stored: TensorFlow masks it, since a checksum of data with its checksum tells nothing."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _header(length: int) -> bytes:
    data = length.to_bytes(8, "little")
    return data + _CHECKSUM.pack(_masked(google_crc32c.value(data)))


def _is_header(data: bytes) -> bool:
    return len(data) == _HEADER.size and data == _header(int.from_bytes(data[:8], "little"))


def _cut_off(offset: int) -> FetchError:
    return FetchError(f"it ends within the record at byte {offset:,}")


def _places(window: _Window) -> Iterator[tuple[int, int]]:
    """Offset of each record and length of its data. What is read of a record is read before the next one."""
    offset = number = 0
    while header := window.read(offset, _HEADER.size):
        if len(header) < _HEADER.size:
            raise _cut_off(offset)
        length = int.from_bytes(header[:8], "little")
        if not _is_header(header) or length > _LONGEST:
            if not offset:
                raise FetchError("it is not a TFRecord file")
            raise FetchError(f"the length of its record {number:,} at byte {offset:,} is damaged")
        end = offset + _HEADER.size + length
        yield offset, length
        if len(window.read(end, _CHECKSUM.size)) < _CHECKSUM.size:
            raise _cut_off(offset)
        offset, number = end + _CHECKSUM.size, number + 1


class _Window:
    """Reads parts of a file in ascending order, and the bytes behind them along with them."""

    def __init__(self, file: RandomFile) -> None:
        self._file = file
        self._start, self._data = 0, b""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from an offset on, fewer at the end of the file."""
        first = offset - self._start
        if first < 0 or first + length > len(self._data):
            self._start, first = offset, 0
            self._data = read_patiently(self._file, offset, max(length, _AHEAD))
        return self._data[first : first + length]


class _View:
    """Bytes in a file, which are read when they are needed; `prelabel.protobuf` reads messages in them."""

    __slots__ = ("_length", "_window", "offset")

    def __init__(self, window: _Window, offset: int, length: int) -> None:
        self._window, self.offset, self._length = window, offset, length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int, /) -> int: ...
    @overload
    def __getitem__(self, place: slice, /) -> _View: ...
    def __getitem__(self, place: int | slice, /) -> int | _View:
        if isinstance(place, slice):
            start, stop, _ = place.indices(self._length)
            return _View(self._window, self.offset + start, max(0, stop - start))
        return self._read(place, 1)[0]

    def __bytes__(self) -> bytes:
        return self._read(0, self._length)

    def __iter__(self) -> Iterator[int]:
        return iter(bytes(self))

    def _read(self, start: int, length: int) -> bytes:
        data = self._window.read(self.offset + start, length)
        if len(data) < length:
            raise EOFError
        return data


@dataclass(slots=True)
class _Facts(Generic[V]):
    """What the features of a record say about its image.

    Attributes:
        image: The bytes of the image, or None if there is none, or more than one.
        head: Its first bytes.
        texts: What names the image, and its format.
    """

    image: V | None
    head: bytes
    texts: dict[str, str]

    @classmethod
    def of(cls, example: V, image_features: Sequence[str], others: set[str]) -> _Facts[V]:
        """Read a record from front to back. Names of features are added to `others`.

        Raises:
            ValueError: The bytes are not an example.
        """
        images: dict[str, tuple[V, bytes]] = {}
        texts: dict[str, str] = {}
        for name, value in pairs_of(example):
            if name in image_features:
                values = byte_values(value)
                if len(values) == 1:
                    images[name] = values[0], bytes(values[0][:_HEAD])
            elif name in _TEXT_FEATURES:
                texts[name] = text_of(value)
            if len(others) < _MOST_WITHOUT:
                others.add(name)
        image, head = next((images[name] for name in image_features if name in images), (None, b""))
        return cls(image, head, texts)

    def named(self, number: int) -> tuple[V | None, str, str]:
        """The image, its key, and its file name.

        Args:
            number: The number of the record.
        """
        key = next((name for feature in _NAME_FEATURES if (name := _usable(self.texts.get(feature, "")))), str(number))
        if extension_of(key) in IMAGE_EXTENSIONS:
            return self.image, key, key
        given = f".{self.texts.get('image/format', '').lower()}".replace(".jpeg", ".jpg")
        extension = extension_of_content(self.head) or (given if given in IMAGE_EXTENSIONS else "")
        return self.image, key, key + extension


def _usable(name: str) -> str:
    """A name as the key of an image, or `""` if a listing would not accept it: hidden, or with `..`."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "" if any(part.startswith(".") or part == "__MACOSX" for part in parts) else "/".join(parts)


class _OpenTFRecord:
    def __init__(self, file: RandomFile, attempts: int) -> None:
        self._raw, self._attempts = file, attempts
        self._compression, self._content = "", file

    def read(self, location: str, max_bytes: int, on_bytes: Callable[[int], None]) -> bytes:
        match = _LOCATION.fullmatch(location)
        if match is None:
            raise FetchError(f"the plan's location {location[:80]!r} is not a location in a TFRecord file")
        offset, length, start, size = (int(number or 0) for number in match.groups()[1:])
        if size > max_bytes:
            raise too_large(size, max_bytes)
        if (compression := match[1] or "") != self._compression:
            self.close()
            self._compression, self._content = compression, decompressed(self._raw, compression, self._attempts)
        image = self._checked(offset, length, slice(start, start + size), on_bytes)
        if match[4] is None:
            raise FetchError("its record holds no image, or several")
        if len(image) < size:
            raise FetchError(f"the plan's location {location[:80]!r} is not a location in this TFRecord file")
        return image

    def _checked(self, offset: int, length: int, part: slice, on_bytes: Callable[[int], None]) -> bytes:
        """A part of a record's data. Raises FetchError if the record is damaged, or another one."""
        content = self._content
        content.on_bytes = on_bytes
        if content.read_at(offset, _HEADER.size) != _header(length):
            raise FetchError(
                f"its archive is damaged or was replaced: no record of {length:,} bytes at byte {offset:,}"
            )
        checksum, data = 0, bytearray()
        for position in range(0, length, _PIECE):
            content.on_bytes = lambda received, before=position: on_bytes(before + received)  # type: ignore[misc]
            piece = content.read_at(offset + _HEADER.size + position, min(_PIECE, length - position))
            if len(piece) < min(_PIECE, length - position):
                raise FetchError(f"its archive is cut off within the record at byte {offset:,}")
            checksum = google_crc32c.extend(checksum, piece)
            data += piece[max(0, part.start - position) : max(0, part.stop - position)]
        if content.read_at(offset + _HEADER.size + length, _CHECKSUM.size) != _CHECKSUM.pack(_masked(checksum)):
            raise FetchError(f"damaged in its archive: the checksum of the record at byte {offset:,} is wrong")
        return bytes(data)

    def close(self) -> None:
        self._content.close()
        self._raw.close()


TFRECORD = ArchiveFormat("tfrecord", members, _OpenTFRecord, reads_on)
