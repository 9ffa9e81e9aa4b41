"""The files of an evaluation: JSON with a schema, thresholds for other commands, and an HTML page."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from prelabel.config import LabelOptions, label_options
from prelabel.detections import ClassName
from prelabel.errors import ConfigError
from prelabel.export.coco import CocoOptions
from prelabel.export.cvat import CvatOptions
from prelabel.export.voc import VocOptions
from prelabel.export.yolo import YoloOptions
from prelabel.gallery.preview import PreviewOptions
from prelabel.label_studio.options import LabelStudioOptions, PushOptions
from prelabel.mapping_files import read_mapping
from prelabel.options import from_mapping
from prelabel.pages.markup import Markup, tag, text
from prelabel.review.evaluation import Evaluation
from prelabel.review.options import CompareOptions, EvaluateOptions
from prelabel.review.report.files import evaluation_json, report_folder, suggested_thresholds, write_evaluation
from prelabel.review.report.pages import evaluation_page
from prelabel.review.report.plots import Plot, round_up
from prelabel.review.thresholds import Cut, best_f1
from prelabel.storage.files import Storage
from prelabel.store.run import open_run
from tests.messages import facts
from tests.review.cases import evaluated, image, thing, write_truth
from tests.rows import INFO, found, mask_of, row
from tests.runs import write_run

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "evaluation.schema.json").read_text())
BOX = (0, 0, 3, 4)
HOSTILE = '</style><script>alert("x")</script>\u202e\x1b[31m\ud800'


@pytest.fixture
def done(tmp_path: Path) -> Evaluation:
    images = [image(n, f"{n}.jpg", height=4, width=6) for n in range(1, 13)]
    whole = {"size": [4, 6], "counts": mask_of(*["###..."] * 4)}
    objects = [thing(BOX, 1 + n % 2, image_id=n, segmentation=whole) for n in range(1, 13)]
    rows = [
        row(
            f"{n}.jpg",
            found("Dog", 0.9 - n / 100, mask=mask_of(*["###..."] * 4)),
            found("Cat", 0.3 + n / 100, category_id=2, mid="/m/01yrx", mask=mask_of(*["##...."] * 4)),
        )
        for n in range(1, 13)
    ]
    return evaluated(write_truth(tmp_path, objects, images), *rows, compare_thresholds={"Dog": 0.01})


def test_four_files_are_written(done: Evaluation, tmp_path: Path):
    to = str(tmp_path / "out")
    written = write_evaluation(done, to, Storage())
    names = ["evaluation.json", "evaluation.html", "thresholds.yaml", "thresholds-best-f1.yaml"]
    assert [Path(path).name for path in written] == names
    assert all(Path(path).stat().st_size for path in written)


def test_a_file_instead_of_the_folder_is_a_usage_error(tmp_path: Path):
    run = open_run(write_run(tmp_path / "run", [[row("a.jpg")]]), Storage())
    assert report_folder(run, "evaluation", "") == str(tmp_path / "run" / "evaluation")
    path = tmp_path / "out"
    path.write_text("")
    with pytest.raises(ConfigError, match=facts("--to", str(path), "is a file")):
        report_folder(run, "evaluation", str(path))
    default = tmp_path / "run" / "evaluation"
    default.write_text("")
    with pytest.raises(ConfigError, match=facts("default folder", str(default), "is a file", "--to")) as refused:
        report_folder(run, "evaluation", "")
    assert f"--to {default}" not in str(refused.value)


def test_the_json_file_is_valid_by_its_schema(done: Evaluation, tmp_path: Path):
    path = write_evaluation(done, str(tmp_path), Storage())[0]
    content = json.loads(Path(path).read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(content)
    assert content["boxes"]["overall"]["AP"] == pytest.approx(done.boxes.overall["AP"])
    assert content["work"]["total"]["suggested"]["draw"] == done.work.total("suggested").draw
    assert content["work"]["by_hand_per_100_images"] == 100
    assert sum(pair["count"] for pair in content["confusion"] if pair["truth"] == "dog") == 6


def test_the_schema_allows_nothing_else(done: Evaluation):
    content = evaluation_json(done)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for change in ({"extra": 1}, {"work": {}}, {"boxes": None}):
        assert not validator.is_valid({**content, **change})


@pytest.mark.parametrize("name", ["thresholds.yaml", "thresholds-best-f1.yaml"])
def test_label_and_export_accept_the_thresholds_files(done: Evaluation, tmp_path: Path, name: str):
    write_evaluation(done, str(tmp_path), Storage())
    for options_class in (LabelOptions, CocoOptions):
        given = {"source": ("x",), "detector": "d", "output": "o"} if options_class is LabelOptions else {}
        options = from_mapping(options_class, {**given, "class_threshold": (str(tmp_path / name),)}, "test")
        assert set(options.selection.class_threshold) == named(name)
        options.selection.require_known_names([ClassName(1, "Dog"), ClassName(2, "Cat")])
    if name == "thresholds.yaml":
        assert options.selection.score_threshold == done.work.by_class["dog"].suggested.threshold


def named(file: str) -> set[str]:
    """The classes that a thresholds file names: none if one threshold for all classes is suggested."""
    return set() if file == "thresholds.yaml" else {"Dog", "Cat"}


def test_one_threshold_for_all_is_one_line_and_only_classes_with_another_are_named(done: Evaluation):
    assert done.work.recommended == "common"
    lines = [line for line in suggested_thresholds(done).splitlines() if not line.startswith("#")]
    assert lines == [f'"*": {done.work.common.threshold!r}']
    dog = done.work.by_class["dog"]
    other = dataclasses.replace(dog, own=True, suggested=dataclasses.replace(dog.suggested, threshold=0.875))
    work = dataclasses.replace(done.work, by_class={**done.work.by_class, "dog": other}, recommended="own")
    lines = suggested_thresholds(dataclasses.replace(done, work=work)).splitlines()
    assert [line for line in lines if not line.startswith("#")][1:] == ['"Dog": 0.875']


def test_the_thresholds_file_gives_the_result_in_the_table(done: Evaluation, tmp_path: Path):
    write_evaluation(done, str(tmp_path), Storage())
    thresholds = {name: float(value) for name, value in read_mapping(tmp_path / "thresholds.yaml").items()}
    kept = sum(
        int((ranking.score >= np.float32(thresholds.get(name.capitalize(), thresholds["*"]))).sum())
        for name, ranking in done.rankings.items()
    )
    total = done.work.total("suggested")
    assert kept == total.right + total.delete


@pytest.mark.parametrize("name", ["thresholds.yaml", "thresholds-best-f1.yaml"])
def test_classes_that_the_file_does_not_name_get_its_default_from_every_reader(
    done: Evaluation, tmp_path: Path, name: str
):
    write_evaluation(done, str(tmp_path), Storage())
    default = float(read_mapping(tmp_path / name)["*"])
    assert default == (done.work.common if name == "thresholds.yaml" else f1_common(done)).threshold
    needed: dict[type, dict[str, Any]] = {
        LabelOptions: {"source": ("x",), "detector": "d", "output": "o"},
        CompareOptions: {"predictions": "p", "annotations": "a"},
        EvaluateOptions: {"truth": "t"},
        PushOptions: {"url": "http://h", "project": "1"},
    }
    readers = (LabelOptions, EvaluateOptions, CompareOptions, PreviewOptions, PushOptions)
    for cls in (*readers, CocoOptions, LabelStudioOptions, YoloOptions, VocOptions, CvatOptions):
        options = from_mapping(cls, {**needed.get(cls, {}), "class_threshold": (str(tmp_path / name),)}, "test")
        selection = options.selection
        assert selection.score_threshold == default, cls
        assert set(selection.class_threshold) == named(name)
        kept = selection.indices(
            np.array([default, default - 0.01], np.float32), ["Ski", "Ski"], ["", ""], np.zeros((2, 4))
        )
        assert kept.tolist() == [0], cls
    compared = from_mapping(
        EvaluateOptions, {"truth": "t", "compare_thresholds": (str(tmp_path / name),)}, "test"
    ).compared
    assert compared is not None
    assert compared.score_threshold == default
    job = tmp_path / "job.yaml"
    job.write_text(f"class-threshold: {tmp_path / name}\n")
    options = label_options({"source": ["a"], "detector": "d", "output": "o"}, config=str(job))
    assert options.selection.score_threshold == default


def f1_common(done: Evaluation) -> Cut:
    cut = best_f1(done.overall, done.work.common.threshold)
    assert cut is not None
    return cut


def test_thresholds_of_classes_with_hostile_names_can_be_read_back(tmp_path: Path):
    names = ['a"b\\c: #', "no", "null", "1e3", "ja", "0.5", "é\u2028\x85\x07😀", " x ", "~", "a=b"]
    info = dataclasses.replace(INFO, classes=None)
    truth = write_truth(tmp_path, [thing(BOX)], [image(height=4, width=6)], [{"id": 1, "name": "dog"}])
    image_row = row("a.jpg", *(found(name, 0.9, category_id=n, mid="") for n, name in enumerate(names)))
    done = evaluated(truth, image_row, info=info, class_map=dict.fromkeys(names, "dog"))
    write_evaluation(done, str(tmp_path), Storage())
    assert set(read_mapping(tmp_path / "thresholds-best-f1.yaml")) == {"*", *names}


def test_two_classes_of_the_same_name_are_distinguished_by_mid(tmp_path: Path):
    classes = (ClassName(1, "Mouse", "/m/animal"), ClassName(2, "Mouse", "/m/device"))
    categories = [{"id": 1, "name": "mouse", "mid": "/m/animal"}, {"id": 2, "name": "pointer", "mid": "/m/device"}]
    truth = write_truth(tmp_path, [thing(BOX)], [image(height=4, width=6)], categories)
    image_row = row("a.jpg", found("Mouse", mid="/m/animal"), found("Mouse", category_id=2, mid="/m/device"))
    done = evaluated(truth, image_row, info=dataclasses.replace(INFO, classes=classes))
    write_evaluation(done, str(tmp_path), Storage())
    assert set(read_mapping(tmp_path / "thresholds-best-f1.yaml")) == {"*", "/m/animal", "/m/device"}


def test_a_thresholds_file_without_classes_is_valid(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [image(height=4, width=6)])
    done = evaluated(truth, row("a.jpg"), info=dataclasses.replace(INFO, classes=None))
    write_evaluation(done, str(tmp_path), Storage())
    assert read_mapping(tmp_path / "thresholds.yaml") == {"*": "0.5"}


class Elements(HTMLParser):
    """Collects the elements and attributes of a page, and checks that they close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def elements(html: str) -> Elements:
    parser = Elements()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_is_well_formed_and_shows_every_part(done: Evaluation):
    html = evaluation_page(done)
    seen = elements(html)
    assert {"svg", "polyline", "circle", "rect", "table"} <= seen.seen
    assert "prefers-color-scheme: dark" in html
    for words in ("Work", "Precision and recall", "COCO", "Confusion", "Classes", "drawing every box manually"):
        assert words in html


