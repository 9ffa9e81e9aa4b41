"""The way of a shard through deaths, as literal sequences of tasks."""

from __future__ import annotations

from prelabel.engine.schedule import MAX_KILLERS_IN_A_ROW, FailureCause, Keep, LabelTask, ProbeTask, Schedule, Task

DEATH = FailureCause("WorkerDied", "signal 6")


def schedule_of(*shards: tuple[int, int]) -> Schedule:
    return Schedule(((LabelTask(shard), images) for shard, images in shards), len(shards))


def take(schedule: Schedule, *, idle: bool = True) -> Task:
    task = schedule.next_task(worker_is_idle=idle)
    assert task is not None
    return task


def test_shards_are_handed_out_in_order_until_the_schedule_is_finished():
    schedule = schedule_of((0, 3), (1, 2))
    first, second = take(schedule), take(schedule, idle=False)
    assert (first, second) == (LabelTask(0), LabelTask(1))
    assert schedule.next_task(worker_is_idle=True) is None
    assert not schedule.finished
    schedule.done(first)
    schedule.done(second)
    assert schedule.finished


def test_workers_get_shards_ahead_only_while_as_many_wait_for_each_of_the_others():
    schedule = schedule_of(*((shard, 3) for shard in range(5)))
    assert [schedule.tasks_per_worker(workers) for workers in (0, 1, 2, 3, 5, 6)] == [6, 6, 3, 2, 2, 1]
    for _ in range(4):
        take(schedule)
    assert [schedule.tasks_per_worker(workers) for workers in (1, 2)] == [2, 1]
    take(schedule)
    assert schedule.tasks_per_worker(1) == 1


def test_a_shard_whose_worker_died_is_retried_alone():
    schedule = schedule_of((0, 3))
    schedule.died(take(schedule), DEATH)
    assert schedule.next_task(worker_is_idle=False) is None
    again = take(schedule)
    assert again == LabelTask(0, alone=True)
    schedule.done(again)
    assert schedule.finished
    assert schedule.given_up == {}


def test_after_two_deaths_images_are_probed_and_the_killer_is_set_aside():
    schedule = schedule_of((0, 3))
    for _ in range(2):
        schedule.died(take(schedule), DEATH)
    schedule.done(take(schedule))
    second = take(schedule)
    assert second == ProbeTask(0, 1)
    schedule.died(second, DEATH)
    third = take(schedule)
    assert third == ProbeTask(0, 2)
    schedule.done(third)
    last = take(schedule)
    assert last == LabelTask(0, alone=True, set_aside={1: DEATH})
    schedule.done(last)
    assert schedule.finished
    assert schedule.given_up == {}


def test_a_shard_on_which_every_image_kills_is_given_up_after_a_bounded_number_of_deaths():
    schedule = schedule_of((7, 1000))
    deaths = 0
    while not schedule.finished:
        schedule.died(take(schedule), DEATH)
        deaths += 1
    assert deaths == 2 + MAX_KILLERS_IN_A_ROW
    task, reason = schedule.given_up[7]
    assert len(task.set_aside) == 1000
    assert task.set_aside[0] == DEATH
    assert "given up" in task.set_aside[999].error
    assert "signal 6" in reason


def test_a_shard_that_still_kills_without_its_killers_is_given_up():
    schedule = schedule_of((0, 1))
    for _ in range(2):
        schedule.died(take(schedule), DEATH)
    schedule.done(take(schedule))
    schedule.died(take(schedule), DEATH)
    assert list(schedule.given_up) == [0]
    assert schedule.finished


def test_retrying_the_failed_images_survives_a_death():
    schedule = Schedule([(LabelTask(0, Keep.OK), 2)], 1)
    schedule.died(take(schedule), DEATH)
    assert take(schedule) == LabelTask(0, Keep.OK, alone=True)


def test_other_shards_continue_while_one_is_probed():
    schedule = schedule_of((0, 2), (1, 2))
    troubled = take(schedule)
    schedule.died(troubled, DEATH)
    schedule.died(take(schedule), DEATH)
    assert take(schedule) == ProbeTask(0, 0)
    assert take(schedule) == LabelTask(1)
