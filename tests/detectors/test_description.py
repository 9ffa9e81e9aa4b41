"""The options of a run that fit its detector, whether it is a model or code."""

from __future__ import annotations

from pathlib import Path

import pytest

from prelabel.config import LabelOptions
from prelabel.detectors import description
from prelabel.detectors.description import with_detector_defaults
from prelabel.errors import ConfigError
from prelabel.options import fields_of

#: Options on detectors that models and code have in common.
COMMON = {"detector_option", "keypoint_names", "batch_size", "trust_model"}


def options(**values: object) -> LabelOptions:
    return LabelOptions.of(**{"source": ("photos",), "detector": "code:make", "output": "out", **values})


def test_every_option_on_detectors_is_for_models_or_for_all() -> None:
    names = list(fields_of(LabelOptions))
    about_detectors = names[names.index("detector_option") : names.index("ray_address")]
    assert set(about_detectors) == COMMON | set(description._OF_MODELS)


def test_code_is_run_as_it_is_and_models_with_their_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELABEL_MODEL_MIRROR", "https://mirror.example.org")
    code, model = options(), options(detector="demo-shapes")
    assert (with_detector_defaults(code).optimize, with_detector_defaults(code).model_mirror) == ("off", None)
    with_mirror = with_detector_defaults(model)
    assert (with_mirror.optimize, with_mirror.model_mirror) == ("exact", "https://mirror.example.org")


def test_options_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--model-cache is for SavedModels, but .*'code:make'.*remove it"):
        with_detector_defaults(options(model_cache=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"--streams is for SavedModels, but .*'code:make'.*remove it"):
        with_detector_defaults(options(streams=2))
    with pytest.raises(ConfigError, match=r"--detector-option is for detectors that are Python code"):
        with_detector_defaults(options(detector="demo-shapes", detector_option={"a": "b"}))


def test_secrets_in_options_of_a_detector_are_not_stored() -> None:
    given = options(detector_option={"weights": "https://me:secret@example.org/w.onnx?token=abc"})
    assert given.settings()["detector_option"] == {"weights": "https://***@example.org/w.onnx?***"}
