"""What a web server answers instead of a list or a picture: other schemes, circles, bodies without end."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prelabel.errors import FetchError, ImageTooLargeError, SourceError
from prelabel.image_ref import ImageRef
from prelabel.source.fetch import fetch
from prelabel.source.listing import list_images
from prelabel.storage.files import Storage
from prelabel.storage.redirects import require_allowed_redirect
from tests.messages import telling

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


METADATA = [
    "http://169.254.169.254/latest/meta-data/a.jpg",
    "http://2852039166/a.jpg",
    "http://0xa9.0xfe.0xa9.0xfe/a.jpg",
    "http://[fe80::1]/a.jpg",
    "http://[fd00:ec2::254]/a.jpg",
    "http://[::ffff:169.254.169.254]/a.jpg",
    "//169.254.170.2/a.jpg",
    "https://metadata.example/a.jpg",
]


@contextlib.contextmanager
def pointing(place: str, certificate: Path | None = None) -> Iterator[str]:
    """Host and port of a server whose every answer points to one place."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", place)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - the name that the library looks for

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            running.socket = context.wrap_socket(running.socket, server_side=True)
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`metadata.example` is a name for the address at which clouds hand out credentials."""
    look_up = socket.getaddrinfo

    def known(host: object, *more: Any, **options: Any) -> Any:
        return look_up("169.254.169.254" if host == "metadata.example" else host, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", known)


def assert_refused(address: str, reason: str, storage: Storage) -> None:
    with pytest.raises(FetchError, match=reason):
        fetch(ImageRef("a", f"{address}/a.jpg", "a"), storage, 1 << 20, pause=lambda _: pytest.fail("tried again"))
    for ending in ("txt", "json", "parquet"):
        with pytest.raises(SourceError, match=reason):
            list(list_images([f"{address}/list.{ending}"], storage))


@pytest.mark.parametrize("place", METADATA)
def test_redirects_to_link_local_addresses_are_refused(
    place: str, one_name: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pointing(place) as server:
        assert_refused(f"http://{server}", "redirects to the link-local address", Storage())
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", "token")
        ref = ImageRef("a", f"label-studio://{server}/data/a.jpg", "a")
        with pytest.raises(FetchError, match="redirects to the link-local address"):
            fetch(ref, Storage(), 1 << 20, pause=lambda _: pytest.fail("tried again"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to make a certificate")
def test_redirects_from_https_to_http_are_refused(tmp_path: Path) -> None:
    certificate = tmp_path / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"]
    subprocess.run([*command, "-keyout", certificate, "-out", tmp_path / "c.pem"], check=True, capture_output=True)
    certificate.write_bytes(certificate.read_bytes() + (tmp_path / "c.pem").read_bytes())
    with pointing("http://127.0.0.1:9/a.jpg", certificate) as server:
        reason = "redirects from https:// to http://, which is not followed"
        assert_refused(f"https://{server}", reason, Storage({"https": {"ssl": False}}))


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("http://127.0.0.1/a", "https://127.0.0.1/a"),
        ("http://127.0.0.1/a", "http://[::1]/a"),
        ("https://127.0.0.1/a", "https://10.0.0.1/b"),
        # What somebody stated is their choice.
        ("http://169.254.1.1/a", "http://169.254.1.1/b"),
        # Whoever connects says what is wrong with it.
        ("http://127.0.0.1/a", f"http://{'a' * 64}.example/b"),
    ],
)
def test_other_redirects_are_followed(was: str, now: str) -> None:
    require_allowed_redirect(was, now)


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "json"])
def test_a_list_without_end_is_refused(kind: str, server: str) -> None:
    start = time.monotonic()
    with pytest.raises(SourceError):
        list(list_images([f"{server}/endless.{kind}"], Storage()))
    assert time.monotonic() - start < 120


def test_a_picture_without_end_is_refused(server: str) -> None:
    with pytest.raises(ImageTooLargeError, match=telling("more", "1,000,000", "bytes")):
        fetch(ImageRef("a", f"{server}/endless.jpg", "a"), Storage(), 1_000_000)
