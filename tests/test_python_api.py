"""`prelabel.label` and `prelabel.open_run`: the command line's options under the same names, in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import prelabel
from prelabel import console
from prelabel.config import LabelOptions
from prelabel.engine import job
from prelabel.errors import ConfigError, StoreError
from tests.rows import found, row
from tests.runs import write_run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[LabelOptions, Any]]:
    """What the engine was asked to run."""
    calls: list[tuple[LabelOptions, Any]] = []
    monkeypatch.setattr(job, "run", lambda options, reporter: calls.append((options, reporter)))
    return calls


def test_one_source_or_several_and_any_option(asked: list[tuple[LabelOptions, Any]]):
    prelabel.label("photos", detector="d", output="out", score_threshold=0.05, class_map={"Dog": "pet"})
    prelabel.label(["a", "b"], detector="d", output="out", workers=2)
    (one, reporter), (two, _) = asked
    assert one == LabelOptions(
        source=("photos",), detector="d", output="out", score_threshold=0.05, class_map={"Dog": "pet"}
    )
    assert (two.source, two.workers) == (("a", "b"), 2)
    assert type(reporter) is console.QuietReporter


def test_a_job_file_gives_what_the_call_does_not(asked: list[tuple[LabelOptions, Any]], tmp_path: Path):
    job_file = tmp_path / "job.yaml"
    job_file.write_text("score-threshold: 0.2\nworkers: 3\nlog-json: true\n")
    prelabel.label("photos", detector="d", output="out", config=str(job_file), workers=1)
    ((options, reporter),) = asked
    assert (options.score_threshold, options.workers) == (0.2, 1)
    assert type(reporter) is console.JsonReporter


def test_a_reporter_of_ones_own_hears_of_the_run(asked: list[tuple[LabelOptions, Any]]):
    own = console.QuietReporter()
    prelabel.label("photos", detector="d", output="out", reporter=own)
    assert asked[0][1] is own


def test_a_wrong_option_is_refused_before_anything_runs(asked: list[tuple[LabelOptions, Any]]):
    with pytest.raises(ConfigError, match="unknown option 'score_treshold'; did you mean 'score-threshold'"):
        prelabel.label("photos", detector="d", output="out", score_treshold=0.5)
    assert not asked


def test_a_finished_run_is_opened_and_an_unfinished_one_is_not(tmp_path: Path):
    output = write_run(tmp_path / "out", [[row("a.jpg", found("Dog"))], [row("b.jpg")]])
    assert [(one.image_id, len(one)) for one in prelabel.open_run(output).rows()] == [("a.jpg", 1), ("b.jpg", 0)]
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(StoreError, match="is not finished: the same `prelabel label` command goes on"):
        prelabel.open_run(output)
