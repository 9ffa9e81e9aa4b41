from __future__ import annotations

import contextlib
import importlib
from pathlib import Path

import numpy as np
import pytest

from prelabel.detectors.conventions.protos import CALL, read_graph
from prelabel.detectors.conventions.recognize import recognize
from prelabel.errors import DetectorError
from prelabel.source.archives.ranges import open_ranges
from prelabel.source.archives.reader import ArchiveReader
from prelabel.source.archives.tf_example import byte_values, float_values, integer_values
from prelabel.source.archives.tfrecord import examples
from prelabel.source.fetch import fetch
from prelabel.source.listing import list_images
from prelabel.storage.address import Address
from prelabel.storage.files import Storage
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


@pytest.mark.parametrize("compression", ["", "GZIP", "ZLIB"])
def test_records_are_those_that_tensorflow_writes_and_reads(tmp_path: Path, compression: str) -> None:
    tensorflow = importlib.import_module("tensorflow")
    train, random = tensorflow.train, np.random.default_rng(7)
    path = str(tmp_path / "x.tfrecord")
    with tensorflow.io.TFRecordWriter(path, tensorflow.io.TFRecordOptions(compression_type=compression)) as writer:
        for number in range(30):
            features = {
                "image/encoded": train.Feature(bytes_list=train.BytesList(value=[random.bytes(number * 99)])),
                "image/filename": train.Feature(bytes_list=train.BytesList(value=[f"{number}.jpg".encode()])),
                "bytes": train.Feature(bytes_list=train.BytesList(value=[random.bytes(9) for _ in range(number)])),
                "floats": train.Feature(float_list=train.FloatList(value=random.normal(size=number))),
                "integers": train.Feature(int64_list=train.Int64List(value=random.integers(-(2**63), 2**63, number))),
                "": train.Feature(),
            }
            writer.write(train.Example(features=train.Features(feature=features)).SerializeToString())
    expected = [
        dict(train.Example.FromString(data).features.feature)
        for data in tensorflow.data.TFRecordDataset(path, compression).as_numpy_iterator()
    ]
    with open_ranges(Address.of(path), Storage(), None) as file:
        records = list(examples(file))
    assert [record.file_name for record in records] == [f"{number}.jpg" for number in range(30)]
    for record, features in zip(records, expected, strict=True):
        assert record.features.keys() == features.keys()
        assert [bytes(record.image)] == list(features["image/encoded"].bytes_list.value)
        assert [*map(bytes, byte_values(record.features["bytes"]))] == list(features["bytes"].bytes_list.value)
        assert float_values(record.features["floats"]).tolist() == list(features["floats"].float_list.value)
        assert integer_values(record.features["integers"]) == list(features["integers"].int64_list.value)
        assert not byte_values(record.features["integers"])
    refs = list(list_images([path], Storage()))
    with ArchiveReader(Storage()) as archives:
        images = [fetch(ref, Storage(), 1 << 20, archives=archives) for ref in refs]
    assert images == [bytes(record.image) for record in records]
