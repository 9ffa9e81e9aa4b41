"""TFRecord files as sources: which images they hold and under which names, what damage costs, how they are read."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from prelabel.errors import FetchError, ImageTooLargeError, SourceError
from prelabel.image_ref import ImageRef
from prelabel.source.archives import kind_of, names_archives
from prelabel.source.archives.reader import ArchiveReader
from prelabel.source.fetch import fetch
from prelabel.source.listing import SourceSummary, list_images
from prelabel.storage.files import Storage
from tests.archives import compressed, ranged_web
from tests.messages import is_told, telling
from tests.tfrecords import Values, checksum, example, record, tfrecord_of

STORAGE = Storage()
MAX = 1 << 20
JPEG, PNG = b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"

#: As TensorFlow writes it: an image of three bytes, `a.jpg`.
LITERAL = (
    b"9\x00\x00\x00\x00\x00\x00\x00\x8b\x077\xf1"
    b"\n7\n\x18\n\rimage/encoded\x12\x07\n\x05\n\x03\xff\xd8\xff\n\x1b\n\x0eimage/filename\x12\t\n\x07\n\x05a.jpg"
    b"\xa1\xf9n\x90"
)
IMAGES = {"a.jpg": b"first", "cats/b.PNG": os.urandom(20_000), "c.jpg": b"", "d.jpg": os.urandom(5_000)}


def listed(path: Path | str, **options: Any) -> tuple[list[ImageRef], SourceSummary]:
    summary = SourceSummary()
    return list(list_images([str(path)], STORAGE, summary=summary, **options)), summary


def read_all(refs: list[ImageRef]) -> list[bytes]:
    with ArchiveReader(STORAGE) as archives:
        return [fetch(ref, STORAGE, MAX, archives=archives) for ref in refs]


def file_names(path: Path, *records: Mapping[str, Values], **options: Any) -> list[str]:
    """The file names of the images of a file with these records."""
    path.write_bytes(b"".join(record(example(features)) for features in records))
    return [ref.file_name.removeprefix(f"{path.name}/") for ref in listed(path, **options)[0]]


def test_a_file_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    path.write_bytes(LITERAL + LITERAL.replace(b"a.jpg\xa1\xf9n\x90", b"b.jpg" + checksum(LITERAL[12:-9] + b"b.jpg")))
    refs, summary = listed(path)
    assert [ref.image_id for ref in refs] == ["x.tfrecord/a.jpg", "x.tfrecord/b.jpg"]
    assert [ref.location for ref in refs] == ["0+57:25+3", "73+57:25+3"]
    assert refs[0].uri == f"tfrecord://a.jpg::{path}"
    assert (refs[0].size, refs[0].version) == (3, f"mtime_ns-{path.stat().st_mtime_ns}")
    assert (summary.sources[0].kind, summary.sources[0].archives, summary.damaged) == ("archive", 1, 0)
    assert read_all(refs) == [b"\xff\xd8\xff"] * 2
    assert tfrecord_of({"a.jpg": b"\xff\xd8\xff"}, ("image/encoded", "image/filename")) == LITERAL


@pytest.mark.parametrize("compression", ["", "gzip", "zlib", "gzip in parts"])
def test_records_become_images_whether_compressed_or_not(tmp_path: Path, compression: str) -> None:
    data = tfrecord_of(IMAGES)
    compress = {
        "": bytes,
        "gzip": gzip.compress,
        "zlib": zlib.compress,
        "gzip in parts": lambda data: compressed(data, "gzip"),
    }
    (tmp_path / "x.record-00000-of-00001").write_bytes(compress[compression](data))
    refs, _ = listed(tmp_path / "*.record-?????-of-00001")
    assert [ref.file_name for ref in refs] == [f"x.record-00000-of-00001/{name}" for name in IMAGES]
    assert read_all(refs) == list(IMAGES.values())
    assert read_all(refs[::-1]) == list(IMAGES.values())[::-1]


def test_a_length_like_the_beginning_of_a_compressed_file_is_a_length(tmp_path: Path) -> None:
    empty = len(example({"image/filename": ["a.jpg"], "image/encoded": [bytes(40_000)]})) - 40_000
    for length in (0x8B1F, 0x9C78):  # gzip's and zlib's first bytes
        (tmp_path / "a.tfrecord").write_bytes(tfrecord_of({"a.jpg": bytes(length - empty)}))
        assert (tmp_path / "a.tfrecord").read_bytes()[:2] == struct.pack("<H", length)
        assert len(read_all(listed(tmp_path / "a.tfrecord")[0])[0]) == length - empty


def test_an_image_has_a_name_whatever_the_record_says(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    image = {"image/encoded": [JPEG]}
    assert file_names(
        path,
        {"image/filename": ["139.png"], "image/source_id": ["7"], **image},
        {"image/filename": ["./photos//b"], **image},
        {"image/filename": [""], "image/source_id": ["8"], **image},
        {"image/source_id": [9], **image},
        {"image/filename": ["../up.jpg"], "image/source_id": [".hidden"], **image},
        {"image/filename": ["a.jpg", "b.jpg"], **image},
        {"image/filename": [b"caf\xe9"], "image/encoded": [PNG]},
        {"image/filename": ["e"], "image/format": ["JPEG"], "image/encoded": [b"unknown"]},
        {"image/filename": ["f"], "image/encoded": [b"unknown"]},
        {"image/filename": ["a" * 5000], **image},
    ) == [
        *("139.png", "photos/b.jpg", "8.jpg", "3.jpg", "4.jpg", "5.jpg", "caf%E9.png", "e.jpg", "f", "9.jpg"),
    ]  # fmt: skip


def test_the_image_may_be_in_another_feature(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    assert file_names(path, {"image": [PNG], "image/filename": ["a"]}) == ["a.png"]
    both: dict[str, Values] = {"image": [PNG], "image/encoded": [JPEG], "thumbnail": [b"thumb"], "width": [3]}
    assert file_names(path, both) == ["0.jpg"]
    assert file_names(path, both, image_column="image") == ["0.png"]
    refs, _ = listed(path, image_column="thumbnail")
    assert read_all(refs) == [b"thumb"]
    with pytest.raises(SourceError, match=telling("x.tfrecord", "jpg", "thumbnail, width", "--image-column")):
        listed(path, image_column="jpg")
    path.write_bytes(record(example({"jpg": [JPEG], "width": [3]})))
    with pytest.raises(SourceError, match=telling("image/encoded", "jpg, width", "--image-column")):
        listed(path)


def test_records_without_an_image_fail_and_the_others_do_not(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    good = {"image/encoded": [JPEG]}
    assert file_names(
        path,
        {"image/filename": ["none.jpg"]},
        {"image/encoded": [JPEG, JPEG]},
        {"image/encoded": [1.5]},
        good,
        {"image/encoded": []},
    ) == ["none.jpg", "1", "2", "3.jpg", "4"]
    with path.open("ab") as file:
        file.write(record(b"no example") + record(b"") + record(example(good)))
    refs, summary = listed(path)
    assert summary.damaged == 0
    with ArchiveReader(STORAGE) as archives:
        for number, ref in enumerate(refs):
            if number in (3, 7):
                assert fetch(ref, STORAGE, MAX, archives=archives) == JPEG
            else:
                with pytest.raises(FetchError, match=telling("holds no image")):
                    fetch(ref, STORAGE, MAX, archives=archives)
    with pytest.raises(ImageTooLargeError, match=telling("--max-bytes")):
        fetch(refs[3], STORAGE, 3)


def test_no_record_is_lost_among_many_that_are_no_examples(tmp_path: Path) -> None:
    good = {"a.jpg": b"a"}
    refs, summary = listed_of(tmp_path, record(b"\xff") * 1100 + tfrecord_of(good))
    assert ([ref.file_name for ref in refs][-2:], len(refs)) == (["x.tfrecord/1099", "x.tfrecord/a.jpg"], 1101)
    assert summary.damaged == 0
    with pytest.raises(SourceError, match=telling("image/encoded", "text", "--image-column")):
        listed_of(tmp_path, record(example({"text": ["a"]})) * 1100 + tfrecord_of(good))


def test_damaged_data_costs_its_own_image(tmp_path: Path) -> None:
    sound = tfrecord_of(IMAGES)
    refs, _ = listed_of(tmp_path, sound)
    start = sound.index(b"d.jpg")
    for place in (start, sound.index(b"image/encoded", start) - 2, len(sound) - 5_000, len(sound) - 1):
        data = bytearray(sound)
        data[place] ^= 1
        damaged, summary = listed_of(tmp_path, bytes(data))
        assert summary.damaged == 0
        assert read_all(damaged[:3]) == list(IMAGES.values())[:3]
        with pytest.raises(FetchError, match=telling("checksum")):
            fetch(damaged[3], STORAGE, MAX)
    # A file that was replaced, on storage without versions.
    (tmp_path / "x.tfrecord").write_bytes(tfrecord_of({"0.jpg": b"another", **IMAGES}))
    for ref in refs:
        unversioned = ImageRef(ref.image_id, ref.uri, ref.file_name, ref.size, None, ref.location)
        with pytest.raises(FetchError, match=telling("replaced")):
            fetch(unversioned, STORAGE, MAX)


def listed_of(tmp_path: Path, data: bytes) -> tuple[list[ImageRef], SourceSummary]:
    (tmp_path / "x.tfrecord").write_bytes(data)
    return listed(tmp_path / "x.tfrecord")


@pytest.mark.parametrize("compression", ["", "gzip"])
@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (lambda data, place: data[:place] + b"\x01" + data[place + 1 :], "length of its record 2 at byte"),
        (lambda data, place: data[: place + 3], "ends within the record at byte"),
        (lambda data, place: data[: place + 20], "ends within the record at byte"),
        (lambda data, place: data[: place + 70], "ends within the record at byte"),
        (lambda data, place: data[:place] + length_of(1 << 63) + data[place + 12 :], "length of its record 2"),
        (lambda data, place: data[:place] + length_of(1 << 39) + data[place + 12 :], "ends within the record"),
        (lambda data, place: data[:place] + length_of(50) + data[place + 12 :], "length of its record 3"),
    ],
)
def test_a_damaged_length_costs_the_images_behind_it(tmp_path: Path, damage: Any, fact: str, compression: str) -> None:
    images = dict(list(IMAGES.items())[:2])
    data = damage(tfrecord_of({**images, "c.jpg": bytes(50), "e.jpg": b"e"}), len(tfrecord_of(images)))
    (tmp_path / "x.tfrecord").write_bytes(compressed(data, compression) if compression else data)
    (tmp_path / "y.tfrecord").write_bytes(tfrecord_of({"f.jpg": b"f"}))
    refs, summary = listed(tmp_path / "*.tfrecord")
    names = [ref.file_name for ref in refs]
    assert names[:2] == [f"x.tfrecord/{name}" for name in images]
    assert names[-1] == "y.tfrecord/f.jpg"
    assert "x.tfrecord/e.jpg" not in names
    assert (summary.sources[0].archives, summary.damaged) == (2, 1)
    assert is_told(summary.damage[0], str(tmp_path / "x.tfrecord"), fact)
    assert read_all([*refs[:2], refs[-1]]) == [*images.values(), b"f"]


def length_of(length: int) -> bytes:
    data = struct.pack("<Q", length)
    return data + checksum(data)


@pytest.mark.parametrize("data", [b"no records", b"no records" * 100, b"BZh91AY" + bytes(600), b"\x78\x9c" * 99])
def test_what_is_no_tfrecord_file_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SourceError, match=telling(str(tmp_path / "x.tfrecord"))):
        listed_of(tmp_path, data)


def test_a_shard_without_records_is_sound(tmp_path: Path) -> None:
    (tmp_path / "a.tfrecord").write_bytes(b"")
    (tmp_path / "b.tfrecord").write_bytes(LITERAL)
    refs, summary = listed(tmp_path / "*.tfrecord")
    assert ([ref.image_id for ref in refs], summary.damaged) == (["b.tfrecord/a.jpg"], 0)


def test_a_listing_reads_forward_and_skips_large_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request for a file, whatever the order of features; one for each image that is worth skipping."""
    images = {f"{number}.jpg": os.urandom(700_000) for number in range(6)}
    with ranged_web(tmp_path) as web:
        for order in (("image/filename", "image/encoded"), ("image/encoded", "image/filename")):
            (tmp_path / "x.tfrecord").write_bytes(tfrecord_of(images, order))
            web.requests.clear()
            refs, _ = listed(f"{web.url}/x.tfrecord")
            assert [ref.file_name for ref in refs] == [f"x.tfrecord/{name}" for name in images]
            assert len([range_ for _, range_ in web.requests if range_]) <= 1
            web.requests.clear()
            assert read_all(refs) == list(images.values())
            assert len(web.requests) == 1
        monkeypatch.setattr("prelabel.source.archives.ranges.ForwardFile.max_gap", 10_000)
        web.requests.clear()
        assert listed(f"{web.url}/x.tfrecord")[0] == refs
        assert len([range_ for _, range_ in web.requests if range_]) == 6


