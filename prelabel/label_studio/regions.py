"""Convert detections to Label Studio's regions, the items of a prediction's `result`.

A dog on the left half of an image of 4 x 6 pixels (height x width), as a rectangle in percent of the image:

    {"id": "3f8a5f0e9d21", "type": "rectanglelabels", "from_name": "label", "to_name": "image",
     "original_width": 6, "original_height": 4, "image_rotation": 0, "score": 0.9,
     "value": {"x": 0.0, "y": 0.0, "width": 50.0, "height": 100.0, "rotation": 0, "rectanglelabels": ["Dog"]}}

A detection becomes a rectangle, the polygons of its mask, or a brush mask (`regions_of`). Each of its keypoints that is
shown is a region of its own, whose `parentID` is the id of the detection's first region; `width` is the size at which
the point is drawn:

    {"type": "keypointlabels", "from_name": "label_keypoint", "score": 0.8, "parentID": "3f8a5f0e9d21", ...
     "value": {"x": 25.0, "y": 50.0, "width": 0.5, "keypointlabels": ["nose"]}}

Thousands of polygon corners
or hundreds of brush masks overload an annotator's browser, so each task has limits. Detections are ordered by
descending score, so the limits exclude those that are least likely to be right.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from prelabel.detections import FloatArray
from prelabel.errors import ExportError, StoreError
from prelabel.export.base import Tally
from prelabel.export.keypoints import Keypoint, count_hidden, keypoints_of
from prelabel.export.text import rounded, shortest
from prelabel.keypoints import KeypointSet
from prelabel.label_studio.config import Control, LabelConfig, kind_of
from prelabel.label_studio.options import TaskOptions
from prelabel.masks import rle
from prelabel.masks.brush import brush_from_rle, brushes_from_rle
from prelabel.masks.polygons import Polygons, object_polygons
from prelabel.masks.rle_many import join_counts, measure
from prelabel.store.detection_batch import DetectionBatch

#: Decimals of a percentage: a hundredth of a pixel on an image of 10,000.
DECIMALS = 4

#: Size of a keypoint on the screen, in percent of the image's width.
KEYPOINT_SIZE = 0.5

Region = dict[str, Any]

T = TypeVar("T")


def regions_of(
    batch: DetectionBatch,
    model_version: str,
    config: LabelConfig,
    options: TaskOptions,
    tally: Tally,
    keypoints: KeypointSet | None = None,
) -> list[list[Region]]:
    """Convert the detections of a batch to regions.

    Args:
        batch: At most some hundred images, since all their regions are in memory.
        model_version: Model version of the predictions; region ids depend on it.
        config: The tools and their labels.
        options: Which detections are kept, the shape, and the limits of a task.
        tally: Receives the counts, including those of dropped detections.
        keypoints: The keypoints of the run, or None if it has none.

    Returns:
        The regions of each image, by descending score.

    Raises:
        ExportError: A tool needs a mask and there is none, or a mask does not fit its image.
    """
    regions: list[list[Region]] = [[] for _ in batch.images]
    kept = batch.kept(options.selection)
    if not len(kept):
        return regions
    masks: Sequence[str | None] = [None] * len(kept) if kept.mask is None else kept.mask.tolist()
    tools = {has_mask: config.control(kind_of(options, has_mask, config)) for has_mask in (False, True)}
    tools_and_labels: list[tuple[Control, str] | None] = []
    for counts, label in zip(masks, options.selection.rename(kept.label, kept.mid).tolist(), strict=True):
        tool = tools[counts is not None]
        fitting_label = None if tool is None else tool.fit(label)
        tools_and_labels.append(None if tool is None or fitting_label is None else (tool, fitting_label))
    mask_shapes = _MaskShapes(kept, masks, tools_and_labels, options)
    boxes, scores = _percents(kept.xyxy, kept.height, kept.width), shortest(kept.score)
    lowest = options.lowest_keypoint_score if keypoints is not None else None
    keypoint_rows = keypoints_of(kept, lowest)
    last_image, points = -1, 0
    columns = (column.tolist() for column in (kept.image, kept.place, kept.height, kept.width))
    for n, (image, place, height, width) in enumerate(zip(*columns, strict=True)):
        tool_and_label = tools_and_labels[n]
        if tool_and_label is None:
            tally.drop("detections of classes that the labeling config lacks")
            continue
        control, label = tool_and_label
        if image != last_image:
            last_image, points = image, 0
        values: list[dict[str, Any]] = []
        reason = ""
        if control.kind == "rectangle":
            x, y, w, h = boxes[n]
            if w > 0 and h > 0:
                values = [{"x": x, "y": y, "width": w, "height": h, "rotation": 0}]
            else:
                reason = "without area"
        elif n in mask_shapes.empty:
            reason = "with an empty mask"
        elif control.kind == "polygon":
            parts, undrawn = mask_shapes.polygons(n)
            corners = sum(len(part) // 2 for part in parts)
            if points + corners > options.max_points:
                reason = "beyond --max-points"
            else:
                points += corners
                tally.simplify(options.polygon_rules, undrawn)
                values = [_polygon(part, height, width) for part in parts]
        elif n not in mask_shapes.brushes:
            reason = "beyond --max-masks"
        else:
            values = [{"format": "rle", "rle": list(mask_shapes.brushes[n])}]
        if reason:
            tally.drop(f"detections {reason}")
        else:
            tally.detections += 1
        regions[image] += [
            {
                "id": region_id(model_version, kept.images[image].image_id, place, part),
                "type": control.type,
                "from_name": control.name,
                "to_name": config.to_name,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": scores[n],
                "value": {**value, control.type: [label]},
            }
            for part, value in enumerate(values)
        ]
        if values and keypoints is not None:
            count_hidden(keypoint_rows[n], lowest, tally)
            shown = [
                (number, name, point)
                for number, (name, point) in enumerate(zip(keypoints.names, keypoint_rows[n], strict=False))
                if point.shown
            ]
            image_id = kept.images[image].image_id
            regions[image] += _keypoint_regions(shown, (model_version, image_id, place), (height, width), config, tally)
    return regions


def _keypoint_regions(
    shown: Iterable[tuple[int, str, Keypoint]],
    detection: tuple[str, str, int],
    size: tuple[int, int],
    config: LabelConfig,
    tally: Tally,
) -> Iterator[Region]:
    """The regions of a detection's keypoints.

    Args:
        shown: Number, name and place of each point that is shown.
        detection: Arguments of `region_id` for the detection.
        size: Height and width of the image in pixels.
        config: Has the tool for keypoints.
        tally: Counts the points for which it has no label.
    """
    control = config.control("keypoint")
    height, width = size
    for number, name, point in shown:
        label = None if control is None else control.fit(name)
        if control is None or label is None:
            tally.simplified["keypoints that the labeling config lacks"] += 1
            continue
        x, y = _percent_of(np.array([point.x, point.y]), np.array([width, height], np.float64)).tolist()
        yield {
            "id": region_id(*detection, f"keypoint {number}"),
            "type": control.type,
            "from_name": control.name,
            "to_name": config.to_name,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": point.score,
            "parentID": region_id(*detection),
            "value": {"x": x, "y": y, "width": KEYPOINT_SIZE, control.type: [label]},
        }


def choice(id_: str, control: Control, to_name: str, labels: Iterable[str], score: float) -> Region:
    """A region with labels of the whole image; all labels of a control are in one region."""
    names = {"from_name": control.name, "to_name": to_name}
    return {"id": id_, "type": control.type, **names, "score": score, "value": {control.type: list(labels)}}


def region_id(model_version: str, image_id: str, index: int | str, part: int | str = 0) -> str:
    """A region's id: the same for a detection in every export, whatever the selection.

    Args:
        model_version: Model version of the prediction.
        image_id: The image's id in the run.
        index: Position of the detection in the row of the shard, before any selection.
        part: Position among the regions of this detection, or another name of the region.

    Returns:
        12 hexadecimal digits.
    """
    text = f"{model_version}\0{image_id}\0{index}\0{part}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def _polygon(points: Sequence[float], height: int, width: int) -> dict[str, Any]:
    """A closed polygon from its corners `[x1, y1, x2, y2, ...]` in pixels."""
    corners = np.asarray(points, np.float64).reshape(-1, 2)
    return {"points": _percent_of(corners, np.array([width, height], np.float64)).tolist(), "closed": True}


def _percents(xyxy: FloatArray, height: npt.NDArray[np.int64], width: npt.NDArray[np.int64]) -> list[list[float]]:
    """Convert boxes to x, y, width, height in percent; the floating-point sum x + width is at most 100, too.

    Args:
        xyxy: `(N, 4)` x1 y1 x2 y2 in pixels.
        height: `(N,)` heights of the images in pixels.
        width: `(N,)` widths of the images in pixels.
    """
    sizes = np.stack((width, height), axis=1).astype(np.float64)
    start, end = (_percent_of(xyxy[:, side].astype(np.float64), sizes) for side in (slice(0, 2), slice(2, 4)))
    extent = rounded(end - start, DECIMALS)
    while (too_large := start + extent > 100).any():
        # Reduced only after rounding, by the smallest step that is written.
        extent[too_large] = rounded(extent[too_large] - 10**-DECIMALS, DECIMALS)
    boxes: list[list[float]] = np.concatenate((start, extent), axis=1).tolist()
    return boxes


def _percent_of(values: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    percent: npt.NDArray[np.float64] = np.clip(rounded(100 * values / sizes, DECIMALS), 0, 100) + 0.0
    return percent


class _MaskShapes:
    """The masks that become polygons or brush masks. They are checked, and converted together where that is faster.

    Attributes:
        empty: Positions of detections whose mask has no pixels.
        brushes: Brush masks by position of the detection, up to the limit of each image.
    """

    def __init__(
        self,
        kept: DetectionBatch,
        masks: Sequence[str | None],
        tools_and_labels: Sequence[tuple[Control, str] | None],
        options: TaskOptions,
    ) -> None:
        """Raises ExportError if a mask is missing or does not fit its image."""
        self._kept = kept
        self._rules = options.polygon_rules
        self._counts: dict[int, str] = {}
        for n, tool in enumerate(tools_and_labels):
            if tool is not None and tool[0].kind != "rectangle":
                counts = masks[n]
                if counts is None:
                    raise ExportError(
                        f"image {self._name(n)!r} has a detection without a mask for the tool {tool[0].name!r}"
                    )
                self._counts[n] = counts
        positions = np.array(list(self._counts), np.intp)
        valid, area, _ = measure(
            *join_counts(list(self._counts.values())), kept.height[positions], kept.width[positions]
        )
        for n in positions[~valid].tolist():
            self._convert(n, rle.validate)
        self.empty = set(positions[area == 0].tolist())
        self.brushes = self._brushes(
            [n for n, tool in enumerate(tools_and_labels) if tool is not None and tool[0].kind == "brush"],
            options.max_masks,
        )

    def polygons(self, n: int) -> Polygons:
        """The polygons of a mask, with the number of parts that have none."""
        return self._convert(n, lambda counts, height, width: object_polygons(counts, height, width, self._rules))

    def _brushes(self, positions: Sequence[int], max_masks: int) -> dict[int, bytes]:
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        count: Counter[int] = Counter()
        for n in positions:
            image = int(self._kept.image[n])
            if n not in self.empty and count[image] < max_masks:
                count[image] += 1
                by_size[int(self._kept.height[n]), int(self._kept.width[n])].append(n)
        brushes: dict[int, bytes] = {}
        for size, same_size in by_size.items():
            try:
                masks = brushes_from_rle([self._counts[n] for n in same_size], *size)
                brushes.update(zip(same_size, masks, strict=True))
            except ExportError:
                # Converted individually, so that the error names the image.
                brushes.update({n: self._convert(n, brush_from_rle) for n in same_size})
        return brushes

    def _convert(self, n: int, work: Callable[[str, int, int], T]) -> T:
        """The result of a function of RLE counts, height and width; its errors name the image."""
        try:
            return work(self._counts[n], int(self._kept.height[n]), int(self._kept.width[n]))
        except (StoreError, ExportError) as error:
            raise ExportError(f"image {self._name(n)!r}: {error}") from None

    def _name(self, n: int) -> str:
        return self._kept.images[int(self._kept.image[n])].image_id
