"""The client against a server with scripted answers: refusals, retries, redirects, tokens of both kinds."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from prelabel.errors import ConfigError, PushError
from prelabel.label_studio import client
from prelabel.label_studio.client import LostError, Server, ServerError
from tests.messages import telling

TOKEN = "0123456789abcdef"
PROJECT = {"id": 3, "title": "dogs", "label_config": "<View/>", "task_number": 2, "total_predictions_number": 5}


class Answers:
    """The answers to the requests, in order (status, body, headers), and the requests that arrived."""

    def __init__(self, *answers: tuple[Any, ...]) -> None:
        self.left = list(answers)
        self.requests: list[tuple[str, str, str | None, Any]] = []


@contextlib.contextmanager
def answering(*answers: tuple[Any, ...], token: str = TOKEN) -> Iterator[tuple[Server, Answers]]:
    script = Answers(*answers)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = json.loads(body) if body else None
            script.requests.append((self.command, self.path, self.headers["Authorization"], content))
            status, answer, *headers = script.left.pop(0)
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in headers[0].items() if headers else ():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - the names that the library looks for

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with contextlib.closing(Server(f"http://127.0.0.1:{running.server_port}/", token)) as server:
            yield server, script
        running.shutdown()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(client.time, "sleep", seconds.append)
    return seconds


def test_projects_with_a_title_are_read_page_by_page() -> None:
    pages = [{"results": [PROJECT, {"id": 4, "title": "more dogs"}], "next": "x"}, {"results": [PROJECT], "next": None}]
    with answering(*((200, page) for page in pages)) as (server, script):
        assert [project.id for project in server.projects_titled("dogs")] == [3, 3]
    assert [path.partition("page=")[2][:1] for _, path, *_ in script.requests] == ["1", "2"]


def test_a_request_to_a_busy_server_is_retried_when_the_server_says(pauses: list[float]) -> None:
    with answering((503, "", {"Retry-After": "7"}), (429, ""), (200, PROJECT)) as (server, script):
        assert server.project(3).predictions == 5
    assert (pauses, len(script.requests)) == ([7.0, 2.0], 3)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_retries_end_if_the_server_stays_busy(status: int, pauses: list[float]) -> None:
    with answering(*3 * [(status, "")]) as (server, script), pytest.raises(LostError, match=str(status)):
        server.project(3)
    assert len(script.requests) == 3


def test_imports_are_not_retried(pauses: list[float]) -> None:
    for send in (Server.import_tasks, Server.import_predictions):
        with answering((502, "<html>no</html>")) as (server, script), pytest.raises(LostError, match=r"502$"):
            send(server, 3, [{}])
        assert len(script.requests) == 1
    with answering((201, {"task_ids": [8, 9], "prediction_count": 1})) as (server, script):
        assert server.import_tasks(3, [{"data": {}}, {}]) == ([8, 9], 1)
    assert "return_task_ids=true" in script.requests[0][1]
    assert script.requests[0][3] == [{"data": {}}, {}]
    assert pauses == []


def test_a_refusal_quotes_the_server_without_the_token() -> None:
    body = {"detail": "general", "validation_errors": {"label_config": [f"bad {TOKEN}"]}}
    with answering((400, body)) as (server, _), pytest.raises(ServerError, match="label_config") as caught:
        server.create_project("dogs", "<View>")
    assert not isinstance(caught.value, LostError)
    assert TOKEN not in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - made here
    assert (str(copy), copy.status, copy.reason) == (str(caught.value), 400, "Bad Request")


@pytest.mark.parametrize("content", ["<html>hello</html>", "[]", "{}", '{"id": null}'])
def test_a_server_that_is_not_label_studio_is_recognized(content: str) -> None:
    with (
        answering((200, content)) as (server, _),
        pytest.raises(PushError, match=telling("not", "Label Studio", "project 3")),
    ):
        server.project(3)


def test_unreachable_servers_and_invalid_urls_are_errors() -> None:
    with contextlib.closing(Server("http://127.0.0.1:9", TOKEN)) as server, pytest.raises(LostError, match="127"):
        server.project(3)
    with contextlib.closing(Server("http://127.0.0.1:x", TOKEN)) as server, pytest.raises(ConfigError, match="127"):
        server.project(3)


def test_forbidden_redirects_are_reported() -> None:
    place = {"Location": "http://169.254.169.254/latest"}
    with answering((302, "", place)) as (server, _), pytest.raises(ServerError, match="link-local") as caught:
        server.import_tasks(3, [])
    assert not isinstance(caught.value, LostError)


def test_the_token_is_sent_after_a_redirect_only_to_the_same_host() -> None:
    with answering((200, PROJECT)) as (other, there):
        elsewhere = other.url.replace("127.0.0.1", "localhost")
        with answering((302, "", {"Location": "/api/x/"}), (302, "", {"Location": elsewhere})) as (server, here):
            server.project(3)
    assert [token for _, _, token, _ in here.requests] == 2 * [f"Token {TOKEN}"]
    assert [token for _, _, token, _ in there.requests] == [None]


def test_a_personal_token_is_exchanged_again_when_the_access_token_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(client.time, "monotonic", lambda: now[0])
    answers = [(200, {"access": "first"}), *2 * [(200, PROJECT)], (200, {"access": "second"}), (200, PROJECT)]
    with answering(*answers, token="head.personal.tail") as (server, script):
        server.project(3)
        now[0] += 100
        server.project(3)
        now[0] += 150
        server.project(3)
    exchange = ("POST", "/api/token/refresh/", None, {"refresh": "head.personal.tail"})
    assert [script.requests[0], script.requests[3]] == 2 * [exchange]
    assert [token for _, _, token, _ in script.requests if token] == ["Bearer first", "Bearer first", "Bearer second"]


def test_a_refused_personal_token_is_a_sign_in_error() -> None:
    with answering((401, {"detail": "expired"}), token="a.b.c") as (server, _):
        with pytest.raises(ServerError, match=r"sign in.*401: expired") as caught:
            server.project(3)
        assert "a.b.c" not in str(caught.value)


def test_a_refused_storage_is_reported_without_its_credentials() -> None:
    key = json.dumps({"private_key": "-----BEGIN PRIVATE KEY-----\nMIIE"}, indent=2)
    secret = {"bucket": "photos", "aws_secret_access_key": "s3cr3t", "google_application_credentials": key}
    detail = f"cannot connect with s3cr3t or {key}"
    message = r"storage for s3 photos.* 400: cannot connect"
    with answering((400, {"detail": detail})) as (server, script), pytest.raises(ServerError, match=message) as caught:
        server.create_storage(3, "s3", secret)
    assert not re.search("s3cr3t|MIIE|BEGIN", str(caught.value))
    assert script.requests == [("POST", "/api/storages/s3/", f"Token {TOKEN}", {"project": 3, **secret})]
