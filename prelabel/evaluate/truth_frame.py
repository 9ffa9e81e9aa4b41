"""In which frame the boxes of a truth lie, told from its sizes: two frames must never be compared as if they were one.

An image of 400 x 300 pixels (width x height) upright, which the file holds as 300 x 400 that orientation 6 turns:

    the truth says      its boxes lie
    400 x 300           on the upright picture
    300 x 400           on the pixels as stored; but where Label Studio wrote it, or boxes reach beyond 300 x 400,
                        on the picture as browsers show it, with the size of the file; Label Studio's polygons are
                        shares of that picture times the size of the file
    another size        on another picture: left out
    no size             where those of the other images of the truth lie; so, too, where sizes tell nothing, as
                        orientations 2 to 4 leave them as they are
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from prelabel.evaluate.options import AUTO
from prelabel.evaluate.truth import Truth, TruthImage, TruthObject
from prelabel.frames import BROWSER, DISPLAY, FRAMES, STORED, turned_size
from prelabel.store.rows import ImageRow

_PICTURES = {DISPLAY: "the upright picture", STORED: "the pixels as stored", BROWSER: "what browsers show"}

#: Boxes are rounded, and may reach a little beyond their image.
_BEYOND = 2.0


@dataclass(frozen=True, slots=True)
class Fit:
    """How an image of the truth is to be read.

    Attributes:
        frame: In which its boxes lie.
        swapped: Whether its size is that of the unturned file beside boxes on the turned picture.
        stretched: Whether its outlines, with the boxes around them, are shares of the turned picture times the size of
            the unturned file: so Label Studio writes polygons, while its rectangles lie on the turned picture.
    """

    frame: str
    swapped: bool = False
    stretched: bool = False

    def objects(self, image: TruthImage) -> tuple[TruthObject, ...]:
        """What is on an image that this is the fit of, in pixels of the picture in `frame`."""
        if not self.stretched or not image.height or not image.width:
            return image.objects
        x, y = image.height / image.width, image.width / image.height
        return tuple(_stretched(one, x, y) if isinstance(one.segmentation, list) else one for one in image.objects)


@dataclass(slots=True)
class TruthFrames:
    """Sees all images of both sides first, then says of each in which frame its truth is.

    Attributes:
        truth: The truth.
        stated: What the user says: a frame, or `auto`.
        option: By which option.
    """

    truth: Truth
    stated: str
    option: str
    _votes: Counter[str] = field(default_factory=Counter)
    _sizes_of_files: bool = False
    _turned: Counter[str] = field(default_factory=Counter)
    _untold: int = 0
    _stretched: int = 0

    def see(self, image: TruthImage | None, row: ImageRow) -> None:
        """A row of the run, and the image of the truth that it is, if any."""
        size, upright = _size(image), _size(row)
        if image is None or size is None or upright is None or row.way_to(STORED) == row.way_to(BROWSER) == 1:
            return
        fitting = [frame for frame in FRAMES if size == _in(row, frame, upright)]
        if DISPLAY in fitting:
            self._votes[DISPLAY] += len(fitting) < len(FRAMES)
        elif STORED in fitting:
            self._votes[STORED] += 1
            self._sizes_of_files |= _reaches_beyond(image, size)
        elif fitting:
            self._votes[BROWSER] += 1

    @property
    def frame(self) -> str:
        """Of the images whose sizes do not tell."""
        if self.stated != AUTO:
            return self.stated
        if self.truth.label_studio or self._sizes_of_files:
            return BROWSER
        return max(FRAMES, key=lambda frame: self._votes[frame])

    def of(self, image: TruthImage | None, row: ImageRow) -> Fit | None:
        """How an image of the truth is to be read; None where its size is that of another picture."""
        size, upright, frame = _size(image), _size(row), self.frame
        if image is None or upright is None:
            return Fit(frame)
        if size is None or size == _in(row, frame, upright):
            fit: Fit | None = Fit(frame)
        elif self.stated != AUTO or self.truth.label_studio or self._sizes_of_files:
            turned = size == _in(row, STORED, upright)
            fit = Fit(frame, swapped=True, stretched=self.truth.label_studio) if turned else None
        else:
            fit = next((Fit(other) for other in FRAMES if size == _in(row, other, upright)), None)
        if fit is not None:
            self._turned[fit.frame] += row.way_to(fit.frame) != 1
            self._stretched += fit.stretched and any(isinstance(one.segmentation, list) for one in image.objects)
            told = self.stated != AUTO or self.truth.label_studio or self._sizes_of_files
            ways = {row.way_to(other) for other in FRAMES if size in (None, _in(row, other, upright))}
            self._untold += not told and len(ways) > 1
        return fit

    def notes(self) -> list[str]:
        """What was assumed, one line each."""
        notes = [
            f"boxes of {count} images of {self.truth.shown} lie on {_PICTURES[frame]}, not on the upright picture that "
            "the detector saw: its detections were turned there"
            for frame, count in self._turned.items()
            if count
        ]
        if self._stretched:
            notes.append(
                f"polygons of {self._stretched} images of {self.truth.shown} are stretched: Label Studio made them "
                "with the size of the unturned file; they, and the boxes around them, were brought back to the picture "
                "as browsers show it"
            )
        if self._untold:
            notes.append(
                f"{self._untold} images are turned by their files, and the sizes in {self.truth.shown} do not tell in "
                f"which frame its boxes are: taken for {_PICTURES[self.frame]}; {self.option} says otherwise"
            )
        return notes


def _stretched(one: TruthObject, x: float, y: float) -> TruthObject:
    left, top, width, height = one.bbox
    outlines = [[value * (y if place % 2 else x) for place, value in enumerate(part)] for part in one.segmentation]
    return replace(one, bbox=(left * x, top * y, width * x, height * y), segmentation=outlines)


def _size(image: TruthImage | ImageRow | None) -> tuple[int, int] | None:
    if image is None or image.height is None or image.width is None:
        return None
    return image.height, image.width


def _in(row: ImageRow, frame: str, upright: tuple[int, int]) -> tuple[int, int]:
    return turned_size(*upright, row.way_to(frame))


def _reaches_beyond(image: TruthImage, size: tuple[int, int]) -> bool:
    boxes: Iterable[tuple[float, float, float, float]] = (one.bbox for one in image.objects)
    return any(x + w > size[1] + _BEYOND or y + h > size[0] + _BEYOND for x, y, w, h in boxes)
