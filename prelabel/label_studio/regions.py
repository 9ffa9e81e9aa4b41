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

Thousands of polygon corners or hundreds of brush masks overload an annotator's browser, so each task has limits.
Detections are ordered by descending score, so the limits exclude those that are least likely to be right.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from prelabel.detections import FloatArray
from prelabel.errors import ExportError, StoreError
from prelabel.export.base import Tally
from prelabel.export.keypoints import Keypoint, count_hidden, keypoints_of
from prelabel.export.text import json_array, json_numbers, rounded, shortest, strict_json
from prelabel.keypoints import KeypointSet
from prelabel.label_studio.config import Control, LabelConfig, kind_of
from prelabel.label_studio.options import TaskOptions
from prelabel.label_studio.preflight import require_score, require_showable_numbers
from prelabel.masks import rle
from prelabel.masks.brush import brush_from_rle, brushes_from_rle
from prelabel.masks.polygons import Polygons, object_polygons
from prelabel.masks.rle import BoolArray
from prelabel.masks.rle_many import join_counts, measure
from prelabel.store.detection_batch import DetectionBatch

#: Decimals of a percentage: a hundredth of a pixel on an image of 10,000.
DECIMALS = 4

#: Size of a keypoint on the screen, in percent of the image's width.
KEYPOINT_SIZE = 0.5

Region = dict[str, Any]

T = TypeVar("T")


@dataclass(slots=True)
class Regions:
    """The regions of an image, by descending score.

    Attributes:
        json: Each region as JSON.
        ids: The id of each region.
        scores: The score of each region that is no keypoint.
        kinds: What distinguishes regions besides their numbers: each tool with each label.
    """

    json: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)


