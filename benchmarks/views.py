"""What several views of an image find: AP, corrections and time, on photos, and on mosaics of them.

    python benchmarks/views.py --to /tmp/views

Photos: 80 of COCO with a mask detector, one view (`whole`) beside whole, mirrored and four tiles, with the defaults.
The figures are those of `prelabel evaluate` on the runs. Differences have a 95% interval from 200 resamples of the
photos, the same ones for both. Mosaics: 16 photos each at random scales and places of a large image, so that the
borders of tiles cut objects; `--views auto` on them, beside the same scaled photos one by one. The parameters are the
defaults; none was tuned on these photos. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _coco import RESAMPLES, difference_of_corrections, difference_of_stats, read_truth, results_of, score
from common import ASSETS, Figure, figure, report
from PIL import Image

import prelabel

PHOTOS = ASSETS / "images" / "coco-val80"
TRUTH = ASSETS / "images" / "coco-val80-instances.json"
MODEL = ASSETS / "models" / "maskrcnn-tf2"
VIEWS = "whole,flip,tiles"
LOWEST = 0.01

#: Photos of a mosaic along each side, and pixels of the cell in which each has a random place.
SIDE, CELL = 4, 720


@dataclass(frozen=True)
class Labeled:
    """A run, the seconds that its labeling took without start-up, and its `evaluation.json`."""

    output: Path
    seconds: float
    evaluation: Mapping[str, Any]


def label(images: Path, truth: Path, output: Path, **options: Any) -> Labeled:
    """Label images with the mask detector on all cores, and evaluate as `prelabel evaluate` does."""
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
    to = output.with_name(f"{output.name}-evaluated")
    prelabel.evaluate(output, truth=str(truth), to=to, progress=False)
    return Labeled(output, summary.label_s, json.loads((to / "evaluation.json").read_text(encoding="utf-8")))


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
    """One view beside several, on photos of usual size."""
    once = label(PHOTOS, TRUTH, to / "once")
    several = label(PHOTOS, TRUTH, to / "several", views=VIEWS)
    truth = read_truth(TRUTH)
    results = [list(results_of(run.output, truth)) for run in (once, several)]
    scores = {kind: [score(truth, result, kind) for result in results] for kind in ("bbox", "segm")}
    figures = []
    for name, side, kind, metric, least in (
        ("box AP", "boxes", "bbox", "AP", 0.415),
        ("box AP of small objects", "boxes", "bbox", "AP_small", 0.25),
        ("box AR", "boxes", "bbox", "AR_100", None),
        ("mask AP", "masks", "segm", "AP", 0.335),
    ):
        before, after = (run.evaluation[side]["overall"][metric] for run in (once, several))
        _check_equal(name, (before, after), [table.stats[metric] for table in scores[kind]])
        note = f"{before:.3f} with one view; {_in_words(difference_of_stats(*scores[kind], metric), '.3f')}"
        figures.append(figure(f"80 photos, {VIEWS}: {name}", [after], "", at_least=least, note=note))
    common = [run.evaluation["work"]["total"]["common"] for run in (once, several)]
    held_out = [run.evaluation["work"]["unseen"]["common_per_100_images"] for run in (once, several)]
    boxes = scores["bbox"]
    work = [cut["corrections_per_100_images"] for cut in common]
    _check_equal("corrections per 100 images", work, [100 * table.corrections.mean() for table in boxes])
    figures.append(
        figure(
            f"80 photos, {VIEWS}: corrections per 100 images",
            [work[1]],
            "",
            at_most=work[0],
            note=f"each at its best common threshold ({common[0]['threshold']:g} with one view, which is the target; "
            f"{common[1]['threshold']:g}); {_in_words(difference_of_corrections(*boxes), '.0f')}; "
            f"on held-out images {held_out[0]:.0f} with one view, {held_out[1]:.0f}",
        )
    )
    speed = [len(boxes[0].corrections) / run.seconds for run in (once, several)]
    figures.append(
        figure(
            f"80 photos, {VIEWS}: time beside one view",
            [speed[0] / speed[1]],
            "x",
            note=f"six views; {speed[1]:.2f} beside {speed[0]:.2f} images/s, without start-up",
        )
    )
    names = ("once", "several")
    return figures, {name: table.stats for name, table in zip(names, boxes, strict=True)}


def _in_words(ends: Any, digits: str) -> str:
    """A 95% interval of a difference, with its sign."""
    return f"95% of the difference {ends[0]:+{digits}} to {ends[1]:+{digits}}"


def _check_equal(name: str, evaluation: Any, tables: Any) -> None:
    """Stop if the tables that the intervals are made from give other figures than `prelabel evaluate`."""
    if not np.allclose(evaluation, tables, rtol=0, atol=1e-6):
        raise SystemExit(f"{name}: prelabel evaluate gives {evaluation}, the tables for the intervals give {tables}")


def measure_mosaics(to: Path) -> tuple[list[Figure], Mapping[str, Any]]:
    """`auto` on mosaics beside the photos in them one by one."""
    large, large_truth, small, small_truth = make_mosaics(to)
    singly = label(small, small_truth, to / "singly")
    whole = label(large, large_truth, to / "whole")
    auto = label(large, large_truth, to / "auto", views="auto")
    runs = {"singly": singly, "whole": whole, "auto": auto}
    ap = {name: run.evaluation["boxes"]["overall"]["AP"] for name, run in runs.items()}
    note = f"box AP: singly {ap['singly']:.3f}, one view of the mosaic {ap['whole']:.3f}, auto {ap['auto']:.3f}"
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
