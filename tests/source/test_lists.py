from __future__ import annotations

import csv
import io
import json
import re
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prelabel.errors import SourceError
from prelabel.image_ref import ImageRef
from prelabel.source import json_stream
from prelabel.source.json_stream import JsonStreamError, array_items
from prelabel.source.listing import SourceSummary, list_images
from prelabel.source.lists import path_of_url
from prelabel.storage.files import Storage
from tests.messages import MISSING, TWICE, telling

STORAGE = Storage()


def listed(path: Path | str, **options: Any) -> list[tuple[str, str]]:
    return [(ref.image_id, ref.uri) for ref in list_images([str(path)], STORAGE, **options)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_each_kind_of_list_names_the_same_images(tmp_path: Path) -> None:
    expected = [
        ImageRef("a b#1.jpg", f"{tmp_path}/a b#1.jpg", "a b#1.jpg"),
        ImageRef("second", "s3://bucket/b.jpg", "bucket/b.jpg"),
        ImageRef("data/c.jpg", "/data/c.jpg", "data/c.jpg"),
        ImageRef("host/d.jpg", "https://me:pw@host/d.jpg?sig=x#y", "host/d.jpg"),
        ImageRef("sub/é.jpg", f"{tmp_path}/sub/é.jpg", "sub/é.jpg"),
    ]
    uris = ["a b#1.jpg", "s3://bucket/b.jpg", "/data/c.jpg", "https://me:pw@host/d.jpg?sig=x#y", "sub/é.jpg"]
    given_ids = ["", "second", "", "", ""]
    rows = list(zip(uris, given_ids, strict=True))
    files = [
        write(tmp_path / "l.csv", "image_id,uri,more\n" + "".join(f'{i},"{u}",x\n' for u, i in rows)),
        write(tmp_path / "l.jsonl", "\n".join(json.dumps({"uri": u, "image_id": i or None, "w": 1}) for u, i in rows)),
        parquet(tmp_path / "l.parquet", uri=uris, image_id=[i or None for i in given_ids], more=[1] * 5),
        parquet(
            tmp_path / "d.parquet",
            uri=pa.array(uris).dictionary_encode(),
            image_id=pa.array(given_ids, pa.large_string()),
        ),
    ]
    for file in files:
        assert list(list_images([str(file)], STORAGE)) == expected, file.name
    bare = [ImageRef(ref.file_name, ref.uri, ref.file_name) for ref in expected]
    files = [
        write(tmp_path / "l.txt", "\n".join(uris)),
        parquet(tmp_path / "bare.parquet", uri=uris),
        write(tmp_path / "coco.json", json.dumps({"images": [{"id": n, "file_name": u} for n, u in enumerate(uris)]})),
    ]
    for file in files:
        assert list(list_images([str(file)], STORAGE)) == bare, file.name


def test_text_line_is_an_address_without_comments_or_trimming(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf#1.jpg\r\n\n  \n lead.jpg\ntrail.jpg \n\xe2\x80\xa8sep.jpg\nlast.jpg"
    names = [image_id for image_id, _ in listed(write(tmp_path / "l.txt", content))]
    assert names == ["#1.jpg", " lead.jpg", "trail.jpg ", "\u2028sep.jpg", "last.jpg"]


def test_entries_may_have_any_extension_and_need_not_exist(tmp_path: Path) -> None:
    assert listed(write(tmp_path / "l.txt", "a\nb.txt\n.hidden")) == [
        (name, f"{tmp_path}/{name}") for name in ("a", "b.txt", ".hidden")
    ]


def test_relative_entries_lie_below_the_image_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "l.txt", "x/a.jpg\n../b c.jpg\n")
    monkeypatch.chdir(tmp_path)
    assert listed(file, image_root="root/") == [
        ("x/a.jpg", f"{tmp_path}/root/x/a.jpg"),
        ("../b c.jpg", f"{tmp_path}/root/../b c.jpg"),
    ]
    # Object stores and web servers do not resolve `..`, and names on the web are percent-encoded once.
    assert listed(file, image_root="s3://bucket/root/") == [
        ("x/a.jpg", "s3://bucket/root/x/a.jpg"),
        ("../b c.jpg", "s3://bucket/b c.jpg"),
    ]
    assert listed(file, image_root="https://host/root") == [
        ("x/a.jpg", "https://host/root/x/a.jpg"),
        ("../b c.jpg", "https://host/b%20c.jpg"),
    ]


def test_a_list_in_a_bucket_or_in_memory_is_read_there() -> None:
    folder = f"memory://{uuid.uuid4().hex}"
    STORAGE.publish(f"{folder}/l.csv", b"uri\na.jpg\n")
    assert listed(f"{folder}/l.csv") == [("a.jpg", f"{folder}/a.jpg")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path: Path, delimiter: str) -> None:
    rows = [["rank", "uri", "image_id"], ["1", "b;,|.jpg", "b"], ["2", "a.jpg", ""]]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(rows)
    content = b"\xef\xbb\xbf" + text.getvalue().encode()
    path = tmp_path / "l.csv"
    path.write_bytes(content)
    assert listed(str(path)) == [("b", str(tmp_path / "b;,|.jpg")), ("a.jpg", str(tmp_path / "a.jpg"))]


@pytest.mark.parametrize(
    ("name", "content", "facts"),
    [
        ("l.txt", b"a.jpg\n\xff.jpg\n", (r"l\.txt", "line 2", "UTF-8")),
        ("l.txt", b"a.jpg\nnope://x\n", ("line 2", "nope://", "unknown|not known|kinds?")),
        ("l.txt", b"s3://\n", ("line 1", "s3://", "no|without")),
        ("l.txt", b"x" * (3 << 20), ("line 1", "long|longer")),
        ("l.csv", b"a,b\n1,2\n", ("line 1", "column", "uri", r"\[?'?a'?, '?b'?\]?")),
        ("l.csv", b"", ("column", "uri")),
        ("l.csv", b"uri,image_id\na.jpg,1\nb.jpg\n", ("line 3", "1", "2", "columns?")),
        ("l.csv", b"uri\ra.jpg\r", ("line 1", "CSV")),
        ("l.csv", b"x" * 200_000 + b"\n", ("line 1", "CSV")),
        ("l.csv", b'uri\n"a.jpg\n', ("line 2", "CSV")),
        ("l.csv", b'uri\n"a"b\n', ("line 2", "CSV")),
        ("l.csv", b"uri,image_id\n,x\n", ("line 2", "path|URL|uri", "empty|blank|missing")),
        ("l.jsonl", b'{"uri": "a.jpg"}\n{"uri": \n', ("line 2", "JSON")),
        ("l.jsonl", b'{"uri": 1}\n', ("line 1", "object", "string", "uri")),
        ("l.jsonl", b'["a.jpg"]\n', ("line 1", "object", "string", "uri")),
        ("l.jsonl", b'{"uri": "a.jpg", "image_id": 7}\n', ("line 1", "image_id", "string", "7")),
        ("l.jsonl", b'{"uri": "\\ud800.jpg"}\n', ("line 1", "Unicode")),
        ("l.jsonl", b"[" * 100_000 + b"\n", ("line 1", "JSON")),
        ("l.jsonl", b"9" * 10_000 + b"\n", ("line 1", "JSON")),
        ("l.parquet", b"PAR1 no", ("Parquet",)),
        ("l.parquet", b"", ("Parquet",)),
        ("l.json", b"[]", ("no|none|empty", "tasks?")),
        ("l.json", b"7", ("COCO", "object", "character 0")),
        ("l.json", b"", ("COCO",)),
        ("l.json", b'{"info": {}}', (f"{MISSING}|no", "images")),
        ("l.json", b'{"images": {}}', ("array|list", "images")),
        ("l.json", b'{"images": [{"id": 1}]}', (r"images\[0\]", "object", "string", "file_name")),
        ("l.json", b'{"images": [{"file_name": "a.jpg"}', ("COCO",)),
        ("l.json", b'{"images": []}', ("images", "empty|no images?|nothing")),
        ("l.json", b'{"images": [{"file_name": ""}]}', (r"images\[0\]:?", "path|URL|file_name", "empty|blank|missing")),
    ],
)
def test_invalid_entry_is_reported_with_file_and_position(
    tmp_path: Path, name: str, content: bytes, facts: tuple[str, ...]
) -> None:
    with pytest.raises(SourceError, match=telling(*facts)) as caught:
        listed(write(tmp_path / name, content))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_parquet_columns_are_named(tmp_path: Path) -> None:
    for columns, facts in [
        ({"url": ["a"]}, ("column", "uri", "url")),
        ({"uri": [1, 2]}, ("uri", "string", "int64")),
        ({"uri": ["a", "b", None]}, ("row 3", "uri", "null|empty|missing")),
        ({"uri": ["a"], "image_id": [1]}, ("image_id", "string", "int64")),
    ]:
        with pytest.raises(SourceError, match=telling(*facts)):
            listed(parquet(tmp_path / "l.parquet", **columns))


@pytest.mark.parametrize("name", ["uri", "image_id"])
def test_a_column_or_key_given_twice_is_refused(tmp_path: Path, name: str) -> None:
    names = ["uri", "image_id", name]
    with pytest.raises(SourceError, match=telling(r".*l\.csv", "line 1", "columns?", f"2|{TWICE}", name)):
        listed(write(tmp_path / "l.csv", ",".join(names) + "\na.jpg,a,b\n"))
    pq.write_table(pa.table([["a.jpg"], ["a"], ["b"]], names=names), tmp_path / "l.parquet")
    with pytest.raises(SourceError, match=telling(r".*l\.parquet", "columns?", f"2|{TWICE}", name)):
        listed(str(tmp_path / "l.parquet"))
    with pytest.raises(SourceError, match=telling(r".*l\.jsonl", "line 1", f"'{name}'", TWICE)):
        listed(write(tmp_path / "l.jsonl", f'{{"uri": "a.jpg", "image_id": "a", "{name}": "b"}}\n'))


def test_error_contains_no_secret(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        listed(write(tmp_path / "l.txt", "nope://me:planted@x/y\n"))
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/data/a.jpg", "data/a.jpg"),
        ("file:///data/a.jpg", "data/a.jpg"),
        ("s3://bucket/a?b#c.jpg", "bucket/a?b#c.jpg"),
        ("s3://bucket/me@home.jpg", "bucket/me@home.jpg"),
        ("https://me:pw@host:1/a.jpg?x=1#y", "host:1/a.jpg"),
        ("memory://x/a.jpg", "x/a.jpg"),
        ("memory:///x/a.jpg", "x/a.jpg"),
    ],
)
def test_the_identity_of_an_absolute_address(address: str, path: str) -> None:
    assert path_of_url(address) == path


