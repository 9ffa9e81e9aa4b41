"""Which shard is tried next, and what is done about one whose worker died: a state machine without Ray or clocks.

The way of a shard that keeps killing its workers, each step on a fresh one:

    1. labelled in the ordinary way, beside the worker's next shard;
    2. labelled once more, alone, so that it is not blamed for a neighbour;
    3. probed: its images are read, decoded and run one by one, nothing is written; an image whose worker dies or hangs
       is the culprit, it is set aside, and probing goes on behind it;
    4. labelled without the culprits, which become failed rows that say so;
    5. given up: all its images become failed rows, and the run ends with exit code 1.

Most deaths are a lost node or memory and end at step 2; step 3 costs one death for each image that kills.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

#: More killers than this in one shard, and the shard is given up: each costs a worker's start.
MAX_KILLERS = 16

#: This many images in a row that kill say that the cause is not in the images.
MAX_KILLERS_IN_A_ROW = 5


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
    """

    def __init__(self, tasks: Iterable[tuple[LabelTask, int]]) -> None:
        self._fresh = deque(tasks)
        self._again: deque[Task] = deque()
        self._troubled: dict[int, _State] = {}
        self._running: dict[int, int] = {}
        self.given_up: dict[int, tuple[LabelTask, str]] = {}

    @property
    def waiting(self) -> int:
        """Tasks that no worker has yet."""
        return len(self._fresh) + len(self._again)

    @property
    def finished(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not (self._fresh or self._again or self._running)

    def next_task(self, *, worker_is_idle: bool) -> Task | None:
        """The next task for a worker, or None where there is none for it now.

        Args:
            worker_is_idle: Whether the worker has nothing else; tasks that must run alone go to such workers only.
        """
        if self._again and worker_is_idle:
            task: Task = self._again.popleft()
        elif self._fresh:
            task, images = self._fresh.popleft()
            self._running[task.shard] = images
            return task
        else:
            return None
        self._running[task.shard] = self._troubled[task.shard].images
        return task

    def done(self, task: Task) -> None:
        """A worker has finished a task well."""
        self._running.pop(task.shard)
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
