"""What the labelling page of Label Studio draws, measured on screenshots of it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.tools.label_studio import Server

Pixels = npt.NDArray[np.int16]
Mask = npt.NDArray[np.bool_]

#: A pixel counts as changed when its colours change by more than this together: compression has no part here, but
#: drawing smooths edges.
_CHANGED = 12

#: Height of the bar with the button to submit, which lies over what does not fit.
_FOOTER = 60


@dataclass(frozen=True)
class Frame:
    """Where the page shows the photo, in pixels of the page."""

    x: float
    y: float
    width: float
    height: float


class Labelling:
    """One task, opened."""

    def __init__(self, page: Any, server: Server, project: int, task: int, regions: int) -> None:
        """Waits until the photo and so many regions are there."""
        self._page = page
        page.goto(f"{server.url}/projects/{project}/data?task={task}", wait_until="domcontentloaded")
        page.wait_for_function(
            """([task, regions]) => window.Htx && Htx.task && String(Htx.task.id) === String(task)
              && window.Konva && Konva.stages.length > 0 && Htx.annotationStore.selected
              && Htx.annotationStore.selected.regions.length === regions
              && [...document.querySelectorAll('img[alt=image]')].some(i => i.complete && i.naturalWidth > 0)""",
            arg=[task, regions],
            timeout=90_000,
        )
        self._settle()

    @property
    def frame(self) -> Frame:
        """Where the photo is, including what does not fit on the page."""
        return self._box("document.querySelector('img[alt=image]')")

    @property
    def visible(self) -> tuple[int, int, int, int]:
        """The part of the page, x1 y1 x2 y2, on which the photo is seen."""
        photo, stage = self.frame, self._box("Konva.stages[0]?.container()")
        x1, y1 = max(photo.x, stage.x), max(photo.y, stage.y)
        x2 = min(photo.x + photo.width, stage.x + stage.width)
        y2 = min(photo.y + photo.height, stage.y + stage.height, self._page.viewport_size["height"] - _FOOTER)
        return round(x1), round(y1), round(x2), round(y2)

    def _box(self, element: str) -> Frame:
        # The page takes its canvas down and makes another while it loads.
        script = f"""() => {{ const e = {element}; if (!e) return null
                      const b = e.getBoundingClientRect(); return b.width ? [b.x, b.y, b.width, b.height] : null }}"""
        return Frame(*self._page.wait_for_function(script).json_value())

    @property
    def natural_size(self) -> tuple[int, int]:
        """Width and height of the photo as the browser understands it."""
        wide, high = self._page.evaluate(
            "() => { const i = document.querySelector('img[alt=image]'); return [i.naturalWidth, i.naturalHeight] }"
        )
        return wide, high

    @property
    def text(self) -> str:
        """All text that a person can read on the page."""
        return str(self._page.inner_text("body"))

    def screenshot(self, path: Path) -> None:
        """Keep a picture of the page."""
        self._page.screenshot(path=str(path))

    def photo(self) -> Pixels:
        """The visible part of the photo without regions, `(height, width, 3)` in pixels of the page."""
        self._show(-1)
        return self._pixels()

    def drawn(self, index: int) -> Mask:
        """Which pixels of the visible part change when a region is shown, and no other."""
        self._show(-1)
        without = self._pixels()
        self._show(index)
        return np.asarray(np.abs(self._pixels() - without).sum(axis=2) > _CHANGED)

    def _show(self, index: int) -> None:
        self._page.evaluate(
            """index => Htx.annotationStore.selected.regions.forEach((region, i) => {
                 if (region.hidden === (i === index)) region.toggleHidden() })""",
            index,
        )
        self._settle()

    def _pixels(self) -> Pixels:
        x1, y1, x2, y2 = self.visible
        shot = self._page.screenshot(clip={"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1})
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(np.int16)

    def _settle(self) -> None:
        """Wait until the page has looked the same for half a second."""
        before, same = self._pixels(), 0
        for _ in range(100):
            self._page.wait_for_timeout(170)
            now = self._pixels()
            same = same + 1 if np.array_equal(before, now) else 0
            if same == 3:
                return
            before = now
        raise AssertionError("the page does not come to rest")
