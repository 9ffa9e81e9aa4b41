"""What of a model is run when it is loaded and asked, and which of that reaches beyond the graph. No TensorFlow.

A SavedModel holds more than what answers: training, saving, other signatures. Run is what the chosen signature's
outputs need, and what loading itself calls: the restoring of variables and the filling of tables. Where the model has
objects those are its functions, else parts of its main graph. From there the walk goes along inputs and through every
function that a node names, in which every node counts.

Paths are followed, too: a table that is filled from an asset of the model, or variables that are restored from its own
checkpoint, read nothing that is not part of it. A path is the model's own when it comes, unchanged and through any
number of calls, from there; the outputs of loops count as foreign.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from prelabel.detectors import wire
from prelabel.detectors.beyond import BEYOND, CHECKPOINT, PATH_INPUT, reaches_out
from prelabel.detectors.convention import CALL
from prelabel.detectors.graph import chosen_meta_graph, reading
from prelabel.detectors.nodes import Body, Node, name_of, read_body, read_functions
from prelabel.detectors.prepare import PreparedModel
from prelabel.errors import ConfigError
from prelabel.storage import redact

#: The functions that loading calls on a table or another resource; the last one when it goes.
_RUN_BY_LOADING = ("_create_resource", "_initialize", "_destroy_resource")
_INIT_SIGNATURE = "__saved_model_init_op"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")

#: Operations that a refusal names.
_MOST_SHOWN = 4

#: Calls whose arguments are the node's inputs from this one on.
_FIRST_ARGUMENT = {
    **dict.fromkeys(("PartitionedCall", "StatefulPartitionedCall"), 0),
    **dict.fromkeys(("If", "StatelessIf", "Case", "StatelessCase", "RemoteCall"), 1),
}


@dataclass(frozen=True, slots=True)
class Beyond:
    """An operation of a model that reaches beyond its graph.

    Attributes:
        operation: Its name.
        does: What it does, in words.
        where: The function it is in, or `the main graph`.
        count: How often it is there.
        runs: Whether loading the model or asking it runs it.
    """

    operation: str
    does: str
    where: str
    count: int
    runs: bool


def operations_beyond(folder: Path, signature: str | None) -> tuple[Beyond, ...]:
    """The operations of a model's chosen graph that reach beyond it, those that run first.

    What is never run is named, too, but for what models bring along to save themselves and to find their own files.

    Args:
        folder: Of the model.
        signature: The one that is asked, `CALL` for the model's own call, or None for any.

    Raises:
        DetectorError: The model cannot be read.
    """
    with reading(folder) as data:
        _, meta, tags = chosen_meta_graph(data)
        return _operations_beyond(_Walk(meta, alone=len(tags) == 1), signature)


def require_harmless(model: PreparedModel) -> None:
    """Refuse a model that would reach beyond its graph when it is loaded or asked.

    Raises:
        ConfigError: It would; the message names the operations, where they are, and the option that allows them.
    """
    refusal = refusal_of(model.local.address, operations_beyond(model.local.path, model.convention.signature))
    if refusal:
        raise ConfigError(refusal)


def refusal_of(address: str, beyond: Sequence[Beyond]) -> str:
    """Why a model with these operations is run only when it is trusted, in one line; `""` where none of them runs."""
    run = [one for one in beyond if one.runs]
    if not run:
        return ""
    named = [f"{one.operation} {one.does} ({one.where}, {one.count} x)" for one in run[:_MOST_SHOWN]]
    more = f", and {len(run) - _MOST_SHOWN} more" if len(run) > _MOST_SHOWN else ""
    return redact(
        f"the model {address} is code that reaches beyond its graph: {', '.join(named)}{more}. "
        "If you trust whoever made it, state --trust-model"
    )


def _operations_beyond(walk: _Walk, signature: str | None) -> tuple[Beyond, ...]:
    walk.run(signature)
    run = Counter((operation, place) for (place, _), operation in walk.beyond.items())
    idle: Counter[tuple[str, str]] = Counter()
    for place, body in [("", walk.main), *walk.functions.items()]:
        for node in body.nodes.values():
            ordinary = node.operation in CHECKPOINT or node.operation in PATH_INPUT
            if (
                not ordinary
                and (place, node.name) not in walk.beyond
                and reaches_out(node.operation, node.attributes())
            ):
                idle[node.operation, place] += 1
    return tuple(
        Beyond(operation, BEYOND[operation], place or "the main graph", count, runs)
        for counted, runs in ((run, True), (idle, False))
        for (operation, place), count in sorted(counted.items())
    )


class _Walk:
    """Which nodes run: of the main graph by name, of functions by name and by which arguments are own paths."""

    def __init__(self, meta: memoryview, *, alone: bool) -> None:
        graph = wire.only(meta, 2)
        self._meta, self._alone = meta, alone
        self._signatures = wire.entries(meta, 5)
        self._objects = list(wire.messages(wire.only(meta, 7), 1))
        self._calls = wire.entries(wire.only(meta, 7), 2)
        collected = wire.only(wire.entries(meta, 4).get("saved_model_assets", memoryview(b"")), 5)
        assets = [*wire.messages(meta, 6)] or [wire.only(one, 2) for one in wire.messages(collected, 1)]
        self._assets = [(wire.text(wire.only(one, 1), 1), wire.text(one, 2)) for one in assets]
        self.main = read_body(wire.messages(graph, 1))
        self.functions = read_functions(graph)
        self._waiting: list[tuple[str, frozenset[int]]] = []
        #: Operations that reach out, by the place and name of their node.
        self.beyond: dict[tuple[str, str], str] = {}

    def run(self, signature: str | None) -> None:
        """Follow everything that loading the model and asking it runs; None asks every signature and call."""
        if self._objects and self._alone:
            # TensorFlow takes the functions of such a model and never runs its main graph.
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
        asked = [name for name in self._signatures if signature in (None, name)]
        ends = [end for name in asked for end in self._tensors(name, 2)] + self._tensors(_INIT_SIGNATURE, 2)
        collections = wire.entries(self._meta, 4)
        for name in _INIT_COLLECTIONS:
            ends += wire.texts(wire.only(collections.get(name, memoryview(b"")), 1), 1)
        saver = wire.only(self._meta, 3)
        ends.append(wire.text(saver, 3))
        own = {name_of(tensor) for tensor, file in self._assets if _stays_inside(file)} | {name_of(wire.text(saver, 1))}
        seen = {name_of(fed) for name in asked for fed in self._tensors(name, 1)}
        waiting = [name_of(end) for end in ends]
        while waiting:
            name = waiting.pop()
            node = self.main.nodes.get(name)
            if node is not None and name not in seen:
                seen.add(name)
                self._meet(node, "", self.main, frozenset(own))
                waiting += map(name_of, node.inputs)

    def _tensors(self, signature: str, field: int) -> list[str]:
        """Names of a signature's inputs (field 1) or outputs (2), with the parts of those that are composed."""
        infos = wire.entries(self._signatures.get(signature, memoryview(b"")), field).values()
        return [name for info in infos for name in _tensor_names(info)]

    def _run_function(self, name: str, own: frozenset[int]) -> None:
        body = self.functions.get(name)
        if body is None:
            return
        paths = frozenset(argument for number, argument in enumerate(body.arguments) if number in own)
        for node in body.nodes.values():
            self._meet(node, name, body, paths)
        if body.implements:
            # TensorFlow may put another function in its place that says it implements the same.
            self._waiting += [
                (other, own) for other, one in self.functions.items() if one.implements == body.implements
            ]

    def _meet(self, node: Node, place: str, body: Body, own: frozenset[str]) -> None:
        """One node that runs: note it where it reaches out, and queue the functions it calls."""
        attributes = {} if node.operation == "Const" else node.attributes()
        given = [one for one in node.inputs if not one.startswith("^")]
        if reaches_out(node.operation, attributes):
            path = PATH_INPUT.get(node.operation)
            if path is None or path >= len(given) or not body.is_own(given[path], own):
                self.beyond[place, node.name] = node.operation
        first = _FIRST_ARGUMENT.get(node.operation, len(given))
        arguments = frozenset(number for number, one in enumerate(given[first:]) if body.is_own(one, own))
        for value in attributes.values():
            self._waiting += [(called, arguments) for called in _called(value)]
        self._waiting.append((node.operation, frozenset()))  # old graphs call functions as if they were operations

    def _object_calls(self, signature: str | None) -> Iterator[tuple[str, frozenset[int]]]:
        """Functions of the model's objects that are run: those of the signature, and those that loading calls."""
        for number, node in enumerate(self._objects):
            for child in wire.messages(node, 1):
                name, target = wire.text(child, 2), wire.number(child, 1)
                if not 0 <= target < len(self._objects):
                    continue
                if name == "signatures" and number == 0:
                    for one in wire.messages(self._objects[target], 1):
                        if signature in (None, wire.text(one, 2)):
                            yield from self._functions_of(wire.number(one, 1))
                elif name in _RUN_BY_LOADING or (name == CALL and number == 0 and signature in (None, CALL)):
                    yield from self._functions_of(target)
            for saveable in wire.entries(node, 11).values():
                yield from self._functions_of(wire.number(saveable, 3))

    def _functions_of(self, number: int) -> Iterator[tuple[str, frozenset[int]]]:
        """The traces of an object that is a function, each with those of its arguments that are assets."""
        if not 0 <= number < len(self._objects):
            return
        node = self._objects[number]
        for name in [*wire.texts(wire.only(node, 6), 1), wire.text(wire.only(node, 8), 1)]:
            bound = wire.numbers(self._calls.get(name, memoryview(b"")), 2)
            body = self.functions.get(name)
            first = len(body.arguments) - len(bound) if body else 0
            yield name, frozenset(first + place for place, one in enumerate(bound) if self._is_asset(one))

    def _is_asset(self, number: int) -> bool:
        asset = next(wire.messages(self._objects[number], 5), None) if 0 <= number < len(self._objects) else None
        index = -1 if asset is None else wire.number(asset, 1)
        return 0 <= index < len(self._assets) and _stays_inside(self._assets[index][1])


def _tensor_names(info: memoryview) -> Iterator[str]:
    yield wire.text(info, 1)
    for sparse in wire.messages(info, 4):
        yield from (wire.text(sparse, field) for field in (1, 2, 3))
    for composite in wire.messages(info, 5):
        for part in wire.messages(composite, 2):
            yield from _tensor_names(part)


def _called(value: memoryview) -> Iterator[str]:
    """The functions an attribute names, and those that are given to them as attributes."""
    for function in [
        *wire.messages(value, 10),
        *(f for part in wire.messages(value, 1) for f in wire.messages(part, 9)),
    ]:
        yield wire.text(function, 1)
        for inner in wire.entries(function, 2).values():
            yield from _called(inner)


def _stays_inside(file: str) -> bool:
    path = PurePosixPath(file)
    return bool(file) and not path.is_absolute() and ".." not in path.parts and "://" not in file
