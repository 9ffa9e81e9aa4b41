"""One trial: a run disturbed at a random moment, ended, mended, continued, and held against an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from prelabel.store.run import read_manifest
from tests.chaos.faults import Fault, close, draw
from tests.chaos.world import PATIENCE_S, Stage, Trial, finished

#: Calls after the disturbed one until the run must be finished, its failures tried again included.
_MOST_CALLS = 4


@dataclass
class Outcome:
    """What became of a trial."""

    seed: int
    faults: list[str]
    runner: str
    seconds: float = 0.0
    lost: int = 0
    doubled: int = 0
    hangs: int = 0
    calls: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    log: str = ""

    @property
    def well(self) -> bool:
        """Whether nothing was lost, doubled, stuck or wrong."""
        return not (self.lost or self.doubled or self.hangs or self.complaints)


def run_trial(stage: Stage, seed: int) -> Outcome:
    """Do one trial from beginning to end; the same seed draws the same faults, though not the same moments."""
    trial = Trial.begin(stage, seed)
    faults = draw(trial)
    outcome = Outcome(seed, [type(fault).__name__ for fault in faults], "ray" if trial.on_ray else "local")
    began = time.monotonic()
    try:
        if trial.on_ray:
            stage.nodes.ready(2)
        _disturb(trial, faults, outcome)
        _go_on(trial, outcome)
        if not outcome.hangs:
            outcome.lost, outcome.doubled = trial.compare()
    finally:
        outcome.complaints += trial.complaints
        outcome.injected = trial.injected
        outcome.seconds = time.monotonic() - began
        outcome.log = trial.log
        close(faults, trial)
        trial.end()
    return outcome


def _disturb(trial: Trial, faults: list[Fault], outcome: Outcome) -> None:
    for fault in faults:
        fault.before(trial)
    moment = trial.dice.choice([-1, *range(trial.shard_count - 2)])  # -1: before anything is published
    delay = trial.dice.uniform(0, 2.0 if moment < 0 else 0.5)
    process = trial.call()
    outcome.calls += 1
    striking = threading.Thread(target=_strike, args=(trial, faults, process, moment, delay))
    striking.start()
    # The clock runs from the last blow: some of them take their time.
    while striking.is_alive() and process.poll() is None:
        striking.join(0.1)
    ended = finished(process, PATIENCE_S)
    striking.join(PATIENCE_S)
    if not ended:
        _stuck(trial, outcome, process)
    _judge(trial, faults, process)
    for fault in faults:
        fault.mend(trial)


def _strike(trial: Trial, faults: list[Fault], process: subprocess.Popen[bytes], moment: int, delay: float) -> None:
    late = any(type(fault).__name__ == "LateNodes" for fault in faults)
    deadline = time.monotonic() + PATIENCE_S
    while (
        not late
        and process.poll() is None
        and time.monotonic() < deadline
        and (len(trial.shards()) <= moment if moment >= 0 else not trial.stage.nodes.workers())
    ):
        time.sleep(0.05)
    time.sleep(delay)
    for fault in faults:
        try:
            fault.strike(trial, process)
        except (OSError, RuntimeError) as error:
            trial.complaints.append(f"the trial itself failed: {type(error).__name__}: {error}")


def _judge(trial: Trial, faults: list[Fault], process: subprocess.Popen[bytes]) -> None:
    """A call ends well, as it was killed, or with exit code 1 and one line that says why."""
    code = process.returncode
    allowed = {0, *(code for fault in faults for code in fault.may_end)}
    if code not in allowed:
        trial.complaints.append(f"the call ended with {code}, not one of {sorted(allowed)}")
    if "Traceback" in trial.log:
        trial.complaints.append("a traceback was shown")
    if code == 1:
        last = [line for line in trial.said(process).splitlines() if line.strip()][-1]
        reasons = [text for fault in faults for text in fault.says]
        if not any(reason in last for reason in reasons) or not last.startswith(("prelabel: ", "[")):
            trial.complaints.append(f"the last line is no reason: {last[:300]}")


def _go_on(trial: Trial, outcome: Outcome) -> None:
    """The same command until the run is finished and nothing failed that could have been read."""
    for _ in range(_MOST_CALLS):
        failed = _failed(trial)
        if failed is not None and not failed - trial.changed:
            return
        process = trial.call(*(["--retry-failed"] if failed else []))
        outcome.calls += 1
        if not finished(process, PATIENCE_S):
            _stuck(trial, outcome, process)
        if process.returncode:
            last = trial.said(process).strip().splitlines()[-1]
            trial.complaints.append(f"a call after everything was mended ended with {process.returncode}: {last[:300]}")
    if _failed(trial) is None:
        trial.complaints.append("the run does not come to an end")


def _failed(trial: Trial) -> set[str] | None:
    """Ids of failed images of a finished run, or None while it is not finished."""
    if read_manifest(trial.output, trial.storage) is None:
        return None
    return {row.image_id for row in trial.rows() if row.error_type is not None}


def _stuck(trial: Trial, outcome: Outcome, process: subprocess.Popen[bytes]) -> None:
    outcome.hangs += 1
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    trial.complaints.append(f"a call was stuck after {PATIENCE_S:g} s")
