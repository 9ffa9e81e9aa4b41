"""What `python -m tests.golden` does: with the data of this folder, or with any folder of runs that were labelled."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

from tests.golden import labelled
from tests.golden.cases import DATA, EXPECTED, every_case, put_photos
from tests.golden.harness import Case, crash, difference, outcome, read_recording, recording, write_recording


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: everything as recorded."""
    options = _parser().parse_args(arguments)
    if (options.runs is None) != (options.expected is None):
        _parser().error("--runs and --expected belong together")
    if options.runs is None:
        put_photos()
        data, expected, all_cases = DATA, EXPECTED, list(every_case())
    else:
        data, expected = options.runs.resolve(), options.expected.resolve()
        all_cases = list(labelled.every_case(data))
    if options.label:
        if options.runs is None:
            _parser().error("--label needs --runs")
        return labelled.label(data, expected, record=options.record, only=options.only)
    cases = [case for case in all_cases if options.only in case.name and (not case.needs or find_spec(case.needs))]
    began, differing, crashed = time.monotonic(), [], 0
    if options.record and not options.only:
        # Recordings of cases that cannot run here stay.
        kept = {recording(expected, case) for case in all_cases if case not in cases}
        for path in expected.rglob("*.txt"):
            if path not in kept and not path.is_relative_to(expected / labelled.LABELS):
                path.unlink()
    # Fresh interpreters: none begins with what another case left behind in this one.
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as processes:
        work = partial(outcome, data=data, keep=options.keep and options.keep.resolve())
        for case, actual in zip(cases, processes.map(work, cases, chunksize=4), strict=True):
            if options.record:
                crashed += not record_outcome(expected, case, actual)
            elif not _same(expected, case, actual):
                differing.append(case.name)
    done = "recorded" if options.record else "compared"
    counts = f"{len(differing)} differ" + (f", {crashed} crashed" if crashed else "")
    print(f"{len(cases)} cases {done} in {time.monotonic() - began:.0f} s, {counts}")
    return 1 if differing or crashed else 0


def record_outcome(expected: Path, case: Case, actual: str) -> bool:
    """Record what a case made; False if a command crashed, which is printed and not recorded."""
    if line := crash(actual):
        print(f"{case.name}: not recorded, a command crashed: {line}")
        return False
    write_recording(recording(expected, case), actual)
    return True


def _same(expected: Path, case: Case, actual: str) -> bool:
    path = recording(expected, case)
    if not path.exists():
        print(f"{case.name}: was not recorded\n")
        return False
    recorded = read_recording(path)
    if recorded == actual:
        return True
    print(f"{case.name}: differs\n{difference(recorded, actual, case.name)}\n")
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write the recordings anew instead of comparing")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="a folder of runs, see tests/golden/labelled.py")
    parser.add_argument("--expected", type=Path, metavar="DIR", help="where the recordings of these runs are")
    parser.add_argument("--label", action="store_true", help="label anew what label.json names, and compare the rows")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases that have this in their name")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what was written there, to look at differences")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="cases at a time (default: 2)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
