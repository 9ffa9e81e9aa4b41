"""Every option of `prelabel label`, once: for the command line, the job file and `prelabel.label(...)`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prelabel.mapping_files import read_mapping
from prelabel.options import (
    ACTIVATIONS,
    INPUT_LAYOUTS,
    INPUT_RANGES,
    MASK_FRAMES,
    default_of,
    fields_of,
    from_mapping,
    option,
    require,
)
from prelabel.select import Selection
from prelabel.storage import absolute, redact

_SOURCE, _DETECTOR, _RUN, _AGAIN, _SAID = "Images", "Detector", "Workers", "Going on", "What is said"

#: What workers can run on.
RUNNERS = ("auto", "local", "ray")

#: How the network is run.
OPTIMIZE = ("exact", "auto", "off")


#: Optional tensors of a detector that can be kept in the shards.
KEEP = ("multiclass-scores",)


@dataclass(frozen=True, kw_only=True)
class LabelOptions(Selection):
    """What a run labels, with what, where to, and how.

    Raises:
        ConfigError: A value makes no sense; the message names the option, the value and what would be right.
    """

    source: tuple[str, ...] = option(
        (), "Directories, prefixes, globs, files, lists or COCO JSON, on any fsspec address.", affects="plan"
    )
    detector: str = option("", "Catalogue name, URL, archive, directory or prefix of a SavedModel.", metavar="D")
    output: str = option(
        "", "Where plan, shards and manifest go: a directory or an object-store prefix.", metavar="OUT"
    )

    image_root: str | None = option(
        None,
        "Folder or prefix that relative entries of lists and COCO files are below (default: the list's own folder).",
        type="str",
        metavar="URL",
        group=_SOURCE,
        affects="plan",
    )
    sniff: bool = option(
        False,
        "Look into files in folders whose ending says nothing (.dat, none), and take those that begin like pictures; "
        "costs a small read for each.",
        group=_SOURCE,
        affects="plan",
    )
    limit: int | None = option(
        None, "Take only the first N images.", type="int", metavar="N", group=_SOURCE, affects="plan"
    )
    storage_options: dict[str, Any] = option(
        {},
        "JSON for the file systems of remote addresses (keys, endpoints), for all or by protocol. Never stored.",
        type="json",
        metavar="JSON",
        group=_SOURCE,
        secret=True,
    )
    max_pixels: int = option(
        178_956_970, "Images with more pixels fail before memory is taken.", group=_SOURCE, affects="failures"
    )
    max_bytes: int = option(512 * 2**20, "Files with more bytes fail unread.", group=_SOURCE, affects="failures")
    allow_truncated: bool = option(
        False,
        "Take files whose end is missing; what is missing stays grey or black.",
        group=_SOURCE,
        affects="failures",
    )
    decode_scale: str = option(
        "full",
        "Large JPEGs: `full`, or `auto` to decode them at 1/2, 1/4 or 1/8 where that leaves twice what the detector "
        "looks at. Faster; may move detections a little.",
        choices=("full", "auto"),
        group=_SOURCE,
        affects="rows",
    )

    label_map: str | None = option(
        None,
        "Names of the classes: a .pbtxt, .csv, .json or .txt file, or `coco`.",
        type="str",
        metavar="FILE",
        group=_DETECTOR,
    )
    input_range: str | None = option(
        None,
        "Range of the pixels that the network takes (default: what its graph or format says; else it is refused).",
        type="str",
        choices=tuple(INPUT_RANGES),
        group=_DETECTOR,
        affects="rows",
    )
    activation: str | None = option(
        None,
        "What the rows of a classifier are: probabilities (`softmax` if they sum to 1, `sigmoid` if not), `logits` "
        "(softmax is applied), `multilabel-logits` (sigmoid is applied), or other scores in 0..1 (`none`) "
        "(default: what its graph says; else it is refused).",
        type="str",
        choices=tuple(ACTIVATIONS),
        group=_DETECTOR,
        affects="rows",
    )
    input_layout: str | None = option(
        None,
        "Where the network's images have their channels (default: what its signature says; else it is refused).",
        type="str",
        choices=INPUT_LAYOUTS,
        group=_DETECTOR,
        affects="rows",
    )
    mask_frame: str | None = option(
        None,
        "What a mask shows: its `box` or the whole `image` (default: what its size says; else it is refused).",
        type="str",
        choices=MASK_FRAMES,
        group=_DETECTOR,
        affects="rows",
    )
    mask_threshold: float = option(0.5, "A pixel belongs to a mask above this.", group=_DETECTOR, affects="rows")
    keep: tuple[str, ...] = option(
        (),
        f"Also keep a tensor of the network: {', '.join(KEEP)}.",
        metavar="TENSOR",
        group=_DETECTOR,
        affects="rows",
    )
    top_k: int = option(5, "Labels an image gets from a classifier.", group=_DETECTOR, affects="rows")
    trust_model: bool = option(
        False,
        "Run a model although its graph reads or writes files, uses the network or runs Python code.",
        group=_DETECTOR,
        affects="rows",
    )
    optimize: str = option(
        "exact",
        "How the network is run: `exact` (constants folded, the same answers), `off` (as loaded), or `auto`: in fewer "
        "digits where that is faster and, on the run's first images, changes no detection.",
        choices=OPTIMIZE,
        group=_DETECTOR,
        affects="rows",
    )
    model_cache: str | None = option(
        None, "Where fetched models are kept (default: ~/.cache/prelabel).", type="str", metavar="DIR", group=_DETECTOR
    )

    address: str = option(
        "auto",
        "Ray: `auto` (the cluster this runs in, else this machine), `local`, or an address.",
        metavar="ADDRESS",
        group=_RUN,
    )
    runner: str = option(
        "auto",
        "What workers run on: `ray`, `local` (processes of this machine, without Ray and GPUs), or `auto`: Ray where "
        "there is a cluster, an --address or a GPU, else local.",
        choices=RUNNERS,
        group=_RUN,
    )
    workers: int | None = option(
        None, "Detectors at work at the same time (default: as many as fit).", type="int", metavar="N", group=_RUN
    )
    cpus_per_worker: float = option(1.0, "CPUs of a worker, and its TensorFlow and decoding threads.", group=_RUN)
    gpus_per_worker: float | None = option(
        None,
        "GPUs of a worker; a fraction shares one and limits TensorFlow's memory to it (default: 1 if there are any).",
        type="float",
        metavar="G",
        group=_RUN,
    )
    shard_size: int | None = option(
        None,
        "Images a shard (default: from the number of images, 4 to 512).",
        type="int",
        metavar="N",
        group=_RUN,
        affects="plan",
    )
    max_images_per_worker: int | None = option(
        None, "Replace a worker's process after so many images.", type="int", metavar="N", group=_RUN
    )
    stall_timeout: float = option(
        300.0, "A worker that finishes no image for so many seconds is replaced.", metavar="SECONDS", group=_RUN
    )

    shard_timeout: float = option(
        6 * 3600.0,
        "A worker that finishes no shard for so many seconds is replaced.",
        metavar="SECONDS",
        group=_RUN,
    )
    max_failed: float | None = option(
        None,
        "End the run when more images fail: below 1 a share (0.05, judged from 100 images on), else a number.",
        type="float",
        metavar="SHARE|N",
        group=_RUN,
    )

    retry_failed: bool = option(
        False,
        "Run the failed images of a run again; --max-pixels, --max-bytes and --allow-truncated may let more through.",
        group=_AGAIN,
    )
    add_new: bool = option(False, "Plan images that the source has got since, as new shards.", group=_AGAIN)
    overwrite: bool = option(False, "Start anew where the output holds another run.", group=_AGAIN)

    quiet: bool = option(False, "Say nothing but errors.", group=_SAID)
    log_json: bool = option(False, "One JSON object a line on standard error, for log collectors.", group=_SAID)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.source), "name at least one source of images")
        require(bool(self.detector), "name a detector (--detector); `prelabel detectors` lists the known ones")
        require(bool(self.output), "say where the output goes (--output)")
        for name in ("limit", "workers", "shard_size", "max_images_per_worker", "top_k", "max_pixels", "max_bytes"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name.replace('_', '-')} must be 1 or more, got {value}")
        require(0 < self.mask_threshold < 1, f"mask-threshold must be between 0 and 1, got {self.mask_threshold}")
        require(self.cpus_per_worker > 0, f"cpus-per-worker must be above 0, got {self.cpus_per_worker}")
        gpus = self.gpus_per_worker
        require(
            gpus is None or 0 <= gpus <= 1 or (gpus > 1 and float(gpus).is_integer()),
            f"gpus-per-worker must be 0, a fraction below 1 or a whole number, got {gpus}",
        )
        require(
            self.runner != "local" or (self.address == "auto" and not self.gpus_per_worker),
            "runner local is processes of this machine on its CPUs: it goes with neither address nor gpus-per-worker",
        )
        require(self.stall_timeout > 0, f"stall-timeout must be above 0 seconds, got {self.stall_timeout}")
        require(self.shard_timeout > 0, f"shard-timeout must be above 0 seconds, got {self.shard_timeout}")
        limit = self.max_failed
        require(
            limit is None or 0 <= limit < 1 or float(limit).is_integer(),
            f"max-failed must be a share from 0 to below 1 or a whole number of images, got {limit}",
        )
        require(
            self.shard_size is None or self.shard_size <= 100_000,
            f"shard-size must be at most 100000 (a shard is written from memory), got {self.shard_size}",
        )
        unknown = [name for name in self.keep if name not in KEEP]
        require(not unknown, f"keep knows {', '.join(KEEP)}, got {', '.join(unknown)}")
        again = [name for name in ("retry_failed", "add_new", "overwrite") if getattr(self, name)]
        require(
            not (self.overwrite and len(again) > 1), "overwrite starts anew: it cannot go with retry-failed or add-new"
        )
        require(not (self.limit and self.add_new), "limit and add-new contradict each other")
        require(
            self.address in ("auto", "local") or re.fullmatch(r"[\w.\-\[\]:/]+", self.address) is not None,
            f"address must be auto, local, HOST:PORT or ray://HOST:PORT, got {self.address!r}",
        )

    def settings(self) -> dict[str, Any]:
        """What a run is continued with only when it is equal: the options that change rows or plan, as plain JSON.

        The detector and its label map are not here: they are compared by content.
        """
        values = asdict(self)
        settings: dict[str, Any] = {}
        for name, field in fields_of(self).items():
            if field.metadata["affects"] != "nothing":
                value = values[name]
                settings[name] = list(value) if isinstance(value, tuple) else value
        settings["source"] = [redact(absolute(source)) for source in self.source]
        settings["image_root"] = redact(absolute(self.image_root)) if self.image_root else None
        return settings


def differences(
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
    retries: Iterable[Mapping[str, Any]] = (),
    *,
    retry_failed: bool = False,
) -> list[str]:
    """Settings in which a stored run and the wanted one differ so that one cannot go on with the other, one line each.

    A shard size that nobody stated is taken over from the stored run; an option that did not exist when the run began
    had its default.

    Args:
        stored: As the run was begun.
        wanted: As it would go on.
        retries: What was changed when failed images were run again: the run may go on so, too.
        retry_failed: Whether failed images are run again: limits may be raised for them.
    """
    lines = []
    fields = fields_of(LabelOptions)
    changed_before = list(retries)
    for name, now in wanted.items():
        was = _stored(stored, name)
        if was == now or (name == "shard_size" and now is None):
            continue
        line = f"{name.replace('_', '-')} was {_shown(was)}, now {_shown(now)}"
        if fields[name].metadata["affects"] == "failures":
            if any(retry.get(name) == now for retry in changed_before) or (retry_failed and now > was):
                continue
            line += " (less than rows that are ok had)" if now < was else " (more is for --retry-failed)"
        lines.append(line)
    return lines


def raised(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The limits in which the wanted settings differ from those a run was begun with: they concern failed images."""
    fields = fields_of(LabelOptions)
    return {
        name: now
        for name, now in wanted.items()
        if fields[name].metadata["affects"] == "failures" and now != _stored(stored, name)
    }