def test_lists_from_the_web(web: tuple[str, Path]) -> None:
    address, root = web
    names = [f"{n:06d} #.jpg" for n in range(120_000)]
    write(root / "l.txt", "\n".join(names))
    parquet(root / "l.parquet", uri=names[:5])
    write(root / "l.json", json.dumps({"images": [{"file_name": n} for n in names[:5]]}))
    assert listed(f"{address}/l.txt") == [(n, f"{address}/{n[:6]}%20%23.jpg") for n in names]
    assert listed(f"{address}/l.parquet?token=1") == listed(f"{address}/l.json") == listed(f"{address}/l.txt")[:5]


@pytest.mark.parametrize("entry", ["/etc/passwd", "file:///etc/passwd"])
def test_list_on_a_web_server_must_not_name_local_files(web: tuple[str, Path], entry: str) -> None:
    address, root = web
    write(root / "l.txt", entry)
    with pytest.raises(SourceError, match=telling("line 1", "local", re.escape(entry))):
        listed(f"{address}/l.txt")


def test_the_photos_of_a_coco_file_are_found(assets: Path) -> None:
    folder = assets / "images" / "coco-val80"
    summary = SourceSummary()
    refs = list(
        list_images(
            [str(assets / "images" / "coco-val80-instances.json")], STORAGE, image_root=str(folder), summary=summary
        )
    )
    assert len(refs) == summary.images == 80
    assert summary.sources[0].kind == "coco"
    assert all(Path(ref.uri).is_file() for ref in refs)
    assert {ref.image_id for ref in refs} == {ref.image_id for ref in list_images([str(folder)], STORAGE)}


