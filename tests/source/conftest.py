"""Fixtures shared by the tests of sources."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


class Quiet(SimpleHTTPRequestHandler):
    """Serves complete files and logs nothing; `private/` and wildcards are refused."""

    def send_head(self) -> Any:
        """Answer with the file, or with 403."""
        if self.path.startswith("/private/") or "*" in self.path:
            return self.send_error(403)
        return super().send_head()

    def log_message(self, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of a web server of the standard library, which serves complete files only, and its folder."""
    root = tmp_path / "web"
    root.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", root
    server.shutdown()
    thread.join()
    server.server_close()
