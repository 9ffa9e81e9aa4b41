"""Everything that reads what others wrote, as functions of bytes: nothing but the project's own errors may come out.

python -m tests.hostile.readers --mutants 20000 --seed 1        mutants of sound files
python -m tests.hostile.guided --seconds 300                    what a coverage-guided fuzzer makes of them
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prelabel.config import label_options
from prelabel.detections import Detections
from prelabel.detectors.conventions.activation import rows_end
from prelabel.detectors.conventions.graph import enter
from prelabel.detectors.conventions.input_range import range_in
from prelabel.detectors.conventions.op_audit import find_unsafe_operations
from prelabel.detectors.conventions.protos import chosen_meta_graph, open_saved_model, read_graph
from prelabel.detectors.conventions.resolve_model import analyze_model
from prelabel.detectors.models.download import unpack
from prelabel.detectors.models.fetch import LocalModel
from prelabel.errors import PrelabelError
from prelabel.export.base import RunInfo
from prelabel.export.categories import read_categories
from prelabel.export.coco import CocoOptions, export_coco
from prelabel.export.extraction_record import ExtractionRecord
from prelabel.export.image_ids import numbering
from prelabel.labels.maps import parse_label_map
from prelabel.masks import rle
from prelabel.options import from_mapping
from prelabel.review.comparison import compare
from prelabel.review.openimages.classes import open_images_classes
from prelabel.review.openimages.truth import read_open_images
from prelabel.review.options import CompareOptions
from prelabel.review.tfrecord_truth import read_tfrecord_truth
from prelabel.review.truth import read_truth
from prelabel.select import Selection
from prelabel.source.archives.reader import ArchiveReader
from prelabel.source.fetch import fetch
from prelabel.source.listing import list_images
from prelabel.storage.files import Storage
from prelabel.store.extracted import ExtractedFile, ExtractedFiles, table_of, write_record
from prelabel.store.rows import ImageRow
from prelabel.store.run import open_run
from prelabel.store.status import read_status
from prelabel.store.verify import verify
from tests.hostile.mutants import mutant
from tests.review.openimages_cases import BOXES as OPEN_IMAGES_BOXES
from tests.rows import ListedRows
from tests.runs import RUN_ID, write_run
from tests.tfrecords import coco_examples, record, tfrecord_of

STORAGE = Storage()
DEMO = Path(__file__).parents[2] / "prelabel/detectors/models/demo_shapes/saved_model.pb"

#: Seconds and megabytes that one small file may take.
SECONDS, MEGABYTES = 20.0, 200


@dataclass(frozen=True)
class Target:
    """A reader: sound files to start from, and what reads one. It is given the bytes and an empty folder."""

    sound: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], object]


def _written(name: str, read: Callable[[str], object]) -> Callable[[bytes, Path], object]:
    def write_and_read(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data)
        return read(str(folder / name))

    return write_and_read


def _open_images(boxes: str, labels: str) -> object:
    return read_open_images(boxes, labels, STORAGE, open_images_classes(), expand=True)


def _listed(path: str) -> object:
    return list(list_images([path], STORAGE))


def _as_record(data: bytes, folder: Path) -> object:
    """Reads a damaged example as truth: its checksums are right."""
    (folder / "t.tfrecord").write_bytes(record(data))
    return read_tfrecord_truth(str(folder / "t.tfrecord"), STORAGE)


def _read(path: str) -> None:
    with ArchiveReader(STORAGE) as archives:
        for ref in list_images([path], STORAGE):
            with contextlib.suppress(PrelabelError):
                fetch(ref, STORAGE, 1 << 20, archives=archives)


def _job(path: str) -> object:
    return label_options({}, config=path).settings()


def _selection(name: str) -> Callable[[str], object]:
    return lambda path: from_mapping(Selection, {name: path}, "test")


def _compared(path: str) -> object:
    detections = Detections(6, 8, np.array([[1, 1, 5, 4]]), [18], [0.5], ["dog"], [""])
    # The image of the tasks and one of the COCO dataset's.
    rows = [ImageRow(n, n, n, "d", "m", detections=detections, height=6, width=8) for n in ("a.jpg", "a/é.jpg")]
    options = CompareOptions(predictions="o", annotations=path)
    return compare(RunInfo(detector="d", model_version="m"), ListedRows(rows), options, STORAGE)


def _coco() -> bytes:
    return json.dumps(
        {
            "info": {"a": [1, {"b": None}]},
            "images": [
                {"id": 1, "file_name": "a/é.jpg", "height": 6, "width": 8},
                {"id": 2, "file_name": "b.jpg", "height": 6, "width": 8},
            ],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 18, "bbox": [1, 1, 4, 3], "area": 12.0, "iscrowd": 0},
                {
                    "id": 2,
                    "image_id": 2,
                    "category_id": 18,
                    "bbox": [0, 0, 2.5, 2],
                    "segmentation": [[0, 0, 2, 0, 2, 2]],
                },
                {
                    **{"id": 3, "image_id": 2, "category_id": 18, "bbox": [0, 0, 8, 6], "iscrowd": 1, "area": 48},
                    "segmentation": {"size": [6, 8], "counts": [0, 48]},
                },
            ],
            "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
        }
    ).encode()


def _tasks() -> bytes:
    box = {"x": 10, "y": 10.5, "width": 20, "height": 30, "rotation": 0, "rectanglelabels": ["dog"]}
    region = {"id": "a", "type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": box}
    region |= {"original_width": 80, "original_height": 60}
    prediction = {"id": 4, "model_version": "m", "score": 0.5, "result": [{**region, "score": 0.5}]}
    annotation = {"id": 1, "result": [region], "lead_time": 3.5, "created_at": "2026-11-20T12:00:00Z"}
    annotation |= {"prediction": prediction, "parent_prediction": 4, "completed_by": 1, "ground_truth": False}
    data = {"image": "/data/upload/4/cb0618f6-a.jpg", "image_id": "a.jpg"}
    task = {"id": 1, "data": data, "annotations": [annotation], "predictions": [prediction], "drafts": []}
    return json.dumps([task]).encode()


def _parquet_list() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"uri": ["a.jpg", "s3://b/c.jpg"], "image_id": ["a", None]}), sink)
    return sink.getvalue()


def _archive(mode: str) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in (
            ("saved_model.pb", b"x" * 700),
            ("variables/variables.index", b"y"),
            ("assets/a.txt", b"z"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def _unpacked(data: bytes, folder: Path) -> None:
    (folder / "a.tar").write_bytes(data)
    (folder / "in").mkdir(exist_ok=True)
    unpack(folder / "a.tar", folder / "in", 1 << 20, "a.tar")


def _model(data: bytes, folder: Path) -> None:
    (folder / "saved_model.pb").write_bytes(data)
    graph = read_graph(folder)
    find_unsafe_operations(folder, None)
    analyze_model(LocalModel(folder, "0" * 64, "m", "m", None), None)
    with open_saved_model(folder) as opened:
        meta = chosen_meta_graph(opened)[1]
        for signature in graph.signatures:
            entry = enter(meta, signature)
            if entry is not None:
                range_in(entry)
                for output in signature.outputs:
                    rows_end(entry, output.name)


def _runs(data: bytes, folder: Path) -> None:
    size, _, counts = data.partition(b" ")
    height, width = (int(part[:5] or b"0") if part.isdigit() else 7 for part in (size + b"x").split(b"x")[:2])
    rle.validate(counts, height, width)
    rle.area(counts, height, width)
    rle.bbox_xywh(counts, height, width)
    if height * width <= 1 << 20:
        assert rle.encode(rle.decode(counts, height, width)) is not None


@cache
def _run_folder() -> Path:
    """A finished run of six rows, two of which have masks and one of which failed."""
    folder = Path(tempfile.mkdtemp(prefix="prelabel-fuzz-"))
    square = rle.encode_crop(np.ones((2, 2), bool), 1, 1, 6, 8)

    def row(number: int) -> ImageRow:
        detections = Detections(
            height=6, width=8, xyxy=[[1, 1, 3, 3]], category_id=[18], score=[0.5], label=["dog"], mid=["/m/0bt9lr"],
            mask=[square] if number < 2 else None,
        )  # fmt: skip
        name = f"{number}.jpg"
        if number == 5:
            return ImageRow(name, f"/x/{name}", name, "d", "d-0", error_type="E", error="bad", error_stage="read")
        return ImageRow(
            name, f"/x/{name}", name, "d", "d-0", detections=detections, height=6, width=8, seconds={"read": 0.1}
        )

    write_run(folder / "run", [[row(number) for number in range(start, start + 3)] for start in (0, 3)])
    return folder / "run"


def _part_of_run(pattern: str) -> Path:
    return next(path.relative_to(_run_folder()) for path in sorted(_run_folder().rglob(pattern)))


def _run_with(pattern: str) -> Target:
    def read(data: bytes, folder: Path) -> None:
        run = folder / "run"
        if not run.exists():
            shutil.copytree(_run_folder(), run)
        place = run / _part_of_run(pattern)
        place.write_bytes(data)
        try:
            for look in (lambda: verify(str(run), STORAGE), lambda: read_status(str(run), STORAGE), lambda: _used(run)):
                try:
                    look()
                except PrelabelError:
                    continue
        finally:
            shutil.copy(_run_folder() / _part_of_run(pattern), place)

    return Target(lambda: [(_run_folder() / _part_of_run(pattern)).read_bytes()], read)


def _used(folder: Path) -> None:
    run = open_run(str(folder), STORAGE)
    list(run.plan())
    export_coco(RunInfo.of(run), run.rows, str(folder.parent / "coco.json"), CocoOptions(), STORAGE)


def _extracted_record() -> bytes:
    files = [ExtractedFile(f"{n}.jpg", f"a/{n}.jpg", 3, "0" * 64, "0" * 64, n == 1) for n in range(5)]
    path = _run_folder() / "extracted.parquet"
    write_record(str(path), STORAGE, table_of(files), RUN_ID)
    return path.read_bytes()


def _extracted(data: bytes, folder: Path) -> None:
    (folder / "extracted.parquet").write_bytes(data)
    run = open_run(str(_run_folder()), STORAGE)
    rows = run.rows.with_extracted(ExtractedFiles.read(str(folder), run.record.run_id, run.plan(), STORAGE))
    for found in rows():
        assert Path(found.uri).is_relative_to(folder if found.error is None else "/x")
    ExtractionRecord(str(folder), run).publish()


TARGETS: Mapping[str, Target] = {
    "list.txt": Target(lambda: ["a.jpg\ns3://b/c d.jpg\nhttps://h/é.jpg?x=1\n".encode()], _written("l.txt", _listed)),
    "list.csv": Target(lambda: [b'uri,image_id\na.jpg,\n"b,""c.jpg",b\n'], _written("l.csv", _listed)),
    "list.jsonl": Target(
        lambda: [b'{"uri": "a.jpg"}\n{"uri": "b.jpg", "image_id": "b"}\n'], _written("l.jsonl", _listed)
    ),
    "list.parquet": Target(lambda: [_parquet_list()], _written("l.parquet", _listed)),
    "list.coco": Target(lambda: [_coco()], _written("l.json", _listed)),
    "list.tasks": Target(lambda: [_tasks()], _written("l.json", _listed)),
    "labels.pbtxt": Target(
        lambda: [b'item {\n  name: "/m/01g317"\n  id: 1\n  display_name: "person"\n}\nitem { id: 2 name: \'b\' }'],
        lambda data, _: parse_label_map("a.pbtxt", data),
    ),
    "labels.csv": Target(lambda: [b"id,name,mid\n1,dog,/m/0bt9lr\n"], lambda data, _: parse_label_map("a.csv", data)),
    "labels.json": Target(
        lambda: [b'{"1": "dog", "2": "cat"}', b'["a", "b"]', b'[{"id": 1, "name": "dog"}]'],
        lambda data, _: parse_label_map("a.json", data),
    ),
    "labels.txt": Target(lambda: [b"dog\ncat\n"], lambda data, _: parse_label_map("a.txt", data)),
    "job.yaml": Target(
        lambda: [b"source: [a, b]\ndetector: d\noutput: o\nscore-threshold: 0.4\nclass-map: {Dog: pet}\nkeep: []\n"],
        _written("j.yaml", _job),
    ),
    "job.toml": Target(
        lambda: [b'source = ["a"]\ndetector = "d"\noutput = "o"\nlimit = 3\n[class-threshold]\nDog = 0.5\n'],
        _written("j.toml", _job),
    ),
    "selection.yaml": Target(
        lambda: [b"Dog: 0.5\n'/m/0bt9lr': 0.25\n"], _written("s.yaml", _selection("class_threshold"))
    ),
    "selection.csv": Target(lambda: [b'Dog,pet\nCat,"a pet"\n'], _written("s.csv", _selection("class_map"))),
    "selection.json": Target(lambda: [b'{"Dog": 0.5}'], _written("s.json", _selection("class_threshold"))),
    "truth": Target(lambda: [_coco()], _written("t.json", lambda path: read_truth(path, STORAGE))),
    "tfrecord-truth": Target(lambda: [coco_examples(json.loads(_coco()))[1]], _as_record),
    "open-images-boxes": Target(
        lambda: [
            b"ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
            b"a,xclick,/m/0k4j,1,0.25,0.5,0,0.125,0,0,0\nb,xclick,/m/0bt9lr,1,0,1,0,1,0,0,1\n"
        ],
        _written("b.csv", lambda path: _open_images(path, "")),
    ),
    "open-images-labels": Target(
        lambda: [b"ImageID,Source,LabelName,Confidence\na,verification,/m/0k4j,1\nc,verification,/m/0bt9lr,0\n"],
        _written("l.csv", lambda path: _open_images(str(OPEN_IMAGES_BOXES), path)),
    ),
    "annotations": Target(lambda: [_tasks(), _coco()], _written("a.json", _compared)),
    "categories": Target(lambda: [_coco()], _written("c.json", lambda path: read_categories(path, STORAGE))),
    "image-ids": Target(lambda: [_coco()], _written("i.json", lambda path: numbering(path, STORAGE))),
    "rle": Target(lambda: [b"6x8 =3300000;", b"48x64 bk05X16K4M2N2N2O0O2O000O2O00000001N10001N101N2N2N3L5JQo0"], _runs),
    "model": Target(lambda: [DEMO.read_bytes()], _model),
    "archive.tar": Target(lambda: [_archive("w")], _unpacked),
    "archive.tar.gz": Target(lambda: [_archive("w:gz")], _unpacked),
    "tfrecord": Target(lambda: [tfrecord_of({"a.jpg": b"x" * 300, "b.jpg": b"y"})], _written("r.tfrecord", _read)),
    "extracted": Target(lambda: [_extracted_record()], _extracted),
    "run.json": _run_with("run.json"),
    "manifest.json": _run_with("manifest.json"),
    "plan": _run_with("plan-*.parquet"),
    "shard": _run_with("shard-00000.parquet"),
}


@dataclass
class Totals:
    """What became of mutants: read or refused by which error; anything else, by target and number; the worst cost."""

    outcomes: Counter[str] = field(default_factory=Counter)
    foreign: dict[str, str] = field(default_factory=dict)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[float, str] = (0.0, "")


def outcome_of(target: Target, data: bytes, folder: Path) -> str:
    """`read`, the class of one of our errors, or `foreign: ...`."""
    try:
        target.read(data, folder)
    except PrelabelError as error:
        text = str(error)
        if len(text) > 2000:
            return f"foreign: a message of {len(text)} characters: {text!r:.300}"
        return type(error).__name__
    except Exception as error:  # noqa: BLE001 - to be told is what this is for
        return f"foreign: {type(error).__name__}: {error!s:.300}"
    return "read"


def run(seed: str, mutants: int, *, measure: bool = False) -> Totals:
    """So many mutants, dealt to the targets in turn."""
    totals = Totals()
    with _folders() as folders:
        for number in range(mutants):
            name = list(TARGETS)[number % len(TARGETS)]
            target = TARGETS[name]
            data = mutant(f"{seed}/{name}", number // len(TARGETS), target.sound())[1]
            start = time.monotonic()
            if measure:
                tracemalloc.start()
            outcome = outcome_of(target, data, folders(name))
            seconds, label = time.monotonic() - start, f"{name} {number // len(TARGETS)}"
            if measure:
                totals.largest = max(totals.largest, (tracemalloc.get_traced_memory()[1] / 1e6, label))
                tracemalloc.stop()
            totals.slowest = max(totals.slowest, (seconds, label))
            if outcome.startswith("foreign"):
                totals.foreign[label] = outcome
            else:
                totals.outcomes[outcome] += 1
    return totals


class _folders:  # noqa: N801 - used as a function
    """A folder for each target, taken away in the end; archives get an empty one each time."""

    def __enter__(self) -> Callable[[str], Path]:
        self._root = tempfile.TemporaryDirectory(prefix="prelabel-fuzz-")

        def folder(name: str) -> Path:
            path = Path(self._root.name) / name
            if name.startswith("archive"):
                shutil.rmtree(path, ignore_errors=True)
            path.mkdir(exist_ok=True)
            return path

        return folder

    def __exit__(self, *_: object) -> None:
        self._root.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", default="1")
    given = parser.parse_args()
    warnings.simplefilter("error")
    start = time.monotonic()
    totals = run(given.seed, given.mutants, measure=True)
    print(
        json.dumps(
            {
                "mutants": sum(totals.outcomes.values()) + len(totals.foreign),
                "seed": given.seed,
                "outcomes": dict(totals.outcomes.most_common()),
                "foreign_errors": totals.foreign,
                "slowest_s": totals.slowest,
                "largest_mb": totals.largest,
                "seconds": round(time.monotonic() - start),
            }
        )
    )
    return bool(totals.foreign)


if __name__ == "__main__":
    sys.exit(main())
