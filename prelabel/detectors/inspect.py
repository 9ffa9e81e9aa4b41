"""The report of `prelabel inspect`, made from a model's files, and the catalog as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prelabel.detectors.conventions.convention import Convention
from prelabel.detectors.conventions.families import KNOWN
from prelabel.detectors.conventions.op_audit import UnsafeOperation, find_unsafe_operations, unsafe_refusal
from prelabel.detectors.conventions.protos import Graph, read_graph
from prelabel.detectors.conventions.resolve_model import PreparedModel, ReadingOptions, analyze_model, find_labels
from prelabel.detectors.conventions.working_size import working_size
from prelabel.detectors.models.cache import model_files
from prelabel.detectors.models.catalog import CATALOG
from prelabel.detectors.models.fetch import LocalModel, fetch_model
from prelabel.errors import ConfigError, DetectorError
from prelabel.labels.maps import LabelMap
from prelabel.storage.address import redact
from prelabel.storage.files import Storage


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What `prelabel inspect` reports about a model.

    Attributes:
        model: Its files.
        graph: Its tags and signatures.
        prepared: The model as `label` would load it, or None if it was not recognized.
        refusal: Why it cannot be used as a detector, or `""`.
        labels: Its label map, or None.
        label_problem: Why its label map cannot be used, or `""`.
        size: Size of its files, in bytes.
        unsafe_operations: Operations that reach beyond the graph.
    """

    model: LocalModel
    graph: Graph
    prepared: PreparedModel | None
    refusal: str
    labels: LabelMap | None
    label_problem: str
    size: int
    unsafe_operations: tuple[UnsafeOperation, ...]

    @property
    def convention(self) -> Convention | None:
        """Its convention, or None if it was not recognized."""
        return self.prepared.convention if self.prepared else None

    def refused_because(self, *, trusted: bool) -> str:
        """Why `label` would refuse the model, or `""`; `trusted` stands for `--trust-model`."""
        unsafe = "" if trusted else unsafe_refusal(self.model.address, self.unsafe_operations)
        return self.refusal or self.label_problem or unsafe


def inspect_model(
    address: str,
    storage: Storage | None = None,
    *,
    label_map: str | None = None,
    reading: ReadingOptions | None = None,
    cache_dir: str | None = None,
    mirror: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> ModelReport:
    """Report what a model's files tell about it. A model that `label` would refuse is reported, too.

    Args:
        address: See `fetch_model`.
        storage: Reads object storage.
        label_map: A label map to use with the model.
        reading: Explicit options on how its inputs and outputs are read.
        cache_dir: See `cache_root`.
        mirror: See `fetch_model`.
        say: Called with a line of text before each download.

    Raises:
        ConfigError: There is no such detector.
        DetectorError: The model cannot be fetched or read.
    """
    local = fetch_model(address, storage, cache_dir=cache_dir, mirror=mirror, say=say)
    graph = read_graph(local.path)
    labels, problem = None, ""
    try:
        labels = find_labels(local, label_map, storage, reading)
    except ConfigError as error:
        problem = str(error)
    prepared, refusal = None, ""
    try:
        prepared = analyze_model(local, labels, reading)
        labels, refusal = prepared.labels, "; ".join(prepared.refusals)
    except DetectorError as error:
        refusal = str(error)
    convention = prepared.convention if prepared else None
    unsafe = find_unsafe_operations(local.path, convention.signature if convention else None)
    size = sum(path.stat().st_size for path in model_files(local.path).values())
    return ModelReport(local, graph, prepared, refusal, labels, problem, size, unsafe)


def format_report(report: ModelReport, *, trusted: bool = False) -> str:
    """The report as lines of text; `trusted` stands for `--trust-model`."""
    model, graph = report.model, report.graph
    form = "SavedModel" + (f" written by TensorFlow {graph.tensorflow}" if graph.tensorflow else "")
    if (model.path / "tfhub_module.pb").is_file():
        form = "TF1 hub module"
    lines = [
        f"model        {model.name}, version {model.model_version}",
        f"folder       {model.path}",
        f"format       {form}, {report.size / 1e6:.1f} MB",
        f"fingerprint  {model.fingerprint}",
        f"tags         {'; '.join(', '.join(tags) or 'none' for tags in graph.tags)}",
    ]
    for number, signature in enumerate(graph.signatures):
        used = ", which is used" if report.convention and signature.name == report.convention.signature else ""
        same = [
            earlier.name
            for earlier in graph.signatures[:number]
            if (earlier.inputs, earlier.outputs) == (signature.inputs, signature.outputs)
        ]
        lines.append(f"signature    {signature.name}{used}" + (f", the same as {same[0]}" if same else ""))
        if not same:
            lines += [f"  input      {tensor}" for tensor in signature.inputs]
            lines += [f"  output     {tensor}" for tensor in signature.outputs]
    if report.prepared:
        partly = "partly: " if report.prepared.refusals else ""
        lines.append(f"recognized   {partly}{report.prepared.convention.why}")
        lines += [
            f"{about:12} {'cover the ' if about == 'masks' else ''}{decision.value}: {decision.why}"
            for about, decision in report.prepared.decisions.items()
        ]
        lines += [f"refused      {refusal}" for refusal in report.prepared.refusals]
        lines += [f"warning      {note}" for note in report.prepared.notes]
    else:
        lines.append(f"recognized   no; known conventions: {KNOWN}; --adapter describes other detectors")
        lines.append(f"refused      {report.refusal.partition(' Found: ')[0]}")
    pixels = working_size(report.prepared) if report.prepared else None
    if pixels:
        lines.append(
            f"working size at most {pixels} pixels for the shorter side, to which the graph resizes images; "
            "--decode-scale auto decodes large JPEGs at twice that"
        )
    elif report.convention:
        lines.append("working size unknown, so --decode-scale auto has no effect")
    if report.labels:
        lines.append(f"label map    {report.labels.source}, {len(report.labels)} classes")
    elif report.label_problem:
        lines.append(f"label map    {report.label_problem.removeprefix('label map ')}")
    elif report.convention and report.convention.strings:
        lines.append("label map    none; the model returns class names itself")
    elif report.convention and not report.refusal:
        lines.append("label map    none: classes are labeled with their numbers; --label-map names them")
    else:
        lines.append("label map    none")
    unsafe = [operation for operation in report.unsafe_operations if operation.runs]
    lines += [f"warning      {operation}" for operation in unsafe]
    if not unsafe:
        lines.append("operations   none that runs reads or writes files, uses the network or runs Python")
    lines += [f"never run    {operation}" for operation in report.unsafe_operations if not operation.runs]
    lines.append(f"usable       {_verdict(report, trusted=trusted)}")
    # Text from the model must not control the terminal, or look like another line of the report.
    return "\n".join(map(redact, lines))


def _verdict(report: ModelReport, *, trusted: bool) -> str:
    if report.refused_because(trusted=True):
        return "no: `label` refuses this model"
    if report.refused_because(trusted=trusted):
        return "only with --trust-model, if you trust its author"
    return "yes: `label` can run this model"


def catalog_table() -> list[dict[str, str]]:
    """One row of text per model of the catalog, with the columns in order."""
    return [
        {
            "name": entry.name,
            "what": entry.title,
            "gives": "image labels" if entry.task == "classification" else "boxes, masks" if entry.masks else "boxes",
            "classes": str(entry.classes),
            "input": entry.input,
            "format": entry.format,
            "published": entry.metric,
            "license": entry.license,
            "address": entry.addresses[0] if entry.addresses else entry.name,  # comes with the package
            "note": entry.note,
        }
        for entry in CATALOG
    ]