def test_the_page_needs_nothing_from_outside(done: Evaluation):
    html = evaluation_page(done)
    # The only URL is the namespace of SVG.
    assert not re.search(r"https?://|src=|href=|url\(|@import", html.replace("http://www.w3.org/2000/svg", ""))
    assert "default-src &#x27;none&#x27;" in html


def test_hostile_names_stay_text(tmp_path: Path):
    categories = [{"id": 1, "name": HOSTILE + "dog"}, {"id": 2, "name": HOSTILE + "cat"}]
    info = dataclasses.replace(
        INFO, model_version=HOSTILE, classes=(ClassName(1, HOSTILE + "Dog"), ClassName(2, HOSTILE + "Cat"))
    )
    images = [image(1, HOSTILE + ".jpg", height=4, width=6)]
    truth = write_truth(tmp_path, [thing(BOX), thing(BOX, 2)], images, categories)
    done = evaluated(truth, row(HOSTILE + ".jpg", found(HOSTILE + "Dog", mid="")), info=info)
    html = evaluation_page(done)
    seen = elements(html)
    # Two scripts: the data and the page's script.
    assert html.count("<script") == html.count("</script>") == 2
    assert not any(name.startswith("on") for name in seen.attributes)
    assert not {"\u202e", "\x1b", "\ud800"} & set(html)
    write_evaluation(done, str(tmp_path), Storage())


