"""One definition for the command line, job files and Python: the same values, the same messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prelabel.cli import label as label_command
from prelabel.config import LabelOptions, differences, label_options
from prelabel.errors import ConfigError
from prelabel.estimates.options import OWN
from prelabel.export.coco import CocoOptions
from prelabel.options import (
    Options,
    RenamedOptionWarning,
    fields_for_help,
    fields_of,
    from_mapping,
    group_of,
    option,
    values_of,
)
from prelabel.views import ViewOptions
from tests.messages import TWICE, is_told, telling


@dataclass(frozen=True, kw_only=True)
class Size(Options):
    side: int = option(100, "Its side.", min=32, max=8192, heading="Size")
    share: float = option(0.5, "Its share.", above=0, max=1)
    most: int | None = option(None, "At most so many.", min=1)


@dataclass(frozen=True, kw_only=True)
class Drawing(Options):
    size: Size = group_of(Size)
    name: str = option("", "Its name.", missing="give it a name", heading="Drawing")
    wait_s: float = option(1.0, "How long to wait.", above=0, unit="seconds")
    val: float = option(0.0, "A part.", min=0, below=1)
    middle: float = option(0.5, "Neither end.", above=0, below=1)
    weights: dict[str, float] = option({}, "By name.", min=0, max=1)
    steps: tuple[float, ...] = option((), "One after the other.", above=0)
    ink: str | None = option(None, "What with.", choices=("pen", "brush"))


NEEDED = {"source": ["photos"], "detector": "d", "output": "out"}


def message(values: dict[str, object], config: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        label_options({**NEEDED, **values}, config=config)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_an_unknown_key_names_the_nearest_known_one():
    assert is_told(message({"score_treshold": 0.5}), "label", "score_treshold", "score_threshold")


def test_an_unknown_key_of_a_job_file_names_the_file(tmp_path: Path):
    job = tmp_path / "job.yaml"
    job.write_text("source: [a]\ndetektor: d\n")
    assert is_told(message({}, str(job)), re.escape(str(job)), "detektor", "detector")


def test_the_command_line_wins_over_the_job_file(tmp_path: Path):
    job = tmp_path / "job.toml"
    job.write_text("score-threshold = 0.05\nmax-detections = 7\n[class-threshold]\nPerson = 0.2\n")
    options = label_options({**NEEDED, "score_threshold": 0.4}, config=str(job))
    assert (options.selection.score_threshold, options.selection.max_detections) == (0.4, 7)
    assert options.selection.class_threshold == {"Person": 0.2}


def test_every_option_of_label_is_accepted_in_a_job_file():
    command = label_command.make_context("label", [], resilient_parsing=True).command
    flags = {param.name for param in command.params if not getattr(param, "hidden", False)} - {"config"}
    assert flags - {"dry_run", "as_json", *OWN} == set(fields_of(LabelOptions))


def test_the_message_about_a_wrong_value_names_its_source(tmp_path: Path):
    job = tmp_path / "job.yaml"
    job.write_text("score-threshold: high\n")
    assert is_told(message({"score_threshold": 0.5}, str(job)), re.escape(str(job)), "score-threshold")
    job.write_text("score-threshold: 0.5\n")
    text = message({"class_threshold": ["Person"]}, str(job))
    assert is_told(text, "label", "class-threshold")
    assert str(job) not in text


def test_a_former_name_is_accepted_with_a_warning_that_names_the_current_one(tmp_path: Path):
    with pytest.warns(RenamedOptionWarning, match=telling("--address", "--ray-address")):
        assert label_options({**NEEDED, "address": "local"}).ray_address == "local"
    job = tmp_path / "job.yaml"
    job.write_text("address: h:1\n")
    with pytest.warns(RenamedOptionWarning, match=telling(re.escape(str(job)), "--address", "--ray-address")):
        assert label_options({**NEEDED, "ray_address": "local"}, config=str(job)).ray_address == "local"
    with pytest.warns(RenamedOptionWarning):
        assert is_told(message({"address": "local", "ray_address": "h:1"}), "--ray-address", TWICE)


def test_help_lists_the_most_important_options_first_and_groups_last():
    @dataclass(frozen=True, kw_only=True)
    class Picture(Options):
        size: Size = group_of(Size)
        color: str = option("red", "Paint in this color.", heading="Paint")
        name: str = option("", "Save under this name.", first=True)
        brush: str = option("fine", "Paint with this brush.")

    headings = [(name, heading) for name, (heading, _) in fields_for_help(Picture).items()]
    assert headings == [
        *(("name", ""), ("color", "Paint"), ("brush", "Paint")),
        *(("side", "Size"), ("share", "Size"), ("most", "Size")),
    ]


def test_a_key_with_a_dash_and_with_an_underscore_is_a_duplicate(tmp_path: Path):
    job = tmp_path / "job.yaml"
    job.write_text("score-threshold: 0.1\nscore_threshold: 0.2\n")
    assert is_told(message({}, str(job)), re.escape(str(job)), "score[-_]threshold", TWICE)


def test_pairs_are_accepted_as_text_mappings_and_files(tmp_path: Path):
    classes = tmp_path / "classes.csv"
    classes.write_text("Dog,pet\nCat,pet\n")
    by_text = label_options({**NEEDED, "class_map": ["Dog=pet", "Cat=pet"]}).selection
    by_mapping = label_options({**NEEDED, "class_map": {"Dog": "pet", "Cat": "pet"}}).selection
    by_file = label_options({**NEEDED, "class_map": str(classes)}).selection
    assert by_text.class_map == by_mapping.class_map == by_file.class_map == {"Dog": "pet", "Cat": "pet"}


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        ({"score_threshold": 1.5}, ("score-threshold", "0", "1", r"1\.5")),
        ({"score_threshold": "high"}, ("label", "score-threshold", "numbers?", "'high'")),
        ({"class_threshold": ["Person"]}, ("class-threshold", "NAME=NUMBER", r"\.yaml")),
        ({"class_threshold": ["Person=much"]}, ("class-threshold", r"\.csv", "Person=much", "Person")),
        ({"class_threshold": {"Person": None}}, ("class-threshold", "NAME=NUMBER")),
        ({"class_threshold": 0.5}, ("class-threshold", "NAME=NUMBER")),
        ({"class_map": 7}, ("class-map", "NAME=VALUE")),
        ({"include_class": [None]}, ("include-class", "text", r"\[None\]")),
        ({"workers": float("inf")}, ("workers", "whole numbers?", "inf")),
        ({"workers": [2]}, ("workers", "whole numbers?", r"\[2\]")),
        ({"gpus_per_worker": float("inf")}, ("gpus-per-worker", "numbers?", "inf")),
        ({"stall_timeout": "1e999"}, ("stall-timeout", "numbers?", "1e999")),
        ({"class_threshold": {"Dog": "nan"}}, ("class-threshold", "Dog")),
        ({"gpus_per_worker": float("nan")}, ("gpus-per-worker", "numbers?", "nan")),
        ({"workers": 0}, ("workers", "1", "0")),
        ({"workers": 1.5}, ("workers", "whole numbers?", r"1\.5")),
        ({"gpus_per_worker": 1.5}, ("gpus-per-worker", "fractions?|below 1|parts?", "whole numbers?", r"1\.5")),
        ({"max_failed": -1}, ("max-failed", "0", r"-1(\.0)?")),
        ({"nms_iou": 0}, ("nms-iou", "0", "1")),
        ({"keep": ["raw"]}, ("keep", "multiclass-scores", "raw")),
        ({"overwrite": True, "add_new": True}, ("overwrite", "add-new")),
        ({"detector": ""}, ("--detector",)),
        ({"source": []}, ("source",)),
        ({"allow_truncated": "yes"}, ("allow-truncated", "true", "false", "'yes'")),
        ({"ray_address": "my cluster"}, ("ray-address", "auto", "local", "HOST:PORT", "ray://HOST:PORT")),
    ],
)
def test_a_wrong_value_is_refused_with_the_value_and_the_allowed_ones(
    values: dict[str, object], facts: tuple[str, ...]
):
    assert is_told(message(values), *facts)


@pytest.mark.parametrize("wrong", ['{"secret": "hunter2"', '["hunter2"]', ["hunter2"], "hunter2"])
def test_wrong_storage_options_are_not_printed(wrong: object):
    text = message({"storage_options": wrong})
    assert is_told(text, "label", "storage-options", "JSON")
    assert "hunter2" not in text


def test_choices_hold_in_a_job_file_as_on_the_command_line():
    with pytest.raises(ConfigError, match=telling(r"job\.yaml", "segmentation", "rle", "rel")):
        from_mapping(CocoOptions, {"segmentation": "rel"}, "job.yaml")


def test_settings_contain_no_secret_and_only_options_that_change_rows():
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
    score_threshold, include_class = differences(was, now)
    assert is_told(score_threshold, r"score-threshold\b.*0\.05.*0\.5")
    assert is_told(include_class, "include-class", "not|no|none|nothing|without", "Dog")


def test_a_setting_that_a_stored_run_lacks_counts_as_its_default():
    was = label_options(NEEDED).settings()
    del was["decode_scale"], was["include_class"]
    assert differences(was, label_options(NEEDED).settings()) == []
    changed = label_options({**NEEDED, "decode_scale": "auto"}).settings()
    (decode_scale,) = differences(was, changed)
    assert is_told(decode_scale, r"decode-scale\b.*full.*auto")


def test_only_an_explicit_shard_size_counts_as_a_difference():
    was = label_options({**NEEDED, "shard_size": 10}).settings()
    assert differences(was, label_options(NEEDED).settings()) == []
    (shard_size,) = differences(was, label_options({**NEEDED, "shard_size": 20}).settings())
    assert is_told(shard_size, r"shard-size\b.*\b10\b.*\b20")


def test_an_option_added_after_the_run_counts_as_its_default():
    was = label_options(NEEDED).settings()
    del was["trust_model"], was["keep"]
    assert differences(was, label_options(NEEDED).settings()) == []
    (trust_model,) = differences(was, label_options({**NEEDED, "trust_model": True}).settings())
    assert is_told(trust_model, r"trust-model\b.*(False|off|no).*(True|on|yes)")


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list\n", "a: !!python/object:os.system {}\n"])
def test_an_invalid_job_file_is_reported_in_one_line(tmp_path: Path, text: str):
    job = tmp_path / "job.yaml"
    job.write_text(text)
    assert str(job) in message({}, str(job))


@pytest.mark.parametrize("key", ["limit: [", "class-map: {x: ["])
def test_yaml_that_expands_to_gigabytes_is_reported_in_one_short_line(key: str, tmp_path: Path):
    job = tmp_path / "job.yaml"
    folds = "".join(
        f", &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    job.write_text(f"{key}&a [l, l, l, l, l, l, l, l, l]{folds}]{'}' * ('{' in key)}\n")
    text = message({}, str(job))
    assert is_told(text, re.escape(str(job)), "1,000,000", "values?")
    assert len(text) < 300


def test_a_value_that_contains_itself_is_reported_in_one_short_line(tmp_path: Path):
    job = tmp_path / "job.yaml"
    job.write_text("limit: &a [*a]\n")
    text = message({}, str(job))
    assert is_told(text, re.escape(str(job)), "1,000,000", "values?")
    assert len(text) < 300


@pytest.mark.parametrize("key", ["source", "detector", "class-map", "score-threshold", "quiet"])
def test_a_key_without_a_value_is_reported_in_one_line(key: str, tmp_path: Path):
    job = tmp_path / "job.yaml"
    job.write_text(f"{key}:\n")
    assert is_told(message({}, str(job)), re.escape(str(job)), key)


def test_a_missing_job_file_is_reported_in_one_line():
    assert is_told(message({}, "nowhere.yaml"), r"nowhere\.yaml")


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        ({"side": 31}, ("side", "32", "8192", "31")),
        ({"side": 8193}, ("side", "32", "8192", "8193")),
        ({"share": 0.0}, ("share", "above|more|greater|larger|over", "0", "1", r"0\.0")),
        ({"share": 1.5}, ("share", "above|more|greater|larger|over", "0", "1", r"1\.5")),
        ({"most": 0}, ("most", "1", "0")),
        ({"wait_s": 0.0}, ("wait-s", "above|more|greater|larger|over", "0", "seconds?", r"0\.0")),
        ({"val": 1.0}, ("val", "below|less|smaller|under", "0", "1", r"1\.0")),
        ({"middle": 1.0}, ("middle", "0", "1", r"1\.0")),
        ({"ink": "chalk"}, ("ink", "pen", "brush", "chalk")),
        ({"steps": "3,0"}, ("steps", "above|more|greater|larger|over", "0", r"0\.0")),
        ({"steps": "3,x"}, ("steps", "numbers?", "commas?", "3,x")),
        ({"steps": ""}, ("steps", "numbers?", "commas?")),
        ({"steps": [1, "nan"]}, ("steps", "numbers?", "commas?")),
        ({"steps": 3}, ("steps", "numbers?", "commas?", "3")),
        ({"name": " "}, ("give it a name",)),
    ],
)
def test_bounds_and_choices_hold_however_an_option_is_given(values: dict[str, Any], facts: tuple[str, ...]):
    with pytest.raises(ConfigError, match=telling(*facts)):
        Drawing.of(**{"name": "x", **values})


def test_bounds_admit_their_ends_and_a_default_of_none():
    drawing = Drawing.of(name="x", side=32, share=1.0, val=0.0, weights={"a": 0.0, "b": 1.0})
    assert (drawing.size.side, drawing.size.share, drawing.size.most, drawing.ink) == (32, 1.0, None, None)
    with pytest.raises(ConfigError, match=telling("weights", "b", "0", "1", "2")):
        Drawing(name="x", weights={"a": 1.0, "b": 2})
    with pytest.raises(ConfigError, match=telling("share", "nan")):
        Size(share=float("nan"))


@pytest.mark.parametrize("given", ["3,0.5", "3, 0.5", [3, 0.5], ("3", "0.5")])
def test_numbers_are_accepted_as_text_and_as_a_list(given: object):
    assert Drawing.of(name="x", steps=given).steps == (3.0, 0.5)


def test_a_share_may_be_a_percentage():
    assert ViewOptions.of(views="tiles", tile_overlap="25%").tile_overlap == 0.25
    for wrong in ("x%", "%", "95%", "nan%"):
        with pytest.raises(ConfigError, match=telling("tile.overlap", "10%|between")):
            ViewOptions.of(views="tiles", tile_overlap=wrong)


def test_options_of_a_group_have_flat_names_at_the_position_of_the_group():
    assert list(fields_of(Drawing)) == [
        *("side", "share", "most", "name", "wait_s", "val", "middle", "weights", "steps", "ink"),
    ]
    drawing = from_mapping(Drawing, {"side": "64", "name": "x"}, "test")
    assert drawing == Drawing(size=Size(side=64), name="x")
    assert values_of(drawing)["side"] == 64
    assert list(values_of(drawing)) == list(fields_of(Drawing))
