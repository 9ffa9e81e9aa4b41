"""In which range a network wants its pixels, told from the first things its graph does with them.

A network that was trained on pixels in -1..1 but takes 0..255 begins with `x / 127.5 - 1`. So the image is followed
from the graph's input through everything that moves pixels or scales them by constants, into called functions, branches
and loops. Where it meets anything else (a convolution, a matrix product, a mean), the scaling so far is known as
`factor * x + shift`; the range is the one of `INPUT_RANGES` that this turns into numbers that networks are trained on:
0..1, -1..1, 0..255, or any of them less a mean and divided by a deviation. A graph that scales nothing says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prelabel.detectors import wire
from prelabel.detectors.nodes import Node, index_of, name_of
from prelabel.detectors.scopes import Entry, Scope
from prelabel.options import INPUT_RANGES

#: Operations that move pixels and leave their values, or nearly: the positions of the inputs that are pixels.
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
    # As many as there are.
    **dict.fromkeys(("Pack", "ConcatV2", "Concat", "Merge", "IdentityN"), range(1 << 16)),
}
_KEPT_APART = frozenset(("IdentityN",))
_SEVERAL_OUTPUTS = frozenset(("Unpack", "Split", "SplitV", "Switch", "TensorArrayUnpackV3"))
_MOST_OUTPUTS = 64

#: What asks of an image nothing but its size.
_OF_THE_SIZE = frozenset(("Shape", "ShapeN", "Size", "Rank", "NoOp", "TensorListLength", "TensorArraySizeV3"))

_ADDS = frozenset(("Add", "AddV2", "BiasAdd"))
_DIVIDES = frozenset(("RealDiv", "Div", "DivNoNan"))
_LOOPS, _BRANCHES = frozenset(("While", "StatelessWhile")), frozenset(("If", "StatelessIf"))

#: Numbers of types in types.proto.
_BYTES = (4,)
_FLOATS = (1, 2, 14, 19)

#: Ways in which one tensor is scaled, and steps of the whole walk, beyond which nothing is said.
_MOST_WAYS, _MOST_STEPS = 12, 20_000


@dataclass(frozen=True, slots=True)
class Scaling:
    """`factor * x + shift`, each one number or one for each channel.

    Attributes:
        is_clipped: Whether values have been clipped on the way, or made bytes.
    """

    factor: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)
    is_clipped: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it does nothing."""
        return self.factor == (1.0,) and self.shift == (0.0,)

    def bounds(self, range: tuple[float, float]) -> list[tuple[float, float]]:
        """What a range becomes, for each channel."""
        ends = np.multiply.outer(range, np.array(self.factor)) + np.array(self.shift)
        return [(float(min(pair)), float(max(pair))) for pair in ends.T]

    def __str__(self) -> str:
        factor, shift = np.broadcast_arrays(self.factor, self.shift)
        if len(factor) > 1 and not (np.ptp(factor) < 1e-9 and np.ptp(shift) < 1e-9):
            mean, deviation = (
                "[" + ", ".join(f"{one:.4g}" for one in per) + "]" for per in (-shift / factor, 1 / factor)
            )
            return f"(x - {mean}) / {deviation}" if np.ptp(1 / factor) or abs(factor[0] - 1) > 1e-6 else f"x - {mean}"
        a, b = float(factor[0]), float(shift[0])
        scaled = "x" if abs(a - 1) < 1e-6 else f"x / {1 / a:.4g}" if 0 < a < 1 else f"{a:.4g} x"
        return scaled if abs(b) < 1e-4 * max(1.0, abs(a)) else f"{scaled} {'-' if b < 0 else '+'} {abs(b):.4g}"


