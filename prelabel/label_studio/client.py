"""The HTTP API of a Label Studio server: what pushes write, and what listings and fetches read.

Each call is one request; it fails with a `ServerError`, which never contains the token or headers. Requests that are
safe to repeat are retried when the server is busy. Imports are sent only once, since the server never removes
duplicates: after a `LostError` the caller has to find out whether the import arrived. Redirects are followed as
`storage/redirects.py` allows, and the token is sent to no other host. The token is either a legacy token or a personal
access token, which is exchanged for one that is valid for five minutes.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prelabel.errors import ConfigError, PushError
from prelabel.storage.address import describe, redact
from prelabel.storage.redirects import RedirectError, require_allowed_redirect

T = TypeVar("T")

VARIABLE = "LABEL_STUDIO_API_KEY"

#: Schemes of the URLs of projects and files on a server, with the schemes of the requests.
SCHEMES = {"label-studio": "http", "label-studio+https": "https"}

#: Prefix of the paths of files in a server's local storages.
LOCAL_FILES = "/data/local-files/?d="

#: A large import takes the server tens of seconds, if proxies allow it.
_TIMEOUT_S = 600.0

#: Tasks requested per page.
_PAGE = 500

#: Statuses after which a request is retried, besides those from 500.
_BUSY = (408, 409, 429)

#: Retries per request: after one and two seconds, unless the server says when to retry.
_RETRIES = 2
_LONGEST_PAUSE_S = 60.0

#: Statuses after which the server may still have carried out the request: from a proxy in front of a server that may be
#: working on it, or from a busy server.
_LOST = (408, 429, 500, 502, 503, 504)

#: How long an access token is used that was received in exchange for a personal one; it is valid for five minutes.
_ACCESS_S = 200.0


class ServerError(PushError):
    """A request to the server failed.

    Attributes:
        status: HTTP status of the answer, 0 if there was none.
        reason: The status in words, or the error of the connection.
    """

    def __init__(self, text: str, status: int = 0, reason: str = "") -> None:
        super().__init__(text)
        self.status, self.reason = status, reason


class LostError(ServerError):
    """A request that the server may or may not have carried out."""


@dataclass(frozen=True, slots=True)
class Project:
    """A project on the server; `tasks` and `predictions` are the server's counts."""

    id: int
    title: str
    label_config: str
    model_version: str
    tasks: int
    predictions: int


@dataclass(frozen=True, slots=True)
class ServerPrediction:
    """A prediction on the server."""

    id: int
    model_version: str
    score: float | None
    result: Any


@dataclass(frozen=True, slots=True)
class ServerTask:
    """A task on the server, with its predictions of all model versions and the number of its annotations."""

    id: int
    data: Mapping[str, Any]
    annotations: int
    predictions: tuple[ServerPrediction, ...]


