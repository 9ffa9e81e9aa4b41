"""A run goes on only where its network is read as it was: rows of two readings must not stand side by side."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from typing import Any

import pytest

from prelabel.config import LabelOptions
from prelabel.detectors.base import Decision, DetectorRecord
from prelabel.engine.progress import unnamed_notes
from prelabel.engine.resume import require_same_detector, require_same_settings, with_former_threshold
from prelabel.errors import ConfigError, StoreError
from prelabel.keypoints import COCO_PERSON, KeypointSet
from prelabel.storage.files import Storage
from prelabel.store.records import ShardRecords
from prelabel.store.run import RunRecord, open_run
from prelabel.store.shards import ShardRecord, read_shard, shard_url, write_shard
from tests.engine.world import World
from tests.messages import tells
from tests.models import Models
from tests.runs import DETECTOR


def read(**decisions: str) -> DetectorRecord:
    """A record whose network is read so; an underscore stands for a space."""
    reading = {about.replace("_", " "): Decision(value, "because") for about, value in decisions.items()}
    return replace(DETECTOR, reading=reading)


#: As it was written before there were decisions.
OLD = replace(DETECTOR, convention="TF Object Detection by signature 'default' (float32 in 0..1, class numbers)")
OLD_BYTES = replace(DETECTOR, convention="TF Object Detection by signature 'default' (uint8, class numbers, masks)")
OLD_CLASSIFIER = replace(
    DETECTOR, convention="image classification by signature 'serving_default' (1001 classes in 'logits')"
)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (read(input_range="0..255", activation="softmax"), read(input_range="0..255", activation="softmax")),
        (OLD, read(input_range="0..1")),
        (OLD, read(input_range="0..1", masks="box")),
        (OLD_BYTES, read(input_range="0..255", masks="box")),
        (OLD_CLASSIFIER, read(input_range="0..1", activation="logits", background="class 0")),
    ],
)
def test_a_run_resumes_with_the_same_model_interpretation(was: DetectorRecord, now: DetectorRecord) -> None:
    require_same_detector(was, now, "out")


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        (read(input_range="0..1"), read(input_range="0..255"), r"input range.*0\.\.1.*0\.\.255"),
        (read(activation="softmax"), read(activation="sigmoid"), "activation.*softmax.*sigmoid"),
        (read(masks="box"), read(masks="image"), "masks.*box.*image"),
        (read(), read(background="class 0"), "background.*class 0"),
        # Runs of earlier releases fed every float network 0..1 and guessed each row.
        (OLD, read(input_range="0..255"), r"input range.*0\.\.1.*0\.\.255"),
        (
            OLD_CLASSIFIER,
            read(activation="sigmoid", background="class 0"),
            "activation.*softmax or logits.*sigmoid",
        ),
        (OLD_CLASSIFIER, read(activation="logits"), "class 0 of 1001.*background"),
        (OLD_BYTES, read(masks="image"), "masks.*box or by-size.*image"),
        (replace(read(), keypoints=KeypointSet.unnamed(17)), replace(read(), keypoints=COCO_PERSON), "keypoints"),
        (read(), replace(read(), keypoints=COCO_PERSON), "keypoints"),
        (replace(OLD_BYTES, masks=False), replace(read(masks="box"), masks=True), "masks.*not used"),
    ],
)
def test_another_model_interpretation_is_refused_by_name(was: DetectorRecord, now: DetectorRecord, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        require_same_detector(was, now, "out")


def test_classes_without_a_name_are_reported_also_after_an_interruption(local_world: World, models: Models) -> None:
    """A shard that an earlier call finished tells of them as one that this call does, and so does the manifest."""
    world = local_world
    world.add(8)
    (world.folder / "names.csv").write_text("2,two\n")
    stated = {
        "detector": str(shutil.copytree(models.mask_rcnn, world.folder / "numbering")),
        "label_map": str(world.folder / "names.csv"),
    }
    world.label(**stated)  # the workers' stand-in finds class 1 and calls it a corner
    run, storage, out = open_run(str(world.out), Storage()).record, Storage(), str(world.out)
    for shard in range(2):
        rows = [
            replace(row, detections=row.detections and replace(row.detections, label=["1"]))
            for row in read_shard(shard_url(out, shard), storage)
        ]
        write_shard(rows, out, storage, shard=shard, run_id=run.run_id)
    (world.out / "manifest.json").unlink()
    for _ in range(2):  # without a manifest, and with one
        summary = world.label(**stated)
        assert any(tells(note, "label map", "1 (8 x)") for note in summary.notes)
        manifest = json.loads((world.out / "manifest.json").read_text())
        assert [shard["unnamed"] for shard in manifest["shards"]] == [{"1": 4}, {"1": 4}]


def run_of(detector: DetectorRecord, **stated: Any) -> RunRecord:
    return RunRecord("a" * 32, "2026-01-01T00:00:00Z", options_with(**stated).settings(), {}, detector, 2, (), {})


def options_with(**stated: Any) -> LabelOptions:
    return LabelOptions.of(source=("/photos",), detector="d", output="/out", **stated)


STATEMENTS = [
    {"activation": "logits"},
    {"input_range": "0..1"},
    {"mask_frame": "box"},
    {"input_layout": "channels-last"},
    {"trust_model": True},
]


@pytest.mark.parametrize("stated", STATEMENTS)
def test_a_run_of_an_early_release_resumes_with_options_that_it_did_not_have(stated: dict[str, Any]) -> None:
    earlier = run_of(OLD_CLASSIFIER)
    for more in ({}, {"retry_failed": True}, {"add_new": True}):
        require_same_settings(earlier, options_with(**stated, **more))
    # Nor is anything else let through.
    with pytest.raises(ConfigError, match=r"top-k.*5.*3"):
        require_same_settings(earlier, options_with(**stated, top_k=3))
    # What it comes to is compared.
    require_same_detector(OLD_CLASSIFIER, read(activation="logits", background="class 0"), "out")
    with pytest.raises(ConfigError, match=r"activation.*softmax or logits.*sigmoid"):
        require_same_detector(OLD_CLASSIFIER, read(activation="sigmoid", background="class 0"), "out")
    with pytest.raises(ConfigError, match=r"input layout.*channels-last.*channels-first"):
        require_same_detector(OLD, read(input_range="0..1", input_layout="channels-first"), "out")


@pytest.mark.parametrize("stated", STATEMENTS)
def test_a_later_run_resumes_with_the_same_options_only(stated: dict[str, Any]) -> None:
    (name,) = stated
    with pytest.raises(ConfigError, match=name.replace("_", "-")):
        require_same_settings(run_of(read(activation="logits")), options_with(**stated))


def test_a_former_default_threshold_is_kept_and_a_given_one_must_be_given_again() -> None:
    old, new = run_of(OLD, score_threshold=0.3), run_of(read(), score_threshold=0.3)
    require_same_settings(old, with_former_threshold(options_with(), old))
    require_same_settings(new, with_former_threshold(options_with(score_threshold=0.3), new))
    with pytest.raises(ConfigError, match=r"score-threshold.*0\.3.*0\.05"):
        require_same_settings(new, with_former_threshold(options_with(), new))


def test_the_record_is_the_same_after_a_round_trip_through_its_file() -> None:
    detector = replace(
        read(input_range="0..255"),
        notes=("the output x is there and is not used",),
        keypoints=replace(COCO_PERSON, classes=(1,)),
    )
    record = RunRecord("a" * 32, "2026-01-01T00:00:00Z", {}, {}, detector, 2, (), {})
    stored = json.loads(json.dumps(record.to_json()))
    assert stored["detector"]["reading"] == {"input range": {"value": "0..255", "why": "because"}}
    assert RunRecord.from_json(stored).detector == detector
    for name in ("reading", "notes", "keypoints"):
        del stored["detector"][name]
    earlier = replace(detector, reading=None, notes=(), keypoints=None)
    assert asdict(RunRecord.from_json(stored).detector) == asdict(earlier)


@pytest.mark.parametrize("wrong", [{"names": []}, {"edges": [[0, 17]]}, {"edges": [[0]]}, {"pairs": 3}, {"more": 1}])
def test_a_record_with_invalid_keypoints_is_corrupt(wrong: dict[str, Any]) -> None:
    detector = replace(read(), keypoints=COCO_PERSON)
    stored = RunRecord("a" * 32, "2026-01-01T00:00:00Z", {}, {}, detector, 2, (), {}).to_json()
    stored["detector"]["keypoints"].update(wrong)
    with pytest.raises(StoreError, match="corrupt"):
        RunRecord.from_json(stored)


def test_classes_that_the_label_map_does_not_name_are_counted_over_the_run() -> None:
    def shard(number: int, **unnamed: int) -> ShardRecord:
        counts = {name.strip("c"): count for name, count in unnamed.items()}
        return ShardRecord(number, 2, 0, 9, 1, "0" * 64, unnamed=counts)

    assert unnamed_notes(ShardRecords.of([shard(0), shard(1)])) == []
    (note,) = unnamed_notes(ShardRecords.of([shard(0, c91=2), shard(1, c91=1200, c0=1)]))
    assert tells(note, "label map", "91 (1,202 x), 0 (1 x)")
