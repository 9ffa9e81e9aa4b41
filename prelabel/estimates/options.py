"""The options of an estimate: those of the run, and how to sample it and what machines cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prelabel.config import LabelOptions, label_options
from prelabel.options import Options, convert_all, group_of, option


@dataclass(frozen=True, kw_only=True)
class EstimateOptions(Options):
    """The run to estimate, and how.

    Raises:
        ConfigError: A value is not allowed; the message names the option, the value and the allowed values.
    """

    run: LabelOptions = group_of(LabelOptions)
    sample: int = option(
        64,
        "Read and decode N random images, and label them as far as a minute allows.",
        metavar="N",
        min=1,
        max=10_000,
        heading="Dry run",
    )
    seed: int = option(0, "Draw the sample with this seed; the same seed draws the same images.", metavar="N", min=0)
    price_per_hour: float | None = option(
        None,
        "Also estimate the price, if one machine costs this per hour, in any currency. A local run uses this machine; "
        "on Ray, a run uses as many machines as its workers fill.",
        metavar="PRICE",
        min=0,
    )


#: The options that are not those of the run.
OWN = tuple(field.name for field in dataclasses.fields(EstimateOptions) if "help" in field.metadata)


def estimate_options(values: Mapping[str, Any], *, config: str | None = None) -> EstimateOptions:
    """The options from values and a job file, which has options of the run only; the values override the file.

    Raises:
        ConfigError: A key is unknown, a value is not allowed, or the job file cannot be read.
    """
    own = {name: value for name, value in values.items() if name in OWN}
    run = label_options({name: value for name, value in values.items() if name not in own}, config=config)
    return EstimateOptions(run=run, **convert_all(EstimateOptions, own, "estimate"))
