"""The real page: a node of a real cluster is killed under a run that nobody restarts, and one person is woken once.

The shipped configuration of Prometheus and Alertmanager and the shipped rules, but for addresses and paths; their times
are divided by one number, so that whatever comes first there comes first here.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from pathlib import Path

import pytest

import raywatch
from tests.alerting import (
    ALERTMANAGER,
    ALERTMANAGER_AT,
    DAEMON_AT,
    PROMETHEUS,
    PROMETHEUS_AT,
    RECEIVER_AT,
    ROOT,
    RULES,
    RULES_AT,
    alertmanager,
    changed,
    faster,
    free_addresses,
    notices,
    prometheus,
    receiver,
)
from tests.daemons import DaemonProcess, until
from tests.ray.cluster import start_head

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(400)]
# `for` of 1, 2 and 3 minutes is 12, 24 and 36 s, 30 s of group_wait are 6. No faster: Ray takes 14 s of its own to know a
# raylet dead, and a page that came before that could not name it.
TIMES = 5
LONGEST_S = 180 / TIMES
INTERVALS = {
    "scrape_interval: 10s": "scrape_interval: 1s",
    "scrape_timeout: 5s": "scrape_timeout: 1s",
}
TRAIN = Path(raywatch.__file__).with_name("demo_train.py")


@pytest.fixture
def cluster():
    """A head and one more node, a processor each."""
    folder = Path(tempfile.mkdtemp(prefix="rw", dir="/tmp"))
    environ = {"RAY_TRAIN_ENABLE_STATE_TRACKING": "1"}
    with start_head(folder, num_cpus=1, environ=environ) as running:
        running.add_node(num_cpus=1)
        yield running


def rules(folder: Path) -> Path:
    """The shipped rules, faster."""
    folder.mkdir()
    for path in (ROOT / "rules" / "prometheus").glob("*.yaml"):
        (folder / path.name).write_text(faster(path.read_text(), TIMES, "for"))
    return folder


def train(cluster, storage: Path) -> None:
    """Submit a run of two ranks, one a node, that Ray Train does not restart."""
    argv = [sys.executable, str(TRAIN), "--name", "llm", "--storage", str(storage)]
    cluster.ask("/api/jobs/", {"entrypoint": shlex.join(argv), "submission_id": "j1"})


def test_a_killed_node_pages_once_and_its_symptoms_do_not(cluster, tmp_path, record_property):
    """One page, which names the cause; one ticket for the node; all else that fires is silenced, or info."""
    dashboard = {"RAY_API_SERVER_ADDRESS": cluster.dashboard}
    asks, tells, hears = free_addresses(3)
    train(cluster, tmp_path / "storage")  # which takes its time to begin
    daemon = DaemonProcess(cluster.temp_dir, tmp_path / "state", environ=dashboard)
    scrapes = changed(
        PROMETHEUS.read_text(),
        {
            **INTERVALS,
            "evaluation_interval: 10s": "evaluation_interval: 1s",
            DAEMON_AT: daemon.url.removeprefix("http://"),
            PROMETHEUS_AT: asks,
            ALERTMANAGER_AT: tells,
            RULES_AT: f"{rules(tmp_path / 'rules')}/",
            "/tmp/ray": str(cluster.temp_dir),
        },
    )
    routes = changed(
        faster(ALERTMANAGER.read_text(), TIMES, "group_wait", "group_interval", "repeat_interval"),
        {RECEIVER_AT: hears},
    )
    try:
        with (
            receiver(tmp_path, hears) as told,
            alertmanager(tmp_path, routes, tells) as tell,
            prometheus(tmp_path, scrapes, asks) as ask,
        ):
            until(lambda: "checkpoint written" in cluster.job_log("j1"), 120, "it trains")
            until(lambda: ask.value('raywatch_run_status{status="running"} == 1'), 30, "it is seen")
            assert ask.firing() <= {"RaywatchWatchdog"}
            assert {n.to for n in notices(told)} <= {"deadman"}
            killed = time.time()
            cluster.kill_node(cluster.nodes[1])

            def paged():
                return [n for n in notices(told) if n.to == "page"]

            until(paged, 120, "a page")
            (page,) = paged()
            until(
                lambda: (
                    any(n.to == "ticket" for n in notices(told)) and ask.value(SETTLED) == [1.0]
                ),
                90,
                "the slowest symptoms would have been told",
            )
            rows, states = notices(told), tell.alerts()
    finally:
        daemon.kill()

    firing = {a["labels"]["alertname"]: a["status"]["state"] for a in states}
    record_property("figures", f"kill -> page: {page.at - killed:.1f} s; {firing}")
    assert [n.alerts for n in rows if n.to == "page"] == [("RaywatchTrainingStopped",)]
    assert "raylet_crash" in page.texts[0]
    assert {n.alerts for n in rows if n.to == "ticket"} == {("RaywatchNodeLost",)}
    told_of = {x for n in rows for x in n.alerts}
    rest = firing.keys() - told_of
    assert {x for x in rest if firing[x] == "active"} <= INFO
    assert told_of == {"RaywatchTrainingStopped", "RaywatchNodeLost", "RaywatchWatchdog"}


INFO = {n for n, r in RULES.items() if r["labels"]["severity"] == "info"}
# The node has been known to be lost for as long as the slowest symptom waits, and its notification.
SETTLED = (
    f'(time() - ALERTS_FOR_STATE{{alertname="RaywatchNodeLost"}} > bool {LONGEST_S + 10}) == 1'
)