def regions_of(
    batch: DetectionBatch,
    model_version: str,
    config: LabelConfig,
    options: TaskOptions,
    tally: Tally,
    keypoints: KeypointSet | None = None,
) -> list[Regions]:
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
        ExportError: A tool needs a mask and there is none, a mask does not fit its image, or a region would not be
            shown.
    """
    regions = [Regions() for _ in batch.images]
    kept = batch.kept(options.selection)
    if not len(kept):
        return regions
    require_showable_numbers(kept)
    masks: Sequence[str | None] = [None] * len(kept) if kept.mask is None else kept.mask.tolist()
    kinds = {masked: kind_of(options, masked, config) for masked in (False, True)}
    labels = options.selection.rename(kept.label, kept.mid).tolist()
    wanted = [(kinds[counts is not None], label) for counts, label in zip(masks, labels, strict=True)]
    fits = {key: _fit_of(config, *key) for key in set(wanted)}
    fitting = [fits[key] for key in wanted]
    mask_shapes = _MaskShapes(kept, masks, [None if fit is None else fit.control for fit in fitting], options)
    rectangles, scores = _rectangles(kept), shortest(kept.score)
    scores_as_json = json_numbers(scores)
    lowest = options.lowest_keypoint_score if keypoints is not None else None
    keypoint_rows = keypoints_of(kept, lowest)
    last_image, points, image_id, id_prefix, of_image = -1, 0, "", b"", Regions()
    columns = (column.tolist() for column in (kept.image, kept.place, kept.height, kept.width))
    for n, (image, place, height, width) in enumerate(zip(*columns, strict=True)):
        fit = fitting[n]
        if fit is None:
            tally.drop("detections of classes that the labeling config lacks")
            continue
        if image != last_image:
            last_image, points = image, 0
            image_id, of_image = kept.images[image].image_id, regions[image]
            id_prefix = _id_prefix(model_version, image_id)
        values: list[str] = []
        reason, kind = "", fit.control.kind
        if kind == "rectangle":
            if rectangle := rectangles[n]:
                values = [rectangle]
            else:
                reason = "without area"
        elif n in mask_shapes.empty:
            reason = "with an empty mask"
        elif kind == "polygon":
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
            values = [f'"format":"rle","rle":{json_array(np.frombuffer(mask_shapes.brushes[n], np.uint8))}']
        if reason:
            tally.drop(f"detections {reason}")
        else:
            tally.detections += 1
        for part_number, value in enumerate(values):
            id_ = _id_of(id_prefix, b"%d" % place, b"%d" % part_number)
            of_image.ids.append(id_)
            of_image.scores.append(scores[n])
            of_image.kinds.add(fit.labels)
            of_image.json.append(
                f'{{"id":"{id_}",{fit.names},"original_width":{width},"original_height":{height},"image_rotation":0,'
                f'"score":{scores_as_json[n]},"value":{{{value},{fit.labels}}}}}'
            )
        if values and keypoints is not None:
            count_hidden(keypoint_rows[n], lowest, tally)
            visible_points = [
                (number, name, point)
                for number, (name, point) in enumerate(zip(keypoints.names, keypoint_rows[n], strict=False))
                if point.shown
            ]
            for region in _keypoint_regions(
                visible_points, (model_version, image_id, place), (height, width), config, tally
            ):
                of_image.ids.append(region["id"])
                of_image.json.append(strict_json(region).decode("ascii"))
                of_image.kinds |= kinds_of(region)
    return regions


class _Fit(NamedTuple):
    """The parts of a region that follow from its tool and label.

    Attributes:
        control: The tool.
        names: JSON of the keys `type`, `from_name` and `to_name`.
        labels: JSON of the key of `value` that holds the label.
    """

    control: Control
    names: str
    labels: str


def _fit_of(config: LabelConfig, kind: str, label: str) -> _Fit | None:
    """The parts of a region of a tool with this label, or None if the config lacks it."""
    control = config.control(kind)
    fitting_label = None if control is None else control.fit(label)
    if control is None or fitting_label is None:
        return None
    names = {"type": control.type, "from_name": control.name, "to_name": config.to_name}
    return _Fit(control, _members(names), _members({control.type: [fitting_label]}))


def _members(values: Mapping[str, Any]) -> str:
    """The members of a JSON object, without its braces."""
    return strict_json(values)[1:-1].decode("ascii")


def _keypoint_regions(
    visible_points: Iterable[tuple[int, str, Keypoint]],
    detection: tuple[str, str, int],
    size: tuple[int, int],
    config: LabelConfig,
    tally: Tally,
) -> Iterator[Region]:
    """The regions of a detection's keypoints.

    Args:
        visible_points: Number, name and place of each point that is shown.
        detection: Arguments of `region_id` for the detection.
        size: Height and width of the image in pixels.
        config: Has the tool for keypoints.
        tally: Counts the points for which it has no label.
    """
    control = config.control("keypoint")
    height, width = size
    for number, name, point in visible_points:
        label = None if control is None else control.fit(name)
        if control is None or label is None:
            tally.simplified["keypoints that the labeling config lacks"] += 1
            continue
        require_score(detection[1], point.score)
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


def kinds_of(region: Region) -> set[str]:
    """The tool of a region with each of its labels; see `Regions`."""
    return {f"{region['type']} {label}" for label in region["value"][region["type"]]}


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
    return _id_of(_id_prefix(model_version, image_id), str(index).encode(), str(part).encode())


def _id_prefix(model_version: str, image_id: str) -> bytes:
    """What the ids of all regions of an image are made from."""
    return f"{model_version}\0{image_id}\0".encode("utf-8", "surrogatepass")


def _id_of(prefix: bytes, index: bytes, part: bytes) -> str:
    return hashlib.blake2b(b"%b%b\0%b" % (prefix, index, part), digest_size=6).hexdigest()


def _polygon(points: Sequence[float], height: int, width: int) -> str:
    """The value of a closed polygon, from its corners `[x1, y1, x2, y2, ...]` in pixels."""
    corners = np.asarray(points, np.float64).reshape(-1, 2)
    percent = _percent_of(corners, np.array([width, height], np.float64))
    return f'"points":{json_array(percent)},"closed":true'


def _rectangles(kept: DetectionBatch) -> list[str]:
    """The value of each box as a rectangle, `""` for a box without area."""
    boxes = _percents(kept.xyxy, kept.height, kept.width)
    has_area: BoolArray = np.all(boxes[:, 2:] > 0, axis=1)  # of NaN, too, this is false
    columns = (json_numbers(np.where(has_area, column, 0)) for column in boxes.T)
    return [
        f'"x":{x},"y":{y},"width":{w},"height":{h},"rotation":0' if area else ""
        for x, y, w, h, area in zip(*columns, has_area.tolist(), strict=True)
    ]


def _percents(xyxy: FloatArray, height: npt.NDArray[np.int64], width: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
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
    return np.concatenate((start, extent), axis=1)


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
        tools: Sequence[Control | None],
        options: TaskOptions,
    ) -> None:
        """Raises ExportError if a mask is missing or does not fit its image."""
        self._kept = kept
        self._rules = options.polygon_rules
        self._counts: dict[int, str] = {}
        for n, tool in enumerate(tools):
            if tool is not None and tool.kind != "rectangle":
                counts = masks[n]
                if counts is None:
                    raise ExportError(
                        f"image {self._name(n)!r} has a detection without a mask for the tool {tool.name!r}"
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
            [n for n, tool in enumerate(tools) if tool is not None and tool.kind == "brush"],
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
