"""Measure time and memory for turning a list of names into a plan on disk, and the time for listing a bucket.

    python benchmarks/planning.py --images 1000000 --list txt

Prints one JSON line. The list is written first, in a separate process, and does not count. The bucket is on an S3
server on this machine (moto's). It is listed in turns as a source and by botocore's bare paginator, which discards what
it gets. Both wait for the same server, so their ratio shows the cost of our listing.
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

from common import LEAST_REPEAT, Figure, figure, ratio, report, seconds_of, take_turns

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.s3 import running_s3

SECONDS, MEGABYTES = 20.0, 500.0

_RECORDS = {
    "txt": lambda n: f"s3://bucket/photos/{n % 1000:03d}/{n:09d}-{n * 2654435761 % 2**32:08x}.jpg\n",
    "jsonl": lambda n: json.dumps({"uri": f"photos/{n % 1000:03d}/{n:09d}.jpg", "width": 640}) + "\n",
    "csv": lambda n: f"photos/{n % 1000:03d}/{n:09d}.jpg,image {n}\n",
}


def make_list(path: Path, kind: str, images: int) -> None:
    """Write a list of distinct names in mixed folders."""
    with path.open("w") as file:
        if kind == "csv":
            file.write("uri,image_id\n")
        file.writelines(map(_RECORDS[kind], range(images)))


def measure(path: Path, output: Path) -> dict[str, float | int]:
    """Plan a list in this process."""
    from prelabel.source.listing import list_images
    from prelabel.storage.files import Storage
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


def measure_listing(objects: int, repeat: int) -> list[Figure]:
    """Measure listing a bucket, compared with botocore's paginator on the same server."""
    from prelabel.source.listing import list_images
    from prelabel.storage.files import Storage

    with running_s3() as server:
        bucket = server.new_bucket()
        server.fill(bucket, [f"photos/{n % 100:03d}/{n:09d}.jpg" for n in range(objects)], b"")
        client, storage = server.client(), Storage(server.options)

        def bare() -> int:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            return sum(len(page["Contents"]) for page in pages)

        def ours() -> int:
            return sum(1 for _ in list_images([f"s3://{bucket}/photos"], storage))

        took = take_turns({"ours": ours, "bare": bare}, repeat, warm_up=False)
    if any(count != objects for rounds in took.values() for _, count in rounds):
        raise SystemExit("a listing left objects out")
    seconds = seconds_of(took)
    note = "1 is: bound by the server"
    return [
        figure(f"listing a bucket of {objects:,} objects", [objects / s for s in seconds["ours"]], "objects/s"),
        ratio("that, time beside botocore's bare paginator", seconds["ours"], seconds["bare"], at_most=1.1, note=note),
    ]


def main() -> None:
    """Make the list, then measure in fresh processes, so that the peak of memory is that of planning alone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--list", choices=sorted(_RECORDS), default="txt")
    parser.add_argument("--objects", type=int, default=10_000, help="objects of the bucket that is listed")
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
    figures += measure_listing(args.objects, args.repeat)
    report(
        "planning",
        figures,
        setup={"images": args.images, "objects": args.objects, "list": args.list, "repeat": len(rounds)},
        detail=rounds,
    )


if __name__ == "__main__":
    main()
