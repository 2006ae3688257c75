"""Rows of a comparison as a Markdown table: `python -m cluster.bench.table FILE...` of JSON lines."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_HEAD = ("work", "program", "tokens/s", "ratio (lowest to highest)", "of the limit", "peak memory")
Row = dict[str, Any]


def table(rows: Iterable[Row]) -> str:
    """Return one line for each row that names a program, as `expertmesh bench engine --against` writes them."""
    lines = [_cells(row) for row in rows if "program" in row]
    return "\n".join(_line(cells) for cells in (_HEAD, ("---",) * len(_HEAD), *lines))


def _cells(row: Row) -> tuple[str, ...]:
    share = f"{100 * row['roofline']:.0f} % of {row['bound']}" if row["roofline"] is not None else ""
    ratio = f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})" if "ratio" in row else ""
    size = f"batch {row['batch']}" if "batch" in row else f"{row['prompt']} tokens"
    work = f"{row['bench']}, {size}, {row['layers']} layers"
    return work, row["program"], f"{row['tokens_per_s']:.1f}", ratio, share, f"{row['peak_gb']:.1f} GB"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    found = [json.loads(line) for name in sys.argv[1:] for line in Path(name).read_text(encoding="utf-8").splitlines()]
    sys.stdout.write(table(found) + "\n")
