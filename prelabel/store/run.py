"""`run.json` and `manifest.json`: what a run is, and what it has become.

`run.json` is written before the first shard and says which plan and which detector belong to the output; a run exists
from that moment on. `manifest.json` is written last and names every shard; a run is finished from that moment on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from prelabel.errors import StoreError
from prelabel.frames import DISPLAY
from prelabel.storage import Storage, describe, join, redact
from prelabel.store.links import Links
from prelabel.store.plan import Plan, PlanPart
from prelabel.store.rows import ImageRow
from prelabel.store.schema import SCHEMA_VERSION, SHARD_SCHEMA
from prelabel.store.shards import ShardRecord, read_shard, shard_url

RUN = "run.json"
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class ClassName:
    """One class of the detector's label map: its number, its name, its Freebase MID or `""`."""

    id: int
    name: str
    mid: str = ""


@dataclass(frozen=True, slots=True)
class DetectorRecord:
    """The detector a run was made with: enough to tell whether another one is the same.

    Attributes:
        name: Catalogue name, or the name of its folder or archive.
        address: Where it came from, as the user gave it (without secrets).
        fingerprint: SHA-256 over the model's files, hex.
        model_version: What annotation tools show: the name and the start of the fingerprint.
        convention: Which convention of inputs and outputs was recognised.
        masks: Whether it gives masks.
        classes: Its label map, or None where the network itself names its classes.
        reading: How its numbers are read (the range of its input, what a row of a classifier is, what masks show), each
            with `value` and `why`; None in runs from before this was decided once for a model.
        notes: What somebody should know who reads the run: outputs that are not used, options that contradict the
            graph.
    """

    name: str
    address: str
    fingerprint: str
    model_version: str
    convention: str
    masks: bool
    classes: tuple[ClassName, ...] | None
    reading: Mapping[str, Mapping[str, str]] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OptimizationRecord:
    """How the network of a run is run: decided once, the same for every worker and every call that goes on with it.

    Attributes:
        numbers: `"off"` (as loaded), `"exact"` (as one constant graph where it can be one), `"bfloat16"` or
            `"float16"` (so, with its largest convolutions in that type).
        share: Of the convolutions' work, so much is done in that type.
        gain: How many times faster than exact that was, or None where it was not measured.
        images: Images of the run on which it was compared.
        why: In words, where there was a choice.
    """

    numbers: str = "off"
    share: float = 1.0
    gain: float | None = None
    images: int = 0
    why: str = ""

    def __str__(self) -> str:
        words = [self.numbers]
        if self.numbers not in ("off", "exact"):
            words = [f"{self.numbers} in {self.share:.0%} of the convolutions' work, {self.gain or 1:.2f} x faster"]
        return "; ".join([*words, self.why] if self.why else words)