class Server:
    """A server that is accessed with a token; safe to use from several threads."""

    def __init__(self, url: str, token: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        """Send nothing yet."""
        import httpx

        self.url = url.rstrip("/")
        self._token = token
        self._access = ""
        self._access_ends = 0.0
        self._exchanging = threading.Lock()
        # The authorities that this machine trusts, and those that come with httpx.
        trusted = httpx.create_ssl_context()
        trusted.load_default_certs()
        self._http = httpx.Client(
            auth=self._authorize,
            event_hooks={"response": [_check_redirect]},
            follow_redirects=True,
            timeout=timeout_s,
            verify=trusted,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def project(self, number: int) -> Project:
        """The project with a number. Raises ServerError if there is none."""
        return self._ask(f"open project {number}", "GET", f"projects/{number}/", _project)

    def projects_titled(self, title: str) -> list[Project]:
        """All projects with exactly this title."""
        projects: list[Project] = []
        params: dict[str, Any] = {"title": title, "page": 0, "page_size": 100}
        has_more = True
        while has_more:
            params["page"] += 1
            page, has_more = self._ask("look for the project", "GET", "projects/", _projects, params=params)
            projects += [project for project in page if project.title == title]
        return projects

    def create_project(self, title: str, label_config: str) -> Project:
        """Create a project."""
        body = {"title": title, "label_config": label_config}
        return self.project(self._ask("create the project", "POST", "projects/", _project, json=body).id)

    def set_label_config(self, project: int, label_config: str) -> None:
        """Set the labeling config of a project."""
        body = {"label_config": label_config}
        self._ask("set the labeling config", "PATCH", f"projects/{project}/", json=body)

    def set_model_version(self, project: int, model_version: str) -> None:
        """Set the model version whose predictions annotators see."""
        body = {"model_version": model_version}
        self._ask("set the project's model version", "PATCH", f"projects/{project}/", json=body)

    def tasks(self, project: int, after: int = 0, *, predictions: bool = False) -> Iterator[ServerTask]:
        """The tasks with numbers above `after`, in ascending order; with their predictions if `predictions` is set."""
        params: dict[str, Any] = {"project": project, "page": 1, "page_size": _PAGE, "resolve_uri": "false"}
        params |= {"include": "id,data,total_annotations" + ",predictions" * predictions}
        params |= {"fields": "all"} if predictions else {}
        while True:
            condition = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after}
            query = {"filters": {"conjunction": "and", "items": [condition]}, "ordering": ["tasks:id"]}
            params["query"] = json.dumps(query)
            page = self._ask("list the project's tasks", "GET", "tasks/", _tasks, params=params)
            yield from page
            # A server may return fewer tasks per page than requested: only an empty page is the last one.
            if not page:
                return
            after = page[-1].id

    def import_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> tuple[list[int], int]:
        """Create tasks with their predictions. Raises LostError if there is no answer.

        Returns:
            What the server says it created: the numbers of the tasks, and how many predictions.
        """
        params = {"commit_to_project": "true", "return_task_ids": "true"}
        path = f"projects/{project}/import"
        return self._ask("import tasks", "POST", path, _imported, retries=0, params=params, json=tasks)

    def import_predictions(self, project: int, predictions: Sequence[Mapping[str, Any]]) -> int:
        """Create predictions of existing tasks. Returns how many the server says it created."""
        path = f"projects/{project}/import/predictions"
        answer = self._ask("import predictions", "POST", path, dict, retries=0, json=predictions)
        return int(answer.get("created") or 0)

    def delete_predictions_of(self, project: int, task_ids: Sequence[int]) -> None:
        """Delete all predictions of these tasks, of all model versions, in one request."""
        action = {"id": "delete_tasks_predictions", "project": project}
        body = {"selectedItems": {"all": False, "included": list(task_ids)}}
        self._ask("replace predictions", "POST", "dm/actions/", params=action, json=body)

    def delete_prediction(self, number: int) -> None:
        """Delete one prediction."""
        self._ask("replace predictions", "DELETE", f"predictions/{number}/")

    def delete_task(self, number: int) -> None:
        """Delete one task."""
        self._ask("delete a task", "DELETE", f"tasks/{number}/")

    def storages(self, project: int, kind: str) -> list[str]:
        """The paths or buckets of the project's source storages of a kind (`local`, `s3`, `gcs`, `azure`)."""
        folder, field = _STORAGES[kind]
        path, params = f"storages/{folder}/", {"project": project}

        def names(answer: Any) -> list[str]:
            return [str(storage.get(field) or "") for storage in answer]

        return self._ask("list the project's storages", "GET", path, names, params=params)

    def create_storage(self, project: int, kind: str, fields: Mapping[str, Any]) -> None:
        """Create a source storage; the server opens the bucket or folder to check it, but syncs nothing.

        Args:
            project: Number of the project.
            kind: `local`, `s3`, `gcs` or `azure`.
            fields: The fields of Label Studio's API, credentials included.

        Raises:
            ServerError: The server refuses the storage; the message shows none of the credentials.
        """
        folder, field = _STORAGES[kind]
        purpose = f"create the storage for {kind} {fields[field]}"
        secrets = [" ".join(str(value).split()) for name, value in fields.items() if name not in _SHOWN_FIELDS]
        try:
            self._ask(purpose, "POST", f"storages/{folder}/", retries=0, json={"project": project, **fields})
        except ServerError as error:
            text = str(error)
            for secret in filter(None, secrets):
                text = text.replace(secret, "***")
            text = re.sub(r"-----BEGIN.*", "***", text, flags=re.DOTALL)  # a private key out of a JSON key file
            raise type(error)(text, error.status, error.reason) from None

    def read(self, path: str, max_bytes: int, on_bytes: Callable[[int], None]) -> tuple[bytes, int | None]:
        """Read a file on the server, up to `max_bytes + 1` bytes.

        Args:
            path: Path of the file, percent-encoded, with its query.
            max_bytes: The limit; one more byte is read of a larger file.
            on_bytes: Called with the number of bytes read so far whenever some arrive; may raise to stop.

        Returns:
            The bytes, and the length that the server announced.

        Raises:
            ServerError: The server refuses the request.
            OSError: The connection broke or timed out, or was redirected to a forbidden URL.
            ValueError: The path is not a valid URL.
        """
        import httpx

        # Without compression, and over a separate connection: it is unknown when the last file has been read.
        headers = {"Accept-Encoding": "identity", "Connection": "close"}
        data = bytearray()
        try:
            with self._http.stream("GET", self.url + path, headers=headers) as answer:
                if not answer.is_success:
                    raise self._refusal("read a file", answer, b"")
                for chunk in answer.iter_raw():
                    data += chunk[: max_bytes + 1 - len(data)]
                    on_bytes(len(data))
                    if len(data) > max_bytes:
                        break
                length = answer.headers.get("Content-Length", "")
        except httpx.TimeoutException as error:
            raise TimeoutError(describe(error)) from None
        except httpx.HTTPError as error:
            raise ConnectionError(describe(error)) from None
        except httpx.InvalidURL as error:
            raise ValueError(str(error)) from None
        return bytes(data), int(length) if length.isdecimal() else None

    def _ask(
        self,
        purpose: str,
        method: str,
        path: str,
        decode: Callable[[Any], T] = lambda answer: answer,
        *,
        retries: int = _RETRIES,
        **content: Any,
    ) -> T:
        """Send a request, with retries, and decode the answer.

        Args:
            purpose: The purpose of the request, for messages: `list the project's tasks`.
            method: HTTP method.
            path: Path below `/api/`.
            decode: Converts the answer's JSON.
            retries: Retries if the server is busy.
            content: The query (`params`) and the body (`json`).
        """
        import httpx

        where = redact(self.url)
        try:
            for retry in range(retries + 1):
                answer = self._http.request(method, f"{self.url}/api/{path}", **content)
                if retry == retries or (answer.status_code < 500 and answer.status_code not in _BUSY):
                    break
                time.sleep(_pause_s(answer, retry))
        except httpx.InvalidURL:
            raise ConfigError(f"--url {where} is not a valid URL") from None
        except (httpx.HTTPError, RedirectError) as error:
            reason = self._hide(f"{type(error).__name__}: {error}")
            error_class = ServerError if isinstance(error, RedirectError) else LostError
            raise error_class(f"cannot {purpose}: {where} does not answer ({reason})", 0, reason) from None
        if not answer.is_success:
            raise self._refusal(purpose, answer, answer.content)
        try:
            return decode(answer.json() if answer.content else None)
        except (AttributeError, KeyError, TypeError, ValueError):
            text = f"cannot {purpose}: {where} does not answer like a Label Studio server"
            raise ServerError(text, answer.status_code, answer.reason_phrase) from None

    def _refusal(self, purpose: str, answer: Any, body: bytes) -> ServerError:
        detail = self._hide(_detail(body))
        text = f"cannot {purpose}: {redact(self.url)} answered {answer.status_code}{f': {detail}' if detail else ''}"
        error_class = LostError if answer.status_code in _LOST else ServerError
        return error_class(text, answer.status_code, answer.reason_phrase)

    def _authorize(self, request: Any) -> Any:
        """Add the token to a request; httpx removes it if a redirect leads to another host."""
        if self._token.count(".") != 2:
            request.headers["Authorization"] = f"Token {self._token}"
            return request
        with self._exchanging:
            now = time.monotonic()
            if now >= self._access_ends:
                body = {"refresh": self._token}
                self._access = self._ask("sign in", "POST", "token/refresh/", _access, json=body, auth=None)
                self._access_ends = now + _ACCESS_S
            request.headers["Authorization"] = f"Bearer {self._access}"
        return request

    def _hide(self, text: str) -> str:
        return redact(" ".join(text.replace(self._token, "***").split()))[:500]


def read_token(token_file: str = "") -> str:
    """Read the token from a file, or from the environment if no file is given.

    Raises:
        ConfigError: There is no token, or it is not a valid one; its text is not quoted.
    """
    if token_file:
        where = f"--token-file {token_file}"
        try:
            text = Path(token_file).expanduser().read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text file"
            raise ConfigError(f"{where} cannot be read: {reason}") from None
    else:
        where = VARIABLE
        text = os.environ.get(VARIABLE, "")
    token = text.strip()
    if not token:
        problem = "is empty" if token_file else "is not set"
        raise ConfigError(
            f"{where} {problem}: it must contain an access token (in Label Studio: Account & Settings, "
            "Personal Access Token)"
        )
    # httpx would quote a token that is not valid in a header.
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token):
        raise ConfigError(f"{where} does not contain an access token: one word of letters, digits and ._~+/=-")
    return token


