"""Archives as sources: which images they hold, what is ignored, what damage costs, how many requests they take."""

from __future__ import annotations

import io
import itertools
import os
import stat
import struct
import tarfile
import tracemalloc
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem

from prelabel.errors import FetchError, ImageTooLargeError, SourceError
from prelabel.image_ref import ImageRef
from prelabel.source.archives.ranges import _RemoteFile
from prelabel.source.archives.reader import ArchiveReader
from prelabel.source.archives.zip import _sizes_of_64 as zip_sizes
from prelabel.source.braces import expand
from prelabel.source.fetch import fetch
from prelabel.source.listing import SourceSummary, list_images
from prelabel.storage.address import Address, member_url, redact, split_member, without_secrets
from prelabel.storage.files import Storage
from tests.archives import RangedWeb, compressed, ranged_web, tar_of, zip_of
from tests.messages import is_told, telling
from tests.s3 import S3Server
from tests.tfrecords import tfrecord_of

STORAGE = Storage()
MAX = 1 << 20

#: As WebDataset writes it: files of one key follow each other.
MEMBERS = {
    "000.jpg": b"first",
    "000.json": b"{}",
    "000.cls": b"7",
    "cats/001.png": bytes(range(256)) * 7,
    "cats/001.txt": b"a cat",
    "002.JPG": b"",
}
IMAGES = {name: data for name, data in MEMBERS.items() if name.lower().endswith((".jpg", ".png"))}


def listed(*sources: Any, storage: Storage = STORAGE) -> tuple[list[ImageRef], SourceSummary]:
    summary = SourceSummary()
    return list(list_images([str(source) for source in sources], storage, summary=summary)), summary


def read_all(refs: Sequence[ImageRef], storage: Storage = STORAGE) -> list[bytes]:
    """Read as a shard does, one image after another."""
    with ArchiveReader(storage) as archives:
        return [fetch(ref, storage, MAX, archives=archives) for ref in refs]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[RangedWeb]:
    with ranged_web(tmp_path) as server:
        yield server


def test_a_tar_stands_for_its_images(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(MEMBERS))
    refs, summary = listed(path)
    assert [ref.image_id for ref in refs] == ["a.tar/000.jpg", "a.tar/cats/001.png", "a.tar/002.JPG"]
    assert [ref.file_name for ref in refs] == [ref.image_id for ref in refs]
    assert [ref.size for ref in refs] == [5, 1792, 0]
    assert refs[0].uri == f"tar://000.jpg::{path}"
    assert {ref.version for ref in refs} == {f"mtime_ns-{path.stat().st_mtime_ns}"}
    (source,) = summary.sources
    assert (source.kind, source.archives, source.damaged) == ("archive", 1, 0)
    assert source.ignored == {".json": 1, ".cls": 1, ".txt": 1}
    assert read_all(refs) == list(IMAGES.values())
    assert [fetch(ref, STORAGE, MAX) for ref in reversed(refs)] == list(IMAGES.values())[::-1]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_names_and_places_are_those_that_the_standard_library_finds(tmp_path: Path, form: int) -> None:
    long = {f"{'d' * 90}/{'n' * 80}.jpg": b"prefix", "photos/é 😀.jpg": b"utf-8"}
    if form != tarfile.USTAR_FORMAT:
        long[f"{'n' * 300}.jpg"] = b"longer than a header"
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of({**IMAGES, **long, "after.jpg": b"after"}, form))
    refs, _ = listed(path)
    with tarfile.open(path) as archive:
        expected = [(f"a.tar/{member.name}", f"{member.offset_data}+{member.size}") for member in archive]
    assert [(ref.image_id, ref.location) for ref in refs] == expected
    assert read_all(refs) == [*IMAGES.values(), *long.values(), b"after"]


