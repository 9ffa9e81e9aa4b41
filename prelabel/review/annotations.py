"""Annotations of any tool: images with regions, whose coordinates are fractions of the image size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from prelabel.masks.areas import Area, Points, area_of_mask, area_of_polygons
from prelabel.review.truth import Truth


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask: compressed RLE counts, and the height and width of their image."""

    counts: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Region:
    """A region of an annotation or of a prediction. Regions with the same id form one object.

    Attributes:
        id: The tool's id, or `""`. A region copied from a prediction keeps its id.
        labels: Names of its classes.
        shape: A tuple of polygons, each with `(P, 2)` corners; or two opposite corners of a box, `(2, 2)`; or a mask.
            Corners are x, y as fractions of width and height.
        score: Score of a prediction's region, or None.
    """

    id: str
    labels: tuple[str, ...]
    shape: tuple[Points, ...] | Points | Mask
    score: float | None = None

    def area(self, height: int, width: int) -> Area:
        """The area of the region on an image of `height` x `width` pixels."""
        size = np.array((width, height), np.float64)
        if isinstance(self.shape, tuple):
            return area_of_polygons([points * size for points in self.shape], height, width)
        if isinstance(self.shape, Mask):
            area = area_of_mask(self.shape.counts, self.shape.height, self.shape.width)
            if (self.shape.height, self.shape.width) == (height, width):
                return area
            scale = size / (self.shape.width, self.shape.height)
            x1, y1, x2, y2 = np.array(area.xyxy) * np.tile(scale, 2)
            return Area((float(x1), float(y1), float(x2), float(y2)))
        corners = np.clip(self.shape, 0, 1) * size
        (x1, y1), (x2, y2) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return Area((x1, y1, x2, y2))


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction that an annotator may have started from, as the tool exported it.

    Attributes:
        model_version: The prediction's model version, or `""`.
        regions: All regions of the prediction.
    """

    model_version: str
    regions: tuple[Region, ...]


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image whose annotation was submitted.

    Attributes:
        image_id: The image's id in the run, or `""` if the export does not have it.
        path: The image's path or the path of its URL, by which it is matched without an `image_id`.
        regions: All regions of the annotation.
        seconds: How long the annotation took, or None.
        size: Height and width of the image according to its regions, or None. In Label Studio, whose regions are
            fractions, this is the size of the image in the browser, perhaps scaled down; other tools must give the
            exact size.
        predictions: Predictions that the annotation may have started from, the most certain first; empty if unknown.
        blank: Whether the tool says that the annotation started without a prediction.
        task: Number of the image's task, or None.
    """

    image_id: str
    path: str
    regions: tuple[Region, ...]
    seconds: float | None = None
    size: tuple[int, int] | None = None
    predictions: tuple[Prediction, ...] = ()
    blank: bool = False
    task: int | None = None

    def names(self, *, by_task: bool) -> tuple[str, str]:
        """The id and the path to look the image up by, each `""` if it must not be used.

        Args:
            by_task: Whether the run read its images from the tasks of a project. Image ids then consist of the task
                number and the file name: `7/a b.jpg`.
        """
        if self.image_id:
            return self.image_id, ""
        name = self.path.rpartition("/")[2]
        return f"{self.task}/{name}" if by_task and self.task is not None else "", self.path

    def with_sides_swapped(self, *, polygons: bool) -> AnnotatedImage:
        """The image with height and width swapped, and boxes at the same pixels as before.

        Args:
            polygons: Whether polygons also stay at the same pixels; otherwise their fractions of width and height stay.
        """
        if self.size is None:
            return self
        height, width = self.size
        factor = np.array((width / height, height / width))

        def rescaled(region: Region) -> Region:
            if isinstance(region.shape, tuple):
                return replace(region, shape=tuple(part * factor for part in region.shape)) if polygons else region
            return region if isinstance(region.shape, Mask) else replace(region, shape=region.shape * factor)

        return replace(self, size=(width, height), regions=tuple(map(rescaled, self.regions)))


@dataclass(frozen=True, slots=True)
class Annotations:
    """All annotations of a file.

    Attributes:
        display_url: URL of the file without secrets, for messages.
        images: Images with a submitted annotation.
        open: Number of images that nobody has annotated yet.
        skipped: Number of images that annotators skipped.
        notes: Notes for the user on how the file was read, one line each.
        truth: The COCO dataset that the images are from, in the same order; None for Label Studio's export.
    """

    display_url: str
    images: Sequence[AnnotatedImage]
    open: int = 0
    skipped: int = 0
    notes: tuple[str, ...] = ()
    truth: Truth | None = None
