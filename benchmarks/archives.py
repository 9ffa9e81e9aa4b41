"""What it costs to label images, single ones and those of archives, in a slow object store: rate, requests, memory.

    python benchmarks/archives.py
    python benchmarks/archives.py --only objects      # how busy two workers are with single images

An S3 server on this machine (moto's) stands behind a proxy that answers every request late, and counts. The detector
sleeps for a fixed time per image, or with `objects` for as long as `demo-shapes` takes on this machine, so that the
figures depend little on the machine. Sources and output lie in the store. The rate is that of the detector between its
first and its last image, and it is busy for the share of that time in which it does not wait for images.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import LEAST_REPEAT, Figure, figure, ratio, report, take_turns
from PIL import Image

from prelabel.detectors.base import EXACT
from prelabel.detectors.conventions.resolve_model import prepare
from prelabel.detectors.running.savedmodel import load_detector
from prelabel.source.decode import decode
from prelabel.storage.files import Storage

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.archives import compressed, tar_of, zip_of
from tests.chaos.proxy import Proxy
from tests.s3 import S3Server, running_s3

#: With archives: seconds that the detector takes for an image, and that the store takes for a request, and the images.
IMAGE_S, LATE_S, IN_ARCHIVE = 0.02, 0.2, 1000

#: With single images: seconds that the store takes for each of them, and the workers.
OBJECT_LATE_S, OBJECT_WORKERS = (0.0, 0.02, 0.1, 0.5), 2

#: Share of the time in which detectors must not wait for single images.
LEAST_BUSY = 0.95

#: Targets: share of the rate that a late store may leave, requests per 1,000 images, memory beside that of few images.
LEAST_SHARE, MOST_REQUESTS, MOST_MEMORY = 0.95, 5, 1.1


class LateStore(Proxy):
    """Forwards requests to an S3 server, each after `delay_s` seconds, and streams the answers.

    Attributes:
        delay_s: Seconds before each request is forwarded; may be changed at any time.
        late_buckets: Buckets whose requests are late; all of them if empty.
        constant: Buckets with small objects that do not change: it answers for them itself, since the server takes as
            long for an object as many a detector.
        requests: Number of requests by method and bucket.
    """

    def __init__(self, upstream: str) -> None:
        self.delay_s = 0.0
        self.late_buckets: set[str] = set()
        self.constant: set[str] = set()
        self.requests: Counter[tuple[str, str]] = Counter()
        self._answers: dict[str, bytes] = {}
        super().__init__(upstream)

    async def answer(self, head: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        """Count a request, and answer it late."""
        method, path = head.split(" ", 2)[:2]
        bucket = re.split("[/?]", path)[1]
        self.requests["LIST" if "list-type=" in path else method, bucket] += 1
        if not self.late_buckets or bucket in self.late_buckets:
            await asyncio.sleep(self.delay_s)
        if bucket in self.constant and method == "GET" and "?" not in path:
            if path not in self._answers:
                self._answers[path] = await self._ask(head, body)
            writer.write(self._answers[path])
            await writer.drain()
            return
        answer, upstream = await asyncio.open_connection(*self.upstream)
        try:
            upstream.write(head.encode("latin-1") + body)
            while data := await answer.read(1 << 18):
                writer.write(data)
                await writer.drain()
        finally:
            upstream.close()


def photos(count: int, width: int = 320, height: int = 240) -> dict[str, bytes]:
    """JPEGs, of which a hundred differ; of about 20 kB if they have 320 x 240 pixels."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(min(count, 100)):
        pixels = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        noise = rng.integers(-12, 13, (height, width, 3))
        noisy = np.clip(np.asarray(pixels, np.int16) + noise, 0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noisy).save(stream, "JPEG", quality=80)
        files.append(stream.getvalue())
    return {f"{number:06d}.jpg": files[number % len(files)] for number in range(count)}


def as_parquet(files: dict[str, bytes]) -> bytes:
    """A Parquet file as Hugging Face's `datasets` writes it, with 100 images per row group."""
    column = pa.array([{"bytes": data, "path": name} for name, data in files.items()])
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": column}), stream, row_group_size=100)
    return stream.getvalue()


