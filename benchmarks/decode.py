"""Compare JPEG decoding with Pillow; measure what reduced decoding does to detections, and how long a detector waits.

Decoders are compared by the CPU time of one thread, which other load on the machine affects least. Reduced decoding is
faithful to an image if every detection above the threshold has a counterpart (IoU 0.95, same class, score within 0.02)
and no new one appears.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from common import ASSETS, Figure, cores, figure, ratio, report, take_turns
from pictures import pictures
from PIL import Image

from prelabel.detectors.base import Frame, FrameDetector
from prelabel.detectors.conventions.resolve_model import prepare
from prelabel.detectors.conventions.working_size import working_size
from prelabel.detectors.running.postprocess import DetectorOptions
from prelabel.detectors.running.savedmodel import load_detector
from prelabel.engine.reader import Reader
from prelabel.engine.shard import DECODE_MARGIN, ReadSettings, label_images
from prelabel.image_ref import ImageRef
from prelabel.select import Selection
from prelabel.source.color import to_rgb
from prelabel.source.decode import DecodeOptions, decode
from prelabel.storage.files import Storage

#: What is to be reached on files of 12 megapixels.
TARGET = 3.0

IOU, SCORE, THRESHOLD = 0.95, 0.02, 0.3

#: Scores from here on count for AP.
LOWEST = 0.01

FULL = DecodeOptions()


def by_pillow(data: bytes) -> np.ndarray:
    """Pillow's full decode, with the same rule for color profiles."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return np.asarray(to_rgb(image))


def by_ours(options: DecodeOptions) -> Callable[[bytes], np.ndarray]:
    """Pixels from `decode` with these options."""
    return lambda data: decode(data, options).pixels


def processor_seconds(way: Callable[[bytes], Any], files: Sequence[bytes]) -> Callable[[], float]:
    """Decode all files once and return the CPU time of this thread."""

    def run() -> float:
        begin = time.thread_time()
        for data in files:
            way(data)
        return time.thread_time() - begin

    return run


def measure_decoders(files: dict[str, list[bytes]], repeat: int) -> tuple[list[Figure], dict[str, Any]]:
    """Compare `decode` with Pillow per kind of file, at full size and for detectors that work at 300 and 512 pixels."""
    figures, detail = [], {}
    for kind, contents in files.items():
        ways = {"Pillow": by_pillow, "full": by_ours(FULL)}
        if "12 MP" in kind:
            for looks_at in (512, 300):
                ways[f"auto, {looks_at}"] = by_ours(DecodeOptions(shortest_side=DECODE_MARGIN * looks_at))
        took = take_turns({name: processor_seconds(way, contents) for name, way in ways.items()}, repeat)
        seconds = {name: [cpu for _, cpu in rounds] for name, rounds in took.items()}
        for name in list(ways)[1:]:
            target = TARGET if name.startswith("auto") else None
            size = "in full" if name == "full" else f"for a detector of {name[6:]} pixels"
            figures.append(ratio(f"{kind} {size}, beside Pillow", seconds["Pillow"], seconds[name], at_least=target))
        worst = max(
            int(np.abs(by_pillow(content).astype(np.int16) - decode(content).pixels).max()) for content in contents
        )
        figures.append(figure(f"{kind}: largest difference from Pillow", [worst], "levels", at_most=2))
        detail[kind] = {name: round(min(values) / len(contents) * 1e3, 2) for name, values in seconds.items()}
    return figures, {"ms_per_image_best_round": detail}


def enlarged(photo: Path, number: int) -> bytes:
    """A real photo enlarged to 12 megapixels, with sensor-like noise, as a JPEG."""
    image = Image.open(photo).convert("RGB")
    image = image.resize((4000, 3000) if image.width >= image.height else (3000, 4000), Image.Resampling.LANCZOS)
    grain = np.random.default_rng(number).standard_normal((image.height, image.width, 1), np.float32) * 3
    pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


