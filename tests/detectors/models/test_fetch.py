from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from prelabel.detectors.models import cache, download, fetch, hubs
from prelabel.detectors.models.cache import fingerprint_of
from prelabel.detectors.models.download import DownloadError
from prelabel.detectors.models.fetch import fetch_model
from prelabel.errors import ConfigError, DetectorError, PrelabelError
from prelabel.storage import retries
from prelabel.storage.files import Storage
from tests.detectors.models.hub_server import Hub, Page, Request, archive, hub
from tests.messages import facts

NOISE = np.random.default_rng(0).bytes(300_000)
FILES = {
    "./saved_model.pb": b"graph",
    "./tfhub_module.pb": b"\x08\x03",
    "./variables/variables.index": b"index",
    "./variables/variables.data-00000-of-00001": NOISE,
    "./assets/labels.txt": b"dog\n",
}
PLACE = "/google/detector/1"


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as running:
        yield running


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELABEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE_S", 0.001)
    monkeypatch.setattr(cache, "_compared", set())


def write_model(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def leftovers(root: Path) -> list[str]:
    return [path.name for path in (root / "models").iterdir() if path.name.endswith(".partial")]


# A folder on this machine


def test_local_folder_is_used_in_place(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "my detector")
    model = fetch_model(str(folder))
    assert model.path == folder
    assert model.name == "my-detector"
    assert model.fingerprint == fingerprint_of(folder)
    assert model.model_version == f"my-detector-{model.fingerprint[:8]}"
    assert not (tmp_path / "cache").exists()


def test_version_folder_is_named_with_its_parent(tmp_path: Path) -> None:
    assert fetch_model(str(write_model(tmp_path / "owl" / "3"))).name == "owl-3"


def test_only_subfolder_is_the_model(tmp_path: Path) -> None:
    assert fetch_model(str(write_model(tmp_path / "a" / "b").parent)).path == tmp_path / "a" / "b"


def test_error_for_a_folder_without_a_model_names_its_content(tmp_path: Path) -> None:
    (tmp_path / "frozen_graph.pb").write_bytes(b"")
    with pytest.raises(DetectorError, match=r"saved_model\.pb .*frozen_graph\.pb"):
        fetch_model(str(tmp_path))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("openimages-ssd-mobilenet", "'openimages-ssd-mobilenet-v2'"),
        ("/nowhere/at/all", "`prelabel detectors`"),
        ("nothing://x/y", "nothing"),
    ],
)
def test_address_without_a_model_is_refused(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fetch_model(address)


def test_fingerprint_follows_content_and_names_only(tmp_path: Path) -> None:
    fingerprint = fingerprint_of(write_model(tmp_path / "one"))
    assert fingerprint == fingerprint_of(write_model(tmp_path / "two", dict(reversed(FILES.items()))))
    write_model(tmp_path / "two", {"fingerprint.pb": b"other", "assets.extra/x": b"y", "notes.txt": b"z"})
    assert fingerprint == fingerprint_of(tmp_path / "two")
    moved = {**FILES, "./saved_model.pb": b"grap", "./assets/labels.txt": b"dog\nh"}
    for changed in ({**FILES, "./assets/labels.txt": b"cat\n"}, {**FILES, "./assets/more.txt": b""}, moved):
        assert fingerprint != fingerprint_of(write_model(tmp_path / str(len(list(tmp_path.iterdir()))), changed))


def test_fingerprint_is_pinned(tmp_path: Path) -> None:
    folder = write_model(tmp_path, {"saved_model.pb": b"graph"})
    assert fingerprint_of(folder) == "836fa6c66331e7f48ee3949dd5101a0147364ccecf13aa34ddb6a81f6d61b742"


# A web server


def test_archive_of_a_page_is_requested_once(server: Hub, tmp_path: Path) -> None:
    server.pages[PLACE] = Page(archive(FILES))
    first = fetch_model(server.url + PLACE)
    again = fetch_model(server.url + PLACE)
    assert first == again
    assert server.requests == [(PLACE + "?tf-hub-format=compressed", None)]
    assert first.name == "detector-1"
    assert first.fingerprint == fingerprint_of(write_model(tmp_path / "reference"))
    assert (first.path / "variables/variables.data-00000-of-00001").read_bytes() == NOISE
    assert leftovers(tmp_path / "cache") == []


def test_cached_model_needs_no_server(tmp_path: Path) -> None:
    with hub() as server:
        server.pages[PLACE] = Page(archive(FILES))
        address = server.url + PLACE
        first = fetch_model(address)
    assert fetch_model(address) == first


def test_archive_is_fetched_as_it_is_and_redirects_are_followed(server: Hub) -> None:
    server.pages["/m/own.tar.gz"] = lambda request: request.answer(302, Location="/store/blob?part=1")
    server.pages["/store/blob"] = lambda request: request.answer(200, archive(FILES))
    assert fetch_model(server.url + "/m/own.tar.gz?v=2").name == "own"
    assert [path for path, _ in server.requests] == ["/m/own.tar.gz?v=2", "/store/blob?part=1"]


def test_link_that_is_signed_again_is_the_same_model_and_shows_no_signature(server: Hub) -> None:
    server.pages["/own.tar.gz"] = lambda request: request.answer(200, archive(FILES))
    fetch_model(server.url + "/own.tar.gz?X-Amz-Signature=SECRET1&v=1")
    model = fetch_model(server.url + "/own.tar.gz?X-Amz-Signature=SECRET2&v=1")
    assert len(server.requests) == 1
    fetch_model(server.url + "/own.tar.gz?X-Amz-Signature=SECRET2&v=2")
    assert len(server.requests) == 2
    assert "SECRET" not in repr(model)
    assert "SECRET" not in (model.path / ".prelabel.json").read_text()


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_download_resumes(server: Hub, ranges: bool) -> None:
    body = archive(FILES)
    server.pages[PLACE] = Page(body, cut=[100_000, 50_000], ranges=ranges)
    assert (fetch_model(server.url + PLACE).path / "saved_model.pb").read_bytes() == b"graph"
    asked = [range_ for _, range_ in server.requests]
    assert asked == ([None, "bytes=100000-", "bytes=150000-"] if ranges else [None, None, None])


def test_download_restarts_if_the_file_changed(server: Hub) -> None:
    server.pages[PLACE] = Page(archive(FILES), cut=[100_000], ranges=True, etags=['"old"', '"new"'])
    model = fetch_model(server.url + PLACE)
    assert (model.path / "variables/variables.data-00000-of-00001").read_bytes() == NOISE
    assert [range_ for _, range_ in server.requests] == [None, "bytes=100000-"]


def test_download_that_always_breaks_leaves_nothing(server: Hub, tmp_path: Path) -> None:
    server.pages[PLACE] = Page(archive(FILES), cut=[100_000] * 99)
    with pytest.raises(DetectorError, match="5 attempts"):
        fetch_model(server.url + PLACE)
    assert len(server.requests) == 6
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir() if not path.name.endswith(".lock")] == []


