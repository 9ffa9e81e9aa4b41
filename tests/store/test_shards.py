"""A shard there and back, its bytes, its schema, and other people's readers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prelabel.detections import Detections, ImageLabel
from prelabel.errors import StoreError
from prelabel.storage.files import Storage
from prelabel.store.records import ShardRecords
from prelabel.store.rows import SHARD_SCHEMA, ImageRow
from prelabel.store.shards import load_shard, read_shard, shard_name, shard_url, write_shard
from tests.rows import found, mask_of, row

STORAGE = Storage()
DOG = found(mask=mask_of("###...", "###...", "###...", "###..."))


def write(folder: Path, *rows: ImageRow, shard: int = 0) -> str:
    write_shard(rows, str(folder), STORAGE, shard=shard, run_id="run-1")
    return shard_url(str(folder), shard).url


def back(folder: Path, *rows: ImageRow) -> list[ImageRow]:
    return list(read_shard(write(folder, *rows), STORAGE))


def failed_row() -> ImageRow:
    return replace(
        row("b.jpg"), detections=None, height=None, width=None,
        error_type="FetchError", error="no such file", error_stage="read",
    )  # fmt: skip


def assert_same(image_row: ImageRow, other: ImageRow) -> None:
    for name in ImageRow.__dataclass_fields__:
        if name not in ("detections", "seconds"):
            assert getattr(image_row, name) == getattr(other, name), name
    assert (image_row.detections is None) == (other.detections is None)
    if image_row.detections is not None and other.detections is not None:
        for name in Detections.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(image_row.detections, name), getattr(other.detections, name), name)


def test_rows_are_the_same_after_a_round_trip(tmp_path: Path):
    rows = [row("a.jpg", DOG, DOG), failed_row(), row("c.jpg", masks=True), row("d.jpg", masks=False)]
    for wrote, read in zip(rows, back(tmp_path, *rows), strict=True):
        assert_same(wrote, read)


def test_keypoints_come_back_with_the_number_of_the_detector(tmp_path: Path):
    dog = found(keypoints=[(1, 2, 0.5), (-3.5, 9, 0.25)])
    none = replace(row("b.jpg"), detections=Detections.empty(4, 6, keypoints=2))
    rows = [row("a.jpg", dog, found(keypoints=[(0, 0, 0), (2.25, 3, 1)])), failed_row(), none]
    for wrote, read in zip(rows, back(tmp_path, *rows), strict=True):
        assert_same(wrote, read)
    points = pq.read_table(shard_url(str(tmp_path), 0).url)["keypoints"].to_pylist()
    assert points[0][0] == [{"x": 1, "y": 2, "score": 0.5}, {"x": -3.5, "y": 9, "score": 0.25}]
    assert points[1:] == [None, []]


def test_a_shard_without_the_column_of_keypoints_is_read_as_before(tmp_path: Path):
    url = write(tmp_path, row("a.jpg", found(keypoints=[(1, 2, 0.5)])))
    table = pq.read_table(url)
    pq.write_table(table.drop_columns(["keypoints"]), url)
    (read,) = read_shard(url, STORAGE)
    assert read.detections is not None
    assert read.detections.keypoints is None


def test_detections_of_images_without_keypoints_are_read_beside_others_as_absent_points(tmp_path: Path):
    rows = [row("a.jpg", found()), row("b.jpg", found(keypoints=[(1, 2, 0.5)]))]
    first, second = (read.detections for read in back(tmp_path, *rows))
    assert first is not None
    assert second is not None
    assert first.keypoints.tolist() == [[[0, 0, 0]]]
    assert second.keypoints.tolist() == [[[1, 2, 0.5]]]


def test_a_different_number_of_keypoints_is_a_corrupt_shard(tmp_path: Path):
    rows = [row("a.jpg", found(keypoints=[(1, 2, 0.5)])), row("b.jpg", found(keypoints=[(1, 2, 0.5)] * 2))]
    with pytest.raises(StoreError, match="different numbers of keypoints"):
        back(tmp_path, *rows)


def test_large_columns_can_be_excluded(tmp_path: Path):
    spread = np.array([[0.25, 0.75]], np.float32)
    image_row = row("a.jpg", DOG)
    assert image_row.detections is not None
    url = write(
        tmp_path, replace(image_row, detections=replace(image_row.detections, multiclass_score=spread)), failed_row()
    )
    cheap = [name for name in SHARD_SCHEMA.names if name not in ("masks", "multiclass_scores")]
    read, failed = read_shard(url, STORAGE, cheap)
    assert read.detections is not None
    assert (read.detections.mask, read.detections.multiclass_score) == (None, None)
    assert read.detections.label.tolist() == ["Dog"]
    assert failed.error == "no such file"


@pytest.mark.parametrize(
    ("file_name", "browser", "applied"),
    [
        ("a.heic", None, None),
        ("A.HEIF", None, None),
        ("a.hif", None, None),
        ("a.heic", 6, 6),  # a JPEG by another name, of a release that records what browsers show
        ("a.jpg", None, 6),
        ("a.avif", None, 6),
    ],
)
def test_heic_rows_of_earlier_releases_are_read_as_already_upright(
    tmp_path: Path, file_name: str, browser: int | None, applied: int | None
):
    """They recorded the turn that HEIC's reader had done already."""
    image_row = replace(row(file_name, DOG), exif_orientation=6, browser_orientation=browser)
    url = write(tmp_path, image_row)
    if browser is None:
        pq.write_table(pq.read_table(url).drop_columns(["browser_orientation", "dropped"]), url)
    (read,) = read_shard(url, STORAGE)
    assert read.exif_orientation == applied
    stored = read.in_frame("stored")
    assert (stored.height, stored.width) == ((4, 6) if applied is None else (6, 4))
    assert (read.orientation_to("stored"), read.orientation_to("browser")) == ((1, 1) if applied is None else (8, 1))


