# Written by `python -m tools.stub` from prelabel/api.py and the options of the commands. Do not edit.

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from prelabel.detections import ClassName as ClassName
from prelabel.detections import Detections as Detections
from prelabel.detectors.base import Detector as Detector
from prelabel.detectors.base import DetectorInfo as DetectorInfo
from prelabel.difference.from_run import DiffSummary as DiffSummary
from prelabel.engine.progress import Reporter as Reporter
from prelabel.engine.progress import Summary as Summary
from prelabel.errors import PrelabelError as PrelabelError
from prelabel.estimates.estimate import Estimate as Estimate
from prelabel.export.base import ExportReport as ExportReport
from prelabel.export.extract import ExtractReport as ExtractReport
from prelabel.fusion.job import FusionSummary as FusionSummary
from prelabel.keypoints import KeypointSet as KeypointSet
from prelabel.label_studio.push import PushReport as PushReport
from prelabel.review.summaries import ComparisonSummary as ComparisonSummary
from prelabel.review.summaries import EvaluationSummary as EvaluationSummary
from prelabel.store.rows import ImageRow as ImageRow
from prelabel.store.run import Run as Run
from prelabel.store.status import RunStatus as RunStatus
from prelabel.store.verify import Verification as Verification
from prelabel.triage.choosing import ImageChoice as ImageChoice

__all__ = [
    "ClassName",
    "ComparisonSummary",
    "Detections",
    "Detector",
    "DetectorInfo",
    "DiffSummary",
    "Estimate",
    "EvaluationSummary",
    "ExportReport",
    "ExtractReport",
    "FusionSummary",
    "ImageChoice",
    "ImageRow",
    "KeypointSet",
    "PrelabelError",
    "PushReport",
    "Run",
    "RunStatus",
    "Summary",
    "Verification",
    "__version__",
    "choose_images",
    "compare",
    "diff",
    "estimate",
    "evaluate",
    "export_coco",
    "export_cvat",
    "export_label_studio",
    "export_voc",
    "export_yolo",
    "extract",
    "fuse",
    "label",
    "open_run",
    "preview",
    "push_label_studio",
    "status",
    "verify",
]

StrPath = str | os.PathLike[str]

__version__: str

def label(
    source: StrPath | Sequence[StrPath],
    *,
    detector: StrPath,
    output: StrPath,
    config: StrPath | None = None,
    progress: bool | None = None,
    reporter: Reporter | None = None,
    score_threshold: float = 0.05,
    class_threshold: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    include_class: str | Sequence[str] | None = None,
    exclude_class: str | Sequence[str] | None = None,
    with_subclasses: bool = False,
    max_detections: int | None = None,
    nms_iou: float | None = None,
    nms_per_class: bool = True,
    most_specific: bool = False,
    class_map: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    roll_up: str | Sequence[str] | None = None,
    merge: Literal["wbf", "nms", "nmm"] = "wbf",
    merge_iou: float = 0.55,
    views: str = "whole",
    tile_size: str = "auto",
    tile_overlap: float = 0.2,
    image_root: StrPath | None = None,
    image_column: str | None = None,
    sniff: bool = False,
    images: StrPath | None = None,
    part: str | None = None,
    limit: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    max_pixels: int = 178956970,
    max_bytes: int = 536870912,
    allow_truncated: bool = False,
    decode_scale: Literal["full", "auto"] = "full",
    detector_option: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    adapter: Mapping[str, Any] | StrPath | None = None,
    label_map: StrPath | None = None,
    keypoint_names: StrPath | None = None,
    input_range: Literal["0..1", "0..255", "-1..1"] | None = None,
    activation: Literal["softmax", "sigmoid", "logits", "multilabel-logits", "none"] | None = None,
    input_layout: Literal["channels-last", "channels-first"] | None = None,
    mask_frame: Literal["box", "image"] | None = None,
    mask_threshold: float = 0.5,
    keep: str | Sequence[str] | None = None,
    top_k: int = 5,
    batch_size: int | None = None,
    streams: int = 1,
    trust_model: bool = False,
    optimize: Literal["exact", "auto", "off"] = "exact",
    model_cache: StrPath | None = None,
    model_mirror: StrPath | None = None,
    ray_address: str = "auto",
    runner: Literal["auto", "local", "ray"] = "auto",
    workers: int | None = None,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float | None = None,
    shard_size: int | None = None,
    max_images_per_worker: int | None = None,
    stall_timeout: float = 300.0,
    shard_timeout: float = 21600.0,
    max_failed: float | None = None,
    retry_failed: bool = False,
    add_new: bool = False,
    changed: bool = False,
    gone: Literal["keep", "drop", "fail"] | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    log_json: bool = False,
) -> Summary:
    """Label images and write one row per image. The same call resumes a run that was stopped.

    Equivalent to `prelabel label`.

    Args:
        source: Folders, prefixes, globs, files, lists or COCO JSON, on a disk or at any fsspec URL, or Label Studio
            projects.
        detector: Name from `prelabel detectors`, the URL, archive, folder or prefix of a SavedModel, or
            `package.module:factory`, a detector in Python.
        output: Folder or storage prefix for the plan, the shards and the manifest.
        config: Job file (YAML or TOML) with options; arguments of this call override it.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        reporter: Receives the progress in place of the progress bar.
        score_threshold: Keep detections with at least this score; exports can choose only among these.
        class_threshold: Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file.
            '*=0.4' applies to all other classes unless score_threshold is given.
        include_class: Keep only this class, by label or MID.
        exclude_class: Drop this class, by label or MID.
        with_subclasses: Apply include_class and exclude_class also to all classes below the named ones in the Open
            Images class tree.
        max_detections: Keep only the N best detections per image.
        nms_iou: Keep only the best box among boxes that overlap by more than this IoU (default: keep all).
        nms_per_class: Apply nms_iou within each class (after class map and roll-up) rather than across classes.
        most_specific: Drop a box that overlaps a box of a class below its own in the Open Images class tree by more
            than nms_iou (0.5 if not given): of Person and Man, keep Man.
        class_map: Rename a class, by label or MID (Dog=pet), or read such pairs from a file. Several classes may get
            one label.
        roll_up: Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if
            several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.
        merge: Merge overlapping boxes of a class into their mean (`wbf`, weighted boxes fusion, which lowers the score
            of a box that few views show), into the best of them (`nms`) or into their union (`nmm`).
        merge_iou: Merge boxes that overlap by more than this IoU.
        views: Show the detector several views of each image and merge what it detects: `whole`, `flip` (mirrored),
            `tiles`, joined by commas; or `auto`: whole, and tiles if the image's shorter side is longer than the
            detector's input, or its longer side more than twice as long.
        tile_size: Make tiles of this size: pixels (640), a share of the image's sides (60%), or 60% but at most the
            detector's input size (`auto`).
        tile_overlap: Let neighboring tiles overlap by at least this share of their size.
        image_root: Resolve relative entries of lists and COCO files against this folder or prefix (default: the list's
            folder).
        image_column: Parquet files: read the bytes of images from this column, or their addresses from `uri` (default:
            whichever the file has). TFRecords: read the bytes from this feature (default: `image/encoded` or `image`).
        sniff: Also find images in files without a known extension (.dat, or none), by their first bytes.
        images: Label only the images of the sources that are in this list: a .txt file of ids, or a .csv, .jsonl or
            .parquet file with a column `image_id`. `prelabel select` writes such lists.
        part: Use only the entries of images whose column `part` has this value.
        limit: Label only the first N images.
        storage_options: Pass options (keys, endpoints) to the file systems of remote URLs, as JSON, for all or per
            protocol. Never stored.
        max_pixels: Fail images with more pixels than this, before allocating memory for them.
        max_bytes: Fail files with more bytes than this, without reading them.
        allow_truncated: Accept truncated files; the missing part stays gray or black.
        decode_scale: Decode large JPEGs at full size, or (`auto`) at 1/2, 1/4 or 1/8 if that leaves at least twice the
            resolution at which the model works. Faster, but may move detections.
        detector_option: Pass this keyword argument to the factory of a detector in Python, as text. Stored in run.json.
        adapter: Read from this file what the model's input and outputs mean, if `label` does not recognize them;
            `prelabel inspect --write-adapter` drafts one.
        label_map: Read the class names from a .pbtxt, .csv, .json or .txt file, or use the built-in `coco`.
        keypoint_names: Read the names and the skeleton of the detector's keypoints from a COCO dataset or a label map
            (.pbtxt), or use the built-in `coco-person` (default: those of the detector or of its label map).
        input_range: Set the pixel range of the model's input (default: read from its graph or format; if that is
            unclear, the model is refused).
        activation: Set what a classifier returns: probabilities (`softmax` if they sum to 1, `sigmoid` if not),
            `logits` (softmax is applied), `multilabel-logits` (sigmoid is applied) or other scores in 0..1 (`none`).
            Default: read from its graph; if that is unclear, the model is refused.
        input_layout: Set the position of the channels in the model's input (default: read from its signature; if that
            is unclear, the model is refused).
        mask_frame: Set the area that a mask covers: its `box` or the whole `image` (default: derived from its size; if
            that is unclear, the model is refused).
        mask_threshold: Count pixels with a score above this as part of the mask.
        keep: Also store this output of the model: multiclass-scores.
        top_k: Keep the K best labels per image of a classifier; if its classes are independent, also all others with
            scores of at least 0.5.
        batch_size: Give the network N images of equal size at a time, if it takes several (default: 32 for a
            classifier; for a detector, 8 on a GPU, and 1 on a CPU, where more gain little).
        streams: Run the model on N images, or batches, at the same time in each worker of N CPUs (cpus_per_worker). On
            two CPUs, two streams were up to 8% slower than two workers, with half the memory.
        trust_model: Run the detector even if it is Python code, or a model whose graph reads or writes files, uses the
            network or runs Python code.
        optimize: Run the model with folded constants and the same results (`exact`), as loaded (`off`), or in lower
            precision if that is faster and changes no detection on the run's first images (`auto`).
        model_cache: Keep downloaded models in this folder (default: ~/.cache/prelabel).
        model_mirror: Download models from this base URL instead of https://tfhub.dev and https://www.kaggle.com
            (default: PRELABEL_MODEL_MIRROR).
        ray_address: With Ray (see runner), use this cluster: `auto` (that of RAY_ADDRESS or the one that runs on this
            machine, otherwise a new one), `local` (a new one on this machine), HOST:PORT or ray://HOST:PORT.
        runner: Run workers on `ray`, in `local` processes (no Ray, no GPU), or (`auto`) on Ray if there is a cluster, a
            ray_address or a GPU, otherwise in local processes.
        workers: Run N detectors at the same time (default: as many as fit).
        cpus_per_worker: Give each worker this many CPUs, TensorFlow threads and decoding threads.
        gpus_per_worker: Give each worker G GPUs; with a fraction, workers share a GPU and each gets that part of its
            memory (default: 1 if there are GPUs).
        shard_size: Put N images into each shard (default: up to 512, depending on their number, fewest in the last
            shards).
        max_images_per_worker: Restart a worker's process after N images.
        stall_timeout: Replace a worker that finishes no image for this long.
        shard_timeout: Replace a worker that finishes no shard for this long.
        max_failed: Stop the run if more images than this fail: a number, or a share below 1 (0.05), which applies once
            100 images are done.
        retry_failed: Label the failed images of the run again; higher limits or allow_truncated may accept more of
            them.
        add_new: Add images that appeared in the source since the run was planned, as new shards.
        changed: Label the images again that have changed in the source since then (by address, size, ETag, generation
            or modification time), and keep all other rows.
        gone: Look for images of the run that are no longer in the source: keep their rows, drop them, or turn them into
            failed rows (default: keep).
        overwrite: Replace a run that is already in the output.
        quiet: Print only errors.
        log_json: Write one JSON object per line to standard error, for log collectors.

    Returns:
        The counts of images, detections and failures, the timings and the workers.

    Raises:
        PrelabelError: See `prelabel.errors`. Finished shards are kept, and the same call resumes the run.
    """

