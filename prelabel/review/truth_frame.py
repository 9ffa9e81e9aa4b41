"""Finds the frame of the truth's boxes from its image sizes, so that boxes of different frames are never compared.

For example, an image is displayed at 400 x 300 pixels (width x height). Its file stores 300 x 400 pixels and EXIF
orientation 6, which rotates the image:

    size in the truth   frame of the boxes
    400 x 300           the displayed image
    300 x 400           the stored pixels, except if Label Studio wrote the truth, or if boxes reach beyond 300 x 400.
                        Then the boxes lie on the image as browsers show it, and the size is that of the file. Label
                        Studio's polygons are then fractions of that image, multiplied by the size of the file
    another size        none: it is another image, which is skipped
    no size             the frame of most other images

If the size fits several frames, the frame of most other images is assumed, too: EXIF orientations 2 to 4 do not change
the size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from prelabel.frames import BROWSER, DISPLAY, FRAMES, STORED, oriented_size
from prelabel.review.image_matching import MatchingImage
from prelabel.review.options import AUTO
from prelabel.review.truth import Truth, TruthImage, TruthObject
from prelabel.store.rows import ImageFacts

_FRAME_NAMES = {DISPLAY: "the displayed image", STORED: "the stored pixels", BROWSER: "the image as browsers show it"}

#: Boxes are rounded and may reach beyond their image by this many pixels.
_TOLERANCE = 2.0


@dataclass(frozen=True, slots=True)
class Fit:
    """How to read the boxes of an image of the truth.

    Attributes:
        frame: The frame of the boxes.
        swapped: Whether height and width in the truth are those of the stored file, while boxes lie on the rotated
            image.
        stretched: Whether polygons, and the boxes around them, are fractions of the rotated image multiplied by the
            size of the stored file. Label Studio writes polygons that way, but rectangles in pixels of the rotated
            image.
    """

    frame: str
    swapped: bool = False
    stretched: bool = False

    def objects(self, image: TruthImage) -> tuple[TruthObject, ...]:
        """The objects of the image, in pixels of `frame`."""
        if not self.stretched or not image.height or not image.width:
            return image.objects
        x, y = image.height / image.width, image.width / image.height
        return tuple(
            _unstretched(annotation, x, y) if isinstance(annotation.segmentation, list) else annotation
            for annotation in image.objects
        )


@dataclass(slots=True)
class TruthFrames:
    """Finds the frame of each image of the truth. `vote` must be called before `fit`.

    Attributes:
        truth: The truth.
        requested: The frame given by the user, or `auto`.
        option: Name of the option for the frame, for messages.
    """

    truth: Truth
    requested: str
    option: str
    _votes: Counter[str] = field(default_factory=Counter)
    _sizes_of_files: bool = False
    _converted: Counter[str] = field(default_factory=Counter)
    _ambiguous: int = 0
    _stretched: int = 0

    def vote(self, images: Iterable[MatchingImage]) -> None:
        """Let the sizes of images decide on the frame of those whose sizes do not tell it, if it is not known.

        Args:
            images: All images of the run that match; those that match several images do not vote.
        """
        if self.requested != AUTO or self.truth.label_studio:
            return
        for image in images:
            if len(image.positions) == 1:
                self._vote(self.truth.images[image.positions[0]], image.facts)

    def _vote(self, image: TruthImage, facts: ImageFacts) -> None:
        size, displayed = _size(image), _size(facts)
        if size is None or displayed is None or facts.orientation_to(STORED) == facts.orientation_to(BROWSER) == 1:
            return
        fitting = [frame for frame in FRAMES if size == _size_in_frame(facts, frame, displayed)]
        if DISPLAY in fitting:
            self._votes[DISPLAY] += len(fitting) < len(FRAMES)
        elif STORED in fitting:
            self._votes[STORED] += 1
            self._sizes_of_files |= _reaches_beyond(image, size)
        elif fitting:
            self._votes[BROWSER] += 1

    @property
    def _frame_is_known(self) -> bool:
        """Whether one frame is known to be that of all images."""
        return self.requested != AUTO or self.truth.label_studio or self._sizes_of_files

    @property
    def frame(self) -> str:
        """The frame of images whose sizes do not tell their frame."""
        if self.requested != AUTO:
            return self.requested
        if self.truth.label_studio or self._sizes_of_files:
            return BROWSER
        return max(FRAMES, key=lambda frame: self._votes[frame])

    def fit(self, image: TruthImage | None, facts: ImageFacts) -> Fit | None:
        """How to read the boxes of an image, or None if its size shows that it is another image.

        Args:
            image: The image in the truth, or None if it is unknown.
            facts: The image in the run.
        """
        size, displayed, frame = _size(image), _size(facts), self.frame
        if image is None or displayed is None:
            return Fit(frame)
        if size is None or size == _size_in_frame(facts, frame, displayed):
            fit: Fit | None = Fit(frame)
        elif self._frame_is_known:
            swapped = size == _size_in_frame(facts, STORED, displayed)
            fit = Fit(frame, swapped=True, stretched=self.truth.label_studio) if swapped else None
        else:
            fit = next((Fit(other) for other in FRAMES if size == _size_in_frame(facts, other, displayed)), None)
        if fit is not None:
            self._converted[fit.frame] += facts.orientation_to(fit.frame) != 1
            self._stretched += fit.stretched and any(
                isinstance(annotation.segmentation, list) for annotation in image.objects
            )
            ways = {
                facts.orientation_to(other)
                for other in FRAMES
                if size in (None, _size_in_frame(facts, other, displayed))
            }
            self._ambiguous += not self._frame_is_known and len(ways) > 1
        return fit

    def notes(self) -> list[str]:
        """Notes for the user on conversions and assumptions, one line each."""
        notes = [
            f"boxes of {count} images of {self.truth.display_url} lie on {_FRAME_NAMES[frame]}, not on the displayed "
            "image that the detector saw; detections were converted to that frame"
            for frame, count in self._converted.items()
            if count
        ]
        if self._stretched:
            notes.append(
                f"polygons of {self._stretched} images of {self.truth.display_url} are stretched, because Label Studio "
                "used the size before EXIF rotation; they, and the boxes around them, were converted to the image as "
                "browsers show it"
            )
        if self._ambiguous:
            notes.append(
                f"{self._ambiguous} images are rotated by EXIF, and their sizes in {self.truth.display_url} do not "
                f"tell the frame of the boxes; assumed: {_FRAME_NAMES[self.frame]}. If this is wrong, set {self.option}"
            )
        return notes


def _unstretched(annotation: TruthObject, x: float, y: float) -> TruthObject:
    """The object with its box, polygons and keypoints multiplied by `x` and `y`."""
    left, top, width, height = annotation.bbox
    polygons = [[value * (y if n % 2 else x) for n, value in enumerate(part)] for part in annotation.segmentation]
    keypoints = tuple(value * (x, y, 1)[n % 3] for n, value in enumerate(annotation.keypoints))
    box = (left * x, top * y, width * x, height * y)
    return replace(annotation, bbox=box, segmentation=polygons, keypoints=keypoints)


def _size(image: TruthImage | ImageFacts | None) -> tuple[int, int] | None:
    if image is None or image.height is None or image.width is None:
        return None
    return image.height, image.width


def _size_in_frame(facts: ImageFacts, frame: str, displayed: tuple[int, int]) -> tuple[int, int]:
    return oriented_size(*displayed, facts.orientation_to(frame))


def _reaches_beyond(image: TruthImage, size: tuple[int, int]) -> bool:
    boxes = [annotation.bbox for annotation in image.objects]
    return any(x + w > size[1] + _TOLERANCE or y + h > size[0] + _TOLERANCE for x, y, w, h in boxes)
