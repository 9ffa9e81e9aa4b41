"""What the page is told: numbers, outlines, colours; and nothing that could be markup."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from prelabel import rle
from prelabel.detections import ImageLabel
from prelabel.errors import ConfigError, ExportError
from prelabel.export.colour import colour_of
from prelabel.export.polygons import PolygonRules, mask_parts
from prelabel.preview.content import card, class_numbers, classes, ink_on, path_data, run_facts, totals
from prelabel.preview.options import PreviewOptions
from prelabel.preview.page import embedded_json, page
from prelabel.preview.survey import Kept, below_of, kept_of, survey
from prelabel.select import Selection
from prelabel.store.rows import ImageRow
from tests.rows import INFO, failed_row, found, mask_of, row

HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "<!--<script>", "]]>", "&lt;b&gt;"]


def chosen(one: ImageRow, **options: Any) -> tuple[Kept, Kept]:
    """What is shown of a row at first, and what lies below."""
    return kept_of(one, PreviewOptions(**options)), below_of(one, PreviewOptions(**options))


def test_outlines_are_path_data_in_pixels():
    square, _ = mask_parts(mask_of("....", ".##.", ".##."), 3, 4, PolygonRules(0))
    assert path_data(square) == "M1 1l2 0 0 2-2 0z"
    assert path_data([]) == ""


def test_a_hole_is_a_ring_of_its_own_so_that_no_bridge_is_drawn():
    ring, _ = mask_parts(mask_of("####", "#..#", "####"), 3, 4, PolygonRules(0))
    assert path_data(ring) == "M0 0l4 0 0 3-4 0zM1 2l2 0 0-1-2 0z"


def test_several_holes_and_parts_fill_what_the_mask_has():
    mask = np.random.default_rng(5).random((24, 31)) < 0.6
    parts, _ = mask_parts(rle.encode(mask), *mask.shape, PolygonRules(0))
    assert np.array_equal(even_odd(path_data(parts), *mask.shape), mask)


def even_odd(path: str, height: int, width: int) -> np.ndarray:
    """Fill path data of level and upright steps by the even-odd rule, by counting sides to the left of each pixel."""
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


@pytest.mark.parametrize("colour", ["#000000", "#ffffff", "#ffff00", "#0000ff", "#777777", "#757575"])
def test_ink_can_be_read_on_its_colour(colour: str):
    assert contrast(colour, ink_on(colour)) >= 4.5


def test_ink_can_be_read_on_the_colour_of_any_class():
    for number in range(500):
        colour = colour_of(f"class {number}")
        assert contrast(colour, ink_on(colour)) >= 4.5


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_totals_count_the_whole_run_after_the_selection():
    rows = [
        row("a.jpg", found(score=0.9), found("Cat", 0.5), found(score=0.1)),
        row("b.jpg", found(score=0.2)),
        row("c.jpg", *[found(score=0.5)] * 25),
        failed_row("d.jpg"),
        failed_row("e.jpg"),
    ]
    seen = survey(rows, PreviewOptions(limit=1, score_threshold=0.3))
    counts = totals(seen)
    assert (counts["images"], counts["failed"], counts["empty"], counts["detections"]) == (5, 2, 1, 27)
    assert (counts["perImage"][0], counts["perImage"][2], counts["perImage"][20]) == (1, 1, 1)
    # The histogram has what lies below the threshold, too: the slider goes there.
    assert (counts["scores"][36], counts["scores"][20], sum(counts["scores"])) == (1, 26, 29)
    assert counts["failures"] == [["TruncatedImageError", 2]]
    assert [(one["name"], one["count"]) for one in classes(seen)] == [("Dog", 26), ("Cat", 1)]
    assert (len(seen.chosen), seen.listed) == (1, [3, 4])


def test_the_highest_score_has_a_bar():
    assert survey([row("a.jpg", found(score=1.0))], PreviewOptions()).scores[-1] == 1


def test_a_card_says_what_the_row_says():
    one = row(
        "a.jpg",
        found(score=0.9, mask=mask_of(*["###..."] * 4)),
        found("Cat", 0.4, (1, 1, 2.26, 3), mask=mask_of(*["......"] * 4)),
    )
    values = card(one, *chosen(one), {"Dog": 0, "Cat": 1}, 1280)
    assert values["found"] == [[0, 0.9, 0, 0, 3, 4, "M0 0l3 0 0 4-3 0z"], [1, 0.4, 1, 1, 2.3, 3, ""]]
    assert (values["name"], values["w"], values["h"]) == ("a.jpg", 6, 4)
    assert "id" not in values


def test_labels_of_a_whole_image_are_found_without_a_box():
    one = row("a.jpg", image_labels=[ImageLabel(3, "beach", "", 0.8), ImageLabel(4, "sea", "", 0.1)])
    values = card(one, *chosen(one), {"beach": 0, "sea": 1}, 1280)
    assert (values["found"], values["below"]) == ([[0, 0.8]], [[1, 0.1]])


def test_a_card_also_has_what_only_the_thresholds_leave_out():
    one = row("a.jpg", found(score=0.2), found("Cat", 0.6), found("Cat", 0.35, (5, 0, 6, 1)), found("Fox", 0.1))
    options = {"class_threshold": {"Cat": 0.5}, "exclude_class": ("Fox",), "class_map": {"Dog": "pet"}}
    values = card(one, *chosen(one, **options), {"Cat": 0, "pet": 1}, 1280)
    assert [each[:2] for each in values["found"]] == [[0, 0.6]]
    assert [each[:2] for each in values["below"]] == [[0, 0.35], [1, 0.2]]


def test_the_run_is_said_to_keep_more_than_is_shown():
    kept = replace(INFO, kept=Selection(score_threshold=0.05))
    facts = run_facts(kept, PreviewOptions())
    assert (facts["threshold"], facts["kept"]) == (0.3, 0.05)
    assert facts["selection"] == "at 0.3 and above; the run keeps 0.05"
    # What was asked for below that is not there, and a threshold of a class may be the lowest.
    assert run_facts(kept, PreviewOptions(class_threshold={"Dog": 0.02}))["kept"] == 0.02
    assert run_facts(INFO, PreviewOptions())["kept"] == 0.3


def test_a_failed_card_has_its_reason_and_no_secret():
    values = card(failed_row("a.jpg"), *chosen(failed_row()), {}, 1280)
    assert values["error"] == {
        "type": "TruncatedImageError",
        "text": "the end of the image's data is missing",
        "stage": "decode",
    }
    signed = row("a.jpg", uri="https://me:secret@host/a.jpg?X-Signature=secret")
    assert "secret" not in json.dumps(card(signed, *chosen(signed), {}, 1280))


def test_marks_that_turn_the_direction_of_writing_are_shown_as_what_they_are():
    one = row("\u202egpj.exe", found("Dog\u202e"))
    seen = survey([one], PreviewOptions())
    assert card(one, *chosen(one), class_numbers(seen), 1280)["name"] == "\\u202egpj.exe"
    assert classes(seen)[0]["name"] == "Dog\\u202e"


def test_a_mask_that_does_not_fit_names_its_image():
    one = row("a.jpg", found(mask=mask_of("#")))
    with pytest.raises(ExportError, match=r"image 'a\.jpg': no polygon can be made"):
        card(one, *chosen(one), {"Dog": 0}, 1280)


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
def test_options_that_make_no_sense_are_refused(wrong: dict[str, float]):
    with pytest.raises(ConfigError, match=next(iter(wrong)).replace("_", "-")):
        PreviewOptions(**wrong)
