"""Numbers as Grafana's units write them, as far as the dashboards use these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_TIMES = ((86400, "day"), (3600, "hour"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """Return a number with its unit."""
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞"
    if unit == "s":
        size, name = next((t for t in _TIMES if abs(value) >= t[0]), (1, "s"))
        return f"{_short(value / size, decimals)} {name}"
    if unit in ("bytes", "binBps"):
        power = min(4, int(math.log(abs(value), 1024))) if abs(value) >= 1 else 0
        name = ("B", "KiB", "MiB", "GiB", "TiB")[power]
        return f"{_short(value / 1024**power, decimals)} {name}" + (
            "/s" if unit == "binBps" else ""
        )
    if unit == "reqps":
        return f"{_short(value, decimals)} req/s"
    power = min(3, int(math.log10(abs(value)) // 3)) if abs(value) >= 1000 else 0
    return _short(value / 1000**power, decimals) + ("", " K", " Mil", " Bil")[power]


def _short(value: float, decimals: int | None) -> str:
    return f"{value:.{decimals}f}" if decimals is not None else f"{value:.3g}"


def shown(value: float | str, field: Mapping[str, Any]) -> tuple[str, str]:
    """Return text and colour of a value by a field's mappings, thresholds and unit."""
    for mapping in field.get("mappings") or []:
        key = value if isinstance(value, str) else f"{value:g}"
        if key in mapping["options"]:
            found = mapping["options"][key]
            return found["text"], found["color"]
    if isinstance(value, str):
        return value, "text"
    colour = "text"
    for step in (field.get("thresholds") or {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return written(value, field.get("unit") or "short", field.get("decimals")), colour
