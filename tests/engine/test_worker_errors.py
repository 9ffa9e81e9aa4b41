"""Workers that report errors: their shards are finished elsewhere, they are left out, a run ends when nobody can."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from prelabel.config import LabelOptions
from prelabel.detectors.base import DetectorRecord
from prelabel.engine import worker_pool as module
from prelabel.engine.driver import Driver
from prelabel.engine.progress import LostWorker, Throughput
from prelabel.engine.resume import WorkLeft, WorkList
from prelabel.engine.schedule import MAX_ERRORS_IN_A_ROW, ErrorTracker, LabelTask, Schedule, Task
from prelabel.engine.worker import WorkerSpec, WorkerStatus
from prelabel.engine.worker_pool import Event, WorkerHandle, WorkerPool
from prelabel.errors import CredentialsError, DetectorError, OutputInUseError, PrelabelError, RunError, StoreError
from prelabel.storage.files import Storage
from prelabel.store.links import Links
from prelabel.store.plan import Plan
from prelabel.store.shards import ShardRecord
from tests.engine.fakes import Deed
from tests.engine.world import Recorder, World

DETECTOR = DetectorRecord("d", "d", "0" * 64, "d-0", "none", False, None)

#: What a worker of the fake pool does with a task: finishes it, reports an error, or (a number) takes longer.
Behaviour = Callable[[int, int, int], "PrelabelError | int | None"]


class FakePool(WorkerPool):
    """Workers in this process, which finish a task at each call of `wait`, one after the other; no clock, no threads.

    `behave(worker, shard, turn)` says what becomes of a worker's task, `load(worker)` of its loading; shards for which
    `is_first(shard)` are answered before others that the worker has. The process of a worker for which
    `is_late(worker)` runs only from the first call of `wait` on. `had` counts the tasks of each worker at each call of
    `wait`, `images` the images of each task. Workers report that they need further images `images_ahead` of them before
    they have none left.
    """

    def __init__(
        self,
        options: LabelOptions,
        workers: int,
        behave: Behaviour,
        load: Callable[[int], PrelabelError | None] = lambda worker: None,
        is_first: Callable[[int], bool] = lambda shard: False,
        is_late: Callable[[int], bool] = lambda worker: False,
        images_ahead: int = 0,
    ) -> None:
        super().__init__(options)
        self._is_late = is_late
        self._images_ahead = images_ahead
        self._is_first = is_first
        self._behave, self._load = behave, load
        self._keys = itertools.count()
        self._turn = 0
        self.tried: list[tuple[int, int]] = []
        self.had: list[list[int]] = []
        self.images: list[list[int]] = []
        self.started = 0
        for _ in range(workers):
            self._start()

    def _start(self) -> None:
        number = next(self._numbers)
        self.started += 1
        placed = not self._is_late(number)
        self._add(WorkerHandle(number, None, placed=placed, host=f"host{number}", pid=100 + number))

    def _check_sorted(self) -> None:
        """Check what the pool knows about its workers against what they are."""
        assert self.usable == {worker.number for worker in self.workers if worker.placed and not worker.retiring}
        for has, available in enumerate(self.available):
            assert set(available) == {worker for worker in self.workers if worker.free and len(worker.tasks) == has}

    def _end(self, worker: WorkerHandle) -> None:
        pass

    def _advice(self, worker: WorkerHandle, cause: str) -> str:
        return "nowhere to read more"

    def submit(self, worker: WorkerHandle, task: Task) -> None:
        self._task_given(worker, next(self._keys), task)

    def wait(self, timeout_s: float) -> Iterator[Event]:
        self._turn += 1
        self.had.append([len(worker.tasks) for worker in self.workers])
        tasks = [list(worker.tasks.values()) for worker in self.workers]
        self.images += [[task.images for task in given if isinstance(task, LabelTask)] for given in tasks]
        assert self._turn < 1000, "the run does not come to an end"
        self._check_sorted()
        for worker in list(self.workers):
            if worker not in self.workers:
                continue
            if not worker.placed:
                self._placed(worker, "node", f"host{worker.number}", 100 + worker.number)
            elif not worker.ready:
                refusal = self._load(worker.number)
                self._detector_loaded(worker) if refusal is None else self._load_failed(worker, refusal)
            elif worker.tasks:
                self._status_received(worker, WorkerStatus(0, {}, images_ahead=self._images_ahead))
                tasks = worker.tasks.items()
                key, task = next((item for item in tasks if self._is_first(item[1].shard)), next(iter(tasks)))
                answer = self._behave(worker.number, task.shard, self._turn)
                if isinstance(answer, int):
                    continue
                self.tried.append((worker.number, task.shard))
                if answer is None:
                    self._task_finished(worker, key, ShardRecord(task.shard, 4, 0, 4, 1, "0" * 64))
                else:
                    self._task_failed(worker, key, answer)
        while self._events:
            yield self._events.popleft()

    def stop(self) -> None:
        self.workers.clear()


class FakeRunner:
    name = "fake"

    def __init__(self, pool: FakePool) -> None:
        self._pool = pool

    @contextmanager
    def pool(self, spec: WorkerSpec, most: int, notify: Callable[[str], None]) -> Iterator[WorkerPool]:
        yield self._pool


def drive(
    behave: Behaviour, *, workers: int, shards: int, sizes: Sequence[int] | None = None, **pool: Any
) -> tuple[FakePool, Driver, Recorder, list[int], PrelabelError | None]:
    """The pool, the driver, what was told, which shards were finished, and what the run ended with."""
    options = LabelOptions(source=("nothing",), detector="d", output="/nowhere")
    fake, recorder, storage = FakePool(options, workers, behave, **pool), Recorder(), Storage()
    work = WorkList.of([WorkLeft(LabelTask(shard), size, size) for shard, size in enumerate(sizes or [64] * shards)])
    driver = Driver(
        WorkerSpec(options, "0" * 32, (), DETECTOR, "nobody"),
        storage,
        Plan.open(options.output, (), storage),
        work,
        Throughput(64 * shards, work),
        recorder,
        threading.Event(),
        Links(),
        on_ready=lambda choice: None,
        runner=FakeRunner(fake),  # type: ignore[arg-type]
    )
    done, ended = recorder.shards, None
    try:
        list(driver.run())
    except PrelabelError as error:
        ended = error
    return fake, driver, recorder, done, ended


@pytest.mark.parametrize("shards", [2, 3, 4, 5, 6, 7, 8, 29, 30])
def test_no_worker_is_idle_while_one_that_is_half_as_fast_has_a_shard_that_it_has_not_begun(shards: int):
    fake, *_, done, error = drive(
        lambda worker, shard, turn: turn if worker == 0 and turn % 2 else None, workers=2, shards=shards
    )
    assert error is None
    assert sorted(done) == list(range(shards))
    assert max(map(max, fake.had)) == (1 if shards < 4 else 2)
    assert all(max(had) <= 1 for had in fake.had if min(had) == 0)


def test_a_worker_whose_process_runs_later_gets_shards_and_counts_as_one_that_could_retry():
    fake, driver, _, done, error = drive(
        lambda worker, shard, turn: StoreError("x") if worker == 0 and shard == 0 else None,
        workers=3,
        shards=30,
        is_late=lambda worker: worker > 0,
    )
    assert error is None
    assert sorted(done) == list(range(30))
    assert {worker for worker, _ in fake.tried} == {0, 1, 2}
    assert [worker for worker, shard in fake.tried if shard == 0][1:] == [1]
    assert driver.workers == 3


def broken(*numbers: int) -> Behaviour:
    return lambda worker, shard, turn: StoreError("cannot write: no such host") if worker in numbers else None


def test_a_worker_that_only_reports_errors_is_excluded_and_costs_no_shard():
    fake, driver, recorder, done, error = drive(broken(1), workers=3, shards=30)
    assert error is None
    assert sorted(done) == list(range(30))
    # Three times an error, and each time the one that it had beside it.
    assert [number for number, _ in fake.tried].count(1) == 2 * MAX_ERRORS_IN_A_ROW
    (lost,) = driver.lost
    assert lost == LostWorker("host1:101", "host1", 101, lost.cause, is_excluded=True)
    assert "cannot write: no such host" in lost.cause
    assert recorder.left_out == ["host1:101"]
    assert recorder.deaths == []
    assert fake.started == 4  # another one has taken its place
    assert recorder.said("host1:101", "cannot write: no such host", "another worker")


def test_one_outage_is_one_error_however_many_shards_a_worker_has():
    errors = ErrorTracker()
    for outage in range(MAX_ERRORS_IN_A_ROW):
        assert not errors.must_exclude(0)
        for shard in range(6):
            errors.handed_out(0, 6 * outage + shard)
        for shard in range(6):
            errors.failed(0, 6 * outage + shard)
            assert errors.must_exclude(0) == (outage == MAX_ERRORS_IN_A_ROW - 1)


@pytest.mark.parametrize(("images_ahead", "had"), [(0, [1, 1]), (3, [1, 1]), (4, [2, 1]), (32, [2, 1])])
def test_a_worker_that_would_wait_for_downloads_gets_the_last_shard_ahead(images_ahead: int, had: list[int]):
    """Near the end, other workers get one shard at a time, since tasks cannot be taken back."""

    def behave(worker: int, shard: int, turn: int) -> PrelabelError | int | None:
        return 0 if turn < 20 else None

    fake, *_, done, error = drive(behave, workers=2, shards=3, sizes=[4] * 3, images_ahead=images_ahead)
    assert (error, sorted(done)) == (None, [0, 1, 2])
    assert fake.had[1] == [1, 1]  # nothing is known of storage yet
    assert fake.had[3:19] == [had] * 16


def test_the_worker_with_the_fewest_images_left_gets_the_last_shard():
    pool = FakePool(LabelOptions(source=("nothing",), detector="d", output="/nowhere"), 3, lambda *_: None)
    for worker, size in zip(pool.workers, (20, 30, 30), strict=True):
        pool._detector_loaded(worker)
        pool.submit(worker, LabelTask(worker.number, images=size))
    first, second, third = pool.workers
    assert pool.running_out(1) == []
    for worker, done in ((first, 4), (second, 20), (third, 9)):
        pool._status_received(worker, WorkerStatus(done, {worker.number: (done, 0)}, images_ahead=20))
    assert [worker.images_left for worker in pool.workers] == [16, 10, 21]
    assert pool.running_out(1) == [second, first]
    assert pool.running_out(2) == []  # nobody has two
    pool.exclude(second)
    pool._status_received(first, WorkerStatus(4, {0: (4, 0)}, images_ahead=0))
    assert pool.running_out(1) == []


def test_a_worker_gets_more_than_two_shards_only_while_they_have_few_images_in_all():
    sizes = [20, 20, 20, 4, 512, 20, 20, 25, 20]
    fake, *_, done, error = drive(lambda worker, shard, turn: None, workers=1, shards=len(sizes), sizes=sizes)
    assert (error, done) == (None, list(range(len(sizes))))
    assert fake.had[1:] == [[4], [3], [2], [2], [2], [2], [2], [2], [1]]
    for images in fake.images:
        assert len(images) <= 2 or sum(images) <= 64


def test_a_shard_with_an_error_goes_to_another_worker():
    fake, _, _, done, error = drive(
        lambda worker, shard, turn: StoreError("x") if (worker, shard) == (0, 0) else None, workers=2, shards=8
    )
    assert (error, sorted(done)) == (None, list(range(8)))
    assert [worker for worker, shard in fake.tried if shard == 0] == [0, 1]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_an_error_of_all_workers_ends_the_run_soon_with_that_error(workers: int):
    fake, driver, _, done, error = drive(
        lambda worker, shard, turn: CredentialsError("the store does not take the credentials (ExpiredToken)"),
        workers=workers,
        shards=1000,
    )
    assert done == []
    assert isinstance(error, CredentialsError)
    assert str(error) == "the store does not take the credentials (ExpiredToken)"
    assert len(fake.tried) <= max(2, workers)
    assert driver.lost == []


def test_credentials_that_expire_during_a_run_end_it_once_every_worker_has_failed():
    fake, _, _, done, error = drive(
        lambda worker, shard, turn: CredentialsError("expired") if turn > 10 else None, workers=4, shards=1000
    )
    assert str(error) == "expired"
    assert 20 < len(done) < 45
    assert len(fake.tried) - len(done) <= 4


def test_a_run_waits_for_workers_that_are_still_working():
    """One fails at once on everything; the other takes its time and then does it all."""
    fake, _, _, done, error = drive(
        lambda worker, shard, turn: (None if worker == 1 and turn > 30 else 1) if worker == 1 else StoreError("x"),
        workers=2,
        shards=6,
    )
    assert (error, sorted(done)) == (None, list(range(6)))
    assert {number for number, _ in fake.tried[-6:]} == {1}
    assert fake.started == 2 + module.MAX_REPLACED


def test_a_shard_at_which_proven_workers_fail_is_refused_after_all_others():
    fake, driver, _, done, error = drive(
        lambda worker, shard, turn: RunError("a worker failed at shard 3: KeyError: x") if shard == 3 else None,
        workers=2,
        shards=20,
    )
    assert sorted(done) == [shard for shard in range(20) if shard != 3]
    assert isinstance(error, RunError)
    assert re.match(r"shard 3\b.*: a worker failed at shard 3: KeyError: x\. ", str(error))
    assert driver.lost == []
    assert 2 <= [shard for _, shard in fake.tried].count(3) <= 4


def test_the_only_worker_retries_a_shard_after_the_others():
    seen: list[int] = []

    def once(worker: int, shard: int, turn: int) -> PrelabelError | None:
        seen.append(shard)
        return StoreError("a moment's trouble") if shard == 2 and seen.count(2) == 1 else None

    _, driver, _, done, error = drive(once, workers=1, shards=6)
    assert (error, sorted(done), driver.lost) == (None, list(range(6)), [])


@pytest.mark.parametrize("bad", [0, 1, 15, 28, 29])
def test_a_shard_that_fails_before_its_images_arrive_is_retried_last_by_the_only_worker(bad: int):
    """What a plan or an old file says wrong is known at once, before the shard that the worker is at is through."""
    error_text = "the plan cannot be read"
    fake, driver, _, done, error = drive(
        lambda worker, shard, turn: StoreError(error_text) if shard == bad else None,
        workers=1,
        shards=30,
        is_first=lambda shard: shard == bad,
    )
    assert sorted(done) == [shard for shard in range(30) if shard != bad]
    assert isinstance(error, RunError)
    assert re.match(rf"shard {bad}\b.*{error_text}", str(error))
    assert [shard for _, shard in fake.tried].count(bad) == 2
    assert fake.tried[-1] == (0, bad)
    assert driver.lost == []


def test_several_bad_shards_do_not_keep_the_only_worker_from_retrying_the_others():
    seen: list[int] = []

    def behave(worker: int, shard: int, turn: int) -> PrelabelError | None:
        seen.append(shard)
        moments_trouble = shard == 25 and seen.count(shard) == 1
        return StoreError("x") if shard in (5, 15) or moments_trouble else None

    _, driver, _, done, error = drive(behave, workers=1, shards=30, is_first=lambda shard: shard in (5, 15, 25))
    assert sorted(done) == [shard for shard in range(30) if shard not in (5, 15)]
    assert re.match(r"2 shards\b.*\b5\b", str(error))
    assert driver.lost == []


def test_one_worker_does_not_count_twice_at_a_shard_that_another_has_not_tried():
    schedule = Schedule([(LabelTask(0), 4)], 1)
    for worker in (0, 1):
        task = schedule.next_task(worker, {0, 1}, worker_is_idle=True)
        assert task == LabelTask(0)
        schedule.failed(task, worker, "x", is_proven=worker == 0)
        assert schedule.refused == {}
    assert schedule.next_task(0, {0, 1, 2}, worker_is_idle=True) is None
    task = schedule.next_task(2, {0, 1, 2}, worker_is_idle=True)
    assert task is not None
    schedule.failed(task, 2, "x", is_proven=True)
    assert schedule.refused == {0: "x"}


def test_shards_finished_earlier_do_not_keep_a_failing_run_alive():
    _, driver, _, _, error = drive(
        lambda worker, shard, turn: None if turn < 4 else StoreError(f"broken on {worker}"), workers=1, shards=100
    )
    assert str(error) == "broken on 0"
    assert driver.lost == []


def test_a_take_over_of_the_output_ends_the_run_immediately():
    fake, _, _, _, error = drive(
        lambda worker, shard, turn: OutputInUseError("another job has taken over") if worker == 0 else None,
        workers=4,
        shards=100,
    )
    assert isinstance(error, OutputInUseError)
    assert [number for number, _ in fake.tried].count(0) == 1


def refusing(*numbers: int) -> Callable[[int], PrelabelError | None]:
    return lambda worker: DetectorError("no model here") if worker in numbers else None


def test_a_worker_that_cannot_load_the_detector_is_excluded_even_if_it_is_the_first():
    fake, driver, recorder, done, error = drive(lambda *_: None, workers=3, shards=12, load=refusing(0))
    assert (error, sorted(done)) == (None, list(range(12)))
    assert fake.started == 4
    assert ["no model here" in lost.cause for lost in driver.lost] == [True]
    assert recorder.left_out == ["host0:100"]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_ends_with_the_error_if_no_worker_can_load_the_detector(workers: int):
    fake, _, _, done, error = drive(lambda *_: None, workers=workers, shards=12, load=lambda _: DetectorError("no"))
    assert (str(error), done, fake.started) == ("no", [], workers)


def test_a_worker_whose_disk_cannot_be_written_is_excluded(local_world: World):
    """One of two processes may write no file any more, in earnest: the system refuses."""
    local_world.add(40, every=Deed.SLOW)
    (local_world.control / "cannot-write").touch()
    recorder = Recorder()
    summary = local_world.label(recorder, workers=2)
    local_world.require_whole()
    assert (summary.images, summary.failed, summary.lost) == (40, 0, 0)
    (lost,) = summary.lost_workers
    assert lost.is_excluded
    assert re.search(r"cannot write .*File too large", lost.cause)
    assert lost.worker in recorder.left_out
    assert lost.worker not in recorder.by
    # Shards that it had when an error was counted do not count again.
    errors = len(recorder.said(f"worker {lost.worker} reported", ": cannot write "))
    assert MAX_ERRORS_IN_A_ROW <= errors <= MAX_ERRORS_IN_A_ROW * module.MOST_IN_FLIGHT


def test_a_disk_that_no_worker_can_write_ends_the_run_and_a_later_call_resumes(local_world: World):
    local_world.add(24)
    local_world.label(limit=None, shard_size=4, workers=1)
    for path in (local_world.out / "shards").iterdir():
        path.unlink()
    (local_world.control / "nobody-can-write").touch()
    began = time.monotonic()
    with pytest.raises(StoreError, match="File too large"):
        local_world.label(workers=2)
    assert time.monotonic() - began < 60
    (local_world.control / "nobody-can-write").unlink()
    assert local_world.label(workers=2).failed == 0
    local_world.require_whole()
