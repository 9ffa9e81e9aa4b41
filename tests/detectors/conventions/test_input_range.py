"""What a graph says of the range of its input: told from what it does with it, or not at all."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from prelabel.detectors.conventions.graph import Entry, Functions, GraphBody, Node, Scope, main_scope
from prelabel.detectors.conventions.input_range import Evidence, range_in

Build = Callable[[Any, Any], Any]

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BYTES_MEAN = [123.68, 116.779, 103.939]


def said_of(build: Build, dtype: str = "float32", *, old_loops: bool = False) -> Evidence:
    """What is said of a graph that does this with its picture, and then convolves it."""
    import tensorflow as tf

    with tf.compat.v1.Graph().as_default() as graph:
        if old_loops:
            tf.compat.v1.disable_control_flow_v2()
        try:
            picture = tf.compat.v1.placeholder(getattr(tf, dtype), [1, None, None, 3], name="images")
            build(tf, picture)
        finally:
            tf.compat.v1.enable_control_flow_v2()
        data = memoryview(graph.as_graph_def().SerializeToString())
    return range_in(Entry(main_scope(data), "images:0", {}))


def network(tf: Any, picture: Any) -> Any:
    return tf.nn.conv2d(picture, tf.zeros([3, 3, 3, 8], picture.dtype), 2, "SAME")


def nested(tf: Any, x: Any) -> Any:
    @tf.function  # type: ignore[misc]
    def inner(scale: Any, image: Any) -> Any:
        return image * scale - 1.0

    @tf.function  # type: ignore[misc]
    def outer(image: Any) -> Any:
        return inner(tf.constant(1 / 127.5), tf.image.resize(image, [32, 32])), tf.shape(image)

    return outer(x)[0]


def preprocessed_one_by_one(tf: Any, x: Any) -> Any:
    """As the TF Object Detection API does."""

    def one(image: Any) -> Any:
        return tf.image.resize(image, [40, 40]) * (2.0 / 255.0) - 1.0

    return tf.map_fn(one, x, fn_output_signature=tf.float32, parallel_iterations=1)


def channel_by_channel(tf: Any, x: Any) -> Any:
    parts = [(x[..., i] / 255.0 - MEAN[i]) / STD[i] for i in range(3)]
    return tf.stack(parts, axis=-1)


def branches(tf: Any, x: Any) -> Any:
    return tf.cond(tf.shape(x)[1] > 100, lambda: tf.image.resize(x, [64, 64]) / 255.0, lambda: x / 255.0)


def fold_constants(tf: Any, x: Any) -> Any:
    """Constants that are computed from constants, as Keras's Normalization leaves them."""
    deviation = tf.maximum(tf.sqrt(tf.constant(np.square(STD) * 255**2, tf.float32)), 1e-7)
    return (x - tf.constant(MEAN) * 255.0) / tf.reshape(deviation, [1, 1, 1, 3])