def test_busy_server_is_retried(server: Hub) -> None:
    answers = [503, 429, 500]
    page = Page(archive(FILES))

    def handler(request: Request) -> None:
        if answers:
            request.answer(answers.pop(0))
        else:
            page(request)

    server.pages[PLACE] = handler
    fetch_model(server.url + PLACE)
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "URL"), (403, "permission"), (401, "credentials")],
)
def test_refusal_is_not_repeated_and_says_what_to_check(server: Hub, status: int, message: str) -> None:
    server.pages[PLACE] = lambda request: request.answer(status)
    with pytest.raises(DetectorError, match=facts(str(status), message, "prelabel fetch")) as caught:
        fetch_model(server.url + PLACE + "?token=SECRET")
    assert len(server.requests) == 1
    assert server.url + PLACE in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_downloads_are_announced_and_cached_models_are_not(server: Hub) -> None:
    server.pages[PLACE] = Page(archive(FILES))
    messages: list[str] = []
    address = server.url + PLACE + "?X-Amz-Signature=SECRET"
    fetch_model(address, say=messages.append)
    assert len(messages) == 1
    assert f"{server.url}{PLACE}?***" in messages[0]
    fetch_model(address, say=messages.append)
    assert len(messages) == 1


def test_unknown_host_fails_after_two_attempts() -> None:
    with pytest.raises(DetectorError, match=facts("nobody.invalid", "unknown host", "2 attempts")):
        fetch_model("http://nobody.invalid/own.tar.gz")


