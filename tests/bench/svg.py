"""Charts as SVG text: lines over a logarithmic x axis, and bars. Small on purpose; nothing has to be installed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 60, 150, 34, 44
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#7f7f7f")
TICKS = 4
BAR_LEFT, BAR_HEIGHT = 130, 20

Series = Mapping[str, Sequence[tuple[float, float]]]


def line_chart(title: str, x_text: str, y_text: str, series: Series) -> str:
    """Series name → points (x > 0, y ≥ 0). The y axis begins at 0."""
    xs = sorted({x for points in series.values() for x, _ in points})
    y_max = _nice(max((y for points in series.values() for _, y in points), default=1.0))
    low, high = math.log10(xs[0]), math.log10(xs[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        share = (math.log10(x) - low) / (high - low) if high > low else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / y_max * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 18, title, size=13),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_text, anchor="middle"),
        _text(8, TOP - 4, y_text),
    ]
    for tick in range(TICKS + 1):
        value = y_max * tick / TICKS
        _, y = at(xs[0], value)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{value:g}", anchor="end"))
    for x in xs:
        parts.append(_text(at(x, 0)[0], HEIGHT - BOTTOM + 16, f"{x:g}", anchor="middle"))
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (at(x, y) for x, y in sorted(points)))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in (at(*p) for p in points)]
        y = TOP + 14 + 16 * number
        parts.append(f'<rect x="{WIDTH - RIGHT + 12}" y="{y - 8}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(WIDTH - RIGHT + 28, y + 1, name))
    return "\n".join([*parts, "</svg>"]) + "\n"


def bar_chart(title: str, bars: Mapping[str, float], *, digits: int = 1) -> str:
    """A bar for each name, in the order given, the first one in another colour; its length is logarithmic."""
    high = max((math.log10(1 + value) for value in bars.values()), default=1.0)
    height = TOP + BAR_HEIGHT * len(bars) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(8, 18, f"{title} (lengths logarithmic)", size=13),
    ]
    for number, (name, value) in enumerate(bars.items()):
        y = TOP + BAR_HEIGHT * number
        length = (WIDTH - BAR_LEFT - 90) * math.log10(1 + value) / high if high else 0.0
        parts.append(_text(BAR_LEFT - 8, y + 13, name, anchor="end"))
        parts.append(
            f'<rect x="{BAR_LEFT}" y="{y + 3}" width="{length:.1f}" height="{BAR_HEIGHT - 6}" '
            f'fill="{COLOURS[0] if not number else COLOURS[-1]}"/>'
        )
        parts.append(_text(BAR_LEFT + length + 6, y + 13, f"{value:,.{digits}f}"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


def _nice(value: float) -> float:
    """A round number at or above the value."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value)
