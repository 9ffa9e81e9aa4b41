"""The record of a run's images that were written as files: which image is in which file.

    PREFIX/extracted.parquet        image_id               uri                    labeled_sha256   turned
                                    shard.tar/a.jpg        shard.tar/a.jpg        5f0e...          false
                                    shard.tar/b            shard.tar/b.png        91ab...          false

`prelabel extract` writes it last. Exports with `--extracted PREFIX` then name these files instead of those that were
labeled (`ExtractedFiles`). Images are found by their ids and checksums, so the record also serves other runs over the
same images. The columns `image_id` and `uri` make it a list of images, too.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prelabel.errors import ConfigError, StoreError
from prelabel.storage.address import Address, AddressLike, describe, join, redact
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.plan import Plan, digests_of
from prelabel.store.rows import ImageFacts
from prelabel.store.subset import ABSENT, ImageOrder, Positions, Subset

#: The record, below the prefix.
EXTRACTED = "extracted.parquet"

EXTRACTED_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("labeled_sha256", pa.string(), nullable=False),
        pa.field("turned", pa.bool_(), nullable=False),
    ]
)

_RUN_ID, _VERSION = b"prelabel.run_id", b"prelabel.schema_version"


@dataclass(frozen=True, slots=True)
class ExtractedFile:
    """The file of an image; the fields are the columns of the record.

    Attributes:
        image_id: Id of the image.
        uri: Path of the file below the prefix.
        bytes: Size of the file.
        sha256: Checksum of the file.
        labeled_sha256: Checksum of the image that was labeled; the same unless the file is turned.
        turned: Whether the image was encoded again, with its orientation applied.
    """

    image_id: str
    uri: str
    bytes: int
    sha256: str
    labeled_sha256: str
    turned: bool


def table_of(files: Sequence[ExtractedFile]) -> pa.Table:
    """The files as rows of a record."""
    columns = [pa.array([getattr(file, field.name) for file in files], field.type) for field in EXTRACTED_SCHEMA]
    return pa.Table.from_arrays(columns, schema=EXTRACTED_SCHEMA)


def files_of(table: pa.Table) -> list[ExtractedFile]:
    """The rows of a record."""
    return [ExtractedFile(**values) for values in table.select(EXTRACTED_SCHEMA.names).to_pylist()]


def write_record(url: AddressLike, storage: Storage, table: pa.Table, run_id: str) -> None:
    """Publish a record. Raises StoreError."""
    sink = io.BytesIO()
    table = table.replace_schema_metadata({_VERSION: b"1", _RUN_ID: run_id.encode()})
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    storage.publish(url, sink.getvalue())


def read_record(url: AddressLike, storage: Storage) -> tuple[pa.Table, str] | None:
    """The rows of a record and the id of its run; None if there is no record.

    Raises:
        StoreError: It cannot be read, or a later version of prelabel wrote it.
    """
    address = Address.of(url)
    try:
        table = pq.read_table(io.BytesIO(storage.read(address)), page_checksum_verification=True)
        metadata = table.schema.metadata or {}
        version, run_id = (metadata.get(key, b"").decode() for key in (_VERSION, _RUN_ID))
        table = table.select(EXTRACTED_SCHEMA.names).cast(EXTRACTED_SCHEMA).combine_chunks()
        table.validate(full=True)
        if any(column.null_count for column in table.columns):
            raise ValueError("a value is null")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise StoreError(f"{address} cannot be read: {describe(error)}") from error
    if version != "1":
        raise StoreError(f"{address} has schema version {version!r}, but this version of prelabel reads '1'")
    return table, run_id


@dataclass(frozen=True, slots=True, repr=False)
class ExtractedFiles:
    """The files of a run's images.

    Attributes:
        prefix: Folder or prefix of the files.
        table: Rows of the record.
        by_shard: `(images,)` the row of each image of a shard, or `ABSENT`.
        of_other_run: Whether they were extracted from another run, so that those of this one go elsewhere.
    """

    prefix: str
    table: pa.Table
    by_shard: Mapping[int, Positions]
    of_other_run: bool

    @classmethod
    def read(cls, prefix: str, run_id: str, plan: Plan, storage: Storage) -> ExtractedFiles:
        """Read the record below a prefix, and find the images of a run and its plan in it.

        Raises:
            ConfigError: There is no record.
            StoreError: The record cannot be read.
        """
        record = read_record(join(prefix, EXTRACTED), storage)
        if record is None:
            raise ConfigError(
                f"--extracted {redact(prefix)}: there is no {EXTRACTED}, which `prelabel extract` writes last. Run "
                f"`prelabel extract RUN --to {redact(prefix)}` to its end"
            )
        table, extracted_from = record
        order = ImageOrder.of(digests_of(table["image_id"].to_pylist()))
        places = order.places_of(plan.digests())
        by_shard = dict(enumerate(np.split(places, plan.starts()[1:-1])))
        return cls(prefix, table, by_shard, of_other_run=extracted_from != run_id)

    def only(self, shard: int) -> ExtractedFiles:
        """The files of one shard, to send them to another process."""
        places = self.by_shard[shard]
        there = places != ABSENT
        numbered = np.where(there, np.cumsum(there) - 1, ABSENT)
        return replace(self, table=self.table.take(places[there]), by_shard={shard: numbered})

    def without_file(self, subset: Subset | None) -> dict[int, Positions]:
        """The positions of the images in each shard that have no file; all images are looked at without a subset."""
        missing = {shard: np.flatnonzero(places == ABSENT) for shard, places in self.by_shard.items()}
        if subset is not None:
            chosen = subset.by_shard.items()
            missing = {shard: np.intersect1d(missing[shard], positions) for shard, positions in chosen}
        return {shard: positions for shard, positions in missing.items() if len(positions)}

    def applied(self, batch: DetectionBatch, shard: int, positions: Sequence[int]) -> DetectionBatch:
        """The batch with the files in place of the images that were labeled.

        A turned file has all its frames in common: its pixels are those of the displayed image.

        Args:
            batch: Detections in the display frame, with the checksums of the images.
            shard: The shard.
            positions: Position of each image in the shard.

        Raises:
            StoreError: An image that did not fail has no file, or has changed since it was extracted.
        """
        places = self.by_shard[shard][list(positions)]
        files = iter(files_of(self.table.take(places[places != ABSENT])))
        images = []
        for image, failed, place in zip(batch.images, batch.failed, places.tolist(), strict=True):
            file = next(files) if place != ABSENT else None
            images.append(image if failed else self._applied(image, file))
        return replace(batch, images=images)

    def _applied(self, image: ImageFacts, file: ExtractedFile | None) -> ImageFacts:
        if file is None:
            raise self.missing(image.image_id)
        if image.sha256 not in (None, file.labeled_sha256):
            raise StoreError(
                f"image {image.image_id!r} in {redact(self.prefix)} is not the one that was labeled: it has changed "
                f"since it was extracted, or another image of this name was extracted. {self._advice()}"
            )
        image = replace(
            image,
            uri=join(self.prefix, file.uri),
            file_name=file.uri,
            location=None,
            bytes=file.bytes,
            sha256=file.sha256,
        )
        return replace(image, exif_orientation=None, browser_orientation=None) if file.turned else image

    def missing(self, image_id: str, others: int = 0) -> StoreError:
        """The error about an image that has no file, and so many others."""
        more = f" and {others:,} more" if others else ""
        return StoreError(f"no file in {redact(self.prefix)} for image {image_id!r}{more} of the run. {self._advice()}")

    def _advice(self) -> str:
        if self.of_other_run:
            return (
                "The files are of another run: run `prelabel extract RUN --to` another folder, and give that to "
                "--extracted"
            )
        return f"Run `prelabel extract RUN --to {redact(self.prefix)}`, or choose images with --images"