@pytest.mark.parametrize(("compression", "name"), [("gzip", "a.tar.gz"), ("gzip", "a.tgz"), ("zstd", "a.tar.zst")])
def test_a_compressed_tar_is_read_as_a_stream(tmp_path: Path, compression: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(compressed(tar_of(MEMBERS), compression))
    refs, _ = listed(path)
    assert [ref.image_id for ref in refs] == [f"{name}/{image}" for image in IMAGES]
    assert read_all(refs) == list(IMAGES.values())
    assert read_all(refs[::-1]) == list(IMAGES.values())[::-1]


def test_frames_to_skip_are_skipped_as_pzstd_writes_them(tmp_path: Path) -> None:
    data = compressed(tar_of(MEMBERS), "zstd")
    skipped = struct.pack("<2I4s", 0x184D2A50, 4, b"size")
    (tmp_path / "a.tar.zst").write_bytes(skipped + data + skipped)
    assert read_all(listed(tmp_path / "a.tar.zst")[0]) == list(IMAGES.values())


def test_what_cannot_be_read_from_a_tar_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in {
            "link.jpg": tarfile.SYMTYPE,
            "hard.jpg": tarfile.LNKTYPE,
            "folder.jpg": tarfile.DIRTYPE,
        }.items():
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "real.jpg"
            archive.addfile(header)
        for name in ("./real.jpg", "/rooted.jpg", "../up.jpg", "a/../up.jpg", ".hidden/x.jpg", "__MACOSX/._x.jpg", "b"):
            header = tarfile.TarInfo(name)
            header.size = 1
            archive.addfile(header, io.BytesIO(b"x"))
        for records in ({"GNU.sparse.major": "1"},):
            header = tarfile.TarInfo("sparse.jpg")
            header.pax_headers = records
            archive.addfile(header)
    refs, summary = listed(path)
    assert [ref.image_id for ref in refs] == ["a.tar/real.jpg", "a.tar/rooted.jpg"]
    assert summary.ignored == {
        "(link)": 2, "(unsafe name)": 2, "(hidden)": 2, "(no extension)": 1, "(sparse file)": 1
    }  # fmt: skip


def test_an_archive_behind_the_end_of_another_is_told(tmp_path: Path) -> None:
    first, second = tar_of({"a.jpg": b"a"}), tar_of({"b.jpg": b"b"})
    (tmp_path / "cat.tar").write_bytes(first + second)
    (tmp_path / "padded.tar").write_bytes(first + bytes(512) + b"no header" * 100)
    refs, summary = listed(tmp_path / "*.tar")
    assert [ref.image_id for ref in refs] == ["cat.tar/a.jpg", "padded.tar/a.jpg"]
    (damage,) = summary.damage
    assert is_told(damage, "cat.tar", f"{len(first):,}", "tar -A")


def test_archives_in_an_archive_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of({"b.tar": tar_of(MEMBERS), "c.zip": b"", "a.jpg": b"a"}))
    refs, summary = listed(tmp_path / "a.tar")
    assert [ref.image_id for ref in refs] == ["a.tar/a.jpg"]
    assert summary.ignored == {"(archive in an archive)": 2}


