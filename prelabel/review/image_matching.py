"""Matches images of a run with images of a truth or of annotations, by path, or by name where paths differ.

    run               truth or annotations                 match
    photos/a.jpg      photos\\a.jpg, ./photos/a.jpg         path
    photos/a.jpg      https://host/set/photos/a.jpg        end of the path
    photos/a.jpg      0001/a.png                           stem: the name without folder and extension
    photos/a b.jpg    images/a%20b.jpg                     stem, percent-decoded
    my a (1).jpg      upload/4/cb0618f6-my_a_1.jpg         upload: Label Studio prefixes eight hexadecimal digits;
                                                           Django writes spaces as _ and drops other characters
    photos/a.jpg      images/9f86d081__cb0618f6-a.jpg      upload, with the prefix of an export that has images
    9.jpg             a/9.jpg and b/9.jpg                  none: ambiguous

An image of the run is looked up by its `file_name`, or else its `image_id`. The kind of match that comes first in this
table wins. Equally good matches are ambiguous: their images are skipped and reported. `ImageNames` finds matches,
`find_matching_images` those of all images of a run, and `Claims` decides between them when all are known.
`ImageCounts` has the counts for `evaluate`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import unquote

from prelabel.errors import EvaluateError
from prelabel.export.base import Rows
from prelabel.export.image_ids import stem
from prelabel.export.parallel import UNUSED, map_parts
from prelabel.review.truth import Truth
from prelabel.store.detection_batch import DetectionBatch
from prelabel.store.rows import ImageFacts

A = TypeVar("A")
T = TypeVar("T")

#: Large columns that do not tell which image a row is of.
_NOT_FACTS = ("masks", "keypoints", "image_labels", "error", "error_stage")

#: Ways to match names, the most reliable first.
ID, PATH, END, STEM, QUOTED, UPLOAD = "id", "path", "end of the path", "stem", "percent-decoded stem", "name on upload"
_WAYS = (ID, PATH, END, STEM, QUOTED, UPLOAD)

#: Ways that ignore folders.
BY_NAME = (STEM, QUOTED, UPLOAD)

#: The ways that each value of the option `match` of `evaluate` allows.
_WAYS_BY_OPTION = {"path": (PATH,), "stem": BY_NAME, "auto": (PATH, END, *BY_NAME)}

#: How many names of each side a message contains.
MAX_NAMES = 3


def clean(path: str) -> str:
    """The path with forward slashes and without a leading `./`."""
    path = path.replace("\\", "/")
    while path.startswith("./"):
        path = path[2:]
    return path


def _stems_before_upload(name: str) -> list[str]:
    """The stems that a file name may have had before Label Studio prefixed digits to it; none for other names.

    On upload, Label Studio prefixes eight digits and `-`. When its exports include the images, they prefix eight digits
    and `__` and percent-encode the name.
    """
    match = re.fullmatch(r"([0-9a-f]{8}__)?([0-9a-f]{8}-)?(.+)", stem(unquote(name)))
    if match is None or not (match[1] or match[2]):
        return []
    # What looks like the prefix of an upload may belong to the name if the export's prefix precedes it.
    names = [match[3], f"{match[2] or ''}{match[3]}"] if match[1] else [match[3]]
    return list(dict.fromkeys(map(_stored_stem, names)))


def _stored_stem(name: str) -> str:
    """The stem of a file name after Django has stored the file under a valid name (`get_valid_filename`)."""
    return re.sub(r"[^-\w.]", "", stem(name).strip().replace(" ", "_"))


class ImageNames:
    """The image names of one side, in which names of the other side are looked up."""

    def __init__(self, names: Iterable[tuple[str, str]], ways: Sequence[str] = _WAYS) -> None:
        """Index the names.

        Args:
            names: Id and path of each image, in order; `""` for none.
            ways: The ways to match that are allowed.
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
            for original_stem in _stems_before_upload(path):
                self._tables[UPLOAD][original_stem].append(number)

    def find(self, *names: str) -> tuple[str, list[int]]:
        """Look up an image of the other side by its names.

        Returns:
            The most reliable way in which one of the names matches, and the positions of all images that match in this
            way; `""` and no positions if no image matches.
        """
        cleaned = {name: clean(name) for name in names if name}
        for way in self._ways:
            for original, name in cleaned.items():
                positions = self._positions(way, name, original)
                if positions:
                    return way, positions
        return "", []

    def find_one(self, *names: str) -> int | None:
        """The position of the only image that matches; None if none or several match."""
        _, positions = self.find(*names)
        return positions[0] if len(positions) == 1 else None

    def _positions(self, way: str, name: str, original: str) -> list[int]:
        table = self._tables[way]
        if way == ID:
            return table.get(original, [])
        if way == PATH:
            return table.get(name, [])
        if way == END:
            return [n for n in self._tables[STEM].get(stem(name), []) if f"/{self._paths[n]}".endswith(f"/{name}")]
        if way in (STEM, QUOTED):
            return table.get(stem(name), [])
        return table.get(_stored_stem(name), [])


