"""The command line as a process of its own, in a Ray of its own, with everything it leaves behind in sight."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]


class Place:
    """A folder for Ray's files, by which its processes are known, and an environment for commands."""

    def __init__(self) -> None:
        # Short: Ray puts sockets below it, whose paths may have 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="pl", dir="/tmp"))
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_TMPDIR": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def processes(self) -> dict[int, str]:
        """Everything alive that was started here, by process id."""
        alive = {}
        mark = f"RAY_TMPDIR={self.folder}".encode()
        for path in Path("/proc").iterdir():
            try:
                if path.name.isdigit() and mark in (path / "environ").read_bytes().split(b"\0"):
                    # Dead ones that nobody has asked after have no environment any more.
                    alive[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
        return alive

    def workers(self) -> list[int]:
        """Processes that hold a detector."""
        return [
            pid
            for pid, line in self.processes().items()
            if line.startswith("ray::PrelabelWorker") or line.endswith(" prelabel worker")
        ]

    def start(self, *arguments: str, log: Path, **env: str) -> subprocess.Popen[bytes]:
        """`prelabel ARGUMENTS...`, what it prints appended to a file."""
        with log.open("ab") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", "prelabel", *arguments],
                cwd=ROOT,
                env={**self.env, **env},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def run(self, *arguments: str, timeout_s: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        """`prelabel ARGUMENTS...` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "prelabel", *arguments],
            cwd=ROOT,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def end(self) -> None:
        """End what is still alive and remove the folder."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.processes(), 10)
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_until(what: Callable[[], object], seconds: float) -> bool:
    """Whether something becomes true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def shards_of(output: Path) -> set[str]:
    """Names of the published shards."""
    return {path.name for path in (output / "shards").glob("shard-*.parquet")}


def rows_of(files: Sequence[object], without: Sequence[str] = ("seconds",)) -> pa.Table:
    """All rows of shard files in order, without the columns that differ between runs."""
    return pa.concat_tables([pq.read_table(file) for file in files]).drop_columns(list(without))


def local_rows(output: Path, without: Sequence[str] = ("seconds",)) -> pa.Table:
    """All rows of a finished run on this machine."""
    return rows_of(sorted((output / "shards").iterdir()), without)