def test_names_that_are_not_utf_8_stay_distinct(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    data = tar_of({"caf_1.jpg": b"1", "caf_2.jpg": b"2"})
    for number, byte in ((b"1", b"\xe9"), (b"2", b"\xe8")):
        start = data.index(b"caf_" + number)
        header = bytearray(data[start : start + 512])
        header[3:4] = byte
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        data = data[:start] + bytes(header) + data[start + 512 :]
    path.write_bytes(data)
    assert [ref.file_name for ref in listed(path)[0]] == ["a.tar/caf%E91.jpg", "a.tar/caf%E82.jpg"]


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_a_truncated_archive_costs_only_the_images_behind_the_cut(tmp_path: Path, compression: str) -> None:
    images = {f"{number}.jpg": os.urandom(300_000) for number in range(5)}
    whole = tar_of(images)
    data = compressed(whole, compression) if compression else whole
    (tmp_path / "a.tar").write_bytes(data[: len(data) * 7 // 10])
    (tmp_path / "b.tar").write_bytes(tar_of(MEMBERS))
    refs, summary = listed(tmp_path / "*.tar")
    names = [ref.image_id for ref in refs]
    assert names[:3] == ["a.tar/0.jpg", "a.tar/1.jpg", "a.tar/2.jpg"]
    assert names[-3:] == [f"b.tar/{name}" for name in IMAGES]
    assert "a.tar/4.jpg" not in names
    (source,) = summary.sources
    assert (source.archives, source.damaged) == (2, 1)
    assert is_told(source.damage[0], str(tmp_path / "a.tar"))
    assert read_all(refs[:3]) == list(images.values())[:3]
    for cut in refs[3:-3]:
        with pytest.raises(FetchError):
            fetch(cut, STORAGE, MAX)


def test_a_damaged_header_ends_the_listing_of_its_archive(tmp_path: Path) -> None:
    data = bytearray(tar_of({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c"}))
    data[1024 + 150] ^= 1  # the checksum of the second header
    (tmp_path / "a.tar").write_bytes(data)
    refs, summary = listed(tmp_path / "a.tar")
    assert [ref.file_name for ref in refs] == ["a.tar/a.jpg"]
    assert is_told(summary.damage[0], "1,024")


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive" * 100, b"BZh91AY" + bytes(600), compressed(b"no archive" * 100, "gzip")],
    ids=["empty", "text", "bzip2", "gzip of text"],
)
def test_what_is_no_tar_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=telling(str(path))):
        listed(path)


def test_folders_and_other_globs_do_not_open_archives(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(MEMBERS))
    with pytest.raises(SourceError, match=telling(r"\.tar 1", r"\*\.tar")):
        listed(tmp_path)
    (tmp_path / "b.jpg").write_bytes(b"b")
    assert [ref.image_id for ref in listed(tmp_path)[0]] == ["b.jpg"]
    assert [ref.image_id for ref in listed(tmp_path / "*")[0]] == ["b.jpg"]
    assert [ref.image_id for ref in listed(tmp_path / "*.tar")[0]] == [f"a.tar/{name}" for name in IMAGES]
    with pytest.raises(SourceError, match=telling("b.jpg")):
        listed(tmp_path / "b.jpg" / "*.tar")


def test_braces_name_archives_and_images(tmp_path: Path, web: RangedWeb) -> None:
    for name in ("08.tar", "09.tar", "10.tar"):
        (tmp_path / name).write_bytes(tar_of({"a.jpg": name.encode()}))
    (tmp_path / "{1,2}.tar").write_bytes(tar_of({"a.jpg": b"literal"}))
    expected = ["08.tar/a.jpg", "09.tar/a.jpg", "10.tar/a.jpg"]
    for folder in (tmp_path, web.url):
        refs, summary = listed(f"{folder}/{{08..10}}.tar")
        assert [ref.image_id for ref in refs] == expected
        assert read_all(refs) == [b"08.tar", b"09.tar", b"10.tar"]
        (source,) = summary.sources
        assert (source.kind, source.images, source.archives) == ("glob", 3, 3)
    assert [ref.image_id for ref in listed(tmp_path / "{1,2}.tar")[0]] == ["{1,2}.tar/a.jpg"]
    assert [ref.image_id for ref in listed(f"{tmp_path}/0{{8,9}}*.tar")[0]] == expected[:2]
    (tmp_path / "{x,y}").mkdir()
    (tmp_path / "{x,y}" / "c.jpg").write_bytes(b"c")
    assert [ref.image_id for ref in listed(tmp_path / "{x,y}" / "*.jpg")[0]] == ["c.jpg"]
    (tmp_path / "b1.jpg").write_bytes(b"1")
    assert [ref.image_id for ref in listed(tmp_path / "{b1,b2}.jpg")[0]] == ["b1.jpg", "b2.jpg"]
    with pytest.raises(SourceError, match=telling(f"{tmp_path}/11.tar")):
        listed(tmp_path / "{10..11}.tar")


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("{0..2}", ["0", "1", "2"]),
        ("{008..10}", ["008", "009", "010"]),
        ("{1..0}", ["1", "0"]),
        ("a{x,y}b{0..1}", ["axb0", "axb1", "ayb0", "ayb1"]),
        ("{,b}{c}{1..x}", ["{c}{1..x}", "b{c}{1..x}"]),
    ],
)
def test_braces_stand_for_what_a_shell_makes_of_them(text: str, expanded: list[str]) -> None:
    assert list(expand(text)) == expanded


def test_too_many_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=telling("1,000,000")):
        listed(tmp_path / "{0..99999}{0..99}.tar")


def test_a_list_names_archives_and_images(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.tar").write_bytes(tar_of(MEMBERS))
    (tmp_path / "b.jpg").write_bytes(b"b")
    (tmp_path / "list.csv").write_text("uri,image_id\nb.jpg,\nshards/a.tar,first\nshards/a.tar,\nb.jpg,again\n")
    refs, _ = listed(tmp_path / "list.csv")
    names = list(IMAGES)
    assert [ref.image_id for ref in refs] == [
        *("b.jpg", *(f"first/{name}" for name in names), *(f"shards/a.tar/{name}" for name in names), "again")
    ]
    assert [ref.file_name for ref in refs][1:4] == [f"shards/a.tar/{name}" for name in names]
    assert read_all(refs[1:4]) == list(IMAGES.values())


def test_a_changed_archive_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(MEMBERS))
    refs, _ = listed(path)
    path.write_bytes(tar_of({"other.jpg": b"other", **MEMBERS}))
    os.utime(path, ns=(0, 0))
    with pytest.raises(FetchError, match=telling("changed")):
        fetch(refs[0], STORAGE, MAX)


def test_a_member_above_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(MEMBERS))
    refs, _ = listed(path)
    with pytest.raises(ImageTooLargeError, match=telling("1,792")):
        fetch(refs[1], STORAGE, 1000)
    assert fetch(refs[0], STORAGE, 1000) == b"first"