def _stored(settings: Mapping[str, Any], name: str) -> Any:
    value = settings.get(name, default_of(fields_of(LabelOptions)[name]))
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    if value in (None, [], {}):
        return "not given"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 200 else text[:200] + "..."


def load_job_file(path: str) -> dict[str, Any]:
    """The options of a YAML or TOML job file as a dict. Raises ConfigError for a missing or damaged file."""
    suffix = Path(path).suffix.lower()
    require(suffix in (".yaml", ".yml", ".toml"), f"{path}: a job file ends in .yaml, .yml or .toml")
    return read_mapping(Path(path))


def label_options(values: Mapping[str, Any], *, config: str | None = None) -> LabelOptions:
    """Options from what was stated (which wins) and a job file.

    Raises:
        ConfigError: An unknown key, a value that makes no sense, a job file that cannot be read.
    """
    merged: dict[str, Any] = {}
    if config is not None:
        job = load_job_file(config)
        # What is wrong in the file is found in the file as it stands, before the command line covers it.
        from_mapping(_AnyLabelOptions, job, config)
        merged.update({key.replace("-", "_"): value for key, value in job.items()})
    merged.update(values)
    return from_mapping(LabelOptions, merged, "label")


@dataclass(frozen=True, kw_only=True)
class _AnyLabelOptions(LabelOptions):
    """A job file may leave out what the command line gives."""

    def __post_init__(self) -> None:
        pass
