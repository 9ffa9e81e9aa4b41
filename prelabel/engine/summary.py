"""How a run ended, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prelabel.engine.progress import LostWorker
from prelabel.storage import Storage
from prelabel.store.shards import ShardRecord, dropped_example, failure_example

#: Error classes of rows that speak of workers, not of the image: the run did not go well.
LOST = ("WorkerDied", "WorkerHung")

#: Error classes of which a summary shows an image.
_MOST_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended.

    Attributes:
        output: Where it is.
        images: Rows in all, of this and earlier calls.
        failed: Failed images among them.
        failures: Their number by error class.
        examples: One failed image of each class and what was wrong with it, in words; of the first few classes.
        lost: Images that failed because their worker died or hung; not 0 means that the run did not go well.
        detections: Detections in all.
        labelled: Images that this call worked on.
        skipped_shards: Shards found finished and sound.
        wall_s: Seconds of this call.
        label_s: Seconds from the first worker's being ready to the last shard.
        workers: Most workers at work at the same time.
        runner: What they ran on: `"local"` (processes of this machine) or `"ray"`.
        busy: Share of the labelling time, 0 to 1, in which a worker's model was at work, over all workers; the rest
            went by waiting for pictures and for shards to be written.
        seconds: Seconds by stage (list, read, decode, detect, encode, write) summed over workers, of this call.
        optimization: How the network was run, in words.
        dropped: Detections that were left out because a number of theirs was not finite, or their box has no size
            inside the image.
        dropped_example: The first image with such a detection, or `""`.
        lost_workers: Workers of this call that died, hung, were lost or were left out, in order.
        notes: What somebody should know who reads the run: outputs of the network that are not used, options that
            contradict it, classes without a name.
    """

    output: str
    images: int
    failed: int
    failures: Mapping[str, int]
    examples: Mapping[str, str]
    lost: int
    detections: int
    labelled: int
    skipped_shards: int
    wall_s: float
    label_s: float
    workers: int
    runner: str
    busy: float
    seconds: Mapping[str, float]
    optimization: str
    dropped: int = 0
    dropped_example: str = ""
    lost_workers: tuple[LostWorker, ...] = ()
    notes: Sequence[str] = ()

    @property
    def images_per_s(self) -> float:
        """Images of this call per second of its labelling time."""
        return self.labelled / self.label_s if self.label_s > 0 else 0.0


def failure_examples(shards: Sequence[ShardRecord], output: str, storage: Storage) -> dict[str, str]:
    """The first failed image of each error class, for a person; one shard is read for each. Raises StoreError."""
    wanted = {name: shard for shard in reversed(shards) for name in shard.failures}
    return {name: failure_example(wanted[name], name, output, storage) for name in sorted(wanted)[:_MOST_EXAMPLES]}


def first_dropped(shards: Sequence[ShardRecord], output: str, storage: Storage) -> str:
    """The first image with detections that were left out, or `""`; one shard is read for it. Raises StoreError."""
    shard = next((record for record in shards if record.dropped), None)
    return "" if shard is None else dropped_example(shard, output, storage)


def unnamed_notes(shards: Sequence[ShardRecord]) -> list[str]:
    """A line where detections are called by a number that the label map does not have, as after an error of one."""
    counts: Counter[str] = Counter()
    for shard in shards:
        counts.update(shard.unnamed)
    if not counts:
        return []
    shown = ", ".join(f"{number} ({count:,} x)" for number, count in counts.most_common(_MOST_EXAMPLES))
    more = f" and {len(counts) - _MOST_EXAMPLES} more" if len(counts) > _MOST_EXAMPLES else ""
    return [f"the label map does not have the classes {shown}{more}: is it the detector's, and are its numbers?"]
