"""How long the first day takes: python -m tests.bench.firstday [--ray]. From `pip install` to the first page.

A new environment, raywatch from this checkout, its daemon, Prometheus and Alertmanager with the shipped configuration and
the shipped times; only addresses and paths are replaced. Then a failure is written into the logs of a session, or with
--ray a node of a real cluster is killed under a run that nobody restarts. Packages come from pip's own index and cache.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import raywatch
from tests.alerting import (
    ALERTMANAGER,
    ALERTMANAGER_AT,
    DAEMON_AT,
    PROMETHEUS,
    PROMETHEUS_AT,
    RECEIVER_AT,
    ROOT,
    RULES_AT,
    Server,
    alertmanager,
    changed,
    free_addresses,
    notices,
    prometheus,
    receiver,
)
from tests.daemons import DaemonProcess, Process, make_session, until
from tests.ray.cluster import Cluster, start_head

PATIENCE_S = 300
HEARTBEAT = {"RaywatchWatchdog"}
TRAIN = Path(raywatch.__file__).with_name("demo_train.py")


class Watch:
    """Says how long each step took, and all of them."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def step(self, what: str) -> None:
        """Print the seconds since the last step."""
        now = time.monotonic()
        print(f"{now - self._last:7.1f} s  {what}", flush=True)
        self._last = now

    def skip(self) -> None:
        """Leave out what was not the installer's part."""
        now = time.monotonic()
        self._began += now - self._last
        self._last = now

    def total(self, what: str) -> None:
        """Print the seconds of all steps."""
        print(f"{time.monotonic() - self._began:7.1f} s  {what}", flush=True)


def installed(folder: Path, watch: Watch) -> Path:
    """A new environment with raywatch of this checkout; return its program."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    watch.step("python -m venv")
    argv = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*argv, "-c", ROOT / "constraints.txt", ROOT], check=True)
    watch.step("pip install")
    return folder / "bin" / "raywatch"


@contextmanager
def watched(folder: Path, temp_dir: Path, program: Path, dashboard: str) -> Iterator[Server]:
    """The daemon, Prometheus, Alertmanager and a receiver; yield Prometheus."""

    def start(argv: Sequence[str], log: Path) -> Process:
        with log.open("ab") as out:
            return subprocess.Popen([program, "daemon", *argv], stdout=out, stderr=out)

    config = folder / "raywatch.toml"
    config.write_text(f'[ray]\ndashboard = "{dashboard}"\n' if dashboard else "")
    daemon = DaemonProcess(temp_dir, folder / "state", "--config", str(config), start=start)
    asks, tells, hears = free_addresses(3)
    places = {
        DAEMON_AT: daemon.url.removeprefix("http://"),
        PROMETHEUS_AT: asks,
        ALERTMANAGER_AT: tells,
        RULES_AT: f"{ROOT}/rules/prometheus/",
        "/tmp/ray": str(temp_dir),
    }
    routes = changed(ALERTMANAGER.read_text(), {RECEIVER_AT: hears})
    try:
        with (
            receiver(folder, hears),
            alertmanager(folder, routes, tells),
            prometheus(folder, changed(PROMETHEUS.read_text(), places), asks) as server,
        ):
            yield server
    finally:
        daemon.kill()


def written(logs: Path) -> Callable[[], object]:
    """What writes the GCS' own words of a node that vanished."""
    page = (ROOT / "runbooks" / "node_lost.md").read_text()
    line = page.partition("```text\n")[2].partition("\n```")[0]
    stamp = time.strftime("[%Y-%m-%d %H:%M:%S,000")
    return lambda: (logs / "gcs_server.out").write_text(f"{stamp}{line[line.index(' W ') :]}\n")


def killed(cluster: Cluster, storage: Path) -> Callable[[], object]:
    """What kills a node under a run that trains."""
    argv = [sys.executable, str(TRAIN), "--name", "llm", "--storage", str(storage)]
    cluster.ask("/api/jobs/", {"entrypoint": shlex.join(argv), "submission_id": "j1"})
    until(lambda: cluster.job_log("j1").count("checkpoint written") > 1, PATIENCE_S, "it trains")
    return lambda: cluster.kill_node(cluster.nodes[1])


def told_in_time(server: Server, told: Path, to: Sequence[str], watch: Watch) -> None:
    """Wait for the failure to be seen, to fire and to be told."""
    seen = "sum(raywatch_incidents_open) > 0"
    until(lambda: server.value(seen), PATIENCE_S, "an incident in Prometheus")
    watch.step("failure -> an incident, scraped")
    until(lambda: server.firing() - HEARTBEAT, PATIENCE_S, "an alert")
    watch.step(f"-> fires: {', '.join(server.firing() - HEARTBEAT)}")

    def arrived() -> dict[str, set[str]]:
        return {n.to: set(n.alerts) for n in notices(told) if n.to != "deadman"}

    for wanted in to:
        until(lambda: wanted in arrived(), PATIENCE_S, wanted)  # noqa: B023 - called at once
        watch.step(f"-> a {wanted} arrives: {', '.join(arrived()[wanted])}")
    watch.total("in all, from the start of `python -m venv` on")


def main() -> None:
    """Go through the day once."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--ray", action="store_true", help="a real cluster, not written logs")
    given = flags.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rw", dir="/tmp"))
    temp_dir = folder / "ray"
    try:
        with ExitStack() as stack:
            cluster = stack.enter_context(real(temp_dir)) if given.ray else None
            logs = temp_dir if cluster else make_session(temp_dir)
            watch = Watch()
            program = installed(folder / "venv", watch)
            dashboard = cluster.dashboard if cluster else ""
            server = stack.enter_context(watched(folder, temp_dir, program, dashboard))
            watch.step("raywatch daemon, prometheus, alertmanager: all answer")
            until(lambda: server.value("raywatch_build_info"), PATIENCE_S, "a scrape")
            watch.step("the first scrape")
            fail = killed(cluster, folder / "storage") if cluster else written(logs)
            watch.skip()
            fail()
            told_in_time(
                server, folder / "told", ("ticket", "page") if cluster else ("ticket",), watch
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def real(temp_dir: Path) -> Iterator[Cluster]:
    """A cluster of two nodes, a processor each."""
    environ = {"RAY_TRAIN_ENABLE_STATE_TRACKING": "1"}
    with start_head(temp_dir, num_cpus=1, environ=environ) as cluster:
        cluster.add_node(num_cpus=1)
        yield cluster


if __name__ == "__main__":
    main()
