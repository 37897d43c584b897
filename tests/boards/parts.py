"""What all dashboards are made of: panels as raywatch shows them, variables, links, annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as m
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = m.DataSourceRef("prometheus", "${datasource}")
# The base of alerts' runbook_url: a reserved name, until the pages have an address. A box on each dashboard.
RUNBOOKS = "https://raywatch.example/runbooks"
GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "text"
Steps = Sequence[tuple[float, str]]
Texts = Mapping[str, tuple[str, str]]  # value -> text, colour
BAD: Steps = ((1, RED),)
ODD: Steps = ((1, ORANGE),)
YES_NO: Texts = {"1": ("yes", GREEN), "0": ("no", RED)}


@dataclass(frozen=True)
class Ask:
    """A query. `legend` names its labels as {{label}}; in a table it is the heading of its column."""

    expr: str
    legend: str = ""


def _target(ask: Ask, ref: str, *, instant: bool = False, rows: bool = False) -> Any:
    built = prometheus.Dataquery().datasource(SOURCE).ref_id(ref).expr(ask.expr)
    built = built.instant() if instant else built.range()
    if rows:
        built = built.format(PromQueryFormat.TABLE)
    return built.legend_format(ask.legend)


def _dress(
    panel: Any,
    title: str,
    text: str,
    *,
    span: int,
    height: int,
    unit: str = units.Short,
    base: str = GREEN,
    steps: Steps = (),
    texts: Texts | None = None,
    empty: str = "",
    decimals: int | None = None,
) -> Any:
    panel = panel.title(title).description(text).datasource(SOURCE).span(span).height(height)
    panel = panel.unit(unit).thresholds(_thresholds(base, steps))
    if empty:
        panel = panel.no_value(empty)
    if decimals is not None:
        panel = panel.decimals(decimals)
    return panel.mappings([_mapping(texts)] if texts else [])


def _thresholds(base: str, steps: Steps) -> Any:
    made = [m.Threshold(None, base), *(m.Threshold(float(v), colour) for v, colour in steps)]
    return dashboard.ThresholdsConfig().mode(m.ThresholdsMode.ABSOLUTE).steps(made)


def _mapping(texts: Texts) -> m.ValueMap:
    rows = enumerate(texts.items())
    return m.ValueMap({v: m.ValueMappingResult(t, colour, index=i) for i, (v, (t, colour)) in rows})


def _link(title: str, url: str, *, blank: bool = True) -> dict[str, object]:
    return {"title": title, "url": url, "targetBlank": blank}


def runbook_of(label: str) -> list[dict[str, object]]:
    """Return data links from a series to the page of its class."""
    url = "${runbooks:raw}/${__field.labels." + label + "}.md"
    return [_link(f"What to do about ${{__field.labels.{label}}}", url)]


def _with_links(panel: Any, label: str) -> Any:
    if not label:
        return panel
    links = [
        dashboard.DashboardLink(str(x["title"]))
        .type(m.DashboardLinkType.LINK)
        .url(str(x["url"]))
        .target_blank(True)
        for x in runbook_of(label)
    ]
    return panel.data_links(links)


def number(title: str, text: str, expr: str, *, span: int = 4, **how: Any) -> Any:
    """Return one number that a threshold colours. Its query is asked at the end of the range."""
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)
    panel = (
        stat.Panel()
        .with_target(_target(Ask(expr, how.pop("legend", "")), "A", instant=True))
        .reduce_options(reduced)
        .graph_mode(c.BigValueGraphMode.NONE)
        .color_mode(c.BigValueColorMode.BACKGROUND)
        .justify_mode(c.BigValueJustifyMode.CENTER)
        .text_mode(how.pop("show", c.BigValueTextMode.AUTO))
    )
    return _dress(panel, title, text, span=span, height=4, **how)


def lines(
    title: str,
    text: str,
    *asks: Ask,
    stacked: bool = False,
    bars: bool = False,
    step: bool = False,
    runbook: str = "",
    least: float | None = 0.0,
    span: int = 12,
    dashed: str = "",
    **how: Any,
) -> Any:
    """Return curves over time. `runbook`: the label that names a class. `dashed`: series of that name are a bound."""
    legend = common.VizLegendOptions().show_legend(True).display_mode(c.LegendDisplayMode.LIST)
    tooltip = common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI)
    panel = (
        timeseries.Panel()
        .legend(legend.placement(c.LegendPlacement.BOTTOM).calcs([]))
        .tooltip(tooltip.sort(c.SortOrder.DESCENDING))
        .draw_style(c.GraphDrawStyle.BARS if bars else c.GraphDrawStyle.LINE)
        .line_interpolation(c.LineInterpolation.STEP_AFTER if step else c.LineInterpolation.LINEAR)
        .line_width(1)
        .fill_opacity(80 if bars else 25 if stacked else 8)
        .show_points(c.VisibilityMode.NEVER if bars else c.VisibilityMode.AUTO)
        .stacking(
            common.StackingConfig().mode(c.StackingMode.NORMAL if stacked else c.StackingMode.NONE)
        )
        .color_scheme(dashboard.FieldColor().mode(m.FieldColorModeId.PALETTE_CLASSIC))
    )
    if bars:
        panel = panel.interval("1m")  # windows that hardly overlap: an event is one bar
    if least is not None:
        panel = panel.min(least)
    if how.get("steps"):
        style = common.GraphThresholdsStyleConfig().mode(c.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds_style(style)
    if dashed:
        dash = m.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 8]})
        panel = panel.override_by_regexp(dashed, [dash])
    for ref, ask in zip("ABCDEF", asks, strict=False):
        panel = panel.with_target(_target(ask, ref))
    return _with_links(_dress(panel, title, text, span=span, height=8, **how), runbook)


def ranking(title: str, text: str, expr: str, legend: str, *, runbook: str = "", **how: Any) -> Any:
    """Return the sums of the range as bars, one a label."""
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)
    panel = (
        bargauge.Panel()
        .with_target(_target(Ask(expr, legend), "A", instant=True))
        .reduce_options(reduced)
        .orientation(c.VizOrientation.HORIZONTAL)
        .display_mode(c.BarGaugeDisplayMode.BASIC)
        .show_unfilled(True)
        .min(0)
    )
    how = {"span": 8, "base": BLUE, **how}
    return _with_links(_dress(panel, title, text, height=8, **how), runbook)


def timeline(
    title: str, text: str, expr: str, legend: str, texts: Texts, *, span: int = 12, **how: Any
) -> Any:
    """Return a band a series, whose colour is its state."""
    legends = common.VizLegendOptions().show_legend(True).display_mode(c.LegendDisplayMode.LIST)
    panel = (
        statetimeline.Panel()
        .with_target(_target(Ask(expr, legend), "A"))
        .merge_values(True)
        .show_value(c.VisibilityMode.AUTO)
        .row_height(0.8)
        .fill_opacity(80)
        .legend(legends.placement(c.LegendPlacement.BOTTOM))
        .color_scheme(dashboard.FieldColor().mode(m.FieldColorModeId.THRESHOLDS))
    )
    return _dress(panel, title, text, span=span, height=8, texts=texts, **how)


@dataclass(frozen=True)
class Column:
    """How a column of a table looks, by its heading."""

    name: str
    unit: str = ""
    texts: Texts | None = None
    steps: Steps = ()
    base: str = GREEN
    links: Sequence[dict[str, object]] = ()


def rows(
    title: str,
    text: str,
    asks: Sequence[Ask],
    columns: Sequence[Column],
    names: Mapping[str, str],
    *,
    sort: str = "",
    span: int = 24,
    height: int = 8,
    **how: Any,
) -> Any:
    """Return a table that joins its queries by their labels. `names`: label -> heading; '' hides a label."""
    panel = (
        table.Panel()
        .show_header(True)
        .align(c.FieldTextAlignment.AUTO)
        .inspect(False)
        .cell_height(c.TableCellHeight.SM)
    )
    refs = list(zip("ABCDEFGHI", asks, strict=False))
    for ref, ask in refs:
        panel = panel.with_target(_target(ask, ref, instant=True, rows=True))
    alone = len(refs) == 1
    values = {("Value" if alone else f"Value #{ref}"): ask.legend for ref, ask in refs}
    hidden = ["Time", *(n for n, heading in {**names, **values}.items() if not heading)]
    shown = {n: heading for n, heading in {**names, **values}.items() if heading}
    organize: dict[str, object] = {
        "excludeByName": dict.fromkeys(hidden, True),
        "indexByName": {n: i for i, n in enumerate(shown)},
        "renameByName": shown,
    }
    panel = panel.with_transformation(m.DataTransformerConfig("merge", options={}))
    panel = panel.with_transformation(m.DataTransformerConfig("organize", options=organize))
    if sort:
        panel = panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(True)])
    for column in columns:
        panel = panel.override_by_name(column.name, _properties(column))
    return _dress(panel, title, text, span=span, height=height, **how)


def _properties(column: Column) -> list[m.DynamicConfigValue]:
    made: dict[str, object] = {}
    if column.unit:
        made["unit"] = column.unit
    if column.texts:
        made["mappings"] = [_mapping(column.texts)]
    if column.steps:
        made["thresholds"] = _thresholds(column.base, column.steps).build()
    if column.steps or column.texts:
        made["custom.cellOptions"] = {"type": "color-text"}
    if column.links:
        made["links"] = list(column.links)
    return [m.DynamicConfigValue(name, value) for name, value in made.items()]


def to_board(uid: str, title: str) -> dict[str, object]:
    """Return a link from a table's run to the dashboard of its own, with time and variables."""
    url = f"/d/{uid}?${{__url_time_range}}&${{datasource:queryparam}}&${{Cluster:queryparam}}&${{SessionName:queryparam}}"
    return _link(title, url + "&var-run=${__value.raw:percentencode}", blank=False)