class Claims(Generic[T]):
    """Collects the matches of all images of the run, and then decides which of them count.

    Attributes:
        positions: Positions of all images of the other side that an image of the run matches.
        unknown: Number of images of the run without a match.
        unknown_names: The first few names of images without a match.
        count: Number of images of the run with a match.
    """

    def __init__(self) -> None:
        self.positions: set[int] = set()
        self.unknown = 0
        self.unknown_names: list[str] = []
        self.count = 0
        self._claims: dict[int, list[tuple[int, str, T]]] = defaultdict(list)
        self._with_several_matches: list[str] = []

    def add_unknown(self, name: str) -> None:
        """Add an image of the run without a match."""
        self.unknown += 1
        if len(self.unknown_names) < MAX_NAMES:
            self.unknown_names.append(name)

    def add(self, name: str, way: str, positions: Sequence[int], value: T) -> None:
        """Add an image of the run that may be any of the images at these positions.

        Args:
            name: The image's name, for messages.
            way: The way in which it matches.
            positions: Positions of the images that it matches, at least one.
            value: The value that `decided` returns for the image.
        """
        self.count += 1
        self.positions.update(positions)
        if len(positions) > 1:
            self._with_several_matches.append(name)
        else:
            self._claims[positions[0]].append((_WAYS.index(way), name, value))

    def decided(self) -> Iterator[tuple[int, str, T]]:
        """Position, way and value of the unambiguous matches, by position."""
        return ((position, way, value) for position, way, names, value in self._best() if len(names) == 1)

    def contested(self) -> Iterator[tuple[int, list[str]]]:
        """Positions that several images of the run match equally well, with the names of these images."""
        return ((position, names) for position, _, names, _ in self._best() if len(names) > 1)

    @property
    def unclear(self) -> list[str]:
        """Names of images of the run whose match is ambiguous."""
        return [*self._with_several_matches, *(name for _, names in self.contested() for name in names)]

    def _best(self) -> Iterator[tuple[int, str, list[str], T]]:
        """For each position: the most reliable way, the names that match in this way, and the value of the first."""
        for position in sorted(self._claims):
            best_rank = min(rank for rank, _, _ in self._claims[position])
            best = [(name, value) for rank, name, value in self._claims[position] if rank == best_rank]
            yield position, _WAYS[best_rank], [name for name, _ in best], best[0][1]


class MatchingImage(NamedTuple):
    """An image of the run that matches an image of the other side, or several.

    Attributes:
        part: The position of its part among `Rows.by_shard`.
        number: Its position in this part.
        facts: The image.
        way: The way in which it matches.
        positions: The positions of the images that it matches.
    """

    part: int
    number: int
    facts: ImageFacts
    way: str
    positions: Sequence[int]


def find_matching_images(
    rows: Rows, names: ImageNames, claims: Claims[T], names_of: Callable[[ImageFacts], Sequence[str]]
) -> list[MatchingImage]:
    """The images of a run that match, in the order of the run. Only their facts stay in memory.

    Args:
        rows: The rows of the run, which are read by several processes with `SpreadRows`.
        names: Finds the images of the other side.
        claims: Counts the images without a match.
        names_of: The names by which an image is looked up.
    """
    matching_images: list[MatchingImage] = []
    for part, images in enumerate(map_parts(rows.without(*_NOT_FACTS, *UNUSED), _facts)):
        for number, facts in enumerate(images):
            way, positions = names.find(*names_of(facts))
            if positions:
                matching_images.append(MatchingImage(part, number, facts, way, positions))
            else:
                claims.add_unknown(facts.file_name)
    return matching_images


