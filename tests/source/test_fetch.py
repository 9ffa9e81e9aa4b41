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
from prelabel.storage.files import Storage
from tests.messages import CHANGED, MISSING, NO_PERMISSION, SILENT, TRIES, telling
from tests.s3 import S3Server

MAX = 1 << 20
Answer = Callable[[BaseHTTPRequestHandler], None]


def ref(uri: str | Path, size: int | None = None, version: str | None = None) -> ImageRef:
    return ImageRef("x", str(uri), "x", size, version)


class Pauses(list[float]):
    """Replaces `time.sleep` and records the pauses."""

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
    """Reset the connection, as a dying server does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.shutdown(socket.SHUT_RDWR)


class Scripted:
    """A server that returns the scripted answers in order, then repeats the last one."""

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
def test_listed_images_are_fetched(where: str, tmp_path: Path, s3_server: S3Server) -> None:
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
    assert {ref.image_id: fetch(ref, storage, MAX) for ref in refs} == content
    # A different object under the same name.
    storage.publish(f"{root}/a b#%.jpg", b"abcd")
    with pytest.raises(FetchError, match=telling(CHANGED)):
        fetch(refs[0], storage, MAX)
    storage.delete(refs[0].uri)
    with pytest.raises(FetchError, match=telling(MISSING)):
        fetch(refs[0], storage, MAX)
    with pytest.raises(ImageTooLargeError, match=telling(f"{MAX:,}", f"{MAX - 1:,}", "bytes?")):
        fetch(refs[-1], storage, MAX - 1)
    with pytest.raises(ImageTooLargeError, match=telling(f"{MAX - 1:,}", "bytes?")):
        fetch(ref(refs[-1].uri), storage, MAX - 1)
    assert len(fetch(ref(refs[-1].uri), storage, MAX)) == MAX


@pytest.mark.parametrize("where", ["disk", "memory", "s3"])
def test_file_replaced_by_one_of_equal_size_is_reported_as_changed(
    where: str, tmp_path: Path, s3_server: S3Server
) -> None:
    storage = Storage(s3_server.options)
    root = {
        "disk": str(tmp_path),
        "memory": f"memory://{uuid.uuid4().hex}",
        "s3": f"s3://{s3_server.new_bucket()}/photos",
    }[where]
    storage.publish(f"{root}/a.jpg", b"old")
    (ref,) = list_images([root], storage)
    assert fetch(ref, storage, MAX) == b"old"
    storage.publish(f"{root}/a.jpg", b"new")
    with pytest.raises(FetchError, match=telling(CHANGED)):
        fetch(ref, storage, MAX)


@pytest.mark.parametrize("step", [100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000])
def test_copy_with_a_truncated_modification_time_is_the_same_file(tmp_path: Path, step: int) -> None:
    path, time_ns = tmp_path / "a.jpg", 1_700_000_001_123_456_789
    path.write_bytes(b"abc")
    os.utime(path, ns=(time_ns, time_ns))
    (ref,) = list_images([str(tmp_path)], Storage())
    cut = time_ns // step * step
    os.utime(path, ns=(cut, cut))
    assert fetch(ref, Storage(), MAX) == b"abc"
    os.utime(path, ns=(cut - 2 * step, cut - 2 * step))
    with pytest.raises(FetchError, match=telling(CHANGED, "time|date")):
        fetch(ref, Storage(), MAX)


def test_plans_of_earlier_releases_compare_only_sizes_on_disk(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    (listed,) = list_images([str(tmp_path)], Storage())
    assert fetch(replace(listed, version="mtime-1767225600000000000"), Storage(), MAX) == b"abc"
    with pytest.raises(FetchError, match=telling(CHANGED, "3", "4", "bytes?")):
        fetch(replace(listed, version="mtime-1767225600000000000", size=4), Storage(), MAX)


def test_a_file_that_reports_no_size_is_read_to_its_end_but_not_beyond_the_limit() -> None:
    virtual = Path("/proc/version")
    if not virtual.exists():
        pytest.skip("no virtual file system")
    size = len(virtual.read_bytes())
    assert virtual.stat().st_size == 0 < size
    image = ref(virtual)
    assert len(fetch(image, Storage(), size)) == size
    with pytest.raises(ImageTooLargeError, match=f"{size - 1:,}"):
        fetch(image, Storage(), size - 1)


def test_special_files_do_not_block_a_worker(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    pauses = Pauses()
    for uri, facts in [
        (tmp_path / "pipe.jpg", ("regular|ordinary|special|neither",)),
        ("/dev/zero", ("regular|ordinary|special|neither",)),
        (tmp_path / "folder.jpg", ("an? (folder|directory)",)),
        (tmp_path / "file" / "x.jpg", ("read", "NotADirectoryError|Not a directory")),
        (f"{tmp_path}/nul\0.jpg", ("address|name|path", "used?|usable|null|invalid|valid")),
        (tmp_path / ("x" * 300), ("read", "name too long")),
    ]:
        with pytest.raises(FetchError, match=telling(*facts)):
            fetch(ref(uri), Storage(), MAX, pause=pauses)
    assert pauses == []


@pytest.mark.parametrize(
    ("fault", "times"),
    [(answer(500), 3), (answer(503), 3), (answer(429), 2), (reset, 3), (answer(200, b"abc", length=9), 2)],
)
def test_transient_errors_of_a_web_server_are_retried(scripted: Scripted, fault: Answer, times: int) -> None:
    scripted.answers = [fault] * times + [answer(200, b"abcdefghi")]
    pauses = Pauses()
    assert fetch(ref(f"{scripted.url}/a.jpg?token=1"), Storage(), MAX, pause=pauses) == b"abcdefghi"
    # aiohttp itself retries once after a reset.
    assert len(pauses) == (times if fault is not reset else 1)
    assert all(0 <= seconds <= 0.5 * 2**n for n, seconds in enumerate(pauses))


@pytest.mark.parametrize(
    ("fault", "facts", "requests"),
    [
        (answer(404), (MISSING,), 1),
        (answer(410), (MISSING,), 1),
        (answer(403), (NO_PERMISSION, "403"), 1),
        (answer(400), ("read", "400"), 1),
        (answer(500), (r"connection|broke\w*|server", "4", TRIES, "500"), 4),
        (reset, ("4", TRIES), 8),  # aiohttp sends each request twice
        (answer(200, b"abc", length=9), ("4", TRIES), 4),
    ],
)
def test_failures_of_a_web_server_are_reported(
    scripted: Scripted, fault: Answer, facts: tuple[str, ...], requests: int
) -> None:
    scripted.answers = [fault]
    with pytest.raises(FetchError, match=telling(*facts)) as caught:
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
    with pytest.raises(ImageTooLargeError, match=telling(f"{MAX:,}", "bytes?")):
        fetch(ref(f"{scripted.url}/a.jpg"), Storage(), MAX)
    assert len(sent) < 100
    scripted.answers = [answer(200, b"", length=MAX + 1)]
    with pytest.raises(ImageTooLargeError, match=telling(f"{MAX + 1:,}", "bytes?")):
        fetch(ref(f"{scripted.url}/a.jpg"), Storage(), MAX)


def test_stalled_download_times_out(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "STALL_S", 0.2)
    wait = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        answer(200, b"abc", length=9)(handler)
        handler.wfile.flush()
        wait.wait(20)

    scripted.answers = [silent]
    try:
        with pytest.raises(FetchError, match=telling(SILENT, "2", TRIES)):
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
def test_transient_errors_of_a_bucket_are_retried(scripted: Scripted, fault: Answer) -> None:
    scripted.answers = [fault, answer(200, b"abc", etag="v")]
    assert fetch(ref("s3://bucket/a.jpg", 3, "v"), Storage(scripted.options), MAX, pause=Pauses()) == b"abc"
    assert scripted.requests[-1]["if-match"] == '"v"'


@pytest.mark.parametrize(
    ("fault", "facts", "most"),
    [
        (s3_error(404, "NoSuchKey"), (MISSING,), 1),
        (s3_error(403, "AccessDenied"), (NO_PERMISSION,), 1),
        (s3_error(412, "PreconditionFailed"), (CHANGED,), 1),
        (s3_error(500, "InternalError"), ("read", "4", TRIES), 4),
        (answer(200, b"a", length=3), ("4", TRIES), 4),
    ],
)
def test_failures_of_a_bucket_are_reported(
    scripted: Scripted, fault: Answer, facts: tuple[str, ...], most: int
) -> None:
    scripted.answers = [fault]
    with pytest.raises(FetchError, match=telling(*facts)) as caught:
        fetch(ref("s3://bucket/a.jpg", 3, "v"), Storage(scripted.options), MAX, pause=Pauses())
    assert len(scripted.requests) == most
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId"])
def test_rejected_credentials_are_not_an_error_of_the_image(scripted: Scripted, code: str) -> None:
    scripted.answers = [s3_error(403, code)]
    with pytest.raises(CredentialsError, match=telling(r"s3://bucket/a\.jpg", "credentials?", code)):
        fetch(ref("s3://bucket/a.jpg", 3), Storage(scripted.options), MAX, pause=Pauses())
    assert len(scripted.requests) == 1


def test_slow_download_times_out(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "STALL_S", 0.3)
    ended = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        answer(200, b"", length=1000)(handler)
        while not ended.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    scripted.answers = [drip]
    try:
        with pytest.raises(FetchError, match=telling(SILENT, "2", TRIES, "bytes?", "0 s|0 seconds")):
            fetch(ref(f"{scripted.url}/a.jpg"), Storage(), MAX, attempts=2, pause=Pauses())
    finally:
        ended.set()


def test_short_object_is_reported_as_changed(scripted: Scripted) -> None:
    scripted.answers = [answer(200, b"ab")]
    with pytest.raises(FetchError, match=telling(CHANGED, "2", "3", "bytes?")):
        fetch(ref("s3://bucket/a.jpg", 3), Storage(scripted.options), MAX, pause=Pauses())


@pytest.mark.parametrize("whole", [1 << 30, 1000])
def test_large_files_on_other_storage_report_progress(whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "_SINGLE_REQUEST_BYTES", whole)
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
        contents = list(pool.map(lambda ref: fetch(ref, storage, MAX), refs * 3))
    assert contents == [b"%d" % n * 1000 for n in range(40)] * 3
