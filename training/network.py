"""The network of `demo-shapes`: a small residual backbone, a feature pyramid, anchor-free heads, dynamic masks.

Every convolution goes through one function `conv(x, name, channels, ...)`. While training that is `TrainableConvs`
(variables and batch normalisation), in the shipped model `FoldedConvs` (constants, normalisation folded into them):
the architecture below is written once.

    image (H, W multiples of 64) -> strides 2, 4 (mask features), 8, 16, 32, 64 (heads)

At every cell of the four head levels: class scores, the distances to the four sides of the box as distributions over
`BINS` whole strides (Li et al., Generalized Focal Loss, 2020), and a vector from which the weights of that instance's
own tiny mask network are made (Tian et al., Conditional Convolutions for Instance Segmentation, 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

STRIDES = (8, 16, 32, 64)
BINS = 10
EARLY = 16
NECK = 48
MASK_FEATURES = 12
MASK_HIDDEN = 8
MASK_SIZE = 33
MASK_WEIGHTS = (MASK_FEATURES + 2 + 1) * MASK_HIDDEN + (MASK_HIDDEN + 1) * MASK_HIDDEN + MASK_HIDDEN + 1

SMALL_AT_FIRST = ("classes", "distances", "mask/weights", "sides", "tune", "place")

Conv = Callable[..., Any]


class Outputs(NamedTuple):
    """What the network says of a batch; A cells, all levels one after the other, finest first.

    Attributes:
        logits: `(B, A, classes)`.
        distances: `(B, A, 4, BINS)` logits of left, top, right, bottom.
        cells: `(B, A, NECK)` the feature vector of each cell, from which `mask_weights` makes the mask network.
        mask_features: `(B, H/4, W/4, MASK_FEATURES)`.
        early: `(B, H/4, W/4, EARLY)` what is there before the pyramid, for a second look at boxes.
        pyramid: `(B, H/8, W/8, NECK)` the finest level of the pyramid, for the same.
    """

    logits: Any
    distances: Any
    cells: Any
    mask_features: Any
    early: Any
    pyramid: Any


def forward(conv: Conv, images: Any, classes: int) -> Outputs:
    """Run the network on `(B, H, W, 3)` float32 in -1..1, H and W multiples of 64."""
    x = conv(images, "stem1", 12, stride=2)
    c2 = conv(x, "stem2", EARLY, stride=2)
    c2 = conv(c2, "stem3", EARLY)
    x, levels = c2, []
    for name, channels, blocks in (("s8", 48, 1), ("s16", 80, 1), ("s32", 128, 2), ("s64", 128, 1)):
        x = conv(x, f"{name}/down", channels, stride=2)
        for block in range(blocks):
            y = conv(x, f"{name}/{block}/a", channels)
            x = tf.nn.relu(x + conv(y, f"{name}/{block}/b", channels, relu=False))
        levels.append(x)
    top: Any = None
    pyramid: list[Any] = []
    for level in reversed(range(4)):
        lateral = conv(levels[level], f"neck/lateral{level}", NECK, size=1, relu=False)
        top = lateral if top is None else lateral + double(top)
        pyramid.insert(0, conv(tf.nn.relu(top), f"neck/smooth{level}", NECK))
    logits, distances, cells = [], [], []
    for level, x in enumerate(pyramid):
        x = conv(x, "tower", NECK, level=level)
        batch, count = tf.shape(x)[0], tf.shape(x)[1] * tf.shape(x)[2]
        cells.append(tf.reshape(x, [batch, count, NECK]))
        distance = conv(x, "distances", 4 * BINS, size=1, relu=False, normalise=False)
        distances.append(tf.reshape(distance, [batch, count, 4, BINS]))
        # What it is needs a look of its own; where it is can be told from the shared features.
        x = tf.nn.relu(x + conv(x, "tower/class/b", NECK, relu=False, level=level))
        logits.append(
            tf.reshape(conv(x, "classes", classes, size=1, relu=False, normalise=False), [batch, count, classes])
        )
    fine = conv(c2, "mask/fine", 16, size=1, relu=False) + double(
        conv(pyramid[0], "mask/coarse", 16, size=1, relu=False)
    )
    return Outputs(
        tf.concat(logits, 1),
        tf.concat(distances, 1),
        tf.concat(cells, 1),
        conv(tf.nn.relu(fine), "mask/out", MASK_FEATURES),
        c2,
        pyramid[0],
    )


def double(x: Any) -> Any:
    """Each pixel as a block of 2 x 2."""
    shape = tf.shape(x)
    x = tf.tile(x[:, :, None, :, None, :], [1, 1, 2, 1, 2, 1])
    return tf.reshape(x, [shape[0], 2 * shape[1], 2 * shape[2], x.shape[-1]])


def cell_centres(height: Any, width: Any) -> tuple[Any, Any]:
    """`(A, 2)` x, y of every cell in pixels of the input, and `(A,)` strides, in the order of `Outputs`."""
    points, strides = [], []
    for stride in STRIDES:
        rows, columns = height // stride, width // stride
        x = (tf.cast(tf.range(columns), tf.float32) + 0.5) * stride
        y = (tf.cast(tf.range(rows), tf.float32) + 0.5) * stride
        grid = tf.stack(tf.meshgrid(x, y), axis=-1)
        points.append(tf.reshape(grid, [-1, 2]))
        strides.append(tf.fill([rows * columns], float(stride)))
    return tf.concat(points, 0), tf.concat(strides, 0)


def decode_boxes(distances: Any, points: Any, strides: Any) -> Any:
    """Distance logits `(..., 4, BINS)` at `(..., 2)` points -> x1 y1 x2 y2 pixels of the input."""
    mean = tf.reduce_sum(tf.nn.softmax(distances) * tf.range(BINS, dtype=tf.float32), axis=-1) * strides[..., None]
    return tf.concat([points - mean[..., :2], points + mean[..., 2:]], axis=-1)


def deviations(logits: Any) -> Any:
    """How far from their means the places drawn from `(..., N)` logits are: `(...)` standard deviations, in places."""
    p, places = tf.nn.softmax(logits), tf.range(logits.shape[-1], dtype=tf.float32)
    mean = tf.reduce_sum(p * places, axis=-1, keepdims=True)
    return tf.sqrt(tf.reduce_sum(p * tf.square(places - mean), axis=-1))


def mask_logits(mask_features: Any, image_index: Any, xyxy: Any, weights: Any) -> Any:
    """Masks inside boxes, `(N, MASK_SIZE, MASK_SIZE)` logits.

    Args:
        mask_features: `(B, H/4, W/4, MASK_FEATURES)`.
        image_index: `(N,)` which of the batch each box belongs to.
        xyxy: `(N, 4)` where the first and the last sample lie, as pixel *indices* of the input (index 0 is the centre
            of the first pixel): this is how TensorFlow pastes such masks back (`tf.image.crop_and_resize`).
        weights: `(N, MASK_WEIGHTS)`.
    """
    shape = tf.cast(tf.shape(mask_features)[1:3], tf.float32)
    # Input pixel index p lies at (p + 0.5) / 4 - 0.5 of the features; crop_and_resize counts 0..1 from first to last.
    yxyx = ((tf.gather(xyxy, [1, 0, 3, 2], axis=1) + 0.5) / 4 - 0.5) / (tf.tile(shape, [2]) - 1)
    crops = tf.image.crop_and_resize(mask_features, yxyx, image_index, [MASK_SIZE, MASK_SIZE])
    samples = MASK_SIZE * MASK_SIZE
    x = tf.reshape(crops, [-1, samples, MASK_FEATURES])
    axis = np.linspace(-1, 1, MASK_SIZE, dtype=np.float32)
    where = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(1, samples, 2)
    start = 0
    for layer, fan_in, fan_out in (
        (0, MASK_FEATURES + 2, MASK_HIDDEN),
        (1, MASK_HIDDEN, MASK_HIDDEN),
        (2, MASK_HIDDEN, 1),
    ):
        kernel = tf.reshape(weights[:, start : start + fan_in * fan_out], [-1, fan_in, fan_out])
        start += fan_in * fan_out
        bias = weights[:, None, start : start + fan_out]
        start += fan_out
        if layer == 0:
            # The sample's place in the box is the same for every instance: it enters as a bias of its own.
            bias += tf.matmul(tf.constant(where), kernel[:, MASK_FEATURES:])
            kernel = kernel[:, :MASK_FEATURES]
        x = tf.matmul(x, kernel) + bias
        if layer < 2:
            x = tf.nn.relu(x)
    return tf.reshape(x, [-1, MASK_SIZE, MASK_SIZE])


def mask_weights(conv: Conv, cells: Any) -> Any:
    """`(N, NECK)` feature vectors of cells -> `(N, MASK_WEIGHTS)`."""
    return conv(cells[:, None, None, :], "mask/weights", MASK_WEIGHTS, size=1, relu=False, normalise=False)[:, 0, 0, :]


class TrainableConvs:
    """Convolutions with variables, made when first used; batch normalisation from the batch or from moving averages.

    Attributes:
        weights: Trained variables by name.
        averages: Moving means and variances by name.
        training: Which of the two normalises.
    """

    momentum = 0.98
    epsilon = 1e-3

    def __init__(self, seed: int) -> None:
        self.weights: dict[str, Any] = {}
        self.averages: dict[str, Any] = {}
        self.training = True
        self._rng = np.random.default_rng(seed)

    def _variable(self, store: dict[str, Any], name: str, value: Callable[[], Any]) -> Any:
        if name not in store:
            store[name] = tf.Variable(np.asarray(value(), np.float32), trainable=False, name=name.replace("/", "_"))
        return store[name]

    def _kernel(self, name: str, size: tuple[int, int], fan_in: int, channels: int) -> Any:
        scale = 0.01 if name.endswith(SMALL_AT_FIRST) else np.sqrt(2 / (size[0] * size[1] * fan_in))
        return self._rng.normal(0, scale, (*size, fan_in, channels))

    def _bias(self, name: str, channels: int) -> Any:
        bias = np.zeros(channels)
        if name == "classes":
            bias -= 4.6  # every class starts as improbable: sigmoid(-4.6) = 0.01
        if name == "mask/weights":
            # A starting mask network that is no constant: small random weights, no bias.
            bias = self._rng.normal(0, 0.3, channels)
        return bias

    def __call__(
        self,
        x: Any,
        name: str,
        channels: int,
        *,
        size: int | tuple[int, int] = 3,
        stride: int = 1,
        relu: bool = True,
        normalise: bool = True,
        level: int | None = None,
    ) -> Any:
        """Convolution, normalisation or bias, and relu. `level`: one kernel for all levels, averages for each."""
        fan_in, shape = x.shape[-1], (size, size) if isinstance(size, int) else size
        kernel = self._variable(self.weights, f"{name}/kernel", lambda: self._kernel(name, shape, fan_in, channels))
        if not normalise:
            x = tf.nn.conv2d(x, kernel, stride, "SAME")
            return x + self._variable(self.weights, f"{name}/bias", lambda: self._bias(name, channels))
        key = name if level is None else f"{name}/{level}"
        if self.training:
            # Products in bfloat16, sums in float32: 1.4 times the speed on a processor with avx512_bf16.
            x, kernel = tf.cast(x, tf.bfloat16), tf.cast(kernel, tf.bfloat16)
        x = tf.cast(tf.nn.conv2d(x, kernel, stride, "SAME"), tf.float32)
        gamma_start = 0.0 if name.endswith("/b") else 1.0  # residual branches start silent
        gamma = self._variable(self.weights, f"{key}/gamma", lambda: np.full(channels, gamma_start))
        beta = self._variable(self.weights, f"{key}/beta", lambda: np.zeros(channels))
        mean = self._variable(self.averages, f"{key}/mean", lambda: np.zeros(channels))
        variance = self._variable(self.averages, f"{key}/variance", lambda: np.ones(channels))
        if self.training:
            x, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, epsilon=self.epsilon)
            mean.assign(mean * self.momentum + batch_mean * (1 - self.momentum))
            variance.assign(variance * self.momentum + batch_variance * (1 - self.momentum))
        else:
            factor = gamma * tf.math.rsqrt(variance + self.epsilon)
            x = x * factor + (beta - mean * factor)
        return tf.nn.relu(x) if relu else x


class FoldedConvs:
    """The same convolutions as constants: normalisation folded into kernel and bias, stored as float16.

    Args:
        values: Name -> array, of all weights and averages of a `TrainableConvs`.
    """

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        self._values = values

    def __call__(
        self,
        x: Any,
        name: str,
        channels: int,
        *,
        size: int | tuple[int, int] = 3,
        stride: int = 1,
        relu: bool = True,
        normalise: bool = True,
        level: int | None = None,
    ) -> Any:
        """As `TrainableConvs.__call__`."""
        kernel = self._values[f"{name}/kernel"]
        if normalise:
            key = name if level is None else f"{name}/{level}"
            v = {part: self._values[f"{key}/{part}"] for part in ("gamma", "beta", "mean", "variance")}
            factor = v["gamma"] / np.sqrt(v["variance"] + TrainableConvs.epsilon)
            kernel, bias = kernel * factor, v["beta"] - v["mean"] * factor
        else:
            bias = self._values[f"{name}/bias"]
        kernel = tf.cast(tf.constant(kernel.astype(np.float16)), tf.float32)
        bias = tf.constant(bias.astype(np.float32))
        if x.shape[1:3] == (1, 1):
            # Vectors, not pictures: of none at all, as when nothing was found, a convolution makes the wrong shape.
            x = (tf.matmul(x[:, 0, 0], kernel[0, 0]) + bias)[:, None, None]
        else:
            x = tf.nn.bias_add(tf.nn.conv2d(x, kernel, stride, "SAME"), bias)
        return tf.nn.relu(x) if relu else x
