"""What a model is, told from its files, as text for `prelabel inspect`; and the catalogue as a table."""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.detectors.catalogue import CATALOGUE
from prelabel.detectors.convention import KNOWN, Convention
from prelabel.detectors.fetch import LocalModel, fetch_model
from prelabel.detectors.fingerprint import model_files
from prelabel.detectors.graph import Graph, read_graph
from prelabel.detectors.prepare import PreparedModel, find_labels, look_at
from prelabel.detectors.reach import Beyond, operations_beyond, refusal_of
from prelabel.detectors.reading import NOTHING_STATED, Reading, Stated
from prelabel.detectors.resize import working_size
from prelabel.errors import ConfigError, DetectorError
from prelabel.labels.maps import LabelMap
from prelabel.storage import Storage, redact


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What `prelabel inspect` shows.

    Attributes:
        model: The files.
        graph: Tags, signatures, operations.
        prepared: The model as it would be loaded, or None where it is not recognised.
        refusal: Why it cannot be read as a detector, or `""`.
        labels: Its label map, or None.
        label_problem: Why the label map inside it cannot be used, or `""`.
        size: Bytes of its files.
        beyond: Operations that reach beyond the graph.
    """

    model: LocalModel
    graph: Graph
    prepared: PreparedModel | None
    refusal: str
    labels: LabelMap | None
    label_problem: str
    size: int
    beyond: tuple[Beyond, ...]

    @property
    def convention(self) -> Convention | None:
        """What it follows, or None."""
        return self.prepared.convention if self.prepared else None

    @property
    def reading(self) -> Reading | None:
        """How its numbers are read, or None where it is not recognised."""
        return self.prepared.reading if self.prepared else None

    @property
    def run_beyond(self) -> tuple[Beyond, ...]:
        """Those of `beyond` that loading the model or asking it runs."""
        return tuple(one for one in self.beyond if one.runs)

    def refused_because(self, *, trusted: bool) -> str:
        """Why `label` would not take it, or `""`; `trusted` is its option `--trust-model`."""
        beyond = "" if trusted else refusal_of(self.model.address, self.beyond)
        return self.refusal or self.label_problem or beyond

    @property
    def working_size(self) -> int | None:
        """Pixels of the shorter side of what the network looks at, see `resize.py`."""
        return working_size(self.prepared) if self.prepared else None

    @property
    def format(self) -> str:
        """`"TF1 hub module"` or `"TF2 SavedModel"` or `"TF1 SavedModel"`."""
        if (self.model.path / "tfhub_module.pb").is_file():
            return "TF1 hub module"
        version = self.graph.tensorflow
        return f"SavedModel written by TensorFlow {version}" if version else "SavedModel"


def inspect_model(
    address: str,
    storage: Storage | None = None,
    *,
    label_map: str | None = None,
    stated: Stated = NOTHING_STATED,
    cache_dir: str | None = None,
) -> ModelReport:
    """Everything a model's files say of it; one that `label` would refuse is no error here.

    Raises:
        ConfigError: No such detector.
        DetectorError: It cannot be had or read.
    """
    local = fetch_model(address, storage, cache_dir=cache_dir)
    graph = read_graph(local.path)
    labels, problem = None, ""
    try:
        labels = find_labels(local, label_map, storage)
    except ConfigError as error:
        problem = str(error)
    prepared, refusal = None, ""
    try:
        prepared = look_at(local, labels, stated)
        refusal = "; ".join(prepared.reading.refusals)
    except DetectorError as error:
        refusal = str(error)
    convention = prepared.convention if prepared else None
    beyond = operations_beyond(local.path, convention.signature if convention else None)
    size = sum(path.stat().st_size for path in model_files(local.path).values())
    return ModelReport(local, graph, prepared, refusal, labels, problem, size, beyond)


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
    if report.reading:
        perhaps = "only in part: " if report.reading.refusals else ""
        lines.append(f"recognised   {perhaps}{report.reading.convention.why}")
        lines += [f"{about:12} {one.value}: {one.why}" for about, one in report.reading.decisions.items()]
        lines += [f"refused      {one}" for one in report.reading.refusals]
        lines += [f"beware       {one}" for one in report.reading.notes]
    else:
        lines.append(f"recognised   not at all; known: {KNOWN}")
        lines.append(f"refused      {report.refusal.partition(' Found: ')[0]}")
    if report.working_size:
        lines.append(
            f"looks at     a shorter side of at most {report.working_size} pixels, which --decode-scale auto doubles"
        )
    elif report.convention:
        lines.append("looks at     pictures of a size it does not state: --decode-scale auto changes nothing")
    if report.labels:
        lines.append(f"label map    {report.labels.source}, {len(report.labels)} classes")
    elif report.label_problem:
        lines.append(f"label map    {report.label_problem}")
    elif report.convention and report.convention.strings:
        lines.append("label map    none; the network names its classes itself")
    elif report.convention and not report.refusal:
        lines.append("label map    none: classes are called by their numbers unless --label-map names them")
    else:
        lines.append("label map    none")
    lines += [f"beware       {one.operation} {one.does} ({one.where}, {one.count} x)" for one in report.run_beyond]
    if not report.run_beyond:
        lines.append("operations   none that is run reaches beyond the graph (files, network, Python)")
    elif report.convention:
        lines.append("             `prelabel label` runs this model with --trust-model only")
    idle = [one for one in report.beyond if not one.runs]
    lines += [f"never run    {one.operation} {one.does} ({one.where}, {one.count} x)" for one in idle]
    # What a model's makers have written into it is not to steer a terminal, or to look like another line.
    return "\n".join(map(redact, lines))


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
            "address": entry.addresses[0] if entry.addresses else entry.name,  # comes with the package
            "note": entry.note,
        }
        for entry in CATALOGUE
    ]
