"""`select`: chooses which images of a run to review first, and writes them as a list for `--images`.

With a budget of 10 images and a fifth of it set aside, the list is

    rank     1     2     3       4     5     6     7     8       9     10
    part     work  work  random  work  work  work  work  random  work  work
    score    61    58    7       44    40    39    31    0       31    28

The part `random` is drawn from all images first, so that it says how good the detector is on all of them: images that
were chosen because they need much work do not. It is spread evenly over the list, and in random order, so that it is
such a sample wherever people stop. The rest are the images with the highest scores:

    work          the number of detections, each of which may be one to delete, or may stand beside one to draw
    uncertainty   the sum of how uncertain they are (the entropy of their score, in bits: 1 at 0.5, 0.29 at 0.05)

`benchmarks/choosing.py` compares these and other scores with what people would really have to correct. Everything is
decided by the ids of the images and the seed, so the order of the run and the number of processes do not matter.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from prelabel.errors import ConfigError
from prelabel.export.base import RunInfo, require_distinct_files
from prelabel.export.parallel import UNUSED, SpreadRows, map_parts
from prelabel.export.run_selection import KnownNames
from prelabel.options import Options, group_of, option, require
from prelabel.processes import Processes
from prelabel.select import KEPT, DefaultThreshold, ExportSelection, Selection
from prelabel.storage.address import redact
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.run import Run
from prelabel.store.subset import ImageOrder
from prelabel.triage.image_list import ImageList
from prelabel.triage.options import LIST_FORMATS

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

#: The part that is drawn from all images.
RANDOM = "random"

#: If half of the images have at least this share of the most detections that any image has, counts tell little.
_FULL = 0.8

_SCHEMA = pa.schema([("image_id", pa.string()), ("rank", pa.int64()), ("score", pa.float64()), ("part", pa.string())])


def _entropy(score: npt.NDArray[np.float32]) -> Floats:
    """The entropy of each score, in bits."""
    right = np.clip(score.astype(np.float64), 1e-9, 1 - 1e-9)
    entropy: Floats = -(right * np.log2(right) + (1 - right) * np.log2(1 - right))
    return entropy


#: What each detection adds to the score of its image, by its own score.
SCORES: Mapping[str, Callable[[npt.NDArray[np.float32]], Floats]] = {
    "work": lambda score: np.ones(len(score)),
    "uncertainty": _entropy,
}


@dataclass(frozen=True, kw_only=True)
class CountedDetections(ExportSelection):
    """The selection rules of exports, except that by default all detections that runs usually keep are counted."""

    score_threshold: float = option(
        DefaultThreshold(KEPT),
        "Count only detections with at least this score.",
        metavar="SCORE",
        min=0,
        max=1,
        heading="Selection",
    )


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions(Options):
    """Options of `select`."""

    selection: CountedDetections = group_of(CountedDetections)
    budget: int | None = option(
        None,
        "Choose N images in total.",
        metavar="N",
        min=1,
        missing="no --budget given: name the number of images that people can review",
        heading="Choice",
        first=True,
    )
    by: str = option(
        "uncertainty",
        "Choose the images with the most uncertain detections (uncertainty), with the most detections (work), or at "
        "random (random).",
        choices=(*SCORES, RANDOM),
        first=True,
    )
    keep_aside: float = option(
        0.1,
        "Draw this share of the budget at random from all images, as an unbiased test set: the part `random`.",
        metavar="SHARE",
        min=0,
        below=1,
        first=True,
    )
    seed: int = option(0, "Set the random seed; the same seed chooses the same images.", metavar="N", min=0, first=True)
    skip: tuple[str, ...] = option(
        (),
        "Leave out the images in this list, such as that of an earlier `select`; repeatable.",
        metavar="LIST",
        first=True,
    )


@dataclass(frozen=True, kw_only=True)
class ImageChoice:
    """The result of a choice.

    Attributes:
        to: Path or URL of the list, without secrets.
        images: Number of images in the list.
        parts: Number of images by part.
        available: Number of images that could be chosen.
        failed: Number of images of the run that failed, which are never chosen.
        skipped: Number of images left out by `skip`.
        warnings: What the user should know, one line each.
    """

    to: str
    images: int
    parts: Mapping[str, int]
    available: int
    failed: int = 0
    skipped: int = 0
    warnings: tuple[str, ...] = field(default=(), repr=False)


def choose_images(
    run: Run, to: str, options: ChoiceOptions, processes: Processes, progress: Callable[[int, int], None]
) -> ImageChoice:
    """Choose which images of a finished run to review first, and write the list.

    Args:
        run: The finished run.
        to: Absolute path or URL of the list; the extension decides how it is written.
        options: How many images, and by what.
        processes: Read the run.
        progress: Called with the number of images read and the total.

    Raises:
        ConfigError: The extension is unknown, an option names a class that the detector does not have, a list of
            `skip` does not fit the run, or nothing can be chosen.
        StoreError: The run is corrupt, or the list cannot be written.
    """
    require(to.lower().endswith(LIST_FORMATS), f"--to must be a list ({', '.join(LIST_FORMATS)}), got {redact(to)!r}")
    require_distinct_files(options, {"to": to}, read=("skip",), run=run.output)
    info = RunInfo.of(run)
    names = KnownNames(options.selection, info.classes, info.kept)
    scores, ok, order = _read(SpreadRows(run.rows, processes, progress), options, names)
    skipped = _in_lists(run, options.skip)
    candidates = np.flatnonzero(ok & ~skipped)
    require(len(candidates) > 0, "there is no image to choose: all of the run's images failed or are in --skip")
    require(
        options.by == RANDOM or bool(scores[candidates].any()),
        f"--by {options.by} counts detections, but the run has none on these images: use --by {RANDOM}",
    )
    chosen, at_random = choose(scores, order, candidates, options)
    ids = _ids_at(run, chosen)
    parts = [RANDOM if is_random else options.by for is_random in at_random.tolist()]
    content = _CONTENTS[to[to.rindex(".") :].lower()](ids, scores[chosen].tolist(), parts)
    run.storage.publish(to, content)
    short = int(options.budget or 0) - len(chosen)
    note = f"--budget is {options.budget:,}, but only {len(candidates):,} images can be chosen" if short else ""
    return ImageChoice(
        to=redact(to),
        images=len(chosen),
        parts={part: parts.count(part) for part in dict.fromkeys((options.by, RANDOM)) if part in parts},
        available=len(candidates),
        failed=int((~ok).sum()),
        skipped=int(skipped.sum()),
        warnings=(*names.warnings, *([note] if note else []), *_full_note(scores[candidates], options.by)),
    )


def choose(
    scores: Floats, order: npt.NDArray[np.uint64], candidates: Indices, options: ChoiceOptions
) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """Choose images.

    Args:
        scores: `(N,)` the score of each image.
        order: `(N,)` a random number of each image, which also decides between equal scores.
        candidates: `(M,)` the positions of the images that can be chosen.
        options: Budget, share and kind.

    Returns:
        `(K,)` the positions of the chosen images in the order of the list, and whether each was drawn at random.
    """
    total = min(int(options.budget or 0), len(candidates))
    drawn = candidates[np.argsort(order[candidates], kind="stable")]
    aside = total if options.by == RANDOM else round(total * options.keep_aside)
    if options.by != RANDOM and options.keep_aside > 0:
        aside = min(max(aside, 1), total)
    rest = drawn[aside:]
    best = rest[np.argsort(-scores[rest], kind="stable")][: total - aside]
    # The middle of each of `aside` equal stretches of the list.
    places = ((2 * np.arange(aside) + 1) * total // (2 * aside)).astype(np.intp) if aside else np.empty(0, np.intp)
    at_random: npt.NDArray[np.bool_] = np.zeros(total, bool)
    at_random[places] = True
    chosen = np.empty(total, np.intp)
    chosen[at_random], chosen[~at_random] = drawn[:aside], best
    return chosen, at_random


def _read(
    rows: SpreadRows, options: ChoiceOptions, names: KnownNames
) -> tuple[Floats, npt.NDArray[np.bool_], npt.NDArray[np.uint64]]:
    """Of all images in plan order: the score, whether the image is ok, and a random number."""
    needed = rows.without("masks", "keypoints", *UNUSED)
    parts = list(map_parts(needed, partial(_part, options.by, options.selection, options.seed, names)))
    for part in parts:
        names.add(part.names)
    return (
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.ok for part in parts]),
        np.concatenate([part.order for part in parts]),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    scores: Floats
    ok: npt.NDArray[np.bool_]
    order: npt.NDArray[np.uint64]
    names: KnownNames


def _part(by: str, selection: Selection, seed: int, names: KnownNames, batches: Iterable[DetectionBatch]) -> _Part:
    scores, ok, order, seen = [np.empty(0)], [np.empty(0, bool)], [np.empty(0, np.uint64)], names.fresh()
    for batch in batches:
        seen.see(batch.label, batch.mid)
        scores.append(image_scores(batch.kept(selection), by))
        ok.append(~np.array(batch.failed, bool))
        order.append(np.array([_random(seed, image.image_id) for image in batch.images], np.uint64))
    return _Part(np.concatenate(scores), np.concatenate(ok), np.concatenate(order), seen)


def image_scores(batch: DetectionBatch, by: str) -> Floats:
    """`(images,)` the score of each image, from the detections of the batch; 0 for `random`."""
    if by == RANDOM:
        return np.zeros(len(batch.images))
    scores: Floats = np.bincount(batch.image, SCORES[by](batch.score), minlength=len(batch.images)).astype(np.float64)
    return scores


def _random(seed: int, image_id: str) -> int:
    key = f"{seed}\0{image_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")


def _in_lists(run: Run, lists: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Whether each image is in one of these lists, in plan order."""
    listed = np.zeros(run.record.images, bool)
    if lists:
        planned = ImageOrder.of(run.plan().digests())
        for path in lists:
            listed[ImageList.read(path, "", run.storage, "--skip").positions_in(planned, run)] = True
    return listed


