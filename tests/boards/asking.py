"""The questions of a dashboard, as Grafana puts them to Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from tests.alerting import Server

Board = Mapping[str, Any]
Series = list[tuple[dict[str, str], list[tuple[float, float]]]]


def panels(board: Board) -> list[dict[str, Any]]:
    """All panels, those in closed rows too; no rows."""
    found = [q for p in board["panels"] for q in (p, *p.get("panels", []))]
    return [p for p in found if p["type"] != "row"]


def filled(
    expr: str, *, rate: str = "1m", span: str = "1h", chosen: Mapping[str, str] | None = None
) -> str:
    """Return a query with its variables replaced: `chosen`, else what All stands for."""
    values = {"__rate_interval": rate, "__range": span, **(chosen or {})}
    return re.sub(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))", lambda m: values.get(m[1] or m[2], ".*"), expr)


@dataclass(frozen=True)
class Window:
    """The time range of a dashboard: seconds since the epoch."""

    start: float
    end: float
    step: float = 1.0
    rate: str = "10s"

    @property
    def span(self) -> str:
        """Its length as $__range has it."""
        return f"{max(1, round(self.end - self.start))}s"

    def at_least(self, interval: str | None) -> Window:
        """Return it with steps as wide as a panel wants them, and windows of rate() a scrape (10 s) wider."""
        step = float((interval or "0m").removesuffix("m")) * 60
        return replace(self, step=step, rate=f"{step + 10:g}s") if step > self.step else self


def asked(
    server: Server,
    target: Mapping[str, Any],
    window: Window,
    chosen: Mapping[str, str] | None = None,
) -> Series:
    """Return what Prometheus answers to a panel's query in a window: one point where it is asked for an instant."""
    expr = filled(target["expr"], rate=window.rate, span=window.span, chosen=chosen)
    given: dict[str, object] = {"query": expr}
    if target.get("instant"):
        path, given = "/api/v1/query", {**given, "time": window.end}
    else:
        path = "/api/v1/query_range"
        given |= {"start": window.start, "end": window.end, "step": window.step}
    body = server.ask(f"{path}?{urlencode(given)}")
    assert body is not None, expr
    rows = json.loads(body)["data"]["result"]
    return [
        (r["metric"], [(float(t), float(v)) for t, v in r.get("values") or [r["value"]]])
        for r in rows
    ]


def values_of(server: Server, variable: Mapping[str, Any], window: Window) -> list[str]:
    """Return what a variable label_values(SELECTOR, LABEL) offers in a window, as Grafana asks for it."""
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
    assert found is not None, variable["query"]
    given = {"match[]": filled(found[1]), "start": window.start, "end": window.end}
    body = server.ask(f"/api/v1/label/{found[2]}/values?{urlencode(given)}")
    assert body is not None
    return list(json.loads(body)["data"])


def legend_of(target: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Return what a series is called."""
    name = target.get("legendFormat") or ""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: labels.get(m[1], ""), name) or ", ".join(
        labels.values()
    )
