"""Signed links: workers fetch by them, no written file holds a signature, and a run goes on with renewed ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from prelabel.storage import Storage
from prelabel.store.run import open_run
from tests.engine.fakes import Deed
from tests.engine.world import World

pytestmark = pytest.mark.ray


class Shop:
    """Gives away files of a folder to whoever has the signature that is valid now."""

    def __init__(self, folder: Path) -> None:
        self.valid = "first0123"
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                known = parse_qs(parts.query).get("X-Amz-Signature") == [shop.valid]
                body = (folder / Path(parts.path).name).read_bytes() if known else b"no"
                self.send_response(200 if known else 403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def list_into(self, file: Path, names: list[str], signature: str) -> str:
        file.write_text("".join(f"{self.url}/photos/{name}?X-Amz-Signature={signature}\n" for name in names))
        return str(file)


@pytest.fixture
def shop(world: World) -> Iterator[Shop]:
    shop = Shop(world.photos)
    yield shop
    shop.server.shutdown()
    shop.server.server_close()


def written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def statuses(world: World) -> list[str]:
    return [row.status for row in open_run(str(world.out), Storage()).rows()]


def test_signatures_reach_workers_and_no_file(world: World, shop: Shop) -> None:
    world.add(10, p003=Deed.ABORT)  # probed one by one, by its link, too
    names = sorted(path.name for path in world.photos.iterdir())
    source = shop.list_into(world.folder / "links.txt", names, "first0123")
    summary = world.label(source=(source,), workers=2)
    assert (summary.images, summary.failed, summary.lost) == (10, 1, 1)
    assert b"first0123" not in written(world.out)
    run = open_run(str(world.out), Storage())
    assert [ref.uri for ref in run.plan()] == [f"{shop.url}/photos/{name}" for name in names]
    assert run.record.source["sources"][0]["signed"] == 10


def test_a_run_goes_on_with_renewed_links(world: World, shop: Shop) -> None:
    world.add(12)
    names = sorted(path.name for path in world.photos.iterdir())
    file = world.folder / "links.txt"
    source = shop.list_into(file, names, "expired00")
    assert world.label(source=(source,)).failed == 12
    assert {row.error for row in open_run(str(world.out), Storage()).rows()} == {
        "no permission to read it (PermissionError: [Errno 13] HTTP 403 Forbidden)"
    }
    # The list is in another order now, and has one more.
    world.add(1)
    shop.valid = "second789"
    shop.list_into(file, ["012.png", *names[::-1]], "second789")
    summary = world.label(source=(source,), retry_failed=True)
    assert (summary.images, summary.failed) == (12, 0)
    assert statuses(world) == ["ok"] * 12
    summary = world.label(source=(source,), add_new=True)
    assert (summary.images, summary.failed) == (13, 0)
    assert b"second789" not in written(world.out)
