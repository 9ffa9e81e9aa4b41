"""A job submitted to a real cluster through Ray's job API: from a bucket to a bucket, stopped, and submitted again."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from PIL import Image
from ray.job_submission import JobSubmissionClient

from prelabel.storage.files import Storage
from prelabel.store.verify import verify
from tests.e2e.command import ROOT, Place, rows_of, wait_until
from tests.e2e.conftest import Undisturbed
from tests.emulators import free_port
from tests.models import Models
from tests.s3 import S3Server

#: The entry point of submitted jobs; its docstring has the commands.
JOB = ROOT / "jobs/label_images.py"

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def ray_command(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ray ARGUMENTS...`"""
    return subprocess.run(["ray", *arguments], env=env, capture_output=True, text=True, timeout=90, check=False)


@dataclass(frozen=True)
class Head:
    """A cluster of one node with its dashboard, where jobs are submitted."""

    place: Place
    dashboard: str
    client: JobSubmissionClient

    def submit(self, job: str, working_dir: Path, env: dict[str, str], *arguments: str) -> None:
        """Submit `jobs/label_images.py ARGUMENTS...` and do not wait for it."""
        runtime_env = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30", **env}}
        deadline = time.monotonic() + 90
        while True:
            result = self._submit(job, working_dir, runtime_env, *arguments)
            # The agent that starts jobs comes up some time after the server that takes them.
            if "No available agent" not in result.stderr or time.monotonic() > deadline:
                break
            time.sleep(2)
        assert result.returncode == 0, result.stdout + result.stderr

    def _submit(
        self, job: str, working_dir: Path, runtime_env: dict[str, object], *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        return ray_command(
            self.place.env,
            *("job", "submit", "--address", self.dashboard, "--submission-id", job, "--no-wait"),
            *("--working-dir", str(working_dir), "--runtime-env-json", json.dumps(runtime_env), "--"),
            *("python", "jobs/label_images.py", *arguments),
        )

    def ended(self, job: str) -> str:
        """`SUCCEEDED`, `FAILED`, `STOPPED`, or `""` while it runs."""
        status = self.client.get_job_status(job)
        return str(status.value) if status.is_terminal() else ""

    def logs(self, job: str) -> str:
        """What the job has printed."""
        return str(self.client.get_job_logs(job))


def start_head(place: Place) -> str:
    """`ray start --head` on free ports. Returns the address of its dashboard."""
    dashboard = free_port()
    result = ray_command(
        place.env,
        *("start", "--head", "--node-ip-address", "127.0.0.1", "--port", str(free_port()), "--num-cpus", "2"),
        *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--disable-usage-stats"),
        *("--ray-client-server-port", str(free_port()), "--temp-dir", str(place.folder / "ray")),
        # Where another Ray of this machine has its agent, this one's would never come up.
        *("--dashboard-agent-listen-port", str(free_port())),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    address = f"http://127.0.0.1:{dashboard}"
    # The client of jobs waits for an answer without end.
    assert wait_until(lambda: answers(f"{address}/api/version"), 60)
    return address


def answers(url: str) -> bool:
    """Whether a server answers soon, whatever it says."""
    try:
        return bool(httpx.get(url, timeout=5).status_code)
    except httpx.HTTPError:
        return False


@pytest.fixture
def head(place: Place, monkeypatch: pytest.MonkeyPatch) -> Head:
    """A cluster that requires no token, even if an earlier Ray on this machine has created one."""
    place.env["RAY_AUTH_MODE"] = "disabled"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    address = start_head(place)
    return Head(place, address, JobSubmissionClient(address))


@pytest.fixture
def working_dir(tmp_path: Path) -> Path:
    """What a user would submit from a checkout, without its tests and history."""
    folder = tmp_path / "checkout"
    for name in ("prelabel", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def remote_rows(storage: Storage, output: str) -> pa.Table:
    """All rows of a finished run in a bucket, without the columns that must differ from a local run."""
    names = sorted(storage.names(f"{output}/shards"))
    return rows_of([pa.BufferReader(storage.read(f"{output}/shards/{name}")) for name in names], ("seconds", "uri"))


def test_a_submitted_job_labels_from_bucket_to_bucket_and_resumes_after_a_stop(
    head: Head, working_dir: Path, undisturbed: Undisturbed, s3_server: S3Server, tmp_path: Path
):
    bucket = s3_server.new_bucket()
    for path in undisturbed.photos.iterdir():
        s3_server.put(bucket, f"photos/{path.name}", path.read_bytes())
    storage = Storage(s3_server.options)
    output = f"s3://{bucket}/runs/one"
    secret = s3_server.options["secret"]
    credentials = {
        "AWS_ACCESS_KEY_ID": s3_server.options["key"],
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    arguments = (f"s3://{bucket}/photos", *undisturbed.arguments, "--output", output)

    head.submit("first", working_dir, credentials, *arguments)
    assert wait_until(lambda: len(storage.names(f"{output}/shards")) > 1 or head.ended("first"), 120), head.logs(
        "first"
    )
    stopping = time.monotonic()
    ray_command(head.place.env, "job", "stop", "--address", head.dashboard, "first")
    assert wait_until(lambda: head.ended("first"), 40), head.logs("first")
    print(f"stopped after {time.monotonic() - stopping:.1f} s")
    first = head.logs("first")
    assert head.ended("first") == "STOPPED", first
    finished = re.search(
        r"prelabel: stopped: (\d+) of 120 shards are finished and kept\. Run the same command to resume", first
    )
    assert finished, first
    assert len(storage.names(f"{output}/shards")) == int(finished.group(1)) < 120
    assert "manifest.json" not in storage.names(output)

    head.submit("second", working_dir, credentials, *arguments)
    assert wait_until(lambda: head.ended("second"), 300), head.logs("second")
    second = head.logs("second")
    assert head.ended("second") == "SUCCEEDED", second
    assert f"{finished.group(1)} of 120 shards are already finished and valid" in second
    assert re.search(r"^shard=\d+ images=2 failed=0 seconds=\d+\.\d$", second, re.MULTILINE)
    assert re.search(r"^ +images +240$", second, re.MULTILINE)
    for log in (first, second):
        assert "__ray_tqdm_magic_token__" not in log
        assert "\r" not in log
        assert "(raylet)" not in log

    assert verify(output, storage).problems == ()
    expected = undisturbed.rows.drop_columns(["uri"])
    stored_rows = remote_rows(storage, output)
    assert stored_rows["image_id"].to_pylist() == expected["image_id"].to_pylist()
    assert stored_rows.equals(expected)

    everything = [storage.read(f"{output}/{name}") for name in ("run.json", "manifest.json")]
    everything += [storage.read(f"{output}/shards/{name}") for name in storage.names(f"{output}/shards")]
    assert not [data for data in [*everything, first.encode(), second.encode()] if secret.encode() in data]
    assert wait_until(lambda: not head.place.workers(), 15)


def test_the_documented_commands_submit_a_job_to_a_cluster_that_requires_a_token(
    place: Place, working_dir: Path, models: Models, tmp_path: Path
):
    """By default a cluster of Ray 2.60 requires the token that an earlier Ray of its user has left in `~/.ray`."""
    documented = re.findall(r"^    (.+)$", ast.get_docstring(ast.parse(JOB.read_text())) or "", re.MULTILINE)
    assert "\n".join(documented) in (ROOT / "docs/how-to/cluster.md").read_text()
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (64, 48), "red").save(photos / "a.png")
    place.env["HOME"] = str(tmp_path)
    assert ray_command(place.env, "get-auth-token", "--generate").returncode == 0
    place.env["RAY_API_SERVER_ADDRESS"] = start_head(place)
    script = "\n".join(documented)
    for example, actual in (
        ("s3://bucket/photos", str(photos)),
        ("openimages-ssd-mobilenet-v2", str(models.hub_module)),
        ("s3://bucket/run", str(tmp_path / "run")),
    ):
        assert example in script
        script = script.replace(example, actual)

    def submit(commands: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", commands]
        return subprocess.run(
            command, cwd=working_dir, env=place.env, capture_output=True, text=True, timeout=200, check=False
        )

    without_token = submit(script.removeprefix("export RAY_AUTH_MODE=token\n"))
    assert without_token.returncode != 0
    assert "AuthenticationError" in without_token.stderr
    deadline = time.monotonic() + 90
    while (result := submit(script)).returncode != 0 and time.monotonic() < deadline:
        assert "No available agent" in result.stderr, result.stdout + result.stderr
        time.sleep(2)
    assert result.returncode == 0, result.stdout + result.stderr
    assert verify(str(tmp_path / "run"), Storage()).rows == 1

    # The same on the head itself, whose cluster is found and whose token is read.
    result = place.run("label", str(photos), "--detector", str(models.hub_module), "--output", str(tmp_path / "second"))
    assert result.returncode == 0, result.stderr
    assert "on Ray" in result.stdout