SAID: dict[str, tuple[Build, str]] = {
    "x / 255": (lambda tf, x: x / 255.0, "0..255"),
    "x * (1 / 255)": (lambda tf, x: x * (1 / 255.0), "0..255"),
    "x / 256": (lambda tf, x: x / 256.0, "0..255"),
    "x / 127.5 - 1": (lambda tf, x: x / 127.5 - 1.0, "0..255"),
    "x * (1 / 127.5) - 1": (lambda tf, x: x * (1 / 127.5) - 1.0, "0..255"),
    "x * (1 / 127.5) + -1": (lambda tf, x: x * (1 / 127.5) + tf.constant(-1.0), "0..255"),
    "(x - 127.5) / 127.5": (lambda tf, x: (x - 127.5) / 127.5, "0..255"),
    "(x - 127.5) / 128": (lambda tf, x: (x - 127.5) * 0.0078125, "0..255"),
    "(x - 128)": (lambda tf, x: x - 128.0, "0..255"),
    "2 * (x / 255) - 1": (lambda tf, x: 2.0 * (x / 255.0) - 1.0, "0..255"),
    "x / 255 - 0.5": (lambda tf, x: tf.subtract(tf.divide(x, 255.0), 0.5), "0..255"),
    "less the means": (lambda tf, x: x - tf.constant(BYTES_MEAN), "0..255"),
    "less the means, turned to BGR": (
        lambda tf, x: tf.nn.bias_add(x[..., ::-1], [-m for m in BYTES_MEAN[::-1]]),
        "0..255",
    ),
    "less the means, by deviation": (lambda tf, x: (x - [123.7, 116.3, 103.5]) / [58.4, 57.1, 57.4], "0..255"),
    "x / 255, then less the means": (lambda tf, x: (x / 255.0 - MEAN) / STD, "0..255"),
    "constants of constants": (fold_constants, "0..255"),
    "channel by channel": (channel_by_channel, "0..255"),
    "functions": (nested, "0..255"),
    "one by one": (preprocessed_one_by_one, "0..255"),
    "branches": (branches, "0..255"),
    "resized, cast, transposed": (
        lambda tf, x: tf.transpose(tf.cast(tf.image.resize(x, [9, 9]), tf.float16), [0, 2, 1, 3]) / 255.0,
        "0..255",
    ),
    "bytes": (lambda tf, x: tf.cast(tf.cast(x, tf.uint8), tf.float32), "0..255"),
    "clipped to bytes": (lambda tf, x: tf.clip_by_value(x, 0.0, 255.0), "0..255"),
    "2 x - 1": (lambda tf, x: x * 2.0 - 1.0, "0..1"),
    "(x - 0.5) / 0.5": (lambda tf, x: (x - 0.5) / 0.5, "0..1"),
    "(x - 0.5) * 2": (lambda tf, x: (x - 0.5) * 2.0, "0..1"),
    "x - 0.5": (lambda tf, x: x - 0.5, "0..1"),
    "2 (1 - x) - 1": (lambda tf, x: 2.0 * (1.0 - x) - 1.0, "0..1"),
    "means in 0..1": (lambda tf, x: (x - MEAN) / STD, "0..1"),
    "MNIST": (lambda tf, x: (x - 0.1307) / 0.3081, "0..1"),
    "MNIST in bytes": (lambda tf, x: (x - 33.3) / 78.6, "0..255"),
    "Fashion-MNIST": (lambda tf, x: (x - 0.2860) / 0.3530, "0..1"),
    "dark images": (lambda tf, x: (x - [0.21, 0.19, 0.17]) / [0.31, 0.30, 0.30], "0..1"),
    "more contrast": (lambda tf, x: (x - 0.5) * 1.5 + 0.5, "0..1"),
    "1 - x": (lambda tf, x: 1.0 - x, "0..1"),
    "255 - x": (lambda tf, x: 255.0 - x, "0..255"),
    "clipped to -1..1": (lambda tf, x: tf.clip_by_value(x, -1.0, 1.0), "-1..1"),
    "255 x": (lambda tf, x: 255.0 * x, "0..1"),
    "255 x less the means": (lambda tf, x: 255.0 * x - BYTES_MEAN, "0..1"),
    "255 x as bytes": (lambda tf, x: tf.cast(tf.cast(255.0 * x, tf.uint8), tf.float32) / 255.0, "0..1"),
    "clipped to 0..1": (lambda tf, x: tf.clip_by_value(x, 0.0, 1.0), "0..1"),
    "(x + 1) / 2": (lambda tf, x: (x + 1.0) / 2.0, "-1..1"),
    "(x + 1) * 127.5": (lambda tf, x: (x + 1.0) * 127.5, "-1..1"),
}


@pytest.mark.parametrize("name", SAID)
def test_the_first_operations_of_a_graph_show_its_range(name: str) -> None:
    build, expected = SAID[name]
    evidence = said_of(lambda tf, x: network(tf, build(tf, x)))
    assert evidence.range == expected, evidence
    assert evidence.why.startswith("the graph computes ")


def test_loops_of_old_graphs_are_followed_too() -> None:
    evidence = said_of(lambda tf, x: network(tf, preprocessed_one_by_one(tf, x)), old_loops=True)
    assert evidence.range == "0..255", evidence


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x / 255", "the graph computes x / 255 first"),
        ("x * (1 / 127.5) - 1", "the graph computes x / 127.5 - 1 first"),
        ("2 x - 1", "the graph computes 2 x - 1 first"),
        ("means in 0..1", "the graph computes (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225] first"),
        ("less the means", "the graph computes x - [123.7, 116.8, 103.9] first"),
    ],
)
def test_the_reason_is_what_the_graph_computes(name: str, words: str) -> None:
    assert said_of(lambda tf, x: network(tf, SAID[name][0](tf, x))).why == words


