"""A dashboard around its panels: variables like those of Ray's own, links, annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as m

from tests.boards.parts import BLUE, RUNBOOKS, SOURCE
from tests.boards.promql import CLUSTER

BOARDS = {
    "raywatch-overview": "raywatch / Overview",
    "raywatch-incidents": "raywatch / Incidents",
    "raywatch-runs": "raywatch / Training Runs",
    "raywatch-itself": "raywatch / Itself",
}
# The uids that Ray gives its dashboards, unless RAY_GRAFANA_*_DASHBOARD_UID names others. They take the variables of
# the same names. Ray tags its dashboards with its version alone, so only the uid finds them.
_RAYS = {"rayDefaultDashboard": "Ray / Core", "rayTrainDashboard": "Ray / Train"}
TAG = "raywatch"


def _query(name: str, label: str, text: str, asked: str) -> Any:
    """Return a variable of what was there in the range, so that what is over can still be chosen."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .description(text)
        .datasource(SOURCE)
        .query(asked)
        .refresh(m.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(m.VariableSort.ALPHABETICAL_ASC)
        .include_all(True)
        .all_value(".*")
        .current(m.VariableOption(selected=True, text="All", value="$__all"))
    )


def _variables(*, runs: bool, daemons: bool) -> list[Any]:
    session = _query(
        "SessionName",
        "Session",
        "Ray sessions that were followed in the time range.",
        f"label_values(raywatch_ray_session_info{{{CLUSTER}}}, SessionName)",
    )
    made = [
        dashboard.DatasourceVariable("datasource").label("Data Source").type("prometheus"),
        _query(
            "Cluster",
            "Cluster",
            "The label ray_io_cluster of the target, as KubeRay's and Ray's own dashboards have it.",
            "label_values(raywatch_build_info, ray_io_cluster)",
        ),
    ]
    if runs:
        asked = f"label_values(raywatch_run_status{{{CLUSTER}}}, run)"
        text = "Runs that were known in the time range, those that are over too."
        made += [session, _query("run", "Run", text, asked).multi(True)]
    elif daemons:
        asked = f"label_values(raywatch_build_info{{{CLUSTER}}}, instance)"
        text = "Addresses at which raywatch is scraped."
        made.append(_query("Instance", "Instance", text, asked).multi(True))
    else:
        made.append(session)
    box = dashboard.TextBoxVariable("runbooks").label("Runbooks").default_value(RUNBOOKS)
    text = "Where the pages of runbooks/ are served; links from classes lead there."
    kept = m.VariableOption(selected=True, text=RUNBOOKS, value=RUNBOOKS)
    return [*made, box.description(text).current(kept).hide(m.VariableHide.HIDE_VARIABLE)]


def _links(uid: str, *, session: bool) -> list[Any]:
    others = [
        dashboard.DashboardLink(title)
        .type(m.DashboardLinkType.LINK)
        .url(f"/d/{other}")
        .icon("dashboard")
        .tooltip("")
        .keep_time(True)
        .include_vars(True)
        for other, title in {**BOARDS, **_RAYS}.items()
        if other != uid and (session or other in BOARDS)
    ]
    pages = (
        dashboard.DashboardLink("Runbooks")
        .type(m.DashboardLinkType.LINK)
        .url("${runbooks:raw}")
        .icon("doc")
        .target_blank(True)
    )
    return [*others, pages]


def _annotation(name: str, colour: str, expr: str) -> Any:
    made = dashboard.AnnotationQuery().name(name).datasource(SOURCE).expr(expr)
    return made.enable(True).hide(False).icon_color(colour)


# The window is twice the step: the increase that a scrape brings falls into one of them whatever the moment.
_SESSION = 'and on (job, instance) last_over_time(raywatch_ray_session_info{SessionName=~"$SessionName"}[2m])'
ANNOTATIONS = (
    (
        "Incidents opened",
        "red",
        f"sum by (class) (increase(raywatch_incidents_total{{{CLUSTER}}}[2m]) {_SESSION}) > 0",
        "{{class}}",
    ),
    (
        "Resumes done",
        BLUE,
        f'sum by (hook, class) (increase(raywatch_actions_total{{{CLUSTER}, outcome="succeeded"}}[2m]) {_SESSION}) > 0',
        "{{hook}} after {{class}}",
    ),
)


def board(
    uid: str,
    text: str,
    sections: Sequence[tuple[str, Sequence[Any]]],
    *,
    runs: bool = False,
    daemons: bool = False,
) -> dict[str, Any]:
    """Return a dashboard as JSON: `sections` are a heading and its panels."""
    made = (
        dashboard.Dashboard(BOARDS[uid])
        .uid(uid)
        .description(text)
        .tags([TAG, "ray"])
        .tooltip(m.DashboardCursorSync.CROSSHAIR)
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .editable()
        .links(_links(uid, session=not daemons))
        .variables(_variables(runs=runs, daemons=daemons))
    )
    number = 0
    for heading, panels in sections:
        number += 1
        made = made.with_row(dashboard.Row(heading).id(number))
        for panel in panels:
            number += 1
            made = made.with_panel(panel.id(number))
    shown = [] if daemons else ANNOTATIONS
    made = made.annotations([_annotation(name, colour, expr) for name, colour, expr, _ in shown])
    return _plain(made.build(), shown)


def _plain(built: m.Dashboard, shown: Sequence[tuple[str, str, str, str]]) -> dict[str, Any]:
    """Return JSON values. What the data source's annotations know and this line of the SDK does not is put in here."""
    import json

    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    plain: dict[str, Any] = json.loads(JSONEncoder().encode(built))
    for annotation, (_, _, _, title) in zip(plain["annotations"]["list"], shown, strict=True):
        annotation |= {"step": "60s", "titleFormat": title, "tagKeys": "class"}
    return plain