KINDS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "tar": tar_of,
    "tar.gz": lambda files: compressed(tar_of(files), "gzip"),
    "tar.zst": lambda files: compressed(tar_of(files), "zstd"),
    "zip": lambda files: zip_of(files, zipfile.ZIP_STORED),
    "parquet": as_parquet,
}


@dataclass(frozen=True)
class Job:
    """What a job took.

    Attributes:
        images_per_s: Rate of the detectors between their first and their last image.
        busy: Share of the time between its first and its last image in which a detector runs, mean of the workers.
        seconds: Of the whole command.
        peaks_mb: Peak memory of the worker after each image.
        source: Number of requests to the bucket of the images.
        output: Number of requests to the bucket of the run.
    """

    images_per_s: float
    busy: float
    seconds: float
    peaks_mb: list[float]
    source: int
    output: int


class Stage:
    """Runs jobs on a store.

    Args:
        folder: For notes.
        server: The S3 server.
    """

    def __init__(self, folder: Path, server: S3Server) -> None:
        self._folder, self._server = folder, server
        self.store = LateStore(server.endpoint)
        self._options = json.dumps(
            {
                **server.options,
                "client_kwargs": {**server.options["client_kwargs"], "endpoint_url": self.store.endpoint},
            }
        )

    def put(self, kind: str, images: int, per_archive: int) -> str:
        """Store images in archives or, with `""`, one by one, of 640 x 480 pixels. Returns the source."""
        bucket = self._server.new_bucket()
        names = list((photos(images) if kind else photos(images, 640, 480)).items())
        if not kind:
            self.store.constant.add(bucket)
        for start in range(0, images, per_archive):
            part = dict(names[start : start + per_archive])
            if kind:
                self._server.put(bucket, f"{start:06d}.{kind}", KINDS[kind](part))
                continue
            for name, data in part.items():
                self._server.put(bucket, name, data)
        return f"s3://{bucket}/*.{kind}" if kind else f"s3://{bucket}"

    def label(self, source: str, images: int, delay_s: float, image_s: float = IMAGE_S, *arguments: str) -> Job:
        """Label a source in a process of its own."""
        output = self._server.new_bucket()
        notes = self._folder / output
        command = [sys.executable, "-m", "prelabel", "label", source, "--output", f"s3://{output}/run"]
        command += ["--detector", "_sleeping:Sleeping", "--trust-model", "--runner", "local"]
        command += [] if "--workers" in arguments else ["--workers", "1"]
        command += ["--detector-option", f"seconds={image_s}", "--detector-option", f"notes={notes}"]
        command += ["--storage-options", self._options, *arguments]
        self.store.delay_s = delay_s
        self.store.requests.clear()
        begin = time.monotonic()
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])]),
        }
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        seconds = time.monotonic() - begin
        self.store.delay_s = 0.0
        lines = [line.split() for line in notes.read_text().splitlines()][-images:]
        times = [float(line[1]) for line in lines]
        spans: dict[str, list[tuple[float, float]]] = {}
        for process, end, start, _ in lines:
            spans.setdefault(process, []).append((float(start), float(end)))
        counts = self.store.requests
        return Job(
            (images - 1) / (times[-1] - times[0]),
            statistics.fmean(map(_busy, spans.values())),
            seconds,
            [float(line[3]) for line in lines],
            sum(count for (_, bucket), count in counts.items() if bucket != output),
            sum(count for (_, bucket), count in counts.items() if bucket == output),
        )


def _busy(spans: Sequence[tuple[float, float]]) -> float:
    """The share of the time from the start of the first to the end of the last that these spans (start, end) cover."""
    return sum(end - start for start, end in spans) / (spans[-1][1] - spans[0][0])


