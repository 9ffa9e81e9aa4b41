"""What people made, whatever tool it was exported from: images with regions, in shares of the image's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from prelabel.compare.areas import Area, of_mask, of_outlines
from prelabel.evaluate.truth import Truth

Points = npt.NDArray[np.float64]

#: Where annotations come from: Label Studio's JSON export, or a COCO dataset of whatever tool.
LABEL_STUDIO, COCO = "label-studio", "coco"


@dataclass(frozen=True, slots=True)
class Mask:
    """Compressed counts and the height and width they are for."""

    counts: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Region:
    """One region as a person left it; several of one id belong together.

    Attributes:
        id: Of the tool, or `""`; a region copied from a prediction keeps the prediction's.
        labels: Names of its classes.
        shape: `(P, 2)` corners of outlines in shares of width and height, or `(2, 2)` two opposite corners of a box, or
            a mask.
        score: Of a prediction's region, or None.
    """

    id: str
    labels: tuple[str, ...]
    shape: tuple[Points, ...] | Points | Mask
    score: float | None = None

    def area(self, height: int, width: int) -> Area:
        """Where it lies on an image of so many pixels."""
        size = np.array((width, height), np.float64)
        if isinstance(self.shape, tuple):
            return of_outlines([points * size for points in self.shape], height, width)
        if isinstance(self.shape, Mask):
            found = of_mask(self.shape.counts, self.shape.height, self.shape.width)
            if (self.shape.height, self.shape.width) == (height, width):
                return found
            scale = size / (self.shape.width, self.shape.height)
            x1, y1, x2, y2 = np.array(found.xyxy) * np.tile(scale, 2)
            return Area((float(x1), float(y1), float(x2), float(y2)))
        corners = np.clip(self.shape, 0, 1) * size
        (x1, y1), (x2, y2) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return Area((x1, y1, x2, y2))


@dataclass(frozen=True, slots=True)
class Start:
    """What an annotation began with, as the tool kept it: the prediction that a person was shown.

    Attributes:
        model_version: Of the prediction, or `""` where it has none.
        regions: All that was shown.
    """

    model_version: str
    regions: tuple[Region, ...]


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """One image that a person is done with.

    Attributes:
        image_id: As the run calls it, or `""` where the export does not say.
        path: The image's path or the path of its address, for finding it where there is no `image_id`.
        regions: All that is on it.
        seconds: How long it took, or None.
        size: Height and width of the picture that the regions say they are on, or None. Where they are shares of it
            (Label Studio), it is what a person's browser showed, maybe smaller than the file; else it binds.
        starts: What the annotation may have begun with, the surest first; none where the tool does not say.
        blank: Whether the tool says that it began with nothing.
        task: Number of its task, or None.
    """

    image_id: str
    path: str
    regions: tuple[Region, ...]
    seconds: float | None = None
    size: tuple[int, int] | None = None
    starts: tuple[Start, ...] = ()
    blank: bool = False
    task: int | None = None

    def names(self, *, by_task: bool) -> tuple[str, str]:
        """Id and path to find it by, each `""` where it is not to be looked for.

        Args:
            by_task: Whether the run was made of the tasks of a project: its ids are then numbers of tasks with names of
                files, `7/a b.jpg`.
        """
        if self.image_id:
            return self.image_id, ""
        name = self.path.rpartition("/")[2]
        return f"{self.task}/{name}" if by_task and self.task is not None else "", self.path

    def on_turned(self, *, outlines: bool) -> AnnotatedImage:
        """The same with height and width changed for each other; the pixels of the regions stay where they are.

        Args:
            outlines: Also those of outlines; else their shares of width and height stay.
        """
        if self.size is None:
            return self
        height, width = self.size
        factor = np.array((width / height, height / width))
        regions = tuple(
            region
            if isinstance(region.shape, Mask) or (isinstance(region.shape, tuple) and not outlines)
            else replace(
                region,
                shape=tuple(part * factor for part in region.shape)
                if isinstance(region.shape, tuple)
                else region.shape * factor,
            )
            for region in self.regions
        )
        return replace(self, size=(width, height), regions=regions)


@dataclass(frozen=True, slots=True)
class Annotations:
    """All that people made.

    Attributes:
        shown: Address of the file as it may be shown.
        images: Those that somebody is done with.
        open: Images that nobody has worked on yet.
        skipped: Images that somebody refused to annotate.
        notes: What the user should know of the reading, one line each.
        tool: `LABEL_STUDIO` or `COCO`.
        truth: The COCO dataset that the images are of, in its order.
    """

    shown: str
    images: Sequence[AnnotatedImage]
    open: int = 0
    skipped: int = 0
    notes: tuple[str, ...] = ()
    tool: str = LABEL_STUDIO
    truth: Truth | None = None
