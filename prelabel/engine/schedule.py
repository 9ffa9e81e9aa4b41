"""The order in which shards are labeled, and the retries after a worker died: a state machine without Ray or clocks.

A shard that keeps killing its workers goes through these steps, each on a fresh worker:

    1. It is labeled as usual, while the worker reads its next shard ahead.
    2. It is labeled alone, so that it is not blamed for the death that another shard caused.
    3. It is probed: its images are read, decoded and run one by one, and nothing is written. An image whose worker dies
       or hangs is a killer. It is set aside, and probing resumes with the next image.
    4. It is labeled without the killers, which become failed rows with the cause of death.
    5. It is given up: all its images become failed rows, and the run ends with exit code 1.

Most deaths are caused by a lost node or by lack of memory, and end at step 2. Step 3 costs one death per killer.

A worker that reports an error (its disk, its name server, its credentials) stays alive. Its shard goes to another
worker, and `ErrorTracker` decides which workers are excluded and when no usable worker remains. A shard is refused
after it failed on two workers that finished other shards, or twice on the only worker. All other shards are finished
first; then the run ends with that shard's error.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import ClassVar

from prelabel.image_ref import ImageRef

#: A shard with more killers than this is given up: each killer costs a worker start.
MAX_KILLERS = 16

#: After this many killers in a row the shard is given up: the cause is not in the images.
MAX_KILLERS_IN_A_ROW = 5

#: A worker is excluded after this many errors in a row, with no shard finished in between. One outage fails all tasks
#: that a worker has at that time: together they count as one error.
MAX_ERRORS_IN_A_ROW = 3

#: A shard is refused after this many proven workers (workers that finished other shards) reported an error at it.
MAX_PROVEN_AT_SHARD = 2


class Step(IntEnum):
    """The steps of a shard that kills its workers; see the module's docstring."""

    ORDINARY = 1
    ALONE = 2
    PROBING = 3
    WITHOUT_KILLERS = 4


@dataclass(frozen=True, slots=True)
class FailureCause:
    """Why a worker died, or an image was set aside: the `error_type` and `error` of its row."""

    error_type: str
    error: str


class Keep(IntEnum):
    """Which rows of a shard's existing file a task keeps."""

    NOTHING = 0
    #: Those of images that have not changed since, failed or not.
    CURRENT = 1
    #: Those of them that are ok.
    OK = 2


