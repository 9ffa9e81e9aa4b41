"""How long, and in how much memory, a list of names becomes a plan on disk.

    python benchmarks/planning.py --images 1000000 --list txt

Prints one JSON line. The list is made first, in a process of its own, and is not counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import LEAST_REPEAT, figure, report

SECONDS, MEGABYTES = 20.0, 500.0

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
    """Make the list, then measure in fresh processes, so that the peak of memory is that of planning alone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--list", choices=sorted(_RECORDS), default="txt")
    parser.add_argument("--repeat", type=int, default=LEAST_REPEAT, help="rounds that are counted (at least 3)")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / f"names.{args.list}"
        make_list(names, args.list, args.images)
        for number in range(max(args.repeat, LEAST_REPEAT)):
            command = [sys.executable, __file__, "--measure", str(names), str(Path(folder) / f"out{number}")]
            rounds.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    named = f"planning {args.images:,} names from a .{args.list} list"
    is_whole = args.images == 1_000_000
    figures = [
        figure(named, [r["seconds"] for r in rounds], "s", at_most=SECONDS if is_whole else None),
        figure(
            f"{named}, peak memory",
            [r["peak_rss_mb"] for r in rounds],
            "MB",
            at_most=MEGABYTES if is_whole else None,
        ),
    ]
    report("planning", figures, setup={"images": args.images, "list": args.list, "repeat": len(rounds)}, detail=rounds)


if __name__ == "__main__":
    main()
