"""Which shard is tried next, and what is done about one whose worker died: a state machine without Ray or clocks.

The way of a shard that keeps killing its workers, each step on a fresh one:

    1. labelled in the ordinary way, beside the worker's next shard;
    2. labelled once more, alone, so that it is not blamed for a neighbour;
    3. probed: its images are read, decoded and run one by one, nothing is written; an image whose worker dies or hangs
       is the culprit, it is set aside, and probing goes on behind it;
    4. labelled without the culprits, which become failed rows that say so;
    5. given up: all its images become failed rows, and the run ends with exit code 1.

Most deaths are a lost node or memory and end at step 2; step 3 costs one death for each image that kills.

A worker that reports an error (its disk, its name server, its credentials) lives on. The shard goes to another one, and
`Standing` says who is left out and when nobody is left. A shard that fails on two workers that do well otherwise, or
twice on the only one there is, is refused: the others are finished first, then the run ends with its error.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

#: More killers than this in one shard, and the shard is given up: each costs a worker's start.
MAX_KILLERS = 16

#: This many images in a row that kill say that the cause is not in the images.
MAX_KILLERS_IN_A_ROW = 5

#: Errors of one worker in a row, with no shard finished between, after which it gets no more.
MAX_ERRORS_IN_A_ROW = 3

#: Workers that have finished others and report errors at one shard, after which it is not tried again.
MAX_PROVEN_AT_SHARD = 2


class Step(IntEnum):
    """How far the search for a shard's trouble has come."""

    ORDINARY = 1
    ALONE = 2
    PROBING = 3
    WITHOUT_CULPRITS = 4


@dataclass(frozen=True, slots=True)
class Culprit:
    """Why an image was set aside: `error_type` and `error` of its row."""

    error_type: str
    error: str