def test_passwords_and_signatures_are_not_stored(tmp_path: Path):
    url = write(tmp_path, row("a.jpg", uri="https://me:planted@host/a.jpg?v=1&X-Amz-Signature=planted"))
    assert [image_row.uri for image_row in read_shard(url, STORAGE)] == ["https://host/a.jpg?v=1"]
    assert b"planted" not in Path(url).read_bytes()


def test_image_labels_and_class_distributions_come_back(tmp_path: Path):
    labels = (ImageLabel(281, "tabby", "", 0.5), ImageLabel(282, "tiger cat", "", 0.25))
    image_row = row("a.jpg", found(), found(), image_labels=labels)
    spread = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    image_row = replace(image_row, detections=replace(image_row.detections, multiclass_score=spread))
    (read,) = back(tmp_path, image_row)
    assert read.image_labels == labels
    np.testing.assert_array_equal(read.detections.multiclass_score, spread)


def test_an_image_without_detections_is_read_where_a_run_keeps_distributions(tmp_path: Path):
    nothing = replace(row("a.jpg"), detections=replace(Detections.empty(4, 6), multiclass_score=np.empty((0, 3))))
    (read,) = back(tmp_path, nothing)
    assert read.detections is not None
    assert len(read.detections.multiclass_score) == 0


def test_seconds_by_stage_come_back_and_are_summed_in_the_record(tmp_path: Path):
    rows = [replace(row(name), seconds={"read": 0.5, "decode": 0.25}) for name in ("a.jpg", "b.jpg")]
    record = write_shard(rows, str(tmp_path), STORAGE, shard=3, run_id="run-1")
    assert record.seconds["read"] == 1.0
    assert record.seconds["decode"] == 0.5
    assert record.seconds["write"] >= 0
    assert next(read_shard(shard_url(str(tmp_path), 3), STORAGE)).seconds == {"read": 0.5, "decode": 0.25}


def test_the_record_counts_what_is_in_the_file_and_can_be_recomputed_from_it(tmp_path: Path):
    rows = [row("a.jpg", DOG, DOG), failed_row(), row("c.jpg", DOG)]
    record = write_shard(rows, str(tmp_path), STORAGE, shard=12, run_id="run-1")
    assert (record.name, record.rows, record.failed, record.detections) == ("shard-00012.parquet", 3, 1, 3)
    assert record.failures == {"FetchError": 1}
    content = load_shard(str(tmp_path), 12, STORAGE)
    assert content.run_id == "run-1"
    assert replace(content.record, seconds={}) == replace(record, seconds={})


def test_a_shard_without_any_detection_has_the_same_schema_as_one_with(tmp_path: Path):
    full = pq.read_schema(write(tmp_path, row("a.jpg", DOG), shard=0))
    empty = pq.read_schema(write(tmp_path, row("a.jpg"), failed_row(), shard=1))
    assert full.equals(SHARD_SCHEMA)
    assert empty.equals(SHARD_SCHEMA)


def test_a_second_write_overwrites_its_own_file_and_leaves_nothing_else(tmp_path: Path):
    for _ in range(2):
        write(tmp_path, row("a.jpg", DOG))
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["shard-00000.parquet"]


