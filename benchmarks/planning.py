"""How long, and in how much memory, a list of names becomes a plan on disk.

    python benchmarks/planning.py --images 1000000 --list txt

Prints one JSON line. The list is made first, in a process of its own, and is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_RECORDS = {
    "txt": lambda n: f"s3://bucket/photos/{n % 1000:03d}/{n:09d}-{n * 2654435761 % 2**32:08x}.jpg\n",
    "jsonl": lambda n: json.dumps({"uri": f"photos/{n % 1000:03d}/{n:09d}.jpg", "width": 640}) + "\n",
    "csv": lambda n: f"photos/{n % 1000:03d}/{n:09d}.jpg,image {n}\n",
}


def make_list(path: Path, kind: str, images: int) -> None:
    """A list of distinct names, folders mixed."""
    with path.open("w") as file:
        if kind == "csv":
            file.write("uri,image_id\n")
        file.writelines(map(_RECORDS[kind], range(images)))


def measure(path: Path, output: Path) -> dict[str, float | int]:
    """Plan a list in this process."""
    from prelabel.source.listing import list_images
    from prelabel.storage import Storage
    from prelabel.store.plan import write_plan

    storage = Storage()
    start = time.perf_counter()
    plan = write_plan(list_images([str(path)], storage), str(output), storage, shard_size=None, plan_id="00000000")
    seconds = time.perf_counter() - start
    return {
        "images": plan.images,
        "shards": plan.shards,
        "seconds": round(seconds, 2),
        "images_per_s": round(plan.images / seconds),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "plan_mb": round(sum(f.stat().st_size for f in (output / "plan").iterdir()) / 1e6, 1),
    }


def main() -> None:
    """Make the list, then measure in a fresh process, so that the peak of memory is that of planning alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--list", choices=sorted(_RECORDS), default="txt")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / f"names.{args.list}"
        make_list(names, args.list, args.images)
        command = [sys.executable, __file__, "--measure", str(names), str(Path(folder) / "out")]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
    print(json.dumps({"benchmark": "planning", "list": args.list, **found, **machine}))


if __name__ == "__main__":
    main()
