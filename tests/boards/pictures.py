"""Draw what the dashboards show of a daemon in trouble: `python -m tests.boards.pictures [FOLDER] [SECONDS]`.

Grafana is not here. What stands in the pictures is real: each panel's own query, answered by a real Prometheus that
scraped a real daemon; place, colours, units and texts are those of the JSON. Only the drawing is matplotlib's.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.dates as mdates
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from raywatch.core.tally import SETTLE_S
from raywatch.resources import resource_dir
from tests.alerting import Server
from tests.boards.asking import Series, Window, asked, legend_of
from tests.boards.trouble import stage
from tests.boards.units import shown, written

COLOURS = {
    "green": "#56a64b",
    "yellow": "#e0b400",
    "orange": "#ff780a",
    "red": "#e02f44",
    "blue": "#3274d9",
    "text": "#7b8087",
}
# Grafana's classic palette.
PALETTE = [
    "#7eb26d",
    "#eab839",
    "#6ed0e0",
    "#ef843c",
    "#e24d42",
    "#1f78c1",
    "#ba43a9",
    "#705da0",
    "#508642",
    "#cca300",
]
WIDTH_IN, CELL_IN = 17.0, 0.36
PAD = 0.0035


class Sheet:
    """A picture of one dashboard."""

    def __init__(self, board: Mapping[str, Any], server: Server, window: Window) -> None:
        self._board, self._server, self._window = board, server, window
        self._rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in board["panels"]) + 2
        self.figure: Figure = plt.figure(
            figsize=(WIDTH_IN, self._rows * CELL_IN), facecolor="#f4f5f5"
        )

        self._marks = [
            (at, annotation["iconColor"])
            for annotation in board["annotations"]["list"]
            for _, points in asked(server, annotation, window)
            for before, (at, _) in zip([(0.0, 0.0), *points], points, strict=False)
            if at - before[0] > 2 * window.step
        ]

    def draw(self) -> None:
        """Draw all panels."""
        title = self._board["title"]
        self.figure.text(0.008, 1 - 1 / self._rows, title, fontsize=15, weight="bold", va="center")
        seen = datetime.fromtimestamp(self._window.end, tz=timezone.utc)
        note = f"queries answered by Prometheus, drawn without Grafana · {seen:%Y-%m-%d %H:%M} UTC"
        self.figure.text(0.992, 1 - 1 / self._rows, note, fontsize=9, ha="right", va="center")
        for panel in self._board["panels"]:
            if panel["type"] == "row":
                self._heading(panel)
            else:
                self._panel(panel)

    def _box(self, at: Mapping[str, int]) -> tuple[float, float, float, float]:
        height = at["h"] / self._rows
        return at["x"] / 24, 1 - (at["y"] + 2) / self._rows - height, at["w"] / 24, height

    def _heading(self, panel: Mapping[str, Any]) -> None:
        x, y, _, height = self._box(panel["gridPos"])
        self.figure.text(
            x + 0.008,
            y + height / 2,
            f"⌄ {panel['title']}",
            fontsize=11,
            weight="bold",
            va="center",
        )

    def _panel(self, panel: Mapping[str, Any]) -> None:
        x, y, width, height = self._box(panel["gridPos"])
        pad = PAD * WIDTH_IN / (self._rows * CELL_IN)
        card = FancyBboxPatch(
            (x + PAD, y + pad),
            width - 2 * PAD,
            height - 2 * pad,
            boxstyle="square,pad=0",
            transform=self.figure.transFigure,
            facecolor="white",
            edgecolor="#d8d9da",
            linewidth=0.7,
            zorder=-1,
        )
        self.figure.add_artist(card)
        one = 1 / self._rows
        self.figure.text(
            x + 2.5 * PAD,
            y + height - 0.55 * one,
            panel["title"],
            fontsize=9,
            weight="bold",
            va="center",
        )
        window = self._window.at_least(panel.get("interval"))
        found = [asked(self._server, t, window) for t in panel["targets"]]
        inner = (x + 3 * PAD, y + 0.35 * one, width - 6 * PAD, height - 1.35 * one)
        if not any(_has_data(series) for series in found):
            empty = panel["fieldConfig"]["defaults"].get("noValue", "No data")
            self.figure.text(
                x + width / 2,
                y + height / 2,
                empty,
                fontsize=11,
                ha="center",
                va="center",
                color="#7b8087",
            )
            return
        if panel["type"] in ("timeseries", "state-timeline"):
            left = 0.075 if panel["type"] == "state-timeline" else 0.032
            inner = (x + left, y + 1.9 * one, width - left - 0.006, height - 3.0 * one)
        axes = self.figure.add_axes(inner)
        _DRAWERS[panel["type"]](axes, panel, found, window)
        for at, colour in self._marks if panel["type"] in ("timeseries", "state-timeline") else ():
            axes.axvline(_day(at), color=COLOURS[colour], ls=":", lw=0.9)


def _has_data(series: Series) -> bool:
    return any(not math.isnan(v) for _, points in series for _, v in points)


def _number(axes: Axes, panel: Mapping[str, Any], found: list[Series], _window: Window) -> None:
    text, colour = shown(found[0][0][1][-1][1], panel["fieldConfig"]["defaults"])
    axes.set_facecolor(COLOURS[colour])
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    size = 22 if len(text) < 10 else 13 if len(text) < 20 else 10
    axes.text(0.5, 0.5, text, fontsize=size, color="white", ha="center", va="center", weight="bold")


def _lines(axes: Axes, panel: Mapping[str, Any], found: list[Series], window: Window) -> None:
    field, custom = panel["fieldConfig"]["defaults"], panel["fieldConfig"]["defaults"]["custom"]
    stacked = custom["stacking"]["mode"] == "normal"
    named = sorted(
        (legend_of(target, labels), points)
        for target, series in zip(panel["targets"], found, strict=True)
        for labels, points in series
    )
    dashed = [o["matcher"]["options"].strip("/") for o in panel["fieldConfig"]["overrides"]]
    base: dict[float, float] = {}
    for colour, (name, points) in zip(PALETTE * 9, named, strict=False):
        times = [_day(t) for t, _ in points]
        values = [v if math.isfinite(v) else math.nan for _, v in points]
        lower = [base.get(t, 0.0) if stacked else 0.0 for t, _ in points]
        upper = [low + (0.0 if math.isnan(v) else v) for low, v in zip(lower, values, strict=True)]
        if stacked:
            base |= {t: u for (t, _), u in zip(points, upper, strict=True)}
        if custom["drawStyle"] == "bars":
            heights = [u - low for low, u in zip(lower, upper, strict=True)]
            back = -0.9 * window.step / 86400  # a bar stands for what was before its moment
            axes.bar(times, heights, back, lower, align="edge", color=colour, label=name)
            continue
        is_bound = any(name.endswith(d.lstrip(" ").rstrip("$")) for d in dashed)
        how = "steps-post" if custom["lineInterpolation"] == "stepAfter" else "default"
        shown_as = upper if stacked else values
        axes.plot(
            times,
            shown_as,
            color=colour,
            lw=1.2,
            ls="--" if is_bound else "-",
            drawstyle=how,
            label=name,
        )
        step: Literal["post"] | None = "post" if how == "steps-post" else None
        axes.fill_between(
            times, lower, shown_as, color=colour, alpha=0.3 if stacked else 0.08, step=step, lw=0
        )
    for mark in field["thresholds"]["steps"][1:] if custom.get("thresholdsStyle") else []:
        axes.axhline(mark["value"], color=COLOURS[mark["color"]], ls="--", lw=0.8)
    axes.set_ylim(bottom=field.get("min"))
    if axes.get_ylim()[1] <= 0.06:
        axes.set_ylim(top=1 if field["unit"] == "short" else axes.get_ylim()[1])
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: written(v, field["unit"])))
    _clock(axes, window)
    _legend(axes, len(named))


def _legend(axes: Axes, count: int, handles: list[Patch] | None = None) -> None:
    columns = min(count, 6 if axes.bbox.width > 600 else 4)
    handles_now, labels = axes.get_legend_handles_labels()
    kept = handles or handles_now[: 2 * columns]
    names = (
        [str(h.get_label())[:34] for h in handles]
        if handles
        else [n[:34] for n in labels[: 2 * columns]]
    )
    axes.legend(
        kept,
        names,
        loc="upper left",
        bbox_to_anchor=(-0.01, -0.13),
        ncol=columns,
        fontsize=7,
        frameon=False,
        handlelength=1.2,
        columnspacing=1.0,
        borderaxespad=0.0,
    )


def _day(at: float) -> float:
    return at / 86400  # matplotlib counts days since 1970


def _clock(axes: Axes, window: Window) -> None:
    axes.set_xlim(_day(window.start), _day(window.end))
    axes.xaxis.set_major_locator(mdates.AutoDateLocator(minticks=3, maxticks=7))
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M:%S"))
    axes.tick_params(labelsize=7, length=2, colors="#52565c")
    axes.set_axisbelow(True)
    axes.grid(visible=True, color="#e9edf2", lw=0.7)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _bands(axes: Axes, panel: Mapping[str, Any], found: list[Series], window: Window) -> None:
    field, target = panel["fieldConfig"]["defaults"], panel["targets"][0]
    rows = sorted((legend_of(target, labels), points) for labels, points in found[0])
    states: dict[str, str] = {}
    for place, (_, points) in enumerate(rows):
        for at, value in points:
            text, colour = shown(value, field)
            states[text] = COLOURS[colour]
            axes.barh(place, window.step / 86400, left=_day(at), height=0.8, color=COLOURS[colour])
    axes.set_yticks(range(len(rows)), [name[:18] for name, _ in rows])
    axes.invert_yaxis()
    _clock(axes, window)
    _legend(axes, len(states), [Patch(color=c, label=t) for t, c in states.items()])


def _bars(axes: Axes, panel: Mapping[str, Any], found: list[Series], _window: Window) -> None:
    field, target = panel["fieldConfig"]["defaults"], panel["targets"][0]
    rows = sorted(((p[-1][1], legend_of(target, labels)) for labels, p in found[0]), reverse=True)
    rows = [r for r in rows if not math.isnan(r[0])]
    top = max(v for v, _ in rows) or 1.0
    for place, (value, name) in enumerate(rows):
        text, colour = shown(value, field)
        axes.barh(place, 1, color="#f1f2f3", height=0.55)
        axes.barh(place, value / top, color=COLOURS[colour], height=0.55)
        axes.text(0, place - 0.33, name, fontsize=8, va="bottom")
        axes.text(1.02, place, text, fontsize=8, va="center", weight="bold")
    axes.set_ylim(max(len(rows), 4) - 0.5, -0.9)
    axes.set_xlim(0, 1.25)
    axes.axis("off")


def _rows(axes: Axes, panel: Mapping[str, Any], found: list[Series], _window: Window) -> None:
    organize = panel["transformations"][-1]["options"]
    alone = len(found) == 1
    merged: dict[tuple[str, ...], dict[str, float | str]] = {}
    keys = [k for k in organize["renameByName"] if not k.startswith("Value")]
    shared = [k for k in keys if all(k in labels for series in found for labels, _ in series)]
    for target, series in zip(panel["targets"], found, strict=True):
        for labels, points in series:
            row = merged.setdefault(tuple(labels[k] for k in shared), {})
            row |= labels
            row["Value" if alone else f"Value #{target['refId']}"] = points[-1][1]
    columns = organize["renameByName"]
    lines = sorted(merged.values(), key=lambda r: str(r.get(keys[0])))
    axes.axis("off")
    axes.set_xlim(0, 1)
    axes.set_ylim(max(len(lines), 6) + 0.6, -0.2)
    looks = {
        o["matcher"]["options"]: {p["id"]: p["value"] for p in o["properties"]}
        for o in panel["fieldConfig"]["overrides"]
    }
    place, wide = 0.0, [1.6 if k in keys else 1.0 for k in columns]
    for (key, heading), width in zip(columns.items(), wide, strict=True):
        axes.text(place, 0.3, heading, fontsize=8, color="#3274d9", va="center")
        for number, row in enumerate(lines, start=1):
            if key in row:
                look = looks.get(heading, {})
                text, colour = shown(row[key], {**panel["fieldConfig"]["defaults"], **look})
                plain = "custom.cellOptions" not in look
                axes.text(
                    place,
                    number + 0.3,
                    text[:30],
                    fontsize=8,
                    va="center",
                    color="#24292e" if plain else COLOURS[colour],
                )
        place += width / sum(wide)
    for number in range(1, len(lines) + 1):
        axes.axhline(number - 0.2, color="#e9edf2", lw=0.7)


_DRAWERS = {
    "stat": _number,
    "timeseries": _lines,
    "bargauge": _bars,
    "state-timeline": _bands,
    "table": _rows,
}


def main() -> None:
    """Play the trouble and draw all dashboards."""
    given = sys.argv[1:]
    folder = Path(given[0]) if given else Path(__file__).parents[2] / "docs" / "dashboards"
    seconds = float(given[1]) if len(given) > 1 else 480.0
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams["font.family"] = "DejaVu Sans"
    with tempfile.TemporaryDirectory() as made, stage(Path(made), scrape="1s") as played:
        begin = time.time()
        time.sleep(3)
        played.play(seconds)
        time.sleep(SETTLE_S + 10)
        window = Window(begin, time.time(), step=max(2.0, seconds / 120), rate="15s")
        for path in sorted(resource_dir("dashboards").glob("*.json")):
            sheet = Sheet(json.loads(path.read_text()), played.server, window)
            sheet.draw()
            sheet.figure.savefig(folder / f"{path.stem}.png", dpi=75)


if __name__ == "__main__":
    main()
