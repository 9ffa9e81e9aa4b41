"""The second look of `demo-shapes`: each box found is cut out of fine features, enlarged by a margin, and corrected.

A cell of stride 64 knows the sides of a large box to a few percent of its size, however long it is trained. Here the
places a side may have are a fraction of the box apart, whatever its size (as in Cai and Vasconcelos, Cascade R-CNN,
2018, with sides found along their own axis as in Wang et al., SABL, 2020).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from network import Conv, double

MARGIN = 0.25
PLACES = 32
COARSE_FROM = 96.0
FEATURES = 24
CHANNELS = 32
CONTEXT = 48
WHOLE = 40
PRIOR_WIDTH = 2.0


class Refined(NamedTuple):
    """N boxes after the second look.

    Attributes:
        sides: `(N, 4, PLACES)` logits of left, top, right, bottom over the places that a side may have.
        xyxy: `(N, 4)` pixels of the input, from `sides`.
    """

    sides: Any
    xyxy: Any


def places(xyxy: Any, wanted: Any) -> Any:
    """Where the sides of boxes `wanted` `(N, 4)` are among the places of the boxes `xyxy`: `(N, 4)`, 0..PLACES - 1."""
    size = _size(xyxy)
    share = (wanted - tf.tile(xyxy[:, :2], [1, 2])) / tf.tile(size, [1, 2])
    return (share + MARGIN) / (1 + 2 * MARGIN) * (PLACES - 1)


def refine(conv: Conv, outputs: Any, image_index: Any, xyxy: Any, cells: Any) -> Refined:
    """Correct boxes.

    Args:
        conv: The convolutions that `outputs` came from.
        outputs: Of `network.forward`, of which `early` and `pyramid` are looked at.
        image_index: `(N,)` int32, which of the batch each box belongs to.
        xyxy: `(N, 4)` pixels of the input.
        cells: `(N, NECK)` feature vectors of the cells that found them.
    """
    early, pyramid = outputs.early, outputs.pyramid
    features = (
        tf.nn.relu(conv(early, "refine/fine/a", FEATURES, relu=False) + double(_mixed(conv, pyramid, "fine"))),
        tf.nn.relu(conv(early, "refine/coarse/a", FEATURES, stride=2, relu=False) + _mixed(conv, pyramid, "coarse")),
    )
    wide = tf.reduce_max(_size(xyxy), -1) >= COARSE_FROM
    groups = [tf.where(~wide)[:, 0], tf.where(wide)[:, 0]]
    crops = [
        _crop(level, stride, tf.gather(image_index, group), tf.gather(xyxy, group))
        for level, stride, group in zip(features, (4, 8), groups, strict=True)
    ]
    order = tf.concat(groups, 0)
    x = conv(tf.concat(crops, 0), "refine/look", CHANNELS, stride=2, relu=False)
    # The cell knows what it looks for; the crop alone does not, where shapes lie on each other.
    tuned = conv(tf.gather(cells, order)[:, None, None], "refine/tune", 2 * CHANNELS, size=1, **LINEAR)
    place = conv(tf.constant(_rows_and_columns()), "refine/place", CHANNELS, size=1, **LINEAR)
    x = tf.nn.relu((x + place) * (1 + tuned[..., :CHANNELS]) + tuned[..., CHANNELS:])
    around = conv(x, "refine/around/down", CONTEXT, stride=2)
    around = conv(around, "refine/around/more", CONTEXT)
    x = tf.nn.relu(x + double(conv(around, "refine/around/b", CHANNELS, size=1, relu=False)))
    sides, profiles = [], []
    for axis, across in (("x", 1), ("y", 2)):
        profile = tf.concat([tf.reduce_mean(x, across), tf.reduce_max(x, across)], -1)[:, :, None]
        for layer in ("first", "second"):
            profile = conv(profile, f"refine/{axis}/{layer}", 2 * CHANNELS, size=(3, 1))
        profiles.append(tf.reshape(profile, [-1, PLACES // 2 * 2 * CHANNELS]))
        # Two sides, and two places in each of the steps of the profile.
        side = tf.reshape(conv(profile, f"refine/{axis}/sides", 4, size=1, **LINEAR), [-1, PLACES // 2, 2, 2])
        sides.append(tf.reshape(tf.transpose(side, [0, 2, 1, 3]), [-1, 2, PLACES]))
    whole = conv(tf.concat(profiles, -1)[:, None, None], "refine/whole", WHOLE, size=1)
    shift = tf.reshape(conv(whole, "refine/shift/sides", 4 * PLACES, size=1, **LINEAR), [-1, 4, PLACES])
    back = tf.math.invert_permutation(order)
    found = tf.stack([sides[0][:, 0], sides[1][:, 0], sides[0][:, 1], sides[1][:, 1]], 1)
    found = tf.gather(found + shift, back) + tf.constant(_prior())
    place = tf.reduce_sum(tf.nn.softmax(found) * tf.range(PLACES, dtype=tf.float32), -1)
    share = place / (PLACES - 1) * (1 + 2 * MARGIN) - MARGIN
    corrected = tf.tile(xyxy[:, :2], [1, 2]) + share * tf.tile(_size(xyxy), [1, 2])
    return Refined(found, corrected)


def _mixed(conv: Conv, pyramid: Any, name: str) -> Any:
    return conv(pyramid, f"refine/{name}/c", FEATURES, size=1, relu=False)


LINEAR = {"relu": False, "normalise": False}


def _size(xyxy: Any) -> Any:
    return tf.maximum(xyxy[:, 2:] - xyxy[:, :2], 1.0)


def _crop(features: Any, stride: int, image_index: Any, xyxy: Any) -> Any:
    """`(N, PLACES, PLACES, C)` samples of the box with its margin."""
    margin = MARGIN * _size(xyxy)
    wide = tf.concat([xyxy[:, :2] - margin, xyxy[:, 2:] + margin], -1)
    shape = tf.cast(tf.shape(features)[1:3], tf.float32)
    yxyx = (tf.gather(wide, [1, 0, 3, 2], axis=1) / stride - 0.5) / (tf.tile(shape, [2]) - 1)
    return tf.image.crop_and_resize(features, yxyx, image_index, [PLACES, PLACES])


def _rows_and_columns() -> np.ndarray:
    """`(1, H, W, H + W)`, in each place one where its row and its column are; both half of PLACES."""
    eye, steps = np.eye(PLACES // 2, dtype=np.float32), PLACES // 2
    rows = np.broadcast_to(eye[:, None], (steps, steps, steps))
    columns = np.broadcast_to(eye[None], (steps, steps, steps))
    return np.concatenate([rows, columns], -1)[None]


def _prior() -> np.ndarray:
    """`(4, PLACES)` logits to start from: every side stays where it is."""
    still = MARGIN / (1 + 2 * MARGIN) * (PLACES - 1)
    middle = np.array([still, still, PLACES - 1 - still, PLACES - 1 - still])[:, None]
    return (-0.5 * ((np.arange(PLACES) - middle) / PRIOR_WIDTH) ** 2).astype(np.float32)
