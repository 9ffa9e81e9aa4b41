"""Find the operations of a model that reach beyond its graph: files, the network, other code. Needs no TensorFlow.

`UNSAFE_OPERATIONS` lists such operations with their effects. The walk finds out which of them run, and which of those
read only the model's own files.

A SavedModel holds more than inference: training, saving, other signatures. What runs is whatever the outputs of the
chosen signature need, and whatever loading calls: restoring variables and filling tables. In a model with objects these
are the objects' functions, otherwise parts of its main graph. From there the walk follows inputs, and enters every
function that a node names; in such a function every node counts.

Paths are followed, too: a table that is filled from an asset of the model, or variables that are restored from its own
checkpoint, read nothing outside of the model. A path is the model's own if it comes from there unchanged, through any
number of calls; the outputs of loops count as foreign.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from prelabel import protobuf
from prelabel.detectors.conventions.graph import GraphBody, Node, main_scope, name_of
from prelabel.detectors.conventions.protos import CALL, chosen_meta_graph, open_saved_model
from prelabel.detectors.conventions.resolve_model import PreparedModel
from prelabel.errors import ConfigError
from prelabel.storage.address import redact

#: Operations that read and write checkpoints; every SavedModel with variables has some to restore them.
CHECKPOINT = frozenset(("RestoreV2", "SaveV2", "MergeV2Checkpoints", "RestoreSlice", "SaveSlices", "Save", "Restore"))

_UNSAFE_BY_EFFECT = {
    "reads files": "ReadFile WholeFileReader WholeFileReaderV2 TextLineReader TextLineReaderV2 TFRecordReader "
    "TFRecordReaderV2 LMDBReader LMDBDataset ExperimentalLMDBDataset FixedLengthRecordReader FixedLengthRecordReaderV2 "
    "RecordInput FixedLengthRecordDataset FixedLengthRecordDatasetV2 TextLineDataset TFRecordDataset TFRecordDatasetV2 "
    "CSVDataset CSVDatasetV2 ExperimentalCSVDataset LoadDataset SnapshotDataset SnapshotDatasetV2 "
    "SnapshotDatasetReader SnapshotChunkDataset ImmutableConst LoadAndRemapMatrix GenerateVocabRemapping "
    "FixedUnigramCandidateSampler DecodeProtoV2 EncodeProto",
    "writes files": "WriteFile SaveDataset SaveDatasetV2 DistributedSave CacheDataset CacheDatasetV2 PrintV2 "
    "CreateSummaryFileWriter DatasetToTFRecord ExperimentalDatasetToTFRecord",
    "reads or writes files outside the restoring of variables": " ".join(sorted(CHECKPOINT)),
    "reads a vocabulary file": "InitializeTableFromTextFile InitializeTableFromTextFileV2",
    "lists files": "MatchingFiles MatchingFilesDataset ExperimentalMatchingFilesDataset ListSnapshotChunksDataset",
    "writes files or uses the network": "DebugIdentity DebugIdentityV2 DebugIdentityV3 DebugNanCount "
    "DebugNumericSummary DebugNumericSummaryV2 DebugGradientIdentity",
    "uses a database": "SqlDataset ExperimentalSqlDataset CreateSummaryDbWriter",
    "uses the network": "DataServiceDataset DataServiceDatasetV2 DataServiceDatasetV3 DataServiceDatasetV4 "
    "RegisterDataset RegisterDatasetV2 Send Recv",
    "runs Python code": "PyFunc PyFuncStateless EagerPyFunc",
    "changes settings of file systems": "FileSystemSetConfiguration",
}

#: Operations that reach beyond the graph, and the effect of each.
UNSAFE_OPERATIONS = {
    operation: effect for effect, operations in _UNSAFE_BY_EFFECT.items() for operation in operations.split()
}

#: The index of the input that is the path, for operations that may read the model's own files (assets, variables).
PATH_INPUT: Mapping[str, int] = {
    "ReadFile": 0,
    "RestoreV2": 0,
    "Restore": 0,
    "RestoreSlice": 0,
    "InitializeTableFromTextFile": 1,
    "InitializeTableFromTextFileV2": 1,
}

#: Operations that reach beyond the graph only with certain values of an attribute: its name, and a test of its value.
_ONLY_WITH: Mapping[str, tuple[str, Callable[[bytes], bool]]] = {
    "PrintV2": ("output_stream", lambda value: value.startswith(b"file:")),
    **dict.fromkeys(
        ("DecodeProtoV2", "EncodeProto"),
        ("descriptor_source", lambda value: value not in (b"", b"local://") and not value.startswith(b"bytes://")),
    ),
    "FixedUnigramCandidateSampler": ("vocab_file", bool),
    **dict.fromkeys(
        ("DebugIdentity", "DebugNanCount", "DebugNumericSummary", "DebugGradientIdentity"), ("debug_urls", bool)
    ),
}

#: The functions that loading calls on a table or another resource; the last one runs when the resource is deleted.
_RUN_BY_LOADING = ("_create_resource", "_initialize", "_destroy_resource")
_INIT_SIGNATURE = "__saved_model_init_op"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")

#: Number of operations that a message names.
_MAX_NAMED = 4

#: The index of the first input that is an argument of the called function.
_FIRST_ARGUMENT = {
    **dict.fromkeys(("PartitionedCall", "StatefulPartitionedCall"), 0),
    **dict.fromkeys(("If", "StatelessIf", "Case", "StatelessCase", "RemoteCall"), 1),
}


@dataclass(frozen=True, slots=True)
class UnsafeOperation:
    """An operation of a model that reaches beyond its graph.

    Attributes:
        operation: Type of the operation.
        effect: What it does, in words.
        where: The function that contains it, or `the main graph`.
        count: Number of such nodes there.
        runs: Whether loading or calling the model runs it.
    """

    operation: str
    effect: str
    where: str
    count: int
    runs: bool

    def __str__(self) -> str:
        return f"{self.operation} {self.effect} ({self.where}, {self.count} x)"


def find_unsafe_operations(folder: Path, signature: str | None) -> tuple[UnsafeOperation, ...]:
    """The operations of a model's chosen graph that reach beyond it; those that run come first.

    Operations that never run are included, except those with which models save themselves and find their own files.

    Args:
        folder: Folder of the model.
        signature: The signature that is called, `CALL` for the model's own call, or None for any.

    Raises:
        DetectorError: The model cannot be read.
    """
    with open_saved_model(folder) as data:
        _, meta, tags = chosen_meta_graph(data)
        walk = _Walk(meta, alone=len(tags) == 1)
        walk.run(signature)
        run = Counter((operation, place) for (place, _), operation in walk.unsafe.items())
        idle = Counter(
            (node.operation, place)
            for place, body in [("", walk.main), *walk.functions.items()]
            for node in body.nodes.values()
            if not (node.operation in CHECKPOINT or node.operation in PATH_INPUT or (place, node.name) in walk.unsafe)
            and reaches_out(node.operation, node.attributes())
        )
    return tuple(
        UnsafeOperation(operation, UNSAFE_OPERATIONS[operation], place or "the main graph", count, runs)
        for counted, runs in ((run, True), (idle, False))
        for (operation, place), count in sorted(counted.items())
    )


def require_safe(model: PreparedModel) -> None:
    """Refuse a model that reaches beyond its graph when it is loaded or called.

    Raises:
        ConfigError: It does; the message names the operations, where they are, and the option that allows them.
    """
    refusal = unsafe_refusal(model.local.address, find_unsafe_operations(model.local.path, model.convention.signature))
    if refusal:
        raise ConfigError(refusal)


def unsafe_refusal(address: str, operations: Sequence[UnsafeOperation]) -> str:
    """The message with which a model with these operations is refused; `""` if none of them runs."""
    unsafe = [operation for operation in operations if operation.runs]
    if not unsafe:
        return ""
    named = ", ".join(map(str, unsafe[:_MAX_NAMED]))
    more = f", and {len(unsafe) - _MAX_NAMED} more" if len(unsafe) > _MAX_NAMED else ""
    return redact(
        f"the model {address} contains code that reaches beyond its graph: {named}{more}. "
        "If you trust its author, give --trust-model"
    )


class _Walk:
    """Visits the nodes that run. A function is visited once per set of arguments that are the model's own paths."""

    def __init__(self, meta: memoryview, *, alone: bool) -> None:
        self._meta, self._alone = meta, alone
        self._signatures = protobuf.entries(meta, 5)
        self._objects = list(protobuf.messages(protobuf.only(meta, 7), 1))
        self._calls = protobuf.entries(protobuf.only(meta, 7), 2)
        collected = protobuf.only(protobuf.entry(meta, 4, "saved_model_assets"), 5)
        assets = [*protobuf.messages(meta, 6)] or [protobuf.only(value, 2) for value in protobuf.messages(collected, 1)]
        self._assets = [(protobuf.text(protobuf.only(asset, 1), 1), protobuf.text(asset, 2)) for asset in assets]
        scope = main_scope(protobuf.only(meta, 2))
        self.main, self.functions = scope.body, scope.functions.bodies
        self._waiting: list[tuple[str, frozenset[int]]] = []
        #: Unsafe operations, by the place and name of their node.
        self.unsafe: dict[tuple[str, str], str] = {}

    def run(self, signature: str | None) -> None:
        """Visit everything that runs when the model is loaded and a signature is called; None calls them all."""
        if self._objects and self._alone:
            # TensorFlow uses the functions of such a model, and never runs its main graph.
            self._waiting += self._object_calls(signature)
        else:
            self._run_main(signature)
        entered = set()
        while self._waiting:
            call = self._waiting.pop()
            if call not in entered:
                entered.add(call)
                self._run_function(*call)

    def _run_main(self, signature: str | None) -> None:
        called = [name for name in self._signatures if signature in (None, name)]
        ends = [end for name in called for end in self._tensors(name, 2)] + self._tensors(_INIT_SIGNATURE, 2)
        collections = protobuf.entries(self._meta, 4)
        for name in _INIT_COLLECTIONS:
            ends += protobuf.texts(protobuf.only(collections.get(name, memoryview(b"")), 1), 1)
        saver = protobuf.only(self._meta, 3)
        ends.append(protobuf.text(saver, 3))
        own = {name_of(tensor) for tensor, file in self._assets if _stays_inside(file)} | {
            name_of(protobuf.text(saver, 1))
        }
        seen = {name_of(fed) for name in called for fed in self._tensors(name, 1)}
        waiting = [name_of(end) for end in ends]
        while waiting:
            name = waiting.pop()
            node = self.main.nodes.get(name)
            if node is not None and name not in seen:
                seen.add(name)
                self._visit(node, "", self.main, frozenset(own))
                waiting += map(name_of, node.inputs)

    def _tensors(self, signature: str, field: int) -> list[str]:
        """The tensors of a signature's inputs (field 1) or outputs (field 2), including the parts of composite ones."""
        infos = protobuf.entries(self._signatures.get(signature, memoryview(b"")), field).values()
        return [name for info in infos for name in _tensor_names(info)]

    def _run_function(self, name: str, own: frozenset[int]) -> None:
        body = self.functions.get(name)
        if body is None:
            return
        paths = frozenset(argument for number, argument in enumerate(body.arguments) if number in own)
        for node in body.nodes.values():
            self._visit(node, name, body, paths)
        if body.implements:
            # TensorFlow may replace it with another function that implements the same interface.
            self._waiting += [
                (name, own) for name, other in self.functions.items() if other.implements == body.implements
            ]

    def _visit(self, node: Node, place: str, body: GraphBody, own: frozenset[str]) -> None:
        """Visit a node that runs: record it if it is unsafe, and queue the functions that it calls."""
        attributes = {} if node.operation == "Const" else node.attributes()
        tensors = node.tensors
        if reaches_out(node.operation, attributes):
            path = PATH_INPUT.get(node.operation)
            if path is None or path >= len(tensors) or not body.is_own(tensors[path], own):
                self.unsafe[place, node.name] = node.operation
        first = _FIRST_ARGUMENT.get(node.operation, len(tensors))
        arguments = frozenset(number for number, tensor in enumerate(tensors[first:]) if body.is_own(tensor, own))
        for value in attributes.values():
            self._waiting += [(called, arguments) for called in _called(value)]
        self._waiting.append((node.operation, frozenset()))  # old graphs call functions as if they were operations

    def _object_calls(self, signature: str | None) -> Iterator[tuple[str, frozenset[int]]]:
        """The functions of the model's objects that run: those of the signature, and those that loading calls."""
        for number, node in enumerate(self._objects):
            for child in protobuf.messages(node, 1):
                name, target = protobuf.text(child, 2), protobuf.number(child, 1)
                if not 0 <= target < len(self._objects):
                    continue
                if name == "signatures" and number == 0:
                    for served in protobuf.messages(self._objects[target], 1):
                        if signature in (None, protobuf.text(served, 2)):
                            yield from self._functions_of(protobuf.number(served, 1))
                elif name in _RUN_BY_LOADING or (name == CALL and number == 0 and signature in (None, CALL)):
                    yield from self._functions_of(target)
            for saveable in protobuf.entries(node, 11).values():
                yield from self._functions_of(protobuf.number(saveable, 3))

    def _functions_of(self, number: int) -> Iterator[tuple[str, frozenset[int]]]:
        """The traces of an object that is a function, with the positions of their arguments that are assets."""
        if not 0 <= number < len(self._objects):
            return
        node = self._objects[number]
        for name in [*protobuf.texts(protobuf.only(node, 6), 1), protobuf.text(protobuf.only(node, 8), 1)]:
            bound = protobuf.numbers(self._calls.get(name, memoryview(b"")), 2)
            body = self.functions.get(name)
            first = len(body.arguments) - len(bound) if body else 0
            yield name, frozenset(first + place for place, object_ in enumerate(bound) if self._is_asset(object_))

    def _is_asset(self, number: int) -> bool:
        asset = next(protobuf.messages(self._objects[number], 5), None) if 0 <= number < len(self._objects) else None
        index = -1 if asset is None else protobuf.number(asset, 1)
        return 0 <= index < len(self._assets) and _stays_inside(self._assets[index][1])


