"""A real Prometheus scrapes a real daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raywatch import __version__
from tests.alerting import Server, free_addresses, prometheus
from tests.daemons import DaemonProcess, make_session, until
from tests.shell.test_daemon import crash

pytestmark = pytest.mark.slow
CONFIG = """
global: {scrape_interval: 250ms, scrape_timeout: 250ms}
scrape_configs:
- {job_name: raywatch, static_configs: [{targets: ["%s"]}]}
"""


@contextmanager
def scraping(folder: Path, daemon: DaemonProcess, *flags: str) -> Iterator[Server]:
    """A Prometheus that scrapes a daemon four times a second."""
    (address,) = free_addresses(1)
    with prometheus(folder, CONFIG % daemon.url.removeprefix("http://"), address, *flags) as server:
        yield server


def test_prometheus_scrapes_a_daemon_and_rate_sees_the_first_event(tmp_path):
    """The series is there before anything failed, so one failure is a rate above 0; then the daemon goes down."""
    logs = make_session(tmp_path)
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    first = 'rate(raywatch_findings_total{class="worker_crash",component="gcs"}[1m])'
    try:
        with scraping(tmp_path, daemon) as server:
            until(lambda: [v for _, v in server.query(first)] == [0.0], 30, "a rate of 0")
            (logs / "gcs_server.out").write_text(crash(1))
            until(lambda: [v > 0 for _, v in server.query(first)] == [True], 30, "a rate above 0")

            ((build, one),) = server.query("raywatch_build_info")
            assert (build["version"], one) == (__version__, 1.0)
            assert [v for _, v in server.query("up")] == [1.0]
            assert server.query("raywatch_store_rebuilt")[0][1] == 0.0
            assert len(server.query("raywatch_recovery_seconds_count")) == 4
            daemon.kill()
            until(lambda: [v for _, v in server.query("up")] == [0.0], 30, "it is down")
    finally:
        daemon.kill()


def test_an_alert_leads_to_its_incident(tmp_path):
    """Prometheus asks for OpenMetrics by itself and keeps the id of the incident behind the newest count of its class."""
    logs = make_session(tmp_path)
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    flag = "--enable-feature=exemplar-storage"
    asked = "/api/v1/query_exemplars?start=0&end=9999999999&query=raywatch_incidents_total"
    try:
        with scraping(tmp_path, daemon, flag) as server:
            (logs / "gcs_server.out").write_text(crash(1))

            def kept() -> list[dict[str, Any]]:
                return list(json.loads(server.ask(asked) or b"{}").get("data", []))

            until(kept, 30, "an exemplar")
            (series,) = kept()
            (incident,) = daemon.incidents()
    finally:
        daemon.kill()

    assert series["seriesLabels"]["class"] == incident["class"] == "worker_crash"
    assert [e["labels"] for e in series["exemplars"]] == [{"incident_id": incident["id"]}]
