"""A Label Studio server in memory, with what a push uses: it never removes duplicates, and can lose requests."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prelabel.errors import PushError
from prelabel.label_studio.client import LostError, Project, ServerPrediction, ServerTask

EMPTY = "<View></View>"


class FakeServer:
    """Holds one project (number 1) once it is created.

    Attributes:
        lose: For each coming import: `""` (works), `before` (lost on the way in), `after` (carried out, answer lost),
            `late` (answer lost, carried out with the next import); imports beyond the list work.
        drop: Number of predictions that are silently dropped from the next import.
    """

    url = "http://fake"

    def __init__(self, title: str = "", label_config: str = EMPTY) -> None:
        self.held: dict[int, ServerTask] = {}
        self.opened = Project(1, title, label_config, "", 0, 0) if title else None
        self.lose: list[str] = []
        self.drop = 0
        self.imports: list[int] = []
        self.local_storages: list[str] = []
        #: Storages created by a push, as they were sent, by kind.
        self.created: dict[str, list[dict[str, Any]]] = defaultdict(list)
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

    def import_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> tuple[list[int], int]:
        def carry_out() -> tuple[list[int], int]:
            numbers = [self.hold(task["data"], task["predictions"][self.drop :]) for task in tasks]
            return numbers, sum(len(self.held[number].predictions) for number in numbers)

        return self._import(len(tasks), carry_out)

    def import_predictions(self, project: int, predictions: Sequence[Mapping[str, Any]]) -> int:
        def carry_out() -> int:
            for prediction in predictions[self.drop :]:
                task = self.held[prediction["task"]]
                self.held[task.id] = replace(task, predictions=(*task.predictions, self._prediction(prediction)))
            return len(predictions[self.drop :])

        return self._import(len(predictions), carry_out)

    def delete_predictions_of(self, project: int, task_ids: Sequence[int]) -> None:
        for number in task_ids:
            self.held[number] = replace(self.held[number], predictions=())

    def delete_prediction(self, number: int) -> None:
        for task in list(self.held.values()):
            rest = tuple(prediction for prediction in task.predictions if prediction.id != number)
            self.held[task.id] = replace(task, predictions=rest)

    def delete_task(self, number: int) -> None:
        del self.held[number]

    def storages(self, project: int, kind: str) -> list[str]:
        own = [
            fields.get("path") or fields.get("bucket") or fields.get("container") or "" for fields in self.created[kind]
        ]
        return [*self.local_storages, *own] if kind == "local" else own

    def create_storage(self, project: int, kind: str, fields: Mapping[str, Any]) -> None:
        self.created[kind].append(dict(fields))

    # What a test uses.

    def hold(self, data: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]] = (), annotations: int = 0) -> int:
        """Add a task and return its number."""
        number = self._number()
        kept = tuple(map(self._prediction, predictions))
        self.held[number] = ServerTask(number, copy.deepcopy(dict(data)), annotations, kept)
        return number

    def _import(self, count: int, carry_out: Any) -> Any:
        self.imports.append(count)
        for late in self._late:
            late()
        self._late = []
        loss = self.lose.pop(0) if self.lose else ""
        if loss == "late":
            self._late.append(carry_out)
        if loss == "after":
            carry_out()
        if loss:
            raise LostError("cannot import: http://fake does not answer")
        return carry_out()

    def _prediction(self, fields: Mapping[str, Any]) -> ServerPrediction:
        return ServerPrediction(
            self._number(), fields["model_version"], fields["score"], copy.deepcopy(fields["result"])
        )

    def _number(self) -> int:
        self._next += 1
        return self._next
