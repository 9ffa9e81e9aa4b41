"""`run.json` and `manifest.json`: the settings of a run, and its results.

`run.json` is written before the first shard and names the run's plan and detector: from then on the run exists.
`manifest.json` is written last and names every shard: from then on the run is finished. A run that was made from other
runs names them in `run.json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from prelabel.detections import ClassName
from prelabel.detectors.base import OFF, Decision, DetectorRecord, Optimization
from prelabel.errors import StoreError
from prelabel.frames import DISPLAY
from prelabel.keypoints import KeypointSet, Pairs
from prelabel.storage.address import Address, AddressLike, describe
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.extracted import ExtractedFiles
from prelabel.store.links import Links
from prelabel.store.plan import Plan, PlanPart
from prelabel.store.records import ShardRecords
from prelabel.store.rows import SCHEMA_VERSION, SHARD_SCHEMA, ImageRow
from prelabel.store.shards import read_batches, read_classes, shard_url
from prelabel.store.subset import ImageOrder, Subset

RUN = "run.json"
MANIFEST = "manifest.json"

#: What is between the other values of a manifest and the lines of its shards, and what follows these.
_BEFORE_SHARDS, _AFTER_SHARDS = b',\n "shards": [\n', b"\n]}\n"

#: Bytes in which the other values of a manifest are, unless images failed with hundreds of error classes.
_MOST_OF_HEAD = 1 << 16

#: Bytes of these lines that are parsed at once.
_BYTES_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class RetryRecord:
    """A call that retried failed images with other limits than those with which the run was begun.

    Attributes:
        began: Time at which the call began, UTC.
        settings: The settings that differed, by name.
    """

    began: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FusedRun:
    """A run whose detections were merged into those of another run, as the `run.json` of the other one has it.

    Attributes:
        run: Path or URL, without secrets.
        run_id: Id of the run.
        finished: Time at which the run was finished, UTC; later if its rows were changed since then.
        weight: Weight of its detections.
        images: Number of images.
        failed: Number of failed images among them.
        detections: Number of detections.
        settings: As in its own `run.json`.
        detector: As in its own `run.json`.
        fused: The runs that were merged into this one.
    """

    run: str
    run_id: str
    finished: str
    weight: float
    images: int
    failed: int
    detections: int
    settings: Mapping[str, Any]
    detector: DetectorRecord
    fused: tuple[FusedRun, ...] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FusedRun:
        """Parse an entry of `run.json`. Raises KeyError or TypeError if it is invalid."""
        nested = {"detector": _detector(values["detector"]), "fused": _fused(values)}
        return cls(**{**values, **nested})


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The content of `run.json`.

    Attributes:
        fused: The runs that were merged into this one by `prelabel fuse`; empty for a run of `prelabel label`.
        earlier_sources: Sources of the run's images that are not in `settings`, as `--add-new` was given others later.
    """

    run_id: str
    created: str
    settings: Mapping[str, Any]
    source: Mapping[str, Any]
    detector: DetectorRecord
    shard_size: int
    parts: tuple[PlanPart, ...]
    versions: Mapping[str, str]
    optimization: Optimization = OFF
    retries: tuple[RetryRecord, ...] = ()
    fused: tuple[FusedRun, ...] = ()
    earlier_sources: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def shards(self) -> int:
        """Number of shards planned."""
        return sum(part.shards for part in self.parts)

    @property
    def images(self) -> int:
        """Number of images planned."""
        return sum(part.images for part in self.parts)

    @property
    def class_numbers(self) -> frozenset[str] | None:
        """The class numbers that the label map names, as text; None if the model itself names its classes."""
        classes = self.detector.classes
        return None if classes is None else frozenset(str(name.id) for name in classes)

    def sources_not_in(self, listed: Collection[str]) -> tuple[str, ...]:
        """The sources of the run's images that are not among these (without secrets, as in `settings`)."""
        known = dict.fromkeys((*self.earlier_sources, *self.settings.get("source", ())))
        return tuple(source for source in known if source not in listed)

    @property
    def command(self) -> str:
        """The command that made this run and resumes it."""
        return "prelabel fuse" if self.fused else "prelabel label"

    def to_json(self) -> dict[str, Any]:
        """Return the content of `run.json`; the plan's totals are included for readers."""
        values = asdict(self)
        plan = {
            "images": self.images,
            "shards": self.shards,
            "shard_size": values.pop("shard_size"),
            "parts": list(values.pop("parts")),
        }
        return {"schema_version": values.pop("schema_version"), **values, "plan": plan}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunRecord:
        """Parse the content of `run.json`.

        Raises:
            StoreError: It has another schema version, or is invalid.
        """
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{RUN} has schema version {version!r}, but this version of prelabel reads {SCHEMA_VERSION}"
            )
        try:
            return cls(
                run_id=values["run_id"],
                created=values["created"],
                settings=values["settings"],
                source=values["source"],
                detector=_detector(values["detector"]),
                shard_size=values["plan"]["shard_size"],
                parts=tuple(PlanPart(**part) for part in values["plan"]["parts"]),
                versions=values["versions"],
                # Early releases always ran the model as loaded.
                optimization=Optimization(**values.get("optimization", {})),
                retries=tuple(RetryRecord(**retry) for retry in values.get("retries", ())),
                fused=_fused(values),
                earlier_sources=tuple(values.get("earlier_sources", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{RUN} is corrupt: {describe(error)}") from None


def _fused(values: Mapping[str, Any]) -> tuple[FusedRun, ...]:
    return tuple(FusedRun.from_json(run) for run in values.get("fused", ()))


def _detector(values: Mapping[str, Any]) -> DetectorRecord:
    classes, reading, keypoints = values["classes"], values.get("reading"), values.get("keypoints")
    read: dict[str, Any] = {
        "classes": None if classes is None else tuple(ClassName(**name) for name in classes),
        "reading": None if reading is None else {about: Decision(**decision) for about, decision in reading.items()},
        "notes": tuple(values.get("notes", ())),
        "keypoints": None if keypoints is None else _keypoints(**keypoints),
    }
    return DetectorRecord(**{**values, **read})


def _keypoints(
    names: Sequence[str],
    edges: Sequence[Sequence[int]],
    pairs: Sequence[Sequence[int]] | None,
    classes: Sequence[int] | None,
) -> KeypointSet:
    def indices(entries: Sequence[Sequence[int]]) -> Pairs:
        return tuple((int(a), int(b)) for a, b in entries)

    return KeypointSet(
        tuple(map(str, names)),
        indices(edges),
        None if pairs is None else indices(pairs),
        None if classes is None else tuple(map(int, classes)),
    )


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        run_id: As in `run.json`.
        finished: Time at which the run was finished, UTC.
        shards: Records of all shards, from number 0 on.
        seconds: Seconds of the call that finished the run: `wall`, and by stage summed over workers.
        runner: Where that call's workers ran, `"local"` or `"ray"`; `""` if not recorded.
    """

    run_id: str
    finished: str
    shards: ShardRecords
    seconds: Mapping[str, float] = field(default_factory=dict)
    runner: str = ""

    @property
    def totals(self) -> dict[str, Any]:
        """Totals over all shards: rows, failures (by error class, too), detections, dropped ones, bytes and views."""
        return self.shards.totals()

    def encode(self) -> Iterator[bytes]:
        """Yield `manifest.json` in pieces: JSON with a line for each shard, so that nobody holds all of it as objects.

        Raises:
            ValueError: A number is not finite.
        """
        values = {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "finished": self.finished,
            "totals": self.totals,
            "slowest": self.shards.slowest(),
            "seconds": dict(self.seconds),
            "runner": self.runner,
        }
        lines = (f' "{key}": {json.dumps(value, ensure_ascii=False, allow_nan=False)}' for key, value in values.items())
        yield ("{\n" + ",\n".join(lines)).encode() + _BEFORE_SHARDS
        yield from self.shards.lines()
        yield _AFTER_SHARDS

    @classmethod
    def decode(cls, data: bytes, file: Address | str = MANIFEST) -> Manifest:
        """Parse `manifest.json`: as `encode` writes it in pieces, other JSON as a whole.

        Args:
            data: The content.
            file: The file, for messages.

        Raises:
            StoreError: It is invalid.
        """
        shards = ShardRecords()
        try:
            values, batches = _parsed_manifest(data)
            for entries in batches:
                shards.add_entries(entries)
            return cls(
                run_id=values["run_id"],
                finished=values["finished"],
                shards=shards,
                seconds=values["seconds"],
                runner=values.get("runner", ""),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise StoreError(f"{file} is corrupt: {describe(error)}") from None


def _parsed_manifest(data: bytes) -> tuple[Mapping[str, Any], Iterator[list[Any]]]:
    """The values of a manifest without its shards, and the entries of these, some thousand at a time."""
    begin = data.find(_BEFORE_SHARDS)
    if begin < 0 or not data.endswith(_AFTER_SHARDS):
        # Written by an earlier release, or by another program.
        values = json.loads(data)
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        return values, iter([values["shards"]])
    return json.loads(data[:begin] + b"}"), _entries(data, begin + len(_BEFORE_SHARDS), len(data) - len(_AFTER_SHARDS))


def _entries(data: bytes, begin: int, end: int) -> Iterator[list[Any]]:
    """Yield the values in a part of a file that has one on each line, with a comma after each but the last."""
    while begin < end:
        stop = data.find(b",\n", begin + _BYTES_AT_ONCE, end)
        stop = end if stop < 0 else stop
        yield orjson.loads(b"[%b]" % data[begin:stop])
        begin = stop + 2


def utc_now(timespec: str = "milliseconds") -> str:
    """Return the current time, UTC, in ISO 8601; `run.json` and `manifest.json` use seconds as `timespec`."""
    return datetime.now(UTC).isoformat(timespec=timespec)


def write_manifest(output: AddressLike, storage: Storage, manifest: Manifest) -> None:
    """Write `manifest.json`. Raises StoreError if it cannot be written."""
    storage.publish_in_pieces(Address.of_folder(output).join(MANIFEST), manifest.encode)


def write_json(url: AddressLike, storage: Storage, values: Mapping[str, Any]) -> None:
    """Publish a JSON file, indented and strict (no NaN)."""
    storage.publish(url, (json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _read(file: Address, storage: Storage) -> bytes | None:
    try:
        return storage.read(file)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise StoreError(f"{file.parent} is a file, but the output of a run is a folder") from None
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {describe(error)}") from None


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """What `manifest.json` says about all shards together.

    Attributes:
        run_id: As in `run.json`.
        totals: See `Manifest.totals`.
        slowest: Seconds of the slowest shards by file name, slowest first.
    """

    run_id: str
    totals: Mapping[str, Any]
    slowest: Mapping[str, float]


def read_manifest_head(output: AddressLike, storage: Storage) -> ManifestHead | None:
    """Read the beginning of `manifest.json`: with a million shards, the rest is 340 MB.

    Manifests of earlier releases and those that other programs have formatted are read as a whole.

    Raises:
        StoreError: It is corrupt.
    """
    file = Address.of_folder(output).join(MANIFEST)
    try:
        with storage.open(file, block_size=_MOST_OF_HEAD) as opened:
            start = opened.read(_MOST_OF_HEAD)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {describe(error)}") from None
    head, found, _ = start.partition(_BEFORE_SHARDS)
    if found and b'"slowest"' in head:
        try:
            values = json.loads(head + b"}")
            return ManifestHead(str(values["run_id"]), _totals(values["totals"]), _slowest(values["slowest"]))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise StoreError(f"{file} is corrupt: {describe(error)}") from None
    manifest = read_manifest(output, storage)
    return None if manifest is None else ManifestHead(manifest.run_id, manifest.totals, manifest.shards.slowest())


def _totals(values: Mapping[str, Any]) -> dict[str, Any]:
    """The totals of a manifest. Raises ValueError, KeyError or TypeError if they are invalid."""
    counts = [values[name] for name in ("shards", "rows", "failed", "detections", "dropped", "bytes", "views")]
    if not all(isinstance(count, int) and count >= 0 for count in (*counts, *values["failures"].values())):
        raise ValueError("a total is not a number of 0 or more")
    return dict(values)


def _slowest(values: Mapping[str, Any]) -> dict[str, float]:
    """The slowest shards of a manifest. Raises ValueError, TypeError or AttributeError if they are invalid."""
    if not all(isinstance(seconds, int | float) and 0 <= seconds < math.inf for seconds in values.values()):
        raise ValueError("a time is not a number of 0 or more")
    return dict(values)


def read_run(output: AddressLike, storage: Storage) -> RunRecord | None:
    """Read `run.json` of an output, or return None if there is no run. Raises StoreError if it is corrupt."""
    file = Address.of_folder(output).join(RUN)
    if (data := _read(file, storage)) is None:
        return None
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{file} cannot be read: {describe(error)}") from None
    if not isinstance(values, dict):
        raise StoreError(f"{file} is corrupt: not a JSON object")
    return RunRecord.from_json(values)


def read_manifest(output: AddressLike, storage: Storage) -> Manifest | None:
    """Read `manifest.json` of an output, or return None if it does not exist. Raises StoreError if it is corrupt."""
    file = Address.of_folder(output).join(MANIFEST)
    data = _read(file, storage)
    return None if data is None else Manifest.decode(data, file)


@dataclass(frozen=True, slots=True, repr=False)
class RunRows:
    """The rows of finished shards in plan order. Each call reads them again; can be sent to another process.

    Attributes:
        output: Root of the run's output, including secrets.
        storage: Opens the output.
        shards: Number and row count of each shard, in plan order.
        excluded: Columns that are not read.
        links: Full addresses that replace the stored ones.
        extracted: Files that replace the images that were labeled.
        frame: Frame of sizes, boxes and masks; one of `prelabel.frames`.
        subset: The images whose rows are read; all if it is None.
    """

    output: str
    storage: Storage
    shards: tuple[tuple[int, int], ...]
    excluded: frozenset[str] = frozenset()
    links: Links | None = None
    extracted: ExtractedFiles | None = None
    frame: str = DISPLAY
    subset: Subset | None = None

    def __call__(self, columns: Sequence[str] | None = None) -> Iterator[ImageRow]:
        """Yield the rows, with one row group in memory at a time.

        Args:
            columns: Columns to read, see `read_shard`; all by default.

        Raises:
            StoreError: A shard is missing or corrupt.
        """
        for batch in self.batches(columns):
            yield from batch.rows()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[DetectionBatch]:
        """Yield the rows as batches of detections.

        Raises:
            StoreError: A shard is missing or corrupt, or an image has no extracted file.
        """
        if columns is None and self.excluded:
            # Extracted files are those of the images that were labeled only if their checksums are the same.
            excluded = self.excluded - {"sha256"} if self.extracted is not None else self.excluded
            columns = [name for name in SHARD_SCHEMA.names if name not in excluded]
        for shard, _ in self._shards_with_rows():
            full = {} if self.links is None else self.links.of(shard)
            positions = None if self.subset is None else self.subset.by_shard[shard]
            if positions is not None and full:
                full = {n: full[position] for n, position in enumerate(positions.tolist()) if position in full}
            done = 0
            for read in read_batches(shard_url(self.output, shard), self.storage, columns, positions):
                of_batch = range(done, done + len(read.images))
                batch = read.with_uris({n - done: uri for n, uri in full.items()}) if full else read
                if self.extracted is not None:
                    at = of_batch if positions is None else positions[of_batch.start : of_batch.stop].tolist()
                    batch = self.extracted.applied(batch, shard, at)
                yield batch.in_frame(self.frame)
                done = of_batch.stop

    def classes(self) -> set[ClassName]:
        """Return the classes of all detections, also of images outside of `subset`: categories must not depend on it.

        Raises:
            StoreError: A shard is missing or corrupt.
        """
        return set().union(*(read_classes(shard_url(self.output, shard), self.storage) for shard, _ in self.shards))

    def __len__(self) -> int:
        return sum(rows for _, rows in self._shards_with_rows())

    def __repr__(self) -> str:
        return f"<{len(self):,} rows in {len(self._shards_with_rows()):,} shards>"

    @property
    def order(self) -> ImageOrder | None:
        """The order of the list that chose the images, in which tools should show them; None if no list did."""
        return None if self.subset is None else self.subset.order

    def _shards_with_rows(self) -> Sequence[tuple[int, int]]:
        """Number and row count of each shard that is read."""
        if self.subset is None:
            return self.shards
        chosen = self.subset.by_shard
        return [(shard, len(chosen[shard])) for shard, _ in self.shards if shard in chosen]

    def without(self, *names: str) -> RunRows:
        """Return the same rows without some columns; `ImageRow` must have a default for them."""
        return replace(self, excluded=self.excluded | {*names})

    def in_frame(self, frame: str) -> RunRows:
        """Return the same rows with sizes, boxes and masks in another frame; the orientation columns must be read."""
        return replace(self, frame=frame)

    def of_images(self, subset: Subset) -> RunRows:
        """Return only the rows of some images."""
        return replace(self, subset=subset)

    def of_all_images(self) -> RunRows:
        """Return the rows of all images."""
        return replace(self, subset=None)

    def with_links(self, links: Links) -> RunRows:
        """Return the same rows with their full addresses, to read the images again."""
        return replace(self, links=links)

    def with_extracted(self, files: ExtractedFiles) -> RunRows:
        """Return the same rows with extracted files in place of the images that were labeled."""
        return replace(self, extracted=files)

    def by_shard(self) -> list[RunRows]:
        """Return the rows of each shard separately."""
        return [
            replace(
                self,
                shards=((shard, rows),),
                links=None if self.links is None else self.links.only(shard),
                extracted=None if self.extracted is None else self.extracted.only(shard),
                subset=None if self.subset is None else self.subset.only(shard),
            )
            for shard, rows in self._shards_with_rows()
        ]


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """A finished run, opened for reading."""

    root: Address
    storage: Storage
    record: RunRecord
    manifest: Manifest

    def __repr__(self) -> str:
        """`Run('out/run', images=1200, failed=3, detections=8321, detector='demo-shapes')`, without secrets."""
        totals = self.manifest.totals
        counts = f"images={totals['rows']}, failed={totals['failed']}, detections={totals['detections']}"
        return f"Run({str(self.root)!r}, {counts}, detector={self.record.detector.name!r})"

    @property
    def output(self) -> str:
        """URL or absolute path of the output, including secrets."""
        return self.root.url

    @property
    def rows(self) -> RunRows:
        """All rows, in plan order; `for row in run.rows()` iterates over them."""
        return RunRows(self.output, self.storage, tuple(enumerate(self.manifest.shards.counts("rows").tolist())))

    @property
    def signed(self) -> int:
        """Number of images whose address had a signature or a password, which was not stored."""
        return sum(int(source.get("signed") or 0) for source in self.record.source.get("sources") or ())

    def plan(self) -> Plan:
        """Open the plan: the images of each shard."""
        return Plan.open(self.root, self.record.parts, self.storage)


def open_run(output: AddressLike, storage: Storage) -> Run:
    """Open a finished run.

    Raises:
        StoreError: There is no run, or the run is not finished.
    """
    root = Address.of_folder(output)
    record = read_run(root, storage)
    if record is None:
        raise StoreError(f"no run at {root}: {RUN} is missing (use the --output of `prelabel label`)")
    manifest = read_manifest(root, storage)
    if manifest is None or manifest.run_id != record.run_id or len(manifest.shards) != record.shards:
        raise StoreError(f"the run at {root} is not finished: run the same `{record.command}` command to resume")
    return Run(root, storage, record, manifest)
