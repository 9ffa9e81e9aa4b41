"""Operations of a TensorFlow graph that reach beyond it: files, the network, other code. Names and what each does.

Whether one that stands in a model is also run, and whether it only reads what the model itself brings along, says
`reach.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prelabel.detectors import wire

_READ_FILES = (
    "ReadFile WholeFileReader WholeFileReaderV2 TextLineReader TextLineReaderV2 TFRecordReader TFRecordReaderV2 "
    "LMDBReader LMDBDataset ExperimentalLMDBDataset FixedLengthRecordReader FixedLengthRecordReaderV2 RecordInput "
    "FixedLengthRecordDataset FixedLengthRecordDatasetV2 TextLineDataset TFRecordDataset TFRecordDatasetV2 CSVDataset "
    "CSVDatasetV2 ExperimentalCSVDataset LoadDataset SnapshotDataset SnapshotDatasetV2 SnapshotDatasetReader "
    "SnapshotChunkDataset ImmutableConst LoadAndRemapMatrix GenerateVocabRemapping FixedUnigramCandidateSampler "
    "DecodeProtoV2 EncodeProto"
)
_WRITE_FILES = (
    "WriteFile SaveDataset SaveDatasetV2 DistributedSave CacheDataset CacheDatasetV2 PrintV2 CreateSummaryFileWriter "
    "DatasetToTFRecord ExperimentalDatasetToTFRecord"
)
_LIST_FILES = "MatchingFiles MatchingFilesDataset ExperimentalMatchingFilesDataset ListSnapshotChunksDataset"
_DATABASES = "SqlDataset ExperimentalSqlDataset CreateSummaryDbWriter"
_NETWORK = (
    "DataServiceDataset DataServiceDatasetV2 DataServiceDatasetV3 DataServiceDatasetV4 RegisterDataset "
    "RegisterDatasetV2 Send Recv"
)
_DEBUGGERS = (
    "DebugIdentity DebugIdentityV2 DebugIdentityV3 DebugNanCount DebugNumericSummary DebugNumericSummaryV2 "
    "DebugGradientIdentity"
)

#: Operations that read and write checkpoints; every SavedModel with variables has them where it restores those.
CHECKPOINT = frozenset(("RestoreV2", "SaveV2", "MergeV2Checkpoints", "RestoreSlice", "SaveSlices", "Save", "Restore"))

#: Operations that reach beyond the graph, and what each does.
BEYOND: Mapping[str, str] = {
    **dict.fromkeys(_READ_FILES.split(), "reads files"),
    **dict.fromkeys(_WRITE_FILES.split(), "writes files"),
    **dict.fromkeys(sorted(CHECKPOINT), "reads or writes files outside the restoring of variables"),
    **dict.fromkeys(("InitializeTableFromTextFile", "InitializeTableFromTextFileV2"), "reads a vocabulary file"),
    **dict.fromkeys(_LIST_FILES.split(), "lists files"),
    **dict.fromkeys(_DEBUGGERS.split(), "writes files or uses the network"),
    **dict.fromkeys(_DATABASES.split(), "uses a database"),
    **dict.fromkeys(_NETWORK.split(), "uses the network"),
    **dict.fromkeys(("PyFunc", "PyFuncStateless", "EagerPyFunc"), "runs Python code"),
    "FileSystemSetConfiguration": "changes settings of file systems",
}

#: Where those that may read a file of the model itself (an asset, its variables) are told its path: the input's number.
PATH_INPUT: Mapping[str, int] = {
    "ReadFile": 0,
    "RestoreV2": 0,
    "Restore": 0,
    "RestoreSlice": 0,
    "InitializeTableFromTextFile": 1,
    "InitializeTableFromTextFileV2": 1,
}


def _is_file_stream(value: bytes) -> bool:
    return value.startswith(b"file:")


def _is_descriptor_file(value: bytes) -> bool:
    return not (value in (b"", b"local://") or value.startswith(b"bytes://"))


#: Operations that reach out only where an attribute says so: the attribute, and what it must be like.
_ONLY_WITH: Mapping[str, tuple[str, Callable[[bytes], bool]]] = {
    "PrintV2": ("output_stream", _is_file_stream),
    "DecodeProtoV2": ("descriptor_source", _is_descriptor_file),
    "EncodeProto": ("descriptor_source", _is_descriptor_file),
    "FixedUnigramCandidateSampler": ("vocab_file", bool),
    **dict.fromkeys(
        ("DebugIdentity", "DebugNanCount", "DebugNumericSummary", "DebugGradientIdentity"), ("debug_urls", bool)
    ),
}


def reaches_out(operation: str, attributes: Mapping[str, memoryview]) -> bool:
    """Whether a node reaches beyond the graph: by its operation, and where that depends on one, by its attribute."""
    if operation not in BEYOND:
        return False
    if operation not in _ONLY_WITH:
        return True
    name, is_so = _ONLY_WITH[operation]
    value = attributes.get(name, memoryview(b""))
    texts = [*wire.messages(value, 2), *(text for part in wire.messages(value, 1) for text in wire.messages(part, 2))]
    return any(is_so(bytes(text)) for text in texts)