def test_without_a_network_a_short_line_names_each_host_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "kaggle_credentials", lambda: None)

    def refused(url: str, target: Path, max_bytes: int, display_name: str) -> None:
        raise DownloadError(display_name, "unknown host after 2 attempts")

    monkeypatch.setattr(download, "download", refused)
    for name in ("openimages-ssd-mobilenet-v2", "coco-mask-rcnn-inception-resnet-v2"):
        with pytest.raises(DetectorError, match=facts(name, "unknown host", "network", "prelabel fetch")) as caught:
            fetch_model(name)
        text = str(caught.value)
        assert len(text) <= 250
        assert [text.count(part) for part in ("tfhub.dev", "www.kaggle.com", "unknown host")] == [1, 1, 1]


def test_refused_connection_is_a_clear_error() -> None:
    with hub() as server:
        address = server.url
    with pytest.raises(DetectorError, match=r"\(\w+\).* 5 attempts") as caught:
        fetch_model(address + "/own.tar.gz?X-Amz-Signature=SECRET")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("there", "why"),
    [
        ("file:///etc/passwd", "file://"),
        ("ftp://127.0.0.1/x", "ftp://"),
        ("http://169.254.169.254/x", "link-local address 169.254.169.254"),
        ("http://[", "valid URL"),
        ("//", "10 redirects"),
    ],
)
def test_redirect_out_of_the_web_is_refused(server: Hub, there: str, why: str) -> None:
    server.pages[PLACE] = lambda request: request.answer(302, Location=there)
    with pytest.raises(DetectorError, match=re.escape(why)):
        fetch_model(server.url + PLACE)


def test_endless_redirects_end(server: Hub) -> None:
    server.pages[PLACE] = lambda request: request.answer(302, Location=PLACE)
    with pytest.raises(DetectorError, match="10 redirects"):
        fetch_model(server.url + PLACE)


def test_catalog_name_tries_each_of_its_addresses(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pages[PLACE] = Page(archive(FILES))
    entry = fetch.lookup("openimages-ssd-mobilenet-v2")
    assert entry is not None
    moved = type(entry)(
        **{name: getattr(entry, name) for name in entry.__slots__ if name != "addresses"},
        addresses=(server.url + "/gone", server.url + PLACE),
    )
    monkeypatch.setattr(fetch, "lookup", lambda address: moved if address == moved.name else None)
    model = fetch_model(moved.name)
    assert (model.name, model.entry) == (moved.name, moved)
    assert [path for path, _ in server.requests] == [f"{p}?tf-hub-format=compressed" for p in ("/gone", PLACE)]


def test_eight_processes_at_once_download_once(server: Hub, tmp_path: Path) -> None:
    server.pages[PLACE] = Page(archive(FILES))
    code = (
        "import sys; from prelabel.detectors.models.fetch import fetch_model; "
        "print(fetch_model(sys.argv[1]).fingerprint)"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, server.url + PLACE], stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    printed = {worker.communicate(timeout=120)[0].strip() for worker in workers}
    assert [worker.returncode for worker in workers] == [0] * 8
    assert printed == {fingerprint_of(write_model(tmp_path / "reference"))}
    assert len(server.requests) == 1


def test_process_killed_while_fetching_leaves_nothing_that_is_used(server: Hub, tmp_path: Path) -> None:
    page = Page(archive(FILES))

    def stall(request: Request) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(page.body)))
        request.end_headers()
        request.wfile.write(page.body[:100_000])
        request.wfile.flush()
        request.rfile.read(1)  # until the client is gone

    server.pages[PLACE] = stall
    code = "import sys; from prelabel.detectors.models.fetch import fetch_model; fetch_model(sys.argv[1])"
    worker = subprocess.Popen([sys.executable, "-c", code, server.url + PLACE])
    root = tmp_path / "cache" / "models"
    while not any(path.stat().st_size >= 65_536 for path in root.glob(".*.partial/archive")):
        assert worker.poll() is None
        time.sleep(0.02)
    worker.kill()
    worker.wait()
    assert leftovers(tmp_path / "cache") != []
    server.pages[PLACE] = page
    fetch_model(server.url + PLACE)
    assert leftovers(tmp_path / "cache") == []


@pytest.mark.parametrize("damage", ["shorter", "longer", "missing", "marker gone", "marker broken", "flipped"])
def test_corrupt_copy_in_the_cache_is_fetched_again(server: Hub, damage: str) -> None:
    server.pages[PLACE] = Page(archive(FILES))
    model = fetch_model(server.url + PLACE)
    file = model.path / "variables/variables.data-00000-of-00001"
    if damage == "shorter":
        file.write_bytes(NOISE[:-1])
    elif damage == "longer":
        (model.path / "assets/more.txt").write_bytes(b"")
    elif damage == "missing":
        file.unlink()
    elif damage == "marker gone":
        (model.path / ".prelabel.json").unlink()
    elif damage == "marker broken":
        (model.path / ".prelabel.json").write_text("{")
    else:  # the same size; found by the next process
        file.write_bytes(bytes([NOISE[0] ^ 1]) + NOISE[1:])
        cache._compared.clear()
    assert fetch_model(server.url + PLACE) == model
    assert file.read_bytes() == NOISE
    assert len(server.requests) == 2