class Slowly(io.BytesIO):
    """Returns a few bytes at a time, as a network may, and counts them."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(data)
        self.most = most

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self.most)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


# No time limits: other load on the machine must not fail a test.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(
    before=st.dictionaries(st.text().filter(lambda key: key != "images"), json_values, max_size=3),
    images=st.lists(json_values, max_size=5),
    after=json_values,
    most=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_streamed_array_equals_the_one_read_by_json(
    before: dict[str, Any], images: list[Any], after: Any, most: int, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps({**before, "images": images, "annotations": after}, indent=indent, ensure_ascii=ascii_only)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return  # an unpaired surrogate, which cannot occur in UTF-8
    assert list(array_items(Slowly(data, most).read, "images")) == images


@pytest.mark.parametrize("number", ["0", "-1.5", "1e5", "1.25E-3", "12"])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_number_split_between_chunks_is_one_number(number: str, most: int) -> None:
    assert list(array_items(Slowly(b'{"images": [%s]}' % number.encode(), most).read, "images")) == [float(number)]


@unhurried
@given(st.binary(max_size=60), st.integers(1, 10))
def test_invalid_json_raises_json_stream_error(data: bytes, most: int) -> None:
    for text in (data, b'{"images": [' + data, b'{"a": ' + data + b', "images": [1]}'):
        try:
            for _ in array_items(Slowly(text, most).read, "images"):
                pass
        except JsonStreamError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_reading_stops_where_the_array_ends() -> None:
    file = io.BytesIO(b'{"images": [1]' + b" " * (5 << 20) + b"broken")
    assert list(array_items(file.read, "images")) == [1]
    assert file.tell() <= 2 << 20


def _annotations(megabytes: int) -> bytes:
    annotation = json.dumps({"id": 1, "bbox": [1.5, 2, 3, 4], "segmentation": {"counts": '\\"{[' * 40}}).encode() + b","
    many = annotation * ((megabytes << 20) // len(annotation))
    return b'{"annotations": [' + many[:-1] + b'], "images": [{"file_name": "a.jpg"}]}'


def test_a_large_file_takes_little_memory() -> None:
    file = io.BytesIO(_annotations(20))
    tracemalloc.start()
    try:
        assert list(array_items(file.read, "images")) == [{"file_name": "a.jpg"}]
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        lambda: b'{"images": ["' + b"x" * (9 << 20),
        lambda: b'{"images": [' + b"[" * (9 << 20),
        lambda: b'{"a": ' + b"[" * (9 << 20),
        lambda: b'{"a": "' + b"x" * (9 << 20),
        lambda: b'{"a": "' + b"\\" * (9 << 20),
        lambda: b"{" + b" " * (9 << 20),
    ],
)
def test_endless_value_is_refused(data: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_LONGEST_STRING", 4 << 20)
    with pytest.raises(JsonStreamError):
        list(array_items(io.BytesIO(data()).read, "images"))


def test_containers_of_one_azure_account_are_told_apart() -> None:
    assert path_of_url("abfs://photos@account.dfs.core.windows.net/a.jpg") == (
        "photos@account.dfs.core.windows.net/a.jpg"
    )
    assert path_of_url("https://me:pw@host/a.jpg?sig=x&v=1#part") == "host/a.jpg"


LINKS = ["https://h/img?id=1", "https://h/img?id=2", "https://h/a.jpg?x=1", "https://h/a.jpg", "https://h/b.JPG?w=640"]
NAMES = ["h/img-d9fc91d45c09", "h/img-25d0c83ec3d0", "h/a-1f206b11c23e.jpg", "h/a.jpg", "h/b.JPG"]


def signed(uri: str, by: str) -> str:
    return f"{uri}{'&' if '?' in uri else '?'}X-Amz-Signature={by}&X-Amz-Date={by}"


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "parquet", "json"])
def test_web_images_that_differ_only_in_their_query_have_different_names(tmp_path: Path, kind: str) -> None:
    def names_in(uris: list[str]) -> dict[str, str]:
        path = tmp_path / f"l.{kind}"
        if kind == "parquet":
            parquet(path, uri=uris)
        elif kind == "json":
            write(path, json.dumps({"images": [{"file_name": uri} for uri in uris]}))
        elif kind == "jsonl":
            write(path, "\n".join(json.dumps({"uri": uri}) for uri in uris))
        else:
            write(path, "\n".join(["uri"] * (kind == "csv") + uris))
        summary = SourceSummary()
        refs = list(list_images([str(path)], STORAGE, summary=summary))
        assert all(ref.file_name == ref.image_id for ref in refs)
        assert summary.sources[0].by_query == sum("-" in ref.image_id for ref in refs)
        return {ref.uri: ref.image_id for ref in refs}

    plain = names_in(LINKS)
    assert list(plain.values()) == NAMES
    # Independent of the signatures, the order, and the rest of the list.
    first = names_in([signed(uri, "one") for uri in LINKS])
    second = names_in([signed(uri, "two") for uri in reversed([*LINKS, "https://h/img?id=3"])])
    assert list(first.values()) == NAMES
    assert list(second.values())[1:] == NAMES[::-1]
    assert len(set(second.values())) == 6


def test_urls_that_differ_only_in_their_signature_are_one_image(tmp_path: Path) -> None:
    uris = [signed("https://h/img?id=1", "one"), signed("https://h/img?id=1", "two")]
    assert [name for name, _ in listed(write(tmp_path / "l.txt", "\n".join(uris)))] == ["h/img"] * 2


def test_explicit_image_id_is_kept_and_needs_no_digest(tmp_path: Path) -> None:
    path = write(tmp_path / "l.csv", "uri,image_id\nhttps://h/img?id=1,one\nhttps://h/img?id=2,\n")
    assert [name for name, _ in listed(path)] == ["one", "h/img"]
