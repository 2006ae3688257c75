"""A picture of benchmark rows: bars of the share of the machine's limit that each reaches, as SVG."""

from collections.abc import Sequence
from html import escape

from cluster.bench.rows import BenchRow

WIDTH, LABEL_WIDTH, BAR_HEIGHT, GAP = 900, 360, 18, 8
_BAR_WIDTH = WIDTH - LABEL_WIDTH - 150
_SIZES = ("rows", "batch", "prompt", "context")
_NAMES = ("program",)
_COLOURS = {"memory": "#4c78a8", "compute": "#e08214", "": "#999999"}


def chart(title: str, rows: Sequence[BenchRow]) -> str:
    """Return an SVG with one bar a row, the limit at the right end, and the median time beside it."""
    height = 60 + len(rows) * (BAR_HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="white"/><g font-size="13">',
        f'<text x="12" y="24" font-size="16">{escape(title)}</text>',
    ]
    for place, row in enumerate(rows):
        parts.append(_bar(row, 44 + place * (BAR_HEIGHT + GAP)))
    limit_x = LABEL_WIDTH + _BAR_WIDTH
    parts.append(f'<line x1="{limit_x}" x2="{limit_x}" y1="36" y2="{height - 12}" stroke="#333" stroke-dasharray="4"/>')
    parts.append(f'<text x="{limit_x + 4}" y="24">measured limit</text></g></svg>')
    return "\n".join(parts)


def label(row: BenchRow) -> str:
    """Return what was measured, with what tells it from its neighbours."""
    sizes = (f"{key} {value}" for key, value in row.facts.items() if key in _SIZES)
    names = (str(row.facts[key]) for key in _NAMES if key in row.facts)
    return ", ".join([str(row.facts.get("op", row.name)), *sizes, *names])


def _bar(row: BenchRow, y: int) -> str:
    share = min(1.0, row.roofline_share or 0.0)
    middle = y + BAR_HEIGHT - 5
    percent = "" if row.roofline_share is None else f"{100 * row.roofline_share:.0f} % of {row.bound}, "
    return (
        f'<text x="{LABEL_WIDTH - 8}" y="{middle}" text-anchor="end">{escape(label(row))}</text>'
        f'<rect x="{LABEL_WIDTH}" y="{y}" width="{_BAR_WIDTH * share:.1f}" height="{BAR_HEIGHT}" '
        f'fill="{_COLOURS[row.bound]}"/>'
        f'<text x="{LABEL_WIDTH + _BAR_WIDTH * share + 6:.1f}" y="{middle}">'
        f"{percent}{row.timing.median_s * 1e3:.2f} ms</text>"
    )
