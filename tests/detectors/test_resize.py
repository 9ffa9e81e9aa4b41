"""The size to which a graph resizes its picture: told from the graph, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prelabel.detectors.prepare import prepare
from prelabel.detectors.reading import Stated
from prelabel.detectors.resize import fixed_resize, working_size
from tests.models import Models

Build = Callable[[Any, Any], Any]


def size_in(build: Build, dtype: str = "float32") -> tuple[int, int] | None:
    """What is told of a TF1 graph that does this with its picture."""
    import tensorflow as tf

    with tf.compat.v1.Graph().as_default() as graph:
        picture = tf.compat.v1.placeholder(getattr(tf, dtype), [1, None, None, 3], name="images")
        build(tf, picture)
        return fixed_resize(memoryview(graph.as_graph_def().SerializeToString()))


def resize(tf: Any, picture: Any, size: Any = (200, 300)) -> Any:
    return tf.compat.v1.image.resize_bilinear(picture, size)


def network(tf: Any, picture: Any) -> Any:
    return tf.nn.conv2d(picture, tf.zeros([3, 3, 3, 8]), 2, "SAME")


def test_a_resize_to_a_constant_size_is_told() -> None:
    assert size_in(lambda tf, picture: network(tf, resize(tf, picture))) == (200, 300)


def test_and_so_it_is_after_scaling_and_beside_the_pictures_shape() -> None:
    def build(tf: Any, picture: Any) -> None:
        tf.cast(tf.shape(picture)[1:3], tf.float32)
        network(tf, resize(tf, tf.squeeze(tf.expand_dims(tf.cast(picture, tf.float32) / 127.5 - 1.0, 0), 0)))

    assert size_in(build, "uint8") == (200, 300)


def test_and_in_functions_that_are_called() -> None:
    def build(tf: Any, picture: Any) -> None:
        @tf.function  # type: ignore[misc]
        def inner(scale: Any, image: Any) -> Any:
            return network(tf, tf.image.resize(image * scale, [96, 64]))

        @tf.function  # type: ignore[misc]
        def outer(image: Any) -> Any:
            return inner(tf.constant(2.0), image)

        outer(picture)

    assert size_in(build) == (96, 64)


@pytest.mark.parametrize(
    "build",
    [
        lambda tf, picture: network(tf, picture),
        lambda tf, picture: None,
        lambda tf, picture: resize(tf, picture, tf.shape(picture)[1:3] // 2),
        lambda tf, picture: (resize(tf, picture), network(tf, picture)),
        lambda tf, picture: (resize(tf, picture), resize(tf, picture, (100, 100))),
        lambda tf, picture: resize(tf, network(tf, picture)),
        lambda tf, picture: (resize(tf, picture), tf.function(lambda image: image * 2.0)(picture)),
    ],
    ids=["no resize", "nothing", "computed", "also in full", "two sizes", "features", "leaves a function"],
)
def test_nothing_is_told_of_a_graph_that_does_anything_else(build: Build) -> None:
    assert size_in(build) is None


def test_models_that_look_at_every_pixel_have_no_size(models: Models) -> None:
    assert working_size(prepare(str(models.mask_rcnn))) is None
    assert working_size(prepare(str(models.hub_module))) is None


def test_a_classifier_looks_at_its_input_size_and_the_demo_network_at_what_the_catalogue_says(models: Models) -> None:
    assert working_size(prepare(str(models.classifier), stated=Stated(activation="logits"))) == 128
    assert working_size(prepare("demo-shapes")) == 512


def test_a_network_that_is_not_in_the_catalogue_has_only_what_its_graph_says() -> None:
    model = prepare("demo-shapes")
    assert working_size(replace(model, local=replace(model.local, entry=None))) is None


@pytest.mark.slow
def test_the_real_module_says_its_size(assets: Path) -> None:
    assert working_size(prepare(str(assets / "models/openimages-hub-module"))) == 300
    assert working_size(prepare(str(assets / "models/maskrcnn-tf2"))) is None
