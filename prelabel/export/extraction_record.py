"""The record of an extraction while it is made: what earlier calls wrote, and what this call adds.

    PREFIX/extracted.parquet            the complete record; removed before the first file is written
    PREFIX/.extracted/00000.parquet     what it said, or nothing: the files below PREFIX are those of an extraction
    PREFIX/.extracted/00001.parquet     what this call has written so far; removed after the record is published

A file that an earlier call wrote counts only if it is still there with the same size, and if its image is in the plan
and still has the same stem.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prelabel.errors import ConfigError, ExportError
from prelabel.export.file_names import stem_of
from prelabel.image_ref import ImageRef
from prelabel.source.walk import walk
from prelabel.storage.address import Address, describe
from prelabel.store.extracted import (
    EXTRACTED,
    EXTRACTED_SCHEMA,
    ExtractedFile,
    files_of,
    read_record,
    table_of,
    write_record,
)
from prelabel.store.plan import digests_of
from prelabel.store.run import Run
from prelabel.store.subset import ABSENT, ImageOrder

#: Folder of the parts. Sources skip hidden folders.
PARTS = ".extracted"

#: Files and seconds after which a part is written. A call after a crash writes at most as many files again.
_PART_FILES, _PART_S = 1000, 30.0


class ExtractionRecord:
    """The files of a run's images below a prefix. Not thread-safe."""

    def __init__(self, to: str, run: Run) -> None:
        """Read what earlier calls wrote.

        Raises:
            ConfigError: It is of another run, or there are other files: an extraction replaces only files of its own.
            ExportError: The prefix cannot be listed.
            StoreError: A record cannot be read.
        """
        self._root, self._storage, self._run_id = Address.of_folder(to), run.storage, run.record.run_id
        self._planned = ImageOrder.of(run.plan().digests())
        self._parts = sorted(name for name in self._storage.names(self._root.join(PARTS)) if name.endswith(".parquet"))
        record = self._read(EXTRACTED)
        tables = [self._read(f"{PARTS}/{name}") for name in self._parts]
        self._has_record = record is not None
        if record is None and not self._parts and (file := next(self._files(), None)) is not None:
            raise ConfigError(f"--to {self._root} has other files, such as {file.file_name!r}: choose an empty folder")
        self._earlier = self._only_valid([table for table in (record, *tables) if table is not None])
        self._is_complete = record is not None and not self._parts and len(record) == len(self._earlier)
        self._order = ImageOrder.of(_digests(self._earlier))
        self._outdated: set[str] = set()
        self._added: list[pa.Table] = []
        self._new: list[ExtractedFile] = []
        self._written_at = time.monotonic()

    def _read(self, name: str) -> pa.Table | None:
        record = read_record(self._root.join(name), self._storage)
        if record is None:
            return None
        table, run_id = record
        if run_id != self._run_id:
            raise ConfigError(
                f"--to {self._root} has the images of another run (run_id {run_id[:8]}): choose another place. If they "
                "are the same images, exports of this run can use these files with --extracted"
            )
        return table

    def _only_valid(self, tables: Sequence[pa.Table]) -> pa.Table:
        """The last row of each image, if the plan has the image, and its file is there."""
        if not any(map(len, tables)):
            return EXTRACTED_SCHEMA.empty_table()
        table = pa.concat_tables(tables).combine_chunks()
        last = sorted({image_id: place for place, image_id in enumerate(table["image_id"].to_pylist())}.values())
        table = table.take(pa.array(last, pa.int64()))
        sizes = {file.file_name: file.size for file in self._files()}
        is_there = [
            sizes.get(path) == size
            for path, size in zip(table["uri"].to_pylist(), table["bytes"].to_pylist(), strict=True)
        ]
        is_planned = self._planned.places_of(_digests(table)) != ABSENT
        return table.filter(pa.array(np.array(is_there, bool) & is_planned))

    def _files(self) -> Iterator[ImageRef]:
        """Every file below the prefix except the record and its parts."""
        try:
            yield from walk(
                self._root, self._storage, enter=lambda folder: folder != PARTS, choose=lambda path: path != EXTRACTED
            )
        except FileNotFoundError:
            return
        except OSError as error:
            raise ExportError(f"cannot list {self._root}: {describe(error)}") from error

    def find(self, refs: Sequence[ImageRef], stems: Sequence[str]) -> dict[str, ExtractedFile]:
        """The files that images have, by id.

        Args:
            refs: Images of the plan; each must be looked up once.
            stems: The stems of their files. A file with another one is forgotten.
        """
        places = self._order.places_of(digests_of([ref.image_id for ref in refs]))
        files = files_of(self._earlier.take(pa.array(places[places != ABSENT])))
        stem = {ref.image_id: stem for ref, stem in zip(refs, stems, strict=True)}
        self._outdated |= {file.image_id for file in files if stem_of(file.uri) != stem[file.image_id]}
        return {file.image_id: file for file in files if file.image_id not in self._outdated}

    def forget(self, image_id: str) -> None:
        """Forget the file of an image, which is not that of the image that was labeled."""
        self._outdated.add(image_id)

    def begin(self) -> None:
        """Remove the complete record; to be called before a file is written. What it says goes into a part."""
        self._is_complete = False
        if self._has_record or not self._parts:
            self._write_part(self._remaining())
        if self._has_record:
            self._storage.delete(self._root.join(EXTRACTED))
            self._has_record = False

    def add(self, file: ExtractedFile) -> None:
        """Add a file that is written, and from time to time write a part."""
        self._new.append(file)
        if len(self._new) >= _PART_FILES or time.monotonic() - self._written_at > _PART_S:
            self.save()

    def save(self) -> None:
        """Write a part with the files that are in none."""
        if self._new:
            self._added.append(table_of(self._new))
            self._new = []
            self._write_part(self._added[-1])
        self._written_at = time.monotonic()

    def publish(self) -> None:
        """Publish the complete record, in the order of the plan, and remove the parts."""
        table = self._remaining()
        if self._is_complete and len(table) == len(self._earlier):
            return
        table = pa.concat_tables([table, *self._added, table_of(self._new)]).combine_chunks()
        order = np.argsort(self._planned.places_of(_digests(table)), kind="stable")
        write_record(self._root.join(EXTRACTED), self._storage, table.take(pa.array(order)), self._run_id)
        for name in self._parts:
            self._storage.delete(self._root.join(PARTS, name))

    def _remaining(self) -> pa.Table:
        outdated = pc.is_in(self._earlier["image_id"], value_set=pa.array(sorted(self._outdated), pa.string()))
        return self._earlier.filter(pc.invert(outdated))

    def _write_part(self, table: pa.Table) -> None:
        number = int(self._parts[-1].partition(".")[0]) + 1 if self._parts else 0
        self._parts.append(f"{number:05d}.parquet")
        write_record(self._root.join(PARTS, self._parts[-1]), self._storage, table, self._run_id)


def _digests(table: pa.Table) -> npt.NDArray[np.bytes_]:
    return digests_of(table["image_id"].to_pylist())
