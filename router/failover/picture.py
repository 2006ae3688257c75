"""A picture of one stream through a kill: a stroke for each piece that came, over the undisturbed stream, as SVG."""

from collections.abc import Sequence
from html import escape

from router.failover.trial import Portrait

WIDTH, HEIGHT, LEFT, RIGHT = 900, 190, 110, 20
_ROW_HEIGHT = 34
_CONTROL_Y, _STRUCK_Y = 56, 106


def picture(portrait: Portrait) -> str:
    """Return an SVG; time runs from the question to the last piece of the longer stream."""
    end_s = max(*portrait.arrivals_s, *portrait.control_s, portrait.struck_s)
    strike_x = _x(portrait.struck_s, end_s)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="white"/><g font-size="13">',
        f'<text x="12" y="24" font-size="16">{escape(portrait.title)}</text>',
        *_row("undisturbed", portrait.control_s, _CONTROL_Y, end_s),
        *_row("struck", portrait.arrivals_s, _STRUCK_Y, end_s),
        f'<line x1="{strike_x}" x2="{strike_x}" y1="40" y2="150" stroke="#c0392b" stroke-width="2"/>',
        f'<text x="{strike_x + 4}" y="48" fill="#c0392b">strike, {portrait.struck_s:.2f} s</text>',
        f'<text x="{LEFT}" y="172">0 s</text>',
        f'<text x="{WIDTH - RIGHT}" y="172" text-anchor="end">{end_s:.2f} s</text></g></svg>',
    ]
    return "\n".join(parts)


def _row(name: str, arrivals_s: Sequence[float], y: int, end_s: float) -> list[str]:
    strokes = " ".join(f"M{_x(at_s, end_s)} {y}v{_ROW_HEIGHT}" for at_s in arrivals_s)
    return [
        f'<text x="{LEFT - 8}" y="{y + _ROW_HEIGHT // 2 + 5}" text-anchor="end">{name}</text>',
        f'<path d="{strokes}" stroke="#4c78a8" fill="none"/>',
    ]


def _x(at_s: float, end_s: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * at_s / end_s, 1)
