"""Run every benchmark and show all figures in one table: value, spread, target, met or not.

    python benchmarks/run.py                      # all, in about 45 minutes
    python benchmarks/run.py masks job            # some
    python benchmarks/run.py --quick              # the most important ones with fewer images, in about 10 minutes
    python benchmarks/run.py --readme             # and write the table into benchmarks/README.md

Each script is a process of its own; its JSON lines are kept in `--to`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

#: Modules that measure nothing.
_HELPERS = {"common", "made_run", "pictures", "run"}

#: Too long to be run unless named, or in need of an environment of its own.
_BY_NAME = {"endurance", "estimates", "slicing", "streams"}

#: Scripts of `--quick`, and their options.
_QUICK = {
    "decode": ("--photos", "5", "--repeat", "3"),
    "exports": ("--rows", "10000"),
    "feed": ("--shards", "20000", "--ray-shards", "1000", "--seconds", "4"),
    "job": ("--only", "640x480", "--images", "300"),
    "masks": ("--repeat", "3"),
    "merging": ("--repeat", "3"),
    "planning": ("--images", "200000"),
    "reviewing": ("--rows", "10000", "--compared", "2000"),
    "startup": (),
}

#: A script that takes longer is ended, unless it is run by name only; the others still run.
TIME_LIMIT_S = 1800

_MARKS = ("<!-- figures -->", "<!-- end of figures -->")


def scripts() -> list[str]:
    """Names of all benchmarks."""
    return [path.stem for path in sorted(HERE.glob("*.py")) if path.stem not in _HELPERS and path.stem[0] != "_"]


def run(name: str, cache: Path, options: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """The lines that one script prints, and its error or `""`."""
    limit = None if name in _BY_NAME else TIME_LIMIT_S
    command = [sys.executable, str(HERE / f"{name}.py"), *options]
    if "--cache" in (HERE / f"{name}.py").read_text(encoding="utf-8"):
        command += ["--cache", str(cache)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        text = output.decode() if isinstance(output, bytes) else output
        return read_lines(text.splitlines()), f"not finished within {TIME_LIMIT_S} s"
    lines = read_lines(done.stdout.splitlines())
    if done.returncode:
        return lines, f"ended with exit code {done.returncode}"
    return lines, "" if lines else "printed no figures"


def read_lines(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The lines that are a benchmark's JSON."""
    return [json.loads(line) for line in lines if line.startswith('{"benchmark"')]


def rows_of(line: dict[str, Any]) -> list[list[str]]:
    """One row per figure of a script: benchmark, figure, value, spread, target, met."""
    rows = []
    for figure in line["figures"]:
        unit = figure["unit"]
        value = "-" if figure["value"] is None else f"{figure['value']:,g} {unit}"
        spread = "{:,g} - {:,g}".format(*figure["spread"]) if figure["spread"] else ""
        target = "" if figure["target"] is None else f"{figure['target']:,g}"
        met = {True: "met", False: "NOT MET", None: ""}[figure["met"]]
        if figure["target"] is not None and figure["met"] is None:
            met = "not measured"
        rows.append([line["benchmark"], figure["name"], value, spread, target, met, figure["note"]])
    return rows


HEADER = ["benchmark", "figure", "median", "spread", "target", "", "note"]


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """The table for a terminal."""
    everything = [HEADER[:6], *(row[:6] for row in rows)]
    widths = [max(len(row[column]) for row in everything) for column in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in everything
    )


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The table for `README.md`."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def with_figures(readme: str, table: str) -> str:
    """The README with this table between its two marks."""
    before, rest = readme.split(_MARKS[0])
    after = rest.split(_MARKS[1])[1]
    return f"{before}{_MARKS[0]}\n{table}\n{_MARKS[1]}{after}"


def main() -> int:
    """Run the scripts, collect their figures and show them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(scripts())}")
    parser.add_argument("--quick", action="store_true", help="the most important ones with fewer images")
    parser.add_argument("--to", type=Path, help="where the lines are kept; in out/ by default")
    parser.add_argument("--cache", type=Path, default=ROOT / "out" / "benchmark-images", help="keeps pictures")
    parser.add_argument("--readme", action="store_true", help="write the table into benchmarks/README.md")
    parser.add_argument("--show", action="store_true", help="run nothing, show what --to holds")
    args = parser.parse_args()
    if args.quick and args.readme:
        parser.error("--readme needs all images: leave out --quick")
    if args.to is None:
        args.to = ROOT / "out" / ("benchmarks-quick.jsonl" if args.quick else "benchmarks.jsonl")
    unknown = set(args.names) - set(scripts())
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    args.to.parent.mkdir(parents=True, exist_ok=True)
    before = args.to.read_text().splitlines() if args.to.exists() else []
    kept = {line["benchmark"]: line for line in read_lines(before)}
    failures = []
    usual = list(_QUICK) if args.quick else [name for name in scripts() if name not in _BY_NAME]
    for name in [] if args.show else args.names or usual:
        print(f"{name} ...", file=sys.stderr, flush=True)
        begin = time.monotonic()
        lines, wrong = run(name, args.cache, _QUICK.get(name, ()) if args.quick else ())
        print(f"{name}: {wrong or 'done'}, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        for old in [file_name for file_name in kept if file_name.partition(",")[0] == name]:
            del kept[old]
        kept.update({line["benchmark"]: line for line in lines})
        args.to.write_text("".join(json.dumps(line) + "\n" for line in kept.values()))
        if wrong:
            failures.append(f"{name}: {wrong}")
    rows = [row for name in sorted(kept) for row in rows_of(kept[name])]
    print(text_table(rows))
    targets = [row[5] for row in rows if row[5]]
    print(f"\n{targets.count('met')} of {len(targets)} targets met")
    if args.readme:
        readme = HERE / "README.md"
        readme.write_text(with_figures(readme.read_text(encoding="utf-8"), markdown_table(rows)), encoding="utf-8")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
