"""What a model is, told from its files: for `prelabel inspect`, and for a driver that never loads TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prelabel.detectors.base import DetectorInfo
from prelabel.detectors.catalogue import CATALOGUE
from prelabel.detectors.convention import KNOWN, Convention, recognise
from prelabel.detectors.fetch import LocalModel, fetch_model
from prelabel.detectors.fingerprint import model_files
from prelabel.detectors.graph import CHECKPOINT, Graph, read_graph
from prelabel.detectors.labels import LabelMap, parse_label_map, read_label_map
from prelabel.errors import ConfigError, DetectorError
from prelabel.storage import Storage

#: Label maps that are found by themselves inside a model.
_OWN_LABEL_MAPS = tuple(
    f"assets/{stem}.{ending}" for stem in ("label_map", "labels") for ending in ("pbtxt", "csv", "json", "txt")
)

#: Operations that reach beyond the graph, and what each does.
BEYOND = {
    **dict.fromkeys(("ReadFile", "WholeFileReader", "WholeFileReaderV2", "FixedLengthRecordReaderV2"), "reads files"),
    **dict.fromkeys(("TextLineReaderV2", "TFRecordReaderV2", "TextLineDataset", "TFRecordDataset"), "reads files"),
    **dict.fromkeys(("FixedLengthRecordDataset", "FixedLengthRecordDatasetV2", "LMDBReader"), "reads files"),
    **dict.fromkeys(("LoadDataset", "LoadDatasetV2", "SnapshotDataset", "SnapshotDatasetV2"), "reads files"),
    **dict.fromkeys(("InitializeTableFromTextFile", "InitializeTableFromTextFileV2"), "reads a vocabulary file"),
    **dict.fromkeys(("MatchingFiles", "MatchingFilesDataset"), "lists files"),
    **dict.fromkeys(("WriteFile", "SaveDataset", "SaveDatasetV2", "PrintV2", "CacheDataset"), "writes files"),
    **dict.fromkeys(("CreateSummaryFileWriter", "DebugIdentityV2", "DebugIdentityV3"), "writes files"),
    **dict.fromkeys(sorted(CHECKPOINT), "reads or writes files outside the restoring of variables"),
    **dict.fromkeys(("PyFunc", "PyFuncStateless", "EagerPyFunc"), "runs Python code"),
    **dict.fromkeys(
        ("RpcCall", "RpcClient", "RpcServer", "DataServiceDatasetV4", "BigQueryReader"), "uses the network"
    ),
    **dict.fromkeys(("CreateSummaryDbWriter",), "writes a database"),
}


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model that can be loaded: its files, its graph, what it follows and how its classes are called."""

    local: LocalModel
    graph: Graph
    convention: Convention
    labels: LabelMap | None

    @property
    def info(self) -> DetectorInfo:
        """What goes into `run.json`."""
        return DetectorInfo(
            name=self.local.name,
            model_version=self.local.model_version,
            fingerprint=self.local.fingerprint,
            convention=self.convention.why,
            masks=self.convention.masks,
        )


def prepare(
    address: str, storage: Storage | None = None, *, label_map: str | None = None, cache_dir: str | None = None
) -> PreparedModel:
    """Fetch a model, recognise it and find the names of its classes. No TensorFlow; a second where it is cached.

    Args:
        address: See `fetch.py`.
        storage: Opens object storage.
        label_map: A built-in one, or a file; else one inside the model, else the catalogue's.
        cache_dir: See `cache_root`.

    Raises:
        ConfigError: No such detector or label map.
        DetectorError: It cannot be had or is not recognised.
    """
    local = fetch_model(address, storage, cache_dir=cache_dir)
    graph = read_graph(local.path)
    return PreparedModel(local, graph, recognise(graph.signatures), find_labels(local, label_map, storage))


