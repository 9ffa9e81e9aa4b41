"""What a selection asks for and the run cannot give: class names that fit nothing, scores below those it kept.

A class name that fits nothing is a slip of the pen: refused where the classes are known, else said.
"""

from __future__ import annotations

import copy

from prelabel.detections import Detections
from prelabel.export.kept import beyond_kept
from prelabel.export.reading import RunInfo
from prelabel.select import Selection


class KnownNames:
    """Checks the names that a selection uses: against the class list, or against the classes that turn up."""

    def __init__(self, info: RunInfo, selection: Selection) -> None:
        """Raises ConfigError, with the nearest known name, for a name that the class list does not have."""
        self._selection = selection
        self._beyond = beyond_kept(selection, info.kept, info.classes)
        self._seen: set[tuple[str, str]] | None = None
        if info.classes is not None:
            selection.require_known_names((one.name for one in info.classes), (one.mid for one in info.classes))
        elif selection.unknown_names(()):
            self._seen = set()

    def see(self, found: Detections) -> None:
        """Take note of the classes of all detections of an image."""
        if self._seen is not None:
            self._seen.update(zip(found.label, found.mid, strict=True))

    def fresh(self) -> KnownNames:
        """Takes note of the classes of some images, to be told by `add`."""
        other = copy.copy(self)
        other._seen = None if self._seen is None else set()
        return other

    def add(self, other: KnownNames) -> None:
        """Take note of what another one has seen."""
        if self._seen is not None:
            self._seen |= other._seen or set()

    @property
    def warnings(self) -> list[str]:
        """What was asked for and is not in the run, one line each; names once all detections were seen."""
        if self._seen is None:
            return self._beyond
        labels, mids = {label for label, _ in self._seen}, {mid for _, mid in self._seen}
        unknown = self._selection.unknown_names_hinted(labels, mids)
        return [*self._beyond, *([f"no detection of the run is of class {', '.join(unknown)}"] if unknown else [])]
