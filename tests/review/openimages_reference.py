"""Make the sample and the reference results of Open Images' metrics, with the TensorFlow Object Detection API.

Its package is no dependency. Unpack the source of `tf-models-research-object-detection`, and give its folder:

    python -m pip download --no-deps --no-binary :all: tf-models-research-object-detection==2.8.0.post1
    tar -xzf tf_models_research_object_detection-2.8.0.post1.tar.gz
    python -m tests.review.openimages_reference tf_models_research_object_detection-2.8.0.post1

The reference expands the truth by its `OIDHierarchicalLabelsExpansion`, reads it by its utilities of the Challenge and
evaluates it by `OpenImagesChallengeEvaluator` and `OpenImagesDetectionEvaluator` (V2).
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from io import StringIO
from pathlib import Path
from typing import Any

from prelabel.labels.class_tree import open_images_tree
from tests.review.openimages_cases import BOXES, CASES, DETECTIONS, LABELS, REFERENCE, make_sample


def main(folder: str) -> None:
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")  # its generated code is old
    sys.path.insert(0, folder)
    import numpy

    # Names that it uses and that NumPy has removed.
    for name, value in {"float": float, "bool": bool, "NAN": math.nan}.items():
        if name not in vars(numpy):
            setattr(numpy, name, value)
    make_sample()
    results = {"sample": results_of(BOXES, LABELS, DETECTIONS)}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as temporary:
            results[name] = results_of(*case.write(Path(temporary)))
    REFERENCE.write_text(json.dumps(results, indent=1) + "\n")


def results_of(boxes: Path, labels: Path, detections: Path) -> dict[str, Any]:
    """Mean AP and AP by MID of every metric."""
    import pandas
    from object_detection.dataset_tools.oid_hierarchical_labels_expansion import OIDHierarchicalLabelsExpansion
    from object_detection.utils import object_detection_evaluation as evaluation

    expansion = OIDHierarchicalLabelsExpansion(hierarchy(root()))

    def expanded(path: Path, *, confidence: bool = False) -> Any:
        header, *lines = path.read_text().splitlines()
        columns = header.split(",")
        rows = [header]
        for line in lines:
            if confidence:
                rows += expansion.expand_labels_from_csv(line, columns.index("LabelName"), columns.index("Confidence"))
            else:
                rows += expansion.expand_boxes_or_segments_from_csv(line, columns.index("LabelName"))
        return pandas.read_csv(StringIO("\n".join(rows)))

    own = pandas.read_csv(detections)
    categories = [{"id": number, "name": name} for number, name in enumerate(mids(), 1)]
    challenge = expanded(boxes), expanded(labels, confidence=True)
    v2 = evaluation.OpenImagesDetectionEvaluator(categories)
    return {
        "openimages": _evaluated(evaluation.OpenImagesChallengeEvaluator(categories), *challenge, own),
        "openimages, expanded": _evaluated(
            evaluation.OpenImagesChallengeEvaluator(categories), *challenge, expanded(detections)
        ),
        "openimages-v2": _evaluated(v2, pandas.read_csv(boxes), pandas.read_csv(labels).iloc[:0], own),
    }


def _evaluated(evaluator: Any, boxes: Any, labels: Any, detections: Any) -> dict[str, Any]:
    """As `oid_challenge_evaluation.py` does it."""
    import pandas
    from object_detection.metrics import oid_challenge_evaluation_utils as utils

    numbers = {name: number for number, name in enumerate(mids(), 1)}
    labels = labels.rename(columns={"Confidence": "ConfidenceImageLabel"})
    for image, truth in pandas.concat([boxes, labels]).groupby("ImageID"):
        # Copied, because the evaluator writes to the arrays, and those of pandas may be read-only.
        arrays = utils.build_groundtruth_dictionary(truth, numbers)
        evaluator.add_single_ground_truth_image_info(image, {name: array.copy() for name, array in arrays.items()})
        of_image = detections.loc[detections["ImageID"] == image]
        evaluator.add_single_detected_image_info(image, utils.build_predictions_dictionary(of_image, numbers))
    figures = evaluator.evaluate()
    by_class = {key.partition("IOU/")[2]: value for key, value in figures.items() if "PerformanceByCategory" in key}
    (mean,) = (value for key, value in figures.items() if "Precision/mAP" in key)
    return {
        "mean_ap": None if math.isnan(mean) else mean,
        "ap": {name: value for name, value in by_class.items() if not math.isnan(value)},
    }


def root() -> str:
    """The MID of the root of the class tree."""
    (entry,) = (entry for entry in open_images_tree().classes if not open_images_tree().parents(entry.mid))
    return entry.mid


def mids() -> list[str]:
    """The MIDs of all classes."""
    return [entry.mid for entry in open_images_tree().classes if entry.mid != root()]


def hierarchy(name: str) -> dict[str, Any]:
    """The class tree as Open Images publishes it: nested, with a copy of a class below each of its parents."""
    tree = open_images_tree()
    nested = {
        key: [hierarchy(entry.mid) for entry in tree.children(name, relation)]
        for key, relation in {"Subcategory": "subcategory", "Part": "part"}.items()
    }
    return {"LabelName": name, **{key: value for key, value in nested.items() if value}}


if __name__ == "__main__":
    main(sys.argv[1])
