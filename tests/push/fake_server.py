"""A Label Studio server in memory, as far as a push speaks to it: it never de-duplicates, and can lose requests."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prelabel.errors import PushError
from prelabel.push.server import Imported, LostError, Project, ServerPrediction, ServerTask

EMPTY = "<View></View>"


class FakeServer:
    """Holds one project (number 1) once it is created.

    Attributes:
        lose: For each coming import: `""` (works), `before` (lost on the way in), `after` (carried out, answer lost),
            `late` (answer lost, carried out with the next import); when it is empty all work.
        drop: So many predictions are dropped from the next import without a word.
    """

    url = "http://fake"

    def __init__(self, title: str = "", label_config: str = EMPTY) -> None:
        self.held: dict[int, ServerTask] = {}
        self.opened = Project(1, title, label_config, "", 0, 0) if title else None
        self.lose: list[str] = []
        self.drop = 0
        self.imports: list[int] = []
        self.local_storages: list[str] = []
        self._late: list[Any] = []
        self._next = 1

    # What a push uses.

    def close(self) -> None:
        pass

    def project(self, number: int) -> Project:
        if self.opened is None or number != 1:
            raise PushError(f"cannot open project {number}: http://fake answered 404")
        predictions = sum(len(task.predictions) for task in self.held.values())
        return replace(self.opened, tasks=len(self.held), predictions=predictions)

    def projects_titled(self, title: str) -> list[Project]:
        return [self.project(1)] if self.opened is not None and self.opened.title == title else []

    def create_project(self, title: str, label_config: str) -> Project:
        self.opened = Project(1, title, label_config, "", 0, 0)
        return self.opened

    def set_label_config(self, project: int, label_config: str) -> None:
        assert self.opened
        self.opened = replace(self.opened, label_config=label_config)

    def set_model_version(self, project: int, model_version: str) -> None:
        assert self.opened
        self.opened = replace(self.opened, model_version=model_version)

    def tasks(self, project: int, after: int = 0, *, predictions: bool = False) -> Iterator[ServerTask]:
        for number, task in sorted(self.held.items()):
            if number > after:
                yield task if predictions else replace(task, predictions=())

    def import_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> Imported:
        def carry_out() -> Imported:
            made = [self.hold(task["data"], task["predictions"][self.drop :]) for task in tasks]
            return Imported(tuple(made), sum(len(self.held[number].predictions) for number in made))

        return self._import(len(tasks), carry_out)

    def import_predictions(self, project: int, predictions: Sequence[Mapping[str, Any]]) -> int:
        def carry_out() -> int:
            for one in predictions[self.drop :]:
                task = self.held[one["task"]]
                self.held[task.id] = replace(task, predictions=(*task.predictions, self._prediction(one)))
            return len(predictions[self.drop :])

        return self._import(len(predictions), carry_out)

    def delete_predictions_of(self, project: int, task_ids: Sequence[int]) -> None:
        for number in task_ids:
            self.held[number] = replace(self.held[number], predictions=())

    def delete_prediction(self, number: int) -> None:
        for task in list(self.held.values()):
            rest = tuple(one for one in task.predictions if one.id != number)
            self.held[task.id] = replace(task, predictions=rest)

    def delete_task(self, number: int) -> None:
        del self.held[number]

    def storages(self, project: int, kind: str) -> list[str]:
        return self.local_storages if kind == "local" else []

    # What a test uses.

    def hold(self, data: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]] = (), annotations: int = 0) -> int:
        """One more task; its number."""
        number = self._number()
        made = tuple(map(self._prediction, predictions))
        self.held[number] = ServerTask(number, copy.deepcopy(dict(data)), annotations, made)
        return number

    def _import(self, count: int, carry_out: Any) -> Any:
        self.imports.append(count)
        for late in self._late:
            late()
        self._late = []
        fate = self.lose.pop(0) if self.lose else ""
        if fate == "late":
            self._late.append(carry_out)
        if fate == "after":
            carry_out()
        if fate:
            raise LostError("cannot import: http://fake does not answer")
        return carry_out()

    def _prediction(self, one: Mapping[str, Any]) -> ServerPrediction:
        return ServerPrediction(self._number(), one["model_version"], one["score"], copy.deepcopy(one["result"]))

    def _number(self) -> int:
        self._next += 1
        return self._next
