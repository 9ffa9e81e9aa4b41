"""A model hub on loopback: real HTTP, with the faults of real servers."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

Handler = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request, with short ways to answer it."""

    server: Hub  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        with self.server.lock:
            self.server.requests.append((self.path, self.headers.get("Range")))
        handler = self.server.pages.get(parts.path)
        if handler is None:
            self.answer(404, b"not found")
        else:
            handler(self)

    def answer(self, status: int, body: bytes = b"", send: int | None = None, **headers: str) -> None:
        """A whole answer, or only its first `send` bytes before the connection is cut."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[:send])
        if send is not None:
            self.wfile.flush()
            self.connection.close()
        self.close_connection = send is not None

    def log_message(self, *args: object) -> None:
        """Quiet."""


class Hub(ThreadingHTTPServer):
    """Pages by path; every request is noted."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.pages: dict[str, Handler] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.lock = threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""

    @property
    def url(self) -> str:
        """Address without a path."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def hub() -> Iterator[Hub]:
    """A running hub."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Page:
    """Serves one archive the way TensorFlow Hub does: the bytes for `?tf-hub-format=compressed`, else a web page.

    Attributes:
        body: The archive.
        cut: Byte counts after which successive answers break off.
        ranges: Whether it serves ranges, with an ETag.
        etags: ETags of successive answers; the last one stays.
    """

    body: bytes
    cut: list[int] = field(default_factory=list)
    ranges: bool = False
    etags: list[str] = field(default_factory=lambda: ['"one"'])

    def __call__(self, request: Request) -> None:
        if request.query.get("tf-hub-format") != ["compressed"]:
            request.answer(200, b"<!DOCTYPE html><html>A page about a model</html>", Content_Type="text/html")
            return
        etag = self.etags.pop(0) if len(self.etags) > 1 else self.etags[0]
        send = self.cut.pop(0) if self.cut else None
        wanted = request.headers.get("Range")
        if self.ranges and wanted and request.headers.get("If-Range") == etag:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            rest = self.body[first:]
            place = f"bytes {first}-{len(self.body) - 1}/{len(self.body)}"
            request.answer(206, rest, send, ETag=etag, Content_Range=place)
        elif self.ranges:
            request.answer(200, self.body, send, ETag=etag)
        else:
            request.answer(200, self.body, send)


def archive(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    """A `.tar.gz` of the files, with the leading `./` that TensorFlow Hub's archives have."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
