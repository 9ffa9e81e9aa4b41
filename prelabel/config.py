"""The options of `prelabel label`, defined once for the command line, job files and `prelabel.label(...)`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prelabel.mapping_files import read_mapping
from prelabel.options import (
    ACTIVATIONS,
    INPUT_LAYOUTS,
    INPUT_RANGES,
    MASK_FRAMES,
    Document,
    Options,
    convert_all,
    default_of,
    fields_of,
    flag_of,
    former_names,
    from_mapping,
    group_of,
    option,
    require,
    values_of,
)
from prelabel.select import Selection
from prelabel.storage.address import absolute, redact
from prelabel.views import ViewOptions

#: Ways to run workers.
RUNNERS = ("auto", "local", "ray")

#: Ways to run the model.
OPTIMIZE = ("exact", "auto", "off")


#: Optional outputs of a model that can be stored in the shards.
KEEP = ("multiclass-scores",)


@dataclass(frozen=True, kw_only=True)
class LabelOptions(Options):
    """What a run labels, with which detector, where it writes, and how it works.

    Raises:
        ConfigError: A value is not allowed; the message names the option, the value and the allowed values.
    """

    selection: Selection = group_of(Selection)
    view_options: ViewOptions = group_of(ViewOptions)
    source: tuple[str, ...] = option(
        (),
        "Images: folders or prefixes (read recursively), globs, files, archives (.tar, .zip, .tfrecord, .parquet with "
        "the bytes of images), lists (.txt, .csv, .jsonl, .parquet with a `uri` column), COCO JSON or Label Studio "
        "projects, on disk or at any fsspec URL (s3://, gs://, abfs://, https://).",
        missing="no source given: name at least one folder, file, list or URL of images",
        affects="plan",
        first=True,
    )
    detector: str = option(
        "",
        "Use this detector: a name from `prelabel detectors`; the URL, archive, folder or prefix of a SavedModel; or "
        "package.module:factory, a detector in Python.",
        metavar="DETECTOR",
        missing="no --detector given: name one; `prelabel detectors` lists those known by name",
        first=True,
    )
    output: str = option(
        "",
        "Write the run (plan, shards, manifest) to this folder or storage prefix.",
        metavar="OUT",
        missing="no --output given: name the folder or storage prefix to write the run to",
        first=True,
    )

    image_root: str | None = option(
        None,
        "Resolve relative entries of lists and COCO files against this folder or prefix (default: the list's folder).",
        metavar="URL",
        affects="plan",
        heading="Images",
    )
    image_column: str | None = option(
        None,
        "Parquet files: read the bytes of images from this column, or their addresses from `uri` (default: whichever "
        "the file has). TFRecords: read the bytes from this feature (default: `image/encoded` or `image`).",
        metavar="NAME",
        affects="plan",
    )
    sniff: bool = option(
        False,
        "Also find images in files without a known extension (.dat, or none), by their first bytes.",
        affects="plan",
    )
    images: str = option(
        "",
        "Label only the images of the sources that are in this list: a .txt file of ids, or a .csv, .jsonl or .parquet "
        "file with a column `image_id`. `prelabel select` writes such lists.",
        metavar="LIST",
        affects="plan",
        first=True,
    )
    part: str = option(
        "",
        "Use only the entries of --images whose column `part` has this value.",
        metavar="NAME",
        affects="plan",
        first=True,
    )
    limit: int | None = option(
        None, "Label only the first N images.", metavar="N", min=1, affects="plan", heading="Images"
    )
    storage_options: dict[str, Any] = option(
        {},
        "Pass options (keys, endpoints) to the file systems of remote URLs, as JSON, for all or per protocol. Never "
        "stored.",
        metavar="JSON",
        secret=True,
        heading="Storage",
    )
    max_pixels: int = option(
        178_956_970,
        "Fail images with more pixels than this, before allocating memory for them.",
        min=1,
        affects="failures",
        heading="Images",
    )
    max_bytes: int = option(
        512 * 2**20, "Fail files with more bytes than this, without reading them.", min=1, affects="failures"
    )
    allow_truncated: bool = option(
        False, "Accept truncated files; the missing part stays gray or black.", affects="failures"
    )
    decode_scale: str = option(
        "full",
        "Decode large JPEGs at full size, or (`auto`) at 1/2, 1/4 or 1/8 if that leaves at least twice the resolution "
        "at which the model works. Faster, but may move detections.",
        choices=("full", "auto"),
        affects="rows",
    )

    detector_option: dict[str, str] = option(
        {},
        "Pass this keyword argument to the factory of a detector in Python, as text; repeatable. Stored in run.json.",
        metavar="NAME=VALUE",
        affects="rows",
        heading="Detector",
    )
    adapter: Document | None = option(
        None,
        "Read from this file what the model's input and outputs mean, if `label` does not recognize them; `prelabel "
        "inspect --write-adapter` drafts one.",
        metavar="FILE",
        affects="rows",
        heading="Detector",
    )
    label_map: str | None = option(
        None,
        "Read the class names from a .pbtxt, .csv, .json or .txt file, or use the built-in `coco`.",
        metavar="FILE",
        heading="Detector",
    )
    keypoint_names: str | None = option(
        None,
        "Read the names and the skeleton of the detector's keypoints from a COCO dataset or a label map (.pbtxt), or "
        "use the built-in `coco-person` (default: those of the detector or of its label map).",
        metavar="FILE",
        heading="Detector",
    )
    input_range: str | None = option(
        None,
        "Set the pixel range of the model's input (default: read from its graph or format; if that is unclear, the "
        "model is refused).",
        choices=tuple(INPUT_RANGES),
        affects="rows",
    )
    activation: str | None = option(
        None,
        "Set what a classifier returns: probabilities (`softmax` if they sum to 1, `sigmoid` if not), `logits` "
        "(softmax is applied), `multilabel-logits` (sigmoid is applied) or other scores in 0..1 (`none`). Default: "
        "read from its graph; if that is unclear, the model is refused.",
        choices=tuple(ACTIVATIONS),
        affects="rows",
    )
    input_layout: str | None = option(
        None,
        "Set the position of the channels in the model's input (default: read from its signature; if that is unclear, "
        "the model is refused).",
        choices=INPUT_LAYOUTS,
        affects="rows",
    )
    mask_frame: str | None = option(
        None,
        "Set the area that a mask covers: its `box` or the whole `image` (default: derived from its size; if that is "
        "unclear, the model is refused).",
        choices=MASK_FRAMES,
        affects="rows",
    )
    mask_threshold: float = option(
        0.5, "Count pixels with a score above this as part of the mask.", above=0, below=1, affects="rows"
    )
    keep: tuple[str, ...] = option(
        (), f"Also store this output of the model: {', '.join(KEEP)}.", metavar="TENSOR", affects="rows"
    )
    top_k: int = option(
        5,
        "Keep the K best labels per image of a classifier; if its classes are independent, also all others with scores "
        "of at least 0.5.",
        metavar="K",
        min=1,
        affects="rows",
    )
    batch_size: int | None = option(
        None,
        "Give the network N images of equal size at a time, if it takes several (default: 32 for a classifier; for a "
        "detector, 8 on a GPU, and 1 on a CPU, where more gain little).",
        metavar="N",
        min=1,
    )
    streams: int = option(
        1,
        "Run the model on N images, or batches, at the same time in each worker of N CPUs (--cpus-per-worker). On two "
        "CPUs, two streams were up to 8% slower than two workers, with half the memory.",
        metavar="N",
        min=1,
        max=16,
    )
    trust_model: bool = option(
        False,
        "Run the detector even if it is Python code, or a model whose graph reads or writes files, uses the network or "
        "runs Python code.",
        affects="rows",
    )
    optimize: str = option(
        "exact",
        "Run the model with folded constants and the same results (`exact`), as loaded (`off`), or in lower precision "
        "if that is faster and changes no detection on the run's first images (`auto`).",
        choices=OPTIMIZE,
        affects="rows",
    )
    model_cache: str | None = option(
        None, "Keep downloaded models in this folder (default: ~/.cache/prelabel).", metavar="DIR"
    )
    model_mirror: str | None = option(
        None,
        "Download models from this base URL instead of https://tfhub.dev and https://www.kaggle.com (default: "
        "PRELABEL_MODEL_MIRROR).",
        metavar="URL",
        secret=True,
    )

    ray_address: str = option(
        "auto",
        "With Ray (see --runner), use this cluster: `auto` (that of RAY_ADDRESS or the one that runs on this machine, "
        "otherwise a new one), `local` (a new one on this machine), HOST:PORT or ray://HOST:PORT.",
        metavar="ADDRESS",
        heading="Workers",
        was="address",
    )
    runner: str = option(
        "auto",
        "Run workers on `ray`, in `local` processes (no Ray, no GPU), or (`auto`) on Ray if there is a cluster, a "
        "--ray-address or a GPU, otherwise in local processes.",
        choices=RUNNERS,
    )
    workers: int | None = option(
        None, "Run N detectors at the same time (default: as many as fit).", metavar="N", min=1, first=True
    )
    cpus_per_worker: float = option(
        1.0, "Give each worker this many CPUs, TensorFlow threads and decoding threads.", above=0
    )
    gpus_per_worker: float | None = option(
        None,
        "Give each worker G GPUs; with a fraction, workers share a GPU and each gets that part of its memory "
        "(default: 1 if there are GPUs).",
        metavar="G",
    )
    shard_size: int | None = option(
        None,
        "Put N images into each shard (default: up to 512, depending on their number, fewest in the last shards).",
        metavar="N",
        min=1,
        affects="plan",
        heading="Run",
    )
    max_images_per_worker: int | None = option(
        None, "Restart a worker's process after N images.", metavar="N", min=1, heading="Workers"
    )
    stall_timeout: float = option(
        300.0,
        "Replace a worker that finishes no image for this long.",
        metavar="SECONDS",
        above=0,
        unit="seconds",
    )
    shard_timeout: float = option(
        6 * 3600.0,
        "Replace a worker that finishes no shard for this long.",
        metavar="SECONDS",
        above=0,
        unit="seconds",
    )
    max_failed: float | None = option(
        None,
        "Stop the run if more images than this fail: a number, or a share below 1 (0.05), which applies once 100 "
        "images are done.",
        metavar="SHARE|N",
        min=0,
        heading="Run",
    )

    retry_failed: bool = option(
        False,
        "Label the failed images of the run again; higher limits or --allow-truncated may accept more of them.",
        first=True,
    )
    add_new: bool = option(
        False, "Add images that appeared in the source since the run was planned, as new shards.", first=True
    )
    changed: bool = option(
        False,
        "Label the images again that have changed in the source since then (by address, size, ETag, generation or "
        "modification time), and keep all other rows.",
        first=True,
    )
    gone: str | None = option(
        None,
        "Look for images of the run that are no longer in the source: keep their rows, drop them, or turn them into "
        "failed rows (default: keep).",
        choices=("keep", "drop", "fail"),
        first=True,
    )
    overwrite: bool = option(False, "Replace a run that is already in the output.", first=True)

    quiet: bool = option(False, "Print only errors.", heading="Messages")
    log_json: bool = option(False, "Write one JSON object per line to standard error, for log collectors.")

    def __post_init__(self) -> None:
        super().__post_init__()
        gpus = self.gpus_per_worker
        require(
            gpus is None or 0 <= gpus <= 1 or (gpus > 1 and float(gpus).is_integer()),
            f"--gpus-per-worker must be 0, a fraction below 1 or a whole number, got {gpus}",
        )
        require(
            self.runner != "local" or (self.ray_address == "auto" and not self.gpus_per_worker),
            "--runner local uses only the CPUs of this machine: remove --ray-address and --gpus-per-worker",
        )
        limit = self.max_failed
        require(
            limit is None or limit < 1 or float(limit).is_integer(),
            f"--max-failed must be a share below 1 or a whole number of images, got {limit}",
        )
        require(
            self.shard_size is None or self.shard_size <= 100_000,
            f"--shard-size must be at most 100000 (a shard is written from memory), got {self.shard_size}",
        )
        unknown = [name for name in self.keep if name not in KEEP]
        require(not unknown, f"--keep must be one of {', '.join(KEEP)}, got {', '.join(unknown)}")
        require(
            not (self.overwrite and (self.retry_failed or self.compares_source)),
            "--overwrite starts a new run: remove --retry-failed, --add-new, --changed and --gone",
        )
        require(
            not (self.images and self.gone in ("drop", "fail")),
            f"--gone {self.gone} would take images that are not in --images for gone: remove one of them",
        )
        require(
            not (self.limit and self.compares_source),
            "--limit contradicts --add-new, --changed and --gone, which compare the run with the whole source: remove "
            "it or these",
        )
        require(
            not (self.limit and self.images), "--limit and --images contradict each other: shorten the list instead"
        )
        require(not self.part or bool(self.images), "--part needs --images, the list that it is a part of")
        require(
            self.ray_address in ("auto", "local") or re.fullmatch(r"[\w.\-\[\]:/]+", self.ray_address) is not None,
            f"--ray-address must be auto, local, HOST:PORT or ray://HOST:PORT, got {self.ray_address!r}",
        )

    @property
    def compares_source(self) -> bool:
        """Whether the source of an earlier run is listed again, to find what is new, changed or gone."""
        return self.add_new or self.changed or self.gone is not None

    @property
    def needs_working_size(self) -> bool:
        """Whether the working size of the detector decides how images are decoded or which views it sees."""
        return self.decode_scale == "auto" or self.view_options.needs_input_size

    def settings(self) -> dict[str, Any]:
        """The options that must be equal to resume a run, as plain JSON: those that affect rows or the plan.

        The detector and its label map are not included: they are compared by content.
        """
        values = values_of(self)
        settings: dict[str, Any] = {}
        for name, field in fields_of(self).items():
            if field.metadata["affects"] != "nothing":
                value = values[name]
                settings[name] = list(value) if isinstance(value, tuple) else value
        settings["source"] = [redact(absolute(source)) for source in self.source]
        settings["detector_option"] = {name: redact(value) for name, value in self.detector_option.items()}
        settings["image_root"] = redact(absolute(self.image_root)) if self.image_root else None
        settings["images"] = redact(absolute(self.images)) if self.images else ""
        return settings


def differences(
    stored: Mapping[str, Any],
    given: Mapping[str, Any],
    retries: Iterable[Mapping[str, Any]] = (),
    *,
    retry_failed: bool = False,
) -> list[str]:
    """The differences between stored and given settings that prevent resuming a run, one line each.

    A shard size that is not given is taken from the stored run. An option that did not exist when the run started
    counts as having had its default.

    Args:
        stored: Settings that the run started with.
        given: Settings of this call.
        retries: Settings changed by earlier calls with `retry_failed`; their values are accepted, too.
        retry_failed: Whether failed images are retried, which allows raising limits.
    """
    lines = []
    fields = fields_of(LabelOptions)
    changed_before = list(retries)
    for name, now in given.items():
        before = _stored_value(stored, name)
        if before == now or (name == "shard_size" and now is None):
            continue
        line = "; ".join(
            f"{flag_of(name)}{key} was {_as_text(was)}, now {_as_text(value)}"
            for key, was, value in _changes(before, now)
        )
        if fields[name].metadata["affects"] == "failures":
            if any(retry.get(name) == now for retry in changed_before) or (retry_failed and now > before):
                continue
            line += " (below the limit of rows that succeeded)" if now < before else " (add --retry-failed to raise it)"
        lines.append(line)
    return lines


def _changes(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The parts of two values that differ: the path of the part (` input.fit`), or `""` for all, and both values."""
    if isinstance(before, Mapping) and isinstance(now, Mapping) and before and now:
        for name in dict.fromkeys([*before, *now]):
            if before.get(name) != now.get(name):
                yield from _changes(before.get(name), now.get(name), f"{key}.{name}" if key else f" {name}")
    else:
        yield key, before, now


