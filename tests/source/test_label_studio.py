"""Images of Label Studio tasks, from the server's API and from exported JSON."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from prelabel.errors import FetchError, ImageTooLargeError, SourceError
from prelabel.image_ref import ImageRef
from prelabel.source import fetch as fetch_module
from prelabel.source import label_studio as subject
from prelabel.source.fetch import fetch
from prelabel.source.listing import SourceSummary, list_images
from prelabel.storage.files import Storage
from tests.messages import MISSING, NO_PERMISSION, SILENT, telling

TOKEN = "0123456789abcdef"
PERSONAL = "head.personal.tail"
CONFIG = '<View><Image name="i" value="$photo"/></View>'


class Handler(BaseHTTPRequestHandler):
    """The parts of the server that a source uses: a project, its tasks (two per page), files, short-lived tokens."""

    tasks: list[dict[str, Any]]
    config = CONFIG
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        url = urlsplit(self.path)
        if self.headers["Authorization"] not in (f"Token {TOKEN}", "Bearer short-lived"):
            self.answer(401, b"{}")
        elif url.path == "/api/projects/3/":
            self.answer(200, json.dumps({"id": 3, "label_config": self.config}).encode())
        elif url.path == "/api/tasks/":
            asked = parse_qs(url.query)
            after = json.loads(asked["query"][0])["filters"]["items"][0]["value"]
            page = [task for task in self.tasks if task["id"] > after][:2]
            self.answer(200, json.dumps({"tasks": page}).encode())
        elif url.path == "/data/upload/3/a%20b.jpg":
            self.answer(200, b"JPEG")
        elif url.path == "/data/upload/3/big.jpg":
            self.answer(200, bytes(300_000))
        elif url.path == "/data/upload/3/away.jpg":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")  # type: ignore[attr-defined]
            self.end_headers()
        else:
            self.answer(404, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(self.path)
        self.answer(200 if body == {"refresh": PERSONAL} else 401, b'{"access": "short-lived"}')

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Handler.tasks, Handler.asked = [], []
    subject._file_server.cache_clear()
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def task(number: int, address: str, key: str = "photo") -> dict[str, Any]:
    return {"id": number, "data": {key: address, "text": "more"}}


def listed(source: str, image_root: str | None = None) -> list[tuple[str, str]]:
    return [(ref.image_id, ref.uri) for ref in list_images([source], Storage(), image_root=image_root)]


def test_tasks_of_a_project_are_listed_page_by_page_with_their_numbers(host: str) -> None:
    Handler.tasks = [
        task(7, "s3://bucket/x/a b#1.jpg"),
        task(9, "https://host/c%20d.jpg?size=1"),
        task(12, "/data/upload/3/a%20b.jpg"),
        task(13, "/data/local-files/?d=photos/e%20f.jpg"),
        task(20, "azure-blob://container/g.jpg"),
    ]
    summary = SourceSummary()
    refs = list(list_images([f"label-studio://{host}/3"], Storage(), summary=summary))
    assert [(ref.image_id, ref.uri) for ref in refs] == [
        ("7/a b#1.jpg", "s3://bucket/x/a b#1.jpg"),
        ("9/c d.jpg", "https://host/c%20d.jpg?size=1"),
        ("12/a b.jpg", f"label-studio://{host}/data/upload/3/a%20b.jpg"),
        ("13/e f.jpg", f"label-studio://{host}/data/local-files/?d=photos/e%20f.jpg"),
        ("20/g.jpg", "abfs://container/g.jpg"),
    ]
    assert (summary.sources[0].kind, summary.images) == ("label-studio", 5)
    assert sum("/api/tasks/" in path for path in Handler.asked) == 4


def test_download_reports_progress_and_times_out_if_slow(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    image = ImageRef("big", f"label-studio://{host}/data/upload/3/big.jpg", "big")
    assert len(fetch(image, Storage(), 1 << 20, on_bytes=heard.append)) == 300_000
    assert heard == sorted(heard)
    assert (heard[0], heard[-1]) == (0, 300_000)
    assert len(heard) > 4
    monkeypatch.setattr(fetch_module, "STALL_S", -3600.0)  # as after an hour
    with pytest.raises(FetchError, match=telling(SILENT)):
        fetch(image, Storage(), 1 << 20, attempts=1)


def test_local_files_are_read_below_the_image_root_if_given(host: str) -> None:
    Handler.tasks = [task(1, "/data/local-files/?d=photos/e%20f.jpg"), task(2, "/data/upload/3/a%20b.jpg")]
    assert listed(f"label-studio://{host}/3", "/srv/") == [
        ("1/e f.jpg", "/srv/photos/e f.jpg"),
        ("2/a b.jpg", "/srv/upload/3/a b.jpg"),
    ]
    Handler.tasks = [task(1, "/data/local-files/?d=photos/%2E%2E/%2e%2e/etc/passwd")]
    with pytest.raises(SourceError, match=telling("task 1", r".*%2E%2E.*", "image[- ]root")):
        listed(f"label-studio://{host}/3", "/srv")


def test_server_must_not_name_local_files(host: str) -> None:
    for address in ("file:///etc/passwd", "etc/passwd", ""):
        Handler.tasks = [task(1, address)]
        with pytest.raises(SourceError, match=telling("task 1", f"'{address}'")):
            listed(f"label-studio://{host}/3")
    Handler.tasks = [task(1, "/etc/passwd")]
    assert listed(f"label-studio://{host}/3") == [("1/passwd", f"label-studio://{host}/etc/passwd")]


def test_images_on_the_server_are_fetched_with_the_token(host: str) -> None:
    def of(path: str) -> ImageRef:
        return ImageRef("1/x", f"label-studio://{host}{path}", "1/x")

    assert fetch(of("/data/upload/3/a%20b.jpg"), Storage(), 100) == b"JPEG"
    with pytest.raises(ImageTooLargeError):
        fetch(of("/data/upload/3/a%20b.jpg"), Storage(), 3)
    with pytest.raises(FetchError, match=telling(MISSING)):
        fetch(of("/data/upload/3/none.jpg"), Storage(), 100)


def test_the_token_is_not_sent_on_to_another_host(host: str) -> None:
    with pytest.raises(FetchError, match=telling(NO_PERMISSION, "401")):
        fetch(ImageRef("1/x", f"label-studio://{host}/data/upload/3/away.jpg", "1/x"), Storage(), 100)
    assert Handler.asked[-1] == "/elsewhere"


def test_a_personal_token_is_exchanged_once(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", PERSONAL)
    Handler.tasks = [task(1, "s3://bucket/a.jpg")]
    assert listed(f"label-studio://{host}/3") == [("1/a.jpg", "s3://bucket/a.jpg")]
    assert Handler.asked.count("/api/token/refresh/") == 1


def test_refusals_are_reported_on_one_line_without_the_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match=telling(f".*{host}/3", "no tasks?|empty")):
        listed(f"label-studio://{host}/3")
    with pytest.raises(SourceError, match=telling(f".*{host}/4", "404")):
        listed(f"label-studio://{host}/4")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "wrong-token")
    with pytest.raises(SourceError, match=telling("401", "LABEL_STUDIO_API_KEY")) as caught:
        listed(f"label-studio://{host}/3")
    assert "wrong-token" not in str(caught.value)
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    with pytest.raises(SourceError, match=telling("LABEL_STUDIO_API_KEY", "token")):
        listed(f"label-studio://{host}/3")
    with pytest.raises(SourceError, match=telling(f".*{host}/photos", "number")):
        listed(f"label-studio://{host}/photos")


def test_an_export_of_tasks_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    tasks = [task(5, "s3://bucket/a.jpg", "img"), {**task(6, "/data/upload/3/b.jpg", "img"), "annotations": [{}]}]
    path.write_text(json.dumps(tasks))
    assert listed(str(path), str(tmp_path)) == [
        ("5/a.jpg", "s3://bucket/a.jpg"),
        ("6/b.jpg", f"{tmp_path}/upload/3/b.jpg"),
    ]
    with pytest.raises(SourceError, match=telling("task 1", r"'/data/upload/3/b\.jpg'", "image-root")):
        listed(str(path))


@pytest.mark.parametrize(
    ("tasks", "facts"),
    [
        ([7], ("task 0", '"?data"?')),
        ([{"data": {"image": "s3://b/a.jpg"}}], ("task 0", '"?id"?')),
        ([{"id": 1, "data": {"a": "s3://b/a.jpg", "b": "s3://b/b.jpg"}}], ("task 0", "'?a'?", "'?b'?")),
        ([{"id": 1, "data": {"text": "a"}}], ("task 0", "'?text'?")),
        ([{"id": 1, "data": {"image": "s3://b/\ud800.jpg"}}], ("task 0", "Unicode")),
    ],
)
def test_tasks_without_an_image_are_named(tmp_path: Path, tasks: list[Any], facts: tuple[str, ...]) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps(tasks))
    with pytest.raises(SourceError, match=telling(*facts)):
        listed(str(path))


def test_of_several_urls_the_key_image_counts(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([{"id": 1, "data": {"image": "s3://b/a.jpg", "page": "https://host/"}}]))
    assert listed(str(path)) == [("1/a.jpg", "s3://b/a.jpg")]
