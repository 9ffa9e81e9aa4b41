"""Which image of a run is which image of the truth: by path, or by stem where the paths differ.

    run                truth                   matched
    val/7.jpg          val/7.jpg               by path
    8.jpg              val2017/8.png           by stem: no other image of the truth is called 8
    9.jpg              a/9.jpg and b/9.jpg     not: it could be either

The path of an image of the run is its `file_name`, or else its `image_id`. What matches by path is not looked for by
stem. Images whose size differs from the truth's are not the same pictures (or not in the same frame) and left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from prelabel.errors import EvaluateError
from prelabel.evaluate.truth import Truth
from prelabel.export.image_ids import stem
from prelabel.store.rows import ImageRow

T = TypeVar("T")

#: How many names a message shows of each side.
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCounts:
    """How the images of both sides came together.

    Attributes:
        matched: Images the figures are made of.
        failed: Of these, images of the run that failed: nothing was found on them.
        by_stem: Of these, how many matched by stem only.
        only_run: Images of the run that the truth does not have.
        only_truth: Images of the truth that the run does not have.
        other_size: Images left out because their size is another one in the truth.
        other_size_example: The first of these, or `""`.
    """

    matched: int
    failed: int
    by_stem: int
    only_run: int
    only_truth: int
    other_size: int
    other_size_example: str = ""


@dataclass(slots=True)
class _Claim(Generic[T]):
    name: str
    value: T
    failed: bool
    by_stem: bool


@dataclass(slots=True)
class Pairing(Generic[T]):
    """Takes the images of a run one by one, keeps something of those that may be in the truth, and decides at the end.

    Attributes:
        truth: The other side.
        how: `auto`, `path` or `stem`.
    """

    truth: Truth
    how: str
    _by_path: dict[str, int] = field(init=False)
    _by_stem: dict[str, int | None] = field(init=False)
    _claims: dict[int, _Claim[T]] = field(init=False, default_factory=dict)
    _tally: Counter[str] = field(init=False, default_factory=Counter)
    _other_size: str = field(init=False, default="")
    _names: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._by_path, self._by_stem = {}, {}
        for number, image in enumerate(self.truth.images):
            path, name = _clean(image.file_name), stem(image.file_name)
            if path in self._by_path and self.how != "stem":
                raise EvaluateError(f"{self.truth.shown} has the image {image.file_name!r} twice")
            self._by_path[path] = number
            self._by_stem[name] = None if name in self._by_stem else number

    def candidate(self, row: ImageRow) -> int | None:
        """The position in the truth of the image a row may be, or None where it is surely not in it."""
        found, _ = self._find(row)
        if found is None:
            self._tally["only_run"] += 1
            if len(self._names) < _SHOWN:
                self._names.append(row.file_name)
        return found

    def add(self, row: ImageRow, value: T) -> None:
        """Keep what is needed of a row that has a candidate.

        Raises:
            EvaluateError: Another row of the run is the same image.
        """
        number, by_stem = self._find(row)
        if number is None:
            raise ValueError(f"{row.file_name!r} has no candidate in the truth")
        image = self.truth.images[number]
        if None not in (image.height, image.width, row.height, row.width) and (image.height, image.width) != (
            row.height,
            row.width,
        ):
            self._tally["other_size"] += 1
            self._other_size = self._other_size or (
                f"{row.file_name!r} ({row.width} x {row.height}, in the truth {image.width} x {image.height})"
            )
            return
        earlier = self._claims.get(number)
        if earlier is not None and earlier.by_stem == by_stem:
            raise EvaluateError(
                f"{earlier.name!r} and {row.file_name!r} of the run are both {image.file_name!r} of the truth"
                + ("; say match path" if by_stem else "")
            )
        if earlier is not None:
            self._tally["only_run"] += 1
            if by_stem:
                return
        self._claims[number] = _Claim(row.file_name, value, row.error_type is not None, by_stem)

    def pairs(self) -> Iterator[tuple[int, T]]:
        """Positions in the truth with what was kept, in the order of the truth.

        Raises:
            EvaluateError: Nothing matched; with the names seen on both sides.
        """
        if not self._claims:
            raise EvaluateError(self._why_none())
        for number in sorted(self._claims):
            yield number, self._claims[number].value

    def counts(self) -> ImageCounts:
        """What became of the images."""
        return ImageCounts(
            matched=len(self._claims),
            failed=sum(one.failed for one in self._claims.values()),
            by_stem=sum(one.by_stem for one in self._claims.values()),
            only_run=self._tally["only_run"],
            only_truth=len(self.truth.images) - len(self._claims) - self._tally["other_size"],
            other_size=self._tally["other_size"],
            other_size_example=self._other_size,
        )

    def _find(self, row: ImageRow) -> tuple[int | None, bool]:
        names = dict.fromkeys((row.file_name, row.image_id))
        if self.how != "stem":
            for name in names:
                number = self._by_path.get(_clean(name))
                if number is not None:
                    return number, False
        if self.how != "path":
            for name in names:
                number = self._by_stem.get(stem(name))
                if number is not None:
                    return number, True
        return None, False

    def _why_none(self) -> str:
        theirs = ", ".join(repr(image.file_name) for image in self.truth.images[:_SHOWN])
        if self._tally["other_size"]:
            return (
                f"all {self._tally['other_size']} images have another size in {self.truth.shown}, e.g. "
                f"{self._other_size}; the truth must be of the pictures as displayed, after their EXIF turn"
            )
        ours = ", ".join(map(repr, self._names))
        hint = "" if self.how != "path" else "; say match auto to compare names without folder and ending"
        return (
            f"no image of the run is in {self.truth.shown}: the run has {ours or 'no images'}, ..., "
            f"the truth {theirs}, ...{hint}"
        )


def _clean(path: str) -> str:
    return re.sub(r"^(\./)+", "", path.replace("\\", "/"))