@pytest.mark.parametrize("name", ["a.jpg", "a b/ü😀.jpg", "a::b@c?d#e%2f&sig=1.jpg", "a\nb.jpg"])
def test_an_address_in_an_archive_can_be_split_and_holds_no_secret(name: str) -> None:
    archive = "https://me:pw@host/a.tar?X-Amz-Signature=ab&size=2"
    url = member_url("tar", name, archive)
    parts = split_member(url)
    assert parts is not None
    assert (parts.protocol, parts.key, parts.archive) == ("tar", name, archive)
    stored = without_secrets(url)
    assert stored.endswith("::https://host/a.tar?size=2")
    assert split_member(stored).key == name  # type: ignore[union-attr]
    assert "pw" not in redact(url)
    assert "\n" not in url


# --- zip --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [b"", b"a program that unpacks itself"])
@pytest.mark.parametrize("comment", [b"", b"PK\x05\x06" * 30])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_stands_for_its_images(tmp_path: Path, method: int, comment: bytes, before: bytes) -> None:
    members = {**MEMBERS, "folder/": b"", "__MACOSX/._000.jpg": b"x", "../up.jpg": b"up", "é😀.jpg": b"unicode"}
    (tmp_path / "a.zip").write_bytes(before + zip_of(members, method, comment))
    refs, summary = listed(tmp_path / "a.zip")
    assert [ref.image_id for ref in refs] == [f"a.zip/{name}" for name in (*IMAGES, "é😀.jpg")]
    assert refs[0].uri == f"zip://000.jpg::{tmp_path}/a.zip"
    assert [ref.size for ref in refs] == [5, 1792, 0, 7]
    assert summary.ignored == {".json": 1, ".cls": 1, ".txt": 1, "(hidden)": 1, "(unsafe name)": 1}
    assert read_all(refs) == [*IMAGES.values(), b"unicode"]


def test_files_of_a_zip_are_listed_as_they_lie_in_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("c.jpg", "a.jpg", "b.jpg"):
            archive.writestr(name, name)
        archive.filelist.sort(key=lambda entry: entry.filename)
    refs, _ = listed(tmp_path / "a.zip")
    assert [ref.file_name for ref in refs] == ["a.zip/c.jpg", "a.zip/a.jpg", "a.zip/b.jpg"]
    assert read_all(refs) == [b"c.jpg", b"a.jpg", b"b.jpg"]


def test_links_and_encrypted_files_of_a_zip_are_counted(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "a.jpg")
        for name in ("a.jpg", "secret.jpg", "secret.txt", "b.jpg"):
            archive.writestr(name, name)
            archive.filelist[-1].flag_bits |= name.startswith("secret")
    refs, summary = listed(tmp_path / "a.zip")
    assert read_all(refs) == [b"a.jpg", b"b.jpg"]
    assert summary.ignored == {"(link)": 1, "(encrypted)": 1, ".txt": 1}
    assert summary.damage == []


