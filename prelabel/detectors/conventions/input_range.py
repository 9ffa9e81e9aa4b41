"""Detect the input range of a model from the first operations of its graph.

A model that was trained on pixels in -1..1, but accepts 0..255, begins with `x / 127.5 - 1`. So the image is followed
from the graph's input through operations that move pixels or scale them by constants, into functions, branches and
loops. Where it meets another operation (a convolution, a matrix product, a mean), it has been scaled to
`factor * x + shift`. The input range is the one of `INPUT_RANGES` that this maps to values that models are trained on:
0..1, -1..1, 0..255, or one of these minus a mean and divided by a standard deviation. A graph that does not scale its
image gives no evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prelabel.detectors.conventions.graph import Entry, Node, Scope, index_of, name_of
from prelabel.options import INPUT_RANGES

#: Operations that move pixels and keep their values (nearly): the positions of the inputs that are pixels.
_MOVES: Mapping[str, Sequence[int]] = {
    **dict.fromkeys(
        (
            *("Identity", "StopGradient", "PreventGradient", "PlaceholderWithDefault", "Snapshot", "EnsureShape"),
            *("CheckNumerics", "ExpandDims", "Squeeze", "Reshape", "Transpose", "Tile", "BroadcastTo", "Pad", "PadV2"),
            *("MirrorPad", "Slice", "StridedSlice", "Unpack", "SplitV", "Reverse", "ReverseV2", "Gather", "GatherV2"),
            *("GatherNd", "SpaceToDepth", "DepthToSpace", "SpaceToBatchND", "CropAndResize"),
            *("ResizeBilinear", "ResizeBicubic", "ResizeArea", "ResizeNearestNeighbor", "ScaleAndTranslate"),
            # Lists, and the control flow of loops and branches in TF1 graphs.
            *("TensorListFromTensor", "TensorListStack", "TensorListGetItem", "TensorListGather"),
            *("Enter", "RefEnter", "Exit", "NextIteration", "Switch"),
        ),
        (0,),
    ),
    "Split": (1,),
    "TensorListSetItem": (0, 2),
    "TensorListPushBack": (0, 1),
    "TensorArrayScatterV3": (2, 3),
    "TensorArrayWriteV3": (2, 3),
    "TensorArrayReadV3": (2,),
    "TensorArrayGatherV3": (2,),
    "TensorArrayUnpackV3": (1,),
    # All inputs.
    **dict.fromkeys(("Pack", "ConcatV2", "Concat", "Merge", "IdentityN"), range(1 << 16)),
}
_SEVERAL_OUTPUTS = frozenset(("Unpack", "Split", "SplitV", "Switch", "TensorArrayUnpackV3"))
_MAX_OUTPUTS = 64

#: Operations that use only the size of an image.
_SIZE_QUERIES = frozenset(("Shape", "ShapeN", "Size", "Rank", "NoOp", "TensorListLength", "TensorArraySizeV3"))

_ADDS = frozenset(("Add", "AddV2", "BiasAdd"))
_DIVIDES = frozenset(("RealDiv", "Div", "DivNoNan"))
_LOOPS, _BRANCHES = frozenset(("While", "StatelessWhile")), frozenset(("If", "StatelessIf"))

#: Types by their numbers in types.proto.
_BYTES = (4,)
_FLOATS = (1, 2, 14, 19)

#: Limits on the scalings per tensor and on the steps of the whole walk. Beyond them, there is no evidence.
_MAX_SCALINGS, _MAX_STEPS = 12, 20_000


@dataclass(frozen=True, slots=True)
class Scaling:
    """`factor * x + shift`, where each has one number, or one per channel.

    Attributes:
        is_clipped: Whether the values have been clipped or cast to bytes before.
    """

    factor: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)
    is_clipped: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it leaves values unchanged."""
        return self.factor == (1.0,) and self.shift == (0.0,)

    def bounds(self, range: tuple[float, float]) -> list[tuple[float, float]]:
        """The range after scaling, per channel."""
        ends = np.multiply.outer(range, np.array(self.factor)) + np.array(self.shift)
        return [(float(min(pair)), float(max(pair))) for pair in ends.T]

    def __str__(self) -> str:
        factor, shift = np.broadcast_arrays(self.factor, self.shift)
        if len(factor) > 1 and not (np.ptp(factor) < 1e-9 and np.ptp(shift) < 1e-9):
            mean, deviation = (
                "[" + ", ".join(f"{value:.4g}" for value in values) + "]" for values in (-shift / factor, 1 / factor)
            )
            return f"(x - {mean}) / {deviation}" if np.ptp(1 / factor) or abs(factor[0] - 1) > 1e-6 else f"x - {mean}"
        a, b = float(factor[0]), float(shift[0])
        scaled = "x" if abs(a - 1) < 1e-6 else f"x / {1 / a:.4g}" if 0 < a < 1 else f"{a:.4g} x"
        return scaled if abs(b) < 1e-4 * max(1.0, abs(a)) else f"{scaled} {'-' if b < 0 else '+'} {abs(b):.4g}"