def test_shard_names_sort_and_never_depend_on_their_number_of_shards():
    assert [shard_name(n) for n in (0, 7, 99_999, 123_456)] == [
        "shard-00000.parquet", "shard-00007.parquet", "shard-99999.parquet", "shard-123456.parquet",
    ]  # fmt: skip


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.99])
def test_a_corrupt_file_is_a_one_line_store_error(tmp_path: Path, cut: float):
    path = Path(write(tmp_path, row("a.jpg", DOG)))
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
    for read in (lambda: list(read_shard(str(path), STORAGE)), lambda: load_shard(str(tmp_path), 0, STORAGE)):
        with pytest.raises(StoreError, match="cannot be read") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_file_of_another_schema_is_refused_with_the_differing_column(tmp_path: Path):
    path = tmp_path / "shards" / "shard-00000.parquet"
    path.parent.mkdir()
    table = pq.read_table(write(tmp_path, row("a.jpg"), shard=1))
    pq.write_table(table.set_column(4, "error_type", pa.array([1])), path)
    with pytest.raises(StoreError, match="error_type"):
        list(read_shard(str(path), STORAGE))


def test_the_error_for_a_missing_file_says_how_to_create_it(tmp_path: Path):
    with pytest.raises(StoreError, match=r"missing.*prelabel label"):
        list(read_shard(shard_url(str(tmp_path), 5), STORAGE))


def test_duckdb_reads_it_as_it_is(tmp_path: Path):
    duckdb = pytest.importorskip("duckdb")
    write(tmp_path, row("a.jpg", found("Dog"), found("Cat")), failed_row())
    rows = duckdb.read_parquet(f"{tmp_path}/shards/*.parquet")
    counts = "SELECT label, count(*) FROM (SELECT unnest(labels) AS label FROM r) GROUP BY 1 ORDER BY 1"
    assert rows.query("r", counts).fetchall() == [("Cat", 1), ("Dog", 1)]
    assert rows.query("r", "SELECT boxes[1][3] FROM r WHERE len(boxes) > 0").fetchall() == [(3.0,)]


def test_pandas_reads_it_as_it_is(tmp_path: Path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(write(tmp_path, row("a.jpg", found("Dog"), found("Cat")), failed_row()))
    assert frame["labels"][0].tolist() == ["Dog", "Cat"]
    assert frame["status"].tolist() == ["ok", "failed"]


def test_polars_reads_it_as_it_is(tmp_path: Path):
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(write(tmp_path, row("a.jpg", found("Dog"), found("Cat")), failed_row()))
    assert frame["labels"].explode().drop_nulls().to_list() == ["Dog", "Cat"]
    assert frame["boxes"][0].to_list() == [[0, 0, 3, 4], [0, 0, 3, 4]]


def test_the_file_is_compressed_with_dictionaries_where_values_repeat_in_row_groups_of_256(tmp_path: Path):
    metadata = pq.ParquetFile(write(tmp_path, *[row(f"{n}.jpg", DOG, DOG) for n in range(300)])).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [256, 44]
    columns = [metadata.row_group(0).column(n) for n in range(metadata.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    with_dictionary = {column.path_in_schema for column in columns if "RLE_DICTIONARY" in column.encodings}
    assert {"labels.list.element", "mids.list.element", "classes.list.element", "model_version"} <= with_dictionary
    assert not {"masks.list.element", "scores.list.element", "sha256", "uri"} & with_dictionary


def test_detections_labeled_by_their_class_number_are_counted(tmp_path: Path):
    def called(label: str, number: int) -> dict[str, object]:
        return {**DOG, "label": label, "category_id": number}

    rows = [
        row("a.jpg", called("91", 91)),
        row("b.jpg", called("91", 91)),
        row("c.jpg", called("3", 3)),
        row("d.jpg", called("dog", 18)),
        row("e.jpg", called("7", 8)),
        failed_row(),
    ]
    record = write_shard(rows, str(tmp_path), STORAGE, shard=0, run_id="run-1")
    assert record.unnamed == {"3": 1, "91": 2}
    assert load_shard(str(tmp_path), 0, STORAGE).record.unnamed == record.unnamed
    # A label map may call class 3 "3"; a network that names its classes itself knows what it says.
    for named, unnamed in ((frozenset({"1", "3"}), {"91": 2}), (None, {})):
        records = ShardRecords(named)
        records.add(record)
        assert records[0].unnamed == unnamed
