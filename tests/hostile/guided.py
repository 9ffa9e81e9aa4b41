"""Readers under a fuzzer that sees which code its inputs reach (atheris), each for a bounded time.

    PYTHONPATH=.venv-fuzz python -m tests.hostile.guided --seconds 300

Each target gets its share of the time in a process of its own. What one finds is kept below `out/fuzz/`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
FINDINGS = ROOT / "out/fuzz"
PICTURES = "pictures"

#: Bytes of an input and megabytes of a process.
LONGEST, MEMORY_MB = 65_536, 2_048


def fuzz(name: str, arguments: list[str]) -> None:
    """In a process of its own: never returns."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["prelabel", "PIL", "tarfile", "csv", "yaml", "tomllib"]):
        from prelabel.source.decode import decode  # noqa: F401 - imported to be instrumented
        from tests.hostile import decoding, readers
    folder = Path(tempfile.mkdtemp(prefix="prelabel-fuzz-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    if name == PICTURES:
        from tests.hostile.mutants import sound_files

        sound = list(sound_files().values())
    else:
        sound = readers.TARGETS[name].sound()
    for number, data in enumerate(sound):
        (corpus / str(number)).write_bytes(data)
    warnings.simplefilter("error")

    def look(data: bytes) -> None:
        if name == PICTURES:
            outcome = decoding.outcome_of(data, decoding.OPTIONS[len(data) % len(decoding.OPTIONS)])
        else:
            with tempfile.TemporaryDirectory(dir=folder) as empty:
                outcome = readers.outcome_of(readers.TARGETS[name], data, Path(empty))
        if outcome.startswith("foreign"):
            raise AssertionError(outcome)

    atheris.Setup([sys.argv[0], *arguments, str(corpus)], look)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300.0, help="for all targets together")
    parser.add_argument("--target", help="only this one")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given, rest = parser.parse_known_args()
    if given.inside:
        fuzz(given.target, rest)
    from tests.hostile.readers import TARGETS

    names = [given.target] if given.target else [PICTURES, *TARGETS]
    FINDINGS.mkdir(parents=True, exist_ok=True)
    tried: dict[str, int] = {}
    failures: dict[str, str] = {}
    for name in names:
        seconds = max(1, round(given.seconds / len(names)))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.hostile.guided", "--inside", "--target", name),
                *(f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-rss_limit_mb={MEMORY_MB}", "-timeout=30"),
                *("-print_final_stats=1", f"-artifact_prefix={FINDINGS}/{name}-"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            errors="replace",
        )
        counts = re.findall(r"number_of_executed_units:\s*(\d+)", done.stderr) or re.findall(r"#(\d+)", done.stderr)
        tried[name] = int(counts[-1]) if counts else 0
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "foreign" in line or "ERROR" in line]
            failures[name] = (lines or done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1][:300]
    print(
        json.dumps({"inputs": sum(tried.values()), "by_target": tried, "findings": failures, "seconds": given.seconds})
    )
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