def find_labels(model: LocalModel, label_map: str | None, storage: Storage | None = None) -> LabelMap | None:
    """The label map stated, else one found inside the model, else the one the catalogue names, else None."""
    if label_map:
        return read_label_map(label_map, storage)
    for name in _OWN_LABEL_MAPS:
        path = model.path / name
        if path.is_file():
            return parse_label_map(name, path.read_bytes())
    if model.entry and model.entry.label_map:
        return read_label_map(model.entry.label_map)
    return None


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What `prelabel inspect` shows.

    Attributes:
        model: The files.
        graph: Tags, signatures, operations.
        convention: What it follows, or None.
        refusal: Why it is not recognised, or `""`.
        labels: Its label map, or None.
        label_problem: Why the label map inside it cannot be used, or `""`.
        size: Bytes of its files.
        beyond: (operation, what it does, where, how often) of operations that reach beyond the graph.
    """

    model: LocalModel
    graph: Graph
    convention: Convention | None
    refusal: str
    labels: LabelMap | None
    label_problem: str
    size: int
    beyond: tuple[tuple[str, str, str, int], ...]

    @property
    def format(self) -> str:
        """`"TF1 hub module"` or `"TF2 SavedModel"` or `"TF1 SavedModel"`."""
        if (self.model.path / "tfhub_module.pb").is_file():
            return "TF1 hub module"
        version = self.graph.tensorflow
        return f"SavedModel written by TensorFlow {version}" if version else "SavedModel"


def inspect_model(
    address: str, storage: Storage | None = None, *, label_map: str | None = None, cache_dir: str | None = None
) -> ModelReport:
    """Everything a model's files say of it; one that is not recognised is no error here.

    Raises:
        ConfigError: No such detector.
        DetectorError: It cannot be had or read.
    """
    local = fetch_model(address, storage, cache_dir=cache_dir)
    graph = read_graph(local.path)
    convention, refusal = None, ""
    try:
        convention = recognise(graph.signatures)
    except DetectorError as error:
        refusal = str(error)
    labels, problem = None, ""
    try:
        labels = find_labels(local, label_map, storage)
    except ConfigError as error:
        problem = str(error)
    size = sum(path.stat().st_size for path in model_files(local.path).values())
    return ModelReport(local, graph, convention, refusal, labels, problem, size, tuple(_beyond(graph)))


def _beyond(graph: Graph) -> Iterable[tuple[str, str, str, int]]:
    for (operation, place), number in sorted(graph.operations.items()):
        if operation in BEYOND:
            yield operation, BEYOND[operation], place or "the main graph", number


def format_report(report: ModelReport) -> str:
    """The report as lines of text."""
    model, graph = report.model, report.graph
    lines = [
        f"model        {model.name} ({model.model_version})",
        f"folder       {model.path}",
        f"format       {report.format}, {report.size / 1e6:.1f} MB",
        f"fingerprint  {model.fingerprint}",
        f"tags         {', '.join('{' + ', '.join(one) + '}' for one in graph.tags)}",
    ]
    for signature in graph.signatures:
        lines.append(f"signature    {signature.name}")
        lines += [f"  in         {one}" for one in signature.inputs]
        lines += [f"  out        {one}" for one in signature.outputs]
    if report.convention:
        lines.append(f"recognised   {report.convention.why}")
    else:
        lines.append(f"recognised   not at all; known: {KNOWN}")
    if report.labels:
        lines.append(f"label map    {report.labels.source}, {len(report.labels)} classes")
    elif report.label_problem:
        lines.append(f"label map    {report.label_problem}")
    elif report.convention and not report.convention.strings:
        lines.append("label map    none: classes are called by their numbers unless --label-map names them")
    else:
        lines.append("label map    none; the network names its classes itself")
    lines += [f"beware       {op} {does} ({where}, {n} x)" for op, does, where, n in report.beyond]
    if not report.beyond:
        lines.append("operations   none reaches beyond the graph (files, network, Python)")
    return "\n".join(lines)


def catalogue_table() -> list[dict[str, str]]:
    """One row of text for each network of the catalogue, columns in order."""
    return [
        {
            "name": entry.name,
            "what": entry.title,
            "gives": "image labels" if entry.task == "classification" else "boxes, masks" if entry.masks else "boxes",
            "classes": str(entry.classes),
            "input": entry.input,
            "format": entry.format,
            "published": entry.metric,
            "licence": entry.licence,
            "address": entry.addresses[0],
            "note": entry.note,
        }
        for entry in CATALOGUE
    ]
