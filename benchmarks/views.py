"""What several views of an image find: AP, corrections and time, on photos, and on mosaics of them.

    python benchmarks/views.py --to /tmp/views

Photos: 80 of COCO with a mask detector, one look beside whole, mirrored and four tiles, with the defaults. Differences
have a 95% interval from 200 resamples of the photos, the same ones for both. Mosaics: 16 photos each at random scales
and places of a large image, so that the borders of tiles cut objects; `--views auto` on them, beside the same scaled
photos one by one. The parameters are the defaults; none was tuned on these photos. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from common import ASSETS, Figure, figure, report
from PIL import Image

import prelabel

PHOTOS = ASSETS / "images" / "coco-val80"
TRUTH = ASSETS / "images" / "coco-val80-instances.json"
MODEL = ASSETS / "models" / "maskrcnn-tf2"
VIEWS = "whole,flip,tiles"
LOWEST = 0.01
RESAMPLES = 200

#: Photos of a mosaic along each side, and pixels of the cell in which each has a random place.
SIDE, CELL = 4, 720


@dataclass(frozen=True)
class Labeled:
    """A run, its truth, and the seconds that its labeling took."""

    output: Path
    truth: Path
    seconds: float

    @cached_property
    def boxes(self) -> Any:
        """COCOeval of the boxes."""
        return evaluate(self.output, self.truth, "bbox")

    @cached_property
    def masks(self) -> Any:
        """COCOeval of the masks."""
        return evaluate(self.output, self.truth, "segm")


def label(images: Path, truth: Path, output: Path, **options: Any) -> Labeled:
    """Label images with the mask detector on all cores."""
    summary = prelabel.label(
        images,
        detector=str(MODEL),
        output=output,
        label_map="coco",
        score_threshold=LOWEST,
        runner="local",
        quiet=True,
        overwrite=True,
        progress=False,
        **options,
    )
    return Labeled(output, truth, summary.label_s)


def evaluate(output: Path, truth: Path, kind: str) -> Any:
    """COCOeval of the boxes (`bbox`) or the masks (`segm`), evaluated and accumulated."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        numbers = {image["file_name"]: image["id"] for image in coco.dataset["images"]}
        results: list[dict[str, Any]] = []
        for row in prelabel.open_run(output).rows():
            detections = row.detections
            for n in range(len(row)):
                x1, y1, x2, y2 = detections.xyxy[n].tolist()
                result = {
                    "image_id": numbers[row.file_name],
                    "category_id": int(detections.category_id[n]),
                    "score": float(detections.score[n]),
                }
                if kind == "bbox":
                    result["bbox"] = [x1, y1, x2 - x1, y2 - y1]
                else:
                    size = [detections.height, detections.width]
                    result["segmentation"] = {"size": size, "counts": detections.mask[n]}
                results.append(result)
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def intervals(before: Any, after: Any, stats: Sequence[int]) -> list[tuple[float, float]]:
    """95% intervals of the differences of some of COCOeval's `stats`, from the same resamples of the images."""
    random = np.random.default_rng(0)
    images = len(before.params.imgIds)
    differences = []
    for _ in range(RESAMPLES):
        chosen = random.integers(0, images, images)
        pair = [_resampled(evaluation, chosen, images) for evaluation in (before, after)]
        differences.append(pair[1][list(stats)] - pair[0][list(stats)])
    low, high = np.percentile(differences, (2.5, 97.5), axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _resampled(evaluation: Any, chosen: np.ndarray, images: int) -> np.ndarray:
    everything = evaluation.evalImgs
    cells = np.arange(len(everything)).reshape(-1, images)[:, chosen].ravel()
    evaluation.evalImgs = [everything[cell] for cell in cells]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    stats = np.array(evaluation.stats)
    evaluation.evalImgs = everything
    return stats


def corrections(output: Path, truth: Path, to: Path) -> float:
    """Corrections per 100 images at the suggested thresholds, measured on held-out images."""
    evaluation = prelabel.evaluate(output, truth=str(truth), to=to, progress=False)
    return float(evaluation.corrections_per_100_images)


def make_mosaics(folder: Path) -> tuple[Path, Path, Path, Path]:
    """Mosaics and the scaled photos in them: two folders with their truths."""
    random = np.random.default_rng(7)
    truth = json.loads(TRUTH.read_text(encoding="utf-8"))
    of_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in truth["annotations"]:
        of_image.setdefault(annotation["image_id"], []).append(annotation)
    large, small = folder / "mosaics", folder / "singles"
    for made in (large, small):
        made.mkdir(parents=True, exist_ok=True)
    mosaics: dict[str, list[Any]] = {"images": [], "annotations": []}
    singles: dict[str, list[Any]] = {"images": [], "annotations": []}
    photos = [truth["images"][n] for n in random.permutation(len(truth["images"]))]
    for number in range(len(photos) // SIDE**2):
        canvas = Image.new("RGB", (SIDE * CELL, SIDE * CELL), (114, 114, 114))
        name = f"mosaic-{number}.jpg"
        mosaics["images"].append(_image(number + 1, name, canvas))
        for place, photo in enumerate(photos[number * SIDE**2 : (number + 1) * SIDE**2]):
            scale = float(random.uniform(0.6, 1.1))
            picture = Image.open(PHOTOS / photo["file_name"]).convert("RGB")
            picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.LANCZOS)
            row, column = divmod(place, SIDE)
            left = column * CELL + int(random.integers(0, CELL - picture.width + 1))
            top = row * CELL + int(random.integers(0, CELL - picture.height + 1))
            canvas.paste(picture, (left, top))
            # Lossless, and from the decoded pixels: both sides see the same.
            picture.save(small / f"{photo['id']}.png")
            singles["images"].append(_image(photo["id"], f"{photo['id']}.png", picture))
            for annotation in of_image.get(photo["id"], ()):
                x, y, width, height = (value * scale for value in annotation["bbox"])
                common = {"category_id": annotation["category_id"], "iscrowd": annotation["iscrowd"]}
                for dataset, image, dx, dy in ((mosaics, number + 1, left, top), (singles, photo["id"], 0, 0)):
                    dataset["annotations"].append(
                        {
                            **common,
                            "id": len(dataset["annotations"]) + 1,
                            "image_id": image,
                            "bbox": [x + dx, y + dy, width, height],
                            "area": annotation["area"] * scale**2,
                            "segmentation": [[x + dx, y + dy, x + dx + width, y + dy, x + dx + width, y + dy + height]],
                        }
                    )
        canvas.save(large / name.replace(".jpg", ".png"))
        mosaics["images"][-1]["file_name"] = name.replace(".jpg", ".png")
    paths = []
    for made, dataset in ((large, mosaics), (small, singles)):
        path = folder / f"{made.name}.json"
        path.write_text(json.dumps({**dataset, "categories": truth["categories"]}), encoding="utf-8")
        paths.append(path)
    return large, paths[0], small, paths[1]


def _image(number: int, name: str, picture: Image.Image) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": picture.width, "height": picture.height}


def measure_photos(to: Path) -> tuple[list[Figure], Mapping[str, Any]]:
    """One look beside several, on photos of usual size."""
    once = label(PHOTOS, TRUTH, to / "once")
    several = label(PHOTOS, TRUTH, to / "several", views=VIEWS)
    figures = []
    for name, kind, stat, least in (
        ("box AP", "boxes", 0, 0.415),
        ("box AP of small objects", "boxes", 3, 0.25),
        ("mask AP", "masks", 0, 0.335),
    ):
        before, after = getattr(once, kind), getattr(several, kind)
        value = float(after.stats[stat])
        ((low, high),) = intervals(before, after, [stat])
        note = f"{float(before.stats[stat]):.3f} with one look; 95% of the difference {low:+.3f} to {high:+.3f}"
        figures.append(figure(f"80 photos, {VIEWS}: {name}", [value], "", at_least=least, note=note))
    work = [corrections(run.output, TRUTH, to / f"{run.output.name}-evaluated") for run in (once, several)]
    figures.append(
        figure(
            f"80 photos, {VIEWS}: corrections per 100 images",
            [work[1]],
            "",
            at_most=work[0],
            note="at the suggested thresholds, on held-out images; the target is that of one look",
        )
    )
    figures.append(
        figure(f"80 photos, {VIEWS}: time beside one look", [several.seconds / once.seconds], "x", note="six views")
    )
    return figures, {"once": list(map(float, once.boxes.stats)), "several": list(map(float, several.boxes.stats))}


def measure_mosaics(to: Path) -> tuple[list[Figure], Mapping[str, Any]]:
    """`auto` on mosaics beside the photos in them one by one."""
    large, large_truth, small, small_truth = make_mosaics(to)
    singly = label(small, small_truth, to / "singly")
    whole = label(large, large_truth, to / "whole")
    auto = label(large, large_truth, to / "auto", views="auto")
    ap = {name: float(run.boxes.stats[0]) for name, run in (("singly", singly), ("whole", whole), ("auto", auto))}
    note = f"box AP: singly {ap['singly']:.3f}, one look at the mosaic {ap['whole']:.3f}, auto {ap['auto']:.3f}"
    name = "mosaics of 16 photos, auto: share of the AP that the photos have singly"
    return [figure(name, [ap["auto"] / ap["singly"]], "", at_least=0.9, note=note)], ap


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, help="keep runs and mosaics in this folder")
    parser.add_argument("--only", choices=("photos", "mosaics"))
    options = parser.parse_args()
    if not MODEL.is_dir():
        report("views", [figure("views", [], "", note="the photos and the detector are not there")], setup={})
        return
    with tempfile.TemporaryDirectory() as folder:
        to = options.to or Path(folder)
        figures: list[Figure] = []
        detail: dict[str, Any] = {}
        for name, measure in (("photos", measure_photos), ("mosaics", measure_mosaics)):
            if options.only in (None, name):
                more, detail[name] = measure(to)
                figures += more
    report("views", figures, setup={"photos": 80, "resamples": RESAMPLES}, detail=detail)


if __name__ == "__main__":
    main()
