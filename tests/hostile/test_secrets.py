"""Secrets are planted wherever a user may put one, a run is made on a Ray with its dashboard, and all is searched."""

from __future__ import annotations

import io
import json
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.e2e.command import Place
from tests.emulators import free_port
from tests.s3 import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.slow]

#: What must never be found, by where it is planted.
PLANTED = {
    "storage option": "plantedoptionsecret1",
    "storage option of another store": "plantedotheroption2",
    "signature": "5167a7d1plantedsignature3",
    "expired signature": "0e891dplantedexpired4",
    "password": "plantedpassword5",
    "password in the address of the list": "plantedlistpassword6",
    "token in a query": "plantedquerytoken7",
    "token of an annotation server": "plantedservertoken8",
}

#: What the dashboard knows.
STATE = ("actors", "jobs", "nodes", "objects", "placement_groups", "runtime_envs", "tasks", "workers", "cluster_events")


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.end()


@pytest.fixture
def shop() -> Iterator[str]:
    """Web server: a picture for the valid signature or the password, 403 for others; the list of addresses, too."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (240, 30, 30)).save(buffer, "PNG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            known = parse_qs(parts.query).get("X-Amz-Signature") == [PLANTED["signature"]]
            known |= "Authorization" in self.headers
            body = buffer.getvalue() if known else f"no entry with {self.path}".encode()
            self.send_response(200 if known else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name that the library looks for

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def addresses(shop: str, bucket: str) -> dict[str, str]:
    """Images that can be had and images that cannot, each by an address with a secret or of a store with one."""
    signed = f"X-Amz-Credential=k&X-Amz-Signature={PLANTED['signature']}"
    return {
        "signed.png": f"http://{shop}/a/signed.png?{signed}",
        "spaced.png": f"http://{shop}/a/spa ced'.png?size=2&{signed}",
        "password.png": f"http://me:{PLANTED['password']}@{shop}/a/password.png",
        "stored.png": f"s3://{bucket}/photos/stored.png",
        "missing.png": f"s3://{bucket}/photos/missing.png",
        "expired.png": f"http://{shop}/a/ex pired.png?X-Amz-Signature={PLANTED['expired signature']}",
        "tokened.png": f"http://{shop}/a/tokened.png?id=3&access_token={PLANTED['token in a query']}",
        "closed.png": f"http://me:{PLANTED['password']}@127.0.0.1:9/closed.png?token={PLANTED['token in a query']}",
        "nowhere.png": f"http://me:{PLANTED['password']}@nowhere.invalid/x.png?sig={PLANTED['signature']}",
    }


def found_in(data: bytes) -> list[str]:
    return [where for where, secret in PLANTED.items() if secret.encode() in data]


def content_of(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        data += repr((table.to_pylist(), table.schema.metadata)).encode()
    return data


def test_no_secret_is_in_files_output_or_pages(place: Place, shop: str, s3_server: S3Server, tmp_path: Path) -> None:
    bucket = s3_server.new_bucket()
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (30, 240, 30)).save(buffer, "PNG")
    s3_server.put(bucket, "photos/stored.png", buffer.getvalue())
    links = tmp_path / "links.jsonl"
    pairs = addresses(shop, bucket)
    links.write_text("".join(json.dumps({"uri": uri, "image_id": name}) + "\n" for name, uri in pairs.items()))
    options = {
        "s3": {**s3_server.options, "secret": PLANTED["storage option"]},
        "gs": {"token": PLANTED["storage option of another store"]},
    }
    dashboard, head = free_port(), free_port()
    place.env |= {"RAY_AUTH_MODE": "disabled", "LABEL_STUDIO_API_KEY": PLANTED["token of an annotation server"]}
    started = subprocess.run(
        [
            *("ray", "start", "--head", "--node-ip-address", "127.0.0.1", "--port", str(head), "--num-cpus", "2"),
            *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--include-dashboard", "true"),
            *("--disable-usage-stats", "--ray-client-server-port", str(free_port())),
            *("--temp-dir", str(place.folder)),
        ],
        env={name: value for name, value in place.env.items() if name != "LABEL_STUDIO_API_KEY"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert started.returncode == 0, started.stdout + started.stderr
    job = tmp_path / "job.yaml"
    job.write_text(
        yaml.safe_dump(
            {
                **{
                    "source": [str(links)],
                    "detector": "demo-shapes",
                    "runner": "ray",
                    "ray_address": f"127.0.0.1:{head}",
                },
                **{"storage-options": options, "workers": 1, "shard-size": 4, "log-json": True},
            }
        )
    )
    out, given = tmp_path / "out", json.dumps(options)
    run = ("--config", str(job), "--output", str(out / "run"))
    outputs = [place.run("label", *run, timeout_s=400)]
    assert outputs[0].returncode == 0, outputs[0].stderr
    assert '"failed": ' in outputs[0].stderr or "failed" in outputs[0].stdout
    rows = pq.read_table(out / "run/shards").to_pylist()
    assert {row["image_id"]: row["status"] for row in rows} == {
        name: "ok" if name in ("signed.png", "spaced.png", "password.png", "stored.png") else "failed" for name in pairs
    }
    truth = out / "coco.json"
    outputs += [
        place.run(*arguments)
        for arguments in (
            ("label", *run, "--score-threshold", "0.5"),  # refused: another setting
            ("label", "--config", str(job), "--output", f"http://me:{PLANTED['password']}@127.0.0.1:9/x"),
            ("label", f"https://me:{PLANTED['password in the address of the list']}@nowhere.invalid/l.txt?sig=x",
             "--detector", "demo-shapes", "--output", str(out / "other")),
            ("status", str(out / "run")),
            ("verify", str(out / "run")),
            ("export", "coco", str(out / "run"), "--to", str(truth)),
            ("export", "label-studio", str(out / "run"), "--to", str(out / "tasks")),
            ("export", "cvat", str(out / "run"), "--to", str(out / "cvat.xml")),
            ("export", "yolo", str(out / "run"), "--to", str(out / "yolo"), "--image-files", "copy"),  # no links
            ("export", "voc", str(out / "run"), "--to", str(out / "voc")),
            ("preview", str(out / "run"), "--to", str(out / "look"), "--links", str(links), "--storage-options", given),
            ("evaluate", str(out / "run"), "--truth", str(truth)),
            ("push", "label-studio", str(out / "run"), "--url", "http://127.0.0.1:9", "--project", "p"),
            ("verify", f"s3://me:{PLANTED['password']}@{bucket}/none", "--storage-options", given),
        )
    ]  # fmt: skip
    assert [done.returncode for done in outputs[4:9]] == [0, 0, 0, 0, 0], [done.stderr for done in outputs[4:9]]
    for done in outputs:
        assert found_in((done.stdout + done.stderr).encode()) == [], done.args
        assert "Traceback" not in done.stderr

    for path in (entry for entry in out.rglob("*") if entry.is_file()):
        assert found_in(content_of(path)) == [], path
    for what in STATE:
        url = f"http://127.0.0.1:{dashboard}/api/v0/{what}?detail=1&limit=1000"
        with urllib.request.urlopen(url, timeout=30) as answer:
            state = answer.read()
        assert b'"result": true' in state
        assert found_in(state) == [], what
    assert (
        b"PrelabelWorker"
        in urllib.request.urlopen(f"http://127.0.0.1:{dashboard}/api/v0/actors?detail=1", timeout=30).read()
    )
    logs = [path for path in place.folder.rglob("*") if path.is_file() and "logs" in path.parts]
    assert logs
    for path in logs:
        assert found_in(path.read_bytes()) == [], path
    for process in place.processes().values():
        assert found_in(process.encode()) == []
