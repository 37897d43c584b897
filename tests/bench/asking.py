"""What it costs the head to be asked: python -m tests.bench.asking [--autoscaler none|v2] [--seconds 60].

The daemon's own poller beside a real head, one phase after the other: nobody asks, in peace, in trouble. The figures
are requests a second and the processor time of the dashboard's processes and of the GCS; a hundred actors and a
placement group that waits make the lists worth reading.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from raywatch.collect.dashboard import DashboardPoller
from tests.bench.measure import used_s
from tests.daemons import until
from tests.ray.autoscaled import start_autoscaled
from tests.ray.cluster import CLUSTER_MARK, Cluster, family, start_head

GOAL_PEACE, GOAL_TROUBLE = 1.5, 5.0
SETTLE_S = 20.0
LISTS = """
import time, ray
from ray.util.placement_group import placement_group
ray.init(address="auto", log_to_driver=False)

@ray.remote(num_cpus=64)
class Waits:
    pass

kept = [Waits.remote() for _ in range(100)]
kept.append(placement_group([{"GPU": 8}] * 2))
print("ready", flush=True)
time.sleep(3600)
"""


def asked_processes(cluster: Cluster) -> list[int]:
    """The processes that answer: the dashboard's and the GCS."""
    words = (b"dashboard/dashboard.py", b"ray-dashboard", b"ray::Dashboard", b"gcs_server")
    pids = []
    for process in family(CLUSTER_MARK, str(cluster.temp_dir), cluster.temp_dir):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            if any(word in line for word in words) and b"agent" not in line:
                pids.append(process.pid)
    return pids


async def ask(cluster: Cluster, seconds: float, *, trouble: bool) -> None:
    """Ask as the daemon does, in trouble as long as it lasts."""
    poller = DashboardPoller(
        cluster.dashboard, lambda: None, lambda _: None, clock=time.time, steady=time.monotonic
    )
    asking = asyncio.create_task(poller.run())
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        if trouble:
            poller.nudge()
        await asyncio.sleep(1.0)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking


def requests(cluster: Cluster) -> int:
    """Lines that the dashboard and its parts wrote about questions."""
    logs = cluster.session / "logs"
    texts = (p.read_text(errors="replace") for p in logs.glob("dashboard.log"))
    return sum(line.count("'GET /api") for text in texts for line in text.splitlines())


def phase(cluster: Cluster, name: str, seconds: float) -> tuple[float, float]:
    """Measure one; return requests a second and cores used."""
    pids = asked_processes(cluster)
    before = sum(map(used_s, pids)), requests(cluster), time.monotonic()
    if name == "nobody asks":
        time.sleep(seconds)
    else:
        asyncio.run(ask(cluster, seconds, trouble=name == "in trouble"))
    after = sum(map(used_s, pids)), requests(cluster), time.monotonic()
    used, asked, took = (b - a for a, b in zip(before, after, strict=True))
    print(f"{name:12} {asked / took:5.2f} requests/s, {used / took:7.2%} of a core", flush=True)
    return asked / took, used / took


def main() -> int:
    """Print the figures; return 1 where it asks too often."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seconds", type=float, default=60.0)
    asked.add_argument("--autoscaler", choices=["none", "v2"], default="none")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="rwk") as folder:
        home = Path(folder) / "r"
        made = start_head(home) if given.autoscaler == "none" else start_autoscaled(home, "v2")
        with made as cluster:
            environ = {**cluster.environ, "RAY_ADDRESS": cluster.address}
            argv = [sys.executable, "-c", LISTS]
            driver = subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE)
            assert driver.stdout is not None
            try:
                until(lambda: driver.stdout and driver.stdout.readline(), 60, "work waits")
                time.sleep(SETTLE_S)
                rates = [
                    phase(cluster, n, given.seconds)
                    for n in ("nobody asks", "in peace", "in trouble")
                ]
            finally:
                driver.kill()
                driver.wait()
                driver.stdout.close()
    (_, idle), (peace, quiet), (trouble, busy) = rates
    print(f"caused: {quiet - idle:.2%} of a core in peace, {busy - idle:.2%} in trouble")
    reached = peace < GOAL_PEACE and trouble < GOAL_TROUBLE
    print(f"goal: < {GOAL_PEACE}/s and < {GOAL_TROUBLE}/s: {'reached' if reached else 'MISSED'}")
    return int(not reached)


if __name__ == "__main__":
    sys.exit(main())
