"""The options of `prelabel fuse`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prelabel.options import default_of, fields_of, flag_of, group_of, option, require, values_of
from prelabel.select import Selection
from prelabel.views import MergeOptions


@dataclass(frozen=True, kw_only=True)
class FuseOptions(MergeOptions):
    """Which runs are fused, with which weights, where the new run is written, and which detections it keeps.

    Raises:
        ConfigError: A value is not allowed; the message names the option, the value and the allowed values.
    """

    selection: Selection = group_of(Selection)
    runs: tuple[str, ...] = option(
        (),
        "Finished runs over the same images: folders or storage prefixes that `label --output` or `fuse --to` wrote.",
        missing="no run given: name at least two finished runs",
    )
    to: str = option(
        "",
        "Write the new run to this folder or storage prefix.",
        metavar="OUT",
        missing="no --to given: name the folder or storage prefix to write the new run to",
        first=True,
    )
    weights: tuple[float, ...] = option(
        (),
        "Weigh the runs, in their order (4,1): merged scores and boxes are weighted means (default: 1 for each).",
        metavar="WEIGHTS",
        above=0,
        affects="rows",
        first=True,
    )
    merge: str = option(
        "wbf",
        "Merge overlapping boxes of a class into their mean (`wbf`, weighted boxes fusion, which lowers the score of a "
        "box that not all runs have), into the best of them (`nms`) or into their union (`nmm`).",
        choices=("wbf", "nms", "nmm"),
        affects="rows",
        first=True,
    )
    merge_iou: float = option(
        0.55,
        "Merge boxes that overlap by more than this IoU.",
        metavar="IOU",
        above=0,
        below=1,
        affects="rows",
        first=True,
    )
    overwrite: bool = option(False, "Replace a run that is already in the output.", first=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(self.runs)
        require(count > 1, f"fuse needs at least two runs, got {count}: {', '.join(self.runs)}")
        require(
            not self.weights or len(self.weights) == count,
            f"--weights must be one number per run, {count} in total, got {len(self.weights)}",
        )
        require(
            not self.weights or self.merge == "wbf",
            f"--weights has no effect with --merge {self.merge}, which keeps the best score: remove it, or use wbf",
        )
        object.__setattr__(self, "weights", self.weights or (1.0,) * count)

    def settings(self) -> dict[str, Any]:
        """The options that must be equal to resume, as plain JSON: those that affect rows. Runs are recorded apart."""
        values = values_of(self)
        return {
            name: list(values[name]) if isinstance(values[name], tuple) else values[name]
            for name, field in fields_of(self).items()
            if field.metadata["affects"] != "nothing"
        }


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The options whose values differ from the recorded ones, in words; one that was not recorded had its default."""
    fields = fields_of(FuseOptions)
    return [
        f"{flag_of(name)} was {before}, now {now}"
        for name, now in given.items()
        if (before := stored.get(name, _plain(default_of(fields[name])))) != now
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