def estimate(
    source: StrPath | Sequence[StrPath],
    *,
    detector: StrPath,
    output: StrPath,
    config: StrPath | None = None,
    progress: bool | None = None,
    reporter: Reporter | None = None,
    score_threshold: float = 0.05,
    class_threshold: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    include_class: str | Sequence[str] | None = None,
    exclude_class: str | Sequence[str] | None = None,
    with_subclasses: bool = False,
    max_detections: int | None = None,
    nms_iou: float | None = None,
    nms_per_class: bool = True,
    most_specific: bool = False,
    class_map: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    roll_up: str | Sequence[str] | None = None,
    merge: Literal["wbf", "nms", "nmm"] = "wbf",
    merge_iou: float = 0.55,
    views: str = "whole",
    tile_size: str = "auto",
    tile_overlap: float = 0.2,
    image_root: StrPath | None = None,
    image_column: str | None = None,
    sniff: bool = False,
    images: StrPath | None = None,
    part: str | None = None,
    limit: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    max_pixels: int = 178956970,
    max_bytes: int = 536870912,
    allow_truncated: bool = False,
    decode_scale: Literal["full", "auto"] = "full",
    detector_option: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    adapter: Mapping[str, Any] | StrPath | None = None,
    label_map: StrPath | None = None,
    keypoint_names: StrPath | None = None,
    input_range: Literal["0..1", "0..255", "-1..1"] | None = None,
    activation: Literal["softmax", "sigmoid", "logits", "multilabel-logits", "none"] | None = None,
    input_layout: Literal["channels-last", "channels-first"] | None = None,
    mask_frame: Literal["box", "image"] | None = None,
    mask_threshold: float = 0.5,
    keep: str | Sequence[str] | None = None,
    top_k: int = 5,
    batch_size: int | None = None,
    streams: int = 1,
    trust_model: bool = False,
    optimize: Literal["exact", "auto", "off"] = "exact",
    model_cache: StrPath | None = None,
    model_mirror: StrPath | None = None,
    ray_address: str = "auto",
    runner: Literal["auto", "local", "ray"] = "auto",
    workers: int | None = None,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float | None = None,
    shard_size: int | None = None,
    max_images_per_worker: int | None = None,
    stall_timeout: float = 300.0,
    shard_timeout: float = 21600.0,
    max_failed: float | None = None,
    retry_failed: bool = False,
    add_new: bool = False,
    changed: bool = False,
    gone: Literal["keep", "drop", "fail"] | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    log_json: bool = False,
    sample: int = 64,
    seed: int = 0,
    price_per_hour: float | None = None,
) -> Estimate:
    """Estimate what `label` would do and take with the same arguments, from a sample. Writes nothing to the output.

    Equivalent to `prelabel label --dry-run`.

    Args:
        source: As for `label`.
        detector: As for `label`.
        output: As for `label`; if it holds an unfinished run, the estimate is for the rest.
        config: Job file (YAML or TOML) with options of `label`; arguments of this call override it.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        reporter: Receives the progress in place of the progress bar.
        score_threshold: Keep detections with at least this score; exports can choose only among these.
        class_threshold: Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file.
            '*=0.4' applies to all other classes unless score_threshold is given.
        include_class: Keep only this class, by label or MID.
        exclude_class: Drop this class, by label or MID.
        with_subclasses: Apply include_class and exclude_class also to all classes below the named ones in the Open
            Images class tree.
        max_detections: Keep only the N best detections per image.
        nms_iou: Keep only the best box among boxes that overlap by more than this IoU (default: keep all).
        nms_per_class: Apply nms_iou within each class (after class map and roll-up) rather than across classes.
        most_specific: Drop a box that overlaps a box of a class below its own in the Open Images class tree by more
            than nms_iou (0.5 if not given): of Person and Man, keep Man.
        class_map: Rename a class, by label or MID (Dog=pet), or read such pairs from a file. Several classes may get
            one label.
        roll_up: Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if
            several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.
        merge: Merge overlapping boxes of a class into their mean (`wbf`, weighted boxes fusion, which lowers the score
            of a box that few views show), into the best of them (`nms`) or into their union (`nmm`).
        merge_iou: Merge boxes that overlap by more than this IoU.
        views: Show the detector several views of each image and merge what it detects: `whole`, `flip` (mirrored),
            `tiles`, joined by commas; or `auto`: whole, and tiles if the image's shorter side is longer than the
            detector's input, or its longer side more than twice as long.
        tile_size: Make tiles of this size: pixels (640), a share of the image's sides (60%), or 60% but at most the
            detector's input size (`auto`).
        tile_overlap: Let neighboring tiles overlap by at least this share of their size.
        image_root: Resolve relative entries of lists and COCO files against this folder or prefix (default: the list's
            folder).
        image_column: Parquet files: read the bytes of images from this column, or their addresses from `uri` (default:
            whichever the file has). TFRecords: read the bytes from this feature (default: `image/encoded` or `image`).
        sniff: Also find images in files without a known extension (.dat, or none), by their first bytes.
        images: Label only the images of the sources that are in this list: a .txt file of ids, or a .csv, .jsonl or
            .parquet file with a column `image_id`. `prelabel select` writes such lists.
        part: Use only the entries of images whose column `part` has this value.
        limit: Label only the first N images.
        storage_options: Pass options (keys, endpoints) to the file systems of remote URLs, as JSON, for all or per
            protocol. Never stored.
        max_pixels: Fail images with more pixels than this, before allocating memory for them.
        max_bytes: Fail files with more bytes than this, without reading them.
        allow_truncated: Accept truncated files; the missing part stays gray or black.
        decode_scale: Decode large JPEGs at full size, or (`auto`) at 1/2, 1/4 or 1/8 if that leaves at least twice the
            resolution at which the model works. Faster, but may move detections.
        detector_option: Pass this keyword argument to the factory of a detector in Python, as text. Stored in run.json.
        adapter: Read from this file what the model's input and outputs mean, if `label` does not recognize them;
            `prelabel inspect --write-adapter` drafts one.
        label_map: Read the class names from a .pbtxt, .csv, .json or .txt file, or use the built-in `coco`.
        keypoint_names: Read the names and the skeleton of the detector's keypoints from a COCO dataset or a label map
            (.pbtxt), or use the built-in `coco-person` (default: those of the detector or of its label map).
        input_range: Set the pixel range of the model's input (default: read from its graph or format; if that is
            unclear, the model is refused).
        activation: Set what a classifier returns: probabilities (`softmax` if they sum to 1, `sigmoid` if not),
            `logits` (softmax is applied), `multilabel-logits` (sigmoid is applied) or other scores in 0..1 (`none`).
            Default: read from its graph; if that is unclear, the model is refused.
        input_layout: Set the position of the channels in the model's input (default: read from its signature; if that
            is unclear, the model is refused).
        mask_frame: Set the area that a mask covers: its `box` or the whole `image` (default: derived from its size; if
            that is unclear, the model is refused).
        mask_threshold: Count pixels with a score above this as part of the mask.
        keep: Also store this output of the model: multiclass-scores.
        top_k: Keep the K best labels per image of a classifier; if its classes are independent, also all others with
            scores of at least 0.5.
        batch_size: Give the network N images of equal size at a time, if it takes several (default: 32 for a
            classifier; for a detector, 8 on a GPU, and 1 on a CPU, where more gain little).
        streams: Run the model on N images, or batches, at the same time in each worker of N CPUs (cpus_per_worker). On
            two CPUs, two streams were up to 8% slower than two workers, with half the memory.
        trust_model: Run the detector even if it is Python code, or a model whose graph reads or writes files, uses the
            network or runs Python code.
        optimize: Run the model with folded constants and the same results (`exact`), as loaded (`off`), or in lower
            precision if that is faster and changes no detection on the run's first images (`auto`).
        model_cache: Keep downloaded models in this folder (default: ~/.cache/prelabel).
        model_mirror: Download models from this base URL instead of https://tfhub.dev and https://www.kaggle.com
            (default: PRELABEL_MODEL_MIRROR).
        ray_address: With Ray (see runner), use this cluster: `auto` (that of RAY_ADDRESS or the one that runs on this
            machine, otherwise a new one), `local` (a new one on this machine), HOST:PORT or ray://HOST:PORT.
        runner: Run workers on `ray`, in `local` processes (no Ray, no GPU), or (`auto`) on Ray if there is a cluster, a
            ray_address or a GPU, otherwise in local processes.
        workers: Run N detectors at the same time (default: as many as fit).
        cpus_per_worker: Give each worker this many CPUs, TensorFlow threads and decoding threads.
        gpus_per_worker: Give each worker G GPUs; with a fraction, workers share a GPU and each gets that part of its
            memory (default: 1 if there are GPUs).
        shard_size: Put N images into each shard (default: up to 512, depending on their number, fewest in the last
            shards).
        max_images_per_worker: Restart a worker's process after N images.
        stall_timeout: Replace a worker that finishes no image for this long.
        shard_timeout: Replace a worker that finishes no shard for this long.
        max_failed: Stop the run if more images than this fail: a number, or a share below 1 (0.05), which applies once
            100 images are done.
        retry_failed: Label the failed images of the run again; higher limits or allow_truncated may accept more of
            them.
        add_new: Add images that appeared in the source since the run was planned, as new shards.
        changed: Label the images again that have changed in the source since then (by address, size, ETag, generation
            or modification time), and keep all other rows.
        gone: Look for images of the run that are no longer in the source: keep their rows, drop them, or turn them into
            failed rows (default: keep).
        overwrite: Replace a run that is already in the output.
        quiet: Print only errors.
        log_json: Write one JSON object per line to standard error, for log collectors.
        sample: Read and decode N random images, and label them as far as a minute allows.
        seed: Draw the sample with this seed; the same seed draws the same images.
        price_per_hour: Also estimate the price, if one machine costs this per hour, in any currency. A local run uses
            this machine; on Ray, a run uses as many machines as its workers fill.

    Returns:
        The images, what the sample shows of them, the workers, the time with its range, the costs, and warnings.

    Raises:
        PrelabelError: `label` would refuse the call, or no worker can label the sample.
    """

