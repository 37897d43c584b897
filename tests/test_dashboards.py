"""The Grafana dashboards: their form, that they query what is exported, and what a real Prometheus says to that."""

import json
import re
import socketserver
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from raywatch.resources import resource_dir
from tests.daemons import until
from tests.shell.test_metrics import VIEW, exposition
from tests.shell.test_prometheus import prometheus

BOARDS = {p.name: json.loads(p.read_text()) for p in resource_dir("dashboards").glob("*.json")}
EXPORTED = exposition(VIEW)
SERIES = set(re.findall(r"^(raywatch_\w+)", EXPORTED, re.MULTILINE))
# What Grafana puts in before it asks.
_VALUES = {"$__rate_interval": "5m", "$__range": "1h", "$run": ".*"}
# Nothing happens in a test: a filter for what is above 0 leaves nothing.
QUIET = {"New Incidents by Class", "Restarts by Owner and Class"}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """All panels, those in closed rows too."""
    return [q for p in board["panels"] for q in (p, *p.get("panels", []))]


def asked(expr: str) -> str:
    """A query as Prometheus gets it."""
    for name, value in _VALUES.items():
        expr = expr.replace(name, value)
    return expr


def targets(board: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(panel, query) of a dashboard."""
    return [(p["title"], t) for p in panels(board) for t in p.get("targets", [])]


QUERIES = [(name, title, t) for name, board in BOARDS.items() for title, t in targets(board)]


def faults(board: dict[str, Any]) -> list[str]:
    """What is wrong with a dashboard's form."""
    ids = Counter(p["id"] for p in panels(board))
    wrong = [f"id {n} twice" for n, count in ids.items() if count > 1]
    names = {v["name"] for v in board["templating"]["list"]}
    for title, target in targets(board):
        used = set(re.findall(r"\$\{?(\w+)", target["expr"])) - {"__rate_interval", "__range"}
        wrong += [f"{title}: no variable {v}" for v in sorted(used - names)]
        unknown = set(re.findall(r"raywatch_\w+", target["expr"])) - SERIES
        wrong += [f"{title}: not exported: {m}" for m in sorted(unknown)]
        if target["datasource"]["uid"] != "${datasource}":
            wrong.append(f"{title}: a data source of its own")
    for panel in panels(board):
        at = panel["gridPos"]
        if at["x"] + at["w"] > 24:
            wrong.append(f"{panel['title']}: too wide")
        if panel["type"] != "row" and not panel.get("description"):
            wrong.append(f"{panel['title']}: no description")
    return wrong + overlaps(board)


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
    """Ids are unique, it queries only what is exported, variables exist, nothing overlaps."""
    assert faults(BOARDS[name]) == []


def test_uids_are_unique_and_the_variables_are_the_usual_ones():
    """What Grafana knows a dashboard by; `datasource` and `run` everywhere."""
    assert Counter(b["uid"] for b in BOARDS.values()) == {"raywatch-overview": 1}
    assert {v["name"] for b in BOARDS.values() for v in b["templating"]["list"]} == {
        "datasource",
        "run",
    }


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("raywatch_tail_lag_bytes", "raywatch_lag", "Tail Lag: not exported: raywatch_lag"),
        ('"id": 2,', '"id": 1,', "id 1 twice"),
        ("(raywatch_tail_lag_bytes)", "($lag)", "Tail Lag: no variable lag"),
        ('{"x": 12, "y": 72,', '{"x": 11, "y": 72,', "Versions: lies on Tick (99th Percentile)"),
        ('{"x": 12, "y": 72,', '{"x": 13, "y": 72,', "Versions: too wide"),
    ],
)
def test_a_wrong_dashboard_is_found(old, new, fault):
    """The checks can fail."""
    text = json.dumps(BOARDS["overview.json"])
    assert old in text

    assert faults(json.loads(text.replace(old, new))) == [fault]


def promtool(folder: Path, queries: list[str]) -> tuple[int, str]:
    """What Prometheus' own parser says of queries, written as rules."""
    rules = [{"record": f"q{i}", "expr": asked(q)} for i, q in enumerate(queries)]
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
    assert promtool(tmp_path, ["sum by (class (x)"])[0] == 1


class _Exposition(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(EXPORTED.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def exporter() -> Iterator[str]:
    """Serve the exposition; yields HOST:PORT."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Exposition) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.slow
def test_a_real_prometheus_answers_every_query_with_the_labels_that_are_shown(tmp_path):
    """Each panel shows something of a cluster where something is, under a legend that has its labels."""
    with exporter() as target, prometheus(tmp_path / "prometheus", target) as server:
        count = "count_over_time(raywatch_tail_files[1m])"
        until(lambda: [v >= 4 for _, v in server.query(count)] == [True], 30, "some scrapes")
        empty = set()
        for _, title, asks in QUERIES:
            body = server.ask("/api/v1/query?query=" + quote(asked(asks["expr"])))
            rows = json.loads(body or b"{}")["data"]["result"]
            legend = set(re.findall(r"\{\{(\w+)\}\}", asks["legendFormat"]))
            assert [r for r in rows if not legend <= r["metric"].keys()] == [], title
            empty |= {title} if not rows else set()

        assert empty == QUIET


def test_dashboards_are_exported_to_a_new_folder(tmp_path):
    """`raywatch dashboards export DIR`; a folder that is there stays as it is."""
    argv = [sys.executable, "-m", "raywatch", "dashboards", "export", str(tmp_path / "out")]
    first = subprocess.run(argv, capture_output=True, check=False)
    second = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert (first.returncode, first.stdout, first.stderr) == (0, b"", b"")
    assert json.loads((tmp_path / "out" / "overview.json").read_text()) == BOARDS["overview.json"]
    assert (second.returncode, "exists" in second.stderr) == (2, True)