@dataclass(frozen=True, slots=True)
class LabelTask:
    """Label a shard and publish it.

    Attributes:
        shard: Number of the shard.
        keep: Which rows of the existing file to keep; all other images are labeled.
        alone: Run while the worker has no other task.
        set_aside: Images that must not be read, by position in the shard, with the cause.
        links: Full addresses by position, for images whose address in the plan lacks its signature or password.
        images: Number of images of the shard; it decides how many shards a worker has at the same time.
    """

    shard: int
    keep: Keep = Keep.NOTHING
    alone: bool = False
    set_aside: Mapping[int, FailureCause] = field(default_factory=dict)
    links: Mapping[int, str] = field(default_factory=dict, repr=False)
    images: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ProbeTask:
    """Read, decode and run one image of a shard, without writing anything: does the process survive?"""

    alone: ClassVar[bool] = True  # a death must be caused by this image

    shard: int
    position: int
    links: Mapping[int, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class TrialTask:
    """Measure on a shard's images which way to run the model is fastest, without writing anything.

    `images` is the number of images a worker can expect in the whole run: the measurement must pay off.
    """

    alone: ClassVar[bool] = True  # a second task would distort the measured speed

    shard: int
    images: float
    links: Mapping[int, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class MeasureTask:
    """Label a sample of the run's images without writing anything, and measure how fast that is.

    Attributes:
        images: The worker's part of the sample.
        seconds: How long to measure at least: images are labeled more than once if that takes less.
        limit_s: When to stop running the detector, even if it has not seen all images.
        shard: Shard of the first image, for messages.
        links: Full addresses by position in `images`, as for `LabelTask`.
    """

    alone: ClassVar[bool] = True  # a second task would distort the measured speed

    images: tuple[ImageRef, ...] = field(repr=False)
    seconds: float
    limit_s: float
    shard: int = 0
    links: Mapping[int, str] = field(default_factory=dict, repr=False)


Task = LabelTask | ProbeTask | TrialTask | MeasureTask


@dataclass(slots=True)
class _State:
    images: int
    keep: Keep
    step: Step = Step.ORDINARY
    position: int = 0
    in_a_row: int = 0
    set_aside: dict[int, FailureCause] = field(default_factory=dict)


class Schedule:
    """The tasks that are left, and their order.

    Args:
        tasks: The first attempt at each shard, in order, with the shard's number of images. Each is taken when a worker
            is free for it.
        count: Number of these tasks.

    Attributes:
        refused: Shards that are not retried because workers report errors at them, with the last error.
        given_up: Shards that are not retried because their workers die, with the task that writes their failed rows
            and the reason.
    """

    def __init__(self, tasks: Iterable[tuple[LabelTask, int]], count: int) -> None:
        self._fresh, self._fresh_count = iter(tasks), count
        self._next_fresh: tuple[LabelTask, int] | None = None
        self._retries: deque[Task] = deque()
        self._troubled: dict[int, _State] = {}
        self._running: dict[int, int] = {}
        self._errored: list[tuple[Task, int]] = []
        self._tried_by: dict[int, set[int]] = {}
        self._proven_at: dict[int, set[int]] = {}
        self.refused: dict[int, str] = {}
        self.given_up: dict[int, tuple[LabelTask, str]] = {}

    @property
    def waiting(self) -> int:
        """Number of tasks that no worker has yet."""
        return self._fresh_count + len(self._retries) + len(self._errored)

    def tasks_per_worker(self, workers: int) -> int:
        """Return how many tasks a worker may have now, if so many workers accept tasks.

        A task is not taken back from a worker. So a worker gets tasks ahead only while as many wait for each of the
        others: otherwise, near the end, one could be idle while another has a shard that it has not begun. With a
        worker that is less than half as fast as the others, this can still happen. A worker that may wait for storage
        gets more (`WorkerPool.running_out`): another one may then be idle for as long as a download takes.
        """
        return 1 + self._fresh_count // max(1, workers)

    @property
    def finished(self) -> bool:
        """Whether no task is waiting or running."""
        return not (self.waiting or self._running)

    def next_task(
        self, worker: int = 0, usable: Collection[int] = (), *, worker_is_idle: bool, most_images: float = math.inf
    ) -> Task | None:
        """Return the next task for a worker, or None if there is none for it now.

        Args:
            worker: The worker's number.
            usable: Numbers of all workers that accept tasks, now or soon; only read for shards at which a worker has
                reported an error.
            worker_is_idle: Whether the worker has no other task; tasks that must run alone go to idle workers only.
            most_images: Most images of the task, for a worker that has others.
        """
        task: Task
        if self._retries and worker_is_idle:
            task = self._retries.popleft()
            images = self._troubled[task.shard].images
        elif (position := self._untried_by(worker, worker_is_idle, most_images)) is not None:
            task, images = self._errored.pop(position)
        elif self._fresh_count:
            task, images = self._next_fresh = self._next_fresh or next(self._fresh)
            if images > most_images:
                return None
            self._next_fresh = None
            self._fresh_count -= 1
            task = replace(task, images=images)
        elif worker_is_idle and (position := self._tried_by_all(usable)) is not None:
            task, images = self._errored.pop(position)
        else:
            return None
        self._running[task.shard] = images
        return task

    def _untried_by(self, worker: int, worker_is_idle: bool, most_images: float) -> int | None:
        """Position of the first task in `_errored` that this worker has not tried, and can have now."""
        for position, (task, images) in enumerate(self._errored):
            fits = worker_is_idle or not (task.alone or images > most_images)
            if fits and worker not in self._tried_by[task.shard]:
                return position
        return None

    def _tried_by_all(self, usable: Collection[int]) -> int | None:
        """Position of the first task in `_errored` that all usable workers have tried: any of them may retry it."""
        tried_by = (self._tried_by[task.shard] for task, _ in self._errored)
        return next((position for position, workers in enumerate(tried_by) if workers.issuperset(usable)), None)

    def failed(self, task: Task, worker: int, error: str, *, is_proven: bool) -> str:
        """Record that a worker reported an error at a task and stays alive.

        Args:
            task: The task that failed.
            worker: The worker's number.
            error: The reported error.
            is_proven: Whether the worker has finished other shards: then the shard may be the cause.

        Returns:
            What happens to the shard now, for messages.
        """
        images = self._running.pop(task.shard)
        tried_by = self._tried_by.setdefault(task.shard, set())
        # A worker gets a shard a second time only when all others have tried it and nothing else is waiting.
        is_last = worker in tried_by and is_proven
        tried_by.add(worker)
        if is_proven:
            self._proven_at.setdefault(task.shard, set()).add(worker)
        if is_last or len(self._proven_at.get(task.shard, ())) >= MAX_PROVEN_AT_SHARD:
            self.refused[task.shard] = error
            self._troubled.pop(task.shard, None)
            return "not retrying it in this call"
        self._errored.append((task, images))
        return "retrying it on another worker, or after all other shards"

    def done(self, task: Task) -> None:
        """Record that a worker finished a task without an error."""
        self._running.pop(task.shard)
        self._tried_by.pop(task.shard, None)
        state = self._troubled.get(task.shard)
        if state is None:
            return
        if isinstance(task, LabelTask):
            del self._troubled[task.shard]
            return
        state.in_a_row = 0
        self._probe_on(task.shard, state)

    def died(self, task: Task, cause: FailureCause) -> str:
        """Record that a worker died, hung or was lost while it had a task.

        Returns:
            What happens to the shard now, for messages.
        """
        images = self._running.pop(task.shard)
        keep = task.keep if isinstance(task, LabelTask) else Keep.NOTHING
        state = self._troubled.setdefault(task.shard, _State(images, keep))
        if isinstance(task, ProbeTask):
            state.set_aside[task.position] = cause
            state.in_a_row += 1
            if state.in_a_row >= MAX_KILLERS_IN_A_ROW or len(state.set_aside) > MAX_KILLERS:
                reason = f"{len(state.set_aside)} images killed their worker: {cause.error}"
                return self._give_up(task.shard, state, reason)
            self._probe_on(task.shard, state)
            return f"skipping its image {task.position + 1}"
        if state.step is Step.ORDINARY:
            state.step = Step.ALONE
            self._retries.append(self._label(task.shard, state))
            return "retrying"
        if state.step is Step.ALONE:
            state.step = Step.PROBING
            state.position = -1
            self._probe_on(task.shard, state)
            return "testing its images one by one"
        return self._give_up(task.shard, state, cause.error)

    def _probe_on(self, shard: int, state: _State) -> None:
        state.position += 1
        if state.position < state.images:
            # Before all other tasks: the shard's other images wait for it.
            self._retries.appendleft(ProbeTask(shard, state.position))
        else:
            state.step = Step.WITHOUT_KILLERS
            self._retries.appendleft(self._label(shard, state))

    def _label(self, shard: int, state: _State) -> LabelTask:
        return LabelTask(shard, state.keep, alone=True, set_aside=dict(state.set_aside))

    def _give_up(self, shard: int, state: _State, reason: str) -> str:
        del self._troubled[shard]
        cause = FailureCause("WorkerDied", f"the shard was given up: {reason}")
        everything = {position: state.set_aside.get(position, cause) for position in range(state.images)}
        self.given_up[shard] = (LabelTask(shard, state.keep, alone=True, set_aside=everything), reason)
        return "giving up"


class ErrorTracker:
    """Tells errors of one worker from errors of the whole run.

    An error is the worker's own while other workers finish shards. If all workers have reported errors since the last
    finished shard, the error concerns the whole run.
    """

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()
        self._in_a_row: Counter[int] = Counter()
        self._counted: Counter[int] = Counter()
        self._counted_before: dict[tuple[int, int], int] = {}
        self._since_success: Counter[int] = Counter()
        self._proven: set[int] = set()

    def handed_out(self, worker: int, shard: int) -> None:
        """Record that a worker is given a shard."""
        self._counted_before[worker, shard] = self._counted[worker]

    def succeeded(self, worker: int, shard: int) -> None:
        """Record that a worker finished a shard."""
        self._counted_before.pop((worker, shard), None)
        self._proven.add(worker)
        self._in_a_row.pop(worker, None)
        self._since_success.clear()

    def failed(self, worker: int, shard: int) -> None:
        """Record that a worker reported an error at a task.

        A second error of a proven worker at the same shard is the shard's, and does not count against the worker. An
        error at a task that it was given before the last counted error does not count as another one in a row.
        """
        had = self._counted_before.pop((worker, shard), self._counted[worker])
        if worker in self._proven and (worker, shard) in self._seen:
            return
        self._seen.add((worker, shard))
        self._since_success[worker] += 1
        if had == self._counted[worker]:
            self._counted[worker] += 1
            self._in_a_row[worker] += 1

    def is_proven(self, worker: int) -> bool:
        """Whether a worker has finished a shard."""
        return worker in self._proven

    def must_exclude(self, worker: int) -> bool:
        """Whether a worker has reported too many errors in a row."""
        return self._in_a_row[worker] >= MAX_ERRORS_IN_A_ROW

    def all_failing(self, workers: Collection[int]) -> bool:
        """Whether all these workers, and at least two in total, have reported errors since the last finished shard."""
        return sum(self._since_success.values()) > 1 and all(self._since_success[worker] for worker in workers)