def test_a_run_without_detections_gets_a_page(tmp_path: Path):
    truth = write_truth(tmp_path, [thing(BOX)], [image(height=4, width=6)])
    elements(evaluation_page(evaluated(truth, row("a.jpg"))))


def test_text_is_escaped_and_markup_is_not():
    assert tag("td", 'a < b & "c"', class_="x", data_n=1.5) == (
        '<td class="x" data-n="1.5">a &lt; b &amp; &quot;c&quot;</td>'
    )
    assert tag("p", tag("b", "x"), Markup("<br>")) == "<p><b>x</b><br></p>"
    assert tag("i", "x", title='"><script>') == '<i title="&quot;&gt;&lt;script&gt;">x</i>'
    assert text("a\x00b\nc") == "a\ufffdb c"


def test_values_become_positions_with_y_upwards():
    plot = Plot("t", most=100, width=200, height=100)
    left, bottom = plot.at(0, 0)
    right, top = plot.at(1, 100)
    assert left < right
    assert top < bottom
    assert plot.at(0.5, 50) == ((left + right) / 2, (top + bottom) / 2)
    assert plot.at(99, -5) == (right, bottom)


def test_dropping_close_points_keeps_both_ends_of_a_line():
    plot = Plot("t", width=200, height=100)
    plot.line([(n / 10_000, 0.5) for n in range(10_001)], "a")
    points = re.search(r'points="([^"]*)"', plot.draw())
    assert points is not None
    places = points.group(1).split()
    assert 10 < len(places) < 200
    assert (places[0], places[-1]) == tuple("{:.1f},{:.1f}".format(*plot.at(x, 0.5)) for x in (0, 1))


@pytest.mark.parametrize(("value", "end"), [(0, 1), (1, 1), (1.01, 2), (3, 5), (23, 25), (251, 500), (501, 1000)])
def test_an_axis_ends_at_a_round_number(value: float, end: float):
    assert round_up(value) == end
