"""Read a `saved_model.pb` without TensorFlow, without copying, and in milliseconds.

The driver and `prelabel inspect` need to know what a model is, without the seconds and the gigabyte that TensorFlow's
import costs. `read_graph` returns tags and signatures. The field numbers are those of saved_model, meta_graph,
saved_object_graph and struct.proto in tensorflow/core/protobuf.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prelabel.errors import DetectorError
from prelabel.protobuf import entries, fields, messages, number, only, text, texts
from prelabel.storage.address import describe

#: Name of the signature that stands for calling the model itself.
CALL = "__call__"

_DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64", 9: "int64",
    10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16", 20: "resource", 21: "variant",
    22: "uint32", 23: "uint64",
}  # fmt: skip

#: Signatures for TensorFlow's own use.
_INTERNAL = ("__saved_model_init_op", "__saved_model_train_op")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output: name, type (`"float32"`) and shape. Unknown sizes are None; so is a shape of unknown rank."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} {'[...]' if self.shape is None else sizes_in_words(self.shape)}"

    @property
    def rank(self) -> int | None:
        """Number of dimensions, or None."""
        return None if self.shape is None else len(self.shape)

    @property
    def last(self) -> int | None:
        """Size of the last dimension, or None."""
        return self.shape[-1] if self.shape else None

    def may_be(self, dtypes: Collection[str], ranks: Collection[int]) -> bool:
        """Whether it has one of these types and ranks; an unknown rank may be any."""
        return self.dtype in dtypes and (self.rank is None or self.rank in ranks)


def sizes_in_words(shape: Iterable[int | None]) -> str:
    """A shape as text, with a question mark per unknown size: `[1, ?, ?, 3]`."""
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature: one way of calling a model.

    Attributes:
        name: Its name; `CALL` for calling the model itself.
        inputs: Its inputs, sorted by name.
        outputs: Its outputs, sorted by name.
        function: For `CALL`, the function of the graph that runs; else `""`.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    function: str = field(default="", compare=False)

    def __str__(self) -> str:
        inputs = ", ".join(map(str, self.inputs)) or "nothing"
        outputs = ", ".join(map(str, self.outputs)) or "nothing"
        return f"{self.name}({inputs}) -> {outputs}"


@dataclass(frozen=True, slots=True)
class Graph:
    """Tags and signatures of a SavedModel.

    Attributes:
        tags: The tag sets of its graphs, each sorted, in the order of the file; `()` is the empty set of hub modules.
        chosen_tags: The tag set of the graph that is loaded.
        signatures: The signatures of that graph; the call of the model itself is the last one.
        tensorflow: Version of TensorFlow that wrote the model.
    """

    tags: tuple[tuple[str, ...], ...]
    chosen_tags: tuple[str, ...]
    signatures: tuple[Signature, ...]
    tensorflow: str


def read_graph(folder: Path) -> Graph:
    """Read the model in a folder.

    Raises:
        DetectorError: There is no model, it is corrupt, or it is in an unsupported form.
    """
    with open_saved_model(folder) as data:
        return _graph(data)


@contextmanager
def open_saved_model(folder: Path) -> Iterator[memoryview]:
    """Map a model's `saved_model.pb` into memory. Errors that its content causes become DetectorErrors."""
    path = folder / "saved_model.pb"
    try:
        with path.open("rb") as file:
            # It is unmapped with its last view. Closing it explicitly would fail while an exception still holds a view.
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        yield data
    except FileNotFoundError:
        others = [name for name in ("saved_model.pbtxt", "saved_model.cpb") if (folder / name).exists()]
        hint = f"; {others[0]} is not supported: save the model in binary form" if others else ""
        raise DetectorError(f"{folder} is not a SavedModel: it has no saved_model.pb{hint}") from None
    except (ValueError, RecursionError) as error:
        raise DetectorError(f"{path} is corrupt, or not a SavedModel ({error})") from error
    except OSError as error:
        raise DetectorError(f"{path}: {describe(error)}") from error


