"""Behavior of Google Cloud Storage that its emulator lacks, on a scripted server: pages, conditions, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from prelabel.errors import CredentialsError, FetchError, ImageTooLargeError, SourceError
from prelabel.image_ref import ImageRef
from prelabel.source.fetch import fetch
from prelabel.source.listing import list_images
from prelabel.storage import retries
from prelabel.storage.files import Storage
from tests.messages import CHANGED, MISSING, NO_PERMISSION, TRIES, is_told, telling

KEYS = [f"{number:04d} ä#?.jpg" for number in range(2500)]


class Gcs:
    """A bucket with pages of 1,000 names and objects of generation 7. `refusals` come first, one per request."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.refusals: list[tuple[int, bytes]] = []
        self.data = b"abc"
        gcs = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                gcs.requests.append({"path": unquote(parts.path), "range": self.headers["Range"], **query})
                if gcs.refusals:
                    self.answer(*gcs.refusals.pop(0))
                elif parts.path.startswith("/download/"):
                    if query.get("ifGenerationMatch", "7") != "7":
                        self.answer(412, b"{}")
                    else:
                        self.answer(200, gcs.data, {"x-goog-generation": "7"})
                elif parts.path.endswith("/o"):
                    first = int(query.get("pageToken", "0"))
                    names = [key for key in KEYS if f"photos/{key}".startswith(query.get("prefix", ""))]
                    page: dict[str, Any] = {"kind": "storage#objects"}
                    page["items"] = [
                        {"name": f"photos/{key}", "size": "3", "generation": "7"} for key in names[first : first + 1000]
                    ]
                    if first + 1000 < len(names):
                        page["nextPageToken"] = str(first + 1000)
                    self.answer(200, json.dumps(page).encode())
                else:
                    self.answer(404, b'{"error": {"code": 404, "message": "No such object"}}')

            def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.storage = Storage({"gs": {"endpoint_url": self.address, "token": "anon"}})


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gcs]:
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.0)
    scripted = Gcs()
    thread = threading.Thread(target=scripted.server.serve_forever, args=(0.01,))
    thread.start()
    yield scripted
    scripted.server.shutdown()
    thread.join()
    scripted.server.server_close()


def ref(version: str | None = "7", size: int | None = 3) -> ImageRef:
    return ImageRef("a", "gs://bucket/photos/a b#1?.jpg", "a", size, version)


def test_pages_are_requested_in_order_and_retried(gcs: Gcs) -> None:
    stream = list_images(["gs://bucket/photos"], gcs.storage)
    names = [next(stream).image_id]
    gcs.refusals = [(503, b"away"), (500, b"away")]
    refs = list(stream)
    assert [*names, *(ref.image_id for ref in refs)] == KEYS
    assert {(ref.size, ref.version) for ref in refs} == {(3, "7")}
    pages = [request.get("pageToken", "0") for request in gcs.requests if "fields" in request]
    assert sorted(set(pages)) == ["0", "1000", "2000"]
    assert all(request["prefix"] == "photos/" for request in gcs.requests if "fields" in request)


def test_glob_requests_only_names_that_can_match(gcs: Gcs) -> None:
    assert [ref.image_id for ref in list_images(["gs://bucket/photos/12*9*"], gcs.storage)] == [
        key for key in KEYS if key.startswith("12") and "9" in key[2:]
    ]
    assert gcs.requests[-1]["prefix"] == "photos/12"


def test_planned_generation_is_requested(gcs: Gcs) -> None:
    assert fetch(ref(), gcs.storage, 100) == b"abc"
    assert gcs.requests[-1]["path"] == "/download/storage/v1/b/bucket/o/photos/a b#1?.jpg"
    assert gcs.requests[-1]["ifGenerationMatch"] == "7"
    with pytest.raises(FetchError, match=telling(CHANGED, "version|generation", "6")):
        fetch(ref("6"), gcs.storage, 100)
    # Plans of earlier releases have an ETag, which is not a generation.
    for version in (None, "CLeQyNmBv4kDEAE=", "CAE", "-1"):
        assert fetch(ref(version, None), gcs.storage, 100) == b"abc"
        assert "ifGenerationMatch" not in gcs.requests[-1]
    with pytest.raises(ImageTooLargeError, match=telling("3", "2", "bytes?")):
        fetch(ref(None, None), gcs.storage, 2)


