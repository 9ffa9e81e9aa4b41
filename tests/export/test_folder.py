"""Exports that read the images again through signed URLs, which a run does not store, and their error messages."""

from __future__ import annotations

import io
import json
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner
from PIL import Image

from prelabel.cli import main
from prelabel.errors import SourceError
from prelabel.export.from_run import rows_to_fetch
from prelabel.processes import Processes
from prelabel.source.listing import list_images
from prelabel.storage.files import Storage
from prelabel.store.links import Links
from prelabel.store.rows import ImageRow
from prelabel.store.run import open_run
from tests.messages import facts, tells, told
from tests.rows import found, row
from tests.runs import write_run

SIGNATURE = "0123abcd"


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (200, 30, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def server(jpeg: bytes) -> Iterator[str]:
    """Serves an image for URLs with the right signature, as object storage does for signed URLs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = parse_qs(urlsplit(self.path).query).get("X-Amz-Signature") == [SIGNATURE]
            self.send_response(200 if known else 403)
            body = jpeg if known else b"no"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def run_of(folder: Path, server: str, jpeg: bytes) -> str:
    def image(name: str) -> ImageRow:
        uri = f"{server}/{name}?size=2&X-Amz-Signature=0999"
        return replace(row(name, found(), uri=uri), bytes=len(jpeg))

    return write_run(folder / "run", [[image("a.jpg")], [image("b.jpg")]])


def list_of(folder: Path, server: str, signature: str = SIGNATURE) -> str:
    """A list whose links were signed after the run."""
    file = folder / "links.csv"
    lines = [f"{server}/{name}?size=2&X-Amz-Signature={signature},{name}" for name in ("b.jpg", "a.jpg")]
    file.write_text("\n".join(["uri,image_id", *lines]))
    return str(file)


def export(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def test_a_missing_list_of_signed_urls_is_named_with_its_option(tmp_path: Path, server: str, jpeg: bytes) -> None:
    run = open_run(run_of(tmp_path, server, jpeg), Storage())
    with pytest.raises(SourceError, match=facts("--links", f"{tmp_path}/nowhere.csv")):
        rows_to_fetch(run, run.rows, [str(tmp_path / "nowhere.csv")])


def test_rows_to_fetch_have_the_signed_urls_of_the_list(tmp_path: Path, server: str, jpeg: bytes) -> None:
    run = open_run(run_of(tmp_path, server, jpeg), Storage())
    links = Links()
    links.find(list_images([list_of(tmp_path, server)], Storage()), run.plan())
    stored, full = list(run.rows()), list(run.rows.with_links(links)())
    assert [image.uri for image in stored] == [f"{server}/{name}?size=2" for name in ("a.jpg", "b.jpg")]
    assert [image.uri for image in full] == [f"{image.uri}&X-Amz-Signature={SIGNATURE}" for image in stored]
    assert [image.image_id for image in full] == ["a.jpg", "b.jpg"]
    assert [len(image) for image in full] == [1, 1]
    # Each part has its own links when it is sent to another process.
    parts = pickle.loads(pickle.dumps(run.rows.with_links(links).by_shard()))  # noqa: S301
    assert [image.uri for part in parts for image in part()] == [image.uri for image in full]


@pytest.mark.parametrize(("form", "place"), [("yolo", "images/train"), ("voc", "JPEGImages")])
def test_images_behind_signed_urls_are_copied(tmp_path: Path, server: str, jpeg: bytes, form: str, place: str) -> None:
    run = run_of(tmp_path, server, jpeg)
    links = list_of(tmp_path, server)
    code, output = export("export", form, run, "--to", tmp_path / "out", "--image-files", "copy", "--links", links)
    assert code == 0, output
    assert [(tmp_path / "out" / place / name).read_bytes() for name in ("a.jpg", "b.jpg")] == [jpeg, jpeg]
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert SIGNATURE not in output + written.decode(errors="replace")


def test_a_preview_shows_images_behind_signed_urls_but_no_signatures(tmp_path: Path, server: str, jpeg: bytes) -> None:
    run = run_of(tmp_path, server, jpeg)
    code, output = export("preview", run, "--to", tmp_path / "out", "--links", list_of(tmp_path, server))
    assert code == 0, output
    assert "cannot be read" not in output
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 2
    page = (tmp_path / "out" / "index.html").read_text()
    assert SIGNATURE not in page + output
    assert f"{server}/a.jpg" in page


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_an_unreadable_image_is_not_reported_as_an_unwritable_file(
    tmp_path: Path, server: str, jpeg: bytes, form: str
) -> None:
    run = run_of(tmp_path, server, jpeg)
    links = list_of(tmp_path, server, signature="99990000")
    code, output = export("export", form, run, "--to", tmp_path / "out", "--image-files", "copy", "--links", links)
    assert code == 1
    (line,) = output.strip().splitlines()
    assert tells(line, "image", "'a.jpg'", "read", f"{server}/a.jpg?***", "403")
    assert "99990000" not in output
    assert "cannot write" not in output


def test_missing_signed_urls_are_reported(tmp_path: Path, server: str, jpeg: bytes) -> None:
    run = run_of(tmp_path, server, jpeg)
    record = json.loads((Path(run) / "run.json").read_text())
    record["source"]["sources"] = [{"source": "x", "kind": "list", "images": 2, "bytes": 0, "signed": 2, "ignored": {}}]
    (Path(run) / "run.json").write_text(json.dumps(record))
    code, output = export("preview", run, "--to", tmp_path / "out")
    assert code == 0
    assert told(output.splitlines(), "note", "2 images", "signed", "links", "list")


@pytest.mark.parametrize("command", [("export", "voc"), ("preview",)])
def test_progress_is_shown_when_images_are_read_again(
    tmp_path: Path, server: str, jpeg: bytes, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prelabel.console.LINE_INTERVAL_S", 0.0)
    arguments = ["--to", tmp_path / "out", "--links", list_of(tmp_path, server)]
    copied = ["--image-files", "copy"] if command == ("export", "voc") else []
    code, output = export(*command, run_of(tmp_path, server, jpeg), *arguments, *copied)
    assert code == 0, output
    # VOC reads the rows once for the classes and once for the images, and again for their names if several processes
    # may work. The preview reads them once for the totals and, after a pass that ends early, once for the images.
    passes = 3 if copied and Processes.all_cores().several else 2
    assert output.splitlines().count("2 of 2 images read") == passes
