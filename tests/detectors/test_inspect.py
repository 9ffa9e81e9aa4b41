from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prelabel.detectors.conventions.op_audit import UNSAFE_OPERATIONS, UnsafeOperation
from prelabel.detectors.conventions.resolve_model import find_labels, prepare
from prelabel.detectors.inspect import catalog_table, format_report, inspect_model
from prelabel.detectors.models.catalog import CATALOG, lookup
from prelabel.detectors.models.fetch import LocalModel
from prelabel.errors import DetectorError
from tests.messages import tells
from tests.models import Models, build_hub_module


def test_report_of_a_hub_module(models: Models) -> None:
    text = format_report(inspect_model(str(models.hub_module)))
    assert "format       TF1 hub module" in text
    assert "tags         none" in text
    assert "  input      images: float32 [1, ?, ?, 3]" in text
    assert "  output     detection_class_entities: string [100]" in text
    assert "recognized   TF Object Detection by signature 'default' (float32, class numbers, class strings)" in text
    assert "input range  0..1: it is a hub module (tfhub_module.pb) with the input `images`" in text
    assert "label map    none; the model returns class names itself" in text
    assert "\noperations   none that runs" in text
    assert "signature    default, which is used" in text
    assert tells(text.splitlines()[-1], "usable", "yes", "label")


def test_report_of_a_mask_model(models: Models) -> None:
    report = inspect_model(str(models.mask_rcnn), label_map="coco")
    text = format_report(report)
    assert report.convention is not None
    assert "tags         serve" in text
    assert "signature    serving_default, which is used" in text
    assert "label map    coco, 80 classes" in text
    assert report.size > 10_000
    assert report.model.fingerprint in text
    without = format_report(inspect_model(str(models.mask_rcnn)))
    assert tells(without, "label map    none", "numbers", "--label-map")


def test_report_of_a_broken_label_map_inside(models: Models, tmp_path: Path) -> None:
    path = build_hub_module(tmp_path / "m", variables="absent")
    (path / "assets").mkdir(exist_ok=True)
    (path / "assets/labels.csv").write_text("id,name\nx,y\n")
    assert "'assets/labels.csv': line 2: 'x'" in format_report(inspect_model(str(path)))


def build_unknown(path: Path) -> Path:
    """Takes a file's name, reads it, writes it elsewhere and calls Python: all that a detector should not do."""
    import tensorflow as tf

    class Model(tf.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.count = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="name")])  # type: ignore[misc]
        def __call__(self, name: Any) -> dict[str, Any]:
            tf.io.write_file(name + ".copy", tf.io.read_file(name))
            tf.raw_ops.SaveV2(
                prefix=name, tensor_names=["x"], shape_and_slices=[""], tensors=[tf.constant(1.0) + self.count]
            )
            return {"length": tf.strings.length(name)}

    model = Model()
    tf.saved_model.save(model, str(path), signatures=model.__call__)
    return path


def test_report_of_an_unknown_model_lists_unsafe_operations(tmp_path: Path) -> None:
    path = build_unknown(tmp_path / "m")
    report = inspect_model(str(path))
    assert report.convention is None
    assert {operation.operation for operation in report.unsafe_operations if operation.runs} == {
        "ReadFile",
        "WriteFile",
        "SaveV2",
    }
    text = format_report(report)
    assert re.search(r"\nrecognized   no; known conventions: .*TF Object Detection", text)
    assert tells(text.splitlines()[-1], "usable", "no", "label", "refuses")
    assert "warning      WriteFile writes files (__inference" in text
    with pytest.raises(DetectorError, match=r"Found: serving_default\(name: string \[\]\) -> length: int32 \[\]"):
        prepare(str(path))


def test_every_listed_operation_exists_in_tensorflow() -> None:
    import tensorflow as tf

    missing = [name for name in UNSAFE_OPERATIONS if not hasattr(tf.raw_ops, name)]
    assert missing == []


def test_catalog_names_the_classes_of_coco_only(tmp_path: Path) -> None:
    for entry in CATALOG:
        labels = find_labels(LocalModel(tmp_path, "0" * 64, entry.name, "", entry), None)
        assert (labels is not None) == (entry.name == "coco-mask-rcnn-inception-resnet-v2")


def test_catalog_table_has_a_row_per_model() -> None:
    rows = catalog_table()
    assert [row["name"] for row in rows] == [entry.name for entry in CATALOG]
    assert all(lookup(row["address"]) for row in rows)
    assert rows[2]["gives"] == "boxes, masks"
    assert all(all(row.values()) for row in rows)


def test_preparing_needs_no_tensorflow(models: Models) -> None:
    code = (
        "import sys; from prelabel.detectors.conventions.resolve_model import prepare\n"
        "print(prepare(sys.argv[1]).record.convention)\n"
        "sys.exit('tensorflow' in sys.modules or 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, models.mask_rcnn], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "TF Object Detection" in done.stdout


def test_a_signature_with_the_same_inputs_and_outputs_is_listed_once(models: Models) -> None:
    report = inspect_model(str(models.mask_rcnn))
    (signature,) = [one for one in report.graph.signatures if one.name == "serving_default"]
    twice = replace(report, graph=replace(report.graph, signatures=(signature, replace(signature, name="__call__"))))
    text = format_report(twice)
    assert text.count("output     detection_masks") == 1
    assert "signature    __call__, the same as serving_default" in text


def test_a_model_that_needs_trust_is_usable_only_with_the_option(models: Models) -> None:
    report = inspect_model(str(models.mask_rcnn))
    unsafe = replace(report, unsafe_operations=(UnsafeOperation("ReadFile", "reads files", "f", count=1, runs=True),))
    assert tells(format_report(unsafe).splitlines()[-1], "usable", "only", "--trust-model")
    assert tells(format_report(unsafe, trusted=True).splitlines()[-1], "usable", "yes")