@pytest.mark.parametrize(("encoding", "name"), [("utf-8", "é😀.jpg"), ("cp437", "é.jpg")])
def test_names_in_a_zip_may_be_utf_8_without_saying_so(tmp_path: Path, encoding: str, name: str) -> None:
    encoded = name.encode(encoding)
    data = zip_of({"_" * len(encoded): b"a"}).replace(b"_" * len(encoded), encoded)
    (tmp_path / "a.zip").write_bytes(data)
    assert [ref.file_name for ref in listed(tmp_path / "a.zip")[0]] == [f"a.zip/{name}"]


def test_a_zip64_archive_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)  # more files than fit into the usual end of an archive
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in IMAGES.items():
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(data)
        archive.filelist[0].extra = b"\x99\x99\x04\x00skip"
    assert b"PK\x06\x06" in (tmp_path / "a.zip").read_bytes()
    assert read_all(listed(tmp_path / "a.zip")[0]) == list(IMAGES.values())


def test_offsets_and_sizes_of_more_than_four_gigabytes_are_read_from_the_zip64_field() -> None:
    extra = struct.pack("<2H4x2H3Q", 0x9999, 4, 1, 24, 5_000_000_000, 6_000_000_000, 7_000_000_000)
    most = 0xFFFFFFFF
    assert zip_sizes(extra, most, most, most) == (5_000_000_000, 6_000_000_000, 7_000_000_000)
    assert zip_sizes(extra, 1, most, 3) == (1, 5_000_000_000, 3)
    assert zip_sizes(b"", 1, 2, 3) == (1, 2, 3)


def test_damage_in_a_zip_costs_the_image_that_has_it(tmp_path: Path) -> None:
    data = bytearray(zip_of({"a.jpg": b"a" * 100, "b.jpg": b"b" * 100, "c.jpg": b"c" * 100}, zipfile.ZIP_STORED))
    data[data.index(b"b" * 100) + 50] ^= 1
    data[data.index(b"PK\x03\x04", 250)] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    refs, _ = listed(tmp_path / "a.zip")
    assert fetch(refs[0], STORAGE, MAX) == b"a" * 100
    for ref in refs[1:]:
        with pytest.raises(FetchError, match=telling("damaged")):
            fetch(ref, STORAGE, MAX)


def test_an_entry_that_ends_beyond_the_directory_of_a_zip_is_damaged(tmp_path: Path) -> None:
    data = bytearray(zip_of({"a.jpg": b"a", "b.jpg": b"b"}))
    data[data.rindex(b"PK\x01\x02") + 32] = 1  # the length of its comment
    (tmp_path / "a.zip").write_bytes(data)
    refs, summary = listed(tmp_path / "a.zip")
    assert [ref.file_name for ref in refs] == ["a.zip/a.jpg"]
    assert is_told(summary.damage[0], "directory", "damaged")


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda data: data[: len(data) - 30], "cut off"),
        (lambda data: data.replace(b"PK\x01\x02", b"PK\x01\x00"), "damaged"),
        (lambda data: data[:-6] + b"\xff\xff\xff\x7f" + data[-2:], "damaged"),
        (lambda data: data[:-18] + b"\x01\x00" + data[-16:], "split"),
        (lambda data: data.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"), "encrypted"),
        (lambda data: b"", "not a ZIP"),
    ],
)
def test_what_is_no_readable_zip_is_refused(tmp_path: Path, change: Callable[[bytes], bytes], fact: str) -> None:
    (tmp_path / "a.zip").write_bytes(change(zip_of(MEMBERS)))
    with pytest.raises(SourceError, match=telling("a.zip", fact)):
        listed(tmp_path / "a.zip")


def test_a_zip_bomb_is_not_inflated_beyond_the_limit(tmp_path: Path) -> None:
    honest = zip_of({"a.jpg": bytes(50 << 20)})
    # The second one lies about its size.
    lying = honest.replace(struct.pack("<I", 50 << 20), struct.pack("<I", 1000))
    for number, data in enumerate((honest, lying)):
        (tmp_path / f"{number}.zip").write_bytes(data)
    refs, _ = listed(tmp_path / "*.zip")
    with pytest.raises(ImageTooLargeError, match=telling("--max-bytes")):
        fetch(refs[0], STORAGE, MAX)
    tracemalloc.start()
    with pytest.raises(FetchError, match=telling("damaged")):
        fetch(refs[1], STORAGE, MAX)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_a_method_that_is_not_read_becomes_a_failed_row(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of(MEMBERS, zipfile.ZIP_LZMA))
    refs, _ = listed(tmp_path / "a.zip")
    with pytest.raises(FetchError, match=telling("LZMA")):
        fetch(refs[0], STORAGE, MAX)


