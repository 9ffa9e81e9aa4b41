"""Glob patterns over paths: `*`, `?` and `[..]` within one part of a path, `**` for any number of folders.

Matched part by part as folders are entered, so that a walk leaves out whole folders that no match can lie in.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

from prelabel.storage import is_http, is_local

_WILD = re.compile(r"[*?\[]")
# On the web a question mark starts the query.
_WILD_ON_THE_WEB = re.compile(r"[*\[]")


class Pattern:
    """One glob below a root.

    `Pattern(["a*", "**", "*.jpg"])` matches `ab/x.jpg` and `a/b/c/x.jpg`, not `x.jpg`. A part of a path that starts
    with a dot is matched only by a part of the pattern that does, as in a shell.
    """

    def __init__(self, parts: list[str]) -> None:
        self._parts = parts
        self._match = [re.compile(fnmatch.translate(part)).match for part in parts]
        # The folder asked about last: its files come one after the other.
        self._folder = ""
        self._states = self._first = self._skip({0})
        literal = _WILD.split(parts[0], maxsplit=1)[0]
        #: What every matching path starts with.
        self.start = literal if parts[0] != "**" else ""

    def _skip(self, states: set[int]) -> frozenset[int]:
        # `**` may stand for no folder at all.
        for state in range(len(self._parts)):
            if state in states and self._parts[state] == "**":
                states.add(state + 1)
        return frozenset(states)

    def _step(self, states: frozenset[int], name: str) -> frozenset[int]:
        hidden = name.startswith(".")
        after: set[int] = set()
        for state in states:
            if state == len(self._parts):
                continue
            part = self._parts[state]
            if hidden and not part.startswith("."):
                continue
            if part == "**":
                after.add(state)
            elif self._match[state](name):
                after.add(state + 1)
        return self._skip(after)

    def _within(self, folder: str) -> frozenset[int]:
        if folder != self._folder:
            states = self._first
            for name in folder.split("/") if folder else ():
                states = self._step(states, name)
            self._folder, self._states = folder, states
        return self._states

    def enters(self, folder: str) -> bool:
        """Whether a path below this folder can match."""
        return any(state < len(self._parts) for state in self._within(folder))

    def matches(self, path: str) -> bool:
        """Whether the path of a file matches."""
        folder, _, name = path.rpartition("/")
        return len(self._parts) in self._step(self._within(folder), name)


#: Every file in every folder that is not hidden.
ANYTHING = Pattern(["**"])


def split_glob(url: str, is_folder: Callable[[str], bool]) -> tuple[str, Pattern | None]:
    """A glob as its root and the pattern below it; the pattern is None where the address holds no wildcard.

    A part of the address that really exists as a folder is taken as it stands, so that `photos [2020]/*.jpg` works.
    """
    wild = _WILD_ON_THE_WEB if is_http(url) else _WILD
    start = 0 if is_local(url) else url.find("://") + 3
    head, parts = url[:start], url[start:].split("/")
    for index, part in enumerate(parts):
        if not wild.search(part):
            continue
        before = head + "/".join(parts[:index])
        literal = f"{head}{'/'.join(parts[: index + 1])}"
        if index + 1 < len(parts) and index and is_folder(literal):
            continue
        return before or "/", Pattern(parts[index:])
    return url, None
