"""Mutants through the decoder in processes that may die: what became of each, and of the processes.

python -m tests.hostile.decoding --mutants 20000 --seed 1 --processes 2
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prelabel.errors import DecodeError
from prelabel.source.decode import DecodedImage, DecodeOptions, decode
from tests.hostile.mutants import mutant, sound_files

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared/assets/images"

#: What a process runs, up to the arguments.
WORK = "from tests.hostile.decoding import work; work"

#: A minute for one small file, on a machine that does other things, too.
HANG_S = 60.0

#: Mutants may claim to be large: so much is allowed of one.
MAX_PIXELS = 20_000_000

#: What is asked of mutants, in turn.
OPTIONS = (
    DecodeOptions(max_pixels=MAX_PIXELS),
    DecodeOptions(max_pixels=MAX_PIXELS, allow_truncated=True),
    DecodeOptions(max_pixels=MAX_PIXELS, shortest_side=64),
)


@dataclass
class Totals:
    """What became of mutants.

    Attributes:
        outcomes: How many were decoded (`ok`), and refused by which of our errors.
        foreign: Mutants that raised anything else, or gave no proper picture, and what.
        died: Mutants at which the process died, and how.
        hung: Mutants that took longer than `HANG_S`.
        slowest_s: Seconds of the slowest one.
        peak_mb: Most memory that any process had.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    foreign: dict[int, str] = field(default_factory=dict)
    died: dict[int, str] = field(default_factory=dict)
    hung: list[int] = field(default_factory=list)
    slowest_s: float = 0.0
    peak_mb: int = 0

    @property
    def mutants(self) -> int:
        """All that are accounted for."""
        return sum(self.outcomes.values()) + len(self.foreign) + len(self.died) + len(self.hung)


def outcome_of(data: bytes, options: DecodeOptions) -> str:
    """`ok`, the class of a DecodeError, or `foreign: ...`."""
    try:
        image = decode(data, options)
    except DecodeError as error:
        text = str(error)
        if text != " ".join(text.split(" ")) or not text.isprintable() or len(text) > 600:
            return f"foreign: not one short line: {text!r:.300}"
        return type(error).__name__
    except Exception as error:  # noqa: BLE001 - to be told is what this is for
        return f"foreign: {type(error).__name__}: {error!s:.300}"
    return "ok" if _is_proper(image) else "foreign: no proper picture"


def _is_proper(image: DecodedImage) -> bool:
    pixels = image.pixels
    sized = pixels.shape[2:] == (3,) and 0 < pixels.shape[0] <= image.height and 0 < pixels.shape[1] <= image.width
    return sized and pixels.dtype.name == "uint8" and pixels.flags.c_contiguous and pixels.nbytes <= 3 * MAX_PIXELS


