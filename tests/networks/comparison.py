"""Label photos with a network that a library exported, and compare with what the library itself predicts.

A script that runs in the library's environment gets a folder and the paths of the photos, and writes to the folder

    model/             the exported SavedModel
    predictions.json   {"library": "KerasHub 0.32.0", "images": {"a.png": {...}, ...}}

For each photo, `predictions.json` has `xyxy` (pixels of the photo), `score` and `category_id`, each with one entry per
detection in any order; optionally `mask` (COCO's compressed RLE counts of the size of the photo) and `keypoints`
(`[[x, y, score], ...]` per detection, pixels of the photo).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from prelabel.detections import Detections
from prelabel.storage.files import Storage
from prelabel.store.run import open_run
from tests.tools.environment import missing

ROOT = Path(__file__).parents[2]

#: What makes two detections the same one, and how many of them show that two pieces of code agree.
MIN_IOU, MAX_SCORE_DIFFERENCE, MIN_BOXES = 0.99, 0.001, 20

#: Share of the detections that only one side may find. Whether a box is suppressed can depend on the last digit of its
#: IoU with another one.
MAX_ALONE = 0.002

#: Largest distance of a keypoint, in shares of the longer side of the photo.
MAX_POINT_DISTANCE = 0.001

_TIMEOUT_S = 900

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Comparison:
    """What `prelabel label` and the library found on the same photos.

    Attributes:
        library: Name and version.
        family: What prelabel takes the model for.
        command: The options of `prelabel label`.
        photos: Number of photos.
        boxes: Number of pairs of detections of the same class.
        fewest: The smallest number of pairs on a photo.
        smallest_iou: Of the boxes of a pair; 0 if there is no pair.
        score_difference: The largest of a pair.
        missed: Detections of the library without a counterpart, as `photo class score`.
        added: Detections of prelabel without a counterpart.
        smallest_mask_iou: Of the masks of a pair; None without masks.
        mean_mask_iou: Of all pairs; None without masks.
        point_distance: The largest between keypoints of a pair, in shares of the longer side; None without keypoints.
    """

    library: str
    family: str
    command: str
    photos: int
    boxes: int
    fewest: int
    smallest_iou: float
    score_difference: float
    missed: tuple[str, ...]
    added: tuple[str, ...]
    smallest_mask_iou: float | None = None
    mean_mask_iou: float | None = None
    point_distance: float | None = None

    @property
    def row(self) -> str:
        """A row of the table, in Markdown."""
        differences = [f"IoU {self.smallest_iou:.4f}", f"score {self.score_difference:.1g}"]
        if self.smallest_mask_iou is not None:
            differences.append(f"mask IoU {self.smallest_mask_iou:.4f}, mean {self.mean_mask_iou:.4f}")
        if self.point_distance is not None:
            differences.append(f"keypoints {self.point_distance:.1g} of the photo's longer side")
        if self.missed or self.added:
            differences.append(f"{len(self.missed)} + {len(self.added)} found by one side only")
        cells = (self.library, self.family, f"`{self.command}`", f"{self.boxes:,}", ", ".join(differences))
        return f"| {' | '.join(cells)} |"


HEADER = "| library | recognized as | options | boxes compared | largest difference |\n|---|---|---|---|---|"

#: What was compared in this session, for the summary.
COMPARISONS: list[Comparison] = []


def make_network(
    environment: str, script: str, folder: Path, photos: Sequence[Path], *arguments: str, **variables: str
) -> Path:
    """Run a script of this folder in the environment `.venv-networks-ENVIRONMENT`; return the folder it wrote to.

    Args:
        environment: The end of the environment's name. The test is skipped, or fails, if it is not there.
        script: Its file name.
        folder: Where `model` and `predictions.json` are written.
        photos: What the library predicts.
        arguments: Given to the script before folder and photos.
        variables: For its environment.
    """
    python = ROOT / f".venv-networks-{environment}" / "bin" / "python"
    if not python.exists():
        missing(f"no environment with the library at {python}: make test-networks", "NETWORKS_REQUIRED")
    folder.mkdir(parents=True, exist_ok=True)
    command = [python, Path(__file__).with_name(script), *arguments, folder, *photos]
    # Libraries keep settings in the home folder, and read them from there.
    with tempfile.TemporaryDirectory() as home:
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        clean |= {"HOME": home, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", **variables}
        _run(command, clean)
    return folder


def compare(folder: Path, photos: Sequence[Path], *options: str, threshold: float = 0.0) -> Comparison:
    """Label the photos with `folder/model`, and compare with `folder/predictions.json`.

    Args:
        folder: Where the script wrote.
        photos: The same as the script got.
        options: More options of `prelabel label`.
        threshold: Detections with lower scores are left out on both sides.
    """
    predictions = json.loads((folder / "predictions.json").read_text())
    command = ["--detector", str(folder / "model"), *options, "--score-threshold", f"{threshold:g}"]
    output = str(folder / "run")
    source = str(photos[0].parent)
    whole = [sys.executable, "-m", "prelabel", "label", source, *command, "--output", output, "--workers", "1"]
    _run([*whole, "--overwrite", "--quiet"], dict(os.environ))
    run = open_run(output, Storage())
    pairs: list[Pairs] = []
    for row in run.rows():
        assert row.detections is not None, f"{row.file_name}: {row.error}"
        pairs.append(pair_detections(row.file_name, row.detections, predictions["images"][row.file_name], threshold))
    assert len(pairs) == len(photos) == len(predictions["images"])
    comparison = Comparison(
        library=predictions["library"],
        family=run.record.detector.convention,
        command=" ".join(["--detector", "FOLDER", *(Path(option).name for option in options)]),
        photos=len(pairs),
        boxes=sum(len(each.iou) for each in pairs),
        fewest=min(len(each.iou) for each in pairs),
        smallest_iou=min((float(each.iou.min(initial=1)) for each in pairs if len(each.iou)), default=0.0),
        score_difference=max(float(each.score_difference.max(initial=0)) for each in pairs),
        missed=tuple(text for each in pairs for text in each.missed),
        added=tuple(text for each in pairs for text in each.added),
        smallest_mask_iou=_over_all(min, [each.mask_iou for each in pairs]),
        mean_mask_iou=_over_all(fmean, [each.mask_iou for each in pairs]),
        point_distance=_over_all(max, [each.distance for each in pairs]),
    )
    COMPARISONS.append(comparison)
    return comparison


def assert_same(
    comparison: Comparison, *, mask_iou: tuple[float, float] = (0.95, 0.95), max_alone: float = MAX_ALONE
) -> None:
    """Assert that prelabel and the library found the same, and enough of it to tell.

    Args:
        comparison: What both found.
        mask_iou: The lowest IoU that a mask, and the mean of all, may have.
        max_alone: Share of the detections that only one side may find.
    """
    for side, alone in (("the library", comparison.missed), ("prelabel", comparison.added)):
        assert len(alone) <= max_alone * comparison.boxes, f"{side} alone found {len(alone)}: {alone[:10]}"
    assert comparison.fewest >= MIN_BOXES
    assert comparison.smallest_iou >= MIN_IOU
    assert comparison.score_difference <= MAX_SCORE_DIFFERENCE
    if comparison.smallest_mask_iou is not None:
        assert comparison.smallest_mask_iou >= mask_iou[0]
        assert comparison.mean_mask_iou >= mask_iou[1]
    if comparison.point_distance is not None:
        assert comparison.point_distance <= MAX_POINT_DISTANCE


@dataclass(frozen=True)
class Pairs:
    """Pairs of detections of one photo, and the detections without a counterpart."""

    iou: Array
    score_difference: Array
    missed: tuple[str, ...]
    added: tuple[str, ...]
    mask_iou: Array | None
    distance: Array | None


def pair_detections(name: str, mine: Detections, predicted: Mapping[str, Any], threshold: float) -> Pairs:
    """Pair detections of the same class, those that overlap most first."""
    size = np.array([mine.width, mine.height] * 2)
    # As in every run, boxes end at the edge of the photo, and those beside it are left out.
    xyxy = np.clip(np.array(predicted["xyxy"], np.float64).reshape(-1, 4), 0, size)
    score, number = np.array(predicted["score"], np.float32), np.array(predicted["category_id"], np.int64)
    assert len(xyxy) == len(score) == len(number)
    shown = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1) & (score > 0) & (score >= np.float32(threshold))
    chosen = np.flatnonzero(shown)
    xyxy, score, number = xyxy[chosen], score[chosen], number[chosen]
    iou = _iou(xyxy, mine.xyxy.astype(np.float64))
    difference = np.abs(score[:, None] - mine.score[None])
    possible = (number[:, None] == mine.category_id[None]) & (iou > 0.5) & (difference <= 0.1)
    # Of boxes that overlap equally, those of the more similar scores belong together.
    order = np.argsort(difference - iou, axis=None, kind="stable")
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for theirs, ours in zip(*np.unravel_index(order, iou.shape), strict=True):
        if possible[theirs, ours] and int(theirs) not in partner and int(ours) not in taken:
            partner[int(theirs)] = int(ours)
            taken.add(int(ours))
    first = np.array(list(partner), np.intp)
    second = np.array(list(partner.values()), np.intp)
    alone = [index for index in range(len(score)) if index not in partner]
    unknown = [index for index in range(len(mine)) if index not in taken]
    return Pairs(
        iou[first, second],
        difference[first, second],
        tuple(f"{name} class {number[index]} {score[index]:.4f} {xyxy[index].round(1).tolist()}" for index in alone),
        tuple(
            f"{name} class {mine.category_id[index]} {mine.score[index]:.4f} {mine.xyxy[index].round(1).tolist()}"
            for index in unknown
        ),
        _mask_iou(mine, second, [predicted["mask"][chosen[index]] for index in first]) if "mask" in predicted else None,
        _distance(mine, second, np.array(predicted["keypoints"], np.float64)[chosen[first]])
        if "keypoints" in predicted
        else None,
    )


def _iou(first: Array, second: Array) -> Array:
    """IoU `(N, M)` of boxes `(N, 4)` and `(M, 4)`."""
    first, second = first[:, None], second[None]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = np.clip(sides, 0, None).prod(axis=2)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=2) for boxes in (first, second)]
    iou: Array = shared / np.maximum(areas[0] + areas[1] - shared, 1e-12)
    return iou


def _mask_iou(mine: Detections, indices: Array, masks: Sequence[str]) -> Array:
    """IoU of the masks of pairs."""
    assert mine.mask is not None
    size = [mine.height, mine.width]
    return np.array(
        [
            coco_mask.iou([{"size": size, "counts": mine.mask[index]}], [{"size": size, "counts": mask}], [0])[0, 0]
            for index, mask in zip(indices, masks, strict=True)
        ]
    )


def _distance(mine: Detections, indices: Array, points: Array) -> Array:
    """Distance of the keypoints of pairs, in shares of the longer side; points without a score are left out."""
    assert mine.keypoints is not None
    ours = mine.keypoints[indices].astype(np.float64)
    points = points.reshape(ours.shape)
    both = (ours[..., 2] > 0) & (points[..., 2] > 0)
    assert (np.abs(ours[..., 2] - points[..., 2])[both] <= MAX_SCORE_DIFFERENCE).all()
    assert both.sum() >= (points[..., 2] > MAX_SCORE_DIFFERENCE).sum(), "keypoints are missing"
    distance: Array = np.hypot(*(ours - points)[..., :2][both].T) / max(mine.height, mine.width)
    return distance


def _over_all(function: Callable[[list[float]], float], arrays: Sequence[Array | None]) -> float | None:
    """The result for the numbers of all arrays; None if there are none."""
    values = [float(value) for array in arrays if array is not None for value in array]
    return function(values) if values else None


def _run(command: Sequence[Any], environment: Mapping[str, str]) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
    assert done.returncode == 0, f"{' '.join(words[:4])}: {done.stderr[-3000:]}"
