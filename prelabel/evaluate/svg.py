"""A small writer of plots as SVG: axes, lines, bars, points. Colours are classes that the page's style sheet knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prelabel.evaluate.markup import Markup, join, tag

#: Points of a line that are nearer to each other than this, in CSS pixels on both axes, are drawn as one.
_NEAR = 1.5


@dataclass(slots=True)
class Plot:
    """One plot with linear axes.

    Attributes:
        title: What it shows, for people who do not see it and as a tooltip.
        x: First and last value of the x axis.
        y: First and last value of the y axis.
        x_label: Below the x axis; `""` for none.
        y_label: Above the y axis; `""` for none.
        width: In CSS pixels, all in all.
        height: In CSS pixels, all in all.
        ticks: Parts into which each axis is divided.
    """

    title: str
    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)
    x_label: str = ""
    y_label: str = ""
    width: int = 420
    height: int = 300
    ticks: int = 5
    _marks: list[Markup] = field(init=False, default_factory=list)

    @property
    def _box(self) -> tuple[float, float, float, float]:
        left, top, bottom = (46, 24, 40) if self.x_label or self.y_label else (30, 8, 20)
        return left, top, self.width - 12, self.height - bottom

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Values as places in the picture; what lies outside the axes is moved to their end."""
        left, top, right, bottom = self._box
        across = min(max((x - self.x[0]) / (self.x[1] - self.x[0]), 0.0), 1.0)
        up = min(max((y - self.y[0]) / (self.y[1] - self.y[0]), 0.0), 1.0)
        return left + across * (right - left), bottom - up * (bottom - top)

    def line(self, points: Sequence[tuple[float, float]], class_: str) -> None:
        """A line through points, thinned where there are too many; nothing without points."""
        if not points:
            return
        kept: list[tuple[float, float]] = []
        for place in (self.at(*point) for point in points):
            if not kept or max(abs(place[0] - kept[-1][0]), abs(place[1] - kept[-1][1])) >= _NEAR:
                kept.append(place)
        last = self.at(*points[-1])
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in ([*kept, last] if kept[-1] != last else kept))
        self._marks.append(tag("polyline", points=path, class_=f"line {class_}"))

    def dot(self, x: float, y: float, class_: str, title: str) -> None:
        """A point with a tooltip."""
        cx, cy = self.at(x, y)
        self._marks.append(tag("circle", tag("title", title), cx=cx, cy=cy, r=4, class_=f"dot {class_}"))

    def bar(self, x: tuple[float, float], y: tuple[float, float], class_: str, title: str) -> None:
        """A filled rectangle from one value to another on both axes, with a tooltip."""
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
        """A line across at one value of an axis, with a label beside it."""
        (x1, y1) = self.at(self.x[0] if x is None else x, self.y[0] if y is None else y)
        (x2, y2) = self.at(self.x[1] if x is None else x, self.y[1] if y is None else y)
        self._marks.append(tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=f"rule {class_}"))
        if label:
            late = x is not None and x2 > self.width * 0.7
            end = "end" if late or x is None else "start"
            across, down = (x2 - 4 if late or x is None else x2 + 4), (y2 + 10 if x is not None or below else y2 - 4)
            self._marks.append(tag("text", label, x=across, y=down, text_anchor=end, class_="small"))

    def legend(self, entries: Iterable[tuple[str, str]]) -> Markup:
        """The meaning of the colours, to stand beside the plot: class and words."""
        return tag(
            "p", *(tag("span", tag("i", class_=f"key {c}"), f" {words}") for c, words in entries), class_="legend"
        )

    def draw(self) -> Markup:
        """The picture."""
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
            parts.append(tag("text", _tick(self.x, share), x=x, y=bottom + 14, text_anchor="middle"))
            parts.append(tag("text", _tick(self.y, share), x=left - 5, y=y + 4, text_anchor="end"))
        if self.x_label:
            middle = (left + right) / 2
            parts.append(tag("text", self.x_label, x=middle, y=self.height - 6, text_anchor="middle"))
        if self.y_label:
            parts.append(tag("text", self.y_label, x=4, y=12))
        return join(*parts)


def round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5, 10, 20, ...: where an axis may end."""
    size = 1.0
    while True:
        for step in (1, 2, 2.5, 5):
            if value <= step * size:
                return step * size
        size *= 10


def _tick(axis: tuple[float, float], share: float) -> str:
    value = axis[0] + share * (axis[1] - axis[0])
    return f"{value:,.0f}" if axis[1] > 10 else f"{value:.2f}".rstrip("0").rstrip(".") if value else "0"
