"""Names that tools give to images, and what they may have been before: for finding the image of a run that is meant.

    run               elsewhere                            the same by
    photos/a.jpg      photos\\a.jpg, ./photos/a.jpg         path
    photos/a.jpg      https://host/set/photos/a.jpg        end of the path
    photos/a.jpg      0001/a.png                           stem: the name without folder and ending
    photos/a b.jpg    images/a%20b.jpg                     stem, read as an address
    my a (1).jpg      upload/4/cb0618f6-my_a_1.jpg         upload: Label Studio puts eight hexadecimal digits before a
                                                           name, and Django writes spaces as _ and drops other signs
    photos/a.jpg      images/9f86d081__cb0618f6-a.jpg      the same, downloaded by its export
A better way wins over a worse one, and where two images are equally good neither is taken.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar
from urllib.parse import unquote

from prelabel.export.image_ids import stem

T = TypeVar("T")

#: Ways in which a name can be another, the surest first.
ID, PATH, END, STEM, QUOTED, UPLOAD = "id", "path", "end of the path", "stem", "stem in an address", "name on upload"
_WAYS = (ID, PATH, END, STEM, QUOTED, UPLOAD)


def clean(path: str) -> str:
    """A path with slashes, and without `./` at its front."""
    return re.sub(r"^(\./)+", "", path.replace("\\", "/"))


def _before_upload(name: str) -> list[str]:
    """What the stem of a name may have been before Label Studio put digits before it; nothing for another name.

    It puts eight and a `-` before a name on upload, and its exports eight and `__` where they download the picture;
    then the name stands as in an address, too.
    """
    match = re.fullmatch(r"([0-9a-f]{8}__)?([0-9a-f]{8}-)?(.+)", stem(unquote(name)))
    if match is None or not (match[1] or match[2]):
        return []
    return list(
        dict.fromkeys(
            _on_upload(text) for text in (match[3], f"{match[2] or ''}{match[3]}" if match[1] else "") if text
        )
    )


def _on_upload(name: str) -> str:
    """What Django makes of the stem of a name (`get_valid_filename`)."""
    return re.sub(r"[^-\w.]", "", stem(name).strip().replace(" ", "_"))


class ImageNames:
    """The names of the images of one side; finds those that a name of the other side may mean."""

    def __init__(self, names: Iterable[tuple[str, str]], ways: Sequence[str] = _WAYS) -> None:
        """Takes the names of each image, in order.

        Args:
            names: Id and path; what is `""` is not looked for.
            ways: Those that are allowed.
        """
        self._ways = ways
        self._paths: list[str] = []
        self._tables: dict[str, dict[str, list[int]]] = {way: defaultdict(list) for way in _WAYS}
        for number, (id_, path) in enumerate(names):
            path = clean(path)
            self._paths.append(path)
            if id_:
                self._tables[ID][id_].append(number)
            if not path:
                continue
            self._tables[PATH][path].append(number)
            self._tables[STEM][stem(path)].append(number)
            if "%" in path:
                self._tables[QUOTED][stem(unquote(path))].append(number)
            for before in _before_upload(path):
                self._tables[UPLOAD][before].append(number)

    def find(self, *names: str) -> tuple[str, list[int]]:
        """The best way in which one of the names (an image's own) is there, and the positions of all that fit so."""
        cleaned = {name: clean(name) for name in names if name}
        for way in self._ways:
            for original, name in cleaned.items():
                found = self._fitting(way, name, original)
                if found:
                    return way, found
        return "", []

    def _fitting(self, way: str, name: str, original: str) -> list[int]:
        table = self._tables[way]
        if way == ID:
            return table.get(original, [])
        if way == PATH:
            return table.get(name, [])
        if way == END:
            return [n for n in self._tables[STEM].get(stem(name), []) if f"/{self._paths[n]}".endswith(f"/{name}")]
        if way in (STEM, QUOTED):
            return table.get(stem(name), [])
        return table.get(_on_upload(name), [])


class Claims(Generic[T]):
    """Which image of one side is which of the other, decided when all have been seen.

    Attributes:
        touched: Positions that some image may be.
    """

    def __init__(self) -> None:
        self.touched: set[int] = set()
        self._claims: dict[int, list[tuple[int, str, T]]] = defaultdict(list)
        self._several: list[str] = []

    def add(self, name: str, way: str, found: Sequence[int], value: T) -> None:
        """An image called `name` may be each of those found."""
        self.touched.update(found)
        if len(found) > 1:
            self._several.append(name)
        else:
            self._claims[found[0]].append((_WAYS.index(way), name, value))

    def decided(self) -> Iterator[tuple[int, str, T]]:
        """Position, way and value of those that are clear, by position."""
        for number in sorted(self._claims):
            rank, names, value = self._best(number)
            if len(names) == 1:
                yield number, _WAYS[rank], value

    def contested(self) -> Iterator[tuple[int, list[str]]]:
        """Positions that several images could be, equally well, with the names of these."""
        for number in sorted(self._claims):
            _, names, _ = self._best(number)
            if len(names) > 1:
                yield number, names

    @property
    def unclear(self) -> list[str]:
        """Names of images that could be several, or that several could be."""
        return [*self._several, *(name for _, names in self.contested() for name in names)]

    def _best(self, number: int) -> tuple[int, list[str], T]:
        best = min(rank for rank, _, _ in self._claims[number])
        first = [(name, value) for rank, name, value in self._claims[number] if rank == best]
        return best, [name for name, _ in first], first[0][1]