def reaches_out(operation: str, attributes: Mapping[str, memoryview]) -> bool:
    """Whether a node reaches beyond the graph, by its operation and, for some operations, an attribute."""
    if operation not in UNSAFE_OPERATIONS:
        return False
    if operation not in _ONLY_WITH:
        return True
    name, is_unsafe = _ONLY_WITH[operation]
    return any(is_unsafe(bytes(text)) for text in _values(attributes.get(name, memoryview(b"")), 2, 2))


def _values(attribute: memoryview, field: int, field_in_list: int) -> list[memoryview]:
    """The values of an attribute, which holds a single value or a list."""
    lists = protobuf.messages(attribute, 1)
    return [
        *protobuf.messages(attribute, field),
        *(value for part in lists for value in protobuf.messages(part, field_in_list)),
    ]


def _tensor_names(info: memoryview) -> Iterator[str]:
    yield protobuf.text(info, 1)
    for sparse in protobuf.messages(info, 4):
        yield from (protobuf.text(sparse, field) for field in (1, 2, 3))
    for composite in protobuf.messages(info, 5):
        for part in protobuf.messages(composite, 2):
            yield from _tensor_names(part)


def _called(attribute: memoryview) -> Iterator[str]:
    """The functions that an attribute names, and those in the attributes of these functions."""
    for function in _values(attribute, 10, 9):
        yield protobuf.text(function, 1)
        for inner in protobuf.entries(function, 2).values():
            yield from _called(inner)


def _stays_inside(file: str) -> bool:
    path = PurePosixPath(file)
    return bool(file) and not path.is_absolute() and ".." not in path.parts and "://" not in file
