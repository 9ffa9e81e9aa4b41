"""Find the working size of a model: the size of its images after it has resized them.

The input of the model may have a fixed size, the catalog may name the working size, or the graph may resize its input
to a constant size. To find such a resize, the image is followed from the graph's input through operations that keep
pixels in place. All paths must end in a resize to the same constant size; otherwise the size is unknown.
"""

from __future__ import annotations

from prelabel import protobuf
from prelabel.detectors.conventions.graph import CALLS, Node, Scope, main_scope, name_of
from prelabel.detectors.conventions.protos import chosen_meta_graph, open_saved_model
from prelabel.detectors.conventions.resolve_model import PreparedModel

#: Operations that change the values of pixels, but not their positions.
_IN_PLACE = frozenset(
    (
        *("Identity", "StopGradient", "PlaceholderWithDefault", "Cast", "ExpandDims", "Squeeze"),
        *("Mul", "Sub", "Add", "AddV2", "Div", "RealDiv", "Maximum", "Minimum", "ClipByValue"),
    )
)
_RESIZE = frozenset(("ResizeBilinear", "ResizeBicubic", "ResizeArea", "ResizeNearestNeighbor", "ScaleAndTranslate"))
_SIZE_QUERIES = frozenset(("Shape", "ShapeN", "Size", "Rank"))
_UINT8, _FLOAT = 4, 1

Size = tuple[int, int]


class _UnknownError(Exception):
    """The image cannot be followed."""


def working_size(model: PreparedModel) -> int | None:
    """Upper bound of the shorter side, in pixels, of an image after the model has resized it; None if unknown."""
    with open_saved_model(model.local.path) as data:
        size = model.input_size or fixed_resize(protobuf.only(chosen_meta_graph(data)[1], 2))
    if size:
        return max(size)
    return model.local.entry.working_size if model.local.entry else None


def fixed_resize(graph: memoryview) -> Size | None:
    """Height and width that a graph resizes its image to, or None if unknown.

    Args:
        graph: The GraphDef; every numeric placeholder counts as an image.
    """
    main = main_scope(graph)
    images = [
        node.name
        for node in main.body.nodes.values()
        if node.operation == "Placeholder" and node.type("dtype") in (_UINT8, _FLOAT)
    ]
    try:
        sizes = {size for name in images for size in _sizes(main, name)}
    except (_UnknownError, RecursionError):
        return None
    return sizes.pop() if len(sizes) == 1 else None


def _sizes(scope: Scope, start: str) -> set[Size]:
    """The sizes to which a body resizes an image, which is one of its nodes or arguments.

    Raises:
        _UnknownError: The image is used in any other way, or not at all.
    """
    sizes: set[Size] = set()
    seen, ahead = {start}, [start]
    while ahead:
        image = ahead.pop()
        for node in scope.body.consumers.get(image, ()):
            inputs = [name_of(tensor) for tensor in node.tensors]
            if node.operation in _SIZE_QUERIES:
                continue
            if node.operation in _RESIZE and inputs[0] == image and len(inputs) > 1:
                sizes.add(_constant_size(scope.body.nodes.get(inputs[1])))
            elif node.operation in CALLS:
                callee = scope.called(node)
                if callee is None:
                    raise _UnknownError
                for argument, tensor in zip(callee.body.arguments, inputs, strict=False):
                    if tensor == image:
                        sizes |= _sizes(callee, argument)
            elif node.operation not in _IN_PLACE:
                raise _UnknownError
            elif node.name not in seen:
                seen.add(node.name)
                ahead.append(node.name)
    if not sizes or seen & {name_of(tensor) for tensor in scope.body.returned}:
        raise _UnknownError
    return sizes


def _constant_size(node: Node | None) -> Size:
    if node is None or node.operation != "Const":
        raise _UnknownError
    content = bytes(protobuf.only(protobuf.only(node.attribute("value"), 8), 4))
    size = int.from_bytes(content[:4], "little"), int.from_bytes(content[4:], "little")
    if len(content) != 8 or not all(0 < side < 1 << 16 for side in size):
        raise _UnknownError
    return size
