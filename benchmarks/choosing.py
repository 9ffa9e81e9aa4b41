"""What the orders of `prelabel select` are worth, compared with other orders and with perfect knowledge.

    python benchmarks/choosing.py --to /tmp/choosing

Images are looked at in the order of a score until half of them are done. What counts is the number of boxes that people
delete and draw on them: those that `prelabel evaluate` counts, at the common threshold that leaves the fewest. Data:
synthetic scenes with `demo-shapes`, in three sets of other seeds, and 80 photos of COCO with two detectors. Two figures
for each score, both relative to a random order: the corrections on half of the images, and the corrections per minute
while people work on them, if they take `IMAGE_S` to look at an image and `CORRECTION_S` for a correction. Differences
from the number of detections have a 95% interval from resamples of the images, the same ones for all scores.

No score is fitted to the images that it is tested on. `regression` is what a fit could reach: numbers of detections by
range of scores, with weights from the scenes of another seed or, on photos, from the other nine tenths of the photos.
Prints one JSON line; `--table` also prints a table.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from common import ASSETS, Figure, figure, report

import prelabel
from prelabel.export.base import RunInfo
from prelabel.review.gather import gather
from prelabel.review.matching import WRONG, outcomes, ranking
from prelabel.review.options import EvaluateOptions
from prelabel.review.thresholds import fewest_corrections
from prelabel.review.truth import read_truth
from prelabel.storage.files import Storage
from prelabel.store.detection_batch import DetectionBatch
from prelabel.synth.dataset import make_scenes
from prelabel.triage.choosing import CountedDetections, image_scores

PHOTOS = ASSETS / "images" / "coco-val80"
TRUTH = ASSETS / "images" / "coco-val80-instances.json"
DETECTORS = {"mask": ("maskrcnn-tf2", {"label_map": "coco"}), "hub": ("openimages-hub-module", {})}
SEEDS = (1, 2, 3)

#: What an image and a correction cost, in seconds; assumed.
IMAGE_S, CORRECTION_S = 10.0, 7.0

#: How much more than the number of detections a score has to find per minute, to be worth its words.
NEEDED = 0.05

#: What exports show by default; the scores that need a threshold use it.
SHOWN = 0.3

_RANGES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.01)

Floats = npt.NDArray[np.float64]


def _sum(weight: Callable[[Floats], Floats]) -> Callable[[DetectionBatch], Floats]:
    """The score of each image that is the sum of a weight of its detections' scores."""
    return lambda batch: np.bincount(batch.image, weight(batch.score.astype(float)), minlength=len(batch.images))


SCORES: Mapping[str, Callable[[DetectionBatch], Floats]] = {
    "work": lambda batch: image_scores(batch, "work"),
    "uncertainty": lambda batch: image_scores(batch, "uncertainty"),
    "sum of scores": _sum(lambda score: score),
    "sum of roots": _sum(np.sqrt),
    "sum of s (1 - s)": _sum(lambda score: score * (1 - score)),
    "expected corrections": _sum(lambda score: np.where(score >= SHOWN, 1 - score, score)),
    "number shown": _sum(lambda score: (score >= SHOWN).astype(float)),
    "number not shown": _sum(lambda score: (score < SHOWN).astype(float)),
}


@dataclass(frozen=True)
class Data:
    """The images of a run.

    Attributes:
        corrections: `(I,)`, at the common threshold.
        threshold: This threshold.
        scores: `(I,)` of each image, by the name of the score.
        counts: `(I, R)` detections by range of scores.
    """

    corrections: Floats
    threshold: float
    scores: dict[str, Floats]
    counts: Floats


def read(output: Path, truth: Path) -> Data:
    """The corrections and the scores of the images that a run and a truth have."""
    run, storage = prelabel.open_run(output), Storage()
    gathered = gather(
        RunInfo.of(run), run.rows, read_truth(str(truth), storage, ""), EvaluateOptions.of(truth=str(truth))
    )
    matched = outcomes(gathered.pairs, 0.5)
    threshold = fewest_corrections(ranking(matched), 0.5).threshold
    kept = matched.score >= np.float32(threshold)
    images = len(gathered.pairs)
    corrections = (
        np.bincount(matched.image[kept & (matched.target == WRONG)], minlength=images)
        + np.bincount(matched.object_image, minlength=images)
        - np.bincount(matched.image[kept & (matched.target >= 0)], minlength=images)
    )
    scores: dict[str, list[Floats]] = {name: [] for name in SCORES}
    ids: list[str] = []
    counts = []
    selection = CountedDetections()
    for whole in run.rows.without("masks", "keypoints").batches():
        batch = whole.kept(selection)
        ids += [image.image_id for image in batch.images]
        for name, score in SCORES.items():
            scores[name].append(score(batch))
        edges = (np.arange(len(batch.images) + 1), _RANGES)
        counts.append(np.histogram2d(batch.image, batch.score, edges)[0])
    place = {image_id: n for n, image_id in enumerate(ids)}
    order = [place[pair.image_id] for pair in gathered.pairs]
    return Data(
        corrections.astype(float),
        threshold,
        {name: np.concatenate(parts)[order] for name, parts in scores.items()},
        np.concatenate(counts)[order],
    )


