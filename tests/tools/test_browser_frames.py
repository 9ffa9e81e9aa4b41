"""What `decode` says of pictures, held against real browsers: which way up they show each file, and in which colours.

Chromium is what the rules are taken from. Firefox is asked where it is installed; where it has rules of its own stands
in the lists here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prelabel.errors import DecodeError
from prelabel.source.decode import DecodedImage, decode
from tests.source import oriented, test_png
from tests.source.test_orientation import TURNS
from tests.tools import pictures

pytestmark = pytest.mark.browser

ORIENTED = oriented.files()
PNGS = {f"{name}.png": case[0] for name, case in test_png.SEEN.items()}
BROKEN = {f"{name}.png": case[0] for name, case in test_png.REFUSED.items()}

#: Odd EXIF that Firefox reads otherwise, XMP before EXIF, and animated PNGs, which it never turns.
FIREFOX_TURNS_OTHERWISE = {
    *(f"{name}.{ending}" for name in ("two entries", "a value of nothing, then one", "a long, then a short",
                                        "a cut entry")
      for ending in ("jpg", "png")),
    "an empty segment, then one.jpg", "padded with ff.jpg", "XMP 3, EXIF 6.jpg", "animated.png",
}  # fmt: skip

#: Contradictory or senseless colours, and damage, that Firefox takes otherwise.
FIREFOX_SHOWS_OTHERWISE = {
    *(f"color, {name}.png" for name in (
        "gamma beyond measure", "gamma next to nothing", "senseless primaries", "sRGB before gamma",
        "sRGB behind gamma", "sRGB before primaries", "a spoiled profile, then one", "a profile for color on gray",
        "code points of television", "code points of BT.2020", "code points of a narrow range")),
    "animation, called an animation in a spoiled chunk.png",
    "damage, unknown behind the pixels.png",
}  # fmt: skip

#: Refused here, and shown by Chromium: damaged at the very end, where a picture might as well be cut.
CHROMIUM_SHOWS = {"no end.png"}


@pytest.fixture(scope="module")
def show() -> Callable[..., dict[str, np.ndarray | None]]:
    def run(browser: str, files: dict[str, bytes]) -> dict[str, np.ndarray | None]:
        if pictures.executable(browser) is None:
            pytest.skip(f"{browser} is not installed (Debian: apt-get install chromium firefox-esr)")
        return pictures.shown(browser, files)

    return run


def browser_frame(image: DecodedImage) -> np.ndarray:
    """The pixels of a decoded picture as a browser shows them: stored again, and turned as the browser does."""
    inverse = {6: 8, 8: 6}.get(image.exif_orientation or 1, image.exif_orientation or 1)
    return np.asarray(TURNS[image.browser_orientation](TURNS[inverse](image.pixels)))


def difference(picture: np.ndarray, in_browser: np.ndarray | None) -> float:
    """Mean difference in levels; infinite where the size differs or the browser shows nothing."""
    if in_browser is None or picture.shape != in_browser.shape:
        return float("inf")
    return float(np.abs(picture.astype(np.int16) - in_browser).mean())


@pytest.mark.parametrize("browser", ["chromium", "firefox"])
def test_browsers_show_files_as_the_row_says(browser: str, show: Callable[..., dict[str, np.ndarray | None]]) -> None:
    seen = show(browser, {name: case[0] for name, case in ORIENTED.items()})
    wrong = {
        name: (None if picture is None else picture.shape)
        for name, picture in seen.items()
        if not difference(browser_frame(decode(ORIENTED[name][0])), picture) < 4
    }
    assert set(wrong) == (set() if browser == "chromium" else FIREFOX_TURNS_OTHERWISE), wrong


@pytest.mark.parametrize("browser", ["chromium", "firefox"])
def test_browsers_show_the_colors_of_a_png(browser: str, show: Callable[..., dict[str, np.ndarray | None]]) -> None:
    seen = show(browser, PNGS)
    most = 2 if browser == "chromium" else 9  # Firefox computes gamma in 8 bits
    wrong = {}
    for name, picture in seen.items():
        decoded = decode(PNGS[name]).pixels
        if picture is None or decoded.shape != picture.shape or np.abs(decoded.astype(np.int16) - picture).max() > most:
            middle = None if picture is None else picture[8, test_png.COLUMNS].tolist()
            wrong[name] = (decoded[8, test_png.COLUMNS].tolist(), middle)
    assert set(wrong) == (set() if browser == "chromium" else FIREFOX_SHOWS_OTHERWISE), wrong


def test_refused_values_are_shortened(show: Callable[..., dict[str, np.ndarray | None]]) -> None:
    """Chromium shows nothing of it, white, or a part."""
    seen = show("chromium", BROKEN)
    whole = decode(test_png.png()).pixels
    assert {name for name, picture in seen.items() if difference(whole, picture) < 2} == CHROMIUM_SHOWS


def test_real_photos_look_as_in_the_browser(assets: Path, show: Callable[..., dict[str, np.ndarray | None]]) -> None:
    """Those that are hard to read, with their profiles, and ordinary ones."""
    shown_by_browsers = {".jpg", ".png", ".webp", ".gif", ".bmp", ".mpo"}
    paths = [path for path in (assets / "images" / "hard").iterdir() if path.suffix in shown_by_browsers]
    paths += sorted((assets / "images" / "coco-val80").iterdir())[:10]
    files, decoded = {}, {}
    for path in paths:
        data = path.read_bytes()
        try:
            decoded[path.name] = browser_frame(decode(data))
        except DecodeError:
            continue
        files[path.name] = data
    seen = show("chromium", files)
    wrong = {name: round(difference(decoded[name], picture), 2) for name, picture in seen.items()}
    assert {name: value for name, value in wrong.items() if value > 3} == {}
