"""Source storages that `push --create-storage` creates on a real server, for buckets of emulators."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prelabel.label_studio.client import Server as Client
from prelabel.label_studio.options import PushOptions
from prelabel.label_studio.push import push
from prelabel.storage.files import Storage
from tests.emulators import Emulator, running_azurite, running_gcs
from tests.messages import told
from tests.rows import INFO, found, row, rows
from tests.tools.label_studio import Server

PHOTO = b"the server hands out these bytes"


def shown_after_push(server: Server, emulator: Emulator, name: str, folder: Path) -> bytes:
    """Push an image of a new bucket with `--create-storage`, and load it as the labeling page does."""
    storage = Storage(emulator.options)
    bucket = emulator.new_bucket()
    storage.publish(f"{bucket}/photos/a b.jpg", PHOTO)
    (folder / "token").write_text(server.token)
    options = PushOptions(url=server.url, project=name, token_file=str(folder / "token"), create_storage=True)
    report = push(INFO, rows(row("a b.jpg", found(), uri=f"{bucket}/photos/a b.jpg")), options, storage)
    assert told(report.warnings, "created", bucket.partition("://")[2])
    assert not told(report.warnings, "not shown")
    number = int(report.url.rpartition("/")[2])
    (task,) = server.tasks(number)
    path = server.api("GET", f"tasks/{task['id']}/?project={number}")["data"]["image"]
    client = Client(server.url, server.token)
    data, _ = client.read(path.removeprefix(server.url), len(PHOTO), lambda _: None)
    client.close()
    return data


def test_images_in_an_azure_container(label_studio: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_azurite() as azure:
        parts = azure.options["abfs"]["connection_string"].split(";")
        connection = dict(part.split("=", 1) for part in parts if part)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", connection["AccountName"])
        # Label Studio has no option for an endpoint, but it puts the key into a connection string.
        endpoint = f";BlobEndpoint={connection['BlobEndpoint']}"
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", connection["AccountKey"] + endpoint)
        assert shown_after_push(label_studio, azure, "azure", tmp_path) == PHOTO


def test_images_in_a_gcs_bucket(
    label_studio: Server, gcs_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_gcs(gcs_port) as gcs, token_server() as url:
        (tmp_path / "key.json").write_text(json.dumps(service_account(url)))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
        assert shown_after_push(label_studio, gcs, "gcs", tmp_path) == PHOTO


@contextmanager
def token_server() -> Iterator[str]:
    """The URL where Google's library exchanges the key of a service account for a token."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = b'{"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/token"
        server.shutdown()


def service_account(token_uri: str) -> dict[str, str]:
    """A key as Google issues it, with a new private key."""
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    private_key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "1",
        "private_key": private_key.decode(),
        "client_email": "a@p.iam.gserviceaccount.com",
        "token_uri": token_uri,
    }
