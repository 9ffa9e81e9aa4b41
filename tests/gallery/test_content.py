"""The data of the page: numbers, contours, colors, and nothing that could be markup."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from prelabel.detections import ImageLabel
from prelabel.errors import ConfigError, ExportError
from prelabel.gallery.content import (
    card,
    class_numbers,
    classes,
    ink_on,
    page,
    path_data,
    run_facts,
    totals,
)
from prelabel.gallery.preview import PreviewOptions
from prelabel.gallery.survey import Predictions, kept_predictions, predictions_below, survey
from prelabel.labels.colors import PALETTE
from prelabel.masks import rle
from prelabel.masks.polygons import PolygonRules, mask_parts
from prelabel.pages.embedding import embedded_json
from prelabel.select import ExportSelection, Selection
from prelabel.store.rows import ImageRow
from tests.messages import tells
from tests.rows import INFO, failed_row, found, mask_of, row

HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "<!--<script>", "]]>", "&lt;b&gt;"]


def chosen(image_row: ImageRow, **options: Any) -> tuple[Predictions, Predictions]:
    """The predictions that are shown at first, and those below the thresholds."""
    selection = ExportSelection(**options)
    return kept_predictions(image_row, selection), predictions_below(image_row, selection)


def test_contours_are_path_data_in_pixels():
    square, _ = mask_parts(mask_of("....", ".##.", ".##."), 3, 4, PolygonRules(0))
    assert path_data(square) == "M1 1l2 0 0 2-2 0z"
    assert path_data([]) == ""


def test_a_hole_is_a_separate_contour_so_that_no_bridge_is_drawn():
    ring, _ = mask_parts(mask_of("####", "#..#", "####"), 3, 4, PolygonRules(0))
    assert path_data(ring) == "M0 0l4 0 0 3-4 0zM1 2l2 0 0-1-2 0z"


def test_several_holes_and_parts_fill_the_pixels_of_the_mask():
    mask = np.random.default_rng(5).random((24, 31)) < 0.6
    parts, _ = mask_parts(rle.encode(mask), *mask.shape, PolygonRules(0))
    assert np.array_equal(even_odd(path_data(parts), *mask.shape), mask)


def even_odd(path: str, height: int, width: int) -> np.ndarray:
    """Fill path data with horizontal and vertical steps by the even-odd rule: count the sides left of each pixel."""
    sides = np.zeros((height, width + 1), int)
    for ring in path.replace("-", " -").strip("M").split("zM"):
        start, _, steps = ring.rstrip("z").partition("l")
        x, y = map(int, start.split())
        first, numbers = (x, y), [int(text) for text in steps.split()]
        for dx, dy in [*zip(numbers[::2], numbers[1::2], strict=True), (None, None)]:
            to_x, to_y = first if dx is None or dy is None else (x + dx, y + dy)
            assert x == to_x or y == to_y
            if x == to_x:
                sides[min(y, to_y) : max(y, to_y), x] += 1
            x, y = to_x, to_y
    return np.cumsum(sides, axis=1)[:, :-1] % 2 == 1


@pytest.mark.parametrize("color", ["#000000", "#ffffff", "#ffff00", "#0000ff", "#777777", "#757575"])
def test_text_is_readable_on_its_color(color: str):
    assert contrast(color, ink_on(color)) >= 4.5


def test_text_is_readable_on_the_color_of_any_class():
    for color in PALETTE:
        assert contrast(color, ink_on(color)) >= 4.5


def contrast(color: str, other: str) -> float:
    light, dark = sorted((luminance(color), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    parts = np.array([int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def value_at(steps: list[list[Any]], position: int) -> Any:
    """The value at a position of the slider, as the page reads it."""
    return next(value for start, value in reversed(steps) if start <= position)


def test_totals_count_the_whole_run_after_the_selection():
    rows = [
        row("a.jpg", found(score=0.9), found("Cat", 0.5), found(score=0.1)),
        row("b.jpg", found(score=0.2)),
        row("c.jpg", *[found(score=0.5)] * 25),
        failed_row("d.jpg"),
        failed_row("e.jpg"),
    ]
    seen = survey(rows, ExportSelection(score_threshold=0.3), limit=1, seed=0)
    counts = totals(seen)
    assert (counts["images"], counts["failed"]) == (5, 2)
    per_image = value_at(counts["perImage"], 30)
    assert (per_image[0], per_image[2], per_image[20], sum(per_image)) == (1, 1, 1, 3)
    # The histogram also counts detections below the threshold, because the slider reveals them.
    assert (counts["scores"][45], counts["scores"][25], sum(counts["scores"])) == (1, 26, 29)
    assert counts["failures"] == [["TruncatedImageError", 2]]
    assert [(entry["name"], value_at(entry["counts"], 30)) for entry in classes(seen)] == [("Dog", 26), ("Cat", 1)]
    assert (len(seen.chosen), seen.listed) == (1, [3, 4])


def test_totals_follow_the_slider():
    image = row("a.jpg", found(score=0.9), found(score=0.29), found("Cat", 0.45), found("Cat", 0.2), found("Fox", 0.1))
    selection = ExportSelection(score_threshold=0.3, class_threshold={"Cat": 0.5, "Fox": 0.1})
    seen = survey([image], selection, limit=1, seed=0)
    steps = {entry["name"]: entry["counts"] for entry in classes(seen)}
    # Dog 0.29 and both cats are only below the first position; it keeps the fox, whose own threshold is lower.
    assert steps == {
        "Dog": [[0, 2], [30, 1], [91, 0]],
        "Fox": [[0, 1], [31, 0]],
        "Cat": [[0, 2], [21, 1], [30, 0]],
    }
    per_image = totals(seen)["perImage"]
    assert [(position, value_at(per_image, position).index(1)) for position in (0, 20, 25, 29, 30, 31, 91)] == [
        (0, 5),
        (20, 5),
        (25, 4),
        (29, 4),
        (30, 2),
        (31, 1),
        (91, 0),
    ]


def test_a_class_that_the_slider_never_reveals_has_no_count():
    seen = survey(
        [row("a.jpg", found(score=0.2))], ExportSelection(score_threshold=0, class_threshold={"Dog": 0.5}), 1, 0
    )
    assert [(entry["name"], entry["counts"]) for entry in classes(seen)] == [("Dog", [[0, 0]])]


def test_the_highest_score_has_a_bar():
    assert survey([row("a.jpg", found(score=1.0))], ExportSelection(), 200, 0).scores[-1] == 1


def test_a_card_has_the_facts_of_its_row():
    image_row = row(
        "a.jpg",
        found(score=0.9, mask=mask_of(*["###..."] * 4)),
        found("Cat", 0.4, (1, 1, 2.26, 3), mask=mask_of(*["......"] * 4)),
    )
    values = card(image_row, *chosen(image_row), {"Dog": 0, "Cat": 1}, 1280)
    assert values["detections"] == [[0, 0.9, 0, 0, 3, 4, "M0 0l3 0 0 4-3 0z"], [1, 0.4, 1, 1, 2.3, 3, ""]]
    assert (values["name"], values["w"], values["h"]) == ("a.jpg", 6, 4)
    assert "id" not in values


def test_whole_image_labels_are_listed_without_a_box():
    image_row = row("a.jpg", image_labels=[ImageLabel(3, "beach", "", 0.8), ImageLabel(4, "sea", "", 0.1)])
    values = card(image_row, *chosen(image_row), {"beach": 0, "sea": 1}, 1280)
    assert (values["detections"], values["below"]) == ([[0, 0.8]], [[1, 0.1]])


def test_a_card_also_has_detections_that_only_the_thresholds_remove():
    image_row = row("a.jpg", found(score=0.2), found("Cat", 0.6), found("Cat", 0.35, (5, 0, 6, 1)), found("Fox", 0.1))
    options = {"class_threshold": {"Cat": 0.5}, "exclude_class": ("Fox",), "class_map": {"Dog": "pet"}}
    values = card(image_row, *chosen(image_row, **options), {"Cat": 0, "pet": 1}, 1280)
    assert [each[:2] for each in values["detections"]] == [[0, 0.6]]
    assert [each[:2] for each in values["below"]] == [[0, 0.35], [1, 0.2]]


def test_run_facts_have_the_runs_threshold_if_it_is_lower():
    kept = replace(INFO, kept=Selection(score_threshold=0.05))
    facts = run_facts(kept, ExportSelection())
    assert (facts["start"], facts["lowest"]) == (30, 5)
    assert tells(facts["selection"], "0.3", "run", "0.05")
    # A class threshold may be lower than both.
    assert run_facts(kept, ExportSelection(class_threshold={"Dog": 0.02}))["lowest"] == 2
    assert run_facts(INFO, ExportSelection())["lowest"] == 30


def test_a_failed_card_has_its_reason_and_no_secret():
    values = card(failed_row("a.jpg"), *chosen(failed_row()), {}, 1280)
    assert values["error"] == {
        "type": "TruncatedImageError",
        "text": "the end of the image's data is missing",
        "stage": "decode",
    }
    signed = row("a.jpg", uri="https://me:secret@host/a.jpg?X-Signature=secret")
    assert "secret" not in json.dumps(card(signed, *chosen(signed), {}, 1280))


def test_characters_that_change_the_writing_direction_are_escaped():
    image_row = row("\u202egpj.exe", found("Dog\u202e"))
    seen = survey([image_row], ExportSelection(), 200, 0)
    assert card(image_row, *chosen(image_row), class_numbers(seen), 1280)["name"] == "\\u202egpj.exe"
    assert classes(seen)[0]["name"] == "Dog\\u202e"


def test_a_mask_that_does_not_fit_names_its_image():
    image_row = row("a.jpg", found(mask=mask_of("#")))
    with pytest.raises(ExportError, match=r"a\.jpg.*polygon"):
        card(image_row, *chosen(image_row), {"Dog": 0}, 1280)


@pytest.mark.parametrize("text", [*HOSTILE, "\u2028\u202e\udcff 'quotes' \"double\" 日本 🐕"])
def test_embedded_json_is_the_same_value_and_holds_no_markup(text: str):
    embedded = embedded_json({text: [text]})
    assert json.loads(embedded) == {text: [text]}
    assert embedded.isascii()
    assert not set("<>&") & set(embedded)


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.policy = ""
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.scripts += tag == "script"
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""
        assert not [name for name in values if name.startswith("on") or name == "style"]
        address = values.get("src") or values.get("href") or ""
        if address and not address.startswith(("data:", "#")):
            self.outside.append(address)


def test_hostile_names_add_no_element_and_the_page_needs_nothing_outside():
    plain, hostile = _Elements(), _Elements()
    data = {"cards": [], "run": {"version": "/*script*/<!--data-->"}}
    plain.feed(page(data))
    hostile.feed(page({**data, "cards": [{"name": name} for name in HOSTILE]}))
    assert plain.scripts == hostile.scripts == 2
    assert hostile.outside == []
    assert "default-src 'none'" in hostile.policy
    assert "unsafe" not in hostile.policy


def test_the_script_never_makes_markup_from_strings():
    html = page({})
    for banned in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "fetch("):
        assert banned not in html


@pytest.mark.parametrize(
    "wrong", [{"limit": -1}, {"thumbnail_size": 8}, {"picture_size": 100_000}, {"threads": 0}, {"score_threshold": 2}]
)
def test_invalid_options_are_refused(wrong: dict[str, float]):
    with pytest.raises(ConfigError, match=next(iter(wrong)).replace("_", "-")):
        PreviewOptions.of(**wrong)