def _facts(batches: Iterable[DetectionBatch]) -> list[ImageFacts]:
    return [facts for batch in batches for facts in batch.images]


def by_part(rows: Rows, values: Iterable[tuple[MatchingImage, A]]) -> list[dict[int, A]]:
    """The values of images, for each part of the rows by the positions of the images in it."""
    of_parts: list[dict[int, A]] = [{} for _ in rows.by_shard()]
    for image, value in values:
        of_parts[image.part][image.number] = value
    return of_parts


def names_of_truth(truth: Truth, match: str) -> ImageNames:
    """The image names of a truth, to be matched by the option `match`.

    Raises:
        EvaluateError: The truth lists a path twice.
    """
    paths: set[str] = set()
    for image in truth.images:
        path = clean(image.file_name)
        if path in paths and match != "stem":
            raise EvaluateError(f"{truth.display_url} lists the image {image.file_name!r} twice")
        paths.add(path)
    return ImageNames((("", image.file_name) for image in truth.images), _WAYS_BY_OPTION[match])


@dataclass(frozen=True, slots=True)
class ReviewedImage:
    """An image as reports refer to it.

    Attributes:
        name: File name.
        uri: The image's URI in the run.
        image_id: The image's id in the run.
        height: Height in pixels as browsers show the image; 0 if the boxes do not fit on the image in a browser.
        width: Width in pixels, as for the height.
    """

    name: str
    uri: str
    image_id: str = ""
    height: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True)
class ReviewedBox:
    """A box that a report draws on an image: a mistake of the detector, or an edit of an annotator.

    Attributes:
        image: Position of the image.
        xywh: The box in pixels.
        before: The box as predicted, if an annotator moved it; else None.
    """

    image: int
    xywh: tuple[float, float, float, float]
    before: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCounts:
    """How many images of both sides were matched, and how many were not.

    Attributes:
        matched: Matched images, for which all metrics are computed.
        failed: Matched images that failed in the run; they count as images without detections.
        by_stem: Matched images whose names match only without folder and extension, or as renamed on upload.
        only_run: Images that only the run has.
        only_truth: Images that only the truth has.
        other_size: Images skipped because the truth gives another size.
        unclear: Images of the run skipped because their match is ambiguous.
        swapped: Images whose size in the truth is that of the file before EXIF rotation.
        other_size_example: Name and both sizes of the first image skipped because of its size, or `""`.
        unclear_example: Name of the first image skipped because its match is ambiguous, or `""`.
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


def no_image_message(truth: Truth, match: str, claims: Claims[T], other_sizes: Sequence[str]) -> str:
    """A message that says why no image of the run is in the truth.

    Args:
        truth: The truth.
        match: The option `match`.
        claims: The matches.
        other_sizes: Images with another size in the truth, in words.
    """
    if other_sizes:
        return (
            f"all {len(other_sizes)} images have another size in {truth.display_url}, e.g. {other_sizes[0]}; sizes in "
            "the truth must be those of the displayed images, after EXIF rotation"
        )
    for position, names in claims.contested():
        hint = "; use --match path" if match != "path" else ""
        return (
            f"{' and '.join(map(repr, names[:MAX_NAMES]))} of the run match the same image "
            f"{truth.images[position].file_name!r} of the truth{hint}"
        )
    if claims.unclear:
        return f"{claims.unclear[0]!r} of the run matches several images of {truth.display_url}"
    in_run = ", ".join(map(repr, claims.unknown_names)) or "no images"
    in_truth = ", ".join(repr(image.file_name) for image in truth.images[:MAX_NAMES])
    hint = "" if match != "path" else "; use --match auto to compare names without folder and extension"
    return f"no image of the run is in {truth.display_url}: the run has {in_run}, ..., the truth {in_truth}, ...{hint}"