def changed_limits(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values of limits on failed images that differ from the values that the run started with."""
    fields = fields_of(LabelOptions)
    return {
        name: now
        for name, now in given.items()
        if fields[name].metadata["affects"] == "failures" and now != _stored_value(stored, name)
    }


def _stored_value(settings: Mapping[str, Any], name: str) -> Any:
    value = settings.get(name, default_of(fields_of(LabelOptions)[name]))
    return list(value) if isinstance(value, tuple) else value


def _as_text(value: Any) -> str:
    if value in (None, [], {}):
        return "not given"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 200 else text[:200] + "..."


def load_job_file(path: str) -> dict[str, Any]:
    """The options of a YAML or TOML job file as a dict. Raises ConfigError for a missing or invalid file."""
    suffix = Path(path).suffix.lower()
    require(suffix in (".yaml", ".yml", ".toml"), f"{path}: a job file must have the extension .yaml, .yml or .toml")
    require(Path(path).is_file(), f"job file {path}: no such file")
    return read_mapping(Path(path))


def label_options(values: Mapping[str, Any], *, config: str | None = None) -> LabelOptions:
    """The options from values and a job file; the values override the file.

    Raises:
        ConfigError: A key is unknown, a value is not allowed, or the job file cannot be read.
    """
    merged: dict[str, Any] = {}
    if config is not None:
        job = load_job_file(config)
        # Check the file alone, so that its errors are reported even for options that `values` override. Required
        # options are checked last, since `values` can supply those that the file lacks.
        convert_all(LabelOptions, job, config)
        merged = {_current_name(key): value for key, value in job.items()}
        for key in values:
            merged.pop(_current_name(key), None)
    merged.update(values)
    return from_mapping(LabelOptions, merged, "label")


def _current_name(key: str) -> str:
    name = key.replace("-", "_")
    return former_names(LabelOptions).get(name, name)