def test_cache_that_cannot_be_written_is_a_clear_error(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    server.pages[PLACE] = Page(archive(FILES))
    with pytest.raises(DetectorError, match="model cache"):
        fetch_model(server.url + PLACE, cache_dir=tmp_path / "file")


def test_web_page_instead_of_an_archive_is_refused(server: Hub) -> None:
    server.pages["/a.tar.gz"] = lambda request: request.answer(200, b"<!DOCTYPE html>" + b" " * 600)
    with pytest.raises(DetectorError, match=r"\.tar\.gz .*'<!DOCTYPE html>'"):
        fetch_model(server.url + "/a.tar.gz")


def test_download_larger_than_the_limit_is_refused(server: Hub) -> None:
    server.pages[PLACE] = Page(archive(FILES))
    with pytest.raises(DetectorError, match="1000"):
        fetch_model(server.url + PLACE, max_bytes=1000)


# Archives on disk and object storage


def test_local_archive_goes_through_the_cache_and_is_noticed_when_replaced(tmp_path: Path) -> None:
    path = tmp_path / "own.tgz"
    path.write_bytes(archive(FILES))
    first = fetch_model(str(path))
    assert first.name == "own"
    path.write_bytes(archive({**FILES, "./saved_model.pb": b"other"}))
    os.utime(path, ns=(1, 1))
    assert (fetch_model(str(path)).path / "saved_model.pb").read_bytes() == b"other"


def test_prefix_and_archive_in_object_storage(tmp_path: Path) -> None:
    storage = Storage()
    for name, data in FILES.items():
        storage.publish("memory://bucket/models/owl/" + name.removeprefix("./"), data)
    storage.publish("memory://bucket/models/owl/README.md", b"x")
    storage.publish("memory://bucket/models/owl.tar.gz", archive(FILES))
    reference = fingerprint_of(write_model(tmp_path / "reference"))
    model = fetch_model("memory://bucket/models/owl/", storage)
    assert (model.name, model.fingerprint) == ("owl", reference)
    assert fetch_model("memory://bucket/models/owl.tar.gz", storage).fingerprint == reference
    storage.publish("memory://bucket/models/owl/saved_model.pb", b"GRAPH")
    assert (fetch_model("memory://bucket/models/owl", storage).path / "saved_model.pb").read_bytes() == b"GRAPH"
    with pytest.raises(DetectorError, match="memory://bucket/none"):
        fetch_model("memory://bucket/none", storage)


class _Unreachable(Storage):
    def filesystem(self, url: str) -> tuple[object, str]:
        raise ConnectionError("no route")


def test_cached_object_storage_model_needs_no_network() -> None:
    storage = Storage()
    storage.publish("memory://offline/owl/saved_model.pb", b"graph")
    model = fetch_model("memory://offline/owl", storage)
    assert fetch_model("memory://offline/owl", _Unreachable()) == model
    with pytest.raises(DetectorError, match="no route"):
        fetch_model("memory://offline/other", _Unreachable())


def test_marker_is_plain_json(server: Hub) -> None:
    server.pages[PLACE] = Page(archive(FILES))
    model = fetch_model(server.url + PLACE)
    marker = json.loads((model.path / ".prelabel.json").read_text())
    assert marker["fingerprint"] == model.fingerprint
    assert marker["files"]["saved_model.pb"] == 5


def test_errors_are_of_the_package() -> None:
    assert issubclass(DetectorError, PrelabelError)


@pytest.mark.parametrize("address", ["s3://bucket/model.tar.gz", "s3://bucket/model"])
def test_a_store_that_cannot_be_reached_is_one_clear_line(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.0)
    client = {"endpoint_url": "http://127.0.0.1:1", "region_name": "us-east-1"}
    options = {"key": "k", "secret": "s", "client_kwargs": client, "config_kwargs": {"retries": {"max_attempts": 0}}}
    with pytest.raises(DetectorError, match=rf"^{address}: .*EndpointConnectionError"):
        fetch_model(address, Storage(options), cache_dir=tmp_path)