@dataclass(frozen=True, slots=True)
class End:
    """An operation other than scaling that uses the image.

    Attributes:
        scaling: The scaling of the image up to here.
        operation: The operation.
        bounds: The range of the image here, if the operation sets it: a cast to bytes, or clipping.
    """

    scaling: Scaling
    operation: str
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence of a graph for the range of its input.

    Attributes:
        range: One of `INPUT_RANGES`, or None if undecided.
        why: What the graph does, or why that is no evidence.
        is_scaled: Whether the graph scales or clips its image at all, whether or not that fits a range.
    """

    range: str | None
    why: str
    is_scaled: bool = False


def range_in(entry: Entry) -> Evidence:
    """The evidence of a graph for the range of its image."""
    ends = _Walk().ends_of(entry)
    ranges: dict[str, str | None] = {}
    by_clipping = True
    for end in ends:
        if end.bounds is None and end.scaling.is_plain:
            continue
        by_clipping = by_clipping and end.bounds is not None
        fitting = [name for name in INPUT_RANGES if _fits(end, name)]
        ranges[_words(end)] = fitting[0] if len(fitting) == 1 else None
    if not ranges:
        return Evidence(None, "the graph does not scale its image")
    decided = {name for name in ranges.values() if name}
    if not decided:
        return Evidence(
            None, f"the graph computes {next(iter(ranges))}, which fits none of {', '.join(INPUT_RANGES)}", True
        )
    if len(decided) > 1 or None in ranges.values():
        listed = "; ".join(f"{words} ({range or 'fits no range'})" for words, range in ranges.items())
        return Evidence(None, f"the graph treats its image in two ways: {listed}", True)
    if by_clipping and any(end.scaling.is_plain and not end.scaling.is_clipped and not end.bounds for end in ends):
        words = next(iter(ranges))
        return Evidence(None, f"the graph treats its image in two ways: {words}, but uses it unscaled elsewhere", True)
    range = decided.pop()
    return Evidence(range, f"the graph computes {next(iter(ranges))}", True)


def _words(end: End) -> str:
    bounds = "a cast to bytes" if end.operation == "Cast" else f"clipping to {end.bounds}" if end.bounds else ""
    scaling = "" if bounds and end.scaling.is_plain else f"{end.scaling} first"
    return " and ".join(filter(None, (scaling, bounds)))


def _fits(end: End, name: str) -> bool:
    is_shifted = any(end.scaling.shift)
    return all(
        _is_input(name, low, high, is_shifted) if end.bounds is None else _is_about((low, high), end.bounds)
        for low, high in end.scaling.bounds(INPUT_RANGES[name])
    )


def _is_about(actual: tuple[float, float], expected: tuple[float, float]) -> bool:
    return all(abs(a - b) <= 0.02 * (expected[1] - expected[0]) for a, b in zip(actual, expected, strict=True))


def _is_input(name: str, low: float, high: float, is_shifted: bool) -> bool:
    """Whether an image in the named range, which becomes low..high, then has values that models are trained on.

    These are 0..1 or 0..255, or one of them minus a mean inside of it and divided by a standard deviation. A factor
    alone is evidence only if it maps one of these ranges to the other: a model may multiply its image by 0.7 for any
    reason. An input of -1..1 must be mapped to 0..1 or 0..255, since learned scales easily look like a mean and a
    standard deviation of it.
    """
    width = high - low
    is_small, is_large = 0.9 <= width <= 10, 200 <= width <= 300
    if not (is_small or is_large):
        return False
    if name == "-1..1":
        return _is_about((low, high), (0.0, 1.0)) or _is_about((low, high), (0.0, 255.0))
    if abs(low) <= 0.001 * width:
        return is_shifted or (is_small if name == "0..255" else is_large)
    return is_shifted and 0.02 * width <= -low <= 0.98 * width


def first_operations(entry: Entry) -> set[str]:
    """The types of the operations that the input of a graph meets first, other than those that only move its values.

    The input may also be of strings, such as encoded images.
    """
    return {end.operation for end in _Walk().ends_of(entry)}


class _Walk:
    """Follows an image through a graph."""

    def __init__(self) -> None:
        self._steps = 0
        self._ends: dict[End, None] = {}

    def ends_of(self, entry: Entry) -> list[End]:
        """The operations that use the image, other than those that move or scale pixels."""
        self._follow(entry.scope, {(name_of(entry.image), index_of(entry.image)): {Scaling()}})
        return list(self._ends)

    def _follow(self, scope: Scope, starts: Mapping[tuple[str, int], set[Scaling]]) -> dict[int, set[Scaling]]:
        """Follow images through a body. Returns the scalings of the images it returns, by index of the output."""
        ways: dict[tuple[str, int], set[Scaling]] = {}
        waiting = [(place, scaling) for place, scalings in starts.items() for scaling in scalings]
        while waiting:
            place, scaling = waiting.pop()
            here = ways.setdefault(place, set())
            self._steps += 1
            if scaling in here:
                continue
            if len(here) >= _MAX_SCALINGS or self._steps > _MAX_STEPS:
                self._ends[End(Scaling(), "a loop")] = None
                continue
            here.add(scaling)
            for node in scope.body.consumers.get(place[0], ()):
                at = [n for n, tensor in enumerate(node.tensors) if (name_of(tensor), index_of(tensor)) == place]
                if at and node.operation not in _SIZE_QUERIES:
                    waiting += [((node.name, n), scaled) for n, scaled in self._through(scope, node, at, scaling)]
        returned = [(name_of(tensor), index_of(tensor)) for tensor in scope.body.returned]
        return {number: ways[place] for number, place in enumerate(returned) if place in ways}

    def _through(self, scope: Scope, node: Node, at: Sequence[int], scaling: Scaling) -> Iterator[tuple[int, Scaling]]:
        """The outputs by which a node passes on an image that it receives at the inputs `at`: index and scaling."""
        operation = node.operation
        if operation in _MOVES and any(position in _MOVES[operation] for position in at):
            if operation == "IdentityN":
                outputs: Sequence[int] = at
            else:
                outputs = range(_MAX_OUTPUTS if operation in _SEVERAL_OUTPUTS else 1)
            yield from ((number, scaling) for number in outputs)
        elif operation == "Cast":
            yield from self._cast(node, scaling)
        elif operation in ("ClipByValue", "Minimum", "Maximum"):
            yield from self._clipped(scope, node, at, scaling)
        elif operation in _LOOPS:
            yield from self._loop(scope, node, at, scaling)
        elif operation in _BRANCHES:
            for branch in ("then_branch", "else_branch"):
                inside = scope.inside(node.function(branch), node.tensors[1:])
                yield from self._call(inside, [position - 1 for position in at], scaling, node)
        elif (inside := scope.called(node)) is not None:
            yield from self._call(inside, at, scaling, node)
        else:
            scaled = _scaled(scope, node, at, scaling)
            if scaled is None:
                self._ends[End(scaling, operation)] = None
            else:
                yield 0, replace(scaled, is_clipped=scaling.is_clipped)

    def _call(
        self, inside: Scope | None, at: Sequence[int], scaling: Scaling, node: Node
    ) -> Iterator[tuple[int, Scaling]]:
        if inside is None:
            self._ends[End(scaling, node.operation)] = None
            return
        arguments = inside.body.arguments
        starts = {(arguments[position], 0): {scaling} for position in at if 0 <= position < len(arguments)}
        for number, scalings in self._follow(inside, starts).items():
            yield from ((number, scaled) for scaled in scalings)

    def _loop(self, scope: Scope, node: Node, at: Sequence[int], scaling: Scaling) -> Iterator[tuple[int, Scaling]]:
        """Follow an image through a loop, which passes it to its next iteration and to the nodes after the loop."""
        inside = scope.inside(node.function("body"), node.tensors)
        seen: set[tuple[int, Scaling]] = set()
        values = {(position, scaling) for position in at}
        while values - seen and len(seen) <= _MAX_SCALINGS:
            number, scaled = min(values - seen, key=lambda value: (value[0], value[1].factor, value[1].shift))
            seen.add((number, scaled))
            values |= set(self._call(inside, [number], scaled, node))
        yield from values

    def _cast(self, node: Node, scaling: Scaling) -> Iterator[tuple[int, Scaling]]:
        target = node.type("DstT")
        if target in _BYTES:
            self._ends[End(scaling, "Cast", (0.0, 255.0))] = None
            scaling = replace(scaling, is_clipped=True)
        elif target not in _FLOATS:
            self._ends[End(scaling, "Cast to integers")] = None
            return
        yield 0, scaling

    def _clipped(self, scope: Scope, node: Node, at: Sequence[int], scaling: Scaling) -> Iterator[tuple[int, Scaling]]:
        """Follow an image through clipping. Two limits are its range; one alone is only a precaution."""
        others = [scope.constant(tensor) for number, tensor in enumerate(node.tensors) if number not in at]
        if any(limit is None for limit in others):
            self._ends[End(scaling, node.operation)] = None
            return
        limits = [float(limit.max()) for limit in others if limit is not None]
        for other in scope.body.consumers.get(node.name, ()):
            # TensorFlow clips with a Minimum and a Maximum, one after the other.
            if {node.operation, other.operation} == {"Minimum", "Maximum"}:
                second = [scope.constant(tensor) for tensor in other.tensors if name_of(tensor) != node.name]
                limits += [float(limit.max()) for limit in second if limit is not None]
        bounds = (min(limits), max(limits)) if len(limits) == 2 else (0.0, 0.0)
        if any(_is_about(bounds, range) for range in INPUT_RANGES.values()):
            self._ends[End(scaling, "ClipByValue", bounds)] = None
            scaling = replace(scaling, is_clipped=True)
        yield 0, scaling


def _scaled(scope: Scope, node: Node, at: Sequence[int], scaling: Scaling) -> Scaling | None:
    """The scaling after an operation with a constant, or None for any other operation."""
    if node.operation == "Neg":
        return _scaling(np.negative(scaling.factor), np.negative(scaling.shift))
    if len(node.tensors) != 2 or len(at) != 1:
        return None
    other = scope.constant(node.tensors[1 - at[0]])
    if other is None or other.size not in (1, 3) or other.dtype.kind not in "fiub":
        return None
    value = other.astype(np.float64).ravel()
    factor, shift = np.array(scaling.factor), np.array(scaling.shift)
    if node.operation in _ADDS:
        return _scaling(factor, shift + value)
    if node.operation == "Sub":
        return _scaling(factor, shift - value) if at[0] == 0 else _scaling(-factor, value - shift)
    if node.operation == "Mul":
        return _scaling(factor * value, shift * value)
    if node.operation in _DIVIDES and at[0] == 0 and value.all():
        return _scaling(factor / value, shift / value)
    return None


def _scaling(factor: object, shift: object) -> Scaling | None:
    """A scaling rounded to the digits of float32, so that equal ones compare equal; None if it is not finite."""
    arrays = [np.unique(array) if np.ptp(array) == 0 else array for array in (np.asarray(factor), np.asarray(shift))]
    if not all(np.isfinite(array).all() for array in arrays):
        return None
    factors, shifts = (tuple(float(f"{value:.7g}") for value in array) for array in arrays)
    return Scaling(factors, shifts)
