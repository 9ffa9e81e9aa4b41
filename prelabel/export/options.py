"""Options that several exports have. Imports nothing heavy, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prelabel.options import Options, option

#: Longest list in which annotators still find a class; of a longer list, only the classes that occur are offered.
MANY_CLASSES = 100


@dataclass(frozen=True, kw_only=True)
class KeypointOptions(Options):
    """Which keypoints an export writes."""

    keypoints: bool = option(True, "Write keypoints, if the run has any.", heading="Keypoints")
    keypoint_threshold: float = option(
        0.3, "Write only keypoints with at least this score.", metavar="SCORE", min=0, max=1
    )

    @property
    def lowest_keypoint_score(self) -> float | None:
        """The lowest score of a keypoint that is written; None to write no keypoints."""
        return self.keypoint_threshold if self.keypoints else None


def listing_option(what: str, default: str = "auto", *, every: str = "of the detector", first: bool = True) -> Any:
    """The option which classes a format lists before its images; see `closed_categories`.

    Args:
        what: What is done with them, for its help: "List the labels".
        default: `all`, `present` or `auto`.
        every: Which all of them are.
        first: Whether it is among the options that matter most.
    """
    return option(
        default,
        f"{what} that occur (present), all {every} (all), or all if there are at most {MANY_CLASSES}, else those that "
        "occur (auto).",
        choices=("auto", "present", "all"),
        first=first,
    )


def extracted_option(what: str, *, first: bool = True, heading: str = "") -> Any:
    """The option `--extracted` of commands that can use the files of `prelabel extract`; `what` is done with them."""
    return option(
        "",
        f"{what} the files that `prelabel extract --to` wrote here, instead of the images that were labeled.",
        metavar="DIR|URL",
        first=first,
        heading=heading,
    )
