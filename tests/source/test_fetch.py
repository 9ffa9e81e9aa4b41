from __future__ import annotations

import os
import pickle
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prelabel.errors import CredentialsError, FetchError, ImageTooLargeError
from prelabel.image_ref import ImageRef
from prelabel.source import fetch as fetch_module
from prelabel.source.fetch import fetch
from prelabel.source.listing import list_images
from prelabel.storage import Storage
from tests.s3 import S3Server

MAX = 1 << 20
Answer = Callable[[BaseHTTPRequestHandler], None]


def ref(uri: str | Path, size: int | None = None, version: str | None = None) -> ImageRef:
    return ImageRef("x", str(uri), "x", size, version)


class Pauses(list[float]):
    """Stands in for `time.sleep` and remembers."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def answer(status: int, body: bytes = b"", length: int | None = None, etag: str = "") -> Answer:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        if etag:
            handler.send_header("ETag", f'"{etag}"')
        handler.end_headers()
        handler.wfile.write(body)

    return send


def s3_error(status: int, code: str) -> Answer:
    return answer(status, f"<Error><Code>{code}</Code><Message>{code} it is</Message></Error>".encode())


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Break the connection off as a dying server does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.shutdown(socket.SHUT_RDWR)


class Scripted:
    """A server that gives the scripted answers one after the other, then the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[dict[str, str]] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                script.requests.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
                step = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
                self.close_connection = True
                step(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.options = {
            "s3": {
                "key": "k",
                "secret": "planted-secret",
                "client_kwargs": {"endpoint_url": self.url, "region_name": "us-east-1"},
                "config_kwargs": {"retries": {"max_attempts": 0}},
            }
        }


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    script = Scripted()
    thread = threading.Thread(target=script.server.serve_forever, args=(0.01,))
    thread.start()
    yield script
    script.server.shutdown()
    thread.join()
    script.server.server_close()


@pytest.mark.parametrize("where", ["disk", "memory", "s3"])
def test_what_was_listed_is_fetched(where: str, tmp_path: Path, s3_server: S3Server) -> None:
    storage = Storage(s3_server.options)
    root = {
        "disk": str(tmp_path),
        "memory": f"memory://{uuid.uuid4().hex}",
        "s3": f"s3://{s3_server.new_bucket()}/photos",
    }[where]
    content = {"a b#%.jpg": b"abc", "z/big.jpg": os.urandom(MAX), "empty.jpg": b""}
    for name, data in content.items():
        storage.publish(f"{root}/{name}", data)
    refs = list(list_images([root], storage))
    assert {one.image_id: fetch(one, storage, MAX) for one in refs} == content
    # Another object of the same name.
    storage.publish(f"{root}/a b#%.jpg", b"abcd")
    with pytest.raises(FetchError, match="changed since it was listed"):
        fetch(refs[0], storage, MAX)
    storage.delete(refs[0].uri)
    with pytest.raises(FetchError, match="not found"):
        fetch(refs[0], storage, MAX)
    with pytest.raises(ImageTooLargeError, match=f"has {MAX} bytes, {MAX - 1} are allowed"):
        fetch(refs[-1], storage, MAX - 1)
    with pytest.raises(ImageTooLargeError, match=f"bytes, {MAX - 1} are allowed"):
        fetch(ref(refs[-1].uri), storage, MAX - 1)
    assert len(fetch(ref(refs[-1].uri), storage, MAX)) == MAX


@pytest.mark.parametrize("where", ["disk", "memory", "s3"])
def test_a_file_replaced_by_one_of_equal_size_is_said_to_have_changed(
    where: str, tmp_path: Path, s3_server: S3Server
) -> None:
    storage = Storage(s3_server.options)
    root = {
        "disk": str(tmp_path),
        "memory": f"memory://{uuid.uuid4().hex}",
        "s3": f"s3://{s3_server.new_bucket()}/photos",
    }[where]
    storage.publish(f"{root}/a.jpg", b"old")
    (one,) = list_images([root], storage)
    assert fetch(one, storage, MAX) == b"old"
    storage.publish(f"{root}/a.jpg", b"new")
    with pytest.raises(FetchError, match="changed since it was listed"):
        fetch(one, storage, MAX)


@pytest.mark.parametrize("step", [100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000])
def test_a_copy_on_a_disk_that_kept_its_time_as_well_as_it_can_is_the_same_file(tmp_path: Path, step: int) -> None:
    path, time_ns = tmp_path / "a.jpg", 1_700_000_001_123_456_789
    path.write_bytes(b"abc")
    os.utime(path, ns=(time_ns, time_ns))
    (one,) = list_images([str(tmp_path)], Storage())
    cut = time_ns // step * step
    os.utime(path, ns=(cut, cut))
    assert fetch(one, Storage(), MAX) == b"abc"
    os.utime(path, ns=(cut - 2 * step, cut - 2 * step))
    with pytest.raises(FetchError, match="changed since it was listed: the file's time is another"):
        fetch(one, Storage(), MAX)


def test_of_a_disk_in_a_plan_of_an_earlier_release_the_size_alone_is_compared(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    (listed,) = list_images([str(tmp_path)], Storage())
    assert fetch(replace(listed, version="mtime-1767225600000000000"), Storage(), MAX) == b"abc"
    with pytest.raises(FetchError, match="changed since it was listed: 3 bytes instead of 4"):
        fetch(replace(listed, version="mtime-1767225600000000000", size=4), Storage(), MAX)


def test_what_is_no_file_does_not_stop_a_worker(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    pauses = Pauses()
    for uri, message in [
        (tmp_path / "pipe.jpg", "no regular file"),
        ("/dev/zero", "no regular file"),
        (tmp_path / "folder.jpg", "a folder, not a file"),
        (tmp_path / "file" / "x.jpg", "cannot be read.*NotADirectoryError"),
        (f"{tmp_path}/nul\0.jpg", "the address cannot be used"),
        (tmp_path / ("x" * 300), "cannot be read.*name too long"),
    ]:
        with pytest.raises(FetchError, match=message):
            fetch(ref(uri), Storage(), MAX, pause=pauses)
    assert pauses == []


@pytest.mark.parametrize(
    ("fault", "times"),
    [(answer(500), 3), (answer(503), 3), (answer(429), 2), (reset, 3), (answer(200, b"abc", length=9), 2)],
)
def test_a_web_server_in_trouble_is_asked_again(scripted: Scripted, fault: Answer, times: int) -> None:
    scripted.answers = [fault] * times + [answer(200, b"abcdefghi")]
    pauses = Pauses()
    assert fetch(ref(f"{scripted.url}/a.jpg?token=1"), Storage(), MAX, pause=pauses) == b"abcdefghi"
    # aiohttp asks once more by itself after a reset.
    assert len(pauses) == (times if fault is not reset else 1)
    assert all(0 <= seconds <= 0.5 * 2**n for n, seconds in enumerate(pauses))


@pytest.mark.parametrize(
    ("fault", "message", "requests"),
    [
        (answer(404), "not found", 1),
        (answer(410), "not found", 1),
        (answer(403), "no permission to read it.*HTTP 403", 1),
        (answer(400), "cannot be read.*HTTP 400", 1),
        (answer(500), "the connection broke after 4 tries.*HTTP 500", 4),
        (reset, "after 4 tries", 8),  # aiohttp asks twice each time
        (answer(200, b"abc", length=9), "after 4 tries", 4),
    ],
)
def test_a_web_server_that_does_not_deliver(scripted: Scripted, fault: Answer, message: str, requests: int) -> None:
    scripted.answers = [fault]
    with pytest.raises(FetchError, match=message) as caught:
        fetch(ref(f"{scripted.url}/a.jpg?token=planted"), Storage(), MAX, pause=Pauses())
    assert len(scripted.requests) == requests
    assert "planted" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


def test_no_more_than_the_limit_is_read_from_the_web(scripted: Scripted) -> None:
    sent = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(bytes(1 << 20))
            sent.append(1)

    scripted.answers = [endless]
    with pytest.raises(ImageTooLargeError, match=f"more than {MAX} bytes"):
        fetch(ref(f"{scripted.url}/a.jpg"), Storage(), MAX)
    assert len(sent) < 100
    scripted.answers = [answer(200, b"", length=MAX + 1)]
    with pytest.raises(ImageTooLargeError, match=f"{MAX + 1} bytes"):
        fetch(ref(f"{scripted.url}/a.jpg"), Storage(), MAX)


def test_a_server_that_falls_silent_is_given_up(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "STALL_S", 0.2)
    wait = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        answer(200, b"abc", length=9)(handler)
        handler.wfile.flush()
        wait.wait(20)

    scripted.answers = [silent]
    try:
        with pytest.raises(FetchError, match="did not answer in time after 2 tries"):
            fetch(ref(f"{scripted.url}/a.jpg"), Storage(), MAX, attempts=2, pause=Pauses())
    finally:
        wait.set()


@pytest.mark.parametrize(
    "fault",
    [
        s3_error(500, "InternalError"),
        s3_error(503, "SlowDown"),
        s3_error(503, "ServiceUnavailable"),
        reset,
        answer(200, b"a", 3),
    ],
)
def test_a_bucket_in_trouble_is_asked_again(scripted: Scripted, fault: Answer) -> None:
    scripted.answers = [fault, answer(200, b"abc", etag="v")]
    assert fetch(ref("s3://bucket/a.jpg", 3, "v"), Storage(scripted.options), MAX, pause=Pauses()) == b"abc"
    assert scripted.requests[-1]["if-match"] == '"v"'


@pytest.mark.parametrize(
    ("fault", "message", "most"),
    [
        (s3_error(404, "NoSuchKey"), "not found", 1),
        (s3_error(403, "AccessDenied"), "no permission", 1),
        (s3_error(412, "PreconditionFailed"), "changed since it was listed", 1),
        (s3_error(500, "InternalError"), "cannot be read after 4 tries", 4),
        (answer(200, b"a", length=3), "after 4 tries", 4),
    ],
)
def test_a_bucket_that_does_not_deliver(scripted: Scripted, fault: Answer, message: str, most: int) -> None:
    scripted.answers = [fault]
    with pytest.raises(FetchError, match=message) as caught:
        fetch(ref("s3://bucket/a.jpg", 3, "v"), Storage(scripted.options), MAX, pause=Pauses())
    assert len(scripted.requests) == most
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId"])
def test_credentials_that_are_not_taken_are_no_images_fault(scripted: Scripted, code: str) -> None:
    scripted.answers = [s3_error(403, code)]
    with pytest.raises(
        CredentialsError, match=rf"^s3://bucket/a.jpg: the store does not take the credentials \({code}\)"
    ):
        fetch(ref("s3://bucket/a.jpg", 3), Storage(scripted.options), MAX, pause=Pauses())
    assert len(scripted.requests) == 1


def test_a_server_that_drips_is_given_up(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "STALL_S", 0.3)
    ended = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        answer(200, b"", length=1000)(handler)
        while not ended.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    scripted.answers = [drip]
    try:
        with pytest.raises(FetchError, match=r"did not answer in time after 2 tries .*bytes came in 0 s"):
            fetch(ref(f"{scripted.url}/a.jpg"), Storage(), MAX, attempts=2, pause=Pauses())
    finally:
        ended.set()


def test_a_short_object_is_a_changed_one(scripted: Scripted) -> None:
    scripted.answers = [answer(200, b"ab")]
    with pytest.raises(FetchError, match="changed since it was listed: 2 bytes instead of 3"):
        fetch(ref("s3://bucket/a.jpg", 3), Storage(scripted.options), MAX, pause=Pauses())


@pytest.mark.parametrize("whole", [1 << 30, 1000])
def test_who_watches_a_store_without_a_reader_of_ours_hears_of_large_files(
    whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "_WHOLE", whole)
    monkeypatch.setattr(fetch_module, "_CHUNK", 400)
    data = os.urandom(1001)
    address = f"memory://{uuid.uuid4().hex}/a.jpg"
    Storage().publish(address, data)
    heard: list[int] = []
    assert fetch(ref(address, 1001), Storage(), MAX, on_bytes=heard.append) == data
    assert heard == ([0] if whole > 1001 else [0, 400, 800, 1001])


def test_many_threads_fetch_at_once(s3_server: S3Server) -> None:
    storage, bucket = Storage(s3_server.options), s3_server.new_bucket()
    for n in range(40):
        s3_server.put(bucket, f"{n:02d}.jpg", b"%d" % n * 1000)
    refs = list(list_images([f"s3://{bucket}"], storage))
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda one: fetch(one, storage, MAX), refs * 3))
    assert found == [b"%d" % n * 1000 for n in range(40)] * 3
