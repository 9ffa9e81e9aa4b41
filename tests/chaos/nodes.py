"""A Ray cluster of one head without CPUs and nodes that come and go, in processes of its own.

    python -m tests.chaos.nodes         prints the address; a line `add` on its standard input adds a node

It ends, and with it the cluster, when its standard input is closed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.command import ROOT, Place, wait_until

#: CPUs of a node: workers it can hold.
NODE_CPUS = 2


class Nodes:
    """The cluster as a trial sees it: an address, raylets to kill, nodes to add."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._process: subprocess.Popen[str] | None = None
        self.address = ""
        self.raylets: list[int] = []

    def ready(self, nodes: int) -> None:
        """Start what is missing so that so many nodes with CPUs are there."""
        self.raylets = [pid for pid in self.raylets if _alive(pid)]
        if self._process is None or self._process.poll() is not None or not self._answers():
            self.kill()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.nodes"],
                cwd=ROOT,
                env={**self.place.env, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
            self.address = self._line("head")
        while len(self.raylets) < nodes:
            self.add()

    def add(self) -> None:
        """One more node."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write("add\n")
        self._process.stdin.flush()
        self.raylets.append(int(self._line("node")))

    def kill(self, but: int = 0) -> None:
        """Kill everything at once, as a power cut does; one process may be elsewhere."""
        for pid in self.place.processes():
            if pid != but:
                _kill(pid)
        wait_until(lambda: not set(self.place.processes()) - {but}, 20)
        if self._process is not None:
            self._process.wait(20)
        self._process, self.raylets = None, []

    def workers(self) -> list[int]:
        """Processes that hold a detector."""
        return self.place.workers()

    def _answers(self) -> bool:
        # The control store of a head that was killed is gone.
        return any("gcs_server" in line for line in self.place.processes().values())

    def _line(self, kind: str) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, _, value = line.strip().partition(" ")
            if word == kind:
                return value
        raise RuntimeError(f"the cluster ended (exit code {self._process.wait()})")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _serve(lines: Iterator[str]) -> None:
    from ray.cluster_utils import Cluster

    store = 80 << 20
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": store},
    )
    print("head", cluster.address, flush=True)
    for _ in lines:
        node = cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=store, wait=False)
        print("node", node.all_processes["raylet"][0].process.pid, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _serve(iter(sys.stdin))