def fuse(
    runs: Sequence[StrPath | Run],
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    merge: Literal["wbf", "nms", "nmm"] = "wbf",
    merge_iou: float = 0.55,
    score_threshold: float = 0.05,
    class_threshold: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    include_class: str | Sequence[str] | None = None,
    exclude_class: str | Sequence[str] | None = None,
    with_subclasses: bool = False,
    max_detections: int | None = None,
    nms_iou: float | None = None,
    nms_per_class: bool = True,
    most_specific: bool = False,
    class_map: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    roll_up: str | Sequence[str] | None = None,
    weights: Sequence[float] | str | None = None,
    overwrite: bool = False,
) -> FusionSummary:
    """Merge the detections of finished runs over the same images into a new run. Needs no detector.

    Equivalent to `prelabel fuse`. The same call resumes one that was stopped.

    Args:
        runs: The outputs of `label`, or the opened runs; at least two.
        to: Folder or storage prefix for the new run.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).
        merge: Merge overlapping boxes of a class into their mean (`wbf`, weighted boxes fusion, which lowers the score
            of a box that not all runs have), into the best of them (`nms`) or into their union (`nmm`).
        merge_iou: Merge boxes that overlap by more than this IoU.
        score_threshold: Keep detections with at least this score; exports can choose only among these.
        class_threshold: Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file.
            '*=0.4' applies to all other classes unless score_threshold is given.
        include_class: Keep only this class, by label or MID.
        exclude_class: Drop this class, by label or MID.
        with_subclasses: Apply include_class and exclude_class also to all classes below the named ones in the Open
            Images class tree.
        max_detections: Keep only the N best detections per image.
        nms_iou: Keep only the best box among boxes that overlap by more than this IoU (default: keep all).
        nms_per_class: Apply nms_iou within each class (after class map and roll-up) rather than across classes.
        most_specific: Drop a box that overlaps a box of a class below its own in the Open Images class tree by more
            than nms_iou (0.5 if not given): of Person and Man, keep Man.
        class_map: Rename a class, by label or MID (Dog=pet), or read such pairs from a file. Several classes may get
            one label.
        roll_up: Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if
            several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.
        weights: Weigh the runs, in their order (4,1): merged scores and boxes are weighted means (default: 1 for each).
        overwrite: Replace a run that is already in the output.

    Returns:
        The counts of images and detections, how many runs agree on them, and the classes that only one run knows.

    Raises:
        ConfigError: The runs or an option do not allow it: fewer than two runs, one run twice, a class of unclear
            identity, a run with other settings in `to`.
        StoreError: A run is missing, unfinished or corrupt, or the runs read different files under one `image_id`.
    """

def open_run(
    output: StrPath,
    storage_options: Mapping[str, Any] | None = None,
) -> Run:
    """Open a finished run to read its rows.

    Args:
        output: The output of `label`: a folder or storage prefix.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The run. `run.rows()` iterates over its images in plan order, each with its `detections`.

    Raises:
        StoreError: There is no run, or it is not finished.
    """