def _ids_at(run: Run, positions: Indices) -> list[str]:
    """The ids of the images at these positions of the plan, in the given order."""
    wanted = {int(position): place for place, position in enumerate(positions)}
    ids = [""] * len(positions)
    for position, ref in enumerate(run.plan()):
        if position in wanted:
            ids[wanted[position]] = ref.image_id
    return ids


def _full_note(scores: Floats, by: str) -> Iterator[str]:
    """A note if most images have nearly the most detections: then their number says little about the work."""
    if by == "work" and len(scores) >= 10 and np.median(scores) >= max(_FULL * scores.max(), 10):
        yield (
            f"half of the images have {np.median(scores):.0f} detections or more and none has more than "
            f"{scores.max():.0f}, so their number says little: use --by uncertainty, or a higher --score-threshold"
        )


def _parquet(ids: Sequence[str], scores: Sequence[float], parts: Sequence[str]) -> bytes:
    sink = io.BytesIO()
    columns = [list(ids), list(range(1, len(ids) + 1)), list(scores), list(parts)]
    pq.write_table(pa.table(columns, schema=_SCHEMA), sink, compression="zstd")
    return sink.getvalue()


def _csv(ids: Sequence[str], scores: Sequence[float], parts: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_SCHEMA.names)
    writer.writerows(zip(ids, range(1, len(ids) + 1), map(_number, scores), parts, strict=True))
    return text.getvalue().encode()


def _jsonl(ids: Sequence[str], scores: Sequence[float], parts: Sequence[str]) -> bytes:
    rows = zip(ids, range(1, len(ids) + 1), scores, parts, strict=True)
    lines = (json.dumps(dict(zip(_SCHEMA.names, row, strict=True)), ensure_ascii=False) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def _txt(ids: Sequence[str], scores: Sequence[float], parts: Sequence[str]) -> bytes:
    for image_id in ids:
        if "\n" in image_id or image_id.endswith("\r") or not image_id.strip():
            raise ConfigError(f"image {image_id!r} cannot be written to a .txt list: use .csv or .parquet")
    return "".join(f"{image_id}\n" for image_id in ids).encode()


def _number(score: float) -> str:
    return f"{score:.6g}"


_CONTENTS: Mapping[str, Callable[[Sequence[str], Sequence[float], Sequence[str]], bytes]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".txt": _txt,
}