def measure_rates(stage: Stage, images: int, repeat: int) -> list[Figure]:
    """Measure a tar archive in a store that answers at once, and in one that answers late."""
    source = stage.put("tar", images, images)
    ways = {name: functools.partial(stage.label, source, images, s) for name, s in (("early", 0.0), ("late", LATE_S))}
    took = take_turns(ways, repeat, warm_up=False)
    early, late = ([job for _, job in took[name]] for name in ways)
    longer = statistics.median(after.seconds - before.seconds for before, after in zip(early, late, strict=True))
    rate = statistics.median(job.images_per_s for job in early)
    return [
        ratio(
            f"{images:,} images, tar: rate at {LATE_S * 1000:g} ms a request, beside that at 0 ms",
            [job.images_per_s for job in late],
            [job.images_per_s for job in early],
            at_least=LEAST_SHARE,
            note=f"{rate:.1f} images/s; the whole job takes {longer:.1f} s longer",
        )
    ]


def measure_objects(stage: Stage, images: int, repeat: int) -> list[Figure]:
    """Measure how busy workers are with single images that come late; the output does not."""
    image_s = _network_s()
    source = stage.put("", images, images)

    def busy(title: str, delay_s: float) -> float:
        stage.store.late_buckets = {source.rpartition("/")[2]}
        share = stage.label(source, images, delay_s, image_s, "--workers", str(OBJECT_WORKERS)).busy
        stage.store.late_buckets = set()
        print(f"{title} {share:.3f}", file=sys.stderr, flush=True)
        return share

    ways = {}
    for delay_s in OBJECT_LATE_S:
        title = f"{images:,} single images, {delay_s * 1000:g} ms a request: detectors busy"
        ways[title] = functools.partial(busy, title, delay_s)
    note = f"{image_s * 1000:.0f} ms per image"
    return [
        figure(title, [share for _, share in rounds], "", at_least=LEAST_BUSY, note=note)
        for title, rounds in take_turns(ways, repeat, warm_up=False).items()
    ]


def _network_s() -> float:
    """Seconds that `demo-shapes` takes for an image of 640 x 480 pixels on one core."""
    detector = load_detector(prepare("demo-shapes", Storage()), threads=1, optimization=EXACT)
    pixels = decode(next(iter(photos(1, 640, 480).values()))).pixels
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        detector.detect_in([pixels])
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def measure_requests(stage: Stage, images: int, per_archive: int) -> list[Figure]:
    """Count the requests of whole jobs, from the listing to the manifest, with shards of the default size."""
    figures = []
    for kind in KINDS:
        job = stage.label(stage.put(kind, images, per_archive), images, 0.0, 0.0)
        title = f"{images:,} images, {kind} of {per_archive:,}: requests to the source per 1,000 images"
        note = f"all: to look it up, list and read it; and {job.output} to the output"
        figures.append(figure(title, [job.source / images * 1000], "", at_most=MOST_REQUESTS, note=note))
    return figures


def measure_memory(stage: Stage, few: int, many: int) -> Figure:
    """Measure the peak memory of a worker at the end of an archive of many images, beside that after a few of them."""
    peaks = stage.label(stage.put("tar", many, many), many, 0.0, 0.0).peaks_mb
    title = f"peak memory of a worker after {many:,} images of an archive, beside that after {few:,}"
    note = f"{peaks[-1]:.0f} MB and {peaks[few - 1]:.0f} MB, without a model"
    return ratio(title, [peaks[-1]], [peaks[few - 1]], at_most=MOST_MEMORY, note=note)


def main() -> None:
    """Run the jobs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=800, help="single images")
    parser.add_argument("--repeat", type=int, default=LEAST_REPEAT, help="rounds that are counted (at least 3)")
    parser.add_argument(
        "--only", choices=["rates", "objects", "requests", "memory"], help="only one of the measurements"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_s3() as server:
        stage = Stage(Path(folder), server)
        measurements: dict[str, Callable[[], list[Figure]]] = {
            "rates": lambda: measure_rates(stage, IN_ARCHIVE, args.repeat),
            "objects": lambda: measure_objects(stage, args.images, args.repeat),
            "requests": lambda: measure_requests(stage, 4000, 1000),
            "memory": lambda: [measure_memory(stage, 2000, 10_000)],
        }
        chosen = [args.only] if args.only else list(measurements)
        figures = [figure for name in chosen for figure in measurements[name]()]
    setup = {"images": args.images, "image_s": IMAGE_S, "late_s": LATE_S, "workers": 1, "repeat": args.repeat}
    report("archives", figures, setup=setup)


if __name__ == "__main__":
    main()
