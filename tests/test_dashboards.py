"""The Grafana dashboards: their form, that they query what is exported, and that a real Prometheus answers each panel."""

import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from raywatch.families import FAMILIES
from raywatch.resources import resource_dir
from tests.alerting import Server
from tests.boards.asking import Window, asked, filled, panels, values_of
from tests.boards.trouble import DONE, LONE, stage
from tests.daemons import until

BOARDS = {p.name: json.loads(p.read_text()) for p in resource_dir("dashboards").glob("*.json")}
UIDS = {"raywatch-overview", "raywatch-incidents", "raywatch-runs", "raywatch-itself"}
RAYS = {"rayDefaultDashboard", "rayTrainDashboard"}
KINDS = {"stat", "timeseries", "bargauge", "state-timeline", "table", "row"}
SERIES = {f.series for f in FAMILIES.values()} | {
    f"{f.series}_{part}"
    for f in FAMILIES.values()
    if f.kind == "histogram"
    for part in ("bucket", "count", "sum")
}
PAGE = Path(__file__).parent.parent / "docs" / "dashboards.md"


def targets(board: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(panel, query) of a dashboard, annotations too."""
    found = [(p["title"], t) for p in panels(board) for t in p["targets"]]
    return [*found, *((a["name"], a) for a in board["annotations"]["list"])]


QUERIES = [(name, title, t) for name, board in BOARDS.items() for title, t in targets(board)]


def faults(board: dict[str, Any]) -> list[str]:
    """What is wrong with a dashboard's form."""
    everything = [*panels(board), *(p for p in board["panels"] if p["type"] == "row")]
    ids = Counter(p["id"] for p in everything)
    wrong = [f"id {n} twice" for n, count in ids.items() if count > 1]
    titles = Counter(p["title"] for p in panels(board))
    wrong += [f"{t}: title twice" for t, count in titles.items() if count > 1]
    names = {v["name"] for v in board["templating"]["list"]}
    for title, target in targets(board):
        used = set(re.findall(r"\$\{?(\w+)", target["expr"])) - {"__rate_interval", "__range"}
        wrong += [f"{title}: no variable {v}" for v in sorted(used - names)]
        unknown = set(re.findall(r"raywatch_\w+", target["expr"])) - SERIES
        wrong += [f"{title}: not exported: {m}" for m in sorted(unknown)]
        if target["datasource"]["uid"] != "${datasource}":
            wrong.append(f"{title}: a data source of its own")
        if "$Cluster" not in target["expr"]:
            wrong.append(f"{title}: of every cluster")
    wrong += [f"{p['title']}: {f}" for p in everything for f in faults_of(p)]
    return wrong + overlaps(board)


def faults_of(panel: dict[str, Any]) -> list[str]:
    """What is wrong with a panel by itself."""
    at = panel["gridPos"]
    wrong = ["too wide"] * (at["x"] + at["w"] > 24) + ["no such kind"] * (
        panel["type"] not in KINDS
    )
    if panel["type"] == "row":
        return wrong
    field = panel["fieldConfig"]["defaults"]
    wrong += ["no description"] * (not panel.get("description"))
    wrong += ["no unit"] * (not field.get("unit"))
    counted = all(t["expr"].endswith("or vector(0)") for t in panel["targets"])
    wrong += ["nothing to say where nothing is"] * (not counted and not field.get("noValue"))
    legends = all(t.get("legendFormat") for t in panel["targets"])
    wrong += ["no legend"] * (panel["type"] not in ("stat", "table") and not legends)
    return wrong


def overlaps(board: dict[str, Any]) -> list[str]:
    """Panels that lie on each other."""
    cells = [
        ((x, y), panel["title"])
        for panel in board["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    first = dict(reversed(cells))
    return sorted({f"{title}: lies on {first[at]}" for at, title in cells if first[at] != title})


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_whole(name):
    """Ids and titles are unique, it queries only what is exported, variables exist, every panel explains itself."""
    assert faults(BOARDS[name]) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "raywatch_tail_lag_bytes",
            "raywatch_lag",
            "Bytes Not Read Yet: not exported: raywatch_lag",
        ),
        ('"id": 2,', '"id": 1,', "id 1 twice"),
        (
            'count(raywatch_source_up{ray_io_cluster=~\\"$Cluster\\"',
            'count(up{job=\\"$Cluster$job\\"',
            "Blind Sources: no variable job",
        ),
        (
            'count(raywatch_source_up{ray_io_cluster=~\\"$Cluster\\"}',
            "count(raywatch_source_up",
            "Blind Sources: of every cluster",
        ),
        ('"title": "Open Incidents"', '"title": "Runs That Train"', "Runs That Train: title twice"),
        (
            '"noValue": "no checkpoint"',
            '"noValue": ""',
            "Oldest Checkpoint: nothing to say where nothing is",
        ),
        ('"type": "bargauge"', '"type": "graph"', "Incidents in the Range: no such kind"),
        ('"w": 4, "x": 20,', '"w": 4, "x": 21,', "Blind Sources: too wide"),
        ('"w": 4, "x": 20,', '"w": 4, "x": 19,', "Blind Sources: lies on Oldest Checkpoint"),
    ],
)
def test_a_wrong_dashboard_is_found(old, new, fault):
    """The checks can fail."""
    text = json.dumps(BOARDS["overview.json"], ensure_ascii=False)
    assert old in text

    assert fault in faults(json.loads(text.replace(old, new)))


