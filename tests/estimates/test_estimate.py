"""`label --dry-run`: what it tells is true of the run that follows, and nothing is written."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result

from prelabel.cli import main
from prelabel.cli.estimate import command_line
from prelabel.config import LabelOptions
from prelabel.engine.measurement import SampledImage
from prelabel.engine.schedule import LabelTask
from prelabel.errors import ConfigError, RunError, RunInterrupted
from prelabel.estimates import estimate as estimates
from prelabel.estimates import measured_pool
from prelabel.estimates.estimate import CostEstimate, Estimate, WorkerEstimate, _workers_of, estimate
from prelabel.estimates.forecast import TimeEstimate, speed_of
from prelabel.estimates.measured_pool import PoolMeasurement
from prelabel.estimates.options import EstimateOptions
from prelabel.estimates.requests import RequestEstimate
from prelabel.estimates.sample import survey
from prelabel.estimates.sample_facts import facts_of, warnings_about
from prelabel.image_ref import ImageRef
from prelabel.storage.files import Storage
from prelabel.store.links import Links
from prelabel.store.plan import Plan, write_plan
from tests.engine.fakes import CODEC_ABORTS, Deed
from tests.engine.world import Recorder, World
from tests.estimates.test_forecast import measured
from tests.messages import telling, tells

SCHEMA = Path(__file__).parents[2] / "schemas" / "estimate.schema.json"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers measure for a moment."""
    monkeypatch.setattr(measured_pool, "MEASURE_S", 0.1)


def estimate_of(world: World, recorder: Recorder | None = None, **values: Any) -> Estimate:
    own = {name: values.pop(name) for name in ("sample", "seed", "price_per_hour") if name in values}
    return estimate(EstimateOptions(run=world.options(**values), **own), recorder or Recorder())


# A run that does not exist


def test_an_estimate_tells_what_the_run_finds_and_writes_nothing(anywhere: World):
    anywhere.add(9, p004=Deed.REFUSE)
    told = estimate_of(anywhere, workers=2, price_per_hour=3600.0)
    assert not anywhere.out.exists()
    assert sorted(anywhere.fetched)[0] == "000.png"
    assert (told.images, told.shards, told.finished_shards, told.extensions) == (9, 3, 0, {".png": 9})
    assert told.bytes == sum(path.stat().st_size for path in anywhere.photos.iterdir())
    sample, workers, time, cost = told.sample, told.workers, told.time, told.cost
    assert sample is not None
    assert workers is not None
    assert time is not None
    assert cost is not None
    assert (sample.images, sample.labeled, sample.failed) == (9, 8, 1)
    assert list(sample.failures.items()) == [("RuntimeError", 1)]
    assert sample.examples["RuntimeError"].startswith("004.png")
    assert (sample.smallest, sample.largest, sample.detections_per_image) == ((8, 4), (8, 6), 1.0)
    assert (workers.runner, workers.workers, workers.nodes) == (anywhere.runner, 2, 1)
    assert workers.images_per_s > 0
    assert 0 < workers.memory_bytes < workers.node_memory_bytes
    assert time.low_s < time.total_s < time.high_s
    assert cost.price == pytest.approx(time.total_s)
    assert cost.core_hours == pytest.approx(2 * time.total_s / 3600)
    summary = anywhere.label(workers=2)
    assert (summary.images, summary.failed) == (told.images, sample.failed)
    written = sum(path.stat().st_size for path in (anywhere.out / "shards").iterdir())
    assert told.output_bytes == pytest.approx(written, rel=0.1)
    assert len(repr(told).replace(str(anywhere.folder), "")) < 160
    printed = json.loads(json.dumps({**dataclasses.asdict(told), "command": "prelabel label"}))
    jsonschema.validate(printed, json.loads(SCHEMA.read_text()))


def test_an_image_that_kills_its_worker_is_told(local_world: World):
    local_world.add(4)
    with (local_world.photos / "002.png").open("ab") as file:
        file.write(CODEC_ABORTS)
    told = estimate_of(local_world, workers=2, shard_size=2)
    assert told.sample is not None
    assert told.sample.images == 2  # of the other worker
    assert [warning for warning in told.warnings if tells(warning, "died", "SIGABRT")]
    with pytest.raises(RunError, match=telling("died", "--seed")):
        estimate_of(local_world, workers=1)


