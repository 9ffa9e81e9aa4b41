"""What the driver knows of one worker, and what it hears of workers. No Ray here."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from prelabel.engine.schedule import Culprit, Task
from prelabel.engine.worker import Status
from prelabel.errors import PrelabelError
from prelabel.store.run import OptimizationRecord
from prelabel.store.shards import ShardRecord

#: Tasks a worker holds at once: one runs while the images of the next are read ahead.
IN_FLIGHT = 2


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has loaded its detector."""

    worker: Handle


@dataclass(frozen=True, slots=True)
class Done:
    """A worker has finished a task; a labelled shard comes with its record, a trial with what was chosen."""

    worker: Handle
    task: Task
    record: ShardRecord | OptimizationRecord | None


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is gone, and with it the tasks it had."""

    worker: Handle
    tasks: tuple[Task, ...]
    culprit: Culprit


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker reports an error: at a task, or (then `task` is None) while it loaded its detector, and it is gone."""

    worker: Handle
    task: Task | None
    error: PrelabelError


Event = Ready | Done | Died | Failed


@dataclass(slots=True, eq=False)
class Handle:
    """One actor and what the driver knows of it.

    Attributes:
        number: Counts workers of this call.
        actor: Ray's handle.
        placed: Whether its process runs, and then on which `node` on `host` under which `pid`.
        ready: Whether it has loaded the detector.
        retiring: Whether it gets no more tasks and is ended when it has finished those it has.
        replaced: Whether another one has been started in its place, or none shall be.
        images: Images of its finished tasks.
        tasks: What it has to do, by the reference that brings the answer.
        status: What it last said of itself.
        asked: Whether a question for its status is under way.
        moved_at: When it last finished an image or a task, was seen to wait for a store that is still being patient
            with, got a task when it had none, or its process came up.
        began_at: When it last finished a task, or got one when it had none.
    """

    number: int
    actor: Any
    placed: bool = False
    ready: bool = False
    retiring: bool = False
    replaced: bool = False
    images: int = 0
    tasks: dict[Any, Task] = field(default_factory=dict)
    status: Status = field(default_factory=lambda: Status(0, {}))
    asked: bool = False
    moved_at: float = field(default_factory=time.monotonic)
    began_at: float = field(default_factory=time.monotonic)
    node: str = ""
    host: str = ""
    pid: int = 0

    @property
    def name(self) -> str:
        """What logs call it, `host:pid`; `""` before its process runs."""
        return f"{self.host}:{self.pid}" if self.placed else ""

    @property
    def free(self) -> bool:
        """Whether it can take another task beside those it has."""
        alone = any(task.alone for task in self.tasks.values())
        return self.ready and not self.retiring and not alone and len(self.tasks) < IN_FLIGHT