if sys.version_info >= (3, 11):  # the SDK's oldest Python
    from tests.boards import schema
    from tests.boards.__main__ import MADE

    def test_the_files_are_what_their_source_makes():
        """Else: python -m tests.boards"""
        assert {name: make() for name, make in MADE.items()} == BOARDS

    @pytest.mark.parametrize("name", BOARDS)
    def test_a_dashboard_is_valid(name):
        """By the types of Grafana 11.6."""
        assert schema.faults(BOARDS[name]) == []

    @pytest.mark.parametrize(
        ("old", "new", "fault"),
        [
            ('"refresh": "30s"', '"refreshes": "30s"', ".refreshes: not known"),
            ('"graphMode": "none"', '"graphMode": "pie"', "'pie' is no BigValueGraphMode"),
            ('"instant": true', '"instant": "yes"', "instant: 'yes' is no bool"),
            ('"drawStyle": "line"', '"drawStyle": "dots"', "'dots' is no GraphDrawStyle"),
            ('"schemaVersion": 41, ', "", ".schemaVersion: missing"),
            ('"value": 1.0', '"value": "1"', "value: '1' is no float"),
        ],
    )
    def test_an_invalid_dashboard_is_found(old, new, fault):
        """An unknown key, a word of no enumeration, another type, something that is missing."""
        text = json.dumps(BOARDS["overview.json"])
        assert old in text

        assert fault in schema.faults(json.loads(text.replace(old, new, 1)))[0]


def test_uids_are_unique_and_the_variables_are_those_of_ray():
    """What Grafana knows a dashboard by; Ray's names, so that a link between them carries what was chosen."""
    common = ["datasource", "Cluster"]
    names = {b["uid"]: [v["name"] for v in b["templating"]["list"]] for b in BOARDS.values()}

    assert names == {
        "raywatch-overview": [*common, "SessionName", "runbooks"],
        "raywatch-incidents": [*common, "SessionName", "runbooks"],
        "raywatch-runs": [*common, "SessionName", "run", "runbooks"],
        "raywatch-itself": [*common, "Instance", "runbooks"],
    }
    asked_anew = {
        v["refresh"]
        for b in BOARDS.values()
        for v in b["templating"]["list"]
        if v["type"] == "query"
    }
    assert asked_anew == {2}  # on a change of the time range


def test_links_lead_to_what_is_there():
    """To the other three, to Ray's own by the uids that Ray gives them, and from a class to its page."""
    for board in BOARDS.values():
        urls = [x["url"] for x in board["links"]]
        known = UIDS - {board["uid"]} | (RAYS if board["uid"] != "raywatch-itself" else set())
        assert sorted(urls) == sorted([*(f"/d/{u}" for u in known), "${runbooks:raw}"])
        inner = re.findall(r'"url": "(/d/[\w-]+|[^?"]+\.md)', json.dumps(board["panels"]))
        pages = {u for u in inner if u.endswith(".md")}
        assert set(inner) - pages <= {f"/d/{u}" for u in UIDS}
        assert {re.sub(r"\$\{__\w+[\w.]*\}", "X", u) for u in pages} <= {"${runbooks:raw}/X.md"}


def promtool(folder: Path, queries: list[str]) -> tuple[int, str]:
    """What Prometheus' own parser says of queries, written as rules."""
    rules = [{"record": f"q{i}", "expr": filled(q)} for i, q in enumerate(queries)]
    path = folder / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", path], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_every_query_parses(tmp_path):
    """All of them, and a broken one does not."""
    code, said = promtool(tmp_path, [t["expr"] for _, _, t in QUERIES])

    assert (code, f"{len(QUERIES)} rules found" in said) == (0, True)
    assert promtool(tmp_path, ["sum by (class (x"])[0] == 1