@dataclass(frozen=True)
class Subject:
    """A detector, the size at which it works, images for it, and the photos behind them if their truth is known."""

    name: str
    address: str
    looks_at: int
    files: Sequence[Callable[[], bytes]]
    photos: Sequence[str] = ()


def detections(detector: FrameDetector, data: bytes, options: DecodeOptions) -> Any:
    """The detections on one file."""
    image = decode(data, options)
    (result,) = detector.detect_in([image.pixels], [Frame(image.height, image.width, image.window)])
    return result.detections


def unmatched(whole: Any, reduced: Any) -> int:
    """Number of detections above the threshold on one side without a counterpart, of any score, on the other."""
    low = np.maximum(whole.xyxy[:, None, :2], reduced.xyxy[None, :, :2])
    high = np.minimum(whole.xyxy[:, None, 2:], reduced.xyxy[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(side.xyxy[:, 2:] - side.xyxy[:, :2]).prod(axis=1) for side in (whole, reduced)]
    fits = shared >= IOU * (areas[0][:, None] + areas[1][None] - shared)
    fits &= np.abs(whole.score[:, None] - reduced.score[None]) <= SCORE + 1e-6
    fits &= whole.category_id[:, None] == reduced.category_id[None]
    missing = (whole.score >= THRESHOLD) & ~fits.any(axis=1)
    appeared = (reduced.score >= THRESHOLD) & ~fits.any(axis=0)
    return int(missing.sum() + appeared.sum())


def measure_fidelity(subject: Subject, detector: FrameDetector) -> tuple[list[Figure], dict[str, Any]]:
    """Share of images on which reducing changes no detection beyond the limits; box AP at full and reduced size."""
    reduced = DecodeOptions(shortest_side=DECODE_MARGIN * subject.looks_at)
    kept = moved = same = 0
    pairs: list[tuple[Any, Any]] = []
    for file in subject.files:
        data = file()
        whole, small = detections(detector, data, FULL), detections(detector, data, reduced)
        pairs.append((whole, small))
        wrong = unmatched(whole, small)
        kept += int((whole.score >= THRESHOLD).sum())
        moved += wrong
        same += wrong == 0
    share = 100 * same / len(subject.files)
    note = (
        f"{moved} changes (moved, vanished or appeared above {THRESHOLD}); {kept} detections in full; "
        f"{len(subject.files)} images"
    )
    figures = [figure(f"{subject.name}: images faithful with auto", [share], "%", note=note)]
    counts = {"images": len(subject.files), "faithful": same, "detections": kept, "moved": moved}
    if subject.photos and importlib.util.find_spec("pycocotools"):
        labels = {label.lower() for pair in pairs for detections in pair for label in detections.label}
        ap = [average_precision(subject.photos, side, labels) for side in zip(*pairs, strict=True)]
        figures.append(
            figure(
                f"{subject.name}: box AP with auto, less that in full", [ap[1] - ap[0]], "", note=f"{ap[0]:.3f} in full"
            )
        )
        counts["box AP"] = [round(value, 4) for value in ap]
    return figures, counts


def average_precision(photos: Sequence[str], detections_of: Sequence[Any], labels: set[str]) -> float:
    """COCO box AP of the detections on photos (by file name), over the classes of these names."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    content = json.loads((ASSETS / "images/coco-val80-instances.json").read_text())
    images = {image["file_name"]: image for image in content["images"]}
    classes = {category["name"]: category["id"] for category in content["categories"]}
    results = []
    for name, detections in zip(photos, detections_of, strict=True):
        image = images[name]
        scale = np.array([image["width"] / detections.width, image["height"] / detections.height] * 2)
        for (x1, y1, x2, y2), score, label in zip(
            detections.xyxy * scale, detections.score, detections.label, strict=True
        ):
            if label.lower() in classes:
                box = [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]
                about = {"image_id": image["id"], "category_id": classes[label.lower()]}
                results.append({**about, "bbox": box, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, **content}
        truth.createIndex()
        scores = COCOeval(truth, truth.loadRes(results), "bbox")
        scores.params.imgIds = [images[name]["id"] for name in photos]
        scores.params.catIds = sorted(number for name, number in classes.items() if name in labels)
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    return float(scores.stats[0])


def measure_waiting(name: str, folder: Path, images: int, detector: FrameDetector, decoding: DecodeOptions) -> Figure:
    """Share of the time during which a detector waits for images, with one thread each for reading and decoding."""
    files = sorted(folder.glob("*.jpg"))
    refs = [ImageRef(str(n), str(files[n % len(files)]), f"{n}.jpg") for n in range(images)]
    shares = []
    for _ in range(3):
        reader = Reader(ReadSettings(Storage(), decoding, "d", "d"), decode_threads=1)
        waited = 0.0

        def pictures_of(reader: Reader) -> Iterator[Any]:
            nonlocal waited
            ahead = reader.read(refs)
            while True:
                begin = time.perf_counter()
                picture = next(ahead, None)
                waited += time.perf_counter() - begin
                if picture is None:
                    return
                yield picture

        begin = time.perf_counter()
        assert sum(1 for _ in label_images(pictures_of(reader), detector)) == images
        shares.append(100 * waited / (time.perf_counter() - begin))
    return figure(f"{name}: the detector waits", shares, "%", note="of its time, one decoding and one network thread")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--photos", type=int, default=20, help="real photos that are enlarged for the detectors")
    parser.add_argument("--cache", type=Path, default=Path("out/benchmark-images"), help="keeps pictures")
    args = parser.parse_args()
    small = pictures(args.cache, 200, 640, 480)
    large = pictures(args.cache, 24, 4000, 3000)
    files = {
        "640 x 480": [path.read_bytes() for path in sorted(small.glob("*.jpg"))[:40]],
        "12 MP": [path.read_bytes() for path in sorted(large.glob("*.jpg"))[:6]],
    }
    photos = sorted((ASSETS / "images/coco-val80").glob("*.jpg"))
    if photos:
        files["real photos of 640 pixels"] = [path.read_bytes() for path in photos]
    figures, detail = measure_decoders(files, args.repeat)

    files_shown = [lambda path=path: path.read_bytes() for path in sorted(large.glob("*.jpg"))]
    subjects = [Subject("demo-shapes, 12 MP", "demo-shapes", 512, files_shown)]
    if photos:
        chosen = photos[: args.photos]
        with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
            large_photos = list(pool.map(enlarged, chosen, range(len(chosen))))
        grown = [lambda data=data: data for data in large_photos]
        models, names = ASSETS / "models", [path.name for path in chosen]
        subjects.append(
            Subject("SSD of 300 pixels, photos at 12 MP", str(models / "openimages-hub-module"), 300, grown, names)
        )
        # This network says nothing of its 640 pixels, so `auto` leaves its pictures alone: what would happen otherwise.
        subjects.append(
            Subject("mask network of 640 pixels, photos at 12 MP", str(models / "maskrcnn-tf2"), 640, grown, names)
        )
    options = DetectorOptions(selection=Selection(score_threshold=LOWEST))
    detail["fidelity"] = {}
    for subject in subjects:
        model = prepare(subject.address, label_map="coco" if "mask network" in subject.name else None)
        assert working_size(model) in (subject.looks_at, None)
        detector = load_detector(model, options)
        fidelity, counts = measure_fidelity(subject, detector)
        figures += fidelity
        detail["fidelity"][subject.name] = counts
        if subject.address == "demo-shapes":
            auto = replace(FULL, shortest_side=DECODE_MARGIN * subject.looks_at)
            for name, folder, images, decoding in (
                ("640 x 480", small, 120, FULL),
                ("12 MP in full", large, 24, FULL),
                ("12 MP with auto", large, 24, auto),
            ):
                figures.append(measure_waiting(f"demo-shapes, {name}", folder, images, detector, decoding))
    setup = {"images": {kind: len(contents) for kind, contents in files.items()}, "repeat": args.repeat}
    report("decode", figures, setup=setup, detail=detail)


if __name__ == "__main__":
    main()
