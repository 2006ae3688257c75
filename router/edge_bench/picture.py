"""A picture of the rows as SVG: for each number of streams a bar of each program, by speed, first piece and gaps."""

from collections.abc import Sequence
from html import escape

from router.edge_bench.figures import Row

WIDTH, LABEL_WIDTH, BAR_HEIGHT, GAP, HEAD = 900, 210, 16, 5, 30
_BAR_WIDTH = WIDTH - LABEL_WIDTH - 230
_COLOURS = {"engine": "#4c78a8", "edge": "#e08214", "server": "#54a24b"}
_PANELS = (
    ("tokens_per_s", "tokens/s", "throughput_lost"),
    ("first_ms", "ms to the first piece", "first_added_ms"),
    ("token_ms", "ms between pieces", "token_added_ms"),
)
"""What is drawn: a row's key, its unit, and the key that says what was added to the engine."""


def picture(title: str, rows: Sequence[Row]) -> str:
    """Return an SVG of three panels; in each, bars are to the scale of the longest one of the same load."""
    panel_height = HEAD + len(rows) * (BAR_HEIGHT + GAP) + 10
    height = 40 + len(_PANELS) * panel_height
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="white"/><g font-size="13">',
        f'<text x="12" y="24" font-size="16">{escape(title)}</text>',
    ]
    for number, panel in enumerate(_PANELS):
        parts += _panel(panel, rows, 40 + number * panel_height)
    return "\n".join([*parts, "</g></svg>"])


def _panel(panel: tuple[str, str, str], rows: Sequence[Row], top: int) -> list[str]:
    key, unit, added = panel
    parts = [f'<text x="12" y="{top + 16}" font-weight="bold">{unit}</text>']
    for place, row in enumerate(rows):
        longest = max(_number(one[key]) for one in rows if one["streams"] == row["streams"]) or 1.0
        y = top + HEAD + place * (BAR_HEIGHT + GAP)
        middle, width = y + BAR_HEIGHT - 4, _BAR_WIDTH * _number(row[key]) / longest
        told = f"{_number(row[key]):.4g}{_more(row.get(added), added)}"
        parts.append(
            f'<text x="{LABEL_WIDTH - 8}" y="{middle}" text-anchor="end">'
            f"{row['streams']} streams, {row['program']}</text>"
            f'<rect x="{LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}" '
            f'fill="{_COLOURS[str(row["program"])]}"/>'
            f'<text x="{LABEL_WIDTH + width + 6:.1f}" y="{middle}">{told}</text>'
        )
    return parts


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _more(added: object, key: str) -> str:
    if not isinstance(added, int | float):
        return ""
    return f" ({100 * added:.1f} % lost)" if key == "throughput_lost" else f" ({added:+.2f} ms)"
