"""The same with runs of real networks and photos that are in no repository.

    DIR/NAME/            a finished run
    DIR/NAME.truth.json  its truth, where there is one: a COCO dataset
    DIR/label.json       {"runs": {NAME: arguments of `prelabel label`}, "inspect": {NAME: arguments of `inspect`}}

`{runs}` in an argument is the folder itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.golden.harness import ROOT, Case, difference, read_recording, write_recording
from tests.golden.variants import EVALUATE, SELECTION, every_export, galleries, judged, records, selections

LABELS = "labelled"
_LIST = "label.json"

_GALLERIES = {
    "default": (),
    "all": ("--limit", "0", "--score-threshold", "0.1"),
    "sample": (
        "--limit",
        "7",
        "--seed",
        "3",
        "--single-file",
        "--include-class",
        "Person",
        "--include-class",
        "person",
    ),
}


def every_case(data: Path) -> list[Case]:
    """All exports, judgements and looks at all runs, and what is said of the networks."""
    cases: list[Case] = []
    for folder in sorted(path.parent for path in data.glob("*/run.json")):
        cases += _of_run(folder.name, data)
    for name, arguments in sorted(_listed(data)["inspect"].items()):
        cases.append(Case(name=f"inspect/{name}", commands=(("inspect", *arguments),), whole=True))
    cases.append(Case(name="models/detectors", commands=(("detectors",), ("detectors", "--json"))))
    return cases


def _of_run(name: str, data: Path) -> Iterator[Case]:
    yield from records(name)
    yield from every_export(name)
    yield from selections(name, kinds=("coco",))
    yield from galleries(name, _GALLERIES)
    truth = f"{name}.truth.json"
    if (data / truth).exists():
        yield from judged(
            name, truth, {**EVALUATE, **{name: SELECTION[name] for name in ("class-threshold", "nms", "class-map")}}
        )
        yield Case(
            name=f"compare/{name}-truth",
            commands=(("compare", "--predictions", f"@{name}", "--annotations", f"@{truth}"),),
        )


def label(data: Path, expected: Path, *, record: bool, only: str) -> int:
    """Label what the list names, and compare rows and `run.json` with those recorded; 0 where all are the same.

    Recording takes the runs that are there. What is labelled anew is dropped again.
    """
    differing = []
    for name, arguments in sorted(_listed(data)["runs"].items()):
        if only not in name:
            continue
        began = time.monotonic()
        if record:
            write_recording(expected / LABELS / f"{name}.txt", rows_of(data / name))
            continue
        with tempfile.TemporaryDirectory(prefix="golden-") as place:
            output = Path(place) / name
            command = [sys.executable, "-m", "prelabel", "label", *arguments, "--output", str(output)]
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            result = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
            actual = rows_of(output) if result.returncode == 0 else f"exit code {result.returncode}\n{result.stderr}"
        recorded = read_recording(expected / LABELS / f"{name}.txt")
        print(f"{name}: {'the same' if actual == recorded else 'differs'} ({time.monotonic() - began:.0f} s)")
        if actual != recorded:
            print(difference(recorded, actual, name))
            differing.append(name)
    return 1 if differing else 0


def rows_of(run: Path) -> str:
    """A run as a text: a line of hashes for each image, and `run.json` without what differs from call to call.

    Rows are taken in the order of their ids, without times. Of a row that differs, the columns that do are seen.
    """
    lines = [_facts_of(run)]
    rows = [row for path in sorted((run / "shards").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    for row in sorted(rows, key=lambda row: row["image_id"]):
        del row["seconds"]
        columns = " ".join(f"{name}={_short(row[name])}" for name in sorted(row))
        lines.append(f"{row['image_id']} {row['status']} {len(row['scores'])} detections; {columns}")
    lines += [f"{path.name}: {pq.read_schema(path)}" for path in sorted((run / "shards").glob("*.parquet"))[:1]]
    lines += [f"{path.name}: {_plan(path)}" for path in sorted((run / "plan").glob("*.parquet"))]
    text = re.sub(r"plan-(\d+)-[0-9a-f]{8}\.parquet", r"plan-\1.parquet", "\n".join(lines) + "\n")
    return text.replace(json.loads((run / "run.json").read_text())["run_id"], "<run>")


def _facts_of(run: Path) -> str:
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())
    facts["created"], facts["versions"] = "<now>", sorted(facts["versions"])
    for part in facts["plan"]["parts"]:
        part["sha256"] = "<hash>"
    manifest: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    manifest["finished"], manifest["seconds"] = "<now>", sorted(manifest["seconds"])
    manifest["totals"]["bytes"] = 0  # times are in the files
    manifest["slowest"] = len(manifest["slowest"])
    for shard in manifest["shards"]:
        shard.update(seconds=sorted(shard["seconds"]), bytes=0, sha256="<hash>")
    return json.dumps({"run": facts, "manifest": manifest}, indent=1, ensure_ascii=False)


def _plan(path: Path) -> str:
    groups = pq.ParquetFile(path)
    sizes = [groups.metadata.row_group(number).num_rows for number in range(groups.metadata.num_row_groups)]
    return f"{sizes} {_short(groups.read().to_pylist())}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    return text if len(text) <= 12 and " " not in text else hashlib.sha256(text.encode()).hexdigest()[:12]


def _listed(data: Path) -> dict[str, dict[str, list[str]]]:
    listed = json.loads((data / _LIST).read_text())
    return {
        kind: {name: [word.replace("{runs}", str(data)) for word in words] for name, words in entries.items()}
        for kind, entries in listed.items()
    }
