"""Figures as a table of plain text, for the log of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """A header from the first row's keys, then one line per row; the columns are aligned. No rows: an empty text."""
    if not rows:
        return ""
    lines = [list(rows[0]), *([_cell(row[column]) for column in rows[0]] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