#: Kinds of source storages, each with its name in the API's paths and the field with the path or bucket that it serves.
_STORAGES = {
    "local": ("localfiles", "path"),
    "s3": ("s3", "bucket"),
    "gcs": ("gcs", "bucket"),
    "azure": ("azure", "container"),
}


#: Fields of a storage that messages may show; all others may hold credentials.
_SHOWN_FIELDS = (
    "region_name",
    "s3_endpoint",
    "path",
    "bucket",
    "container",
    "title",
    "presign",
    "regex_filter",
    "use_blob_urls",
)


def _access(answer: Any) -> str:
    return str(answer["access"])


def _imported(answer: Any) -> tuple[list[int], int]:
    return list(answer.get("task_ids") or ()), int(answer.get("prediction_count") or 0)


def _project(item: Any) -> Project:
    return Project(
        id=int(item["id"]),
        title=str(item.get("title") or ""),
        label_config=str(item.get("label_config") or ""),
        model_version=str(item.get("model_version") or ""),
        tasks=int(item.get("task_number") or 0),
        predictions=int(item.get("total_predictions_number") or 0),
    )


def _projects(answer: Any) -> tuple[list[Project], bool]:
    """The projects of a page, and whether there is another page."""
    return [_project(item) for item in answer["results"]], bool(answer.get("next"))


