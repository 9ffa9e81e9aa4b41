"""Which images `select` chooses, in which order, and how it writes them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import prelabel
from prelabel.cli import main
from prelabel.errors import ConfigError
from prelabel.processes import Processes
from prelabel.storage.files import Storage
from prelabel.store.run import Run, open_run
from prelabel.triage.choosing import ChoiceOptions, choose, choose_images, image_scores
from tests.messages import facts, tells, told
from tests.rows import batch_of, failed_row, found, row
from tests.runs import write_run

STORAGE = Storage()


def crowd(number: int) -> list[dict[str, Any]]:
    return [found(score=0.5) for _ in range(number)]


def made_run(folder: Path, *, shard: int = 7) -> Run:
    """Images `00.jpg` to `39.jpg` with as many detections as their number; `40.jpg` failed."""
    rows = [*(row(f"{n:02d}.jpg", *crowd(n)) for n in range(40)), failed_row("40.jpg")]
    return open_run(write_run(folder, [rows[n : n + shard] for n in range(0, len(rows), shard)]), STORAGE)


def written(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return [{**line, "rank": int(line["rank"]), "score": float(line["score"])} for line in csv.DictReader(file)]


def ids(rows: list[dict[str, Any]], part: str = "") -> list[str]:
    return [line["image_id"] for line in rows if part in ("", line["part"])]


def test_scores_of_images() -> None:
    batch = batch_of([row("a", found(score=0.5), found(score=0.25)), row("b"), row("c", found(score=1.0))])
    assert image_scores(batch, "work").tolist() == [2, 0, 1]
    # -0.25 log2 0.25 - 0.75 log2 0.75 = 0.811
    assert image_scores(batch, "uncertainty").tolist() == pytest.approx([1.8113, 0, 0], abs=1e-4)
    assert image_scores(batch, "random").tolist() == [0, 0, 0]


def test_the_best_images_with_random_ones_spread_evenly_between_them() -> None:
    scores = np.array([5.0, 9, 1, 7, 3, 8, 2, 6, 4, 0])
    order = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], np.uint64)  # the last two are drawn first
    options = ChoiceOptions(budget=6, keep_aside=0.34)
    chosen, at_random = choose(scores, order, np.arange(10), options)
    assert chosen.tolist() == [1, 9, 5, 3, 8, 7]
    assert at_random.tolist() == [False, True, False, False, True, False]
    everything, _ = choose(scores, order, np.arange(10), ChoiceOptions(budget=99))
    assert sorted(everything.tolist()) == list(range(10))
    assert choose(scores, order, np.array([2, 6]), ChoiceOptions(budget=1))[0].tolist() == [6]
    only_best, none = choose(scores, order, np.arange(10), ChoiceOptions(budget=3, keep_aside=0))
    assert (only_best.tolist(), none.any()) == ([1, 5, 3], False)


def test_equal_scores_are_in_random_order() -> None:
    order = np.array([3, 1, 2], np.uint64)
    chosen, _ = choose(np.zeros(3), order, np.arange(3), ChoiceOptions(budget=3, keep_aside=0))
    assert chosen.tolist() == [1, 2, 0]


@pytest.mark.parametrize("extension", ["parquet", "csv", "jsonl"])
def test_the_list_has_ranks_scores_and_parts(tmp_path: Path, extension: str) -> None:
    to = tmp_path / f"list.{extension}"
    choice = prelabel.choose_images(made_run(tmp_path / "run"), to, budget=10, by="work")
    assert (choice.images, choice.available, choice.failed) == (10, 40, 1)
    assert choice.parts == {"work": 9, "random": 1}
    rows = written(to)
    assert [line["rank"] for line in rows] == list(range(1, 11))
    assert [line["part"] for line in rows].index("random") == 5
    assert all(line["score"] == int(line["image_id"][:2]) for line in rows)
    (drawn,) = ids(rows, "random")
    assert ids(rows, "work") == [name for n in range(39, 0, -1) if (name := f"{n:02d}.jpg") != drawn][:9]


def test_the_same_seed_chooses_the_same_images_whatever_the_shards_and_processes(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / "a"), made_run(tmp_path / "b", shard=41)]
    for by in ("work", "random"):
        options = ChoiceOptions(budget=12, by=by, keep_aside=0.5)
        for run in runs:
            choose_images(run, str(run.root.join("list.csv")), options, Processes(), lambda done, total: None)
        lists = [(tmp_path / name / "list.csv").read_text() for name in "ab"]
        assert lists[0] == lists[1]
        prelabel.choose_images(runs[0], tmp_path / "other.csv", budget=12, by=by, keep_aside=0.5, seed=1)
        assert (tmp_path / "other.csv").read_text() != lists[0]


def test_the_random_part_is_a_sample_of_all_images(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    drawn = []
    for seed in range(30):
        prelabel.choose_images(run, tmp_path / "list.csv", budget=10, keep_aside=0.5, seed=seed)
        drawn += [int(name[:2]) for name in ids(written(tmp_path / "list.csv"), "random")]
    # Of 150 numbers from 0 to 39, the mean is 19.5 with a standard error of 0.94.
    assert len(drawn) == 150
    assert abs(np.mean(drawn) - 19.5) < 4
    assert len(set(drawn)) > 30


def test_earlier_lists_are_skipped(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    prelabel.choose_images(run, tmp_path / "1.parquet", budget=15)
    second = prelabel.choose_images(run, tmp_path / "2.txt", budget=99, skip=tmp_path / "1.parquet")
    assert (second.images, second.available, second.skipped) == (25, 25, 15)
    assert told(second.warnings, "99", "25")
    first = ids(written(tmp_path / "1.parquet"))
    assert sorted([*first, *(tmp_path / "2.txt").read_text().splitlines()]) == [f"{n:02d}.jpg" for n in range(40)]
    lists = [tmp_path / "1.parquet", tmp_path / "2.txt"]
    with pytest.raises(ConfigError, match=facts("skip")):
        prelabel.choose_images(run, tmp_path / "3.csv", budget=1, skip=lists)
    (tmp_path / "other.txt").write_text("other.jpg\n")
    for name in ("missing.txt", "list.json", "other.txt"):
        with pytest.raises(ConfigError, match=facts("--skip", name)) as refused:
            prelabel.choose_images(run, tmp_path / "3.csv", budget=1, skip=tmp_path / name)
        assert "--images" not in str(refused.value)
    assert not (tmp_path / "3.csv").exists()


def test_only_selected_classes_and_scores_count(tmp_path: Path) -> None:
    cats = [found("Cat", 0.9, category_id=2, mid="/m/01yrx")] * 5
    rows = [row("cats.jpg", *cats), row("dogs.jpg", found(score=0.9), found(score=0.9)), row("low.jpg", *crowd(3))]
    run = open_run(write_run(tmp_path / "run", [rows]), STORAGE)
    for options, expected in (
        ({}, ["cats.jpg", "low.jpg", "dogs.jpg"]),
        ({"exclude_class": "Cat"}, ["low.jpg", "dogs.jpg", "cats.jpg"]),
        ({"exclude_class": "Cat", "score_threshold": 0.6}, ["dogs.jpg"]),
    ):
        prelabel.choose_images(run, tmp_path / "list.csv", budget=3, keep_aside=0, by="work", **options)
        assert ids(written(tmp_path / "list.csv"))[: len(expected)] == expected


def test_a_note_says_that_a_full_output_tells_nothing(tmp_path: Path) -> None:
    rows = [row(f"{n}.jpg", *crowd(19 + n % 2)) for n in range(12)]
    run = open_run(write_run(tmp_path / "run", [rows]), STORAGE)
    choice = prelabel.choose_images(run, tmp_path / "list.csv", budget=3, by="work")
    assert told(choice.warnings, "19|20", "--by uncertainty")
    assert not prelabel.choose_images(run, tmp_path / "list.csv", budget=3, by="uncertainty").warnings
    assert not prelabel.choose_images(made_run(tmp_path / "other"), tmp_path / "list.csv", budget=3, by="work").warnings


def test_what_cannot_be_chosen_is_refused(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--to .*\.parquet"):
        prelabel.choose_images(run, tmp_path / "list.json", budget=1)
    with pytest.raises(ConfigError, match=facts("run", "another path")):
        prelabel.choose_images(run, tmp_path / "run/shards/list.csv", budget=1)
    empty = open_run(write_run(tmp_path / "empty", [[row("a.jpg"), row("b.jpg")]]), STORAGE)
    with pytest.raises(ConfigError, match=facts("--by work", "--by random")):
        prelabel.choose_images(empty, tmp_path / "list.csv", budget=1, by="work")
    assert prelabel.choose_images(empty, tmp_path / "list.csv", budget=1, by="random").images == 1
    failed = open_run(write_run(tmp_path / "failed", [[failed_row()]]), STORAGE)
    with pytest.raises(ConfigError, match=facts("failed")):
        prelabel.choose_images(failed, tmp_path / "none.csv", budget=1, by="random")
    odd = open_run(write_run(tmp_path / "odd", [[replace(row("x", found()), image_id="a\nb.jpg")]]), STORAGE)
    with pytest.raises(ConfigError, match=r"\.csv"):
        prelabel.choose_images(odd, tmp_path / "odd.txt", budget=1)
    prelabel.choose_images(odd, tmp_path / "odd.csv", budget=1)
    assert prelabel.export_coco(odd, tmp_path / "coco.json", images=tmp_path / "odd.csv").images == 1
    assert not (tmp_path / "none.csv").exists()


def test_the_command_shows_the_parts_and_its_list_is_taken_by_exports(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run").output

    def invoke(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        return done.exit_code, done.output

    code, output = invoke("select", run, "--budget", "10", "--keep-aside", "20%", "--to", tmp_path / "list.parquet")
    assert code == 0, output
    assert tells(output, "10", "40", "uncertainty", "8", "random", "2", "failed", "list.parquet")
    coco = tmp_path / "coco.json"
    code, output = invoke(
        "export", "coco", run, "--to", coco, "--images", tmp_path / "list.parquet", "--part", "random"
    )
    assert code == 0, output
    assert len(json.loads(coco.read_text())["images"]) == 2
    code, output = invoke("select", run, "--to", tmp_path / "x.csv")
    assert code == 2
    assert "--budget" in output
