"""Which image of a run is which image of the truth: by path, or by name where the paths differ.

    run                truth                            matched
    val/7.jpg          val/7.jpg                        by path
    val/7.jpg          data/val/7.jpg                   by the end of the path
    8.jpg              val2017/8.png                    by stem: no other image of the truth is called 8
    9.jpg              a/9.jpg and b/9.jpg              not: it could be either
    a 1.jpg            upload/4/cb0618f6-a_1.jpg        by the name that Label Studio made of it on upload

The path of an image of the run is its `file_name`, or else its `image_id`. A surer way goes before another, see
`image_names`; what is not clear is left out and said. Images whose size is another one in the truth, in any frame (see
`truth_frame`), are not the same pictures and left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from prelabel.errors import EvaluateError
from prelabel.evaluate.image_names import END, PATH, QUOTED, STEM, UPLOAD, Claims, ImageNames, clean
from prelabel.evaluate.truth import Truth, TruthImage
from prelabel.store.rows import ImageRow

T = TypeVar("T")

#: How many names a message shows of each side.
_SHOWN = 3

#: The ways in which names may match, by the option `match`.
_WAYS = {"path": (PATH,), "stem": (STEM, QUOTED, UPLOAD), "auto": (PATH, END, STEM, QUOTED, UPLOAD)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCounts:
    """How the images of both sides came together.

    Attributes:
        matched: Images the figures are made of.
        failed: Of these, images of the run that failed: nothing was found on them.
        by_stem: Of these, how many matched by their name only, without folder and ending or as made on upload.
        only_run: Images of the run that the truth does not have.
        only_truth: Images of the truth that the run does not have.
        other_size: Images left out because their size is another one in the truth.
        unclear: Images of the run left out because they could be several of the truth, or several could be theirs.
        swapped: Images of which the truth states the size of the unturned file.
        other_size_example: The first of another size, or `""`.
        unclear_example: The first that is not clear, or `""`.
    """

    matched: int
    failed: int
    by_stem: int
    only_run: int
    only_truth: int
    other_size: int
    unclear: int = 0
    swapped: int = 0
    other_size_example: str = ""
    unclear_example: str = ""


@dataclass(frozen=True, slots=True)
class _Claim(Generic[T]):
    value: T
    failed: bool
    swapped: bool


@dataclass(slots=True)
class Pairing(Generic[T]):
    """Takes the images of a run one by one, keeps something of those that may be in the truth, and decides at the end.

    Attributes:
        truth: The other side.
        how: `auto`, `path` or `stem`.
    """

    truth: Truth
    how: str
    _names: ImageNames = field(init=False)
    _claims: Claims[_Claim[T]] = field(init=False, default_factory=Claims)
    _tally: Counter[str] = field(init=False, default_factory=Counter)
    _other_size: str = field(init=False, default="")
    _some: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        paths: set[str] = set()
        for image in self.truth.images:
            if clean(image.file_name) in paths and self.how != "stem":
                raise EvaluateError(f"{self.truth.shown} has the image {image.file_name!r} twice")
            paths.add(clean(image.file_name))
        self._names = ImageNames((("", image.file_name) for image in self.truth.images), _WAYS[self.how])

    def may_be(self, row: ImageRow) -> bool:
        """Whether a row may be an image of the truth; others are counted."""
        _, found = self._names.find(row.file_name, row.image_id)
        if not found:
            self._tally["only_run"] += 1
            if len(self._some) < _SHOWN:
                self._some.append(row.file_name)
        return bool(found)

    def place(self, row: ImageRow) -> TruthImage | None:
        """The image of the truth that a row is as far as names tell, if they name only one; not counted."""
        _, found = self._names.find(row.file_name, row.image_id)
        return self.truth.images[found[0]] if len(found) == 1 else None

    def add(self, row: ImageRow, value: T | None, *, swapped: bool) -> None:
        """Keep what is needed of a row that may be an image of the truth.

        Args:
            row: Upright, as shards hold it.
            value: What is needed; None where the image has another size in the truth.
            swapped: Whether the truth states the size of the unturned file.
        """
        way, found = self._names.find(row.file_name, row.image_id)
        if value is None:
            image = self.truth.images[found[0]]
            self._tally["other_size"] += 1
            self._claims.touched.update(found)
            self._other_size = self._other_size or (
                f"{row.file_name!r} ({row.width} x {row.height}, in the truth {image.width} x {image.height})"
            )
            return
        self._tally["claims"] += 1
        self._claims.add(row.file_name, way, found, _Claim(value, row.error_type is not None, swapped))

    def pairs(self) -> Iterator[tuple[int, T]]:
        """Positions in the truth with what was kept, in the order of the truth.

        Raises:
            EvaluateError: Nothing matched; with the names seen on both sides.
        """
        nothing = True
        for number, _, claim in self._claims.decided():
            nothing = False
            yield number, claim.value
        if nothing:
            raise EvaluateError(self._why_none())

    def counts(self) -> ImageCounts:
        """What became of the images."""
        decided = list(self._claims.decided())
        unclear = self._claims.unclear
        return ImageCounts(
            matched=len(decided),
            failed=sum(claim.failed for _, _, claim in decided),
            by_stem=sum(way in (STEM, QUOTED, UPLOAD) for _, way, _ in decided),
            only_run=self._tally["only_run"] + self._tally["claims"] - len(decided) - len(unclear),
            only_truth=len(self.truth.images) - len(self._claims.touched),
            other_size=self._tally["other_size"],
            unclear=len(unclear),
            swapped=sum(claim.swapped for _, _, claim in decided),
            other_size_example=self._other_size,
            unclear_example=unclear[0] if unclear else "",
        )

    def _why_none(self) -> str:
        theirs = ", ".join(repr(image.file_name) for image in self.truth.images[:_SHOWN])
        if self._tally["other_size"]:
            return (
                f"all {self._tally['other_size']} images have another size in {self.truth.shown}, e.g. "
                f"{self._other_size}; the truth must be of the pictures as displayed, after their EXIF turn"
            )
        for number, names in self._claims.contested():
            hint = "; say match path" if self.how != "path" else ""
            return (
                f"{' and '.join(map(repr, names[:_SHOWN]))} of the run are both "
                f"{self.truth.images[number].file_name!r} of the truth{hint}"
            )
        if self._claims.unclear:
            return f"{self._claims.unclear[0]!r} of the run could be several images of {self.truth.shown}"
        ours = ", ".join(map(repr, self._some))
        hint = "" if self.how != "path" else "; say match auto to compare names without folder and ending"
        return (
            f"no image of the run is in {self.truth.shown}: the run has {ours or 'no images'}, ..., "
            f"the truth {theirs}, ...{hint}"
        )
