"""A Label Studio server, spoken to through its own SDK: the one module that imports it.

Every call is one request whose failure is a `PushError` without token and headers. Requests that may safely be sent
twice are repeated by the SDK when the server is busy or away; imports are sent once, since the server never
de-duplicates: whether a lost one arrived is for the caller to find out (`LostError`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from prelabel.errors import ConfigError, PushError
from prelabel.storage import redact

T = TypeVar("T")

#: A large import takes the server tens of seconds, proxies permitting.
_TIMEOUT_S = 600.0

#: Tasks asked for at a time.
_PAGE = 500

#: Answers of a proxy whose server may be at work on the request all the same, and of a server too busy to take it.
_LOST = (408, 429, 500, 502, 503, 504)


class LostError(PushError):
    """A request of which nobody knows whether the server carried it out."""


@dataclass(frozen=True, slots=True)
class Project:
    """What is needed to know of a project; `tasks` and `predictions` are the server's counts."""

    id: int
    title: str
    label_config: str
    model_version: str
    tasks: int
    predictions: int


@dataclass(frozen=True, slots=True)
class ServerPrediction:
    """A prediction as the server has it."""

    id: int
    model_version: str
    score: float | None
    result: Any


@dataclass(frozen=True, slots=True)
class ServerTask:
    """A task as the server has it; `predictions` are of all model versions."""

    id: int
    data: Mapping[str, Any]
    annotations: int
    predictions: tuple[ServerPrediction, ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """What the server says it created."""

    task_ids: tuple[int, ...]
    predictions: int


class Server:
    """A server that a token opens."""

    def __init__(self, url: str, token: str) -> None:
        """Sends nothing yet.

        Raises:
            ConfigError: The SDK is not installed.
            PushError: The token has expired.
        """
        try:
            import httpx
            from label_studio_sdk import LabelStudio
        except ImportError:
            raise ConfigError(
                "pushing to Label Studio needs a package that is not installed: pip install 'prelabel[label-studio]'"
            ) from None
        self.url = url.rstrip("/")
        self._token = token
        # The SDK never closes a client that it made itself.
        http = self._http = httpx.Client(timeout=_TIMEOUT_S, follow_redirects=True)
        self._client = self._call(
            "sign in",
            lambda: LabelStudio(base_url=self.url, api_key=token, timeout=_TIMEOUT_S, httpx_client=http),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __repr__(self) -> str:
        return f"Server({redact(self.url)})"

    def project(self, number: int) -> Project:
        """A project by its number. Raises PushError where there is none."""
        return _project(self._call(f"open project {number}", lambda: self._client.projects.get(number)))

    def projects_titled(self, title: str) -> list[Project]:
        """The projects of exactly this title."""

        def search() -> list[Project]:
            found = self._client.projects.list(title=title, page_size=100)
            return [_project(one) for one in found if one.title == title]

        return self._call("look for the project", search)

    def create_project(self, title: str, label_config: str) -> Project:
        """A new project."""
        create = self._client.projects.create
        made = self._call("create the project", lambda: create(title=title, label_config=label_config))
        return self.project(int(made.id))

    def set_label_config(self, project: int, label_config: str) -> None:
        """Give a project its labelling config."""
        update = self._client.projects.update
        self._call("set the labelling config", lambda: update(project, label_config=label_config))

    def set_model_version(self, project: int, model_version: str) -> None:
        """Choose the predictions that annotators see."""
        update = self._client.projects.update
        self._call("set the project's model version", lambda: update(project, model_version=model_version))

    def tasks(self, project: int, after: int = 0, *, predictions: bool = False) -> Iterator[ServerTask]:
        """The tasks whose number is above `after`, in ascending order, with their predictions when asked for."""
        fields = "id,data,total_annotations" + ",predictions" * predictions
        while True:
            above = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after}
            query = {"filters": {"conjunction": "and", "items": [above]}, "ordering": ["tasks:id"]}
            text = json.dumps(query)

            def ask(query: str = text) -> Any:
                return self._client.tasks.list(
                    project=project,
                    query=query,
                    page=1,
                    page_size=_PAGE,
                    include=fields,
                    fields="all" if predictions else None,
                    resolve_uri=False,
                ).items

            page = [_task(one) for one in self._call("list the project's tasks", ask)]
            yield from page
            # Servers may allow fewer a page than were asked for: only an empty one is the last.
            if not page:
                return
            after = page[-1].id

    def import_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> Imported:
        """Create tasks with their predictions. Raises LostError when the answer did not come."""

        def send() -> Imported:
            made = self._client.projects.import_tasks(
                project,
                request=tasks,
                commit_to_project=True,
                return_task_ids=True,
                request_options={"max_retries": 0},
            )
            return Imported(tuple(made.task_ids or ()), int(made.prediction_count or 0))

        return self._call("import tasks", send)

    def import_predictions(self, project: int, predictions: Sequence[Mapping[str, Any]]) -> int:
        """Create predictions of existing tasks; how many the server says it created."""
        send = self._client.projects.import_predictions
        options = {"max_retries": 0}
        made = self._call("import predictions", lambda: send(project, request=predictions, request_options=options))
        return int(made.created or 0)

    def delete_predictions_of(self, project: int, task_ids: Sequence[int]) -> None:
        """Delete all predictions of some tasks, whatever their model version, in one request."""
        chosen = {"all": False, "included": list(task_ids)}
        delete = self._client.actions.create
        self._call(
            "replace predictions",
            lambda: delete(id="delete_tasks_predictions", project=project, selected_items=chosen),
        )

    def delete_prediction(self, number: int) -> None:
        """Delete one prediction."""
        self._call("replace predictions", lambda: self._client.predictions.delete(number))

    def delete_task(self, number: int) -> None:
        """Delete one task."""
        self._call("delete a task", lambda: self._client.tasks.delete(str(number)))

    def storages(self, project: int, kind: str) -> list[str]:
        """What the project's source storages of a kind (`local`, `s3`, `gcs`, `azure`) serve: path or bucket."""
        room = getattr(self._client.import_storage, kind)
        found = self._call("list the project's storages", lambda: room.list(project=project))
        return [str(getattr(one, _PLACE_OF[kind], "") or "") for one in found]

    def _call(self, what: str, send: Callable[[], T]) -> T:
        import httpx
        from label_studio_sdk.core.api_error import ApiError

        where = redact(self.url)
        try:
            return send()
        except ApiError as error:
            kind = LostError if error.status_code in _LOST else PushError
            said = self._hide(_said(error.body))
            raise kind(f"cannot {what}: {where} answered {error.status_code}{f': {said}' if said else ''}") from None
        except httpx.InvalidURL:
            raise ConfigError(f"{where} is not the address of a server") from None
        except httpx.HTTPError as error:
            said = self._hide(f"{type(error).__name__}: {error}")
            raise LostError(f"cannot {what}: {where} does not answer ({said})") from None
        except json.JSONDecodeError:
            raise PushError(f"cannot {what}: {where} answers, but not as Label Studio does") from None

    def _hide(self, text: str) -> str:
        return redact(" ".join(text.replace(self._token, "***").split()))[:500]


#: The field of a source storage that says what it serves.
_PLACE_OF = {"local": "path", "s3": "bucket", "gcs": "bucket", "azure": "container"}


def _project(one: Any) -> Project:
    return Project(
        id=int(one.id),
        title=str(one.title or ""),
        label_config=str(one.label_config or ""),
        model_version=str(one.model_version or ""),
        tasks=int(one.task_number or 0),
        predictions=int(one.total_predictions_number or 0),
    )


def _task(one: Any) -> ServerTask:
    predictions = tuple(
        ServerPrediction(int(each.id), str(each.model_version or ""), each.score, each.result)
        for each in one.predictions or ()
    )
    data = one.data if isinstance(one.data, Mapping) else {}
    return ServerTask(int(one.id), data, int(one.total_annotations or 0), predictions)


def _said(body: Any) -> str:
    """The sentence in an error's body: the server's own validation errors before its general ones."""
    if not isinstance(body, Mapping):
        text = str(body or "")
        return "" if "<html" in text.lower() else text
    errors = body.get("validation_errors")
    return json.dumps(errors, ensure_ascii=False) if errors else str(body.get("detail") or "")
