"""The page in a real browser, opened from disk: filters, keys, the opened picture, and names that try to be markup."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prelabel.select import Selection
from tests.preview.galleries import photo, preview
from tests.rows import INFO, failed_row, found, mask_of, row

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

HOSTILE = [
    '<img src=x onerror="window.hurt=1">.jpg',
    "</script><script>window.hurt=1</script>.jpg",
    "\"'><svg onload=window.hurt=1>.jpg",
    "{{constructor}} ${window.hurt=1} &lt;b&gt; --> 🐕.jpg",
    "\u202egpj.exe \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \udcff\u2028.jpg",
    "javascript:window.hurt=1",
    "a/" + "long" * 80 + ".jpg",
]

MASK = mask_of(*["#" * 30 + "." * 30] * 40)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, one for all tests of this file."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a preview from disk; whatever the page says unexpectedly, or asks for elsewhere, fails the test."""
    complaints: list[str] = []
    contexts = []

    def opened(folder: Path, *, expected: str = "never", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda said: expected in said.text or complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("requestfailed", lambda request: complaints.append(f"not loaded: {request.url}"))
        page.on("request", lambda request: None if local(request.url) else complaints.append(request.url))
        page.goto((folder / "index.html").as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def local(url: str) -> bool:
    return url.startswith(("file:", "data:"))


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images: two dogs on a, a cat and a dog on b, an unsure cat on c, nothing on d, and e failed."""
    folder = tmp_path_factory.mktemp("gallery")
    cat = {"label": "Cat", "category_id": 2, "xyxy": (30, 0, 60, 40)}
    rows = [
        photo(folder, "a.jpg", found(score=0.9, xyxy=(0, 0, 30, 40), mask=MASK), found(score=0.6, xyxy=(5, 5, 20, 30))),
        photo(folder, "b.jpg", found(score=0.8, xyxy=(0, 0, 30, 40)), found(**{**cat, "score": 0.7})),
        photo(folder, "c.jpg", found(**{**cat, "score": 0.5})),
        photo(folder, "d.jpg"),
        failed_row("e.jpg"),
    ]
    rows[0].detections.mask[1] = MASK
    preview(rows, folder / "out")
    return folder / "out"


def wait_for(page: Any, condition: str) -> None:
    """Wait until an expression is true (the page's policy forbids playwright's own way, which is `eval`)."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never came true: {condition}")


def names(page: Any) -> list[str]:
    return [text.removesuffix(".jpg") for text in page.locator(".card .file").all_text_contents()]


def choose_least(page: Any, score: float) -> None:
    page.locator("#least").fill(str(score))
    wait_for(page, f"document.getElementById('least-shown').textContent === '{score:.2f}'")


def test_totals_and_cards_are_there_when_opened_from_disk(show: Callable[..., Any], gallery: Path):
    page = show(gallery)
    tiles = [" ".join(text.split()) for text in page.locator("#tiles li").all_inner_texts()]
    assert tiles == [
        "5 images",
        "5 detections 1.3 per image",
        "2 classes seen",
        "1 nothing found 20 %",
        "1 failed 20 %",
    ]
    assert names(page) == list("abcde")
    assert page.locator("#count").text_content() == "5 pictures, 5 detections"
    assert page.locator("#scores .bar").count() == 28
    assert page.locator("#classes .class").all_inner_texts() == ["Dog\n3", "Cat\n2"]
    assert page.evaluate("[...document.images].filter(i => i.complete && i.naturalWidth === 60).length") == 4


def test_boxes_and_masks_lie_where_they_belong(show: Callable[..., Any], gallery: Path):
    page = show(gallery)
    first = page.locator(".shot").first
    picture = first.locator("img").bounding_box()
    mask = first.locator(".mask").last.bounding_box()
    box = first.locator(".box").last.bounding_box()
    for shape in (mask, box):
        assert abs(shape["x"] - picture["x"]) < 2
        assert abs(shape["width"] - picture["width"] / 2) < 4
        assert abs(shape["height"] - picture["height"]) < 4
    assert first.locator(".tag").first.text_content() == "Dog 0.90"


@pytest.mark.parametrize(
    ("control", "value", "expected"),
    [
        ("#class", "Cat (2)", "bc"),
        ("#class", "Dog (3)", "ab"),
        ("#status", "Something found", "abc"),
        ("#status", "Nothing found", "d"),
        ("#status", "Failed", "e"),
        ("#sort", "Most detections", "abcde"),
        ("#sort", "Fewest detections", "dcabe"),
        ("#sort", "Highest score", "abcde"),
        ("#sort", "Lowest score", "cabde"),
        ("#sort", "Most uncertain", "cabde"),
        ("#sort", "Name", "abcde"),
    ],
)
def test_filters_and_orders(show: Callable[..., Any], gallery: Path, control: str, value: str, expected: str):
    page = show(gallery)
    page.select_option(control, label=value)
    assert "".join(names(page)) == expected


def test_the_score_slider_hides_detections_and_what_has_none_left(show: Callable[..., Any], gallery: Path):
    page = show(gallery)
    choose_least(page, 0.65)
    assert names(page) == ["a", "b"]
    assert page.locator("#count").text_content() == "2 pictures, 3 detections"
    assert page.locator(".card").first.locator(".box").count() == 1
    choose_least(page, 0.95)
    assert page.locator("#nothing").is_visible()
    page.click("#reset")
    assert names(page) == list("abcde")


def test_the_slider_goes_down_to_what_the_run_keeps(show: Callable[..., Any], tmp_path: Path):
    low = [
        found(score=0.31, xyxy=(0, 0, 30, 40)),
        found(score=0.2, xyxy=(5, 5, 9, 9)),
        found(score=0.06, xyxy=(1, 1, 4, 4)),
    ]
    fox = found("Fox", score=0.1, xyxy=(5, 5, 20, 30), category_id=9)
    run = [photo(tmp_path, "a.jpg", *low), photo(tmp_path, "b.jpg", fox)]
    info = dataclasses.replace(INFO, classes=None, kept=Selection(score_threshold=0.05))
    preview(run, tmp_path / "out", info=info)
    page = show(tmp_path / "out")
    assert "at 0.3 and above; the run keeps 0.05" in page.locator("#run").text_content()
    assert (page.locator("#least").get_attribute("min"), page.locator("#least").input_value()) == ("0.05", "0.3")
    assert page.locator("#count").text_content() == "2 pictures, 1 detection"
    assert page.locator("#classes .class").all_inner_texts() == ["Dog\n1"]
    assert page.locator("#scores .bar:not(.off)").count() == 28
    page.locator(".shot").first.click()
    assert page.locator("#hidden-found").text_content() == "2 more lie below the threshold; the slider shows them."
    page.keyboard.press("Escape")
    choose_least(page, 0.15)
    assert page.locator("#count").text_content() == "2 pictures, 2 detections"
    choose_least(page, 0.05)
    assert page.locator("#count").text_content() == "2 pictures, 4 detections"
    wait_for(page, "document.querySelectorAll('.card .box').length === 4")
    page.click("#reset")
    assert page.locator("#count").text_content() == "2 pictures, 1 detection"


def test_thresholds_of_classes_hold_where_the_slider_starts(show: Callable[..., Any], tmp_path: Path):
    boxes = [found(score=0.5, xyxy=(0, 0, 30, 40)), found("Cat", 0.1, xyxy=(5, 5, 9, 9), category_id=2)]
    preview([photo(tmp_path, "a.jpg", *boxes)], tmp_path / "out", class_threshold={"Dog": 0.6, "Cat": 0.1})
    page = show(tmp_path / "out")
    assert page.locator(".tag").all_text_contents() == ["Cat 0.10"]
    choose_least(page, 0.2)  # lower than where it started: what a class's own threshold hides comes up
    assert page.locator("#count").text_content() == "1 picture, 2 detections"
    choose_least(page, 0.4)
    assert page.locator("#nothing").is_visible()


def test_searching_for_a_name_and_clearing(show: Callable[..., Any], gallery: Path):
    page = show(gallery)
    page.fill("#query", "B.JP")
    wait_for(page, "document.querySelectorAll('.card').length === 1")
    assert names(page) == ["b"]
    page.click("#reset")
    assert len(names(page)) == 5


def test_a_class_of_the_histogram_is_a_filter(show: Callable[..., Any], gallery: Path):
    page = show(gallery)
    cat = page.locator("#classes .class", has_text="Cat")
    cat.click()
    assert (names(page), cat.get_attribute("aria-pressed")) == (["b", "c"], "true")
    assert page.locator(".box").count() == 2
    cat.click()
    assert len(names(page)) == 5


def test_failures_are_listed_with_their_reason(show: Callable[..., Any], gallery: Path):
    page = show(gallery)
    page.click("#failures summary")
    cells = page.locator("#failures td").all_text_contents()
    assert cells == ["e.jpg", "TruncatedImageError", "decode", "the end of the image's data is missing"]


def test_boxes_masks_and_labels_are_switched_by_click_and_key(show: Callable[..., Any], gallery: Path):
    page = show(gallery)
    for key, shapes, box in (
        ("b", ".box", "#show-boxes"),
        ("m", ".mask", "#show-masks"),
        ("l", ".tag", "#show-labels"),
    ):
        assert page.locator(shapes).count() > 0
        page.keyboard.press(key)
        assert (page.locator(shapes).count(), page.locator(box).is_checked()) == (0, False)
        page.locator(box).check(force=True)
        assert page.locator(shapes).count() > 0


def test_keys_go_through_the_pictures(show: Callable[..., Any], gallery: Path):
    page = show(gallery)
    page.locator(".shot").first.focus()
    focused = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(focused) == "a.jpg: 2 Dog"
    for key, name in (("ArrowRight", "b"), ("End", "e"), ("ArrowLeft", "d"), ("Home", "a"), ("ArrowLeft", "a")):
        page.keyboard.press(key)
        assert page.evaluate(focused).startswith(f"{name}.jpg")
    page.keyboard.press("Enter")
    assert page.locator("#viewer-name").text_content() == "a.jpg"
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-place").text_content() == "2 of 5"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    # The browser tells of the end a moment after it has led the focus back to where it was before.
    page.wait_for_function(f"{focused} === 'b.jpg: 1 Dog, 1 Cat'")


def test_down_and_up_go_to_the_picture_below_and_above(show: Callable[..., Any], gallery: Path):
    page = show(gallery, viewport={"width": 700, "height": 900})
    page.locator(".shot").first.focus()
    rows = page.evaluate("[...document.querySelectorAll('.card')].map(card => card.offsetTop)")
    below = rows.index(next(top for top in rows if top != rows[0]))
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.number") == str(below)
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.dataset.number") == "0"


def test_tab_reaches_every_control_with_a_name_and_a_visible_focus(show: Callable[..., Any], gallery: Path):
    page = show(gallery)
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        one = page.evaluate(
            """() => {
              const e = document.activeElement;
              const named = e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent || e.title;
              const shown = e.matches(".switches input") ? e.nextElementSibling : e;
              return [e.id || e.className || e.tagName, named.trim(), getComputedStyle(shown).outlineStyle];
            }"""
        )
        if one[0] == "BODY":
            break
        assert one[1], one
        assert one[2] != "none", one
        seen.append(one[0])
    order = [
        "skip",
        "open-help",
        "query",
        "class",
        "status",
        "sort",
        "least",
        "show-boxes",
        "show-masks",
        "show-labels",
    ]
    assert [one for one in seen if one in order and one != "class"] == [one for one in order if one != "class"]
    assert seen.count("shot") == 5


def test_the_opened_picture_shows_all_there_is_to_know(show: Callable[..., Any], gallery: Path):
    page = show(gallery)
    page.locator(".shot").nth(1).click()
    viewer = page.locator("#viewer")
    assert viewer.locator("img").get_attribute("alt") == "b.jpg: 1 Dog, 1 Cat"
    assert viewer.locator(".entry").all_inner_texts() == ["Dog\n0.80", "Cat\n0.70"]
    assert viewer.locator(".box").count() == 2
    assert "60 × 40 pixels" in viewer.locator("#facts").inner_text()
    viewer.locator(".entry").nth(1).click()
    assert viewer.locator(".shape.lit").count() == 1
    before = viewer.locator("img").bounding_box()["width"]
    page.keyboard.press("+")
    assert viewer.locator("img").bounding_box()["width"] == pytest.approx(before * 1.5, rel=0.01)
    page.keyboard.press("0")
    assert viewer.locator("img").bounding_box()["width"] == pytest.approx(before, rel=0.01)
    viewer.locator("#next").click()
    assert viewer.locator("#viewer-name").text_content() == "c.jpg"
    page.keyboard.press("End")
    assert "the end of the image's data is missing" in viewer.inner_text()
    assert viewer.locator("#next").is_disabled()
    viewer.locator("#close").click()
    assert not viewer.is_visible()


def test_hostile_names_and_labels_are_text_and_nothing_else(show: Callable[..., Any], tmp_path: Path):
    rows = [
        photo(tmp_path, name, found(name, xyxy=(5, 5, 40, 35), mid=""), name=f"{number}.jpg")
        for number, name in enumerate(HOSTILE)
    ]
    rows += [failed_row(name + "2") for name in HOSTILE]
    preview(rows, tmp_path / "out")
    page = show(tmp_path / "out")
    page.click("#failures summary")
    before = page.evaluate("document.querySelectorAll('script, img, svg, style, link, a, iframe').length")
    for number in range(len(rows)):
        page.locator(".shot").nth(number).click()
        page.keyboard.press("Escape")
    page.fill("#query", HOSTILE[0])
    wait_for(page, "document.querySelectorAll('.card').length === 2")
    page.fill("#query", "")
    wait_for(page, f"document.querySelectorAll('.card').length === {len(rows)}")
    assert page.evaluate("window.hurt") is None
    assert page.locator("[onerror], [onload], script:not(#data)").count() == 1  # the page's own
    after = page.evaluate("document.querySelectorAll('script, img, svg, style, link, a, iframe').length")
    assert before <= after <= before + 2  # the opened picture's image and shapes
    assert page.locator(".card .file").first.get_attribute("title") == HOSTILE[0]
    assert page.locator("#class option").nth(1).text_content().endswith(" (1)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_even_with_markup_in_the_page_the_policy_runs_nothing(show: Callable[..., Any], gallery: Path, tmp_path: Path):
    copy = Path(shutil.copytree(gallery, tmp_path / "copy"))
    html = (copy / "index.html").read_text()
    (copy / "index.html").write_text(html.replace("</main>", "</main><img src=data:, onerror='window.hurt=1'>"))
    page = show(copy, expected="violates the following Content Security Policy directive")
    assert page.locator("img[onerror]").count() == 1
    page.wait_for_timeout(200)
    assert page.evaluate("window.hurt") is None


@pytest.mark.parametrize("width", [320, 390, 768, 1920])
def test_nothing_sticks_out_at_any_width(show: Callable[..., Any], gallery: Path, width: int):
    page = show(gallery, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".shot").first.click()
    for control in ("#close", "#next", "#found", "#stage"):
        box = page.locator(control).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= 800


def test_a_swipe_shows_the_next_picture_on_a_phone(show: Callable[..., Any], gallery: Path):
    page = show(gallery, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.locator(".shot").first.tap()
    page.evaluate(
        """() => {
          const stage = document.getElementById("stage");
          const at = (x) => new Touch({ identifier: 1, target: stage, clientX: x, clientY: 300 });
          stage.dispatchEvent(new TouchEvent("touchstart", { touches: [at(300)], changedTouches: [at(300)] }));
          stage.dispatchEvent(new TouchEvent("touchend", { touches: [], changedTouches: [at(100)] }));
        }"""
    )
    assert page.locator("#viewer-name").text_content() == "b.jpg"


def test_light_and_dark_follow_the_system(show: Callable[..., Any], gallery: Path):
    ground = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)[0]"
    assert show(gallery, color_scheme="light").evaluate(ground) > 200
    assert show(gallery, color_scheme="dark").evaluate(ground) < 50


def test_a_single_file_shows_its_pictures_alone(show: Callable[..., Any], tmp_path: Path):
    preview([photo(tmp_path, "a.jpg", found(xyxy=(5, 5, 40, 35)))], tmp_path / "out", single_file=True)
    page = show(tmp_path / "out")
    assert page.evaluate("document.images[0].naturalWidth") == 60


def test_two_thousand_cards_stay_quick(show: Callable[..., Any], tmp_path: Path):
    boxes = [found(f"class {n}", 0.3 + 0.08 * n, (n, n, n + 20, n + 20), mask=None if n else MASK) for n in range(8)]
    gone = str(tmp_path / "gone")
    rows = [row(f"{n:04d}.jpg", *boxes[n % 8 :], width=60, height=40, uri=gone) for n in range(2000)]
    preview(rows, tmp_path / "out", limit=0)
    page = show(tmp_path / "out")
    page.wait_for_selector(".card")
    assert page.locator(".card").count() < 300  # the rest comes with scrolling
    spent = page.evaluate(
        """async () => {
          const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
          const least = document.getElementById("least");
          let worst = 0;
          for (let score = 0.3; score < 0.8; score += 0.02) {
            const start = performance.now();
            least.value = score.toFixed(2);
            least.dispatchEvent(new Event("input"));
            await frame();
            worst = Math.max(worst, performance.now() - start);
          }
          return worst;
        }"""
    )
    assert spent < 1500  # milliseconds; some 50 on an idle machine
    page.click("#reset")
    page.locator(".shot").first.focus()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("1999.jpg")
    assert page.locator(".card").count() == 2000
    wait_for(page, "document.querySelectorAll('.box').length > 0")
    assert page.locator(".box").count() < 1000
