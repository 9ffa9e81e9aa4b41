"""What a web server answers instead of a list or a picture: other schemes, circles, bodies without end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from prelabel.errors import FetchError, ImageTooLargeError, SourceError
from prelabel.image_ref import ImageRef
from prelabel.source.fetch import fetch
from prelabel.source.listing import list_images
from prelabel.storage import Storage

SECRET = "the file of another"


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "secret.txt"
    path.write_text(SECRET)
    return path


@pytest.fixture(scope="module")
def server(secret: Path) -> Iterator[str]:
    """`/to/<n>...` redirects to the n-th of some places, `/endless...` never ends."""
    places = [f"file://{secret}", f"local://{secret}", "ftp://127.0.0.1:9/x", "data:text/plain,a.jpg", "s3://bucket/x"]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", places[int(self.path[4])])
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif self.path.startswith("/circle"):
                self.send_response(302)
                self.send_header("Location", self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.send_response(200)
                self.end_headers()
                try:
                    while self.command == "GET":
                        self.wfile.write(b"x" * 65536)
                except OSError:
                    return

        do_HEAD = do_GET  # noqa: N815 - the name that the library looks for

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize("place", [*(f"to/{number}" for number in range(5)), "circle"])
def test_redirects_to_other_schemes_and_in_circles_are_refused(place: str, server: str) -> None:
    with pytest.raises(FetchError) as caught:
        fetch(ImageRef("a", f"{server}/{place}/a.jpg", "a"), Storage(), 1 << 20, pause=lambda _: None)
    assert SECRET not in str(caught.value)
    with pytest.raises(SourceError) as refused:
        list(list_images([f"{server}/{place}/list.txt"], Storage()))
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "json"])
def test_a_list_without_end_is_refused(kind: str, server: str) -> None:
    start = time.monotonic()
    with pytest.raises(SourceError):
        list(list_images([f"{server}/endless.{kind}"], Storage()))
    assert time.monotonic() - start < 120


def test_a_picture_without_end_is_refused(server: str) -> None:
    with pytest.raises(ImageTooLargeError, match="more than 1000000 bytes, 1000000 are allowed"):
        fetch(ImageRef("a", f"{server}/endless.jpg", "a"), Storage(), 1_000_000)
