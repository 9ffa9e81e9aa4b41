"""`--retry-failed` with raised limits: failed images get through, ok rows stay, the run goes on either way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from prelabel.config import LabelOptions, differences
from prelabel.errors import ConfigError
from prelabel.storage.files import Storage
from prelabel.store.shards import shard_name
from prelabel.store.verify import verify
from tests.engine.world import Recorder, World

SCHEMA = Path(__file__).parents[2] / "schemas" / "run.schema.json"

#: Photos of a world have 8 x 4, 5 or 6 pixels: with this limit every third one is too large.
LIMIT = 40


@pytest.fixture
def finished(local_world: World) -> World:
    """Eight images in two shards: 002 and 005 are too large, 004 is cut."""
    local_world.add(8)
    cut = local_world.photos / "004.png"
    cut.write_bytes(cut.read_bytes()[:-20])
    summary = local_world.label(max_pixels=LIMIT)
    assert summary.failures == {"ImageTooLargeError": 2, "TruncatedImageError": 1}
    local_world.forget()
    return local_world


def failed(world: World) -> dict[str, str | None]:
    return {row.image_id: row.error_type for row in world.rows() if row.error_type}


def run_json(world: World) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((world.out / "run.json").read_text())
    jsonschema.validate(values, json.loads(SCHEMA.read_text()))
    return values


def test_raised_limits_apply_to_failed_images_only_and_are_recorded(finished: World):
    ok = {row.image_id: row for row in finished.rows() if row.error_type is None}
    begun = run_json(finished)
    recorder = Recorder()
    options = {"max_pixels": 48, "allow_truncated": True, "storage_options": {"key": "renewed"}}
    summary = finished.label(recorder, retry_failed=True, **options)
    assert (summary.failed, summary.labeled) == (0, 3)
    assert sorted(finished.fetched) == ["002.png", "004.png", "005.png"]
    assert recorder.said("--max-pixels 48", "--allow-truncated")
    after = {row.image_id: row for row in finished.rows()}
    assert all(str(after[name]) == str(row) for name, row in ok.items())

    record = run_json(finished)
    (retry,) = record.pop("retries")
    assert retry["settings"] == {"max_pixels": 48, "allow_truncated": True}
    assert {**record, "retries": []} == begun  # the run is what it was begun as
    assert "renewed" not in (finished.out / "run.json").read_text()
    assert verify(str(finished.out), Storage()).problems == ()


@pytest.mark.parametrize(
    "options", [{"max_pixels": LIMIT}, {"max_pixels": 48, "allow_truncated": True}, {"max_pixels": 48}]
)
def test_afterwards_the_run_resumes_with_the_old_limits_and_with_the_new(finished: World, options: dict[str, Any]):
    finished.label(retry_failed=True, max_pixels=48, allow_truncated=True)
    (finished.out / "shards" / shard_name(1)).unlink()
    finished.label(**options)
    too_large = {"005.png": "ImageTooLargeError"} if options["max_pixels"] == LIMIT else {}
    cut = {} if options.get("allow_truncated") else {"004.png": "TruncatedImageError"}
    assert failed(finished) == {**too_large, **cut}
    assert verify(str(finished.out), Storage()).problems == ()
    assert finished.label(retry_failed=True, max_pixels=48, allow_truncated=True).failed == 0


def test_an_interrupted_retry_resumes_without_and_with_its_limits(finished: World):
    """The shards that it has published are of the new limits, the others of the old: both are the run's."""
    finished.label(retry_failed=True, max_pixels=48)
    (finished.out / "manifest.json").unlink()
    assert finished.label(max_pixels=LIMIT).failures == {"TruncatedImageError": 1}
    assert finished.label(max_pixels=48).failures == {"TruncatedImageError": 1}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_pixels": 48}, r"max-pixels.*40.*48.*--retry-failed"),
        ({"max_pixels": LIMIT, "allow_truncated": True}, r"allow-truncated.*False.*True.*--retry-failed"),
        ({"retry_failed": True, "max_pixels": 32}, r"max-pixels.*40.*32.*(less|below|lower)"),
        ({"retry_failed": True, "max_pixels": LIMIT, "max_bytes": 9}, r"max-bytes.*9.*(less|below|lower)"),
        ({"retry_failed": True, "max_pixels": 48, "score_threshold": 0.9}, r"score-threshold.*0\.05.*0\.9"),
        ({"retry_failed": True, "max_pixels": 48, "decode_scale": "auto"}, r"decode-scale.*full.*auto"),
    ],
)
def test_limits_that_would_change_rows_that_are_ok_are_refused(finished: World, options: dict[str, Any], says: str):
    before = finished.files()
    with pytest.raises(ConfigError, match=says):
        finished.label(**options)
    assert finished.files() == before


def test_a_retry_with_nothing_to_do_records_nothing(finished: World):
    finished.label(retry_failed=True, max_pixels=48, allow_truncated=True)
    before = finished.files()
    assert finished.label(retry_failed=True, max_pixels=1000, allow_truncated=True).labeled == 0
    assert finished.files() == before


def test_new_images_of_a_retry_do_not_change_the_settings_of_the_run(finished: World):
    finished.add(4)
    finished.label(retry_failed=True, add_new=True, max_pixels=48, allow_truncated=True)
    record = run_json(finished)
    assert record["settings"]["max_pixels"] == LIMIT
    assert [retry["settings"]["max_pixels"] for retry in record["retries"]] == [48]
    assert finished.label(max_pixels=LIMIT).labeled == 0


def test_every_option_declares_what_it_affects():
    """A limit is a number or a flag of which more lets more through; whatever else changes a row must be equal."""
    from prelabel.options import fields_of

    affects = {name: field.metadata["affects"] for name, field in fields_of(LabelOptions).items()}
    assert set(affects.values()) == {"nothing", "plan", "rows", "failures"}
    limits = {name for name, what in affects.items() if what == "failures"}
    assert limits == {"max_pixels", "max_bytes", "allow_truncated"}
    options = LabelOptions(source=("a",), detector="d", output="o")
    assert {type(getattr(options, name)) for name in limits} == {int, bool}
    assert differences({}, options.settings(), retry_failed=True) == differences({}, options.settings())
