"""What a `saved_model.pb` says of itself: tags and signatures. Read without TensorFlow, in milliseconds.

A driver and `prelabel inspect` need to know what a model is and must not spend seconds and a gigabyte on importing
TensorFlow. The field numbers are those of saved_model, meta_graph,
saved_object_graph and struct.proto in tensorflow/core/protobuf.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prelabel.detectors import wire
from prelabel.detectors.convention import CALL, Signature, Tensor
from prelabel.errors import DetectorError
from prelabel.storage import describe

_DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64", 9: "int64",
    10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16", 20: "resource", 21: "variant",
    22: "uint32", 23: "uint64",
}  # fmt: skip

#: Signatures that TensorFlow keeps for itself.
_INTERNAL = ("__saved_model_init_op", "__saved_model_train_op")


@dataclass(frozen=True, slots=True)
class Graph:
    """The part of a SavedModel that can be called.

    Attributes:
        tags: Its tag sets, each sorted, in the order of the file; `()` is the empty set of TF1 hub modules.
        chosen_tags: The one that is loaded.
        signatures: Of the chosen one, and the model's own call last.
        tensorflow: Version that wrote it.
    """

    tags: tuple[tuple[str, ...], ...]
    chosen_tags: tuple[str, ...]
    signatures: tuple[Signature, ...]
    tensorflow: str


def read_graph(folder: Path) -> Graph:
    """Read the model in a folder.

    Raises:
        DetectorError: There is none, or it is damaged or of a kind that is not read here.
    """
    with reading(folder) as data:
        return _graph(data)


@contextmanager
def reading(folder: Path) -> Iterator[memoryview]:
    """The bytes of a model's `saved_model.pb`; what is found wrong with them inside the block is a DetectorError."""
    path = folder / "saved_model.pb"
    try:
        with path.open("rb") as file:
            # Unmapped with its last view; closed by hand it would fail while an error still holds one.
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        yield data
    except FileNotFoundError:
        others = [name for name in ("saved_model.pbtxt", "saved_model.cpb") if (folder / name).exists()]
        found = f"; {others[0]} is not read, save the model anew in binary form" if others else ""
        raise DetectorError(f"{folder}: no SavedModel: there is no saved_model.pb{found}") from None
    except (ValueError, RecursionError) as error:
        raise DetectorError(f"{path}: damaged, or no SavedModel ({error})") from error
    except OSError as error:
        raise DetectorError(f"{path}: {describe(error)}") from error


def chosen_meta_graph(data: memoryview) -> tuple[tuple[str, ...], memoryview, tuple[tuple[str, ...], ...]]:
    """The tags and the bytes of the graph that is loaded, and the tags of all that there are.

    Raises:
        ValueError: There is none.
    """
    metas: dict[tuple[str, ...], memoryview] = {}
    for meta in wire.messages(data, 2):
        tagged = tuple(sorted(wire.texts(wire.only(meta, 1), 4)))
        if tagged in metas:
            raise ValueError(f"it holds two graphs of the tags {{{', '.join(tagged)}}}")
        metas[tagged] = meta
    if not metas:
        raise ValueError("it holds no graph")
    tags = tuple(metas)
    # As hub.load does: a hub module's graph for use has no tag; else the one for serving.
    chosen = next((one for one in ((), ("serve",), ("gpu", "serve")) if one in metas), tags[0])
    return chosen, metas[chosen], tags


def _graph(data: memoryview) -> Graph:
    chosen, meta, tags = chosen_meta_graph(data)
    signatures = [
        Signature(name, _tensors(wire.entries(one, 1)), _tensors(wire.entries(one, 2)))
        for name, one in sorted(wire.entries(meta, 5).items())
        if name not in _INTERNAL
    ]
    signatures += _calls(wire.only(meta, 7))
    return Graph(tags, chosen, tuple(signatures), wire.text(wire.only(meta, 1), 5))


def _tensors(infos: Mapping[str, memoryview]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name, _DTYPES.get(wire.number(info, 2), "unknown"), _shape(wire.only(info, 3)))
        for name, info in sorted(infos.items())
    )


def _shape(message: memoryview) -> tuple[int | None, ...] | None:
    if wire.number(message, 3):
        return None
    sizes = [wire.number(dim, 1) for dim in wire.messages(message, 2)]
    return tuple(None if size < 0 else size for size in sizes)


def _calls(objects: memoryview) -> Iterator[Signature]:
    """What the model itself can be called with: the traces of its `__call__` that take one tensor.

    Other arguments of a trace are fixed values like `training`; those of inference (all false) come first.
    """
    functions = wire.entries(objects, 2)
    nodes = list(wire.messages(objects, 1))
    found = []
    for child in wire.messages(nodes[0], 1) if nodes else ():
        if wire.text(child, 2) != CALL or wire.number(child, 1) >= len(nodes):
            continue
        for name in wire.texts(wire.only(nodes[wire.number(child, 1)], 6), 1):
            if name in functions:
                arguments, true = _leaves(wire.only(functions[name], 3))
                outputs, _ = _leaves(wire.only(functions[name], 4), "output_0")
                found.append((true, Signature(CALL, tuple(arguments), tuple(outputs), name)))
    yield from (signature for _, signature in sorted(found, key=lambda one: one[0]))


def _leaves(value: memoryview, key: str | None = None) -> tuple[list[Tensor], int]:
    """The tensors in a StructuredValue and how many of its flags are true.

    Tensors are named by themselves, or with a key by their place: the key, `output_1`, ..., or their key in a dict.
    """
    tensors: list[Tensor] = []
    true = 0
    inside: list[tuple[str | None, memoryview]] = []
    for number, inner in wire.fields(value):
        if isinstance(inner, int):
            true += number == 14 and inner == 1
        elif number == 33:
            dtype = _DTYPES.get(wire.number(inner, 3), "unknown")
            tensors.append(Tensor(key or wire.text(inner, 1), dtype, _shape(wire.only(inner, 2))))
        elif number in (51, 52):
            inside += [(key and f"output_{i}", item) for i, item in enumerate(wire.messages(inner, 1))]
        elif number == 53:
            inside += [(key and name, item) for name, item in sorted(wire.entries(inner, 1).items())]
    for name, item in inside:
        more, flags = _leaves(item, name)
        tensors, true = tensors + more, true + flags
    return tensors, true
