"""A picture of a soak: one line for each figure over time, from 0 to its most, and a stroke for each kill, as SVG."""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, LEFT, RIGHT, TOP = 900, 190, 90, 44
_ROW_HEIGHT, _LINE_HEIGHT = 30, 22


def picture(sampled_s: Sequence[float], samples: Sequence[Mapping[str, float]], strikes_s: Sequence[float]) -> str:
    """Return an SVG of at least one sample; the number at a line's end is its last."""
    end_s = max(*sampled_s, *strikes_s, 1.0)
    names = sorted({name for sample in samples for name in sample})
    bottom = TOP + len(names) * _ROW_HEIGHT
    kills = " ".join(f"M{_x(at_s, end_s)} {TOP - 10}v6" for at_s in strikes_s)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + 30}" font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="white"/><g font-size="12">',
        f'<text x="12" y="20" font-size="16">At rest, between {len(strikes_s)} kills</text>',
        f'<path d="{kills}" stroke="#c0392b" fill="none"/>',
    ]
    for place, name in enumerate(names):
        series = [sample.get(name, 0.0) for sample in samples]
        parts += _row(name, [_x(at_s, end_s) for at_s in sampled_s], series, TOP + place * _ROW_HEIGHT)
    parts.append(f'<text x="{LEFT}" y="{bottom + 18}">0 min</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{bottom + 18}" text-anchor="end">{end_s / 60:.1f} min</text></g></svg>')
    return "\n".join(parts)


def _row(name: str, xs: Sequence[float], series: Sequence[float], y: int) -> list[str]:
    most = max(*series, 1.0)
    ys = (round(y + _LINE_HEIGHT * (1 - number / most), 1) for number in series)
    points = " ".join(f"{x},{height}" for x, height in zip(xs, ys, strict=True))
    base = y + _LINE_HEIGHT
    return [
        f'<text x="{LEFT - 8}" y="{base - 6}" text-anchor="end">{escape(name)}</text>',
        f'<path d="M{LEFT} {base}H{WIDTH - RIGHT}" stroke="#dddddd"/>',
        f'<polyline points="{points}" stroke="#4c78a8" stroke-width="1.5" fill="none"/>',
        f'<text x="{WIDTH - RIGHT + 8}" y="{base - 6}">{series[-1]:.0f}</text>',
    ]


def _x(at_s: float, end_s: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * at_s / end_s, 1)
