"""The output of a run on a terminal, in a log, and as JSON lines."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from prelabel import console
from prelabel.cli.running import show_summary
from prelabel.engine.progress import LostWorker, Snapshot, Summary
from prelabel.store.shards import ShardRecord
from tests.messages import LEFT_OUT, is_told

HALF = Snapshot(images=1000, done=500, failed=3, images_per_s=41.25, workers=2, waiting="")
WAITING = Snapshot(images=1000, done=0, failed=0, images_per_s=0.0, workers=0, waiting="2 of 2 workers wait for a GPU")
SHARD = ShardRecord(shard=12, rows=100, failed=3, detections=7, bytes=1, sha256="0")
SUMMARY = Summary(
    output="s3://bucket/run",
    images=1000,
    failed=3,
    failures={"FetchError": 1, "TruncatedImageError": 2},
    examples={"FetchError": "gone.jpg: no such file"},
    lost=0,
    detections=12345,
    labeled=500,
    skipped_shards=5,
    wall_s=75.0,
    label_s=12.5,
    workers=1,
    runner="local",
    busy=0.72,
    seconds={"write": 0.25, "detect": 9.0, "list": 0.5, "encode": 1.0, "read": 2.0, "decode": 3.0, "other": 1.0},
    optimization="exact; the run is too small for trying to pay",
)


def test_progress_shows_done_failed_rate_and_time_left():
    assert re.search(r"\b500\b.*1,000.*\b3 failed.*41\.2.*\b12 s", console.progress_text(HALF))
    assert not re.search("failed|left|/s", console.progress_text(WAITING))


def test_control_characters_are_escaped():
    assert console.printable("a\x1b[31m\u202eb\n") == r"a\x1b[31m\u202eb\n"


def test_a_table_aligns_numbers_to_the_right():
    assert console.table("Scores", [["Dog", "1,234"], ["Polar bear", "5"]], ["class", "count"]).splitlines() == [
        "Scores",
        "  class       count",
        "  ----------  -----",
        "  Dog         1,234",
        "  Polar bear      5",
    ]


def test_without_a_terminal_there_are_plain_lines_and_occasional_progress(monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    reporter = console.reporter(quiet=False, log_json=False, stream=stream)
    reporter.message("80 images in 5 shards")
    reporter.message("given up: it kills", shard=3)
    reporter.lost(LostWorker("gpu-1:77", "gpu-1", 77, "its node died"))
    reporter.lost(LostWorker("gpu-1:78", "gpu-1", 78, "its node died", shards={3: "it is tried again"}))
    reporter.lost(LostWorker("gpu-1:79", "gpu-1", 79, "its disk is full", is_excluded=True))
    reporter.lost(LostWorker("", "", 0, "its node died"))
    reporter.progress(HALF)  # too soon for a line
    monkeypatch.setattr(console, "LINE_INTERVAL_S", 0.0)
    reporter.progress(WAITING)
    reporter.shard(SHARD, 41.23, worker="gpu-1:77")
    facts = [
        ("80 images in 5 shards",),
        ("shard=3", "given up: it kills"),
        ("gpu-1:77", "gone|lost", "its node died"),
        ("gpu-1:78", "gone|lost", "its node died", "3", "it is tried again"),
        ("gpu-1:79", LEFT_OUT, "its disk is full"),
        ("worker", "gone|lost", "its node died"),
        ("0", "1,000", "2 of 2 workers wait for a GPU"),
        (r"shard=12 images=100 failed=3 seconds=41\.2",),
    ]
    lines = stream.getvalue().splitlines()
    assert all(is_told(line, *told) for told, line in zip(facts, lines, strict=True)), lines


def test_every_json_line_has_a_time_and_an_event():
    stream = io.StringIO()
    reporter = console.reporter(quiet=True, log_json=True, stream=stream)
    reporter.message("x\ny")
    reporter.started("0123abcd")
    reporter.message("given up: it kills", shard=3)
    reporter.lost(LostWorker("gpu-1:77", "gpu-1", 77, "the worker's process died", shards={12: "it is tried again"}))
    reporter.progress(HALF)
    reporter.shard(SHARD, 41.23, worker="gpu-1:77")
    show_summary(SUMMARY, reporter, quiet=True)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["message", "message", "worker_died", "progress", "shard", "summary"]
    assert [line.get("run") for line in lines] == [None] + 5 * ["0123abcd"]
    assert [line.get("shard") for line in lines] == [None, 3, None, None, 12, None]
    assert [line.get("worker") for line in lines] == [None, None, "gpu-1:77", None, "gpu-1:77", None]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"]) for line in lines)
    assert {key: lines[2][key] for key in ("host", "pid", "message", "shards")} == {
        "host": "gpu-1",
        "pid": 77,
        "message": "the worker's process died",
        "shards": {"12": "it is tried again"},
    }
    assert lines[3]["left_s"] == 12
    assert lines[5]["failures"] == {"FetchError": 1, "TruncatedImageError": 2}


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]):
    reporter = console.reporter(quiet=True, log_json=False)
    reporter.message("x")
    reporter.progress(HALF)
    reporter.shard(SHARD, 1.0, worker="gpu-1:77")
    show_summary(SUMMARY, reporter, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_the_closing_table(capsys: pytest.CaptureFixture[str]):
    show_summary(SUMMARY, console.QuietReporter(), quiet=False)
    facts = [
        ("images", "1,000"),
        ("detections", "12,345"),
        ("failed", "3"),
        ("FetchError", "1", r"gone\.jpg: no such file"),
        ("TruncatedImageError", "2"),
        ("shards", "5"),
        ("500", r"40\.0", "1", "this machine|local|Ray"),
        ("exact", "small|short|few|little"),
        ("1 min 15 s", "12 s"),
        ("72 ?%",),
        (r"list 0\.5 s, read 2\.0 s, decode 3\.0 s, detect 9\.0 s, encode 1\.0 s, write 0\.2 s",),
        ("output", "s3://bucket/run"),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert all(is_told(line, *told) for told, line in zip(facts, lines, strict=True)), lines
    # The values begin in the same column.
    assert len({re.match(r" +\S+(?: \S+)*  +(?=\S)", line).end() for line in lines}) == 1, lines  # type: ignore[union-attr]


def test_on_a_terminal_there_is_a_bar_that_leaves_only_its_messages():
    code = (
        "import sys; from prelabel import console; from tests.test_console import HALF, WAITING\n"
        "r = console.reporter(quiet=False, log_json=False)\n"
        "r.message('starting [workers]'); r._bar.refresh()\n"
        "r.progress(WAITING); r._bar.refresh(); r.progress(HALF); r._bar.refresh(); r.close(); print('end')"
    )
    master, slave = pty.openpty()
    chunks: list[bytes] = []

    def drain() -> None:
        # On Linux, reading a terminal whose other end is closed is an error.
        try:
            while chunk := os.read(master, 65536):
                chunks.append(chunk)
        except OSError:
            return

    thread = threading.Thread(target=drain)
    thread.start()
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    result = subprocess.run([sys.executable, "-c", code], stdout=slave, stderr=slave, env=environment, check=False)
    os.close(slave)
    thread.join()
    os.close(master)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(chunks).decode())
    frames = [frame.strip() for frame in re.split(r"[\r\n]+", text) if frame.strip()]
    assert result.returncode == 0, text
    assert "starting [workers]" in frames
    assert any(frame.endswith("━ starting [workers]") for frame in frames)
    for facts in (("2 of 2 workers wait for a GPU",), ("500", "1,000", "3", r"41\.2", "12 s")):
        assert any("━" in frame and is_told(frame.rpartition("━")[2], *facts) for frame in frames), facts
    assert frames[-1] == "end"


def test_counting_prints_occasional_progress(monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    with console.counting("images read", stream) as tell:
        tell(500, 20_000)
        monkeypatch.setattr(console, "LINE_INTERVAL_S", 0.0)
        tell(1_000, 20_000)
    (line,) = stream.getvalue().splitlines()
    assert is_told(line, "1,000", "20,000", "images read")


def test_counting_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with console.counting("shards checked", stream) as tell:
        tell(16, 1_954)
    assert is_told(stream.getvalue(), "16", "1,954", "shards checked")


def test_the_closing_table_names_workers_that_were_lost_and_left_out(capsys: pytest.CaptureFixture[str]):
    lost = [
        LostWorker("a:1", "a", 1, "the worker's process was ended by signal 9", shards={3: "it is tried again"}),
        LostWorker("b:2", "b", 2, "its disk is full", is_excluded=True),
        *(LostWorker(f"c:{pid}", "c", pid, "its node died") for pid in range(6)),
    ]
    show_summary(replace(SUMMARY, lost_workers=tuple(lost)), console.QuietReporter(), quiet=False)
    text = re.sub(" +", " ", capsys.readouterr().out)
    assert re.search(r"(gone|lost)\D* 7\n a:1 .*signal 9.*\b3\b.*again\n", text)
    assert re.search(rf" 2 \D+\n.*({LEFT_OUT})\D* 1\n b:2 .*its disk is full\n", text)
    stream = io.StringIO()
    show_summary(replace(SUMMARY, lost_workers=tuple(lost[:1])), console.JsonReporter(stream), quiet=False)
    assert json.loads(stream.getvalue())["lost_workers"][0]["pid"] == 1
