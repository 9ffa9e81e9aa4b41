"""The size to which a graph resizes its picture: told from the graph, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prelabel.detectors.conventions.resolve_model import ReadingOptions, prepare
from prelabel.detectors.conventions.working_size import fixed_resize, working_size
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


def test_a_resize_to_a_constant_size_is_found() -> None:
    assert size_in(lambda tf, picture: network(tf, resize(tf, picture))) == (200, 300)


def test_a_resize_after_scaling_and_beside_a_shape_query_is_found() -> None:
    def build(tf: Any, picture: Any) -> None:
        tf.cast(tf.shape(picture)[1:3], tf.float32)
        network(tf, resize(tf, tf.squeeze(tf.expand_dims(tf.cast(picture, tf.float32) / 127.5 - 1.0, 0), 0)))

    assert size_in(build, "uint8") == (200, 300)


def test_a_resize_in_called_functions_is_found() -> None:
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
def test_a_graph_with_other_operations_has_no_working_size(build: Build) -> None:
    assert size_in(build) is None


def test_models_that_use_every_pixel_have_no_working_size(models: Models) -> None:
    assert working_size(prepare(str(models.mask_rcnn))) is None
    assert working_size(prepare(str(models.hub_module))) is None


def test_the_working_size_is_the_classifiers_input_or_the_catalogs(models: Models) -> None:
    assert working_size(prepare(str(models.classifier), reading=ReadingOptions(activation="logits"))) == 128
    assert working_size(prepare("demo-shapes")) == 512


def test_a_model_outside_the_catalog_has_only_the_size_in_its_graph() -> None:
    model = prepare("demo-shapes")
    assert working_size(replace(model, local=replace(model.local, entry=None))) is None


@pytest.mark.slow
def test_the_real_module_has_a_working_size(assets: Path) -> None:
    assert working_size(prepare(str(assets / "models/openimages-hub-module"))) == 300
    assert working_size(prepare(str(assets / "models/maskrcnn-tf2"))) is None
