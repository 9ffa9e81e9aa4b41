"""Changes to a stored plan, when the source has changed: new files for the shards concerned, under new names.

    plan-00000-1a2b3c4d.parquet   shards 0..999      no image has changed: this file stays part of the plan
    plan-01000-1a2b3c4d.parquet   shards 1000..1999  replaced by plan-01000-5e6f7a8b.parquet, also shards 1000..1999

A shard keeps its number, even if it has lost all its images. The old files stay until the run is finished again:
`run.json` names either the old ones or the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from prelabel.image_ref import ImageRef
from prelabel.storage.address import Address, AddressLike
from prelabel.storage.files import Storage
from prelabel.store.plan import PLAN_FOLDER, Plan, PlanPart, PlanWriter, remove_parts


def update_plan(
    plan: Plan,
    output: AddressLike,
    storage: Storage,
    shards: Collection[int],
    edit: Callable[[int, Sequence[ImageRef]], Sequence[ImageRef]],
    *,
    plan_id: str,
) -> tuple[PlanPart, ...]:
    """Write the parts of a plan that contain changed shards, one shard in memory at a time.

    Args:
        plan: The plan as it is; none of its files is changed.
        output: Root of the run's output.
        storage: Opens the output.
        shards: The changed shards.
        edit: Returns the new images of one of these shards, from its number and its images.
        plan_id: Eight hexadecimal digits in the names of the new files.

    Returns:
        The parts of the new plan, for `run.json`: new ones, and those without a changed shard as they are.

    Raises:
        StoreError: A part cannot be read or written. The new parts are removed, as after any other failure.
    """
    parts: list[PlanPart] = []
    written: list[PlanPart] = []
    changed = set(shards)
    try:
        for part in plan.parts:
            numbers = range(part.first_shard, part.first_shard + part.shards)
            if changed.isdisjoint(numbers):
                parts.append(part)
                continue
            writer = PlanWriter(Address.of_folder(output).join(PLAN_FOLDER), storage, part.first_shard, plan_id)
            for shard, refs in zip(numbers, plan.shards_of(part), strict=True):
                writer.add(edit(shard, refs) if shard in changed else refs)
            writer.publish()
            written += writer.parts
            parts += writer.parts
    except BaseException:
        remove_parts(written, output, storage)
        raise
    return tuple(parts)
