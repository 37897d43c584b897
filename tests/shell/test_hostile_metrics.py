"""Names of others are hostile: whatever they are, the metrics of a real daemon stay few, short and readable."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from raywatch.core.labels import MAX_LABEL, MAX_SHOWN
from raywatch.families import FAMILIES
from tests.daemons import DaemonProcess, make_session, until
from tests.fakeray import FakeRay
from tests.metricspage import OPEN, values
from tests.shell.test_counting import group
from tests.shell.test_metrics import HOSTILE, promtool

pytestmark = pytest.mark.slow
NAMES = 10_000
LONG = "ü\n" * 500_000
SHORT = HOSTILE[:200]
CLEAN = SHORT.replace("\ud800", "\u00fc")  # what a file may hold
# 64 characters, `~` and all of a digest: the third run of a name whose first 8 digits are the second's too.
MAX_VALUE = MAX_LABEL + 1 + 64
CONFIG = """
[[resume]]
run = "*"
mode = "auto"
hook = {kind = "command", name = %(name)s, argv = ["/bin/false", %(name)s]}
[[notice]]
name = "save~1.x"
hook = {kind = "command", argv = ["/bin/false"]}
"""
RULES = """
- id: mine
  class: disk_full
  title: %s
  where: {component: [worker, gcs]}
  any: ['EVIL (?P<class>\\S+)']
  capture: 'EVIL (?P<component>\\S+)'
  hits: [{text: 'EVIL x', component: worker}]
  misses: ['x']
"""


class HostileRay(FakeRay):
    """A dashboard that names everything as it likes."""

    def __init__(self) -> None:
        super().__init__(submission=SHORT)
        self.session = "session_2026\n" + SHORT
        self.nodes = [
            {"node_id": f"{i}{SHORT}", "node_ip": SHORT, "state": "ALIVE", "node_name": SHORT}
            for i in range(NAMES // 10)
        ]
        names = [*(f"{i}{SHORT}" for i in range(NAMES // 10)), LONG]
        self.others = [{**self.job, "submission_id": n, "job_id": n[:64]} for n in names]

    async def _version(self, _request):
        return web.json_response({"ray_version": LONG, "session_name": self.session})


def hostile_logs(logs: Path) -> None:
    """Ten thousand runs, components, nodes and classes that nobody knows; one name is a megabyte long."""
    for i in range(NAMES):
        group(logs, time.time(), name=f"{i}{SHORT}" if i else LONG)
    stamp = datetime.now(timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]
    with (logs / "gcs_server.out").open("w") as out:
        for i in range(NAMES):
            name = f"{i}{json.dumps(SHORT)}"
            out.write(
                f"[{stamp} W 10 10] (gcs_server) gcs_worker_manager.cc:70: Reporting worker exit, "
                f"worker id = {name}, node id = {name}, address = {name}, "
                "exit_type = SYSTEM_ERROR, exit_detail = Worker unexpectedly exits.\n"
            )
            out.write(f"EVIL {name}\nERROR {name}\n")
    for i in range(200):
        (logs / f'{i}\n{{class="x"}} 1\n{CLEAN[:40]}.log').write_text("EVIL x\n")


def test_hostile_names_make_few_short_series(tmp_path):
    """The number of series does not depend on how many names there are, and none of their letters escapes its label."""
    logs = make_session(tmp_path, 'session_2026 "x"\n# HELP fake')
    (tmp_path / "raywatch.toml").write_text(CONFIG % {"name": json.dumps('a\n"b' + CLEAN[:80])})
    (tmp_path / "mine.yaml").write_text(RULES % json.dumps(CLEAN))
    more = ("--config", str(tmp_path / "raywatch.toml"), "--rules", str(tmp_path / "mine.yaml"))
    hostile_logs(logs)
    with HostileRay() as ray:
        url = {"RAY_API_SERVER_ADDRESS": ray.url, "RAY_ADDRESS": ""}
        daemon = DaemonProcess(tmp_path, tmp_path / "state", *more, environ=url)
        try:

            def whole() -> bool:
                text = daemon.get("/metrics")[1].decode()
                calm = "\nraywatch_tail_lag_bytes 0.0\n" in text
                return calm and f'raywatch_nodes{{state="alive"}} {NAMES // 10}.0' in text

            until(whole, 120, "all is read", pause_s=0.5)
            text = daemon.get("/metrics")[1].decode()
            told = daemon.get("/metrics", Accept="application/openmetrics-text")[1].decode()
        finally:
            daemon.kill()

    samples = [s for f in plain(text) for s in f.samples]
    mine = [s for s in samples if s.name.startswith("raywatch_")]
    runs = {s.labels["run"] for s in mine if "run" in s.labels}
    assert len(runs - {""}) == MAX_SHOWN
    assert len(samples) < 1500 + 40 * MAX_SHOWN
    assert max(len(v) for s in samples for v in s.labels.values()) <= MAX_VALUE
    assert all(v.isprintable() for s in samples for v in s.labels.values())
    assert strange(mine) == set()
    assert {
        s.name for s in samples if not s.name.startswith(("raywatch_", "process_", "python_"))
    } == set()
    assert promtool(text) == (0, "")
    assert len([s for f in openmetrics(told) for s in f.samples]) >= len(mine)


def strange(samples) -> set[tuple[str, str, str]]:
    """Values of labels that docs/metrics.md does not name."""
    by_series = {f.series: f for f in FAMILIES.values()}
    found = set()
    for sample in samples:
        name = sample.name
        family = by_series.get(name) or by_series[name.rpartition("_")[0]]
        for label, value in sample.labels.items():
            if label not in (*OPEN, "le") and value not in (values(family, label) or ()):
                found.add((name, label, value))
    return found