@dataclass(frozen=True, slots=True)
class RetryRecord:
    """A call that ran failed images of a run again with other limits than those that the run was begun with.

    Attributes:
        began: When, UTC.
        settings: What differed, by name. Rows that were ok stayed as they were.
    """

    began: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The content of `run.json`."""

    run_id: str
    created: str
    settings: Mapping[str, Any]
    source: Mapping[str, Any]
    detector: DetectorRecord
    shard_size: int
    parts: tuple[PlanPart, ...]
    versions: Mapping[str, str]
    optimization: OptimizationRecord = OptimizationRecord()
    retries: tuple[RetryRecord, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def shards(self) -> int:
        """Number of shards planned."""
        return sum(part.shards for part in self.parts)

    @property
    def images(self) -> int:
        """Number of images planned."""
        return sum(part.images for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """As it stands in `run.json`; the plan's totals are stated for readers."""
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
        """Raises StoreError for a file of another version or shape."""
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise StoreError(f"{RUN} has schema version {version!r}; this prelabel reads {SCHEMA_VERSION}")
        try:
            detector = dict(values["detector"])
            classes = detector.pop("classes")
            notes = tuple(detector.pop("notes", ()))
            return cls(
                run_id=values["run_id"],
                created=values["created"],
                settings=values["settings"],
                source=values["source"],
                detector=DetectorRecord(
                    classes=None if classes is None else tuple(ClassName(**one) for one in classes),
                    notes=notes,
                    **detector,
                ),
                shard_size=values["plan"]["shard_size"],
                parts=tuple(PlanPart(**part) for part in values["plan"]["parts"]),
                versions=values["versions"],
                # Runs from before there was a choice ran their network as loaded.
                optimization=OptimizationRecord(**values.get("optimization", {})),
                retries=tuple(RetryRecord(**retry) for retry in values.get("retries", ())),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{RUN} is damaged: {describe(error)}") from None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        run_id: As in `run.json`.
        finished: When, UTC.
        shards: Every one of the run.
        seconds: Of the call that finished it: `wall`, and by stage summed over workers.
        runner: What that call's workers ran on, `"local"` or `"ray"`; `""` where that was not written down.
    """

    run_id: str
    finished: str
    shards: tuple[ShardRecord, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    runner: str = ""

    @property
    def totals(self) -> dict[str, Any]:
        """Rows, failures (also by reason), detections (those left out, too) and bytes over all shards."""
        failures: Counter[str] = Counter()
        for record in self.shards:
            failures.update(record.failures)
        return {
            "shards": len(self.shards),
            "rows": sum(r.rows for r in self.shards),
            "failed": sum(r.failed for r in self.shards),
            "detections": sum(r.detections for r in self.shards),
            "dropped": sum(r.dropped for r in self.shards),
            "bytes": sum(r.bytes for r in self.shards),
            "failures": dict(sorted(failures.items())),
        }

    def to_json(self) -> dict[str, Any]:
        """As it stands in `manifest.json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "finished": self.finished,
            "totals": self.totals,
            "seconds": dict(self.seconds),
            "runner": self.runner,
            "shards": [record.to_json() for record in self.shards],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Manifest:
        """Raises StoreError for a file of another shape."""
        try:
            return cls(
                run_id=values["run_id"],
                finished=values["finished"],
                shards=tuple(ShardRecord.from_json(record) for record in values["shards"]),
                seconds=values["seconds"],
                runner=values.get("runner", ""),
            )
        except (KeyError, TypeError) as error:
            raise StoreError(f"{MANIFEST} is damaged: {describe(error)}") from None


def write_json(url: str, storage: Storage, values: Mapping[str, Any]) -> None:
    """Publish a JSON file whole, indented for people, strict (no NaN)."""
    storage.publish(url, (json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _read_json(url: str, storage: Storage) -> Mapping[str, Any] | None:
    try:
        values = json.loads(storage.read(url))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise StoreError(f"{redact(url.rpartition('/')[0])} is a file; the output of a run is a folder") from None
    except (ValueError, OSError, RecursionError) as error:
        raise StoreError(f"{redact(url)} cannot be read: {describe(error)}") from None
    if not isinstance(values, dict):
        raise StoreError(f"{redact(url)} is damaged: not a JSON object")
    return values


def read_run(output: str, storage: Storage) -> RunRecord | None:
    """`run.json` of an output, or None where no run was begun. Raises StoreError for a damaged one."""
    values = _read_json(join(output, RUN), storage)
    return None if values is None else RunRecord.from_json(values)


def read_manifest(output: str, storage: Storage) -> Manifest | None:
    """`manifest.json` of an output, or None while the run is not finished. Raises StoreError for a damaged one."""
    values = _read_json(join(output, MANIFEST), storage)
    return None if values is None else Manifest.from_json(values)


@dataclass(frozen=True, slots=True)
class RunRows:
    """The rows of finished shards in plan order; each call begins reading anew. Can be sent to another process.

    Attributes:
        output: Root of the run's output.
        storage: Opens it.
        shards: Number and rows of each shard, in order.
        left_out: Columns that are not read.
        links: Addresses that stand in place of those stored.
        frame: In which sizes, boxes and masks are given; one of `prelabel.frames`.
    """

    output: str
    storage: Storage
    shards: tuple[tuple[int, int], ...]
    left_out: frozenset[str] = frozenset()
    links: Links | None = None
    frame: str = DISPLAY

    def __call__(self, columns: Sequence[str] | None = None) -> Iterator[ImageRow]:
        """The rows, one row group in memory at a time. Raises StoreError for a damaged shard.

        Args:
            columns: Leave out the costly columns that are not wanted, see `read_shard`.
        """
        if columns is None and self.left_out:
            columns = [name for name in SHARD_SCHEMA.names if name not in self.left_out]
        for shard, _ in self.shards:
            whole = {} if self.links is None else self.links.of(shard)
            for position, row in enumerate(read_shard(shard_url(self.output, shard), self.storage, columns)):
                row = row.in_frame(self.frame)
                yield replace(row, uri=whole[position]) if position in whole else row

    def __len__(self) -> int:
        return sum(rows for _, rows in self.shards)

    def without(self, *names: str) -> RunRows:
        """The same rows without these columns; `ImageRow` must have a default for them."""
        return replace(self, left_out=self.left_out | {*names})

    def in_frame(self, frame: str) -> RunRows:
        """The same rows with sizes, boxes and masks in another frame; their orientations must not be left out."""
        return replace(self, frame=frame)

    def by_shard(self) -> list[RunRows]:
        """The rows of each shard."""
        links = self.links
        return [
            replace(self, shards=(one,), links=None if links is None else links.only(one[0])) for one in self.shards
        ]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, opened for reading."""

    output: str
    storage: Storage
    record: RunRecord
    manifest: Manifest

    @property
    def rows(self) -> RunRows:
        """All rows in plan order: `for row in run.rows():`."""
        return RunRows(self.output, self.storage, tuple((one.shard, one.rows) for one in self.manifest.shards))

    @property
    def signed(self) -> int:
        """Images whose address held a signature or a password when the source was listed: it was not stored."""
        return sum(int(source.get("signed") or 0) for source in self.record.source.get("sources") or ())

    def rows_to_fetch(self, links: Links) -> RunRows:
        """The same rows under their whole addresses, for reading the images again."""
        return replace(self.rows, links=links)

    def plan(self) -> Plan:
        """Which image is in which shard."""
        return Plan.open(self.output, self.record.parts, self.storage)


def open_run(output: str, storage: Storage) -> Run:
    """Open a finished run.

    Raises:
        StoreError: There is no run, or it is not finished.
    """
    record = read_run(output, storage)
    if record is None:
        raise StoreError(f"no run at {redact(output)}: {RUN} is missing (give the --output of `prelabel label`)")
    manifest = read_manifest(output, storage)
    if manifest is None or manifest.run_id != record.run_id or len(manifest.shards) != record.shards:
        raise StoreError(f"the run at {redact(output)} is not finished: the same `prelabel label` command goes on")
    return Run(output, storage, record, manifest)
