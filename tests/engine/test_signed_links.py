"""Signed links: workers fetch by them, no written file holds a signature, and a run goes on with renewed ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from prelabel.storage.files import Storage
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


def test_signatures_are_sent_to_workers_but_never_stored(world: World, shop: Shop) -> None:
    world.add(10, p003=Deed.ABORT)  # probed one by one, by its link, too
    names = sorted(path.name for path in world.photos.iterdir())
    source = shop.list_into(world.folder / "links.txt", names, "first0123")
    summary = world.label(source=(source,), workers=2)
    assert (summary.images, summary.failed, summary.lost) == (10, 1, 1)
    assert b"first0123" not in written(world.out)
    run = open_run(str(world.out), Storage())
    assert [ref.uri for ref in run.plan()] == [f"{shop.url}/photos/{name}" for name in names]
    assert run.record.source["sources"][0]["signed"] == 10


def test_a_run_resumes_with_renewed_links(world: World, shop: Shop) -> None:
    world.add(12)
    names = sorted(path.name for path in world.photos.iterdir())
    file = world.folder / "links.txt"
    source = shop.list_into(file, names, "expired00")
    assert world.label(source=(source,)).failed == 12
    assert {row.error for row in open_run(str(world.out), Storage()).rows()} == {
        "permission denied (PermissionError: HTTP 403 Forbidden)"
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


def test_images_keep_their_ids_when_urls_with_other_queries_are_added_or_removed(world: World, shop: Shop) -> None:
    world.add(2)
    file = world.folder / "links.txt"
    plain = f"{shop.url.removeprefix('http://')}/photos/000.png"
    first, second = plain, plain.replace(".png", "-bc7c7eb0ad0a.png")

    def listed(*queries: str) -> tuple[str, ...]:
        links = [f"{shop.url}/photos/000.png?{query}&X-Amz-Signature={shop.valid}" for query in queries]
        file.write_text("\n".join([*links, f"{shop.url}/photos/001.png?X-Amz-Signature={shop.valid}"]))
        return (str(file),)

    def ids() -> list[str]:
        return sorted(ref.image_id for ref in open_run(str(world.out), Storage()).plan() if "000" in ref.image_id)

    assert world.label(source=listed("page=1")).images == 2
    assert ids() == [first]
    # One more: the first is no new image, and has the name that its row has.
    summary = world.label(source=listed("page=2", "page=1"), add_new=True)
    assert (summary.images, summary.labeled) == (3, 1)
    assert ids() == sorted([first, second])
    # The other alone, which a list of its own would name as the first is named.
    summary = world.label(source=listed("page=2"), add_new=True)
    assert (summary.images, summary.labeled) == (3, 0)
    assert ids() == sorted([first, second])


def test_links_are_found_again_in_a_list_with_more_images(world: World, shop: Shop) -> None:
    world.add(1)
    file = world.folder / "links.txt"
    file.write_text(f"{shop.url}/photos/000.png?page=1&X-Amz-Signature=expired00\n")
    assert world.label(source=(str(file),)).failed == 1
    file.write_text("".join(f"{shop.url}/photos/000.png?page={n}&X-Amz-Signature={shop.valid}\n" for n in (2, 1)))
    summary = world.label(source=(str(file),), retry_failed=True)
    assert (summary.images, summary.failed) == (1, 0)
