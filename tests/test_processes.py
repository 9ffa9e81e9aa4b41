"""Several processes give the same results as one, in the same order, and end with their parent."""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pyarrow import array

from prelabel.errors import ExportError, RunError
from prelabel.processes import Processes, hidden, raise_if_stopped
from tests.messages import telling


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def refuse_seven(number: int) -> int:
    if number == 7:
        raise ExportError("seven is refused")
    return number


def die(number: int) -> int:
    if number > 0 and multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_results_come_in_order_from_several_processes() -> None:
    with Processes(2, at_once=True) as processes:
        results = list(processes.map(square, range(20)))
        again = list(processes.map(square, range(3)))
    assert [number for number, _ in results] == [n * n for n in range(20)]
    pids = {pid for _, pid in results}
    assert os.getpid() in pids  # the first item is worked on here
    assert len(pids) == 2
    assert [number for number, _ in again] == [0, 1, 4]


def test_little_work_starts_no_process() -> None:
    with Processes(8) as processes:
        assert {pid for _, pid in processes.map(square, range(20))} == {os.getpid()}


def wait(number: int) -> int:
    time.sleep(0.01)
    return os.getpid()


def test_this_process_works_while_it_waits() -> None:
    with Processes(2, at_once=True) as processes:
        pids = list(processes.map(wait, range(400)))
    assert 20 < pids.count(os.getpid()) < 380


def test_this_process_works_alone_until_another_one_is_ready() -> None:
    with Processes(2) as processes:
        pids = list(processes.map(wait, range(400), more_follows=True))
    assert len(set(pids)) == 2
    assert set(pids[:5]) == {os.getpid()}


def wait_long(number: int) -> int:
    if multiprocessing.parent_process() is not None:
        time.sleep(3)
    return number


def test_few_results_wait_for_one_that_takes_long() -> None:
    begun: list[int] = []
    with Processes(2, at_once=True) as processes:
        results = processes.map(wait_long, Noted(range(50), begun))
        assert list(itertools.islice(results, 2)) == [0, 1]
    assert len(begun) < 20


def test_few_results_wait_for_a_slow_consumer() -> None:
    begun: list[int] = []
    with Processes(2, at_once=True) as processes:
        for number, _ in enumerate(processes.map(square, Noted(range(200), begun)), start=1):
            time.sleep(0.005)
            assert len(begun) - number <= 8


def write_slowly(folder: str) -> None:
    """Write files for five seconds in another process; in this one, interrupt the work once there is one."""
    if not folder:
        return
    for number in range(100):
        if multiprocessing.parent_process() is not None:
            raise_if_stopped()
            (Path(folder) / f"{os.getpid()}-{number}").touch()
        elif any(Path(folder).iterdir()):
            raise KeyboardInterrupt(time.monotonic())
        time.sleep(0.05)


def test_other_processes_stop_when_the_work_is_interrupted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as interrupt, Processes(2, at_once=True) as processes:
        list(processes.map(write_slowly, ["", *[str(tmp_path)] * 9]))
    assert time.monotonic() - interrupt.value.args[0] < 4
    written = len(list(tmp_path.iterdir()))
    time.sleep(0.3)
    assert len(list(tmp_path.iterdir())) == written < 100


class Noted(Sequence[int]):
    """Notes the items that were taken."""

    def __init__(self, items: Sequence[int], taken: list[int]) -> None:
        self._items, self._taken = items, taken

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        self._taken.append(index)
        return self._items[index]


def has_pandas(number: int) -> bool:
    array([number]).to_numpy()
    return multiprocessing.parent_process() is not None and "pandas.core" in sys.modules


def test_processes_do_without_pandas() -> None:
    with Processes(2, at_once=True) as processes:
        assert not any(processes.map(has_pandas, range(20)))


@pytest.mark.parametrize(("before", "inside"), [(700, 10_000), (50_000, 50_000), (0, 0)])
def test_python_searches_for_cycles_less_often_while_processes_work(before: int, inside: int) -> None:
    usual = gc.get_threshold()
    gc.set_threshold(before, 11, 12)
    try:
        with contextlib.suppress(ExportError), Processes(2) as processes:
            assert gc.get_threshold() == (inside, 11, 12)
            list(processes.map(refuse_seven, [6, 7]))
        assert gc.get_threshold() == (before, 11, 12)
    finally:
        gc.set_threshold(*usual)


def test_no_items() -> None:
    with Processes(2, at_once=True) as processes:
        assert list(processes.map(square, [])) == []


def test_an_error_is_raised_in_place_of_its_result() -> None:
    with Processes(2, at_once=True) as processes:
        results = processes.map(refuse_seven, range(20))
        assert list(itertools.islice(results, 7)) == list(range(7))
        with pytest.raises(ExportError, match="seven is refused"):
            next(results)


def test_a_dead_process_raises_a_run_error() -> None:
    died = telling("process(es)?", "died|dead|ended|gone|killed|lost|stopped")
    with Processes(2, at_once=True) as processes, pytest.raises(RunError, match=died):
        list(processes.map(die, range(20)))


_ENDLESS = """
import os, sys, time
from prelabel.processes import Processes, hidden
from tests.test_processes import sleep_long
if __name__ == "__main__":
    with Processes(2, at_once=True) as processes:
        for pid in processes.map(sleep_long, range(9)):
            print(pid, flush=True)
"""


def sleep_long(number: int) -> int:
    if number > 2 and multiprocessing.parent_process() is not None:
        time.sleep(600)
    return os.getpid()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_no_process_outlives_the_one_that_started_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", _ENDLESS], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert parent.stdout is not None
    with parent.stdout as output:
        output.readline()
        workers = {int(output.readline()), int(output.readline())}
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 60
    while any(_is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker process is still there"
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_script_is_not_run_again_by_the_processes_it_starts(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import math\n"
        "from prelabel.processes import Processes\n"
        "print('begins')\n"
        "with Processes(2, at_once=True) as processes:\n"
        "    print(sum(processes.map(math.floor, [1.5, 2.5, 3.5])))\n"
        "print(__file__.endswith('script.py'))\n"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert (result.stdout.splitlines(), result.stderr) == (["begins", "6", "True"], "")


@pytest.mark.parametrize("kind", ["import json.tool", "importlib.import_module('json.tool')"])
def test_a_hidden_module_cannot_be_imported_until_the_block_ends(kind: str) -> None:
    code = f"""
import importlib, importlib.util
from prelabel.processes import hidden
with hidden("json.tool"):
    try:
        {kind}
        print("imported")
    except ImportError as error:
        print(error.name)
    print(importlib.util.find_spec("json.tool").origin)
{kind}
print("imported afterwards")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["json.tool", "None", "imported afterwards"]


def test_a_module_that_is_imported_already_is_not_hidden() -> None:
    with hidden("itertools"):
        assert importlib.import_module("itertools") is itertools


def test_lists_are_converted_without_pandas() -> None:
    code = """
import sys, types
from prelabel.processes import without_pandas
without_pandas()
import pyarrow
array = pyarrow.array([1, 2])
table = pyarrow.table({"a": ["x"]})
print(array.to_pylist(), table.to_pylist(), "pandas" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[1, 2] [{'a': 'x'}] False"]
