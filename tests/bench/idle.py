"""What a daemon costs beside a real Ray cluster that does nothing: python -m tests.bench.idle."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.measure import used_s
from tests.daemons import DaemonProcess, until
from tests.ray.cluster import Cluster, start_head

GOAL_CPU, GOAL_MB = 0.005, 100.0
SETTLE_S = 20.0


def memory_mb(pid: int) -> dict[str, float]:
    """Resident and proportional memory of a process."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {r.split(":")[0]: int(r.split()[1]) / 1024 for r in rows}
    return {name: sizes[name] for name in ("Rss", "Pss")}


def wakeups(pid: int) -> int:
    """How often its threads went to sleep of their own will."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        rows = dict(r.split(":", 1) for r in status.read_text().splitlines())
        total += int(rows["voluntary_ctxt_switches"])
    return total


def requests(cluster: Cluster) -> int:
    """Lines that the dashboard wrote about requests."""
    text = (cluster.session / "logs" / "dashboard.log").read_text()
    return sum("'GET /api" in line for line in text.splitlines())


def measure(cluster: Cluster, state: Path, seconds: float) -> tuple[float, float]:
    """Print the figures of an idle daemon; return its share of a core and its resident megabytes."""
    told = {"RAY_API_SERVER_ADDRESS": cluster.dashboard}
    daemon = DaemonProcess(cluster.temp_dir, state, environ=told)
    try:
        until(lambda: b'"files"' in daemon.get("/api/v1/snapshot")[1], 30, "it follows files")
        time.sleep(SETTLE_S)
        pid = daemon.process.pid
        before = (used_s(pid), wakeups(pid), requests(cluster), time.monotonic())
        time.sleep(seconds)
        after = (used_s(pid), wakeups(pid), requests(cluster), time.monotonic())
        used, slept, asked, took = (b - a for a, b in zip(before, after, strict=True))
        memory = memory_mb(pid)
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    finally:
        daemon.kill()
    print(
        f"processor: {used / took:.2%} of a core, {slept / took:.1f} wake-ups/s, {threads} threads"
    )
    print(f"memory: {memory['Rss']:.1f} MB resident, {memory['Pss']:.1f} MB proportional")
    print(f"dashboard: {asked / took:.2f} requests/s")
    return used / took, memory["Rss"]


def main() -> int:
    """Print the figures; return 1 where a goal is missed."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seconds", type=float, default=60.0)
    seconds = asked.parse_args().seconds
    print(f"idle: {seconds:.0f} s beside an idle cluster of one node")
    with (
        tempfile.TemporaryDirectory(prefix="rwi") as folder,
        start_head(Path(folder) / "r") as cluster,
    ):
        share, resident = measure(cluster, Path(folder) / "state", seconds)
    reached = share < GOAL_CPU and resident < GOAL_MB
    print(
        f"goal: < {GOAL_CPU:.1%} of a core, < {GOAL_MB:.0f} MB: {'reached' if reached else 'MISSED'}"
    )
    return int(not reached)


if __name__ == "__main__":
    sys.exit(main())