@dataclass(frozen=True, slots=True)
class LabelTask:
    """Label a shard and publish it.

    `set_aside` are positions in the shard that are not touched; `links` whole addresses by position, where the plan's
    lack their signature.
    """

    shard: int
    retry_failed: bool = False
    alone: bool = False
    set_aside: Mapping[int, Culprit] = field(default_factory=dict)
    links: Mapping[int, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class ProbeTask:
    """Read, decode and run one image of a shard, write nothing: does the process survive it?"""

    shard: int
    position: int
    links: Mapping[int, str] = field(default_factory=dict, repr=False)

    @property
    def alone(self) -> bool:
        """A probe must be the only thing its worker does."""
        return True


@dataclass(frozen=True, slots=True)
class TrialTask:
    """Find out on a shard's images how the network is run fastest, write nothing.

    `images` is how many a worker has before it in all: trying must be worth it.
    """

    shard: int
    images: float
    links: Mapping[int, str] = field(default_factory=dict, repr=False)

    @property
    def alone(self) -> bool:
        """What is measured is speed."""
        return True


Task = LabelTask | ProbeTask | TrialTask


@dataclass(slots=True)
class _State:
    images: int
    retry_failed: bool
    step: Step = Step.ORDINARY
    position: int = 0
    in_a_row: int = 0
    set_aside: dict[int, Culprit] = field(default_factory=dict)


class Schedule:
    """What is still to be done, in which order.

    Args:
        tasks: First tries, in order, each with its shard's number of images.

    Attributes:
        refused: Shards that are not tried again because workers report an error at them, with the last one.
        given_up: Shards that are not tried again because their workers die, and why.
    """

    def __init__(self, tasks: Iterable[tuple[LabelTask, int]]) -> None:
        self._fresh = deque(tasks)
        self._again: deque[Task] = deque()
        self._troubled: dict[int, _State] = {}
        self._running: dict[int, int] = {}
        self._elsewhere: list[tuple[Task, int]] = []
        self._tried_by: dict[int, set[int]] = {}
        self._proven_at: dict[int, set[int]] = {}
        self.refused: dict[int, str] = {}
        self.given_up: dict[int, tuple[LabelTask, str]] = {}

    @property
    def waiting(self) -> int:
        """Tasks that no worker has yet."""
        return len(self._fresh) + len(self._again) + len(self._elsewhere)

    @property
    def has_errors(self) -> bool:
        """Whether a shard waits at which a worker has reported an error."""
        return bool(self._elsewhere)

    @property
    def finished(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not (self.waiting or self._running)

    def next_task(self, worker: int = 0, able: Collection[int] = (), *, worker_is_idle: bool) -> Task | None:
        """The next task for a worker, or None where there is none for it now.

        Args:
            worker: Its number.
            able: Numbers of all workers that may take tasks, now or soon; only looked at while `has_errors`.
            worker_is_idle: Whether the worker has nothing else; tasks that must run alone go to such workers only.
        """
        if self._again and worker_is_idle:
            task: Task = self._again.popleft()
        elif (position := self._for_another(worker, worker_is_idle)) is not None:
            task, images = self._elsewhere.pop(position)
            self._running[task.shard] = images
            return task
        elif self._fresh:
            task, images = self._fresh.popleft()
            self._running[task.shard] = images
            return task
        elif worker_is_idle and (position := self._once_more(able)) is not None:
            task, images = self._elsewhere.pop(position)
            self._running[task.shard] = images
            return task
        else:
            return None
        self._running[task.shard] = self._troubled[task.shard].images
        return task

    def _for_another(self, worker: int, worker_is_idle: bool) -> int | None:
        """Which of the tasks with an error a worker may try: the first that it has not tried."""
        for position, (task, _) in enumerate(self._elsewhere):
            if worker not in self._tried_by[task.shard] and (worker_is_idle or not task.alone):
                return position
        return None

    def _once_more(self, able: Collection[int]) -> int | None:
        """Which of them a worker tries again that is through with all else: the first that all others have tried."""
        for position, (task, _) in enumerate(self._elsewhere):
            if self._tried_by[task.shard].issuperset(able):
                return position
        return None

    def failed(self, task: Task, worker: int, error: str, *, is_proven: bool) -> str:
        """A worker has reported an error at a task, and lives. Returns what is done now, in words.

        Args:
            task: At which.
            worker: The worker's number.
            error: What it reported.
            is_proven: Whether the worker has finished other shards: then the error may be the shard's.
        """
        images = self._running.pop(task.shard)
        tried_by = self._tried_by.setdefault(task.shard, set())
        # A worker gets a shard again only where nobody else is left to try it and nothing else waits.
        is_last = worker in tried_by and is_proven
        tried_by.add(worker)
        if is_proven:
            self._proven_at.setdefault(task.shard, set()).add(worker)
        if is_last or len(self._proven_at.get(task.shard, ())) >= MAX_PROVEN_AT_SHARD:
            self.refused[task.shard] = error
            self._troubled.pop(task.shard, None)
            return "it is not tried again by this call"
        self._elsewhere.append((task, images))
        return "it is tried on another worker, or again when all else is done"

    def done(self, task: Task) -> None:
        """A worker has finished a task well."""
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

    def died(self, task: Task, culprit: Culprit) -> str:
        """The worker of a task died, hung or was lost while it had the task. Returns what is done now, in words."""
        images = self._running.pop(task.shard)
        state = self._troubled.setdefault(task.shard, _State(images, isinstance(task, LabelTask) and task.retry_failed))
        if isinstance(task, ProbeTask):
            state.set_aside[task.position] = culprit
            state.in_a_row += 1
            if state.in_a_row >= MAX_KILLERS_IN_A_ROW or len(state.set_aside) > MAX_KILLERS:
                self._give_up(task.shard, state, f"{len(state.set_aside)} images killed their worker: {culprit.error}")
                return "it is given up"
            self._probe_on(task.shard, state)
            return f"image {task.position + 1} of the shard is set aside"
        if state.step is Step.ORDINARY:
            state.step = Step.ALONE
            self._again.append(self._label(task.shard, state))
            return "it is tried again"
        if state.step is Step.ALONE:
            state.step = Step.PROBING
            state.position = -1
            self._probe_on(task.shard, state)
            return "its images are tried one by one"
        self._give_up(task.shard, state, culprit.error)
        return "it is given up"

    def _probe_on(self, shard: int, state: _State) -> None:
        state.position += 1
        if state.position < state.images:
            # First in line: until it is through, the shard's other images wait.
            self._again.appendleft(ProbeTask(shard, state.position))
        else:
            state.step = Step.WITHOUT_CULPRITS
            self._again.appendleft(self._label(shard, state))

    def _label(self, shard: int, state: _State) -> LabelTask:
        return LabelTask(shard, state.retry_failed, alone=True, set_aside=dict(state.set_aside))

    def _give_up(self, shard: int, state: _State, reason: str) -> None:
        del self._troubled[shard]
        culprit = Culprit("WorkerDied", f"the shard was given up: {reason}")
        everything = {position: state.set_aside.get(position, culprit) for position in range(state.images)}
        self.given_up[shard] = (LabelTask(shard, state.retry_failed, alone=True, set_aside=everything), reason)


class Standing:
    """Which workers report errors, which finish shards, and whether anybody is able to work at all.

    An error that one worker meets is its own as long as others do well. One that all meet, each since anybody has last
    finished a shard, is the run's.
    """

    def __init__(self) -> None:
        self._met: set[tuple[int, int]] = set()
        self._in_a_row: Counter[int] = Counter()
        self._since_success: Counter[int] = Counter()
        self._proven: set[int] = set()

    def succeeded(self, worker: int) -> None:
        """A worker has finished a shard."""
        self._proven.add(worker)
        self._in_a_row.pop(worker, None)
        self._since_success.clear()

    def failed(self, worker: int, shard: int) -> None:
        """A worker has reported an error at a task; again at the same shard, beside others, it is the shard's."""
        if worker in self._proven and (worker, shard) in self._met:
            return
        self._met.add((worker, shard))
        self._in_a_row[worker] += 1
        self._since_success[worker] += 1

    def is_proven(self, worker: int) -> bool:
        """Whether it has finished a shard."""
        return worker in self._proven

    def is_hopeless(self, worker: int) -> bool:
        """Whether it is to be left out."""
        return self._in_a_row[worker] >= MAX_ERRORS_IN_A_ROW

    def nobody_is_able(self, workers: Collection[int]) -> bool:
        """Whether all workers there are have met errors and nothing else lately, and more than one in all."""
        return sum(self._since_success.values()) > 1 and all(self._since_success[worker] for worker in workers)
