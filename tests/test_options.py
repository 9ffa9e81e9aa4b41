"""One definition for the command line, job files and Python: the same values, the same messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from prelabel.cli import label as label_command
from prelabel.config import LabelOptions, differences, label_options
from prelabel.errors import ConfigError
from prelabel.export.coco_options import CocoOptions
from prelabel.options import fields_of, from_mapping

NEEDED = {"source": ["photos"], "detector": "d", "output": "out"}


def message(values: dict[str, object], config: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        label_options({**NEEDED, **values}, config=config)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_an_unknown_key_names_the_nearest_known_one():
    assert message({"score_treshold": 0.5}) == "label: unknown option 'score_treshold'; did you mean 'score-threshold'?"


def test_an_unknown_key_of_a_job_file_names_the_file(tmp_path: Path):
    job = tmp_path / "job.yaml"
    job.write_text("source: [a]\ndetektor: d\n")
    assert message({}, str(job)) == f"{job}: unknown option 'detektor'; did you mean 'detector'?"


def test_the_command_line_wins_over_the_job_file(tmp_path: Path):
    job = tmp_path / "job.toml"
    job.write_text("score-threshold = 0.05\nmax-detections = 7\n[class-threshold]\nPerson = 0.2\n")
    options = label_options({**NEEDED, "score_threshold": 0.4}, config=str(job))
    assert (options.score_threshold, options.max_detections) == (0.4, 7)
    assert options.class_threshold == {"Person": 0.2}


def test_every_option_of_label_can_stand_in_a_job_file():
    command = label_command.make_context("label", [], resilient_parsing=True).command
    flags = {param.name for param in command.params} - {"config"}
    assert flags == set(fields_of(LabelOptions))


def test_a_wrong_value_is_blamed_on_whoever_gave_it(tmp_path: Path):
    job = tmp_path / "job.yaml"
    job.write_text("score-threshold: high\n")
    assert message({"score_threshold": 0.5}, str(job)).startswith(f"{job}: score-threshold must be a number")
    job.write_text("score-threshold: 0.5\n")
    assert message({"class_threshold": ["Person"]}, str(job)).startswith("label: class-threshold must be")


def test_a_key_given_with_dash_and_underscore_is_given_twice(tmp_path: Path):
    job = tmp_path / "job.yaml"
    job.write_text("score-threshold: 0.1\nscore_threshold: 0.2\n")
    assert "given twice" in message({}, str(job))


def test_pairs_come_as_text_as_mappings_and_as_files(tmp_path: Path):
    classes = tmp_path / "classes.csv"
    classes.write_text("Dog,pet\nCat,pet\n")
    by_text = label_options({**NEEDED, "class_map": ["Dog=pet", "Cat=pet"]})
    by_mapping = label_options({**NEEDED, "class_map": {"Dog": "pet", "Cat": "pet"}})
    by_file = label_options({**NEEDED, "class_map": str(classes)})
    assert by_text.class_map == by_mapping.class_map == by_file.class_map == {"Dog": "pet", "Cat": "pet"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"score_threshold": 1.5}, "score-threshold must be between 0 and 1, got 1.5"),
        ({"score_threshold": "high"}, "label: score-threshold must be a number, got 'high'"),
        ({"class_threshold": ["Person"]}, "class-threshold must be NAME=NUMBER or a file (.yaml"),
        ({"class_threshold": ["Person=much"]}, ".csv), got ['Person=much']"),
        ({"class_threshold": {"Person": None}}, "class-threshold must be NAME=NUMBER or a file"),
        ({"class_threshold": 0.5}, "class-threshold must be NAME=NUMBER or a file"),
        ({"class_map": 7}, "class-map must be NAME=VALUE or a file"),
        ({"include_class": [None]}, "include-class must be text, or a list of texts, got [None]"),
        ({"workers": float("inf")}, "workers must be a whole number, got inf"),
        ({"workers": [2]}, "workers must be a whole number, got [2]"),
        ({"gpus_per_worker": float("inf")}, "gpus-per-worker must be a number, got inf"),
        ({"stall_timeout": "1e999"}, "stall-timeout must be a number, got '1e999'"),
        ({"class_threshold": {"Dog": "nan"}}, "class-threshold must be NAME=NUMBER or a file"),
        ({"gpus_per_worker": float("nan")}, "gpus-per-worker must be a number, got nan"),
        ({"workers": 0}, "workers must be 1 or more, got 0"),
        ({"workers": 1.5}, "workers must be a whole number, got 1.5"),
        ({"gpus_per_worker": 1.5}, "gpus-per-worker must be 0, a fraction below 1 or a whole number, got 1.5"),
        ({"keep": ["raw"]}, "keep knows multiclass-scores, got raw"),
        ({"overwrite": True, "add_new": True}, "overwrite starts anew"),
        ({"detector": ""}, "name a detector (--detector)"),
        ({"source": []}, "name at least one source of images"),
        ({"allow_truncated": "yes"}, "allow-truncated must be true or false, got 'yes'"),
        ({"address": "my cluster"}, "address must be auto, local, HOST:PORT or ray://HOST:PORT"),
    ],
)
def test_nonsense_is_refused_with_the_value_and_what_would_be_right(values: dict[str, object], said: str):
    assert said in message(values)


@pytest.mark.parametrize("wrong", ['{"secret": "hunter2"', '["hunter2"]', ["hunter2"], "hunter2"])
def test_storage_options_are_not_shown_when_they_are_wrong(wrong: object):
    assert message({"storage_options": wrong}) == "label: storage-options must be a JSON object"


def test_one_of_several_words_is_refused_in_a_job_file_as_on_the_command_line():
    with pytest.raises(ConfigError, match=r"^job\.yaml: segmentation must be one of .*rle.*, got 'rel'$"):
        from_mapping(CocoOptions, {"segmentation": "rel"}, "job.yaml")


def test_settings_hold_no_secret_and_nothing_that_changes_no_row():
    options = LabelOptions(
        source=("https://user:hunter2@example.org/a.jpg?token=hunter2",),
        image_root="https://user:hunter2@example.org/photos",
        detector="d",
        output="out",
        storage_options={"secret": "hunter2"},
        workers=3,
    )
    settings = options.settings()
    assert "hunter2" not in str(settings)
    assert "workers" not in settings
    assert "score_threshold" in settings


def test_differences_name_the_setting_and_both_values():
    was = label_options(NEEDED).settings()
    now = label_options({**NEEDED, "score_threshold": 0.5, "include_class": ["Dog"]}).settings()
    assert differences(was, now) == [
        "score-threshold was 0.05, now 0.5",
        "include-class was not given, now Dog",
    ]


def test_a_setting_that_a_stored_run_does_not_know_had_its_default():
    was = label_options(NEEDED).settings()
    del was["decode_scale"], was["include_class"]
    assert differences(was, label_options(NEEDED).settings()) == []
    changed = label_options({**NEEDED, "decode_scale": "auto"}).settings()
    assert differences(was, changed) == ["decode-scale was full, now auto"]


def test_an_unstated_shard_size_is_no_difference_but_a_stated_one_is():
    was = label_options({**NEEDED, "shard_size": 10}).settings()
    assert differences(was, label_options(NEEDED).settings()) == []
    assert differences(was, label_options({**NEEDED, "shard_size": 20}).settings()) == ["shard-size was 10, now 20"]


def test_an_option_that_is_younger_than_the_run_had_its_default():
    was = label_options(NEEDED).settings()
    del was["trust_model"], was["keep"]
    assert differences(was, label_options(NEEDED).settings()) == []
    assert differences(was, label_options({**NEEDED, "trust_model": True}).settings()) == [
        "trust-model was False, now True"
    ]


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list\n", "a: !!python/object:os.system {}\n"])
def test_a_damaged_job_file_is_one_line(tmp_path: Path, text: str):
    job = tmp_path / "job.yaml"
    job.write_text(text)
    assert str(job) in message({}, str(job))


@pytest.mark.parametrize("key", ["limit: [", "class-map: {x: ["])
def test_a_few_lines_of_yaml_that_stand_for_gigabytes_are_one_short_line(key: str, tmp_path: Path):
    job = tmp_path / "job.yaml"
    folds = "".join(
        f", &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    job.write_text(f"{key}&a [l, l, l, l, l, l, l, l, l]{folds}]{'}' * ('{' in key)}\n")
    assert message({}, str(job)) == f"{job}: it names more than 1,000,000 values"


def test_a_value_that_holds_itself_is_one_short_line(tmp_path: Path):
    job = tmp_path / "job.yaml"
    job.write_text("limit: &a [*a]\n")
    assert message({}, str(job)) == f"{job}: it names more than 1,000,000 values"


@pytest.mark.parametrize("key", ["source", "detector", "class-map", "score-threshold", "quiet"])
def test_a_key_without_a_value_is_one_line(key: str, tmp_path: Path):
    job = tmp_path / "job.yaml"
    job.write_text(f"{key}:\n")
    assert message({}, str(job)) == f"{job}: {key} has no value"


def test_a_missing_job_file_is_one_line():
    assert message({}, "nowhere.yaml") == "nowhere.yaml: No such file or directory"
