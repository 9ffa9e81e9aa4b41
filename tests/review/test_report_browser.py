"""The pages of `evaluate` and `compare` in a real browser, opened from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prelabel.review.comparison import compare
from prelabel.review.options import CompareOptions
from prelabel.review.report.files import write_comparison, write_evaluation
from prelabel.review.report.history import History
from prelabel.storage.files import Storage
from tests.browser import chromium
from tests.review.cases import evaluated, image, thing, write_truth
from tests.rows import INFO, found, row, rows

HOSTILE = '<img src=x onerror="window.hurt=1">'
LEFT, RIGHT = (0, 0, 20, 40), (40, 0, 20, 40)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    with chromium() as running:
        yield running


@pytest.fixture
def show(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page from disk; errors, and requests to anything but files, fail the test."""
    complaints: list[str] = []
    contexts = []

    def opened(path: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda request: request.url.startswith("file:") or complaints.append(request.url))
        page.goto(Path(path).as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def report(tmp_path: Path) -> str:
    """12 images, each with a detected dog and a missed cat; every third has a false dog."""
    image_rows, objects, images = [], [], []
    for number in range(1, 13):
        name = f"{number:02d}.jpg"
        photo = tmp_path / name
        Image.new("RGB", (60, 40), (30, 90, 30)).save(photo)
        images.append(image(number, name))
        objects += [thing(LEFT, image_id=number), thing(RIGHT, 2, image_id=number)]
        false = [found("Dog", 0.95, (25, 0, 35, 9))] if number % 3 == 0 else []
        detections = [found("Dog", 0.9, (0, 0, 20, 40)), *false]
        # The last two are not on this machine.
        uri = str(photo) if number < 11 else f"https://photos.example/{name}"
        image_rows.append(row(name, *detections, height=40, width=60, uri=uri))
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": HOSTILE}]
    truth = write_truth(tmp_path, objects, images, categories)
    done = evaluated(truth, *image_rows, class_map={"Cat": HOSTILE})
    return write_evaluation(done, str(tmp_path / "report"), Storage(), History(preview="../look/index.html"))[1]


def test_a_count_of_missed_objects_shows_their_images_with_boxes(show: Callable[..., Any], report: str):
    page = show(report)
    row_ = page.locator("table.sortable tbody tr", has_text=HOSTILE)
    row_.locator("button.images").first.click()
    items = page.locator("#images-list li")
    assert items.count() == 12
    assert HOSTILE in page.locator("#images-title").inner_text()
    assert page.locator("#images-list img").count() == 10
    assert page.locator("#images-list .file").last.inner_text() == "12.jpg"
    box = page.locator("#images-list rect").first
    assert [box.get_attribute(name) for name in ("x", "y", "width", "height")] == ["40", "0", "20", "40"]
    page.wait_for_function("document.querySelector('#images-list img').naturalWidth === 60")
    links = page.locator("#images-list a.preview")
    assert links.count() == 12
    assert links.last.get_attribute("href") == "../look/index.html#image=12.jpg"
    page.keyboard.press("Escape")
    assert not page.locator("#images").is_visible()
    assert page.evaluate("window.hurt") is None


def test_false_detections_and_confusions_have_their_images(show: Callable[..., Any], report: str):
    page = show(report)
    page.locator("table.sortable tbody tr", has_text="dog").locator("button.images").click()
    assert page.locator("#images-list .file").all_inner_texts() == ["03.jpg", "06.jpg", "09.jpg", "12.jpg"]
    page.locator("#images-close").click()
    page.locator(".confusion button.images").first.click()
    assert page.locator("#images-list li").count() == 12


def test_a_moved_box_is_drawn_after_annotation_and_dashed_as_predicted(show: Callable[..., Any], tmp_path: Path):
    photo = tmp_path / "a.jpg"
    Image.new("RGB", (60, 40), (30, 90, 30)).save(photo)
    image_rows = rows(row("a.jpg", found("Dog", 0.9, (0, 0, 20, 40)), height=40, width=60, uri=str(photo)))
    annotations = write_truth(tmp_path, [thing((4, 0, 20, 40))], [image()])
    options = CompareOptions.of(predictions="run", annotations=annotations)
    done = compare(INFO, image_rows, options, Storage())
    page = show(write_comparison(done, str(tmp_path / "report"), Storage())[1])
    page.locator("button.images", has_text="1").first.click()
    boxes = {kind: page.locator(f"#images-list rect.{kind}") for kind in ("before", "after")}
    assert {kind: box.get_attribute("x") for kind, box in boxes.items()} == {"before": "0", "after": "4"}
    assert "dashed" in page.locator("#images-hint").inner_text().casefold()
    assert page.locator("#images-list a.preview").count() == 0


def test_a_click_on_a_header_sorts_and_a_second_click_reverses(show: Callable[..., Any], report: str):
    page = show(report)
    names = page.locator("table.sortable tbody th")
    first = names.all_inner_texts()
    header = page.locator("table.sortable thead th", has_text="false")
    header.locator("button").click()
    assert names.all_inner_texts()[0] == "dog"
    assert header.get_attribute("aria-sort") == "descending"
    header.locator("button").click()
    assert names.all_inner_texts()[0] == HOSTILE
    assert sorted(names.all_inner_texts()) == sorted(first)


def test_the_command_is_on_top_and_can_be_copied(show: Callable[..., Any], report: str):
    page = show(report, permissions=["clipboard-read", "clipboard-write"])
    assert page.locator(".command code").count() == 2
    command = page.locator(".command code").first.inner_text()
    assert command.startswith("prelabel export label-studio ")
    assert command.endswith(str(Path(report).parent / "thresholds.yaml"))
    page.locator(".command .copy").first.click()
    page.wait_for_function("document.querySelector('.copy').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == command


@pytest.mark.parametrize("options", [{"viewport": {"width": 390, "height": 844}}, {"color_scheme": "dark"}])
def test_on_a_phone_and_in_the_dark_nothing_scrolls_sideways(
    show: Callable[..., Any], report: str, options: dict[str, Any]
):
    page = show(report, **options)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    cell = page.locator("table.sortable tbody th").first
    before = cell.bounding_box()["x"]
    page.locator(".scroll", has=page.locator("table.sortable")).evaluate("scroll => scroll.scrollLeft = 200")
    assert cell.bounding_box()["x"] == before


def test_without_javascript_everything_but_the_images_can_be_read(show: Callable[..., Any], report: str):
    page = show(report, java_script_enabled=False)
    assert page.locator(".sentence").inner_text()
    assert page.locator("table.sortable tbody tr").count() == 2