def chosen_meta_graph(data: memoryview) -> tuple[tuple[str, ...], memoryview, tuple[tuple[str, ...], ...]]:
    """The tag set and the MetaGraphDef of the graph that is loaded, and the tag sets of all graphs.

    Raises:
        ValueError: There is no graph, or two have the same tags.
    """
    metas: dict[tuple[str, ...], memoryview] = {}
    for meta in messages(data, 2):
        tagged = tuple(sorted(texts(only(meta, 1), 4)))
        if tagged in metas:
            raise ValueError(f"it has two graphs with the tags {{{', '.join(tagged)}}}")
        metas[tagged] = meta
    if not metas:
        raise ValueError("it has no graph")
    tags = tuple(metas)
    # As hub.load chooses: the inference graph of a hub module has no tags; otherwise the graph for serving.
    chosen = next((preferred for preferred in ((), ("serve",), ("gpu", "serve")) if preferred in metas), tags[0])
    return chosen, metas[chosen], tags


def _graph(data: memoryview) -> Graph:
    chosen, meta, tags = chosen_meta_graph(data)
    signatures = [
        Signature(name, _tensors(entries(signature, 1)), _tensors(entries(signature, 2)))
        for name, signature in sorted(entries(meta, 5).items())
        if name not in _INTERNAL
    ]
    signatures += _calls(only(meta, 7))
    return Graph(tags, chosen, tuple(signatures), text(only(meta, 1), 5))


def _tensors(infos: Mapping[str, memoryview]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name, _DTYPES.get(number(info, 2), "unknown"), _shape(only(info, 3)))
        for name, info in sorted(infos.items())
    )


def _shape(message: memoryview) -> tuple[int | None, ...] | None:
    if number(message, 3):
        return None
    sizes = [number(dim, 1) for dim in messages(message, 2)]
    return tuple(None if size < 0 else size for size in sizes)


def _calls(objects: memoryview) -> Iterator[Signature]:
    """The traces of the model's own `__call__`, as signatures.

    Arguments of a trace other than tensors are fixed values such as `training`. The traces for inference, with the
    fewest true values, come first.
    """
    functions = entries(objects, 2)
    nodes = list(messages(objects, 1))
    traces = []
    for child in messages(nodes[0], 1) if nodes else ():
        if text(child, 2) != CALL or number(child, 1) >= len(nodes):
            continue
        for name in texts(only(nodes[number(child, 1)], 6), 1):
            if name in functions:
                arguments, true_count = _leaves(only(functions[name], 3))
                outputs, _ = _leaves(only(functions[name], 4), "output_0")
                traces.append((true_count, Signature(CALL, tuple(arguments), tuple(outputs), name)))
    yield from (signature for _, signature in sorted(traces, key=lambda trace: trace[0]))


def has_object_with(names: Collection[str], folder: Path) -> bool:
    """Whether one of a model's objects has attributes of all these names. A TF1 model has no objects.

    Raises:
        DetectorError: The model is corrupt.
    """
    with open_saved_model(folder) as data:
        nodes = messages(only(chosen_meta_graph(data)[1], 7), 1)
        return any(set(names) <= {text(child, 2) for child in messages(node, 1)} for node in nodes)


def _leaves(value: memoryview, key: str | None = None) -> tuple[list[Tensor], int]:
    """The tensors in a StructuredValue, and the number of its bools that are true.

    Without a key, tensors have their own names. With a key, they are named by position: the key itself, `output_1`, ...
    in a sequence, or their key in a dict.
    """
    tensors: list[Tensor] = []
    true_count = 0
    inside: list[tuple[str | None, memoryview]] = []
    for kind, inner in fields(value):
        if isinstance(inner, int):
            true_count += kind == 14 and inner == 1
        elif kind == 33:
            dtype = _DTYPES.get(number(inner, 3), "unknown")
            tensors.append(Tensor(key or text(inner, 1), dtype, _shape(only(inner, 2))))
        elif kind in (51, 52):
            inside += [(key and f"output_{i}", item) for i, item in enumerate(messages(inner, 1))]
        elif kind == 53:
            inside += [(key and name, item) for name, item in sorted(entries(inner, 1).items())]
    for name, item in inside:
        more, more_true = _leaves(item, name)
        tensors, true_count = tensors + more, true_count + more_true
    return tensors, true_count