# --- Parquet ----------------------------------------------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n"
AS_HUGGING_FACE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet_of(images: Sequence[bytes | None], column: str = "image", group: int = 3, **others: Any) -> bytes:
    """As Hugging Face's `datasets` writes it, with a few images per row group."""
    structs = [{"bytes": data, "path": f"{number}.png"} for number, data in enumerate(images)]
    table = pa.table({"label": range(len(images)), column: pa.array(structs, AS_HUGGING_FACE), **others})
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=group)
    return stream.getvalue()


def test_a_parquet_file_stands_for_the_images_in_its_column(tmp_path: Path) -> None:
    images = [PNG + os.urandom(50_000) for _ in range(8)]
    (tmp_path / "a.parquet").write_bytes(parquet_of(images))
    refs, summary = listed(tmp_path / "a.parquet")
    assert [ref.image_id for ref in refs] == [f"a.parquet/{row}" for row in range(8)]
    assert [ref.file_name for ref in refs] == [f"a.parquet/{row}.png" for row in range(8)]
    assert refs[7].uri == f"parquet://7::{tmp_path}/a.parquet"
    assert summary.sources[0].kind == "archive"
    assert read_all(refs) == images
    assert read_all(refs[::-1]) == images[::-1]
    assert read_all(refs[4:6]) == images[4:6]
    assert [ref.image_id for ref in listed(tmp_path / "*.parquet")[0]] == [ref.image_id for ref in refs]


def test_a_row_without_bytes_fails_and_the_others_do_not(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet_of([b"0", None, b"2", b"", None]))
    refs, _ = listed(tmp_path / "a.parquet")
    with ArchiveReader(STORAGE) as archives:
        for ref, data in zip(refs, (b"0", None, b"2", b"", None), strict=True):
            if data is None:
                with pytest.raises(FetchError, match=telling("image", "no bytes")):
                    fetch(ref, STORAGE, MAX, archives=archives)
            else:
                assert fetch(ref, STORAGE, MAX, archives=archives) == data
    with pytest.raises(ImageTooLargeError):
        fetch(refs[0], STORAGE, 0)


def test_rows_are_named_after_the_first_image(tmp_path: Path) -> None:
    schema = pa.schema([("image", pa.binary())])
    with pq.ParquetWriter(tmp_path / "a.parquet", schema) as writer:
        for group in ([], [None, PNG], [PNG]):
            writer.write_table(pa.table({"image": pa.array(group, pa.binary())}))
    assert [ref.file_name for ref in listed(tmp_path / "a.parquet")[0]] == [f"a.parquet/{row}.png" for row in range(3)]


@pytest.mark.parametrize(
    ("paths", "extension"),
    [
        (["b.JPG", "a.jpg"], ".jpg"),
        (["a.jpg", "b.jpg", "c.webp"], ".png"),  # of the first image, as in the next three
        (["a.txt", "b.txt"], ".png"),
        ([None, None], ".png"),
        (["a", "b"], ".png"),
    ],
)
def test_rows_are_named_after_the_paths_if_all_have_one_extension(
    tmp_path: Path, paths: list[str | None], extension: str
) -> None:
    structs = pa.array([{"bytes": PNG, "path": path} for path in paths], AS_HUGGING_FACE)
    pq.write_table(pa.table({"image": structs}), tmp_path / "a.parquet", row_group_size=1)
    names = [f"a.parquet/{row}{extension}" for row in range(len(paths))]
    assert [ref.file_name for ref in listed(tmp_path / "a.parquet")[0]] == names


