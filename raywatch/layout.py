"""How what the API says is laid out on a terminal: columns, fields and ages. Text of others is made safe here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from raywatch.terminal import safe

SHORT = 12  # of ids of Ray's, which are 56 digits
_T = TypeVar("_T")
_AGES = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def age(at: str | None, now: float) -> str:
    """Say how long ago a time was, in its largest unit."""
    if not at:
        return "-"
    ago = max(0, int(now - datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp()))
    size, unit = next((s for s in _AGES if ago >= s[0]), _AGES[-1])
    return f"{ago // size}{unit}"


def when(at: str | None, now: float) -> str:
    """Say when and how long ago a time was."""
    return f"{at} ({age(at, now)} ago)" if at else "-"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], limits: Mapping[str, int]) -> str:
    """Lay out rows in columns as wide as what stands in them; the last one is not filled up."""
    cells = [
        [safe(c, limits.get(h, 40)) or "-" for h, c in zip(heads, r, strict=True)] for r in rows
    ]
    widths = [max(len(c) for c in column) for column in zip(heads, *cells, strict=True)]
    widths[-1] = 0
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in (heads, *cells)]
    return "\n".join(line.rstrip() for line in lines)


def fields(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Lay out what is known under its names; what is empty is left out."""
    return [f"  {name:10} {safe(text, 300)}" for name, text in rows if text]


def part(title: str, rows: Sequence[_T], shown: Callable[[_T], Sequence[str]]) -> list[str]:
    """Lay out a part of a story under its title; nothing where it has no rows."""
    lines = [f"  {safe(line, 300)}" for row in rows for line in shown(row)]
    return ["", title, *lines] if rows else []