def test_the_page_counts_them():
    """Panels and queries of each, as docs/dashboards.md has them; annotations are not counted."""
    rows = re.findall(r"^\| \[(\w+\.json)\].*\| (\d+) \| (\d+) \|$", PAGE.read_text(), re.MULTILINE)
    counts = {
        name: (len(panels(b)), sum(len(p["targets"]) for p in panels(b)))
        for name, b in BOARDS.items()
    }

    assert {name: (int(p), int(q)) for name, p, q in rows} == counts
    pictures = {p.stem for p in (PAGE.parent / "dashboards").glob("*.png")}
    assert pictures == {Path(name).stem for name in BOARDS}


def dark(
    server: Server, board: dict[str, Any], window: Window, **chosen: str
) -> tuple[set[str], list[str]]:
    """Panels and annotations without a number, and series that lack what their legend names."""
    empty, nameless = set(), []
    marks = [{"title": a["name"], "targets": [a]} for a in board["annotations"]["list"]]
    for panel in [*panels(board), *marks]:
        rows = [
            (t.get("legendFormat") or "", labels, points)
            for t in panel["targets"]
            for labels, points in asked(server, t, window, chosen)
        ]
        if all(math.isnan(value) for _, _, points in rows for _, value in points):
            empty.add(panel["title"])
        nameless += [
            f"{panel['title']}: no {name}"
            for legend, labels, _ in rows
            for name in sorted(set(re.findall(r"\{\{(\w+)\}\}", legend)) - labels.keys())
        ]
    return empty, nameless


# What comes last in the play, and may come late on a busy machine.
LAST = (
    "raywatch_lost_work_seconds_total > 0",
    "raywatch_ring_breaks_total > 0",
    'raywatch_run_restarts_total{owner="ray_train"} > 0',
    'raywatch_recovery_seconds_count{phase="first_step"} > 0',
)


@pytest.mark.slow
def test_every_panel_shows_something_of_a_daemon_in_trouble(tmp_path):
    """Real logs of real failures, jobs that fail, a resume: no panel is empty; all of it stays in sight afterwards."""
    with stage(tmp_path, hasty=True) as played:
        server, begin = played.server, time.time()
        played.play(45)
        until(lambda: all(server.query(q) for q in LAST), 30, "all of it is counted")
        time.sleep(2)  # a few scrapes more
        window = Window(begin, time.time())
        found = {name: dark(server, board, window) for name, board in BOARDS.items()}
        elsewhere = {
            name: dark(server, board, window, Cluster="elsewhere")[0]
            for name, board in BOARDS.items()
        }
        another = dark(server, BOARDS["runs.json"], window, SessionName="another")[0]
        variables = {
            v["name"]: values_of(server, v, window)
            for board in BOARDS.values()
            for v in board["templating"]["list"]
            if v["type"] == "query"
        }
        played.daemon.kill()
        later = Window(begin, time.time() + 400)  # its series went stale
        (table,) = [p for p in panels(BOARDS["runs.json"]) if p["title"] == "Runs of the Range"]
        rows = asked(server, table["targets"][0], later)
        now = asked(server, {"expr": "raywatch_run_status", "instant": True}, later)

    assert found == {name: (set(), []) for name in BOARDS}
    assert elsewhere == {name: filtered(board) for name, board in BOARDS.items()}
    assert another == filtered(BOARDS["runs.json"])
    assert variables["Cluster"] == ["lab"]
    assert variables["SessionName"] == [played.logs.parent.name]
    assert {"loop", LONE, DONE} < set(variables["run"])
    kept = {labels["run"]: labels["status"] for labels, _ in rows}
    assert (kept["loop"], kept[LONE], kept[DONE]) == ("running", "failed", "finished")
    assert now == []


def filtered(board: dict[str, Any]) -> set[str]:
    """What has no number where nothing is chosen: all but what counts to 0."""
    counts = {p["title"] for p in panels(board) if p["targets"][0]["expr"].endswith("vector(0)")}
    marks = {a["name"] for a in board["annotations"]["list"]}
    return {p["title"] for p in panels(board)} - counts | marks


def test_dashboards_are_exported_to_a_new_folder(tmp_path):
    """`raywatch dashboards export DIR`: all of them and nothing else; a folder that is there stays as it is."""
    argv = [sys.executable, "-m", "raywatch", "dashboards", "export", str(tmp_path / "out")]
    first = subprocess.run(argv, capture_output=True, check=False)
    second = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert (first.returncode, first.stdout, first.stderr) == (0, b"", b"")
    exported = {p.name: json.loads(p.read_text()) for p in (tmp_path / "out").iterdir()}
    assert exported == BOARDS
    assert (second.returncode, "exists" in second.stderr) == (2, True)