STRUCT = pa.struct([("bytes", pa.binary())])


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), STRUCT], ids=str)
def test_images_may_have_any_binary_type(tmp_path: Path, kind: pa.DataType) -> None:
    images = [{"bytes": PNG} if pa.types.is_struct(kind) else PNG]
    # The other column has the name by which Parquet calls the bytes of the first.
    pq.write_table(pa.table({"image.bytes": [b"other"], "image": pa.array(images, kind)}), tmp_path / "a.parquet")
    refs = list(list_images([str(tmp_path / "a.parquet")], STORAGE, image_column="image"))
    assert read_all(refs) == [PNG]


def test_the_schema_tells_images_from_addresses(tmp_path: Path) -> None:
    def is_refused(name: str, *facts: str, **options: Any) -> None:
        with pytest.raises(SourceError, match=telling(name, *facts)):
            list(list_images([str(tmp_path / name)], STORAGE, **options))

    def found(name: str, column: str | None = None) -> list[str]:
        return [ref.image_id for ref in list_images([str(tmp_path / name)], STORAGE, image_column=column)]

    (tmp_path / "both.parquet").write_bytes(parquet_of([b"a"], uri=["b.jpg"]))
    is_refused("both.parquet", "uri", "image", "--image-column")
    assert found("both.parquet", "uri") == ["b.jpg"]
    assert found("both.parquet", "image") == ["both.parquet/0"]
    (tmp_path / "two.parquet").write_bytes(parquet_of([b"a"], thumbnail=[b"t"]))
    is_refused("two.parquet", "image", "thumbnail", "--image-column")
    (ref,) = list_images([str(tmp_path / "two.parquet")], STORAGE, image_column="thumbnail")
    assert fetch(ref, STORAGE, MAX) == b"t"
    is_refused("two.parquet", "label", image_column="label")
    pq.write_table(pa.table({"path": ["a.jpg"]}), tmp_path / "none.parquet")
    is_refused("none.parquet", "uri", "bytes", "path")
    (tmp_path / "no.parquet").write_bytes(b"no Parquet")
    is_refused("no.parquet")
    is_refused("no.parquet", image_column="image")


def test_damage_in_a_parquet_file_costs_images_of_its_row_group(tmp_path: Path) -> None:
    images = [PNG + os.urandom(300_000) for _ in range(9)]
    data = bytearray(parquet_of(images))
    place = pq.read_metadata(io.BytesIO(data)).row_group(1).column(1).dictionary_page_offset
    data[place : place + 30] = bytes(30)
    (tmp_path / "a.parquet").write_bytes(data)
    refs, _ = listed(tmp_path / "a.parquet")
    good = []
    with ArchiveReader(STORAGE) as archives:
        for number, ref in enumerate(refs):
            try:
                good.append((number, fetch(ref, STORAGE, MAX, archives=archives)))
            except FetchError:
                assert number in (3, 4, 5)
    assert [(number, data == images[number]) for number, data in good if number not in (3, 4, 5)] == [
        (number, True) for number in (0, 1, 2, 6, 7, 8)
    ]


# --- requests ---------------------------------------------------------------------------------------------------------


def as_rows(members: Mapping[str, bytes]) -> bytes:
    return parquet_of(list(members.values()), group=100)