@dataclass(frozen=True, slots=True)
class End:
    """Where the image meets something that is no scaling.

    Attributes:
        scaling: What was done to it before.
        operation: What it meets.
        bounds: The range in which it is here, where the operation says so: bytes, or what values are clipped to.
    """

    scaling: Scaling
    operation: str
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a graph says of its input's range.

    Attributes:
        range: One of `INPUT_RANGES`, or None.
        why: In words: what the graph does, or why that says nothing.
        is_scaled: Whether the graph scales or clips its image at all, in a way that fits a range or not.
    """

    range: str | None
    why: str
    is_scaled: bool = False


def range_in(entry: Entry) -> Evidence:
    """What the graph says of the range of its image."""
    ends = _Walk().ends_of(entry)
    telling: dict[str, str | None] = {}
    by_clipping = True
    for end in ends:
        if end.bounds is None and end.scaling.is_plain:
            continue
        by_clipping = by_clipping and end.bounds is not None
        fitting = [name for name in INPUT_RANGES if _fits(end, name)]
        telling[_words(end)] = fitting[0] if len(fitting) == 1 else None
    if not telling:
        return Evidence(None, "the graph does not scale its image")
    named = {name for name in telling.values() if name}
    if not named:
        return Evidence(
            None, f"the graph computes {next(iter(telling))}, which fits none of {', '.join(INPUT_RANGES)}", True
        )
    if len(named) > 1 or None in telling.values():
        shown = "; ".join(f"{words} ({range or 'fits no range'})" for words, range in telling.items())
        return Evidence(None, f"the graph treats its image in two ways: {shown}", True)
    if by_clipping and any(end.scaling.is_plain and not end.scaling.is_clipped and not end.bounds for end in ends):
        words = next(iter(telling))
        return Evidence(None, f"the graph treats its image in two ways: {words}, and uses it as it is elsewhere", True)
    range = named.pop()
    return Evidence(range, f"the graph computes {next(iter(telling))}", True)


def _words(end: End) -> str:
    what = "takes them as bytes" if end.operation == "Cast" else f"clips to {end.bounds}" if end.bounds else ""
    scaling = "" if what and end.scaling.is_plain else f"{end.scaling} first"
    return " and ".join(filter(None, (scaling, what)))


def _fits(end: End, name: str) -> bool:
    is_shifted = any(end.scaling.shift)
    return all(
        _is_input(name, low, high, is_shifted) if end.bounds is None else _is_about((low, high), end.bounds)
        for low, high in end.scaling.bounds(INPUT_RANGES[name])
    )


def _is_about(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(abs(a - b) <= 0.02 * (other[1] - other[0]) for a, b in zip(one, other, strict=True))


def _is_input(name: str, low: float, high: float, is_shifted: bool) -> bool:
    """Whether networks are trained on numbers between these, so that an image in the named range would be meant.

    That is 0..1 or 0..255, or one of them less a mean somewhere inside and divided by a deviation. A factor alone says
    something only where it leads from one to the other: a network may multiply its image by 0.7 for any reason. And
    -1..1 has to be undone: learned scales look like a mean and a deviation of it too easily.
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


