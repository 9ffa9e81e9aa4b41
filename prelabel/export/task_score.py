"""One score for a prediction from the scores of its regions; Label Studio can serve the lowest first."""

from __future__ import annotations

from collections.abc import Sequence


def task_score(scores: Sequence[float], how: str) -> float:
    """A score in 0..1.

    Args:
        scores: Of the regions, each in 0..1.
        how: `mean`, `min`, `max`, or `uncertainty`: the mean of `|2 * score - 1|`, which is 0 where every region is as
            likely right as wrong and 1 where all are sure; so the tasks that teach a model most come first.

    Returns:
        Without regions 0 (everything may be missing on such an image), for `uncertainty` 1 (nothing is in doubt).
    """
    if not scores:
        return 1.0 if how == "uncertainty" else 0.0
    if how == "uncertainty":
        scores = [abs(2 * score - 1) for score in scores]
        how = "mean"
    value = {"mean": sum(scores) / len(scores), "min": min(scores), "max": max(scores)}[how]
    return min(round(value, 6), 1.0)