def _tasks(answer: Any) -> list[ServerTask]:
    return [_task(item) for item in answer["tasks"]]


def _task(item: Any) -> ServerTask:
    predictions = tuple(
        ServerPrediction(
            int(prediction["id"]),
            str(prediction.get("model_version") or ""),
            prediction.get("score"),
            prediction.get("result"),
        )
        for prediction in item.get("predictions") or ()
    )
    data = item.get("data")
    return ServerTask(
        int(item["id"]),
        data if isinstance(data, Mapping) else {},
        int(item.get("total_annotations") or 0),
        predictions,
    )


def _detail(body: bytes) -> str:
    """The message in the body of an error: the server's validation errors, else its general message."""
    text = body.decode("utf-8", "replace")
    try:
        answer = json.loads(text)
    except ValueError:
        return "" if "<html" in text.lower() else text
    if not isinstance(answer, Mapping):
        return str(answer or "")
    errors = answer.get("validation_errors")
    return json.dumps(errors, ensure_ascii=False) if errors else str(answer.get("detail") or "")


def _pause_s(answer: Any, retry: int) -> float:
    """Seconds to wait before a retry: what the server asks for, up to a limit."""
    seconds = answer.headers.get("Retry-After", "")
    return min(float(seconds) if seconds.isdecimal() else 2.0**retry, _LONGEST_PAUSE_S)


def _check_redirect(answer: Any) -> None:
    """Raise RedirectError before a forbidden redirect is followed."""
    import httpx

    if answer.has_redirect_location:
        try:
            require_allowed_redirect(str(answer.url), str(answer.url.join(answer.headers["Location"])))
        except (httpx.InvalidURL, ValueError):
            return  # httpx itself raises an error