class _Walk:
    """Follows an image through a graph."""

    def __init__(self) -> None:
        self._steps = 0
        self._ends: dict[End, None] = {}

    def ends_of(self, entry: Entry) -> list[End]:
        """Where the image meets anything else than moving and scaling."""
        self._follow(entry.scope, {(name_of(entry.image), index_of(entry.image)): {Scaling()}})
        return list(self._ends)

    def _follow(self, scope: Scope, starts: Mapping[tuple[str, int], set[Scaling]]) -> dict[int, set[Scaling]]:
        """Follow images that are in a body; how those that it returns are scaled, by number of the output."""
        ways: dict[tuple[str, int], set[Scaling]] = {}
        waiting = [(place, scaling) for place, scalings in starts.items() for scaling in scalings]
        while waiting:
            place, scaling = waiting.pop()
            here = ways.setdefault(place, set())
            self._steps += 1
            if scaling in here:
                continue
            if len(here) >= _MOST_WAYS or self._steps > _MOST_STEPS:
                self._ends[End(Scaling(), "a loop")] = None
                continue
            here.add(scaling)
            for node in scope.consumers.get(place[0], ()):
                at = [n for n, one in enumerate(node.tensors) if (name_of(one), index_of(one)) == place]
                if at and node.operation not in _OF_THE_SIZE:
                    waiting += [((node.name, n), one) for n, one in self._through(scope, node, at, scaling)]
        returned = [(name_of(one), index_of(one)) for one in scope.body.returned]
        return {number: ways[place] for number, place in enumerate(returned) if place in ways}

    def _through(self, scope: Scope, node: Node, at: Sequence[int], scaling: Scaling) -> Iterator[tuple[int, Scaling]]:
        """How a node hands on the image it takes at some of its inputs: number of the output, scaling."""
        operation = node.operation
        if operation in _MOVES and any(one in _MOVES[operation] for one in at):
            if operation in _KEPT_APART:
                outputs: Sequence[int] = at
            else:
                outputs = range(_MOST_OUTPUTS if operation in _SEVERAL_OUTPUTS else 1)
            yield from ((number, scaling) for number in outputs)
        elif operation == "Cast":
            yield from self._cast(node, scaling)
        elif operation in ("ClipByValue", "Minimum", "Maximum"):
            yield from self._clipped(scope, node, at, scaling)
        elif operation in _LOOPS:
            yield from self._loop(scope, node, at, scaling)
        elif operation in _BRANCHES:
            for branch in ("then_branch", "else_branch"):
                inside = scope.inside(wire.text(wire.only(node.attribute(branch), 10), 1), node.tensors[1:])
                yield from self._call(inside, [one - 1 for one in at], scaling, node)
        elif (inside := scope.called(node)) is not None:
            yield from self._call(inside, at, scaling, node)
        else:
            scaled = self._scaled(scope, node, at, scaling)
            if scaled is None:
                self._ends[End(scaling, operation)] = None
            else:
                yield 0, scaled

    def _call(
        self, inside: Scope | None, at: Sequence[int], scaling: Scaling, node: Node
    ) -> Iterator[tuple[int, Scaling]]:
        if inside is None:
            self._ends[End(scaling, node.operation)] = None
            return
        arguments = inside.body.arguments
        starts = {(arguments[one], 0): {scaling} for one in at if 0 <= one < len(arguments)}
        for number, scalings in self._follow(inside, starts).items():
            yield from ((number, one) for one in scalings)

    def _loop(self, scope: Scope, node: Node, at: Sequence[int], scaling: Scaling) -> Iterator[tuple[int, Scaling]]:
        """A loop hands its image from one turn to the next, and to whoever comes after it."""
        inside = scope.inside(wire.text(wire.only(node.attribute("body"), 10), 1), node.tensors)
        seen: set[tuple[int, Scaling]] = set()
        turn = {(one, scaling) for one in at}
        while turn - seen and len(seen) <= _MOST_WAYS:
            number, scaled = min(turn - seen, key=lambda one: (one[0], one[1].factor, one[1].shift))
            seen.add((number, scaled))
            turn |= set(self._call(inside, [number], scaled, node))
        yield from turn

    def _cast(self, node: Node, scaling: Scaling) -> Iterator[tuple[int, Scaling]]:
        target = wire.number(node.attribute("DstT"), 6)
        if target in _BYTES:
            self._ends[End(scaling, "Cast", (0.0, 255.0))] = None
            scaling = replace(scaling, is_clipped=True)
        elif target not in _FLOATS:
            self._ends[End(scaling, "Cast to integers")] = None
            return
        yield 0, scaling

    def _clipped(self, scope: Scope, node: Node, at: Sequence[int], scaling: Scaling) -> Iterator[tuple[int, Scaling]]:
        """What values are clipped to is the range they are in; one side alone is no more than a precaution."""
        others = [scope.constant(one) for number, one in enumerate(node.tensors) if number not in at]
        if any(one is None for one in others):
            self._ends[End(scaling, node.operation)] = None
            return
        limits = [float(one.max()) for one in others if one is not None]
        for other in scope.consumers.get(node.name, ()):
            # TensorFlow clips by both of these, one after the other.
            if {node.operation, other.operation} == {"Minimum", "Maximum"}:
                second = [scope.constant(one) for one in other.tensors if name_of(one) != node.name]
                limits += [float(one.max()) for one in second if one is not None]
        bounds = (min(limits), max(limits)) if len(limits) == 2 else (0.0, 0.0)
        if any(_is_about(bounds, range) for range in INPUT_RANGES.values()):
            self._ends[End(scaling, "ClipByValue", bounds)] = None
            scaling = replace(scaling, is_clipped=True)
        yield 0, scaling

    def _scaled(self, scope: Scope, node: Node, at: Sequence[int], scaling: Scaling) -> Scaling | None:
        """The scaling after an operation with a constant, or None where it is anything else."""
        scaled = self._computed(scope, node, at, scaling)
        return scaled and replace(scaled, is_clipped=scaling.is_clipped)

    def _computed(self, scope: Scope, node: Node, at: Sequence[int], scaling: Scaling) -> Scaling | None:
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
    """With digits that float32 has, so that equal ones are equal; None where a number is not finite."""
    rounded = [np.unique(one) if np.ptp(one) == 0 else one for one in (np.asarray(factor), np.asarray(shift))]
    if not all(np.isfinite(one).all() for one in rounded):
        return None
    factors, shifts = (tuple(float(f"{value:.7g}") for value in one) for one in rounded)
    return Scaling(factors, shifts)
