from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from botocore.exceptions import EndpointConnectionError
from PIL import Image
from s3fs import S3FileSystem

from prelabel.errors import ConfigError, SourceError
from prelabel.image_ref import ImageRef
from prelabel.source import sniff
from prelabel.source.formats import HIDDEN, IMAGE_EXTENSIONS, NOT_READ, describe_ignored
from prelabel.source.listing import THE_OUTPUT, SourceSummary, list_images
from prelabel.source.walk import Pattern, split_glob
from prelabel.storage import gcs, retries
from prelabel.storage.address import Address
from prelabel.storage.files import Storage
from tests.messages import MISSING, NO_PERMISSION, is_told, telling
from tests.s3 import S3Server

STORAGE = Storage()


def plant(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def ids(*sources: Any, storage: Storage = STORAGE, **options: Any) -> list[str]:
    return [ref.image_id for ref in list_images([str(s) for s in sources], storage, **options)]


# Names that sort differently by path parts, by characters and by bytes: all must be listed in byte order.
TREE = [
    "a/x.jpg",
    "a-b.jpg",
    "a.jpg",
    "a/b/c.png",
    "a/b.jpg",
    "ab.jpg",
    "Z.JPG",
    "é/1.jpg",
    "e\u0301.jpg",
    "\uffee.jpg",
    "😀.jpg",
    "10.jpg",
    "9.jpg",
]
ORDERED = sorted(TREE, key=str.encode)


def test_a_folder_is_listed_by_the_bytes_of_its_paths(tmp_path: Path) -> None:
    plant(tmp_path, *TREE)
    assert ids(tmp_path) == ids(f"{tmp_path}/") == ids(f"file://{tmp_path}") == ORDERED
    assert ids(tmp_path) != sorted(TREE) or sorted(TREE) == ORDERED


def test_a_bucket_and_memory_give_the_same_order(s3_server: S3Server) -> None:
    bucket, folder = s3_server.new_bucket(), uuid.uuid4().hex
    storage = Storage(s3_server.options)
    for name in TREE:
        s3_server.put(bucket, f"photos/{name}", b"x")
        storage.publish(f"memory://{folder}/photos/{name}", b"x")
    s3_server.put(bucket, "photos/a/", b"")  # the marker that web consoles create for an empty folder
    s3_server.put(bucket, "photos-not.jpg", b"x")
    for source in (
        f"s3://{bucket}/photos",
        f"s3://{bucket}/photos/",
        f"s3a://{bucket}/photos",
        f"memory://{folder}/photos",
    ):
        refs = list(list_images([source], storage))
        assert [ref.image_id for ref in refs] == ORDERED
        assert refs[0].uri == f"{source.rstrip('/')}/{ORDERED[0]}"
        assert storage.read(refs[-1].uri) == b"x"
        assert all(ref.size == 1 for ref in refs)
    assert ids(f"s3://{bucket}", storage=storage) == ["photos-not.jpg", *(f"photos/{name}" for name in ORDERED)]


def test_image_ref_has_the_size_and_version_of_the_listing(tmp_path: Path, s3_server: S3Server) -> None:
    plant(tmp_path, "a/b.jpg")
    status = (tmp_path / "a/b.jpg").stat()
    assert list(list_images([str(tmp_path)], STORAGE)) == [
        ImageRef("a/b.jpg", f"{tmp_path}/a/b.jpg", "a/b.jpg", status.st_size, f"mtime_ns-{status.st_mtime_ns}")
    ]
    bucket = s3_server.new_bucket()
    s3_server.put(bucket, "b.jpg", b"x")
    (ref,) = list_images([f"s3://{bucket}"], Storage(s3_server.options))
    assert ref == ImageRef("b.jpg", f"s3://{bucket}/b.jpg", "b.jpg", 1, "9dd4e461268c8034f5c8564e155c67a6")


def test_listing_of_a_bucket_resumes_after_an_outage(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.0)
    bucket, names = s3_server.new_bucket(), [f"{number:04d}.jpg" for number in range(1500)]
    s3_server.fill(bucket, [f"photos/{name}" for name in names], b"x")
    real, bad = S3FileSystem._call_s3, iter(range(retries.PATIENT_ATTEMPTS - 1))

    async def call(fs: S3FileSystem, method: str, *args: Any, **kwargs: Any) -> Any:
        if "ContinuationToken" in kwargs and next(bad, None) is not None:
            raise EndpointConnectionError(endpoint_url="https://bucket.example")
        return await real(fs, method, *args, **kwargs)

    monkeypatch.setattr(S3FileSystem, "_call_s3", call)
    assert ids(f"s3://{bucket}/photos", storage=Storage(s3_server.options)) == names
    assert next(bad, None) is None


def test_bucket_of_several_pages_is_listed_completely_and_in_order(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()
    names = [f"{n % 7}/{n:04d}.jpg" for n in range(2500)]
    s3_server.fill(bucket, [f"photos/{name}" for name in names], b"x")
    storage = Storage(s3_server.options)
    assert ids(f"s3://{bucket}/photos", storage=storage) == sorted(names)
    assert ids(f"s3://{bucket}/photos/3/*5.jpg", storage=storage) == [
        n[2:] for n in sorted(names) if n.startswith("3/") and n.endswith("5.jpg")
    ]
    stream = list_images([f"s3://{bucket}/photos"], storage)
    assert [ref.image_id for ref in islice(stream, 3)] == sorted(names)[:3]
    stream.close()  # type: ignore[attr-defined]


def test_globs(tmp_path: Path) -> None:
    plant(
        tmp_path, "a1.jpg", "a2.png", "b/a3.jpg", "b/c/a4.jpg", "b/c/x.txt", "b[1]/a5.jpg", "b/.hid/a6.jpg", ".a7.jpg"
    )
    assert ids(f"{tmp_path}/*.jpg") == ["a1.jpg"]
    assert ids(f"{tmp_path}/a?.*") == ["a1.jpg", "a2.png"]
    assert ids(f"{tmp_path}/a[!1].*") == ["a2.png"]
    assert ids(f"{tmp_path}/*/*.jpg") == ["b/a3.jpg", "b[1]/a5.jpg"]
    assert ids(f"{tmp_path}/**/*.jpg") == ["a1.jpg", "b/a3.jpg", "b/c/a4.jpg", "b[1]/a5.jpg"]
    assert ids(f"{tmp_path}/b/**") == ["a3.jpg", "c/a4.jpg"]
    assert ids(f"{tmp_path}/b/**/a4.jpg") == ["c/a4.jpg"]
    assert ids(f"{tmp_path}/.a*") == [".a7.jpg"]
    assert ids(f"{tmp_path}/b/.h*/*") == [".hid/a6.jpg"]


def test_existing_name_with_wildcards_is_used_literally(tmp_path: Path) -> None:
    plant(tmp_path, "b[1]/a5.jpg", "b1/a6.jpg", "what?.jpg", "what1.jpg")
    assert ids(f"{tmp_path}/b[1]") == ["a5.jpg"]
    assert ids(f"{tmp_path}/b[1]/*.jpg") == ["a5.jpg"]
    assert ids(f"{tmp_path}/what?.jpg") == ["what?.jpg"]
    assert ids(f"{tmp_path}/what[1].jpg") == ["what1.jpg"]


def test_a_relative_source_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    assert [ref.uri for ref in list_images(["photos", "photos/*.jpg", "photos/a.jpg"], STORAGE)] == [
        f"{tmp_path}/photos/a.jpg"
    ] * 3


def test_sources_keep_the_given_order(tmp_path: Path) -> None:
    plant(tmp_path, "z/1.jpg", "a/2.jpg", "m.bin")
    assert ids(tmp_path / "z", tmp_path / "m.bin", tmp_path / "a") == ["1.jpg", "m.bin", "2.jpg"]


def test_other_files_are_counted_and_never_opened(tmp_path: Path) -> None:
    plant(
        tmp_path,
        "a.JPG",
        "b.txt",
        "c.TXT",
        "d",
        "e.tar.gz",
        ".DS_Store",
        ".git/x.jpg",
        "s/.hidden.jpg",
        "x.averylongextension",
    )
    os.mkfifo(tmp_path / "pipe.jpg")
    summary = SourceSummary()
    assert [ref.image_id for ref in list_images([str(tmp_path)], STORAGE, summary=summary)] == ["a.JPG"]
    assert (summary.images, summary.bytes) == (1, 5)
    assert summary.ignored == {".txt": 2, "(no extension)": 1, ".gz": 1, "(hidden)": 3, "(other)": 1}
    assert summary.to_json()["sources"][0]["kind"] == "directory"


def test_a_bucket_counts_hidden_folders_once_as_a_disk_does(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()
    for key in (".git/x.jpg", ".git/y/z.jpg", "a.jpg", "s/.h/1.jpg", "s/b.jpg", "s/.c.jpg", "s/t/d.jpg"):
        s3_server.put(bucket, key, b"")
    summary = SourceSummary()
    refs = list_images([f"s3://{bucket}"], Storage(s3_server.options), summary=summary)
    assert [ref.image_id for ref in refs] == ["a.jpg", "s/b.jpg", "s/t/d.jpg"]
    assert summary.ignored == {"(hidden)": 3}


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    plant(tmp_path, "photos/a/1.jpg", "elsewhere/2.jpg")
    photos = tmp_path / "photos"
    (photos / "a" / "up").symlink_to(photos)
    (photos / "self").symlink_to(".")
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "one.jpg").symlink_to(tmp_path / "elsewhere" / "2.jpg")
    assert ids(photos) == ["a/1.jpg", "linked/2.jpg", "one.jpg"]


def test_dangling_link_is_listed_so_that_it_fails_by_name(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert ids(tmp_path) == ["a.jpg", "gone.jpg"]


NAMES = [
    "a b.jpg",
    "#1.jpg",
    "50%.jpg",
    "50%25.jpg",
    "a+b.jpg",
    "a?b=c&d.jpg",
    "new\nline.jpg",
    "é.jpg",
    "e\u0301.jpg",
    "\u202egpj.jpg",
    "'\"\\.jpg",
    "<b>.jpg",
    "x" * 251 + ".jpg",
    "A.jpg",
    "a.jpg",
    "~.jpg",
]


def test_names_survive_unchanged_from_every_store(tmp_path: Path, s3_server: S3Server) -> None:
    bucket, storage, folder = s3_server.new_bucket(), Storage(s3_server.options), uuid.uuid4().hex
    for name in NAMES:
        (tmp_path / name).write_bytes(name.encode())
        if "\n" not in name:  # the server of these tests cannot serve such a key
            storage.publish(f"s3://{bucket}/{name}", name.encode())
        storage.publish(f"memory://{folder}/{name}", name.encode())
    for source in (str(tmp_path), f"s3://{bucket}", f"memory://{folder}"):
        expected = [name for name in NAMES if "\n" not in name or not source.startswith("s3")]
        refs = list(list_images([source], storage))
        assert [ref.image_id for ref in refs] == [ref.file_name for ref in refs] == sorted(expected, key=str.encode)
        assert all(storage.read(ref.uri) == ref.image_id.encode() for ref in refs)


def test_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg")
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb"), open(os.fsencode(tmp_path) + b"/\xfe.txt", "wb"):  # noqa: PTH123
        pass
    with pytest.raises(SourceError, match=telling("1", "UTF-8", r".*\\xff\.jpg")):
        ids(tmp_path)


def test_web_folders_and_files(web: tuple[str, Path]) -> None:
    address, root = web
    plant(root, "photos/a b#1.jpg", "photos/é/c.jpg", "photos/x.txt", "photos/50%.jpg")
    refs = list(list_images([f"{address}/photos/"], STORAGE))
    assert sorted(ref.image_id for ref in refs) == ["50%.jpg", "a b#1.jpg", "é/c.jpg"]
    assert all(STORAGE.read(ref.uri).decode() == f"photos/{ref.image_id}" for ref in refs)
    assert ids(f"{address}/photos/a%20b%231.jpg?token=secret") == ["a b#1.jpg"]
    with pytest.raises(SourceError, match=telling(MISSING)) as caught:
        ids(f"{address}/nothing.jpg?token=secret")
    assert "secret" not in str(caught.value)


def test_unreachable_or_refusing_web_server_is_not_a_missing_file(
    web: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.001)
    address, root = web
    plant(root, "photos/a.jpg")
    with pytest.raises(SourceError, match=telling(r".*/private/list\.csv", NO_PERMISSION, "403")):
        ids(f"{address}/private/list.csv")
    assert ids(f"{address}/photos/*.jpg") == ["a.jpg"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    with pytest.raises(SourceError, match=telling(r"http://127\.0\.0\.1:\d+/list\.csv", r"connect\w*|reach\w*")):
        ids(f"http://127.0.0.1:{closed}/list.csv")


@pytest.mark.parametrize(
    ("source", "facts"),
    [
        ("", ("empty|blank", "source|address")),
        ("nope://x/y", ("nope://", "unknown|not known|kinds?")),
        ("{}/nowhere", ("{}/nowhere", MISSING)),
        ("{}/nowhere/*.jpg", ("{}/nowhere", MISSING, "folder|directory")),
        ("{}/text/*.png", (r"{}/text/\*\.png", "no|none|nothing", r"match\w*|fits?")),
        ("{}/text", ("{}/text", "3", r"\.txt 2", r"\.json 1")),
        ("{}/none", ("{}/none", "no images?|(holds|has|with|is) (no|nothing|empty)")),
        ("{}/empty.txt", (r"{}/empty\.txt", "no images?|nothing|is empty")),
        ("s3://buck*/x.jpg", (r"s3://buck\*/x\.jpg", r"wildcards?|\*", "bucket")),
        ("s3://buck{{a,b}}/x.jpg", (r"s3://buck\{{a,b\}}/x\.jpg", r"braces?|\{{", "bucket")),
        ("s3://buck{{et/x.jpg", (r"s3://buck\{{et/x\.jpg", r"braces?|\{{", "bucket")),
        ("https://host{{1..3}}.example/x.jpg", (r"braces?|\{{", "server")),
    ],
)
def test_source_without_images_says_why(
    tmp_path: Path, s3_server: S3Server, source: str, facts: tuple[str, ...]
) -> None:
    plant(tmp_path, "text/a.txt", "text/b.txt", "text/c.json", "ok.jpg")
    (tmp_path / "none").mkdir()
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(SourceError, match=telling(*(fact.format(tmp_path) for fact in facts))):
        ids(tmp_path / "ok.jpg", *([source.format(tmp_path)] if source else [""]), storage=Storage(s3_server.options))


def test_missing_buckets_and_prefixes(s3_server: S3Server) -> None:
    storage = Storage(s3_server.options)
    bucket = s3_server.new_bucket()
    s3_server.put(bucket, "photos/a.txt", b"")
    for source, facts in [
        ("s3://unknown-bucket/photos", ("s3://unknown-bucket/photos", MISSING)),
        (f"s3://{bucket}/other", (f"s3://{bucket}/other", MISSING)),
        (f"s3://{bucket}/photos", (f"s3://{bucket}/photos", "1", r"\.txt 1")),
        (f"s3://{bucket}/photos/*.jpg", (rf"s3://{bucket}/photos/\*\.jpg", "no|none|nothing", r"match\w*|fits?")),
    ]:
        with pytest.raises(SourceError, match=telling(*facts)):
            ids(source, storage=storage)


def test_missing_last_source_is_reported_before_the_first_image(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg")
    with pytest.raises(SourceError, match=telling(MISSING, f"{tmp_path}/mistyped")):
        list_images([str(tmp_path), str(tmp_path / "mistyped")], STORAGE)
    with pytest.raises(SourceError, match=telling("no source|sources?", "no|none|name|give")):
        list_images([], STORAGE)


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setattr(gcs, "_filesystem_class", gcs._filesystem_class.__wrapped__)  # bypass its cache
    with pytest.raises(ConfigError, match=r"pip install 'prelabel\[gcs\]'"):
        ids("gs://bucket/photos")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder_is_not_an_empty_one(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    with pytest.raises(SourceError, match=telling(NO_PERMISSION)):
        ids(tmp_path)


def test_a_folder_with_many_files_is_streamed(tmp_path: Path) -> None:
    code = (
        "import sys, resource\nfrom prelabel.source.listing import list_images\n"
        "from prelabel.storage.files import Storage\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "n = sum(1 for _ in list_images([sys.argv[1]], Storage()))\n"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    for folder in range(10):
        plant(tmp_path, *(f"{folder:02d}/{n:04d}.jpg" for n in range(500)))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    count, grown_kb = map(int, done.stdout.split())
    assert count == 5_000
    assert grown_kb < 6_000


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.jpg", "a.jpg", True),
        ("*.jpg", "a/a.jpg", False),
        ("**/*.jpg", "a.jpg", True),
        ("**/*.jpg", "a/b/a.jpg", True),
        ("**/b/**/*.jpg", "a/b/a.jpg", True),
        ("**/b/**/*.jpg", "b/c/d/a.jpg", True),
        ("**/b/**/*.jpg", "a/c/a.jpg", False),
        ("a/**", "a/x", True),
        ("a/**", "b/x", False),
        ("**", "a/.b/c", False),
        ("*", "new\nline", True),
    ],
)
def test_patterns(pattern: str, path: str, matches: bool) -> None:
    compiled = Pattern(pattern.split("/"))
    assert compiled.matches(path) is matches
    if matches:
        parts = path.split("/")
        assert all(compiled.enters("/".join(parts[:depth])) for depth in range(1, len(parts)))


def test_folders_in_which_nothing_can_match_are_not_entered() -> None:
    assert not Pattern(["*.jpg"]).enters("a")
    assert Pattern(["*", "*.jpg"]).enters("a")
    assert not Pattern(["*", "*.jpg"]).enters("a/b")
    assert not Pattern(["a*", "**", "x.jpg"]).enters("b")


def test_the_root_of_a_glob_ends_before_its_first_wildcard() -> None:
    def roots(url: str) -> tuple[str, str | None]:
        root, pattern = split_glob(Address.of(url), lambda folder: folder.endswith("[x]"))
        return root, None if pattern is None else pattern.start

    assert roots("/a/b.jpg") == ("/a/b.jpg", None)
    assert roots("/a/b*.jpg") == ("/a", "b")
    assert roots("/*.jpg") == ("/", "")
    assert roots("s3://bucket/a/2024-*/x.jpg") == ("s3://bucket/a", "2024-")
    assert roots("/a[x]/b/*.jpg") == ("/a[x]/b", "")
    assert roots("/a[y]/b/*.jpg") == ("/", "a")
    assert roots("https://host/a.jpg?size=1") == ("https://host/a.jpg?size=1", None)


def test_every_extension_of_a_supported_format_is_listed_in_any_case(tmp_path: Path) -> None:
    pillow_heif.register_heif_opener()
    Image.init()
    decoded = {
        "JPEG",
        "MPO",
        "PNG",
        "GIF",
        "TIFF",
        "JPEG2000",
        "PSD",
        "WEBP",
        "BMP",
        "DIB",
        "PPM",
        "TGA",
        "AVIF",
        "HEIF",
    }
    known = {ending for ending, name in Image.registered_extensions().items() if name in decoded}
    assert known <= IMAGE_EXTENSIONS
    assert not IMAGE_EXTENSIONS & set(NOT_READ)
    for ending in IMAGE_EXTENSIONS:
        plant(tmp_path, f"a{ending}", f"B{ending.upper()}")
    assert len(ids(tmp_path)) == 2 * len(IMAGE_EXTENSIONS)


@pytest.mark.parametrize(
    "ending", [".hif", ".apng", ".avifs", ".jfif", ".jpe", ".jp2", ".j2k", ".heics", ".heifs", ".jpf", ".dib", ".tif"]
)
def test_extensions_that_were_once_missing_are_listed(tmp_path: Path, ending: str) -> None:
    plant(tmp_path, f"a{ending}", f"b{ending.upper()}")
    assert ids(tmp_path) == [f"a{ending}", f"b{ending.upper()}"]


def test_all_ignored_extensions_are_reported_with_their_reason(tmp_path: Path) -> None:
    plant(
        tmp_path,
        "a.jpg",
        "b.JXL",
        "c.jxl",
        "d.dng",
        "e.txt",
        "f.dat",
        "g",
        ".h.jpg",
        *(f"x.e{n:02d}" for n in range(9)),
    )
    summary = SourceSummary()
    list(list_images([str(tmp_path)], STORAGE, summary=summary))
    text = describe_ignored(summary.ignored, sniffed=False)
    for facts in ((r"\.jxl 2", "JPEG XL", "not"), (r"\.dng 1", "raw", "not")):
        assert any(is_told(part, *facts) for part in re.split("[,;] (?=[.(])", text)), facts
    assert all(f"{ending} 1" in text for ending in [".txt", ".dat", "(no extension)", "(hidden)", ".e00", ".e08"])
    assert is_told(text, "--sniff", "11")
    assert "--sniff" not in describe_ignored(summary.ignored, sniffed=True)
    assert "--sniff" not in describe_ignored({".txt": 3, ".jxl": 1, HIDDEN: 2}, sniffed=False)


PICTURES = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp", "TIFF": "tiff", "AVIF": "avif", "GIF": "gif"}


@pytest.mark.parametrize("where", ["disk", "memory", "s3"])
def test_files_with_unknown_extensions_are_sniffed_on_request(
    where: str, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sniff, "_AHEAD", 3)
    root = {
        "disk": str(tmp_path),
        "memory": f"memory://{uuid.uuid4().hex}",
        "s3": f"s3://{s3_server.new_bucket()}/photos",
    }[where]
    storage = Storage(s3_server.options)
    taken = {}
    for name, ending in PICTURES.items():
        buffer = io.BytesIO()
        Image.effect_noise((40, 30), 9).save(buffer, name)
        for target in (f"{name}.dat", f"d/{ending}", f"{name}.jpg_original"):
            storage.publish(f"{root}/{target}", buffer.getvalue())
            taken[target] = buffer.getvalue()
    others = {
        "P1.txt": b"P1 is a bitmap", "e.txt": b"hello", "f": b"", "g.dat": b"%PDF-1.4",
        "h.zip": b"PK\x03\x04" + bytes(99),
        "raw.dng": taken["TIFF.dat"], "x.JXL": b"\xff\x0a",
    }  # fmt: skip
    for target, data in others.items():
        storage.publish(f"{root}/{target}", data)
    storage.publish(f"{root}/z.jpg", b"taken by its ending")
    assert ids(root, storage=storage) == ["z.jpg"]
    summary = SourceSummary()
    refs = list(list_images([root], storage, sniff=True, summary=summary))
    assert [ref.image_id for ref in refs] == sorted([*taken, "z.jpg"], key=str.encode)
    assert summary.ignored == {".txt": 2, "(no extension)": 1, ".dat": 1, ".zip": 1, ".dng": 1, ".jxl": 1}
    assert all(ref.size == len(taken[ref.image_id]) for ref in refs if ref.image_id in taken)


def test_files_on_a_web_server_are_sniffed(web: tuple[str, Path]) -> None:
    address, root = web
    plant(root, "photos/a.dat", "photos/b.txt")
    Image.new("L", (400, 300)).save(root / "photos" / "c", "PNG")
    refs = list_images([f"{address}/photos/"], STORAGE, sniff=True)
    assert [ref.image_id for ref in refs] == ["c"]


def test_sniffing_reads_little_and_retries_and_does_not_block_on_pipes(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.0)
    plant(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe")
    assert ids(tmp_path, sniff=True) == ["a.jpg"]
    storage, bucket = Storage(s3_server.options), s3_server.new_bucket()
    s3_server.put(bucket, "a", b"\x89PNG\r\n\x1a\n" + bytes(5_000_000))
    real, bad, ranges = S3FileSystem._call_s3, iter(range(3)), []

    async def call(fs: S3FileSystem, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "get_object":
            ranges.append(kwargs["Range"])
            if next(bad, None) is not None:
                raise EndpointConnectionError(endpoint_url="https://bucket.example")
        return await real(fs, method, *args, **kwargs)

    monkeypatch.setattr(S3FileSystem, "_call_s3", call)
    assert ids(f"s3://{bucket}", storage=storage, sniff=True) == ["a"]
    assert ranges == ["bytes=0-511"] * 4


def test_files_in_the_output_are_ignored_and_counted(tmp_path: Path, s3_server: S3Server) -> None:
    plant(tmp_path, "photos/a.jpg", "photos/out/preview/1.jpg", "photos/out/preview/2.jpg", "photos/outside.jpg")
    summary = SourceSummary()
    refs = list_images(
        [str(tmp_path / "photos")], STORAGE, summary=summary, output=Address.of_folder(str(tmp_path / "photos" / "out"))
    )
    assert [ref.image_id for ref in refs] == ["a.jpg", "outside.jpg"]
    assert (summary.images, summary.bytes, summary.ignored) == (2, 30, {THE_OUTPUT: 1})
    with pytest.raises(SourceError, match=telling(f"{tmp_path}/photos/out", "1", re.escape(f"{THE_OUTPUT} 1"))):
        list(
            list_images(
                [str(tmp_path / "photos" / "out")], STORAGE, output=Address.of_folder(f"{tmp_path}/photos/out/preview/")
            )
        )
    bucket, storage = s3_server.new_bucket(), Storage(s3_server.options)
    for key in ("p/a.jpg", "p/out/b.jpg"):
        s3_server.put(bucket, key, b"x")
    refs = list_images([f"s3a://{bucket}/p"], storage, output=Address.of_folder(f"s3://{bucket}/p/out"))
    assert [ref.image_id for ref in refs] == ["a.jpg"]
    # Entries of a list are used wherever they are.
    (tmp_path / "photos" / "list.txt").write_text("out/preview/1.jpg\n")
    refs = list_images(
        [str(tmp_path / "photos" / "list.txt")], STORAGE, output=Address.of_folder(str(tmp_path / "photos" / "out"))
    )
    assert [ref.image_id for ref in refs] == ["out/preview/1.jpg"]


class StopError(Exception):
    """Raised to stop a listing."""


def stop_after(count: int) -> Callable[[], None]:
    seen = iter(range(count))

    def stop() -> None:
        if next(seen, None) is None:
            raise StopError

    return stop


SKIPPED = {
    "endings": [f"{n}.txt" for n in range(500)],
    "hidden files": [f".{n}.jpg" for n in range(500)],
    "hidden folders": [f".{n}/a.jpg" for n in range(500)],
    "a hidden folder": [f".cache/{n}.jpg" for n in range(500)],
}


@pytest.mark.parametrize("names", SKIPPED.values(), ids=SKIPPED)
@pytest.mark.parametrize("place", ["disk", "memory", "s3"])
def test_a_listing_that_only_skips_can_be_stopped(
    names: list[str], place: str, tmp_path: Path, s3_server: S3Server
) -> None:
    """Nothing is yielded, so the consumer never gets a chance to check whether to stop."""
    if place == "disk":
        if names == SKIPPED["a hidden folder"]:
            pytest.skip("a disk is not asked for what is in it")
        plant(tmp_path, *names)
        root, storage = str(tmp_path), STORAGE
    elif place == "memory":
        if names == SKIPPED["a hidden folder"]:
            pytest.skip("a store of folders is not asked for what is in it")
        storage = Storage()
        root = f"memory://{tmp_path.name}"
        fs, path = storage.filesystem(root)
        fs.pipe({f"{path}/{name}": b"" for name in names})
    else:
        bucket, storage = s3_server.new_bucket(), Storage(s3_server.options)
        root = f"s3://{bucket}"
        for name in names:
            s3_server.put(bucket, name, b"")
    with pytest.raises(StopError):
        list(list_images([root], storage, on_file=stop_after(400)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "\n" * 10_000),
        ("list.csv", "uri\n" + "\n" * 10_000),
        ("list.jsonl", "\n" * 10_000),
        ("set.json", '{"annotations": [' + ",".join(["{}"] * 2_000_000) + '], "images": []}'),
    ],
)
def test_a_list_that_only_skips_can_be_stopped(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(StopError):
        list(list_images([str(tmp_path / name)], STORAGE, on_file=stop_after(3)))
