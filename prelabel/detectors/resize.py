"""What size of pictures a network really looks at, whatever size it is given.

An input of a fixed size says so, a network of the catalogue has it there, and a graph may resize its pictures to a
constant size itself. For this the picture is followed from the graph's input through operations that keep
its pixels where they are. Wherever it ends, it must end in a resize to a constant size; a graph that does anything else
with it, or computes the size, says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prelabel.detectors import wire
from prelabel.detectors.graph import chosen_meta_graph, reading
from prelabel.detectors.prepare import PreparedModel

#: What gives each pixel of the picture a new value, and keeps it in its place.
_IN_PLACE = frozenset(
    (
        *("Identity", "StopGradient", "PlaceholderWithDefault", "Cast", "ExpandDims", "Squeeze"),
        *("Mul", "Sub", "Add", "AddV2", "Div", "RealDiv", "Maximum", "Minimum", "ClipByValue"),
    )
)
_RESIZE = frozenset(("ResizeBilinear", "ResizeBicubic", "ResizeArea", "ResizeNearestNeighbor", "ScaleAndTranslate"))
_CALLS = frozenset(("PartitionedCall", "StatefulPartitionedCall"))
_OF_THE_SIZE = frozenset(("Shape", "ShapeN", "Size", "Rank"))
_UINT8, _FLOAT = 4, 1

Size = tuple[int, int]


class _UnknownError(Exception):
    """The picture goes where it cannot be followed."""


def working_size(model: PreparedModel) -> int | None:
    """Pixels of the shorter side, at most, of what a network looks at after every resize; None if unknown."""
    with reading(model.local.path) as data:
        size = model.input_size or fixed_resize(wire.only(chosen_meta_graph(data)[1], 2))
    if size:
        return max(size)
    return model.local.entry.working_size if model.local.entry else None


def fixed_resize(graph: memoryview) -> Size | None:
    """Height and width that a GraphDef resizes its picture to, or None where it cannot be told.

    Args:
        graph: Its message; every numeric placeholder is taken for a picture.
    """
    functions = {wire.text(wire.only(function, 1), 1): function for function in wire.messages(wire.only(graph, 2), 1)}
    nodes = list(wire.messages(graph, 1))
    pictures = [
        wire.text(node, 1)
        for node in nodes
        if wire.text(node, 2) == "Placeholder" and wire.number(_attribute(node, "dtype"), 6) in (_UINT8, _FLOAT)
    ]
    try:
        sizes = {size for name in pictures for size in _sizes(nodes, name, (), functions)}
    except (_UnknownError, RecursionError):
        return None
    return sizes.pop() if len(sizes) == 1 else None


def _sizes(
    nodes: Iterable[memoryview], start: str, returned: Iterable[str], functions: Mapping[str, memoryview]
) -> set[Size]:
    """The sizes that a picture is resized to in one body of nodes.

    Args:
        nodes: The body.
        start: The node or argument that is the picture.
        returned: Nodes whose values leave the body.
        functions: What can be called, by name.

    Raises:
        _UnknownError: Anything else is done with it, or nothing.
    """
    bodies = [(wire.text(node, 1), wire.text(node, 2), node, _inputs(node)) for node in nodes]
    by_name = {name: node for name, _, node, _ in bodies}
    found: set[Size] = set()
    seen, ahead = {start}, [start]
    while ahead:
        picture = ahead.pop()
        for name, operation, node, inputs in bodies:
            if picture not in inputs or operation in _OF_THE_SIZE:
                continue
            if operation in _RESIZE and inputs[0] == picture and len(inputs) > 1:
                found.add(_constant_size(by_name.get(inputs[1])))
            elif operation in _CALLS:
                called = functions.get(wire.text(wire.only(_attribute(node, "f"), 10), 1))
                if called is None:
                    raise _UnknownError
                arguments = wire.messages(wire.only(called, 1), 2)
                for argument, given in zip(arguments, inputs, strict=False):
                    if given == picture:
                        inside = wire.messages(called, 3)
                        found |= _sizes(inside, wire.text(argument, 1), _returned(called), functions)
            elif operation not in _IN_PLACE:
                raise _UnknownError
            elif name not in seen:
                seen.add(name)
                ahead.append(name)
    if not found or seen & set(returned):
        raise _UnknownError
    return found


def _returned(function: memoryview) -> list[str]:
    return [wire.text(entry, 2).partition(":")[0] for entry in wire.messages(function, 4)]


def _inputs(node: memoryview) -> list[str]:
    """The nodes whose values a node takes, in order."""
    return [one.partition(":")[0] for one in wire.texts(node, 3) if not one.startswith("^")]


def _constant_size(node: memoryview | None) -> Size:
    if node is None or wire.text(node, 2) != "Const":
        raise _UnknownError
    tensor = wire.only(_attribute(node, "value"), 8)
    content = bytes(wire.only(tensor, 4))
    size = int.from_bytes(content[:4], "little"), int.from_bytes(content[4:], "little")
    if len(content) != 8 or not all(0 < side < 1 << 16 for side in size):
        raise _UnknownError
    return size


def _attribute(node: memoryview, name: str) -> memoryview:
    return wire.entries(node, 5).get(name, memoryview(b""))
