"""Many trials, a line each, and totals as one JSON line; exit code 1 if anything was lost, doubled, stuck or wrong."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.trial import Outcome, run_trial
from tests.chaos.world import stage


def main(arguments: list[str] | None = None) -> int:
    """See `python -m tests.chaos --help`."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--trials", type=int, default=1, help="how many")
    parser.add_argument("--seed", type=int, default=None, help="of the first; the next ones count up from it")
    parser.add_argument("--minutes", type=float, default=None, help="begin no further trial after so long")
    chosen = parser.parse_args(arguments)
    first = chosen.seed if chosen.seed is not None else int(time.time()) % 1_000_000
    began = time.monotonic()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="prelabel-chaos-") as folder, stage(Path(folder)) as shared:
        for seed in range(first, first + chosen.trials):
            if chosen.minutes is not None and time.monotonic() - began > 60 * chosen.minutes:
                break
            outcomes.append(run_trial(shared, seed))
            _tell(outcomes[-1], chosen.trials, len(outcomes))
    injected = sum((outcome.injected for outcome in outcomes), Counter())
    totals = {
        "trials": len(outcomes),
        "on_ray": sum(outcome.runner == "ray" for outcome in outcomes),
        "calls": sum(outcome.calls for outcome in outcomes),
        "faults": dict(sorted(injected.items())),
        "faults_in_all": sum(injected.values()),
        "rows_lost": sum(outcome.lost for outcome in outcomes),
        "rows_doubled": sum(outcome.doubled for outcome in outcomes),
        "hangs": sum(outcome.hangs for outcome in outcomes),
        "not_well": [outcome.seed for outcome in outcomes if not outcome.well],
        "first_seed": first,
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    print(json.dumps(totals), flush=True)
    return 0 if all(outcome.well for outcome in outcomes) else 1


def _tell(outcome: Outcome, trials: int, number: int) -> None:
    faults = ", ".join(f"{kind} x{count}" for kind, count in sorted(outcome.injected.items())) or "none came to be"
    print(
        f"trial {number}/{trials} --seed {outcome.seed}: {outcome.runner}, {'+'.join(outcome.faults)} ({faults}); "
        f"{outcome.calls} calls, {outcome.seconds:.0f} s: {'well' if outcome.well else 'NOT WELL'}",
        flush=True,
    )
    if not outcome.well:
        print("\n".join(f"    {complaint}" for complaint in outcome.complaints[:20]), flush=True)
        print("\n".join(f"    | {line}" for line in outcome.log.splitlines()[-60:]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