@pytest.mark.parametrize(
    ("kind", "pack"), [("tar", tar_of), ("zip", zip_of), ("parquet", as_rows), ("tfrecord", tfrecord_of)]
)
def test_a_thousand_images_in_a_bucket_cost_at_most_five_requests(
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    pack: Callable[[Mapping[str, bytes]], bytes],
) -> None:
    bucket, storage = s3_server.new_bucket(), Storage(s3_server.options)
    images = {f"{number:04d}.jpg": number.to_bytes(2, "big") * 500 for number in range(2000)}
    for part in range(2):
        names = list(images)[part * 1000 : part * 1000 + 1000]
        s3_server.put(bucket, f"s/{part}.{kind}", pack({name: images[name] for name in names}))
    calls: list[str] = []
    send = S3FileSystem._call_s3

    async def counted(fs: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        calls.append(method)
        return await send(fs, method, *args, **kwargs)

    monkeypatch.setattr(S3FileSystem, "_call_s3", counted)
    refs, _ = listed(f"s3://{bucket}/s/*.{kind}", storage=storage)
    keys = {name: name if kind != "parquet" else str(int(name[:4]) % 1000) for name in images}
    assert [ref.image_id for ref in refs] == [f"{name[0]}.{kind}/{keys[name]}" for name in images]
    shards = [read_all(refs[start : start + 500], storage) for start in range(0, 2000, 500)]
    assert list(itertools.chain(*shards)) == list(images.values())
    # Per archive, one for the listing and one for each shard; for Parquet, also one for the footer, which a worker
    # keeps. The others find out what the source is, whatever its size.
    gets = calls.count("get_object")
    assert gets == (8 if kind == "parquet" else 6)
    assert len(calls) - gets <= 5


def test_an_archive_in_a_bucket_is_read_at_its_planned_version(s3_server: S3Server) -> None:
    bucket, storage = s3_server.new_bucket(), Storage(s3_server.options)
    s3_server.put(bucket, "a.tar", tar_of(MEMBERS))
    s3_server.put(bucket, "a.tar.more", b"an object with the same beginning")
    refs, _ = listed(f"s3://{bucket}/a.tar", storage=storage)
    assert read_all(refs, storage) == list(IMAGES.values())
    s3_server.put(bucket, "a.tar", tar_of({"other.jpg": b"other", **MEMBERS}))
    with pytest.raises(FetchError, match=telling("changed")):
        read_all(refs, storage)


def test_a_broken_response_is_continued_where_it_broke_off(tmp_path: Path, web: RangedWeb) -> None:
    images = {f"{number}.jpg": os.urandom(4_000_000) for number in range(5)}
    (tmp_path / "a.tar").write_bytes(tar_of(images))
    web.cut = 15_000_000
    refs, _ = listed(f"{web.url}/a.tar")
    assert [ref.image_id for ref in refs] == [f"a.tar/{name}" for name in images]
    web.cut, web.requests[:] = 15_000_000, []
    with ArchiveReader(STORAGE) as archives:
        assert [fetch(ref, STORAGE, 8 << 20, archives=archives) for ref in refs] == list(images.values())
    first, second = (range_ for _, range_ in web.requests)
    assert first == "bytes=512-"
    assert int(second.removeprefix("bytes=").rstrip("-")) > 4_000_000  # not from the beginning


@pytest.mark.parametrize("ranges", [True, False])
def test_an_archive_on_the_web_is_read_with_and_without_ranges(tmp_path: Path, web: RangedWeb, ranges: bool) -> None:
    web.ranges = ranges
    (tmp_path / "a.tar").write_bytes(tar_of(MEMBERS))
    refs, _ = listed(f"{web.url}/a.tar")
    assert read_all(refs[1:]) == list(IMAGES.values())[1:]
    os.utime(tmp_path / "a.tar", ns=(0, 0))
    with pytest.raises(FetchError, match=telling("changed")):
        read_all(refs)


def test_large_members_are_skipped_by_requests(tmp_path: Path, web: RangedWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prelabel.source.archives.ranges.ForwardFile.max_gap", 1 << 20)
    (tmp_path / "a.tar").write_bytes(tar_of({"a.jpg": b"a", "b.mp4": bytes(4 << 20), "c.jpg": b"c"}))
    refs, _ = listed(f"{web.url}/a.tar")
    gets = [range_ for path, range_ in web.requests if range_]
    assert len(gets) == 1
    web.requests.clear()
    assert read_all(refs) == [b"a", b"c"]
    assert len(web.requests) == 2


def test_a_response_that_is_refused_is_ended() -> None:
    ended = []

    class Refused(_RemoteFile):
        size = 0

        async def _request(self, offset: int) -> int:
            self._stack.callback(ended.append, offset)
            raise OSError("503")

    file = Refused(Address.of("http://127.0.0.1/a.tar"), STORAGE, None)
    for offset in (0, 512):
        with pytest.raises(OSError, match="503"):
            file.read_at(offset, 5)
    assert ended == [0, 512]


def test_other_storage_is_read_block_by_block() -> None:
    folder = f"memory://{uuid.uuid4().hex}"
    STORAGE.publish(f"{folder}/a.tar", tar_of(MEMBERS))
    refs, _ = listed(f"{folder}/a.tar")
    assert read_all(refs) == list(IMAGES.values())
    STORAGE.publish(f"{folder}/a.tar", tar_of({"other.jpg": b"other", **MEMBERS}))
    with pytest.raises(FetchError, match=telling("changed")):
        read_all(refs)