def test_what_a_run_would_refuse_is_refused(local_world: World, tmp_path: Path):
    local_world.add(1)
    with pytest.raises(ConfigError, match=telling("--detector-option")):
        estimate_of(local_world, detector_option={"a": "b"})
    stop = threading.Event()
    stop.set()
    with pytest.raises(RunInterrupted):
        estimate(EstimateOptions(run=local_world.options()), Recorder(), stop)
    assert not local_world.out.exists()
    assert list((tmp_path / "temporary").iterdir()) == []


# A run that exists


def test_the_estimate_of_an_unfinished_run_is_for_the_rest(local_world: World):
    local_world.add(12, p004=Deed.REFUSE)
    local_world.label()
    finished = estimate_of(local_world)
    assert (finished.images, finished.finished_images, finished.finished_shards) == (0, 12, 3)
    assert (finished.sample, finished.workers, finished.time) == (None, None, None)
    (local_world.out / "shards" / "shard-00002.parquet").unlink()
    local_world.add(1)
    before = local_world.files()
    rest = estimate_of(local_world, add_new=True, retry_failed=True)
    assert local_world.files() == before
    assert (rest.images, rest.shards) == (4 + 1 + 1, 3)  # the lost shard, the failed image, the new one
    assert (rest.finished_images, rest.finished_shards) == (7, 1)
    assert rest.sample is not None
    assert (rest.sample.images, rest.sample.failed) == (6, 1)
    with pytest.raises(ConfigError, match=telling("score-threshold", "0.9")):
        estimate_of(local_world, score_threshold=0.9)
    replaced = estimate_of(local_world, score_threshold=0.9, overwrite=True, limit=5, sample=1, workers=2)
    assert replaced.images == 5
    assert (replaced.workers.measured, replaced.sample.images) == (2, 1)  # type: ignore[union-attr]
    assert [warning for warning in replaced.warnings if tells(warning, "12 images", "--overwrite")]
    assert local_world.files() == before


# The workers


def test_a_worker_that_timed_no_image_leaves_the_stages_of_the_others():
    slow, usual = measured(0, 0.0), measured(40, 4.0)
    pool = PoolMeasurement((replace(slow, stage_seconds={}), usual), 1.0, 0.1, (2,), 0.0, ())
    workers = _workers_of(options(), "local", pool, speed_of(pool.by_worker, 100), shards=2)
    assert workers.stage_seconds == {"detect": 0.1}


