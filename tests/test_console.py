"""What a person sees of a run, on a terminal, in a log, and as JSON lines."""

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
from prelabel.engine.progress import LostWorker, Snapshot
from prelabel.engine.summary import Summary
from prelabel.store.shards import ShardRecord

HALF = Snapshot(images=1000, done=500, failed=3, images_per_s=41.25, workers=2, waiting="")
WAITING = Snapshot(images=1000, done=0, failed=0, images_per_s=0.0, workers=0, waiting="2 of 2 workers wait for a GPU")
SHARD = ShardRecord(shard=12, name="shard-00012.parquet", rows=100, failed=3, detections=7, bytes=1, sha256="0")
SUMMARY = Summary(
    output="s3://bucket/run",
    images=1000,
    failed=3,
    failures={"FetchError": 1, "TruncatedImageError": 2},
    examples={"FetchError": "gone.jpg: no such file"},
    lost=0,
    detections=12345,
    labelled=500,
    skipped_shards=5,
    wall_s=75.0,
    label_s=12.5,
    workers=1,
    runner="local",
    busy=0.72,
    seconds={"write": 0.25, "detect": 9.0, "list": 0.5, "encode": 1.0, "read": 2.0, "decode": 3.0, "other": 1.0},
    optimization="exact; the run is too small for trying to pay",
)


def test_progress_says_done_failed_rate_and_time_left():
    assert console.progress_text(HALF) == "500 of 1,000 images, 3 failed, 41.2 images/s, 0:12 left"
    assert console.progress_text(WAITING) == "0 of 1,000 images"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (75, "1:15"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str):
    assert console.duration(seconds) == text


def test_what_would_steer_a_terminal_is_shown_instead():
    assert console.printable("a\x1b[31m\u202eb\n") == r"a\x1b[31m\u202eb\n"


def test_a_table_aligns_numbers_to_the_right():
    assert console.table("Scores", [["Dog", "1,234"], ["Polar bear", "5"]], ["class", "count"]).splitlines() == [
        "Scores",
        "  class       count",
        "  ----------  -----",
        "  Dog         1,234",
        "  Polar bear      5",
    ]


def test_without_a_terminal_there_are_plain_lines_and_progress_now_and_then(monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    reporter = console.reporter(quiet=False, log_json=False, stream=stream)
    reporter.message("80 images in 5 shards")
    reporter.message("given up: it kills", shard=3)
    reporter.lost(LostWorker("gpu-1:77", "gpu-1", 77, "its node died"))
    reporter.lost(LostWorker("gpu-1:78", "gpu-1", 78, "its node died", shards={3: "it is tried again"}))
    reporter.lost(LostWorker("gpu-1:79", "gpu-1", 79, "its disk is full", is_left_out=True))
    reporter.lost(LostWorker("", "", 0, "its node died"))
    reporter.progress(HALF)  # too soon for a line
    monkeypatch.setattr(console, "LINE_INTERVAL_S", 0.0)
    reporter.progress(WAITING)
    reporter.shard(SHARD, 41.23, worker="gpu-1:77")
    assert stream.getvalue().splitlines() == [
        "80 images in 5 shards",
        "shard=3: given up: it kills",
        "worker gpu-1:77 is gone: its node died",
        "worker gpu-1:78 is gone: its node died; shard 3: it is tried again",
        "worker gpu-1:79 is left out: its disk is full",
        "a worker that never ran is gone: its node died",
        "0 of 1,000 images; 2 of 2 workers wait for a GPU",
        "shard=12 images=100 failed=3 seconds=41.2",
    ]


def test_json_lines_each_say_when_and_what():
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


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]):
    reporter = console.reporter(quiet=True, log_json=False)
    reporter.message("x")
    reporter.progress(HALF)
    reporter.shard(SHARD, 1.0, worker="gpu-1:77")
    show_summary(SUMMARY, reporter, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_the_closing_table(capsys: pytest.CaptureFixture[str]):
    show_summary(SUMMARY, console.QuietReporter(), quiet=False)
    assert capsys.readouterr().out.splitlines() == [
        "  images                 1,000",
        "  detections             12,345",
        "  failed                 3",
        "    FetchError           1    e.g. gone.jpg: no such file",
        "    TruncatedImageError  2",
        "  shards already done    5",
        "  worked on now          500 at 40.0 images/s with 1 worker on this machine, without Ray",
        "  network run            exact; the run is too small for trying to pay",
        "  time                   1:15 (12.5 s labelling)",
        "  model at work          72% of the labelling time",
        "  seconds by stage       list 0.5, read 2.0, decode 3.0, detect 9.0, encode 1.0, write 0.2;"
        " summed over workers",
        "  output                 s3://bucket/run",
    ]


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
        # Reading a terminal whose other end is gone is an error on Linux.
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
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(chunks).decode())
    frames = [frame.strip() for frame in re.split(r"[\r\n]+", shown) if frame.strip()]
    assert result.returncode == 0, shown
    assert "starting [workers]" in frames
    assert any(frame.endswith("━ starting [workers]") for frame in frames)
    assert any(frame.endswith("━ 2 of 2 workers wait for a GPU") for frame in frames)
    assert any(frame.endswith("━ 500 of 1,000 images, 3 failed, 41.2 images/s, 0:12 left") for frame in frames)
    assert frames[-1] == "end"


def test_counting_says_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    with console.counting("images read", stream) as tell:
        tell(500, 20_000)
        monkeypatch.setattr(console, "LINE_INTERVAL_S", 0.0)
        tell(1_000, 20_000)
    assert stream.getvalue() == "1,000 of 20,000 images read\n"


def test_counting_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with console.counting("shards checked", stream) as tell:
        tell(16, 1_954)
    assert "16 of 1,954 shards checked" in stream.getvalue()


def test_the_closing_table_names_workers_that_were_lost_and_left_out(capsys: pytest.CaptureFixture[str]):
    lost = [
        LostWorker("a:1", "a", 1, "the worker's process was ended by signal 9", shards={3: "it is tried again"}),
        LostWorker("b:2", "b", 2, "its disk is full", is_left_out=True),
        *(LostWorker(f"c:{pid}", "c", pid, "its node died") for pid in range(6)),
    ]
    show_summary(replace(SUMMARY, lost_workers=tuple(lost)), console.QuietReporter(), quiet=False)
    text = re.sub(" +", " ", capsys.readouterr().out)
    assert "workers lost 7\n a:1 the worker's process was ended by signal 9; shard 3: it is tried again\n" in text
    assert " ... and 2 more\n workers left out 1\n b:2 its disk is full\n" in text
    stream = io.StringIO()
    show_summary(replace(SUMMARY, lost_workers=tuple(lost[:1])), console.JsonReporter(stream), quiet=False)
    assert json.loads(stream.getvalue())["lost_workers"][0]["pid"] == 1
