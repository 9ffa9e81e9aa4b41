"""Send the tasks of a run in requests of bounded size, and count what happened to them.

Images of the run are matched with the tasks that the project already has (`KnownTasks`):

    a task's data                                              matches an image of the run by
    {"image": "s3://b/a.jpg", ...}                             the URL, however it is percent-encoded
    {"image": "...", "image_id": "a.jpg", "file_name": ...}    else the image_id
    {"image": "...", "file_name": "a.jpg"}                     else the file_name

If the run was made from the project's tasks, its image ids begin with the task numbers, and these decide.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from prelabel.errors import PushError
from prelabel.export.text import strict_json
from prelabel.label_studio.client import LostError, Project, Server, ServerTask
from prelabel.label_studio.options import PushOptions
from prelabel.label_studio.tasks import Batch

Task = dict[str, Any]

#: Pauses in seconds before the server is asked whether a lost request was carried out.
_WAITS_S = (1.0, 3.0, 10.0, 30.0)


@dataclass(slots=True)
class Sent:
    """What happened to the tasks of a run.

    Attributes:
        new_tasks: Tasks created.
        added: Predictions added to existing tasks.
        replaced: Predictions replaced by others of the same model version.
        unchanged: Tasks left unchanged, usually because they already had exactly this prediction.
        without_task: Images without a task, if none is to be created.
        shared: Images not sent because another image of the run has the same task.
    """

    new_tasks: int = 0
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    without_task: int = 0
    shared: int = 0


class Sender:
    """Collects the tasks of a run and sends them whenever a request is full; `finish` sends the rest.

    Attributes:
        sent: What happened to the tasks so far.
    """

    def __init__(
        self, server: Server, project: Project, known: KnownTasks, options: PushOptions, *, create: bool
    ) -> None:
        """Send nothing yet.

        Args:
            server: The server.
            project: The project, as it was when its tasks were read.
            known: The tasks of the project.
            options: Limits of a request.
            create: Whether images without a task get one.
        """
        self._server = server
        self._project = project
        self._known = known
        self._create = create
        limits = (options.tasks_per_request, int(options.max_request_mb * 1e6))
        self._new = Batch(*limits, self._send_new)
        self._adding = Batch(*limits, self._send_added)
        self._replacing = Batch(*limits, self._send_replaced)
        self._created: set[int] = set()
        self._used: set[int] = set()
        self._before = len(known)
        self._last_before = known.last
        self.sent = Sent()

    def add(self, task: Task) -> None:
        """Add a task of the run, with one prediction or none. Raises PushError."""
        known = self._known.find(task["data"])
        if known is None:
            if self._create:
                self._new.add(task, _size(task))
            else:
                self.sent.without_task += 1
        elif known.id in self._used:
            self.sent.shared += 1
        else:
            self._used.add(known.id)
            if not task["predictions"] or [content for _, content in known.ours] == [_content(task)]:
                self.sent.unchanged += 1
            else:
                (self._replacing if known.ours else self._adding).add(task, _size(task))

    def finish(self) -> None:
        """Send the remaining tasks. Raises PushError."""
        for batch in (self._new, self._adding, self._replacing):
            batch.send()
        self._remove_duplicates()

    def _send_new(self, tasks: list[Task]) -> None:
        def send(missing: list[Task]) -> None:
            task_ids, created = self._server.import_tasks(self._project.id, missing)
            predictions = sum(len(task["predictions"]) for task in missing)
            if len(task_ids) != len(missing) or created != predictions:
                raise PushError(
                    f"{len(missing)} tasks with {predictions} predictions were sent, but the server created "
                    f"{len(task_ids)} with {created}"
                )
            self._created.update(task_ids)

        self._send_until_arrived(tasks, send, lambda task: self._known.find(task["data"]) is not None)
        self.sent.new_tasks += len(tasks)

    def _send_added(self, tasks: list[Task]) -> None:
        self._send_until_arrived(tasks, self._import_predictions, self._is_predicted)
        self.sent.added += len(tasks)

    def _send_replaced(self, tasks: list[Task]) -> None:
        """Delete old predictions, then add new ones. If the push stops in between, the next push adds them."""
        known_tasks = [self._task_of(task) for task in tasks]
        only_ours = [known.id for known in known_tasks if not known.others]
        if only_ours:
            self._server.delete_predictions_of(self._project.id, only_ours)
        for known in known_tasks:
            if known.others:
                for number, _ in known.ours:
                    self._server.delete_prediction(number)
        self._send_until_arrived(tasks, self._import_predictions, self._is_predicted)
        self.sent.replaced += len(tasks)

    def _import_predictions(self, tasks: list[Task]) -> None:
        predictions = [{"task": self._task_of(task).id, **task["predictions"][0]} for task in tasks]
        created = self._server.import_predictions(self._project.id, predictions)
        if created != len(predictions):
            raise PushError(
                f"{len(predictions)} predictions were sent, but the server created {created}: it dropped the others "
                "without giving a reason"
            )

    def _send_until_arrived(
        self, tasks: list[Task], send: Callable[[list[Task]], None], has_arrived: Callable[[Task], bool]
    ) -> None:
        """Send tasks; if the answer is lost, find out what arrived and resend the rest."""
        for seconds in (*_WAITS_S, None):
            try:
                send(tasks)
                return
            except LostError as error:
                if seconds is None:
                    raise PushError(f"{error}. Run the same command to resume") from None
            time.sleep(seconds)
            self._known.read(self._server.tasks(self._project.id, predictions=True))
            tasks = [task for task in tasks if not has_arrived(task)]
            if not tasks:
                return

    def _is_predicted(self, task: Task) -> bool:
        return _content(task) in [content for _, content in self._task_of(task).ours]

    def _task_of(self, task: Task) -> KnownTask:
        known = self._known.find(task["data"])
        if known is None:
            raise PushError(
                f"the task of image {task['data']['image_id']!r} was deleted from the project during the push"
            )
        return known

    def _remove_duplicates(self) -> None:
        """Delete tasks of this push for images that an earlier, interrupted push has added meanwhile.

        The server completes a request even if its client is gone. A push that is repeated immediately cannot
        yet find the tasks that such a request is about to create.
        """
        if self._server.project(self._project.id).tasks == self._before + len(self._created):
            return
        tasks_of_others = KnownTasks(self._known.data_key, "", by_number=False)
        our_tasks = []
        for task in self._server.tasks(self._project.id, self._last_before):
            if task.id in self._created:
                our_tasks.append(task)
            else:
                tasks_of_others.read([task])
        for task in our_tasks:
            if tasks_of_others.find(task.data) is not None and not task.annotations:
                self._server.delete_task(task.id)


def _size(task: Task) -> int:
    # With room for the brackets of the list, and for a separator and a task number per task.
    return len(strict_json(task)) + 24


def _content(task: Task) -> bytes:
    (prediction,) = task["predictions"]
    return digest(prediction["score"], prediction["result"])


@dataclass(slots=True)
class KnownTask:
    """A task of the project.

    Attributes:
        id: Its number on the server.
        ours: Numbers and content digests of its predictions of our model version.
        others: Whether it has predictions of other model versions.
    """

    id: int
    ours: tuple[tuple[int, bytes], ...] = ()
    others: bool = False


class KnownTasks:
    """The tasks of a project by the images that they show. If several tasks show an image, the oldest one counts."""

    def __init__(self, data_key: str, model_version: str, *, by_number: bool) -> None:
        """Start without tasks.

        Args:
            data_key: The key of a task's data that holds the image's URL.
            model_version: Model version of our predictions.
            by_number: Whether image ids of the run begin with the number of their task.
        """
        self.data_key = data_key
        self._model_version = model_version
        self._by_number = by_number
        self._tasks: dict[int, KnownTask] = {}
        self._by_url: dict[str, int] = {}
        self._by_name: dict[str, int] = {}
        #: Number of the newest task.
        self.last = 0
        #: Tasks whose image an older task also shows.
        self.duplicates: set[int] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def read(self, tasks: Iterable[ServerTask]) -> None:
        """Add tasks, which must be in ascending order of their numbers."""
        for task in tasks:
            self.last = max(self.last, task.id)
            ours = tuple(
                (prediction.id, digest(prediction.score, prediction.result))
                for prediction in task.predictions
                if prediction.model_version == self._model_version
            )
            self._tasks[task.id] = KnownTask(task.id, ours, len(ours) < len(task.predictions))
            url = self._url_of(task.data)
            if url and self._by_url.setdefault(url, task.id) != task.id:
                self.duplicates.add(task.id)
            name = name_of(task.data)
            if name:
                self._by_name.setdefault(name, task.id)

    def find(self, data: Mapping[str, Any]) -> KnownTask | None:
        """The task that shows the image of this data, or None."""
        if self._by_number:
            number = data["image_id"].partition("/")[0]
            return self._tasks.get(int(number)) if number.isascii() and number.isdigit() else None
        id_ = self._by_url.get(self._url_of(data)) or self._by_name.get(name_of(data))
        return None if id_ is None else self._tasks[id_]

    def _url_of(self, data: Mapping[str, Any]) -> str:
        value = data.get(self.data_key)
        return unquote(value) if isinstance(value, str) else ""


def name_of(data: Mapping[str, Any]) -> str:
    """The name of the image in a task's data: `image_id`, else `file_name`, else `""`."""
    for key in ("image_id", "file_name"):
        value = data.get(key)
        if isinstance(value, str) and value:
            return value
    return ""


def digest(score: float | None, result: Any) -> bytes:
    """A hash of a prediction's content (16 bytes); the order of regions matters, the order of keys does not."""
    text = json.dumps([score, result], sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