def by_a_variable(tf: Any, x: Any) -> Any:
    return x / tf.compat.v1.get_variable("scale", initializer=255.0)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda tf, x: x, "does not scale its image"),
        (lambda tf, x: tf.image.resize(x, [8, 8]), "does not scale its image"),
        (by_a_variable, "does not scale its image"),
        (lambda tf, x: tf.image.per_image_standardization(x), "does not scale its image"),
        (lambda tf, x: x / (255.0 * 255.0), "fits none of 0..1, 0..255, -1..1"),
        (lambda tf, x: x * 3.2 + 7.0, "fits none"),
        (lambda tf, x: 0.7 * x, "fits none"),
        (lambda tf, x: 1.5 * x, "fits none"),
        (lambda tf, x: 0.6 * x + 0.4 * tf.nn.avg_pool2d(x, 3, 1, "SAME"), "fits none"),
        (lambda tf, x: 0.5 * x + 0.5 * tf.reverse(x, [2]), "fits none"),
        (lambda tf, x: tf.nn.avg_pool2d(x, 3, 1, "SAME") + 0.5 * x, "fits none"),
        # ImageNet's means and deviations turned into those of other networks, as torchvision's transform_input does.
        (lambda tf, x: x * (np.array(STD) / 0.5) + (np.array(MEAN) - 0.5) / 0.5, "fits none"),
        (lambda tf, x: x * [0.52, 0.49, 0.55] + [0.02, -0.01, 0.03], "fits none"),
        (lambda tf, x: x * tf.clip_by_value(x, 0.0, 1.0), "unscaled elsewhere"),
        (lambda tf, x: x * tf.cast(tf.cast(x, tf.uint8), tf.float32), "unscaled elsewhere"),
        (lambda tf, x: tf.nn.relu(x), "does not scale its image"),
        (lambda tf, x: tf.maximum(x, 0.0), "does not scale its image"),
    ],
)
def test_undecided_graphs_give_no_range(build: Build, words: str) -> None:
    evidence = said_of(lambda tf, x: network(tf, build(tf, x)))
    assert evidence.range is None
    assert words in evidence.why


def test_two_contradictory_scalings_give_no_range() -> None:
    evidence = said_of(lambda tf, x: (network(tf, x / 255.0), network(tf, x * 2.0 - 1.0)))
    assert evidence.range is None
    assert "in two ways: " in evidence.why
    assert "x / 255 first (0..255)" in evidence.why
    assert "2 x - 1 first (0..1)" in evidence.why


def test_path_that_fits_no_range_contradicts_one_that_does() -> None:
    evidence = said_of(lambda tf, x: (network(tf, x / 255.0), network(tf, x * 0.7)))
    assert evidence.range is None
    assert "x / 1.429 first (fits no range)" in evidence.why


def test_other_uses_of_the_image_are_ignored() -> None:
    evidence = said_of(lambda tf, x: (network(tf, x / 255.0), tf.shape(x), tf.reduce_max(x), network(tf, x)))
    assert evidence.range == "0..255"


def test_following_a_loop_that_scales_repeatedly_ends() -> None:
    def build(tf: Any, x: Any) -> Any:
        return tf.while_loop(lambda i, image: i < 3, lambda i, image: (i + 1, image * 1.5), [0, x])[1]

    assert said_of(lambda tf, x: network(tf, build(tf, x))).range is None


def test_a_graph_built_to_be_slow_is_abandoned_quickly() -> None:
    tensor = b"\x08\x01\x12\x00\x22\x04" + struct.pack("<f", 1.0)  # a TensorProto
    value = b"\x42" + bytes([len(tensor)]) + tensor
    entry = memoryview(b"\x0a\x05value\x12" + bytes([len(value)]) + value)
    nodes = [Node("images", "Placeholder", [], []), Node("c0", "Const", [], [entry])]
    # Each constant uses the one before twice, and each function calls the one before twice: 2 to the power of 50.
    nodes += [Node(f"c{n}", "AddV2", [f"c{n - 1}", f"c{n - 1}"], []) for n in range(1, 50)]
    nodes += [Node("scaled", "Mul", ["images", "c49"], []), Node("called", "f49", ["images"], [])]
    functions = {"f0": GraphBody({"m": Node("m", "Identity", ["x"], [])}, ("x",), ("m:output:0",))}
    for n in range(1, 50):
        calls = {name: Node(name, f"f{n - 1}", ["x"], []) for name in ("a", "b")}
        functions[f"f{n}"] = GraphBody(calls, ("x",), ("a:output:0", "b:output:0"))
    main = GraphBody({node.name: node for node in nodes})
    start = time.process_time()
    assert range_in(Entry(Scope(main, Functions(functions)), "images:0", {})).range is None
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        ("uint16", lambda tf, x: tf.cast(x, tf.float32) / 65535.0),
        ("int32", lambda tf, x: tf.cast(x, tf.float32) / 32767.0),
        ("int16", lambda tf, x: (tf.cast(x, tf.float32) + 128.0) / 255.0),
        ("int32", lambda tf, x: tf.cast(x, tf.float32) * 2.0 - 1.0),
    ],
)
def test_an_integer_input_that_the_graph_scales_from_another_range_contradicts_0_to_255(
    dtype: str, scale: Build
) -> None:
    evidence = said_of(lambda tf, x: network(tf, scale(tf, x)), dtype)
    assert evidence.is_scaled, evidence
    assert evidence.range != "0..255", evidence
    evidence = said_of(lambda tf, x: network(tf, tf.cast(x, tf.float32) / 255.0), dtype)
    assert evidence.range == "0..255", evidence
