"""Odd names through a real server: each task shows the file of its own name, or the export says that it does not."""

from __future__ import annotations

import functools
import http.server
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from prelabel.errors import PushError
from prelabel.export.base import ExportReport
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions, PushOptions
from prelabel.label_studio.push import push
from prelabel.source.fetch import fetch
from prelabel.source.listing import list_images
from prelabel.storage.files import Storage
from tests.hostile.names import NAMES
from tests.rows import INFO, found, row, rows
from tests.s3 import S3Server
from tests.tools.label_studio import Server

FOLDER = "pho tos#1 100% +"


def content(name: str) -> bytes:
    """Bytes that only the file of this name has."""
    return b"\x89PNG" + name.encode()


@pytest.fixture(scope="module")
def folder(document_root: Path) -> Path:
    """One file of each name below the server's document root."""
    folder = document_root / FOLDER
    folder.mkdir(exist_ok=True)
    for name in NAMES.values():
        (folder / name).write_bytes(content(name))
    return folder


def exported(uris: dict[str, str], to: Path, **options: Any) -> tuple[list[dict[str, Any]], str, ExportReport]:
    """Tasks, labelling config, and what the export said, of images with a box each."""
    image_rows = rows(*(row(name, found(), uri=uri) for name, uri in uris.items()))
    report = export_label_studio(INFO, image_rows, str(to), LabelStudioOptions.of(**options), Storage())
    return json.loads((to / "tasks-00000.json").read_text()), (to / "label_config.xml").read_text(), report


def imported(server: Server, tasks: Sequence[dict[str, Any]], config: str, title: str) -> int:
    project = server.project(config, title)
    answer = server.api("POST", f"projects/{project}/import", tasks)
    assert (answer["task_count"], answer["prediction_count"]) == (len(tasks), len(tasks))
    return project


