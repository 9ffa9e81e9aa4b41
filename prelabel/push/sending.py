"""Sends the tasks of a run in requests of bounded size, each to where it belongs, and counts what became of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prelabel.errors import PushError
from prelabel.export.reading import strict_json
from prelabel.push.images_shown import place_of
from prelabel.push.known_tasks import KnownTask, KnownTasks, digest
from prelabel.push.options import PushOptions
from prelabel.push.server import LostError, Project, Server

Task = dict[str, Any]

#: A lost request is looked after so often, each time after so many seconds.
_WAITS_S = (1.0, 3.0, 10.0, 30.0)


class Sender:
    """Takes one task of the run after another; sends when a request is full, and what is left in `finish`.

    Attributes:
        places: The kinds of source storage that the images need.
        new_tasks: Tasks created.
        added: Predictions added to tasks that were there.
        replaced: Predictions replaced by others of the same model version.
        unchanged: Tasks left as they were.
        without_task: Images that the project has no task for, where none is to be created.
        shared: Images left out because another image of the run has their task.
    """

    def __init__(
        self,
        server: Server,
        project: Project,
        known: KnownTasks,
        data_key: str,
        options: PushOptions,
        *,
        create: bool,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Sends nothing yet.

        Args:
            server: Where to.
            project: Where to, as it was when its tasks were read.
            known: Those tasks.
            data_key: The key of a task's data that holds the image's address.
            options: How much is sent at a time.
            create: Whether images that have no task get one.
            wait: Called with seconds before a request is sent again.
        """
        self._server = server
        self._project = project
        self._known = known
        self._data_key = data_key
        self._create = create
        self._wait = wait
        self._new = _Batch(options, self._send_new)
        self._adding = _Batch(options, self._send_added)
        self._replacing = _Batch(options, self._send_replaced)
        self._created: set[int] = set()
        self._used: set[int] = set()
        self._before = len(known)
        self._last_before = known.last
        self.places: set[tuple[str, str]] = set()
        self.new_tasks = self.added = self.replaced = self.unchanged = self.without_task = self.shared = 0

    @property
    def predictions(self) -> bool:
        """Whether the project has predictions of the run."""
        return bool(self.new_tasks + self.added + self.replaced + self.unchanged)

    def take(self, task: Task) -> None:
        """One task of the run, with one prediction or none. Raises PushError."""
        place = place_of(task["data"][self._data_key])
        if place is not None:
            self.places.add(place)
        known = self._known.find(task["data"])
        if known is None:
            if self._create:
                self._new.add(task)
            else:
                self.without_task += 1
        elif known.id in self._used:
            self.shared += 1
        else:
            self._used.add(known.id)
            if not task["predictions"] or [content for _, content in known.ours] == [_content(task)]:
                self.unchanged += 1
            else:
                (self._replacing if known.ours else self._adding).add(task)

    def finish(self) -> None:
        """Send what is left. Raises PushError."""
        for batch in (self._new, self._adding, self._replacing):
            batch.send()
        self._remove_doubled()

    def _send_new(self, tasks: list[Task]) -> None:
        def send(missing: list[Task]) -> None:
            made = self._server.import_tasks(self._project.id, missing)
            predictions = sum(len(task["predictions"]) for task in missing)
            if len(made.task_ids) != len(missing) or made.predictions != predictions:
                raise PushError(
                    f"{len(missing)} tasks with {predictions} predictions were sent and the server created "
                    f"{len(made.task_ids)} with {made.predictions}"
                )
            self._created.update(made.task_ids)

        self._until_there(tasks, send, lambda task: self._known.find(task["data"]) is not None)
        self.new_tasks += len(tasks)

    def _send_added(self, tasks: list[Task]) -> None:
        self._until_there(tasks, self._import_predictions, self._is_predicted)
        self.added += len(tasks)

    def _send_replaced(self, tasks: list[Task]) -> None:
        """Old predictions go and new ones come, request by request; broken off between, a repeated push adds them."""
        known_tasks = [self._task_of(task) for task in tasks]
        alone = [known.id for known in known_tasks if not known.others]
        if alone:
            self._server.delete_predictions_of(self._project.id, alone)
        for known in known_tasks:
            if known.others:
                for number, _ in known.ours:
                    self._server.delete_prediction(number)
        self._until_there(tasks, self._import_predictions, self._is_predicted)
        self.replaced += len(tasks)

    def _import_predictions(self, tasks: list[Task]) -> None:
        predictions = [{"task": self._task_of(task).id, **task["predictions"][0]} for task in tasks]
        created = self._server.import_predictions(self._project.id, predictions)
        if created != len(predictions):
            raise PushError(
                f"{len(predictions)} predictions were sent and the server created {created}: it dropped the others "
                "without saying why"
            )

    def _until_there(
        self, tasks: list[Task], send: Callable[[list[Task]], None], is_there: Callable[[Task], bool]
    ) -> None:
        """Send; of a request that got lost, send again what is not there when one looks."""
        for seconds in (*_WAITS_S, None):
            try:
                send(tasks)
                return
            except LostError as error:
                if seconds is None:
                    raise PushError(f"{error}; the same command goes on where this one stopped") from None
            self._wait(seconds)
            self._known.read(self._server.tasks(self._project.id, predictions=True))
            tasks = [task for task in tasks if not is_there(task)]
            if not tasks:
                return

    def _is_predicted(self, task: Task) -> bool:
        return _content(task) in [content for _, content in self._task_of(task).ours]

    def _task_of(self, task: Task) -> KnownTask:
        known = self._known.find(task["data"])
        if known is None:
            raise PushError(f"the project's task of image {task['data']['image_id']!r} has gone while it was pushed to")
        return known

    def _remove_doubled(self) -> None:
        """Delete tasks made here for images that an earlier push, which was broken off, has brought in meanwhile.

        The server goes on with a request whose sender has gone, and a push that is repeated at once finds nothing of
        what that request is about to create.
        """
        if self._server.project(self._project.id).tasks == self._before + len(self._created):
            return
        others = KnownTasks(self._data_key, "", by_number=False)
        ours = []
        for task in self._server.tasks(self._project.id, self._last_before):
            if task.id in self._created:
                ours.append(task)
            else:
                others.read([task])
        for task in ours:
            if others.find(task.data) is not None and not task.annotations:
                self._server.delete_task(task.id)


def _content(task: Task) -> bytes:
    (prediction,) = task["predictions"]
    return digest(prediction["score"], prediction["result"])


class _Batch:
    """Tasks that wait for a request."""

    def __init__(self, options: PushOptions, send: Callable[[list[Task]], None]) -> None:
        self._most_tasks = options.tasks_per_request
        self._most_bytes = int(options.max_request_mb * 1e6)
        self._send = send
        self._tasks: list[Task] = []
        self._bytes = 0

    def add(self, task: Task) -> None:
        """One more task; what waits is sent before it where both together are too much."""
        # The brackets of the list, and a separator and a number for each task.
        size = len(strict_json(task)) + 24
        if self._bytes + size > self._most_bytes or len(self._tasks) == self._most_tasks:
            self.send()
        self._tasks.append(task)
        self._bytes += size

    def send(self) -> None:
        """Send what waits, if anything does."""
        tasks, self._tasks, self._bytes = self._tasks, [], 0
        if tasks:
            self._send(tasks)
