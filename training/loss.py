"""Which cell is responsible for which instance, and what the network's outputs cost.

The assignment is task-aligned (Feng et al., TOOD, 2021): of the cells inside an instance's box, the ten with the best
mixture of class score and overlap. The class target of such a cell is how well its box fits, so that scores rank boxes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf
from network import (
    BINS,
    MASK_SIZE,
    Outputs,
    cell_centres,
    decode_boxes,
    mask_logits,
    mask_weights,
)

TOP_CELLS = 10
MASKS_PER_IMAGE = 8


class Losses(NamedTuple):
    """Scalars: their weighted sum, and the parts."""

    total: Any
    score: Any
    box: Any
    distance: Any
    mask: Any


def overlap(a: Any, b: Any) -> tuple[Any, Any]:
    """IoU and generalised IoU of boxes `(..., 4)` x1 y1 x2 y2, broadcast."""
    low, high = tf.maximum(a[..., :2], b[..., :2]), tf.minimum(a[..., 2:], b[..., 2:])
    shared = tf.reduce_prod(tf.maximum(high - low, 0), -1)
    union = tf.reduce_prod(a[..., 2:] - a[..., :2], -1) + tf.reduce_prod(b[..., 2:] - b[..., :2], -1) - shared + 1e-6
    hull = tf.reduce_prod(tf.maximum(a[..., 2:], b[..., 2:]) - tf.minimum(a[..., :2], b[..., :2]), -1) + 1e-6
    iou = shared / union
    return iou, iou - (hull - union) / hull


def spread_cross_entropy(logits: Any, place: Any, count: int) -> Any:
    """`(N,)` cross-entropy of `(N, 4, count)` logits, all weight on the two whole numbers around `(N, 4)` places."""
    place = tf.clip_by_value(place, 0, count - 1.01)
    below = tf.floor(place)
    share = (place - below)[..., None]
    bins = tf.cast(below, tf.int32)
    spread = tf.one_hot(bins, count) * (1 - share) + tf.one_hot(bins + 1, count) * share
    return -tf.reduce_mean(tf.reduce_sum(tf.nn.log_softmax(logits) * spread, -1), -1)


def _assign(scores: Any, boxes: Any, points: Any, classes: Any, xyxy: Any) -> tuple[Any, Any, Any]:
    """For each cell: responsible or not `(B, A)`, for which instance `(B, A)`, and its class target 0..1 `(B, A)`."""
    valid = classes >= 0
    low = points[None, None] - xyxy[:, :, None, :2]
    high = xyxy[:, :, None, 2:] - points[None, None]
    inside = tf.reduce_min(tf.concat([low, high], -1), -1) > 0.01
    iou, _ = overlap(boxes[:, None], xyxy[:, :, None])
    of_class = tf.gather(tf.transpose(scores, [0, 2, 1]), tf.maximum(classes, 0), batch_dims=1)
    # The small constant keeps the order of overlaps alive while everything is still bad.
    metric = tf.sqrt(of_class) * tf.pow(iou, 6.0) + 1e-9 * iou
    metric = tf.where(inside & valid[..., None], metric, 0.0)
    least = tf.math.top_k(metric, TOP_CELLS).values[..., -1:]
    chosen = (metric >= least) & (metric > 0)
    best = tf.argmax(tf.where(chosen, iou + 1e-6, 0.0), axis=1, output_type=tf.int32)
    instances = tf.shape(xyxy)[1]
    chosen &= tf.transpose(tf.one_hot(best, instances, on_value=True, off_value=False, dtype=tf.bool), [0, 2, 1])
    metric = tf.where(chosen, metric, 0.0)
    iou = tf.where(chosen, iou, 0.0)
    scaled = metric / (tf.reduce_max(metric, -1, keepdims=True) + 1e-12) * tf.reduce_max(iou, -1, keepdims=True)
    return tf.reduce_any(chosen, 1), best, tf.reduce_max(scaled, 1)


def losses(conv: Any, outputs: Outputs, instance_maps: Any, classes: Any, xyxy: Any) -> Losses:
    """The cost of a batch.

    Args:
        conv: The convolutions the outputs came from (the mask networks' weights are made here, for some cells only).
        outputs: Of `network.forward`.
        instance_maps: `(B, S, S)` uint8, 255 where nothing is to be learnt.
        classes: `(B, G)` int32 from 0, -1 where there is none.
        xyxy: `(B, G, 4)` float32 pixels.
    """
    side = tf.shape(instance_maps)[1]
    points, strides = cell_centres(side, side)
    boxes = decode_boxes(outputs.distances, points[None], strides[None])
    class_count = outputs.logits.shape[-1]
    scores = tf.sigmoid(outputs.logits)
    chosen, instance, target = _assign(tf.stop_gradient(scores), tf.stop_gradient(boxes), points, classes, xyxy)
    wanted_class = tf.gather(classes, instance, batch_dims=1)
    wanted_box = tf.gather(xyxy, instance, batch_dims=1)
    total = tf.maximum(tf.reduce_sum(target), 1.0)

    at_cell = tf.cast(points, tf.int32)
    flat_maps = tf.reshape(instance_maps, [tf.shape(instance_maps)[0], -1])
    owner = tf.gather(flat_maps, at_cell[:, 1] * side + at_cell[:, 0], axis=1)
    counts = tf.cast((owner != 255) | chosen, tf.float32)
    wanted = tf.one_hot(wanted_class, class_count) * target[..., None]
    cross = tf.nn.sigmoid_cross_entropy_with_logits(labels=wanted, logits=outputs.logits)
    score_loss = tf.reduce_sum(cross * counts[..., None]) / total

    where = tf.where(chosen)
    weight = tf.gather_nd(target, where)
    hit_boxes, hit_wanted = tf.gather_nd(boxes, where), tf.gather_nd(wanted_box, where)
    iou, generalised = overlap(hit_boxes, hit_wanted)
    box_loss = tf.reduce_sum((1 - generalised) * weight) / total

    hit_points, hit_strides = tf.gather(points, where[:, 1]), tf.gather(strides, where[:, 1])
    distance = tf.concat([hit_points - hit_wanted[:, :2], hit_wanted[:, 2:] - hit_points], -1) / hit_strides[:, None]
    cross = spread_cross_entropy(tf.gather_nd(outputs.distances, where), distance, BINS)
    distance_loss = tf.reduce_sum(cross * weight) / total

    mask_loss = _mask_loss(conv, outputs, instance_maps, where, instance, hit_boxes, hit_wanted, iou)
    return Losses(
        score_loss + 2.0 * box_loss + 0.5 * distance_loss + 0.5 * mask_loss,
        score_loss,
        box_loss,
        distance_loss,
        mask_loss,
    )


def _mask_loss(
    conv: Any, outputs: Outputs, instance_maps: Any, where: Any, instance: Any, boxes: Any, wanted: Any, iou: Any
) -> Any:
    """Cross-entropy and Dice of the masks of some responsible cells, drawn at random, inside the boxes found."""
    limit = MASKS_PER_IMAGE * tf.shape(instance_maps)[0]
    some = tf.random.shuffle(tf.range(tf.shape(where)[0]))[:limit]
    where, iou = tf.gather(where, some), tf.gather(iou, some)
    # Learn inside the boxes that will be used, as soon as they are fair.
    box = tf.where(iou[:, None] > 0.6, tf.gather(boxes, some), tf.gather(wanted, some))
    # From edges, 0..S, to indices of the first and last pixel, as the masks are pasted back: (S - 1) / S.
    side = tf.cast(tf.shape(instance_maps)[1], tf.float32)
    box = tf.stop_gradient(box) * (side - 1) / side
    image_index = tf.cast(where[:, 0], tf.int32)
    weights = mask_weights(conv, tf.gather_nd(outputs.cells, where))
    logits = mask_logits(outputs.mask_features, image_index, box, weights)
    steps = tf.linspace(0.0, 1.0, MASK_SIZE)[None]
    x = tf.cast(tf.round(box[:, 0:1] + (box[:, 2:3] - box[:, 0:1]) * steps), tf.int32)
    y = tf.cast(tf.round(box[:, 1:2] + (box[:, 3:4] - box[:, 1:2]) * steps), tf.int32)
    x, y = (tf.clip_by_value(v, 0, tf.cast(side, tf.int32) - 1) for v in (x, y))
    shape = [tf.shape(x)[0], MASK_SIZE, MASK_SIZE]
    index = tf.stack(
        [tf.broadcast_to(v, shape) for v in (image_index[:, None, None], y[:, :, None], x[:, None, :])], axis=-1
    )
    number = tf.gather_nd(instance, where)[:, None, None] + 1
    truth = tf.cast(tf.cast(tf.gather_nd(instance_maps, index), tf.int32) == number, tf.float32)
    cross = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=truth, logits=logits), [1, 2])
    p = tf.sigmoid(logits)
    dice = 1 - (2 * tf.reduce_sum(p * truth, [1, 2]) + 1) / (
        tf.reduce_sum(tf.square(p), [1, 2]) + tf.reduce_sum(truth, [1, 2]) + 1
    )
    return tf.reduce_sum(cross + dice) / tf.maximum(tf.cast(tf.shape(cross)[0], tf.float32), 1.0)
