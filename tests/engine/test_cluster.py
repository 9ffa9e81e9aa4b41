"""What this project uses of Ray that Ray does not promise: each fails here when it has moved."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray._private import node as ray_node

from prelabel.engine import cluster, runner


def test_ray_still_writes_the_cluster_address_where_we_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert cluster.ray_utils.read_ray_address() is None
    assert not runner._has_local_cluster()
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    note.write_text("127.0.0.1:1\n")
    assert cluster.ray_utils.read_ray_address() == "127.0.0.1:1"


def test_ray_still_knows_the_folder_of_its_logs(monkeypatch: pytest.MonkeyPatch):
    assert callable(ray_node.Node.get_logs_dir_path)
    assert hasattr(cluster.ray_worker, "_global_node")
    monkeypatch.setattr(cluster.ray_worker, "_global_node", SimpleNamespace(get_logs_dir_path=lambda: "/logs"))
    assert cluster.log_folder() == "/logs"
    monkeypatch.setattr(cluster.ray_worker, "_global_node", None)
    assert cluster.log_folder().endswith("/session_latest/logs")


def test_ray_still_enables_a_token_that_this_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a process of its own: Ray caches whether tokens are used."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0123456789abcdef")
    code = (
        "from prelabel.engine import cluster; import os; cluster._use_local_token(); print(os.environ['RAY_AUTH_MODE'])"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("token\n", "")


@pytest.mark.parametrize("yes", [True, False])
def test_the_ray_setting_that_we_turn_off_still_prints_deaths(yes: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster.ray_worker, "_worker_logs_enabled", True)
    monkeypatch.setenv("RAY_IGNORE_UNHANDLED_ERRORS", "")
    cluster._announce_deaths(enabled=yes)
    printed = io.StringIO()
    cluster.ray_worker.print_worker_logs(
        {"pid": 7, "ip": "gpu-1", "job": None, "lines": ["a worker died"], "is_err": True}, printed
    )
    assert ("a worker died" in printed.getvalue()) is yes


def test_unhandled_errors_are_still_silenced_by_the_environment():
    source = Path(cluster.ray_worker.__file__).read_text(encoding="utf-8")
    assert f'"{cluster._IGNORE_UNHANDLED}" in os.environ' in source
