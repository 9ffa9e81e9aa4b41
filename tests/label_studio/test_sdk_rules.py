"""The validator of label-studio-sdk is used if it is installed; here, a stand-in with the same interface.

`tests/tools` tests the real validator.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from prelabel.errors import ExportError
from prelabel.label_studio.config import Control, LabelConfig, make_config
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.label_studio.preflight import Preflight, sdk_rules
from prelabel.label_studio.tasks import TaskSamples
from prelabel.storage.files import Storage
from tests.rows import INFO, failed_row, found, row, rows

CONFIG = make_config([Control("rectangle", "label", ("Dog",))], "image")


class RefusedError(Exception):
    pass


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The answers of the stand-in: `config` is raised, `prediction` is returned for every prediction.

    `asked` has the labels of each prediction that it got.
    """
    answers: dict[str, Any] = {"config": None, "prediction": [], "asked": []}

    class LabelInterface:
        def __init__(self, xml: str) -> None:
            answers["xml"] = xml

        def validate(self) -> None:
            if answers["config"] is not None:
                raise answers["config"]

        def validate_prediction(self, prediction: dict[str, Any], return_errors: bool = False) -> list[str]:
            assert return_errors
            assert isinstance(prediction, dict)
            answers["asked"].append([region["value"]["rectanglelabels"][0] for region in prediction["result"]])
            return list(answers["prediction"])

    for name, content in (
        ("label_studio_sdk", {}),
        ("label_studio_sdk._legacy", {}),
        (
            "label_studio_sdk._legacy.exceptions",
            {
                "LabelStudioValidationErrorSentryIgnored": RefusedError,
                "LabelStudioXMLSyntaxErrorSentryIgnored": RefusedError,
            },
        ),
        ("label_studio_sdk.label_interface", {"LabelInterface": LabelInterface}),
    ):
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return answers


def export(folder: Path) -> None:
    export_label_studio(INFO, rows(row("a.jpg", found())), str(folder), LabelStudioOptions(), Storage())


def test_without_the_sdk_there_are_no_sdk_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "label_studio_sdk", None)
    monkeypatch.setitem(sys.modules, "label_studio_sdk._legacy.exceptions", None)
    assert sdk_rules(CONFIG.xml) is None


def test_the_sdk_gets_the_config_that_is_written(sdk: dict[str, Any], tmp_path: Path) -> None:
    export(tmp_path)
    assert sdk["xml"] == (tmp_path / "label_config.xml").read_text()


def test_a_prediction_that_the_sdk_refuses_is_an_error_of_one_line(sdk: dict[str, Any], tmp_path: Path) -> None:
    sdk["prediction"] = ["Region 0: Invalid value.\n  Got: " + "1, " * 500, "more"]
    with pytest.raises(ExportError) as caught:
        export(tmp_path)
    message = str(caught.value)
    assert all(fact in message for fact in ("'a.jpg'", "label-studio-sdk", "Region 0: Invalid value."))
    assert "\n" not in message
    assert len(message) < 500
    assert not list(tmp_path.iterdir())


def test_the_sdk_gets_one_task_with_each_label_and_one_without_regions(sdk: dict[str, Any], tmp_path: Path) -> None:
    dog, cat, car = found("Dog"), found("Cat"), found("Car")
    images = [[dog], [dog, dog], [dog, cat], [cat], [], [], [car], [cat, dog, car]]
    many = rows(*(row(f"{number}.jpg", *detections) for number, detections in enumerate(images)))
    report = export_label_studio(INFO, many, str(tmp_path), LabelStudioOptions(), Storage())
    assert report.images == 8
    assert [sorted(labels) for labels in sdk["asked"]] == [["Dog"], ["Cat", "Dog"], [], ["Car"]]


def test_a_failed_image_is_no_task_without_regions(sdk: dict[str, Any], tmp_path: Path) -> None:
    many = rows(failed_row("a.jpg"), row("b.jpg"), row("c.jpg"))
    export_label_studio(INFO, many, str(tmp_path), LabelStudioOptions(include_failed=True), Storage())
    assert sdk["asked"] == [[]]


def test_what_one_process_has_seen_is_not_checked_again_for_another(sdk: dict[str, Any]) -> None:
    whole = TaskSamples(Preflight(CONFIG))
    for labels in ({"Dog"}, {"Dog", "Cat"}, {"Cat"}):
        part = whole.fresh()
        for kinds in (labels, labels):
            part.see(json.dumps({"data": {"image": "x"}, "predictions": [PREDICTION]}).encode(), kinds)
        whole.add(pickle.loads(pickle.dumps(part)))  # noqa: S301 - as from another process
    assert len(sdk["asked"]) == 2


def test_a_config_that_the_sdk_refuses_is_refused(sdk: dict[str, Any]) -> None:
    sdk["config"] = RefusedError("toName points to\nnothing")
    with pytest.raises(ExportError, match=r"label-studio-sdk .*toName points to nothing"):
        Preflight(CONFIG)


def test_a_config_that_the_server_has_accepted_is_not_checked_by_an_sdk_that_may_be_older(sdk: dict[str, Any]) -> None:
    sdk["config"] = RefusedError("unknown tag")
    sdk["prediction"] = ["Region 0: bad"]
    checked = Preflight(LabelConfig("image", "image", CONFIG.controls, CONFIG.xml), accepted=True)
    with pytest.raises(ExportError, match="Region 0: bad"):
        checked.require_showable({"data": {"image": "x"}, "predictions": [PREDICTION]})


PREDICTION: dict[str, Any] = {"model_version": "m", "score": 0.5, "result": []}
