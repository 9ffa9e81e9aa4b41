"""The images that a call would label, counted, and a random sample of them."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from prelabel.engine.schedule import LabelTask
from prelabel.errors import RunInterrupted
from prelabel.image_ref import ImageRef
from prelabel.source.formats import NO_EXTENSION
from prelabel.store.links import Links
from prelabel.store.plan import Plan


@dataclass(frozen=True, slots=True)
class ImagesLeft:
    """The images that a call would label.

    Attributes:
        images: Number of images.
        bytes: Total size of the files whose size the listing reports.
        unsized: Number of images whose size the listing does not report.
        extensions: Number of images by extension in lower case, most frequent first.
        sample: The sample, in random order; in that of the plan if some images lie in archives, which are read forward.
        links: Full addresses by position in `sample`, of images whose address in the plan lacks a secret.
    """

    images: int
    bytes: int
    unsized: int
    extensions: Mapping[str, int]
    sample: tuple[ImageRef, ...]
    links: Mapping[int, str]


def survey(
    plan: Plan,
    tasks: Sequence[LabelTask],
    links: Links,
    size: int,
    seed: int,
    kept: Callable[[LabelTask, Sequence[ImageRef]], Collection[str]],
    stop: threading.Event,
) -> ImagesLeft:
    """Count the images of tasks, and draw a sample: every image is equally likely, and the same seed draws the same.

    Args:
        plan: The images of each shard.
        tasks: The shards that are left.
        links: Full addresses of the plan's images.
        size: Number of images to draw; fewer if there are not as many.
        seed: Of the random numbers.
        kept: Returns the ids of a task's images that are not labeled again, from the task and all its images.
        stop: Ends the survey when set.

    Raises:
        RunInterrupted: `stop` was set.
        StoreError: The plan cannot be read.
    """
    rng = random.Random(seed)  # noqa: S311 - a sample, not a secret
    drawn: list[tuple[int, ImageRef, str | None]] = []
    extensions: Counter[str] = Counter()
    images = total = unsized = 0
    for ref, link in _images_of(plan, tasks, links, kept, stop):
        # Algorithm R: each image so far is in the sample with the same probability.
        if images < size:
            drawn.append((images, ref, link))
        elif (place := rng.randrange(images + 1)) < size:
            drawn[place] = images, ref, link
        images += 1
        total += ref.size or 0
        unsized += ref.size is None
        extensions[PurePosixPath(ref.file_name).suffix.lower() or NO_EXTENSION] += 1
    rng.shuffle(drawn)
    if any(ref.location is not None for _, ref, _ in drawn):
        drawn.sort(key=lambda image: image[0])
    return ImagesLeft(
        images=images,
        bytes=total,
        unsized=unsized,
        extensions=dict(extensions.most_common()),
        sample=tuple(ref for _, ref, _ in drawn),
        links={position: link for position, (_, _, link) in enumerate(drawn) if link is not None},
    )


def _images_of(
    plan: Plan,
    tasks: Sequence[LabelTask],
    links: Links,
    kept: Callable[[LabelTask, Sequence[ImageRef]], Collection[str]],
    stop: threading.Event,
) -> Iterator[tuple[ImageRef, str | None]]:
    """Yield the images of tasks, each with its full address if that differs from the one in the plan."""
    for task in tasks:
        if stop.is_set():
            raise RunInterrupted("stopped while the images were being counted; nothing was written")
        refs, full = plan.read(task.shard), links.of(task.shard)
        done = kept(task, refs)
        for position, ref in enumerate(refs):
            if ref.image_id not in done and not ref.is_gone:
                yield ref, full.get(position)
