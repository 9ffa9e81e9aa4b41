"""What the benchmarks share: taking turns, figures with targets, the JSON line that each script prints.

    ways = take_turns({"ours": ours, "theirs": theirs}, repeat=3)
    report("masks", [figure("polygons", rates, "masks/s", at_least=200)], setup={"image": [480, 640]})

`run.py` runs every script and shows their figures in one table.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

#: Real photos and detectors beside the checkout; scripts leave out what needs them where they are not.
ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"

#: Rounds that make a median worth naming.
LEAST_REPEAT = 3

# As in an installation: otherwise each process of a run compiles all modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_PACKAGES = ("prelabel", "numpy", "pillow", "pyarrow", "ray", "tensorflow")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    Attributes:
        name: What was measured, the same in every run.
        value: The median; None where it was not measured, then `note` says why.
        unit: Of value, target and spread; `"x"` for a ratio.
        target: What is to be reached, or None where the figure is there for comparison.
        met: Whether it is; None without target or value.
        spread: Least and greatest of the repeats.
        note: What a reader has to know.
    """

    name: str
    value: float | None
    unit: str
    target: float | None = None
    met: bool | None = None
    spread: tuple[float, float] | None = None
    note: str = ""


def figure(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> Figure:
    """The median of repeated measurements, compared with a target (`at_least` or `at_most`), if there are any."""
    target = at_least if at_least is not None else at_most
    if not values:
        return Figure(name, None, unit, target, None, None, note or "not measured")
    value = statistics.median(values)
    met = None if target is None else value >= target if at_least is not None else value <= target
    return Figure(name, _short(value), unit, target, met, (_short(min(values)), _short(max(values))), note)


def ratio(
    name: str,
    above: Sequence[float],
    below: Sequence[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> Figure:
    """The ratio of `above` to `below`: the median over the rounds, which a busy moment affects least."""
    return figure(
        name,
        [a / b for a, b in zip(above, below, strict=True)],
        "x",
        at_least=at_least,
        at_most=at_most,
        note=note,
    )


def take_turns(
    ways: Mapping[str, Callable[[], T]],
    repeat: int,
    *,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[tuple[float, T]]]:
    """Run each method once per round, in reverse order in every second round.

    Args:
        ways: The methods by name.
        repeat: Number of rounds that count; at least 3 are run.
        warm_up: Whether to run another round first that does not count.
        clock: Returns seconds. `time.process_time` leaves out other work of the machine.

    Returns:
        For each method, the seconds and the result of each round that counts.
    """
    took: dict[str, list[tuple[float, T]]] = {name: [] for name in ways}
    for turn in range(0 if warm_up else 1, max(repeat, LEAST_REPEAT) + 1):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            begin = clock()
            result = ways[name]()
            if turn:
                took[name].append((clock() - begin, result))
    return took


def seconds_of(took: Mapping[str, Sequence[tuple[float, Any]]]) -> dict[str, list[float]]:
    """Only the seconds from the result of `take_turns`."""
    return {name: [seconds for seconds, _ in rounds] for name, rounds in took.items()}


def report(benchmark: str, figures: Sequence[Figure], *, setup: Mapping[str, Any], detail: Any = None) -> None:
    """Print a script's result as one line of JSON.

    Args:
        benchmark: Name of the script.
        figures: What `run.py` puts into its table.
        setup: What was measured on: counts, image sizes, repeats. Machine and versions are added.
        detail: Whatever else a reader may want, as plain JSON.
    """
    line = {
        "benchmark": benchmark,
        "figures": [asdict(figure) for figure in figures],
        "setup": {**setup, "machine": machine(), "versions": versions()},
    }
    print(json.dumps(line if detail is None else {**line, "detail": detail}), flush=True)


def machine() -> dict[str, Any]:
    """The processor, the cores that this process may use, the memory, and the machine's load."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(memory, 1),
        "system": platform.platform(terse=True),
        "load": round(os.getloadavg()[0], 2),
    }


def memory_mb(pid: int) -> tuple[float, float]:
    """Current and peak memory of a process in MB; zeros if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    # Each in kB: `VmRSS:    12345 kB`.
    sizes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if "Vm" in name}
    return round(sizes.get("VmRSS", 0) * 1024 / 1e6, 1), round(sizes.get("VmHWM", 0) * 1024 / 1e6, 1)


def descendants(pid: int) -> list[int]:
    """All descendants of a process."""
    processes = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            processes += [child, *descendants(child)]
    return processes


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(*further: str) -> dict[str, str]:
    """Versions of Python, of the packages that every benchmark uses, and of further packages."""
    versions = {"python": platform.python_version()}
    for name in (*_PACKAGES, *further):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _short(value: float) -> float:
    """Round to four significant digits; more is noise."""
    return float(f"{value:.4g}")
