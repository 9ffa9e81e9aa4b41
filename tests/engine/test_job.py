"""The whole job on a real Ray with a fake detector: going well, going on, refusing, starting anew, growing."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from prelabel.cli import main
from prelabel.cli.running import show_summary
from prelabel.console import LineReporter
from prelabel.errors import (
    ConfigError,
    DetectorError,
    OutputInUseError,
    PrelabelError,
    RunInterrupted,
    SourceError,
    StoreError,
)
from prelabel.storage.files import Storage
from prelabel.store.lock import LOCK
from prelabel.store.output import Output
from prelabel.store.plan import Plan
from prelabel.store.run import read_run
from prelabel.store.shards import read_shard, shard_name, shard_url, write_shard
from prelabel.store.status import read_status
from prelabel.store.verify import verify
from tests.e2e.command import wait_until
from tests.engine.fakes import Deed
from tests.engine.world import Recorder, World
from tests.messages import LEFT_OUT, telling
from tests.models import Models
from tests.s3 import S3Server

pytestmark = pytest.mark.ray


def ids(*numbers: int) -> list[str]:
    return [f"{number:03d}.png" for number in numbers]


def stop_after(shards: int) -> tuple[Recorder, threading.Event]:
    """A recorder that ends the run when so many shards are finished."""
    stop = threading.Event()
    recorder = Recorder()

    def count(record: object) -> None:
        if len(recorder.shards) == shards:
            stop.set()

    recorder._on_shard = count
    return recorder, stop


def test_every_image_becomes_one_row_and_a_second_call_does_nothing(world: World, monkeypatch: pytest.MonkeyPatch):
    read: list[int] = []
    real_read = Plan.read
    monkeypatch.setattr(Plan, "read", lambda plan, shard: read.append(shard) or real_read(plan, shard))
    world.add(10)
    recorder = Recorder()
    summary = world.label(recorder, workers=2)
    assert read == []  # the driver never holds images of the plan
    world.require_whole()
    assert (summary.images, summary.failed, summary.lost, summary.detections) == (10, 0, 0, 10)
    assert (summary.labeled, summary.skipped_shards) == (10, 0)
    assert set(summary.seconds) == {"list", "read", "decode", "detect", "encode", "write"}
    assert sorted(recorder.shards) == [0, 1, 2]
    assert sorted(world.fetched) == ids(*range(10))

    before = world.files()
    world.loading("refuse")
    recorder = Recorder()
    summary = world.label(recorder, workers=2)
    assert (summary.images, summary.labeled, summary.skipped_shards, summary.workers) == (10, 0, 3, 0)
    assert recorder.said("nothing", "left")
    assert world.files() == before


def test_progress_never_exceeds_the_total_and_ends_there(world: World):
    world.add(12, every=Deed.SLOW, p005=Deed.ABORT)
    world.loading("slow")
    recorder = Recorder()
    world.label(recorder, workers=2)
    done = [snapshot.done for snapshot in recorder.snapshots]
    assert {snapshot.images for snapshot in recorder.snapshots} == {12}
    assert max(done) == done[-1] == 12
    assert any(count % 4 for count in done)  # images of unfinished shards count, too
    assert max(snapshot.failed for snapshot in recorder.snapshots) == 1
    assert max(snapshot.images_per_s for snapshot in recorder.snapshots) > 0
    assert recorder.snapshots[-1].workers <= 2
    assert "loading the detector" in " ".join(snapshot.waiting for snapshot in recorder.snapshots)


def test_a_stopped_run_says_how_to_resume_and_resumes(world: World):
    world.add(20, every=Deed.SLOW)
    recorder, stop = stop_after(2)
    with pytest.raises(RunInterrupted, match=r"[23] of 5 shards"):
        world.label(recorder, stop)
    assert not (world.out / "manifest.json").exists()
    kept = {name: value for name, value in world.files().items() if re.fullmatch(r"shards/shard-\d+.parquet", name)}
    assert len(kept) in (2, 3)
    world.forget()
    recorder = Recorder()
    summary = world.label(recorder)
    world.require_whole()
    assert summary.skipped_shards == len(kept)
    assert recorder.said(f"{len(kept)} of 5 shards")
    # As a set: a worker of the stopped run may have read a little more before its end.
    done = {int(re.findall(r"\d+", name)[0]) for name in kept}
    assert set(world.fetched) == set(ids(*(number for number in range(20) if number // 4 not in done)))
    assert kept.items() <= world.files().items()
    assert recorder.snapshots[0].done == 4 * len(kept)


def test_a_run_stopped_before_a_worker_was_ready_leaves_nothing(world: World):
    world.add(4)
    world.loading("hang")
    stop = threading.Event()
    with pytest.raises(RunInterrupted, match="0 of 1 shards"):
        world.label(Recorder(on_progress=lambda snapshot: stop.set()), stop)
    assert world.files() == {}


def test_changed_settings_are_refused_by_name_and_the_run_is_unchanged(world: World):
    world.add(4)
    world.label(score_threshold=0.4)
    before = world.files()
    with pytest.raises(ConfigError, match=r"score-threshold.*0\.4.*0\.2.*--overwrite"):
        world.label(score_threshold=0.2)
    with pytest.raises(ConfigError, match=r"limit.*3.*shard-size.*4.*2"):
        world.label(score_threshold=0.4, limit=3, shard_size=2)
    (world.model / "assets").mkdir(exist_ok=True)
    (world.model / "assets" / "another.txt").write_text("another model")
    with pytest.raises(ConfigError, match=r"detector.*/model.*[0-9a-f]{12}.*/model.*[0-9a-f]{12}"):
        world.label(score_threshold=0.4)
    assert world.files() == before


def test_overwrite_keeps_the_old_run_until_a_worker_has_loaded_the_new_detector(world: World):
    world.add(12)
    world.label()
    before = world.files()
    world.loading("refuse")
    with pytest.raises(DetectorError, match="made of cheese"):
        world.label(overwrite=True, score_threshold=0.4, limit=6)
    assert world.files() == before
    world.loading("")
    world.label(overwrite=True, score_threshold=0.4, limit=6)
    world.require_whole(images=6)
    assert not {name for name in world.files() if name.startswith("plan/")} & set(before)
    assert "shards/shard-00002.parquet" not in world.files()


def test_files_of_the_older_run_that_a_killed_overwrite_left_are_removed(world: World, monkeypatch: pytest.MonkeyPatch):
    world.add(12)
    world.label()
    monkeypatch.setattr(Output, "_sweep", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # as if killed when run.json is new and the rest is old
        world.label(overwrite=True, limit=6)
    monkeypatch.undo()
    recorder = Recorder()
    world.label(recorder, limit=6)
    assert len(recorder.said("another run")) == 2
    world.require_whole(images=6)
    assert "shards/shard-00002.parquet" not in world.files()
    assert len([name for name in world.files() if name.startswith("plan/")]) == 1


def test_dropped_detections_are_counted_everywhere(local_world: World, capsys: pytest.CaptureFixture[str]):
    local_world.add(8, p002=Deed.NOT_FINITE, p005=Deed.NOT_FINITE)
    lines = io.StringIO()
    summary = local_world.label(LineReporter(lines))  # type: ignore[arg-type]
    assert (summary.dropped, summary.dropped_example, summary.failed) == (4, "002.png", 0)
    finished = re.findall(r"shard=(\d) images=4 failed=0 dropped=2 ", lines.getvalue())
    assert sorted(finished) == ["0", "1"]  # a worker has two shards at a time, and publishes them as they come
    assert [row.dropped for row in local_world.rows()] == [0, 0, 2, 0, 0, 2, 0, 0]
    manifest = json.loads((local_world.out / "manifest.json").read_text())
    assert manifest["totals"]["dropped"] == 4
    assert [shard["dropped"] for shard in manifest["shards"]] == [2, 2]
    assert verify(str(local_world.out), Storage()).dropped == 4
    assert read_status(str(local_world.out), Storage()).dropped == 4
    show_summary(summary, LineReporter(lines), quiet=False)
    assert re.search(r"4 detections.*finite.*002\.png", capsys.readouterr().out)
    for command in ("verify", "status"):
        with pytest.raises(SystemExit) as ended:
            main([command, str(local_world.out)], prog_name="prelabel")
        assert ended.value.code == 0
        assert re.search(rf"({LEFT_OUT}).* 4", capsys.readouterr().out)

    # While the run is not finished, `status` reads it from the shards themselves.
    (local_world.out / "manifest.json").unlink()
    assert read_status(str(local_world.out), Storage()).dropped == 4


def test_a_retry_runs_the_failed_images_and_no_others(world: World):
    world.add(12, p002=Deed.REFUSE, p009=Deed.REFUSE, p010=Deed.REFUSE)
    assert world.label().failures == {"RuntimeError": 3}
    before = world.files()
    assert world.label().labeled == 0  # failures are results, too
    world.make(2, Deed.NOTHING)
    world.make(10, Deed.NOTHING)
    world.forget()
    summary = world.label(retry_failed=True)
    assert sorted(world.fetched) == ids(2, 9, 10)
    assert (summary.images, summary.failures, summary.skipped_shards) == (12, {"RuntimeError": 1}, 1)
    world.require_whole()
    assert world.files()["shards/shard-00001.parquet"] == before["shards/shard-00001.parquet"]


def test_a_retry_counts_the_seconds_of_its_own_rows_only(world: World):
    world.add(4, p002=Deed.REFUSE)
    world.label()
    url = shard_url(str(world.out), 0)
    rows = [replace(row, seconds={**row.seconds, "detect": 1000.0}) for row in read_shard(url, Storage())]
    run_id = json.loads((world.out / "run.json").read_text())["run_id"]
    write_shard(rows, str(world.out), Storage(), shard=0, run_id=run_id)
    (world.out / "manifest.json").unlink()
    world.make(2, Deed.NOTHING)
    recorder = Recorder()
    summary = world.label(recorder, retry_failed=True)
    manifest = json.loads((world.out / "manifest.json").read_text())
    assert summary.labeled == 1
    for seconds in (summary.seconds, manifest["seconds"], manifest["shards"][0]["seconds"]):
        assert 0 <= seconds["detect"] < 1000
    world.require_whole()


def test_a_retry_accepts_a_fixed_file_although_its_size_has_changed(world: World):
    world.add(3)
    whole = (world.photos / "001.png").read_bytes()
    (world.photos / "001.png").write_bytes(whole[: len(whole) // 2])
    assert world.label().failures == {"TruncatedImageError": 1}
    (world.photos / "001.png").write_bytes(whole)
    assert world.label(retry_failed=True).failed == 0
    world.require_whole()


def test_a_retry_accepts_changed_files_in_unfinished_shards_too(local_world: World):
    local_world.add(8, p002=Deed.REFUSE)
    local_world.label()
    (local_world.out / "shards" / shard_name(1)).unlink()
    for number in (2, 5):
        path = local_world.photos / f"{number:03d}.png"
        local_world.make(number, Deed.NOTHING)
        os.utime(path, (1, 1))
    summary = local_world.label(retry_failed=False)
    assert summary.failures == {"FetchError": 1, "RuntimeError": 1}
    (local_world.out / "shards" / shard_name(1)).unlink()
    assert local_world.label(retry_failed=True).failed == 0
    local_world.require_whole()


def test_a_first_call_compares_files_with_its_plan_even_with_retry_failed(local_world: World):
    local_world.add(24, every=Deed.SLOW)

    def replace_one(record: object) -> None:
        os.utime(local_world.photos / "023.png", (1, 1))

    assert local_world.label(Recorder(on_shard=replace_one), retry_failed=True).failures == {"FetchError": 1}


def test_new_images_of_the_source_become_new_shards_and_nothing_old_is_changed(world: World):
    world.add(6)
    world.label()
    before = world.files()
    world.forget()
    recorder = Recorder()
    assert world.label(recorder, add_new=True).labeled == 0
    assert recorder.said("no new image")
    assert recorder.said("nothing", "left")
    assert not recorder.said("--add-new")  # this call has it: there is nothing to find with it
    assert {name: file for name, file in world.files().items() if name != "source-check.json"} == before
    world.add(5)
    summary = world.label(add_new=True)
    assert (summary.images, summary.labeled, summary.skipped_shards) == (11, 5, 2)
    assert sorted(world.fetched) == ids(*range(6, 11))
    world.require_whole()
    after = world.files()
    old = {name for name in before if name not in ("run.json", "manifest.json")}
    assert {name: after[name] for name in old} == {name: before[name] for name in old}
    assert len(after) == len(before) + 4  # what the source had, a part of the plan and two shards
    world.add(1)
    assert world.label().labeled == 0  # without being asked to, a run does not grow


def test_new_images_may_come_from_another_source(world: World):
    world.add(3)
    world.label()
    elsewhere = world.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "new.png").write_bytes((world.photos / "000.png").read_bytes())
    with pytest.raises(ConfigError, match=r"source.*/elsewhere"):
        world.label(source=(str(elsewhere),))
    assert world.label(source=(str(elsewhere),), add_new=True).images == 4


def test_a_list_of_images_decides_which_are_planned_and_another_one_adds_more(world: World):
    world.add(9)

    def listed(name: str, *numbers: int) -> str:
        (world.folder / name).write_text("image_id\n" + "".join(f"{n:03d}.png\n" for n in numbers))
        return str(world.folder / name)

    with pytest.raises(ConfigError, match=r"1 of 2 images .*sources: '099.png' \(line 3\)"):
        world.label(images=listed("wrong.csv", 7, 99))
    assert not world.files()
    first, second = listed("first.csv", 7, 0, 4), listed("second.csv", 4, 8)
    assert world.label(images=first).images == 3
    assert sorted(world.fetched) == ids(0, 4, 7)
    for other in ("", second):
        with pytest.raises(ConfigError, match=r"images was .*first\.csv"):
            world.label(images=other)
    assert world.label(images=first).labeled == 0
    assert world.label(images=second, add_new=True).images == 4
    assert [row.image_id for row in world.rows()] == ids(0, 4, 7, 8)
    with pytest.raises(ConfigError, match=r"--limit.*--images"):
        world.label(images=first, limit=2)


def test_limit_takes_the_first_images(world: World):
    world.add(9)
    assert world.label(limit=5).images == 5
    world.require_whole(images=5)
    for option in ({"add_new": True}, {"changed": True}, {"gone": "keep"}):
        with pytest.raises(ConfigError, match=telling("--limit 5", "--changed", "--output")):
            world.label(**option)


def test_a_corrupt_shard_or_manifest_is_written_again(world: World):
    world.add(12)
    world.label()
    whole = world.files()
    shards = world.out / "shards"
    (shards / "shard-00000.parquet").write_bytes(whole["shards/shard-00000.parquet"][1][:-100])
    other = bytearray(whole["shards/shard-00001.parquet"][1])
    other[len(other) // 3] ^= 0xFF
    (shards / "shard-00001.parquet").write_bytes(other)
    (shards / "shard-00002.parquet").unlink()
    world.forget()
    recorder = Recorder()
    world.label(recorder)
    assert len(recorder.said("written again")) == 2
    assert sorted(world.fetched) == ids(*range(12))
    world.require_whole()

    (world.out / "manifest.json").write_text('{"run_id": ')
    recorder = Recorder()
    assert world.label(recorder).labeled == 0
    assert recorder.said("manifest.json")
    world.require_whole()


def test_temporary_files_of_killed_processes_are_removed_and_other_files_stay(world: World):
    world.add(4)
    for folder, name in (
        ("shards", ".shard-00000.parquet.0123456789ab.tmp"),
        ("plan", ".plan-00000-01234567.parquet.0123456789ab.tmp"),
        ("plan", "plan-00000-01234567.parquet"),
        (".", ".run.json.0123456789ab.tmp"),
        ("shards", "notes.txt"),
    ):
        (world.out / folder).mkdir(parents=True, exist_ok=True)
        (world.out / folder / name).write_bytes(b"half")
    world.label()
    assert sorted(path.name for path in (world.out / "shards").iterdir()) == ["notes.txt", "shard-00000.parquet"]
    (world.out / "shards" / "notes.txt").unlink()
    world.require_whole()
    assert len(list((world.out / "plan").iterdir())) == 1


def test_an_output_that_cannot_be_written_is_a_one_line_error(world: World):
    world.add(4)
    world.out.mkdir()
    (world.out / "plan").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"^[^\n]*/out/plan/plan-00000-[0-9a-f]+\.parquet[^\n]*$"):
        world.label()
    assert [path.name for path in world.out.rglob("*")] == ["plan"]


def test_a_bucket_that_does_not_exist_is_a_one_line_error(world: World, s3_server: S3Server):
    world.add(4)
    with pytest.raises(StoreError, match=r"^[^\n]*s3://no-such-bucket-here/run/lock\.json[^\n]*$"):
        world.label(output="s3://no-such-bucket-here/run", storage_options=s3_server.options)


def test_shards_that_cannot_be_written_end_the_run_and_a_later_call_resumes(world: World):
    world.add(4)
    (world.out).mkdir()
    (world.out / "shards").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"^[^\n]*/out/shards/shard-00000\.parquet[^\n]*$"):
        world.label()
    assert read_run(str(world.out), Storage()) is not None
    (world.out / "shards").unlink()
    world.label()
    world.require_whole()


def test_a_source_in_a_bucket_and_a_run_in_a_bucket_are_the_same_run(world: World, s3_server: S3Server, tmp_path: Path):
    world.add(6)
    bucket = s3_server.new_bucket()
    for path in world.photos.iterdir():
        s3_server.put(bucket, f"photos/{path.name}", path.read_bytes())
    remote = {"source": (f"s3://{bucket}/photos",), "storage_options": s3_server.options}
    summary = world.label(output=f"s3://{bucket}/run", **remote)
    assert (summary.images, summary.failed) == (6, 0)
    assert world.label(output=f"s3://{bucket}/run", **remote).labeled == 0
    assert "test-secret" not in Storage(s3_server.options).read(f"s3://{bucket}/run/run.json").decode()


def test_images_in_an_output_inside_the_source_are_not_part_of_the_source(world: World):
    world.add(3)
    output = world.photos / "out"
    world.label(output=str(output))
    (output / "look").mkdir()
    (output / "look" / "000.png").write_bytes((world.photos / "000.png").read_bytes())
    recorder = Recorder()
    assert world.label(recorder, output=str(output), add_new=True).images == 3
    assert recorder.said("no new image")


def test_a_source_whose_only_images_are_in_the_output_is_refused_without_leftovers(local_world: World):
    world = local_world
    output = world.photos / "out"
    (output / "preview").mkdir(parents=True)
    (output / "preview" / "x.png").write_bytes(b"a picture of a preview")
    with pytest.raises(SourceError, match=r"^no image.*/photos.*1 file.*output[^\n]*$"):
        world.label(output=str(output))
    assert [path.name for path in output.rglob("*")] == ["preview", "x.png"]


def test_run_json_counts_the_images_of_the_plan(local_world: World):
    world, recorder = local_world, Recorder()
    world.add(3)
    output = world.photos / "out"
    (output / "preview").mkdir(parents=True)
    (output / "preview" / "x.png").write_bytes(b"a picture of a preview")
    (world.photos / "notes.jxl").write_bytes(b"")
    assert world.label(recorder, output=str(output)).images == 3
    source = json.loads((output / "run.json").read_text())["source"]
    bytes_of_all = sum(path.stat().st_size for path in world.photos.glob("*.png"))
    assert (source["images"], source["bytes"]) == (3, bytes_of_all)
    assert source["sources"][0]["ignored"] == {"(the output)": 1, ".jxl": 1}
    assert recorder.said("2 other files", "the output", ".jxl", "JPEG XL")
    world.add(1)
    world.label(output=str(output), add_new=True)
    assert json.loads((output / "run.json").read_text())["source"]["images"] == 4


def test_an_output_that_is_a_source_or_a_file_is_refused_before_anything_is_written(world: World):
    world.add(1)
    with pytest.raises(ConfigError, match=r"--output .*/photos.*source"):
        world.label(output=str(world.photos))
    with pytest.raises(StoreError, match=r"000\.png.*folder"):
        world.label(output=str(world.photos / "000.png"))
    assert [path.name for path in world.photos.iterdir()] == ["000.png"]


def test_a_model_that_reads_files_runs_only_if_it_is_trusted(world: World):
    world.add(4)
    path = world.model / "saved_model.pb"
    path.write_bytes(path.read_bytes().replace(b"Identity", b"ReadFile"))  # as long, and the fake detector runs neither
    with pytest.raises(ConfigError, match=r"ReadFile.*--trust-model"):
        world.label()
    assert world.files() == {}
    assert world.workers == []
    world.label(trust_model=True)
    record = read_run(str(world.out), Storage())
    assert record is not None
    assert record.settings["trust_model"] is True


def waiting_job(world: World) -> tuple[list[BaseException], threading.Thread]:
    """A job in a thread whose images wait for `world.go`; it holds the output when this returns."""
    ended: list[BaseException] = []

    def job() -> None:
        try:
            world.label()
        except PrelabelError as error:
            ended.append(error)

    world.add(8, every=Deed.WAIT)
    thread = threading.Thread(target=job)
    thread.start()
    assert wait_until(lambda: (world.out / "run.json").exists(), 60)
    return ended, thread


def test_of_two_jobs_on_one_output_one_continues_and_the_other_is_refused(world: World):
    ended, thread = waiting_job(world)
    before = world.files()
    for values in ({}, {"overwrite": True}, {"retry_failed": True}):
        with pytest.raises(OutputInUseError, match=rf"^another job.*{world.out}.*{os.getpid()}[^\n]*$"):
            world.label(**values)
    assert world.files().keys() == before.keys()
    world.go()
    thread.join(60)
    assert ended == []
    world.require_whole()
    assert not (world.out / LOCK).exists()


def test_a_job_whose_output_was_taken_over_ends_and_its_workers_write_nothing_more(world: World):
    ended, thread = waiting_job(world)
    now = datetime.now(UTC).isoformat()
    other = {"owner": "other", "host": "gpu-9", "place": "there", "pid": 1, "process": "1", "since": now}
    foreign = json.dumps({**other, "renewed": now})
    (world.out / LOCK).write_text(foreign)
    world.go()
    assert wait_until(lambda: (world.out / LOCK).write_text(foreign) and ended, 60)
    thread.join(60)
    assert isinstance(ended[0], OutputInUseError)
    assert all(fact in str(ended[0]) for fact in ("another job", str(world.out), "process 1", "gpu-9"))
    assert not (world.out / "manifest.json").exists()
    assert (world.out / LOCK).read_text() == foreign
    (world.out / LOCK).unlink()
    world.label()
    world.require_whole()


def test_a_detector_without_class_names_leads_to_a_hint_on_label_maps(world: World, models: Models):
    world.add(1)
    recorder = Recorder()
    world.label(recorder)  # names its classes by itself
    assert not recorder.said("--label-map")
    assert not recorder.said("checked")
    names = ("Dogg", "b", "c", "d", "e", "f", "g")
    world.label(recorder, include_class=names, output=str(world.folder / "misspelt"))
    assert recorder.said("checked", "'Dogg', 'b', 'c', 'd', 'e' and 2 more")
    numbering = str(shutil.copytree(models.mask_rcnn, world.folder / "numbering"))
    world.label(recorder, detector=numbering, output=str(world.folder / "numbers"))
    assert recorder.said("--label-map")
    named = Recorder()
    world.label(named, detector=numbering, label_map="coco", output=str(world.folder / "names"))
    assert not named.said("--label-map")
