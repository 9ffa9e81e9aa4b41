"""What training keeps on the disk: one `.npz` with everything needed to go on, replaced as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def save(path: Path, groups: dict[str, dict[str, Any]], step: int) -> None:
    """Write groups of named variables (`weights`, `averages`, `smooth`, ...) and the step they belong to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {f"{group}:{name}": value.numpy() for group, values in groups.items() for name, value in values.items()}
    temporary = path.with_name(f".{path.name}.tmp.npz")
    np.savez(temporary, step=np.array(step), **flat)
    temporary.replace(path)


def load(path: Path) -> tuple[dict[str, dict[str, np.ndarray]], int]:
    """What `save` wrote, as arrays."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as stored:
        for key in stored.files:
            if key != "step":
                group, name = key.split(":", 1)
                groups.setdefault(group, {})[name] = stored[key]
        return groups, int(stored["step"])


def restore(path: Path, groups: dict[str, dict[str, Any]]) -> int:
    """Set groups of variables to what `save` wrote; what it did not write stays as it is. Returns the step."""
    stored, step = load(path)
    for group, variables in groups.items():
        for name, variable in variables.items():
            if name in stored[group]:
                variable.assign(stored[group][name])
    return step


def averaged_weights(path: Path) -> dict[str, np.ndarray]:
    """The weights to ship: averaged over the last steps (`smooth`), normalisation averages included."""
    groups, _ = load(path)
    return groups["smooth"]