def status(
    run: StrPath | Run,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> RunStatus:
    """Read the progress of a run, from any machine, while it runs or afterwards.

    Equivalent to `prelabel status`.

    Args:
        run: The output of `label`, or the opened run.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The state, the counts of images, shards and failures, and the current rate.

    Raises:
        StoreError: There is no run, or it cannot be read.
    """

def verify(
    run: StrPath | Run,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Verification:
    """Check that every planned image has exactly one valid row and that no file is missing, corrupt or left over.

    Equivalent to `prelabel verify`.

    Args:
        run: The output of `label`, or the opened run.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).

    Returns:
        The counts and the list of problems; `complete` is true if there are none.

    Raises:
        StoreError: There is no run, or it cannot be read.
    """

def choose_images(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    score_threshold: float = 0.05,
    class_threshold: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    include_class: str | Sequence[str] | None = None,
    exclude_class: str | Sequence[str] | None = None,
    with_subclasses: bool = False,
    max_detections: int | None = None,
    nms_iou: float | None = None,
    nms_per_class: bool = True,
    most_specific: bool = False,
    class_map: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    roll_up: str | Sequence[str] | None = None,
    budget: int,
    by: Literal["work", "uncertainty", "random"] = "uncertainty",
    keep_aside: float = 0.1,
    seed: int = 0,
    skip: StrPath | Sequence[StrPath] | None = None,
) -> ImageChoice:
    """Choose which images of a run to review first, and write them as a list for the option `images`.

    Equivalent to `prelabel select`.

    Args:
        run: The output of `label`, or the opened run.
        to: The list to write: `.parquet`, `.csv`, `.jsonl` or `.txt`.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).
        score_threshold: Count only detections with at least this score.
        class_threshold: Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file.
            '*=0.4' applies to all other classes unless score_threshold is given.
        include_class: Keep only this class, by label or MID.
        exclude_class: Drop this class, by label or MID.
        with_subclasses: Apply include_class and exclude_class also to all classes below the named ones in the Open
            Images class tree.
        max_detections: Keep only the N best detections per image.
        nms_iou: Keep only the best box among boxes that overlap by more than this IoU (default: keep all).
        nms_per_class: Apply nms_iou within each class (after class map and roll-up) rather than across classes.
        most_specific: Drop a box that overlaps a box of a class below its own in the Open Images class tree by more
            than nms_iou (0.5 if not given): of Person and Man, keep Man.
        class_map: Rename a class, by label or MID (Dog=pet), or read such pairs from a file. Several classes may get
            one label.
        roll_up: Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if
            several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.
        budget: Choose N images in total.
        by: Choose the images with the most uncertain detections (uncertainty), with the most detections (work), or at
            random (random).
        keep_aside: Draw this share of the budget at random from all images, as an unbiased test set: the part `random`.
        seed: Set the random seed; the same seed chooses the same images.
        skip: Leave out the images in this list, such as that of an earlier `select`.

    Returns:
        The path of the list, and the counts of its images by part.

    Raises:
        ConfigError: An option has an invalid value, or nothing can be chosen.
        StoreError: The run is missing, unfinished or corrupt, or the list cannot be written.
    """

def preview(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    keypoints: bool = True,
    keypoint_threshold: float = 0.3,
    images: StrPath | None = None,
    part: str | None = None,
    score_threshold: float = 0.3,
    class_threshold: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    include_class: str | Sequence[str] | None = None,
    exclude_class: str | Sequence[str] | None = None,
    with_subclasses: bool = False,
    max_detections: int | None = None,
    nms_iou: float | None = None,
    nms_per_class: bool = True,
    most_specific: bool = False,
    class_map: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    roll_up: str | Sequence[str] | None = None,
    limit: int = 200,
    seed: int = 0,
    thumbnail_size: int = 400,
    picture_size: int = 1280,
    threads: int | None = None,
    links: StrPath | Sequence[StrPath] | None = None,
    single_file: bool = False,
) -> ExportReport:
    """Make a gallery of a run that opens in any browser without a server.

    Equivalent to `prelabel preview`.

    Args:
        run: The output of `label`, or the opened run.
        to: Folder for `index.html` and its images.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).
        keypoints: Write keypoints, if the run has any.
        keypoint_threshold: Write only keypoints with at least this score.
        images: Use only the images in this list: a .txt file of ids, or a .csv, .jsonl or .parquet file with a column
            `image_id`. `prelabel select` writes such lists.
        part: Use only the entries of images whose column `part` has this value.
        score_threshold: Keep detections with at least this score; 0 keeps all that the run has.
        class_threshold: Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file.
            '*=0.4' applies to all other classes unless score_threshold is given.
        include_class: Keep only this class, by label or MID.
        exclude_class: Drop this class, by label or MID.
        with_subclasses: Apply include_class and exclude_class also to all classes below the named ones in the Open
            Images class tree.
        max_detections: Keep only the N best detections per image.
        nms_iou: Keep only the best box among boxes that overlap by more than this IoU (default: keep all).
        nms_per_class: Apply nms_iou within each class (after class map and roll-up) rather than across classes.
        most_specific: Drop a box that overlaps a box of a class below its own in the Open Images class tree by more
            than nms_iou (0.5 if not given): of Person and Man, keep Man.
        class_map: Rename a class, by label or MID (Dog=pet), or read such pairs from a file. Several classes may get
            one label.
        roll_up: Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if
            several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.
        limit: Show at most N images, chosen so that every class and score range appears; 0 shows all.
        seed: Set the random seed of the sample; the same seed chooses the same images.
        thumbnail_size: Limit the longer side of thumbnails; images are never enlarged.
        picture_size: Limit the longer side of opened images; they are never enlarged.
        threads: Read and scale N images at the same time (default: one per CPU, at least 4).
        links: Fetch images by the signed URLs in this list, since a run stores no signatures.
        single_file: Embed the images in index.html, so that it is the only file.

    Returns:
        The path of the page in `files`, and the counts of what it shows.

    Raises:
        ConfigError: An option has an invalid value, or names a class that the detector does not have.
        ExportError: `to` holds a page that is not a preview, or a mask does not fit its image.
        StoreError: The run is missing, unfinished or corrupt.
    """

def evaluate(
    run: StrPath | Run,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    images: StrPath | None = None,
    part: str | None = None,
    score_threshold: float = 0.0,
    class_threshold: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    include_class: str | Sequence[str] | None = None,
    exclude_class: str | Sequence[str] | None = None,
    with_subclasses: bool = False,
    max_detections: int | None = None,
    nms_iou: float | None = None,
    nms_per_class: bool = True,
    most_specific: bool = False,
    class_map: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    roll_up: str | Sequence[str] | None = None,
    truth: StrPath,
    metric: Literal["coco", "openimages", "openimages-v2"] = "coco",
    image_labels: StrPath | None = None,
    truth_labels: StrPath | None = None,
    match: Literal["auto", "path", "stem"] = "auto",
    truth_frame: Literal["auto", "display", "stored", "browser"] = "auto",
    iou: float = 0.5,
    expand_detections: bool = False,
    compare_thresholds: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    to: StrPath | None = None,
) -> EvaluationSummary:
    """Evaluate a run against ground truth: COCO AP, and the score thresholds that need the fewest corrections.

    Equivalent to `prelabel evaluate`: writes `evaluation.json`, `evaluation.html` and `thresholds.yaml`, or the report
    of one of Open Images' metrics (`metric="openimages"`).

    Args:
        run: The output of `label`, or the opened run.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).
        images: Use only the images in this list: a .txt file of ids, or a .csv, .jsonl or .parquet file with a column
            `image_id`. `prelabel select` writes such lists.
        part: Use only the entries of images whose column `part` has this value.
        score_threshold: Count only detections with at least this score; 0 counts all that the run has.
        class_threshold: Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file.
            '*=0.4' applies to all other classes unless score_threshold is given.
        include_class: Keep only this class, by label or MID.
        exclude_class: Drop this class, by label or MID.
        with_subclasses: Apply include_class and exclude_class also to all classes below the named ones in the Open
            Images class tree.
        max_detections: Keep only the N best detections per image.
        nms_iou: Keep only the best box among boxes that overlap by more than this IoU (default: keep all).
        nms_per_class: Apply nms_iou within each class (after class map and roll-up) rather than across classes.
        most_specific: Drop a box that overlaps a box of a class below its own in the Open Images class tree by more
            than nms_iou (0.5 if not given): of Person and Man, keep Man.
        class_map: Rename a class, by label or MID (Dog=pet), or read such pairs from a file. Several classes may get
            one label.
        roll_up: Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if
            several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.
        truth: Compare with this ground truth: a COCO dataset of the same images, TFRecord files with boxes (also a glob
            or braces) or, for the metrics of Open Images, its CSV file of boxes.
        metric: Compute COCO's AP and suggest thresholds (coco), or compute the mean AP of the Open Images Challenge
            (openimages) or of Open Images V2 (openimages-v2).
        image_labels: Read from this CSV file of Open Images which classes people verified on each image; the metric
            openimages ignores detections of all other classes.
        truth_labels: Add MIDs to the categories of the ground truth by name, from this label map (or the built-in
            `coco`). For TFRecord files, it also tells which classes there are, and names those that have only a number.
        match: Match images by path, by stem (without folder and extension), or by path if possible, else by stem
            (auto).
        truth_frame: Read the truth's boxes in this frame: the displayed image (display), the pixels as stored in the
            file (stored), the image as browsers show it (browser), or whichever fits the image sizes in the file
            (auto).
        iou: Count a box as correct if its IoU with an object of its class is at least this (for thresholds, corrections
            and the confusion table).
        expand_detections: For the metric openimages, count a detection also for all classes above its own in the class
            tree, as the metric does with the boxes of the truth.
        compare_thresholds: Also evaluate these thresholds, for example from a file chosen on other images. Classes that
            they do not name get their default ('*'), else 0.5.
        to: Write the report and the thresholds into this folder (default: RUN/evaluation).

    Returns:
        AP of boxes and masks, AP by class, the suggested thresholds and the files written.

    Raises:
        ConfigError: The ground truth is missing, faster-coco-eval is not installed, or an option is not allowed.
        EvaluateError: The ground truth is not in the format of the metric, or shares no image or no class with the run.
        StoreError: The run is missing, unfinished or corrupt.
    """

def compare(
    run: StrPath | Run,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    images: StrPath | None = None,
    part: str | None = None,
    score_threshold: float = 0.3,
    class_threshold: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    include_class: str | Sequence[str] | None = None,
    exclude_class: str | Sequence[str] | None = None,
    with_subclasses: bool = False,
    max_detections: int | None = None,
    nms_iou: float | None = None,
    nms_per_class: bool = True,
    most_specific: bool = False,
    class_map: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    roll_up: str | Sequence[str] | None = None,
    annotations: StrPath,
    annotations_frame: Literal["auto", "display", "stored", "browser"] = "auto",
    extracted: StrPath | None = None,
    kept_iou: float = 0.95,
    iou: float = 0.5,
    polygon_tolerance: float = 1.0,
    polygon_min_area: float = 16.0,
    to: StrPath | None = None,
) -> ComparisonSummary:
    """Compare the pre-annotations of a run with what annotators made of them: kept, moved, relabeled, deleted, added.

    Equivalent to `prelabel compare`: writes `comparison.json`, `comparison.html` and `thresholds.yaml`.

    Args:
        run: The output of `label`, or the opened run, whose pre-annotations were corrected.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).
        images: Use only the images in this list: a .txt file of ids, or a .csv, .jsonl or .parquet file with a column
            `image_id`. `prelabel select` writes such lists.
        part: Use only the entries of images whose column `part` has this value.
        score_threshold: Keep detections with at least this score; 0 keeps all that the run has.
        class_threshold: Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file.
            '*=0.4' applies to all other classes unless score_threshold is given.
        include_class: Keep only this class, by label or MID.
        exclude_class: Drop this class, by label or MID.
        with_subclasses: Apply include_class and exclude_class also to all classes below the named ones in the Open
            Images class tree.
        max_detections: Keep only the N best detections per image.
        nms_iou: Keep only the best box among boxes that overlap by more than this IoU (default: keep all).
        nms_per_class: Apply nms_iou within each class (after class map and roll-up) rather than across classes.
        most_specific: Drop a box that overlaps a box of a class below its own in the Open Images class tree by more
            than nms_iou (0.5 if not given): of Person and Man, keep Man.
        class_map: Rename a class, by label or MID (Dog=pet), or read such pairs from a file. Several classes may get
            one label.
        roll_up: Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if
            several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.
        annotations: Compare with these corrected annotations: Label Studio's JSON export or a COCO dataset.
        annotations_frame: Read the boxes of a COCO dataset in this frame: the displayed image (display), the pixels as
            stored in the file (stored), the image as browsers show it (browser), or whichever fits the image sizes in
            the file (auto).
        extracted: Compare with annotations of the files that `prelabel extract --to` wrote here, instead of the images
            that were labeled.
        kept_iou: Count a box as kept if its class is the same and its IoU is at least this.
        iou: Match a detection and an annotation without a common id if their IoU is at least this. The suggested
            thresholds count a detection as correct from this IoU on.
        polygon_tolerance: Assume that the export was made with this polygon_tolerance (default: as recorded with the
            run, else 1).
        polygon_min_area: Assume that the export was made with this polygon_min_area (default: as recorded with the run,
            else 16).
        to: Write comparison.json, comparison.html and thresholds.yaml into this folder (default: RUN/comparison).

    Returns:
        The counts of edits, in total and by class, the suggested thresholds and the files written.

    Raises:
        ConfigError: The annotations are missing, or an option is not allowed.
        EvaluateError: The annotations cannot be read, or share no image with the run.
        StoreError: The run is missing, unfinished or corrupt.
    """

def diff(
    run_a: StrPath | Run,
    run_b: StrPath | Run,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    score_threshold: float = 0.3,
    class_threshold: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    include_class: str | Sequence[str] | None = None,
    exclude_class: str | Sequence[str] | None = None,
    with_subclasses: bool = False,
    max_detections: int | None = None,
    nms_iou: float | None = None,
    nms_per_class: bool = True,
    most_specific: bool = False,
    class_map: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    roll_up: str | Sequence[str] | None = None,
    iou: float = 0.5,
    kept_iou: float = 0.95,
    iou_on: Literal["auto", "boxes"] = "auto",
    score_shift: float = 1.0,
    fail_above: float = 1.0,
    images: int = 40,
    pictures: bool = True,
    links: StrPath | Sequence[StrPath] | None = None,
    to: StrPath | None = None,
) -> DiffSummary:
    """Compare two runs over the same images: which detections were kept, moved, relabeled, vanished or appeared.

    Equivalent to `prelabel diff`: writes `diff.json` and `diff.html`.

    Args:
        run_a: The output of `label` to start from, or the opened run.
        run_b: The output of `label` to compare with it, or the opened run.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).
        score_threshold: Keep detections with at least this score; 0 keeps all that the run has.
        class_threshold: Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file.
            '*=0.4' applies to all other classes unless score_threshold is given.
        include_class: Keep only this class, by label or MID.
        exclude_class: Drop this class, by label or MID.
        with_subclasses: Apply include_class and exclude_class also to all classes below the named ones in the Open
            Images class tree.
        max_detections: Keep only the N best detections per image.
        nms_iou: Keep only the best box among boxes that overlap by more than this IoU (default: keep all).
        nms_per_class: Apply nms_iou within each class (after class map and roll-up) rather than across classes.
        most_specific: Drop a box that overlaps a box of a class below its own in the Open Images class tree by more
            than nms_iou (0.5 if not given): of Person and Man, keep Man.
        class_map: Rename a class, by label or MID (Dog=pet), or read such pairs from a file. Several classes may get
            one label.
        roll_up: Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if
            several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.
        iou: Match a detection of A and one of B if the IoU of their boxes is at least this.
        kept_iou: Count a detection as kept if its class is the same and its IoU is at least this.
        iou_on: Measure the IoU of matched detections on their masks if both have one (auto), or always on their boxes.
        score_shift: Also count a detection as changed if its score shifted by more than this; 1 allows any shift.
        fail_above: Exit with code 3 if a greater share of the detections of both runs changed; 1 allows any share.
        images: Show this many of the images that changed most, in diff.json and diff.html.
        pictures: Read these images again, and show them below their boxes in diff.html.
        links: Fetch images by the signed URLs in this list, since a run stores no signatures.
        to: Write diff.json and diff.html into this folder (default: RUN_B/diff).

    Returns:
        The counts of changes, in total and by class, the share of detections that changed and the files written.

    Raises:
        ConfigError: The runs cannot be compared, or an option is not allowed.
        EvaluateError: The runs share no image that can be compared, or a mask does not fit its image.
        StoreError: A run is missing, unfinished or corrupt.
    """

def export_coco(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    images: StrPath | None = None,
    part: str | None = None,
    score_threshold: float = 0.3,
    class_threshold: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    include_class: str | Sequence[str] | None = None,
    exclude_class: str | Sequence[str] | None = None,
    with_subclasses: bool = False,
    max_detections: int | None = None,
    nms_iou: float | None = None,
    nms_per_class: bool = True,
    most_specific: bool = False,
    class_map: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    roll_up: str | Sequence[str] | None = None,
    categories: StrPath | None = None,
    unlisted: Literal["error", "drop"] = "error",
    keypoints: bool = True,
    keypoint_threshold: float = 0.3,
    segmentation: Literal["rle", "polygon", "none"] = "rle",
    polygon_tolerance: float = 1.0,
    results: StrPath | None = None,
    image_ids: StrPath = "sequential",
    extracted: StrPath | None = None,
    frame: Literal["display", "stored", "browser"] = "display",
    split: int | None = None,
    score_field: Literal["key", "attribute"] = "key",
) -> ExportReport:
    """Write a COCO dataset file, and with `results` a results file.

    Equivalent to `prelabel export coco`.

    Args:
        run: The output of `label`, or the opened run.
        to: The JSON file to write.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).
        images: Use only the images in this list: a .txt file of ids, or a .csv, .jsonl or .parquet file with a column
            `image_id`. `prelabel select` writes such lists.
        part: Use only the entries of images whose column `part` has this value.
        score_threshold: Keep detections with at least this score; 0 keeps all that the run has.
        class_threshold: Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file.
            '*=0.4' applies to all other classes unless score_threshold is given.
        include_class: Keep only this class, by label or MID.
        exclude_class: Drop this class, by label or MID.
        with_subclasses: Apply include_class and exclude_class also to all classes below the named ones in the Open
            Images class tree.
        max_detections: Keep only the N best detections per image.
        nms_iou: Keep only the best box among boxes that overlap by more than this IoU (default: keep all).
        nms_per_class: Apply nms_iou within each class (after class map and roll-up) rather than across classes.
        most_specific: Drop a box that overlaps a box of a class below its own in the Open Images class tree by more
            than nms_iou (0.5 if not given): of Person and Man, keep Man.
        class_map: Rename a class, by label or MID (Dog=pet), or read such pairs from a file. Several classes may get
            one label.
        roll_up: Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if
            several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.
        categories: Use the classes and numbers of this COCO dataset or label map (or of the built-in `coco`), by name
            or MID.
        unlisted: Stop with an error for classes that categories lacks, or drop them.
        keypoints: Write keypoints, if the run has any.
        keypoint_threshold: Write only keypoints with at least this score.
        segmentation: Write masks in this form, and widen boxes to contain them; none writes only the detector's own
            boxes.
        polygon_tolerance: Let polygons deviate from the mask's contour by up to this.
        results: Also write the detections as a results file (a bare list, for loadRes). To compute AP from it, add
            score_threshold 0, and for AP of boxes segmentation none.
        image_ids: Number images from 1 (sequential), by file names that are numbers (stem), or as in a COCO dataset
            (FILE).
        extracted: Name the files that `prelabel extract --to` wrote here, instead of the images that were labeled.
        frame: Write boxes and masks for the displayed image, with its EXIF orientation applied (display), for the
            pixels as stored in the file (stored), or for the image as browsers show it (browser).
        split: Start a new file after every N images.
        score_field: Write an annotation's score as a key, or also as an attribute, for CVAT.

    Returns:
        The files written, and the counts of what they hold and what was dropped.

    Raises:
        ConfigError: An option has an invalid value, or names a class that the detector does not have.
        ExportError: The detections cannot be written in this format, or a file cannot be written.
        StoreError: The run is missing, unfinished or corrupt.
    """

def export_cvat(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    images: StrPath | None = None,
    part: str | None = None,
    score_threshold: float = 0.3,
    class_threshold: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    include_class: str | Sequence[str] | None = None,
    exclude_class: str | Sequence[str] | None = None,
    with_subclasses: bool = False,
    max_detections: int | None = None,
    nms_iou: float | None = None,
    nms_per_class: bool = True,
    most_specific: bool = False,
    class_map: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    roll_up: str | Sequence[str] | None = None,
    categories: StrPath | None = None,
    unlisted: Literal["error", "drop"] = "error",
    keypoints: bool = True,
    keypoint_threshold: float = 0.3,
    segmentation: Literal["rle", "polygon", "none"] = "rle",
    polygon_tolerance: float = 1.0,
    mask_parts: Literal["bridge", "split", "largest"] = "bridge",
    zip: bool = False,
    labels: Literal["auto", "present", "all"] = "auto",
    labels_file: StrPath | None = None,
    extracted: StrPath | None = None,
) -> ExportReport:
    """Write CVAT's XML for images: boxes, masks or polygons to upload to a task.

    Equivalent to `prelabel export cvat`.

    Args:
        run: The output of `label`, or the opened run.
        to: The XML or ZIP file to write.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).
        images: Use only the images in this list: a .txt file of ids, or a .csv, .jsonl or .parquet file with a column
            `image_id`. `prelabel select` writes such lists.
        part: Use only the entries of images whose column `part` has this value.
        score_threshold: Keep detections with at least this score; 0 keeps all that the run has.
        class_threshold: Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file.
            '*=0.4' applies to all other classes unless score_threshold is given.
        include_class: Keep only this class, by label or MID.
        exclude_class: Drop this class, by label or MID.
        with_subclasses: Apply include_class and exclude_class also to all classes below the named ones in the Open
            Images class tree.
        max_detections: Keep only the N best detections per image.
        nms_iou: Keep only the best box among boxes that overlap by more than this IoU (default: keep all).
        nms_per_class: Apply nms_iou within each class (after class map and roll-up) rather than across classes.
        most_specific: Drop a box that overlaps a box of a class below its own in the Open Images class tree by more
            than nms_iou (0.5 if not given): of Person and Man, keep Man.
        class_map: Rename a class, by label or MID (Dog=pet), or read such pairs from a file. Several classes may get
            one label.
        roll_up: Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if
            several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.
        categories: Use the classes and numbers of this COCO dataset or label map (or of the built-in `coco`), by name
            or MID.
        unlisted: Stop with an error for classes that categories lacks, or drop them.
        keypoints: Write keypoints, if the run has any.
        keypoint_threshold: Write only keypoints with at least this score.
        segmentation: Write masks as CVAT's masks (rle) or as polygons; none writes only boxes.
        polygon_tolerance: Let polygons deviate from the mask's contour by up to this.
        mask_parts: Join the parts of a mask into one polygon by lines without width (bridge), make a group of polygons
            (split) or keep only the largest part. Parts under 1 % of their object are dropped.
        zip: Write the XML into a ZIP file, as CVAT itself exports it (the default if to ends in .zip).
        labels: List the labels that occur (present), all of the detector (all), or all if there are at most 100, else
            those that occur (auto).
        labels_file: Also write the labels as JSON, for the Raw tab of CVAT's label constructor.
        extracted: Name the files that `prelabel extract --to` wrote here, instead of the images that were labeled.

    Returns:
        The files written, and the counts of what they hold and what was dropped.

    Raises:
        ConfigError: An option has an invalid value, or names a class that the detector does not have.
        ExportError: The detections cannot be written in this format, or a file cannot be written.
        StoreError: The run is missing, unfinished or corrupt.
    """

def export_label_studio(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    keypoints: bool = True,
    keypoint_threshold: float = 0.3,
    images: StrPath | None = None,
    part: str | None = None,
    score_threshold: float = 0.3,
    class_threshold: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    include_class: str | Sequence[str] | None = None,
    exclude_class: str | Sequence[str] | None = None,
    with_subclasses: bool = False,
    max_detections: int | None = None,
    nms_iou: float | None = None,
    nms_per_class: bool = True,
    most_specific: bool = False,
    class_map: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    roll_up: str | Sequence[str] | None = None,
    shape: Literal["auto", "rectangle", "polygon", "brush"] = "auto",
    image_url: StrPath | None = None,
    extracted: StrPath | None = None,
    document_root: StrPath | None = None,
    display_copies: StrPath | None = None,
    label_config: StrPath | None = None,
    labels: Literal["auto", "present", "all"] = "auto",
    choice: Literal["single", "multiple"] = "single",
    unlisted: Literal["error", "drop"] = "error",
    from_name: str = "label",
    to_name: str = "image",
    task_score: Literal["mean", "min", "max", "uncertainty"] = "mean",
    polygon_tolerance: float = 1.0,
    polygon_min_area: float = 16.0,
    mask_parts: Literal["bridge", "split", "largest"] = "bridge",
    max_points: int = 3000,
    max_masks: int = 100,
    include_failed: bool = False,
    layout: Literal["import", "sync", "sync-jsonl", "predictions"] = "import",
    tasks_per_file: int = 1000,
    max_file_mb: float = 20.0,
) -> ExportReport:
    """Write Label Studio tasks with predictions, and the labeling config that fits them.

    Equivalent to `prelabel export label-studio`.

    Args:
        run: The output of `label`, or the opened run.
        to: The folder to write tasks into.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).
        keypoints: Write keypoints, if the run has any.
        keypoint_threshold: Write only keypoints with at least this score.
        images: Use only the images in this list: a .txt file of ids, or a .csv, .jsonl or .parquet file with a column
            `image_id`. `prelabel select` writes such lists.
        part: Use only the entries of images whose column `part` has this value.
        score_threshold: Keep detections with at least this score; 0 keeps all that the run has.
        class_threshold: Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file.
            '*=0.4' applies to all other classes unless score_threshold is given.
        include_class: Keep only this class, by label or MID.
        exclude_class: Drop this class, by label or MID.
        with_subclasses: Apply include_class and exclude_class also to all classes below the named ones in the Open
            Images class tree.
        max_detections: Keep only the N best detections per image.
        nms_iou: Keep only the best box among boxes that overlap by more than this IoU (default: keep all).
        nms_per_class: Apply nms_iou within each class (after class map and roll-up) rather than across classes.
        most_specific: Drop a box that overlaps a box of a class below its own in the Open Images class tree by more
            than nms_iou (0.5 if not given): of Person and Man, keep Man.
        class_map: Rename a class, by label or MID (Dog=pet), or read such pairs from a file. Several classes may get
            one label.
        roll_up: Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if
            several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.
        shape: Draw regions with this tool; auto draws polygons if there are masks, else rectangles.
        image_url: Load images in the browser from this URL: a prefix for the file name, or a template with {uri},
            {file_name}, {image_id} (default: the image's own URL, or Label Studio's local files).
        extracted: Show the files that `prelabel extract --to` wrote here, instead of the images that were labeled.
        document_root: Use this as the server's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT for images on disk (default: the
            folder above the source).
        display_copies: Write JPEG copies (quality 92, EXIF orientation applied) of images that most browsers do not
            show (TIFF, JPEG 2000, HEIC, PSD) into this folder, and show the copies in the tasks.
        label_config: Fit the tasks to this labeling config instead of making one.
        labels: Put into the new config the labels that occur (present), all of the detector (all), or all if there are
            at most 100, else those that occur (auto).
        choice: Allow one label for the whole image in the new config (single: the best), or several (multiple: all that
            are kept).
        unlisted: Stop with an error for classes that label_config lacks, or drop them.
        from_name: Name the tool in the new config.
        to_name: Name the image in the new config.
        task_score: Compute a prediction's score from the scores of its regions; Label Studio can serve the lowest
            first.
        polygon_tolerance: Let polygons deviate from the mask's contour by up to this.
        polygon_min_area: Drop parts of a mask that have fewer pixels than this, except the largest, and fill smaller
            holes.
        mask_parts: Join the parts of a mask into one polygon by lines without width (bridge), make each a region
            (split) or keep only the largest. Parts under 1 % of their object are dropped.
        max_points: Limit the polygon corners per task; the rest is dropped.
        max_masks: Limit the brush masks per task; the rest is dropped.
        include_failed: Also make tasks, without predictions, for failed images.
        layout: Write task files for the import page and API (import), or for a source storage with one task per file
            (sync) or per line (sync-jsonl), or only predictions for the tasks that the run was made from.
        tasks_per_file: Limit the tasks per file.
        max_file_mb: Limit the size of a file.

    Returns:
        The files written, and the counts of what they hold and what was dropped.

    Raises:
        ConfigError: An option has an invalid value, or names a class that the detector does not have.
        ExportError: The detections do not fit the labeling config, or a file cannot be written.
        StoreError: The run is missing, unfinished or corrupt.
    """

def export_voc(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    images: StrPath | None = None,
    part: str | None = None,
    score_threshold: float = 0.3,
    class_threshold: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    include_class: str | Sequence[str] | None = None,
    exclude_class: str | Sequence[str] | None = None,
    with_subclasses: bool = False,
    max_detections: int | None = None,
    nms_iou: float | None = None,
    nms_per_class: bool = True,
    most_specific: bool = False,
    class_map: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    roll_up: str | Sequence[str] | None = None,
    categories: StrPath | None = None,
    unlisted: Literal["error", "drop"] = "error",
    image_files: Literal["none", "link", "copy"] = "none",
    frame: Literal["display", "stored", "browser"] = "display",
    links: StrPath | Sequence[StrPath] | None = None,
    coordinates: Literal["zero", "one"] = "zero",
    subset: str = "train",
    labels: Literal["auto", "present", "all"] = "auto",
) -> ExportReport:
    """Write Pascal VOC: an XML file of boxes per image.

    Equivalent to `prelabel export voc`.

    Args:
        run: The output of `label`, or the opened run.
        to: The folder to write into.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).
        images: Use only the images in this list: a .txt file of ids, or a .csv, .jsonl or .parquet file with a column
            `image_id`. `prelabel select` writes such lists.
        part: Use only the entries of images whose column `part` has this value.
        score_threshold: Keep detections with at least this score; 0 keeps all that the run has.
        class_threshold: Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file.
            '*=0.4' applies to all other classes unless score_threshold is given.
        include_class: Keep only this class, by label or MID.
        exclude_class: Drop this class, by label or MID.
        with_subclasses: Apply include_class and exclude_class also to all classes below the named ones in the Open
            Images class tree.
        max_detections: Keep only the N best detections per image.
        nms_iou: Keep only the best box among boxes that overlap by more than this IoU (default: keep all).
        nms_per_class: Apply nms_iou within each class (after class map and roll-up) rather than across classes.
        most_specific: Drop a box that overlaps a box of a class below its own in the Open Images class tree by more
            than nms_iou (0.5 if not given): of Person and Man, keep Man.
        class_map: Rename a class, by label or MID (Dog=pet), or read such pairs from a file. Several classes may get
            one label.
        roll_up: Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if
            several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.
        categories: Use the classes and numbers of this COCO dataset or label map (or of the built-in `coco`), by name
            or MID.
        unlisted: Stop with an error for classes that categories lacks, or drop them.
        image_files: Leave the images where they are (none), add symbolic links to them (link; only on a disk) or copy
            them.
        frame: Write boxes and masks for the displayed image, with its EXIF orientation applied (display), for the
            pixels as stored in the file (stored), or for the image as browsers show it (browser).
        links: Fetch images by the signed URLs in this list, since a run stores no signatures.
        coordinates: Keep boxes unchanged, as CVAT and Datumaro read and write them (zero), or count whole pixels from
            1, as the VOC dataset does (one).
        subset: Name the image list in ImageSets/Main.
        labels: Write into labelmap.txt the classes that occur (present), all of the detector (all), or all if there are
            at most 100, else those that occur (auto).

    Returns:
        The files written, and the counts of what they hold and what was dropped.

    Raises:
        ConfigError: An option has an invalid value, or names a class that the detector does not have.
        ExportError: The detections cannot be written in this format, or a file cannot be written.
        StoreError: The run is missing, unfinished or corrupt.
    """

def export_yolo(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    images: StrPath | None = None,
    part: str | None = None,
    score_threshold: float = 0.3,
    class_threshold: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    include_class: str | Sequence[str] | None = None,
    exclude_class: str | Sequence[str] | None = None,
    with_subclasses: bool = False,
    max_detections: int | None = None,
    nms_iou: float | None = None,
    nms_per_class: bool = True,
    most_specific: bool = False,
    class_map: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    roll_up: str | Sequence[str] | None = None,
    categories: StrPath | None = None,
    unlisted: Literal["error", "drop"] = "error",
    image_files: Literal["none", "link", "copy"] = "none",
    frame: Literal["display", "stored", "browser"] = "display",
    links: StrPath | Sequence[StrPath] | None = None,
    keypoints: bool = True,
    keypoint_threshold: float = 0.3,
    segmentation: Literal["polygon", "none"] = "polygon",
    polygon_tolerance: float = 1.0,
    labels: Literal["auto", "present", "all"] = "all",
    val_share: float = 0.0,
    scores: bool = False,
) -> ExportReport:
    """Write YOLO labels (boxes or segments), lists of images and `data.yaml`.

    Equivalent to `prelabel export yolo`.

    Args:
        run: The output of `label`, or the opened run.
        to: The folder to write into.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).
        images: Use only the images in this list: a .txt file of ids, or a .csv, .jsonl or .parquet file with a column
            `image_id`. `prelabel select` writes such lists.
        part: Use only the entries of images whose column `part` has this value.
        score_threshold: Keep detections with at least this score; 0 keeps all that the run has.
        class_threshold: Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file.
            '*=0.4' applies to all other classes unless score_threshold is given.
        include_class: Keep only this class, by label or MID.
        exclude_class: Drop this class, by label or MID.
        with_subclasses: Apply include_class and exclude_class also to all classes below the named ones in the Open
            Images class tree.
        max_detections: Keep only the N best detections per image.
        nms_iou: Keep only the best box among boxes that overlap by more than this IoU (default: keep all).
        nms_per_class: Apply nms_iou within each class (after class map and roll-up) rather than across classes.
        most_specific: Drop a box that overlaps a box of a class below its own in the Open Images class tree by more
            than nms_iou (0.5 if not given): of Person and Man, keep Man.
        class_map: Rename a class, by label or MID (Dog=pet), or read such pairs from a file. Several classes may get
            one label.
        roll_up: Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if
            several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.
        categories: Use the classes and numbers of this COCO dataset or label map (or of the built-in `coco`), by name
            or MID.
        unlisted: Stop with an error for classes that categories lacks, or drop them.
        image_files: Leave the images where they are (none), add symbolic links to them (link; only on a disk) or copy
            them.
        frame: Write boxes and masks for the displayed image, with its EXIF orientation applied (display), for the
            pixels as stored in the file (stored), or for the image as browsers show it (browser).
        links: Fetch images by the signed URLs in this list, since a run stores no signatures.
        keypoints: Write keypoints, if the run has any.
        keypoint_threshold: Write only keypoints with at least this score.
        segmentation: Write masks as segments, unless there are keypoints; none writes only boxes.
        polygon_tolerance: Let segments deviate from the mask's contour by up to this.
        labels: Number the classes that occur (present), all of the detector or of categories (all), or all if there are
            at most 100, else those that occur (auto).
        val_share: Put this share of the images into the validation set, the same images each time.
        scores: Add the score at the end of each line, as in YOLO's own predictions; only with segmentation none.

    Returns:
        The files written, and the counts of what they hold and what was dropped.

    Raises:
        ConfigError: An option has an invalid value, or names a class that the detector does not have.
        ExportError: The detections cannot be written in this format, or a file cannot be written.
        StoreError: The run is missing, unfinished or corrupt.
    """

def extract(
    run: StrPath | Run,
    to: StrPath,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    images: StrPath | None = None,
    part: str | None = None,
    upright: bool = False,
    links: StrPath | Sequence[StrPath] | None = None,
) -> ExtractReport:
    """Write the images of a run as files, for tools that cannot read them where they are, such as in archives.

    Equivalent to `prelabel extract`. The same call resumes one that was stopped.

    Args:
        run: The output of `label`, or the opened run.
        to: Folder or storage prefix for the files and their record, which exports read with `extracted`.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).
        images: Use only the images in this list: a .txt file of ids, or a .csv, .jsonl or .parquet file with a column
            `image_id`. `prelabel select` writes such lists.
        part: Use only the entries of images whose column `part` has this value.
        upright: Rotate images that have an orientation, as browsers show them: JPEGs are encoded again (quality 95),
            and others as PNG. Without this option, all files are exact copies.
        links: Fetch images by the signed URLs in this list, since a run stores no signatures.

    Returns:
        The counts of files, and the images that have changed or cannot be read; `complete` is true if there are none.

    Raises:
        ConfigError: An option has an invalid value, or `to` has the images of another run or other files.
        ExportError: `to` cannot be listed.
        StoreError: The run is missing, unfinished or corrupt, or a file cannot be written.
    """

def push_label_studio(
    run: StrPath | Run,
    *,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    keypoints: bool = True,
    keypoint_threshold: float = 0.3,
    images: StrPath | None = None,
    part: str | None = None,
    score_threshold: float = 0.3,
    class_threshold: Mapping[str, float] | StrPath | Sequence[StrPath] | None = None,
    include_class: str | Sequence[str] | None = None,
    exclude_class: str | Sequence[str] | None = None,
    with_subclasses: bool = False,
    max_detections: int | None = None,
    nms_iou: float | None = None,
    nms_per_class: bool = True,
    most_specific: bool = False,
    class_map: Mapping[str, str] | StrPath | Sequence[StrPath] | None = None,
    roll_up: str | Sequence[str] | None = None,
    shape: Literal["auto", "rectangle", "polygon", "brush"] = "auto",
    image_url: StrPath | None = None,
    extracted: StrPath | None = None,
    document_root: StrPath | None = None,
    display_copies: StrPath | None = None,
    label_config: StrPath | None = None,
    labels: Literal["auto", "present", "all"] = "auto",
    choice: Literal["single", "multiple"] = "single",
    unlisted: Literal["error", "drop"] = "error",
    from_name: str = "label",
    to_name: str = "image",
    task_score: Literal["mean", "min", "max", "uncertainty"] = "mean",
    polygon_tolerance: float = 1.0,
    polygon_min_area: float = 16.0,
    mask_parts: Literal["bridge", "split", "largest"] = "bridge",
    max_points: int = 3000,
    max_masks: int = 100,
    include_failed: bool = False,
    url: StrPath,
    project: str | int,
    token_file: StrPath | None = None,
    create_storage: bool = False,
    new_tasks: bool = True,
    show: bool = True,
    tasks_per_request: int = 1000,
    max_request_mb: float = 20.0,
) -> PushReport:
    """Send tasks with predictions to a Label Studio project. Repeating the call changes nothing.

    Equivalent to `prelabel push label-studio`. The token is read from `LABEL_STUDIO_API_KEY` or `token_file`.

    Args:
        run: The output of `label`, or the opened run.
        progress: Whether to show a progress bar; by default on a terminal and in notebooks.
        storage_options: Options for the file systems of remote URLs (keys, endpoints).
        keypoints: Write keypoints, if the run has any.
        keypoint_threshold: Write only keypoints with at least this score.
        images: Use only the images in this list: a .txt file of ids, or a .csv, .jsonl or .parquet file with a column
            `image_id`. `prelabel select` writes such lists.
        part: Use only the entries of images whose column `part` has this value.
        score_threshold: Keep detections with at least this score; 0 keeps all that the run has.
        class_threshold: Set the threshold of a class, by label or MID (Person=0.6), or read thresholds from a file.
            '*=0.4' applies to all other classes unless score_threshold is given.
        include_class: Keep only this class, by label or MID.
        exclude_class: Drop this class, by label or MID.
        with_subclasses: Apply include_class and exclude_class also to all classes below the named ones in the Open
            Images class tree.
        max_detections: Keep only the N best detections per image.
        nms_iou: Keep only the best box among boxes that overlap by more than this IoU (default: keep all).
        nms_per_class: Apply nms_iou within each class (after class map and roll-up) rather than across classes.
        most_specific: Drop a box that overlaps a box of a class below its own in the Open Images class tree by more
            than nms_iou (0.5 if not given): of Person and Man, keep Man.
        class_map: Rename a class, by label or MID (Dog=pet), or read such pairs from a file. Several classes may get
            one label.
        roll_up: Rename each class to the nearest of these that is above it in the Open Images class tree (the first, if
            several are equally near); by label or MID, joined by commas (Vehicle,Animal) or repeated.
        shape: Draw regions with this tool; auto draws polygons if there are masks, else rectangles.
        image_url: Load images in the browser from this URL: a prefix for the file name, or a template with {uri},
            {file_name}, {image_id} (default: the image's own URL, or Label Studio's local files).
        extracted: Show the files that `prelabel extract --to` wrote here, instead of the images that were labeled.
        document_root: Use this as the server's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT for images on disk (default: the
            folder above the source).
        display_copies: Write JPEG copies (quality 92, EXIF orientation applied) of images that most browsers do not
            show (TIFF, JPEG 2000, HEIC, PSD) into this folder, and show the copies in the tasks.
        label_config: Fit the tasks to this labeling config instead of making one.
        labels: Put into the new config the labels that occur (present), all of the detector (all), or all if there are
            at most 100, else those that occur (auto).
        choice: Allow one label for the whole image in the new config (single: the best), or several (multiple: all that
            are kept).
        unlisted: Stop with an error for classes that label_config lacks, or drop them.
        from_name: Name the tool in the new config.
        to_name: Name the image in the new config.
        task_score: Compute a prediction's score from the scores of its regions; Label Studio can serve the lowest
            first.
        polygon_tolerance: Let polygons deviate from the mask's contour by up to this.
        polygon_min_area: Drop parts of a mask that have fewer pixels than this, except the largest, and fill smaller
            holes.
        mask_parts: Join the parts of a mask into one polygon by lines without width (bridge), make each a region
            (split) or keep only the largest. Parts under 1 % of their object are dropped.
        max_points: Limit the polygon corners per task; the rest is dropped.
        max_masks: Limit the brush masks per task; the rest is dropped.
        include_failed: Also make tasks, without predictions, for failed images.
        url: Send to the Label Studio server at this URL.
        project: Send to the project with this number or title; a new title creates a project.
        token_file: Read the access token (personal or legacy) from this file (default: from LABEL_STUDIO_API_KEY).
        create_storage: Create the source storages that the images need and the project lacks, with credentials from
            AWS_..., GOOGLE_APPLICATION_CREDENTIALS or AZURE_STORAGE_... (else the server's own). Syncing them adds no
            tasks.
        new_tasks: Create tasks for images that are not in the project yet.
        show: Show these predictions to the project's annotators.
        tasks_per_request: Limit the tasks per request.
        max_request_mb: Limit the size of a request.

    Returns:
        The project, and the counts of tasks and predictions created, replaced and left unchanged.

    Raises:
        ConfigError: The token is missing, an option is not allowed, or names a class that does not exist.
        ExportError: The detections do not fit the labeling config of the project.
        PushError: The server refuses a request or does not answer. The same call continues the push.
        StoreError: The run is missing, unfinished or corrupt.
    """
