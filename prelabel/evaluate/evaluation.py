"""`evaluate`: a finished run against the truth, from reading to the result that all reports are made from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from prelabel.evaluate.coco_scores import CocoScores, coco_scores, require_pycocotools
from prelabel.evaluate.confusion import Confusion, confusion
from prelabel.evaluate.gather import ClassCounts, gather
from prelabel.evaluate.options import EvaluateOptions
from prelabel.evaluate.outcomes import Ranking, outcomes, ranking
from prelabel.evaluate.pairing import ImageCounts
from prelabel.evaluate.thresholds import Cut, at
from prelabel.evaluate.truth import read_truth
from prelabel.evaluate.work import ClassWork, Work, work
from prelabel.export.kept import beyond_kept
from prelabel.export.reading import Rows, RunInfo
from prelabel.select import KEPT, Selection
from prelabel.storage import Storage
from prelabel.store.run import ClassName

#: Thresholds at which evaluation.json states precision and recall.
GRID = tuple(number / 20 for number in range(20))

#: What lies below this changes little: a run that kept less is said to be missing some, and AP to be lower for it.
LOW_ENOUGH = KEPT


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What came out.

    Attributes:
        info: The run.
        truth: Address of the truth, as it may be shown.
        iou: From which overlap on a box is right (thresholds, work, confusion).
        images: How images were matched.
        classes: How classes were matched.
        boxes: COCO's figures of boxes.
        masks: COCO's figures of masks, or None where there are none on a side.
        rankings: Detections by descending score, by class.
        together: The same of all classes.
        work: Thresholds compared.
        confusion: At the suggested thresholds.
        given: Whether thresholds were to be compared.
        notes: What the user should know, one line each.
    """

    info: RunInfo
    truth: str
    iou: float
    images: ImageCounts
    classes: ClassCounts
    boxes: CocoScores
    masks: CocoScores | None
    rankings: Mapping[str, Ranking]
    together: Ranking
    work: Work
    confusion: Confusion
    given: bool
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As it stands in `evaluation.json`."""
        return {
            "schema_version": 1,
            "run": {
                "run_id": self.info.run_id,
                "detector": self.info.detector,
                "model_version": self.info.model_version,
            },
            "truth": self.truth,
            "images": asdict(self.images),
            "classes": {
                "matched": {
                    name: [asdict(one) for one in members] for name, members in self.classes.matched.items() if members
                },
                "only_run": self.classes.only_run,
                "only_truth": list(self.classes.only_truth),
            },
            "boxes": asdict(self.boxes),
            "masks": None if self.masks is None else asdict(self.masks),
            "thresholds": {
                "iou": self.iou,
                "common": self.work.common.threshold,
                "all": _curve_json(self.together),
                "by_class": {name: _curve_json(one) for name, one in self.rankings.items()},
            },
            "work": self._work_json(),
            "confusion": [
                {"truth": true, "run": found, "count": count}
                for (true, found), count in sorted(self.confusion.counts.items(), key=lambda item: -item[1])
            ],
            "notes": list(self.notes),
        }

    def _work_json(self) -> dict[str, Any]:
        done = self.work
        schemes = ("suggested", "f1", "flat", *(("given",) if self.given else ()))
        return {
            "images": done.images,
            "objects": done.objects,
            "by_hand_per_100_images": _short(done.per_100(done.objects)),
            "total": {
                **{scheme: self._cut_json(done.total(scheme)) for scheme in (*schemes, "separate")},
                "common": self._cut_json(done.common),
            },
            "recommended": done.recommended,
            "headline": {
                "corrections_per_100_images": _short(done.per_100(done.headline.corrections)),
                "unseen_images": done.unseen is not None,
            },
            "unseen": None
            if done.unseen is None
            else {
                f"{scheme}_per_100_images": _short(done.per_100(cut.corrections))
                for scheme, cut in {"suggested": done.headline, **done.unseen}.items()
            },
            "relabel": self.confusion.relabel,
            "by_class": {
                name: {
                    "objects": one.objects,
                    "by_hand_per_100_images": _short(done.per_100(one.objects)),
                    "own_threshold": one.own,
                    **{scheme: self._scheme_json(one, scheme) for scheme in schemes},
                }
                for name, one in done.by_class.items()
            },
        }

    def _scheme_json(self, one: ClassWork, scheme: str) -> dict[str, Any] | None:
        cut = getattr(one, scheme)
        return None if cut is None else self._cut_json(cut)

    def _cut_json(self, cut: Cut) -> dict[str, Any]:
        return {
            "threshold": None if math.isnan(cut.threshold) else cut.threshold,
            "right": cut.right,
            "delete": cut.delete,
            "draw": cut.draw,
            "corrections_per_100_images": _short(self.work.per_100(cut.corrections)),
            **_rates(cut),
        }


def evaluate(info: RunInfo, rows: Rows, options: EvaluateOptions, storage: Storage) -> Evaluation:
    """Hold a run against the truth. Failed images count as images on which nothing was found.

    Args:
        info: The run.
        rows: Begins reading its rows, each time it is called.
        options: What it is held against, and how.
        storage: Opens the truth.

    Raises:
        ConfigError: pycocotools is missing, there is no truth, or an option names a class the detector does not have.
        EvaluateError: The truth is no COCO dataset, or no image or no class of both sides is the same.
    """
    require_pycocotools()
    truth = read_truth(options.truth, storage, options.truth_labels)
    gathered = gather(info, rows, truth, options)
    pairs, categories = gathered.pairs, gathered.categories
    every = outcomes(pairs, options.iou)
    floors = {one.name: _floor(gathered.classes.matched[one.name], info, options) for one in categories}
    rankings = {one.name: replace(ranking(every, one.id), floor=floors[one.name]) for one in categories}
    together = replace(ranking(every), floor=min(floors.values(), default=0.0))
    given = None
    if options.compare:
        kept = outcomes([replace(pair, found=pair.found.only_compared()) for pair in pairs], options.iou)
        given = {one.name: ranking(kept, one.id) for one in categories}
    done = work(rankings, together, given)
    return Evaluation(
        info=info,
        truth=truth.shown,
        iou=options.iou,
        images=gathered.images,
        classes=gathered.classes,
        boxes=coco_scores(pairs, categories, "bbox"),
        masks=coco_scores(pairs, categories, "segm") if gathered.masks else None,
        rankings=rankings,
        together=together,
        work=done,
        confusion=confusion(
            every,
            {one.id: one.name for one in categories},
            {one.id: done.by_class[one.name].suggested.threshold for one in categories},
            options.iou,
        ),
        given=given is not None,
        notes=(*gathered.notes, *_score_notes(info, together, options)),
    )


def _floor(classes: Iterable[ClassName], info: RunInfo, options: EvaluateOptions) -> float:
    """Below which score nothing of a class is among what is evaluated, so that no lower threshold can be judged."""
    rules = [options, *([info.kept] if info.kept is not None else [])]
    return max((one.threshold_of(each.name, each.mid) for each in classes for one in rules), default=0.0)


def _score_notes(info: RunInfo, together: Ranking, options: EvaluateOptions) -> list[str]:
    if not len(together.score):
        return ["no detection was kept: nothing was found in the truth's classes"]
    if options.class_threshold or options.score_threshold > 0:
        return [
            "detections below the class-threshold and score-threshold given were left out before all else",
            *beyond_kept(options, info.kept, info.classes),
        ]
    # Where nobody wrote down what the run kept, its lowest score tells.
    kept = info.kept or Selection(score_threshold=float(together.score[-1]))
    lines = beyond_kept(replace(options, score_threshold=LOW_ENOUGH), kept, info.classes)
    meaning = "AP is lower than that of a run made at --score-threshold 0.01, and so may be the best thresholds"
    return [*lines, meaning] if lines else []


def _curve_json(one: Ranking) -> list[dict[str, Any]]:
    return [{"threshold": threshold, **_rates(at(one, threshold))} for threshold in GRID]


def _rates(cut: Cut) -> dict[str, float | None]:
    return {
        name: _short(value) for name, value in (("precision", cut.precision), ("recall", cut.recall), ("f1", cut.f1))
    }


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
