"""Draws plots as SVG: a `Plot` has linear axes and holds lines, dots, bars and rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from prelabel.pages.markup import Markup, join, tag

#: Points of a line that are closer than this on both axes, in CSS pixels, are drawn as one point.
_NEAR = 1.5


@dataclass(slots=True)
class Plot:
    """A plot with linear axes: x from 0 to 1 or another range, y from 0 to `most`.

    Attributes:
        title: What the plot shows, as a tooltip and for screen readers.
        most: Last value of the y axis.
        x_label: Title below the x axis, or `""`.
        y_label: Title above the y axis, or `""`.
        width: Total width in CSS pixels.
        height: Total height in CSS pixels.
        ticks: Number of intervals on each axis.
        x_range: First and last value of the x axis.
    """

    title: str
    most: float = 1.0
    x_label: str = ""
    y_label: str = ""
    width: int = 420
    height: int = 300
    ticks: int = 5
    x_range: tuple[float, float] = (0.0, 1.0)
    _marks: list[Markup] = field(init=False, default_factory=list)

    @property
    def _box(self) -> tuple[float, float, float, float]:
        left, top, bottom = (46, 24, 40) if self.x_label or self.y_label else (30, 8, 20)
        return left, top, self.width - 12, self.height - bottom

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Convert values to a position in CSS pixels; values outside an axis are moved to its end."""
        (position,) = self._positions([(x, y)])
        return position

    def _positions(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """The positions of points, see `at`."""
        left, top, right, bottom = self._box
        first, last = self.x_range
        x, y = np.array(points, np.float64).T
        across, up = np.clip((x - first) / (last - first), 0.0, 1.0), np.clip(y / self.most, 0.0, 1.0)
        return list(
            zip((left + across * (right - left)).tolist(), (bottom - up * (bottom - top)).tolist(), strict=True)
        )

    def line(self, points: Sequence[tuple[float, float]], class_: str) -> None:
        """Draw a line through points; points very close to the previous one are dropped."""
        if not points:
            return
        positions = self._positions(points)
        kept = positions[:1]
        for x, y in positions:
            if max(abs(x - kept[-1][0]), abs(y - kept[-1][1])) >= _NEAR:
                kept.append((x, y))
        last = positions[-1]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in ([*kept, last] if kept[-1] != last else kept))
        self._marks.append(tag("polyline", points=path, class_=f"line {class_}"))

    def dot(self, x: float, y: float, class_: str, title: str) -> None:
        """Draw a point with a tooltip."""
        cx, cy = self.at(x, y)
        self._marks.append(tag("circle", tag("title", title), cx=cx, cy=cy, r=4, class_=f"dot {class_}"))

    def bar(self, x: tuple[float, float], y: tuple[float, float], class_: str, title: str) -> None:
        """Draw a filled rectangle between two values on each axis, with a tooltip."""
        (x1, y1), (x2, y2) = self.at(x[0], y[0]), self.at(x[1], y[1])
        self._marks.append(
            tag(
                "rect",
                tag("title", title),
                x=min(x1, x2),
                y=min(y1, y2),
                width=abs(x2 - x1),
                height=abs(y2 - y1),
                class_=f"bar {class_}",
            )
        )

    def rule(
        self, *, x: float | None = None, y: float | None = None, class_: str, label: str = "", below: bool = False
    ) -> None:
        """Draw a dashed line across the plot at one value of an axis, with a label beside it."""
        first, last = self.x_range
        (x1, y1) = self.at(first if x is None else x, y or 0.0)
        (x2, y2) = self.at(last if x is None else x, self.most if y is None else y)
        self._marks.append(tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=f"rule {class_}"))
        if label:
            # A vertical rule near the right edge has its label on the left; a horizontal rule ends at the right edge.
            on_left = x is None or x2 > self.width * 0.7
            label_x, label_y = (x2 - 4 if on_left else x2 + 4), (y2 + 10 if x is not None or below else y2 - 4)
            anchor = "end" if on_left else "start"
            self._marks.append(tag("text", label, x=label_x, y=label_y, text_anchor=anchor, class_="small"))

    def draw(self) -> Markup:
        """The plot as SVG."""
        view = f"0 0 {self.width} {self.height}"
        return tag(
            "svg",
            tag("title", self.title),
            self._axes(),
            *self._marks,
            viewBox=view,
            width=self.width,
            height=self.height,
            role="img",
            aria_label=self.title,
        )

    def _axes(self) -> Markup:
        left, top, right, bottom = self._box
        parts: list[Markup] = []
        for number in range(self.ticks + 1):
            share = number / self.ticks
            x, y = left + share * (right - left), bottom - share * (bottom - top)
            parts.append(tag("line", x1=left, y1=y, x2=right, y2=y, class_="grid"))
            first, last = self.x_range
            value = first + share * (last - first)
            parts.append(tag("text", _tick(last - first, value), x=x, y=bottom + 14, text_anchor="middle"))
            parts.append(tag("text", _tick(self.most, share * self.most), x=left - 5, y=y + 4, text_anchor="end"))
        if self.x_label:
            middle = (left + right) / 2
            parts.append(tag("text", self.x_label, x=middle, y=self.height - 6, text_anchor="middle"))
        if self.y_label:
            parts.append(tag("text", self.y_label, x=4, y=12))
        return join(*parts)


def legend(entries: Iterable[tuple[str, str]]) -> Markup:
    """A legend from pairs of a style class and its meaning."""
    keys = (tag("span", tag("i", class_=f"key {class_}"), f" {words}") for class_, words in entries)
    return tag("p", *keys, class_="legend")


def round_up(value: float) -> float:
    """Round up to 1, 2, 2.5, 5, 10, 20, 25, 50, ..., for the end of an axis."""
    size = 1.0
    while True:
        for step in (1, 2, 2.5, 5):
            if value <= step * size:
                return step * size
        size *= 10


def _tick(length: float, value: float) -> str:
    """A value of an axis, with decimals unless the axis is longer than 10."""
    return f"{value:,.0f}" if length > 10 else f"{value:.2f}".rstrip("0").rstrip(".") if round(value, 9) else "0"