# The sample


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A plan of 100 images in shards of 7; the addresses of ten of them have a password."""
    refs = [ImageRef(f"{n}.JPG", f"https://{'me:pw@' * (n < 10)}host/{n}.JPG", f"{n}.JPG", 10) for n in range(100)]
    written = write_plan(refs, str(tmp_path), Storage(), shard_size=7, plan_id="0" * 8, links=LINKS)
    return Plan.open(str(tmp_path), written.parts, Storage())


LINKS = Links()


def drawn(plan: Plan, size: int, seed: int, kept: tuple[str, ...] = ()) -> list[str]:
    tasks = [LabelTask(shard) for shard in range(plan.shards)]
    left = survey(plan, tasks, LINKS, size, seed, lambda task, refs: kept, threading.Event())
    assert (left.images, left.bytes, left.unsized) == (100 - len(kept), 10 * (100 - len(kept)), 0)
    assert left.extensions == {".jpg": 100 - len(kept)}
    secrets = {left.sample[position].image_id: link for position, link in left.links.items()}
    assert secrets == {
        ref.image_id: f"https://me:pw@host/{ref.file_name}" for ref in left.sample if len(ref.image_id) == 5
    }
    return [ref.image_id for ref in left.sample]


def test_every_image_is_equally_likely_to_be_in_the_sample(plan: Plan):
    counts: Counter[str] = Counter()
    for seed in range(60):
        sample = drawn(plan, 10, seed)
        assert len(set(sample)) == 10
        counts.update(sample)
    # 6 of 60 are expected; five standard deviations are 12.
    assert len(counts) > 95
    assert max(counts.values()) <= 18


def test_the_seed_decides_the_sample_and_kept_images_are_not_in_it(plan: Plan):
    assert drawn(plan, 10, 1) == drawn(plan, 10, 1) != drawn(plan, 10, 2)
    assert sorted(drawn(plan, 200, 1, kept=("3.JPG", "50.JPG"))) == sorted(
        f"{n}.JPG" for n in range(100) if n not in (3, 50)
    )


# Warnings


def sampled(count: int, **values: Any) -> list[SampledImage]:
    usual = SampledImage("a.jpg", 1000, 480, 640, None, None, None, True, 1, 0.1)
    return [dataclasses.replace(usual, **values)] * count


def failed(count: int, error: str) -> list[SampledImage]:
    return sampled(count, error_type=error, error="what went wrong", is_labeled=False, detections=0)


def options(**values: Any) -> LabelOptions:
    return LabelOptions.of(source=["photos"], detector="d", output="out", **values)


@pytest.mark.parametrize(
    ("images", "values", "facts"),
    [
        (sampled(6) + failed(2, "ImageTooLargeError"), {}, ("2 of 8", "25%", "--max-pixels", "--max-bytes")),
        (sampled(7) + failed(1, "TruncatedImageError"), {}, ("1 of 8", "12%", "--allow-truncated")),
        (sampled(6) + failed(2, "FetchError"), {"max_failed": 0.1}, ("25%", "--max-failed 0.1")),
        (failed(3, "FetchError"), {}, ("all images", "exit code 1")),
        (sampled(5, height=200) + sampled(3), {}, ("5 of 8", "300 pixels")),
        (sampled(7) + sampled(1, exif_orientation=6), {}, ("1 of 8", "12%", "EXIF")),
        (sampled(2) + sampled(6, is_labeled=False), {}, ("only 2 images",)),
    ],
)
def test_a_warning_says_what_the_sample_suggests_to_change(
    images: list[SampledImage], values: dict[str, Any], facts: tuple[str, ...]
):
    (warning,) = warnings_about(images, options(**values), input_size=300)
    assert tells(warning, *facts)


def test_ordinary_images_give_no_warning():
    images = sampled(62) + sampled(1, exif_orientation=6) + sampled(1, exif_orientation=1, height=200)
    assert warnings_about(images, options(), input_size=300) == []
    assert warnings_about(sampled(8, height=200), options(), input_size=None) == []


def test_facts_of_a_sample_without_a_readable_image():
    facts = facts_of([dataclasses.replace(image, bytes=None, height=None) for image in failed(3, "FetchError")], 7, 3)
    assert (facts.images, facts.labeled, facts.failed, facts.failed_low, facts.failed_high) == (3, 0, 3, 1.0, 1.0)
    assert (facts.median, facts.mean_bytes, facts.detections_per_image) == (None, None, 0.0)


@pytest.mark.parametrize(
    ("images_per_s", "stages", "facts"),
    [
        (4.0, {"decode": 0.2, "detect": 0.05}, ("20%", "decode", "--decode-scale")),
        (4.0, {"read": 0.5, "decode": 0.1, "detect": 0.05}, ("20%", "read")),
        (4.0, {"read": 0.004, "decode": 0.014, "detect": 0.13}, None),  # images do not explain the rest of 0.25 s
        (4.0, {"decode": 0.2, "detect": 0.2}, None),
    ],
)
def test_a_detector_waits_for_images_if_reading_them_takes_most_of_the_time_without_it(
    images_per_s: float, stages: dict[str, float], facts: tuple[str, ...] | None
):
    workers = WorkerEstimate("local", 1, 1, 1, 1.0, 0.0, images_per_s, stages, 9**9, 25**7)
    warnings = estimates._warnings_about_workers(options(), workers, places=[1], shards=9)
    assert [tells(warning, *(facts or ())) for warning in warnings] == [True] * (facts is not None)


# The command that starts the run


def test_the_command_has_the_given_options_quoted_and_without_secrets():
    values = {
        "source": ["https://me:pw@host/my photos/*.jpg", "b"],
        "storage_options": '{"key": "k", "secret": "s"}',
        "retry_failed": True,
        "class_map": ["Dog=a pet"],
        "workers": 2,
        "output": "out",
    }
    command = command_line(values, "job.yaml").partition(" label ")[2]
    assert command == (
        "'https://***@host/my photos/*.jpg' b --config job.yaml --storage-options '***' --retry-failed "
        "--class-map 'Dog=a pet' --workers 2 --output out"
    )
    assert command_line({"source": ["-x"], "output": "o"}, None).endswith(" label --output o -- -x")


# What is printed


def told(**values: Any) -> Estimate:
    """An estimate of 2,000 images on two workers."""
    usual: dict[str, Any] = {
        "output": "out/run",
        "images": 2000,
        "shards": 63,
        "finished_images": 0,
        "finished_shards": 0,
        "bytes": 312_000_000,
        "unsized": 0,
        "extensions": {".jpg": 2000},
        "sample": facts_of(sampled(63) + failed(1, "TruncatedImageError"), 0, 2000),
        "workers": WorkerEstimate("local", 2, 2, 1, 1.0, 0.0, 20.0, {"decode": 0.005, "detect": 0.046}, 9**9, 25**7),
        "time": TimeEstimate(0.3, 0.2, 4.4, 51.0, 0.1, 56.0, 46.0, 71.0),
        "cost": CostEstimate(0.031, 0.0, 0.0156, 0.0187, 0.0153, 0.0237),
        "output_bytes": 29_000_000,
        "requests": RequestEstimate.of(
            {"listing": {"LIST": 2}, "images": {"GET": 2000}}, {"lock": {"GET": 69, "PUT": 5}, "shards": {"PUT": 63}}
        ),
        "warnings": ("the images are upside down",),
    }
    return Estimate(**{**usual, **values})


def printed(monkeypatch: pytest.MonkeyPatch, estimate: Estimate, *arguments: str) -> Result:
    monkeypatch.setattr(estimates, "estimate", lambda options, listener, stop: estimate)
    command = ["label", "my photos", "--detector", "demo-shapes", "--output", "out/run", "--dry-run", *arguments]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return result


def test_the_command_prints_figures_warnings_and_how_to_start(monkeypatch: pytest.MonkeyPatch):
    text = printed(monkeypatch, told(), "--price-per-hour", "1.2").stdout
    rows = {line[2:].partition("  ")[0]: line for line in text.splitlines() if line[2:3].strip()}
    assert tells(rows["images to label"], "2,000", "63 shards")
    assert tells(rows["failed"], "1 of the sample", "2%", "0% to 8%")
    assert tells(rows["speed"], "20 images/s", "40 in total")
    assert tells(rows["time"], "56 s", "46 s to 1 min 11 s")
    assert tells(rows["price"], "0.02", "1 machine")
    assert tells(rows["requests"], "source 2 LIST, 2,000 GET; output 69 GET, 68 PUT")
    assert "of these: listing 2 LIST; images 2,000 GET; lock 69 GET, 5 PUT; shards 63 PUT" in text
    assert "upside down" in rows["warning"]
    assert text.splitlines()[-1].endswith("label 'my photos' --detector demo-shapes --output out/run")


def test_sizes_that_the_listing_does_not_report_come_from_the_sample(monkeypatch: pytest.MonkeyPatch):
    text = printed(monkeypatch, told(bytes=0, unsized=2000)).stdout
    assert re.search(r"files +about 2 MB", text)


def test_with_nothing_left_to_do_the_rest_is_left_out(monkeypatch: pytest.MonkeyPatch):
    nothing = {"sample": None, "workers": None, "time": None, "cost": None, "output_bytes": None, "requests": None}
    text = printed(monkeypatch, told(images=0, shards=0, finished_images=9, finished_shards=3, **nothing)).stdout
    assert tells(text, "finished before", "9 images", "3 shards", "No image is left to label")
    assert not tells(text, "images/s")


def test_json_goes_where_it_is_read(monkeypatch: pytest.MonkeyPatch):
    schema = json.loads(SCHEMA.read_text())
    jsonschema.validate(json.loads(printed(monkeypatch, told(), "--json").stdout), schema)
    logged = json.loads(printed(monkeypatch, told(), "--log-json").stderr.splitlines()[-1])
    assert logged["event"] == "estimate"
    assert logged["time"].startswith("20")
    jsonschema.validate(logged["estimate"], schema)


@pytest.mark.parametrize("arguments", [["--json"], ["--sample", "5"], ["--price-per-hour", "2"]])
def test_options_of_an_estimate_need_a_dry_run(arguments: list[str]):
    result = CliRunner().invoke(main, ["label", "photos", "--detector", "d", "--output", "out", *arguments])
    assert result.exit_code == 2
    assert tells(result.stderr, arguments[0], "--dry-run")
