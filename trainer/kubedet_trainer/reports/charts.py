"""Line charts as geometry, which a template draws as SVG: scales, ticks, thinned lines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 480, 250
"""Of a whole chart, in units of its view box."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 20, 10, 38
_MOST_POINTS = 240
_MOST_DOTS = 40

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line to be drawn."""

    name: str
    points: Sequence[Point]
    """By ascending x."""
    colour: int = 0
    """Number of a colour of the page."""
    dashed: bool = False
    dots: bool = False
    """Whether each point is marked, and its value shown under the pointer."""
    summary: str | None = None
    """What the legend says of it; None for the last value."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark of an axis."""

    position: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A `Series` in units of the view box."""

    name: str
    path: str
    """Points of an SVG polyline."""
    colour: int
    dashed: bool
    summary: str
    """For the legend."""
    dots: list[tuple[float, float, str]] = field(default_factory=list)
    """Position and text."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What a template draws."""

    title: str
    x_label: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def build_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Chart | None:
    """The lines on common axes; None where no line has a point."""
    series = [item for item in series if item.points]
    points = [point for item in series for point in item.points if math.isfinite(point[1])]
    if not points:
        return None
    x_low, x_high = x_range or (min(0.0, *_of(points, 0)), max(_of(points, 0)))
    y_low, y_high = y_range or (min(0.0, *_of(points, 1)), max(_of(points, 1)))
    x_ticks = _ticks(x_low, x_high, most=6)
    y_ticks = _ticks(y_low, y_high, most=5)
    y_high = max(y_high, y_ticks[-1]) if y_range else y_high * 1.04
    across = _Scale(x_low, x_high, start=_LEFT, end=WIDTH - _RIGHT)
    up = _Scale(y_low, y_high, start=HEIGHT - _BOTTOM, end=_TOP)
    return Chart(
        title=title,
        x_label=x_label,
        lines=[_line(item, across, up) for item in series],
        x_ticks=[Tick(position=across(value), text=short(value)) for value in x_ticks],
        y_ticks=[Tick(position=up(value), text=short(value)) for value in y_ticks],
    )


def sparkline(values: Sequence[float], *, width: int = 80, height: int = 22) -> str:
    """Points of a small polyline of values from 0 to 1."""
    kept = list(values[::5])
    step = width / max(1, len(kept) - 1)
    return " ".join(f"{index * step:.0f},{height - value * height:.1f}" for index, value in enumerate(kept))


def short(value: float) -> str:
    """A number in few characters: ``90k``, ``0.02``, ``1e-5``."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:.3g}"


class _Scale:
    """From values to positions."""

    def __init__(self, low: float, high: float, *, start: float, end: float) -> None:
        self._low, self._start = low, start
        self._factor = (end - start) / ((high - low) or 1.0)

    def __call__(self, value: float) -> float:
        return round(self._start + (value - self._low) * self._factor, 1)


def _line(item: Series, across: _Scale, up: _Scale) -> Line:
    points = [point for point in item.points if math.isfinite(point[1])]
    last = points[-1][1] if points else math.nan
    stride = max(1, -(-len(points) // _MOST_POINTS))
    kept = points[::stride] if (len(points) - 1) % stride == 0 else [*points[::stride], points[-1]]
    dots = kept if item.dots and len(kept) <= _MOST_DOTS else []
    return Line(
        name=item.name,
        path=" ".join(f"{across(x):g},{up(y):g}" for x, y in kept),
        colour=item.colour,
        dashed=item.dashed,
        summary=f"{last:.3g}" if item.summary is None else item.summary,
        dots=[(across(x), up(y), f"{item.name} {y:.4g} at {x:g}") for x, y in dots],
    )


def _of(points: Sequence[Point], axis: int) -> Iterator[float]:
    return (point[axis] for point in points)


def _ticks(low: float, high: float, *, most: int) -> list[float]:
    """Round values from `low` to `high`, at most `most` steps apart."""
    span = (high - low) or 1.0
    rough = span / most
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first, last = math.ceil(low / step), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
