"""What is used of TensorFlow's private modules: these tests fail where a release has moved it."""

from __future__ import annotations

import importlib
import inspect
from typing import Any


def parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def test_variables_are_still_frozen_by_a_function_with_one_required_argument() -> None:
    module = importlib.import_module("tensorflow.python.framework.convert_to_constants")
    required = [
        name
        for name, parameter in inspect.signature(module.convert_variables_to_constants_v2).parameters.items()
        if parameter.default is inspect.Parameter.empty
    ]
    assert required == ["func"]


def test_grappler_still_optimizes_a_graph_for_given_devices() -> None:
    optimizer = importlib.import_module("tensorflow.python.grappler.tf_optimizer")
    cluster = importlib.import_module("tensorflow.python.grappler.cluster")
    assert {"config_proto", "metagraph", "cluster"} <= parameters(optimizer.OptimizeGraph)
    assert "devices" in parameters(cluster.Cluster)
