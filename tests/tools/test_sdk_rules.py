"""The checks of the real label-studio-sdk, asked before files are published."""

from __future__ import annotations

from pathlib import Path

import pytest

from prelabel.detections import ImageLabel
from prelabel.errors import ExportError
from prelabel.label_studio.config import Control, make_config
from prelabel.label_studio.export import export_label_studio
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.label_studio.preflight import _refuses_brushes, sdk_rules
from prelabel.storage.files import Storage
from tests.rows import INFO, found, mask_of, row, rows
from tests.tools.conftest import HOSTILE_CLASS
from tests.tools.environment import needed

needed("label_studio_sdk")

MASK = mask_of("###...", "#.#...", "###...", "......")


@pytest.mark.parametrize("shape", ["rectangle", "polygon", "brush"])
def test_the_sdk_accepts_the_written_tasks(tmp_path: Path, shape: str) -> None:
    labels = [ImageLabel(1, "indoors", "", 0.9), ImageLabel(2, "kitchen", "", 0.8)]
    image = row("a.jpg", found(HOSTILE_CLASS, mask=MASK), found(score=0.4, mask=MASK), image_labels=labels)
    options = LabelStudioOptions.of(shape=shape, choice="multiple", class_map={HOSTILE_CLASS: HOSTILE_CLASS})
    info = type(INFO)(detector="net", model_version="net-1")
    report = export_label_studio(info, rows(image), str(tmp_path), options, Storage())
    assert report.detections == 4
    assert sdk_rules((tmp_path / "label_config.xml").read_text()) is not None


def test_the_sdk_refuses_a_region_that_the_server_would_refuse() -> None:
    rules = sdk_rules(make_config([Control("rectangle", "label", ("Dog",))], "image").xml)
    assert rules is not None
    value = {"x": 0, "y": 0, "width": 101, "height": 5, "rotation": 0, "rectanglelabels": ["Dog"]}
    region = {"id": "a", "type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value}
    problem = rules({"model_version": "m", "score": 0.5, "result": [region]})
    assert problem == ["Region 0: Invalid geometry for control 'label': width 101 out of bounds [0, 100]"]


def test_an_sdk_that_refuses_every_brush_mask_is_named_and_polygons_are_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions up to 2.0.17 take the bytes of a mask for those of their own encoder, which no mask is."""
    from label_studio_sdk.label_interface import LabelInterface

    asked = LabelInterface.validate_prediction

    def older(self: object, prediction: dict, return_errors: bool = False) -> list[str]:
        brushes = [region for region in prediction["result"] if region["type"] == "brushlabels"]
        return ["Region 0: Invalid value"] if brushes else asked(self, prediction, return_errors=return_errors)

    monkeypatch.setattr(LabelInterface, "validate_prediction", older)
    _refuses_brushes.cache_clear()
    image_rows = rows(row("a.jpg", found(mask=MASK)))
    with pytest.raises(ExportError, match=r"label-studio-sdk: version \d+\.\d+\.\d+, .*shape polygon"):
        export_label_studio(INFO, image_rows, str(tmp_path / "out"), LabelStudioOptions(shape="brush"), Storage())
    assert export_label_studio(INFO, image_rows, str(tmp_path), LabelStudioOptions(), Storage()).regions == 1
    monkeypatch.undo()
    _refuses_brushes.cache_clear()
    assert _refuses_brushes() == ""


def test_a_given_config_that_the_server_would_refuse_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    team = tmp_path / "team.xml"
    team.write_text(
        '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
        '<Label value="Dog"/></RectangleLabels><RectangleLabels name="label" toName="image"/></View>'
    )
    options = LabelStudioOptions(label_config=str(team))
    with pytest.raises(ExportError, match=r"label-studio-sdk refuses the labeling config: .*unique"):
        export_label_studio(INFO, rows(row("a.jpg", found())), str(tmp_path / "out"), options, Storage())
    assert not (tmp_path / "out").exists()