def fitted(counts: Floats, corrections: Floats) -> Floats:
    """The weight of each range of scores, by ridge regression."""
    centered = counts - counts.mean(0)
    weights: Floats = np.linalg.solve(
        centered.T @ centered + 10 * np.eye(counts.shape[1]), centered.T @ (corrections - corrections.mean())
    )
    return weights


def add_regression(sets: dict[str, Data]) -> None:
    """Add the score `regression`, fitted on other images."""
    scenes = [name for name in sets if name.startswith("scenes")]
    for name, data in sets.items():
        if name in scenes:
            other = sets[scenes[(scenes.index(name) + 1) % len(scenes)]]
            data.scores["regression"] = data.counts @ fitted(other.counts, other.corrections)
            continue
        fold = np.arange(len(data.corrections)) % 10
        score = np.zeros(len(fold))
        for held_out in range(10):
            weights = fitted(data.counts[fold != held_out], data.corrections[fold != held_out])
            score[fold == held_out] = data.counts[fold == held_out] @ weights
        data.scores["regression"] = score


def gains(score: Floats, tie: Floats, corrections: Floats) -> tuple[float, float]:
    """Corrections on half of the images, and corrections per minute on them, relative to a random order."""
    half = len(score) // 2
    found = corrections[np.lexsort((tie, -score))[:half]].sum()
    expected = corrections.mean() * half
    rate, random_rate = (n / (IMAGE_S * half + CORRECTION_S * n) for n in (found, expected))
    return found / expected, rate / random_rate


def measure(data: Data, resamples: int) -> dict[str, tuple[Floats, Floats]]:
    """`(1 + resamples, 2)` gains of each score, of all images first, and their differences from `work`."""
    random = np.random.default_rng(0)
    images = len(data.corrections)
    samples = [np.arange(images), *(random.integers(0, images, images) for _ in range(resamples))]
    ties = [random.random(images) for _ in samples]
    scores = {**data.scores, "perfect knowledge": data.corrections}
    table = {
        name: np.array([gains(score[s], tie, data.corrections[s]) for s, tie in zip(samples, ties, strict=True)])
        for name, score in scores.items()
    }
    # Ties matter, so the figure of all images is the mean of many orders of them.
    for name, score in scores.items():
        table[name][0] = np.mean([gains(score, random.random(images), data.corrections) for _ in range(50)], axis=0)
    return {name: (values, values - table["work"]) for name, values in table.items()}


def make(to: Path, images: int) -> dict[str, tuple[Path, Path]]:
    """Label the scenes and the photos; each run with its truth, by name."""
    common = {"runner": "local", "quiet": True, "progress": False}
    made = {}
    for seed in SEEDS:
        scenes = make_scenes(to / f"scenes-{seed}", images, seed)
        run = to / f"run-scenes-{seed}"
        prelabel.label(to / f"scenes-{seed}", detector="demo-shapes", output=run, **common)
        made[f"scenes {seed}"] = run, Path(scenes.truth)
    for name, (model, options) in DETECTORS.items():
        if (ASSETS / "models" / model).is_dir():
            run = to / f"run-{name}"
            prelabel.label(PHOTOS, detector=ASSETS / "models" / model, output=run, **common, **options)
            made[f"photos, {name}"] = run, TRUTH
    return made


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, help="keep the runs there")
    parser.add_argument("--images", type=int, default=300, help="scenes of each seed")
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--table", action="store_true", help="also print a table in Markdown")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sets = {name: read(*place) for name, place in make(given.to or Path(temporary), given.images).items()}
    add_regression(sets)
    figures: list[Figure] = []
    lines = [
        "| images | score | on half of the images | more than `work` | per minute | more than `work` |",
        "|---" * 6 + "|",
    ]
    for name, data in sets.items():
        for score, (values, differences) in measure(data, given.resamples).items():
            low, high = np.percentile(differences[1:], [2.5, 97.5], axis=0)
            cells = [
                cell
                for n in (0, 1)
                for cell in (
                    f"{values[0, n]:.3f}",
                    "" if score == "work" else f"{differences[0, n]:+.3f} ({low[n]:+.3f} to {high[n]:+.3f})",
                )
            ]
            lines.append(f"| {name} | {score} | " + " | ".join(cells) + " |")
            if score in ("work", "uncertainty", "regression", "perfect knowledge"):
                needed = NEEDED if score == "uncertainty" else None
                note = f"on half of the images {values[0, 0]:.3f} x; threshold {data.threshold:g}"
                figures.append(figure(f"{name}: {score}, per minute", [float(values[0, 1])], "x", note=note))
                if needed is not None:
                    more = [float(differences[0, 1])]
                    figures.append(figure(f"{name}: {score} less work, per minute", more, "x", at_least=needed))
    if given.table:
        print("\n".join(lines))
    costs = {"image_s": IMAGE_S, "correction_s": CORRECTION_S, "resamples": given.resamples}
    report("choosing", figures, setup={**costs, "images": {name: len(data.corrections) for name, data in sets.items()}})


if __name__ == "__main__":
    main()
