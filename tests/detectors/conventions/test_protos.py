from __future__ import annotations

import contextlib
import importlib
from pathlib import Path

import numpy as np
import pytest

from prelabel.detectors.conventions.protos import CALL, read_graph
from prelabel.detectors.conventions.recognize import recognize
from prelabel.errors import DetectorError
from tests.models import Models


def test_signatures_equal_those_of_tensorflow(models: Models) -> None:
    saved_model_pb2 = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2")
    dtypes = importlib.import_module("tensorflow").dtypes
    for folder in (models.hub_module, models.mask_rcnn, models.classifier):
        reference = saved_model_pb2.SavedModel()
        reference.ParseFromString((folder / "saved_model.pb").read_bytes())
        (meta,) = reference.meta_graphs
        graph = read_graph(folder)
        assert graph.tags == (tuple(meta.meta_info_def.tags),)
        assert graph.tensorflow == meta.meta_info_def.tensorflow_version
        by_name = {signature.name: signature for signature in graph.signatures if signature.name != CALL}
        assert set(by_name) == {name for name in meta.signature_def if not name.startswith("__")}
        for name, signature in by_name.items():
            for tensors, expected in (
                (signature.inputs, meta.signature_def[name].inputs),
                (signature.outputs, meta.signature_def[name].outputs),
            ):
                assert {tensor.name for tensor in tensors} == set(expected)
                for tensor in tensors:
                    info = expected[tensor.name]
                    assert tensor.dtype == dtypes.as_dtype(info.dtype).name
                    sizes = [None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]
                    assert tensor.shape == (None if info.tensor_shape.unknown_rank else tuple(sizes))


def test_calls_equal_those_of_tensorflow(models: Models) -> None:
    graph = read_graph(models.mask_rcnn)
    call = next(signature for signature in graph.signatures if signature.name == CALL)
    served = next(signature for signature in graph.signatures if signature.name == "serving_default")
    assert call.inputs == served.inputs
    assert call.outputs == served.outputs


def test_real_models_are_recognized(assets: Path) -> None:
    hub = recognize(read_graph(assets / "models/openimages-hub-module").signatures)
    assert (hub.signature, hub.input.dtype, hub.masks) == ("default", "float32", False)
    masks = recognize(read_graph(assets / "models/maskrcnn-tf2").signatures)
    assert (masks.signature, masks.input.dtype, masks.masks) == ("serving_default", "uint8", True)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "corrupt"), (b"\x08\x01", "no graph"), (b"<html>", "corrupt")],
)
def test_corrupt_file_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(data)
    with pytest.raises(DetectorError, match=message):
        read_graph(tmp_path)


def test_noise_in_the_file_is_a_detector_error_or_a_graph(models: Models, tmp_path: Path) -> None:
    good = (models.hub_module / "saved_model.pb").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(good[: random.integers(1, len(good) + 1)])
        for position in random.integers(0, len(data), 3):
            data[position] = random.integers(0, 256)
        (tmp_path / "saved_model.pb").write_bytes(data)
        with contextlib.suppress(DetectorError):
            read_graph(tmp_path)


def test_text_form_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pbtxt").write_text("")
    with pytest.raises(DetectorError, match=r"saved_model\.pbtxt"):
        read_graph(tmp_path)