def shown(server: Server, project: int) -> dict[str, bytes | int]:
    """By image id: the bytes that the page gets for the task of that image, or the error's status."""
    got: dict[str, bytes | int] = {}
    for task in server.tasks(project):
        # As the page asks for it: the server may replace the address by one of its own.
        address = server.api("GET", f"tasks/{task['id']}/?project={project}")["data"]["image"]
        address = urljoin(server.url, address)
        request = urllib.request.Request(address)  # noqa: S310 - a server started here
        if address.startswith(server.url):
            request.add_unredirected_header("Authorization", f"Token {server.token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                got[task["data"]["image_id"]] = answer.read()
        except urllib.error.HTTPError as error:
            got[task["data"]["image_id"]] = error.code
    return got


def test_local_files_of_odd_names_are_shown_by_their_tasks(label_studio: Server, folder: Path, tmp_path: Path) -> None:
    tasks, config, _ = exported({name: f"{folder}/{name}" for name in NAMES.values()}, tmp_path)
    project = imported(label_studio, tasks, config, "local names")
    label_studio.serve(project, folder)
    assert shown(label_studio, project) == {name: content(name) for name in NAMES.values()}


#: What an `<img>` of that address gets, byte by byte.
_GET = "async address => Array.from(new Uint8Array(await (await fetch(address)).arrayBuffer()))"


def test_a_browser_gets_local_files_of_odd_names(label_studio: Server, page: Any, folder: Path, tmp_path: Path) -> None:
    tasks, config, _ = exported({name: f"{folder}/{name}" for name in NAMES.values()}, tmp_path)
    project = imported(label_studio, tasks, config, "names in a browser")
    label_studio.serve(project, folder)
    page.goto(f"{label_studio.url}/projects/{project}/settings")
    got = {task["data"]["image_id"]: bytes(page.evaluate(_GET, task["data"]["image"])) for task in tasks}
    assert got == {name: content(name) for name in NAMES.values()}


def test_tasks_of_odd_names_are_read_from_their_project(
    label_studio: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.token)
    tasks, config, _ = exported({name: f"{folder}/{name}" for name in NAMES.values()}, tmp_path)
    project = imported(label_studio, tasks, config, "names to label")
    label_studio.serve(project, folder)
    numbers = {task["id"]: task["data"]["image_id"] for task in label_studio.tasks(project)}
    address = label_studio.url.replace("http://", "label-studio://")
    refs = list(list_images([f"{address}/{project}"], Storage()))
    assert [ref.image_id for ref in refs] == [f"{number}/{name}" for number, name in numbers.items()]
    for ref, name in zip(refs, numbers.values(), strict=True):
        assert fetch(ref, Storage(), 1 << 20) == content(name)


def test_odd_names_below_a_web_address_are_shown_by_their_tasks(
    label_studio: Server, folder: Path, tmp_path: Path
) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{web.server_port}"
        uris = {name: f"{folder}/{name}" for name in NAMES.values()}
        tasks, config, _ = exported(uris, tmp_path, image_url=address)
        project = imported(label_studio, tasks, config, "web names")
        assert shown(label_studio, project) == {name: content(name) for name in NAMES.values()}
        web.shutdown()


@pytest.mark.parametrize("presign", [True, False])
def test_objects_of_odd_names_are_shown_or_counted(
    label_studio: Server, s3_server: S3Server, tmp_path: Path, presign: bool
) -> None:
    bucket = s3_server.new_bucket()
    altered = ["end.png ", "/front.png", NAMES["URL characters"], NAMES["wildcards"]]
    # The test's object store takes no control characters.
    fine = [name for name in NAMES.values() if not re.search("[\x00-\x1f\x7f-\x9f\ufffe]", name)]
    fine = [*(name for name in fine if name not in altered), "s3://other/a.png", "a//b.png", "a/./b.png"]
    for name in (*fine, *altered):
        s3_server.put(bucket, name, content(name))
    uris = {name: f"s3://{bucket}/{name}" for name in (*fine, *altered)}
    tasks, config, report = exported(uris, tmp_path)
    project = imported(label_studio, tasks, config, "bucket names")
    place = {"project": project, "bucket": bucket, "s3_endpoint": s3_server.endpoint, "region_name": "us-east-1"}
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test-secret"}
    label_studio.api("POST", "storages/s3", {**place, **keys, "presign": presign, "use_blob_urls": True})
    got = shown(label_studio, project)
    assert {name: got[name] for name in fine} == {name: content(name) for name in fine}
    assert all(isinstance(got[name], int) for name in altered)
    assert "4 images are not shown" in report.warnings[-1]


def test_pushed_again_odd_names_find_their_tasks(
    label_studio: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.token)
    image_rows = rows(*(row(name, found(), uri=f"{folder}/{name}") for name in NAMES.values()))
    options = PushOptions(url=label_studio.url, project="pushed names")
    first, again = (push(INFO, image_rows, options, Storage()) for _ in range(2))
    assert (first.sent.new_tasks, again.sent.unchanged, again.tasks) == (len(NAMES), len(NAMES), len(NAMES))
    project = int(first.url.rpartition("/")[2])
    label_studio.serve(project, folder)
    assert shown(label_studio, project) == {name: content(name) for name in NAMES.values()}


def test_created_storages_show_the_images_and_their_sync_adds_no_tasks(
    label_studio: Server, s3_server: S3Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3_server.new_bucket()
    s3_server.put(bucket, "in/a.png", content("a"))
    local = next(iter(NAMES.values()))
    variables = {
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AWS_REGION": "us-east-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    uris = {"a.png": f"s3://{bucket}/in/a.png", local: f"{folder}/{local}"}
    image_rows = rows(*(row(name, found(), uri=uri) for name, uri in uris.items()))
    root = str(label_studio.document_root)
    options = PushOptions(url=label_studio.url, project="storages", create_storage=True, document_root=root)
    report = push(INFO, image_rows, options, Storage())
    assert [note.startswith("created") for note in report.warnings[:2]] == [True, True]
    project = int(report.url.rpartition("/")[2])
    assert shown(label_studio, project) == {"a.png": content("a"), local: content(local)}
    again = push(INFO, image_rows, options, Storage())
    assert (again.sent.unchanged, again.warnings) == (2, ())
    for kind in ("s3", "localfiles"):
        (storage,) = label_studio.api("GET", f"storages/{kind}/?project={project}")
        synced = label_studio.api("POST", f"storages/{kind}/{storage['id']}/sync")
        assert (synced["status"], synced["last_sync_count"]) == ("completed", 0)
    assert len(label_studio.tasks(project)) == 2
    # Without the filter, Sync would fail on the images instead of making them tasks.
    label_studio.api("PATCH", f"storages/localfiles/{storage['id']}", {"regex_filter": "", "path": storage["path"]})
    assert label_studio.api("POST", f"storages/localfiles/{storage['id']}/sync")["status"] == "failed"
    assert len(label_studio.tasks(project)) == 2


def test_a_storage_that_the_server_cannot_open_ends_the_push_before_its_first_task(
    label_studio: Server, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "wrong-secret-0123"
    for name, value in {
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL": s3_server.endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    image_rows = rows(row("a.png", found(), uri="s3://no-such-bucket/a.png"))
    options = PushOptions(url=label_studio.url, project="no storage", create_storage=True)
    with pytest.raises(PushError, match="storage for s3 no-such-bucket") as caught:
        push(INFO, image_rows, options, Storage())
    assert secret not in str(caught.value)