def test_a_record_is_read_in_parts(tmp_path: Path) -> None:
    masks = [bytes(4_000_000)] * 10
    (tmp_path / "x.tfrecord").write_bytes(record(example({"image/object/mask": masks, "image/encoded": [JPEG]})))
    tracemalloc.start()
    (ref,), _ = listed(tmp_path / "x.tfrecord")
    assert fetch(ref, STORAGE, MAX) == JPEG
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train.record", "tfrecord"),
        ("x.TFRECORDS", "tfrecord"),
        ("ld.tfrec", "tfrecord"),
        ("train.record-00003-of-00100", "tfrecord"),
        ("coco-train.tfrecord-00000-of-00256", "tfrecord"),
        ("train-00000-of-00032.tfrecord", "tfrecord"),
        ("x.tfrecord.gz", "tfrecord"),
        ("train-00000-of-01024", "tfrecord"),
        ("train-00000-of-00002.parquet", "parquet"),
        ("x.jpg-00000-of-00002", None),
        ("x.tfrecord-0-of-2", None),
        ("record", None),
    ],
)
def test_names_of_tfrecord_files(name: str, kind: str | None) -> None:
    assert kind_of(f"folder.d/{name}") == kind


def test_globs_that_name_tfrecord_files(tmp_path: Path) -> None:
    assert all(map(names_archives, ("*.tfrecord", "*.tfrecord*", "t.record-*", "train-?????-of-00010", "t-*-of-*")))
    assert not any(map(names_archives, ("*", "*.recording", "a-of-b*")))
    for number in range(3):
        (tmp_path / f"t.record-{number:05d}-of-00003").write_bytes(LITERAL)
    assert len(listed(tmp_path / "t.record*")[0]) == 3
    assert len(listed(tmp_path / "t.record-{00000..00001}-of-00003")[0]) == 2
    with pytest.raises(SourceError, match=telling(r"\.record 3", r"\*\.record\*")):
        listed(tmp_path)