NO_ACCESS = b'{"error": {"code": 401, "message": "Anonymous caller does not have storage.objects.get access"}}'


@pytest.mark.parametrize(
    ("refusals", "kind", "facts", "most"),
    [
        ([(404, b"{}")], FetchError, (MISSING,), 1),
        ([(403, b'{"error": {"message": "no"}}')], FetchError, (NO_PERMISSION,), 1),
        ([(400, b'{"error": {"message": "invalid name"}}')], FetchError, ("read", "Bad Request"), 1),
        ([(401, NO_ACCESS)], CredentialsError, ("no|none|not|without", "credentials?"), 1),
        ([(503, b"away")] * 9, FetchError, ("4", TRIES), 4),
    ],
)
def test_failures_of_a_bucket_are_reported(
    gcs: Gcs, refusals: list[tuple[int, bytes]], kind: type[Exception], facts: tuple[str, ...], most: int
) -> None:
    gcs.refusals = refusals
    with pytest.raises(kind, match=telling(*facts)) as caught:
        fetch(ref(), gcs.storage, 100, pause=lambda seconds: None)
    assert "\n" not in str(caught.value)
    assert len(gcs.requests) == most


def test_transient_errors_of_a_bucket_are_retried(gcs: Gcs) -> None:
    gcs.refusals = [(503, b"away"), (429, b"slow down"), (500, b"")]
    assert fetch(ref(), gcs.storage, 100, pause=lambda seconds: None) == b"abc"


@pytest.mark.parametrize(("retryable", "kind"), [(True, None), (False, CredentialsError)])
def test_token_that_cannot_be_renewed_just_now_is_retried(
    gcs: Gcs, monkeypatch: pytest.MonkeyPatch, retryable: bool, kind: type[Exception] | None
) -> None:
    from google.auth.exceptions import RefreshError

    class Token:
        valid, expiry, tries = False, None, 0

        def refresh(self, request: object) -> None:
            self.tries += 1
            if self.tries <= 2:
                raise RefreshError("the metadata server is away", retryable=retryable)
            self.valid = True

        def apply(self, headers: dict[str, str]) -> None:
            headers["Authorization"] = "Bearer x"

    fs, _ = gcs.storage.filesystem("gs://bucket/a")
    monkeypatch.setattr(fs.credentials, "credentials", Token())
    if kind is None:
        assert fetch(ref(), gcs.storage, 100, pause=lambda seconds: None) == b"abc"
    else:
        with pytest.raises(kind, match=telling("no|none|not|without", "credentials?")):
            fetch(ref(), gcs.storage, 100, pause=lambda seconds: None)


def test_forbidden_listing_is_reported_on_one_line(gcs: Gcs) -> None:
    gcs.refusals = [(403, b'{"error": {"message": "no"}}')] * 99
    with pytest.raises(SourceError, match=telling("gs://bucket/photos", NO_PERMISSION)) as caught:
        list(list_images(["gs://bucket/photos"], gcs.storage))
    assert "\n" not in str(caught.value)


def test_the_library_writes_nothing_to_the_terminal(gcs: Gcs) -> None:
    gcs.refusals = [(401, NO_ACCESS)] * 99
    code = "from prelabel.storage.files import Storage; Storage({'gs': {'token': 'anon'}}).read('gs://bucket/a')"
    env = {**os.environ, "STORAGE_EMULATOR_HOST": gcs.address}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    # Only Python's own report of an uncaught exception.
    assert out.stderr.count("Traceback") == out.stderr.count("\nTraceback") + 1
    assert "out of retries" not in out.stderr
    assert "non-retriable exception" not in out.stderr
    last = out.stderr.rstrip().splitlines()[-1]
    assert last.startswith("prelabel.errors.CredentialsError: ")
    assert is_told(last, "no|none|not|without", "credentials?")
