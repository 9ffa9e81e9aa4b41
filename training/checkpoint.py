"""What training keeps on the disk: one `.npz` with everything needed to go on, replaced as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def save(path: Path, groups: dict[str, dict[str, np.ndarray]], step: int) -> None:
    """Write groups of named arrays (`weights`, `averages`, `smooth`, ...) and the step they belong to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {f"{group}:{name}": value for group, values in groups.items() for name, value in values.items()}
    temporary = path.with_name(f".{path.name}.tmp.npz")
    np.savez(temporary, step=np.array(step), **flat)
    temporary.replace(path)


def load(path: Path) -> tuple[dict[str, dict[str, np.ndarray]], int]:
    """The inverse of `save`."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as stored:
        for key in stored.files:
            if key != "step":
                group, name = key.split(":", 1)
                groups.setdefault(group, {})[name] = stored[key]
        return groups, int(stored["step"])


def averaged_weights(path: Path) -> dict[str, np.ndarray]:
    """The weights to ship: averaged over the last steps (`smooth`), normalisation averages included."""
    groups, _ = load(path)
    return groups["smooth"]