def work(seed: str, first: int, last: int, step: int, real: bool) -> None:
    """In a process of its own: a line before each mutant, and one behind it."""
    warnings.simplefilter("error")
    files = list(sound_files(REAL if real else None).values())
    for number in range(first, last, step):
        data = mutant(seed, number, files)[1]
        print(json.dumps(["begin", number]), flush=True)
        start = time.monotonic()
        outcome = outcome_of(data, OPTIONS[number // len(files) % len(OPTIONS)])
        print(json.dumps(["end", number, outcome, time.monotonic() - start, _peak_mb()]), flush=True)


def _peak_mb() -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM"))) // 1024


class _Lane:
    """Every so-manieth mutant, in one process at a time."""

    def __init__(self, seed: str, first: int, last: int, step: int, real: bool) -> None:
        self._arguments = (seed, last, step, real)
        self._next = first
        self.process: subprocess.Popen[bytes] | None = None
        self.begun: int | None = None
        self.heard_at = time.monotonic()
        self._rest = b""
        self.start()

    def start(self) -> bool:
        """Go on behind the last mutant; False where none is left."""
        seed, last, step, real = self._arguments
        if self._next >= last:
            return False
        code = f"FIRST = {self._next}; {WORK}({seed!r}, {self._next}, {last}, {step}, {real})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        os.set_blocking(self.process.stdout.fileno(), False)  # type: ignore[union-attr]
        self.heard_at, self._rest, self.begun = time.monotonic(), b"", None
        return True

    def lines(self) -> list[Any] | None:
        """What the process said since, or None where it is gone."""
        assert self.process is not None
        assert self.process.stdout is not None
        output = self.process.stdout.read()
        if output == b"":
            return None
        if output:
            self.heard_at = time.monotonic()
        *whole, self._rest = (self._rest + (output or b"")).split(b"\n")
        return [json.loads(line) for line in whole if line.startswith(b"[")]

    def passed(self, number: int) -> None:
        self._next = number + self._arguments[2]
        self.begun = None


def run(seed: str, mutants: int, processes: int, *, real: bool, say: Any = lambda totals: None) -> Totals:
    """All mutants of a seed from 0 on; every one is accounted for, or an exception says why not."""
    totals = Totals()
    lanes = [_Lane(seed, first, mutants, processes, real) for first in range(min(processes, mutants))]
    try:
        while lanes:
            with selectors.DefaultSelector() as selector:
                for lane in lanes:
                    selector.register(lane.process.stdout, selectors.EVENT_READ)  # type: ignore[union-attr,arg-type]
                selector.select(1.0)
            for lane in list(lanes):
                _listen(lane, lanes, totals)
            say(totals)
    finally:
        for lane in lanes:
            if lane.process is not None:
                lane.process.kill()
                lane.process.wait()
    assert totals.mutants == mutants, f"{totals.mutants} of {mutants} are accounted for"
    return totals


def _listen(lane: _Lane, lanes: list[_Lane], totals: Totals) -> None:
    process = lane.process
    assert process is not None
    lines = lane.lines()
    for line in lines or ():
        if line[0] == "begin":
            lane.begun = line[1]
            continue
        _, number, outcome, seconds, peak = line
        totals.slowest_s, totals.peak_mb = max(totals.slowest_s, seconds), max(totals.peak_mb, peak)
        if outcome.startswith("foreign"):
            totals.foreign[number] = outcome
        else:
            totals.outcomes[outcome] += 1
        lane.passed(number)
    hung = lines is not None and time.monotonic() - lane.heard_at > HANG_S
    if lines is not None and not hung:
        return
    if hung:
        process.kill()
    code = process.wait()
    process.stdout.close()  # type: ignore[union-attr]
    if lane.begun is not None:
        if hung:
            totals.hung.append(lane.begun)
        else:
            totals.died[lane.begun] = f"exit code {code}"
        lane.passed(lane.begun)
    elif code != 0:
        raise RuntimeError(f"a process ended with {code} between two mutants")
    if not lane.start():
        lanes.remove(lane)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    start = last_report = time.monotonic()

    def say(totals: Totals) -> None:
        nonlocal last_report
        if time.monotonic() - last_report > 30:
            last_report = time.monotonic()
            print(
                f"{totals.mutants:,} mutants, {len(totals.died)} dead, {len(totals.foreign)} foreign", file=sys.stderr
            )

    totals = run(given.seed, given.mutants, given.processes, real=True, say=say)
    print(
        json.dumps(
            {
                "mutants": totals.mutants,
                "seed": given.seed,
                "outcomes": dict(totals.outcomes.most_common()),
                "foreign_errors": totals.foreign,
                "dead_processes": totals.died,
                "hung": totals.hung,
                "slowest_s": round(totals.slowest_s, 2),
                "peak_mb": totals.peak_mb,
                "seconds": round(time.monotonic() - start),
            }
        )
    )
    return bool(totals.foreign or totals.died or totals.hung)


if __name__ == "__main__":
    sys.exit(main())
