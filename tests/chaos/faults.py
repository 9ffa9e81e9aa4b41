"""The faults of a trial: what each does before the run, at a random moment of it, and to mend things afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.proxy import KINDS, Weather
from tests.chaos.stub import DEEDS
from tests.chaos.world import IMAGES, Trial
from tests.e2e.command import wait_until

Process = subprocess.Popen[bytes]


class Fault:
    """Harmless; others do something at one or more of these moments."""

    #: Exit codes a disturbed call may end with; None for one that is killed.
    may_end: tuple[int, ...] = (0,)

    #: What the last line of a call that failed must hold one of.
    says: tuple[str, ...] = ()

    def before(self, trial: Trial) -> None:
        """Before the call begins."""

    def strike(self, trial: Trial, process: Process) -> None:
        """At a random moment while it runs."""

    def mend(self, trial: Trial) -> None:
        """After it has ended."""


def _send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class KillWorker(Fault):
    """kill -9 of one worker, or of all at once."""

    def strike(self, trial: Trial, process: Process) -> None:
        workers = sorted(trial.stage.nodes.workers())
        for pid in workers if trial.dice.random() < 0.3 else workers[:1]:
            trial.injected["worker killed"] += _send(pid, signal.SIGKILL)


class FreezeWorker(Fault):
    """A worker in which nothing moves any more."""

    def before(self, trial: Trial) -> None:
        trial.arguments += ["--stall-timeout", "4"]

    def strike(self, trial: Trial, process: Process) -> None:
        for pid in sorted(trial.stage.nodes.workers())[:1]:
            trial.injected["worker stopped"] += _send(pid, signal.SIGSTOP)


class KillNode(Fault):
    """kill -9 of a raylet; a node that joins later takes its place."""

    def strike(self, trial: Trial, process: Process) -> None:
        raylet = trial.dice.choice(trial.stage.nodes.raylets)
        trial.injected["node killed"] += _send(raylet, signal.SIGKILL)
        time.sleep(trial.dice.uniform(0, 3))
        trial.stage.nodes.ready(2)


class AllNodesGone(Fault):
    """No worker is left for some seconds, then nodes join."""

    def strike(self, trial: Trial, process: Process) -> None:
        for raylet in trial.stage.nodes.raylets:
            _send(raylet, signal.SIGKILL)
        trial.injected["all workers gone"] += 1
        time.sleep(trial.dice.choice([3, 20]))
        trial.stage.nodes.ready(2)


class LateNodes(Fault):
    """The call begins while no node can hold a worker."""

    def before(self, trial: Trial) -> None:
        for raylet in trial.stage.nodes.raylets:
            _send(raylet, signal.SIGKILL)
        wait_until(lambda: not trial.stage.nodes.workers(), 20)
        trial.stage.nodes.raylets = []

    def strike(self, trial: Trial, process: Process) -> None:
        time.sleep(trial.dice.uniform(0, 3))
        trial.stage.nodes.ready(2)
        trial.injected["node joined late"] += 1


class KillDriver(Fault):
    """kill -9 of the process that was called."""

    may_end = (0, -signal.SIGKILL)

    def strike(self, trial: Trial, process: Process) -> None:
        if process.poll() is None:
            process.kill()
            trial.injected["driver killed"] += 1


class KillCluster(Fault):
    """Every process of the cluster at once, mostly the driver, too; some next calls find a new cluster that dies again.

    A driver that is left alone is ended by Ray itself, in words of its own.
    """

    may_end = (0, 1, -signal.SIGKILL)
    says = ("GCS may have been killed",)

    def strike(self, trial: Trial, process: Process) -> None:
        if trial.dice.random() < 0.3:
            trial.stage.nodes.kill(but=process.pid)
        else:
            process.kill()
            trial.stage.nodes.kill()
        trial.injected["cluster killed"] += 1
        if trial.dice.random() < 0.5:
            process.wait()
            trial.stage.nodes.ready(2)
            again = trial.call()
            time.sleep(trial.dice.uniform(2, 8))
            again.kill()
            trial.stage.nodes.kill()
            again.wait()
            trial.injected["cluster killed"] += 1

    def mend(self, trial: Trial) -> None:
        trial.stage.nodes.ready(2)


class StopDriver(Fault):
    """The driver stands still for some seconds, as on a machine that sleeps."""

    def strike(self, trial: Trial, process: Process) -> None:
        if process.poll() is None and _send(process.pid, signal.SIGSTOP):
            trial.injected["driver stopped"] += 1
            time.sleep(trial.dice.uniform(1, 5))
            _send(process.pid, signal.SIGCONT)


class SecondDriver(Fault):
    """Another job on the same output."""

    def strike(self, trial: Trial, process: Process) -> None:
        # Where the source has changed, one that comes too late and starts anew would rightly find other images.
        anew = trial.dice.random() < 0.5 and not trial.changed
        second = trial.call(*(["--overwrite"] if anew else []))
        code = second.wait()
        if process.poll() is None and code == 0:
            trial.complaints.append("two jobs wrote one output")
        trial.injected["second job"] += 1


class Deed(Fault):
    """Images that kill, hang, or eat all memory; some once, some always."""

    may_end = (0, 1)
    says = ("failed because their worker died or hung",)

    def before(self, trial: Trial) -> None:
        trial.arguments += ["--stall-timeout", "4"]
        numbers = trial.dice.sample(range(IMAGES), trial.dice.choice([1, 1, 2]))
        for number in numbers:
            deed = trial.dice.choice(DEEDS)
            always = trial.dice.random() < 0.3
            trial.order(number, deed, -1 if always else trial.dice.choice([1, 2]))
            trial.injected[f"image: {deed}{' always' if always else ''}"] += 1

    def mend(self, trial: Trial) -> None:
        trial.forgive()
        for path in (trial.folder / "control").glob("cgroup-*"):
            group = Path(path.read_text())
            if group.is_dir():
                wait_until(lambda group=group: _remove(group), 5)


def _remove(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return not group.exists()
    return True


class BadStore(Fault):
    """A store in trouble: refusals, resets, lost answers, stalls, truncated bodies, slowness."""

    may_end = (0, 1)
    says = ("cannot",)

    def before(self, trial: Trial) -> None:
        kinds = trial.dice.sample(KINDS, trial.dice.choice([1, 2, 3]))
        rates = {kind: trial.dice.choice([0.02, 0.1]) / (3 if kind == "stall" else 1) for kind in kinds}
        trial.stage.proxy.set(Weather(rates, seed=trial.seed))

    def mend(self, trial: Trial) -> None:
        for kind, count in trial.stage.proxy.met.items():
            if kind != "fine":
                trial.injected[f"store: {kind}"] += count
        trial.stage.proxy.set(Weather())


class Expired(Fault):
    """Credentials that expire midway; the next call has new ones."""

    may_end = (0, 1)
    says = ("rejected the credentials (ExpiredToken)", "Forbidden")

    def strike(self, trial: Trial, process: Process) -> None:
        trial.stage.proxy.set(Weather(expired={trial.key}))

    def mend(self, trial: Trial) -> None:
        trial.injected["credentials expired"] += trial.stage.proxy.met["expired"] > 0
        trial.stage.proxy.set(Weather())
        trial.key = "renewed"


class _Mounted(Fault):
    """The output is on a small disk of its own."""

    size_kb = 4096

    def before(self, trial: Trial) -> None:
        disk = trial.folder / "disk"
        disk.mkdir()
        _mount("-t", "tmpfs", "-o", f"size={self.size_kb}k", "tmpfs", str(disk))

    def unmount(self, trial: Trial) -> None:
        """When the trial is over."""
        _mount_command("umount", "-l", str(trial.folder / "disk"))


class FullDisk(_Mounted):
    """The disk is full after some shards; then it is made larger."""

    size_kb = 64
    may_end = (1,)
    says = ("No space left on device",)

    def mend(self, trial: Trial) -> None:
        trial.injected["disk full"] += 1
        _mount("-o", "remount,size=8m", str(trial.folder / "disk"))


class ReadOnly(_Mounted):
    """The output can only be read from a moment on."""

    may_end = (0, 1)
    says = ("Read-only file system",)

    def strike(self, trial: Trial, process: Process) -> None:
        # Refused while a file is open for writing, as files are for moments here.
        disk = str(trial.folder / "disk")
        if wait_until(lambda: _mount_command("mount", "-o", "remount,ro", disk), 5) and process.poll() is None:
            trial.injected["read-only output"] += 1

    def mend(self, trial: Trial) -> None:
        _mount("-o", "remount,rw", str(trial.folder / "disk"))


def _mount(*arguments: str) -> None:
    if not _mount_command("mount", *arguments):
        raise RuntimeError(f"mount {' '.join(arguments)} failed; this fault needs to be root")


def _mount_command(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Changed(Fault):
    """Objects that change or vanish between listing and reading."""

    def before(self, trial: Trial) -> None:
        client, bucket = trial.stage.server.client(), trial.stage.bucket
        prefix = f"photos-{trial.seed}"
        for path in trial.stage.photos.iterdir():
            client.put_object(Bucket=bucket, Key=f"{prefix}/{path.name}", Body=path.read_bytes())
        trial.source = f"s3://{bucket}/{prefix}"

    def strike(self, trial: Trial, process: Process) -> None:
        client, bucket, prefix = trial.stage.server.client(), trial.stage.bucket, f"photos-{trial.seed}"
        # Workers start while the source is still being listed; what changes before that is no change.
        if not wait_until(lambda: trial.planned() or process.poll() is not None, 60):
            return
        trial.plan_then = trial.plan_files()
        for number in trial.dice.sample(range(IMAGES), 4):
            name = f"{number:03d}.png"
            trial.changed.add(name)
            if number % 2:
                trial.replaced.add(name)
                client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=b"something else")
                trial.injected["object changed"] += 1
            else:
                client.delete_object(Bucket=bucket, Key=f"{prefix}/{name}")
                trial.injected["object vanished"] += 1


#: Faults of processes; those of nodes are for trials on the cluster.
PROCESSES: tuple[Callable[[], Fault], ...] = (
    *(KillWorker, FreezeWorker, KillDriver, KillDriver, StopDriver, SecondDriver, Deed, Deed, Deed),
)
NODES: tuple[Callable[[], Fault], ...] = (KillNode, KillNode, AllNodesGone, LateNodes, KillCluster)
STORES: tuple[Callable[[], Fault], ...] = (BadStore, BadStore, BadStore, Expired, Changed)
DISKS: tuple[Callable[[], Fault], ...] = (FullDisk, ReadOnly)


def draw(trial: Trial) -> list[Fault]:
    """The faults of a trial: mostly of processes, or of the store or disk, or of both."""
    dice, faults = trial.dice, []
    uses_bucket = trial.source_in_bucket or trial.output_in_bucket
    if uses_bucket and dice.random() < 0.5:
        faults.append(dice.choice(STORES)())
    elif not trial.output_in_bucket and dice.random() < 0.3 and os.getuid() == 0:
        faults.append(dice.choice(DISKS)())
    if not faults or (dice.random() < 0.5 and not isinstance(faults[0], _Mounted)):
        faults.append(dice.choice(NODES if trial.on_ray and dice.random() < 0.5 else PROCESSES)())
    return faults


def close(faults: list[Fault], trial: Trial) -> None:
    """Give back what faults hold of the machine."""
    for fault in faults:
        if isinstance(fault, _Mounted):
            fault.unmount(trial)
